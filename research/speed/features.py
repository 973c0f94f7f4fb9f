"""What features cost beyond the model's pass: 4,608 latents on 500,000 tokens in at most three minutes on two cores.

Run: python -m research.speed.features [--tokens 500000] [--width 4608] [--l0 32] [--out FILE]

The text is the embedded corpus, the activations SmolLM2-135M's, the SAE a JumpReLU one of the asked width whose
encoder is its random decoder, thresholds set for the asked L0: its codes are as many and as long as a trained SAE's.
Real labels, contexts, output tokens; nothing is left out. Time spent inside the model is taken off; everything else
counts: encoding, writing codes, aggregation, labels, the database. The kernels are compiled before the clock starts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.config import ActivationsConfig, RunConfig, TextConfig
from monosemy.features.building import build
from monosemy.features.store.database import open_features
from monosemy.pipeline import features as stage
from monosemy.pipeline.prepare import prepare
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig, calibrate
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from research import common
from research.records import record_path

NAME = "jumprelu-l0_32-s0"
SECONDS, BYTES = 180.0, 2048
ONCE = ("tokens", "kept", "documents", "vocabulary_data", "vocabulary_offsets", "vocabulary_special", "index_offsets")
"""Arrays that a database holds once, whatever its number of latents."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=4608)
    parser.add_argument("--l0", type=float, default=32)
    parser.add_argument("--out", type=Path, default=record_path("speed", "features"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder) / "run", arguments.tokens, arguments.width, arguments.l0)
    for name, value in results.items():
        print(f"{name:28} {value:,.4g}" if isinstance(value, float) else f"{name:28} {value}")
    common.save(arguments.out, results)
    if results["seconds_beyond_the_model"] > SECONDS:
        raise SystemExit(f"too slow: {results['seconds_beyond_the_model']:.0f} s beyond the model's pass")
    if results["bytes_per_latent"] > BYTES:
        raise SystemExit(f"too large: {results['bytes_per_latent']:.0f} bytes a latent")


def measure(folder: Path, n_tokens: int, width: int, l0: float) -> dict[str, Any]:
    config = RunConfig(
        text=TextConfig(n_tokens=n_tokens, n_validation_tokens=16_384),
        activations=ActivationsConfig(sites=(common.SITE,), storage="stream"),
    )
    with open_run(folder, config) as run:
        prepared = prepare(run)
        rows = prepared.held_in(16_384, seed=1)[common.SITE]
        sae = build_sae(SaeConfig("jumprelu", rows.shape[1], width, l0, site=common.SITE, model=prepared.model.name))
        sae.initialise(rows, l0)
        calibrate(sae, list(rows.split(4096)))
        sae.fold_scale(prepared.scale[common.SITE])
        save_sae(sae, run.files.sae(common.SITE, NAME).folder)
        stage.build_for_run(run, [NAME], 16_384, prepared)  # compiles the kernels
        inside = timed_model(prepared.model)
        steps = timed_steps()
        started = time.perf_counter()
        stage.build_for_run(run, [NAME], n_tokens, prepared)
        seconds = time.perf_counter() - started
    database = open_features(folder, common.SITE, NAME)
    sizes = {path.name: path.stat().st_size for path in database.folder.iterdir()}
    once = sum(sizes[f"{name}.npy"] for name in ONCE)
    return {
        "d_sae": width,
        "n_tokens": int(database.info["n_tokens"]),
        "l0": float(np.sum(database.columns["firing_rate"], dtype=np.float64)),
        "seconds": seconds,
        "seconds_in_the_model": inside[0],
        "seconds_beyond_the_model": seconds - inside[0],
        "seconds_of_steps": {name: round(spent, 2) for name, spent in steps.items()},
        "bytes": sum(sizes.values()),
        "bytes_once": once,
        "bytes_per_latent": (sum(sizes.values()) - once) / width,
    }


def timed_model(model: Any) -> list[float]:
    """Adds up the seconds of every call of `model.activations`."""
    spent, own = [0.0], model.activations

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = own(*arguments)
        spent[0] += time.perf_counter() - started
        return result

    model.activations = timed
    return spent


def timed_steps() -> dict[str, float]:
    """Seconds from one finished step of a database to the next, by the step's name."""
    spent: dict[str, float] = {}
    own = build.build_database

    def timed(*arguments: Any, advance: Any, **named: Any) -> None:
        last = time.perf_counter()

        def heard(step: str) -> None:
            nonlocal last
            spent[step] = time.perf_counter() - last
            last = time.perf_counter()
            advance(step)

        own(*arguments, advance=heard, **named)

    build.build_database = timed
    return spent


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
