"""Which pages of the key-value cache belong to which row. Bookkeeping on the host; the tensors are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

PAGE = 64
"""Tokens of a page."""
TRASH = 0
"""The page that no row owns: what is written for rows that have ended, or that only fill a graph up, goes there."""


class Pages:
    """``number`` pages, ``TRASH`` among them. A page may have several owners: rows of one prompt share what is full of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._free = list(range(number - 1, TRASH, -1))
        self._owners = [0] * number

    @property
    def free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    def take(self, number: int) -> list[int]:
        """Pages with one owner each. There must be enough."""
        assert number <= self.free
        taken = [self._free.pop() for _ in range(number)]
        for page in taken:
            self._owners[page] = 1
        return taken

    def share(self, pages: Sequence[int]) -> list[int]:
        """The same pages, with an owner more."""
        for page in pages:
            assert self._owners[page] > 0
            self._owners[page] += 1
        return list(pages)

    def give_back(self, pages: Sequence[int]) -> None:
        """One owner less of each."""
        for page in pages:
            assert self._owners[page] > 0
            self._owners[page] -= 1
            if not self._owners[page]:
                self._free.append(page)


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE)
