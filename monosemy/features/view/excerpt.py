"""Excerpts: contexts in readable form, as pieces of text with their activations, cut around the peak.

Place on the data's path: between the feature database and everything that shows a context (terminal, HTML, exports).
A character that the tokenizer split over several tokens becomes one piece with the largest of their activations, so
that readers never see broken bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monosemy.features.store.database import Example, FeatureDatabase
from monosemy.features.view.words import GROUPS
from monosemy.support.visible import visible

_CONTINUES = {bytes([byte]) for byte in range(0x80, 0xC0)}
"""UTF-8 continuation bytes: a token that begins with one continues the character before it."""
FIRING_GROUPS = ("top", "q4", "q3", "q2", "q1", "q0")
"""The groups in which the latent fires; the others are for contrast."""


@dataclass(frozen=True)
class Excerpt:
    """Consecutive pieces of a context."""

    group: str
    value: float
    """The activation at the peak."""
    pieces: tuple[str, ...]
    """Text of each piece; a piece is one token, or the tokens of one character."""
    activations: tuple[float, ...]
    """Largest activation among each piece's tokens; 0 where the latent does not fire."""
    special: tuple[bool, ...]
    """Whether each piece is not text (separators, chat markers)."""
    peak: int
    """Index of the peak's piece."""
    context: int
    """Number of the context in the database."""
    source: str
    """The text's source and the document, or the row's number, in words."""
    cut: tuple[bool, bool] = (False, False)
    """Whether the context continues before and after the excerpt."""


def by_group(database: FeatureDatabase, latent: int, groups: Sequence[str] = ()) -> dict[str, list[Example]]:
    """The latent's examples by group, in the order of `groups` (default: of `GROUPS`); empty groups are left out."""
    examples: dict[str, list[Example]] = {}
    for example in database.examples(latent, list(groups) or None):
        examples.setdefault(example.group, []).append(example)
    return {group: examples[group] for group in groups or GROUPS if group in examples}


def excerpt(
    database: FeatureDatabase, example: Example, before: int | None = None, after: int | None = None
) -> Excerpt:
    """An example's context, cut to at most `before` tokens before its peak and `after` behind it (None: not cut).

    A character that a cut would split is kept whole.
    """
    n = len(example.token_ids)
    # at a cut inside a character, the start goes back and the stop forward to its ends
    start = 0 if before is None else _character_start(database, example.token_ids, max(0, example.peak - before))
    stop = n if after is None else _character_start(database, example.token_ids, min(n, example.peak + after + 1), 1)
    where = [example.source, example.origin]
    if database.info.get("rows", {}).get("text"):
        where = [f"row {database.row_numbers(np.array([example.context]))[0]}"]
    ids = example.token_ids[start:stop].tolist()
    values = example.activations[start:stop].tolist()
    pieces = database.tokens.pieces(ids)
    peak = next(i for i, piece in enumerate(pieces) if piece.start <= example.peak - start < piece.stop)
    return Excerpt(
        example.group,
        float(example.value),
        tuple(piece.text for piece in pieces),
        tuple(max(values[piece.start : piece.stop]) for piece in pieces),
        special=tuple(database.tokens.is_special(ids[piece.start]) for piece in pieces),
        peak=peak,
        context=int(example.context),
        source=" · ".join(part for part in where if part),
        cut=(start > 0, stop < n),
    )


def _character_start(database: FeatureDatabase, ids: np.ndarray, position: int, step: int = -1) -> int:
    """The first position, going by `step`, at which a new character begins (or an end of the text)."""
    while 0 < position < len(ids) and database.tokens.bytes(int(ids[position]))[:1] in _CONTINUES:
        position += step
    return position


def quoted(text: str) -> str:
    """A token in quotation marks with its outer spaces made visible: ` July` → `“␣July”`."""
    # in a text of spaces alone, all of them are leading
    visible_text = visible(text)
    lead, core = len(visible_text) - len(visible_text.lstrip(" ")), visible_text.strip(" ")
    trail = len(visible_text) - lead - len(core) if core else 0
    return f"“{'␣' * lead}{core}{'␣' * trail}”"


def level(value: float, maximum: float, levels: int = 9) -> int:
    """The shade of an activation: 0 if the latent does not fire, else 1 to `levels` in equal steps up to `maximum`."""
    if value <= 0 or maximum <= 0:
        return 0
    return min(levels, max(1, int(np.ceil(value / maximum * levels))))
