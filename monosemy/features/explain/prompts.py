"""The prompts by which a chat model is asked about a latent, and the reading of its replies.

Place on the data's path: excerpts of the feature database → messages → `chat` → a phrase. Firing tokens stand between
« and ». Everything here works on text alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monosemy.models.prompts import Messages

N_EXPLAIN_TOKENS = 60
_MAX_CHARACTERS = 200


@dataclass(frozen=True)
class Passage:
    """A stretch of text with a latent's activations."""

    group: str
    """The example group it comes from, one of `store.settings.GROUPS`."""
    pieces: tuple[str, ...]
    """The text in pieces: a token each, or several that make up one character."""
    activations: tuple[float, ...]
    """The latent's largest activation in each piece."""
    context: int
    """Number of its context in the pass."""
    start: int
    """Position of the first token in the context."""
    document: int
    """Number of the document at the peak."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def key(self) -> str:
        return f"{self.group}:{self.context}:{self.start}"

    def firing(self) -> list[bool]:
        """Which pieces to mark: those with at least a third of the passage's largest activation."""
        top = max(self.activations, default=0.0)
        return [a > 0 and a >= top / 3 for a in self.activations]

    def words(self) -> list[str]:
        """The marked pieces, without spaces around them."""
        return [piece.strip() for piece, mark in zip(self.pieces, self.firing()) if mark and piece.strip()]


def marked(pieces: Sequence[str], marks: Sequence[bool]) -> str:
    """The text with «…» around each run of marked pieces; spaces at a run's ends stay outside."""
    text = ""
    for piece, mark in zip(pieces, marks, strict=True):
        bare = piece.strip()
        marked_piece = f"«{bare}»" if bare else f"«{piece}»"
        text += (piece.replace(bare, marked_piece, 1) if bare else marked_piece) if mark else piece
    # pieces were marked one by one: merge those that touch
    return text.replace("»«", "")


def explain_messages(passages: Sequence[Passage], largest: float, raised: Sequence[str]) -> Messages:
    """Asks for an explanation in one phrase.

    `largest` is the latent's maximum activation, to which strengths refer; `raised` are the output tokens it raises.
    """
    lines = []
    for number, passage in enumerate(passages, 1):
        # 0 to 9 against the latent's maximum, so that weak and strong excerpts can be told apart
        strength = round(9 * max(passage.activations, default=0.0) / largest) if largest > 0 else 0
        lines.append(f"Excerpt {number} (strength {strength} of 9): {marked(passage.pieces, passage.firing())}")
    if common := Counter(word for passage in passages for word in passage.words()).most_common(8):
        lines.append("Marked most often: " + ", ".join(f"{word} ({n}×)" for word, n in common))
    if raised:
        lines.append("Tokens that become likelier afterwards: " + ", ".join(raised))
    lines.append("What do the marked words have in common? Answer with one short phrase.")
    return [
        {
            "role": "system",
            "content": "You study a unit inside a language model. In each excerpt, the words between « and » are where "
            "the unit fires. Find what sets it off: a word, a meaning, a topic, a grammatical role or a place in the "
            "text. Answer with one short phrase that names it, e.g. “names of months” or “the word ‘of’ before a "
            "country”. No preamble.",
        },
        {"role": "user", "content": "\n\n".join(lines)},
    ]


def read_explanation(reply: str) -> str:
    """The phrase in a reply: the first line that is not just an announcement such as `The words are:`.

    Quotation marks, list markers and a final full stop are removed, and it is cut to `_MAX_CHARACTERS`.
    """
    lines = [line for line in reply.splitlines() if line.strip()]
    line = next((line for line in lines if not line.rstrip().endswith(":")), "")  # skips “The marked words are:”
    # list markers ("- ", "1.") and labels ("Answer:") at the start
    line = re.sub(r"^\s*(?:[-*•]|\d+[.)]|(?:the )?(?:answer|explanation|phrase)\s*:)\s*", "", line, flags=re.IGNORECASE)
    return line.strip().strip('*"“”').rstrip(".").strip()[:_MAX_CHARACTERS]


def detection_messages(explanation: str, passage: Passage) -> Messages:
    """Asks whether the latent fires in this passage (yes or no)."""
    return _question(
        f"A unit of a language model fires on: {explanation}\n\nText: {passage.text}\n\n"
        "Does this text contain something that the unit fires on? Answer Yes or No."
    )


def fuzzing_messages(explanation: str, passage: Passage, marks: Sequence[bool]) -> Messages:
    """Asks whether the marked words are those on which the latent fires (yes or no)."""
    return _question(
        f"A unit of a language model fires on: {explanation}\n\nText: {marked(passage.pieces, marks)}\n\n"
        "Are the words between « and » ones that the unit fires on? Answer Yes or No."
    )


def _question(text: str) -> Messages:
    return [
        {"role": "system", "content": "You judge whether a description fits a text. Answer with one word: Yes or No."},
        {"role": "user", "content": text},
    ]


def simulation_messages(explanation: str) -> Messages:
    """Asks for a digit, 0 to 9, for every token of a text, in lines `token⇥digit`.

    The text itself is added by `ChatModel.digits`, because servers and local models need it in different forms.
    """
    return [
        {
            "role": "system",
            "content": "A unit of a language model fires on what a description says. For every token of a text, write "
            "the token, a tab and a digit from 0 (does not fire) to 9 (fires strongly), one token a line.",
        },
        {"role": "user", "content": "Description: names of months\n\nIn\nJuly\n,\nsnow"},
        {"role": "assistant", "content": "In\t0\nJuly\t9\n,\t0\nsnow\t0"},
        {"role": "user", "content": f"Description: {explanation}"},
    ]


def simulation_pieces(pieces: Iterable[str]) -> list[str]:
    """Pieces without line breaks and tabs, so that each fits one `token⇥digit` line; blank ones are made visible."""
    visible_pieces = (piece.replace("\n", "↵").replace("\t", "⇥") for piece in pieces)
    return [piece.strip(" ") or "␣" for piece in visible_pieces]


def wrong_marks(passage: Passage, numbers: Sequence[float]) -> list[bool] | None:
    """As many marks as `firing` makes, but on words where the latent is silent; None if there are too few of them.

    `numbers` has one draw per piece, uniform in [0, 1); the silent words with the smallest numbers are marked.
    """
    n = sum(passage.firing())
    silent = [i for i, (a, piece) in enumerate(zip(passage.activations, passage.pieces)) if a == 0 and piece.strip()]
    if not n or len(silent) < n:
        return None
    # the smallest of independent uniform numbers: a uniform draw of n silent pieces
    marked_pieces = set(sorted(silent, key=lambda i: numbers[i])[:n])
    return [i in marked_pieces for i in range(len(passage.pieces))]
