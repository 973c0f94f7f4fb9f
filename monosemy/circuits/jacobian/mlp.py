"""An MLP's weights, out of any supported model, and the k×k slices of the Jacobian between two SAEs around it.

    plain   y = φ(x W_in + b_in) W_out + b_out
    gated   y = (φ(x W_in + b_in) ⊙ (x W_up + b_up)) W_out + b_out        (SwiGLU, GeGLU)

    J_ij = Σ_m [φ'(g_m) u_m (W_dec,x W_in)_jm + φ(g_m) (W_dec,x W_up)_jm] (W_out W_enc,y)_mi,   g, u: the two products
    (plain: φ'(z_m) (W_dec,x W_in)_jm alone), for active input latents j and active output latents i; else zero

Place on the path: model → weights → **slices of J** → measures and studies; the penalty in training takes the same
weights. x is the tensor at `layers.N.mlp_in` (behind the norm and its gain), y the one at `layers.N.mlp_out`: where a
norm follows the MLP (Gemma 2 and 3), y is what enters that norm, so the formula is whole there too; `mlp_out_post` is
not y. Source: Farnik et al. 2025 (arXiv 2502.18147); the gated formula is ours.

J can be taken at two places. `input` (as published): g, u and the active output latents at the true x and y; this is
the derivative of s ↦ τ e_y(MLP(d_x(s) + x − x̂)) with the error x − x̂ held fixed. `reconstruction`: all at x̂ =
d_x(s).

The projections are found by the names that model families give them and the activation by its values
(`activation.recognise`); then the formula is run beside the model's own module on random rows, and a model that it does
not reproduce is refused, whatever its names are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
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
from monosemy.support.estimates import available_memory
from monosemy.support.numbers import size_text

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder

EXACT = ("topk", "batch_topk", "jumprelu", "relu")
"""Architectures whose active latents have derivative 1 with respect to their pre-activations, the others 0."""

GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
FUSED = ("gate_up_proj", "down_proj")
PLAIN = (("c_fc", "c_proj"), ("dense_h_to_4h", "dense_4h_to_h"), ("fc1", "fc2"), ("up_proj", "down_proj"))
ACTIVATION = ("act_fn", "act", "activation_fn", "activation")
EXPERTS = ("experts", "router", "block_sparse_moe", "shared_expert", "shared_experts")
_AGREE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative error of the formula against the module; other number formats: 5e-2."""


def mlp_weights(model: LanguageModel, layer: int) -> MlpWeights:
    """The weights of the MLP of layer `layer`, checked against the model's own module.

    Raises UserError for an MLP that the formula does not cover: a mixture of experts, an unknown activation, modules or
    an output that are not those of a plain or gated MLP.
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
    return weights.between_scaled(1.0, 1 / model.contribution_scale(f"layers.{layer}.mlp_out"))


def _extract(holder: nn.Module, owner: str) -> MlpWeights:
    children = dict(holder.named_children())
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
    act = next((getattr(holder, name) for name in ACTIVATION if callable(getattr(holder, name, None))), None)
    if act is None:
        raise UserError(f"{owner} ({type(holder).__name__}) has no activation function that can be found")
    (W_in, b_in), (W_out, b_out) = parts[0], parts[-1]
    W_up, b_up = parts[1] if len(parts) == 3 else (None, None)
    return MlpWeights(W_in, W_up, W_out, b_in, b_up=b_up, b_out=b_out, activation=recognise(act, owner), name=owner)


def _linear(module: nn.Module, owner: str) -> tuple[Tensor, Tensor | None]:
    """Weight [in, out] and bias of a projection."""
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
    """The formula against the model's own modules on random rows. Raises UserError where they differ."""
    parameter = next(leave.parameters())
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
    if not error < _AGREE.get(parameter.dtype, 5e-2):
        raise UserError(
            f"{weights.name} ({type(leave).__name__}) is not what its modules' names promise: the formula is off by "
            f"{error:.1e} of the output's norm; its Jacobian is not covered"
        )


def check_pair(weights: MlpWeights, sae_in: SparseAutoencoder, sae_out: SparseAutoencoder) -> None:
    """Refuses SAEs that do not stand around this MLP. Raises UserError: widths, sites or layers, architecture."""
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
    x: Tensor,
    *,
    y: Tensor | None = None,
    at: At = "input",
    max_memory: int = DEFAULT_MEMORY,
    tables: Tables | None = None,
) -> JacobianSlices:
    """J of every token row of x on its active latents, in units of latents at E‖x‖² = E‖y‖² = 1 (see `slices`).

    x [N, d_in] and y [N, d_out] as the SAEs read them: raw for SAEs of a finished run, with `weights` as `mlp_weights`
    gives them; y may be left out (MLP(x)), and is not read `at` the reconstruction. Temporary arrays beside the result
    stay within max_memory bytes; `tables` (`weight_tables`), made once for many calls, spare the products of weights.
    Raises UserError for SAEs that do not fit the MLP, and where the result or one token does not fit in memory.
    """
    check_pair(weights, sae_in, sae_out)
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
    J = x.new_zeros(len(x), sizes.k_out, sizes.k_in)
    in_indices, in_values = _padded(code_in, sizes.k_in)
    out_indices, out_values = _padded(code_out, sizes.k_out)
    for first in range(0, len(x), cut.n_tokens):
        last = min(len(x), first + cut.n_tokens)
        slopes = diagonals(weights, middle[first:last])
        in_rows, out_rows = (between(pattern, first, last) for pattern in (inputs, outputs))
        flat = flat_slices(matrices, slopes, in_rows, out_rows, width=cut.width, tables=tables)
        mask = (out_indices[first:last] >= 0)[:, :, None] & (in_indices[first:last] >= 0)[:, None, :]
        J[first:last].masked_scatter_(mask, flat)
        del slopes, flat, mask  # before the next part's are made
    scale_in, scale_out = sae_in.config.scale, sae_out.config.scale
    return JacobianSlices(
        J.mul_(scale_in / scale_out), out_indices, in_indices, out_values / scale_out, in_values=in_values / scale_in
    )


def weight_tables(weights: MlpWeights, sae_in: SparseAutoencoder, sae_out: SparseAutoencoder) -> Tables:
    """The products of weights of all latents, for many calls of `jacobian_slices` with the same SAEs: worth it from
    about m / k tokens on (`products.whole_tables_pay`), and (2·m_x + m_y)·d_ff numbers of memory."""
    return whole_tables(weights.to(sae_in.W_dec), sae_in.W_dec, sae_out.W_enc)


def _encoded(sae: SparseAutoencoder, x: Tensor, max_memory: int) -> SparseLatents:
    """The positive part of the code of x, encoded in as many parts as keep the pre-activations [rows, F] (all of them,
    where the processor has no 8-bit screen) and the selection's scratch within max_memory bytes."""
    n_rows = max(1, max_memory // (3 * sae.d_sae * x.element_size()))
    return SparseLatents.concatenate([sae.encode(part).positive() for part in x.split(n_rows)])


def _padded(code: SparseLatents, width: int) -> tuple[Tensor, Tensor]:
    """Indices int64 [N, width], −1 on padding, and values, zero there."""
    mask = torch.arange(width, device=code.values.device) < code.offsets.diff()[:, None]
    indices = torch.full(mask.shape, -1, dtype=torch.int64, device=mask.device)
    values = code.values.new_zeros(mask.shape)
    indices[mask], values[mask] = code.indices.long(), code.values
    return indices, values


def _cut(matrices: Matrices, sizes: Sizes, max_memory: int, tables: Tables | None) -> tuple[Plan, Tables | None]:
    """How the tokens are cut, and whole tables where they are given, or are cheaper and fit."""
    cut = plan(sizes, max_memory, gradient=False)
    table_bytes = sizes.whole_rows * sizes.d_ff * sizes.n_bytes
    if tables is None and table_bytes < max_memory // 2 and whole_tables_pay(sizes, cut.n_tokens):
        tables = whole_tables(matrices.weights, matrices.W_dec, matrices.W_enc)
        max_memory -= table_bytes
    if tables is not None:
        bare = dataclasses.replace(sizes, m_in=0, m_out=0)  # no tables to be made
        cut = plan(bare, max_memory, gradient=False)
    return cut, tables


def _require_result(sizes: Sizes, name: str) -> None:
    needed, free = sizes.n_tokens * sizes.k_in * sizes.k_out * sizes.n_bytes, available_memory()
    if needed > free:
        raise UserError(
            f"the slices of {sizes.n_tokens} tokens around {name} ({sizes.k_out} × {sizes.k_in} each) take "
            f"{size_text(needed)} and {size_text(free)} are free; take fewer tokens at a time"
        )
