"""Writes the answers to one request, token by token, with latents and monitors.

Place on the path: request → prompts of token ids → [answering] → events → answers in OpenAI's form. All texts of a
request are one batch. Every `next` makes at most one pass of the model, so that others can have it between two events.

A token's activations are known when the model has read it. Where latents are watched, a token is therefore given out
one pass after it was chosen, and the last one costs one more pass. Sampling is that of `steering.generate`.
Limits: no penalties, no beams; texts that have ended are still computed with their batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import Decoding, PlacedEdit, check_room
from monosemy.monitors.firings import Firings
from monosemy.monitors.monitor import Monitor, Verdict
from monosemy.serving.reading import SaeReader, SiteWatch
from monosemy.serving.stops import StopText
from monosemy.steering.generate import Chooser, Sampling
from monosemy.steering.prompts import GrowingText, end_ids, token_pieces
from monosemy.steering.strength import check_finite


@dataclass(frozen=True)
class LatentRef:
    """A latent that answers report, by the name they give it."""

    sae: str
    """`SITE/NAME`"""
    latent: int
    name: str
    label: str = ""


@dataclass(frozen=True)
class Prompt:
    """The token ids of a text to continue, and which of them monitors read."""

    ids: list[int]
    watched: list[bool] = field(default_factory=list)
    """Per token; empty: all. Of a chat, the tokens of its messages, without what the template writes."""


@dataclass(frozen=True)
class Job:
    """All that one request asks for."""

    prompts: list[Prompt]
    groups: tuple[int, ...]
    """Texts of a group share their random numbers."""
    n_tokens: int
    temperature: float
    top_p: float
    seed: int
    stops: tuple[str, ...] = ()
    n_top: int = 0
    """How many of the most probable tokens are given beside each."""
    latents: tuple[LatentRef, ...] = ()
    monitors: tuple[Monitor, ...] = ()


@dataclass(frozen=True)
class Hooks:
    """What a job does to the model: a watch at every site, and the readers of each SAE."""

    watches: Mapping[str, SiteWatch]
    readers: Mapping[str, SaeReader]
    """By the label of the SAE."""
    site_of: Mapping[str, str]
    """The site of each of these labels."""
    edited: bool


@dataclass(frozen=True)
class TokenEvent:
    """One new token of a text."""

    text: int
    """The number of the text in its batch."""
    token: int
    piece: str
    """What the token adds to the text; empty while a character is incomplete."""
    release: str
    """The text to give out now: less than the piece while it may begin a stop sequence."""
    log_prob: float
    top: list[tuple[int, float]]
    """(token, log-probability) of the most probable ones."""
    activations: list[float | None]
    """Of the job's latents, in their order, before the edits; None where the position is not read."""
    edited: list[float | None] | None
    """The same after the edits; None without edits."""


@dataclass(frozen=True)
class EndEvent:
    """The end of a text."""

    text: int
    release: str
    reason: str
    """stop or length"""
    n_tokens: int
    prompt_verdicts: list[dict[str, Any]]
    answer_verdicts: list[dict[str, Any]]


class _Text:
    """One text of the batch while it grows."""

    def __init__(self, number: int, prompt: Prompt, tokenizer: Any, stops: Sequence[str]) -> None:
        self.number, self.prompt = number, prompt
        self.growing, self.stop = GrowingText(tokenizer), StopText(stops)
        self.reason = ""
        self.n_read = 0
        """Tokens of the answer whose activations were recorded."""
        self.rows: dict[str, list[Tensor]] = {}
        """SAE label → activations [tokens, watched] of the prompt, then of each token read."""


def answer(model: LanguageModel, job: Job, hooks: Hooks) -> Iterator[TokenEvent | EndEvent]:
    """Yields the tokens of all texts as they come, and the end of each.

    Raises UserError before the first event for prompts that leave no room, and TooStrongError for edits that leave no
    answer.
    """
    return _Answering(model, job, hooks).events()


class _Answering:
    def __init__(self, model: LanguageModel, job: Job, hooks: Hooks) -> None:
        check_room(model, [prompt.ids for prompt in job.prompts], job.n_tokens)
        self.model, self.job, self.hooks = model, job, hooks
        self.texts = [_Text(b, prompt, model.tokenizer, job.stops) for b, prompt in enumerate(job.prompts)]
        self.watches = bool(hooks.readers)

    def events(self) -> Iterator[TokenEvent | EndEvent]:
        job, ends = self.job, end_ids(self.model)
        edits: dict[str, PlacedEdit] = dict(self.hooks.watches)
        decoding = Decoding(self.model, [prompt.ids for prompt in job.prompts], edits)
        if self.watches:
            self._record(0)
        choose = Chooser(Sampling(job.temperature, job.top_p, job.seed, job.groups), len(self.texts))
        site = ", ".join(self.hooks.watches) or "no site"
        for step in range(job.n_tokens):
            check_finite(decoding.logits, site, self.model, [self.hooks.edited] * len(self.texts))
            tokens = choose(decoding.logits)
            log_probs = decoding.logits.log_softmax(-1)
            written = [(text, *self._next(text, int(tokens[text.number]), ends)) for text in self._open()]
            is_last = step + 1 == job.n_tokens or not self._open()
            # the pass that reads the new tokens gives their activations; without watching, the last needs none
            if not is_last or (self.watches and decoding.n_positions < self.model.max_positions and written):
                decoding.append(tokens)
                if self.watches:
                    self._record(step + 1)
            for text, token, piece, release in written:
                if token is not None:
                    yield self._token(text, token, (piece, release), log_probs[text.number])
                if text.reason or is_last:
                    yield self._end(text)
            if is_last:
                return

    def _open(self) -> list[_Text]:
        return [text for text in self.texts if not text.reason]

    def _next(self, text: _Text, token: int, ends: frozenset[int]) -> tuple[int | None, str, str]:
        """(token, piece, text to release) of a text's next token; no token where it ends the text."""
        if token in ends:
            text.reason = "stop"
            return None, "", ""
        piece = text.growing.add(token)
        release = text.stop.add(piece)
        if text.stop.stopped:
            text.reason = "stop"
        return token, piece, release

    def _record(self, n_new: int) -> None:
        """Keeps what the latest pass read: of the prompts at first, then of the token before the next."""
        for label, reader in self.hooks.readers.items():
            positions = self.hooks.watches[self.hooks.site_of[label]].positions
            assert positions is not None
            before, after = reader.taken()
            for text in self.texts:
                n_prompt = len(text.prompt.ids)
                places = range(n_prompt) if n_new == 0 else [n_prompt + n_new - 1]
                columns = [int((positions[text.number] == p).nonzero()[0, 0]) for p in (places[0], places[-1])]
                part = slice(columns[0], columns[1] + 1)
                rows = torch.stack([before[text.number, part], after[text.number, part]])
                text.rows.setdefault(label, []).append(rows)

    def _token(self, text: _Text, token: int, written: tuple[str, str], log_probs: Tensor) -> TokenEvent:
        piece, release = written
        top = log_probs.topk(self.job.n_top) if self.job.n_top else None
        text.n_read += 1
        sides: list[list[float | None]] = [[], []]
        for ref in self.job.latents:
            parts = text.rows.get(ref.sae, [])
            column = self.hooks.readers[ref.sae].latents.index(ref.latent)
            for k, side in enumerate(sides):
                value = float(parts[text.n_read][k, 0, column]) if text.n_read < len(parts) else math.nan
                side.append(None if math.isnan(value) else value)
        return TokenEvent(
            text.number,
            token,
            piece=piece,
            release=release,
            log_prob=float(log_probs[token]),
            top=[] if top is None else list(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
            activations=sides[0],
            edited=sides[1] if self.hooks.edited else None,
        )

    def _end(self, text: _Text) -> EndEvent:
        pieces = token_pieces(self.model.tokenizer, text.prompt.ids)
        answer_pieces = token_pieces(self.model.tokenizer, text.growing.ids)
        return EndEvent(
            text.number,
            release=text.stop.finish(),
            reason=text.reason or "length",
            n_tokens=len(text.growing.ids),
            prompt_verdicts=[verdict.to_json(pieces) for verdict in self._verdicts(text, of_prompt=True)],
            answer_verdicts=[verdict.to_json(answer_pieces) for verdict in self._verdicts(text, of_prompt=False)],
        )

    def _verdicts(self, text: _Text, *, of_prompt: bool) -> list[Verdict]:
        """What the monitors say of the prompt or of the answer, on activations before the edits."""
        return [monitor.verdict(self._firings(text, monitor.sae, of_prompt)) for monitor in self.job.monitors]

    def _firings(self, text: _Text, label: str, of_prompt: bool) -> Firings:
        parts, reader = text.rows[label], self.hooks.readers[label]
        ids = text.prompt.ids if of_prompt else text.growing.ids
        rows = parts[:1] if of_prompt else parts[1 : 1 + len(ids)]
        values = torch.cat([part[0] for part in rows]).numpy() if rows else np.zeros((0, len(reader.latents)))
        keep = np.array([token not in self.model.special_token_ids for token in ids[: len(values)]], bool)
        if of_prompt and text.prompt.watched:
            keep &= np.array(text.prompt.watched, bool)
        keep &= ~np.isnan(values).any(1)
        position, column = np.nonzero(np.where(keep[:, None], np.nan_to_num(values), 0) > 0)
        latents = np.array(reader.latents, np.int64)[column]
        return Firings(
            position,
            latents,
            values[position, column].astype(np.float32),
            int(keep.sum()),
            n_dropped=len(ids) - len(values),
        )
