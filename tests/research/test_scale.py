"""What the table for GPUs is computed from, and the command for machines with one."""

from __future__ import annotations

import ast
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from monosemy.pipeline.planning.costs import assumed_costs
from monosemy.pipeline.planning.plan import Question, planned
from monosemy.pipeline.planning.work import Slices, Work, work_of
from monosemy.pipeline.trainees import INITIAL_TOKENS
from monosemy.support import step_memory
from monosemy.support.files import read_json
from monosemy.support.hardware import DEVICES, hardware_of
from research import common
from research.records import records_of
from research.scale import run, tables
from research.scale.tables import sizes_of_table
from research.speed import gpu

RECORD = {
    "messages": {
        "axes": {"latents": {"messages": 10.0, "bytes": 4 * 1024 * 576 + 1000}},
        "sizes": {"n_rows": 1024},
    },
    "share": {"d_in": 576, "n_latents": 1000, "peak_bytes": 1.25 * 32 * 576 * 1000},
}


def test_a_step_s_cost_by_hand():
    cost = tables.cost(1152, 34, RECORD)
    latents = 1_000_000
    # Two matrices; weight, two moments, gradient; four bytes; and what a step holds, which is far less.
    matrices = latents * 1152 * 2 * 4 * 4
    assert matrices < cost.n_bytes < 1.3 * matrices
    assert cost.main_bytes == pytest.approx(8 * 1.5 * latents * 1152 * 2 * 4, rel=0.01)
    assert cost.checkpoint_bytes == pytest.approx(3 * 34_000_000 * 1152 * 2 * 4, rel=0.01)
    product = 2 * 8192 * 1152 * latents
    assert cost.products == pytest.approx(1.5 * product / (0.6 * 67e12))
    assert cost.products_tf32 == pytest.approx(0.5 * product / (0.6 * 67e12) + product / (0.6 * 494e12))
    assert cost.adam == pytest.approx(7 * 4 * 2 * 1152 * latents / (0.7 * 3.35e12))
    sent = 8 * (1000 + 4 * 1024 * 1152)
    assert cost.messages == pytest.approx(10 * tables.LATENCY + 2 * sent / tables.LINK)
    assert cost.least <= cost.most
    assert cost.most_tf32 < cost.most


def test_the_table_of_gpus_takes_what_the_planner_assumes_of_them():
    """A step of the table is that of a plan of the same dictionary, messages aside."""
    sizes = sizes_of_table("2B", tables.LATENTS)
    config = dataclasses.replace(sizes.config, l0=(64.0,))
    training = dataclasses.replace(config.training, batch_tokens=tables.ROWS)
    sizes = dataclasses.replace(sizes, config=dataclasses.replace(config, training=training))
    work = work_of(sizes, n_devices=64, slices=Slices(64))
    training_work = next(stage for stage in work if stage.stage == "training")
    amounts = {kind: n for kind, n in training_work.amounts.items() if kind != "encode"}  # of the calibration
    n_steps = sizes.n_tokens / tables.ROWS
    seconds = Work("", amounts).seconds(assumed_costs(DEVICES["h100"], "bfloat16")) / n_steps
    cost = tables.cost(2304, 64, RECORD)
    assert cost.products + cost.adam == pytest.approx(seconds)
    plan = planned(sizes, Path(), Question(hardware_of("h100x64"), 64, n_latent_shards=64), d_heads=2304)
    assert plan.refusal is None
    on_gpu = {part: plan.most_on_device[part] for part in tables.ON_GPU}
    assert sum(on_gpu.values()) == pytest.approx(cost.n_bytes)


def test_the_planner_s_figure_holds_every_step_that_was_measured():
    record = records_of("scale")["memory"]
    assert len({case["n_rows"] for case in record["cases"]}) > 1
    for case in record["cases"]:
        weights, start, step = (case[name] for name in ("weights_and_moments", "start_bytes", "step_bytes"))
        assert weights < step < weights + tables.planned_step(case, record)
        assert weights < start < weights + tables.planned_start(case, record)
        assert case.get("checkpoint_bytes", 0) < weights + tables.planned_step(case, record)


def test_the_planner_knows_the_kernels_buffers():
    """The kernels' file itself cannot be imported without Triton."""
    source = ast.parse((Path(step_memory.__file__).parents[1] / "kernels/cuda/encode.py").read_text())
    constants: dict[str, Any] = {}
    for node in source.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            pairs = zip(names, values, strict=True)
            constants |= {n.id: v.value for n, v in pairs if isinstance(n, ast.Name) and isinstance(v, ast.Constant)}
    assert constants["CHUNK"] == step_memory.BLOCK_LATENTS
    assert constants["SAMPLE_ROWS"] == step_memory.SAMPLE_ROWS
    assert step_memory.START_ROWS == INITIAL_TOKENS
    assert (constants["LIST_SHARE"], constants["LIST_LEAST"]) == (step_memory.LIST_SHARE, step_memory.LIST_LEAST)


def test_the_command_counts_messages_and_saves_the_share_while_it_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "SAVE_STEPS", 2)
    monkeypatch.setattr(run, "START_ROWS", 32)
    out, saved = tmp_path / "scale.json", list[dict[str, Any]]()
    save = common.save
    monkeypatch.setattr(common, "save", lambda path, record: (save(path, record), saved.append(record)))
    run.main(["--latents", "256", "--steps", "3", "--dry", "--out", str(out)])
    assert [record.get("share", {}).get("n_steps") for record in saved] == [None, 2, 3]
    record = read_json(out)
    assert record["share"]["n_latents"] == 256
    assert all(seconds > 0 for seconds in record["share"]["cpu_seconds"].values())
    assert record["messages"]["axes"]["latents"]["bytes"] > 4 * 64 * 576  # x̂
    rendered = tables.tables({**records_of("scale"), "scale": record})
    assert "256 at d 576" in rendered["share"]


def test_without_a_gpu_one_line_says_so(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit, match="no CUDA device here, so nothing was measured"):
        gpu.main(["--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


ROW = {
    "d_in": 576,
    "d_sae": 9216,
    "what": "product fp32",
    "milliseconds": 2.0,
    "tokens_per_second": 1e6,
    "peak_mib": 3.0,
    "ratios": {},
}
PASSED = {"passed": 9, "ended": "9 passed in 2 s", "failures": [], "status": 0}
FAILED = {"passed": 8, "failed": 1, "ended": "1 failed, 8 passed in 2 s", "failures": ["FAILED a.py::b"], "status": 1}
ALL_SKIPPED = {"skipped": 9, "ended": "9 skipped in 2 s", "failures": [], "status": 0}


@pytest.mark.parametrize(
    ("tests", "rows", "line"),
    [
        (PASSED, [ROW], None),
        (FAILED, [ROW], "the kernels' tests did not pass: 1 failed, 8 passed in 2 s; FAILED a.py::b"),
        (ALL_SKIPPED, [ROW], "the kernels' tests did not pass: 9 skipped in 2 s"),
        (PASSED, [], "nothing was measured: product fp32 at d 32: out of time"),
        (
            FAILED,
            [],
            "the kernels' tests did not pass: 1 failed, 8 passed in 2 s; FAILED a.py::b; "
            "nothing was measured: product fp32 at d 32: out of time",
        ),
    ],
)
def test_failed_tests_and_nothing_measured_end_in_one_line_after_the_files(tests, rows, line, monkeypatch, tmp_path):
    def left_out(*size: int, machine: gpu.Machine) -> list[dict[str, Any]]:
        machine.left_out.append("product fp32 at d 32: out of time")
        return rows

    monkeypatch.setattr(gpu, "kernel_tests", lambda machine: tests)
    monkeypatch.setattr(gpu, "rows_of_size", left_out)
    words = ["--dry", "--out", str(tmp_path)]
    if line is None:
        gpu.main(words)
    else:
        with pytest.raises(SystemExit) as ended:
            gpu.main(words)
        assert ended.value.code == line
    assert read_json(tmp_path / "gpu.json")["tests"] == tests
    assert tests["ended"] in (tmp_path / "gpu.md").read_text()


def test_the_kernels_tests_are_run_and_counted(monkeypatch):
    pytest.importorskip("triton", reason="triton is installed where there are GPUs")
    machine = gpu.Machine(torch.device("cpu"), time.monotonic() + 1e3, dry=True)
    tests = gpu.kernel_tests(machine)
    assert (tests["status"], tests["failures"]) == (0, [])
    monkeypatch.setattr(gpu, "TESTS", gpu.TESTS[1:])
    assert tests["passed"] > gpu.kernel_tests(machine)["passed"] > 0  # of either file


def test_a_failed_test_is_counted_and_named(monkeypatch, tmp_path):
    file = tmp_path / "test_two.py"
    file.write_text("def test_right():\n    pass\ndef test_wrong():\n    assert 0\n")
    monkeypatch.setattr(gpu, "TESTS", (str(file),))
    tests = gpu.kernel_tests(gpu.Machine(torch.device("cpu"), time.monotonic() + 1e3, dry=False))
    assert (tests["passed"], tests["failed"], tests["status"]) == (1, 1, 1)
    (failure,) = tests["failures"]
    assert failure.startswith("FAILED")
    assert "test_wrong" in failure
    assert gpu.fault({"tests": tests, "rows": [ROW], "left_out": []}) == (
        f"the kernels' tests did not pass: {tests['ended']}; {failure}"
    )


def test_kernels_tests_that_do_not_end_in_time_have_not_passed(monkeypatch):
    def out_of_time(command: list[str], *, timeout: float, **_: Any) -> None:
        raise gpu.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", out_of_time)
    tests = gpu.kernel_tests(gpu.Machine(torch.device("cpu"), time.monotonic(), dry=False))
    line = gpu.fault({"tests": tests, "rows": [ROW], "left_out": []})
    assert line == "the kernels' tests did not pass: not within 30 s"


def test_every_architecture_is_measured_and_what_fails_is_named():
    machine = gpu.Machine(torch.device("cpu"), time.monotonic() + 1e9, dry=True)
    rows = gpu.rows_of_size(32, 128, machine)
    measured = {row["what"] for row in rows}
    assert {f"{name} {part}" for name in gpu.ARCHITECTURES for part in ("step", "encode", "decode")} <= measured
    assert all(row["milliseconds"] > 0 for row in rows)
    gpu.rows_of_size(32, 16, machine)  # fewer latents than the L0
    assert any("topk step at d 32, m 16: l0 32 must be" in line for line in machine.left_out)
    machine.ends = 0.0
    assert gpu.rows_of_size(32, 128, machine) == []
    assert "product fp32 at d 32, m 128: out of time" in machine.left_out


class Counted(gpu.Machine):
    """A machine whose memory is counted here."""

    n_bytes = n_most = 0

    def allocated(self) -> int:
        return self.n_bytes

    def peak(self) -> int:
        return self.n_most

    def forget_peak(self) -> None:
        self.n_most = self.n_bytes

    def hold(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self.n_most = max(self.n_most, self.n_bytes)


def test_memory_counts_weights_and_the_step_and_not_what_was_there_or_what_building_took():
    machine = Counted(torch.device("cpu"), time.monotonic() + 1e9, dry=True)
    machine.hold(500 << 20)

    def step() -> None:
        machine.hold(20 << 20)
        machine.hold(-(20 << 20))

    def make():
        machine.hold(900 << 20)
        machine.hold(-(800 << 20))  # what remains are weights and moments
        return step

    assert gpu.timed(make, machine)["peak_mib"] == 100 + 20


def test_a_measurement_that_outlasts_the_time_is_ended_and_named():
    started = time.monotonic()
    machine = gpu.Machine(torch.device("cpu"), started + 0.2, dry=True)
    rows: list[dict[str, Any]] = []
    gpu._add(rows, "slow", lambda: lambda: time.sleep(60), d_in=2, d_sae=3, n=4, machine=machine)
    assert time.monotonic() - started < 30
    assert (rows, machine.left_out) == ([], ["slow at d 2, m 3: out of time"])


def test_the_page_has_a_line_for_every_row():
    rows = [{**ROW, "what": what} for what in ("product fp32", "topk step")]
    rows[1]["ratios"] = {"product fp32": 1.5}
    record = {"device": "GPU X", "kernels": "triton", "tests": {"ended": "9 passed"}, "n_rows": 4096, "rows": rows}
    page = gpu.page({**record, "left_out": ["sparsify: not installed"]})
    assert "| 576 | 9,216 | topk step | 2.000 | 1.50 |  | 1,000,000 | 3 |" in page
    assert "- sparsify: not installed" in page
