"""Pydantic models of every request body and every answer of the HTTP API.

Place on the path: [schema] → api (checks bodies with it) and web/src/types.ts (made from it by `typescript.py`, with
the docstrings of models and fields as comments).

Bodies are checked strictly: a string is never converted to a number. Answers are not built from these models but as
plain dicts that orjson writes, since a page holds thousands of numbers; a test compares them with the models. Missing
numbers are null in JSON and NaN in binary columns. The steering request is defined in steering/request.py alone.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypeAliasType

from monosemy.errors import UserError
from monosemy.steering.recipe import SteeringRecipe

Interval = tuple[float, float]
Operation = Literal["add", "set", "scale", "cap", "ablate", "project"]
SteerColumn = Literal["default", "steered", "prompted", "random"]
Measure = Literal["cosine", "correlation"]


class Wire(BaseModel):
    """Fields are documented by their docstrings; nothing is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


class Body(Wire):
    """A request's body. Names that it does not know are left alone."""

    model_config = ConfigDict(extra="ignore")


class Open(Wire):
    """An answer with more keys than are named, for display."""

    model_config = ConfigDict(extra="allow")


B = TypeVar("B", bound=Body)


def parse_body(kind: type[B], values: dict[str, Any]) -> B:
    """The checked body. Raises a one-line UserError that names the first field that is missing or of the wrong type."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, place = str(first["loc"][0]), ".".join(map(str, first["loc"]))
        expected = getattr(kind.model_fields[name].annotation, "__name__", "")
        value = None if first["type"] == "missing" else first["input"]
        if expected in ("str", "int", "bool", "list"):
            got = "nothing" if value is None else repr(value)[:40]
            raise UserError(f"{place} must be {expected}, got {got}") from None
        raise UserError(f"{place}: {first['msg']}, got {value!r:.40}") from None


# ---------------------------------------------------------------- requests


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
    """`POST …/evidence`: a text, and the file that is asked for; answers the file itself."""

    text: str
    format: str
    """csv, json or html."""
    chat: bool = False


class SaeBody(Body):
    """The SAE that a request is about."""

    site: str
    name: str


class SweepValues(SaeBody):
    """`POST /api/sweep` adds these to a steering request: strengths of the first edit."""

    values: list[Any]


class NoteChange(SaeBody):
    """`PUT /api/notes`. What is left out stays; with neither bookmark nor text left, the entry goes."""

    latent: int
    bookmark: bool = False
    text: str = ""
    before: str = ""
    """The text that the writer of `text` saw: 409 when another one was written since."""


# ---------------------------------------------------------------- run


class EvaluationRecord(Open):
    """One evaluated SAE or control, as in evaluation.json.

    Every interval is a 95% bootstrap interval over documents.
    """

    name: str
    architecture: str
    site: str
    target_l0: float | None
    seed: int | None
    control: bool
    n_tokens: int
    n_documents: int
    d_sae: int
    l0: float | None
    l0_interval: Interval | None
    fvu: float | None
    fvu_interval: Interval | None
    dead_fraction: float | None
    over_10pct_fraction: float | None
    delta_loss: float | None
    delta_loss_interval: Interval | None
    loss_recovered: float | None
    loss_recovered_interval: Interval | None
    kl: float | None
    kl_interval: Interval | None


class SaeEntry(Wire):
    """An SAE or control of the run."""

    site: str
    source_site: str | None
    """The site that a transcoder reads, which gives that of `site`; null for an SAE."""
    name: str
    architecture: str
    """What it goes by: of a control "frozen_random", whatever it is trained as."""
    control: bool
    stopped: str
    """Why its training stopped early; empty for one trained to its end."""
    imported: bool
    """Whether it was trained elsewhere, and imported."""
    warnings: list[str]
    """What must be known of its numbers: a first look, or what differs from an imported SAE's publisher's."""
    build_command: str
    """The command that builds the features of this SAE."""
    d_sae: int
    d_in: int
    target_l0: float | None
    seed: int | None
    has_features: bool
    """The SAE whose features were built: it has latent pages, search and neighbours."""
    problem: str
    """Why features that are there cannot be read (damaged, older format); empty when all is well."""
    n_tokens: int | None
    """Tokens behind the columns; null without columns."""
    column_source: Literal["features", "evaluation", "none"]
    """Where a list's and a scatter's numbers come from: a built feature database, or the evaluation's statistics."""
    columns: list[str]
    """Names accepted by `columns`, `latents?sort=` and the filters."""


class ModelStatus(Wire):
    """The run's language model, which is loaded at first need."""

    state: Literal["absent", "loading", "ready", "failed"]
    name: str
    message: str
    """What is happening or why it failed, for the user; empty when there is nothing to say."""
    seconds: float | None
    """Since loading began; null unless loading."""
    chat: bool | None
    """Whether the model's tokenizer has a chat template; null until loaded."""


class SeriesStyle(Wire):
    """How an architecture is drawn (report/theme.py)."""

    label: str
    light: str
    """Colour on a light page."""
    dark: str
    """Colour on a dark page."""
    marker: str
    """By matplotlib's letter."""
    dashes: list[float]
    """Lengths of dashes and gaps in line widths; empty: a solid line."""


class Limits(Wire):
    """Caps that the server enforces; use them for `maxlength` and slider bounds."""

    text_characters: int
    note_characters: int
    new_tokens: int
    edits: int
    sweep_values: int
    page_rows: int


class RunInfo(Wire):
    """`GET /api/run`."""

    name: str
    """The folder's own name."""
    path: str
    """The folder's absolute path, for commands, and to tell apart runs of one name."""
    unit: Literal["tokens", "rows"]
    """What the SAEs read: tokens of text, or rows of the user's own, behind which there is no language model."""
    n_rows: int | None
    """Rows of the table; null for a run on text."""
    row_texts: bool
    """Whether the rows were given texts."""
    version: str
    saes: list[SaeEntry]
    """Site by site; controls last."""
    evaluation: list[EvaluationRecord]
    styles: dict[str, SeriesStyle]
    """By architecture or control, in the order of figures and lists."""
    clean_loss: float | None
    model: ModelStatus
    build_command: str
    """The command that builds features of the run's default SAE, for the hint where there are none at all."""
    has_report: bool
    has_graphs: bool
    """Whether it has attribution graphs, or transcoders to make some with."""
    limits: Limits


# ---------------------------------------------------------------- lists and columns


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


# ---------------------------------------------------------------- latent page


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
    hints: list[str] = []
    peak_tokens: list[OutputToken] = []
    """Tokens over-represented at the peaks; `value`: log-odds in standard deviations."""
    before_tokens: list[OutputToken] = []
    """The same just before the peaks."""
    explanation: Explanation | None = None
    """A chat model's explanation where `monosemy explain` was run."""
    explanation_leads: bool = False
    """Whether the explanation is the heading, here and in lists: it tells the latent's firing better than `text`."""
    scores: dict[str, float | None] = {}
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


# ---------------------------------------------------------------- what was found


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


# ---------------------------------------------------------------- search and own text


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


# ---------------------------------------------------------------- compare


class ComparedPair(Wire):
    a: int
    b: int
    label_a: str
    label_b: str
    cosine: float | None
    """Null where the two SAEs read spaces of different width."""
    correlation: float | None
    """Of activations over the same tokens; null where it was not measured."""
    firing_rate_a: float | None
    firing_rate_b: float | None
    mutual: bool
    """Each is the other's best match."""


class Available(Wire):
    cosine: bool
    correlation: bool


class Distribution(Wire):
    edges: list[float]
    a: list[int]
    b: list[int]


class Comparison(Wire):
    """`GET /api/compare`: each latent of `a` beside its best match in `b`, and what has no match."""

    a: SaeEntry
    b: SaeEntry
    by: Measure
    """What the match was made by."""
    available: Available
    notes: list[str]
    """Why a measure is not available, for the user; empty when both are."""
    threshold: float
    """A latent is matched when its best value is at least this."""
    n_matched_a: int
    n_matched_b: int
    n_mutual: int
    distribution: Distribution
    """Best value per latent, as counts between edges."""
    view: Literal["matched", "only_a", "only_b"]
    total: int
    offset: int
    rows: list[ComparedPair]
    """Rows of the view asked for."""


# ---------------------------------------------------------------- steering (events: steering/request.py)


class RecipeName(Body):
    """`POST /api/recipes/forget`."""

    name: str


class Recipes(Wire):
    """`GET /api/recipes`, and the answer to a change (`PUT /api/recipes` takes one `SteeringRecipe`)."""

    recipes: list[SteeringRecipe]
    problems: list[str]
    """Files that could not be read, and why."""


class ResolvedEdit(Wire):
    sae: str
    """`SITE/NAME`, or empty for the SAE that the request is about."""
    latent: int
    operation: Operation
    value: float
    """In raw units; a factor for scale and project."""


class StartedColumn(Wire):
    column: SteerColumn
    prompt: str
    prompt_tokens: list[str]
    edits: list[ResolvedEdit]


class StartEvent(Wire):
    kind: Literal["start"]
    columns: list[StartedColumn]
    control: int | None


class TokenEvent(Wire):
    """A character cut over several tokens comes with the last of them; the tokens before it have the text ""."""

    kind: Literal["token"]
    column: SteerColumn
    step: int
    token: int
    text: str
    log_prob: float | None


class DoneEvent(Wire):
    kind: Literal["done"]
    column: SteerColumn
    text: str
    n_tokens: int
    stopped: Literal["end", "length"]


class PromptToken(Wire):
    text: str
    activations: list[float]
    """One per edit."""
    edited_activations: list[float]
    """The same after the edit."""


class MeasuredToken(PromptToken):
    token: int
    log_prob: float | None
    unsteered_log_prob: float | None
    kl: float | None


class AnswerSummary(Open):
    n_tokens: int
    perplexity: float | None
    """Of the answer under the unsteered model."""
    mean_kl: float | None
    mean_log_prob_change: float | None
    distinct: list[float | None]
    """Shares of distinct 1-, 2- and 3-grams."""


class MeasureEvent(AnswerSummary):
    kind: Literal["measure"]
    column: SteerColumn
    tokens: list[MeasuredToken]
    prompt_tokens: list[PromptToken]


class EndEvent(Open):
    kind: Literal["end"]
    seconds: float
    cancelled: bool = False


class ErrorEvent(Wire):
    kind: Literal["error"]
    error: str


class ProgressEvent(Wire):
    """With every token: the strengths at hand have `step` of at most `n_tokens`; `done` strengths were before them."""

    kind: Literal["progress"]
    step: int
    n_tokens: int
    done: int


class StrengthEvent(AnswerSummary):
    kind: Literal["strength"]
    value: float
    text: str
    mean_activation: float | None
    """Of the first edit's latent over the answer, after the edit."""


SteerEvent = TypeAliasType("SteerEvent", StartEvent | TokenEvent | DoneEvent | MeasureEvent | EndEvent | ErrorEvent)
"""A line of the answer to `POST /api/steer`: start, tokens step by step, done and measure per column, end."""
SweepEvent = TypeAliasType("SweepEvent", ProgressEvent | StrengthEvent | EndEvent | ErrorEvent)
"""A line of the answer to `POST /api/sweep`: the steered column alone, at several strengths of the first edit."""


# ---------------------------------------------------------------- notes


class Note(Wire):
    site: str
    name: str
    latent: int
    bookmark: bool
    text: str
    changed: str
    """ISO 8601, set by the server."""
    label: str
    """The latent's label at hand; empty without features."""


class Notes(Wire):
    """`GET /api/notes`, and the answer to a change."""

    notes: list[Note]
