"""Harvest against the bare truncated transformers model at the same batch: tokens per second, alone and to disk.

Run: python -m research.speed.harvest [--out FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from monosemy.activations.harvest import harvest_rows, measure_sites
from monosemy.activations.store import build_store
from monosemy.config import ActivationsConfig, TextConfig
from monosemy.data.tokens import prepare_tokens
from monosemy.models.sources import load_model
from research import common
from research.records import record_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--out", type=Path, default=record_path("speed", "harvest"))
    arguments = parser.parse_args()
    model = load_model("embedded", device="cpu", checks=False)
    tokens = prepare_tokens(
        TextConfig(n_tokens=arguments.tokens, n_validation_tokens=4096), model.tokenizer, model.tokenizer_fingerprint
    )
    config = ActivationsConfig(sites=(common.SITE,))
    statistics = measure_sites(model, tokens.train, [common.SITE], config)
    inner = model.module.model
    all_layers = inner.layers
    parts = torch.from_numpy(np.array(tokens.train.sequences(0, tokens.train.n_sequences), dtype=np.int64)).split(
        config.batch_sequences
    )
    layer = int(common.SITE.split(".")[1])

    @torch.inference_mode()
    def bare() -> None:
        inner.layers = all_layers[: layer + 1]
        for part in parts:
            inner(input_ids=part, use_cache=False)
        inner.layers = all_layers

    def ours() -> None:
        for _ in harvest_rows(model, tokens.train, [common.SITE], config, statistics=statistics):
            pass

    def to_disk() -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_store(model, tokens.train, [common.SITE], config, folder=Path(folder))

    seconds = common.medians({"bare": bare, "harvest": ours, "to disk": to_disk}, rounds=5, warm_up=1)
    n = tokens.train.n_tokens
    for name, time in seconds.items():
        print(f"{name:10s} {n / time:7.0f} tokens/s  {seconds['bare'] / time:.3f} of the bare model")
    ratios = {name: seconds["bare"] / time for name, time in seconds.items()}
    common.save(arguments.out, {"n_tokens": n, "of_bare": ratios, "bare_tokens_per_second": n / seconds["bare"]})


if __name__ == "__main__":
    main()
