"""A published SAE: an SAE of a registered architecture, with the transforms of its input and output around it.

Place on the path: `registry.build_sae` makes one where a configuration has transforms (transforms.py has the
equations). Weights stay as they were published, to the last bit: codes, thresholds and biases are in the publisher's
units, and decoder rows have the publisher's lengths. Limits: it cannot be trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.errors import UserError
from monosemy.kernels import ops
from monosemy.latents import Frame, SparseLatents
from monosemy.saes.base import SaeConfig, SparseAutoencoder, StepInfo, StepOutput, check_input, check_sizes
from monosemy.saes.losses import Target
from monosemy.saes.transforms import LAYER_NORM_EPSILON
from monosemy.shapes import Activations, Outputs, PreActs

NOT_TRAINED = "an SAE with transforms of its input or output cannot be trained, only used; train one of your own"


@final
class TransformedSae(SparseAutoencoder):
    """x' = input_scale · normalise(centre(x)), f = inner.encode(x'), x̂ = scale ⊙ (b_dec + f W_dec) + offset.

    Parameters: those of `inner`, an SAE of the architecture that the configuration names; b_dec [d_out], which the
    encoder subtracts only where the transforms say so; W_skip [d_out, d_in] where there is a linear path.
    """

    name = "transformed"

    def __init__(self, config: SaeConfig, inner: SparseAutoencoder) -> None:
        # Not SparseAutoencoder's own: it draws weights, which `inner` has already.
        nn.Module.__init__(self)
        check_sizes(config)
        self.config = config
        self.options = inner.options
        if self.d_out != config.d_in:
            inner.W_dec = nn.Parameter(inner.W_dec.new_empty(config.d_sae, self.d_out))
        self.b_dec = nn.Parameter(inner.b_dec.new_zeros(self.d_out))
        if config.transforms.skip:
            self.W_skip = nn.Parameter(inner.W_dec.new_zeros(self.d_out, config.d_in))
        inner.register_parameter("b_dec", self.b_dec if config.transforms.subtract_b_dec else None)
        self.inner = inner  # last: from here on, what this SAE lacks is looked for there

    def __getattr__(self, name: str) -> Any:
        """What this SAE has not, such as W_enc, W_dec or threshold, is its inner SAE's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(self.inner, name)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TransformedSae:
        super()._apply(fn, recurse)
        if self.config.transforms.subtract_b_dec:
            self.inner.b_dec = self.b_dec  # one parameter in two places, which a move to another device separates
        return self

    def tensors(self) -> dict[str, Tensor]:
        own = {name: tensor for name, tensor in self.state_dict().items() if "." not in name}
        inner = {name: tensor for name, tensor in self.inner.tensors().items() if name != "b_dec"}
        return {**inner, **own}

    def _enter(self, x: Activations) -> tuple[Activations, Frame | None]:
        """The encoder's input x' and what the decoder has to undo, None where that is nothing."""
        transforms, raw = self.config.transforms, x
        scale, offset = x.new_ones(len(x), 1), x.new_zeros(len(x), 1)
        if transforms.centre or transforms.normalise == "layer_norm":
            offset = x.mean(1, keepdim=True)
            x = x - offset
        if transforms.normalise == "layer_norm":
            scale = x.std(1, keepdim=True)
            x = x / (scale + LAYER_NORM_EPSILON)
        elif transforms.normalise == "rescale":
            # A row of zeros stays one: its own norm would make it NaN.
            scale = x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / self.d_in**0.5
            x = x / scale
        if transforms.input_scale != 1:
            scale = scale / transforms.input_scale
            x = x * transforms.input_scale
        if not transforms.per_row:
            return x, None
        if transforms.transcoder:
            scale, offset = torch.ones_like(scale), torch.zeros_like(offset)
        if transforms.skip:
            offset = offset + raw @ self.W_skip.T
        return x, Frame(scale, offset)

    @torch.no_grad()
    def output_scale(self, x: Activations) -> Float[Tensor, "n 1"] | None:
        frame = self._enter(x)[1]
        return None if frame is None else frame.scale

    @torch.no_grad()
    def encode(self, x: Activations) -> SparseLatents:
        inner_x, frame = self._enter(x)
        return dataclasses.replace(self.inner.encode(inner_x), frame=frame)

    def decode(self, latents: SparseLatents) -> Tensor:
        """Decodes a code into x̂ [N, d_out].

        Raises UserError when the code's number of latents is not this SAE's, or when it lacks what this SAE took from
        each row, which only a code of `encode` has.
        """
        if latents.d_sae != self.d_sae:
            raise UserError(f"the code has {latents.d_sae} latents but this SAE has {self.d_sae}")
        output = ops.decode(latents, self.inner.W_dec, self.b_dec)
        if latents.frame is not None:
            return output * latents.frame.scale + latents.frame.offset
        if self.config.transforms.per_row:
            raise UserError(
                "this SAE normalises every row of its input, or adds a linear part of it, and the code does not say "
                "which: decode a code that `encode` gave, or one made from it with `with_values`"
            )
        return output

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructs x [..., d_in] as [..., d_out]; where heads are merged, x may be [..., heads, d_head]."""
        heads = self.config.transforms.merge_heads and x.dim() > 1 and x.shape[-1] != self.d_in
        rows = x.flatten(-2) if heads else x
        check_input(rows, self.d_in)
        output = self.decode(self.encode(rows.reshape(-1, self.d_in))).view(*rows.shape[:-1], self.d_out)
        return output.view(x.shape) if heads else output

    def margins(self, x: Activations) -> PreActs | None:
        return self.inner.margins(self._enter(x)[0])

    def shift_margins(self, amount: float) -> None:
        self.inner.shift_margins(amount)

    def losses(self, x: Activations, step: StepInfo, target: Target | None = None) -> StepOutput:
        raise UserError(NOT_TRAINED)

    def initialise(self, x: Activations, l0: float, y: Outputs | None = None) -> None:
        raise UserError(NOT_TRAINED)

    def fold_scale(self, scale: float, scale_out: float | None = None) -> None:
        raise UserError(NOT_TRAINED)
