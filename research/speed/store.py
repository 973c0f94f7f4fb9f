"""Stored activations. Reading: shuffled batches as training takes them, against a plain copy of as many bytes. Writing:
one shard, summed, hashed and flushed to the disk, against a flushed file of as many bytes.

Run: python -m research.speed.store [--out FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from monosemy.activations.harvest import REASONS, HarvestedRows
from monosemy.activations.shards import ShardWriter
from monosemy.activations.store import build_store
from monosemy.activations.stream import StoredStream
from monosemy.config import ActivationsConfig, TextConfig
from monosemy.data.tokens import prepare_tokens
from monosemy.models.sources import load_model
from monosemy.support import files
from research import common
from research.records import record_path

WRITTEN = 65_536
"""Rows of the shard that is written."""


def writers(folder: Path, width: int) -> dict[str, Callable[[], object]]:
    site = "layers.0.resid_post"
    label = torch.zeros(WRITTEN, dtype=torch.int32)
    activations = {site: torch.randn(WRITTEN, width)}
    rows = HarvestedRows(
        activations, label, label, label, document=label, n_tokens=WRITTEN, n_dropped=dict.fromkeys(REASONS, 0)
    )
    content = bytes(2 * width * WRITTEN)

    def shard() -> None:
        writer = ShardWriter({site: width}, torch.bfloat16)
        writer.add(rows)
        writer.write(folder / "shard.safetensors")

    def plain() -> None:
        with files.atomic_path(folder / "plain") as temporary:
            temporary.write_bytes(content)

    return {"plain flushed file": plain, "shard written": shard}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=record_path("speed", "store"))
    arguments = parser.parse_args()
    model = load_model("embedded", device="cpu", checks=False)
    text = TextConfig(n_tokens=arguments.tokens, n_validation_tokens=4096)
    tokens = prepare_tokens(text, model.tokenizer, model.tokenizer_fingerprint)
    site = "layers.2.resid_post"  # an early one, as the model's pass is not what is measured
    with tempfile.TemporaryDirectory() as folder:
        store = build_store(model, tokens.train, [site], ActivationsConfig(sites=(site,)), folder=Path(folder))
        stream = StoredStream(store, (site,), batch_tokens=arguments.batch, n_passes=1000, seed=0)
        width = store.width(site)
        rows = np.arange(arguments.batch)
        source = torch.zeros(arguments.batch, width, dtype=torch.bfloat16)
        contenders: dict[str, Callable[[], object]] = {
            "plain copy to float32": lambda: source.float(),
            "stored order": lambda: store.rows(site, rows),
            "shuffled stream": lambda: next(stream),
        }
        seconds = common.medians(contenders, rounds=41, warm_up=5)
        writing = common.medians(writers(Path(folder), width), rounds=9, warm_up=2)
    rates = {}
    for name, time in seconds.items():
        rates[name] = arguments.batch / time
        print(f"{name:22s} {rates[name]:10.0f} tokens/s  {2 * width * rates[name] / 1e9:6.2f} GB/s stored")
    for name, time in writing.items():
        rates[name] = WRITTEN / time
        print(f"{name:22s} {rates[name]:10.0f} tokens/s  {2 * width * rates[name] / 1e9:6.2f} GB/s stored")
    common.save(arguments.out, {"batch": arguments.batch, "d": width, "tokens_per_second": rates})


if __name__ == "__main__":
    main()
