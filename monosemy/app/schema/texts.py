"""Search, and the latents of a text of one's own: bodies, answers, the difference of two texts.

Place on the path: as the package says, whose rules hold here too.
"""

from __future__ import annotations

from monosemy.app.schema.latents import TokenRun
from monosemy.app.schema.wire import Body, Wire


class TextBody(Body):
    """`POST …/text`: a text of the user's own."""

    text: str
    top: int = 8
    """Strongest latents listed per token."""
    latent: int | None = None
    """The latent whose activations are asked for."""
    chat: bool = False
    """The text is a chat's transcript, which is written out with the model's template (app/transcript.py)."""


class DifferenceBody(Body):
    """`POST …/text-difference`: two texts."""

    text: str
    other: str
    chat: bool = False


class EvidenceBody(Body):
    """`POST …/evidence`: a text, or two, and the file that is asked for; answers the file itself."""

    text: str
    format: str
    """csv, json or html."""
    other: str | None = None
    """A second text: the file then has every latent that fires in either, and what differs."""
    chat: bool = False


class SearchHit(Wire):
    latent: int
    label: str
    score: float
    """What the order comes from: full-text rank, or the token's score for this latent. Higher is better."""
    firing_rate: float | None
    label_auroc: float | None


class LabelSearch(Wire):
    """`GET …/search`."""

    hits: list[SearchHit]


class MeaningBody(Body):
    """`POST …/meaning`: a word or a few, for what they mean."""

    q: str
    limit: int = 20


class MeaningHit(SearchHit):
    by: list[str]
    """Tokens of the latent or its label that lie nearest to the query."""


class MeaningSearch(Wire):
    """The answer to `POST …/meaning`: latents by how near their words lie to the query's in the model's embedding."""

    near: float
    """Score from which on a latent is taken to be about the query; those below are merely the nearest."""
    hits: list[MeaningHit]


class VocabularyToken(Wire):
    id: int
    text: str


class TokenHit(SearchHit):
    token: int


class TokenSearch(Wire):
    """`GET …/token`."""

    tokens: list[VocabularyToken]
    """Vocabulary tokens whose text matches, best first (exact text before prefix)."""
    hits: list[TokenHit]
    """Latents that peak on them most."""


class FiringLatent(Wire):
    latent: int
    value: float
    label: str
    one_in: float | None
    """The latent is at least this strong on one in so many tokens of the features' text; null without features."""


class FiringSummary(FiringLatent):
    peak: int
    """The token at which the value is reached."""
    n_tokens: int
    """Tokens on which it fires."""


class TextResult(TokenRun):
    """`POST …/text`: the SAE's code of the user's own text."""

    top: list[list[FiringLatent]]
    """Per token, its strongest latents first (at most `top`)."""
    roles: list[str]
    """Whose message each token belongs to, "" for the template's; empty for a text that is no chat."""
    summary: list[FiringSummary]
    """Latents by how unusual their largest value over the text is for them; by that value without features."""
    trace: list[float] | None
    """Activation of `latent` at each token; null unless asked."""
    l0: list[int]
    """Active latents per token."""
    n_dropped: int
    """Tokens left out at the end of a very long text."""
    n_windows: int
    """Windows in which the text was read: one longer than the model's context is read in several that overlap."""


class TextSide(Wire):
    """A latent in one of two texts."""

    value: float
    """Its largest activation."""
    one_in: float | None
    n_tokens: int


class DifferenceRow(Wire):
    latent: int
    label: str
    first: TextSide | None
    """Null where it is silent."""
    second: TextSide | None


class TextDifference(Wire):
    """`POST …/text-difference`: the latents in which two texts differ, the largest difference first."""

    rows: list[DifferenceRow]
    n_first: int
    """Latents that fire in the first text only."""
    n_second: int
    n_both: int
    n_dropped_first: int
    """Tokens left out at the end of the first text, if it is very long."""
    n_dropped_second: int
