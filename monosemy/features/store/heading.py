"""Which text names a latent: its label, or a chat model's explanation that tells its firing better.

Place on the data's path: label and explanation with their scores → the heading of pages, lists and exports. Compared is
one measure only, the AUROC of telling windows in which the latent fires from windows drawn at random, on text that
neither was made from: `label_auroc` and the explanation's `detection_random`. Where either was not measured the label
leads, so that no heading stands beside a score that belongs to another text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COMPARED = "detection_random"


def explanation_score(explanation: Mapping[str, Any]) -> float | None:
    """AUROC of detection against random text; None where it was not measured."""
    value = ((explanation.get("scores") or {}).get(COMPARED) or {}).get("auroc")
    return float(value) if value is not None and math.isfinite(value) else None


def explanation_leads(label: str, label_auroc: float | None, explanation: Mapping[str, Any] | None) -> bool:
    """Whether the explanation ({"text", "scores", …}) is the heading; label_auroc: None or NaN where not measured."""
    if not explanation or not explanation.get("text"):
        return False
    if not label:
        return True
    score = explanation_score(explanation)
    return score is not None and label_auroc is not None and score > label_auroc  # a NaN is never exceeded
