"""`monosemy train --processes 2 --shard-latents 2`: the SAEs of one process, up to rounding, in a usual run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_processes import ended, kill_rank, start_ranks, under_torchrun
from sharded_steps import rows

from monosemy import load_sae
from monosemy.commands import run_evaluate, run_train
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.info import run_info
from monosemy.layout import RunFiles, SaeFiles
from monosemy.saes.base import describe
from monosemy.saes.decoder_rows import read_decoder_rows
from monosemy.saes.slices import is_sliced, write_index, write_slice
from monosemy.support.metrics import read_metrics

WORDS = (
    "--architectures topk batch_topk jumprelu --l0 4 --d-sae 64 --training.batch-tokens 128 --training.n-passes 1"
    " --training.checkpoint-tokens 500"
)


def words(folder: Path, run: str, *more: str) -> list[str]:
    return ["--activations", str(folder / "rows.npy"), *WORDS.split(), "--run", str(folder / run), *more]


def train_wide(folder: Path, *more: str, run: str = "wide", n: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monosemy", "train", *words(folder, run, "--processes", f"{n}", *more)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def environment() -> dict[str, str]:
    return {**os.environ, "MONOSEMY_QUIET": "1", "OMP_NUM_THREADS": "1"}


LOADED = """
import atexit, sys
from monosemy.cli import main
atexit.register(lambda: print(*sorted(sys.modules)))
main(sys.argv[1:])
"""
"""A command that prints at its end which modules it has loaded."""
OF_SEVERAL = (
    "monosemy.training.distributed",
    "monosemy.pipeline.wide",
    "torch.distributed.checkpoint",
    "torch.distributed.elastic",
    "torch.distributed.launcher",
)
"""What only several processes need."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Rows, the run `alone` of one process, and the run `wide` of two, never interrupted.

    The latter finds a first look, and a record of a step that it takes again.
    """
    folder = tmp_path_factory.mktemp("wide")
    np.save(folder / "rows.npy", rows(3000, seed=1, dtype=torch.float32).numpy())
    command = [sys.executable, "-c", LOADED, "train", *words(folder, "alone")]
    done = subprocess.run(command, env=os.environ | {"MONOSEMY_QUIET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "loaded").write_text(done.stdout.splitlines()[-1])
    alone, wide = RunFiles(folder / "alone"), RunFiles(folder / "wide")
    wide.folder.mkdir()
    shutil.copy(alone.run_json, wide.run_json)
    first, later = list(alone.saes())[:2]
    look = SaeFiles(shutil.copytree(first.folder, wide.sae(first.site, first.name).folder))
    described = json.loads(look.config.read_text())
    described["sae"]["record"]["first_look"] = True
    look.config.write_text(json.dumps(described))
    record = {"step": 9, "site": later.site, "name": later.name, "n_tokens": 1152}
    wide.metrics.write_text(json.dumps(record) + "\n")
    done = train_wide(folder, "--shard-latents", "2")
    assert done.returncode == 0, done.stderr
    return folder


def names(run: Path) -> list[Path]:
    return [sae.folder.relative_to(run) for sae in RunFiles(run).saes()]


def test_a_run_in_slices_is_the_run_of_one_process(folder):
    paths = names(folder / "alone")
    assert names(folder / "wide") == paths
    assert len(paths) == 4  # three architectures and the control
    for path in paths:
        wide, alone = load_sae(folder / "wide" / path), load_sae(folder / "alone" / path)
        assert wide.config.record["n_tokens"] == alone.config.record["n_tokens"]
        assert "first_look" not in wide.config.record
        for name, tensor in alone.tensors().items():
            torch.testing.assert_close(wide.tensors()[name], tensor, rtol=1e-3, atol=1e-4)
    assert not list((folder / "wide").rglob("checkpoints/*"))


@pytest.mark.parametrize(("n_processes", "n_slices"), [(2, 1), (4, 2)])
def test_processes_may_share_the_tokens_of_a_batch_as_well(n_processes, n_slices, folder):
    run = f"tokens-{n_slices}"
    done = train_wide(folder, "--shard-latents", f"{n_slices}", run=run, n=n_processes)
    assert done.returncode == 0, done.stderr
    for path in names(folder / "alone"):
        wide, alone = load_sae(folder / run / path), load_sae(folder / "alone" / path)
        for name, tensor in alone.tensors().items():
            torch.testing.assert_close(wide.tensors()[name], tensor, rtol=1e-3, atol=1e-4)


def test_one_process_loads_nothing_that_only_several_need(folder):
    loaded = (folder / "loaded").read_text().split()
    assert "monosemy.training.trainer" in loaded
    assert [name for name in loaded if name.startswith(OF_SEVERAL)] == []


def test_steps_that_are_taken_again_are_recorded_once(folder):
    steps = [(r["site"], r["name"], r["step"]) for r in read_metrics(RunFiles(folder / "wide").metrics)]
    assert len(set(steps)) == len(steps)
    assert {step[:2] for step in steps} == {(path.parent.name, path.name) for path in names(folder / "alone")}


FULL_DISK = """
import resource
from monosemy.commands import run_train
if rank == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
run_train(sys.argv[1:])
"""
"""Training in which no file of rank 1 can have more than 1 kB: its part of a checkpoint has more."""


def test_on_as_many_ranks_a_run_ends_in_the_same_bytes_after_a_full_disk_and_a_kill(folder):
    sliced = words(folder, "broken", "--shard-latents", "2")
    ends = ended(start_ranks(FULL_DISK, 2, *sliced))
    assert [rank.status for rank in ends] == [2, 2], ends
    (line,) = (line for rank in ends for line in rank.errors)
    assert line.startswith(f"error: rank 1: cannot write {folder}/broken/checkpoints/")

    moment, number = random.SystemRandom().uniform(0, 0.3), random.SystemRandom().randrange(2)
    launcher = subprocess.Popen(
        under_torchrun(2, ["train", *sliced]),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while launcher.poll() is None and not any((folder / "broken").glob("checkpoints/*/*/step-*/state.json")):
        time.sleep(0.005)
    time.sleep(moment)
    kill_rank(launcher, number)
    _, errors = launcher.communicate(timeout=300)
    print(f"rank {number} killed {moment:.3f} s after the first checkpoint")
    # torchrun's report always names the rank; the other process does so too unless torchrun ends it before.
    assert re.search(rf"rank +: {number} ", errors), errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    own = f"error: rank {number} was killed or cannot be reached; run the same command to continue"
    assert lines in ([own], []), errors

    done = train_wide(folder, "--shard-latents", "2", run="broken")
    assert done.returncode == 0, done.stderr
    unbroken, broken = (run_bytes(folder / run) for run in ("wide", "broken"))
    assert broken == unbroken


def run_bytes(run: Path) -> dict[str, bytes]:
    """The bytes of the SAEs and of the training curves."""
    paths = [path for sae in RunFiles(run).saes() for path in (sae.weights, sae.config)]
    return {str(path.relative_to(run)): path.read_bytes() for path in [*paths, RunFiles(run).metrics]}


def test_an_sae_in_slices_is_measured_shown_and_not_trained_again(folder, capsys, monkeypatch):
    monkeypatch.setenv("MONOSEMY_QUIET", "1")
    sae = next(RunFiles(folder / "wide").saes())
    whole = load_sae(sae.folder)
    slices = []
    for number, latents in enumerate((slice(0, 32), slice(32, 64))):
        of_latents = {"W_enc": whole.W_enc[:, latents].contiguous(), "W_dec": whole.W_dec[latents]}
        of_latents |= {n: t[latents] for n, t in whole.tensors().items() if t.shape == (64,)}
        common = {n: t for n, t in whole.tensors().items() if n not in of_latents and number == 0}
        slices.append(write_slice(sae.folder, number, 2, {**of_latents, **common}, start=latents.start))
    sae.weights.unlink()
    write_index(sae.folder, slices, describe(whole))
    for latents in (slice(30, 34), np.array([63, 0, 40]), np.array([], int)):
        np.testing.assert_array_equal(read_decoder_rows(sae.folder, latents), whole.W_dec.numpy()[latents])
    # The plain command goes on with what is left to do, and trains nothing again.
    run_train(words(folder, "wide"))
    run_evaluate([str(folder / "wide")])
    run_info([str(folder / "wide")])
    assert sae.name in capsys.readouterr().out
    assert is_sliced(sae.folder)
    fvu = [[record.get("fvu") for record in read_evaluation(folder / run)["records"]] for run in ("wide", "alone")]
    np.testing.assert_allclose(*fvu, rtol=1e-3)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--shard-latents", "3"], "2 processes cannot hold 3 slices of a dictionary equally often; choose a divisor"),
        (["--shard-latents", "2", "--architectures", "gated"], "unknown architecture for --shard-latents 'gated'"),
        (["--shard-latents", "2", "--l0", "40"], "leaves a slice 32 of 64 latents, fewer than --l0 40"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_a_process_starts(folder, more, error):
    with pytest.raises(UserError, match=error):
        run_train(words(folder, "refused", "--processes", "2", *more))
    assert not (folder / "refused").exists()


def test_other_settings_in_the_folder_are_one_line(folder):
    done = train_wide(folder, "--shard-latents", "2", "--d-sae", "128")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "holds another configuration: d_sae" in line


def test_one_process_is_told_to_become_several(folder):
    with pytest.raises(UserError, match="latents are shared out over 2 processes, and there is one; add --processes 2"):
        run_train(words(folder, "single", "--shard-latents", "2"))
    assert not (folder / "single").exists()
