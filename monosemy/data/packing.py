"""Documents -> token ids -> packed sequences.

Place on the data's path: after the split (`split`), before the token shards of `tokens`.

  tokenise  special tokens are not added; the text's own (`<s>` in it is BOS to most tokenizers) are special tokens.
  pack      tokens of all documents back to back, each document followed by the separator (EOS), cut to sequences
            of T = context_length; with a tokenizer that starts texts with BOS, each sequence is BOS and T − 1 tokens.
            Documents that bring their own (`without_frame`: token ids, chats) get no second BOS or separator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from monosemy.data.documents import TokenIds
from monosemy.errors import UserError

_BLOCK_TOKENS = 1 << 20

Tokenise = Callable[[Sequence[str]], list[TokenIds]]


@contextmanager
def parallel_tokenizer() -> Iterator[None]:
    """Lets fast tokenizers use all cores, unless TOKENIZERS_PARALLELISM says otherwise.

    Set only while encoding: left unset, the library warns (and stops using threads) in a process that forks later.
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
    """Batch encoder of a transformers tokenizer: token ids without special tokens, one int32 array a text.

    Without a tokenizer (None) it raises UserError for any text.
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
    """The ids without padding at either end, one BOS at the start and one separator at the end, which packing puts
    there again."""
    start, end = 0, len(ids)
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
) -> Iterator[tuple[TokenIds, TokenIds]]:
    """Blocks of (tokens [n, T], document number of every token [n, T]); what is left at the end is dropped.

    `separator` follows every document and counts as its last token; `bos` fills position 0 of every sequence and
    counts to the document that follows it.
    """
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
        if n_held >= max(_BLOCK_TOKENS, width):
            flat, flat_numbers = np.concatenate(tokens), np.concatenate(numbers)
            whole = n_held // width * width
            yield _sequences(flat[:whole], flat_numbers[:whole], width, bos)
            tokens, numbers, n_held = [flat[whole:]], [flat_numbers[whole:]], n_held - whole
    if n_held >= width:
        whole = n_held // width * width
        yield _sequences(np.concatenate(tokens)[:whole], np.concatenate(numbers)[:whole], width, bos)


def _sequences(tokens: TokenIds, numbers: TokenIds, width: int, bos: int | None) -> tuple[TokenIds, TokenIds]:
    tokens, numbers = tokens.reshape(-1, width), numbers.reshape(-1, width)
    if bos is None:
        return tokens, numbers
    column = np.full((len(tokens), 1), bos, dtype=np.int32)
    return np.concatenate([column, tokens], axis=1), np.concatenate([numbers[:, :1], numbers], axis=1)
