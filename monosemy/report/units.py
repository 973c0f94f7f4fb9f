"""What a report counts: tokens of text, or rows of somebody's own table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """The words for what an SAE reads."""

    one: str
    many: str
    groups: str
    """What intervals resample."""
    held_out: str
    """What results are measured on."""


TOKENS = Unit("token", "tokens", groups="documents", held_out="validation text")
ROWS = Unit("row", "rows", groups="rows or groups of rows", held_out="validation rows")
