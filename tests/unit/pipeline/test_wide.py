"""`monosemy train --processes 2 --shard-latents 2`: the SAEs of one process, up to rounding, in a usual run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sharded_steps import rows

from monosemy import load_sae
from monosemy.evals.evaluation_file import read_evaluation

WORDS = "--architectures topk jumprelu --l0 4 --d-sae 64 --training.batch-tokens 128 --training.n-passes 1"


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["train", "--activations", str(folder / "rows.npy"), *WORDS.split(), *words]
    environment = {**os.environ, "MONOSEMY_QUIET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "monosemy", *command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    np.save(folder / "rows.npy", rows(3000, seed=1, dtype=torch.float32).numpy())
    return folder


def test_a_run_in_slices_is_the_run_of_one_process(folder):
    done = train(folder, "--run", str(folder / "wide"), "--processes", "2", "--shard-latents", "2")
    assert done.returncode == 0, done.stderr
    # The plain command goes on with what is left to do, and trains nothing again.
    done = train(folder, "--run", str(folder / "wide"))
    assert done.returncode == 0, done.stderr
    assert train(folder, "--run", str(folder / "alone")).returncode == 0
    paths = sorted(
        path.parent.relative_to(folder / "alone") for path in (folder / "alone").glob("saes/*/*/config.json")
    )
    assert len(paths) == 3  # two architectures and the control
    for path in paths:
        wide, alone = load_sae(folder / "wide" / path), load_sae(folder / "alone" / path)
        assert wide.config.record["n_tokens"] == alone.config.record["n_tokens"]
        for name, tensor in alone.tensors().items():
            torch.testing.assert_close(wide.tensors()[name], tensor, rtol=1e-3, atol=1e-4)
    fvu = [[record.get("fvu") for record in read_evaluation(folder / run)["records"]] for run in ("wide", "alone")]
    np.testing.assert_allclose(*fvu, rtol=1e-3)
    assert not list((folder / "wide").rglob("checkpoints/*"))


def test_one_process_is_told_to_become_several(folder):
    done = train(folder, "--run", str(folder / "single"), "--shard-latents", "2")
    assert done.returncode == 2
    assert "latents are shared out over 2 processes, and there is one; add --processes 2" in done.stderr
    assert not (folder / "single").exists()
