"""Measures a run's pairs: the sparsity, linearity, ablation and averages of each, and all of them as a frontier.

Place on the path: a `Study` (trained_pairs.py) → measures.json and draws.safetensors of each pair, frontier.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.circuits.jacobian.layout import StudyFiles
from monosemy.circuits.jacobian.study_file import read_study
from monosemy.circuits.jacobian.trained_pairs import FORMAT, LoadedPair, PairEntry, Slicer, Study, find_pairs
from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.evaluation import evaluate
from monosemy.pipeline.prepare import Prepared
from monosemy.pipeline.training import train
from monosemy.run import open_run
from monosemy.support import files, progress
from monosemy.support.moved import NOT_MOVED, Moved

if TYPE_CHECKING:
    from monosemy.circuits.jacobian.averages import PairAverages
    from monosemy.circuits.jacobian.mlp_rows import Rows


@dataclass(frozen=True)
class MeasureSettings:
    """How much of the validation text each measure reads."""

    n_tokens: int = 32_768
    """Validation tokens for the sparsity measures."""
    n_average_tokens: int = 16_384
    """Validation tokens for the averages over pairs of latents; fewer where those would take over 1.5 GB."""
    n_sweeps: int = 500
    """(token, input latent) pairs that are swept to classify the curves of output latents."""
    n_ablation_tokens: int = 512
    """Tokens on which every active input latent is ablated."""
    n_bootstrap: int = 1000
    """Resamples of the documents behind every interval."""


def train_and_measure(
    config: RunConfig, folder: Path, settings: MeasureSettings, moved: Moved = NOT_MOVED
) -> list[dict[str, Any]]:
    """Trains, evaluates and measures the pairs of a run, and returns the rows of the frontier.

    Stages that are done already are not repeated. `moved` says where the run's model and text are now. Raises UserError
    for settings that cannot work.
    """
    check_config(config)
    with open_run(folder, config, moved) as run:
        prepared = train(run)
        evaluate(run, prepared)
        assert prepared is None or isinstance(prepared, Prepared), "pairs are trained around the MLP of a model"
        return measure(Study(run, prepared), settings)


def measure(study: Study, settings: MeasureSettings, *, again: bool = False) -> list[dict[str, Any]]:
    """Measures every pair that is not measured yet and writes frontier.json; returns its rows.

    With `again`, pairs that are measured already are measured anew.
    """
    from monosemy.circuits.jacobian.frontier import choose, frontier, short_notes
    from monosemy.circuits.jacobian.loss_cost import read_losses
    from monosemy.evals.evaluation_file import read_evaluation

    for pair in study.pairs:
        pair_files = study.files.pair(pair.name)
        path = pair_files.measures
        fingerprint = study.identity(pair, settings)
        if again or not (study.done(path, fingerprint) and pair_files.draws.exists()):
            measures = _measure_pair(study, pair, settings)
            files.write_json(path, {"format": FORMAT, "fingerprint": fingerprint, **pair.made_of, **measures})
    measured = [read_study(study.files.pair(pair.name).measures) for pair in study.pairs]
    evaluation = read_evaluation(study.run.folder)
    rows = frontier(
        measured, evaluation["records"], read_draws(study.run.folder), read_losses(study.run.folder, evaluation)
    )
    try:
        chosen_name = choose(rows)["name"]
    except UserError:
        chosen_name = None  # no pair without penalty, or no CE scores, to compare with
    document = {"format": FORMAT, "of": study.of, "chosen": chosen_name, "rows": rows, "settings": asdict(settings)}
    document["notes"] = short_notes(rows)
    files.write_json(study.files.frontier, document)
    return rows


def read_draws(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """For each pair of a measured run, the value of every measure on every resample: pair → measure → [resample]."""
    from monosemy.circuits.jacobian.resamples import load_draws

    study = StudyFiles.of_run(folder)
    return {pair.name: load_draws(study.pair(pair.name).draws) for pair in find_pairs(folder)}


def _measure_pair(study: Study, pair: PairEntry, settings: MeasureSettings) -> dict[str, Any]:
    """All measures of one pair as JSON values; writes draws.safetensors, the measures on every resample."""
    from monosemy.circuits.jacobian.ablation import measure_ablation
    from monosemy.circuits.jacobian.linearity import measure_linearity
    from monosemy.circuits.jacobian.measures import JacobianMeter
    from monosemy.circuits.jacobian.resamples import save_draws

    rows = study.rows(pair, settings.n_tokens)
    loaded = study.load(pair)
    slicer, latent_map = loaded.slicer(), loaded.latent_map
    # Only TopK fixes the number of active latents, so only there is "fewer than k" a statement about the data.
    topk = loaded.sae_in.name == loaded.sae_out.name == "topk"
    meter = JacobianMeter(round(pair.l0) if topk else None)
    n_average = min(len(rows), settings.n_average_tokens)
    with progress.stage(f"jacobian: {pair.name}", total=len(rows) + n_average, unit="tokens") as bar:
        for chunk, slices in slicer.batches(rows):
            meter.add(slices, chunk.documents)
            bar.advance(len(chunk))
        averages = average(loaded, slicer, for_averages(loaded, rows, n_average), settings.n_bootstrap, bar=bar)
        record = meter.finish(settings.n_bootstrap)
        sample = rows.take(_spread(len(rows), settings.n_ablation_tokens))
        bar.note("curves")
        linearity = measure_linearity(
            latent_map,
            [(chunk.x.to(loaded.sae_in.W_dec), chunk.documents) for chunk in sample.chunks()],
            n_sweeps=settings.n_sweeps,
            n_bootstrap=settings.n_bootstrap,
        )
        bar.note("ablation")
        ablation = measure_ablation(latent_map, slicer, sample.chunks(256), n_bootstrap=settings.n_bootstrap)
    values = asdict(record)
    save_draws(study.files.pair(pair.name).draws, values.pop("draws"))
    return {
        **_plain(values),
        "average_over": _plain({name: asdict(estimate) for name, estimate in averages.over.items()}),
        "n_average_tokens": averages.n_tokens,
        "linearity": _plain(asdict(linearity)),
        "ablation": _plain(asdict(ablation)),
    }


def for_averages(loaded: LoadedPair, rows: Rows, n_tokens: int) -> Rows:
    """n_tokens of the rows, spread evenly over the text, or as many as the averages have memory for."""
    from monosemy.circuits.jacobian.averages import BYTES_PER_ENTRY, MAX_BYTES

    per_token = BYTES_PER_ENTRY * max(1.0, loaded.entry.l0) ** 2 * 1.5  # half more: k_x·k_y varies among tokens
    return rows.take(_spread(len(rows), min(n_tokens, max(1, int(MAX_BYTES / per_token)))))


def average(
    loaded: LoadedPair, slicer: Slicer, rows: Rows, n_bootstrap: int, *, bar: progress.Bar | None = None
) -> PairAverages:
    """The Jacobian averaged over `rows`, usually those that `for_averages` returns."""
    from monosemy.circuits.jacobian.averages import AveragesMeter

    meter = AveragesMeter(loaded.sae_out.d_sae, loaded.sae_in.d_sae)
    for chunk, slices in slicer.batches(rows):
        meter.add(slices, chunk.documents)
        if bar is not None:
            bar.advance(len(chunk))
    return meter.finish(n_bootstrap)


def _spread(n: int, n_rows: int) -> Any:
    """Indices of at most `n_rows` of n rows, spread evenly, ascending."""
    import torch

    return torch.from_numpy(np.unique(np.linspace(0, n - 1, min(n, n_rows)).round().astype(np.int64)))


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples become lists, numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
