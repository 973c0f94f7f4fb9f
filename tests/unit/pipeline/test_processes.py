"""Commands with `--processes`, and under torchrun: the files of one process, also after a kill and a full disk."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rank_processes import Ended, ended, kill_rank, start_ranks, under_torchrun
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


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ended_well(start_training(settings, run, 1))
    return run


def environment(run: Path) -> dict[str, str]:
    """One thread a process, and a cache of its own beside the run."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "MONOSEMY_CACHE": str(run.parent / "cache"), "MONOSEMY_QUIET": "1"}


def start(words: list[str], run: Path, n_processes: int, *, by_torchrun: bool = False) -> subprocess.Popen[str]:
    """`monosemy WORDS` on so many processes."""
    command = [sys.executable, "-m", "monosemy", *words, "--processes", str(n_processes)]
    if by_torchrun:
        command = under_torchrun(n_processes, words)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(run))


def start_training(settings: Path, run: Path, n_processes: int, *, by_torchrun: bool = False) -> subprocess.Popen[str]:
    return start(["train", str(settings), "--run", str(run)], run, n_processes, by_torchrun=by_torchrun)


def n_checkpoints(run: Path, rank: int) -> int:
    """The number of the newest checkpoint of one of two ranks; 0 without any."""
    steps = (int(path.parent.name[5:]) for path in run.glob(f"checkpoints/rank-{rank}-of-2/step-*/state.json"))
    return max(steps, default=0)


def results(run: Path) -> dict[str, object]:
    """What must not depend on the number of processes: weights, records, metrics, evaluation and the stored rows."""
    patterns = ("saes/*/*/*", "metrics.jsonl", "documents.safetensors", "../cache/activations/*/*")
    outputs: dict[str, object] = {
        os.path.relpath(path, run): path.read_bytes() for pattern in patterns for path in run.glob(pattern)
    }
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation.pop("provenance")
    return {**outputs, "evaluation": json.dumps(evaluation), "folders": sorted(path.name for path in run.iterdir())}


FULL_DISK = """
import resource, threading, time
from pathlib import Path
from monosemy.cli import main
def fill_the_disk():
    while not any(Path(sys.argv[3]).glob("checkpoints/rank-1-of-2/step-*/state.json")):
        time.sleep(0.002)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
if rank == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    threading.Thread(target=fill_the_disk, daemon=True).start()
main(["train", *sys.argv[1:]])
"""
"""Training in which a file of rank 1 cannot grow beyond 64 kB, as on a full disk, once it has written a checkpoint."""


FULL_DISK_AT_THE_END = """
import resource
from monosemy.cli import main
from monosemy.saes import storage
save_sae = storage.save_sae
def saved_on_a_full_disk(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    save_sae(*arguments)
if rank == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    storage.save_sae = saved_on_a_full_disk
main(["train", *sys.argv[1:]])
"""
"""Training in which rank 1 has no space for its trained SAEs."""


def assert_rank_1_cannot_write(ends: list[Ended], folder: Path) -> None:
    """Rank 1 says in the only line what it cannot write; the other ends too, if it trains with its work saved."""
    assert ends[0].status in (2, 130), ends
    assert ends[1].status == 2, ends
    (line,) = (line for rank in ends for line in rank.errors)
    assert line.startswith(f"error: rank 1: cannot write {folder}/"), line


@pytest.mark.timeout(1200)
def test_after_full_disks_and_a_kill_the_same_and_more_processes_end_in_the_bytes_of_one(
    settings, alone, tmp_path, monkeypatch
):
    shared, same = (tmp_path / name / "run" for name in ("shared", "same"))
    shared.parent.mkdir()
    monkeypatch.setenv("MONOSEMY_CACHE", environment(shared)["MONOSEMY_CACHE"])
    ends = ended(start_ranks(FULL_DISK, 2, str(settings), "--run", str(shared)))
    assert_rank_1_cannot_write(ends, shared / "checkpoints" / "rank-1-of-2")

    moment = random.SystemRandom().uniform(0, 0.5)
    number = random.SystemRandom().randrange(2)
    before = n_checkpoints(shared, 1)
    started = start_training(settings, shared, 2)
    while started.poll() is None and n_checkpoints(shared, 1) == before:
        time.sleep(0.005)
    time.sleep(moment)
    kill_rank(started, number)
    _, errors = started.communicate(timeout=300)
    print(f"rank {number} killed {moment:.3f} s after a checkpoint of rank 1")
    assert started.returncode == 2, errors
    assert errors.splitlines() == [
        f"error: rank {number} was ended by SIGKILL, often because memory ran out; finished work is kept; "
        "run the same command to continue"
    ]

    shutil.copytree(shared.parent, same.parent)
    monkeypatch.setenv("MONOSEMY_CACHE", environment(same)["MONOSEMY_CACHE"])
    assert_rank_1_cannot_write(
        ended(start_ranks(FULL_DISK_AT_THE_END, 2, str(settings), "--run", str(same))), same / "saes"
    )
    for process in (start_training(settings, shared, 3), start_training(settings, same, 2, by_torchrun=True)):
        ended_well(process)
    assert results(shared) == results(alone)
    assert results(same) == results(alone)


def ended_well(process: subprocess.Popen[str]) -> str:
    """What a process prints that must end without an error."""
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


@pytest.mark.timeout(1200)
def test_evaluation_and_features_have_the_same_bytes_whichever_processes_make_them(alone, tmp_path):
    printed = {}
    for n_processes in (1, 2):
        run = tmp_path / str(n_processes) / "run"
        shutil.copytree(alone.parent, run.parent)
        (run / "evaluation.json").unlink()
        saes = [str(folder.relative_to(run / "saes")) for folder in sorted(run.glob("saes/*/*"))]
        evaluate, build = ["evaluate", str(run)], ["features", str(run), "--tokens", "1k", "--saes", *saes]
        output = ended_well(start(evaluate, run, n_processes))
        if n_processes == 2:
            killed = start(build, run, 2)
            while killed.poll() is None and not (run / "features" / ".work-1").exists():
                time.sleep(0.002)
            kill_rank(killed, 1)
            _, errors = killed.communicate(timeout=300)
            assert errors.startswith("error: rank 1 was ended by SIGKILL")
        output += ended_well(start(build, run, n_processes))
        printed[n_processes] = output.replace(str(run), "RUN")
    one, two = (tmp_path / str(n_processes) / "run" for n_processes in (1, 2))
    assert len({Path(name).parts[:3] for name in features(one)}) == len(saes) == 6
    assert features(one) == features(two)
    assert results(one) == results(two)
    assert printed[1] == printed[2]


def features(run: Path) -> dict[str, bytes]:
    """The files of a run's feature databases, without the time at which each was made."""
    files = (path for path in run.glob("features/*/*/*") if path.is_file())
    contents = {str(path.relative_to(run)): path.read_bytes() for path in files}
    return {name: re.sub(rb'"created": "[^"]+"', b"", content) for name, content in contents.items()}


OTHER_TEXT = """
from monosemy.commands import run_train
os.chdir(os.path.join(sys.argv[1], str(rank)))
run_train(sys.argv[2:])
"""
"""A run whose text has the same name on all ranks, in the folder of each."""


def test_a_text_that_differs_on_one_rank_is_one_line(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    text = (settings.parent / "text.txt").read_text()
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "text.txt").write_text("ab"[rank] + text[1:])
    words = (str(settings), "--text", "text.txt", "--run", str(tmp_path / "run"))
    ends = ended(start_ranks(OTHER_TEXT, 2, str(tmp_path), *words))
    (line,) = (line for rank in ends for line in rank.errors)
    assert re.fullmatch(
        r"error: rank 1 has other model or text: text '\w+', but '\w+' at rank 0; "
        "give every rank the same files and settings",
        line,
    )
    assert [rank.status for rank in ends] == [2, 2]


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


def import_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes of this test import the models of tests/cases."""
    cases = str(Path(__file__).parents[2] / "cases")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([cases, os.environ.get("PYTHONPATH", "")]))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_has_the_same_bytes_whichever_ranks_build_it_and_whatever_happens_to_them(tmp_path, monkeypatch):
    import_cases(monkeypatch)
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


MANY_SHARDS = """
import time
from pathlib import Path
from activation_cases import A, B, CONFIG, TableModel, topical_text
from monosemy.activations import store
class SlowModel(TableModel):
    def activations(self, tokens, sites, **options):
        time.sleep(0.01)
        return super().activations(tokens, sites, **options)
harvest_missing = store._harvest_missing
def held(*arguments, **options):
    harvest_missing(*arguments, **options)
    signal.pause()
if str(rank) in sys.argv[2:]:
    store._harvest_missing = held
text = topical_text(N_SEQUENCES)
store.build_store(SlowModel(), text, (A, B), CONFIG, folder=Path(sys.argv[1]), shard_bytes=1)
"""
"""Harvests shards of two sequences each. The rank that the words name waits for its kill when its own are done, so that
the kill comes in time however slowly this machine watches."""
N_SHARDS = 160


@pytest.mark.timeout(1200)
def test_a_store_has_the_same_bytes_after_kills_at_random_instants_of_the_harvest(tmp_path, monkeypatch):
    import_cases(monkeypatch)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    script = MANY_SHARDS.replace("N_SEQUENCES", str(2 * N_SHARDS))
    assert [(rank.status, rank.errors) for rank in ended(start_ranks(script, 1, str(alone)))] == [(0, [])]

    def n_shards() -> int:
        return len(list(shared.glob("activations-*.safetensors")))

    draw = random.SystemRandom()
    for _ in range(3):
        number, moment, n_before = draw.randrange(2), draw.uniform(0, 0.03), n_shards()
        n_awaited = n_before + draw.randrange(1, max(2, (N_SHARDS - n_before) // 3))
        started = start_ranks(script, 2, str(shared), str(number))
        while n_shards() < min(n_awaited, N_SHARDS) and all(process.poll() is None for process in started):
            time.sleep(0.001)
        time.sleep(moment)
        started[number].send_signal(signal.SIGKILL)
        ends = ended(started)
        print(f"rank {number} killed {moment:.3f} s after shard {n_awaited}, with {n_shards()} of {N_SHARDS} on disk")
        assert ends[number].status == -signal.SIGKILL, ends
        assert ends[1 - number].errors == [
            f"error: rank {number} was killed or cannot be reached; run the same command to continue"
        ]
        assert not json.loads((shared / "manifest.json").read_text())["complete"]

    assert [(rank.status, rank.errors) for rank in ended(start_ranks(script, 2, str(shared)))] == [(0, [])] * 2
    assert len(contents(alone)) == N_SHARDS + 1
    assert contents(shared) == contents(alone)
