"""Inference: tokens per second of encode and decode, and encode as a multiple of the encoder's product.

Run: python -m research.speed.encode [--width 9216] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from monosemy.saes.registry import ARCHITECTURES
from research import common
from research.records import record_path
from research.speed import step as single


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=9216)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=record_path("speed", "encode"))
    arguments = parser.parse_args()
    x = common.real_rows(arguments.batch * 2)[: arguments.batch]
    weights = torch.randn(arguments.width, x.shape[1]).T
    contenders: dict[str, Callable[[], object]] = {"product": lambda: x @ weights}
    for name in ARCHITECTURES:
        sae = single.trainee(name, x, arguments.width).sae
        if name == "batch_topk":
            sae.threshold.copy_(single.trainee("jumprelu", x, arguments.width).sae.threshold[0].detach())
        latents = sae.encode(x)
        contenders[f"encode {name}"] = lambda sae=sae: sae.encode(x)
        contenders[f"decode {name}"] = lambda sae=sae, latents=latents: sae.decode(latents)
    seconds = common.medians(contenders, rounds=9)
    rows = {}
    for name, time in seconds.items():
        rows[name] = {"tokens_per_second": len(x) / time, "products": time / seconds["product"]}
        print(f"{name:18s} {len(x) / time:9.0f} tokens/s  {time / seconds['product']:.3f} products")
    common.save(arguments.out, {"d_sae": arguments.width, "batch": arguments.batch, "rows": rows})


if __name__ == "__main__":
    main()
