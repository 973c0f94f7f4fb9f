"""The stages of a run, in order: model → tokens → activations → training → evaluation → report.

Place on the path: all of it; only `cli` stands above. A finished stage is noted in the run's stages.json with the
fingerprint of everything it depends on and is not redone while its results are there; tokens and activations live in
the shared cache folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from monosemy.config import RunConfig
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.evaluation import evaluate
from monosemy.pipeline.training import train
from monosemy.run import open_run, read_run

__all__ = ["check_config", "evaluate_folder", "report", "whole_run"]


def whole_run(config: RunConfig, folder: Path) -> Path:
    """Trains, evaluates and reports; what is already done is not redone. Returns the report's path."""
    check_config(config)
    with open_run(folder, config) as run:
        prepared = train(run)
        evaluate(run, prepared)
    page = report(folder)
    print_results(folder)
    return page


def evaluate_folder(folder: Path) -> None:
    """`monosemy evaluate RUN`: measures again, whatever was measured before."""
    config, _ = read_run(folder)
    with open_run(folder, config) as run:
        evaluate(run, again=True)
    report(folder)
    print_results(folder)


def report(folder: Path) -> Path:
    """Writes the run's report; returns its path."""
    from monosemy.report.page import write_report

    return write_report(folder)


def print_results(folder: Path) -> None:
    """The evaluation as a table in the terminal, and what stopped on the way."""
    from monosemy.evals.frontier import print_evaluation, read_evaluation

    print_evaluation(read_evaluation(folder / "evaluation.json")["records"])
    for message in read_run(folder)[1].get("stopped", []):
        print(message, file=sys.stderr)
