"""Chooses the text that names a latent: its label, or a chat model's explanation if that predicts its firing better.

Place on the data's path: label and explanation with their scores → the heading of pages, lists and exports. The two are
compared by one measure, the AUROC of telling windows in which the latent fires from windows drawn at random, on text
that neither was made from: `label_auroc` and the explanation's `detection_random`. If either was not measured, the
label leads, so that a heading never stands beside a score that belongs to another text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COMPARED = "detection_random"


def explanation_score(explanation: Mapping[str, Any]) -> float | None:
    """The explanation's AUROC of detection against random text; None if it was not measured."""
    value = ((explanation.get("scores") or {}).get(COMPARED) or {}).get("auroc")
    return float(value) if value is not None and math.isfinite(value) else None


def explanation_leads(label: str, label_auroc: float | None, explanation: Mapping[str, Any] | None) -> bool:
    """Whether the explanation ({"text", "scores", …}) is the heading.

    `label_auroc` is None or NaN if it was not measured. An explanation of a latent without a label always leads.
    """
    if not explanation or not explanation.get("text"):
        return False
    if not label:
        return True
    score = explanation_score(explanation)
    return score is not None and label_auroc is not None and score > label_auroc  # False for NaN
