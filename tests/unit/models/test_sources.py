"""Loading from folders, GGUF files and the hub (a fabricated cache, a local server), and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import GEMMA4, HYBRID, build_module, byte_tokenizer, random_module

from monosemy.circuits.heads.tasks import build_task
from monosemy.errors import UserError
from monosemy.models import sources
from monosemy.models.adapter import LanguageModel
from monosemy.models.sources import choose_device, load_model, model_size, source_kind
from monosemy.steering.prompts import prompt_ids
from monosemy.support.estimates import ModelSize


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    random_module("llama", tie_word_embeddings=True).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def test_a_folder(saved):
    model = load_model(str(saved), device="cpu")
    tokens = torch.arange(8).reshape(1, 8)
    expected = random_module("llama", tie_word_embeddings=True)(input_ids=tokens).logits
    assert torch.equal(model.logits(tokens), expected)
    assert (model.d_model, model.n_layers, model.n_heads, model.vocab_size) == (32, 4, 4, 257)
    assert model.max_positions == 64
    assert model.tokenizer("ab").input_ids == byte_tokenizer()("ab").input_ids
    assert model.special_token_ids == {256}
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_explicit(saved, dtype):
    model = load_model(str(saved), dtype=dtype, device="cpu")
    assert model.dtype == getattr(torch, dtype)
    site = "layers.1.resid_post"
    assert model.activations(torch.zeros(1, 2, dtype=torch.long), [site])[site].dtype == model.dtype


def test_capped_attention_scores_keep_their_cap(tmp_path):
    random_module("gemma2").save_pretrained(tmp_path / "gemma2")
    byte_tokenizer().save_pretrained(tmp_path / "gemma2")
    model = load_model(str(tmp_path / "gemma2"), device="cpu")
    assert model.module.config._attn_implementation == "eager"
    tokens = torch.arange(8).reshape(1, 8)
    assert torch.equal(model.logits(tokens), random_module("gemma2")(input_ids=tokens).logits)


def test_fused_attention_elsewhere(saved):
    assert load_model(str(saved), device="cpu", checks=False).module.config._attn_implementation == "sdpa"


def test_fingerprint_follows_weights_configuration_and_dtype(folder):
    def fingerprint(dtype="float32"):
        return load_model(str(folder), device="cpu", dtype=dtype, checks=False).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint("bfloat16") != first
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved)
    assert load_model(str(moved), device="cpu", checks=False).fingerprint == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    changed = fingerprint()
    assert changed != first
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint() not in {first, changed}


def test_remembered_hash_is_dropped_when_damaged_or_when_the_file_changes(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = sources.cached_sha256(file)
    [note] = (tmp_path / "cache" / "models" / "hashes").iterdir()
    note.write_text("{")
    assert sources.cached_sha256(file) == first
    file.write_bytes(b"other")
    assert sources.cached_sha256(file) != first


def test_sizes_are_known_without_loading(saved):
    model = load_model(str(saved), device="cpu", checks=False)
    n_parameters = sum(parameter.numel() for parameter in model.module.parameters())
    size, d_heads = model_size(str(saved))
    assert size == ModelSize(n_parameters, model.n_layers, model.d_model, model.vocab_size, model.n_block_parameters)
    assert d_heads == model.site_width("layers.0.attn_heads")


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(source, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(source), **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_configuration_weights_or_vocabulary(folder):
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "cannot be loaded" in refusal(folder)
    (folder / "config.json").unlink()
    assert "holds no config.json" in refusal(folder)


def test_weights_that_are_truncated(folder):
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    assert "corrupted or truncated" in refusal(folder)


def test_weights_that_lack_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(folder)
    assert "lack 1 tensors of its model, first 'model.layers.2.mlp.up_proj.weight'" in message


def test_a_model_that_is_no_causal_decoder(tmp_path):
    from transformers import BertConfig, BertLMHeadModel, DistilBertConfig, DistilBertModel

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 257}
    bert = BertConfig(hidden_size=16, intermediate_size=16, is_decoder=False, **sizes)
    BertLMHeadModel(bert).save_pretrained(tmp_path / "bert")
    DistilBertModel(DistilBertConfig(dim=16, hidden_dim=16, n_layers=2, n_heads=2, vocab_size=257)).save_pretrained(
        tmp_path / "distilbert"
    )
    for name in ("bert", "distilbert"):
        byte_tokenizer().save_pretrained(tmp_path / name)
    assert "not a decoder" in refusal(tmp_path / "bert")
    assert "cannot be loaded as a causal language model" in refusal(tmp_path / "distilbert")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "valid choices: float32, bfloat16, float16"),
        ({"device": "tpu"}, "unknown device 'tpu'; "),
        ({"device": "cuda:99"}, "unknown device 'cuda:99'; "),
    ],
)
def test_options_outside_their_choices(saved, options, message):
    assert message in refusal(saved, **options)


def test_what_a_source_may_be(saved, tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    assert source_kind("embedded") == "embedded"
    assert source_kind(str(saved)) == "folder"
    assert source_kind("gpt2") == source_kind("google/gemma-2-2b") == "hub"
    assert "does not exist" in refusal(tmp_path / "missing.gguf")
    assert "no existing folder and no hub id" in refusal(tmp_path / "missing")
    assert "is a file but not a .gguf file" in refusal(tmp_path / "notes.txt")
    message = refusal("embeded/")
    assert "did you mean 'embedded'" in message


def test_auto_device_is_one_of_this_machine():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")


# --- the hub ----------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fabricate_hub_cache(home: Path, saved: Path) -> None:
    """huggingface_hub's cache as it is after downloading `tiny/llama`."""
    repository = home / "hub" / "models--tiny--llama"
    shutil.copytree(saved, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


def load_in_subprocess(tmp_path: Path, *names: str, **environment: str) -> list[str]:
    """Loads each name in one new process (the hub's settings are read at import); fingerprints or error lines."""
    code = """
import sys
from monosemy.circuits.heads.tasks import build_task
from monosemy.errors import UserError
from monosemy.support.estimates import ModelSize
from monosemy.models.sources import load_model
for name in sys.argv[1:]:
    try:
        print(load_model(name, device="cpu").fingerprint)
    except UserError as error:
        print("UserError:", error)
"""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        env={**inherited, "HF_HOME": str(tmp_path / "hf"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_hub_models_offline(saved, tmp_path):
    fabricate_hub_cache(tmp_path / "hf", saved)
    cached, near, far = load_in_subprocess(tmp_path, "tiny/llama", "tiny/lama", "x/y", HF_HUB_OFFLINE="1")
    identity = {"id": "tiny/llama", "commit": COMMIT}
    assert cached == sources.hash_json({"model": identity, "dtype": "float32"})
    assert "cannot fetch model 'tiny/lama' from the hub: no network" in near
    assert "did you mean 'tiny/llama'" in near
    assert "`embedded`, a local folder, or a .gguf file; in the local cache: tiny/llama" in far


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for a repository that does not exist, or is gated."""

    def do_HEAD(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


def test_hub_answers_and_no_connection(saved, tmp_path):
    fabricate_hub_cache(tmp_path / "hf", saved)
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    unknown, gated = load_in_subprocess(tmp_path, "tiny/lamma", "tiny/gated", HF_ENDPOINT=url)
    server.shutdown()
    server.server_close()
    assert unknown.startswith("UserError: unknown model 'tiny/lamma': the hub has none of that name; did you mean")
    assert "gated: accept its licence" in gated
    cached, absent = load_in_subprocess(tmp_path, "tiny/llama", "tiny/other", HF_ENDPOINT=url)
    assert not cached.startswith("UserError")
    assert "no network, and it is not in the local cache" in absent


def test_a_folder_without_a_tokenizer_takes_token_ids(tmp_path):
    # transformers would make an empty tokenizer for GPT-2 and raise for Llama
    for family in ("gpt2", "llama"):
        random_module(family).save_pretrained(tmp_path / family)
        model = load_model(str(tmp_path / family), device="cpu")
        assert model.tokenizer is None
        tokens = torch.arange(8).reshape(1, 8)
        assert torch.equal(model.logits(tokens), random_module(family)(input_ids=tokens).logits)
        assert model.tokenizer_fingerprint == load_model(str(tmp_path / family), device="cpu").tokenizer_fingerprint
        with pytest.raises(UserError, match="has no tokenizer, which a prompt needs; save its tokenizer"):
            prompt_ids(model, "some words")
        with pytest.raises(UserError, match="has no tokenizer, which task 'ioi' needs"):
            build_task("ioi", model)


def test_special_tokens_without_a_tokenizer_are_those_of_the_configurations(tmp_path):
    module = random_module("llama", bos_token_id=1, eos_token_id=[2, 3], pad_token_id=None)
    module.generation_config.eos_token_id = [2, 4]
    module.save_pretrained(tmp_path / "model")
    model = load_model(str(tmp_path / "model"), device="cpu")
    assert model.special_token_ids == {1, 2, 3, 4}
    other = LanguageModel(random_module("llama"), None, name="other", fingerprint="other")
    assert other.special_token_ids == {256}
    assert other.tokenizer_fingerprint != model.tokenizer_fingerprint


def test_a_lora_folder_is_named_as_such(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}')
    message = refusal(tmp_path)
    assert "holds a LoRA (PEFT) adapter to model 'owner/base', not a model: merge them" in message
    (tmp_path / "adapter_config.json").write_text("[]")
    assert "does not name" in refusal(tmp_path)


def test_code_of_a_models_repository_is_neither_run_nor_asked_about(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nraise SystemExit\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert "needs code of its own repository, which is never run here" in refusal(folder)
    with pytest.raises(UserError, match="which is never run here"):
        model_size(str(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("family", ["gemma4", "mamba", "qwen3_next"])
def test_model_size_takes_widths_from_the_modules(family, tmp_path):
    config_class, changes, width = {
        "gemma4": ("Gemma4TextConfig", GEMMA4, 4 * 16),
        "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 257, "state_size": 4}, 32),
        "qwen3_next": ("Qwen3NextConfig", {**HYBRID, "linear_num_value_heads": 16}, 16 * 8),
    }[family]
    if not hasattr(transformers, config_class):
        pytest.skip(f"this release of transformers has no {config_class}")
    module = build_module(config_class, changes)
    module.save_pretrained(tmp_path)
    size, d_heads = model_size(str(tmp_path))
    model = load_model(str(tmp_path), device="cpu", checks=False)
    assert size.n_parameters == sum(parameter.numel() for parameter in model.module.parameters())
    assert (size.n_layers, size.d_model) == (model.n_layers, model.d_model)
    assert d_heads == width


def test_loading_prints_nothing_of_transformers(saved, capfd):
    load_model(str(saved), device="cpu", dtype="bfloat16")
    model_size(str(saved))
    assert capfd.readouterr() == ("", "")
