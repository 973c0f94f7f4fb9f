"""Tokenises documents and packs them into sequences.

Place on the data's path: after the split (`split`), before the token shards of `tokens`.

  tokenise  adds no special tokens. Those that the text itself spells out, such as `<s>`, do become special tokens.
  pack      joins the tokens of all documents, each followed by the separator (EOS), and cuts them into sequences of
            T = context_length. With a tokenizer that starts texts with BOS, each sequence is BOS and T − 1 tokens.
            Documents that bring BOS or separator themselves (token ids, chats) get no second one (`without_frame`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int32

from monosemy.data.documents import TokenIds
from monosemy.errors import UserError

_BLOCK_TOKENS = 1 << 20

Tokenise = Callable[[Sequence[str]], list[TokenIds]]

Sequences: TypeAlias = Int32[np.ndarray, "batch position"]
"""Whole sequences of equal length: token ids, or the document of every token."""


@contextmanager
def parallel_tokenizer() -> Iterator[None]:
    """Lets fast tokenizers use all cores within the block, unless TOKENIZERS_PARALLELISM says otherwise.

    The variable is set only while encoding. Were it unset, the library would warn, and stop using threads, in a process
    that forks later.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "true")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def tokeniser(tokenizer: Any) -> Tokenise:
    """A function that encodes texts without adding special tokens, into one int32 array per text.

    Without a tokenizer (None) that function raises UserError for any text.
    """

    def tokenise(texts: Sequence[str]) -> list[TokenIds]:
        if not texts:
            return []
        if tokenizer is None:
            raise UserError(
                "the model has no tokenizer and the text holds words; choose a column of token ids, e.g. "
                "--text.column input_ids, or put the tokenizer's files beside the model"
            )
        with parallel_tokenizer():
            ids = tokenizer(
                list(texts), add_special_tokens=False, return_attention_mask=False, padding=False, verbose=False
            )["input_ids"]
        return [np.asarray(row, dtype=np.int32) for row in ids]

    return tokenise


def without_frame(ids: TokenIds, bos: int | None, separator: int | None, padding: int | None) -> TokenIds:
    """The ids without padding at either end, without one BOS at the start and without one separator at the end.

    Packing adds BOS and separator again.
    """
    start, end = 0, len(ids)
    # Padding first, since BOS and separator are found inside of it. Only one of each goes: a second one is text.
    if padding is not None:
        inner = np.flatnonzero(ids != padding)
        start, end = (int(inner[0]), int(inner[-1]) + 1) if len(inner) else (0, 0)
    if bos is not None and start < end and ids[start] == bos:
        start += 1
    if separator is not None and start < end and ids[end - 1] == separator:
        end -= 1
    return ids[start:end]


def pack(
    documents: Iterable[tuple[int, TokenIds]], context_length: int, separator: int | None, bos: int | None
) -> Iterator[tuple[Sequences, Sequences]]:
    """Packs documents, given as (number, ids), into blocks of (tokens [n, T], document number of every token [n, T]).

    Tokens at the end that do not fill a sequence are dropped. `separator` follows every document and counts as its last
    token. `bos` fills position 0 of every sequence and belongs to the document of the token after it.
    """
    # BOS takes one position of every sequence.
    width = context_length - (bos is not None)
    ending = np.array([] if separator is None else [separator], dtype=np.int32)
    tokens: list[TokenIds] = []
    numbers: list[TokenIds] = []
    n_held = 0
    for number, ids in documents:
        n_new = len(ids) + len(ending)
        tokens += [ids, ending]
        numbers.append(np.full(n_new, number, dtype=np.int32))
        n_held += n_new
        # Whole sequences are given out a block at a time, so that arrays are joined once per block, not per document.
        if n_held >= max(_BLOCK_TOKENS, width):
            flat, flat_numbers = np.concatenate(tokens), np.concatenate(numbers)
            whole = n_held // width * width
            yield _sequences(flat[:whole], flat_numbers[:whole], width, bos)
            tokens, numbers, n_held = [flat[whole:]], [flat_numbers[whole:]], n_held - whole
    if n_held >= width:
        whole = n_held // width * width
        yield _sequences(np.concatenate(tokens)[:whole], np.concatenate(numbers)[:whole], width, bos)


def _sequences(tokens: TokenIds, numbers: TokenIds, width: int, bos: int | None) -> tuple[Sequences, Sequences]:
    """Cuts flat tokens and document numbers into rows of `width`, and puts BOS before each row."""
    token_rows, number_rows = tokens.reshape(-1, width), numbers.reshape(-1, width)
    if bos is None:
        return token_rows, number_rows
    column = np.full((len(token_rows), 1), bos, dtype=np.int32)
    return np.concatenate([column, token_rows], axis=1), np.concatenate([number_rows[:, :1], number_rows], axis=1)
