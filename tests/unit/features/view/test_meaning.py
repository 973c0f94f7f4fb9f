"""Search by meaning on an embedding in which it is known which tokens are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from feature_runs import JULY, MARKET, SCRIPT, TAB, THE, WORDS, open_tiny

from monosemy.features.labels.token_embedding import TokenEmbedding, peak_likeness
from monosemy.features.view.meaning import MeaningIndex, content_words, nearness, query_words
from monosemy.features.view.named_tokens import named_places


def test_common_directions_are_taken_out():
    rng = np.random.default_rng(0)
    frequency = np.linspace(4, 9, 200)[:, None]
    noise = 0.3 * rng.normal(size=(200, 40))
    matrix = (noise + 5 * rng.normal(size=40) + frequency * rng.normal(size=40)).astype(np.float32)
    embedding = TokenEmbedding.read(lambda tokens: matrix[tokens], len(matrix))
    vectors = embedding.vectors(np.arange(len(matrix)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors @ embedding.common.T, 0, atol=1e-4)
    raw = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    assert raw[10] @ raw[11] > 0.99  # alike by nothing but what all share
    assert abs(vectors[10] @ vectors[11]) < 0.7


def test_the_likeness_of_peaks_is_the_mean_cosine_of_different_words():
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 1]], np.float32)
    embedding = TokenEmbedding(lambda tokens: rows[tokens], np.zeros(2, np.float32), np.zeros((0, 2), np.float32))
    texts = [" Sea", "ocean", " lake", "Lake "]
    likeness = peak_likeness([[0, 1, 2, 3], [2, 3], [1], []], texts.__getitem__, embedding)
    assert likeness[0] == pytest.approx((0.6 + 0.0 + 0.8) / 3)  # “lake” counts once
    assert np.isnan(likeness[1:]).all()


def test_a_latents_score_is_the_mean_of_its_best_tokens(tmp_path: Path):
    database = open_tiny(tmp_path)
    rows = np.eye(len(WORDS), dtype=np.float32)
    embedding = TokenEmbedding(lambda tokens: rows[tokens], np.zeros(len(WORDS), np.float32), np.zeros((1, len(WORDS))))
    index = MeaningIndex.build(database, embedding, lambda words: [[] for _ in words])
    scores, nearest = index.scores(np.array([SCRIPT]))
    peaks = [[token for token in row if token < len(WORDS)] for row in database.peak_token_ids.tolist()]
    for latent, tokens in enumerate(peaks):
        if not tokens:
            assert scores[latent] == -1
            continue
        weights = [1 - 0.05 * rank if token == SCRIPT else 0 for rank, token in enumerate(tokens)]
        best = sorted(weights, reverse=True)[:3]
        assert scores[latent] == pytest.approx(sum(best) / len(best))
        assert (nearest[latent][0] == SCRIPT) == (SCRIPT in tokens)


def test_the_labels_own_words_count(tmp_path: Path):
    database = open_tiny(tmp_path)
    rows = np.eye(len(WORDS), dtype=np.float32)
    embedding = TokenEmbedding(lambda tokens: rows[tokens], np.zeros(len(WORDS), np.float32), np.zeros((1, len(WORDS))))
    ids = {" July": [MARKET], " script": [THE], " alert": []}
    index = MeaningIndex.build(database, embedding, lambda words: [ids.get(word, []) for word in words])
    scores, _ = index.scores(np.array([MARKET]))
    assert int(np.argmax(scores)) == 0  # “July” after “in”


def test_a_text_is_as_near_as_its_nearest_words():
    matrix = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    ids = {" war": [1], " enemy": [2], " sleep": [3], " rest": [4]}
    matrix[2] = matrix[1] + 0.1 * matrix[2]  # of like use

    def tokenizer(texts, add_special_tokens):
        return {"input_ids": [ids[text] for text in texts]}

    texts = ["enemy!", "sleep, rest", "1, 2."]
    enemy, sleep, nothing = nearness(matrix, tokenizer, words=["war"], texts=texts)
    assert enemy > 0.9
    assert abs(sleep) < 0.7
    assert nothing == -1
    assert nearness(matrix, tokenizer, words=["war"], texts=["war"]) == [pytest.approx(1)]


def test_a_word_that_names_tokens_finds_them_though_it_is_not_used_like_them(tmp_path: Path):
    database = open_tiny(tmp_path)
    rows = np.eye(len(WORDS), dtype=np.float32)
    embedding = TokenEmbedding(lambda tokens: rows[tokens], np.zeros(len(WORDS), np.float32), np.zeros((1, len(WORDS))))
    index = MeaningIndex.build(database, embedding, lambda words: [[] for _ in words])
    months, _ = index.scores(np.array([TAB]), ["months"])
    unnamed, _ = index.scores(np.array([TAB]), ["calendar"])
    peaks = [[token for token in row if token < len(WORDS)] for row in database.peak_token_ids.tolist()]
    for latent, tokens in enumerate(peaks):
        if tokens and TAB not in tokens:
            assert unnamed[latent] == 0
            assert (months[latent] > 0) == (JULY in tokens)


def test_a_short_piece_of_the_querys_word_counts_only_where_it_is_clearly_near():
    texts = (" ang", " rage", " war", "ange", " anger", " dan")
    vectors = np.zeros((6, 7), np.float32)
    for row, near in enumerate((0.25, 0.2, 0.4, 0.25, 1.0, 0.25)):
        vectors[row, 0], vectors[row, row + 1] = near, np.sqrt(1 - near**2)
    anger = np.zeros((1, 7), np.float32)
    anger[0, 0] = 1
    embedding = TokenEmbedding(lambda tokens: anger[tokens], np.zeros(7, np.float32), np.zeros((1, 7), np.float32))
    members = np.arange(6)[:, None]
    index = MeaningIndex(embedding, np.arange(6), vectors, members, weights=np.ones(1, np.float32), texts=texts)
    scores, _ = index.scores(np.array([0]), ["Anger"])
    np.testing.assert_allclose(scores, [0, 0.2, 0.4, 0.25, 1, 0.25], atol=1e-6)
    unspelled, _ = index.scores(np.array([0]), ["rage", "warfare"])
    np.testing.assert_allclose(unspelled, [0.25, 0.2, 0.4, 0.25, 1, 0.25], atol=1e-6)


def test_names_of_signs_and_lists():
    texts = [" (", "['", "a(", " July", " may", "est", " north", "não", " not", "12", "—"]
    assert named_places(["bracket"], texts) == named_places(["Brackets", "open"], texts) == [0, 1]
    assert named_places(["month"], texts) == [3]  # “may” is a modal verb first
    assert named_places(["modal"], texts) == [4]
    assert named_places(["compass"], texts) == [6]
    assert named_places(["negation"], texts) == [8]
    assert named_places(["dash", "quote"], texts) == [1, 10]
    assert named_places(["war", "women"], texts) == []


def test_words_of_a_query():
    assert content_words("The time of the year, 2024!") == ["time", "year"]
    assert query_words("he she") == ["he", "she"]
    assert query_words("((") == ["(("]
