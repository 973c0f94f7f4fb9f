"""Highlights: the clearest latents first, none twice for the same thing, and none that never fired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from feature_runs import open_tiny

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view import highlights as highlights_module
from monosemy.features.view.highlights import clearest, highlights, is_clear, label_words


def test_a_latent_that_never_fired_is_not_shown_and_the_best_label_leads(tmp_path: Path):
    cards = highlights(open_tiny(tmp_path))
    assert cards.latents[0] == 0  # the only one whose label was scored
    assert sorted(cards.latents) == [0, 1, 2]
    assert cards.n_clear == 0  # it fired twice: too little to call it clear


LABELS = ["“garden”", "“river”", "“mountain”", ""]


def name_latents(monkeypatch: pytest.MonkeyPatch, labels: list[str]) -> None:
    monkeypatch.setattr(FeatureDatabase, "labels", lambda _, latents: [labels[int(latent)] for latent in latents])
    monkeypatch.setattr(highlights_module, "_named_peaks", lambda *_: 1.0)


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureDatabase:
    """Latents 0 to 2 are clear; 1 is the clearest, 0 comes next, and both fire together."""
    database = open_tiny(tmp_path)
    name_latents(monkeypatch, LABELS)
    columns = {
        "n_fired": [100, 100, 100, 0],
        "firing_rate": [0.01, 0.01, 0.01, 0],
        "label_auroc_low": [0.85, 0.99, 0.83, np.nan],
        "label_n": [40, 40, 40, 0],
    }
    changed = {name: np.array(values, np.float32) for name, values in columns.items()}
    database.columns = {**database.columns, **changed}
    return database


def test_the_clearest_come_by_the_lower_end_of_their_score(scored: FeatureDatabase):
    assert is_clear(scored).tolist() == [True, True, True, False]
    assert clearest(scored, 3).tolist() == [1, 0, 2]


def test_of_two_that_fire_together_only_one_is_taken_early(scored: FeatureDatabase, monkeypatch: pytest.MonkeyPatch):
    alike = np.zeros((4, 8), np.int8)
    alike[:2, 0], alike[2, 1] = 127, 127
    monkeypatch.setattr(FeatureDatabase, "sketches", alike)
    assert highlights(scored, 2).latents == [1, 2]
    assert highlights(scored).latents == [1, 2, 0]


def test_alike_peaks_lead_where_the_label_says_in_words_what_they_are(
    scored: FeatureDatabase, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(FeatureDatabase, "sketches", np.eye(4, 8, dtype=np.int8) * 127)
    alike = np.array([0.45, 0.02, np.nan, np.nan], np.float32)
    scored.columns = {**scored.columns, "peak_likeness": alike}
    assert clearest(scored, 3).tolist() == [0, 1, 2]
    assert highlights(scored, 3).latents == [0, 1, 2]
    name_latents(monkeypatch, ["“-”, “–”", *LABELS[1:]])  # signs are alike too
    assert highlights(scored, 3).latents == [1, 2, 0]


def test_of_two_latents_of_one_class_of_words_the_second_comes_late(
    scored: FeatureDatabase, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(FeatureDatabase, "sketches", np.eye(4, 8, dtype=np.int8) * 127)
    assert highlights(scored, 3).latents == [1, 0, 2]
    name_latents(monkeypatch, ["numbers after “(”", "numbers in code", "“mountain”", ""])
    assert highlights(scored, 3).latents == [1, 2, 0]


def test_a_common_or_hardly_scored_latent_is_not_clear(scored: FeatureDatabase):
    columns = dict(scored.columns)
    columns["firing_rate"] = np.array([0.2, 0.01, 0.01, 0], np.float32)
    columns["label_n"] = np.array([40, 2, 40, 0], np.float32)
    scored.columns = columns
    assert is_clear(scored).tolist() == [False, False, True, False]


def test_of_rows_a_latent_may_fire_on_a_class_of_a_tenth_and_still_be_clear(scored: FeatureDatabase):
    scored.columns = {**scored.columns, "firing_rate": np.array([0.1, 0.3, 0.01, 0], np.float32)}
    assert is_clear(scored).tolist() == [False, False, True, False]
    scored.info = {**scored.info, "unit": "rows"}
    assert is_clear(scored).tolist() == [True, False, True, False]


def test_the_words_of_a_label_are_whole_words_of_content():
    label = (
        "“July”, “the”, “…ment…”, “July”, “to”, “k2” in text with “year”, “month”; strongest on “market” after "
        "“stock”, “money” in “speeches”; raises “own”"
    )
    assert label_words(label) == ["july", "market"]
    assert label_words("numbers after space") == []
