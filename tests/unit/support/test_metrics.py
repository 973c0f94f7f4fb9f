"""The metrics file: appended, cut back on resume, whole on a full disk."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from monosemy.errors import UserError
from monosemy.support.metrics import MetricsWriter, read_metrics


def record(step):
    return {"site": "layers.12.resid_post", "name": "topk-l0_32-s0", "step": step, "fvu": 1 / (step + 1)}


def test_interrupted_and_resumed_equals_unbroken(tmp_path):
    """A checkpoint after step 4, a kill after step 7 with half a line written, then steps 5..9 again."""
    unbroken, resumed = MetricsWriter(tmp_path / "a.jsonl"), MetricsWriter(tmp_path / "b.jsonl")
    unbroken.append(record(step) for step in range(10))
    resumed.append(record(step) for step in range(5))
    checkpoint = resumed.offset()
    resumed.append(record(step) for step in range(5, 8))
    with resumed.path.open("a") as file:
        file.write('{"site": "lay')

    again = MetricsWriter(tmp_path / "b.jsonl")
    again.truncate(checkpoint)
    for step in range(5, 10):
        again.append([record(step)])
    assert resumed.path.read_bytes() == unbroken.path.read_bytes()
    assert read_metrics(resumed.path) == [record(step) for step in range(10)]


def test_fresh_file(tmp_path):
    metrics = MetricsWriter(tmp_path / "run" / "metrics.jsonl")
    assert metrics.offset() == 0
    metrics.truncate(0)
    metrics.append([])
    assert not metrics.path.exists()
    assert read_metrics(metrics.path) == []


def test_numbers_that_json_lacks_become_null(tmp_path):
    metrics = MetricsWriter(tmp_path / "m.jsonl")
    metrics.append(
        [{"loss": float("nan"), "terms": {"l1": float("inf")}, "quantiles": [1.0, float("-inf")], "step": 3}]
    )
    assert read_metrics(metrics.path) == [{"loss": None, "terms": {"l1": None}, "quantiles": [1.0, None], "step": 3}]


def test_shorter_than_the_checkpoint_says(tmp_path):
    metrics = MetricsWriter(tmp_path / "m.jsonl")
    metrics.append([record(0)])
    with pytest.raises(UserError, match=r"m\.jsonl has \d+ bytes but the checkpoint counted 9999"):
        metrics.truncate(9999)
    assert read_metrics(metrics.path) == [record(0)]


def test_last_line_cut_short_is_left_out_and_other_damage_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"m\.jsonl is damaged at line 2"):
        read_metrics(path)


def test_append_that_does_not_fit_leaves_nothing_of_itself(tmp_path):
    """A real limit on file sizes, hit in the middle of an append."""
    program = """
import resource, signal, sys
from pathlib import Path
from monosemy.errors import UserError
from monosemy.support.metrics import MetricsWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
metrics = MetricsWriter(Path(sys.argv[1]))
metrics.append([{"step": 0, "text": "x" * 700}])
try:
    metrics.append([{"step": 1, "text": "y" * 700}])
except UserError as error:
    print(error)
"""
    path = tmp_path / "m.jsonl"
    out = subprocess.check_output([sys.executable, "-c", program, str(path)], text=True)
    assert out.startswith(f"cannot write {path}")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0]
