"""Numbers for distinct texts, so that copies of one text count as one document.

Place on the data's path: beside the split (`split`). A text is known by 64 bits of a hash; that two of n different
texts share one has a chance of n²/2⁶⁵, 3 in a million for 10⁷ texts.

Cost: 12 bytes for each place of a hash table with open addressing, of which at most two thirds are taken: 18 to 36
bytes a document.
"""

from __future__ import annotations

import numpy as np

_FREE = -1


class TextNumbers:
    """Hash of a text → number of its document, counted in the order of first use."""

    def __init__(self) -> None:
        self._hashes = np.zeros(1024, np.uint64)
        self._numbers = np.full(1024, _FREE, np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def get(self, digest: int) -> int | None:
        """The number of a text, None for a new one."""
        number = int(self._numbers[self._place(digest)])
        return None if number == _FREE else number

    def add(self, digest: int) -> int:
        """The number of a text, which is the next free one if it is new."""
        place = self._place(digest)
        if self._numbers[place] == _FREE:
            if 3 * (self._n + 1) > 2 * len(self._numbers):
                self._grow()
                place = self._place(digest)
            self._hashes[place], self._numbers[place] = digest, self._n
            self._n += 1
        return int(self._numbers[place])

    def _place(self, digest: int) -> int:
        """Where the text is, or would be put."""
        last = len(self._numbers) - 1
        place = digest & last
        while self._numbers[place] != _FREE and int(self._hashes[place]) != digest:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        hashes, numbers = self._hashes, self._numbers
        self._hashes = np.zeros(2 * len(hashes), np.uint64)
        self._numbers = np.full(2 * len(numbers), _FREE, np.int32)
        for old in np.flatnonzero(numbers != _FREE):
            place = self._place(int(hashes[old]))
            self._hashes[place], self._numbers[place] = hashes[old], numbers[old]
