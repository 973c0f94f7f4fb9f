"""The lists of latents, a latent's page, and what was found: highlights and examples of steering.

Place on the path: as the package says, whose rules hold here too.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from monosemy.app.schema.wire import Open, Wire


class ModelIdentity(Open):
    name: str
    fingerprint: str


class FeatureInfo(Open):
    """`GET …/info`: the database's own info (FeatureDatabase.info)."""

    site: str
    name: str
    architecture: str
    d_sae: int
    n_tokens: int
    n_contexts: int
    context_length: int
    window: int
    l0: float | None
    model: ModelIdentity
    median_norm: float = 0.0
    created: str


class LatentRow(Wire):
    latent: int
    label: str
    """Empty where labels do not exist."""
    values: list[float | None]
    """One value per name in LatentList.columns."""


class LatentList(Wire):
    """`GET …/latents`."""

    total: int
    """Latents that pass the filters, over the whole dictionary."""
    offset: int
    columns: list[str]
    rows: list[LatentRow]


class TokenRun(Wire):
    """Text of a run of tokens.

    `tokens[i]` is the exact text of token i, spaces and newlines included (make them visible as you like). A character
    cut over several tokens has its whole text on the first of them and "" on the others: show a token with "" as part
    of the one before. `special` lists the positions of special tokens (they do have text).
    """

    tokens: list[str]
    special: list[int]


class Example(TokenRun):
    """A context in which the latent fires, nearly fires, or that was drawn at random."""

    group: Literal["top", "q0", "q1", "q2", "q3", "q4", "near_miss", "random"]
    context: int
    """Number of the stored context: the same context under two latents has the same number."""
    start: int
    """Position of tokens[0] within the context; more can be asked with `window=0`."""
    length: int
    """The context's whole length."""
    peak: int
    """Index into `tokens` of the peak."""
    value: float
    """The activation at the peak (0 for near misses and random contexts)."""
    activations: list[tuple[int, float]]
    """Positive activations: [index into tokens, value]."""
    source: str
    """Part of the text it comes from ("english", "code", …)."""
    origin: str
    """The document: a title, a file."""
    row: int | None
    """Number of the row in the table, from 0, where the run is on rows of the user's own."""
    picture: bool
    """Whether the row has a thumbnail, at `…/picture/CONTEXT`."""


class Neighbour(Wire):
    latent: int
    label: str
    value: float
    """Decoder cosine, or correlation of firing."""


class OutputToken(Wire):
    id: int
    text: str
    value: float
    """Change of the logit by one unit of activation, centred over the vocabulary."""


class Explanation(Open):
    """What a chat model wrote of a latent (features/explain/explanations.py)."""

    text: str
    model: str
    """Name of the chat model; empty where it was not recorded."""
    n_passages: int | None
    """Contexts that it was shown; null where that was not recorded."""
    scores: dict[str, dict[str, float | None]]
    """By test: {measure, measure_low, measure_high: its 95% interval, n_positive, n_negative, …}."""
    skipped: dict[str, str]
    """By test that was not made: why."""


class Label(Open):
    """The label and what backs it (features/labels/labelling.py, features/explain/command.py)."""

    text: str
    hints: list[str] = Field(default_factory=list)
    peak_tokens: list[OutputToken] = Field(default_factory=list)
    """Tokens over-represented at the peaks; `value`: log-odds in standard deviations."""
    before_tokens: list[OutputToken] = Field(default_factory=list)
    """The same just before the peaks."""
    explanation: Explanation | None = None
    """A chat model's explanation where `monosemy explain` was run."""
    explanation_leads: bool = False
    """Whether the explanation is the heading, here and in lists: it tells the latent's firing better than `text`."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """label_auroc, hidden_auroc, top_token_auroc, … with _low and _high; label_n: the windows behind them."""


class SteeringMax(Wire):
    value: float
    text: Literal["validation", "features"]


class Histogram(Wire):
    edges: list[float]
    counts: list[int]


class Quantiles(Wire):
    levels: list[float]
    values: list[float | None]


class Neighbours(Wire):
    decoder: list[Neighbour]
    coactivation: list[Neighbour]


class LatentPage(Wire):
    """`GET …/latent/N`."""

    latent: int
    d_sae: int
    label: Label
    stats: dict[str, float | None]
    """Every column's value for this latent."""
    steering_max: SteeringMax | None
    """What steering's unit `max` multiplies: the largest activation on the evaluation's validation text; of the
    features' text where it is silent there or nothing was evaluated. Null where it fired on neither."""
    histogram: Histogram
    """Counts of positive activations between edges[i] and edges[i+1]."""
    quantiles: Quantiles
    positions: list[int]
    """Firing counts by position in the context (bucket i of equal width)."""
    raised: list[OutputToken]
    lowered: list[OutputToken]
    no_output_tokens: str | None
    """Why the two are empty: the site has no direct path to the output. Null where it has one."""
    neighbours: Neighbours
    examples: list[Example]


class Highlight(Wire):
    """A latent that stands for what an SAE found."""

    latent: int
    label: str
    stats: dict[str, float | None]
    """Its firing rate, and its label's score with the interval: firing_rate, label_auroc, label_auroc_low, …"""
    examples: list[Example]
    """Two of its strongest contexts."""


class Highlights(Wire):
    """`GET …/highlights`: a handful of clear latents, unlike each other (features/view/highlights.py)."""

    latents: list[Highlight]
    n_clear: int
    """Clear latents in the whole dictionary."""
    clear_score: float
    """The lower end of a label's score from which on a latent is clear."""


class SteerExample(Wire):
    """A latent that makes the model say the words it fires on."""

    latent: int
    label: str
    words: list[str]
    before: float
    """Probability of one of the words after a neutral prompt."""
    after: float
    """The same with the latent pushed."""


class SteerExamples(Wire):
    """`POST …/steer-examples`: latents with which steering works at a click, best first; maybe none."""

    examples: list[SteerExample]
