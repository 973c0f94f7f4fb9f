"""The plan of a run against what the run then writes, counts by hand, and the command itself."""

from __future__ import annotations

import dataclasses
import shlex

import pytest
from command_words import parsed
from narrow_model import SITE, write_inputs
from safetensors.torch import load_file

from monosemy import cli
from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
)
from monosemy.errors import UserError
from monosemy.models.embedded import SIZE
from monosemy.pipeline.planning.costs import assumed_costs
from monosemy.pipeline.planning.plan import Question, plan_run, planned
from monosemy.pipeline.planning.sizes import bytes_of_run, kinds_of
from monosemy.pipeline.planning.text import plan_page
from monosemy.pipeline.planning.work import Sizes, Slices, Work, loss_operations, work_of
from monosemy.pipeline.prepare import prepare
from monosemy.pipeline.trainees import build_trainees
from monosemy.pipeline.training import finish_and_save, train_all
from monosemy.recipes import demo, quick
from monosemy.run import open_run
from monosemy.support.estimates import EVALUATION, HARVEST, TRAINING
from monosemy.support.hardware import DEVICES, hardware_of, hardware_with

LENGTH = 64
N_SEQUENCES = 32


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    return RunConfig(
        model=ModelConfig(source=str(inputs / "model"), device="cpu"),
        text=TextConfig(
            source=str(inputs / "text.jsonl"), context_length=LENGTH, n_tokens=2000, n_validation_tokens=512
        ),
        activations=ActivationsConfig(sites=(SITE,), drop_first_positions=2),
        architectures=("topk", "jumprelu", "gated", "relu", "batch_topk"),
        l0=(4.0,),
        d_sae=48,
        training=TrainingConfig(batch_tokens=128, checkpoint_tokens=500),
    )


def tensor_bytes(path, *, without=()) -> int:
    return sum(tensor.nbytes for name, tensor in load_file(path).items() if not any(part in name for part in without))


def test_files_of_a_run_have_the_planned_bytes(config, tmp_path, monkeypatch):
    """Tokens, activations, checkpoints and SAEs, to the byte, but for what is known only once it is measured."""
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    plan = plan_run(config, tmp_path / "run", Question(measure=False)).plan
    with open_run(tmp_path / "run", config) as run:
        prepared = prepare(run)
        trainees = build_trainees(prepared)
        train_all(run, prepared, trainees)
        [checkpoint] = run.files.checkpoints.glob("step-*")
        saved = tensor_bytes(checkpoint / "tensors.safetensors", without=("/anisotropy.",))
        assert plan.run_disk["checkpoints"] == 2 * saved
        finish_and_save(run, prepared, trainees, {}, n_tokens=0)
        assert sum(tensor_bytes(sae.weights) for sae in run.files.saes()) == plan.run_disk["SAEs"]
        tokens = prepared.tokens
    n_positions = tokens.train.n_tokens + tokens.validation.n_tokens
    assert plan.cache_disk["token shards"] == 8 * n_positions
    row = 24 * 2 + 16
    n_dropped = prepared.store.record["n_dropped"]
    later = n_dropped["special_token"] + n_dropped["norm_outlier"]
    assert plan.cache_disk["activations"] == (prepared.store.n_rows + later) * row
    stored = sum(tensor_bytes(path, without=("sum/",)) for path in prepared.store.folder.glob("*.safetensors"))
    assert stored == prepared.store.n_rows * row


def test_work_is_what_a_count_by_hand_gives():
    config = dataclasses.replace(
        demo(),
        architectures=("topk", "relu"),
        l0=(16.0, 32.0),
        text=TextConfig(n_tokens=10_000, n_validation_tokens=2_000, context_length=100),
        activations=ActivationsConfig(sites=("layers.11.mlp_out", "layers.2.resid_pre"), dtype="float32"),
        training=TrainingConfig(batch_tokens=500, n_passes=3),
        evaluation=EvaluationConfig(n_loss_tokens=1_000, pca=False, frozen_random=True),
        d_sae=1_000,
    )
    widths = dict.fromkeys(config.activations.sites, 576)
    sizes = Sizes(config, SIZE, widths)
    stages = {work.stage: work.amounts for work in work_of(sizes)}
    through_12_layers = 2 * 106_202_880 * 12 / 30
    assert stages["harvest"] == {"operation": 10_000 * through_12_layers, "byte": 10_000 * (2 * 576 * 4 + 16)}
    step = 3 * 10_000 * 576 * 1_000
    # At two sites and two L0s: TopK and its frozen control, ReLU.
    assert stages["training"]["step topk"] == 8 * step
    assert stages["training"]["step relu"] == 4 * step
    assert stages["training"]["step"] == 0
    assert stages["training"]["update"] == 12 * 576 * 1_000 * 60
    assert stages["reconstruction"]["encode"] == 2_000 * 12 * 576 * 1_000
    head = 2 * 49_152 * 576
    layers = 2 * 106_202_880 / 30
    shared = 30 * layers + head + (12 - 3) * layers
    per_site = sum((6 + 1) * ((30 - first) * layers + head) for first in (12, 3))
    assert loss_operations(sizes) == pytest.approx(1_000 * (shared + per_site))
    assert Work("", {"step topk": 2.0, "step relu": 3.0, "byte": 5.0}).seconds({"step": 10.0, "step relu": 1.0}) == 23


def test_two_devices_share_saes_and_text():
    sizes = Sizes(demo(), SIZE, {"layers.12.resid_post": 576})
    single, four = ({work.stage: work.amounts for work in work_of(sizes, n_devices=n)} for n in (1, 4))
    assert four["harvest"]["operation"] == single["harvest"]["operation"] / 4
    # 18 SAEs on four devices: one has five.
    assert four["training"]["step topk"] == pytest.approx(single["training"]["step topk"] * 5 / 18)
    assert four["reconstruction"]["operation"] == single["reconstruction"]["operation"]


def test_slices_share_out_the_steps_of_each_sae_and_leave_its_evaluation_to_one_process(tmp_path):
    config = dataclasses.replace(demo(), architectures=("topk",), l0=(32.0,))
    sizes = Sizes(config, SIZE, {"layers.12.resid_post": 576})
    whole, sliced = (
        {work.stage: work.amounts for work in work_of(sizes, n_devices=n_devices, slices=slices)}
        for n_devices, slices in ((1, None), (8, Slices(4)))
    )
    training = {"step topk": 8, "update": 4, "encode": 4}  # rows are shared out between the two halves of the devices
    for kind, n in training.items():
        assert sliced["training"][kind] == whole["training"][kind] / n
    assert sliced["reconstruction"] == whole["reconstruction"]
    assert sliced["model loss"] == whole["model loss"]
    assert sliced["harvest"]["operation"] == whole["harvest"]["operation"] / 8

    on_one, on_eight = (
        planned(sizes, tmp_path, question, d_heads=576)
        for question in (Question(hardware_of("h100")), Question(hardware_of("h100x8"), n_latent_shards=8))
    )
    one, eight = ({stage.name: stage.seconds for stage in plan.stages} for plan in (on_one, on_eight))
    assert eight["training"] == pytest.approx(one["training"] / 8)
    assert "each SAE in 8 slices, on all processes: messages" in plan_page(on_eight, tmp_path, "a machine")
    # Two processes on one processor take its cores from each other.
    assert work_of(sizes, slices=Slices(2, n_per_device=2))[4] == work_of(sizes)[4]


def test_streamed_activations_are_made_in_training_by_every_process():
    text, training = TextConfig(n_tokens=240_000, context_length=256), TrainingConfig(n_passes=2)
    two_passes = dataclasses.replace(demo(), text=text, training=training)
    stream = dataclasses.replace(two_passes, activations=ActivationsConfig(storage="stream"))
    sizes = Sizes(stream, SIZE, {"layers.12.resid_post": 576})
    stages = {work.stage: work.amounts for work in work_of(sizes, n_devices=2)}
    assert "harvest" not in stages
    once = 240_128 * 2 * 106_202_880 * 13 / 30
    assert stages["training"]["operation"] == pytest.approx(once)
    assert stages["training"]["byte"] == 0
    for budget, n_readings in ((0, 1), (150_000_000, 2)):
        activations = ActivationsConfig(storage="windows", window_tokens=50_000, disk_budget=budget)
        windows = Sizes(dataclasses.replace(two_passes, activations=activations), SIZE, sizes.widths)
        stages = {work.stage: work.amounts for work in work_of(windows)}
        assert stages["training"]["operation"] == pytest.approx(n_readings * once)
        assert stages["training"]["byte"] == n_readings * 240_128 * (576 * 2 + 16)


def test_assumed_costs_are_those_of_the_data_sheet_and_the_stated_shares():
    costs = assumed_costs(DEVICES["h100"], "bfloat16")
    assert costs["operation"] == pytest.approx(1 / (0.4 * 989e12))
    assert costs["step"] == pytest.approx(1.5 * 2 / (0.6 * 67e12))
    assert costs["update"] == pytest.approx(56 / (0.7 * 3.35e12))
    assert assumed_costs(DEVICES["h100"], "float32")["operation"] == pytest.approx(1 / (0.4 * 67e12))


def test_names_and_figures_of_hardware():
    assert hardware_of("RTX4090").n_devices == 1
    assert hardware_of("h100x8") == ("h100x8", DEVICES["h100"], 8)
    changed = hardware_with("rtx4090x2", 48_000_000_000, 100.0, 2.0)
    assert changed.device == DEVICES["rtx4090"]._replace(memory=48e9, single=100e12, bandwidth=2e12)
    assert hardware_with(None, None, None, None) is None
    for name, message in (("h10", "did you mean 'h100'"), ("h100x0", "from 1 to 1024 devices"), ("x8", "unknown")):
        with pytest.raises(UserError, match=message):
            hardware_of(name)
    with pytest.raises(UserError, match="replace those of --hardware"):
        hardware_with(None, None, 60.0, None)


def test_a_stage_holds_its_parts_and_the_run_needs_what_the_most_demanding_one_holds():
    plan = bytes_of_run(demo(), {"layers.12.resid_post": 576}, SIZE)
    assert "logits" in plan.held_in(EVALUATION)
    assert "logits" not in plan.held_in(TRAINING)
    assert "SAEs in training" not in plan.held_in(HARVEST)
    assert all("model" in plan.held_in(stage) for stage in (HARVEST, TRAINING, EVALUATION))
    assert sum(plan.most_held.values()) == max(
        sum(plan.held_in(stage).values()) for stage in (HARVEST, TRAINING, EVALUATION)
    )


@pytest.mark.parametrize(
    ("changes", "question"),
    [
        ({"d_sae": 200_000}, Question(main_memory=8_000_000_000, measure=False)),
        ({"d_sae": 400_000}, Question(hardware_of("rtx4090"))),
        ({"text": TextConfig(n_tokens=10**9)}, Question(disk=100_000_000_000, measure=False)),
        ({"model": ModelConfig(device="cpu")}, Question(main_memory=2_750_000_000, measure=False)),
    ],
)
def test_every_way_out_makes_it_fit(changes, question, tmp_path):
    """What is advised, given as flags, is a plan that fits."""
    config = dataclasses.replace(demo(), training=TrainingConfig(), **changes)

    def plan_of(config: RunConfig, question: Question):
        sizes = Sizes(config, SIZE, {"layers.12.resid_post": 576})
        return planned(sizes, tmp_path, question, d_heads=576)

    plan = plan_of(config, question)
    assert plan.refusal is not None
    assert plan.costs == {} or question.hardware
    flags = [way for way in plan.advice if way.startswith("--")]
    assert flags
    for way in flags:
        assert plan_of(parsed(config, shlex.split(way)), question).refusal is None, way
        assert way in plan_page(plan, tmp_path, "a machine")


def test_the_command_prints_a_plan_of_assumed_hardware_and_of_this_machine(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    cli.main(["plan", "quick", "--hardware", "h100x8", "--processes", "4"])
    page = capsys.readouterr().out
    assert "on h100x8 (80.0 GB a device), 4 processes" in page
    assert "times assumed, not measured" in page
    assert "main memory and disk were not given, so not checked" in page
    small = [
        "--model",
        config.model.source,
        "--sites",
        SITE,
        "--d-sae",
        "64",
        "--l0",
        "4",
        "--text.context-length",
        "64",
    ]
    cli.main(["plan", "quick", *small])
    page = capsys.readouterr().out
    assert "times measured on this machine just now" in page
    assert "–" not in page


def test_a_plan_that_does_not_fit_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["plan", "quick", "--no-measure", "--main-memory", "1G"])
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert "it does not fit: needs about" in printed.out
    assert printed.err.startswith("error: this plan does not fit")


def test_slices_that_training_would_refuse_are_not_planned(capsys):
    for words, error in (
        ("quick --hardware h100x8 --shard-latents 3", "8 processes cannot hold 3 slices"),
        ("quick --architectures topk --shard-latents 2 --no-measure", "and there is one; add --processes 2"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["plan", *words.split()])
        assert error in capsys.readouterr().err


def test_saes_are_counted_by_kind():
    counts = kinds_of(dataclasses.replace(quick(), seeds=(0, 1), l0=(8.0, 16.0)), {"a": 24, "b": 24, "c": 48})
    assert sum(counts.values()) == 3 * 2 * 2 * 3
    assert sum(n for kind, n in counts.items() if kind.frozen) == 12


def test_a_spread_model_takes_an_equal_part_of_every_device_and_8_bits_a_byte(tmp_path):
    sizes = Sizes(quick(), SIZE, {"layers.6.resid_post": 576})
    spread = dataclasses.replace(quick(), model=ModelConfig(device_map="auto"))
    eight = dataclasses.replace(quick(), model=ModelConfig(weights="8bit", dtype="bfloat16"))
    question = Question(hardware_of("h100x4"))
    whole, part, small = (
        planned(dataclasses.replace(sizes, config=config), tmp_path, question, d_heads=576)
        for config in (quick(), spread, eight)
    )
    assert whole.most_on_device["model"] == 4 * part.most_on_device["model"] == 4 * SIZE.n_parameters
    assert (whole.machine.n_processes, part.machine.n_processes) == (4, 1)
    assert small.most_on_device["model"] == 2 * SIZE.n_parameters - SIZE.n_block_parameters


def test_vllm_takes_its_share_of_a_gpu_while_activations_are_read(tmp_path):
    sizes = Sizes(quick(), SIZE, {"layers.6.resid_post": 576})
    disk = dataclasses.replace(quick(), model=ModelConfig(backend="vllm", gpu_memory=0.5))
    stream = dataclasses.replace(disk, activations=dataclasses.replace(disk.activations, storage="stream"))
    all_of_it = ModelConfig(backend="vllm", gpu_memory=1.0)
    too_much, streamed_too_much = (dataclasses.replace(config, model=all_of_it) for config in (disk, stream))
    question = Question(hardware_of("h100x4"))
    plain, on_disk, streamed, *refused = (
        planned(dataclasses.replace(sizes, config=config), tmp_path, question, d_heads=576)
        for config in (quick(), disk, stream, too_much, streamed_too_much)
    )
    share = question.hardware.device.memory // 2
    of_stage = [{stage.name: stage.device_memory for stage in plan.stages} for plan in (plain, on_disk, streamed)]
    assert on_disk.machine.n_processes == 1
    assert min(of_stage[1]["harvest"], of_stage[1]["reconstruction"]) > share
    assert of_stage[1]["training"] < share < of_stage[2]["training"]
    assert max(of_stage[0].values()) < share
    assert all("lower --model.gpu-memory" in str(plan.refusal) for plan in refused)
    assert "activations come through vllm, untimed" in plan_page(on_disk, tmp_path, "a machine")
    with pytest.raises(UserError, match="runs in one process"):
        plan_run(disk, tmp_path, Question(hardware_of("h100x4"), n_processes=4))
