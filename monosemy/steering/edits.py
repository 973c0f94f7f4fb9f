"""Edits of latents of one SAE or of several at one site, applied to its activations while the model runs.

Place on the path: request → [h becomes h'] → generate, measure. With f = encode(h) and d_i = W_dec[i]:

    add        h' = h + c d_i                  scale     h' = h + (c − 1) f_i d_i
    set        h' = h + (c − f_i) d_i          cap       h' = h + (min(f_i, c) − f_i) d_i
    ablate     set with c = 0                  project   h' = h + (c − 1) (h·d_i / ‖d_i‖²) d_i  =  (I − P) h + c P h

When several latents are edited, all changes are computed from the same h and then added up, also those of several SAEs
at one site (`JointEdit`): the result does not depend on an order, and each SAE reads the code it was trained to read.
With `keep_error`, the part of h that the SAE does not reconstruct stays in h'; without it, an edited position becomes
decode(f) plus the change, which several SAEs at one site cannot share. Edits at several sites are saes.py's.
Units of c: `raw` is the latent's own activation, `max` is a multiple of the latent's maximum, and `norm` makes ‖c d_i‖
that multiple of the site's typical activation norm. An edit that changes nothing leaves every bit as it was.

A published SAE whose input is scaled or normalised (saes/transforms.py) has its activations in the publisher's units.
There d_i stands for s W_dec[i], with the s by which the SAE's own decoder returns to the units of the row.

Three kinds of positions are never edited: the first token of a text, padding, and outliers. The massive activations of
first tokens and outliers were dropped from training (activations/harvest.py), so the SAE's code for them is noise. An
outlier is an activation whose norm exceeds a multiple of the site's median norm; the multiple is the run's own
(`read_scales`). Where the run is not known, the limit is `OUTLIER_MULTIPLE` times the typical norm.

Source: the usual forms (Templeton et al. 2024 clamp with the error kept; project-and-scale after Arditi et al. 2024).
Limits: the code and the change are computed in float32, and the result is cast to the model's dtype. Training drops a
token that is an outlier at any of the run's sites, while only the SAE's own site is checked here. Special tokens are
edited although training drops them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.latents import SparseLatents
from monosemy.layout import SaeFiles
from monosemy.models.generation import Place
from monosemy.run import read_feature_info, read_run
from monosemy.saes.base import SparseAutoencoder
from monosemy.shapes import Activations, LatentCounts, PerInput, PerLatent, PerToken, SiteActivations
from monosemy.steering.request import FACTORS, Edit, Positions
from monosemy.steering.strength import check_push

OUTLIER_MULTIPLE = 6.0
"""The outlier limit in typical norms, used where neither the run nor the site's median norm is known."""
_READS_CODE = ("set", "scale", "cap", "ablate")


@dataclass(frozen=True)
class LatentScales:
    """The measurements on ordinary text that the units of a strength refer to."""

    maximum: PerLatent | None = None
    """Each latent's maximum activation."""
    n_fired: LatentCounts | None = None
    """Number of tokens on which each latent fired; the random control is matched to the edited latent by it."""
    typical_norm: float | None = None
    """Root mean square of the activation's norm at the site."""
    outlier_norm: float | None = None
    """Tokens with a larger activation norm are outliers and are not edited; infinity means that there are none.

    None stands for `OUTLIER_MULTIPLE` × `typical_norm`; if that is unknown too, no token counts as an outlier.
    """

    @property
    def longest_edited(self) -> float:
        """The largest norm at which an activation is still edited."""
        if self.outlier_norm is not None:
            return self.outlier_norm
        return math.inf if self.typical_norm is None else OUTLIER_MULTIPLE * self.typical_norm


@dataclass(frozen=True)
class Steering:
    """The edits of one text, with the positions at which they apply."""

    edits: tuple[Edit, ...]
    positions: Positions = field(default_factory=Positions)
    keep_error: bool = True


def read_scales(folder: Path, sae: SparseAutoencoder) -> LatentScales:
    """Reads the scales of a saved SAE.

    Maxima and firing counts come from `latents.safetensors` beside the SAE (measured on validation text), the typical
    norm from the SAE's own scale, or for an imported one from its run, and the outlier limit from the run it belongs
    to. A scale that is not recorded is None, and `resolve` raises UserError when an edit needs it.

    The outlier limit is the one training used: the multiple in the run's configuration (0: no outliers) times the
    site's median norm, which the features of any SAE at the site record. Without features, the typical norm stands in
    for the median.
    """
    # scale 1 is what an SAE has whose activations were never rescaled: it says nothing about the site's norm
    folder = Path(folder).expanduser().absolute()
    norm = sae.config.scale if sae.config.scale != 1.0 else _norm_of_run(folder)
    outlier = _outlier_norm(folder, norm)
    path = SaeFiles(folder).latents
    if not path.exists():
        return LatentScales(typical_norm=norm, outlier_norm=outlier)
    statistics = LatentStatistics.load(path)
    maximum, firing_count = torch.from_numpy(statistics.max), torch.from_numpy(statistics.firing_count)
    return LatentScales(maximum.float(), firing_count, norm, outlier)


def _norm_of_run(folder: Path) -> float | None:
    """The typical norm that the run of `folder` (RUN/saes/SITE/NAME) measured at the site; None where it has none."""
    sae = SaeFiles(folder)
    if sae.run is None:
        return None
    norm = read_run(sae.run.folder)[1].get("scale", {}).get(sae.site)
    return None if norm is None else float(norm)


def _outlier_norm(folder: Path, typical_norm: float | None) -> float | None:
    """The outlier limit of the run that holds `folder` (RUN/saes/SITE/NAME); None without a run or a known norm."""
    sae = SaeFiles(folder)
    if sae.run is None:
        return None
    multiple = read_run(sae.run.folder)[0].activations.outlier_multiple
    if not multiple:
        return math.inf
    infos = (read_feature_info(features.folder) for features in sae.run.databases(sae.site))
    norm = next((median for info in infos if (median := info.get("median_norm"))), typical_norm)
    return None if norm is None else multiple * float(norm)


def resolve(edit: Edit, sae: SparseAutoencoder, scales: LatentScales) -> Edit:
    """The same edit with its value in raw units.

    Raises UserError for a latent that does not exist, one without a maximum (unit `max`), or a scale that is unknown.
    """
    if not 0 <= edit.latent < sae.d_sae:
        raise UserError(f"latent {edit.latent} is out of range; this SAE has latents 0 to {sae.d_sae - 1}")
    # factors have no unit, and ablate has no value
    if edit.operation in FACTORS or edit.operation == "ablate" or edit.unit == "raw":
        return replace(edit, unit="raw")
    if edit.unit == "max":
        if scales.maximum is None:
            raise UserError("unit max needs each latent's maximum activation; evaluate the run first, or use unit raw")
        size = float(scales.maximum[edit.latent])
        if size <= 0:
            raise UserError(
                f"latent {edit.latent} never fired on the validation text, so its maximum is 0; use unit raw or norm"
            )
    else:
        if scales.typical_norm is None:
            raise UserError("unit norm needs the site's typical norm, which this SAE does not record; use unit raw")
        length = float(sae.W_dec[edit.latent].norm()) * typical_output_scale(sae, scales.typical_norm)
        size = scales.typical_norm / length
    return replace(edit, value=edit.value * size, unit="raw")


def typical_output_scale(sae: SparseAutoencoder, typical_norm: float | None) -> float:
    """What `sae.output_scale` gives for a row of the site's typical norm whose components have mean 0."""
    transforms = sae.config.transforms
    if transforms.normalise == "none" or typical_norm is None:
        return 1.0 / transforms.input_scale
    return typical_norm / math.sqrt(sae.d_in) / transforms.input_scale


def latent_values(code: SparseLatents, latents: Sequence[int]) -> Float[Tensor, "n listed"]:
    """Activations of a few latents, read from a sparse code. A latent may be listed twice."""
    # latent → column of the result, or −1: one lookup per stored entry, without a dense [N, d_sae] code
    column_of = torch.full((code.d_sae,), -1, dtype=torch.int64, device=code.indices.device)
    distinct = list(dict.fromkeys(latents))
    column_of[distinct] = torch.arange(len(distinct), device=column_of.device)
    columns = column_of[code.indices.long()]
    is_listed = columns >= 0
    values = code.values.new_zeros(code.n_tokens, len(distinct))
    values[code.rows()[is_listed], columns[is_listed]] = code.values[is_listed]
    return values[:, column_of[list(latents)]]


def edited_positions(positions: Positions, place: Place, row: int) -> Bool[Tensor, " position"]:
    """The tokens of a row that the request names; never the first token, never padding."""
    at, length = place.positions[row], place.prompt_lengths[row]
    edited = at >= 1  # position 0 is the first token, and padding has negative positions
    if positions.where == "prompt":
        edited &= at < length
    elif positions.where == "generated":
        edited &= at >= length
    elif positions.where == "range":
        edited &= at >= positions.start
        if positions.stop is not None:
            edited &= at < positions.stop
    return edited


class SiteEdit:
    """A hook that edits a batch at one site: `rows[b]` holds the edits of text b, and None leaves that text alone.

    With `watch`, every pass appends the watched latents' activations before and after the edit to `before` and `after`,
    as tensors [B, T, len(watch)]. Outlier positions are read as well, although they are not edited.
    Raises UserError for a transcoder, which reads another site than it writes to.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        scales: LatentScales,
        rows: Sequence[Steering | None],
        watch: Sequence[int] = (),
    ) -> None:
        if sae.source_site is not None:
            raise UserError(
                f"a transcoder's latents read {sae.source_site} and write to {sae.config.site_out}, and steering edits "
                f"one site; choose an SAE of {sae.config.site_out}"
            )
        self.sae, self.watch = sae, list(watch)
        self.limit = scales.longest_edited
        self.rows = [None if row is None else self._resolved(row, scales) for row in rows]
        self.before: list[Float[Tensor, "batch position watched"]] = []
        self.after: list[Float[Tensor, "batch position watched"]] = []
        self.n_edited = [0] * len(self.rows)
        """Number of activations edited in each text, over all passes."""

    def _resolved(self, steering: Steering, scales: LatentScales) -> Steering:
        return replace(steering, edits=tuple(resolve(edit, self.sae, scales) for edit in steering.edits))

    def __call__(self, x_BTD: SiteActivations, place: Place) -> SiteActivations:
        """The activations after the edits, for `place` in their texts; the same tensor if nothing changes."""
        return _edited([self], x_BTD, place)

    def change(self, x_BTD: SiteActivations, place: Place) -> _Change:
        """What the edits make of the activations, and counts the edited ones in `n_edited`."""
        if len(self.rows) != len(x_BTD):
            raise ValueError(f"edits for {len(self.rows)} texts met a batch of {len(x_BTD)}")
        # all edited positions of the batch in one [N, D] array, text after text, so that one encoder pass serves all
        edited_BT = torch.stack([self._edited_mask(x_BTD[row], place, row) for row in range(len(x_BTD))])
        counts = edited_BT.sum(1).tolist()
        self.n_edited = [n + count for n, count in zip(self.n_edited, counts)]
        return _Change(edited_BT, *self._changed(x_BTD[edited_BT].float(), counts))

    def record(self, x_BTD: SiteActivations, edited_BTD: SiteActivations) -> None:
        """Appends the watched latents' activations before and after all edits at the site."""
        if self.watch:
            self.before.append(self._read(x_BTD))
            self.after.append(self.before[-1] if edited_BTD is x_BTD else self._read(edited_BTD))

    def _edited_mask(self, x_TD: Float[Tensor, "position d_in"], place: Place, row: int) -> Bool[Tensor, " position"]:
        """The positions of text `row` that its edits change."""
        steering = self.rows[row]
        if steering is None or not steering.edits:
            return torch.zeros(len(x_TD), dtype=torch.bool, device=x_TD.device)
        positions = edited_positions(steering.positions, place, row)
        return positions if math.isinf(self.limit) else positions & (x_TD.float().norm(dim=-1) <= self.limit)

    def _changed(self, h: Activations, counts: list[int]) -> tuple[Activations, Activations, Bool[Tensor, "n 1"]]:
        """(base, added, moved) of the edited activations h; the first `counts[0]` belong to text 0, and so on."""
        base, added, moved = h.clone(), torch.zeros_like(h), torch.zeros(len(h), 1, dtype=torch.bool, device=h.device)
        if not len(h):
            return base, added, moved
        # one encoder pass for all texts, and none when no edit needs a code
        edits = [edit for steering in self.rows if steering for edit in steering.edits]
        replaced = any(steering and not steering.keep_error for steering in self.rows)
        code = None
        if replaced or any(edit.operation in _READS_CODE for edit in edits):
            code = self.sae.encode(h)
        latents = list(dict.fromkeys(edit.latent for edit in edits))
        f_NE = latent_values(code, latents) if code is not None else h.new_zeros(len(h), len(latents))
        directions = dict(zip(latents, self.sae.W_dec[latents].float(), strict=True))
        readings = dict(zip(latents, f_NE.unbind(1), strict=True))
        scale_N1 = self.sae.output_scale(h)
        x_hat = self.sae.decode(code) if replaced and code is not None else h
        # then each text's change: amounts a [n, E] times the directions of its E edits
        first = 0
        for steering, count in zip(self.rows, counts, strict=True):
            at = slice(first, first + count)
            first += count
            if steering is None or not count:
                continue
            amounts = [_amount(e, readings[e.latent][at], h[at], directions[e.latent]) for e in steering.edits]
            a_NE = torch.stack(amounts, dim=1)
            if scale_N1 is not None:
                # `project` is a share of h itself, whatever the units of the code.
                in_code = torch.tensor([e.operation != "project" for e in steering.edits], device=a_NE.device)
                a_NE = torch.where(in_code, a_NE * scale_N1[at], a_NE)
            added[at] = a_NE @ torch.stack([directions[e.latent] for e in steering.edits])
            moved[at] = (a_NE != 0).any(1, keepdim=True)
            if not steering.keep_error:
                base[at], moved[at] = x_hat[at], True
        return base, added, moved

    def _read(self, x_BTD: SiteActivations) -> Float[Tensor, "batch position watched"]:
        """The watched latents' activations."""
        code = self.sae.encode(x_BTD.flatten(0, 1).float())
        return latent_values(code, self.watch).view(*x_BTD.shape[:2], -1)


class JointEdit:
    """A hook that makes the edits of several SAEs at one site, each a `SiteEdit`, from the same activations.

    A position is edited by those SAEs whose edits name it and for which it is no outlier. Raises UserError where a text
    drops what an SAE does not reconstruct, since each SAE would put its own reconstruction in the activation's place.
    """

    def __init__(self, parts: Sequence[SiteEdit]) -> None:
        self.parts = list(parts)
        if any(steering and not steering.keep_error for part in parts for steering in part.rows):
            raise UserError(
                f"two SAEs at {parts[0].sae.config.site} cannot both put their reconstruction in the activation's "
                "place; keep what they do not reconstruct (leave out --no-error), or edit latents of one of them"
            )

    def __call__(self, x_BTD: SiteActivations, place: Place) -> SiteActivations:
        """As `SiteEdit.__call__`."""
        return _edited(self.parts, x_BTD, place)


@dataclass(frozen=True)
class _Change:
    """What the edits of one SAE make of a batch: base + added at the N edited positions, text after text."""

    edited_BT: Bool[Tensor, "batch position"]
    base_ND: Activations
    """The activations themselves, or their reconstructions where what the SAE leaves out is dropped."""
    added_ND: Activations
    moved_N1: Bool[Tensor, "n 1"]
    """Where anything changes at all: elsewhere the activation itself stays, since h + 0 would turn −0 into +0."""


@torch.no_grad()
def _edited(parts: Sequence[SiteEdit], x_BTD: SiteActivations, place: Place) -> SiteActivations:
    """The activations after the edits of all parts, each computed from x; x itself if nothing changes.

    Raises TooStrongError (`check_push`) where the edits overflow the model's dtype or drown the text.
    """
    change = _added_up([part.change(x_BTD, place) for part in parts], x_BTD)
    edited = x_BTD
    if bool(change.moved_N1.any()):
        x_ND, first = x_BTD[change.edited_BT], 0
        for row, count in enumerate(change.edited_BT.sum(1).tolist()):
            base, added = change.base_ND[first : first + count], change.added_ND[first : first + count]
            check_push(base, added, dtype=x_BTD.dtype, site=parts[0].sae.config.site, row=row)
            first += count
        edited = x_BTD.clone()
        new = (change.base_ND + change.added_ND).to(x_BTD.dtype)
        edited[change.edited_BT] = torch.where(change.moved_N1, new, x_ND)
        # nothing changed: hand back the original, since a clone laid out differently in memory would make later
        # layers sum in another order
        if torch.equal(edited, x_BTD):
            edited = x_BTD
    for part in parts:
        part.record(x_BTD, edited)
    return edited


def _added_up(changes: Sequence[_Change], x_BTD: SiteActivations) -> _Change:
    """One change that adds what all of them add; of several, none may have another base than the activations."""
    if len(changes) == 1:
        return changes[0]
    edited_BT = torch.stack([change.edited_BT for change in changes]).any(0)
    base = x_BTD[edited_BT].float()
    added, moved = torch.zeros_like(base), torch.zeros(len(base), 1, dtype=torch.bool, device=base.device)
    for change in changes:
        rows = change.edited_BT[edited_BT]
        added[rows] += change.added_ND
        moved[rows] |= change.moved_N1
    return _Change(edited_BT, base, added, moved)


def _amount(edit: Edit, f_N: PerToken, h_ND: Activations, direction: PerInput) -> PerToken:
    """The coefficient of d_i that is added at each position; the module docstring lists the formulas."""
    if edit.operation == "add":
        # not full_like, which raises for a value beyond float32: this becomes infinite, and check_push reports it
        return torch.zeros_like(f_N).add(edit.value)
    if edit.operation == "set":
        return edit.value - f_N
    if edit.operation == "scale":
        return (edit.value - 1) * f_N
    if edit.operation == "cap":
        return f_N.clamp(max=edit.value) - f_N
    if edit.operation == "ablate":
        return -f_N
    return (edit.value - 1) * (h_ND @ direction) / direction.square().sum()
