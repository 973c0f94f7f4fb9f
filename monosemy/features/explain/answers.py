"""Reads a chat model's answer from the probabilities of its tokens.

Place on the data's path: the chat models (`chat`, `chat_server`) give pairs of a token's text and its probability;
here they become P(yes) or an expected digit. An answer that cannot be read is None, never a made-up number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DIGITS = "0123456789"
FOLDED = "{} takes no system message; ours stands at the start of the first user message"
"""The note (`ChatModel.note`) of a chat model whose system message is folded into the user's."""


def answer_probability(tokens: Sequence[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)) from (token text, probability) pairs; None when neither answer is among them.

    Tokens that differ only in case and surrounding space count as the same answer.
    """
    yes = math.fsum(p for text, p in tokens if text.strip().casefold() == "yes")
    no = math.fsum(p for text, p in tokens if text.strip().casefold() == "no")
    return yes / (yes + no) if yes + no > 0 else None


def expected_digit(tokens: Sequence[tuple[str, float]]) -> float | None:
    """Σ d·P(d) / Σ P(d) over the tokens that are a single digit; None when there is none."""
    digits = [(int(text.strip()), p) for text, p in tokens if len(text.strip()) == 1 and text.strip() in DIGITS]
    total = math.fsum(p for _, p in digits)
    return math.fsum(d * p for d, p in digits) / total if total > 0 else None
