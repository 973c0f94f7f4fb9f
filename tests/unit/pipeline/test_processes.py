"""`monosemy train --processes`: the files of one process, also where a rank is killed and their number changes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rank_processes import ended, start_ranks
from tiny_models import byte_tokenizer, random_module

from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    to_json,
)

SITES = ("layers.1.resid_post", "layers.2.mlp_out")


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    """A file of settings: six SAEs at two sites of a random Llama, in 90 steps."""
    folder = tmp_path_factory.mktemp("inputs")
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    letters = random.Random(0)
    lines = ["".join(letters.choices("abcdefgh ", k=90)) for _ in range(150)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    config = RunConfig(
        model=ModelConfig(source=str(folder / "model"), device="cpu"),
        text=TextConfig(source=str(folder / "text.txt"), context_length=32, n_tokens=6000, n_validation_tokens=512),
        activations=ActivationsConfig(sites=SITES, dtype="float32"),
        architectures=("topk", "jumprelu"),
        l0=(4.0,),
        d_sae=64,
        training=TrainingConfig(batch_tokens=128, n_passes=2, checkpoint_tokens=1000, log_tokens=500),
        evaluation=EvaluationConfig(n_loss_tokens=256, n_bootstrap=20),
    )
    file = folder / "settings.json"
    file.write_text(json.dumps(to_json(config)))
    return file


def start(settings: Path, run: Path, n_processes: int) -> subprocess.Popen[str]:
    """`monosemy train` with one thread a process, and a cache of its own beside the run."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **threads, "MONOSEMY_CACHE": str(run.parent / "cache"), "MONOSEMY_QUIET": "1"}
    words = ["train", str(settings), "--run", str(run), "--processes", str(n_processes)]
    command = [sys.executable, "-m", "monosemy", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def results(run: Path) -> dict[str, object]:
    """What must not depend on the number of processes: weights, records, metrics, evaluation and the stored rows."""
    patterns = ("saes/*/*/*", "metrics.jsonl", "documents.safetensors", "../cache/activations/*/*")
    outputs: dict[str, object] = {
        os.path.relpath(path, run): path.read_bytes() for pattern in patterns for path in run.glob(pattern)
    }
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation.pop("provenance")
    return {**outputs, "evaluation": json.dumps(evaluation), "folders": sorted(path.name for path in run.iterdir())}


@pytest.mark.timeout(1200)
def test_killed_and_continued_by_more_processes_a_run_has_the_bytes_of_one_process(settings, tmp_path):
    alone, shared = tmp_path / "alone" / "run", tmp_path / "shared" / "run"
    whole = start(settings, alone, 1)
    moment = random.SystemRandom().uniform(0, 0.5)
    number = random.SystemRandom().randrange(2)

    started = start(settings, shared, 2)
    while started.poll() is None and not any(shared.glob(f"checkpoints/rank-{number}-of-2/step-*/state.json")):
        time.sleep(0.005)
    time.sleep(moment)
    children = psutil.Process(started.pid).children()
    of_rank = next(child for child in children if child.environ()["RANK"] == str(number))
    of_rank.send_signal(signal.SIGKILL)
    _, errors = started.communicate(timeout=300)
    print(f"rank {number} killed {moment:.3f} s after its first checkpoint")
    assert started.returncode == 2, errors
    assert errors.splitlines() == [
        f"error: rank {number} was ended by SIGKILL, often because memory ran out; finished work is kept; "
        "run the same command to continue"
    ]

    for process in (whole, start(settings, shared, 3)):
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    assert results(shared) == results(alone)


HARVEST = """
import resource
from pathlib import Path
from activation_cases import A, B, CONFIG, TableModel, topical_text
from monosemy.activations.store import build_store
if rank == 1 and "full" in sys.argv:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
if rank == 1 and "killed" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
build_store(TableModel(), topical_text(), (A, B), CONFIG, folder=Path(sys.argv[1]), shard_bytes=8192)
"""


def test_a_store_has_the_same_bytes_whichever_ranks_build_it_and_whatever_happens_to_them(tmp_path, monkeypatch):
    cases = str(Path(__file__).parents[2] / "cases")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([cases, os.environ.get("PYTHONPATH", "")]))

    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    whole = start_ranks(HARVEST, 1, str(alone))
    (first, second) = ended(start_ranks(HARVEST, 2, str(shared), "full"))
    assert first.errors + second.errors == [line for line in second.errors if line.startswith("error: rank 1: cannot")]
    assert len(second.errors) == 1
    assert any(shared.glob("activations-*.safetensors"))
    (first, _) = ended(start_ranks(HARVEST, 2, str(shared), "killed"))
    assert first.errors == ["error: rank 1 was killed or cannot be reached; run the same command to continue"]
    assert [rank.status for rank in ended(start_ranks(HARVEST, 3, str(shared)))] == [0, 0, 0]
    assert [rank.status for rank in ended(whole)] == [0]
    assert contents(shared) == contents(alone)
