"""Labels without a language model: planted latents get the label that is true, and the scores know which ones are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from monosemy.features.labels.corpus import is_fitted
from monosemy.features.labels.inputs import LabelInputs
from monosemy.features.labels.labelling import Labels, label_latents
from monosemy.features.labels.log_odds import PRIOR, log_odds
from monosemy.features.labels.scores import auroc, auroc_interval
from monosemy.features.labels.vocabulary import KINDS, category_of, read_vocabulary

WORDS = [
    "<|end|>", "\n", "In", " in", " July", " June", " the", ".", " sea", " ship", " army", " war", " walk", "ing", "ed",
    " le", " de", " maison", " et", "1", "9", " (", *[f" word{i}" for i in range(40)],
]  # fmt: skip
ID = {word: i for i, word in enumerate(WORDS)}
SPECIAL = np.arange(len(WORDS)) == 0
WINDOW, LENGTH, D_HIDDEN = 8, 32, 6


def corpus(n_documents: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """(tokens, documents [S, T], source of each document, hidden [W, d]): a document a sequence; every third is French,
    and English ones are about the sea or about war. The hidden state knows the topic."""
    random = np.random.default_rng(seed)
    plain = [ID[f" word{i}"] for i in range(40)]
    tokens = np.empty((n_documents, LENGTH), np.int32)
    topics = np.arange(n_documents) % 3  # 0 sea, 1 war, 2 French
    for row, topic in zip(tokens, topics, strict=True):
        own = [[" sea", " ship"], [" army", " war"], [" le", " de", " maison", " et"]][topic]
        own_ids = [ID[word] for word in own]
        row[:] = random.choice(plain, LENGTH)
        row[random.choice(LENGTH, 8, replace=False)] = random.choice(own_ids, 8)
        for start in range(2, LENGTH - 2, 8):
            if random.random() < 0.3:
                row[start : start + 2] = ID[" in"], ID[[" July", " June"][random.integers(2)]]
            elif random.random() < 0.3:
                row[start : start + 2] = ID[" walk"], ID["ing"]
        row[0] = 0
    hidden = random.normal(size=(n_documents, LENGTH // WINDOW, D_HIDDEN))
    hidden[:, :, 0] += 3 * (topics == 0)[:, None]
    documents = np.repeat(np.arange(n_documents)[:, None], LENGTH, 1)
    names = ["french" if topic == 2 else "english" for topic in topics]
    return tokens, documents, names, hidden.reshape(-1, D_HIDDEN).astype(np.float16)


def inputs_of(firing: list[np.ndarray], **changes: Any) -> LabelInputs:
    """Inputs of latents that fire with activation 1 at the given token indices (all windows are background)."""
    tokens, documents, names, hidden = corpus()
    n_windows = tokens.size // WINDOW
    peaks, fired = [], []
    for positions in firing:
        windows, first = np.unique(np.asarray(positions, np.int64) // WINDOW, return_index=True)
        peaks.append(np.asarray(positions, np.int64)[first])
        fired.append(windows)
    m = len(firing)
    values = {
        "tokens": tokens,
        "documents": documents,
        "window": WINDOW,
        "hidden": hidden,
        "token_texts": WORDS,
        "token_bytes": [word.encode() for word in WORDS],
        "special": SPECIAL,
        "offsets": np.cumsum([0, *map(len, peaks)]),
        "peaks": np.concatenate(peaks),
        "values": np.ones(sum(map(len, peaks)), np.float32),
        "top": None,
        "background": np.arange(n_windows),
        "background_offsets": np.cumsum([0, *map(len, fired)]),
        "background_fired": np.concatenate(fired).astype(np.int32),
        "raised": np.full((m, 3), ID[" July"], np.int32),
        "raised_values": np.tile(np.array([3, 1, 0.5], np.float32), (m, 1)),
        "document_sources": names,
    }
    return LabelInputs(**(values | changes))


def where(*words: str) -> np.ndarray:
    """Token indices of some words."""
    return np.flatnonzero(np.isin(corpus()[0], [ID[word] for word in words]))


@pytest.fixture(scope="module")
def labels() -> Labels:
    """0 fires on months, 1 in sea documents, 2 anywhere, 3 on `ing`, 4 on French words, 5 never, 6 twice."""
    tokens, _, _, _ = corpus()
    random = np.random.default_rng(1)
    sea = np.flatnonzero(np.repeat(np.arange(len(tokens)) % 3 == 0, LENGTH))
    anywhere = np.flatnonzero(tokens.reshape(-1) > 0)
    firing = [
        where(" July", " June"),
        np.sort(random.choice(sea[sea % LENGTH > 0], 200, replace=False)),
        np.sort(random.choice(anywhere, 200, replace=False)),
        where("ing"),
        np.sort(random.choice(where(" maison", " le"), 120, replace=False)),
        np.empty(0, np.int64),
        anywhere[[40, 400]],
    ]
    return label_latents(inputs_of(firing))


def test_a_label_names_the_words_their_category_and_what_comes_before(labels: Labels) -> None:
    assert labels.texts[0] in ("months: “July”, “June” after “in”", "months: “June”, “July” after “in”")
    assert "months" in labels.hints[0]
    assert {WORDS[token] for token, _ in labels.peak_tokens[0][:2]} == {" July", " June"}
    assert WORDS[labels.before_tokens[0][0][0]] == " in"


def test_a_latent_of_a_topic_is_told_by_the_words_around_it(labels: Labels) -> None:
    assert "text with" in labels.texts[1]
    assert "“sea”" in labels.texts[1]
    assert "“ship”" in labels.texts[1]


def test_parts_of_words_are_shown_as_the_word_and_sources_by_name(labels: Labels) -> None:
    assert labels.texts[3].startswith("“walking”")
    assert "in French text" in labels.texts[4]
    assert "in French text" in labels.hints[4]


def test_a_corpus_is_named_without_the_quotation_marks_of_words() -> None:
    inputs = inputs_of([where(" maison", " le")])
    named = ["speeches" if name == "french" else name for name in inputs.document_sources]
    label = label_latents(dataclasses.replace(inputs, document_sources=named))
    assert "in text from speeches" in label.texts[0]
    assert "“speeches”" not in label.texts[0]
    assert "in text from speeches" in label.hints[0]


def test_scores_tell_true_labels_from_chance_on_documents_not_seen(labels: Labels) -> None:
    scores = labels.columns
    assert scores["label_auroc"][0] > 0.97  # the word decides
    assert scores["top_token_auroc"][0] > 0.7
    assert scores["hidden_auroc"][0] < 0.7  # nothing in the hidden state knows of months
    assert scores["hidden_auroc"][1] > 0.85  # but it knows the sea
    assert abs(scores["label_auroc"][2] - 0.5) < 0.15  # random firing: nothing to tell
    assert scores["label_auroc_low"][2] < 0.5 < scores["label_auroc_high"][2]
    assert abs(scores["hidden_auroc"][2] - 0.5) < 0.15
    assert scores["label_n"][0] < 0.6 * len(np.unique(where(" July", " June") // WINDOW))  # held-out documents alone


def test_the_top_token_is_the_most_frequent_one_whether_or_not_it_stands_out(labels: Labels) -> None:
    """The first fires anywhere: no token is over-represented, and the trivial rule is scored all the same."""
    tokens, _, _, _ = corpus()
    at = np.sort(np.random.default_rng(4).choice(np.flatnonzero(tokens.reshape(-1) > 0), 400, replace=False))
    inputs = inputs_of([at, where(" July", " June")])
    columns = label_latents(inputs).columns
    held_out = ~is_fitted(np.arange(len(tokens)), inputs.seed)
    per_document = LENGTH // WINDOW
    rows = tokens.reshape(-1, WINDOW)
    for latent in range(2):
        span = slice(inputs.offsets[latent], inputs.offsets[latent + 1])
        peaks = inputs.peaks[span]
        fitted = tokens.reshape(-1)[peaks[~held_out[peaks // LENGTH]]]
        top = int(np.bincount(fitted).argmax())
        fired = peaks // WINDOW
        silent = np.setdiff1d(np.arange(len(rows)), fired)
        positive, negative = (w[held_out[w // per_document]] for w in (fired, silent))
        hits = (rows[np.concatenate([positive, negative])] == top).any(1)
        area = roc_auc_score(np.repeat([1, 0], [len(positive), len(negative)]), hits)
        assert columns["top_token_auroc"][latent] == pytest.approx(area, abs=1e-6)
        assert columns["label_n_documents"][latent] == len(np.unique(positive // per_document))
        assert columns["label_n_negative_documents"][latent] == len(np.unique(negative // per_document))
    assert columns["top_token_auroc"][0] != 0.5
    assert (columns["label_n_documents"] < columns["label_n"]).all()


def test_every_score_has_an_interval_around_it(labels: Labels) -> None:
    for way in ("label", "hidden", "combined", "top_token"):
        low, area, high = (labels.columns[f"{way}_auroc{end}"][:5] for end in ("_low", "", "_high"))
        assert ((low < area) & (area <= high) & (low > 0)).all()


def test_latents_with_too_few_windows_get_no_score_and_silent_ones_no_label(labels: Labels) -> None:
    assert labels.texts[5] == ""
    assert np.isnan(labels.columns["token_entropy"][5])
    assert labels.texts[6] != ""
    for latent in (5, 6):
        assert np.isnan(labels.columns["label_auroc"][latent])
        assert labels.columns["label_n"][latent] == 0


def test_entropy_counts_the_tokens_at_the_peaks(labels: Labels) -> None:
    assert labels.columns["token_entropy"][3] == 0
    assert labels.columns["token_entropy"][0] == pytest.approx(1, abs=0.05)


def test_raised_tokens_are_named_only_where_they_stand_out(labels: Labels) -> None:
    # all latents of the fixture raise July: then it says nothing of any one (more than four latents, more than 1%)
    assert not any("raises" in text for text in labels.texts)
    labelled = label_latents(inputs_of([where(" sea")]))
    assert labelled.texts[0].endswith("raises “July”")
    even = inputs_of([where(" sea")], raised_values=np.array([[1.2, 1.1, 1.0]], np.float32))
    even = dataclasses.replace(even, raised=np.array([[ID[" July"], ID[" war"], ID[" le"]]], np.int32))
    assert "raises" not in label_latents(even).texts[0]


def test_the_strongest_contexts_are_described_where_they_differ() -> None:
    words = where(*[f" word{i}" for i in range(20)])
    top = np.random.default_rng(0).permutation(where(" ship"))[None, :24]
    labelled = label_latents(inputs_of([words], top=top))
    assert "strongest on “ship”" in labelled.texts[0]
    assert "strongest" not in label_latents(inputs_of([where(" ship")], top=top)).texts[0]


def test_the_same_inputs_give_the_same_labels_and_broken_ones_are_refused(labels: Labels) -> None:
    inputs = inputs_of([where(" sea"), where(" war")])
    first, second = label_latents(inputs), label_latents(inputs)
    assert first.texts == second.texts
    for name in first.columns:
        np.testing.assert_array_equal(first.columns[name], second.columns[name])
    with pytest.raises(ValueError, match="windows of 7"):
        label_latents(dataclasses.replace(inputs, window=7))
    with pytest.raises(ValueError, match="different numbers of latents"):
        label_latents(dataclasses.replace(inputs, raised=inputs.raised[:1]))


def test_log_odds_are_those_of_the_equation() -> None:
    count, n, background, total = 7.0, 20.0, 300.0, 10_000.0
    alpha = PRIOR * background / total
    delta = np.log((count + alpha) / (n + PRIOR - count - alpha)) - np.log(
        (background + alpha) / (total + PRIOR - background - alpha)
    )
    z = delta / np.sqrt(1 / (count + alpha) + 1 / (background + alpha))
    assert log_odds(count, n, background, total, prior=PRIOR) == pytest.approx((delta, z))
    assert log_odds(0.6, 20.0, 300.0, total, prior=PRIOR)[0] == pytest.approx(0, abs=1e-9)  # as often as elsewhere


def test_auroc_agrees_with_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        scores = random.integers(0, 6, 40).astype(np.float32)
        labels = np.concatenate([np.ones(15), np.zeros(25)])
        assert auroc(scores[:15], scores[15:]) == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(auroc(np.empty(0, np.float32), scores))


def test_intervals_cover_the_true_auroc_and_do_not_collapse_at_one() -> None:
    from scipy.stats import norm

    random = np.random.default_rng(0)
    true = norm.cdf(1.2 / np.sqrt(2))
    areas = np.array([auroc(random.normal(1.2, 1, 15), random.normal(0, 1, 30)) for _ in range(400)])
    low, high = auroc_interval(areas, np.full(400, 15), np.full(400, 30))
    assert 0.92 < np.mean((low <= true) & (true <= high)) <= 0.99
    low, high = auroc_interval(np.array([1.0, np.nan]), np.array([5, 5]), np.array([20, 20]))
    assert 0.5 < low[0] < 0.95
    assert high[0] == 1
    assert np.isnan(low[1])


def test_tokens_of_one_word_share_a_group_and_every_token_has_a_kind() -> None:
    texts = ["July", " july", " JULY", " un", "\n\n", "  ", "7", "é", " Москва", "(", "\ufffd", "\ufffd", "<s>"]
    vocabulary = read_vocabulary(texts, np.arange(len(texts)) == len(texts) - 1)
    assert len({int(vocabulary.groups[i]) for i in range(3)}) == 1
    assert vocabulary.groups[10] != vocabulary.groups[11]  # broken bytes: nobody knows whether they are the same
    kinds = [KINDS[kind] for kind in vocabulary.kinds]
    assert kinds[2:7] == ["words in capitals", "lower-case words", "line breaks", "white space", "numbers"]
    assert kinds[8] == "other scripts"
    assert not vocabulary.joins_left[-1]
    whole = read_vocabulary(["\ufffd", "\ufffd"], np.zeros(2, bool), ["é".encode()[:1], "é".encode()[1:]])
    assert whole.join(np.array([0, 1])) == "é"


def test_a_category_needs_two_words_of_its_own() -> None:
    assert category_of(["July", "mai"], code=False) == "months"
    assert category_of(["July"], code=False) is None
    assert category_of(["def", "class"], code=True) == "Python keywords"
    assert category_of(["def", "class"], code=False) is None
