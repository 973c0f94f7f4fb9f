"""The discrete method's sensitivity to its settings, and its speed: parts of the circuits benchmark."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from monosemy.circuits.heads.agreement import roc_auc
from monosemy.circuits.heads.code_scores import node_scores
from monosemy.circuits.heads.discrete import PRESETS, Codes, DiscreteConfig, discrete_codes, preset
from monosemy.circuits.heads.pooled import PooledHeads
from monosemy.errors import UserError

WIDTHS = (50, 100, 200, 400, 800, 1600)
LAMBDAS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
N_TRAINING = (2, 5, 10, 25, 50, 100)
N_COUNTING = (5, 10, 25, 50, 100, 250)
FIXES = ("dead_code", "break_ties", "equal_sizes", "held_out")
"""The optional corrections of the paper's procedure, apart from the pooling."""
N_TIMED = 5
"""Rounds of the speed part, each preset once in every one."""


def sensitivity_rows(
    pooled: PooledHeads, labels: np.ndarray, where: str, seeds: Sequence[int], *, most: int = 100, widest: int = 1600
) -> dict[str, Any]:
    """AUC of the node scores, preset `paper` with one setting changed at a time; `most`, `widest`: training examples
    and latents, at most."""
    paper = preset("paper", where)
    rows: dict[str, list[dict[str, Any]]] = {}
    settings = [("d_sae", v) for v in WIDTHS if v <= widest] + [("l1_coef", v) for v in LAMBDAS]
    for setting, value in [*settings, *(("n_training", v) for v in N_TRAINING if v <= most)]:
        rows.setdefault(setting, []).append({"value": value, **_auc(pooled, labels, paper, seeds, **{setting: value})})
    counted = [discrete_codes(pooled, dataclasses.replace(paper, seed=seed)) for seed in seeds]
    for n in N_COUNTING:
        few = [_first(codes, n) for codes in counted]
        n_each = [int(few[0].positive.sum()), int((~few[0].positive).sum())]  # fewer where wrong positives are left out
        auc_summary = _auc_summary([roc_auc(node_scores(codes), labels) for codes in few])
        rows.setdefault("n_counting", []).append({"value": n_each[0], "n_negatives": n_each[1], **auc_summary})
    for name in PRESETS:
        rows.setdefault("preset", []).append({"value": name, **_auc(pooled, labels, preset(name, where), seeds)})
    for fix in FIXES:
        rows.setdefault("fix", []).append({"value": fix, **_auc(pooled, labels, paper, seeds, **{fix: True})})
    rows["fix"].append({"value": "last token", **_auc(pooled, labels, paper, seeds, pooling="last")})
    return rows


def _auc(
    pooled: PooledHeads, labels: np.ndarray, config: DiscreteConfig, seeds: Sequence[int], **changes: Any
) -> dict[str, Any]:
    aucs = []
    for seed in seeds:
        settings = dataclasses.replace(config, seed=seed, **changes)
        try:
            codes = discrete_codes(pooled, settings)
        except UserError as error:
            return {"auc": None, "why": str(error)}
        aucs.append(roc_auc(node_scores(codes, break_ties=settings.break_ties), labels))
    return _auc_summary(aucs)


def _auc_summary(aucs: list[float]) -> dict[str, Any]:
    """Over seeds: mean, least and largest AUC."""
    return {"auc": float(np.mean(aucs)), "least": min(aucs), "largest": max(aucs), "n_seeds": len(aucs)}


def _first(codes: Codes, n: int) -> Codes:
    """The first n positives and n negatives."""
    rows = torch.cat([codes.positive.nonzero()[:n, 0], (~codes.positive).nonzero()[:n, 0]])
    return Codes(codes.codes[rows], codes.positive[rows], codes.n_codes)


def speed_part() -> dict[str, Any]:
    """Seconds of the presets (medians of interleaved rounds) with values [500, 270, 64] and W_O [270, 64, 576] of
    random numbers: nothing of the time depends on what the numbers are, but on how many latents are active, which
    random data has more of."""
    generator = torch.Generator().manual_seed(0)
    heads = _Synthetic(torch.randn(270, 64, 576, generator=generator) / 24)
    values = torch.randn(500, 270, 64, generator=generator)
    pooled = PooledHeads(heads, {"mean": values}, torch.ones(500), torch.ones(500), n_positives=250, seconds=0.0)  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = {name: [] for name in PRESETS}
    for _ in range(N_TIMED):
        for name in PRESETS:
            began = time.perf_counter()
            node_scores(discrete_codes(pooled, preset(name)), break_ties=PRESETS[name].break_ties)
            seconds[name].append(time.perf_counter() - began)
    rows: dict[str, Any] = {name: {"seconds": float(np.median(s)), "all": s} for name, s in seconds.items()}
    return rows | {"threads": {"n": torch.get_num_threads()}}


class _Synthetic:
    """The one thing that codes need of a model."""

    def __init__(self, W_O: torch.Tensor) -> None:
        self.W_O = W_O

    def outputs(self, values: torch.Tensor) -> torch.Tensor:
        return torch.einsum("xne,ned->xnd", values, self.W_O)
