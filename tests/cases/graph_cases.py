"""Tiny random models in float64, transcoders for their MLPs, and the frozen model as plain autograd computes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from tiny_models import D_MODEL, N_LAYERS, byte_tokenizer, random_module
from torch import Tensor, nn

from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SaeConfig, SparseAutoencoder
from monosemy.saes.registry import build_sae
from monosemy.saes.transforms import Transforms

TEXT = "a little text"


def _exact_rms(module: nn.Module, gain: Tensor) -> None:
    """Makes an RMS norm compute in the input's own precision: transformers' rounds to float32 inside."""
    epsilon = getattr(module, "variance_epsilon", None) or module.eps

    def forward(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * gain

    module.forward = forward


@cache
def exact_model(family: str) -> LanguageModel:
    """A tiny model of a family in float64 throughout."""
    module = random_module(family).double()
    for part in module.modules():
        if "RMSNorm" in type(part).__name__:
            # Only the four-dimensional norms of queries and keys may differ; they stay inside frozen patterns.
            _exact_rms(part, 1 + part.weight if "Gemma" in type(part).__name__ else part.weight)
    return LanguageModel(module.requires_grad_(False), byte_tokenizer(), name=family, fingerprint=f"exact-{family}")


def random_transcoder(
    layer: int,
    *,
    architecture: str = "topk",
    skip: bool = True,
    d: int = D_MODEL,
    m: int = 3 * D_MODEL,
    k: float = 5,
    site_out: str = "mlp_out",
    **options: Any,
) -> SparseAutoencoder:
    """A random transcoder for the MLP of a layer."""
    transforms = Transforms(subtract_b_dec=False, skip=skip, transcoder=True)
    config = SaeConfig(
        architecture,
        d,
        m,
        k,
        site=f"layers.{layer}.mlp_in",
        site_out=f"layers.{layer}.{site_out}",
        transforms=transforms,
        options=options,
        seed=layer,
    )
    sae = build_sae(config)
    generator = torch.Generator().manual_seed(100 + layer)
    with torch.no_grad():
        for name, tensor in sae.tensors().items():
            if tensor.is_floating_point() and tensor.dim() and name not in ("threshold", "input_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return sae.double().eval().requires_grad_(False)


def random_transcoders(layers: range | tuple[int, ...] = range(N_LAYERS), **kinds: Any) -> list[SparseAutoencoder]:
    return [random_transcoder(layer, **kinds) for layer in layers]


# --- the frozen model by autograd ----------------------------------------------------------------------------------


class _Patterns:
    """The attention of a pass: the family's own at first, which is kept; afterwards the patterns that were kept.

    Families take the softmax in float32 even in float64 models, so a pattern computed twice may differ by rounding.
    """

    def __init__(self) -> None:
        self.patterns: dict[nn.Module, Tensor] = {}

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Any:
        if module not in self.patterns:
            eager = sys.modules[type(module).__module__].eager_attention_forward
            output, self.patterns[module] = eager(module, query, key, value, *rest, **more)
            return output, None
        values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return (self.patterns[module].detach() @ values).transpose(1, 2), None


@contextmanager
def frozen_attention(module: nn.Module) -> Iterator[None]:
    """Within the block, the first pass keeps its attention patterns, and later ones use them as constants."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = module.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("frozen_for_tests", _Patterns())
    ALL_MASK_ATTENTION_FUNCTIONS.register("frozen_for_tests", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    module.config._attn_implementation = "frozen_for_tests"
    try:
        yield
    finally:
        module.config._attn_implementation = before


@contextmanager
def _frozen_norms(module: nn.Module) -> Iterator[None]:
    """Within the block, what norms divide by is a constant for autograd."""
    handles = []

    def freeze(norm: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        x = arguments[0]
        centred = isinstance(norm, nn.LayerNorm)
        if centred:
            x = x - x.mean(-1, keepdim=True)
            scale = (x.detach().square().mean(-1, keepdim=True) + norm.eps).rsqrt()
            return x * scale * norm.weight + norm.bias
        epsilon = getattr(norm, "variance_epsilon", None) or norm.eps
        gain = 1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight
        return x * (x.detach().square().mean(-1, keepdim=True) + epsilon).rsqrt() * gain

    for part in module.modules():
        if "norm" in type(part).__name__.lower() and part.weight.shape[-1] == D_MODEL:
            handles.append(part.register_forward_hook(freeze))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class FrozenByAutograd:
    """The replaced model in plain PyTorch: patterns and scales detached, MLPs swapped for transcoders and errors.

    `leaves` holds what effects are taken of; `targets` the inputs of the MLPs and of the unembedding, with their graph.
    """

    def __init__(self, model: LanguageModel, tokens: Tensor, saes: dict[int, SparseAutoencoder]) -> None:
        self.model, self.tokens, self.saes = model, tokens, saes
        self.activations: dict[int, Tensor] = {}
        self.errors: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        embedded: list[Tensor] = []

        def embed(x: Tensor) -> Tensor:
            embedded.append(x.detach().requires_grad_())
            return embedded[-1]

        final: list[Tensor] = []
        head = model.module.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda module, arguments: final.append(arguments[0]))
        try:
            with frozen_attention(model.module), _frozen_norms(model.module):
                plain = model.all_activations(tokens[None])
                edits = {"layers.0.resid_pre": embed, **self._edits(plain)}
                model.logits(tokens[None], edits, gradients=True)
        finally:
            handle.remove()
        self.embeddings, self.final = embedded[0], final[-1][0]

    def _edits(self, plain: dict[str, Tensor]) -> dict[str, Any]:
        edits = {}
        for layer in range(self.model.n_layers):
            site_out = self.saes[layer].config.site_out if layer in self.saes else ""
            edits[f"layers.{layer}.mlp_in"] = self._note(layer)
            edits[site_out or f"layers.{layer}.{self._contribution()}"] = self._write(layer, plain)
        return {self.model.resolve(name): edit for name, edit in edits.items()}

    def _contribution(self) -> str:
        return "mlp_out_post" if self.model.post_norms else "mlp_out"

    def _note(self, layer: int) -> Any:
        def note(x: Tensor) -> Tensor:
            self.inputs[layer] = x[0]
            return x

        return note

    def _write(self, layer: int, plain: dict[str, Tensor]) -> Any:
        def write(y: Tensor) -> Tensor:
            kind = self.saes[layer].config.site_out if layer in self.saes else f"layers.{layer}.{self._contribution()}"
            true = plain[self.model.resolve(kind)][0]
            inert = torch.zeros_like(true)
            if layer not in self.saes:
                self.errors[layer] = true.clone().requires_grad_()
                return torch.cat([true[:1], self.errors[layer][1:]])[None]
            sae, x = self.saes[layer], self.inputs[layer]
            code = sae.encode(x.detach()).to_dense()
            code[0] = 0
            self.activations[layer] = code.requires_grad_()
            skipped = x @ sae.W_skip.T if sae.config.transforms.skip else inert
            rest = (true - code @ sae.W_dec - skipped - sae.b_dec).detach()
            self.errors[layer] = rest.clone().requires_grad_()
            error = torch.cat([rest[:1], self.errors[layer][1:]])
            return (self.activations[layer] @ sae.W_dec + sae.b_dec + skipped + error)[None]

        return write

    def effects(self, target: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
        """(effects of latents [T, F] and of errors [T] by layer, of tokens [T]) on a scalar with a graph."""
        leaves = [*self.activations.values(), *self.errors.values(), self.embeddings]
        gradients = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        products = [torch.zeros_like(a) if g is None else g * a.detach() for g, a in zip(gradients, leaves)]
        n = len(self.activations)
        errors = {layer: part.sum(1) for layer, part in zip(self.errors, products[n:-1])}
        return dict(zip(self.activations, products)), errors, products[-1][0].sum(1)
