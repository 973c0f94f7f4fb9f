"""A context as people read it: pieces of text with their activations, cut around the peak.

Place on the data's path: between the feature database and everything that shows a context (terminal, HTML, exports).
A character that the tokenizer cut over several tokens becomes one piece with the largest of their activations, so
that nobody has to look at broken bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monosemy.features.store.database import Example, FeatureDatabase
from monosemy.support.visible import visible

GROUPS = {
    "top": "Strongest",
    "q4": "Strongest fifth of its firing, drawn at random",
    "q3": "Second fifth",
    "q2": "Middle fifth",
    "q1": "Fourth fifth",
    "q0": "Weakest fifth",
    "near_miss": "Near misses: a similar latent fires here, this one does not",
    "random": "Random contexts where it does not fire",
}
"""Groups of examples in the order they are shown, with their names."""
_CONTINUES = {bytes([byte]) for byte in range(0x80, 0xC0)}
"""First bytes of a token that goes on with the character before it, in UTF-8."""
FIRING_GROUPS = ("top", "q4", "q3", "q2", "q1", "q0")
"""The groups in which the latent fires; the others are for contrast."""


@dataclass(frozen=True)
class Excerpt:
    """Consecutive pieces of a context."""

    group: str
    value: float
    """The activation at the peak."""
    pieces: tuple[str, ...]
    """Texts; a piece is one token, or the tokens of one character."""
    activations: tuple[float, ...]
    """One per piece, the largest of its tokens; 0 where the latent does not fire."""
    special: tuple[bool, ...]
    """Pieces that are no text (separators, chat marks)."""
    peak: int
    """Index of the peak's piece."""
    context: int
    """Number of the context in the database."""
    source: str
    """Where it is from: the text's source and the document, in words."""
    cut: tuple[bool, bool] = (False, False)
    """Whether there is more before, more after."""


def by_group(database: FeatureDatabase, latent: int, groups: Sequence[str] = ()) -> dict[str, list[Example]]:
    """The latent's examples in one reading; only groups that it has, in the order of `GROUPS`, or of `groups`."""
    examples: dict[str, list[Example]] = {}
    for example in database.examples(latent, list(groups) or None):
        examples.setdefault(example.group, []).append(example)
    return {group: examples[group] for group in groups or GROUPS if group in examples}


def excerpt(
    database: FeatureDatabase, example: Example, before: int | None = None, after: int | None = None
) -> Excerpt:
    """An example's whole context, or at most `before` tokens before its peak and `after` behind it; characters that
    the cut would divide are taken whole."""
    n = len(example.token_ids)
    start = 0 if before is None else _character_start(database, example.token_ids, max(0, example.peak - before))
    stop = n if after is None else _character_start(database, example.token_ids, min(n, example.peak + after + 1), 1)
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
        source=" · ".join(part for part in (example.source, example.origin) if part),
        cut=(start > 0, stop < n),
    )


def _character_start(database: FeatureDatabase, ids: np.ndarray, position: int, step: int = -1) -> int:
    """The nearest position, in steps, at which no character is continued."""
    while 0 < position < len(ids) and database.tokens.bytes(int(ids[position]))[:1] in _CONTINUES:
        position += step
    return position


def quoted(text: str) -> str:
    """A token between quotation marks, its spaces visible: ` July` → `“␣July”`."""
    visible_text = visible(text)
    lead, core = len(visible_text) - len(visible_text.lstrip(" ")), visible_text.strip(" ")
    trail = len(visible_text) - lead - len(core) if core else 0
    return f"“{'␣' * lead}{core}{'␣' * trail}”"


def level(value: float, maximum: float, levels: int = 9) -> int:
    """Shade of an activation: 0 where it does not fire, else 1 to `levels` in equal steps up to `maximum`."""
    if value <= 0 or maximum <= 0:
        return 0
    return min(levels, max(1, int(np.ceil(value / maximum * levels))))
