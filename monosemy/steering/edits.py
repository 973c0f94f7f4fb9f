"""Changes to latents, carried out on the activations of a site while the model runs.

Place on the path: request → [h becomes h'] → generate, measure. With f = encode(h) and d_i = W_dec[i]:

    add        h' = h + c d_i                  scale     h' = h + (c − 1) f_i d_i
    set        h' = h + (c − f_i) d_i          cap       h' = h + (min(f_i, c) − f_i) d_i
    ablate     set with c = 0                  project   h' = h + (c − 1) (h·d_i / ‖d_i‖²) d_i  =  (I − P) h + c P h

Several latents at once: the changes are all computed from the same h and added up. What the SAE does not reconstruct
stays in h' (`keep_error`); without it edited positions become decode(f) plus the change. Units: raw is the latent's
own activation; `max` multiplies it by the latent's maximum; `norm` makes ‖c d_i‖ that multiple of the site's typical
activation norm. A change of nothing leaves every bit as it was.

Left alone: the first token of a text, padding, and outliers: their massive activations were dropped from training
(activations/harvest.py), and an SAE's reading of them is noise. An outlier's norm exceeds the run's own multiple of the
site's median norm (`read_scales`); of a run that is not known, `OUTLIER_MULTIPLE` times the typical norm.

Source: the usual forms (Templeton et al. 2024 clamp with the error kept; project-and-scale after Arditi et al. 2024).
Limits: encoding is in float32; the change is computed in float32 and cast to the model's dtype. Training drops a token
that is an outlier at any of the run's sites; here only the SAE's own site is looked at. Special tokens, which training
drops too, are edited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.evals.latent_statistics import LatentStatistics
from monosemy.latents import SparseLatents
from monosemy.layout import SaeFiles
from monosemy.models.generation import Place
from monosemy.run import read_run
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.request import FACTORS, Edit, Positions
from monosemy.steering.strength import check_push
from monosemy.support import files

OUTLIER_MULTIPLE = 6.0
"""Times the typical norm, where neither run nor median is known."""
_READS_CODE = ("set", "scale", "cap", "ablate")


@dataclass(frozen=True)
class LatentScales:
    """What the units of a strength refer to, measured on ordinary text."""

    maximum: Tensor | None = None
    """Each latent's maximum activation, [F]."""
    n_fired: Tensor | None = None
    """Tokens each latent fired on, [F]: the random control fires about as often as what it stands beside."""
    typical_norm: float | None = None
    """Root mean square of the activation's norm at the site."""
    outlier_norm: float | None = None
    """Tokens whose activation is longer are left alone, infinity: none is; None: `OUTLIER_MULTIPLE` × typical norm, and
    where that is unknown too no token counts as an outlier."""

    @property
    def longest_edited(self) -> float:
        """The norm up to which activations are edited."""
        if self.outlier_norm is not None:
            return self.outlier_norm
        return math.inf if self.typical_norm is None else OUTLIER_MULTIPLE * self.typical_norm


@dataclass(frozen=True)
class Steering:
    """The edits of one text, in raw units (`resolve`)."""

    edits: tuple[Edit, ...]
    positions: Positions = field(default_factory=Positions)
    keep_error: bool = True


def read_scales(folder: Path, sae: SparseAutoencoder) -> LatentScales:
    """Scales of a saved SAE: `latents.safetensors` beside it (maxima and counts on validation text), its scale C, and
    the outlier rule of the run it belongs to.

    What is not there is None; asking for it later is a UserError. The outlier rule is training's own: the multiple in
    the run's configuration (0: no outliers) times the site's median norm, which the features of any SAE at the site
    record; without features the typical norm stands in for the median.
    """
    folder = Path(folder).expanduser().absolute()
    norm = sae.config.scale if sae.config.scale != 1.0 else None
    outlier = _outlier_norm(folder, norm)
    path = SaeFiles(folder).latents
    if not path.exists():
        return LatentScales(typical_norm=norm, outlier_norm=outlier)
    statistics = LatentStatistics.load(path)
    maximum, firing_count = torch.from_numpy(statistics.max), torch.from_numpy(statistics.firing_count)
    return LatentScales(maximum.float(), firing_count, norm, outlier)


def _outlier_norm(folder: Path, typical_norm: float | None) -> float | None:
    """The limit of the run that `folder` (RUN/saes/SITE/NAME) lies in; None: in no run, or no norm is known."""
    sae = SaeFiles(folder)
    if sae.run is None:
        return None
    multiple = read_run(sae.run.folder)[0].activations.outlier_multiple
    if not multiple:
        return math.inf
    infos = (files.read_json(features.info) for features in sae.run.databases(sae.site))
    norm = next((median for info in infos if (median := info.get("median_norm"))), typical_norm)
    return None if norm is None else multiple * float(norm)


def resolve(edit: Edit, sae: SparseAutoencoder, scales: LatentScales) -> Edit:
    """The edit in raw units. Raises UserError: no such latent, or a unit whose scale is not known."""
    if not 0 <= edit.latent < sae.d_sae:
        raise UserError(f"latent {edit.latent} is out of range; this SAE has latents 0 to {sae.d_sae - 1}")
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
        size = scales.typical_norm / float(sae.W_dec[edit.latent].norm())
    return replace(edit, value=edit.value * size, unit="raw")


def latent_values(code: SparseLatents, latents: Sequence[int]) -> Tensor:
    """Activations of a few latents from a sparse code, float [N, len(latents)]."""
    column_of = torch.full((code.d_sae,), -1, dtype=torch.int64, device=code.indices.device)
    distinct = list(dict.fromkeys(latents))
    column_of[distinct] = torch.arange(len(distinct), device=column_of.device)
    columns = column_of[code.indices.long()]
    is_listed = columns >= 0
    values = code.values.new_zeros(code.n_tokens, len(distinct))
    values[code.rows()[is_listed], columns[is_listed]] = code.values[is_listed]
    return values[:, column_of[list(latents)]]


def edited_positions(positions: Positions, place: Place, row: int) -> Tensor:
    """Which tokens of a row the request names, bool [T]: never its first one, never padding."""
    at, length = place.positions[row], place.prompt_lengths[row]
    edited = at >= 1
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
    """The change of a batch at one site: `rows[b]` edits text b, None leaves it alone.

    With `watch`, `before` and `after` collect those latents' activations as each pass finds and leaves them, a tensor
    [B, T, len(watch)] a pass; positions that edits leave alone for being outliers are read all the same.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        scales: LatentScales,
        rows: Sequence[Steering | None],
        watch: Sequence[int] = (),
    ) -> None:
        self.sae, self.watch = sae, list(watch)
        self.limit = scales.longest_edited
        self.rows = [None if row is None else self._resolved(row, scales) for row in rows]
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.n_edited = [0] * len(self.rows)
        """Activations that each text's edits were made to, over all passes."""

    def _resolved(self, steering: Steering, scales: LatentScales) -> Steering:
        return replace(steering, edits=tuple(resolve(edit, self.sae, scales) for edit in steering.edits))

    @torch.no_grad()
    def __call__(self, x_BTD: Tensor, place: Place) -> Tensor:
        if len(self.rows) != len(x_BTD):
            raise ValueError(f"edits for {len(self.rows)} texts met a batch of {len(x_BTD)}")
        edited = x_BTD
        edited_BT = torch.stack([self._edited_mask(x_BTD[row], place, row) for row in range(len(x_BTD))])
        self.n_edited = [n + int(count) for n, count in zip(self.n_edited, edited_BT.sum(1))]
        if bool(edited_BT.any()):
            edited = x_BTD.clone()
            edited[edited_BT] = self._changed(x_BTD[edited_BT], edited_BT.sum(1).tolist())
            if torch.equal(edited, x_BTD):
                edited = x_BTD  # a copy laid out otherwise in memory would be summed in another order further on
        if self.watch:
            self.before.append(self._read(x_BTD))
            self.after.append(self.before[-1] if edited is x_BTD else self._read(edited))
        return edited

    def _edited_mask(self, x_TD: Tensor, place: Place, row: int) -> Tensor:
        """The positions of text `row` that its edits change, bool [T]."""
        steering = self.rows[row]
        if steering is None or not steering.edits:
            return torch.zeros(len(x_TD), dtype=torch.bool, device=x_TD.device)
        positions = edited_positions(steering.positions, place, row)
        return positions if math.isinf(self.limit) else positions & (x_TD.float().norm(dim=-1) <= self.limit)

    def _changed(self, x_ND: Tensor, counts: list[int]) -> Tensor:
        """The edited rows: `counts[b]` of them belong to text b, in order. All are encoded together."""
        h = x_ND.float()
        edits = [edit for steering in self.rows if steering for edit in steering.edits]
        replaced = any(steering and not steering.keep_error for steering in self.rows)
        code = None
        if replaced or any(edit.operation in _READS_CODE for edit in edits):
            code = self.sae.encode(h)
        latents = list(dict.fromkeys(edit.latent for edit in edits))
        f_NE = latent_values(code, latents) if code is not None else h.new_zeros(len(h), len(latents))
        directions = dict(zip(latents, self.sae.W_dec[latents].float(), strict=True))
        readings = dict(zip(latents, f_NE.unbind(1), strict=True))
        x_hat = self.sae.decode(code) if replaced and code is not None else h
        new, first = x_ND.clone(), 0
        for row, (steering, count) in enumerate(zip(self.rows, counts, strict=True)):
            at = slice(first, first + count)
            first += count
            if steering is None or not count:
                continue
            amounts = [_amount(e, readings[e.latent][at], h[at], directions[e.latent]) for e in steering.edits]
            a_NE = torch.stack(amounts, dim=1)
            change = a_NE @ torch.stack([directions[e.latent] for e in steering.edits])
            base, site = h[at] if steering.keep_error else x_hat[at], self.sae.config.site
            check_push(base, change, dtype=x_ND.dtype, site=site, row=row)
            if steering.keep_error:
                # where nothing changes the activation itself is handed back, the sign of a zero included
                moved = (a_NE != 0).any(1, keepdim=True)
                new[at] = torch.where(moved, (h[at] + change).to(x_ND.dtype), x_ND[at])
            else:
                new[at] = (x_hat[at] + change).to(x_ND.dtype)
        return new

    def _read(self, x_BTD: Tensor) -> Tensor:
        code = self.sae.encode(x_BTD.flatten(0, 1).float())
        return latent_values(code, self.watch).view(*x_BTD.shape[:2], -1)


def _amount(edit: Edit, f_N: Tensor, h_ND: Tensor, direction: Tensor) -> Tensor:
    """How much of d_i is added at each position, [N]."""
    if edit.operation == "add":
        return torch.zeros_like(f_N).add(edit.value)  # infinite where float32 cannot hold the value: refused later
    if edit.operation == "set":
        return edit.value - f_N
    if edit.operation == "scale":
        return (edit.value - 1) * f_N
    if edit.operation == "cap":
        return f_N.clamp(max=edit.value) - f_N
    if edit.operation == "ablate":
        return -f_N
    return (edit.value - 1) * (h_ND @ direction) / direction.square().sum()
