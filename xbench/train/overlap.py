"""Texts that are the same as a text of a task: equal, holding it, or part of it.

Texts are compared by their letters, marks and numbers: Unicode NFKC, case folded, all else taken out. A text and a
task's text are the same if

- they are equal, however short;
- the text holds the task's, which has at least 20 characters or begins with 8 Han or kana;
- the task's holds the text, which has at least 40 characters, or 16 and begins with 8 Han or kana: of shorter ones,
  what was found in real data were names and everyday phrases.

That is all: a paraphrase, a translation or an edited copy is not found, nor are two texts of which each has an end that
the other lacks.

Hashes only propose; what they propose is compared, so nothing is found or missed by accident. A block of texts costs
some passes of NumPy over its characters. Held are the tasks' texts, and 12 bytes for each of their characters.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

# The version of the rule above: raised when something else is found.
RULE = 1
# Characters that a task's text inside a training text must have: in general, and if it begins with Han or kana.
LONG, DENSE = 20, 8
# How many times as many a training text inside a task's must have.
LONGER = 2
# Characters that are hashed at once.
BLOCK = 1 << 19
# Of the polynomial hashes: any odd number with bits all over.
BASE = 0x9E3779B97F4A7C15
# What is left of a hash is its place in a table of bits.
_HIGH = np.uint64(40)
_DENSE = re.compile(f"[\u3005-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]{{{DENSE}}}")
Item = TypeVar("Item")


class TaskText(NamedTuple):
    """A question or passage of a task; `id` is its query_id or doc_id."""

    task: str
    id: str
    text: str


class _Kept(dict[int, int | None]):
    """Each character to itself or to nothing, found out when it is first asked for."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


_KEPT = _Kept()


def normal(text: str) -> str:
    """The letters, marks and numbers of a text, NFKC and case folded."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_KEPT)


class Index:
    """Texts of tasks by what they hold."""

    def __init__(self, texts: Iterable[TaskText]) -> None:
        """Of texts that are the same, the first counts."""
        first: dict[str, TaskText] = {}
        for text in texts:
            first.setdefault(normal(text.text), text)
        first.pop("", None)
        self._texts = list(first.values())
        self._normal = list(first)
        self._equal = {text: i for i, text in enumerate(self._normal)}
        done, hashes, owners, heads = 0, [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], [np.zeros(0, bool)]
        for block in blocks(self._normal, len):
            keys, places, head = _keys(block)
            hashes.append(keys)
            owners.append(places + np.int32(done))
            heads.append(head)
            done += len(block)
        keys, places, head = np.concatenate(hashes), np.concatenate(owners), np.concatenate(heads)
        self._heads, self._runs = _Lookup(keys[head], places[head]), _Lookup(keys, places)

    def found(self, texts: Sequence[str]) -> list[TaskText | None]:
        """For each training text the text of a task that is the same, None if there is none.

        Of several an equal one, else one that it holds, else one that holds it; the first of these in the tasks' order.
        """
        return [
            None if i is None else self._texts[i]
            for block in blocks([normal(text) for text in texts], len)
            for i in self._block(block)
        ]

    def _block(self, block: Sequence[str]) -> list[int | None]:
        """Which text of the tasks each normalised text of a block is the same as."""
        keys, owners, head = _keys(block)
        found = {t: self._equal[text] for t, text in enumerate(block) if text in self._equal}
        for t, i in self._heads.proposals(keys, owners):
            if t not in found and self._normal[i] in block[t]:
                found[t] = i
        for t, i in self._runs.proposals(keys[head], owners[head]):
            least = LONGER * (DENSE if _DENSE.match(block[t]) else LONG)
            if t not in found and len(block[t]) >= least and block[t] in self._normal[i]:
                found[t] = i
        return [found.get(t) for t in range(len(block))]


class _Lookup:
    """Which texts have a hash."""

    def __init__(self, hashes: NDArray[np.uint64], owners: NDArray[np.int32]) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        # Nearly all that is asked for is not there, which one look into a table of bits tells.
        self._bits = np.zeros(1 << 24, bool)
        self._bits[hashes >> _HIGH] = True

    def proposals(self, hashes: NDArray[np.uint64], askers: NDArray[np.int32]) -> list[tuple[int, int]]:
        """The (asker, text) of which the text has a hash that is the asker's, each once, in order."""
        places = np.flatnonzero(self._bits[hashes >> _HIGH])
        low = np.searchsorted(self._hashes, hashes[places], "left")
        high = np.searchsorted(self._hashes, hashes[places], "right")
        found: set[tuple[int, int]] = set()
        for i in np.flatnonzero(low < high).tolist():
            asker = int(askers[places[i]])
            found.update((asker, text) for text in self._owners[low[i] : high[i]].tolist())
        return sorted(found)


def _keys(block: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.bool_]]:
    """A hash of what stands at each place of each text of a block: enough to propose all that begins there.

    It is of the next DENSE characters if these are all Han or kana, else of the next LONG; a place with fewer has none.

    Returns:
        Of all n places that have one: the hashes (n,), the number of the text in the block (n,), whether the place is
        the text's first (n,).
    """
    lengths = np.array([len(text) for text in block], np.int64) + 1  # with the line feed after each
    codes = np.frombuffer(("\n".join(block) + "\n" * (LONG + 1)).encode("utf-32-le"), np.uint32).astype(np.uint64)
    size = int(lengths.sum())
    ends = np.cumsum(lengths)
    owners = np.repeat(np.arange(len(block), dtype=np.int32), lengths)
    left = np.repeat(ends - 1, lengths) - np.arange(size)
    head = np.zeros(size, bool)
    head[ends - lengths] = True

    # Of the run of n characters that begins at each place: its hash, c[0] B^(n-1) + ... + c[n-1] modulo 2^64, and
    # whether all of it is Han or kana; from those of its halves.
    of = {1: codes}
    han = ((codes >= 0x3005) & (codes <= 0x30FF)) | ((codes >= 0x3400) & (codes <= 0x9FFF)) | (codes >= 0x20000)
    for half in (1, 2, 4, 8):
        of[2 * half] = of[half][:-half] * _power(half) + of[half][half:]
        if 2 * half <= DENSE:
            han = han[:-half] & han[half:]
    dense, han = of[8][:size], han[:size]
    long = of[16][:size] * _power(4) + of[4][16 : 16 + size]
    there = han | (left >= LONG)
    return np.where(han, dense, long)[there], owners[there], head[there]


def _power(n: int) -> np.uint64:
    return np.uint64(pow(BASE, n, 1 << 64))


def blocks(items: Iterable[Item], size: Callable[[Item], int], most: int | None = None) -> Iterator[list[Item]]:
    """The items in order, together as long as their sizes add up to no more than `most`, by default BLOCK."""
    block: list[Item] = []
    total, most = 0, most or BLOCK
    for item in items:
        if block and total + size(item) > most:
            yield block
            block, total = [], 0
        block.append(item)
        total += size(item)
    if block:
        yield block
