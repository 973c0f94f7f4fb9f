"""Embeds windows of text with a sentence-embedding model, as a baseline for the scores of labels.

Place on the path: tokens of the pass → texts → [an embedding model] → `labels` (columns embedding_auroc, _low, _high).
It is optional; without a model there are no such columns. The vectors know nothing of the model under study or its SAE.
Their score therefore says how well the meaning of the text alone predicts where a latent fires.

Limits: a window has a single vector, so a latent that fires on single words is predicted poorly. Every build computes
the vectors anew (4,700 windows of 32 tokens take a small model about a minute).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy import ndarray

from monosemy.config import fingerprint
from monosemy.errors import UserError

_AT_ONCE = 1024


@runtime_checkable  # so that tests can check signatures that name it
class Encoder(Protocol):
    """Turns texts into vectors: a sentence-transformers model, or any object with these two members."""

    name: str
    """The model's name, which is recorded and distinguishes builds."""

    def encode(self, texts: list[str]) -> Any:
        """One vector per text, [n, e]."""
        ...


class SentenceModel:
    """A model of the sentence-transformers library, from a hub id or a folder.

    Raises UserError when the library is not installed or the model cannot be loaded.
    """

    def __init__(self, source: str) -> None:
        try:
            library = importlib.import_module("sentence_transformers")
        except ImportError:
            raise UserError(
                f"embedding model {source!r} needs a library that is not installed: pip install sentence-transformers"
            ) from None
        folder = Path(source).expanduser()
        try:
            self._model = library.SentenceTransformer(
                str(folder) if folder.exists() else source, trust_remote_code=False
            )
        except Exception as error:  # the library, transformers and the hub raise what they like
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"cannot load embedding model {source!r}: {reason}; give a folder or a hub id of sentence-transformers"
            ) from None
        self.name = model_name(source)

    def encode(self, texts: list[str]) -> Any:
        return self._model.encode(texts, show_progress_bar=False, convert_to_numpy=True)


def model_name(source: str) -> str:
    """The hub id itself; for a folder its last part and a hash of its weights, to tell folders of one name apart."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source
    from monosemy.models.sources import folder_identity

    return f"{folder.resolve().name} ({fingerprint(folder_identity(folder))})"


def window_texts(
    tokens: Int[ndarray, "sequence position"],
    window: int,
    token_bytes: Sequence[bytes],
    special: Bool[ndarray, " vocab"],
) -> list[str]:
    """The text of every window, without special tokens; characters cut off at its ends become U+FFFD."""
    # bytes are joined before decoding, so that characters split over tokens are whole
    rows = tokens.reshape(-1, window).tolist()
    is_special = special.tolist()
    return [b"".join(token_bytes[t] for t in row if not is_special[t]).decode("utf-8", "replace") for row in rows]


def embed(encoder: Encoder, texts: Sequence[str]) -> Float32[ndarray, "text _"]:
    """Embeds texts, each as one row. Raises UserError unless the encoder gives one row of finite numbers per text."""
    parts = []
    for start in range(0, len(texts), _AT_ONCE):
        part = list(texts[start : start + _AT_ONCE])
        vectors = np.asarray(encoder.encode(part), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(part) or not np.isfinite(vectors).all():
            raise UserError(
                f"embedding model {encoder.name!r} gave {vectors.shape} for {len(part)} texts; "
                "it must give one row of finite numbers for each"
            )
        parts.append(vectors)
    return np.concatenate(parts)
