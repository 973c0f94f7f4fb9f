"""Answers in OpenAI's form: whole, or in chunks as they are written.

Place on the path: events of answering → [choices, chunks, counts of tokens] → api. `Form` holds what differs between
chats and plain completions.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from monosemy import __version__
from monosemy.serving.answering import EndEvent, Job, LatentRef, TokenEvent

FINGERPRINT = f"monosemy-{__version__}"


@dataclass(frozen=True)
class Form:
    """The words in which chats and completions differ."""

    chat: bool

    @property
    def whole(self) -> str:
        return "chat.completion" if self.chat else "text_completion"

    @property
    def chunk(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def new_id(self) -> str:
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Task:
    """A job with what its answer says of it."""

    job: Job
    form: Form
    model: str
    """The id that the request named."""
    recipe: str | None
    tokenizer: Any
    logprobs: bool = False
    usage_chunk: bool = False
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.form.new_id())
        object.__setattr__(self, "created", int(time.time()))

    def frame(self, kind: str) -> dict[str, Any]:
        """What all answers of the task have."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def extension(self, ends: list[EndEvent] | None = None) -> dict[str, Any]:
        """`monosemy` of the answer; without `ends` the flags are left out."""
        values: dict[str, Any] = {
            "recipe": self.recipe,
            "seed": self.job.seed,
            "latents": [latent_entry(ref) for ref in self.job.latents],
        }
        if self.job.monitors and ends is not None:
            values["flags"] = {
                "prompt": _flagged([verdict for end in ends for verdict in end.prompt_verdicts]),
                "answer": _flagged([verdict for end in ends for verdict in end.answer_verdicts]),
            }
        return values


def latent_entry(ref: LatentRef) -> dict[str, Any]:
    return {"name": ref.name, "latent": ref.latent, "sae": ref.sae, "label": ref.label}


def whole_answer(task: Task, events: list[TokenEvent | EndEvent]) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    tokens: dict[int, list[TokenEvent]] = {}
    ends: list[EndEvent] = []
    for event in events:
        if isinstance(event, EndEvent):
            ends.append(event)
        else:
            tokens.setdefault(event.text, []).append(event)
    ends.sort(key=lambda end: end.text)
    choices = [_choice(task, tokens.get(end.text, []), end) for end in ends]
    return {
        **task.frame(task.form.whole),
        "choices": choices,
        "usage": usage(task, sum(end.n_tokens for end in ends)),
        "monosemy": task.extension(ends),
    }


def chunks(task: Task, events: Iterator[TokenEvent | EndEvent]) -> Iterator[dict[str, Any]]:
    """The chunks of a streaming answer; the first comes without a pass of the model."""
    n_tokens = 0
    usage_field = {"usage": None} if task.usage_chunk else {}
    first = [
        {"index": text, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        if task.form.chat
        else {"index": text, "text": "", "logprobs": None, "finish_reason": None}
        for text in range(len(task.job.prompts))
    ]
    frame = task.frame(task.form.chunk)
    yield {**frame, "choices": first, "monosemy": task.extension(), **usage_field}
    for event in events:
        if isinstance(event, EndEvent):
            n_tokens += event.n_tokens
            if event.release:
                yield {**frame, "choices": [_piece(task, event.text, event.release)], **usage_field}
            choice = _piece(task, event.text, "", finish=event.reason) | {"monosemy": _verdicts(task, event)}
        else:
            choice = _piece(task, event.text, event.release)
            choice["logprobs"] = _logprobs(task, [event])
            if task.job.latents:
                choice["monosemy"] = {"tokens": [_token(event)]}
        yield {**frame, "choices": [choice], **usage_field}
    if task.usage_chunk:
        yield {**frame, "choices": [], "usage": usage(task, n_tokens)}


def usage(task: Task, n_new: int) -> dict[str, int]:
    """The counts of tokens; a prompt that is answered several times counts once."""
    distinct = {tuple(prompt.ids) for prompt in task.job.prompts}
    n_prompt = sum(map(len, distinct))
    return {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}


def _choice(task: Task, tokens: list[TokenEvent], end: EndEvent) -> dict[str, Any]:
    text = "".join(token.release for token in tokens) + end.release
    words: dict[str, Any] = (
        {"message": {"role": "assistant", "content": text, "refusal": None}} if task.form.chat else {"text": text}
    )
    extension = _verdicts(task, end)
    if task.job.latents:
        extension["tokens"] = [_token(token) for token in tokens]
    return {
        "index": end.text,
        **words,
        "logprobs": _logprobs(task, tokens),
        "finish_reason": end.reason,
        "monosemy": extension,
    }


def _piece(task: Task, index: int, text: str, finish: str | None = None) -> dict[str, Any]:
    words: dict[str, Any] = (
        {"delta": {"content": text} if text or finish is None else {}} if task.form.chat else {"text": text}
    )
    return {"index": index, **words, "logprobs": None, "finish_reason": finish}


def _token(event: TokenEvent) -> dict[str, Any]:
    values: dict[str, Any] = {"token": event.token, "text": event.piece, "activations": event.activations}
    return values if event.edited is None else values | {"edited_activations": event.edited}


def _verdicts(task: Task, end: EndEvent) -> dict[str, Any]:
    if not task.job.monitors:
        return {}
    return {
        "flags": {"prompt": _flagged(end.prompt_verdicts), "answer": _flagged(end.answer_verdicts)},
        "monitors": {"prompt": end.prompt_verdicts, "answer": end.answer_verdicts},
    }


def _flagged(verdicts: list[dict[str, Any]]) -> list[str]:
    """Names of those that flagged, each once."""
    return list(dict.fromkeys(verdict["name"] for verdict in verdicts if verdict["flagged"]))


def _logprobs(task: Task, tokens: list[TokenEvent]) -> dict[str, Any] | None:
    if not task.logprobs:
        return None

    def text_of(token: int) -> str:
        return str(task.tokenizer.decode([token], clean_up_tokenization_spaces=False))

    if not task.form.chat:
        offsets, at = [], 0
        for token in tokens:
            offsets.append(at)
            at += len(token.piece)
        return {
            "tokens": [text_of(token.token) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [{text_of(i): value for i, value in token.top} for token in tokens],
            "text_offset": offsets,
        }

    def entry(token: int, value: float) -> dict[str, Any]:
        text = text_of(token)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    content = [
        entry(token.token, token.log_prob) | {"top_logprobs": [entry(i, value) for i, value in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
