"""Reads and writes evaluation.json, the results of a run: one record per SAE and control.

Place on the data's path: evaluation → [evaluation.json] → terminal, report, browser. frontier.py builds the content.
No torch is imported here, because the report and the browser's server read the file too.

Format 1: {"format": 1, "records": […], "clean_loss": nats per token, "clean_loss_interval": pair, "zero_loss": {site:
nats per token}, "zero_loss_interval": {site: pair}, "provenance": {…}}. A quantity that was not measured, or whose
value is not finite, is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.support.files import read_json, write_json

FORMAT = 1


def write_evaluation(folder: Path, evaluation: Mapping[str, Any]) -> None:
    """Writes the evaluation of the run in `folder`, durably."""
    write_json(RunFiles(folder).evaluation, evaluation)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Reads the evaluation of the run in `folder`.

    Raises UserError, naming the command that writes the file, when it is missing, cannot be read, is damaged or has
    another format.
    """
    path, writes = RunFiles(folder).evaluation, f"`monosemy evaluate {folder}` writes it"
    try:
        evaluation = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {writes}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {writes}") from None
    if not isinstance(evaluation, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(evaluation).__name__}; {writes}")
    if evaluation.get("format") != FORMAT:
        raise UserError(
            f"{path} is not an evaluation of format {FORMAT} but has format {evaluation.get('format')!r}; {writes} anew"
        )
    return evaluation
