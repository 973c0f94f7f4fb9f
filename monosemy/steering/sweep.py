"""Sweeps the strength of an edit: more and more of the latent, until the text falls apart.

Place on the path: generate, measure → [one point per strength]. Every prompt is answered at every strength with the
same random numbers, and each answer is measured (measure.py).

Source: strength chosen by a sweep, as in AxBench (Wu et al. 2025). Limits: answers to the same prompt at two strengths
are not independent; compare points by the mean of their differences prompt by prompt, not by two intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import check_room
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.edits import LatentScales, Steering
from monosemy.steering.generate import Answer, Sampling, check_positions, finished, generating
from monosemy.steering.measure import AnswerMeasures, measure_answer
from monosemy.steering.prompts import prompt_ids
from monosemy.steering.request import Edit, SteeringRequest
from monosemy.steering.saes import SteeredSae, SteeringSaes, TextEdits
from monosemy.steering.strength import TooStrongError

BATCH_TEXTS = 64
MAX_POINTS = 32


@dataclass(frozen=True)
class SweepPoint:
    """All answers at one strength, in the order of the distinct prompts."""

    value: float
    answers: list[Answer]
    measures: list[AnswerMeasures]
    too_strong: str = ""
    """Why there are no answers at this strength; empty if there are."""


def answer_all(
    model: LanguageModel,
    saes: SteeringSaes,
    prompts: Sequence[Sequence[int]],
    *,
    steerings: Sequence[Steering | None],
    n_tokens: int = 60,
    sampling: Sampling | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[list[Answer]]:
    """Continues every prompt under every steering, `BATCH_TEXTS` texts at a time; returns [steering][prompt].

    `sampling.groups` is ignored: a prompt draws the same random numbers under every steering. `advance` is called with
    the number of answers as they are finished. Raises UserError for a prompt that leaves no room for `n_tokens`, and
    TooStrongError for a steering that leaves no answer.
    """
    return finished(
        _answering(model, saes, prompts, steerings, n_tokens=n_tokens, sampling=sampling or Sampling(), advance=advance)
    )


def _answering(
    model: LanguageModel,
    saes: SteeringSaes,
    prompts: Sequence[Sequence[int]],
    steerings: Sequence[Steering | None],
    *,
    n_tokens: int,
    sampling: Sampling,
    advance: Callable[[int], object] | None = None,
    too_strong: dict[int, str] | None = None,
) -> Generator[int, None, list[list[Answer]]]:
    """As `answer_all`, but yields after every token the number of tokens that the current texts have.

    With `too_strong`, a steering that leaves no answer to some prompt does not raise. It is recorded there with the
    reason, and has no answers.
    """
    check_room(model, prompts, n_tokens)
    # (steering, prompt) pairs, so that a batch may mix several strengths
    jobs = [(s, p) for s in range(len(steerings)) for p in range(len(prompts))]
    answer_of: dict[tuple[int, int], Answer] = {}
    failures: dict[int, str] = {} if too_strong is None else too_strong
    for first in range(0, len(jobs), BATCH_TEXTS):
        batch = jobs[first : first + BATCH_TEXTS]
        # repeated until the batch passes: each failure removes at least one steering
        while batch := [job for job in batch if job[0] not in failures]:
            edits = TextEdits(model, saes, [steerings[s] for s, _ in batch])
            # one random group per prompt: the steerings of a prompt differ in what was done to them, not in their draws
            shared = replace(sampling, groups=tuple(p for _, p in batch))
            texts = [prompts[p] for _, p in batch]
            try:
                answers = yield from generating(model, texts, edits, n_tokens=n_tokens, sampling=shared)
            except TooStrongError as error:
                if too_strong is None or not error.rows:
                    raise
                failures.update({batch[row][0]: str(error) for row in error.rows})
                continue  # run the rest of the batch again without the steerings that failed
            answer_of.update(zip(batch, answers, strict=True))
            if advance:
                advance(len(batch))
            break
    return [[answer_of[s, p] for p in range(len(prompts)) if (s, p) in answer_of] for s in range(len(steerings))]


def sweep(
    model: LanguageModel,
    saes: SteeringSaes,
    prompts: Sequence[Sequence[int]],
    *,
    steering: Steering,
    values: Sequence[float],
    n_tokens: int = 60,
    sampling: Sampling | None = None,
) -> Iterator[SweepPoint]:
    """Yields one point per value; the value replaces that of the first edit, in that edit's unit.

    Copies of a prompt are answered once, with a warning, since intervals would count them as independent. Raises
    UserError for no value, more than `MAX_POINTS`, or an edit that cannot be made.
    """
    different = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    if n_copies := len(prompts) - len(different):
        warnings.warn(f"{n_copies} of {len(prompts)} prompts are copies of others and count once", stacklevel=2)
    prompts = different
    steps = _sweeping(
        model,
        saes,
        prompts,
        steering=steering,
        values=values,
        n_tokens=n_tokens,
        sampling=sampling or Sampling(),
    )
    yield from (step for step in steps if isinstance(step, SweepPoint))


def _sweeping(
    model: LanguageModel,
    saes: SteeringSaes,
    prompts: Sequence[Sequence[int]],
    *,
    steering: Steering,
    values: Sequence[float],
    n_tokens: int,
    sampling: Sampling,
) -> Iterator[SweepPoint | int]:
    """As `sweep`, but also yields the number of tokens written, after every token."""
    # refuse an impossible edit before anything is written
    steerings = [_at(steering, value) for value in _checked(values)]
    for point_steering in steerings:
        for edit in point_steering.edits:
            saes.resolve(edit)
    watch = steering.edits[:1]
    failures: dict[int, str] = {}
    answers = yield from _answering(
        model, saes, prompts, steerings, n_tokens=n_tokens, sampling=sampling, too_strong=failures
    )
    for number, (value, point_steering, row) in enumerate(zip(values, steerings, answers, strict=True)):
        if number in failures:
            yield SweepPoint(value, [], [], failures[number])
            continue
        measures = [
            measure_answer(model, saes, prompt, answer=answer.ids, steering=point_steering, watch=watch)
            for prompt, answer in zip(prompts, row, strict=True)
        ]
        yield SweepPoint(value, row, measures)


def sweep_events(
    model: LanguageModel,
    sae: SparseAutoencoder,
    request: SteeringRequest,
    values: Sequence[float],
    *,
    scales: LatentScales | None = None,
    others: Mapping[str, SteeredSae] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the sweep of a request's steered column as JSON events. After every token comes

    {"kind": "progress", "step": tokens written so far at all strengths, "n_tokens": the most there can be}

    so that the reader can stop between two tokens. Then there is one event per value:

    {"kind": "strength", "value", "text", "n_tokens", "perplexity", "mean_kl", "mean_log_prob_change", "distinct",
    "mean_activation": of the first edit's latent over the answer, after the edit; null for an empty answer}

    or, for a strength that leaves no answer, {"kind": "too_strong", "value", "error": why}.
    """
    if not request.edits:
        raise UserError("nothing to steer: name at least one latent to edit")
    prompt = prompt_ids(model, request.prompt, chat=request.chat, system=request.system)
    check_room(model, [prompt], request.n_tokens)
    check_positions(request.positions, len(prompt), request.n_tokens)
    steering = Steering(request.edits, request.positions, request.keep_error)
    sampling = Sampling(request.temperature, request.top_p, request.seed)
    steps = _sweeping(
        model,
        SteeringSaes(sae, scales, others),
        [prompt],
        steering=steering,
        values=values,
        n_tokens=request.n_tokens,
        sampling=sampling,
    )
    for point in steps:
        if isinstance(point, int):
            yield {"kind": "progress", "step": point, "n_tokens": request.n_tokens}
            continue
        if point.too_strong:
            yield {"kind": "too_strong", "value": point.value, "error": point.too_strong}
            continue
        answer, measures = point.answers[0], point.measures[0]
        summed = measures.summary()
        # the answer alone: the prompt is the same at every strength
        active = measures.after[len(prompt) :, 0]
        yield {
            "kind": "strength",
            "value": point.value,
            "text": answer.text,
            **summed,
            "mean_activation": float(active.mean()) if len(active) else None,
        }


def _checked(values: Sequence[float]) -> Sequence[float]:
    if not 1 <= len(values) <= MAX_POINTS:
        raise UserError(f"a sweep takes 1 to {MAX_POINTS} strengths, got {len(values)}")
    return values


def _at(steering: Steering, value: float) -> Steering:
    first: Edit = replace(steering.edits[0], value=value)
    return replace(steering, edits=(first, *steering.edits[1:]))
