"""The heads of a model as the methods patch them: one interface over small attention-only models and real ones.

Place on the path: tokens → [what every head writes, logits with heads replaced] → codes, patching, attribution.

    value v_h [T, d_value]     what is read and replaced; the head's contribution to the residual stream is v_h W_O,h
    output o_h = v_h W_O,h     d_model wide, after W_O, without the projection's bias (which belongs to no head)

A replacement, a mean or a mask of outputs is the same replacement, mean or mask of values, W_O being linear, so nothing
is lost by patching values; they are d_model / d_value times smaller. In attention-only models the value is the output.

Grouped-query attention: heads are *query* heads; the keys and values they share are never patched themselves.
Post-norms (Gemma 2 and 3): outputs are those before the norm behind the attention; a replacement passes through that
norm as the pass runs, so causal effects are exact, but outputs don't add up to the residual stream's change.

Heads of two widths (Gemma 4) are padded with zeros to the wider one, and W_O with rows of zeros: values that nothing
reads. Layers without attention heads, or with another number of them (state-space and linear-attention layers of hybrid
models), are left out: their places are counted, so that layers keep their numbers, but hold zeros, write nothing and
are never edited. `skipped_layers` names them.

Source: the sites of `models/adapter.py`. Limits: decoders whose output projection is one matrix of n_heads blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

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
"""Tokens in one pass of a real model: more are no faster on a CPU, where memory is short too."""


@dataclass(frozen=True)
class Pass:
    """What one pass of the model gave."""

    tokens: Int[Tensor, "B T"]
    values: Float[Tensor, "B T n d_value"]
    """Of every head, counted layer by layer."""
    logits: Float[Tensor, "B V"]
    """At the last position."""
    residual: tuple[Tensor, ...] | None = None
    """The residual stream [B, T, d_model] entering each layer, and leaving the last one, where asked for."""


class Heads(Protocol):
    """What every method is written against."""

    name: str
    n_layers: int
    n_heads: int
    """Query heads in each layer."""
    d_model: int
    starts_late: bool
    """Whether a pass can start behind the layers that an edit does not reach."""
    skipped_layers: str
    """Which layers are left out, and why; empty where none is."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def batch_size(self, n_tokens: int) -> int:
        """Prompts of `n_tokens` tokens in one pass."""
        ...

    def inputs(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T d_model"]:
        """The residual stream entering layer 0: embeddings, and positions where they are added there."""
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
        """Logits at the last position with values replaced: `edit(layer, values [B, T, H, d_value])`, in layer order.

        `layers`: the only ones at which `edit` is asked. `clean`: a plain pass over these tokens with its residual
        stream, so that the layers before the first edit need not run again. `inputs` stand in for the embeddings.
        """
        ...

    def outputs(self, values: Float[Tensor, "... n d_value"]) -> Float[Tensor, "... n d_model"]:
        """What all heads write, from their values (or means of these), on the device of the values."""
        ...


def n_all(heads: Heads) -> int:
    """Heads of the whole model."""
    return heads.n_layers * heads.n_heads


def batches(heads: Heads, tokens: Int[Tensor, "B T"]) -> Iterator[slice]:
    """Slices of the examples, one pass each."""
    size = heads.batch_size(tokens.shape[1])
    return (slice(start, min(start + size, len(tokens))) for start in range(0, len(tokens), size))


class AttentionOnlyHeads:
    """`Heads` of an attention-only model, whose values are the outputs themselves."""

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
    """`Heads` of a real model of any supported family. Raises UserError when no layer has heads."""

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
        nothing = next(iter(weights.values())).new_zeros(self.n_heads, self.d_value, self.d_model)
        self._W_O = [nothing] * self.n_layers
        for layer, weight in weights.items():
            self._W_O[layer] = pad(weight, (0, 0, 0, self.d_value - weight.shape[1]))

    @property
    def layers(self) -> list[int]:
        """The layers whose heads are looked at."""
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

        edits = {_site(layer): editor(layer, edit) for layer in edited_layers} if edit is not None else {}
        if inputs is not None:
            edits[_residual_site(0)] = lambda _: inputs
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
        """What each head adds to its attention layer's output, after W_O."""
        return self.outputs(self.run(tokens).values)

    def added(self, index: int, values: Float[Tensor, "B T d_value"]) -> Float[Tensor, "B T d_model"]:
        """What one head with these values adds to the residual stream. UserError behind post-norms, where no head's
        part can be told from the others'."""
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
        """Values [B, T, H, d_value] of a layer that reads the clean residual stream plus `pushed`; with `gradients`
        (which takes a pass to the end) differentiable in it."""
        if layer not in self._widths:
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
        """Logits at the last position when the final residual stream is the clean one plus `pushed`."""
        start = Start(clean.tokens, self.n_layers, self._stream(clean, self.n_layers) + pushed)
        return self.model.logits(clean.tokens, {}, start, last_only=True, gradients=gradients)[:, -1].float()

    def _stream(self, clean: Pass, layer: int) -> Tensor:
        if clean.residual is None:
            raise UserError(
                f"{self.name} cannot be run from a layer in its middle, so no single edge can be held; ask for heads"
            )
        return clean.residual[layer]

    def split(self, layer: int, value: Tensor) -> Tensor:
        """A layer's `attn_heads` [B, T, H · width] as [B, T, H, d_value], zeros behind its width."""
        width = self._widths[layer]
        heads = value.unflatten(-1, (self.n_heads, width))
        return heads if width == self.d_value else pad(heads, (0, self.d_value - width))

    def join(self, layer: int, values: Tensor) -> Tensor:
        """The reverse of `split`."""
        return values[..., : self._widths[layer]].flatten(2)


def _skipped_layers(model: LanguageModel, reasons: dict[int, UserError]) -> str:
    if not reasons:
        return ""
    layers, few = ", ".join(map(str, list(reasons)[:8])), len(reasons) <= 8
    return (
        f"layers {layers}{'' if few else f' and {len(reasons) - 8} more'} of {model.name} have no {model.n_heads} "
        f"attention heads and are left out (layer {min(reasons)}: {reasons[min(reasons)]})"
    )


def as_heads(model: AttentionOnly | LanguageModel | Heads) -> Heads:
    """The interface to any model that the methods take."""
    from monosemy.models.adapter import LanguageModel

    if isinstance(model, AttentionOnly):
        return AttentionOnlyHeads(model)
    return LanguageModelHeads(model) if isinstance(model, LanguageModel) else model


# --- edits ------------------------------------------------------------------------------------------------------------


def replace_edit(replacement: Float[Tensor, "B T n d_value"], indices: Sequence[int], n_heads: int) -> HeadEdit:
    """The heads with these indices take their values from `replacement`; the others keep theirs."""
    of_layer: dict[int, list[int]] = {}
    for index in indices:
        of_layer.setdefault(index // n_heads, []).append(index % n_heads)

    def edit(layer: int, values: Tensor) -> Tensor:
        if layer not in of_layer:
            return values
        layer_heads = of_layer[layer]
        new = values.clone()
        new[:, :, layer_heads] = replacement[:, :, [layer * n_heads + head for head in layer_heads]].to(values.dtype)
        return new

    return edit


def mask_edit(
    mask: Float[Tensor, "B n"] | Float[Tensor, " n"], replacement: Float[Tensor, "B T n d_value"], n_heads: int
) -> HeadEdit:
    """values → replacement + mask · (values − replacement): 1 keeps a head, 0 replaces it.

    Its derivative by the mask is Σ (value − replacement) · ∂m/∂value: attribution patching.
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
