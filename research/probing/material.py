"""The texts of the probing study, their activations on disk, and the tasks asked of them.

Place on the study's path: labelled snippets (`tasks`) → one pass of the model → `Material` → probes (`run`) → `table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.activations.store import build_store
from monosemy.config import fingerprint
from monosemy.data.tokens import prepare_tokens, separator_and_bos
from monosemy.evals.controls import fit_pca
from monosemy.models.sources import load_model
from research import run_folders
from research.probing import tasks as probing_tasks
from research.probing.probes import Answers, answers_by_document, pool_codes, pool_rows, split_documents
from research.probing.tasks import LENGTH, Task, document_numbers, make_tasks, read_snippets

BLOCK = 128
"""Snippets encoded at once."""


class Snippets:
    """The snippets as token sequences, padded with the separator, for the activation store."""

    context_length = LENGTH

    def __init__(self, snippets: Sequence[probing_tasks.Snippet], padding: int) -> None:
        self.ids = np.full((len(snippets), LENGTH), padding, np.int32)
        for row, snippet in zip(self.ids, snippets):
            row[: len(snippet.ids)] = snippet.ids
        self.fingerprint = fingerprint(self.ids.tolist())

    @property
    def n_sequences(self) -> int:
        return len(self.ids)

    def sequences(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]

    def documents(self, start: int, stop: int) -> np.ndarray:
        return np.repeat(np.arange(start, stop, dtype=np.int32)[:, None], LENGTH, axis=1)


class Material:
    """The texts, their activations on disk, and the tasks."""

    def __init__(self, folders: Sequence[Path], site: str, share: float) -> None:
        config = run_folders.shared_config(folders)
        model = load_model(config.model.source, revision=config.model.revision, dtype=config.model.dtype)
        tokens = prepare_tokens(config.text, model.tokenizer, model.tokenizer_fingerprint)
        used = {(d["source"], d["origin"]) for d in tokens.documents() if d["side"] == "train"}
        self.snippets = read_snippets(model.tokenizer, used, share=share)
        separator, _ = separator_and_bos(model.tokenizer)
        assert separator is not None
        sequences = Snippets(self.snippets, separator)
        self.site, self.fingerprint = site, sequences.fingerprint
        self.store = build_store(model, sequences, [site], config.activations)
        pieces = model.tokenizer.batch_decode([[i] for i in range(model.vocab_size)])
        self.document = document_numbers(self.snippets)
        self.n_documents = int(self.document.max()) + 1
        tasks = make_tasks(self.snippets, pieces)
        row_of = np.full(len(self.snippets) * LENGTH, -1, np.int64)
        row_of[self.store.sequences.astype(np.int64) * LENGTH + self.store.positions] = np.arange(self.store.n_rows)
        self.tasks = [with_rows(task, row_of) for task in tasks]
        self.units = np.unique(np.concatenate([row_of[t.examples] for t in self.tasks if t.on_tokens] or [[]])).astype(
            int
        )
        self.row_of = row_of

    def features(self, sae: Any) -> tuple[np.ndarray, np.ndarray]:
        """([snippets, m] pooled, [units, m]) of a SAE."""
        ends = np.searchsorted(self.store.sequences, np.arange(0, len(self.snippets) + BLOCK, BLOCK))
        pooled = []
        for number, (start, stop) in enumerate(pairwise(ends.tolist())):
            n = min(BLOCK, len(self.snippets) - number * BLOCK)
            codes = sae.encode(self.store.rows(self.site, slice(start, stop)))
            pooled.append(pool_codes(codes, self.store.sequences[start:stop] - number * BLOCK, n))
        units = [
            sae.encode(self.store.rows(self.site, part)).to_dense().numpy()
            for part in np.array_split(self.units, max(1, len(self.units) // 2048))
        ]
        return np.concatenate(pooled), np.concatenate(units)

    @cached_property
    def rows(self) -> np.ndarray:
        return self.store.rows(self.site, slice(None)).numpy()

    def residual(self) -> tuple[np.ndarray, np.ndarray]:
        return pool_rows(self.rows, self.store.sequences, len(self.snippets)), self.rows[self.units]

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """All principal components, of the rows of the training half."""
        train = split_documents(self.document)[self.store.sequences]
        basis = fit_pca(torch.from_numpy(self.rows[train]).split(8192))
        centred = (self.rows - basis.mean.float().numpy()) @ basis.components.float().numpy().T
        return pool_rows(centred, self.store.sequences, len(self.snippets)), centred[self.units]

    def of_task(self, features: tuple[np.ndarray, np.ndarray], task: Task) -> np.ndarray:
        """[n, m]: the features of a task's examples."""
        if task.on_tokens:
            return features[1][np.searchsorted(self.units, self.row_of[task.examples])]
        return features[0][task.examples]

    def answers(self, predictions: np.ndarray, task: Task) -> Answers:
        snippet = task.examples // LENGTH if task.on_tokens else task.examples
        return answers_by_document(
            predictions, task.labels[~task.train], self.document[snippet[~task.train]], self.n_documents
        )


def with_rows(task: Task, row_of: np.ndarray) -> Task:
    """The task without tokens whose activations are left out (norm outliers)."""
    if not task.on_tokens:
        return task
    there = row_of[task.examples] >= 0
    return Task(task.family, task.name, True, task.examples[there], labels=task.labels[there], train=task.train[there])
