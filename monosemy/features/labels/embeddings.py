"""Windows of text as vectors of a sentence-embedding model: one more reader that labels' scores are compared with.

Place on the path: tokens of the pass → texts → [an embedding model] → `labels` (columns embedding_auroc, _low, _high).
Optional: without a model there are no such columns. The vectors know nothing of the model under study or its SAE, so
that their score says how far the meaning of the text alone tells where a latent fires.

Limits: one vector for a whole window, so that a latent that answers to single words is told poorly; vectors are made
anew by every build (4,700 windows of 32 tokens take a small model about a minute).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monosemy.config import fingerprint
from monosemy.errors import UserError

_AT_ONCE = 1024


class Encoder(Protocol):
    """What turns texts into vectors: a sentence-transformers model, or anything with these two."""

    name: str
    """Which model, for the record and to tell builds apart."""

    def encode(self, texts: list[str]) -> Any:
        """[n, e]: a vector for each text."""
        ...


class SentenceModel:
    """A model of the sentence-transformers library: a hub id or a folder."""

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
    """A hub id as it is; for a folder its last part and a hash of its weights, so that two of one name differ."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source
    from monosemy.models.sources import folder_identity

    return f"{folder.resolve().name} ({fingerprint(folder_identity(folder))})"


def window_texts(tokens: np.ndarray, window: int, token_bytes: Sequence[bytes], special: np.ndarray) -> list[str]:
    """[W]: the text of every window, special tokens left out, characters cut by its ends as U+FFFD. tokens [S, T]."""
    rows = tokens.reshape(-1, window).tolist()
    is_special = special.tolist()
    return [b"".join(token_bytes[t] for t in row if not is_special[t]).decode("utf-8", "replace") for row in rows]


def embed(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, e]. Raises UserError when the vectors are no finite [n, e] numbers."""
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
