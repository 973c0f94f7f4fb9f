"""Steering: the bodies beside the steering request, the events of its answers, recipes.

Place on the path: as the package says, whose rules hold here too.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypeAliasType

from monosemy.app.schema.wire import Body, Open, Wire
from monosemy.steering.recipe import SteeringRecipe

Operation = Literal["add", "set", "scale", "cap", "ablate", "project"]
SteerColumn = Literal["default", "steered", "prompted", "random"]


class SaeBody(Body):
    """The SAE that a request is about."""

    site: str
    name: str


class SweepValues(SaeBody):
    """`POST /api/sweep` adds these to a steering request: strengths of the first edit."""

    values: list[Any]


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
