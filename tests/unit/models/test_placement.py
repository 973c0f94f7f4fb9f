"""Models that accelerate places: the same numbers as on one device, sites included; and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from narrow_model import write_inputs
from tiny_models import byte_tokenizer, random_module

from monosemy.config import ModelConfig, RunConfig, TrainingConfig, identity
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.checks import check_model
from monosemy.models.placement import Placement, input_device, require_placement
from monosemy.models.sources import load_model
from monosemy.pipeline.prepare import trained_on

ON_DISK = {
    "model.embed_tokens": "disk",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_inputs(tmp_path_factory.mktemp("inputs")) / "model")


@pytest.fixture(scope="module")
def plain(folder):
    return load_model(folder, device="cpu", checks=False)


@pytest.fixture(scope="module")
def tokens(plain) -> torch.Tensor:
    return torch.randint(plain.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("device_map", [{"": "cpu"}, ON_DISK], ids=["one device", "partly on disk"])
def test_a_placed_model_gives_the_same_bits_at_every_site(device_map, folder, plain, tokens, tmp_path):
    placed = load_model(folder, checks=False, placement=Placement(device_map, offload_folder=str(tmp_path)))
    assert placed.device == torch.device("cpu")
    assert placed.dtype == plain.dtype
    assert placed.fingerprint == plain.fingerprint
    assert check_model(placed) == {}
    expected, observed = plain.all_activations(tokens), placed.all_activations(tokens)
    assert expected.keys() == observed.keys()
    assert all(torch.equal(expected[site], observed[site]) for site in expected)
    if device_map is ON_DISK:
        with pytest.raises(UserError, match="weights of layer 1 lie in main memory or on disk"):
            placed.output_matrix(1)
    # Replacing, and skipping layers, whose forward methods accelerate has replaced as well.
    site, edits = "layers.2.mlp_out", {"layers.2.mlp_out": lambda x: -2 * x}
    expected = plain.logits(tokens, edits)
    assert torch.equal(placed.logits(tokens, edits), expected)
    assert torch.equal(placed.logits(tokens, edits, placed.prefix(tokens, site)), expected)
    assert not torch.equal(placed.logits(tokens), expected)


def test_weights_that_lie_elsewhere_are_on_no_device_and_still_have_one(folder, tmp_path):
    placed = load_model(folder, checks=False, placement=Placement(ON_DISK, offload_folder=str(tmp_path)))
    first = next(placed.module.parameters())
    assert first.device.type == "meta"
    assert input_device(placed.module) == torch.device("cpu")
    with torch.device("meta"):
        assert input_device(torch.nn.Linear(2, 2)).type == "meta"


@pytest.mark.parametrize(
    ("placement", "options", "message"),
    [
        (Placement("everywhere"), {}, "unknown device map 'everywhere'.*valid choices: none, auto"),
        (Placement("auto"), {"device": "cpu"}, "--model.device-map auto spreads .* --device cpu names one"),
        (Placement("auto"), {"randomise": "matched"}, "does not go with --model.randomise matched"),
        (Placement("auto"), {"kind": "gguf"}, "does not go with a .gguf file"),
        (Placement(weights="4bit"), {}, "unknown kind of weights '4bit'"),
    ],
)
def test_placements_that_cannot_be_had_are_refused(placement, options, message):
    settings = {"device": "auto", "randomise": "none", "kind": "folder"} | options
    with pytest.raises(UserError, match=message) as refused:
        require_placement(placement, settings.pop("device"), **settings)
    assert "\n" not in str(refused.value)


def test_8_bit_weights_are_refused_without_their_library_or_a_gpu(folder):
    if importlib.util.find_spec("bitsandbytes") and torch.cuda.is_available():
        pytest.skip("both are here")
    with pytest.raises(UserError, match=r"--model\.weights 8bit needs"):
        load_model(folder, placement=Placement(weights="8bit"))


def test_settings_at_rest_leave_a_runs_identity_alone(plain):
    before = RunConfig()
    spread = dataclasses.replace(before, model=ModelConfig(device_map="auto"))
    other = dataclasses.replace(before, training=TrainingConfig(device="cpu"))
    assert len({identity(config) for config in (before, spread, other)}) == 3
    elsewhere = LanguageModel(
        random_module("llama").to("meta"), byte_tokenizer(), name="elsewhere", fingerprint="elsewhere"
    )
    assert trained_on(other, elsewhere) == torch.device("cpu")
    assert trained_on(before, elsewhere) == torch.device("meta")
