"""The words in which views speak of what a database was built from: tokens of text, or rows that stand in no text.

Place on the path: feature database → [words] → terminal view, HTML page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
"""Groups of examples and their names, in the order in which they are shown."""
COLUMNS = {
    "firing_rate": ("fires on", "of tokens"),
    "n_fired": ("fired on", "tokens"),
    "mean": ("mean when it fires", ""),
    "max": ("maximum", ""),
    "first_share": ("on the first token of a document", "of its firing"),
    "last_share": ("on the last token of a document", "of its firing"),
    "mean_position": ("mean position in the context", "tokens"),
    "token_entropy": ("entropy of the token at its peaks", "bits"),
    "peak_likeness": ("likeness of the tokens at its peaks", "cosine"),
}
"""Column → (its name, the words after its value), in the order in which they are shown."""
SCORES_NOTE = (
    "AUROC of telling windows in which it fires from others, on held-out documents; 0.5 is chance. Intervals (95%) "
    "take documents as independent, not windows. The hidden state is the model’s own at the SAE’s site: its score says "
    "how far the windows differ there, not that words explain it."
)
HOW_TO_READ = (
    "A latent is one direction of a sparse autoencoder; most are silent on most tokens. Shades mark how strongly it "
    "fires, in ninths of its maximum; the underlined token is the peak, and the number before a context is the "
    "activation there (open it for every token's)."
)


@dataclass(frozen=True)
class Words:
    """Names and sentences that depend on what the SAE reads."""

    unit: str = "tokens"
    groups: Mapping[str, str] = field(default_factory=lambda: GROUPS)
    columns: Mapping[str, tuple[str, str]] = field(default_factory=lambda: COLUMNS)
    windows: str = "windows"
    """What the label's score tells apart."""
    documents: str = "documents"
    """What its interval counts."""
    scores_note: str = SCORES_NOTE
    how_to_read: str = HOW_TO_READ
    legend: str = "«peak»; small digits: activation in ninths of the latent's maximum; ↵ line break, ␣ space"


OF_TEXT = Words()
OF_ROWS = Words(
    unit="rows",
    groups=GROUPS
    | {
        "near_miss": "Near misses: a similar latent fires on these rows, this one does not",
        "random": "Random rows on which it does not fire",
    },
    columns=COLUMNS | {"firing_rate": ("fires on", "of rows"), "n_fired": ("fired on", "rows")},
    windows="rows",
    documents="groups",
    scores_note=(
        "AUROC of telling rows on which it fires from others by the words of their texts, on held-out rows; 0.5 is "
        "chance. The interval (95%) takes groups of rows as independent."
    ),
    how_to_read=(
        "A latent is one direction of a sparse autoencoder; most are silent on most rows. The number before a row is "
        "the latent's activation on it, in the units of the rows."
    ),
    legend="rows are counted from 0; numbers before them are activations, in the units of the rows",
)


def words_of(info: Mapping[str, Any]) -> Words:
    """The words for a database with this info."""
    return OF_ROWS if info.get("unit") == "rows" else OF_TEXT
