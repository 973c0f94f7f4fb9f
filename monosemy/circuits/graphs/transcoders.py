"""Transcoders as a graph reads them: which MLP each replaces, and its weights as one affine map a latent.

Place on the path: SAEs of any layout, or of a run → [checked transcoders, by layer] → their codes on a prompt
(`replacement.py`).

    f_i = π_i where latent i is active,   π_i = x · v_i + c_i,   ŷ = Σ_i f_i W_dec[i] + W_skip x + b

v_i is the encoder's column times what the input is multiplied by, and c_i its bias with what is subtracted from the
input. This holds for every architecture here; a gated transcoder's π are its magnitudes. Transcoders that centre or
normalise each row of their input, cross-layer transcoders, and SAEs that reconstruct their own input are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosemy.errors import UserError
from monosemy.latents import SparseLatents
from monosemy.models.adapter import LanguageModel
from monosemy.models.sites import parse_site
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.transformed import TransformedSae

READS = ("mlp_in", "resid_mid")
GIVES = ("mlp_out", "mlp_out_post")


@dataclass(frozen=True)
class Weights:
    """A transcoder's latents as affine maps of its input and vectors of its output."""

    W_enc: Float[Tensor, "d_in latent"]
    gain: Float[Tensor, " latent"] | None
    """What each latent's column is multiplied by; None where that is 1."""
    offset: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent d_out"]
    partner: Int[Tensor, " latent"] | None = None
    """The decoder row that each latent writes with; None where it is its own."""

    def encoders(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """v of some latents."""
        rows = self.W_enc[:, latents].T
        return rows if self.gain is None else rows * self.gain[latents, None]

    def decoders(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
        """The output vectors of some latents."""
        return self.W_dec[latents if self.partner is None else self.partner[latents]]


@dataclass(frozen=True)
class Transcoder:
    """A transcoder and the MLP that it replaces."""

    layer: int
    sae: SparseAutoencoder
    reads: str
    """The kind of site it reads: `mlp_in` or `resid_mid`."""
    gives: str
    """The kind of site its output stands for: `mlp_out` or `mlp_out_post`."""
    weights: Weights
    skip: Float[Tensor, "d_out d_in"] | None

    def encode(self, x: Float[Tensor, "n d_in"]) -> SparseLatents:
        """The positive entries of the code."""
        return self.sae.encode(x.to(self.sae.W_dec)).positive()

    def output(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        return self.sae(x.to(self.sae.W_dec)).to(x)


def match_layers(
    model: LanguageModel, saes: Iterable[SparseAutoencoder] | Mapping[object, SparseAutoencoder]
) -> dict[int, Transcoder]:
    """The transcoders by the layer whose MLP each replaces.

    Raises UserError for none at all, for an SAE that is no transcoder, for one of another model, and for two of one
    layer.
    """
    transcoders: dict[int, Transcoder] = {}
    for sae in saes.values() if isinstance(saes, Mapping) else saes:
        transcoder = read_transcoder(model, sae)
        if transcoder.layer in transcoders:
            raise UserError(
                f"two transcoders for the MLP of layer {transcoder.layer}; a graph takes one a layer: leave one out"
            )
        transcoders[transcoder.layer] = transcoder
    if not transcoders:
        raise UserError("no transcoders; give at least one, e.g. a run of `monosemy train transcoders`")
    return dict(sorted(transcoders.items()))


@torch.no_grad()
def read_transcoder(model: LanguageModel, sae: SparseAutoencoder) -> Transcoder:
    """One transcoder, checked. Raises UserError where a graph cannot be made of it."""
    config, transforms = sae.config, sae.config.transforms
    name = f"the transcoder at {config.site or 'an unknown site'}"
    if not transforms.transcoder:
        raise UserError(
            f"the SAE at {config.site or 'an unknown site'} reconstructs its own input; a graph needs transcoders, "
            "which give an MLP's output from its input: train them (monosemy train transcoders) or give others"
        )
    if transforms.normalise != "none" or transforms.centre:
        raise UserError(f"{name} normalises or centres every row of its input, which graphs don't follow; give another")
    if sae.d_in != model.d_model or sae.d_out != model.d_model:
        kind = " (a cross-layer transcoder?)" if sae.d_out > sae.d_in else ""
        raise UserError(
            f"{name} reads width {sae.d_in} and gives width {sae.d_out}{kind}, but {model.name} has width "
            f"{model.d_model}; give the transcoders of this model, or load the model that they were trained on"
        )
    try:
        site_in = parse_site(config.site, model.n_layers, post_norms=model.post_norms)
        site_out = parse_site(config.site_out, model.n_layers, post_norms=model.post_norms)
    except UserError as error:
        raise UserError(f"{name} is of another model than {model.name}: {error}") from error
    # TransformerLens' hook_mlp_out is what the layer adds, behind the norm where there is one.
    if site_in.layer != site_out.layer or site_in.kind not in READS or site_out.kind not in GIVES:
        raise UserError(
            f"the transcoder from {config.site} to {config.site_out} does not replace one layer's MLP; it must read "
            f"{' or '.join(READS)} and give {' or '.join(GIVES)} of one layer"
        )
    skip = getattr(sae, "W_skip", None)
    return Transcoder(site_in.layer, sae, site_in.kind, site_out.kind, weights=_weights(sae), skip=skip)


def _weights(sae: SparseAutoencoder) -> Weights:
    """The latents' affine maps."""
    transforms, W_enc = sae.config.transforms, sae.W_enc.detach()
    if isinstance(sae, TransformedSae):
        shift = sae.b_dec if transforms.subtract_b_dec else None
    else:
        shift = getattr(sae, "b_in", None)
    gain = torch.full_like(W_enc[0], transforms.input_scale) if transforms.input_scale != 1 else None
    bias = getattr(sae, "b_enc", None)
    offset = torch.zeros_like(W_enc[0]) if bias is None else bias.detach().clone()
    r_mag: Tensor | None = getattr(sae, "r_mag", None)
    magnitude = None if r_mag is None else r_mag.detach().exp()
    if magnitude is not None:
        gain = magnitude if gain is None else gain * magnitude
        offset = sae.tensors()["b_mag"].detach().clone()
    if shift is not None and bool(shift.any()):
        # The input's factor comes before the subtraction, the magnitude's behind both.
        shifted = shift.detach() @ W_enc
        offset = offset - (shifted if magnitude is None else shifted * magnitude)
    return Weights(W_enc, gain, offset, sae.W_dec.detach())
