"""Decides which document comes next and on which side of the split it goes: shuffles, splits and mixes.

Place on the data's path: between the text sources and packing (`packing`).

  shuffle   Documents are read in windows of 20,000 documents or 128 M characters. A window is ordered by a keyed hash
            of each document's number, so that the order is the same with every version of every library. A corpus
            smaller than a window is shuffled as a whole.
  split     The first documents fill the validation set, the next ones the training set. The validation set therefore
            does not depend on the number of training tokens, and a longer training set begins with the shorter one.
  works     All sections of one origin go to one side. Where works are cut into sections, at most a tenth of the works
            serve validation, and more only if these do not suffice. Two kinds of works are split by section instead: a
            work that holds more than half of the first window's text, and the works of a corpus whose whole works
            cannot fill both sides (`by_section`). The record says so in `split_unit`.
  copies    A text that occurs in the corpus more than once counts as one document: its copies share its number, and
            so a block of the intervals. Validation takes texts without copies in the window, and others only if these
            do not suffice; it takes each once. Training leaves out every text that validation holds.
  mix       The next document comes from the source that is furthest behind its share of the tokens so far, so that
            every prefix of the text has the right shares.

Only as many documents are tokenised as the requested tokens need, plus the rest of a batch of each source.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from monosemy.data.copies import TextNumbers
from monosemy.data.documents import Document, TextSource, TokenIds
from monosemy.data.packing import Tokenise

WINDOW_DOCUMENTS = 20_000
WINDOW_CHARS = 128 << 20
_BATCH_DOCUMENTS = 256
_BATCH_CHARS = 200_000


class ShuffledDocuments:
    """The documents of a source, shuffled window by window in an order drawn from the seed (module docstring)."""

    def __init__(self, documents: Iterable[Document], key: str, by_section: bool = False) -> None:
        self.documents = iter(documents)
        self.key = key.encode()
        self.by_section = by_section
        """Whether every section counts as a work of its own."""
        self.n_works = 0
        """How many different origins were read so far; one that spans several windows counts in each."""
        self.cut_works: set[str] = set()
        """Origins with more than one document in a window."""
        self.divided_work: str | None = None
        """The origin that holds more than half of the first window, if any; its sections count as works."""
        self._divides_one_of_several = False
        self.repeated: set[int] = set()
        """Digests of texts that occur more than once in a window."""
        self.notes: Counter[str] = Counter()
        """The readers' remarks, counted over all documents read."""

    def __iter__(self) -> Iterator[Document]:
        while window := self._window():
            # A work's number of documents in the window tells whether it was cut into sections.
            works = Counter(d.origin for d in window)
            if self.n_works == 0:
                self.divided_work = _dominant(window, works)
                self._divides_one_of_several = self.divided_work is not None and len(works) > 1
            # Origins are rewritten first, so that all counts below see sections that are works of their own as such.
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
        """Whether rules added after the package's first version changed the documents or their order."""
        return self.by_section or self._divides_one_of_several or self.notes["cut"] > 0

    def _window(self) -> list[Document]:
        """The next documents to shuffle together; empty at the end."""
        window: list[Document] = []
        size = 0
        for document in self.documents:
            window.append(document)
            size += document.size
            if len(window) == WINDOW_DOCUMENTS or size >= WINDOW_CHARS:
                break
        return window

    def _own_work(self, document: Document, is_section: bool) -> Document:
        """The document, with an origin of its own if it is a section that counts as a work."""
        if document.origin == self.divided_work or (self.by_section and is_section):
            return replace(document, origin=f"{document.origin}, section {document.index}")
        return document

    def _order(self, document: Document) -> bytes:
        return hashlib.blake2b(str(document.index).encode(), key=self.key, digest_size=16).digest()


def _dominant(window: list[Document], works: Counter[str]) -> str | None:
    """The origin that holds more than half of a window's text and is cut into sections; None if there is none."""
    sizes: Counter[str] = Counter()
    for document in window:
        sizes[document.origin] += document.size
    origin, size = sizes.most_common(1)[0]
    return origin if 2 * size > sizes.total() and works[origin] > 1 else None


@dataclass
class Counts:
    """How much one source has given to one side of the split."""

    n_documents: int = 0
    n_tokens: int = 0


@dataclass
class Numbers:
    """The numbers of the documents of all sources. Those of validation come first."""

    texts: TextNumbers = field(default_factory=TextNumbers)
    n_validation: int | None = None
    """The number of validation's documents; None while validation is still being filled."""

    def in_validation(self, document: Document) -> bool:
        """Whether validation holds the document's text."""
        number = self.texts.get(document.digest)
        return number is not None and (self.n_validation is None or number < self.n_validation)


@dataclass
class SourceQueue:
    """The tokenised documents of one source in shuffled order, given out by the rules of the split."""

    source: TextSource
    shuffled: ShuffledDocuments
    tokenise: Tokenise
    unframe: Callable[[TokenIds], TokenIds] = lambda ids: ids
    """Removes special tokens that packing adds, from documents that have them already."""
    _: KW_ONLY
    numbers: Numbers = field(default_factory=Numbers)
    n_empty: int = 0
    n_copies: int = 0
    """How many documents were copies of an earlier text, whether used or left out."""
    n_left_out: int = 0
    """How many of the copies were left out, because validation holds their text."""
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
        """The next document that the split allows for validation; None when the source has no more."""
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
                    # A corpus of mostly copies would otherwise be read to its end, in memory, before any is allowed.
                    if not self._takes_repeated and self.n_repeated_deferred >= WINDOW_DOCUMENTS:
                        break
            if not self._relax():
                return None

    def _relax(self) -> bool:
        """Loosens the rules for validation by one step; False when nothing more can be allowed.

        Deferred documents return to the head of the queue, to be judged by the new rules.
        """
        if not self._deferred:
            return False
        # First texts with copies, then step by step a larger share of the works that are cut into sections.
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
        """The number of tokens, without separators, that validation has passed over and kept for training."""
        return sum(len(ids) for _, ids in [*self._deferred, *self._ready])

    def begin_training(self) -> None:
        """Ends validation: documents that it passed over return to the head of the queue."""
        self._ready = self._deferred + self._ready
        self._deferred = deque()
        self.numbers.n_validation = len(self.numbers.texts)

    def next_training(self) -> tuple[Document, TokenIds] | None:
        """The next document of a work and with a text that validation does not hold; None when there are no more."""
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
        """Whether the rules on copies and works allow the document for validation."""
        if document.digest in self.shuffled.repeated and not self._takes_repeated:
            return False
        origin = document.origin
        if origin not in self.shuffled.cut_works or origin in self.validation_origins:
            return True
        # At least one work may serve validation, and at least one must be left for training.
        n_works = self.shuffled.n_works
        n_allowed = min(max(1, int(self._share_of_works * n_works)), max(1, n_works - 1))
        return len(self.validation_origins) < n_allowed

    def _pop(self) -> tuple[Document, TokenIds] | None:
        """The next tokenised document, without any rule; None at the end. Texts are tokenised batch by batch."""
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
        """The next documents to tokenise together; empty at the end."""
        batch: list[Document] = []
        size = 0
        for document in self._documents:
            batch.append(document)
            size += document.size
            if len(batch) == _BATCH_DOCUMENTS or size >= _BATCH_CHARS:
                break
        return batch


class Shortage(Exception):
    """The corpus ended before the requested number of tokens; `build` turns it into a UserError."""

    def __init__(self, queue: SourceQueue, n_tokens: int, side: str) -> None:
        super().__init__(f"{queue.source.name} ended after {n_tokens} tokens")
        self.queue = queue
        self.n_tokens = n_tokens
        self.side = side


def mixed(
    queues: Sequence[SourceQueue], n_tokens: int, n_separators: int, validation: bool
) -> Iterator[tuple[Document, TokenIds]]:
    """Yields documents of all sources at their shares, until `n_tokens` are reached (with `n_separators` a document).

    Raises Shortage when the source whose turn it is has no more documents.
    """
    total = 0
    while total < n_tokens:
        # The source that is furthest behind its share; `total + 1` so that the largest share goes first at the start.
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
