"""How much of a text is read, and which of its firings are kept.

Place on the path: pages, `monosemy trace`, monitors → [scope] → own_text. What reads beyond a limit of characters is
refused, never cut; what lies beyond a limit of tokens is counted in the reading (`Reading.n_dropped`). Activations are
held for one window at a time: memory grows with the tokens' text and with the firings that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TEXT = 60_000
"""Length of the longest text and of the longest prompt that the pages take, in characters."""
MAX_TOKENS = 16_384
"""The largest number of tokens that the pages read of a text, and probes of each."""


@dataclass(frozen=True)
class TextScope:
    """What is read of a text."""

    most_characters: int
    """A longer text is refused."""
    most_tokens: int | None
    """Tokens beyond are only counted; None: all are read."""
    latents: Sequence[int] | None = None
    """The latents whose firings are kept; None: all."""
    shows_progress: bool = False
    """Show how far the reading is, in the terminal."""


PAGES = TextScope(MAX_TEXT, most_tokens=MAX_TOKENS)
WHOLE = TextScope(1_000_000, most_tokens=None, shows_progress=True)
"""A file of which every firing is kept."""
JUDGED = TextScope(10_000_000, most_tokens=None)
"""A text of which monitors keep the firings of the latents that they watch."""
