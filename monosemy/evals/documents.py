"""Sums of every dictionary's errors and losses over blocks of documents, for paired comparisons.

Place on the data's path: evaluation writes the sums beside evaluation.json (documents.safetensors); comparisons of SAEs
read them, within a run or across runs over the same validation text.

All dictionaries are measured on the same documents, and a document that is hard for one is hard for all. A difference
taken within the same resampled documents is therefore known far more precisely than either number alone.

    error        e_ab  Σ ‖x − x̂‖² of dictionary a over the tokens of block b
    delta_loss   l_ab  Σ CE(spliced) − CE(clean)

Limits: documents that share a block cannot be told apart afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from monosemy.errors import UserError
from monosemy.support.files import atomic_path
from monosemy.support.numbers import count_text
from monosemy.support.tensor_rows import read_arrays, unreadable
from monosemy.support.tensors import save_tensors

FORMAT = 1


@dataclass(frozen=True)
class DocumentSums:
    """One quantity of several dictionaries at one site, summed over the tokens of each block of documents."""

    documents: Int[ndarray, " document"]
    """The documents in the order first seen; the i-th of them lies in block i modulo the number of blocks."""
    n_tokens: Float[ndarray, " block"]
    sums: Mapping[str, Float[ndarray, " block"]]
    """The sums by the dictionary's name."""

    def joined(self, other: DocumentSums) -> DocumentSums:
        """The sums of both sets of dictionaries. Raises UserError when they were measured on different documents or
        different numbers of tokens."""
        same = np.array_equal(self.documents, other.documents) and np.array_equal(self.n_tokens, other.n_tokens)
        if not same:
            raise UserError(
                f"cannot pair evaluations over other tokens ({count_text(int(self.n_tokens.sum()))} of "
                f"{len(self.documents)} documents, {count_text(int(other.n_tokens.sum()))} of {len(other.documents)}); "
                "evaluate both runs with the same text, sites and evaluation settings"
            )
        return DocumentSums(self.documents, self.n_tokens, {**self.sums, **other.sums})


Sites = Mapping[str, Mapping[str, DocumentSums]]
"""{site: {quantity: sums}}."""


def save_documents(path: Path, sites: Sites) -> None:
    """Writes documents.safetensors, durably."""
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, dict[str, list[str]]] = {}
    for site, quantities in sites.items():
        names[site] = {quantity: list(evaluation.sums) for quantity, evaluation in quantities.items()}
        for quantity, evaluation in quantities.items():
            place = f"{site}/{quantity}"
            tensors[f"{place}/documents"] = torch.from_numpy(np.asarray(evaluation.documents, np.int64))
            tensors[f"{place}/n_tokens"] = torch.from_numpy(np.asarray(evaluation.n_tokens, np.float64))
            sums = (
                np.stack(list(evaluation.sums.values())) if evaluation.sums else np.zeros((0, len(evaluation.n_tokens)))
            )
            tensors[f"{place}/sums"] = torch.from_numpy(sums.astype(np.float64))
    with atomic_path(path) as temporary:
        # A single entry of metadata: safetensors writes several in no fixed order, and the same run must give the same
        # bytes.
        save_tensors(temporary, tensors, {"about": json.dumps({"format": FORMAT, "names": names})})


def load_documents(path: Path) -> dict[str, dict[str, DocumentSums]]:
    """Reads documents.safetensors. Raises UserError for a missing or damaged file or one of another kind or format."""
    fix = f"run `monosemy evaluate {path.parent}` again"
    stored = read_arrays(path, "document sums", fix)
    arrays = stored.arrays
    try:
        about = json.loads(stored.metadata["about"])
        if about.get("format") != FORMAT:
            raise ValueError(f"format {about.get('format')!r}, this version reads {FORMAT}")
        return {
            site: {
                quantity: DocumentSums(
                    arrays[f"{site}/{quantity}/documents"],
                    arrays[f"{site}/{quantity}/n_tokens"],
                    dict(zip(dictionaries, arrays[f"{site}/{quantity}/sums"], strict=True)),
                )
                for quantity, dictionaries in quantities.items()
            }
            for site, quantities in about["names"].items()
        }
    except (KeyError, ValueError, AttributeError) as error:
        raise unreadable(path, "document sums", error, fix) from None
