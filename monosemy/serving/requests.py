"""Turns a request in OpenAI's form into a job, or refuses it in one line.

Place on the path: checked body → prompts as token ids, settings in range → [task, recipe] → answering. A setting that
would change the answer and is not done here is refused rather than left alone.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monosemy.app.transcript import Transcript, written_chat
from monosemy.config import from_json
from monosemy.errors import UserError
from monosemy.models import prompts
from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import check_tokens
from monosemy.serving.answering import Job, LatentRef, Prompt
from monosemy.serving.recipes import Recipe
from monosemy.serving.schema import ChatMessage, ChatRequest, CompletionRequest, Extension, Settings
from monosemy.serving.served import MAX_LATENTS, Served
from monosemy.serving.wire import Form, Task
from monosemy.support.text_input import require_characters

DEFAULT_TOKENS = 512
MAX_TOKENS = 8_192
MAX_CHOICES = 8
MAX_TEXTS = 16
"""Texts written together: prompts times choices."""
MAX_STOPS = 4
MAX_TOP = 20
REQUEST_RECIPE = "request"
"""What answers call edits that the request itself brought."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class UnknownModelError(UserError):
    """Raised for a model that is not served (status 404)."""


@dataclass(frozen=True)
class Prepared:
    """A task with the recipe that steers it."""

    task: Task
    recipe: Recipe | None


def prepare_chat(served: Served, body: ChatRequest) -> Prepared:
    """The task of a chat. Raises UserError for messages or settings that cannot be."""
    _refuse(
        response_format=body.response_format not in (None, {"type": "text"}),
        tools=bool(body.tools),
        functions=bool(body.functions),
    )
    if body.top_logprobs and not body.logprobs:
        raise UserError("top_logprobs needs logprobs: true")
    prompt = _chat_prompt(served.model, [_message(message) for message in body.messages])
    n_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _prepared(
        served,
        body,
        [prompt],
        Form(chat=True),
        n_tokens=n_tokens,
        n_top=body.top_logprobs or 0,
        logprobs=bool(body.logprobs),
    )


def prepare_completion(served: Served, body: CompletionRequest) -> Prepared:
    """The task of plain texts to continue. Raises UserError for texts or settings that cannot be."""
    _refuse(
        echo=bool(body.echo),
        suffix=bool(body.suffix),
        best_of=body.best_of not in (None, body.n or 1),
    )
    model = served.model
    tokenizer = model.tokenizer_for("a prompt")
    texts_or_ids: list[Any] = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if texts_or_ids and isinstance(texts_or_ids[0], int):
        texts_or_ids = [texts_or_ids]
    if not texts_or_ids or not all(texts_or_ids):
        raise UserError("the prompt is empty; give some text to start from")
    texts = [list(text) if isinstance(text, list) else prompts.text_ids(tokenizer, text) for text in texts_or_ids]
    check_tokens(model, texts)
    written = [Prompt(ids) for ids in texts]
    n_top = body.logprobs or 0
    return _prepared(
        served,
        body,
        written,
        Form(chat=False),
        n_tokens=body.max_tokens,
        n_top=n_top,
        logprobs=body.logprobs is not None,
    )


def _prepared(
    served: Served, body: Settings, texts: list[Prompt], form: Form, *, n_tokens: int | None, n_top: int, logprobs: bool
) -> Prepared:
    recipe = _recipe(served, body)
    extension = body.monosemy or Extension()
    _check_range("n", body.n, low=1, high=MAX_CHOICES)
    n = body.n or 1
    if len(texts) * n > MAX_TEXTS:
        raise UserError(f"{len(texts)} prompts with {n} answers each are more than the {MAX_TEXTS} written together")
    _check_range("max_tokens", n_tokens, low=1, high=MAX_TOKENS)
    room = served.model.max_positions - max(len(prompt.ids) for prompt in texts)
    temperature = 1.0 if body.temperature is None else float(body.temperature)
    if not (math.isfinite(temperature) and 0 <= temperature <= 100):
        raise UserError(f"temperature must be from 0 to 100, got {temperature}")
    top_p = 1.0 if body.top_p is None else float(body.top_p)
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")
    _check_range("logprobs", n_top, low=0, high=MAX_TOP)
    _refuse(
        frequency_penalty=bool(body.frequency_penalty),
        presence_penalty=bool(body.presence_penalty),
        logit_bias=bool(body.logit_bias),
    )
    repeated = [prompt for prompt in texts for _ in range(n)]
    job = Job(
        repeated,
        groups=tuple(range(len(repeated))),
        # a request without a limit gets what there is room for, and one that asks for more than that is refused
        n_tokens=max(1, min(DEFAULT_TOKENS, room)) if n_tokens is None else n_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed % 2**31,
        stops=_stops(body.stop),
        n_top=n_top,
        latents=_latents(served, extension, recipe),
        monitors=served.monitors if extension.monitors else (),
    )
    usage_chunk = bool(body.stream_options and body.stream_options.include_usage)
    name = recipe.name if recipe else None
    task = Task(
        job, form, body.model, name, tokenizer=served.model.tokenizer, logprobs=logprobs, usage_chunk=usage_chunk
    )
    return Prepared(task, recipe)


def _recipe(served: Served, body: Settings) -> Recipe | None:
    """The recipe that the model's id names, or the request's own edits. Raises UnknownModelError for another id."""
    ids = {served.name: None, **{f"{served.name}:{name}": recipe for name, recipe in served.recipes.items()}}
    if body.model not in ids:
        raise UnknownModelError(f"unknown model {body.model[:80]!r}; this server has: {', '.join(ids)}")
    extension = body.monosemy
    if extension is None or not extension.edits:
        return ids[body.model]
    if ids[body.model] is not None:
        raise UserError(f"{body.model} is steered by its recipe; send edits of your own to {served.name}")
    values: dict[str, Any] = {"name": REQUEST_RECIPE, "edits": extension.edits, "sae": extension.sae}
    values |= {"keep_error": extension.keep_error}
    if extension.positions is not None:
        values["positions"] = extension.positions
    for edit in extension.edits:
        if "latent" not in edit:
            raise UserError("every edit of monosemy.edits needs a latent")
    recipe = from_json(Recipe, values, "monosemy")
    served.check_recipe(recipe)
    return recipe


def _latents(served: Served, extension: Extension, recipe: Recipe | None) -> tuple[LatentRef, ...]:
    if extension.latents is None:
        return served.latents_of(recipe)
    if len(extension.latents) > MAX_LATENTS:
        raise UserError(f"an answer reports at most {MAX_LATENTS} latents, got {len(extension.latents)}")
    return tuple(dict.fromkeys(served.latent(str(words)) for words in extension.latents))


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or not all(stops):
        raise UserError(f"stop takes up to {MAX_STOPS} texts, none of them empty, got {len(stops)}")
    return stops


def _message(message: ChatMessage) -> dict[str, str]:
    role = _ROLES.get(message.role)
    if role is None:
        raise UserError(f"a message's role must be one of {', '.join(_ROLES)}, got {message.role[:40]!r}")
    content = message.content
    if isinstance(content, list):
        if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
            raise UserError("this model reads text alone; send a message's content as text or parts of type text")
        content = "".join(part["text"] for part in content)
    return {"role": role, "content": require_characters("the message", content or "")}


def _chat_prompt(model: LanguageModel, messages: list[dict[str, str]]) -> Prompt:
    """The chat up to where the assistant answers; monitors read the tokens of its messages."""
    tokenizer = model.tokenizer_for("a chat")
    if not messages:
        raise UserError("messages is empty; give at least one message of role user")
    if not prompts.has_template(tokenizer):
        raise UserError(f"{model.name} has no chat template; use /v1/completions, which continues the text itself")
    advice = "use /v1/completions"
    try:
        text = prompts.chat_text(tokenizer, messages, model.name, advice)
    except prompts.NoSystemRole:
        if not any(message["role"] == "user" for message in messages):
            raise
        messages = prompts.fold_system(messages)
        text = prompts.chat_text(tokenizer, messages, model.name, advice)
    ids = prompts.chat_ids(tokenizer, text)
    check_tokens(model, [ids])
    return Prompt(ids, _in_messages(model, messages, text, len(ids)))


def _in_messages(model: LanguageModel, messages: list[dict[str, str]], text: str, n_tokens: int) -> list[bool]:
    """Per token whether it belongs to a message; empty where the template's parts cannot be told from them."""
    try:
        transcript: Transcript = written_chat(model, messages)
    except UserError:  # a template may refuse a chat that ends with the user
        return []
    if not text.startswith(transcript.text):
        return []
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    roles = transcript.roles_at([stop for _, stop in encoded["offset_mapping"]])
    # a token that the tokenizer puts before the text stands in no message
    return [False] * (n_tokens - len(roles)) + [bool(role) for role in roles] if roles else []


def _check_range(name: str, value: int | None, *, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise UserError(f"{name} must be from {low} to {high}, got {value}")


def _refuse(**settings: bool) -> None:
    """Raises UserError for the first setting that is asked for and not done here."""
    for name, is_set in settings.items():
        if is_set:
            raise UserError(f"{name} is not supported by monosemy serve; leave it out")


PREPARE: dict[type[Settings], Callable[[Served, Any], Prepared]] = {
    ChatRequest: prepare_chat,
    CompletionRequest: prepare_completion,
}
"""What makes a task of each kind of request."""
