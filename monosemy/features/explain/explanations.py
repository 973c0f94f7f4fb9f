"""Explanations by a chat model, and how well each tells where its latent fires.

Place on the data's path: feature database + `chat` → a phrase and its scores, back into the database.

Per latent, its contexts are dealt in turn into those that the explanation is written from and those it is scored on:
    explanation  from up to 24 passages over all quantiles of activation, firing words marked
    detection    P(yes) that a passage sets the latent off: firing against random ones, and against near misses, apart
    fuzzing      P(yes) that the marked words are the right ones: right marks against as many on silent words
    simulation   correlation of the activations that the model expects with the true ones, where it gives probabilities
One passage a prompt; nothing is parsed out of words where log-probabilities exist (else yes and no in the reply count
as 1 and 0, and the record says so). Every prompt and answer is kept (`journal`).

Source: detection and fuzzing after Paulo et al., Automatically interpreting millions of features (2024); simulation
after Bills et al. (2023). Deviations: one example a prompt; negatives of two kinds, never mixed.
Limits: twelve random and twelve near-miss windows a latent are stored by default, so those intervals are wide.
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
"""Passages an explanation is written from, at most."""
N_SCORED = 20
"""Firing passages it is scored on, at most."""
N_SIMULATED = 6
MIN_PASSAGES = 4
"""Firing passages below which a latent is not explained."""


@dataclass(frozen=True)
class Explained:
    """A latent's explanation. text is "" when the latent fires too seldom or the model said nothing."""

    latent: int
    text: str
    record: dict[str, Any]
    """model, n_passages, scores {detection_random, detection_near_miss, fuzzing, simulation}, skipped {score: why}."""


def explain_latents(
    database: FeatureDatabase, latents: Sequence[int], chat: ChatModel, *, seed: int = 0
) -> Iterator[Explained]:
    """Explains and scores latents one by one; each is written to the database before it is handed out.

    Raises UserError for a latent out of range, a chat model too short for any question, a server that fails, a folder
    that cannot be written, or features that are being built or explained already; what was asked by then is kept, and
    the same call goes on from there.
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
    """One latent's explanation and scores, not yet written to the database."""
    written_from, scored = deal(database, latent)
    record: dict[str, Any] = {"model": chat.name, "n_passages": len(written_from), "scores": {}, "skipped": {}}
    if len(written_from) < MIN_PASSAGES:
        return Explained(latent, "", record | {"skipped": {"explanation": "it fires in too few contexts"}})

    def ask(kind: str, messages: Any, question: Callable[[], Any], **facts: Any) -> Any:
        return journal.ask(chat, latent, kind, messages, question=question, **facts)

    raised = [database.tokens.text(token).strip() for token, _ in database.output_tokens(latent)[0][:8]]
    largest = float(database.columns["max"][latent])
    while True:
        messages = prompts.explain_messages(written_from, largest, [text for text in raised if text])
        if len(written_from) <= MIN_PASSAGES or chat.fits(messages, prompts.N_EXPLAIN_TOKENS):
            break
        written_from = written_from[:-1]  # dealt over the quantiles in turn: the rest still covers them
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
    """Puts detection, fuzzing and simulation into the record."""
    scores, skipped = record["scores"], record["skipped"]
    from_words = [0]

    def yes(kind: str, messages: Any, passage: Passage) -> float | None:
        probability, reply = ask(kind, messages, lambda: list(chat.yes(messages)), passage=passage.key)
        if probability is not None:
            return float(probability)
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
    """(passages to explain from, passages to score on), each over the quantiles in turn, the strongest first."""
    piles: tuple[list[list[Passage]], list[list[Passage]]] = ([], [])
    dealt: set[tuple[int, int]] = set()
    for group in ("top", "q4", "q3", "q2", "q1", "q0"):
        fresh = [p for p in passages(database, latent, [group]) if (p.context, p.start) not in dealt]
        dealt |= {(p.context, p.start) for p in fresh}
        piles[0].append(fresh[::2])
        piles[1].append(fresh[1::2])
    first, second = (_in_turn(pile) for pile in piles)
    return first[:N_EXPLAIN], second[:N_SCORED]


def _in_turn(groups: list[list[Passage]]) -> list[Passage]:
    """One of each group, then a second of each, …"""
    longest = max((len(group) for group in groups), default=0)
    return [group[k] for k in range(longest) for group in groups if k < len(group)]


def passages(database: FeatureDatabase, latent: int, groups: Sequence[str]) -> list[Passage]:
    """The windows of the latent's examples of some groups: the window of the peak, as long as the build's windows."""
    window = int(database.info["window"])
    return [_passage(database, example, window) for example in database.examples(latent, groups)]


def _passage(database: FeatureDatabase, example: Example, window: int) -> Passage:
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
    """n latents drawn uniformly among those that fired in at least MIN_PASSAGES·4 places; all of them where fewer."""
    alive = np.flatnonzero(np.asarray(database.columns["n_fired"]) >= 4 * MIN_PASSAGES)
    return np.sort(np.random.default_rng(seed).permutation(alive)[:n]).tolist()
