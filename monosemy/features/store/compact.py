"""Converts the arrays of a feature build to the small types in which the database stores them.

Place on the path: `build` → [compact] → `write` → files → `database`. There are m latents, k of something per latent,
E examples, A firings in the contexts of examples and V token ids.

    in the file                          what it holds
    tokens [S, T]                        the contexts, once
    kept                                 bits of the positions that were encoded
    documents [D, 2]                     (first token index, number in features.sqlite) of every document of the pass
    columns float32 [C, m]               numbers to sort and filter by, names in info
    histogram, quantiles, positions      [m, …]; counts in the smallest type that holds the largest of them
    neighbours, neighbour_values         [m, 2, k]: decoder, co-activation; m for a missing one
    output_ids, output_values            [m, 2, k]: raised, lowered
    label_ids, label_odds                [m, 2, k]: tokens at the peaks, tokens just before; V for a missing one
    example_counts [m, groups]           examples of each group
    example_offsets [m + 1]              a latent's examples in:
    example_token, example_length [E]    token index of the peak; firings in its context
    activation_offsets [m + 1]           the firings of a latent's examples, example after example, in:
    activation_position, activation_code [A]   position in the context; activation in one byte (`activation_codes`)
    index_offsets [V + 1]                a token's latents, best first, in: index_latent, index_score
    sketches int8 [m, k]                 for correlations with other databases over the same text
    vocabulary_data, _offsets, _special  bytes of every token
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped
from numpy import ndarray

from monosemy.features.store.activation_codes import encode_activations
from monosemy.features.store.settings import GROUPS, FeatureSettings

_AS_GIVEN = (
    "kept",
    "documents",
    "columns",
    "quantiles",
    "sketches",
    "vocabulary_data",
    "vocabulary_offsets",
    "vocabulary_special",
)
_EXAMPLES = (
    "example_offsets",
    "example_token",
    "example_group",
    "example_activation_offsets",
    "example_position",
    "example_activation",
)
_OTHERS = (
    "tokens",
    "histogram",
    "positions",
    "neighbours",
    "neighbour_values",
    "output_ids",
    "output_values",
    "index_offsets",
    "index_latent",
    "index_score",
)
INPUTS = (*_AS_GIVEN, *_EXAMPLES, *_OTHERS)
"""The arrays that `compact` takes.

Missing neighbours are −1. example_group [E] indexes GROUPS and never decreases within a latent.
example_activation_offsets is [E + 1]. example_activation [A] holds shares of the latent's largest activation.
"""
ARRAYS = (
    *_AS_GIVEN,
    *_OTHERS,
    "label_ids",
    "label_odds",
    "example_counts",
    "example_offsets",
    "example_token",
    "example_length",
    "activation_offsets",
    "activation_position",
    "activation_code",
)
"""Names of the files, without their extension."""
Arrays = dict[str, Shaped[ndarray, " ..."]]


def compact(
    arrays: Mapping[str, Shaped[ndarray, " ..."]], columns: Sequence[str], labels: Sequence[Mapping[str, Any]]
) -> Arrays:
    """The arrays of the files (`ARRAYS`), from those of a build (`INPUTS`) and the records of the labels.

    Raises ValueError if the names are not those of `INPUTS`, or if a latent's examples are not in the order of GROUPS.
    """
    if set(arrays) != set(INPUTS):
        raise ValueError(f"arrays differ from the format: {sorted(set(arrays) ^ set(INPUTS))}")
    m, n_vocabulary = len(arrays["histogram"]), len(arrays["vocabulary_special"])
    of = dict(zip(columns, arrays["columns"]))
    return {
        **{name: np.asarray(arrays[name]) for name in _AS_GIVEN},
        "tokens": arrays["tokens"].astype(_unsigned(n_vocabulary)),
        "histogram": _counts(arrays["histogram"]),
        "positions": _counts(arrays["positions"]),
        # unsigned types have no −1: a missing neighbour becomes m, one past the last latent
        "neighbours": np.where(arrays["neighbours"] < 0, m, arrays["neighbours"]).astype(_unsigned(m)),
        "neighbour_values": arrays["neighbour_values"].astype(np.float16),
        "output_ids": arrays["output_ids"].astype(_unsigned(n_vocabulary)),
        "output_values": arrays["output_values"].astype(np.float16),
        "index_offsets": _offsets(arrays["index_offsets"]),
        "index_latent": arrays["index_latent"].astype(_unsigned(m)),
        "index_score": arrays["index_score"].astype(np.float16),
        **_label_tokens(labels, n_vocabulary),
        **_examples(arrays, of["min"], of["max"]),
    }


def _unsigned(largest: int) -> Any:
    """The smallest unsigned type that holds `largest`."""
    return next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max)


def _counts(counts: Integer[ndarray, "m bin"]) -> Integer[ndarray, "m bin"]:
    return counts.astype(_unsigned(int(counts.max(initial=0))))


def _offsets(offsets: Integer[ndarray, " n"]) -> Integer[ndarray, " n"]:
    return offsets.astype(_unsigned(int(offsets[-1])))


def _label_tokens(labels: Sequence[Mapping[str, Any]], n_vocabulary: int) -> Arrays:
    """The records' lists of tokens as arrays [m, 2, k], cut to `n_label_tokens` and filled up with V."""
    ids = np.full((len(labels), 2, FeatureSettings.n_label_tokens), n_vocabulary)
    odds = np.zeros(ids.shape, np.float16)
    for i, record in enumerate(labels):
        for place, name in enumerate(("peak_tokens", "before_tokens")):
            for k, (token, score) in enumerate(record.get(name, ())[: FeatureSettings.n_label_tokens]):
                ids[i, place, k], odds[i, place, k] = token, score
    return {"label_ids": ids.astype(_unsigned(n_vocabulary)), "label_odds": odds}


def _examples(
    arrays: Mapping[str, Shaped[ndarray, " ..."]], low: Float[ndarray, " m"], high: Float[ndarray, " m"]
) -> Arrays:
    """Examples in the form of the files: counts per group in place of a group per example, activations in one byte."""
    offsets, group = np.asarray(arrays["example_offsets"], np.int64), arrays["example_group"]
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    # as int: the difference of unsigned bytes would wrap round instead of falling below zero
    if any((np.diff(group[a:b].astype(int)) < 0).any() for a, b in itertools.pairwise(offsets.tolist())):
        raise ValueError("examples of a latent must be in the order of their groups")
    counts = np.bincount(owner * len(GROUPS) + group, minlength=(len(offsets) - 1) * len(GROUPS))
    ends = np.asarray(arrays["example_activation_offsets"], np.int64)
    # the latent of every firing, whose own minimum and maximum are the ends of the one-byte scale
    length, of_firing = np.diff(ends), np.repeat(owner, np.diff(ends))
    activation = arrays["example_activation"] * high[of_firing]
    return {
        "example_counts": counts.reshape(-1, len(GROUPS)).astype(np.uint8),
        "example_offsets": _offsets(offsets),
        "example_token": arrays["example_token"].astype(_unsigned(int(arrays["example_token"].max(initial=0)))),
        "example_length": length.astype(_unsigned(int(length.max(initial=0)))),
        "activation_offsets": _offsets(ends[offsets]),
        "activation_position": arrays["example_position"].astype(
            _unsigned(int(arrays["example_position"].max(initial=0)))
        ),
        "activation_code": encode_activations(activation, low[of_firing], high[of_firing]),
    }
