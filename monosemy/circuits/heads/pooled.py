"""What every head wrote on every prompt, pooled over positions, read once per (model, task) and kept on disk.

Place on the path: a task's prompts → [x [examples, heads, d_model]] → codes, probes, controls.

    mean pooling   x = (1/T) Σ_t o_t        (the paper's)
    last position  x = o_T

Kept as values, not outputs: pooling commutes with W_O, and values are smaller. The file is named after the model, its
weights, the prompts and this layout, so it can only be found by what would compute the same; it also holds the
seconds that reading took, which count for every method that uses it, cached or not.

Limits: positions are weighted alike; prompts of one length (as tasks demand).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from monosemy.circuits.heads.model_heads import Heads, LanguageModelHeads, batches, n_all
from monosemy.circuits.heads.task import METRICS, Example, TaskData, accuracy, clean_tokens
from monosemy.config import fingerprint
from monosemy.support import progress
from monosemy.support.files import atomic_path, cache_folder
from monosemy.support.tensors import save_tensors

Pooling: TypeAlias = Literal["mean", "last"]
LAYOUT = 1


@dataclass(frozen=True)
class PooledHeads:
    """Positives first, then negatives."""

    heads: Heads
    values: dict[str, Float[Tensor, "E n d_value"]]
    """By pooling."""
    metric: Float[Tensor, " E"]
    """The task's metric on every prompt."""
    correct: Float[Tensor, " E"]
    """1 where the model gives an answer rather than a wrong one."""
    n_positives: int
    seconds: float
    """What reading took, then if not now."""

    @property
    def positive(self) -> Tensor:
        """[E] booleans."""
        return torch.arange(len(self.metric)) < self.n_positives

    def outputs(self, pooling: Pooling = "mean") -> Float[Tensor, "E n d_model"]:
        """x: what every head wrote, after W_O."""
        return self.heads.outputs(self.values[pooling]).cpu()

    def choose(self, rows: Tensor) -> PooledHeads:
        """These examples alone, in their old order. `rows`: [E] booleans."""
        pooled_values = {name: values[rows] for name, values in self.values.items()}
        n = int((rows & self.positive).sum())
        return PooledHeads(
            self.heads, pooled_values, self.metric[rows], self.correct[rows], n_positives=n, seconds=self.seconds
        )


def pooled_heads(heads: Heads, data: TaskData, *, fresh: bool = False) -> PooledHeads:
    """Reads what all heads write on the task's positives and negatives; a real model's is kept on disk. `fresh`: reads
    now, whatever was kept."""
    examples = [*data.positives, *data.negatives]
    if not isinstance(heads, LanguageModelHeads):
        return _read(heads, data, examples)
    identity = {
        "layout": LAYOUT,
        "model": heads.fingerprint,
        "metric": data.metric,
        "n_positives": len(data.positives),
        "prompts": [[list(e.tokens), list(e.answers), list(e.wrong)] for e in examples],
    }
    path = cache_folder() / "circuits" / f"heads-{fingerprint(identity)}.safetensors"
    if path.is_file() and not fresh:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = {name.removeprefix("values."): v for name, v in tensors.items() if name.startswith("values.")}
        seconds = float(tensors["seconds"])
        return PooledHeads(
            heads, values, tensors["metric"], tensors["correct"], n_positives=len(data.positives), seconds=seconds
        )
    read = _read(heads, data, examples)
    tensors = {f"values.{name}": value for name, value in read.values.items()}
    tensors |= {"metric": read.metric, "correct": read.correct, "seconds": torch.tensor(read.seconds)}
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors)
    return read


def _read(heads: Heads, data: TaskData, examples: Sequence[Example]) -> PooledHeads:
    tokens, metric = clean_tokens(examples), METRICS[data.metric]
    mean, last, measured, correct = [], [], [], []
    began = time.perf_counter()
    with progress.stage("read heads", total=len(examples), unit="prompts") as bar:
        for rows in batches(heads, tokens):
            clean_pass = heads.run(tokens[rows])
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
