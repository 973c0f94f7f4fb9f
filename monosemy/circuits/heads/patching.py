"""Exhaustive activation patching: every head replaced in turn, one pass each. The reference for all other methods.

Place on the path: `Contrast` → [effect of every head] → ground truth where none is known; the checks of `combined`.

    noise     the prompt with one head replaced     effect = m(clean) − m(clean, head ← replacement)
    denoise   the counterpart with one head restored     effect = m(corrupted, head ← clean) − m(corrupted)

A positive effect means that the head supports the behaviour. Where either of two heads is enough, noise finds neither,
because the other stands in, and denoise finds both; where both are needed, denoise finds neither.

Cost: one pass from the head's layer on for every head, prompt and direction. Limits: a backup head, which acts only
when another one is missing, has no effect alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.contrast import Ablation, Batch, Contrast, all_heads, layers_of, passes_of
from monosemy.circuits.heads.model_heads import Heads, n_all, replace_edit
from monosemy.circuits.heads.scores import HeadScores, from_examples
from monosemy.errors import unknown
from monosemy.support import progress

Direction: TypeAlias = Literal["noise", "denoise"]
DIRECTIONS = ("noise", "denoise")


def exhaustive_patching(
    contrast: Contrast,
    ablation: Ablation = "resample",
    direction: Direction = "noise",
    indices: Sequence[int] | None = None,
) -> HeadScores:
    """The effect of every head on every prompt; with `indices`, of these heads only, and the others get 0.

    `denoise` restores the clean values, whatever the ablation. Raises UserError for an unknown ablation or direction.
    """
    if direction not in DIRECTIONS:
        raise unknown("direction", direction, DIRECTIONS)
    began = time.perf_counter()
    head_numbers = list(all_heads(contrast.heads) if indices is None else indices)
    effects = torch.zeros(contrast.n_examples, n_all(contrast.heads), dtype=torch.float64)
    n_done = 0
    with progress.stage("patch heads", total=len(head_numbers) * contrast.n_examples, unit="passes") as bar:
        for batch, replacement in zip(contrast.batches, contrast.replacements(ablation)):
            rows = slice(n_done, n_done := n_done + len(batch.examples))  # this batch's rows of the table
            for index in head_numbers:
                effects[rows, index] = (
                    patched_effect(contrast.heads, batch, replacement, (index,), direction=direction).cpu().double()
                )
                bar.advance(len(batch.examples))
    name = {"noise": f"patching, {ablation}", "denoise": "patching, restored"}[direction]
    return from_examples(name, contrast, effects, began, n_passes=passes_of(contrast.heads, head_numbers))


def patched_effect(
    heads: Heads, batch: Batch, replacement: Tensor, indices: Sequence[int], *, direction: Direction
) -> Float[Tensor, " B"]:
    """The effect of replacing (or restoring) these heads together, on every prompt of a batch."""
    # noise: clean pass, values from the replacement; denoise: corrupted pass, values from the clean one.
    plain, source = (batch.clean, replacement) if direction == "noise" else (batch.corrupted, batch.clean.values)
    edit = replace_edit(source, indices, heads.n_heads)
    logits = heads.logits(plain.tokens, edit, layers=layers_of(heads, indices), clean=plain)
    patched = batch.measure(logits)
    return batch.m_clean - patched if direction == "noise" else patched - batch.m_corrupt
