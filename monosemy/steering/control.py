"""The random control: the same edits applied to latents drawn at random.

Place on the path: request → [edits of the random column] → generate. The control must be able to have an effect, since
ablating a latent that never fires does nothing. It is therefore drawn from the latents that fire about as often as the
edited one, of the same SAE. Its strength is rescaled by the ratio of the decoder norms, so that ‖c d_i‖ is the same for
both. With edits of several SAEs, every site has its own control.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.edits import LatentScales
from monosemy.steering.request import FACTORS, Edit
from monosemy.steering.saes import SteeringSaes

N_CANDIDATES = 50
"""The control is drawn from this many latents, those with the nearest firing counts."""


def control_edits(
    edits: tuple[Edit, ...], sae: SparseAutoencoder, scales: LatentScales, seed: int, *, control: int | None = None
) -> tuple[Edit, ...]:
    """The same edits (raw units) moved to other latents, one partner per edited latent.

    `control` names the partner of the first latent; `seed` draws the others, or all of them without `control`.
    Raises UserError when `control` is out of range or among the edited latents, or when no other latent is left.
    """
    used = {edit.latent for edit in edits}
    if control is not None:
        if not 0 <= control < sae.d_sae:
            raise UserError(f"control latent {control} is out of range; this SAE has latents 0 to {sae.d_sae - 1}")
        if control in used:
            raise UserError(f"control latent {control} is among the steered ones; name another or leave it out")
    # several edits of one latent share a partner; no latent is the partner of two, or of itself
    edits_of_control: list[Edit] = []
    partner: dict[int, int] = {}
    for edit in edits:
        if edit.latent not in partner:
            if control is not None and not partner:
                partner[edit.latent] = control
            else:
                partner[edit.latent] = _draw(edit.latent, used, sae, scales, seed=seed)
            used.add(partner[edit.latent])
        latent = partner[edit.latent]
        # the same ‖c d‖ although decoder rows may differ in length; factors have no length
        value = edit.value
        if edit.operation not in FACTORS:
            value *= float(sae.W_dec[edit.latent].norm() / sae.W_dec[latent].norm())
        edits_of_control.append(replace(edit, latent=latent, value=value))
    return tuple(edits_of_control)


def controls_at_sites(
    edits: tuple[Edit, ...], saes: SteeringSaes, seed: int, *, control: int | None = None
) -> tuple[Edit, ...]:
    """`control_edits` for edits of several SAEs, each moved to a latent of its own SAE; in the order of the edits.

    `control` names the partner of the first edit's latent. Raises UserError as `control_edits` does.
    """
    moved: dict[int, Edit] = {}
    for label in dict.fromkeys(edit.sae for edit in edits):
        places = [i for i, edit in enumerate(edits) if edit.sae == label]
        own = tuple(edits[i] for i in places)
        partner = control if label == edits[0].sae else None
        partners = control_edits(own, saes[label].sae, saes[label].scales, seed, control=partner)
        moved |= dict(zip(places, partners, strict=True))
    return tuple(moved[i] for i in range(len(edits)))


def has_control(edits: tuple[Edit, ...], saes: SteeringSaes) -> bool:
    """Whether enough other latents are left to give each edited one a partner of its own SAE."""
    latents: dict[str, set[int]] = {}
    for edit in edits:
        latents.setdefault(edit.sae, set()).add(edit.latent)
    return all(
        len(_candidates(edited, saes[label].sae, saes[label].scales)) >= len(edited)
        for label, edited in latents.items()
    )


def _candidates(excluded: set[int], sae: SparseAutoencoder, scales: LatentScales) -> Int64[Tensor, " candidate"]:
    """Latents outside `excluded` that fired at least once; all outside it where firing counts are unknown."""
    candidates = torch.tensor([i for i in range(sae.d_sae) if i not in excluded], dtype=torch.int64)
    return candidates if scales.n_fired is None else candidates[scales.n_fired.cpu()[candidates] > 0]


def _draw(latent: int, excluded: set[int], sae: SparseAutoencoder, scales: LatentScales, *, seed: int) -> int:
    """A latent that fires about as often as `latent`. Raises UserError when none is left outside `excluded`."""
    candidates = _candidates(excluded, sae, scales)
    if scales.n_fired is not None:
        # nearest on a log scale: firing counts span orders of magnitude
        counts = scales.n_fired.cpu().float()
        distance = (counts[candidates].log() - counts[latent].clamp(min=1).log()).abs()
        candidates = candidates[distance.argsort(stable=True)[:N_CANDIDATES]]
    if not len(candidates):
        raise UserError("no other latent is left for the random column; leave that column out")
    # seeded by latent as well, so that several edits draw independently
    random = torch.Generator().manual_seed(1_000_003 * seed + latent)
    return int(candidates[torch.randint(len(candidates), (1,), generator=random)])
