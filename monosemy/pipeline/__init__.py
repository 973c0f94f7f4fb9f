"""The stages of a run, in order: model → tokens → activations → training → evaluation (→ features) → report.

Place on the path: all of it; only `cli` stands above. A finished stage is noted in the run's stages.json with the
fingerprint of everything it depends on and is not redone while its results are there; tokens and activations live in
the shared cache folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from monosemy.config import RunConfig, identity
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.evaluation import evaluate
from monosemy.pipeline.prepare import Prepared, prepare
from monosemy.pipeline.training import train
from monosemy.run import Run, open_run, read_run
from monosemy.saes.listing import saved_saes
from monosemy.support import files
from monosemy.support.moved import NOT_MOVED, Moved

__all__ = ["check_config", "evaluate_folder", "report", "whole_run"]


def whole_run(config: RunConfig, folder: Path, *, features: bool = False, moved: Moved = NOT_MOVED) -> Path:
    """Trains, evaluates and reports; what is already done is not redone. Returns the report's path.

    `features` also finds out what the latents of one SAE respond to, for `monosemy browse`. `moved` says where the
    model and text of a run that is continued are now; they are loaded, and held against what the run began with, even
    where nothing is left to do.
    Raises UserError, once controls are measured and the report is written, when the training of every SAE stopped.
    """
    check_config(config)
    with open_run(folder, config, moved) as run:
        prepared = train(run)
        if prepared is None and moved != NOT_MOVED:
            prepared = prepare(run)
        evaluate(run, prepared)
        if features and not all_stopped(folder):
            default_features(run, prepared)
    page = report(folder)
    print_results(folder)
    return page


def evaluate_folder(folder: Path, moved: Moved = NOT_MOVED) -> None:
    """`monosemy evaluate RUN`: measures again, whatever was measured before."""
    config, _ = read_run(folder)
    with open_run(folder, config, moved) as run:
        evaluate(run, again=True)
    report(folder)
    print_results(folder)


def default_features(run: Run, prepared: Prepared | None = None) -> None:
    """The feature database of the default SAE, unless it is there."""
    from monosemy.features.store.database import list_features, open_features
    from monosemy.pipeline.features import build_for_run

    there = list_features(run.folder)
    if there and run.stage_done("features", identity(run.config)):
        try:
            for site, name in there:
                open_features(run.folder, site, name)
            return
        except UserError:
            pass  # damaged: built again
    started = time.perf_counter()
    build_for_run(run, prepared=prepared)
    run.mark_done("features", identity(run.config), time.perf_counter() - started)


def report(folder: Path) -> Path:
    """Writes the run's report; returns its path."""
    from monosemy.report.page import write_report

    files.require_writable(RunFiles(folder).report, "the report")
    return write_report(folder)


def print_results(folder: Path) -> None:
    """The evaluation as a table in the terminal, and below it what stopped on the way.

    Raises UserError instead when the training of every SAE stopped.
    """
    from monosemy.evals.frontier import print_evaluation, read_evaluation

    messages = [str(message).partition("; the other SAEs")[0] for message in read_run(folder)[1].get("stopped", [])]
    if all_stopped(folder):
        raise UserError(
            f"the training of every SAE of {folder} stopped early ({messages[0] if messages else 'none is whole'}); "
            f"{RunFiles(folder).report} shows how it went; train again in a new folder, e.g. with a lower "
            "--training.learning-rate"
        )
    print_evaluation(read_evaluation(RunFiles(folder).evaluation)["records"])
    for message in messages:
        print(f"not in the table: {message}", file=sys.stderr)


def all_stopped(folder: Path) -> bool:
    """Whether no SAE of the run, controls aside, was trained to its end."""
    return all(sae.stopped for sae in saved_saes(folder) if not sae.control)
