"""Prompts and their counterparts, each run once: the starting point of every causal method.

Place on the path: positives → [values, residual stream and metric of prompt and counterpart] → patching, attribution.

    m_clean, m_corrupt   the metric on the prompt and on its counterpart, both with the prompt's answers
    replacement of a head's values:   resample: the counterpart's;   mean: over all counterparts, per position;   zero

Limits: everything is held in memory (for each of the two sides, prompts × tokens × (heads × d_value + layers × d_model)
numbers). This allows tens to hundreds of prompts, not thousands; more than fit are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.model_heads import Heads, Pass, batches, n_all
from monosemy.circuits.heads.task import METRICS, Example, clean_tokens, corrupted_tokens
from monosemy.errors import UserError, unknown
from monosemy.support.estimates import available_memory
from monosemy.support.numbers import rounded_text, size_text

Ablation: TypeAlias = Literal["resample", "mean", "zero"]
ABLATIONS = ("resample", "mean", "zero")
MEMBER_SHARE = 0.05
"""Share of m(clean) − m(corrupted) from which an effect is large enough for membership."""
MEMORY_MARGIN = 1.25
"""Memory that methods need in all, as a multiple of that of the kept values."""


@dataclass(frozen=True)
class Batch:
    """The prompts of one pass, their counterparts, and the metric on both."""

    examples: Sequence[Example]
    clean: Pass
    corrupted: Pass
    metric: Callable[[Tensor, Sequence[Example]], Tensor]
    m_clean: Float[Tensor, " B"]
    m_corrupt: Float[Tensor, " B"]

    def measure(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
        """The task's metric on every prompt of the batch; differentiable in the logits."""
        return self.metric(logits, self.examples)

    def first(self, n: int) -> Batch:
        """The first n prompts of the batch."""
        sides = [
            Pass(p.tokens[:n], p.values[:n], p.logits[:n], p.residual and tuple(x[:n] for x in p.residual))
            for p in (self.clean, self.corrupted)
        ]
        return Batch(
            self.examples[:n], sides[0], sides[1], self.metric, m_clean=self.m_clean[:n], m_corrupt=self.m_corrupt[:n]
        )


@dataclass(frozen=True)
class Contrast:
    """All prompts that a causal method runs on; build it with `read_contrast`."""

    heads: Heads
    batches: list[Batch]
    seconds: float
    """How long the passes over prompts and counterparts took."""

    @property
    def n_examples(self) -> int:
        """The number of prompts."""
        return sum(len(batch.examples) for batch in self.batches)

    @property
    def m_clean(self) -> Float[Tensor, " E"]:
        """The metric on every prompt, all batches joined."""
        return torch.cat([batch.m_clean for batch in self.batches])

    @property
    def m_corrupt(self) -> Float[Tensor, " E"]:
        """The metric on every counterpart, all batches joined."""
        return torch.cat([batch.m_corrupt for batch in self.batches])

    def first(self, n: int) -> Contrast:
        """The first n prompts, with their share of the seconds; nothing is run again."""
        first_batches, n_remaining = [], n
        for batch in self.batches:
            if n_remaining > 0:
                first_batches.append(batch.first(n_remaining))
            n_remaining -= len(batch.examples)
        n_examples = sum(len(batch.examples) for batch in first_batches)
        return Contrast(self.heads, first_batches, self.seconds * n_examples / self.n_examples)

    def replacements(self, ablation: Ablation) -> list[Float[Tensor, "_ T n d_value"]]:
        """The values that replace those of ablated heads, one tensor per batch.

        Raises UserError for an unknown ablation.
        """
        if ablation not in ABLATIONS:
            raise unknown("ablation", ablation, ABLATIONS)
        if ablation == "resample":
            return [batch.corrupted.values for batch in self.batches]
        if ablation == "zero":
            return [torch.zeros_like(batch.clean.values) for batch in self.batches]
        # One mean per position and head over all batches; expand repeats it for every prompt without a copy.
        total = torch.stack([batch.corrupted.values.sum(0) for batch in self.batches]).sum(0)
        mean = total / self.n_examples
        return [mean.expand_as(batch.clean.values) for batch in self.batches]


def metric_difference(contrast: Contrast, task: str = "") -> float:
    """The mean of m(clean) − m(corrupted), by which effects are divided to give shares.

    Raises UserError where it is not finite or not above 0, so that shares mean nothing.
    """
    clean, corrupt = float(contrast.m_clean.cpu().double().mean()), float(contrast.m_corrupt.cpu().double().mean())
    if not isfinite(clean - corrupt):
        raise UserError(
            f"the metric{f' of task {task!r}' if task else ''} is {rounded_text(clean)} on the prompts and "
            f"{rounded_text(corrupt)} on their counterparts: numbers overflow in {contrast.heads.name}; load it as "
            "float32"
        )
    if clean - corrupt <= 1e-6 * max(1.0, abs(clean)):
        raise UserError(
            f"the metric{f' of task {task!r}' if task else ''} is no larger on the prompts ({rounded_text(clean)}) "
            f"than on their counterparts ({rounded_text(corrupt)}): {contrast.heads.name} does not show this "
            "behaviour, or positives and negatives are the wrong way round; choose another task or other counterparts"
        )
    return clean - corrupt


def read_contrast(heads: Heads, examples: Sequence[Example], metric: str) -> Contrast:
    """Runs every prompt and every counterpart once.

    Raises UserError, after the first batch, when memory cannot hold all of them.
    """
    clean, corrupted = clean_tokens(examples), corrupted_tokens(examples)
    measure = METRICS[metric]
    contrast_batches = []
    began = time.perf_counter()
    for rows in batches(heads, clean):
        batch_examples = examples[rows]
        # With the residual stream, so that later passes can start at the layer that they change.
        clean_pass, corrupted_pass = (heads.run(tokens[rows], residual=True) for tokens in (clean, corrupted))
        contrast_batches.append(
            Batch(
                batch_examples,
                clean_pass,
                corrupted_pass,
                measure,
                m_clean=measure(clean_pass.logits, batch_examples),
                m_corrupt=measure(corrupted_pass.logits, batch_examples),
            )
        )
        if len(contrast_batches) == 1:
            _require_memory(contrast_batches[0], len(examples))
    return Contrast(heads, contrast_batches, time.perf_counter() - began)


def _require_memory(batch: Batch, n_examples: int, available: int | None = None) -> None:
    """Raises UserError when the prompts that follow this first batch do not fit in memory.

    available: bytes; by default, what is free on this machine or on the GPU that holds the batch.
    """
    values = batch.clean.values
    if available is None and values.is_cuda:
        # Memory that PyTorch's allocator holds but does not use is free too, though the driver counts it as taken.
        reserved_free = torch.cuda.memory_reserved(values.device) - torch.cuda.memory_allocated(values.device)
        available = torch.cuda.mem_get_info(values.device)[0] + reserved_free
    elif available is None:
        available = available_memory()
    tensors = [x for p in (batch.clean, batch.corrupted) for x in (p.values, p.logits, *(p.residual or ()))]
    bytes_per_prompt = MEMORY_MARGIN * sum(x.nbytes for x in tensors) / len(batch.examples)
    n_remaining = n_examples - len(batch.examples)
    if bytes_per_prompt * n_remaining > available:
        raise UserError(
            f"{n_examples} prompts of {values.shape[1]} tokens need about {size_text(bytes_per_prompt * n_examples)} "
            f"of memory and {size_text(available)} are free; use at most "
            f"{len(batch.examples) + int(available / bytes_per_prompt)} prompts"
        )


def layers_of(heads: Heads, indices: Sequence[int]) -> list[int]:
    """The layers of these heads, each once, in order."""
    return sorted({index // heads.n_heads for index in indices})


def passes_of(heads: Heads, indices: Sequence[int]) -> float:
    """How many whole passes it takes to patch these heads one by one, each from its layer on where that is possible."""
    if not heads.starts_late:
        return float(len(indices))
    return sum(heads.n_layers - index // heads.n_heads for index in indices) / heads.n_layers


def all_heads(heads: Heads) -> range:
    """The numbers of all heads."""
    return range(n_all(heads))
