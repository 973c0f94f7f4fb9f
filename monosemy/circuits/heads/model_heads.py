"""The heads of a model as the methods patch them: one interface for small attention-only models and real ones.

Place on the path: tokens → [what every head writes, logits with heads replaced] → codes, patching, attribution.

    value v_h [T, d_value]     what is read and replaced; the head's contribution to the residual stream is v_h W_O,h
    output o_h = v_h W_O,h     d_model wide, after W_O, without the projection's bias (which belongs to no head)

Methods patch values, not outputs. Because W_O is linear, replacing, averaging or masking values does the same to
outputs, and values are d_model / d_value times smaller. In attention-only models the value is the output.

Grouped-query attention: heads are *query* heads; the keys and values that they share are never patched themselves.
Post-norms (Gemma 2 and 3): outputs are taken before the norm that follows the attention. A replacement passes through
that norm as the model runs, so causal effects are exact, but outputs do not add up to the residual stream's change.

Heads of two widths (Gemma 4) are padded with zeros to the wider one, and W_O with rows of zeros, so nothing reads the
padding. Layers without attention heads, or with another number of them (state-space and linear-attention layers of
hybrid models), are left out. They keep their places, so that layers keep their numbers, but hold zeros, write nothing
and are never edited; `skipped_layers` names them.

Source: the sites of `models/adapter.py`. Limits: only decoders whose output projection is one matrix of n_heads blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from monosemy.circuits.heads.attention_only import AttentionOnly
from monosemy.circuits.heads.task import HeadEdit
from monosemy.errors import UserError
from monosemy.models.adapter import Start

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel

PASS_TOKENS = {"cpu": 768, "cuda": 8192}
"""Tokens in one pass of a real model, by device; more are no faster on a CPU, where memory is short too."""


@dataclass(frozen=True)
class Pass:
    """The results of one pass of the model."""

    tokens: Int[Tensor, "B T"]
    values: Float[Tensor, "B T n d_value"]
    """The values of every head, counted layer by layer."""
    logits: Float[Tensor, "B V"]
    """The logits at the last position."""
    residual: tuple[Tensor, ...] | None = None
    """The residual stream [B, T, d_model] that enters each layer, and that which leaves the last; None where it was not
    asked for or passes cannot start late."""


@runtime_checkable  # so that tests can check signatures that name it
class Heads(Protocol):
    """The interface to a model's heads that all methods are written against."""

    name: str
    n_layers: int
    n_heads: int
    """Number of query heads in each layer."""
    d_model: int
    starts_late: bool
    """Whether a pass can start at the first edited layer instead of at the embeddings."""
    skipped_layers: str
    """Which layers are left out, and why; empty where none are."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def batch_size(self, n_tokens: int) -> int:
        """How many prompts of `n_tokens` tokens go into one pass."""
        ...

    def inputs(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T d_model"]:
        """The residual stream that enters layer 0: embeddings, with positions where the model adds them there."""
        ...

    def run(self, tokens: Int[Tensor, "B T"], *, residual: bool = False) -> Pass:
        """One plain pass, without gradients."""
        ...

    def logits(
        self,
        tokens: Int[Tensor, "B T"],
        edit: HeadEdit | None = None,
        *,
        layers: Sequence[int] | None = None,
        clean: Pass | None = None,
        inputs: Tensor | None = None,
        gradients: bool = False,
    ) -> Float[Tensor, "B V"]:
        """Logits at the last position, with values replaced by what `edit(layer, values [B, T, H, d_value])` returns.

        `edit` is called in layer order, at `layers` only where these are given. clean: a plain pass over the same
        tokens with its residual stream, so that the layers before the first edited one need not run again. inputs: take
        the place of the embeddings. gradients: whether the logits are differentiable in `inputs` and the edits.
        """
        ...

    def outputs(self, values: Float[Tensor, "... n d_value"]) -> Float[Tensor, "... n d_model"]:
        """The outputs of all heads from their values (or from means of values), on the values' device."""
        ...


def n_all(heads: Heads) -> int:
    """The number of heads in the whole model."""
    return heads.n_layers * heads.n_heads


def batches(heads: Heads, tokens: Int[Tensor, "B T"]) -> Iterator[slice]:
    """Slices of the examples, one for each pass."""
    size = heads.batch_size(tokens.shape[1])
    return (slice(start, min(start + size, len(tokens))) for start in range(0, len(tokens), size))


class AttentionOnlyHeads:
    """`Heads` of an attention-only model, in which a head's value is its output."""

    def __init__(self, model: AttentionOnly) -> None:
        self.model = model
        self.name = model.name
        self.n_layers, self.n_heads, self.d_model = model.n_layers, model.n_heads, model.d_model
        self.starts_late = False
        self.skipped_layers = ""

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def batch_size(self, n_tokens: int) -> int:
        return max(1, 64 * PASS_TOKENS["cpu"] // n_tokens)

    def inputs(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.embed(tokens.to(self.device))

    def run(self, tokens: Tensor, *, residual: bool = False) -> Pass:
        values_by_layer: list[Tensor] = []

        def keep(layer: int, values: Tensor) -> Tensor:
            values_by_layer.append(values)
            return values

        with torch.no_grad():
            logits = self.model.logits(tokens.to(self.device), keep)
            return Pass(tokens, torch.cat(values_by_layer, dim=2), logits)

    def logits(
        self,
        tokens: Tensor,
        edit: HeadEdit | None = None,
        *,
        layers: Sequence[int] | None = None,
        clean: Pass | None = None,
        inputs: Tensor | None = None,
        gradients: bool = False,
    ) -> Tensor:
        def only(layer: int, values: Tensor) -> Tensor:
            return values if edit is None or (layers is not None and layer not in layers) else edit(layer, values)

        with torch.set_grad_enabled(gradients):
            return self.model.logits(tokens.to(self.device), only, embeddings=inputs)

    def outputs(self, values: Tensor) -> Tensor:
        return values


class LanguageModelHeads:
    """`Heads` of a real model of any supported family. Raises UserError when no layer has attention heads."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.name = model.name
        self.n_layers, self.n_heads, self.d_model = model.n_layers, model.n_heads, model.d_model
        self.starts_late = model.can_start_late
        weights: dict[int, Tensor] = {}
        reasons: dict[int, UserError] = {}
        for layer in range(self.n_layers):
            try:
                weights[layer] = model.output_weights(layer).float()
            except UserError as error:
                reasons[layer] = error
        if not weights:
            raise UserError(f"{model.name} has no attention heads to look at in any layer: {reasons[0]}")
        self.skipped_layers = _skipped_layers(model, reasons)
        self._widths = {layer: weight.shape[1] for layer, weight in weights.items()}
        self.d_value = max(self._widths.values())
        # Skipped layers share one block of zeros.
        nothing = next(iter(weights.values())).new_zeros(self.n_heads, self.d_value, self.d_model)
        self._W_O = [nothing] * self.n_layers
        for layer, weight in weights.items():
            self._W_O[layer] = pad(weight, (0, 0, 0, self.d_value - weight.shape[1]))

    @property
    def layers(self) -> list[int]:
        """The layers that have heads and are not left out."""
        return list(self._widths)

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def device(self) -> torch.device:
        return self.model.device

    def batch_size(self, n_tokens: int) -> int:
        return max(1, PASS_TOKENS.get(self.device.type, PASS_TOKENS["cpu"]) // n_tokens)

    def inputs(self, tokens: Tensor) -> Tensor:
        return self.model.activations(tokens, [_residual_site(0)])[_residual_site(0)]

    def run(self, tokens: Tensor, *, residual: bool = False) -> Pass:
        site_values: dict[str, Tensor] = {}
        sites = [_site(layer) for layer in self.layers]
        stream_sites = [_residual_site(layer) for layer in range(self.n_layers)]
        stream_sites.append(f"layers.{self.n_layers - 1}.resid_post")
        if residual and self.model.can_start_late:
            sites += stream_sites

        # Hooks that store what passes and change nothing.
        def keeper(site: str) -> Callable[[Tensor], Tensor]:
            def keep(value: Tensor) -> Tensor:
                site_values[site] = value
                return value

            return keep

        tokens = tokens.to(self.device)
        logits = self.model.logits(tokens, {site: keeper(site) for site in sites}, last_only=True)[:, -1].float()
        by_layer = {layer: self.split(layer, site_values[_site(layer)]) for layer in self.layers}
        nothing = torch.zeros_like(next(iter(by_layer.values())))
        values = torch.cat([by_layer.get(layer, nothing) for layer in range(self.n_layers)], dim=2)
        stream = None
        if residual and self.model.can_start_late:
            stream = tuple(site_values[site] for site in stream_sites)
        return Pass(tokens, values, logits, stream)

    def logits(
        self,
        tokens: Tensor,
        edit: HeadEdit | None = None,
        *,
        layers: Sequence[int] | None = None,
        clean: Pass | None = None,
        inputs: Tensor | None = None,
        gradients: bool = False,
    ) -> Tensor:
        edited_layers = [layer for layer in self.layers if layers is None or layer in layers]

        def editor(layer: int, edit: HeadEdit) -> Callable[[Tensor], Tensor]:
            return lambda value: self.join(layer, edit(layer, self.split(layer, value)))

        # A function per layer, since a lambda in the loop would see the last layer only.
        edits = {_site(layer): editor(layer, edit) for layer in edited_layers} if edit is not None else {}
        if inputs is not None:
            edits[_residual_site(0)] = lambda _: inputs
        # Layers before the first edit give what they gave in the clean pass; replaced embeddings would change them.
        start = None
        if clean is not None and clean.residual is not None and inputs is None and edit is not None and edited_layers:
            start = (
                Start(clean.tokens, edited_layers[0], clean.residual[edited_layers[0]]) if edited_layers[0] else None
            )
        logits = self.model.logits(tokens, edits, start, last_only=True, gradients=gradients)
        return logits[:, -1].float()

    def outputs(self, values: Tensor) -> Tensor:
        stacked = torch.cat(self._W_O).to(values.device)  # [n, d_value, d_model]; pooled values are kept on the CPU
        flat = values.float().reshape(-1, len(stacked), self.d_value)
        return torch.einsum("xne,ned->xnd", flat, stacked).reshape(*values.shape[:-1], self.d_model)

    def head_outputs(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T n d_model"]:
        """What each head adds to its attention layer's output, after W_O, from a pass over the tokens."""
        return self.outputs(self.run(tokens).values)

    def added(self, index: int, values: Float[Tensor, "B T d_value"]) -> Float[Tensor, "B T d_model"]:
        """What one head with these values adds to the residual stream.

        Raises UserError for a model with post-norms, where no head's part can be told from the others'.
        """
        if self.model.post_norms:
            raise UserError(
                f"{self.name} puts a norm behind its attention: what one head adds to the residual stream depends on "
                "the others, so single edges are not defined; ask for heads only"
            )
        layer, head = divmod(index, self.n_heads)
        return values.float() @ self._W_O[layer][head]

    def values_from(
        self, clean: Pass, layer: int, pushed: Float[Tensor, "B T d_model"], *, gradients: bool = False
    ) -> Tensor:
        """The values [B, T, H, d_value] of a layer that reads the clean residual stream plus `pushed`.

        With `gradients` they are differentiable in `pushed`; this takes a pass to the end.
        """
        if layer not in self._widths:
            # A skipped layer keeps its zeros; adding 0 · pushed makes them depend on it, with a gradient of 0.
            block = slice(layer * self.n_heads, (layer + 1) * self.n_heads)
            return clean.values[:, :, block] + 0 * pushed[..., :1, None].to(clean.values)
        site = _site(layer)
        start = Start(clean.tokens, layer, self._stream(clean, layer) + pushed)
        if not gradients:
            return self.split(layer, self.model.activations(clean.tokens, [site], start)[site])
        site_values: list[Tensor] = []

        def keep(value: Tensor) -> Tensor:
            site_values.append(value)
            return value

        self.model.logits(clean.tokens, {site: keep}, start, last_only=True, gradients=True)
        return self.split(layer, site_values[0])

    def logits_from(
        self, clean: Pass, pushed: Float[Tensor, "B T d_model"], *, gradients: bool = False
    ) -> Float[Tensor, "B V"]:
        """Logits at the last position for the clean final residual stream plus `pushed`."""
        start = Start(clean.tokens, self.n_layers, self._stream(clean, self.n_layers) + pushed)
        return self.model.logits(clean.tokens, {}, start, last_only=True, gradients=gradients)[:, -1].float()

    def _stream(self, clean: Pass, layer: int) -> Tensor:
        if clean.residual is None:
            raise UserError(
                f"{self.name} cannot be run from a layer in its middle, so no single edge can be held; ask for heads"
            )
        return clean.residual[layer]

    def split(self, layer: int, value: Tensor) -> Tensor:
        """A layer's `attn_heads` [B, T, H · width] as [B, T, H, d_value], padded with zeros behind its width."""
        width = self._widths[layer]
        heads = value.unflatten(-1, (self.n_heads, width))
        return heads if width == self.d_value else pad(heads, (0, self.d_value - width))

    def join(self, layer: int, values: Tensor) -> Tensor:
        """The inverse of `split`: drops the padding and joins the heads."""
        return values[..., : self._widths[layer]].flatten(2)


def _skipped_layers(model: LanguageModel, reasons: dict[int, UserError]) -> str:
    """A sentence on the layers that are left out; empty where none are."""
    if not reasons:
        return ""
    layers, few = ", ".join(map(str, list(reasons)[:8])), len(reasons) <= 8
    return (
        f"layers {layers}{'' if few else f' and {len(reasons) - 8} more'} of {model.name} have no {model.n_heads} "
        f"attention heads and are left out (layer {min(reasons)}: {reasons[min(reasons)]})"
    )


def as_heads(model: AttentionOnly | LanguageModel | Heads) -> Heads:
    """The `Heads` of any model that the methods accept."""
    from monosemy.models.adapter import LanguageModel

    if isinstance(model, AttentionOnly):
        return AttentionOnlyHeads(model)
    return LanguageModelHeads(model) if isinstance(model, LanguageModel) else model


# --- edits ------------------------------------------------------------------------------------------------------------


def replace_edit(replacement: Float[Tensor, "B T n d_value"], indices: Sequence[int], n_heads: int) -> HeadEdit:
    """An edit in which the heads with these numbers take their values from `replacement`; the others keep theirs."""
    of_layer: dict[int, list[int]] = {}
    for index in indices:
        of_layer.setdefault(index // n_heads, []).append(index % n_heads)

    def edit(layer: int, values: Tensor) -> Tensor:
        if layer not in of_layer:
            return values
        layer_heads = of_layer[layer]
        new = values.clone()  # not in place: others may hold the tensor, and autograd may need it
        new[:, :, layer_heads] = replacement[:, :, [layer * n_heads + head for head in layer_heads]].to(values.dtype)
        return new

    return edit


def mask_edit(
    mask: Float[Tensor, "B n"] | Float[Tensor, " n"], replacement: Float[Tensor, "B T n d_value"], n_heads: int
) -> HeadEdit:
    """An edit to replacement + mask · (values − replacement): a mask of 1 keeps a head, 0 replaces it.

    The metric's derivative with respect to the mask is Σ (value − replacement) · ∂m/∂value: attribution patching.
    """

    def edit(layer: int, values: Tensor) -> Tensor:
        block = slice(layer * n_heads, (layer + 1) * n_heads)
        share = mask[..., block]
        share = share[:, None, :, None] if mask.ndim == 2 else share[:, None]
        block_replacement = replacement[:, :, block].to(values.dtype)
        return block_replacement + share * (values - block_replacement)

    return edit


def _site(layer: int) -> str:
    return f"layers.{layer}.attn_heads"


def _residual_site(layer: int) -> str:
    return f"layers.{layer}.resid_pre"
