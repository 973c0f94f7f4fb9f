"""The legend of dimensions, and the array types that signatures share.

Signatures say shapes with jaxtyping's names; bodies mark a tensor of three or more dimensions by suffix letters
(`value_BTD`), and one of fewer where it helps.

    name      letter   dimension
    n         N        token rows of a batch
    batch     B        sequences
    position  T        positions of a sequence
    d_in      D        components of an activation
    d_out     E        components of what a dictionary gives; d_in except for transcoders
    d_sae     F        latents
    k         K        active latents of a row
    z         Z        stored entries of a sparse code
    head      H        heads of a layer
    vocab     V        tokens of the vocabulary

One name stands for one size within a call. The test suite checks that while it runs (tests/cases/shape_checks.py);
elsewhere the annotations cost nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Scalar: TypeAlias = Float[Tensor, ""]

Activations: TypeAlias = Float[Tensor, "n d_in"]
"""Rows at one site, and reconstructions of them."""
Outputs: TypeAlias = Float[Tensor, "n d_out"]
"""Rows at the site that the output stands for, and predictions of them."""
PreActs: TypeAlias = Float[Tensor, "n d_sae"]
"""Pre-activations π, margins, and other scores of every (row, latent) pair."""
EncoderMatrix: TypeAlias = Float[Tensor, "d_in d_sae"]
DecoderMatrix: TypeAlias = Float[Tensor, "d_sae d_in"]
OutputMatrix: TypeAlias = Float[Tensor, "d_sae d_out"]
"""A decoder whose output may have another width than the input."""

PerToken: TypeAlias = Float[Tensor, " n"]
PerInput: TypeAlias = Float[Tensor, " d_in"]
PerLatent: TypeAlias = Float[Tensor, " d_sae"]
PerEntry: TypeAlias = Float[Tensor, " z"]
"""Values on a pattern, row by row."""

TokenIds: TypeAlias = Int[Tensor, "batch position"]
"""Numbers in the tokenizer's vocabulary, and of documents."""
PositionMask: TypeAlias = Bool[Tensor, "batch position"]
TextMask: TypeAlias = Bool[Tensor, "batch position"] | Int[Tensor, "batch position"]
"""What of padded sequences is text (1) and what is padding (0), as tokenizers return it."""
SiteActivations: TypeAlias = Float[Tensor, "batch position _"]
"""Activations of one of several sites, which may differ in width."""
Logits: TypeAlias = Float[Tensor, "batch _ vocab"]
"""Logits of the next token after every position of sequences, or after their last one alone."""
SiteNorms: TypeAlias = Float[Tensor, "batch position"]

LatentMask: TypeAlias = Bool[Tensor, " d_sae"]
LatentCounts: TypeAlias = Int[Tensor, " d_sae"]
TokenCounts: TypeAlias = Int[Tensor, " n"]
EntryNumbers: TypeAlias = Int[Tensor, " z"]
"""Whole numbers of the entries of a pattern: latents, rows, places."""
