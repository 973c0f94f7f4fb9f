"""Estimates of memory and disk, and the refusal of what does not fit."""

from __future__ import annotations

import dataclasses
import re
from collections import namedtuple

import pytest

from monosemy.config import ActivationsConfig, EvaluationConfig, ModelConfig, RunConfig, TextConfig, TrainingConfig
from monosemy.errors import UserError
from monosemy.pipeline.planning.fit import Machine, in_main_memory, memory_of, on_device
from monosemy.support import estimates, files
from monosemy.support.estimates import (
    DoesNotFit,
    ModelSize,
    Plan,
    estimate,
    n_saes_per_site,
    require_resources,
    value_that_fits,
)
from monosemy.support.step_memory import START_IN_SLICES

SMOL = ModelSize(n_parameters=134_515_008, n_layers=30, d_model=576, vocab_size=49_152)
WIDTHS = {"layers.12.resid_post": 576}
DEMO = RunConfig()


def total(parts):
    return sum(parts.values())


def test_demo_fits_what_it_promises():
    """8 GB of memory and 6 GB of disk."""
    plan = estimate(DEMO, WIDTHS, SMOL)
    assert 2e9 < total(plan.memory) < 8e9
    assert total(plan.cache_disk) + total(plan.run_disk) < 3e9


def test_parts_against_counts_by_hand():
    config = dataclasses.replace(
        DEMO,
        architectures=("topk",),
        l0=(32.0,),
        d_sae=1000,
        evaluation=EvaluationConfig(frozen_random=False),
        text=TextConfig(n_tokens=10_000, n_validation_tokens=1_000, context_length=128),
        activations=ActivationsConfig(dtype="bfloat16", batch_sequences=2),
    )
    plan = estimate(config, {"a": 100, "b": 50}, SMOL)
    parameters = (2 * 100 * 1000 + 3000 + 100) + (2 * 50 * 1000 + 3000 + 50)
    # 79 sequences of training and 8 of validation, of which the first position is dropped.
    assert plan.cache_disk["activations"] == 79 * 127 * (150 * 2 + 16)
    assert plan.cache_disk["token shards"] == 8 * 128 * (79 + 8)
    assert plan.run_disk == {"SAEs": 4 * parameters, "checkpoints": 24 * parameters}
    # Weights and two moments; and of the encoder's three a copy in the order of rows, for a checkpoint.
    assert plan.memory["SAEs in training"] == 12 * parameters
    assert plan.memory["checkpoint copy"] == 6 * parameters
    n_parameters = 2 * 100 * 1000 + 3000 + 100
    # L0 32 of 1,000 is few.
    rows = config.training.batch_tokens * (2 * 1000 + 2 * 150 + 6 * 100)
    of_step = 4 * (n_parameters + 100 * 1000 + rows)
    assert plan.memory["training step"] == of_step
    of_start = 4 * 6 * 4096 * 1000
    assert plan.memory["start of training"] == of_start - of_step
    together = estimate(config, {"a": 100, "b": 50}, SMOL, n_at_once=40)
    assert (together.memory["training step"], together.memory["start of training"]) == (40 * of_step, 0)
    assert plan.memory["model"] == 4 * SMOL.n_parameters
    assert plan.memory["logits"] == 3 * 2**28
    long = dataclasses.replace(config, text=TextConfig(context_length=2048))
    assert estimate(long, {"a": 100}, SMOL).memory["logits"] == 3 * 2048 * 49_152 * 4


def test_saes_in_slices_are_trained_one_after_the_other_each_over_several_processes():
    together, in_turn = estimate(DEMO, WIDTHS, SMOL), estimate(DEMO, WIDTHS, SMOL, n_latent_shards=4)
    assert in_turn.memory["SAEs in training"] == together.memory["SAEs in training"] // 18 // 4
    assert in_turn.memory["checkpoint copy"] == 0  # written matrix by matrix, when there are no gradients
    of_start = in_turn.memory["training step"] + in_turn.memory["start of training"]
    assert of_start == START_IN_SLICES  # more than the steps of so small a dictionary
    wide = dataclasses.replace(DEMO, d_sae=4_000_000, training=TrainingConfig(batch_tokens=8192))
    together, in_turn = estimate(wide, WIDTHS, SMOL), estimate(wide, WIDTHS, SMOL, n_latent_shards=4)
    rows = 8 * 8192 * 4 * 576  # of which every process has all
    assert in_turn.memory["training step"] - rows == pytest.approx((together.memory["training step"] - rows) / 4)
    assert in_turn.memory["SAEs in evaluation"] == 0  # evaluating them is another command's, with a check of its own
    assert in_turn.run_disk["checkpoints"] == together.run_disk["checkpoints"] // 18
    others = ("model", "model pass", "logits")
    assert [in_turn.memory[part] for part in others] == [together.memory[part] for part in others]
    three = memory_of(3, in_turn.memory, n_ranks=3, in_slices=True)
    assert three == {part: 3 * size for part, size in in_turn.memory.items()}


def test_with_a_gpu_pre_activations_are_never_held_and_checkpoints_are_copied_to_main_memory():
    wide = dataclasses.replace(DEMO, d_sae=1_000_000, training=TrainingConfig(batch_tokens=8192))
    here, there = (estimate(wide, WIDTHS, SMOL, on_gpu=on_gpu) for on_gpu in (False, True))
    weights_and_moments = 12 * n_saes_per_site(wide) * (2 * 576 * 10**6 + 3 * 10**6 + 576)
    assert here.memory["SAEs in training"] == there.memory["SAEs in training"] == weights_and_moments
    assert here.memory["training step"] > 8192 * 10**6 * 4 > there.memory["training step"]
    gpu = Machine(1, 1, device_memory=10**15)
    options = {"n_ranks": 1, "in_slices": False}
    assert "checkpoint copy" not in on_device(there, gpu, **options).memory
    assert in_main_memory(there, gpu, **options).memory["checkpoint copy"] == weights_and_moments


def test_controls_count():
    assert n_saes_per_site(DEMO) == 18
    without = dataclasses.replace(DEMO, evaluation=EvaluationConfig(frozen_random=False))
    assert n_saes_per_site(without) == 15


@pytest.mark.parametrize(
    ("part", "where", "more"),
    [
        ("SAEs in training", "memory", {"d_sae": 2 * DEMO.d_sae}),
        ("SAEs in training", "memory", {"seeds": (0, 1)}),
        ("activations", "cache_disk", {"text": TextConfig(n_tokens=600_000)}),
        ("activations", "cache_disk", {"activations": ActivationsConfig(dtype="float32")}),
        ("training step", "memory", {"training": TrainingConfig(batch_tokens=4096)}),
        ("model pass", "memory", {"activations": ActivationsConfig(batch_sequences=16)}),
        ("logits", "memory", {"text": TextConfig(context_length=4096)}),
    ],
)
def test_what_is_told_to_be_lowered_lowers(part, where, more):
    larger = estimate(dataclasses.replace(DEMO, **more), WIDTHS, SMOL)
    assert getattr(larger, where)[part] > 1.9 * getattr(estimate(DEMO, WIDTHS, SMOL), where)[part]


def test_streaming_swaps_disk_for_a_buffer():
    stream = dataclasses.replace(DEMO, activations=ActivationsConfig(storage="stream", buffer_tokens=1000))
    plan = estimate(stream, WIDTHS, SMOL)
    assert "activations" not in plan.cache_disk
    assert plan.memory["shuffle buffer"] == 1000 * 576 * 4
    assert "shuffle buffer" not in estimate(DEMO, WIDTHS, SMOL).memory


def test_a_model_in_half_precision_takes_half():
    assert estimate(DEMO, WIDTHS, SMOL).memory["model"] == 4 * SMOL.n_parameters
    half = dataclasses.replace(DEMO, model=ModelConfig(dtype="bfloat16"))
    assert estimate(half, WIDTHS, SMOL).memory["model"] == 2 * SMOL.n_parameters


def test_too_little_memory_names_needed_available_and_remedy(tmp_path):
    plan = estimate(dataclasses.replace(DEMO, d_sae=1_000_000), WIDTHS, SMOL)
    with pytest.raises(UserError) as caught:
        require_resources(plan, tmp_path / "run", cache=tmp_path, memory_available=8_000_000_000)
    message = str(caught.value)
    assert "of memory and 8.0 GB are free" in message
    assert "SAEs in training" in message
    assert "lower --d-sae" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


def test_too_little_disk_in_this_real_file_system(tmp_path):
    free = files.free_bytes(tmp_path)
    tokens = int(2 * free / (576 * 2))  # twice, since others free space meanwhile
    plan = estimate(dataclasses.replace(DEMO, text=TextConfig(n_tokens=tokens)), WIDTHS, SMOL)
    with pytest.raises(UserError, match=r"of disk in .* are free; most of it is for activations .*lower --tokens"):
        require_resources(plan, tmp_path / "run", cache=tmp_path / "cache", memory_available=10**15)


def test_two_folders_on_one_disk_share_its_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(1500, 0, 1500))
    half = Plan(memory={}, cache_disk={"activations": 800}, run_disk={"SAEs": 800})
    with pytest.raises(UserError, match="of disk"):
        require_resources(half, tmp_path / "run", cache=tmp_path / "cache", memory_available=1)
    monkeypatch.setattr(estimates, "_same_disk", lambda a, b: False)
    require_resources(half, tmp_path / "run", cache=tmp_path / "cache", memory_available=1)


def test_what_fits_passes(tmp_path):
    plan = estimate(dataclasses.replace(DEMO, d_sae=8, text=TextConfig(n_tokens=8)), {"a": 4}, ModelSize(10, 1, 4, 8))
    require_resources(plan, tmp_path, memory_available=2 * estimates.BASE_MEMORY)


def test_available_memory_is_of_this_machine():
    import psutil

    assert 0 < estimates.available_memory() <= psutil.virtual_memory().total


def test_container_limits(tmp_path):
    def group(limit, used, cached):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
        return estimates._container_headroom(tmp_path)

    assert group(1000, 700, 200) == 500
    assert group(1000, 2000, 0) == 0
    assert group("max", 700, 200) is None
    assert estimates._container_headroom(tmp_path / "none") is None


def test_the_refusal_gives_a_value_that_would_fit(tmp_path):
    """A width of 99,999,999,999 latents, and two other settings, on a machine with 8 GB; nothing is allocated."""
    size = ModelSize(n_parameters=1_000_000, n_layers=2, d_model=64, vocab_size=1000)

    def require(config: RunConfig) -> None:
        plan = estimate(config, {"layers.1.resid_post": 64}, size)
        require_resources(Plan(plan.memory, {}, {}), tmp_path, memory_available=8_000_000_000)

    def given(**changes) -> tuple[str, int]:
        config = dataclasses.replace(RunConfig(), **changes)
        with pytest.raises(DoesNotFit) as refused:
            require(config)
        words = value_that_fits(config, refused.value, require)
        flag, value = re.fullmatch(r"; e\.g\. (--\S+) (\d+)", words).groups()
        return flag, int(value)

    flag, width = given(d_sae=99_999_999_999)
    assert flag == "--d-sae"
    require(dataclasses.replace(RunConfig(), d_sae=width))
    with pytest.raises(DoesNotFit):
        require(dataclasses.replace(RunConfig(), d_sae=2 * width))
    flag, batch = given(training=TrainingConfig(batch_tokens=10**12))
    assert flag == "--training.batch-tokens"
    require(dataclasses.replace(RunConfig(), training=TrainingConfig(batch_tokens=batch)))
    flag, _ = given(activations=ActivationsConfig(batch_sequences=10**9))
    assert flag == "--activations.batch-sequences"
