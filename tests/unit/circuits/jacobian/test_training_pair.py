"""Pairs in training: what the penalty changes, exact resume, planted features, what is refused."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlp_pairs
import pytest
import torch
from mlp_pairs import make_weights
from torch import Tensor
from trained_tensors import OnStep, assert_same_tensors, tensors_hash

from monosemy.circuits.jacobian.measures import JacobianMeter
from monosemy.circuits.jacobian.mlp import jacobian_slices
from monosemy.circuits.jacobian.penalty import SlopesAtInput
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.slices import JacobianSlices
from monosemy.circuits.jacobian.training_pair import Pair, pair_name, pair_sites
from monosemy.config import ActivationsConfig, RunConfig, TrainingConfig, identity
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_config
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae
from monosemy.support.metrics import MetricsWriter, read_metrics
from monosemy.training.checkpoint import Origin
from monosemy.training.trainee import Diverged, Trainee
from monosemy.training.trainer import Trainer

SITES = ("layers.3.mlp_in", "layers.3.mlp_out")
D, M, ROWS, STEPS, L0 = 12, 48, 64, 30, 4
CONFIG = TrainingConfig(
    batch_tokens=ROWS, checkpoint_tokens=10 * ROWS, log_tokens=ROWS, dead_fraction=0.05, warmup_fraction=0.1
)
KEEP_ALL = dataclasses.replace(CONFIG, outlier_error=0.0)


# --- training -----------------------------------------------------------------------------------------------------


class Stream:
    """x sparse combinations of a hidden dictionary; y what the MLP makes of it, both near E‖·‖² = 1.

    `long_at`: steps in which one x is a thousand times as long; its y is left as it was.
    """

    def __init__(self, n_steps: int = STEPS, nan_at: int | None = None, long_at: Sequence[int] = ()) -> None:
        self.n_steps, self.index, self.nan_at, self.long_at = n_steps, 0, nan_at, long_at
        self.generator = torch.Generator().manual_seed(5)
        self.weights = make_weights("silu", True).to(torch.zeros(1)).between_scaled(1.5, 0.8)
        planted = torch.randn(40, D, generator=torch.Generator().manual_seed(6))
        self.dictionary = planted / planted.norm(dim=1, keepdim=True)

    def __next__(self) -> dict[str, Tensor]:
        on = torch.rand(ROWS, 40, generator=self.generator) < 0.06
        x = (on * (torch.rand(ROWS, 40, generator=self.generator) + 0.5)) @ self.dictionary / 1.6
        batch = {SITES[0]: x, SITES[1]: self.weights.output(x)}
        if self.index in self.long_at:
            x[5] *= 1000
        if self.nan_at == self.index:
            batch[SITES[1]][3, 2] = torch.nan
        self.index += 1
        return batch

    def state(self) -> dict[str, Any]:
        return {"index": self.index, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.index = state["index"]
        self.generator.set_state(state["generator"])


PAIRS = (
    ("none", 0.0, JacobianConfig(mlp_error_coef=2.0)),
    ("topk", 20.0, JacobianConfig(mlp_error_coef=0.0)),
    ("share", 20.0, JacobianConfig(mlp_error_coef=0.0, token_share=0.25)),
    ("there", 20.0, JacobianConfig(mlp_error_coef=0.0, at="reconstruction", token_share=0.5)),
    ("batch_topk", 20.0, JacobianConfig(mlp_error_coef=0.0, architecture="batch_topk")),
    ("jumprelu", 20.0, JacobianConfig(mlp_error_coef=1.0, architecture="jumprelu")),
    ("through", 20.0, JacobianConfig(mlp_error_coef=2.0)),
)


def make_trainee(site: str, architecture: str, n_steps: int, config: TrainingConfig) -> Trainee:
    sae = build_sae(SaeConfig(architecture, D, M, L0, site=site))
    trainee = Trainee(sae, config, n_steps, n_steps * ROWS)
    trainee.initialise(next(Stream())[site])
    with torch.no_grad():
        sae.W_enc.mul_(13)  # so large that a long row is reconstructed worse than by nothing
    return trainee


def make_trainer(
    folder: Path, stream: Stream | None = None, on_step: OnStep | None = None, config: TrainingConfig = CONFIG
) -> Trainer:
    """All kinds of pairs, one of which learns from every row, and two SAEs that stand alone."""
    stream = stream or Stream()
    slopes = {settings.token_share: SlopesAtInput(stream.weights) for _, _, settings in PAIRS}
    trainees, pairs = {}, []
    for name, coef, settings in PAIRS:
        keys = ((SITES[0], name), (SITES[1], name))
        own_config = dataclasses.replace(config, outlier_error=0.0) if name == "topk" else config
        own = tuple(make_trainee(site, settings.architecture, stream.n_steps, own_config) for site in SITES)
        pair = Pair(keys, own, slopes[settings.token_share], coef, config=settings)  # type: ignore[arg-type]
        pairs.append(pair)
        trainees |= dict(zip(keys, own))
    for site in SITES:
        trainees[site, "alone"] = make_trainee(site, "topk", stream.n_steps, config)
    return Trainer(
        trainees,
        stream,
        config,
        checkpoints=folder / "checkpoints",
        metrics=MetricsWriter(folder / "metrics.jsonl"),
        origin=Origin("pairs"),
        units=pairs,
        on_step=on_step,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    trainer = make_trainer(folder)
    trainer.resume()
    trainer.train()
    return trainer, folder


def test_a_pair_without_penalty_is_two_saes_trained_alone(unbroken: tuple[Trainer, Path]) -> None:
    trainees = unbroken[0].trainees
    for site in SITES:
        assert_same_tensors(trainees[site, "none"].tensors(), trainees[site, "alone"].tensors())


def test_the_penalty_is_recorded_warms_up_and_acts(unbroken: tuple[Trainer, Path]) -> None:
    records = read_metrics(unbroken[1] / "metrics.jsonl")
    for name, coef, settings in PAIRS:
        own = [r for r in records if r["site"] == SITES[0] and r["name"] == name]
        rise = [min(1.0, (r["step"] - 1) / STEPS / settings.warmup_fraction) for r in own]
        assert [r["jacobian_coef"] for r in own] == pytest.approx([coef * share for share in rise])
        assert own[0]["jacobian_coef"] == 0
        assert all(("jacobian_magnitude" in r) == (r["jacobian_coef"] > 0) for r in own)
        seen = coef > 0 and settings.mlp_error_coef > 0
        assert all(("mlp_error" in r) == seen for r in own)
    x = next(unbroken[0].stream)
    sums = {}
    for name, _, _ in PAIRS:
        pair = [unbroken[0].trainees[site, name].sae for site in SITES]
        slices = jacobian_slices(unbroken[0].stream.weights, *pair, x[SITES[0]], y=x[SITES[1]])
        sums[name] = float(slices.values.abs().sum()) / ROWS / L0**2
    assert max(sums[name] for name in ("topk", "share", "there", "through")) < 0.95 * sums["none"]
    assert "jacobian_coef" not in next(r for r in records if r["name"] == "alone")


def test_the_error_through_the_mlp_falls_when_it_is_in_the_loss() -> None:
    """Two pairs that differ in its coefficient alone, on rows that neither saw; the output SAE does not notice."""
    errors, others, n_steps = [], [], 300
    for coef in (0.0, 1.0):
        stream = Stream(n_steps)
        own = [make_trainee(site, "topk", n_steps, KEEP_ALL) for site in SITES]
        with torch.no_grad():
            own[0].sae.W_enc.div_(4)
        keys = ((SITES[0], "pair"), (SITES[1], "pair"))
        settings = JacobianConfig(mlp_error_coef=coef)
        pair = Pair(keys, (own[0], own[1]), SlopesAtInput(stream.weights), 1e-30, config=settings)
        for index in range(n_steps):
            pair.step(next(stream), index)
        x = torch.cat([next(stream)[SITES[0]] for _ in range(20)])
        with torch.no_grad():
            error = stream.weights.output(x) - stream.weights.output(own[0].sae(x))
        errors.append(float(error.square().sum()))
        others.append(own[1].tensors())
    assert errors[1] < 0.9 * errors[0]
    assert_same_tensors(*others)


def test_nan_at_one_site_stops_both_saes_and_no_others(unbroken: tuple[Trainer, Path], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, Stream(nan_at=12))
    trainer.train()
    assert {key for key, trainee in trainer.trainees.items() if not trainee.stopped} == {(SITES[0], "alone")}
    assert len(trainer.messages) == 2 * len(PAIRS) + 1
    assert f"topk at {SITES[0]} stopped: the batch holds NaN or infinity at step 12" in "\n".join(trainer.messages)
    whole = unbroken[0].trainees[SITES[0], "alone"].tensors()
    assert_same_tensors(trainer.trainees[SITES[0], "alone"].tensors(), whole)


def test_a_diverging_step_changes_neither_sae() -> None:
    trainer = make_trainer(Path("unused"))
    pair = next(unit for unit in trainer.units if isinstance(unit, Pair) and unit.keys[0][1] == "jumprelu")
    pair.step(next(trainer.stream), 0)
    before = [{n: t.clone() for n, t in trainee.tensors().items()} for trainee in pair.trainees]
    batch = dict(next(trainer.stream))
    batch[SITES[1]] = batch[SITES[1]] * 1e30
    with pytest.raises(Diverged, match="step 1"):
        pair.step(batch, 1)
    for trainee, was in zip(pair.trainees, before):
        assert_same_tensors(trainee.tensors(), was)


def test_pairs_that_leave_out_other_rows_share_no_slopes() -> None:
    """With one SlopesAtInput for both, a pair ends where it does with one of its own."""
    ends: dict[bool, list[Trainee]] = {}
    for shared in (True, False):
        stream = Stream(long_at=(4, 9))
        common, pairs = SlopesAtInput(stream.weights), []
        for name, config in (("all", KEEP_ALL), ("ordinary", CONFIG), ("all again", KEEP_ALL)):
            own = [make_trainee(site, "topk", STEPS, config) for site in SITES]
            slopes = common if shared else SlopesAtInput(stream.weights)
            keys = ((SITES[0], name), (SITES[1], name))
            pairs.append(Pair(keys, (own[0], own[1]), slopes, 20.0, config=JacobianConfig()))
        for index in range(12):
            batch = next(stream)
            for pair in pairs:
                pair.step(batch, index)
        ends[shared] = [trainee for pair in pairs for trainee in pair.trainees]
    n_left_out = [trainee.n_left_out for trainee in ends[True]]
    # Which of the long rows spoil a step depends on the weights; the middle pair must have left out some.
    assert n_left_out == [trainee.n_left_out for trainee in ends[False]]
    assert n_left_out == [0, 0, n_left_out[2], n_left_out[2], 0, 0]
    assert n_left_out[2] > 0
    for trainee, other in zip(*ends.values(), strict=True):
        assert_same_tensors(trainee.tensors(), other.tensors())


def test_without_penalty_each_side_leaves_out_its_own_rows() -> None:
    stream = Stream(long_at=(4, 9))
    trainees = [make_trainee(site, "jumprelu", STEPS, config) for site, config in zip(SITES, (CONFIG, KEEP_ALL))]
    alone = [make_trainee(site, "jumprelu", STEPS, config) for site, config in zip(SITES, (CONFIG, KEEP_ALL))]
    keys = ((SITES[0], "pair"), (SITES[1], "pair"))
    pair = Pair(keys, (trainees[0], trainees[1]), SlopesAtInput(stream.weights), 0.0, config=JacobianConfig())
    for index in range(12):
        batch = next(stream)
        pair.step(batch, index)
        for site, trainee in zip(SITES, alone):
            trainee.step(batch[site], index)
    assert [trainee.n_left_out > 0 for trainee in trainees] == [True, False]
    for trainee, other in zip(trainees, alone, strict=True):
        assert_same_tensors(trainee.tensors(), other.tensors())


# --- exact resume -------------------------------------------------------------------------------------------------

KILLED_STEPS, LEASH = 45, 20


def child(folder: Path) -> None:
    """Trains to the end; after LEASH steps it waits for the end of its input, so that it is never done too soon."""
    torch.set_num_threads(1)

    def on_step(n_rows: int, metrics: Mapping[tuple[str, str], Mapping[str, float]]) -> None:
        print(trainer.index, flush=True)
        if trainer.index == resumed + LEASH:
            sys.stdin.read()

    trainer = make_trainer(
        folder,
        Stream(KILLED_STEPS, long_at=(7, 18, 31)),
        on_step=on_step,
        config=dataclasses.replace(CONFIG, checkpoint_tokens=3 * ROWS),
    )
    resumed = trainer.resume() // ROWS
    print(resumed, flush=True)
    trainer.train()
    (folder / "hash").write_text(tensors_hash(trainer))


def start_child(folder: Path, *, leashed: bool) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(
        [str(Path(mlp_pairs.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    stdin = subprocess.PIPE if leashed else subprocess.DEVNULL
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, env=env)


def test_two_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    moments = random.Random(random.SystemRandom().randrange(10**6))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    resumed_at = []
    for _ in range(2):
        process = start_child(killed, leashed=True)
        assert process.stdout is not None
        resumed_at.append(int(process.stdout.readline()))
        for _ in range(moments.randint(4, 14)):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    for folder in (killed, whole):
        process = start_child(folder, leashed=False)
        output, _ = process.communicate(timeout=800)
        assert process.returncode == 0
        resumed_at.append(int(output.splitlines()[0]))
    assert 0 == resumed_at[0] < resumed_at[1] < resumed_at[2]
    assert resumed_at[3] == 0
    assert (killed / "hash").read_text() == (whole / "hash").read_text()
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    left_out = {r["name"]: r["rows_left_out"] for r in read_metrics(whole / "metrics.jsonl")}
    assert left_out["jumprelu"] > 0
    assert left_out["topk"] == 0, "so two pairs with common slopes learnt from other rows"


# --- planted features ---------------------------------------------------------------------------------------------


@torch.no_grad()
def fvu(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    return (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()


@torch.no_grad()
def own_share(
    slices: JacobianSlices, sae_in: SparseAutoencoder, sae_out: SparseAutoencoder, U: Tensor, V: Tensor
) -> float:
    """Of the output latents that carry 90% of a token's Σ|J|, the share whose strongest input latent is of the same
    planted feature (the nearest direction of each)."""
    of_in, of_out = ((sae.W_dec @ planted.T).abs().argmax(1) for sae, planted in ((sae_in, U), (sae_out, V)))
    same = of_out[slices.out_indices.clamp_min(0)][:, :, None] == of_in[slices.in_indices.clamp_min(0)][:, None, :]
    size = slices.values.abs()
    total, order = size.sum(2).sort(1, descending=True)
    carrying = total.cumsum(1) - total < 0.9 * total.sum(1, keepdim=True)
    strongest = same.gather(2, size.argmax(2, keepdim=True))[:, :, 0].gather(1, order)
    return float(strongest[carrying].float().mean())


def test_planted_one_to_one_features_are_found_sparser_at_equal_variance_explained() -> None:
    """y's features are relu of single x features, in random directions: a permutation Jacobian is there to be found."""
    d, n_features, k, m, n_steps, n = 24, 24, 3, 48, 400, 256
    draw = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(d, d, generator=draw))[0] for _ in range(2))
    weights = dataclasses.replace(
        make_weights("relu", False, d, n_features).to(torch.zeros(1)),
        W_in=U.T.contiguous(),
        W_out=V,
        b_in=None,
        b_out=None,
    )
    # There are twice as many latents as features: the superfluous ones stay dead.
    config = TrainingConfig(batch_tokens=n, learning_rate=3e-3, restart_share=0.0)

    def batch() -> dict[str, Tensor]:
        on = torch.rand(n, n_features, generator=draw).argsort(1) < k
        x = (on * (torch.rand(n, n_features, generator=draw) + 0.5)) @ U / (k * 13 / 12) ** 0.5
        return {SITES[0]: x, SITES[1]: weights.output(x)}

    first, held_out = batch(), batch()
    by_penalty = {}
    batches = [batch() for _ in range(40)]
    for coef in (0.0, 1.0):
        trainees = []
        for site in SITES:
            sae = build_sae(SaeConfig("topk", d, m, 2 * k, site=site, options={"k_start_factor": 1.0}))
            trainees.append(Trainee(sae, config, n_steps, n_steps * n))
            sae.initialise(first[site], 2 * k)
        keys = ((SITES[0], "pair"), (SITES[1], "pair"))
        pair = Pair(keys, (trainees[0], trainees[1]), SlopesAtInput(weights), coef, config=JacobianConfig())
        for index in range(n_steps):
            pair.step(batches[index % len(batches)], index)
        saes = [t.sae for t in trainees]
        explained = [1 - float(fvu(sae, held_out[site])) for site, sae in zip(SITES, saes)]
        slices = jacobian_slices(weights, saes[0], saes[1], held_out[SITES[0]], y=held_out[SITES[1]])
        meter = JacobianMeter()
        meter.add(slices, torch.arange(n))
        record = meter.finish(50)
        measures = {name: record[name].value for name in ("over_0.02", "scaled_over_0.1", "token_share_of_90")}
        by_penalty[coef] = explained, measures | {"own": own_share(slices, *saes, U, V)}
    for before, after in zip(by_penalty[0.0][0], by_penalty[1.0][0]):
        assert before > 0.9
        assert after > before - 0.02
    dense, sparse = by_penalty[0.0][1], by_penalty[1.0][1]
    assert sparse["over_0.02"] < 0.7 * dense["over_0.02"]
    for name in ("scaled_over_0.1", "token_share_of_90"):
        assert sparse[name] < 0.8 * dense[name], f"{name}: sparser, not only smaller"
    assert sparse["own"] > 0.8
    assert 1 - sparse["own"] < 0.7 * (1 - dense["own"])


# --- names, settings, refusals ------------------------------------------------------------------------------------


def test_names_and_sites() -> None:
    assert pair_name(0, 32, 1) == "jsae_0-l0_32-s1"
    assert pair_name(1e-5, 16, 0) == "jsae_0.00001-l0_16-s0"
    assert pair_name(200.0, 16.5, 0) == "jsae_200-l0_16.5-s0"
    assert pair_sites(["layers.2.resid_post", *SITES], None) == SITES
    both = [*SITES, "layers.4.mlp_in", "layers.4.mlp_out"]
    assert pair_sites(both, 4) == ("layers.4.mlp_in", "layers.4.mlp_out")
    with pytest.raises(UserError, match=r"layers 3 and 4 have both mlp_in and mlp_out; set it"):
        pair_sites(both, None)
    with pytest.raises(UserError, match=r"add layers\.N\.mlp_in and layers\.N\.mlp_out"):
        pair_sites(["layers.3.mlp_in", "layers.4.mlp_out"], None)
    with pytest.raises(UserError, match=r"add layers\.5\.mlp_in"):
        pair_sites(both, 5)


def test_settings_are_checked_before_anything_is_loaded() -> None:
    def config(**changes: Any) -> RunConfig:
        settings = JacobianConfig(**{"lambdas": (0.0, 1.0), **changes})
        return RunConfig(jacobian=settings, architectures=(), activations=ActivationsConfig(sites=SITES))

    check_config(config())
    for changes, message in (
        ({"lambdas": (-1.0,)}, "jacobian.lambdas -1 must be at least 0"),
        ({"lambdas": (1.0, 1.0)}, "jacobian.lambdas holds 1.0 twice"),
        ({"lambdas": (float("nan"),)}, "jacobian.lambdas nan must be at least 0"),
        ({"token_share": 0.0}, "jacobian.token-share 0 must be above 0"),
        ({"warmup_fraction": 2.0}, "jacobian.warmup-fraction 2 must be at least 0 and at most 1"),
        ({"max_memory_mb": 0}, "jacobian.max-memory-mb 0 must be at least 1"),
        ({"layer": 7}, r"add layers\.7\.mlp_in"),
        ({"lambdas": ()}, "architectures is empty"),
    ):
        with pytest.raises(UserError, match=message):
            check_config(config(**changes))


def test_settings_of_pairs_do_not_change_the_identity_of_runs_without_any() -> None:
    plain = RunConfig()
    assert identity(plain) == identity(dataclasses.replace(plain, jacobian=JacobianConfig(layer=3)))
    paired = dataclasses.replace(plain, jacobian=JacobianConfig(lambdas=(0.0,)))
    assert (
        len({identity(c) for c in (plain, paired, dataclasses.replace(paired, jacobian=JacobianConfig((0.0,), 3)))})
        == 3
    )


def test_a_pair_that_does_not_fit_is_refused_at_once() -> None:
    stream = Stream()
    own = [make_trainee(site, "topk", STEPS, CONFIG) for site in SITES]
    keys = ((SITES[0], "pair"), (SITES[1], "pair"))
    with pytest.raises(UserError, match=r"one token .* raise max_memory"):
        Pair(keys, (own[0], own[1]), SlopesAtInput(stream.weights), 1.0, config=JacobianConfig(), max_memory=5000)
    with pytest.raises(UserError, match="not the two ends of one MLP"):
        Pair(keys, (own[1], own[0]), SlopesAtInput(stream.weights), 1.0, config=JacobianConfig())


if __name__ == "__main__":
    child(Path(sys.argv[1]))
