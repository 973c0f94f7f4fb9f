"""Pydantic models of the server's requests and answers: OpenAI's, with a field `monosemy` of our own.

Place on the path: [schema] → api (checks bodies with it), docs/http-api.md (made from it). Bodies are checked strictly.
What would change the answer and is not done here is refused; names that are not known are left alone, as OpenAI's
clients send many.
"""

from __future__ import annotations

from typing import Any, Literal

from monosemy.app.schema import Body, Open, Wire


class StreamOptions(Body):
    include_usage: bool = False
    """Send the counts of tokens in a last chunk of their own."""


class Extension(Body):
    """`monosemy` in a request: what it asks of this server beside OpenAI's settings."""

    edits: list[dict[str, Any]] | None = None
    """Edits of latents in a recipe's place: [{"latent": 12, "operation": "set", "value": 0.4, "unit": "norm"}]."""
    sae: str = ""
    """`SITE/NAME` of the SAE that the edits mean; empty: the first that is served."""
    positions: dict[str, Any] | None = None
    """Where the edits apply: {"where": "generated"}, or all, prompt, or range with "start" and "stop"."""
    keep_error: bool = True
    """Keep what the SAE does not reconstruct."""
    latents: list[int | str] | None = None
    """Latents whose activations the answer reports, `[NAME=][SITE/NAME:]LATENT`, in the place of the server's own."""
    monitors: bool = True
    """Let the server's monitors judge prompt and answer."""


class Settings(Body):
    """What both kinds of completion take."""

    model: str
    """MODEL as it is, or MODEL:RECIPE steered."""
    n: int | None = 1
    """Answers to each prompt, 1 to 8."""
    max_tokens: int | None = None
    """New tokens at most; 512 unless given, and less where the model's positions end."""
    temperature: float | None = 1.0
    """0 takes the most probable token each time."""
    top_p: float | None = 1.0
    stop: str | list[str] | None = None
    """Up to four texts that end an answer; they do not stand in it."""
    seed: int | None = None
    """Of the draws; drawn itself and returned in `monosemy.seed` unless given."""
    stream: bool | None = False
    """Send chunks as server-sent events."""
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = None
    """Refused unless 0, as are presence_penalty and logit_bias."""
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    monosemy: Extension | None = None
    """Of ours: edits, latents to report (`extra_body` of OpenAI's client)."""


class ChatMessage(Body):
    role: str
    """system, developer (read as system), user or assistant."""
    content: str | list[dict[str, Any]] | None = None
    """Text, or parts of type text."""


class ChatRequest(Settings):
    """`POST /v1/chat/completions`"""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = False
    top_logprobs: int | None = None
    """The most probable tokens beside each, 0 to 20; needs logprobs."""
    response_format: dict[str, Any] | None = None
    """Refused unless {"type": "text"}."""
    tools: list[Any] | None = None
    """Refused unless empty, as is functions."""
    functions: list[Any] | None = None


class CompletionRequest(Settings):
    """`POST /v1/completions`"""

    prompt: str | list[str] | list[int] | list[list[int]]
    """A text or several, as they are (no chat template), or their token ids."""
    logprobs: int | None = None
    """The most probable tokens beside each, 0 to 20."""
    echo: bool | None = False
    """Refused unless false, as is suffix."""
    suffix: str | None = None
    best_of: int | None = None
    """Refused unless it equals n."""


class ReportedLatent(Wire):
    """A latent whose activations an answer reports."""

    name: str
    latent: int
    sae: str
    label: str
    """What it responds to; empty without features."""


class ReportedToken(Wire):
    """A new token with the activations of the reported latents, in their order."""

    token: int
    text: str
    activations: list[float | None]
    """Raw, as the model brought them; null where the position is not read (the first one, outliers)."""
    edited_activations: list[float | None] | None = None
    """The same after the edits, of a steered answer."""


class MonitorVerdict(Wire):
    """What a monitor says of a text."""

    name: str
    kind: Literal["latent", "probe"]
    score: float
    """The latent's largest activation in `unit`, or the probe's score from 0 to 1."""
    threshold: float
    unit: Literal["raw", "max", "probability"]
    flagged: bool
    latent: int | None
    """Of a probe, the latent that contributes most; null where none does."""
    position: int | None
    """The token at which that latent is strongest, counted from the start of the prompt or of the answer."""
    n_tokens: int | None
    """Tokens on which a latent reaches its threshold; null for a probe."""
    n_dropped: int
    """Tokens at the end that were not read: the last one of an answer that fills the model's context."""
    token: str | None
    """The text of that token."""


class Flags(Wire):
    """Names of the monitors that flagged."""

    prompt: list[str]
    answer: list[str]


class Verdicts(Wire):
    prompt: list[MonitorVerdict]
    answer: list[MonitorVerdict]


class ChoiceExtension(Wire):
    """`monosemy` of a choice, or of a chunk's choice: a chunk has its own tokens, the last one the verdicts."""

    tokens: list[ReportedToken] | None = None
    """Present where latents are reported."""
    flags: Flags | None = None
    """Present where the server has monitors."""
    monitors: Verdicts | None = None


class Choice(Open):
    """OpenAI's choice: with `message` (chat), `text` (completion) or `delta` (a chat's chunk), and `logprobs`."""

    index: int
    """Of the text: prompt after prompt, each with its n answers."""
    finish_reason: Literal["stop", "length"] | None
    """null in chunks before the last."""
    monosemy: ChoiceExtension | None = None


class AnswerExtension(Wire):
    """`monosemy` of an answer, and of a stream's first chunk (there without flags)."""

    recipe: str | None
    """The recipe that steered it, `request` for edits of the request itself, or null."""
    seed: int
    latents: list[ReportedLatent]
    flags: Flags | None = None
    """Of all choices together; present where the server has monitors."""


class Usage(Wire):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Open):
    """An answer in OpenAI's form; `object` is chat.completion, text_completion, or a chunk's."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    """One for each answer; none in the chunk that counts tokens."""
    usage: Usage | None = None
    """Of a stream, in a last chunk where `stream_options` asks for it."""
    monosemy: AnswerExtension | None = None
    """Of a stream, in the first chunk."""


class ServedModel(Wire):
    """An entry of the list of models."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    monosemy: dict[str, Any]
    """The recipe and its edits (null for the model as it is), the SAEs, reported latents and monitors."""


class ModelList(Wire):
    object: Literal["list"]
    data: list[ServedModel]


class ErrorBody(Wire):
    message: str
    """One line: the value, the rule, the fix."""
    type: str
    param: str | None
    code: str | None


class Failure(Wire):
    """An error in OpenAI's form."""

    error: ErrorBody
