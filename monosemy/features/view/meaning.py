"""Search by meaning: the latents whose words lie near a reader's words in the model's own token embedding.

Place on the path: label tokens of a feature database, rows of the model's embedding matrix → [scores] → search page.
No second model is needed: the embedding that the model reads its tokens by puts words of like use next to each other.
Its common directions are taken out first (labels/token_embedding.py), which gives unit vectors e_t:

    s(t) = e_t · unit(Σ e_q over the query's tokens)
    score(i) = mean of the `N_BEST` largest w_it s(t) over latent i's tokens t

Where a word of the query names a set of tokens (“bracket”, “month”: named_tokens.py), s(t) of its members is at least
`NAMED`, since a sign or a list's member is not used as its name is.

A short piece of a query's word (“ang” of “anger”) lies near it by its spelling: below `CLEARLY_NEAR` its s(t) is 0 at
most, whereas a word in a word (“war” of “warfare”) is nearer than that.

A latent's tokens are those over-represented at its peaks (w falls with their rank) and those of its label's words,
which name what the tokens have in common (“months”, “opening brackets”).

Limits: one vector a token, so a word cut
into several tokens is read badly, and only the first language that the model knows well; a latent whose contexts, not
its peaks, have the meaning is found only if its label says so. docs/browser.md says how well it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.errors import UserError
from monosemy.features.labels.token_embedding import TokenEmbedding
from monosemy.features.labels.vocabulary import FUNCTION_WORDS
from monosemy.features.store.database import FeatureDatabase, open_current
from monosemy.features.view.named_tokens import named_places
from monosemy.layout import SaeFiles

Array = np.ndarray[Any, np.dtype[Any]]

N_BEST = 3
NAMED = 0.9
"""Similarity of a token to a word that names it; 1 is the word itself."""
CLEARLY_NEAR = 0.3
"""Similarity from which on a short piece of a query's word counts. In SmolLM2-135M, pieces that are no words reach 0.27
(“bra” and “bracket”), and words have 0.36 and more (“sea” and “seaside”)."""
LONG_PIECE = 4
"""Letters from which on a piece of a word is taken to have its meaning."""
_RANKS = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.75], np.float32)
_LABEL_WEIGHT = 0.9
_MAX_LABEL_TOKENS = 12


@dataclass(frozen=True)
class MeaningIndex:
    """The tokens of every latent of a database, with the vectors of all tokens that occur."""

    embedding: TokenEmbedding
    tokens: Array
    """int64 [n]: the tokens that occur."""
    vectors: Array
    """float32 [n, d]: their unit vectors."""
    members: Array
    """int64 [d_sae, k]: each latent's tokens as indices into `tokens`; n for a missing one."""
    weights: Array
    """float32 [k]: what each of them counts."""
    texts: tuple[str, ...] = ()
    """The texts of `tokens`."""

    @staticmethod
    def build(
        database: FeatureDatabase, embedding: TokenEmbedding, token_ids: Callable[[Sequence[str]], list[list[int]]]
    ) -> MeaningIndex:
        """`token_ids` turns words, each with a space in front, into tokens."""
        m, n_vocabulary = database.n_latents, len(database.tokens)
        peaks, missing = database.peak_token_ids, n_vocabulary
        named = np.full((m, _MAX_LABEL_TOKENS), missing, np.int64)
        words = [_label_words(label) for label in database.labels(np.arange(m))]
        distinct = sorted({word for label in words for word in label})
        pieces = dict(zip(distinct, token_ids([f" {word}" for word in distinct]), strict=True))
        for latent, label in enumerate(words):
            ids = [token for word in label for token in pieces[word] if token < n_vocabulary][:_MAX_LABEL_TOKENS]
            named[latent, : len(ids)] = ids
        occurring = np.concatenate([peaks.astype(np.int64), named], axis=1)
        tokens, places = np.unique(occurring, return_inverse=True)
        in_vocabulary = tokens[tokens < n_vocabulary]  # the missing one, if there is one, sorts last
        weights = np.concatenate([_RANKS[: peaks.shape[1]], np.full(_MAX_LABEL_TOKENS, _LABEL_WEIGHT, np.float32)])
        members = places.reshape(occurring.shape)
        vectors, texts = embedding.vectors(in_vocabulary), database.tokens.texts(in_vocabulary.tolist())
        return MeaningIndex(embedding, in_vocabulary, vectors, members, weights=weights, texts=tuple(texts))

    def scores(self, query: Array, words: Sequence[str] = ()) -> tuple[Array, Array]:
        """(score of every latent, float32 [d_sae]; its nearest tokens, int64 [d_sae, N_BEST]) for a query's tokens.

        `words` are the query's, which may name tokens. A latent without tokens has score −1. Missing nearest tokens are
        −1.
        """
        summed = self.embedding.vectors(query).sum(0)
        near = np.append(self.vectors @ (summed / max(1e-9, float(np.linalg.norm(summed)))), np.float32(-1))
        named = named_places(words, self.texts)
        near[named] = np.maximum(near[named], NAMED)
        pieces = [place for place in _pieces_of(words, self.texts) if near[place] < CLEARLY_NEAR]
        near[pieces] = np.minimum(near[pieces], 0)
        each = np.where(self.members < len(self.tokens), near[self.members] * self.weights, -1)
        best = np.argsort(-each, axis=1, kind="stable")[:, :N_BEST]
        values = np.take_along_axis(each, best, 1)
        best_members = np.take_along_axis(self.members, best, 1)
        nearest = np.where(best_members < len(self.tokens), np.append(self.tokens, -1)[best_members], -1)
        present = np.maximum(1, (values > -1).sum(1))
        mean = np.where(values > -1, values, 0).sum(1) / present
        return np.where((values > -1).any(1), mean, -1).astype(np.float32), nearest


def nearest_latents(sae_folder: Path, embedding_weights: Any, tokenizer: Any, *, words: Sequence[str]) -> list[int]:
    """The latents near any of the words, nearest first; none where the SAE has no features of its present weights."""
    sae = SaeFiles(sae_folder)
    if sae.run is None:
        return []
    try:
        database = open_current(sae.run.folder, sae.site, sae.name)
    except UserError:
        return []
    token_ids = _token_ids(tokenizer)
    index = MeaningIndex.build(database, TokenEmbedding.of(embedding_weights), token_ids)
    query = [token for piece in token_ids([f" {word}" for word in words]) for token in piece]
    scores, _ = index.scores(np.array(query, np.int64), words)
    return [latent for latent in np.argsort(-scores, kind="stable").tolist() if scores[latent] > 0]


def nearness(embedding_weights: Any, tokenizer: Any, *, words: Sequence[str], texts: Sequence[str]) -> list[float]:
    """How near each text comes to the words: mean of the `N_BEST` largest s(t) over its words' tokens; −1: no words."""
    token_ids = _token_ids(tokenizer)
    embedding = TokenEmbedding.of(embedding_weights)
    query = _unit_sum(embedding, token_ids([f" {word}" for word in words]))
    near = []
    for text in texts:
        text_words = "".join(c if c.isalpha() else " " for c in text).split()
        tokens = {token for piece in token_ids([f" {word}" for word in text_words]) for token in piece}
        similarities = embedding.vectors(np.array(sorted(tokens), np.int64)) @ query if tokens else np.array([-1.0])
        near.append(float(np.sort(similarities)[-N_BEST:].mean()))
    return near


def _token_ids(tokenizer: Any) -> Callable[[Sequence[str]], list[list[int]]]:
    """Turns texts into tokens without special ones."""
    return lambda texts: list(tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []


def _unit_sum(embedding: TokenEmbedding, pieces: Sequence[Sequence[int]]) -> Array:
    """The direction of a query's tokens, a unit vector [d]."""
    summed = embedding.vectors(np.array([token for piece in pieces for token in piece], np.int64)).sum(0)
    return np.asarray(summed / max(1e-9, float(np.linalg.norm(summed))))


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about: letters only, function words left out, each once."""
    words = "".join(c if c.isalpha() else " " for c in text).split()
    return list(dict.fromkeys(word for word in words if word.casefold() not in FUNCTION_WORDS))


def query_words(text: str) -> list[str]:
    """The words that a query is searched by: those of content, else all that stand between spaces."""
    return content_words(text) or text.split()


def _pieces_of(words: Sequence[str], texts: Sequence[str]) -> list[int]:
    """The places of the texts that are a short piece of one of the words, and not all of it."""
    whole = [word.casefold() for word in words]
    bare = [text.strip().casefold() for text in texts]
    short = [place for place, text in enumerate(bare) if text.isalpha() and len(text) < LONG_PIECE]
    return [place for place in short if any(bare[place] in word and bare[place] != word for word in whole)]


_LABEL_FORMS = frozenset({"document", "examples", "line", "sentence", "start", "strongest", "text", "unclear"})
"""Words that labels are built with, whatever they are about."""


def _label_words(label: str) -> list[str]:
    return [word for word in content_words(label) if word.casefold() not in _LABEL_FORMS]
