"""Does a chat model agree with itself about what a latent fires on? Asked before its scores are believed.

Called by `interpretability.py --chat N` with the local model. Each latent's passages are dealt into two halves. The
first repeat explains from one half and is scored on the other (detection: P(yes) that a passage sets the latent off, on
as many firing as random passages); the second repeat the other way round: other examples, in another order, judged on
other passages. The wrong explanation is another latent's first one, judged on the first repeat's passages.

    agreement       rank correlation over latents of the two repeats' AUROCs, interval from resampling latents
    right − wrong   AUROC of the latent's own explanation in the first repeat minus the wrong one's: what it is worth

Questions and answers are kept beside the database, so that a second run asks nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monosemy.evals.intervals import percentiles
from monosemy.features.explain import prompts
from monosemy.features.explain.chat import ChatModel, open_chat
from monosemy.features.explain.explanations import choose_latents, deal, passages
from monosemy.features.explain.journal import Journal
from monosemy.features.explain.prompts import Passage
from monosemy.features.labels.scores import auroc
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.store.settings import RANDOM
from monosemy.layout import FeatureFiles
from monosemy.support import progress

N_PASSAGES = 8
N_EXAMPLES = 12


def agreement(folder: Path, name: str, n_latents: int) -> dict[str, Any]:
    """The numbers above, for n latents of the database in `folder`."""
    database, journal = FeatureDatabase.open(folder), Journal(FeatureFiles(folder).journal)
    chat = open_chat("embedded")
    latents = choose_latents(database, n_latents)
    repeats: list[list[float]] = []
    texts: list[tuple[str, str]] = []
    passage_pairs: list[tuple[list[Passage], list[Passage]]] = []
    with progress.stage("chat model", len(latents), "latents") as bar:
        for latent in latents:
            halves, random = deal(database, latent), passages(database, latent, [RANDOM])
            firing = [half[:N_PASSAGES] for half in halves]
            pair = [explanation(chat, journal, database, latent, examples=half[:N_EXAMPLES]) for half in halves]
            silent = [random[0::2][:N_PASSAGES], random[1::2][:N_PASSAGES]]
            repeats.append(
                [detection(chat, journal, latent, pair[i], firing=firing[1 - i], silent=silent[i]) for i in (0, 1)]
            )
            texts.append((pair[0], pair[1]))
            passage_pairs.append((firing[1], silent[0]))
            bar.advance(1)
    wrong = [
        detection(chat, journal, latent, texts[(i + 1) % len(texts)][0], firing=firing, silent=silent)
        for i, (latent, (firing, silent)) in enumerate(zip(latents, passage_pairs, strict=True))
    ]
    first, second = np.array(repeats).T
    right_minus_wrong = first - np.array(wrong)
    draws = np.random.default_rng(0).integers(0, len(latents), (2000, len(latents)))
    return {
        "model": chat.name,
        "dictionary": name,
        "n_latents": len(latents),
        "n_passages_each": N_PASSAGES,
        "auroc": float(np.mean([first, second])),
        "auroc_interval": percentiles(((first + second) / 2)[draws].mean(1)),
        "agreement": None if np.isnan(correlation := rank_correlation(first, second)) else correlation,
        "agreement_interval": percentiles(np.array([rank_correlation(first[d], second[d]) for d in draws])),
        "first_auroc": float(first.mean()),
        "wrong_auroc": float(np.mean(wrong)),
        "right_minus_wrong": float(right_minus_wrong.mean()),
        "right_minus_wrong_interval": percentiles(right_minus_wrong[draws].mean(1)),
        "same_explanation": float(np.mean([a.casefold() == b.casefold() for a, b in texts])),
        "explanations": [[int(database.info["latents"][i]), *pair] for i, pair in zip(latents, texts)],
    }


def explanation(
    chat: ChatModel, journal: Journal, database: FeatureDatabase, latent: int, *, examples: list[Passage]
) -> str:
    """What the model says of the examples; "nothing" where it says nothing."""
    raised = [database.tokens.text(token).strip() for token, _ in database.output_tokens(latent)[0][:8]]
    largest = float(database.columns["max"][latent])
    messages = prompts.explain_messages(examples, largest, [text for text in raised if text])
    reply = journal.ask(
        chat, latent, "explanation", messages, question=lambda: chat.reply(messages, prompts.N_EXPLAIN_TOKENS)
    )
    return prompts.read_explanation(reply) or "nothing"


def detection(
    chat: ChatModel, journal: Journal, latent: int, text: str, *, firing: list[Passage], silent: list[Passage]
) -> float:
    """AUROC of P(yes), firing passages against silent ones; unreadable answers count as ½."""
    p_yes = []
    for group in (firing, silent):
        answers = []
        for passage in group:
            messages = prompts.detection_messages(text, passage)
            answer = journal.ask(chat, latent, "detection", messages, question=lambda m=messages: list(chat.yes(m)))
            answers.append(0.5 if answer[0] is None else float(answer[0]))
        p_yes.append(np.array(answers))
    return float(auroc(p_yes[0], p_yes[1]))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; NaN where a side is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(a), rankdata(b)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
