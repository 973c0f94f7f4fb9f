"""The steering request and its parts, as plain values that survive JSON.

Nothing here imports torch, so a server can check a request before any model is loaded.
Place on the path: [request] → edits (the activation's change) → generate (text in columns) → measure.

`generate.stream` answers a request with these events in this order, one dict each; every value is JSON:

  start    {"kind": "start", "columns": [{"column", "prompt": the text given to the model, "prompt_tokens": [str],
           "edits": [{"sae": label or "" for the request's own, "latent", "operation", "value": raw units, or a factor
           for scale and project}]}],
           "control": the random column's latent (of the first edit) or null}
  token    {"kind": "token", "column", "step": 0, 1, …, "token": id, "text": what this token adds to the text (empty
           while a character is incomplete), "log_prob": of the token where it was written}
  done     {"kind": "done", "column", "text": the whole answer, "n_tokens", "stopped": "end" | "length"}
  measure  {"kind": "measure", "column", "n_tokens", "perplexity": of the answer under the unsteered model after the
           user's own prompt, "mean_kl", "mean_log_prob_change": nats per token, "distinct": [1-, 2-, 3-gram shares],
           "tokens": [{"token", "text", "log_prob", "unsteered_log_prob", "kl", "activations": one per asked latent,
           "edited_activations": the same after the edit}],
           "prompt_tokens": [{"text", "activations", "edited_activations"}]}
  end      {"kind": "end", "seconds", "untouched": columns with edits in which no activation was edited, all tokens that
           the request names being outliers or the answer ending before them}

At each step the `token` events of all columns come together; `done` follows when a column ends. After all columns have
ended there is one `measure` per column. "activations" lists the latents of the request's edits in their order, the same
ones in every column, so the random column's control latent is not among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from monosemy.config import from_json
from monosemy.errors import UserError, unknown
from monosemy.support.text_input import require_characters

OPERATIONS = {
    "add": "adds the value to the latent",
    "set": "sets (clamps) the latent to the value",
    "scale": "multiplies the latent by the factor",
    "cap": "lowers the latent to the value where it is above",
    "ablate": "sets the latent to 0",
    "project": "multiplies the activation's component along the latent's direction by the factor",
}
UNITS = {
    "raw": "as the latent's own activations",
    "max": "multiples of the latent's maximum activation",
    "norm": "multiples of the site's typical activation norm",
}
PLACES = ("all", "prompt", "generated", "range")
COLUMNS = ("default", "steered", "prompted", "random")
FACTORS = ("scale", "project")
"""Operations whose value is a factor and has no unit."""
OWN_SAE = ""
"""The name by which an edit means the SAE that the request is about."""
DECIDING = ("set", "ablate", "cap", "scale", "project")
"""Operations that determine the latent's final value. A latent may have one of them; `add` may stand beside it."""


@dataclass(frozen=True)
class Choice:
    """Lists the values that a text field accepts, as an `enum` in the request's JSON schema (pydantic)."""

    words: tuple[str, ...]

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Edit:
    """One change to one latent."""

    latent: int
    operation: Annotated[str, Choice(tuple(OPERATIONS))] = "set"
    """One of `OPERATIONS`."""
    value: float = 0.0
    """In `unit`; a factor for scale and project; not used by ablate."""
    unit: Annotated[str, Choice(tuple(UNITS))] = "raw"
    """One of `UNITS`; not used by scale, project and ablate."""
    sae: str = OWN_SAE
    """`SITE/NAME` of the latent's SAE; empty: the one that the request is about."""

    @property
    def name(self) -> str:
        """What messages call the latent: `latent 12`, or `latent 12 of SITE/NAME`."""
        return f"latent {self.latent} of {self.sae}" if self.sae else f"latent {self.latent}"

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise unknown("operation", self.operation, OPERATIONS)
        if self.unit not in UNITS:
            raise unknown("unit", self.unit, UNITS)
        if not math.isfinite(self.value):
            raise UserError(f"the strength of {self.name} must be a finite number, got {self.value}")


@dataclass(frozen=True)
class Positions:
    """Which tokens' activations are edited.

    `where`: all; prompt (the tokens of the prompt, its chat markers included); generated (the tokens that the model
    wrote, so that the first of them is not yet affected); range (token numbers start ≤ p < stop, counted from 0 at the
    prompt's first token; stop None: no end). Left alone in every case: the first token, and tokens whose activation is
    an outlier (`edits.read_scales`), on which no SAE was trained.
    """

    where: Annotated[str, Choice(PLACES)] = "all"
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.where not in PLACES:
            raise unknown("positions", self.where, PLACES)
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise UserError(f"a range of positions needs 0 <= start < stop, got {self.start} to {self.stop}")


@dataclass(frozen=True)
class SteeringRequest:
    """Everything one steered generation depends on, beside model and SAE."""

    prompt: str
    edits: tuple[Edit, ...]
    """At most one of `DECIDING` per latent of an SAE; any number of `add`."""
    positions: Positions = field(default_factory=Positions)
    keep_error: bool = True
    """Keep what the SAE does not reconstruct; False replaces edited positions by the edited reconstruction."""
    columns: tuple[Annotated[str, Choice(COLUMNS)], ...] | None = None
    """Of `COLUMNS`; None: default, steered, with an instruction prompted, and random where a latent is left for it.
    `prompted` is the unsteered model with `instruction` before the prompt; `random` makes the same edits, of the same
    raw strength, to another latent that fires about as often."""
    instruction: str = ""
    """For the prompted column, e.g. `Talk about July.`"""
    control: int | None = None
    """The random column's latent in the place of the first edit's, of the same SAE; None draws it from `seed` too."""
    chat: bool | None = None
    """Wrap the prompt by the model's chat template; None: when the model has one."""
    system: str = ""
    """The chat's system message; empty leaves the template's own."""
    n_tokens: int = 60
    """Tokens to write at most."""
    temperature: float = 0.0
    """0 takes the most probable token (greedy)."""
    top_p: float = 1.0
    """Sample among the most probable tokens that hold this share of the probability."""
    seed: int = 0
    """Of sampling and of the drawn control. All columns share the random numbers of a step."""
    measure: bool = True

    def __post_init__(self) -> None:
        for field_name, text in (
            ("prompt", self.prompt),
            ("instruction", self.instruction),
            ("system message", self.system),
        ):
            require_characters(f"the {field_name}", text)
        if not self.prompt:
            raise UserError("the prompt is empty; give some text to start from")
        for column in self.columns or ():
            if column not in COLUMNS:
                raise unknown("column", column, COLUMNS)
        if self.columns is not None and not 0 < len(self.columns) == len(set(self.columns)):
            raise UserError(f"name each column once, of: {', '.join(COLUMNS)}")
        if "prompted" in (self.columns or ()) and not self.instruction.strip():
            raise UserError("the prompted column needs an instruction, e.g. 'Talk about July.'")
        if not self.edits and (self.columns is None or {"steered", "random"} & set(self.columns)):
            raise UserError("nothing to steer: name at least one latent to edit")
        check_agreement(self.edits)
        if self.n_tokens < 1:
            raise UserError(f"n_tokens must be at least 1, got {self.n_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")


def written_edit(text: str) -> Edit:
    """Parses an edit such as `12:set:8:max` or `layers.4.resid_post/jumprelu-l0_32-s0:12:ablate`.

    Raises UserError for any other form.
    """
    parts, sae = text.strip().split(":"), OWN_SAE
    rule = "an edit is written [SAE:]LATENT:OPERATION[:VALUE[:UNIT]], e.g. 12:set:8:max"
    if not parts[0].lstrip("+-").isdigit() and len(parts) > 2 and parts[1].isdigit():
        sae, *parts = parts
    if not 2 <= len(parts) <= 4:
        raise UserError(f"{rule}; got {text[:80]!r}")
    try:
        latent, value = int(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0
    except ValueError:
        raise UserError(f"{rule}; got {text[:80]!r}") from None
    return Edit(latent, parts[1], value, parts[3] if len(parts) > 3 else "raw", sae=sae)


def written_positions(text: str) -> Positions:
    """The positions that a word names (`prompt`), or a range START-STOP (`3-10`, `3-`)."""
    start, dash, stop = text.partition("-")
    if dash and start.isdigit() and (stop.isdigit() or not stop):
        return Positions("range", int(start), int(stop) if stop else None)
    if text == "range":
        raise UserError("give the range itself: --positions START-STOP, e.g. 3-10, or 3- for no end")
    return Positions(text)


def check_agreement(edits: Sequence[Edit]) -> None:
    """Raises UserError if a latent has two operations that each determine its value, since their changes would add up.

    All changes are computed from the same activation f: `set 8` twice would give 16 − f, `set 8` and `ablate` 8 − f.
    `set` with `add` is allowed, as a push on top of the set value.
    """
    # (SAE, latent) → its one deciding operation
    decided: dict[tuple[str, int], str] = {}
    for edit in edits:
        if edit.operation not in DECIDING:
            continue
        key = edit.sae, edit.latent
        if key in decided:
            first, second = decided[key], edit.operation
            how = f"{first} twice" if first == second else f"{first} and {second}"
            raise UserError(
                f"{edit.name} is edited by {how}, which would add up; give it one of {', '.join(DECIDING)} "
                "(add may stand beside it)"
            )
        decided[key] = edit.operation


def request_from_json(values: Any) -> SteeringRequest:
    """The request that a JSON object of the fields above describes.

    Raises UserError for missing or unknown keys, wrong types and values out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"a steering request must be an object of named values, got {type(values).__name__}")
    for key in ("prompt", "edits"):
        if key not in values:
            raise UserError(f"a steering request needs {key!r}")
    return from_json(SteeringRequest, values, "steer")
