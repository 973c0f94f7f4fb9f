"""The output of every head on every prompt, pooled over positions, read once per model and task and cached on disk.

Place on the path: a task's prompts → [x [examples, heads, d_model]] → codes, probes, controls.

    mean pooling   x = (1/T) Σ_t o_t        (as in the paper)
    last position  x = o_T

Values are stored instead of outputs: pooling commutes with W_O, and values are smaller. The file's name is a hash of
the model's weights, the prompts and this layout, so only a run that would compute the same finds it. It also holds the
seconds that reading took, which count for every method that uses it, cached or not. A damaged file is read and written
anew, with a warning.

Limits: all positions have the same weight; prompts have one length, as tasks require.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from monosemy.circuits.heads.model_heads import Heads, LanguageModelHeads, batches, n_all
from monosemy.circuits.heads.task import METRICS, Example, TaskData, accuracy, clean_tokens
from monosemy.config import fingerprint
from monosemy.errors import UserError
from monosemy.support import progress
from monosemy.support.files import atomic_path, cache_folder
from monosemy.support.tensor_rows import read_arrays
from monosemy.support.tensors import save_tensors

Pooling: TypeAlias = Literal["mean", "last"]
LAYOUT = 1


@dataclass(frozen=True)
class PooledHeads:
    """Pooled values of all heads on a task's examples, positives first, then negatives."""

    heads: Heads
    values: dict[str, Float[Tensor, "E n d_value"]]
    """The pooled values, by kind of pooling."""
    metric: Float[Tensor, " E"]
    """The task's metric on every prompt."""
    correct: Float[Tensor, " E"]
    """1 where the model prefers an answer to all wrong answers, else 0."""
    n_positives: int
    seconds: float
    """How long reading took, now or when the cache was written."""

    @property
    def positive(self) -> Tensor:
        """[E] booleans: whether the example is a positive."""
        return torch.arange(len(self.metric)) < self.n_positives

    def outputs(self, pooling: Pooling = "mean") -> Float[Tensor, "E n d_model"]:
        """x: the pooled output of every head, after W_O, on the CPU."""
        return self.heads.outputs(self.values[pooling]).cpu()

    def choose(self, rows: Tensor) -> PooledHeads:
        """Only the examples for which `rows`, [E] booleans, is true, in the same order."""
        pooled_values = {name: values[rows] for name, values in self.values.items()}
        n = int((rows & self.positive).sum())
        return PooledHeads(
            self.heads, pooled_values, self.metric[rows], self.correct[rows], n_positives=n, seconds=self.seconds
        )


def pooled_heads(heads: Heads, data: TaskData, *, fresh: bool = False) -> PooledHeads:
    """The pooled values of all heads on the task's positives and negatives; a real model's are cached on disk.

    fresh: reads them now even if they are cached.
    """
    examples = [*data.positives, *data.negatives]
    if not isinstance(heads, LanguageModelHeads):
        return _read(heads, data, examples)
    # Everything that the stored numbers depend on, the metric and the answers included.
    identity = {
        "layout": LAYOUT,
        "model": heads.fingerprint,
        "metric": data.metric,
        "n_positives": len(data.positives),
        "prompts": [[list(e.tokens), list(e.answers), list(e.wrong)] for e in examples],
    }
    path = cache_folder() / "circuits" / f"heads-{fingerprint(identity)}.safetensors"
    if path.is_file() and not fresh:
        try:
            return _cached(path, heads, len(data.positives))
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)
    read = _read(heads, data, examples)
    tensors = {f"values.{name}": value for name, value in read.values.items()}
    tensors |= {"metric": read.metric, "correct": read.correct, "seconds": torch.tensor(read.seconds)}
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors)
    return read


def _cached(path: Path, heads: Heads, n_positives: int) -> PooledHeads:
    """The content of a file in the cache. Raises UserError when it is damaged."""
    names = ("values.mean", "values.last", "metric", "correct", "seconds")
    stored = read_arrays(path, "pooled head outputs", "it is computed anew", names)
    tensors = {name: torch.from_numpy(array) for name, array in stored.arrays.items()}
    return PooledHeads(
        heads,
        {"mean": tensors["values.mean"], "last": tensors["values.last"]},
        tensors["metric"],
        tensors["correct"],
        n_positives=n_positives,
        seconds=float(tensors["seconds"]),
    )


def _read(heads: Heads, data: TaskData, examples: Sequence[Example]) -> PooledHeads:
    """Runs the model on all examples and pools the values; also returns the time that this took."""
    tokens, metric = clean_tokens(examples), METRICS[data.metric]
    mean, last, measured, correct = [], [], [], []
    began = time.perf_counter()
    with progress.stage("read heads", total=len(examples), unit="prompts") as bar:
        for rows in batches(heads, tokens):
            clean_pass = heads.run(tokens[rows])
            # Pooled at once, so that values of all positions are held for one batch only.
            mean.append(clean_pass.values.float().mean(1).cpu())
            last.append(clean_pass.values[:, -1].float().cpu())
            measured.append(metric(clean_pass.logits, examples[rows]).cpu())
            correct.append(accuracy(clean_pass.logits, examples[rows]).cpu())
            bar.advance(rows.stop - rows.start)
    seconds = time.perf_counter() - began
    values = {"mean": torch.cat(mean), "last": torch.cat(last)}
    assert values["mean"].shape[1] == n_all(heads)
    return PooledHeads(
        heads, values, torch.cat(measured), torch.cat(correct), n_positives=len(data.positives), seconds=seconds
    )
