"""Which document comes next, and on which side of the split: shuffle, split, mix.

Place on the data's path: between the text sources and packing (`packing`).

  shuffle   documents are read in windows (20,000 documents or 128 M characters); a window is ordered by a keyed
            hash of each document's number, so that the order is the same with every version of every library.
            Corpora smaller than a window are shuffled whole.
  split     the first documents fill the validation set, the next ones the training set: the validation set does
            not depend on the number of training tokens, and a longer training set begins with the shorter one.
  works     all sections of one origin go to one side; where works are cut into sections, at most a tenth of the
            works serve validation (more only if they don't suffice). The exceptions are split by section: a work
            that holds more than half of the first window's text, and every work of a corpus whose whole works cannot
            fill both sides (`by_section`). `split_unit` in the record says so.
  copies    a text that stands in the corpus more than once counts as one document: its copies share its number, and
            so a block of the intervals. Validation takes texts without copies in the window (others only if those
            don't suffice), each once; training leaves out what validation holds, wherever it stands.
  mix       the next document comes from the source that lags most behind its share of the tokens so far, so
            every prefix keeps the shares.

Only as many documents are tokenised as the asked tokens need (and the rest of a batch of each source).
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from monosemy.data.copies import TextNumbers
from monosemy.data.documents import Document, TextSource, TokenIds
from monosemy.data.packing import Tokenise

WINDOW_DOCUMENTS = 20_000
WINDOW_CHARS = 128 << 20
_BATCH_DOCUMENTS = 256
_BATCH_CHARS = 200_000


class ShuffledDocuments:
    """A source's documents, window by window in an order drawn from the seed (see the module's docstring)."""

    def __init__(self, documents: Iterable[Document], key: str, by_section: bool = False) -> None:
        self.documents = iter(documents)
        self.key = key.encode()
        self.by_section = by_section
        """Sections count as works of their own, whatever they are cut from."""
        self.n_works = 0
        """Different origins read so far (one that lies across windows counts in each)."""
        self.cut_works: set[str] = set()
        """Origins of which more than one document was read in a window."""
        self.divided_work: str | None = None
        """The origin that holds more than half of the first window; its sections count as works of their own."""
        self._divides_one_of_several = False
        self.repeated: set[int] = set()
        """Digests of texts that stand in one window more than once."""
        self.notes: Counter[str] = Counter()
        """What the reader did, over all documents read."""

    def __iter__(self) -> Iterator[Document]:
        while window := self._window():
            works = Counter(d.origin for d in window)
            if self.n_works == 0:
                self.divided_work = _dominant(window, works)
                self._divides_one_of_several = self.divided_work is not None and len(works) > 1
            if self.by_section or self.divided_work is not None:
                window = [self._own_work(d, works[d.origin] > 1) for d in window]
                works = Counter(d.origin for d in window)
            self.n_works += len(works)
            self.cut_works.update(origin for origin, n in works.items() if n > 1)
            self.repeated.update(digest for digest, n in Counter(d.digest for d in window).items() if n > 1)
            self.notes.update(note for d in window for note in d.notes)
            yield from sorted(window, key=self._order)

    @property
    def later_rules(self) -> bool:
        """Whether rules younger than the package's first version changed the documents or their order."""
        return self.by_section or self._divides_one_of_several or self.notes["cut"] > 0

    def _window(self) -> list[Document]:
        window: list[Document] = []
        size = 0
        for document in self.documents:
            window.append(document)
            size += document.size
            if len(window) == WINDOW_DOCUMENTS or size >= WINDOW_CHARS:
                break
        return window

    def _own_work(self, document: Document, is_section: bool) -> Document:
        if document.origin == self.divided_work or (self.by_section and is_section):
            return replace(document, origin=f"{document.origin}, section {document.index}")
        return document

    def _order(self, document: Document) -> bytes:
        return hashlib.blake2b(str(document.index).encode(), key=self.key, digest_size=16).digest()


def _dominant(window: list[Document], works: Counter[str]) -> str | None:
    """The origin, cut into sections, that holds more than half of a window's text."""
    sizes: Counter[str] = Counter()
    for document in window:
        sizes[document.origin] += document.size
    origin, size = sizes.most_common(1)[0]
    return origin if 2 * size > sizes.total() and works[origin] > 1 else None


@dataclass
class Counts:
    """What one source gave to one side of the split."""

    n_documents: int = 0
    n_tokens: int = 0


@dataclass
class Numbers:
    """The numbers of the documents of all sources, validation's first."""

    texts: TextNumbers = field(default_factory=TextNumbers)
    n_validation: int | None = None
    """Documents of validation; None while it is still being filled."""

    def in_validation(self, document: Document) -> bool:
        number = self.texts.get(document.digest)
        return number is not None and (self.n_validation is None or number < self.n_validation)


@dataclass
class SourceQueue:
    """The tokenised documents of one source, in shuffled order, with the rule of the split."""

    source: TextSource
    shuffled: ShuffledDocuments
    tokenise: Tokenise
    unframe: Callable[[TokenIds], TokenIds] = lambda ids: ids
    """Takes off what packing puts around documents, from those that bring it themselves."""
    numbers: Numbers = field(default_factory=Numbers)
    n_empty: int = 0
    n_copies: int = 0
    """Copies of an earlier text, used or left out."""
    n_left_out: int = 0
    """Those of them that were left out, because validation holds the text already."""
    validation_origins: set[str] = field(default_factory=set)
    validation: Counts = field(default_factory=Counts)
    train: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._documents = iter(self.shuffled)
        self._ready: deque[tuple[Document, TokenIds]] = deque()
        self._deferred: deque[tuple[Document, TokenIds]] = deque()
        self._share_of_works = 0.1
        self._takes_repeated = False
        self.n_repeated_deferred = 0

    def next_validation(self) -> tuple[Document, TokenIds] | None:
        """The next document the split allows for validation; None when the source has no more."""
        while True:
            while (item := self._pop()) is not None:
                if self.numbers.in_validation(item[0]):
                    self.n_copies += 1
                    self.n_left_out += 1
                elif self._serves_validation(item[0]):
                    self.validation_origins.add(item[0].origin)
                    self.numbers.texts.add(item[0].digest)
                    return item
                else:
                    self._deferred.append(item)
                    self.n_repeated_deferred += item[0].digest in self.shuffled.repeated
                    if not self._takes_repeated and self.n_repeated_deferred >= WINDOW_DOCUMENTS:
                        break
            if not self._relax():
                return None

    def _relax(self) -> bool:
        """Allows validation more of what was deferred, and puts it first again; False when there is nothing left."""
        if not self._deferred:
            return False
        if not self._takes_repeated and self.n_repeated_deferred:
            self._takes_repeated = True
        elif self._share_of_works < 1:
            self._share_of_works *= 2
        else:
            return False
        self._ready, self._deferred = self._deferred + self._ready, deque()
        return True

    @property
    def n_kept_tokens(self) -> int:
        """Tokens (without separators) that validation has passed over and kept for training."""
        return sum(len(ids) for _, ids in [*self._deferred, *self._ready])

    def begin_training(self) -> None:
        """Puts what the split kept back for training first in the queue."""
        self._ready = self._deferred + self._ready
        self._deferred = deque()
        self.numbers.n_validation = len(self.numbers.texts)

    def next_training(self) -> tuple[Document, TokenIds] | None:
        """The next document of a work that validation has not touched; None when the source has no more."""
        while (item := self._pop()) is not None:
            document = item[0]
            if document.origin in self.validation_origins:
                continue
            self.n_copies += self.numbers.texts.get(document.digest) is not None
            if self.numbers.in_validation(document):
                self.n_left_out += 1
                continue
            self.numbers.texts.add(document.digest)
            return item
        return None

    def _serves_validation(self, document: Document) -> bool:
        if document.digest in self.shuffled.repeated and not self._takes_repeated:
            return False
        origin = document.origin
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
            tokenised = iter(self.tokenise([d.text for d in batch if d.ids is None]))
            for document in batch:
                ids = next(tokenised) if document.ids is None else document.ids
                if document.brings_frame:
                    ids = self.unframe(ids)
                if len(ids):
                    self._ready.append((document, ids))
                else:
                    self.n_empty += 1
        return self._ready.popleft()

    def _batch(self) -> list[Document]:
        batch: list[Document] = []
        size = 0
        for document in self._documents:
            batch.append(document)
            size += document.size
            if len(batch) == _BATCH_DOCUMENTS or size >= _BATCH_CHARS:
                break
        return batch


class Shortage(Exception):
    """The corpus ended before the asked number of tokens; `tokens` turns it into words."""

    def __init__(self, queue: SourceQueue, n_tokens: int, side: str) -> None:
        super().__init__(f"{queue.source.name} ended after {n_tokens} tokens")
        self.queue = queue
        self.n_tokens = n_tokens
        self.side = side


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
            raise Shortage(queue, total, "validation" if validation else "train")
        side = _taken(queue, validation)
        side.n_documents += 1
        side.n_tokens += len(item[1]) + n_separators
        total += len(item[1]) + n_separators
        yield item


def _taken(queue: SourceQueue, validation: bool) -> Counts:
    return queue.validation if validation else queue.train
