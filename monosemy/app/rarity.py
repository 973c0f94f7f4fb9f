"""How unusual an activation is for its latent: the latent is at least this strong on one in so many tokens.

Place on the path: activations of one's own text, firing rate and quantiles of a feature database → [one in N] → page.
Raw activations cannot be compared between latents, whose scales differ and of which some fire all the time:

    P(i, v) = firing rate of i · share of its activations above zero that are at least v;   N = 1 / P

The share is read off the database's quantiles, straight between two of them. An activation beyond every one that was
seen, or seen no more than once, counts as one in as many tokens as the features were built from.
Limits: P is of single tokens on the features' text; another kind of text has other rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from monosemy.features.store.database import FeatureDatabase

Array = np.ndarray[Any, np.dtype[Any]]


def one_in(database: FeatureDatabase | None, latent: Array, value: Array) -> Array:
    """N of every activation, float64 [n]; NaN without a database. Latents that never fired there are the rarest."""
    if database is None:
        return np.full(len(latent), np.nan)
    n_tokens = float(database.info["n_tokens"])
    rate = np.asarray(database.columns["firing_rate"], np.float64)[latent]
    order = np.argsort(latent, kind="stable")
    own, starts = np.unique(latent[order], return_index=True)
    share = np.zeros(len(latent))
    for i, rows in zip(own.tolist(), np.split(order, starts[1:]), strict=True):
        levels, values = database.quantiles(i)
        if np.isfinite(values).all():
            share[rows] = 1 - np.interp(value[rows], values, levels)
    # interp takes the last of equal quantiles; "at least v" begins at the smallest activation, where the share is 1
    return np.asarray(1 / np.maximum(rate * share, 1 / n_tokens))
