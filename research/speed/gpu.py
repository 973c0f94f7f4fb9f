"""Everything that is to be known of a CUDA machine, in one command of at most eight minutes.

Run: python -m research.speed.gpu [--minutes 8] [--out FOLDER]     on a machine with a GPU
     python -m research.speed.gpu --dry                            small, on the CPU, to see that the command works

  tests    the kernels' own tests (tests/unit/kernels/test_triton.py), on the GPU, and those of what takes the place of
           kernels that fail (test_self_test.py), in Triton's interpreter
  steps    a training step of every architecture, at d 576 and 2,304 and m 9,216 and 65,536, beside the encoder's
           product in float32 and in bfloat16; beside sae-lens and eai-sparsify where they are installed
  codes    encoding and decoding of the same SAEs, tokens a second
  memory   the most that each of these held: weights, moments and what the step allocates (not of other libraries, whose
           SAEs are made several at a time)
It writes gpu.json and gpu.md. Rows are random, at E‖x‖² = 1, and every SAE is calibrated to L0 32 on them. What does
not fit into the time is left out and named, also in the middle of a measurement; what fails is recorded with its first
line, and the rest goes on. It ends with status 1 and one line where a test did not pass or nothing was measured; the
files are written all the same, but for a machine without a GPU. Limits: a call into CUDA or a compiler that does not
return cannot be ended.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.kernels import dispatch
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support.files import write_text
from research import common
from research.markdown import markdown
from research.speed import peers
from research.speed.step import L0, N_STEPS, land, trainee

ROOT = Path(__file__).parents[2]
BATCH, ROUNDS, WARM_UP = 4096, 9, 3
SIZES = ((576, 9_216), (2_304, 9_216), (576, 65_536), (2_304, 65_536))
DRY_SIZES = ((32, 256),)
TESTS = ("tests/unit/kernels/test_triton.py", "tests/unit/kernels/test_self_test.py")
DRY_TESTS = "above_is_strict or full_device"
"""Quick tests of each of these files."""
TEST_SHARE = 0.4
"""Share of the time that `TESTS` may take."""
HEADS = ("d", "m", "what", "ms", "× fp32 product", "× bf16 product", "tokens/s", "peak MiB")


@dataclass
class Machine:
    """Where things run, and until when."""

    device: torch.device
    ends: float
    dry: bool
    left_out: list[str] = field(default_factory=list)

    def remaining(self) -> float:
        return self.ends - time.monotonic()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        """Bytes on the device; 0 without a GPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def peak(self) -> int:
        """The most bytes since `forget_peak`."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Raises TimeoutError within the block when the time is over."""

        def over(*_: object) -> None:
            raise TimeoutError("out of time")

        handler = signal.signal(signal.SIGALRM, over)
        earlier = signal.setitimer(signal.ITIMER_REAL, max(self.remaining(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, *earlier)
            signal.signal(signal.SIGALRM, handler)


def timed(make: Callable[[], Callable[[], object]], machine: Machine) -> dict[str, float]:
    """Median milliseconds of what is made, and the most memory that it held beyond what was there before, in MiB."""
    before = machine.allocated()
    run = make()
    for _ in range(1 if machine.dry else WARM_UP):
        run()
    machine.wait()
    machine.forget_peak()
    seconds = []
    for _ in range(2 if machine.dry else ROUNDS):
        started = time.perf_counter()
        run()
        machine.wait()
        seconds.append(time.perf_counter() - started)
    return {"milliseconds": 1e3 * statistics.median(seconds), "peak_mib": (machine.peak() - before) / 2**20}


def kernel_tests(machine: Machine) -> dict[str, Any]:
    """How the kernels' tests ended: their counts, pytest's last line, its lines on failures, and its exit status."""
    options = ["-x", "-k", DRY_TESTS] if machine.dry else []
    # A second -q would leave the counts out.
    command = [sys.executable, "-m", "pytest", "-q", *TESTS, *options]
    started = time.monotonic()
    limit = max(30.0, TEST_SHARE * machine.remaining())
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limit, env=dict(os.environ), check=False
        )
    except subprocess.TimeoutExpired:
        return {"passed": 0, "ended": f"not within {limit:.0f} s", "failures": [], "status": None, "seconds": limit}
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["without a word"]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])}
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    outcome = {"ended": lines[-1], "failures": failures, "status": done.returncode}
    return {**counts, **outcome, "seconds": time.monotonic() - started}


def fault(record: Mapping[str, Any]) -> str | None:
    """One line on what is wrong with a record: tests that did not pass, nothing measured; None where neither is."""
    tests, faults = record["tests"], []
    if tests["status"] != 0 or not tests.get("passed"):
        faults.append("the kernels' tests did not pass: " + "; ".join([tests["ended"], *tests["failures"][:1]]))
    if not record["rows"]:
        faults.append("nothing was measured: " + "; ".join(record["left_out"][:1] or ["no size was tried"]))
    return "; ".join(faults) or None


def rows_of_size(d_in: int, d_sae: int, machine: Machine) -> list[dict[str, Any]]:
    """The table's rows for one size: products, steps, codes, other libraries."""
    n = 64 if machine.dry else BATCH
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(n, d_in, generator=generator) / d_in**0.5).to(machine.device)
        for _ in range(2 if machine.dry else 4)
    ]
    contenders: dict[str, Callable[[], Callable[[], object]]] = {
        "product fp32": lambda: _product(batches[0], d_sae),
        "product bf16": lambda: _product(batches[0].bfloat16(), d_sae),
    }
    for name in ARCHITECTURES:
        contenders[f"{name} step"] = lambda name=name: _step(name, batches, d_sae, machine)
        contenders[f"{name} encode"] = lambda name=name: _coded(name, batches[0], d_sae, machine)[0]
        contenders[f"{name} decode"] = lambda name=name: _coded(name, batches[0], d_sae, machine)[1]
    rows: list[dict[str, Any]] = []
    for case, make in contenders.items():
        _add(rows, case, make, d_in=d_in, d_sae=d_sae, n=n, machine=machine)
    for library in (peers.sae_lens, peers.sparsify):
        _add_library(rows, library, batches, d_sae, machine=machine)
    return rows


def _add_library(
    rows: list[dict[str, Any]], library: Callable[..., Any], batches: list[Tensor], d_sae: int, *, machine: Machine
) -> None:
    name, d_in = library.__name__, batches[0].shape[1]
    try:
        with machine.in_time():
            steppers = library(d_in, d_sae, L0, batches, n_steps=N_STEPS, device=str(machine.device))
    except ImportError:
        if f"{name}: not installed" not in machine.left_out:
            machine.left_out.append(f"{name}: not installed")
        return
    # Another library's own errors, of whatever kind: they are recorded beside what could be measured.
    except Exception as error:
        machine.left_out.append(f"{name} at d {d_in}, m {d_sae}: {_line(error)}")
        return
    for case, run in steppers.items():
        n_before = len(rows)
        _add(rows, f"{case} step", lambda run=run: run, d_in=d_in, d_sae=d_sae, n=len(batches[0]), machine=machine)
        for row in rows[n_before:]:
            row["peak_mib"] = None


def _add(
    rows: list[dict[str, Any]],
    case: str,
    make: Callable[[], Callable[[], object]],
    *,
    d_in: int,
    d_sae: int,
    n: int,
    machine: Machine,
) -> None:
    """Measures one thing, if there is time, and adds its row."""
    if machine.remaining() <= 0:
        machine.left_out.append(f"{case} at d {d_in}, m {d_sae}: out of time")
        return
    try:
        with machine.in_time():
            measured = timed(make, machine)
    # Out of memory, a launch that fails, a compiler's error: recorded, and the rest goes on.
    except Exception as error:
        machine.left_out.append(f"{case} at d {d_in}, m {d_sae}: {_line(error)}")
        return
    finally:
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
    products = {row["what"]: row["milliseconds"] for row in rows if row["what"].startswith("product")}
    ratios = {case: measured["milliseconds"] / ms for case, ms in products.items()}
    tokens = {"tokens_per_second": 1e3 * n / measured["milliseconds"]}
    rows.append({"d_in": d_in, "d_sae": d_sae, "what": case, **measured, **tokens, "ratios": ratios})


def _product(x: Tensor, d_sae: int) -> Callable[[], object]:
    weights = torch.randn(d_sae, x.shape[1], device=x.device, dtype=x.dtype).T
    buffer = x.new_empty(len(x), d_sae)
    return lambda: torch.mm(x, weights, out=buffer)


def _step(name: str, batches: list[Tensor], d_sae: int, machine: Machine) -> Callable[[], object]:
    sae_trainee = trainee(name, batches[0], d_sae, device=machine.device)
    land(sae_trainee, batches[0])
    index = N_STEPS // 2

    def step() -> object:
        nonlocal index
        index += 1
        return sae_trainee.step(batches[index % len(batches)], index)

    return step


def _coded(name: str, x: Tensor, d_sae: int, machine: Machine) -> tuple[Callable[[], object], Callable[[], object]]:
    sae_trainee = trainee(name, x, d_sae, device=machine.device)
    land(sae_trainee, x)
    sae = sae_trainee.sae.eval().requires_grad_(False)
    latents = sae.encode(x)
    return lambda: sae.encode(x), lambda: sae.decode(latents)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    body = [
        [
            f"{row['d_in']:,}",
            f"{row['d_sae']:,}",
            row["what"],
            f"{row['milliseconds']:.3f}",
            *(f"{row['ratios'][p]:.2f}" if p in row["ratios"] else "" for p in ("product fp32", "product bf16")),
            f"{row['tokens_per_second']:,.0f}",
            "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}",
        ]
        for row in record["rows"]
    ]
    left_out = "\n".join(f"- {line}" for line in record["left_out"]) or "Nothing."
    return (
        f"# {record['device']}\n\nKernel tests: {record['tests']['ended']}\n\nKernels in use: {record['kernels']}. "
        f"{record['n_rows']:,} rows a batch, L0 {L0}; medians of {ROUNDS}.\n\n{markdown(HEADS, body)}\n\n"
        f"## Left out\n\n{left_out}\n"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--dry", action="store_true", help="Small sizes on the CPU.")
    arguments = parser.parse_args(words)
    if not arguments.dry and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here, so nothing was measured; --dry tries the command on the CPU")
    device = torch.device("cpu" if arguments.dry else "cuda")
    machine = Machine(device, time.monotonic() + 60 * arguments.minutes, arguments.dry)
    tests = kernel_tests(machine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernels = dispatch.backend_name(torch.zeros(1, device=device))
        rows = [row for size in (DRY_SIZES if arguments.dry else SIZES) for row in rows_of_size(*size, machine=machine)]
    name = "CPU (dry run)" if arguments.dry else torch.cuda.get_device_name(device)
    record = {"device": name, "kernels": kernels, "tests": tests, "n_rows": 64 if arguments.dry else BATCH}
    record |= {"rows": rows, "left_out": machine.left_out, "warnings": sorted({str(w.message) for w in caught})}
    record["cuda"] = torch.version.cuda
    arguments.out.mkdir(parents=True, exist_ok=True)
    common.save(arguments.out / "gpu.json", record)
    write_text(arguments.out / "gpu.md", page(record))
    print(f"{arguments.out / 'gpu.json'} and gpu.md: {len(rows)} rows, {len(machine.left_out)} left out")
    if line := fault(record):
        raise SystemExit(line)


if __name__ == "__main__":
    main()
