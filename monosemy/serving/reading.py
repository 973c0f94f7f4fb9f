"""Reads latents at a site while the model writes, before and after the edits there.

Place on the path: generation's passes → [activations of a few latents, token by token] → answers, monitors. A token's
activations are known once the model has read it, one pass after it was written. Positions on which no SAE was trained,
the first ones and outliers, read as NaN; special tokens are the caller's to leave out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.models.generation import Place, PlacedEdit
from monosemy.saes.base import SparseAutoencoder
from monosemy.shapes import SiteActivations
from monosemy.steering.edits import latent_values

Watched = Float[Tensor, "batch position watched"]


class SaeReader:
    """The activations of some latents of one SAE in the latest pass over a batch."""

    def __init__(
        self, sae: SparseAutoencoder, latents: Sequence[int], *, longest: float = math.inf, n_first: int = 1
    ) -> None:
        """`longest`: the norm above which an activation is an outlier. `n_first`: positions left out at the start."""
        self.sae, self.latents = sae, list(latents)
        self.longest, self.n_first = longest, n_first
        self._before: Watched | None = None
        self._after: Watched | None = None

    @torch.no_grad()
    def read(self, x_BTD: SiteActivations, edited_BTD: SiteActivations, place: Place) -> None:
        """Reads a pass over the tokens of `place`."""
        dropped = (place.positions < self.n_first) | (x_BTD.float().norm(dim=-1) > self.longest)
        self._before = self._values(x_BTD).masked_fill(dropped[..., None], torch.nan).cpu()
        if edited_BTD is x_BTD:
            self._after = self._before
        else:
            self._after = self._values(edited_BTD).masked_fill(dropped[..., None], torch.nan).cpu()

    def _values(self, x_BTD: SiteActivations) -> Watched:
        code = self.sae.encode(x_BTD.flatten(0, 1).float().to(self.sae.W_dec.device))
        return latent_values(code, self.latents).view(*x_BTD.shape[:2], -1).to(x_BTD.device)

    def taken(self) -> tuple[Watched, Watched]:
        """(before, after the edits) of the latest pass."""
        assert self._before is not None
        assert self._after is not None
        return self._before, self._after


class SiteWatch:
    """A hook that edits a site, if there are edits, and lets readers see the activation before and after.

    `positions` are those of the latest pass, −1 at padding.
    """

    def __init__(self, edit: PlacedEdit | None, readers: Sequence[SaeReader]) -> None:
        self.edit, self.readers = edit, list(readers)
        self.positions: Tensor | None = None

    def __call__(self, x_BTD: SiteActivations, place: Place) -> SiteActivations:
        """The activations after the edits; the same tensor if nothing changes."""
        edited = x_BTD if self.edit is None else self.edit(x_BTD, place)
        self.positions = place.positions.cpu()
        for reader in self.readers:
            reader.read(x_BTD, edited, place)
        return edited
