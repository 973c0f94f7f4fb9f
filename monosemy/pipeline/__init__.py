"""Runs the stages of a run in order: model → tokens → activations → training → evaluation (→ features) → report.

Place on the path: all of it; only `cli` is above. A finished stage is recorded in the run's stages.json, with the
fingerprint of everything it depends on, and is not repeated while its results exist. Tokens and activations are in the
shared cache folder.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from monosemy.config import RunConfig, identity, to_json, trains_nothing
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.evaluation import evaluate
from monosemy.pipeline.expected import expected_stages, first_look_stages
from monosemy.pipeline.first_look import (
    N_TOKENS,
    after_first_look,
    require_first_look,
    take_first_look,
    wants_first_look,
)
from monosemy.pipeline.prepare import open_sources, training_data
from monosemy.pipeline.training import train
from monosemy.pipeline.training_data import TrainingData
from monosemy.run import Run, open_run, read_run
from monosemy.saes.listing import print_warnings, saved_saes
from monosemy.support import files, progress, ranks
from monosemy.support.moved import NOT_MOVED, Moved

__all__ = ["check_config", "evaluate_folder", "only_first_look", "report", "whole_run"]


def whole_run(
    config: RunConfig,
    folder: str | Path,
    *,
    features: bool = False,
    moved: Moved = NOT_MOVED,
    on_first_look: Callable[[], object] | None = None,
) -> Path:
    """Trains, evaluates and reports, without repeating finished stages. Returns the report's path.

    With `features`, it also builds the feature database of one SAE, for `monosemy browse`. With `on_first_look`, that
    SAE comes first, from the start of the text (`first_look`), unless there are several processes; the function is
    called when there is something to look at, before the rest, and the time left in all is shown. `moved` gives the
    present paths of model and text of a run that is continued; they are loaded and compared with what the run began
    with, even if no stage is left to do.
    Raises UserError when the training of every SAE stopped early, after controls are measured and the report is
    written.
    """
    folder = Path(folder).expanduser()
    if trains_nothing(config) and RunFiles(folder).run_json.is_file():
        raise UserError(
            f"{folder} holds imported SAEs only, and trains none; measure them with `monosemy evaluate {folder}`, or "
            "train a run of your own and import them into it"
        )
    check_config(config)
    _require_backend_of_new(config, folder)
    ranks.agree("settings", to_json(config), "give every rank the same command")
    if ranks.n_ranks() > 1:
        on_first_look = None  # one SAE first would leave all processes but one waiting
    with open_run(folder, config, moved) as run, contextlib.ExitStack() as shown:
        if on_first_look:
            first_tokens = N_TOKENS if wants_first_look(run) else 0
            shown.enter_context(progress.together(expected_stages(config, first_tokens)))
        prepared = train(run, after_first_look(run, on_first_look) if on_first_look else None)
        # A finished run loads nothing, so a new path given for its model or text would otherwise go unchecked.
        if prepared is None and moved != NOT_MOVED:
            prepared = training_data(run)
        # Before the evaluation, so that pages which show the first look get those of the full-length SAE soon.
        if features and not ranks.from_first(lambda: all_stopped(folder)):
            default_features(run, prepared)
        evaluate(run, prepared)
    return _reported(folder)


def only_first_look(config: RunConfig, folder: Path) -> None:
    """Takes the first look of a run and stops there (`monosemy try`); `whole_run` goes on from it.

    Raises UserError for a run that has none: one that keeps no activations, or reads too little text.
    """
    check_config(config)
    _require_backend_of_new(config, folder)
    require_first_look(config)
    with open_run(folder, config) as run:
        if wants_first_look(run):
            with progress.together(first_look_stages(config, N_TOKENS)):
                take_first_look(run, open_sources(run))


def _require_backend_of_new(config: RunConfig, folder: Path) -> None:
    """Raises UserError, before a new run has a folder, when this machine lacks what reads its activations."""
    from monosemy.models.engine import require_here

    # A run that is continued may have all its activations already.
    if not RunFiles(folder).run_json.is_file():
        require_here(config.model)


def evaluate_folder(folder: Path, moved: Moved = NOT_MOVED) -> None:
    """Evaluates a run again, whatever was measured before, and reports (`monosemy evaluate RUN`)."""
    config, _ = read_run(folder)
    with open_run(folder, config, moved) as run:
        evaluate(run, again=True)
    _reported(folder)


def _reported(folder: Path) -> Path:
    """Writes the report and prints the results, once for all ranks; returns the report's path."""
    if ranks.is_first():
        report(folder)
        print_results(folder)
    return RunFiles(folder).report


def default_features(run: Run, prepared: TrainingData | None = None) -> None:
    """Builds the feature database of the default SAE, unless the run has intact databases already."""
    from monosemy.features.store.database import list_features, open_features
    from monosemy.pipeline.features import build_for_run

    def intact() -> bool:
        there = list_features(run.folder)
        try:
            for site, name in there:
                open_features(run.folder, site, name)
        except UserError:
            return False  # damaged: built again
        return there != [] and run.stage_done("features", identity(run.config))

    if ranks.from_first(intact):
        return
    started = time.perf_counter()
    build_for_run(run, prepared=prepared)
    run.mark_done("features", identity(run.config), time.perf_counter() - started)


def report(folder: Path) -> Path:
    """Writes the run's report, and returns its path. Raises UserError when it cannot be written."""
    from monosemy.report.page import write_report

    files.require_writable(RunFiles(folder).report, "the report")
    return write_report(folder)


def print_results(folder: Path) -> None:
    """Prints the evaluation as a table, and below it the SAEs whose training stopped early.

    Raises UserError instead when the training of every SAE stopped early.
    """
    from monosemy.evals.evaluation_file import read_evaluation
    from monosemy.evals.frontier import print_evaluation

    provenance = read_run(folder)[1]
    messages = [str(message).partition("; the other SAEs")[0] for message in provenance.get("stopped", [])]
    if all_stopped(folder):
        raise UserError(
            f"the training of every SAE of {folder} stopped early ({messages[0] if messages else 'none is whole'}); "
            f"{RunFiles(folder).report} shows how it went; train again in a new folder, e.g. with a lower "
            "--training.learning-rate"
        )
    print_evaluation(read_evaluation(folder)["records"], of_rows="rows" in provenance)
    for message in messages:
        print(f"not in the table: {message}", file=sys.stderr)
    print_warnings(saved_saes(folder))


def all_stopped(folder: Path) -> bool:
    """Whether the training of every SAE of the run, controls aside, stopped early."""
    return all(sae.stopped for sae in saved_saes(folder) if not sae.control)
