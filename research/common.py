"""What the studies share: real activations, interleaved timing, the machine in words, a result file.

Every time is the median of rounds in which all contenders run once, in turn, so that a slow moment of a shared machine
hits them alike; what is compared are ratios within one run.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.config import ActivationsConfig, TextConfig
from monosemy.kernels.cpu import screen
from monosemy.run import machine, versions
from monosemy.support.files import atomic_path
from monosemy.support.tensors import save_tensors
from research.records import write_record

SITE = "layers.12.resid_post"


def real_rows(n_tokens: int) -> Tensor:
    """Rows of SmolLM2-135M's residual stream after layer 12 at E‖x‖² = 1, [n, 576], n a little below n_tokens."""
    from monosemy.activations.harvest import harvest_rows, measure_sites
    from monosemy.data.tokens import prepare_tokens
    from monosemy.models.sources import load_model

    model = load_model("embedded", device="cpu", checks=False)
    text = TextConfig(n_tokens=max(n_tokens, 16_384), n_validation_tokens=4_096)
    tokens = prepare_tokens(text, model.tokenizer, model.tokenizer_fingerprint)
    config = ActivationsConfig(sites=(SITE,))
    statistics = measure_sites(model, tokens.train, [SITE], config)
    parts = harvest_rows(model, tokens.train, [SITE], config, statistics=statistics)
    rows = torch.cat([part.activations[SITE].float() for part in parts])
    return rows / rows.square().sum(1).mean().sqrt()


def save_real_split(path: Path, n_tokens: int, n_validation_tokens: int, seed: int = 0) -> None:
    """Rows as `real_rows` (bfloat16), with rows and document numbers of validation documents, in one file.

    Tensors: train [n, 576] and validation [v, 576] at the training rows' E‖x‖² = 1, documents [v], scale (C).
    Both sides drop the same positions: the first of each sequence, special tokens, norms beyond six medians. `seed`
    draws the documents.
    """
    from monosemy.activations.harvest import harvest_rows
    from monosemy.activations.store import build_store
    from monosemy.data.tokens import prepare_tokens
    from monosemy.models.sources import load_model

    model = load_model("embedded", device="cpu", checks=False)
    text = TextConfig(n_tokens=n_tokens, n_validation_tokens=n_validation_tokens, seed=seed)
    tokens = prepare_tokens(text, model.tokenizer, model.tokenizer_fingerprint)
    config = ActivationsConfig(sites=(SITE,))
    store = build_store(model, tokens.train, [SITE], config)
    scale = store.scale[SITE]
    parts = list(harvest_rows(model, tokens.validation, [SITE], config, statistics=store.rules))
    tensors = {
        "train": (store.rows(SITE, slice(None)) / scale).bfloat16(),
        "validation": torch.cat([part.activations[SITE].float() for part in parts]) / scale,
        "documents": torch.cat([torch.as_tensor(part.document) for part in parts]),
        "scale": torch.tensor(scale),
    }
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors)


def medians(contenders: Mapping[str, Callable[[], object]], *, rounds: int = 9, warm_up: int = 3) -> dict[str, float]:
    """Median seconds of each contender over interleaved rounds."""
    return {name: statistics.median(times) for name, times in rounds_of(contenders, rounds, warm_up).items()}


def rounds_of(contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + rounds):
        gc.collect()
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def bandwidth(n_bytes: int = 1 << 28) -> float:
    """Bytes per second that a large copy moves (read + write), median of nine."""
    source = torch.ones(n_bytes // 4)
    target = torch.empty_like(source)
    return 2 * n_bytes / medians({"copy": lambda: target.copy_(source)})["copy"]


def save(path: Path, results: Mapping[str, Any], without: Collection[str] = ()) -> None:
    """Writes a record: the results beside what they depend on (machine, instructions, the 8-bit screen, threads,
    versions), but for the paths in `without`, which no table needs."""
    circumstances = {
        "machine": machine(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "screen": screen.available(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_record(path, circumstances | dict(results), without)
