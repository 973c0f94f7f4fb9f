"""What the table for GPUs is computed from, and the command for machines with one."""

from __future__ import annotations

import time

import pytest
import torch

from research.scale import tables
from research.speed import gpu

MESSAGES = {"axes": {"latents": {"messages": 10.0, "bytes": 4 * 1024 * 576 + 1000}}, "sizes": {"n_rows": 1024}}


def test_a_step_s_cost_by_hand():
    cost = tables.cost(1152, 34, MESSAGES)
    latents = 1_000_000
    assert cost.n_bytes == latents * 1152 * 2 * 4 * 4  # two matrices; weight, two moments, gradient; four bytes
    assert cost.product == pytest.approx(2 * 8192 * 1152 * latents / tables.PRODUCT)
    assert cost.adam == pytest.approx(7 * 4 * 2 * 1152 * latents / tables.BANDWIDTH)
    sent = 8 * (1000 + 4 * 1024 * 1152)
    assert cost.messages == pytest.approx(10 * tables.LATENCY + 2 * sent / tables.LINK)
    assert cost.least <= cost.most


def test_without_a_gpu_one_line_says_so(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    gpu.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out.startswith("no CUDA device here")
    assert list(tmp_path.iterdir()) == []


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


def test_the_page_has_a_line_for_every_row():
    rows = [
        {"d_in": 576, "d_sae": 9216, "what": what, "milliseconds": 2.0, "tokens_per_second": 1e6, "peak_mib": 3.0,
         "ratios": {}} for what in ("product fp32", "topk step")
    ]  # fmt: skip
    rows[1]["ratios"] = {"product fp32": 1.5}
    record = {"device": "GPU X", "kernels": "triton", "tests": {"ended": "9 passed"}, "n_rows": 4096, "rows": rows}
    page = gpu.page({**record, "left_out": ["sparsify: not installed"]})
    assert "| 576 | 9,216 | topk step | 2.000 | 1.50 |  | 1,000,000 | 3 |" in page
    assert "- sparsify: not installed" in page
