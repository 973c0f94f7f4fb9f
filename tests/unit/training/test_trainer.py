"""Training: exact resume of all architectures together, kills, signals, NaN, damaged checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import trained_tensors
from torch import Tensor
from trained_tensors import OnStep, assert_same_tensors, states_of, tensors_hash, tensors_of

from monosemy.config import TrainingConfig
from monosemy.errors import Interrupted, UserError
from monosemy.saes.base import SaeConfig, StepInfo
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.support.metrics import MetricsWriter, read_metrics
from monosemy.training.checkpoint import Origin, checkpoint_folders, load_checkpoint
from monosemy.training.trainee import Diverged, Trainee
from monosemy.training.trainer import Trainer

CASES = str(Path(trained_tensors.__file__).parent)
D, M, ROWS, STEPS = 12, 48, 64, 40
SITES = ("site.a", "site.b")
CONFIG = TrainingConfig(
    batch_tokens=ROWS, checkpoint_tokens=10 * ROWS, log_tokens=3 * ROWS, dead_fraction=0.05, warmup_fraction=0.1
)


class PlantedStream:
    """Sparse combinations of a hidden dictionary at E‖x‖² ≈ 1; step i's batch depends on the generator's state only."""

    def __init__(self, n_steps: int = STEPS, nan_at: tuple[int, str] | None = None) -> None:
        self.n_steps, self.index, self.nan_at = n_steps, 0, nan_at
        self.generator = torch.Generator().manual_seed(5)
        planted = torch.randn(40, D, generator=torch.Generator().manual_seed(6))
        self.dictionary = planted / planted.norm(dim=1, keepdim=True)

    def __next__(self) -> dict[str, Tensor]:
        batch = {}
        for site in SITES:
            on = torch.rand(ROWS, 40, generator=self.generator) < 0.06
            strength = torch.rand(ROWS, 40, generator=self.generator) + 0.5
            noise = 0.02 * torch.randn(ROWS, D, generator=self.generator)
            batch[site] = (on * strength) @ self.dictionary / 1.6 + noise
        if self.nan_at and self.nan_at[0] == self.index:
            batch[self.nan_at[1]][3, 2] = torch.nan
        self.index += 1
        return batch

    def state(self) -> dict[str, Any]:
        return {"index": self.index, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.index = state["index"]
        self.generator.set_state(state["generator"])


def make_trainer(
    folder: Path, stream: PlantedStream | None = None, on_step: OnStep | None = None, config: TrainingConfig = CONFIG
) -> Trainer:
    """Every architecture, and a frozen control, at two sites; freshly made, as a restarted process makes it."""
    stream = stream or PlantedStream()
    start = next(PlantedStream())
    trainees = {}
    for site in SITES:
        for name in [*ARCHITECTURES, "frozen"]:
            architecture = "batch_topk" if name == "frozen" else name
            frozen = name == "frozen"
            options = {"k_start_factor": 2.0, **({"aux_coef": 0.03} if architecture in ("topk", "batch_topk") else {})}
            sae = build_sae(SaeConfig(architecture, D, M, 3, site=site, frozen_decoder=frozen, options=options))
            trainee = Trainee(sae, config, stream.n_steps, stream.n_steps * ROWS)
            trainee.initialise(start[site])
            trainees[site, name] = trainee
    return Trainer(
        trainees,
        stream,
        config,
        checkpoints=folder / "checkpoints",
        metrics=MetricsWriter(folder / "metrics.jsonl"),
        origin=Origin("planted"),
        on_step=on_step,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, bytes]:
    """The run that was never stopped, and its metrics file."""
    folder = tmp_path_factory.mktemp("unbroken")
    trainer = make_trainer(folder)
    assert trainer.resume() == 0
    trainer.train()
    return trainer, (folder / "metrics.jsonl").read_bytes()


def stop_at(step: int, trainer_of: Callable[[], Trainer]) -> OnStep:
    """SIGTERM to this process in step `step` (counted from 1)."""

    def on_step(n_rows: int, metrics: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
        if trainer_of().index == step:
            signal.raise_signal(signal.SIGTERM)  # to this thread, so that it acts before the next step

    return on_step


def interrupted(folder: Path, step: int) -> Trainer:
    trainers: list[Trainer] = []
    trainers.append(make_trainer(folder, on_step=stop_at(step, lambda: trainers[0])))
    trainers[0].resume()
    with pytest.raises(Interrupted, match=f"interrupted at step {step}; saved as"):
        trainers[0].train()
    return trainers[0]


# --- training itself ----------------------------------------------------------------------------------------------


def test_training_learns_and_records(unbroken: tuple[Trainer, bytes], tmp_path: Path) -> None:
    trainer, metrics = unbroken
    (tmp_path / "metrics.jsonl").write_bytes(metrics)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert len(trainer.trainees) == len(SITES) * (len(ARCHITECTURES) + 1)
    assert trainer.messages == []
    for site, name in trainer.trainees:
        own = [r for r in records if (r["site"], r["name"]) == (site, name)]
        assert own[0]["step"] == 1
        assert own[-1]["step"] == STEPS
        assert own[-1]["n_tokens"] == STEPS * ROWS
        assert own[-1]["target_l0"] == 3
        assert own[0]["asked_l0"] == 6
        assert own[-1]["asked_l0"] == 3
    fresh = make_trainer(tmp_path)
    x = next(trainer.stream)  # rows no step has seen
    for key in ((site, name) for site in SITES for name in ("topk", "frozen")):
        sae, untrained = trainer.trainees[key].sae, fresh.trainees[key].sae
        step = StepInfo(progress=1.0, l0=3)
        assert sae.losses(x[key[0]], step).total < 0.97 * untrained.losses(x[key[0]], step).total
    assert any("loss_aux" in r for r in records)  # so that resuming covers the dead-latent term
    assert any(r["restarted"] > 0 for r in records)


def test_as_many_saes_step_side_by_side_as_an_eighth_of_the_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two float32 buffers of [64 rows, 48 latents] are 24,576 bytes an SAE."""
    trainer = make_trainer(tmp_path)
    assert {unit.n_bytes for unit in trainer.units} == {0}
    for n_bytes, expected in ((8 * 24_576 * 5, 5), (8 * 24_576 * 5 - 8, 4), (1000, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda n_bytes=n_bytes: SimpleNamespace(total=n_bytes))
        assert trainer._most_at_a_time() == expected


def test_a_frozen_decoder_stays_as_drawn(unbroken: tuple[Trainer, bytes]) -> None:
    sae = unbroken[0].trainees["site.a", "frozen"].sae
    assert torch.equal(sae.W_dec, build_sae(sae.config).W_dec)
    assert not torch.equal(sae.W_enc, build_sae(sae.config).W_enc)


def test_decoder_rows_keep_unit_length(unbroken: tuple[Trainer, bytes]) -> None:
    for trainee in unbroken[0].trainees.values():
        assert torch.allclose(trainee.sae.W_dec.norm(dim=1), torch.ones(M), atol=1e-5)


# --- exact resume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 5, 17, 39])
def test_resumed_training_equals_unbroken_training(stop: int, unbroken: tuple[Trainer, bytes], tmp_path: Path) -> None:
    interrupted(tmp_path, stop)
    # Records written after the checkpoint are what a kill leaves behind.
    MetricsWriter(tmp_path / "metrics.jsonl").append([{"step": 999}])
    resumed = make_trainer(tmp_path)
    assert resumed.resume() == stop * ROWS
    resumed.train()
    assert_same_tensors(tensors_of(resumed), tensors_of(unbroken[0]))
    assert states_of(resumed) == states_of(unbroken[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == unbroken[1]


def test_training_on_several_threads_resumes_exactly(tmp_path: Path) -> None:
    """Two SAEs at a time, batches large enough for the 8-bit screen where the processor has it."""

    class Stream(PlantedStream):
        def __next__(self) -> dict[str, Tensor]:
            self.index += 1
            return {"site.a": torch.randn(300, 16, generator=self.generator) / 4}

    def trainer(folder: Path, n_steps: int = 12) -> Trainer:
        stream = Stream(12)
        trainees = {}
        for kind in ("topk", "jumprelu", "batch_topk", "relu"):
            sae = build_sae(SaeConfig(kind, d_in=16, d_sae=4096, l0=8, site="site.a"))
            trainee = Trainee(sae, CONFIG, 12, 12 * 300)
            trainee.initialise(next(Stream(1))["site.a"])
            trainees["site.a", kind] = trainee
        resumed = Trainer(
            trainees,
            stream,
            dataclasses.replace(CONFIG, checkpoint_tokens=300 * 5),
            checkpoints=folder / "checkpoints",
            metrics=MetricsWriter(folder / "metrics.jsonl"),
            origin=Origin("threads"),
        )
        resumed.resume()
        resumed.stream.n_steps = n_steps
        return resumed

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole, first = trainer(tmp_path / "whole"), trainer(tmp_path / "broken", 7)
        assert whole.arithmetic()["threads per SAE"] == 1
        whole.train()
        first.train()
        second = trainer(tmp_path / "broken")
        assert second.index == 7
        second.train()
    finally:
        torch.set_num_threads(before)
    assert_same_tensors(tensors_of(second), tensors_of(whole))


def test_continuing_with_other_arithmetic_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(tmp_path, 12)
    folder = checkpoint_folders(tmp_path / "checkpoints")[-1]
    state = json.loads((folder / "state.json").read_text())
    state["arithmetic"]["threads per SAE"] += 1
    (folder / "state.json").write_text(json.dumps(state))
    make_trainer(tmp_path).resume()
    assert "threads per SAE" in capsys.readouterr().err


def test_a_sigterm_writes_a_checkpoint_of_that_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = interrupted(tmp_path, 7)
    assert signal.getsignal(signal.SIGTERM) is before
    folders = checkpoint_folders(tmp_path / "checkpoints")
    assert [f.name for f in folders] == ["step-00000007"]
    tensors, state = load_checkpoint(folders[0])
    assert state["step"] == 7
    assert state["n_tokens"] == 7 * ROWS
    own = {name: t for name, t in tensors.items() if not name.startswith("stream/")}
    assert_same_tensors(own, tensors_of(trainer))


def test_the_last_step_is_a_checkpoint_and_alone_stays(unbroken: tuple[Trainer, bytes], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.resume()
    trainer.train()
    assert [f.name for f in checkpoint_folders(tmp_path / "checkpoints")] == ["step-00000040"]
    again = make_trainer(tmp_path)
    assert again.resume() == STEPS * ROWS
    again.train()  # nothing is left to do
    assert tensors_hash(again) == tensors_hash(unbroken[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == unbroken[1]


# --- a killed process ---------------------------------------------------------------------------------------------

KILLED_STEPS, LEASH = 160, 45


def child(folder: Path) -> None:
    """What the killed process runs: train from the newest checkpoint to the end, then write the tensors' hash.

    After LEASH steps it waits for the end of its input, so that on no machine it is done before it is killed."""
    torch.set_num_threads(1)

    def on_step(n_rows: int, metrics: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
        print(trainer.index, flush=True)
        if trainer.index == resumed + LEASH:
            sys.stdin.read()

    trainer = make_trainer(
        folder,
        PlantedStream(KILLED_STEPS),
        on_step=on_step,
        config=dataclasses.replace(CONFIG, checkpoint_tokens=3 * ROWS),
    )
    resumed = trainer.resume() // ROWS
    print(resumed, flush=True)
    trainer.train()
    (folder / "hash").write_text(tensors_hash(trainer))


def start_child(folder: Path, *, leashed: bool) -> subprocess.Popen[str]:
    """The process; its output is the step it resumed at, then every step done."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([CASES, *filter(None, [os.environ.get("PYTHONPATH")])])
    stdin = subprocess.PIPE if leashed else subprocess.DEVNULL
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, env=env)


def test_three_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    resumed_at = []
    for _ in range(3):
        process = start_child(killed, leashed=True)
        assert process.stdout is not None
        resumed_at.append(int(process.stdout.readline()))
        for _ in range(moments.randint(4, 30)):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.08))  # anywhere within a step or a checkpoint
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # it had not finished by itself
    for folder in (killed, whole):
        process = start_child(folder, leashed=False)
        output, _ = process.communicate(timeout=800)
        assert process.returncode == 0
        resumed_at.append(int(output.splitlines()[0]))
    print(f"seed {seed}: resumed at steps {resumed_at}; final tensors {(killed / 'hash').read_text()}")
    assert 0 == resumed_at[0] < resumed_at[1] < resumed_at[2] < resumed_at[3]
    assert resumed_at[4] == 0  # the unbroken run
    assert (killed / "hash").read_text() == (whole / "hash").read_text()
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


# --- NaN ----------------------------------------------------------------------------------------------------------


def test_a_nan_batch_stops_only_that_sites_saes(unbroken: tuple[Trainer, bytes], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PlantedStream(nan_at=(12, "site.b")))
    trainer.resume()
    trainer.train()
    assert len(trainer.messages) == sum(site == "site.b" for site, _ in trainer.trainees)
    for (site, name), trainee in trainer.trainees.items():
        if site == "site.a":
            assert trainee.stopped is None
        else:
            expected = f"{name} at site.b stopped: the batch holds NaN or infinity at step 12; the other SAEs go on"
            assert trainee.stopped == expected
            assert expected in trainer.messages
            assert trainee.optimizer.n_steps == 12
            assert all(torch.isfinite(t).all() for t in trainee.tensors().values())
    own, theirs = tensors_of(trainer), tensors_of(unbroken[0])
    unaffected = [name for name in own if name.startswith("site.a/")]
    assert_same_tensors({n: own[n] for n in unaffected}, {n: theirs[n] for n in unaffected})
    steps = {r["step"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["site"] == "site.b"}
    assert max(steps) <= 12
    # A resumed run remembers who stopped and why, though the stream is whole now.
    again = make_trainer(tmp_path)
    again.resume()
    again.train()
    assert again.messages == trainer.messages
    assert_same_tensors(tensors_of(again), own)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_nan_loss_stops_that_sae_with_nothing_changed(name: str, tmp_path: Path) -> None:
    trainers: list[Trainer] = []

    def poison(n_rows: int, metrics: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
        if trainers[0].index == 4:
            with torch.no_grad():
                trainers[0].trainees["site.a", name].sae.b_dec[0] = torch.nan

    trainers.append(make_trainer(tmp_path, PlantedStream(8), on_step=poison))
    trainers[0].train()
    assert len(trainers[0].messages) == 1
    assert f"{name} at site.a stopped: the loss became nan at step 4" in trainers[0].messages[0]
    assert [key for key, trainee in trainers[0].trainees.items() if trainee.stopped] == [("site.a", name)]
    assert trainers[0].trainees["site.a", name].optimizer.n_steps == 4
    assert trainers[0].trainees["site.b", name].optimizer.n_steps == 8


def test_a_diverging_step_changes_nothing() -> None:
    stream = PlantedStream()
    trainee = make_trainer(Path("unused")).trainees["site.a", "jumprelu"]
    trainee.step(next(stream)["site.a"], 0)
    before = {name: t.clone() for name, t in trainee.tensors().items()}
    state = trainee.state()
    with pytest.raises(Diverged, match="step 1"):
        trainee.step(next(stream)["site.a"] * 1e30, 1)
    assert_same_tensors(trainee.tensors(), before)
    assert trainee.state() == state


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    folder = checkpoint_folders(tmp_path / "checkpoints")[0]
    path = folder / "tensors.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 4
    for damaged in (bytes(flipped), whole[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step-00000003/tensors\.safetensors is damaged.*delete .*step-00000003"):
            make_trainer(tmp_path).resume()
    path.unlink()
    with pytest.raises(UserError, match="damaged"):
        make_trainer(tmp_path).resume()
    path.write_bytes(whole)
    (folder / "state.json").write_text('{"format": 1, "st')
    with pytest.raises(UserError, match=r"state\.json"):
        make_trainer(tmp_path).resume()


def test_a_checkpoint_of_another_format_or_configuration_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    other = make_trainer(tmp_path)
    other.origin = Origin("other")
    with pytest.raises(UserError, match=r"another configuration .*: it does not record what differs; delete it"):
        other.resume()
    path = checkpoint_folders(tmp_path / "checkpoints")[0] / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 77}))
    with pytest.raises(UserError, match="format 77"):
        make_trainer(tmp_path).resume()


def test_the_refusal_of_a_checkpoint_says_what_differs(tmp_path: Path) -> None:
    parts = {"d_sae": 64, "training": {"batch_tokens": 32, "learning_rate": None}, "fingerprint": {"text": "aa"}}
    first = make_trainer(tmp_path)
    first.origin = Origin("first", parts)
    first.save()
    other = make_trainer(tmp_path)
    for changes, difference in (
        ({"training": {"batch_tokens": 64, "learning_rate": None}}, "training.batch_tokens is 32 there and 64 here"),
        ({"training": {"batch_tokens": 32}}, None),
        ({"fingerprint": {"text": "bb"}}, "fingerprint.text is 'aa' there and 'bb' here"),
    ):
        other.origin = Origin("other", parts | changes)
        with pytest.raises(UserError) as refused:
            other.resume()
        assert (difference or "it does not record what differs") in str(refused.value)
        assert str(refused.value).endswith("; delete it to train from the start")
    other.origin = Origin("first", {})
    other.resume()


def test_lost_metrics_are_noticed(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl has 0 bytes"):
        make_trainer(tmp_path).resume()


if __name__ == "__main__":
    child(Path(sys.argv[1]))
