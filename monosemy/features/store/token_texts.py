"""What token ids look like to a reader: their bytes, their text, and pieces in which split characters are whole again.

Place on the path: tokenizer → [bytes of every token] → database → pages and exports. Reading needs NumPy alone; only
`token_bytes` needs the tokenizer.

Byte-level tokenizers cut characters of several bytes between tokens: “—” may be two tokens, neither of which is text.
`pieces` joins such neighbours into one piece; bytes that are no text anywhere show as ⟨E2⟩.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Piece:
    """Tokens start..stop of a sequence, shown as one text."""

    start: int
    stop: int
    text: str


class TokenTexts:
    """The texts of a vocabulary. `offsets` int [V + 1] into `data` uint8; `special` bool [V]."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray, special: np.ndarray) -> None:
        self._data, self._offsets, self._special = data, offsets, special

    def __len__(self) -> int:
        return len(self._special)

    def bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of a token; raises IndexError outside the vocabulary."""
        if not 0 <= token_id < len(self):
            raise IndexError(f"token id {token_id} of {len(self)}")
        return self._data[int(self._offsets[token_id]) : int(self._offsets[token_id + 1])].tobytes()

    def is_special(self, token_id: int) -> bool:
        """Whether it is no text (separators, BOS, padding, chat marks)."""
        return bool(self._special[token_id])

    def text(self, token_id: int) -> str:
        """A token alone; bytes that are no text as ⟨E2⟩."""
        return _readable(self.bytes(token_id))

    def texts(self, token_ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self.text(int(token)) for token in token_ids]

    def pieces(self, token_ids: Sequence[int] | np.ndarray) -> list[Piece]:
        """The sequence as pieces: one a token, but tokens that share a character are one piece."""
        pieces: list[Piece] = []
        start, pending = 0, b""
        for i, token in enumerate(token_ids):
            if not pending:
                start = i
            elif self.is_special(int(token)) or not _continues(pending, self.bytes(int(token))):
                pieces.append(Piece(start, i, _readable(pending)))
                start, pending = i, b""
            pending += self.bytes(int(token))
            if not _unfinished(pending):
                pieces.append(Piece(start, i + 1, _readable(pending)))
                pending = b""
        if pending:
            pieces.append(Piece(start, len(token_ids), _readable(pending)))
        return pieces

    def matching(self, text: str, limit: int = 50) -> list[int]:
        """Ids of tokens whose text is `text`, then that begin with it, then that contain it (case and leading spaces
        ignored); shorter ones first. Empty for an empty text."""
        query = text.strip().lower()
        if not query:
            return []
        ranked = []
        for token, folded in enumerate(self._folded):
            if query in folded:
                rank = 0 if folded == query else 1 if folded.startswith(query) else 2
                ranked.append((rank, len(folded), token))
        return [token for _, _, token in sorted(ranked)[:limit]]

    @cached_property
    def _folded(self) -> list[str]:
        return [self.bytes(token).decode("utf-8", "ignore").strip().lower() for token in range(len(self))]


def token_bytes(tokenizer: Any, n_vocabulary: int) -> list[bytes]:
    """UTF-8 bytes of every token id below n_vocabulary of a transformers tokenizer; empty for ids without a token.

    Without a tokenizer a token is shown as its number behind a space.
    """
    if tokenizer is None:
        return [f" {number}".encode() for number in range(n_vocabulary)]
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    decoder = json.dumps(rules.get("decoder"))
    added_tokens = {number: token.content for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    byte_level = '"ByteLevel"' in decoder
    alphabet = {letter: byte for byte, letter in _byte_alphabet().items()}
    names = tokenizer.convert_ids_to_tokens(list(range(min(n_vocabulary, len(tokenizer)))))
    texts = [b""] * n_vocabulary
    for number, name in enumerate(names):
        if number in added_tokens:
            texts[number] = added_tokens[number].encode()
        elif name is None:
            continue
        elif byte_level:
            texts[number] = b"".join(
                bytes([alphabet[letter]]) if letter in alphabet else letter.encode() for letter in name
            )
        elif match := _BYTE_TOKEN.fullmatch(name):
            texts[number] = bytes([int(match[1], 16)])
        else:
            texts[number] = name.replace("▁", " ").encode()
    return texts


def packed(tokens: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(data uint8, offsets uint32 [V + 1]) as `TokenTexts` takes them."""
    offsets = np.concatenate([[0], np.cumsum([len(token) for token in tokens])]).astype(np.uint32)
    return np.frombuffer(b"".join(tokens), np.uint8), offsets


def _byte_alphabet() -> dict[int, str]:
    """Byte → the printable character that byte-level tokenizers write for it (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    unprintable = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(unprintable)}


def _needed(lead: int) -> int:
    """Bytes of a UTF-8 character that begins with `lead`; 0 when none does."""
    return 1 if lead < 0x80 else 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if lead in _FOUR else 0


_FOUR = range(0xF0, 0xF5)


def _unfinished(data: bytes) -> bool:
    """Whether the bytes end inside a character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            return _needed(byte) > back
    return False


def _continues(pending: bytes, following: bytes) -> bool:
    return bool(following) and following[0] & 0xC0 == 0x80


def _readable(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    return re.sub(r"[\udc80-\udcff]", lambda m: f"⟨{ord(m[0]) - 0xDC00:02X}⟩", text)
