"""Explains latents with a chat model, and scores how well each explanation predicts where its latent fires.

Place on the data's path: feature database + `chat` → a phrase and its scores, back into the database.

A latent's contexts are dealt alternately to two piles; the explanation is written from one and scored on the other:
    explanation  from up to 24 passages over all quantiles of activation, with the firing words marked
    detection    P(yes) that the latent fires in a passage: firing passages against random ones, and separately against
                 near misses
    fuzzing      P(yes) that the marked words are the right ones: right marks against as many marks on silent words
    simulation   correlation of the activations that the model expects with the true ones, if it gives probabilities
Each prompt has one passage. Answers are read from log-probabilities where they exist; else yes and no in the reply
count as 1 and 0, and the record says so. Every prompt and answer is kept (`journal`).

Source: detection and fuzzing after Paulo et al., Automatically interpreting millions of features (2024); simulation
after Bills et al. (2023). Deviations: one example per prompt; negatives of two kinds, never mixed.
Limits: by default twelve random and twelve near-miss windows per latent are stored, so those intervals are wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.errors import UserError
from monosemy.features.explain import prompts
from monosemy.features.explain.chat import ChatModel
from monosemy.features.explain.journal import Journal
from monosemy.features.explain.prompts import Passage
from monosemy.features.explain.scores import simulation_score, yes_no_score
from monosemy.features.store.database import Example, FeatureDatabase
from monosemy.features.store.settings import NEAR_MISS, RANDOM
from monosemy.features.store.write import writing

N_EXPLAIN = 24
"""The largest number of passages that an explanation is written from."""
N_SCORED = 20
"""The largest number of firing passages that it is scored on."""
N_SIMULATED = 6
MIN_PASSAGES = 4
"""A latent with fewer passages to explain from is not explained."""


@dataclass(frozen=True)
class Explained:
    """A latent's explanation. `text` is "" if the latent fires too rarely or the model gave no usable reply."""

    latent: int
    text: str
    record: dict[str, Any]
    """model, n_passages, scores {detection_random, detection_near_miss, fuzzing, simulation}, skipped {score: why}."""


def explain_latents(
    database: FeatureDatabase, latents: Sequence[int], chat: ChatModel, *, seed: int = 0
) -> Iterator[Explained]:
    """Explains and scores latents one by one, and yields each after writing it to the database.

    Raises UserError for a latent out of range, a chat model whose context is too short for any question, a server that
    fails, a folder that cannot be written, or features that another process is building or explaining. All answers up
    to then are kept, and the same call continues from there.
    """
    if not chat.fits(prompts.explain_messages([], 0.0, []), prompts.N_EXPLAIN_TOKENS):
        raise UserError(
            f"the positions of {chat.name} do not hold even the question; choose a --chat model that reads longer texts"
        )
    with writing(database.folder):
        database = FeatureDatabase.open(database.folder)  # a build may have ended since it was opened
        journal = Journal(database.files.journal)
        for latent in latents:
            database.check(latent)
        for latent in latents:
            explained = explain_latent(database, latent, chat, journal, seed=seed)
            if explained.text:
                database.write_explanations({latent: (explained.text, explained.record)})
            yield explained


def explain_latent(
    database: FeatureDatabase, latent: int, chat: ChatModel, journal: Journal, *, seed: int = 0
) -> Explained:
    """The explanation and scores of one latent, not yet written to the database."""
    written_from, scored = deal(database, latent)
    record: dict[str, Any] = {"model": chat.name, "n_passages": len(written_from), "scores": {}, "skipped": {}}
    if len(written_from) < MIN_PASSAGES:
        return Explained(latent, "", record | {"skipped": {"explanation": "it fires in too few contexts"}})

    def ask(kind: str, messages: Any, question: Callable[[], Any], **facts: Any) -> Any:
        return journal.ask(chat, latent, kind, messages, question=question, **facts)

    raised = [database.tokens.text(token).strip() for token, _ in database.output_tokens(latent)[0][:8]]
    largest = float(database.columns["max"][latent])
    # shorten the prompt until it fits the model's context, but keep a minimum of passages
    while True:
        messages = prompts.explain_messages(written_from, largest, [text for text in raised if text])
        if len(written_from) <= MIN_PASSAGES or chat.fits(messages, prompts.N_EXPLAIN_TOKENS):
            break
        written_from = written_from[:-1]  # passages alternate between quantiles, so the rest still covers them all
    record["n_passages"] = len(written_from)
    if not chat.fits(messages, prompts.N_EXPLAIN_TOKENS):
        return Explained(latent, "", record | {"skipped": {"explanation": "its contexts are too long for the model"}})
    reply = ask("explanation", messages, lambda: chat.reply(messages, prompts.N_EXPLAIN_TOKENS))
    text = prompts.read_explanation(reply)
    if not text:
        return Explained(latent, "", record | {"skipped": {"explanation": "the model's reply was empty"}})
    negatives = {kind: passages(database, latent, [kind]) for kind in (RANDOM, NEAR_MISS)}
    _score(record, text, chat, scored, negatives=negatives, ask=ask, random=np.random.default_rng([seed, latent]))
    return Explained(latent, text, record)


def _score(
    record: dict[str, Any],
    text: str,
    chat: ChatModel,
    scored: list[Passage],
    *,
    negatives: dict[str, list[Passage]],
    ask: Callable[..., Any],
    random: np.random.Generator,
) -> None:
    """Adds the scores of detection, fuzzing and simulation to the record, or why one was skipped."""
    # the positives' answers are asked once and scored against both kinds of negatives
    scores, skipped = record["scores"], record["skipped"]
    from_words = [0]

    def yes(kind: str, messages: Any, passage: Passage) -> float | None:
        probability, reply = ask(kind, messages, lambda: list(chat.yes(messages)), passage=passage.key)
        if probability is not None:
            return float(probability)
        # no log-probabilities: take the reply itself if it is a plain yes or no
        word = reply.strip().casefold().rstrip(".!,")
        from_words[0] += word in ("yes", "no")
        return {"yes": 1.0, "no": 0.0}.get(word)

    def detect(batch: list[Passage]) -> list[float | None]:
        return [yes("detection", prompts.detection_messages(text, passage), passage) for passage in batch]

    positive_answers = detect(scored)
    for kind, batch in negatives.items():
        if positive_answers and batch:
            scores[f"detection_{kind}"] = yes_no_score(
                positive_answers, detect(batch), _documents(scored), _documents(batch)
            )
        else:
            skipped[f"detection_{kind}"] = "no passages of this kind are stored"
    # fuzzing asks twice about each passage, with right and with wrong marks, so that the two sides are paired
    marked: list[Passage] = []
    right: list[float | None] = []
    wrong: list[float | None] = []
    for passage in scored:
        marks = prompts.wrong_marks(passage, random.random(len(passage.pieces)).tolist())
        if marks is not None:
            marked.append(passage)
            right.append(yes("fuzzing", prompts.fuzzing_messages(text, passage, passage.firing()), passage))
            wrong.append(yes("fuzzing", prompts.fuzzing_messages(text, passage, marks), passage))
    if right:
        scores["fuzzing"] = yes_no_score(right, wrong, _documents(marked), _documents(marked))
    else:
        skipped["fuzzing"] = "no passage has enough silent words to mark"
    if from_words[0]:
        record["answers_from_words"] = from_words[0]
    _simulate(record, text, chat, [*scored[:N_SIMULATED], *negatives[RANDOM][:2]], ask=ask)


def _simulate(
    record: dict[str, Any], text: str, chat: ChatModel, batch: list[Passage], *, ask: Callable[..., Any]
) -> None:
    """Adds the simulation score to the record, or why there is none."""
    messages = prompts.simulation_messages(text)
    simulated, simulated_passages = [], []
    for passage in batch:
        pieces = prompts.simulation_pieces(passage.pieces)
        digits = ask(
            "simulation", messages, lambda asked_pieces=pieces: chat.digits(messages, asked_pieces), pieces=pieces
        )
        if digits is not None:
            simulated.append(digits)
            simulated_passages.append(passage)
    if simulated:
        score = simulation_score(
            simulated, [passage.activations for passage in simulated_passages], _documents(simulated_passages)
        )
        record["scores"]["simulation"] = score | {"n_missing": len(batch) - len(simulated)}
    else:
        record["skipped"]["simulation"] = "the model gives no log-probabilities that a digit could be read from"


def _documents(batch: Sequence[Passage]) -> list[int]:
    return [passage.document for passage in batch]


def deal(database: FeatureDatabase, latent: int) -> tuple[list[Passage], list[Passage]]:
    """(passages to explain from, passages to score on), each alternating between the quantiles, the strongest first.

    A window that belongs to several groups of examples is dealt once, so that the two never share one.
    """
    piles: tuple[list[list[Passage]], list[list[Passage]]] = ([], [])
    dealt: set[tuple[int, int]] = set()
    # within each group, passages go to the two piles alternately
    for group in ("top", "q4", "q3", "q2", "q1", "q0"):
        fresh = [p for p in passages(database, latent, [group]) if (p.context, p.start) not in dealt]
        dealt |= {(p.context, p.start) for p in fresh}
        piles[0].append(fresh[::2])
        piles[1].append(fresh[1::2])
    first, second = (_in_turn(pile) for pile in piles)
    return first[:N_EXPLAIN], second[:N_SCORED]


def _in_turn(groups: list[list[Passage]]) -> list[Passage]:
    """Interleaves the groups: the first of each, then the second of each, and so on."""
    longest = max((len(group) for group in groups), default=0)
    return [group[k] for k in range(longest) for group in groups if k < len(group)]


def passages(database: FeatureDatabase, latent: int, groups: Sequence[str]) -> list[Passage]:
    """The latent's examples of some groups, each cut to the build's window that contains its peak."""
    window = int(database.info["window"])
    return [_passage(database, example, window) for example in database.examples(latent, groups)]


def _passage(database: FeatureDatabase, example: Example, window: int) -> Passage:
    """The window of an example that contains its peak; a piece has the largest activation of its tokens."""
    start = example.peak // window * window
    tokens, values = example.token_ids[start : start + window], example.activations[start : start + window]
    pieces = database.tokens.pieces(tokens)
    return Passage(
        example.group,
        tuple(piece.text for piece in pieces),
        tuple(float(values[piece.start : piece.stop].max()) for piece in pieces),
        example.context,
        start=start,
        document=int(
            database.document_numbers(np.array([example.context * database.context_length + example.peak]))[0]
        ),
    )


def choose_latents(database: FeatureDatabase, n: int, seed: int = 0) -> list[int]:
    """Draws n latents uniformly from those that fired at least 4·MIN_PASSAGES times; all of them if there are fewer."""
    alive = np.flatnonzero(np.asarray(database.columns["n_fired"]) >= 4 * MIN_PASSAGES)
    return np.sort(np.random.default_rng(seed).permutation(alive)[:n]).tolist()
