"""A task over letters for tiny byte models, as a user writes one: its file, and the direction that a model shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from monosemy.circuits.heads.contrast import read_contrast
from monosemy.circuits.heads.model_heads import as_heads
from monosemy.circuits.heads.task import TaskData
from monosemy.models.adapter import LanguageModel


def write_letter_task(folder: Path) -> Path:
    """Eight positives, each with a prompt like "axha" and a wrong answer, and eight negatives."""
    lines = []
    for letter, other in zip("abcdefgh", "hgfedcba"):
        lines.append({"kind": "positive", "prompt": f"{letter}x{other}{letter}", "answers": [other], "wrong": ["x"]})
        lines.append({"kind": "negative", "prompt": f"{other}y{letter}z"})
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def task_shown_by(model: LanguageModel, data: TaskData) -> TaskData:
    """The task, or the one of the wrong answers: random weights show one of them."""
    contrast = read_contrast(as_heads(model), data.positives, data.metric)
    if float(contrast.m_clean.mean()) > float(contrast.m_corrupt.mean()):
        return data
    exchanged = tuple(dataclasses.replace(e, answers=e.wrong, wrong=e.answers) for e in data.positives)
    return dataclasses.replace(data, positives=exchanged)
