"""Gives every distinct text a number, so that copies of one text count as one document.

Place on the data's path: beside the split (`split`). A text is identified by a 64-bit hash. The chance that any two of
n different texts have the same one is about n²/2⁶⁵: 3 in a million for 10⁷ texts.

Cost: 12 bytes per slot of a hash table with open addressing that is filled to at most two thirds: 18 to 36 bytes a
document.
"""

from __future__ import annotations

import numpy as np

_FREE = -1


class TextNumbers:
    """A map from a text's hash to the number of its document, counted in the order of first use.

    It is a hash table in two arrays, because a dict would take several times the memory.
    """

    def __init__(self) -> None:
        self._hashes = np.zeros(1024, np.uint64)
        self._numbers = np.full(1024, _FREE, np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def get(self, digest: int) -> int | None:
        """The number of a text; None for a new text."""
        number = int(self._numbers[self._place(digest)])
        return None if number == _FREE else number

    def add(self, digest: int) -> int:
        """The number of a text; a new text receives the next free one."""
        place = self._place(digest)
        if self._numbers[place] == _FREE:
            if 3 * (self._n + 1) > 2 * len(self._numbers):
                self._grow()
                place = self._place(digest)
            self._hashes[place], self._numbers[place] = digest, self._n
            self._n += 1
        return int(self._numbers[place])

    def _place(self, digest: int) -> int:
        """The slot where the text is, or where it would be put."""
        # Linear probing: from the slot that the hash's low bits name, onwards to the text or to a free slot. The number
        # of slots is a power of two, so `& last` is the remainder; a free slot always exists, so the loop ends.
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
