"""Stores the activations of a latent in one byte each.

Place on the path: `contexts` → [codes] → database → `FeatureDatabase.examples`.

    q = round(255 · ln(a / min) / ln(max / min))

The scale is logarithmic between the latent's smallest and largest activation. Both of these are exact, and others are
off by at most a factor of (max / min)^(1/510): 0.4% where max is 7 times min, 2.5% where it is 300,000 times min.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

KEPT_IN = (
    "8 bits each, on a logarithmic scale between the latent's smallest and largest activation: those two are exact, "
    "others are off by a few per cent at most"
)
"""How the activations of examples are stored, in words for those who read them from a database."""


def encode_activations(
    activation: Float[ndarray, " z"], low: Float[ndarray, " z"], high: Float[ndarray, " z"]
) -> UInt8[ndarray, " z"]:
    """Codes of activations on the scale from `low` to `high`, both above zero; values outside are clamped."""
    # 1 + 1e-12 keeps the divisor above zero for a latent with a single activation value
    span = np.log(np.maximum(high.astype(np.float64) / low, 1 + 1e-12))
    place = np.log(np.maximum(activation.astype(np.float64) / low, 1)) / span
    return np.round(255 * np.minimum(place, 1)).astype(np.uint8)


def decode_activations(
    code: UInt8[ndarray, " z"], low: Float[ndarray, " z"] | float, high: Float[ndarray, " z"] | float
) -> Float32[ndarray, " z"]:
    """The activations of codes: 0 is `low`, 255 is `high`."""
    return (low * (np.float64(high) / low) ** (code / 255.0)).astype(np.float32)
