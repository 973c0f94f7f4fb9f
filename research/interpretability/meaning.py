"""Search by meaning: are the first latents that the search page answers with about the concept asked for?

Run: python -m research.interpretability.meaning RUN [--sae SITE/NAME] [--out FILE]

Every concept of `concepts.py` is asked for as on the search page (`app.meaning`), and its first `N_HITS` latents are
judged by a rule, not by hand: a latent *fits* a concept if at the peaks of `MIN_SHARE` of its `N_CONTEXTS` strongest
contexts there stands the concept's word or one of its close words. At a peak stand the word that holds the peak's token
and the word before it, since a latent may fire on what follows. A search *succeeds* if one of its first latents fits.

Beside it, judged alike:

    random   the same number of latents drawn from all that have contexts: exact, 1 − C(n − f, k) / C(n, k) with f of n
             latents that fit
    others   the latents that the other concepts' searches gave, mean over them
    exact    the search for the concept's word in labels, as the same page makes it first

`close`: only close words count, without the concept's own, so that what an exact search would find does not help.
Intervals are percentiles over resampled concepts (bootstrap). Limits: a latent about a concept whose contexts peak on
other words is counted as a miss, and words with two meanings as hits.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.app.catalogue import Catalogue
from monosemy.app.lists import search_labels
from monosemy.app.live import LiveModel
from monosemy.app.meaning import NEAR, Meanings
from monosemy.errors import UserError
from monosemy.evals.intervals import bootstrap_weights, ratio_interval
from monosemy.features.store.database import FeatureDatabase
from research import common, run_folders
from research.interpretability.concepts import CLOSE_WORDS
from research.records import record_path

N_HITS = 5
N_CONTEXTS = 10
MIN_SHARE = 0.3
N_BEFORE, N_AFTER = 12, 6
"""Tokens around a peak within which its words are read."""
N_RESAMPLES = 2000
Peaks = Mapping[int, Sequence[frozenset[str]]]
"""Latent → for each of its strongest contexts what stands at the peak."""


def peaks_of(database: FeatureDatabase) -> dict[int, list[frozenset[str]]]:
    """What stands at the peaks of every latent that has contexts."""
    peaks = {}
    for latent in range(database.n_latents):
        if examples := database.examples(latent, ["top"])[:N_CONTEXTS]:
            peaks[latent] = [at_peak(database, example.token_ids, example.peak) for example in examples]
    return peaks


def at_peak(database: FeatureDatabase, token_ids: np.ndarray, peak: int) -> frozenset[str]:
    """The peak's token, the word that holds it and the word before that; small letters, no spaces."""
    first = max(0, peak - N_BEFORE)
    texts = database.tokens.texts(token_ids[first : peak + N_AFTER + 1].tolist())
    place = peak - first
    start = len("".join(texts[:place]))
    token = texts[place].strip()
    start += len(texts[place]) - len(texts[place].lstrip())
    words = [word for word in re.finditer(r"[^\W\d_]+", "".join(texts)) if word.start() < start + max(1, len(token))]
    return frozenset({token.casefold(), *(word.group().casefold() for word in words[-2:])})


def fits(contexts: Sequence[Collection[str]], words: Collection[str]) -> bool:
    """Whether one of the words stands at the peak of `MIN_SHARE` of the contexts."""
    n_fitting = sum(not frozenset(words).isdisjoint(peak) for peak in contexts)
    return n_fitting >= MIN_SHARE * len(contexts)


def success_of_random(n: int, n_fitting: int, n_drawn: int = N_HITS) -> float:
    """The chance that one of `n_drawn` latents, drawn without replacement from n, is among the fitting ones."""
    return 1 - comb(n - n_fitting, n_drawn) / comb(n, n_drawn)


def judge(hits: Mapping[str, Sequence[int]], peaks: Peaks, own: bool = True) -> dict[str, dict[str, float]]:
    """By concept: the share of its hits that fit and whether one does; the same of random latents and of the other
    concepts' hits. `own`: whether the concept's own word counts."""
    judged = {}
    for concept, latents in hits.items():
        words = {*CLOSE_WORDS[concept].split(), *([concept] if own else [])}
        fitting = {latent for latent, contexts in peaks.items() if fits(contexts, words)}
        others = [other for name, other in hits.items() if name != concept]
        judged[concept] = {
            "fitting": len(fitting),
            "share": np.mean([latent in fitting for latent in latents]) if latents else 0.0,
            "success": float(not fitting.isdisjoint(latents)),
            "random_share": len(fitting) / len(peaks),
            "random_success": success_of_random(len(peaks), len(fitting)),
            "others_share": float(np.mean([latent in fitting for other in others for latent in other])),
            "others_success": float(np.mean([not fitting.isdisjoint(other) for other in others])),
        }
    return judged


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean over concepts, with an interval from resampled concepts."""
    weights = bootstrap_weights(len(values), N_RESAMPLES)
    interval = ratio_interval(np.asarray(values, np.float64), np.ones(len(values)), weights)
    return {"mean": float(np.mean(values)), "interval": interval, "n": len(values)}


def summary(judged: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Means over concepts of what `judge` gives, and of the search's success where a latent fits at all."""
    means = {
        name: mean_with_interval([row[name] for row in judged.values()])
        for name in ("success", "share", "random_success", "random_share", "others_success", "others_share")
    }
    there = [row["success"] for row in judged.values() if row["fitting"]]
    return means | {"success_where_there_is_one": mean_with_interval(there)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run with features")
    parser.add_argument("--sae", metavar="SITE/NAME", help="default: the first SAE of the run's pages")
    parser.add_argument("--out", type=Path, default=record_path("interpretability", "meaning"))
    options = parser.parse_args()
    catalogue = Catalogue(options.run)
    with_features = {sae.saved.label: sae for sae in catalogue.saes() if sae.database is not None}
    name = options.sae or next(iter(with_features), "")
    if name not in with_features:
        raise UserError(f"no features of {name or 'any SAE'} in {options.run}; there are: {', '.join(with_features)}")
    sae, database = with_features[name], with_features[name].database
    assert database is not None
    meanings, peaks = Meanings(LiveModel(catalogue)), peaks_of(database)
    answers = {concept: meanings.search(sae, database, concept, N_HITS)["hits"] for concept in CLOSE_WORDS}
    hits = {concept: [hit["latent"] for hit in answer] for concept, answer in answers.items()}
    exact = {concept: [hit["latent"] for hit in search_labels(sae, concept, N_HITS)["hits"]] for concept in CLOSE_WORDS}
    judged, judged_exact = judge(hits, peaks), judge(exact, peaks)
    near = {concept: float(answer[0]["score"]) if answer else 0.0 for concept, answer in answers.items()}
    concepts = {
        concept: {
            "hits": round(N_HITS * row["share"]),
            "fitting": row["fitting"],
            "nearness": round(near[concept], 2),
            "exact": int(judged_exact[concept]["success"]),
        }
        for concept, row in judged.items()
    }
    record = {
        "sae": name,
        "model": catalogue.provenance.get("model", {}).get("name"),
        "n_hits": N_HITS,
        "n_contexts": N_CONTEXTS,
        "min_share": MIN_SHARE,
        "near": NEAR,
        "n_latents": len(peaks),
        "meaning": summary(judged),
        "close": summary(judge(hits, peaks, own=False)),
        "exact": summary(judged_exact),
        "said_near": said_near(concepts),
        "concepts": concepts,
    }
    show(record)
    common.save(options.out, record)


def said_near(concepts: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Of the searches whose first latent is said to be near, and of the others, how many there are and succeed."""
    counts = {"near": 0, "near_succeed": 0, "far": 0, "far_succeed": 0}
    for row in concepts.values():
        side = "near" if row["nearness"] >= NEAR else "far"
        counts[side] += 1
        counts[f"{side}_succeed"] += row["hits"] > 0
    return counts


def show(record: Mapping[str, Any]) -> None:
    for concept, row in record["concepts"].items():
        print(f"{concept:12s} {row['hits']} of {N_HITS} fit, {row['fitting']:4d} latents do; nearest {row['nearness']}")
    for kind in ("meaning", "close", "exact"):
        print(f"\n{kind}")
        for name, value in record[kind].items():
            low, high = value["interval"]
            print(f"  {name:28s} {value['mean']:.3f} [{low:.3f}, {high:.3f}] of {value['n']}")
    print(record["said_near"])


if __name__ == "__main__":
    run_folders.run(main)
