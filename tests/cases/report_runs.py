"""Writes run folders with synthetic but realistic numbers, for the tests of the report only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from monosemy.config import ActivationsConfig, RunConfig, to_json

ARCHITECTURES = ("relu", "topk", "batch_topk", "gated", "jumprelu")
_FVU_AT_32 = {"relu": 0.34, "topk": 0.232, "batch_topk": 0.221, "gated": 0.24, "jumprelu": 0.226, "frozen_random": 0.47}
N_TOKENS, N_LOSS_TOKENS = 60_211, 8_064


@dataclass(frozen=True)
class RunContents:
    """What a synthetic run trained; `diverged` names an SAE whose loss becomes NaN and that is not evaluated."""

    sites: Sequence[str] = ("layers.12.resid_post",)
    architectures: Sequence[str] = ARCHITECTURES
    l0: Sequence[float] = (16.0, 32.0, 64.0)
    seeds: Sequence[int] = (0,)
    d_sae: int = 384
    frozen_random: bool = True
    pca: bool = True
    all_dead: bool = False
    diverged: str | None = None
    n_records: int = 30


def write_run(folder: Path, **settings: Any) -> Path:
    """A whole run folder; `settings` are fields of `RunContents`."""
    contents = RunContents(**settings)
    random = np.random.default_rng(0)
    config = RunConfig(
        recipe="demo",
        architectures=tuple(contents.architectures),
        l0=tuple(contents.l0),
        seeds=tuple(contents.seeds),
        d_sae=contents.d_sae,
        activations=ActivationsConfig(sites=tuple(contents.sites)),
    )
    folder.mkdir(parents=True)
    _json(folder / "run.json", {"format": 1, "config": to_json(config), "provenance": provenance()})
    records, lines = [], []
    for depth, site in enumerate(contents.sites):
        trained = [*contents.architectures, *(["frozen_random"] if contents.frozen_random else [])]
        for architecture in trained:
            for target in contents.l0:
                for seed in contents.seeds if architecture != "frozen_random" else (0,):
                    name = f"{architecture}-l0_{target:g}-s{seed}"
                    quality = _FVU_AT_32.get(architecture, 0.3) * (1 + 0.2 * depth) * (32 / target) ** 0.42
                    quality *= 1 + 0.01 * random.standard_normal()
                    lines += _curve(
                        site,
                        name,
                        architecture,
                        target,
                        seed=seed,
                        fvu=quality,
                        n_records=contents.n_records,
                        diverges=name == contents.diverged,
                    )
                    if name == contents.diverged:
                        continue
                    path = folder / "saes" / site / name / "latents.safetensors"
                    counts = _latents(
                        path, random, architecture, target, d_sae=contents.d_sae, all_dead=contents.all_dead
                    )
                    records.append(
                        _record(random, site, name, architecture, target=target, seed=seed, fvu=quality, counts=counts)
                    )
        if contents.pca:
            for target in contents.l0:
                fvu = 0.62 * (32 / target) ** 0.3 * (1 + 0.2 * depth)
                counts = np.full(int(target), N_TOKENS)
                records.append(
                    _record(random, site, f"pca-l0_{target:g}", "pca", target=target, seed=0, fvu=fvu, counts=counts)
                )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _json(
        folder / "evaluation.json",
        {
            "format": 1,
            "records": records,
            "clean_loss": 3.214,
            "zero_loss": dict.fromkeys(contents.sites, 11.08),
            "provenance": {"n_bootstrap": 1000, "splice_check": "an identity splice changed the loss by exactly 0"},
        },
    )
    stage = {"fingerprint": "ab12", "seconds": 91.2, "finished": "2025-01-01T00:00:00+00:00", "record": {}}
    _json(folder / "stages.json", {"format": 1, "stages": {"harvest": stage}})
    return folder


def provenance() -> dict[str, Any]:
    return {
        "created": "2025-01-01T00:00:00+00:00",
        "versions": {"python": "3.11.7", "monosemy": "0.1.0", "torch": "2.13.0"},
        "machine": "Linux x86_64, 2 cores, 23.5 GiB memory",
        "model": {"name": "SmolLM2-135M-Instruct", "fingerprint": "5d2c81f3a0b4", "licence": "Apache-2.0"},
        "text": {
            "tokens": {"english": 181_203, "french": 63_311, "code": 55_822},
            "licences": {"english": "CC BY-SA 4.0", "french": "CC BY-SA 4.0", "code": "PSF-2.0"},
        },
        "dropped_positions": {"first_position": 1172, "special_token": 655, "norm_outlier": 31},
        "seconds": {"model": 7.4, "tokens": 4.1, "harvest": 91.2, "train": 502.9, "evaluate": 118.3},
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _latents(
    path: Path, random: np.random.Generator, architecture: str, target: float, d_sae: int, all_dead: bool
) -> np.ndarray:
    """Log-normal firing rates that sum to the L0, activations that fall with the rate, some dead latents."""
    rate = np.exp(random.normal(0, 1.6, d_sae))
    dead = random.random(d_sae) < {"relu": 0.02, "topk": 0.09, "frozen_random": 0.3}.get(architecture, 0.05)
    rate = np.where(dead | all_dead, 0, rate)
    rate = np.clip(target * rate / max(rate.sum(), 1e-9), 0, 0.6)
    counts = random.binomial(N_TOKENS, rate).astype(np.int64)
    activation = 9 * (rate + 1e-6) ** -0.21 * np.exp(random.normal(0, 0.35, d_sae))
    path.parent.mkdir(parents=True)
    total = (counts * activation).astype(np.float32)
    tensors = {"firing_count": counts, "sum": total, "max": (activation * 3 * (counts > 0)).astype(np.float32)}
    save_file(tensors, path, metadata={"format": "1", "n_tokens": str(N_TOKENS)})
    return counts


def _record(
    random: np.random.Generator,
    site: str,
    name: str,
    architecture: str,
    target: float,
    seed: int,
    fvu: float,
    counts: np.ndarray,
) -> dict[str, Any]:
    reached = target if architecture in ("topk", "pca") else target * (1 + 0.02 * random.standard_normal())
    rate = counts / N_TOKENS
    delta = 1.9 * fvu**1.6
    values = {
        "l0": (reached, 0.004),
        "fvu": (fvu, 0.012),
        "delta_loss": (delta, 0.035),
        "kl": (0.9 * delta, 0.03),
        "loss_recovered": (1 - delta / 7.87, 0.004),
        "gamma": (1.02 if architecture == "relu" else 1.0, 0.002),
        "dead_fraction": (float((rate == 0).mean()), 0.05),
        "over_1pct_fraction": (float((rate > 0.01).mean()), 0.03),
        "over_10pct_fraction": (float((rate > 0.1).mean()), 0.05),
    }
    record: dict[str, Any] = {
        "name": name,
        "architecture": architecture,
        "site": site,
        "d_sae": len(counts),
        "target_l0": target,
        "seed": seed,
        "control": architecture in ("frozen_random", "pca"),
        "n_tokens": N_TOKENS,
        "n_loss_tokens": N_LOSS_TOKENS,
        "n_documents": 212,
        "l0_quantiles": {
            q: round(reached * f) for q, f in zip(("0.05", "0.25", "0.5", "0.75", "0.95"), (0.5, 0.8, 1, 1.2, 1.7))
        },
    }
    for measure, (value, relative) in values.items():
        record[measure] = value
        record[f"{measure}_interval"] = [value * (1 - relative), value * (1 + relative)]
    return record


def _curve(
    site: str, name: str, architecture: str, target: float, seed: int, fvu: float, n_records: int, diverges: bool
) -> list[dict[str, Any]]:
    lines = []
    for i in range(n_records):
        t = (i + 1) / n_records
        broken = diverges and i == n_records // 2
        now = fvu * (1 + 1.6 * np.exp(-7 * t))
        start = 400 if architecture in ("relu", "jumprelu", "gated") else target
        lines.append(
            {
                "site": site,
                "name": name,
                "architecture": architecture,
                "target_l0": target,
                "seed": seed,
                "step": 10 * (i + 1),
                "n_tokens": 10_240 * (i + 1),
                "loss": None if broken else now * (1.1 + 0.2 * (seed + 1)),
                "fvu": None if broken else now,
                "l0": target + (start - target) * float(np.exp(-9 * t)),
                "dead_fraction": 0.08 * t,
                "learning_rate": 3e-4 * min(t / 0.05, 1, (1 - t) / 0.2 + 0.01),
            }
        )
        if broken:
            break
    return lines
