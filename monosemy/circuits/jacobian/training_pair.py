"""A pair in training: two SAEs around one MLP, and the penalty that joins their gradients.

    L = L_x + L_y + λ_t P + μ E_x

L_x and L_y are the two SAEs' own losses, P is the mean size of their Jacobian's elements (`penalty`), and E_x is the
input SAE's error as it arrives at the MLP's output (`downstream`): what a penalised SAE gives up should matter little
to the MLP. λ_t rises linearly from 0 to λ over the first `jacobian.warmup_fraction` of the steps; μ acts from the
first. At λ = 0 there is neither P nor E_x, and both SAEs are, to the last bit, those that would be trained alone.
Place on the path: stream at `mlp_in` and `mlp_out` → **pair** → two SAEs, saved and evaluated like any other.

All state lives in the two trainees, so a pair is checkpointed and resumed through them. Rows that would wreck one of
the SAEs (`training.outliers`) are left out for both, because J needs both ends; at λ = 0 they are left out for that SAE
alone.

Source: Farnik et al. 2025 (arXiv 2502.18147). Deviations: the losses are those of our SAEs (E‖x‖² = 1, errors summed
over d, as a share of the variance), so λ is on a different scale from the published one; the k of λ/k² is the L0 that
the step asks for, which may be annealed; and E_x is ours. If a loss or gradient of either SAE is not finite, both stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from monosemy.circuits.jacobian.batch_code import Code
from monosemy.circuits.jacobian.downstream import error_through_mlp
from monosemy.circuits.jacobian.mlp import check_pair
from monosemy.circuits.jacobian.penalty import SlopesAtInput, mean_magnitude
from monosemy.circuits.jacobian.products import Sizes, peak_bytes, plan
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.errors import UserError
from monosemy.ranges import number_name
from monosemy.shapes import Scalar
from monosemy.support.wording import layers_text, sites_text
from monosemy.training.trainee import Trainee
from monosemy.training.trainer import Key

PREFIX = "jsae_"
"""How the names of SAEs that were trained as pairs begin."""


def pair_name(coef: float, l0: float, seed: int) -> str:
    """`jsae_<λ>-l0_<L0>-s<seed>`, λ written without an exponent."""
    return f"{PREFIX}{Decimal(repr(float(coef))).normalize():f}-l0_{number_name(l0)}-s{seed}"


def pair_sites(sites: Sequence[str], layer: int | None) -> tuple[str, str]:
    """The sites `layers.N.mlp_in` and `layers.N.mlp_out`, among `sites`, of the layer at which pairs are trained.

    Raises UserError where one of the two is missing, or where `layer` is None and several layers have both.
    """
    ends = {end: {s.rsplit(".", 1)[0] for s in sites if s.endswith(f".{end}")} for end in ("mlp_in", "mlp_out")}
    complete = sorted(ends["mlp_in"] & ends["mlp_out"])
    candidates = complete if layer is None else [block for block in complete if block == f"layers.{layer}"]
    if len(candidates) == 1:
        return f"{candidates[0]}.mlp_in", f"{candidates[0]}.mlp_out"
    if len(candidates) > 1:
        layers = [int(block.split(".")[1]) for block in candidates]
        raise UserError(
            f"jacobian.layer is open: {layers_text(layers)} have both mlp_in and mlp_out; set it to one of them"
        )
    block = f"layers.{'N' if layer is None else layer}"
    raise UserError(
        f"activations.sites ({sites_text(sites)}) lack the two ends of the pairs' MLP; add {block}.mlp_in and "
        f"{block}.mlp_out"
    )


class Pair:
    """Two trainees that take their steps together.

    keys: (site, name) of the input SAE and of the output SAE, in the order of `trainees`. slopes: the MLP between
    scaled activations, shared by all pairs around it. coef: λ. max_memory: bound on the penalty's temporary arrays in
    bytes, that of `config` by default. unit: r of the MLP (`derivative_unit`), in which |J| is counted. Raises
    UserError where the SAEs do not fit the MLP or one token of the penalty does not fit in the bound.
    """

    def __init__(
        self,
        keys: tuple[Key, Key],
        trainees: tuple[Trainee, Trainee],
        slopes: SlopesAtInput,
        coef: float,
        *,
        config: JacobianConfig,
        max_memory: int | None = None,
        unit: float = 1.0,
    ) -> None:
        self.keys, self.trainees, self.slopes = keys, trainees, slopes
        self.coef, self.config, self.unit = coef, config, unit
        self.max_memory = max_memory or config.max_memory_mb * 1_000_000
        check_pair(slopes.weights, trainees[0].sae, trainees[1].sae)
        # At λ = 0 no Jacobian is ever computed.
        self.n_bytes = 0 if coef == 0 else step_bytes(slopes.weights, trainees, config, self.max_memory)

    def coef_at(self, index: int) -> float:
        """λ_t of step `index`: rises linearly from 0 to λ over the warm-up."""
        progress, warmup = index / self.trainees[0].n_steps, self.config.warmup_fraction
        return self.coef * min(1.0, progress / warmup) if warmup > 0 else self.coef

    def record(self) -> dict[str, Any]:
        """The pair's settings, `{"jacobian": …}`, which both SAEs keep in their config.json."""
        sites, names = zip(*self.keys, strict=True)
        settings = {
            "lambda": self.coef,
            "at": self.config.at,
            "warmup_fraction": self.config.warmup_fraction,
            "token_share": self.config.token_share,
            "unit": self.unit,
            "mlp_error_coef": self.config.mlp_error_coef,
            "sites": list(sites),
            "name": names[0],
        }
        return {"jacobian": settings}

    def step(self, batch: Mapping[str, Tensor], index: int) -> dict[Key, dict[str, float]]:
        """Takes one training step of both SAEs on a batch by site; returns their metrics.

        Raises Diverged where the loss or a gradient is not finite; no parameter has changed then.
        """
        # Rows to keep: with a penalty a row must be ordinary at both ends; without one the SAEs are independent.
        inputs, outputs = self.trainees
        x, y = (batch[site] for site, _ in self.keys)
        first, second = inputs.forward(x, index), outputs.forward(y, index)
        keep_x, keep_y = inputs.ordinary(first), outputs.ordinary(second)
        if self.coef > 0:
            both = [keep for keep in (keep_x, keep_y) if keep is not None]
            keep_x = keep_y = torch.stack(both).all(0) if both else None
        if keep_x is not None:
            x = x[keep_x]
            first = inputs.forward(x, index)
        if keep_y is not None:
            y = y[keep_y]
            second = outputs.forward(y, index)
        # The joint loss.
        total, coef = first.output.total + second.output.total, self.coef_at(index)
        more: dict[str, float] = {"jacobian_coef": coef}
        if self.coef > 0:
            codes = (
                Code(inputs.sae, x, first.output.latents, first.info.l0),
                Code(outputs.sae, y, second.output.latents, second.info.l0),
            )
            terms = self._joint_terms(codes, index, coef)
            total = total + sum(weight * term for weight, term in terms.values())
            more |= {name: float(term.detach()) for name, (_, term) in terms.items()}
        # One backward pass and the check of both SAEs' gradients come before either SAE moves.
        inputs.differentiate(total, index, also=outputs)
        for trainee, keep in zip(self.trainees, (keep_x, keep_y)):
            trainee.n_left_out += 0 if keep is None else int((~keep).sum())
        return {
            key: trainee.update(rows, index, forward) | more
            for key, trainee, rows, forward in zip(self.keys, self.trainees, (x, y), (first, second), strict=True)
        }

    def _joint_terms(self, codes: tuple[Code, Code], index: int, coef: float) -> dict[str, tuple[float, Scalar]]:
        """The terms that are added to the two SAEs' own losses in step `index`: each with its coefficient, by name."""
        inputs, outputs = codes
        config, weights = self.config, self.slopes.weights
        terms: dict[str, tuple[float, Scalar]] = {}
        if coef > 0:
            magnitude = mean_magnitude(
                self.slopes,
                inputs,
                outputs,
                index,
                at=config.at,
                token_share=config.token_share,
                unit=self.unit,
                max_memory=self.max_memory,
            )
            terms["jacobian_magnitude"] = coef, magnitude
        if config.mlp_error_coef > 0:
            error = error_through_mlp(weights, inputs, outputs.x, self.max_memory)
            terms["mlp_error"] = config.mlp_error_coef, error
        return terms


def step_bytes(weights: MlpWeights, trainees: tuple[Trainee, Trainee], config: JacobianConfig, max_memory: int) -> int:
    """The most bytes of temporary arrays that the penalty of one step takes: the uncut batch's, or the bound if lower.

    Raises UserError where the slopes of the batch and the Jacobian of one token do not fit in the bound.
    """
    inputs, outputs = trainees
    # The target L0 at the start of training is the largest: annealing only lowers it.
    k_in, k_out = (min(t.sae.d_sae, round(t.target_l0(0.0)) + 1) for t in trainees)
    n_rows = max(1, round(config.token_share * inputs.config.batch_tokens))
    sizes = Sizes(
        n_rows,
        k_in,
        k_out,
        inputs.sae.d_sae,
        m_out=outputs.sae.d_sae,
        d_ff=weights.d_ff,
        gated=weights.gated,
        n_bytes=4,
        d_model=weights.d_in,
        at=config.at,
    )
    plan(sizes, max_memory, gradient=True)
    return min(max_memory, peak_bytes(sizes, n_rows, weights.d_ff, gradient=True))
