"""Documents -> packed sequences: shuffle, tokenise, split by document, mix, pack.

Place on the data's path: between the text sources and the token shards of `tokens`.

  shuffle   documents are read in windows (20,000 documents or 128 M characters); a window is ordered by a keyed
            hash of each document's number, so that the order is the same with every version of every library.
            Corpora smaller than a window are shuffled whole.
  split     the first documents fill the validation set, the next ones the training set: the validation set does
            not depend on the number of training tokens, and a longer training set begins with the shorter one.
            All sections of one origin go to one side; where works are cut into sections, at most a tenth of the
            works serve validation (more only if they don't suffice). A corpus of one single work is split by
            section instead (`split_unit` in the record says so).
  mix       the next document comes from the source that lags most behind its share of the tokens so far, so
            every prefix keeps the shares.
  pack      tokens of all documents back to back, each document followed by the separator (EOS), cut to sequences
            of T = context_length; with a tokenizer that starts texts with BOS, each sequence is BOS and T − 1 tokens.

Only as many documents are tokenised as the asked tokens need (and the rest of a batch of each source).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monosemy.data.documents import Document, TextSource

WINDOW_DOCUMENTS = 20_000
WINDOW_CHARS = 128 << 20
_BATCH_DOCUMENTS = 256
_BATCH_CHARS = 200_000
_BLOCK_TOKENS = 1 << 20

TokenIds = NDArray[np.int32]
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
    """Batch encoder of a transformers tokenizer: token ids without special tokens, one int32 array a text."""

    def tokenise(texts: Sequence[str]) -> list[TokenIds]:
        with parallel_tokenizer():
            ids = tokenizer(
                list(texts), add_special_tokens=False, return_attention_mask=False, padding=False, verbose=False
            )["input_ids"]
        return [np.asarray(row, dtype=np.int32) for row in ids]

    return tokenise


class ShuffledDocuments:
    """A source's documents, window by window in an order drawn from the seed (see the module's docstring)."""

    def __init__(self, documents: Iterable[Document], key: str) -> None:
        self.documents = iter(documents)
        self.key = key.encode()
        self.n_works = 0
        """Different origins read so far (one that lies across windows counts in each)."""
        self.cut_works: set[str] = set()
        """Origins of which more than one document was read in a window."""
        self.single_work: str | None = None
        """The origin of a corpus of one work, whose sections then count as works of their own."""

    def __iter__(self) -> Iterator[Document]:
        while window := self._window():
            works = Counter(d.origin for d in window)
            if self.n_works == 0 and len(works) == 1 and len(window) > 1:
                self.single_work = window[0].origin
            if self.single_work is not None:
                window = [self._own_work(d) for d in window]
                works = Counter(d.origin for d in window)
            self.n_works += len(works)
            self.cut_works.update(origin for origin, n in works.items() if n > 1)
            yield from sorted(window, key=self._order)

    def _window(self) -> list[Document]:
        window: list[Document] = []
        n_chars = 0
        for document in self.documents:
            window.append(document)
            n_chars += len(document.text)
            if len(window) == WINDOW_DOCUMENTS or n_chars >= WINDOW_CHARS:
                break
        return window

    def _own_work(self, document: Document) -> Document:
        if document.origin != self.single_work:
            return document
        return Document(document.text, document.source, document.index, f"{document.origin}, section {document.index}")

    def _order(self, document: Document) -> bytes:
        return hashlib.blake2b(str(document.index).encode(), key=self.key, digest_size=16).digest()


@dataclass
class Counts:
    """What one source gave to one side of the split."""

    n_documents: int = 0
    n_tokens: int = 0


@dataclass
class SourceQueue:
    """The tokenised documents of one source, in shuffled order, with the rule of the split."""

    source: TextSource
    shuffled: ShuffledDocuments
    tokenise: Tokenise
    n_empty: int = 0
    validation_origins: set[str] = field(default_factory=set)
    validation: Counts = field(default_factory=Counts)
    train: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._documents = iter(self.shuffled)
        self._ready: deque[tuple[Document, TokenIds]] = deque()
        self._deferred: deque[tuple[Document, TokenIds]] = deque()
        self._share_of_works = 0.1

    def next_validation(self) -> tuple[Document, TokenIds] | None:
        """The next document the split allows for validation; None when the source has no more."""
        while True:
            while (item := self._pop()) is not None:
                if self._serves_validation(item[0].origin):
                    self.validation_origins.add(item[0].origin)
                    return item
                self._deferred.append(item)
            if not self._deferred or self._share_of_works >= 1:
                return None
            self._share_of_works *= 2
            self._ready, self._deferred = self._deferred, deque()

    @property
    def n_kept_tokens(self) -> int:
        """Tokens (without separators) that validation has passed over and kept for training."""
        return sum(len(ids) for _, ids in [*self._deferred, *self._ready])

    def begin_training(self) -> None:
        """Puts what the split kept back for training first in the queue."""
        self._ready = self._deferred + self._ready
        self._deferred = deque()

    def next_training(self) -> tuple[Document, TokenIds] | None:
        """The next document of a work that validation has not touched; None when the source has no more."""
        while (item := self._pop()) is not None:
            if item[0].origin not in self.validation_origins:
                return item
        return None

    def _serves_validation(self, origin: str) -> bool:
        if origin not in self.shuffled.cut_works or origin in self.validation_origins:
            return True
        n_works = self.shuffled.n_works
        n_allowed = min(max(1, int(self._share_of_works * n_works)), max(1, n_works - 1))
        return len(self.validation_origins) < n_allowed

    def _pop(self) -> tuple[Document, TokenIds] | None:
        while not self._ready:
            batch = self._batch()
            if not batch:
                return None
            for document, ids in zip(batch, self.tokenise([d.text for d in batch]), strict=True):
                if len(ids):
                    self._ready.append((document, ids))
                else:
                    self.n_empty += 1
        return self._ready.popleft()

    def _batch(self) -> list[Document]:
        batch: list[Document] = []
        n_chars = 0
        for document in self._documents:
            batch.append(document)
            n_chars += len(document.text)
            if len(batch) == _BATCH_DOCUMENTS or n_chars >= _BATCH_CHARS:
                break
        return batch


class Shortage(Exception):
    """The corpus ended before the asked number of tokens; `tokens` turns it into words."""

    def __init__(self, queue: SourceQueue, n_tokens: int) -> None:
        super().__init__(f"{queue.source.name} ended after {n_tokens} tokens")
        self.queue = queue
        self.n_tokens = n_tokens


def mixed(
    queues: Sequence[SourceQueue], n_tokens: int, n_separators: int, validation: bool
) -> Iterator[tuple[Document, TokenIds]]:
    """Documents of all sources at their shares until `n_tokens` (with `n_separators` per document) are reached.

    Raises Shortage when the source whose turn it is has no more.
    """
    total = 0
    while total < n_tokens:
        queue = max(queues, key=lambda q: q.source.share * (total + 1) - _taken(q, validation).n_tokens)
        item = queue.next_validation() if validation else queue.next_training()
        if item is None:
            raise Shortage(queue, total)
        taken = _taken(queue, validation)
        taken.n_documents += 1
        taken.n_tokens += len(item[1]) + n_separators
        total += len(item[1]) + n_separators
        yield item


def _taken(queue: SourceQueue, validation: bool) -> Counts:
    return queue.validation if validation else queue.train


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
