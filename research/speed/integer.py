"""Can an 8-bit screen pay on this processor? PyTorch's 8-bit product against its float32 product of the same matrices.

Run: python -m research.speed.integer [--width 9216] [--rounds 7] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from research import common
from research.records import record_path

D_IN = 576


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=9216)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=record_path("speed", "integer"))
    arguments = parser.parse_args()
    x, weights = torch.randn(arguments.batch, D_IN), torch.randn(arguments.width, D_IN)
    x_8, weights_8 = ((10 * matrix).round().clamp(-127, 127).to(torch.int8) for matrix in (x, weights))
    product = x.new_empty(arguments.batch, arguments.width)
    if not torch.equal(torch._int_mm(x_8[:32], weights_8.T).double(), x_8[:32].double() @ weights_8.T.double()):
        raise AssertionError("the 8-bit product is not exact")

    contenders = {
        "float32": lambda: torch.mm(x, weights.T, out=product),
        "integer": lambda: torch._int_mm(x_8, weights_8.T),
    }
    seconds = common.rounds_of(contenders, arguments.rounds, warm_up=1)
    ratios = [eight / full for eight, full in zip(seconds["integer"], seconds["float32"], strict=True)]
    record = {
        "d_in": D_IN,
        "d_sae": arguments.width,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }
    print(f"8-bit product: {record['ratio']:.1f} [{min(ratios):.1f}, {max(ratios):.1f}] float32 products")
    common.save(arguments.out, record)


if __name__ == "__main__":
    main()
