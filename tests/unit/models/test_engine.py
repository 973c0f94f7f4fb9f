"""Activations read through interp-engine: those of the adapter at every site, and what is refused before it starts.

interp-engine's eager backend runs on any machine; vLLM takes the same way, and its tests run where it is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from narrow_model import write_inputs
from tiny_models import VOCABULARY, byte_tokenizer, random_module

from monosemy.activations.harvest import ActivationModel
from monosemy.activations.store import build_store, store_identity
from monosemy.config import ActivationsConfig, ModelConfig, RunConfig, TextConfig, identity, with_labels
from monosemy.data.tokens import prepare_tokens
from monosemy.errors import UserError
from monosemy.models.engine import (
    EngineReader,
    median_row_error,
    require_backend,
    require_here,
    vllm_for_cpus,
)
from monosemy.models.of_run import load_run_reader
from monosemy.models.sources import load_model
from monosemy.support.moved import NOT_MOVED

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "opt", "granite"]
"""A plain one; layers of another kind; parallel blocks; norms behind sublayers and capped attention; no resid_mid;
scaled contributions."""
ROUNDING = 1e-5
LENGTH = 12


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """`folder_of("gemma2")`: a tiny model of a family and its tokenizer, saved."""

    def saved(family: str, **changes) -> str:
        folder = tmp_path_factory.mktemp(family)
        random_module(family, **changes).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return str(folder)

    return saved


@pytest.fixture(scope="module")
def llama(folder_of):
    return load_model(folder_of("llama"), device="cpu")


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows, padded at either side, and their mask."""
    tokens = torch.randint(VOCABULARY - 1, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :4], mask[2, 7:] = 0, 0
    return tokens, mask


def reader_of(model, backend: str, sites=None, *, source=None, context_length: int = LENGTH) -> EngineReader:
    settings = ModelConfig(source=model.name, backend=backend, dtype=str(model.dtype).removeprefix("torch."))
    sites = model.site_names() if sites is None else sites
    return EngineReader(model, source or model.name, settings, sites=sites, context_length=context_length)


def require_equal(model, reader: EngineReader, tokens, mask, *, within: float) -> None:
    """The engine's activations are the adapter's at every site, to `within` of each row's norm; zero at padding."""
    expected = model.activations(tokens, model.site_names(), attention_mask=mask)
    read = reader.activations(tokens, model.site_names(), attention_mask=mask)
    assert read.keys() == expected.keys()
    for site, rows in expected.items():
        assert read[site].shape == rows.shape, site
        assert read[site].dtype == rows.dtype, site
        assert not read[site][mask == 0].any(), site
        gap = torch.linalg.vector_norm(read[site].double() - rows.cpu().double(), dim=-1)
        assert bool((gap <= within * torch.linalg.vector_norm(rows.cpu().double(), dim=-1)).all()), (site, gap.max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_eager_engine_gives_the_adapters_activations_at_every_site(family, folder_of, batch):
    model = load_model(folder_of(family), device="cpu")
    reader = reader_of(model, "eager")
    assert isinstance(reader, ActivationModel)
    require_equal(model, reader, *batch, within=ROUNDING)
    reader.close()


def test_a_closed_engine_starts_again(llama, batch):
    reader = reader_of(llama, "eager", ["layers.1.resid_post"])
    rows = []
    for _ in range(2):
        read = reader.activations(batch[0], ["layers.1.resid_post"], attention_mask=batch[1])
        rows.append(read["layers.1.resid_post"])
        reader.close()
    assert torch.equal(*rows)


@pytest.mark.parametrize("backend", ["vllm", "vllm-static"])
@pytest.mark.parametrize(("dtype", "within"), [("float32", 0.01), ("bfloat16", 0.2)])
def test_vllm_gives_the_adapters_activations_at_every_site(backend, dtype, within, folder_of, batch):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    if not torch.cuda.is_available() and (backend == "vllm-static" or not vllm_for_cpus()):
        pytest.skip("needs a GPU")
    # Heads as wide as vLLM's kernels take them.
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = load_model(folder_of("llama", **sizes, head_dim=64), dtype=dtype)
    reader = reader_of(model, backend)
    try:
        require_equal(model, reader, *batch, within=within)
    finally:
        reader.close()


def test_a_site_that_the_engine_cannot_give_is_refused_with_those_that_it_can(folder_of):
    model = load_model(folder_of("gpt_neo"), device="cpu")
    with pytest.raises(UserError, match=r"--model.backend eager gives no layers\.1\.attn_heads: .*at this layer") as no:
        reader_of(model, "eager", ["layers.1.attn_heads"])
    assert "layers.1.attn_out, layers.1.resid_mid" in str(no.value)
    assert "\n" not in str(no.value)
    with pytest.raises(UserError, match="unknown site"):
        reader_of(model, "eager", ["layers.1.mlp"])


def test_other_weights_than_the_transformers_model_has_are_noticed(llama, folder_of, batch):
    other = folder_of("llama", rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    reader = reader_of(llama, "eager", ["layers.0.resid_pre", "layers.3.attn_out"], source=other)
    with pytest.raises(
        UserError, match=r"other activations at layers\.3\.attn_out than transformers: half of the rows"
    ):
        reader.activations(batch[0], ["layers.0.resid_pre"], attention_mask=batch[1])
    weights = Path(other) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"--model\.backend eager could not be started: ") as refused:
        reader.activations(batch[0], ["layers.0.resid_pre"], attention_mask=batch[1])
    assert "\n" not in str(refused.value)


def test_the_error_of_a_row_is_relative_to_its_norm():
    rows = torch.tensor([[3.0, 4.0], [0.0, 10.0], [1.0, 0.0]])
    assert median_row_error(rows, rows) == 0
    assert median_row_error(rows, rows * torch.tensor([[1.5], [1.1], [9.0]])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "n_processes", "message"),
    [
        ({"backend": "eager", "source": "a.gguf"}, 1, "does not go with a .gguf file"),
        ({"backend": "vllm", "randomise": "matched"}, 1, "does not go with --model.randomise matched"),
        ({"backend": "vllm", "weights": "8bit"}, 1, "does not go with --model.weights 8bit"),
        ({"backend": "vllm-static"}, 2, "runs in one process, and 2 would each start it"),
        ({"tensor_parallel": 2}, 1, "--model.backend transformers does not use it"),
        ({"backend": "eager", "tensor_parallel": 2}, 1, "--model.backend eager does not use it"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, n_processes, message):
    with pytest.raises(UserError, match=message) as refused:
        require_backend(ModelConfig(**settings), n_processes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("settings", [{}, {"backend": "eager"}, {"backend": "vllm", "tensor_parallel": 4}])
def test_settings_that_go_together_are_not(settings):
    require_backend(ModelConfig(**settings))


def test_vllm_is_refused_where_it_or_a_gpu_is_missing():
    require_here(ModelConfig(backend="eager"))
    if importlib.util.find_spec("vllm") and torch.cuda.is_available():
        pytest.skip("both are here")
    with pytest.raises(UserError, match=r"vllm-static needs .*; --model\.backend eager takes the same way without it"):
        require_here(ModelConfig(backend="vllm-static"))


def test_vllm_needs_a_position_for_the_token_that_it_generates(llama):
    with pytest.raises(UserError, match=r"leaves vLLM none of the 64 positions .* lower it to 63 or less"):
        reader_of(llama, "vllm", context_length=64)
    assert reader_of(llama, "eager", context_length=64).backend == "eager"
    assert reader_of(llama, "vllm", context_length=63).backend == "vllm"


def test_texts_beyond_the_runs_and_padding_without_a_mask_are_refused(llama):
    reader = reader_of(llama, "eager", ["layers.1.resid_post"], context_length=4)
    with pytest.raises(UserError, match="5 tokens per sequence exceed the 4 that"):
        reader.activations(torch.zeros(1, 5, dtype=torch.long), ["layers.1.resid_post"])
    with pytest.raises(UserError, match="all padding"):
        reader.activations(
            torch.zeros(1, 3, dtype=torch.long), ["layers.1.resid_post"], attention_mask=torch.zeros(1, 3)
        )


def test_a_static_engine_gives_the_sites_it_was_started_for_alone(llama):
    reader = reader_of(llama, "vllm-static", ["blocks.1.hook_resid_post"])
    assert reader.resolve("layers.1.resid_post") == "layers.1.resid_post"
    with pytest.raises(UserError, match=r"started for layers\.1\.resid_post only, and not for layers\.2\.mlp_out"):
        reader.resolve("layers.2.mlp_out")


def test_a_store_of_one_engine_is_not_taken_for_that_of_another(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    inputs = write_inputs(tmp_path / "inputs")
    model = load_model(str(inputs / "model"), device="cpu")
    text = TextConfig(source=str(inputs / "text.jsonl"), context_length=64, n_tokens=512, n_validation_tokens=128)
    tokens = prepare_tokens(text, model.tokenizer, model.tokenizer_fingerprint, vocab_size=model.vocab_size).train
    sites, settings = ["layers.1.resid_post", "layers.2.mlp_out"], ActivationsConfig(dtype="float32")
    readers = {name: reader_of(model, name, sites, context_length=64) for name in ("eager", "vllm", "vllm-static")}
    assert len({store_identity(reader, tokens, sites, settings)["model"] for reader in (model, *readers.values())}) == 4
    stores = [build_store(reader, tokens, sites, settings) for reader in (model, readers["eager"])]
    assert stores[0].fingerprint != stores[1].fingerprint
    assert stores[0].n_rows == stores[1].n_rows
    for site in sites:
        torch.testing.assert_close(*(store.rows(site, slice(None)) for store in stores), rtol=1e-5, atol=1e-5)


def run_of(model, backend: str) -> RunConfig:
    sites = ActivationsConfig(sites=("layers.1.resid_post",))
    return RunConfig(model=ModelConfig(source=model.name, backend=backend), activations=sites)


def test_the_backend_is_part_of_a_runs_identity_and_what_the_machine_has_is_not(llama):
    before = RunConfig()
    vllm = dataclasses.replace(before, model=ModelConfig(backend="vllm"))
    larger = dataclasses.replace(before, model=ModelConfig(backend="vllm", tensor_parallel=4, gpu_memory=0.8))
    assert identity(before) != identity(vllm) == identity(larger)
    assert with_labels(vllm, larger) == larger
    loaded = {
        backend: load_run_reader(llama, Path("run"), run_of(llama, backend), {}, moved=NOT_MOVED)
        for backend in ("transformers", "eager")
    }
    assert loaded["transformers"] is llama
    assert loaded["eager"].fingerprint != llama.fingerprint
