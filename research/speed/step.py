"""A whole training step of each architecture, as a multiple of the encoder's product; beside other libraries.

One step = loss, gradients, optimizer, unit rows, firing counts, metrics. The product is x [N, d] × W_enc [d, m]
alone, into a reused buffer, timed in the same rounds. Real activations (SmolLM2-135M, layer 12), L0 32 (no annealing;
where thresholds decide, they are shifted to L0 32 after the settling steps and the controller is slowed, so that the
timed steps stay near it), AuxK and revival idle in the headline rows and active in `+ aux`. The bound is the product's
time plus the bytes a step cannot avoid moving (pre-activations written and read once; parameters and moments read and
written, gradients written and read), divided by the measured bandwidth.

Run: python -m research.speed.step [--widths 4608 9216 36864] [--peers] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig, calibrate
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.training.trainee import Trainee
from research import common
from research.records import record_path

L0 = 32
N_STEPS = 100_000
LARGE = ("topk", "jumprelu")
"""Architectures measured beyond 36,864 latents."""


def trainee(
    architecture: str, x: Tensor, d_sae: int, *, l0: float = L0, dead: float = 0.0, device: torch.device | None = None
) -> Trainee:
    """An SAE in the middle of its training; `dead`: share of latents that count as dead."""
    options = {"k_start_factor": 1.0}
    sae = build_sae(SaeConfig(architecture, x.shape[1], d_sae, l0, options=options)).to(device or x.device)
    sae_trainee = Trainee(sae, TrainingConfig(batch_tokens=len(x)), N_STEPS, N_STEPS * len(x))
    sae.initialise(x, l0)
    if sae_trainee.controller:
        sae_trainee.controller.gain = 0.2  # so that λ finds its level within the warm-up
    sae_trainee.tracker.silent_tokens[: int(dead * d_sae)] = 1 << 40
    return sae_trainee


def land(sae_trainee: Trainee, rows: Tensor) -> None:
    """Brings the L0 to the asked one and slows its controller."""
    calibrate(sae_trainee.sae, list(rows[:1024].split(128)))
    if sae_trainee.controller:
        sae_trainee.controller.gain = 0.005


def stepper(sae_trainee: Trainee, batches: list[Tensor], l0: list[float]) -> Callable[[], None]:
    index = N_STEPS // 2

    def step() -> None:
        nonlocal index
        index += 1
        l0.append(sae_trainee.step(batches[index % len(batches)], index)["l0"])

    return step


def least_bytes(n: int, d: int, m: int) -> int:
    """Pre-activations out and in; two matrices: parameter and two moments in and out, gradient out and in."""
    return 4 * (2 * n * m + 2 * d * m * 8)


def measure(d_sae: int, batches: list[Tensor], peers: bool, rounds: int, *, settle: int) -> list[dict[str, object]]:
    x = batches[0]
    weights = torch.randn(d_sae, x.shape[1]).T
    buffer = x.new_empty(len(x), d_sae)  # fresh pages would cost a sixth more, in our favour
    contenders: dict[str, Callable[[], object]] = {"product": lambda: torch.mm(x, weights, out=buffer)}
    reached: dict[str, list[float]] = {}
    for name in ARCHITECTURES:
        if d_sae > 36_864 and name not in LARGE:
            continue
        reached[name] = []
        sae_trainee = trainee(name, x, d_sae)
        contenders[name] = stepper(sae_trainee, batches, reached[name])
        for _ in range(settle):
            contenders[name]()
        land(sae_trainee, x)
    if d_sae <= 36_864:
        for name in ("topk", "batch_topk"):
            reached[f"{name} + aux"] = []
            dead_trainee = trainee(name, x, d_sae, dead=0.1)
            contenders[f"{name} + aux"] = stepper(dead_trainee, batches, reached[f"{name} + aux"])
    if peers:
        from research.speed import peers as other

        contenders |= other.steppers(x.shape[1], d_sae, L0, batches, n_steps=N_STEPS)
    seconds = common.rounds_of(contenders, rounds, warm_up=3)
    product = statistics.median(seconds["product"])
    bound = product + least_bytes(len(x), x.shape[1], d_sae) / common.bandwidth()
    rows = []
    for name, times in seconds.items():
        ratios = sorted(t / p for t, p in zip(times, seconds["product"]))
        rows.append(
            {
                "d_sae": d_sae,
                "name": name,
                "milliseconds": 1e3 * statistics.median(times),
                "ratio": statistics.median(times) / product,
                "ratio_low": ratios[0],
                "ratio_high": ratios[-1],
                "bound_ratio": bound / product,
                "gflops": 2e-9 * x.numel() * d_sae / product,
                "l0": statistics.mean(reached[name][-rounds:]) if name in reached else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[9216])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--settle", type=int, default=60, help="steps before the timed ones, for the controllers")
    parser.add_argument("--peers", action="store_true", help="sae-lens, dictionary-learning, eai-sparsify beside ours")
    parser.add_argument("--out", type=Path, default=record_path("speed", "step"))
    arguments = parser.parse_args()
    rows = common.real_rows(arguments.batch * 10)
    batches = list(rows[: len(rows) // arguments.batch * arguments.batch].split(arguments.batch))
    results = []
    for d_sae in arguments.widths:
        for row in measure(
            d_sae, batches, arguments.peers and d_sae <= 36_864, arguments.rounds, settle=arguments.settle
        ):
            l0 = f"L0 {row['l0']:.0f}" if row["l0"] else ""
            print(
                f"m {row['d_sae']:7d}  {row['name']:32s} {row['milliseconds']:8.1f} ms  {row['ratio']:6.2f} "
                f"[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] products  bound {row['bound_ratio']:.2f}  "
                f"product {row['gflops']:.0f} GFLOP/s  {l0}",
                flush=True,
            )
            results.append(row)
    common.save(arguments.out, {"batch": arguments.batch, "rounds": arguments.rounds, "rows": results})


if __name__ == "__main__":
    main()
