"""Shows token ids to a reader: their bytes, their text, and pieces in which split characters are whole again.

Place on the path: tokenizer → [bytes of every token] → database → pages and exports. Reading needs only NumPy;
`token_bytes` also needs the tokenizer.

Byte-level tokenizers may split a character of several bytes over tokens: “—” may be two tokens, neither of which is
valid text. `pieces` joins such tokens into one piece. Bytes that belong to no character are shown as ⟨E2⟩.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8, UInt32
from numpy import ndarray

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Piece:
    """Tokens start … stop − 1 of a sequence, shown as one text."""

    start: int
    stop: int
    text: str


class TokenTexts:
    """The texts of a vocabulary of V tokens.

    Token t has the bytes data[offsets[t]:offsets[t+1]]; `special` says which tokens are not text.
    """

    def __init__(
        self,
        data: UInt8[ndarray, " byte"],
        offsets: Integer[ndarray, " vocab_plus_1"],
        special: Bool[ndarray, " vocab"],
    ) -> None:
        self._data, self._offsets, self._special = data, offsets, special

    def __len__(self) -> int:
        return len(self._special)

    def bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token. Raises IndexError outside the vocabulary."""
        if not 0 <= token_id < len(self):
            raise IndexError(f"token id {token_id} of {len(self)}")
        return self._data[int(self._offsets[token_id]) : int(self._offsets[token_id + 1])].tobytes()

    def is_special(self, token_id: int) -> bool:
        """Whether the token is not text (separators, BOS, padding, chat markers)."""
        return bool(self._special[token_id])

    def text(self, token_id: int) -> str:
        """The text of a token by itself; bytes that are not a whole character appear as ⟨E2⟩."""
        return _readable(self.bytes(token_id))

    def texts(self, token_ids: Sequence[int] | Integer[ndarray, " position"]) -> list[str]:
        return [self.text(int(token)) for token in token_ids]

    def pieces(self, token_ids: Sequence[int] | Integer[ndarray, " position"]) -> list[Piece]:
        """The sequence in pieces: one per token, except that tokens which share a character form one piece."""
        pieces: list[Piece] = []
        start, pending = 0, b""
        for i, token in enumerate(token_ids):
            # a token that cannot continue the pending bytes ends their piece, incomplete as it is
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
        """Ids of the tokens whose text is `text`, then begins with it, then contains it; shorter ones first.

        Case and surrounding white space are ignored. An empty text matches nothing.
        """
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
    """The UTF-8 bytes of every token id below n_vocabulary of a transformers tokenizer; empty for ids without a token.

    Without a tokenizer, a token's text is a space and its number.
    """
    if tokenizer is None:
        return [f" {number}".encode() for number in range(n_vocabulary)]
    # three kinds of vocabularies: byte-level (GPT-2's alphabet), byte fallback (<0xE2>), and SentencePiece's ▁
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    decoder = json.dumps(rules.get("decoder"))
    added_tokens = {number: token.content for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    byte_level = '"ByteLevel"' in decoder
    alphabet = {letter: byte for byte, letter in _byte_alphabet().items()}
    names = tokenizer.convert_ids_to_tokens(list(range(min(n_vocabulary, len(tokenizer)))))
    texts = [b""] * n_vocabulary
    for number, name in enumerate(names):
        # added tokens are plain text in any vocabulary
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


def packed(tokens: Sequence[bytes]) -> tuple[UInt8[ndarray, " byte"], UInt32[ndarray, " vocab_plus_1"]]:
    """The bytes of all tokens as (data, offsets), which `TokenTexts` takes."""
    offsets = np.concatenate([[0], np.cumsum([len(token) for token in tokens])]).astype(np.uint32)
    return np.frombuffer(b"".join(tokens), np.uint8), offsets


def _byte_alphabet() -> dict[int, str]:
    """Byte → the printable character that stands for it in byte-level vocabularies (GPT-2's mapping)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    unprintable = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(unprintable)}


def _needed(lead: int) -> int:
    """The number of bytes of a UTF-8 character that begins with `lead`; 0 if none does."""
    return 1 if lead < 0x80 else 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if lead in _FOUR else 0


_FOUR = range(0xF0, 0xF5)


def _unfinished(data: bytes) -> bool:
    """Whether the bytes end inside a character."""
    # go back to the last byte that is not a continuation (10xxxxxx): the lead byte says how many must follow
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            return _needed(byte) > back
    return False


def _continues(pending: bytes, following: bytes) -> bool:
    return bool(following) and following[0] & 0xC0 == 0x80


def _readable(data: bytes) -> str:
    # surrogateescape turns each undecodable byte b into U+DC00 + b
    text = data.decode("utf-8", "surrogateescape")
    return re.sub(r"[\udc80-\udcff]", lambda m: f"⟨{ord(m[0]) - 0xDC00:02X}⟩", text)
