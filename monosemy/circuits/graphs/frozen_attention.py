"""Attention with its patterns held constant: a linear map from what a layer's attention reads to what it writes.

Place on the path: a model and a prompt → [patterns, W_V, W_O] → the frozen model (`frozen_model.py`).

    out_t = Σ_h Σ_{s ≤ t} A_h[t, s] (x_s W_V,h + b_V,h) W_O,h + b_O

A_h [T, T] are the weights after the softmax on this prompt, so that windows, sinks, soft caps, rotary positions and
ALiBi are all in them. W_V is read as the Jacobian of the values with respect to the attention's input, in a pass over
one token, so that it does not matter how a family stores it (apart, fused, interleaved). Both are checked against the
model's own head outputs on the prompt.

Source: the attention interface of transformers, through which a family hands queries, keys and values to one function;
here that function is the family's own plain one, observed. Limits: families without that interface (GPT-Neo), layers
without softmax attention (state spaces, linear attention), and values that are not affine in the input (a norm on them)
are refused with one line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.support.numbers import exponent_text

INTERFACE = "monosemy_observed"
_CHUNK = 128
"""Values whose derivatives are taken at a time."""

AttentionFunction: TypeAlias = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class AttentionCall:
    """What one layer's attention received and computed in a pass."""

    module: nn.Module
    query: Float[Tensor, "batch head position d_key"]
    """Behind rotary positions and norms."""
    key: Float[Tensor, "batch key_head position d_key"]
    value: Float[Tensor, "batch key_head position d_value"]
    pattern: Float[Tensor, "batch head position position"]
    scaling: float | None
    """What multiplies q · k; None where the family divides by √d_key by itself."""


@dataclass
class _Observer:
    """The attention function of the passes within `observed`."""

    calls: list[AttentionCall] = field(default_factory=list)
    patterns: list[Tensor] | None = None
    """Patterns to use, by layer, in place of those that the pass would compute."""
    n_replaced: int = 0
    """Calls that took one of `patterns`; these are not kept in `calls`."""
    on_call: Callable[[AttentionCall], None] | None = None

    def __call__(self, module: nn.Module, *states: Tensor, **rest: Any) -> tuple[Tensor, Tensor | None]:
        """Attention as transformers asks for it; `states` are query, key, value and mask."""
        query, key, value = states[:3]
        if self.patterns is not None:
            frozen = self.patterns[self.n_replaced % len(self.patterns)].to(value)
            self.n_replaced += 1
            values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
            return (frozen @ values).transpose(1, 2).contiguous(), None
        plain: AttentionFunction | None = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if plain is None:
            raise UserError(f"{type(module).__name__} has no plain attention function that could be observed")
        output, pattern = plain(module, *states, **rest)
        assert pattern is not None
        call = AttentionCall(module, query, key, value, pattern=pattern, scaling=rest.get("scaling"))
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)
        return output, pattern


@contextmanager
def observed(model: LanguageModel, patterns: list[Tensor] | None = None) -> Iterator[_Observer]:
    """Within the block, every attention of the model's passes is noted in `calls`, layer by layer.

    With `patterns` [B or 1, H, T, T], one a layer, passes use these instead of their own, and nothing is noted.
    Raises UserError for a model whose attention does not go through transformers' interface.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    observer = _Observer(patterns=patterns)
    config: Any = model.module.config
    before = {id(part): part._attn_implementation for part in _configs(config)}
    # The interface finds functions by name, so the latest block's observer is the one in force.
    ALL_ATTENTION_FUNCTIONS.register(INTERFACE, observer)
    ALL_MASK_ATTENTION_FUNCTIONS.register(INTERFACE, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    try:
        config._attn_implementation = INTERFACE
        yield observer
    finally:
        for part in _configs(config):
            part._attn_implementation = before[id(part)]


def _configs(config: Any) -> list[Any]:
    """A configuration and those of its parts, outermost first."""
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return [config, *(part for part in parts if part is not None)]


@dataclass(frozen=True)
class ValueMap:
    """How a layer's attention turns its input into values, and head outputs into its contribution."""

    W_V: Float[Tensor, "key_head d_value d_model"]
    b_V: Float[Tensor, "key_head d_value"]
    W_O: Float[Tensor, "head d_value d_model"]
    b_O: Float[Tensor, " d_model"]


@dataclass(frozen=True)
class FrozenAttention:
    """One layer's attention with its pattern on a prompt held constant."""

    pattern: Float[Tensor, "head position position"]
    values: ValueMap

    @property
    def n_heads(self) -> int:
        return len(self.pattern)

    def constant(self, bias: Float[Tensor, " d_model"] | None = None) -> Float[Tensor, "position d_model"]:
        """The output for an input of zeros, or of `bias` at every position."""
        value = self.values.b_V if bias is None else self.values.b_V + self.values.W_V @ bias
        n_group = self.n_heads // len(value)
        by_head = torch.einsum("hc,hcd->hd", value.repeat_interleave(n_group, dim=0), self.values.W_O)
        # Rows of a pattern sum to 1 except where a sink takes a part of it.
        return self.pattern.sum(2).T @ by_head + self.values.b_O

    def outputs(self, x: Float[Tensor, "position d_model"]) -> Float[Tensor, "position head d_value"]:
        """The heads' outputs before W_O for an input x."""
        value = torch.einsum("td,gcd->gtc", x, self.values.W_V) + self.values.b_V[:, None]
        value = value.repeat_interleave(self.n_heads // len(value), dim=0)
        return torch.einsum("hts,hsc->thc", self.pattern, value)


def observe_values(model: LanguageModel) -> list[ValueMap]:
    """W_V, b_V, W_O and b_O of every layer. Raises UserError where a layer has no softmax attention of this form."""
    tokens = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with observed(model) as observer:
        model.logits(tokens, last_only=True)
    calls = observer.calls
    if len(calls) != model.n_layers:
        raise UserError(
            f"{model.name} ran {len(calls)} attentions that can be observed in {model.n_layers} layers; graphs need "
            "softmax attention through transformers' interface in every layer: choose another model"
        )
    maps: list[tuple[Tensor, Tensor]] = []
    inputs: list[Tensor] = []

    def enter(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
        x = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]
        inputs.append(x.detach().requires_grad_())
        if "hidden_states" in keywords:
            return arguments, {**keywords, "hidden_states": inputs[-1]}
        return (inputs[-1], *arguments[1:]), keywords

    def differentiate(call: AttentionCall) -> None:
        value, x = call.value[0, :, 0], inputs[-1]
        directions = torch.eye(value.numel(), dtype=value.dtype, device=value.device).view(-1, *value.shape)
        rows = [
            torch.autograd.grad(value, x, part, retain_graph=True, is_grads_batched=True)[0].flatten(1)
            for part in directions.split(_CHUNK)
        ]
        W_V = torch.cat(rows).view(*value.shape, -1)
        maps.append((W_V, (value - W_V @ x.flatten()).detach()))

    handles = [call.module.register_forward_pre_hook(enter, with_kwargs=True) for call in calls]
    try:
        with observed(model) as observer:
            observer.on_call = differentiate
            model.logits(tokens, last_only=True, gradients=True)
    finally:
        for handle in handles:
            handle.remove()
    return [_value_map(model, layer, W_V, b_V) for layer, (W_V, b_V) in enumerate(maps)]


def _value_map(model: LanguageModel, layer: int, W_V: Tensor, b_V: Tensor) -> ValueMap:
    """The map of a layer, with its output projection."""
    matrix = model.output_matrix(layer)
    d_value = W_V.shape[1]
    projection, _ = model.place(f"layers.{layer}.attn_heads")
    bias = getattr(projection, "bias", None)
    scale = 1.0 if model.post_norms else model.contribution_scale(f"layers.{layer}.attn_out")
    b_O = torch.zeros(model.d_model, dtype=W_V.dtype, device=W_V.device) if bias is None else bias * scale
    return ValueMap(W_V, b_V, matrix.reshape(-1, d_value, model.d_model), b_O)


def check_heads(frozen: FrozenAttention, x: Tensor, heads: Tensor, *, tolerance: float, name: str) -> None:
    """Raises UserError where pattern and values do not give the head outputs [T, H · d_value] of the model."""
    gap = float((frozen.outputs(x).flatten(1) - heads).norm() / heads.norm().clamp_min(1e-30))
    if not gap <= tolerance:
        raise UserError(
            f"{name}: attention with a frozen pattern misses the model's head outputs by {exponent_text(gap)} of their "
            "norm; its values are no affine map of its input, so that graphs cannot follow it"
        )
