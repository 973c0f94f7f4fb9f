"""The model on one prompt with everything but the MLPs made linear: frozen patterns and frozen norm scales.

Place on the path: model and tokens → [frozen model] → direct effects (`effects.py`).

    sequential block   mid = pre + P_a(attention(N_a(pre))),   post = mid + P_m(MLP(N_m(mid)))
    parallel block     post = pre + P_a(attention(N_a(pre))) + P_m(MLP(N_m(pre)))
    logits             N_f(post of the last layer) W_U

N are the norms in front of a sublayer, P those behind it (Gemma 2 and 3, OLMo 2), each absent in some families. Which
norm stands where is read off one pass: a norm feeds the attention if its output is, number for number, what the
attention received. Every map is then checked against what the model computed at its place.

What enters layer 0 is the prompt's share: token embeddings, with positions where the model adds them there. Limits: a
final soft cap on the logits (Gemma 2) is left out, as in circuit-tracer, so that logits are those before it; whatever
else a layer adds to its stream is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosemy.circuits.graphs.frozen_attention import FrozenAttention, ValueMap, check_heads, observed
from monosemy.circuits.graphs.frozen_norm import FrozenNorm, freeze_norm
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.support.numbers import exponent_text

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far a frozen map may miss what the model computed, by number format; RMS norms round float64 to float32."""
_HALF_TOLERANCE = 5e-2


@dataclass(frozen=True)
class FrozenLayer:
    """One layer on T positions."""

    attention: FrozenAttention
    before_attention: FrozenNorm | None
    behind_attention: FrozenNorm | None
    before_mlp: FrozenNorm | None
    behind_mlp: FrozenNorm | None
    parallel: bool
    """Whether the MLP reads the stream that enters the layer, beside the attention."""
    resid_pre: Float[Tensor, "position d_model"]
    resid_mid: Float[Tensor, "position d_model"]
    """pre + attention's contribution, in parallel blocks too, where the model never forms it."""
    mlp_in: Float[Tensor, "position d_model"]
    mlp_out: Float[Tensor, "position d_model"]
    """The MLP's output, scaled as the layer adds it, before a norm behind it."""
    contribution: Float[Tensor, "position d_model"]
    """What the MLP adds to the stream: behind P_m where there is one."""

    def attention_constant(self) -> Float[Tensor, "position d_model"]:
        """What the attention adds to the stream where the stream is zero: all biases on its way."""
        bias = None if self.before_attention is None else self.before_attention.bias
        constant = self.attention.constant(bias)
        return constant if self.behind_attention is None else behind(self.behind_attention, constant)


def behind(norm: FrozenNorm | None, x: Float[Tensor, "position d_model"]) -> Float[Tensor, "position d_model"]:
    """x [T, d] sent through a norm behind a sublayer, bias included; x itself where there is none."""
    if norm is None:
        return x
    return norm.linear(x) if norm.bias is None else norm.linear(x) + norm.bias


@dataclass(frozen=True)
class FrozenModel:
    """A model on one prompt of T tokens, linear but for its MLPs."""

    tokens: Int[Tensor, " position"]
    layers: tuple[FrozenLayer, ...]
    final_norm: FrozenNorm | None
    final: Float[Tensor, "position d_model"]
    """What the unembedding reads."""
    unembedding: Float[Tensor, "vocab d_model"]
    probabilities: Float[Tensor, " vocab"]
    """Of the token behind the prompt."""
    tolerance: float

    @property
    def n_positions(self) -> int:
        return len(self.tokens)

    @property
    def d_model(self) -> int:
        return self.final.shape[1]

    @property
    def embeddings(self) -> Float[Tensor, "position d_model"]:
        """The stream that enters layer 0."""
        return self.layers[0].resid_pre

    @property
    def patterns(self) -> list[Tensor]:
        """The frozen patterns [1, H, T, T] of all layers, for passes of the model itself."""
        return [layer.attention.pattern[None] for layer in self.layers]


@dataclass(frozen=True)
class _Norms:
    """The norms of one pass: module, input [T, d] and output [T, d] of each."""

    calls: list[tuple[nn.Module, Tensor, Tensor]]
    tolerance: float

    def giving(self, y: Tensor) -> tuple[nn.Module, Tensor, Tensor] | None:
        """The norm whose output is y."""
        return next((call for call in self.calls if torch.equal(call[2], y)), None)

    def frozen(self, call: tuple[nn.Module, Tensor, Tensor] | None) -> FrozenNorm | None:
        if call is None:
            return None
        module, x, y = call
        return freeze_norm(module, _wide(x), _wide(y), tolerance=self.tolerance)


def _wide(x: Tensor) -> Tensor:
    """At least float32: half precision would lose what the self-check measures."""
    return x if x.dtype == torch.float64 else x.float()


def unembedding_module(model: LanguageModel) -> nn.Module:
    """The module that turns the last layer's stream into logits. Raises UserError where it has no plain matrix."""
    module: Any = model.module
    head = module.get_output_embeddings()
    if not isinstance(head, nn.Module) or not isinstance(getattr(head, "weight", None), Tensor):
        raise UserError(f"{model.name} has no plain unembedding matrix; load it unquantised")
    return head


@torch.no_grad()
def freeze_model(model: LanguageModel, tokens: Int[Tensor, " position"], values: list[ValueMap]) -> FrozenModel:
    """The frozen model on a prompt; `values` are those of `frozen_attention.observe_values`.

    Raises UserError where a layer does more than attention, MLP and norms, naming the layer and what is off.
    """
    tolerance = _TOLERANCE.get(model.dtype, _HALF_TOLERANCE)
    head = unembedding_module(model)
    heard: list[Tensor] = []
    entered: dict[nn.Module, Tensor] = {}
    handle = head.register_forward_pre_hook(lambda module, arguments: heard.append(arguments[0].detach()))
    batch = tokens[None].to(model.device)
    try:
        with observed(model) as observer, _noted_norms(model, tolerance) as norms, _attention_inputs(model, entered):
            read = {name: _wide(value[0]) for name, value in model.all_activations(batch).items()}
    finally:
        handle.remove()
    calls = observer.calls
    layers = []
    for index in range(model.n_layers):
        attention = FrozenAttention(_wide(calls[index].pattern[0]), _wide_values(values[index]))
        x = _wide(entered[calls[index].module])
        check_heads(
            attention, x, read[f"layers.{index}.attn_heads"], tolerance=tolerance, name=f"{model.name}, layer {index}"
        )
        layers.append(_freeze_layer(model, index, read, x, attention=attention, norms=norms))
    final = heard[-1][0]
    last_norm = norms.giving(final)
    logits = model.logits(batch, last_only=True)[0, -1].double()
    return FrozenModel(
        tokens.cpu(),
        tuple(layers),
        norms.frozen(last_norm),
        _wide(final),
        unembedding=_wide(head.get_parameter("weight").detach()),
        probabilities=logits.softmax(0),
        tolerance=tolerance,
    )


def _wide_values(values: ValueMap) -> ValueMap:
    return ValueMap(_wide(values.W_V), _wide(values.b_V), _wide(values.W_O), _wide(values.b_O))


def _freeze_layer(
    model: LanguageModel,
    index: int,
    read: dict[str, Tensor],
    attention_in: Tensor,
    *,
    attention: FrozenAttention,
    norms: _Norms,
) -> FrozenLayer:
    """One layer, with every map checked against the pass."""

    def site(kind: str) -> Tensor:
        name = f"layers.{index}.{kind}"
        if name not in read:
            model.resolve(name)  # raises, with the reason why the model lacks this site
            raise UserError(f"{model.name} never computes {name}, which a graph needs")
        return read[name]

    suffix = "_post" if model.post_norms else ""
    resid_pre, mlp_in, resid_post = site("resid_pre"), site("mlp_in"), site("resid_post")
    attention_out, contribution = site(f"attn_out{suffix}"), site(f"mlp_out{suffix}")
    resid_mid = resid_pre + attention_out

    def gap(left: Tensor, right: Tensor) -> float:
        return float((left - right).norm() / right.norm().clamp_min(1e-30))

    def require(left: Tensor, right: Tensor, claim: str) -> None:
        if not (error := gap(left, right)) <= norms.tolerance:
            raise UserError(
                f"{model.name}, layer {index}: {claim} does not hold (off by {exponent_text(error)} of its norm), so "
                "that no exact graph can be made; choose another model"
            )

    before_attention, before_mlp = norms.giving(attention_in), norms.giving(mlp_in)
    reads = resid_pre if before_attention is None else _wide(before_attention[1])
    require(reads, resid_pre, "the attention reads the norm of the residual stream")
    source = mlp_in if before_mlp is None else _wide(before_mlp[1])
    parallel = gap(source, resid_pre) < gap(source, resid_mid)
    require(source, resid_pre if parallel else resid_mid, "the MLP reads the norm of the residual stream")
    require(resid_mid + contribution, resid_post, "attention and MLP add up to the residual stream")
    behind_attention = norms.frozen(norms.giving(attention_out)) if suffix else None
    behind_mlp = norms.frozen(norms.giving(contribution)) if suffix else None
    layer = FrozenLayer(
        attention,
        norms.frozen(before_attention),
        behind_attention,
        before_mlp=norms.frozen(before_mlp),
        behind_mlp=behind_mlp,
        parallel=parallel,
        resid_pre=resid_pre,
        resid_mid=resid_mid,
        mlp_in=mlp_in,
        mlp_out=site("mlp_out"),
        contribution=contribution,
    )
    by_head = torch.einsum("thc,hcd->td", attention.outputs(attention_in), attention.values.W_O)
    require(behind(behind_attention, by_head + attention.values.b_O), attention_out, "W_O and the norm behind it")
    return layer


@contextmanager
def _noted_norms(model: LanguageModel, tolerance: float) -> Iterator[_Norms]:
    """Within the block, notes input and output of every norm over the width of the residual stream."""
    norms = _Norms([], tolerance)

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        x = arguments[0] if arguments else None
        if isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape[-1] == model.d_model:
            wide, normed = (value.reshape(-1, model.d_model).clone() for value in (x, output))
            norms.calls.append((module, wide, normed))

    named = [module for module in model.module.modules() if "norm" in type(module).__name__.lower()]
    handles = [module.register_forward_hook(note) for module in named]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _attention_inputs(model: LanguageModel, entered: dict[nn.Module, Tensor]) -> Iterator[None]:
    """Within the block, keeps what every attention module receives, [T, d]."""

    def note(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        x = keywords.get("hidden_states", arguments[0] if arguments else None)
        if isinstance(x, Tensor) and x.shape[-1] == model.d_model:
            entered[module] = x.reshape(-1, model.d_model).clone()

    named = [module for module in model.module.modules() if "attention" in type(module).__name__.lower()]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
