"""Reads the JSON files of the studies of a run's pairs; `StudyFiles` in layout.py names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.support.files import read_json


def read_study(path: Path) -> dict[str, Any]:
    """The content of a study's file. Raises UserError when it is missing or damaged."""
    study = read_json(path, fix="measure the run again")
    if not isinstance(study, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(study).__name__}; measure the run again")
    return study
