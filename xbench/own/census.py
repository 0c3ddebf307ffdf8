"""Counting a corpus that is too large to hold: eight bytes a passage, one pass over the files."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.progress import track
from xbench.readers.checks import Ids
from xbench.readers.records import large_texts
from xbench.records import Passage
from xbench.task import Task


class Hashes:
    """Ids by the first 64 bits of their BLAKE2b, sorted.

    An id that is not there is taken to be there with a probability of n / 2^64, for n ids: 6e-12 for 106 million.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._sorted = np.sort(hashes)

    def __contains__(self, id_: object) -> bool:
        place = int(np.searchsorted(self._sorted, np.uint64(_hash(str(id_)))))
        return place < len(self._sorted) and int(self._sorted[place]) == _hash(str(id_))

    def twice(self) -> set[int]:
        """The hashes that occur more than once."""
        return {int(h) for h in self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]}


class Census(NamedTuple):
    """The passages of one language: how many, how many more without text, their ids, the first ten."""

    passages: int
    empty: int
    ids: Hashes
    first: list[Passage]


def _hash(id_: str) -> int:
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "little")


def census(task: Task, paths: Mapping[str, Path], language: str, rows: int) -> Census:
    """Read all passages of a language once, with all checks; twice if an id seems to come twice.

    `rows` is how many there are at most.

    Raises:
        DataError: as `records.read_records`.
    """
    hashes = array("Q")
    first: list[Passage] = []
    counts = Counter[str]()
    with track(f"passages of {language}", rows, "passages") as advance:
        for row in large_texts(task, paths, language, counts):
            hashes.append(_hash(row.id))
            if len(first) < 10:
                first.append(Passage(f"{language}:{row.id}", row.text))
            advance(1)
    found = Hashes(np.frombuffer(hashes, np.uint64))
    if twice := found.twice():
        ids = Ids("passage")
        for row in large_texts(task, paths, language, Counter()):
            if _hash(row.id) in twice:
                ids.add(row.id, row.where)
    return Census(len(hashes), counts["empty"], found, first)
