"""What a published SAE does to its input and output beside encoding and decoding, as settings that are saved with it.

Place on the path: activations → [enter] → an architecture's encoder → latents → its decoder → [frame] → x̂.

    x' = input_scale · normalise(centre(x)),   f = encode(x'),   x̂ = scale ⊙ (b_dec + f W_dec) + offset

    normalise   "layer_norm": (x − mean x) / (std x + 1e-5), with the unbiased std of the row over its components
                "rescale":    x √d / ‖x‖
    centre      x − mean x: SAEs that were trained on a residual stream whose writing weights had been centred
    skip        a linear path beside the latents, x W_skipᵀ, in transcoders

scale and offset differ from row to row. They undo centring, normalisation and input scale where the SAE reconstructs
its own input; a transcoder's output has other units and keeps them. The encoder puts both into the code
(`latents.Frame`), so that the decoder needs nothing but the code and stays pure.
Source: SAELens 6 (`normalize_activations`), OpenAI's sparse_autoencoder (layer norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LAYER_NORM_EPSILON = 1e-5
"""What layer norm adds to the standard deviation."""


@dataclass(frozen=True)
class Transforms:
    """The steps around an SAE's encoder and decoder; the defaults are those of an SAE that is trained here: none."""

    normalise: Literal["none", "layer_norm", "rescale"] = "none"
    """How each row of the input is normalised."""
    centre: bool = False
    """Whether the mean over the row's components is subtracted first."""
    input_scale: float = 1.0
    """A constant factor of the input."""
    subtract_b_dec: bool = True
    """Whether the encoder reads x' − b_dec rather than x'."""
    merge_heads: bool = False
    """Whether the publisher's input is [..., heads, d_head], which is read as [..., heads · d_head]."""
    skip: bool = False
    """Whether the output has a linear path x W_skipᵀ from the raw input."""
    transcoder: bool = False
    """Whether the output is an activation of another place than the input."""

    @property
    def per_row(self) -> bool:
        """Whether the output of the decoder still has to go through a map that differs from row to row."""
        undone = self.normalise != "none" or self.centre or self.input_scale != 1
        return self.skip or (undone and not self.transcoder)


NO_TRANSFORMS = Transforms()


def transcoding(*, skip: bool) -> Transforms:
    """The transforms of a transcoder that is trained here, with or without a linear path."""
    return Transforms(subtract_b_dec=False, transcoder=True, skip=skip)
