"""Tries latents on the user's own prompt and ranks them by whether the answer has the wished-for words.

Place on the path: candidates, ranked by one push before the next token (`output_score`) → [a short answer with each]
→ the one that `monosemy steer --find … --prompt …` steers by. A push at one token ranks thousands of latents cheaply,
but what a model writes under a lasting change is another matter: the best latent of the push is often the tenth of the
answers, and some of the first ones say the words nowhere.

    share of the words   answer's words that begin with a wished-for word / answer's words      (no case)

Fluent answers come first: those of whose pairs of tokens at least `MIN_DISTINCT` are different (distinct-2). Among
those with an equal share, none for example, the one whose words come nearest to the wished-for ones in the model's
token embedding is first ("defeat the enemy" for "war"); what is then still equal keeps its order. Limits: one short
greedy answer each, and the latent is chosen by what is then shown, so another prompt will have fewer of the words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from monosemy.rooms import load
from monosemy.steering.request import SteeringRequest

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.steering.saes import SteeringSaes

_NEARNESS = "monosemy.features.view.meaning:nearness"
N_TRIED = 32
N_TOKENS = 32
MIN_DISTINCT = 0.6
"""Share of different pairs of tokens from which on an answer counts as fluent; as in research/steering."""


class Trial(NamedTuple):
    """The answer with one candidate."""

    candidate: int
    """Its place among the candidates."""
    n_said: int
    """Words of the answer that begin with a wished-for one."""
    n_words: int
    fluent: bool
    nearness: float = 0.0
    """How near the answer's words come to the wished-for ones (`features.view.meaning.nearness`)."""

    @property
    def share(self) -> float:
        return self.n_said / self.n_words if self.n_words else 0.0


def try_latents(
    model: LanguageModel,
    saes: SteeringSaes,
    *,
    requests: Sequence[SteeringRequest],
    words: Sequence[str],
) -> list[Trial]:
    """The trials of all requests, which share their prompt and have one candidate's edits each, best first.

    Raises as `generate.stream` does, TooStrongError for edits that leave no answer included.
    """
    import dataclasses

    from monosemy.steering.generate import Sampling, finished, generating, make_columns
    from monosemy.steering.saes import TextEdits
    from monosemy.support import progress

    steered = [
        make_columns(model, saes, dataclasses.replace(request, columns=("steered",)))[0][0] for request in requests
    ]
    prompts = [column.prompt_ids for column in steered]
    edits = TextEdits(model, saes, [column.steering for column in steered])
    n_tokens = min(N_TOKENS, requests[0].n_tokens)
    with progress.stage(f"write with {len(prompts)} latents", total=n_tokens, unit="tokens") as bar:
        writing = generating(model, prompts, edits, n_tokens=n_tokens, sampling=Sampling())
        answers = finished(writing, advance=bar.advance)
    embedding = model.module.get_input_embeddings().weight  # type: ignore[operator]
    tokenizer = model.tokenizer_for("looking for words")
    near = load(_NEARNESS)(embedding, tokenizer, words=words, texts=[answer.text for answer in answers])
    trials = [
        _trial(number, answer.ids, answer.text, words)._replace(nearness=nearness)
        for number, (answer, nearness) in enumerate(zip(answers, near, strict=True))
    ]
    return sorted(trials, key=lambda trial: (not trial.fluent, -trial.share, -trial.nearness))


def _trial(candidate: int, ids: Sequence[int], text: str, words: Sequence[str]) -> Trial:
    from monosemy.steering.measure import distinct_n

    beginnings = tuple(word.strip().casefold() for word in words)
    answer_words = re.findall(r"\w+", text.casefold())
    n_said = sum(word.startswith(beginnings) for word in answer_words)
    return Trial(candidate, n_said, len(answer_words), fluent=(distinct_n(ids, 2) or 0.0) >= MIN_DISTINCT)
