"""Several SAEs steering one text: the SAEs that edits name, and the hooks of all their sites for one pass.

Place on the path: request → [which SAE edits where] → edits at each site → generate, measure. An edit names its SAE as
`SITE/NAME`, or is of the request's own SAE. SAEs at different sites act in the order of the model: what a later one
reads already contains what the earlier ones changed, so that `set` there means what the later layers get. SAEs at one
site read the same activation and their changes are added up (`edits.JointEdit`), as the edits of a single SAE are.
Outliers are judged at each site by itself.

Limits: two SAEs of one site often have a latent for the same concept; clamping both pushes the text twice as far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.errors import unknown
from monosemy.models.adapter import LanguageModel, Start
from monosemy.models.generation import Place, PlacedEdit
from monosemy.models.sites import KINDS, parse_site
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.storage import load_sae
from monosemy.shapes import SiteActivations, TokenIds
from monosemy.steering.edits import JointEdit, LatentScales, SiteEdit, Steering, read_scales, resolve
from monosemy.steering.request import OWN_SAE, Edit

Trace = Float[Tensor, "position watched"]


@dataclass(frozen=True)
class SteeredSae:
    """An SAE with the scales of its units."""

    sae: SparseAutoencoder
    scales: LatentScales = field(default_factory=LatentScales)

    @staticmethod
    def load(folder: Path, device: str = "cpu") -> SteeredSae:
        """The SAE saved in a folder. Raises UserError for damaged files."""
        sae = load_sae(folder, device=device)
        return SteeredSae(sae, read_scales(folder, sae))


class SteeringSaes:
    """The SAEs whose latents the edits of a request may name: its own (`OWN_SAE`), and others by their labels."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        scales: LatentScales | None = None,
        others: Mapping[str, SteeredSae] | None = None,
    ) -> None:
        self.own = SteeredSae(sae, scales or LatentScales())
        self.by_label = {OWN_SAE: self.own, **(others or {})}

    def __getitem__(self, label: str) -> SteeredSae:
        """The SAE that edits name so. Raises UserError for a label that was not given."""
        if label not in self.by_label:
            raise unknown("SAE of an edit", label, [other for other in self.by_label if other != OWN_SAE])
        return self.by_label[label]

    def resolve(self, edit: Edit) -> Edit:
        """The edit with its value in raw units of its own SAE. Raises UserError as `edits.resolve` does."""
        steered = self[edit.sae]
        return resolve(edit, steered.sae, steered.scales)

    def in_norms(self, edit: Edit) -> float | None:
        """The edit's value in typical norms of its site; None where it sets or adds none, or the norm is unknown."""
        if edit.operation not in ("set", "add") or self[edit.sae].scales.typical_norm is None:
            return None
        one_norm = self.resolve(replace(edit, operation="add", value=1.0, unit="norm"))
        return abs(self.resolve(edit).value) / one_norm.value

    def sites(self, model: LanguageModel, edits: Iterable[Edit]) -> list[str]:
        """The sites of the edits' SAEs by their canonical names, in the order in which the model computes them."""
        names = {model.resolve(self[edit.sae].sae.config.site) for edit in edits}
        return sorted(names, key=partial(_depth, model))

    def start(self, model: LanguageModel, tokens: TokenIds, edits: Sequence[Edit]) -> Start:
        """The start of a pass at the first site that the edits read; at the request's own without edits."""
        sites = self.sites(model, edits) or [self.own.sae.config.site]
        return model.prefix(tokens, sites[0])


def _depth(model: LanguageModel, site: str) -> tuple[int, int]:
    parsed = parse_site(site, model.n_layers, post_norms=model.post_norms)
    return parsed.layer, list(KINDS).index(parsed.kind)


class TextEdits:
    """The edits of a batch of texts at all their sites, for one pass or for the passes of one generation.

    `rows[b]` holds the edits of text b, None leaves it alone. With `watch`, the latents of these edits are read at
    every pass, in their order, in all texts. Raises UserError as `SiteEdit`, `JointEdit` and `SteeringSaes` do.
    """

    def __init__(
        self,
        model: LanguageModel,
        saes: SteeringSaes,
        rows: Sequence[Steering | None],
        watch: Sequence[Edit] = (),
    ) -> None:
        self.is_edited = [steering is not None for steering in rows]
        self._watch = list(watch)
        named = [edit for steering in rows if steering for edit in steering.edits]
        # SAE label → its edits of all texts; in the order of first mention
        self._parts = {
            label: _part(saes[label], label, rows, self._watch)
            for label in dict.fromkeys(edit.sae for edit in [*named, *self._watch])
        }
        at_site: dict[str, list[SiteEdit]] = {}
        for part in self._parts.values():
            at_site.setdefault(model.resolve(part.sae.config.site), []).append(part)
        self.hooks: dict[str, PlacedEdit] = {
            site: parts[0] if len(parts) == 1 else JointEdit(parts)
            for site, parts in sorted(at_site.items(), key=lambda pair: _depth(model, pair[0]))
        }
        """The hook of each site, in the order of the model."""

    def at(self, place: Place) -> dict[str, Callable[[SiteActivations], SiteActivations]]:
        """The hooks for a single pass over the tokens of `place`."""
        return {site: partial(_placed, hook, place) for site, hook in self.hooks.items()}

    @property
    def n_edited(self) -> list[int]:
        """Number of activations edited in each text, over all sites and passes."""
        return [sum(counts) for counts in zip(*(part.n_edited for part in self._parts.values()))] or [0] * len(
            self.is_edited
        )

    def traces(self, text: int = 0) -> tuple[Trace, Trace]:
        """(before, after): the watched latents' activations in a text, on the CPU, from the first pass.

        "Before" is what the model brought to the latent's site in this very pass: it contains edits at earlier sites.
        """
        columns_read = dict.fromkeys(self._parts, 0)
        columns: list[tuple[Tensor, Tensor]] = []
        for edit in self._watch:
            part, column = self._parts[edit.sae], columns_read[edit.sae]
            columns_read[edit.sae] += 1
            columns.append((part.before[0][text, :, column].cpu(), part.after[0][text, :, column].cpu()))
        before, after = (torch.stack(list(side), dim=1) for side in zip(*columns, strict=True))
        return before, after


def _part(steered: SteeredSae, label: str, rows: Sequence[Steering | None], watch: Sequence[Edit]) -> SiteEdit:
    """What one SAE does to all texts."""
    own = [None if row is None else replace(row, edits=tuple(e for e in row.edits if e.sae == label)) for row in rows]
    own = [None if row is None or not row.edits else row for row in own]
    return SiteEdit(steered.sae, steered.scales, own, [edit.latent for edit in watch if edit.sae == label])


def _placed(hook: PlacedEdit, place: Place, x_BTD: SiteActivations) -> SiteActivations:
    return hook(x_BTD, place)
