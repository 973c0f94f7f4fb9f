"""The weights of an MLP in any supported model, and the k×k slices of the Jacobian between two SAEs around it.

    plain   y = φ(x W_in + b_in) W_out + b_out
    gated   y = (φ(x W_in + b_in) ⊙ (x W_up + b_up)) W_out + b_out        (SwiGLU, GeGLU)

    J_ij = Σ_m [φ'(g_m) u_m (W_dec,x W_in)_jm + φ(g_m) (W_dec,x W_up)_jm] (W_out W_enc,y)_mi

for active input latents j and active output latents i; all other entries are zero. g = x W_in + b_in and
u = x W_up + b_up; for a plain MLP the bracket is φ'(g_m) (W_dec,x W_in)_jm alone.

Place on the path: model → weights → **slices of J** → measures and studies; the penalty in training takes the same
weights. x is the tensor at `layers.N.mlp_in`, after the norm and its gain; y is the tensor at `layers.N.mlp_out`. Where
another norm follows the MLP (Gemma 2 and 3), y is the input of that norm, so the formula holds there too;
`mlp_out_post` is not y. Source: Farnik et al. 2025 (arXiv 2502.18147); the gated formula is ours.

J can be taken at two places. At the `input` (as published), g, u and the active output latents are those of the true x
and y: this is the derivative of s ↦ τ e_y(MLP(d_x(s) + x − x̂)) with the error x − x̂ held fixed. At the
`reconstruction`, everything is taken at x̂ = d_x(s).

The projections are found by the names that model families give them, the activation function by its values
(`activation.recognise`). The formula is then run beside the model's own module on random rows: an MLP that it does not
reproduce is refused, whatever its modules are called.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.circuits.jacobian.activation import recognise
from monosemy.circuits.jacobian.diagonals import diagonals
from monosemy.circuits.jacobian.diagonals import outputs as outputs_of
from monosemy.circuits.jacobian.products import (
    DEFAULT_MEMORY,
    Matrices,
    Plan,
    Sizes,
    Tables,
    batch_sizes,
    between,
    flat_slices,
    plan,
    whole_tables,
    whole_tables_pay,
)
from monosemy.circuits.jacobian.slices import At, JacobianSlices
from monosemy.circuits.jacobian.weights import MlpWeights
from monosemy.errors import UserError
from monosemy.kernels.reference import Pattern
from monosemy.latents import SparseLatents
from monosemy.shapes import Activations
from monosemy.support.estimates import available_memory
from monosemy.support.numbers import exponent_text, size_text

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder

EXACT = ("topk", "batch_topk", "jumprelu", "relu")
"""Architectures in which a latent's derivative by its pre-activation is 1 where it is active, else 0."""

GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
FUSED = ("gate_up_proj", "down_proj")
PLAIN = (("c_fc", "c_proj"), ("dense_h_to_4h", "dense_4h_to_h"), ("fc1", "fc2"), ("up_proj", "down_proj"))
ACTIVATION = ("act_fn", "act", "activation_fn", "activation")
EXPERTS = ("experts", "router", "block_sparse_moe", "shared_expert", "shared_experts")
_AGREE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative error of the formula against the module, by number format; 5e-2 for all others."""


def mlp_weights(model: LanguageModel, layer: int) -> MlpWeights:
    """The weights of the MLP in layer `layer`, checked against the model's own module.

    Raises UserError for an MLP that the formula does not cover: a mixture of experts, an unknown activation function,
    or modules or an output that a plain or gated MLP does not have.
    """
    entry, side_in = model.place(f"layers.{layer}.mlp_in")
    leave, side_out = model.place(f"layers.{layer}.mlp_out")
    owner = f"the MLP in layer {layer} of {model.name}"
    if (side_in, side_out) != ("input", "output"):
        raise UserError(
            f"{owner} ({type(leave).__name__}) has no module that maps mlp_in to mlp_out; choose another layer"
        )
    if entry is leave:
        holder = leave
    else:  # OPT keeps the projections in the layer itself
        holder = model.block(layer)
    weights = _extract(holder, owner)
    _check(weights, entry, leave, holder)
    # `mlp_out` holds the contribution, which some models scale before they add it to the residual stream.
    return weights.between_scaled(1.0, 1 / model.contribution_scale(f"layers.{layer}.mlp_out"))


def _extract(holder: nn.Module, owner: str) -> MlpWeights:
    """The weights among the modules that `holder` names. Raises UserError where no known set of names is there."""
    children = dict(holder.named_children())
    # Gated names come before plain ones: up_proj and down_proj are part of both.
    if expert_modules := [name for name in EXPERTS if name in children]:
        raise UserError(
            f"{owner} is a mixture of experts (it has {expert_modules[0]}), which the Jacobian's formula does not "
            "cover; choose a layer with one MLP, or another model"
        )
    for gate, up, down in GATED:
        if {gate, up, down} <= children.keys():
            parts = [_linear(children[name], owner) for name in (gate, up, down)]
            return _build(parts, holder, owner)
    if set(FUSED) <= children.keys():
        W, b = _linear(children[FUSED[0]], owner)
        halves = W.chunk(2, dim=1)
        biases = (None, None) if b is None else b.chunk(2)
        return _build([*zip(halves, biases), _linear(children[FUSED[1]], owner)], holder, owner)
    for first, second in PLAIN:
        if {first, second} <= children.keys():
            return _build([_linear(children[first], owner), _linear(children[second], owner)], holder, owner)
    raise UserError(
        f"{owner} ({type(holder).__name__} of {', '.join(children) or 'no modules'}) is neither a plain nor a gated "
        "MLP that is known here; choose another model"
    )


def _build(parts: list[tuple[Tensor, Tensor | None]], holder: nn.Module, owner: str) -> MlpWeights:
    """MlpWeights of projections in the order (in, out) or (gate, up, out), each a weight and a bias."""
    act = next((getattr(holder, name) for name in ACTIVATION if callable(getattr(holder, name, None))), None)
    if act is None:
        raise UserError(f"{owner} ({type(holder).__name__}) has no activation function that can be found")
    (W_in, b_in), (W_out, b_out) = parts[0], parts[-1]
    W_up, b_up = parts[1] if len(parts) == 3 else (None, None)
    return MlpWeights(W_in, W_up, W_out, b_in, b_up=b_up, b_out=b_out, activation=recognise(act, owner), name=owner)


def _linear(module: nn.Module, owner: str) -> tuple[Tensor, Tensor | None]:
    """The weight [in, out] and the bias of a projection, at least in float32.

    Raises UserError where the module has no floating-point matrix, as when it is quantised.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise UserError(
            f"{owner} has a {type(module).__name__} without a plain matrix of weights (quantised?); load it unquantised"
        )
    weight = weight.detach() if type(module).__name__ == "Conv1D" else weight.detach().T  # GPT-2 keeps [in, out]
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.to(kind).contiguous(), None if bias is None else bias.detach().to(kind)


@torch.no_grad()
def _check(weights: MlpWeights, entry: nn.Module, leave: nn.Module, holder: nn.Module) -> None:
    """Compares the formula with the model's own modules on random rows. Raises UserError where they differ."""
    parameter = next(leave.parameters())
    # Three dimensions and a fixed seed: modules expect [batch, position, d], and a check should not vary.
    x = torch.randn(1, 8, weights.d_in, generator=torch.Generator().manual_seed(0)).to(parameter)
    if entry is leave:
        by_module = leave(x)
    else:
        by_module = leave(next(getattr(holder, n) for n in ACTIVATION if hasattr(holder, n))(entry(x)))
    if not isinstance(by_module, Tensor) or by_module.numel() != 8 * weights.d_out:
        raise UserError(f"{weights.name} ({type(leave).__name__}) gives more than one output; choose another model")
    by_formula = weights.output(x[0].to(weights.W_in))
    by_module = by_module.reshape(8, -1).to(by_formula)
    error = float((by_formula - by_module).norm() / by_module.norm().clamp_min(1e-30))
    # "not <" rather than ">=": an error of NaN is refused too.
    if not error < _AGREE.get(parameter.dtype, 5e-2):
        raise UserError(
            f"{weights.name} ({type(leave).__name__}) is not what its modules' names promise: the formula is off by "
            f"{exponent_text(error)} of the output's norm; its Jacobian is not covered"
        )


def check_pair(weights: MlpWeights, sae_in: SparseAutoencoder, sae_out: SparseAutoencoder) -> None:
    """Raises UserError for SAEs that are not a pair around this MLP.

    Checked are their widths, that their architectures are among `EXACT`, and, where both name their sites, that these
    are the two ends of one MLP.
    """
    for sae, width, side in ((sae_in, weights.d_in, "input"), (sae_out, weights.d_out, "output")):
        if sae.d_in != width:
            raise UserError(
                f"the {side} SAE reads width {sae.d_in} but {weights.name} has {side}s of width {width}; take the SAE "
                f"trained at its mlp_{'in' if side == 'input' else 'out'}"
            )
        if sae.name not in EXACT:
            raise UserError(
                f"the {side} SAE is of architecture {sae.name}, whose latents rescale their pre-activations by a "
                f"learned factor that the Jacobian's formula leaves out; choose {', '.join(EXACT)}"
            )
    site_in, site_out = sae_in.config.site, sae_out.config.site
    if site_in and site_out:
        layers = [site.rsplit(".", 1)[0] for site in (site_in, site_out)]
        if layers[0] != layers[1] or not (site_in.endswith("mlp_in") and site_out.endswith("mlp_out")):
            raise UserError(
                f"the SAEs stand at {site_in} and {site_out}, which are not the two ends of one MLP; take "
                "layers.N.mlp_in and layers.N.mlp_out of one layer"
            )


@torch.no_grad()
def jacobian_slices(
    weights: MlpWeights,
    sae_in: SparseAutoencoder,
    sae_out: SparseAutoencoder,
    x: Activations,
    *,
    y: Float[Tensor, "n d_out"] | None = None,
    at: At = "input",
    max_memory: int = DEFAULT_MEMORY,
    tables: Tables | None = None,
) -> JacobianSlices:
    """J of every row of x on its active latents, in units of latents at E‖x‖² = E‖y‖² = 1 (see `slices`).

    x [N, d_in], y [N, d_out]: activations as the SAEs read them; for SAEs of a finished run these are raw, and
    `weights` are as `mlp_weights` returns them. Without y, MLP(x) takes its place; `at` the reconstruction y is not
    read. Temporary arrays beside the result stay within max_memory bytes. `tables` (from `weight_tables`), made once
    for many calls, save the products of weights. Raises UserError for SAEs that do not fit the MLP, and where the
    result or one token does not fit in memory.
    """
    check_pair(weights, sae_in, sae_out)
    # Active latents on both sides.
    weights = weights.to(sae_in.W_dec)
    x = x.to(sae_in.W_dec)
    code_in = _encoded(sae_in, x, max_memory)
    middle = x if at == "input" else sae_in.decode(code_in)
    y = outputs_of(weights, middle, max_memory) if y is None or at == "reconstruction" else y.to(sae_in.W_dec)
    code_out = _encoded(sae_out, y, max_memory)
    inputs, outputs = (Pattern(code.offsets, code.indices) for code in (code_in, code_out))
    matrices = Matrices(weights, sae_in.W_dec, sae_out.W_enc)
    sizes = batch_sizes(matrices, inputs, outputs)
    _require_result(sizes, weights.name)
    cut, tables = _cut(matrices, sizes, max_memory, tables)
    # J, part by part of the tokens, into the padded result.
    J = x.new_zeros(len(x), sizes.k_out, sizes.k_in)
    in_indices, in_values = _padded(code_in, sizes.k_in)
    out_indices, out_values = _padded(code_out, sizes.k_out)
    for first in range(0, len(x), cut.n_tokens):
        last = min(len(x), first + cut.n_tokens)
        slopes = diagonals(weights, middle[first:last])
        in_rows, out_rows = (between(pattern, first, last) for pattern in (inputs, outputs))
        flat = flat_slices(matrices, slopes, in_rows, out_rows, width=cut.width, tables=tables)
        # The flat entries are in the order in which the mask is filled: by token, output latent, input latent.
        mask = (out_indices[first:last] >= 0)[:, :, None] & (in_indices[first:last] >= 0)[:, None, :]
        J[first:last].masked_scatter_(mask, flat)
        del slopes, flat, mask  # freed before the next part's are made
    # From raw latents to those at unit mean squared norm: J = J_raw · C_x / C_y.
    scale_in, scale_out = sae_in.config.scale, sae_out.config.scale
    return JacobianSlices(
        J.mul_(scale_in / scale_out), out_indices, in_indices, out_values / scale_out, in_values=in_values / scale_in
    )


def weight_tables(weights: MlpWeights, sae_in: SparseAutoencoder, sae_out: SparseAutoencoder) -> Tables:
    """The products of weights of all latents, for many calls of `jacobian_slices` with the same SAEs.

    They pay from about m / k tokens on (`products.whole_tables_pay`) and take (2·m_x + m_y)·d_ff numbers of memory.
    """
    return whole_tables(weights.to(sae_in.W_dec), sae_in.W_dec, sae_out.W_enc)


def _encoded(sae: SparseAutoencoder, x: Tensor, max_memory: int) -> SparseLatents:
    """The positive entries of the code of x, encoded in parts that stay within max_memory bytes."""
    # Three numbers per row and latent: the pre-activations, all of which are made where the processor has no 8-bit
    # screen, and the scratch of the selection.
    n_rows = max(1, max_memory // (3 * sae.d_sae * x.element_size()))
    return SparseLatents.concatenate([sae.encode(part).positive() for part in x.split(n_rows)])


def _padded(code: SparseLatents, width: int) -> tuple[Tensor, Tensor]:
    """The code's indices, int64 [N, width], −1 on padding, and its values, zero on padding."""
    mask = torch.arange(width, device=code.values.device) < code.offsets.diff()[:, None]
    indices = torch.full(mask.shape, -1, dtype=torch.int64, device=mask.device)
    values = code.values.new_zeros(mask.shape)
    indices[mask], values[mask] = code.indices.long(), code.values
    return indices, values


def _cut(matrices: Matrices, sizes: Sizes, max_memory: int, tables: Tables | None) -> tuple[Plan, Tables | None]:
    """How the tokens are cut, and the tables of all latents: the given ones, or new ones where they pay and fit.

    Returns None for the tables where each part of the tokens should make its own.
    """
    cut = plan(sizes, max_memory, gradient=False)
    table_bytes = sizes.whole_rows * sizes.d_ff * sizes.n_bytes
    if tables is None and table_bytes < max_memory // 2 and whole_tables_pay(sizes, cut.n_tokens):
        tables = whole_tables(matrices.weights, matrices.W_dec, matrices.W_enc)
        max_memory -= table_bytes
    if tables is not None:
        bare = dataclasses.replace(sizes, m_in=0, m_out=0)  # no tables left to make, so none are counted
        cut = plan(bare, max_memory, gradient=False)
    return cut, tables


def _require_result(sizes: Sizes, name: str) -> None:
    """Raises UserError where the padded result alone exceeds the free memory."""
    needed, free = sizes.n_tokens * sizes.k_in * sizes.k_out * sizes.n_bytes, available_memory()
    if needed > free:
        raise UserError(
            f"the slices of {sizes.n_tokens} tokens around {name} ({sizes.k_out} × {sizes.k_in} each) take "
            f"{size_text(needed)} and {size_text(free)} are free; take fewer tokens at a time"
        )
