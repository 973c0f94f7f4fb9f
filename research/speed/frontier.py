"""1, 4 and 12 SAEs on one stream: the cost of a step of all of them, against as many single steps.

As the trainer takes them: some at a time, each on its share of the threads; a single step has all threads.

Run: python -m research.speed.frontier [--width 4608] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from monosemy.saes.registry import ARCHITECTURES
from monosemy.training.workers import Workers
from research import common
from research.records import record_path
from research.speed import step as single


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4608)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=record_path("speed", "frontier"))
    arguments = parser.parse_args()
    rows = common.real_rows(arguments.batch * 10)
    batches = list(rows[: len(rows) // arguments.batch * arguments.batch].split(arguments.batch))
    kinds = list(ARCHITECTURES)[1:]  # ReLU's L0 needs a run to settle; the other four are 32 from the first step

    def together(n: int) -> Callable[[], None]:
        steps = [
            single.stepper(single.trainee(kinds[i % 4], batches[0], arguments.width), batches, []) for i in range(n)
        ]
        workers = Workers(n, torch.device("cpu"))
        return lambda: workers.run(steps)

    weights = torch.randn(arguments.width, rows.shape[1]).T
    contenders: dict[str, Callable[[], object]] = {"product": lambda: batches[0] @ weights}
    contenders |= {f"{n} SAEs": together(n) for n in (1, 4, 12)}
    contenders |= {
        f"one {kind}": single.stepper(single.trainee(kind, batches[0], arguments.width), batches, []) for kind in kinds
    }
    seconds = common.medians(contenders, rounds=7)
    alone = sum(seconds[f"one {kind}"] for kind in kinds) / 4
    print(f"product {1e3 * seconds['product']:.1f} ms; a single step, mean of four kinds: {1e3 * alone:.1f} ms")
    ratios = {"product": seconds["product"], "single": alone}
    for n in (1, 4, 12):
        ratio = seconds[f"{n} SAEs"] / (n * (seconds[f"one {kinds[0]}"] if n == 1 else alone))
        ratios[f"{n}"] = ratio
        print(f"{n:3d} SAEs: {1e3 * seconds[f'{n} SAEs']:.0f} ms = {ratio:.3f} × {n} single steps")
    common.save(arguments.out, {"d_sae": arguments.width, "batch": arguments.batch, **ratios})


if __name__ == "__main__":
    main()
