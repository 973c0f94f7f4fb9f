"""What decides in the study of the search by meaning: which hits fit a concept, and what chance would give."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from feature_runs import DASH, END, IN, JULY, MARKET, SCRIPT, THE, open_tiny

from research.interpretability import meaning
from research.interpretability.concepts import CLOSE_WORDS


def test_at_a_peak_stand_its_token_its_word_and_the_word_before(tmp_path: Path):
    database = open_tiny(tmp_path)

    def words(*ids: int, peak: int) -> frozenset[str]:
        return meaning.at_peak(database, np.array(ids, np.int32), peak)

    assert words(END, THE, MARKET, IN, JULY, peak=4) == {"july", "in"}
    assert words(THE, MARKET, IN, JULY, peak=1) == {"market", "the"}
    assert words(JULY, THE, peak=0) == {"july"}
    assert {"alert", "<script>alert(1)</script>"} <= words(THE, SCRIPT, MARKET, peak=1)
    assert "market" not in words(DASH, IN, MARKET, peak=1)


def test_a_latent_fits_where_enough_of_its_contexts_have_one_of_the_words():
    contexts = [frozenset({"july"}), frozenset({"june", "in"}), frozenset({"the"}), *[frozenset({"market"})] * 7]
    assert not meaning.fits(contexts, {"july", "june"})
    assert meaning.fits(contexts, {"july", "june", "the"})
    assert meaning.fits(contexts[:1], {"july"})


def test_the_chance_of_random_latents_is_that_of_all_ways_to_draw_them():
    draws = list(combinations(range(7), 3))
    for n_fitting in range(8):
        share = np.mean([any(latent < n_fitting for latent in draw) for draw in draws])
        assert meaning.success_of_random(7, n_fitting, 3) == pytest.approx(share)


def test_hits_are_judged_beside_those_of_the_other_concepts():
    peaks = {latent: [frozenset({word})] for latent, word in enumerate(("angry", "anger", "female", "x", "x", "x"))}
    hits = {"anger": [0, 1, 3], "gender": [1, 5, 4]}
    judged = meaning.judge(hits, peaks)
    assert judged["anger"]["fitting"] == 2
    assert judged["anger"]["share"] == pytest.approx(2 / 3)
    assert (judged["anger"]["success"], judged["gender"]["success"]) == (1, 0)
    assert judged["anger"]["others_share"] == pytest.approx(1 / 3)
    assert judged["gender"]["others_success"] == 0
    close = meaning.judge(hits, peaks, own=False)["anger"]
    assert (close["fitting"], close["others_success"]) == (1, 0)
    summary = meaning.summary(judged)
    assert (summary["success"]["mean"], summary["success"]["n"]) == (0.5, 2)
    assert summary["success_where_there_is_one"]["mean"] == 0.5


def test_what_is_said_to_be_near_is_counted_apart():
    rows = {"a": {"nearness": 0.3, "hits": 2}, "b": {"nearness": 0.29, "hits": 1}, "c": {"nearness": 0.9, "hits": 0}}
    assert meaning.said_near(rows) == {"near": 2, "near_succeed": 1, "far": 1, "far_succeed": 1}


def test_concepts_are_many_and_in_small_letters():
    assert len(CLOSE_WORDS) >= 29
    assert {"gender", "anger", "bracket"} <= set(CLOSE_WORDS)
    for concept, words in CLOSE_WORDS.items():
        assert words == words.casefold()
        assert len(set(words.split()) - {concept}) >= 8, concept
