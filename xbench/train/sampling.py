"""How batches are drawn (arXiv 2408.10536, section 2.2, and LAReQA, arXiv 2004.05484): pure, seeded, inspectable.

Every draw follows one table of cells, each with its probability. A cell is a pair of languages
(query's, passage's), a data set (source and kind), and there either the rows of one language (mono)
or the families that have both languages (cross); a family is what a data set has of one group. With
n the number of positives of a data set for a pair of languages, exponents g and e, shares s of kinds
and factors f of sources (see `config.Sampling`):

    P(languages)               ~ (sum over data sets of n)^e      of those that have any
    P(kind | languages)        ~ s(kind)                          of those that have any; cross alone
    P(data set | languages, kind) ~ f(source) n^g                 without shares: over all kinds at once
    P(positive | languages, data set) uniform over families (mono: rows), then over their rows

A batch is mono with probability 1 (x-x, en-en), 0 (x-y) or alpha (hybrid). Mono batches draw one
pair of languages (l, l) for all their pairs, cross batches one for each pair; x-x-mixed draws (l, l)
for each pair. English-only sets have no cell across languages, so they join mono batches alone.

In a batch no two pairs share a group, a question or a passage, nor have groups that share a passage in
any language, directly or by way of others: these would be false negatives (of two questions on one
paragraph, each is answered by the other's passage, whatever language it is in). What is drawn second is
thrown away and drawn anew. Where a cell has few members, realised shares can
therefore differ from P; `xbench train --dry-run` shows both.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError
from xbench.train.config import KINDS, Sampling
from xbench.train.store import Table

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Draws in a row that give nothing new, after which a batch stays short: its cells are used up.
PATIENCE = 20
# More than there can be: bits of a mask; sources x kinds.
LANGUAGES = 64
DATASETS = 1 << 18


class Batch(NamedTuple):
    """Row i of a batch: the question of row `queries[i]` and the passage of row `passages[i]` of a table."""

    mono: bool
    """Whether each question is in the language of its passage."""
    queries: Ints
    passages: Ints


class Cells(NamedTuple):
    """The table of c cells that pairs are drawn from."""

    query_language: Ints
    """(c,) index into the table's languages; likewise of passages."""
    passage_language: Ints
    dataset: Ints
    """(c,) source x len(KINDS) + kind."""
    start: Ints
    """(c,) first member in `members`."""
    size: Ints
    """(c,) number of members."""
    probability: Floats
    """(c,) sums to 1."""
    members: Ints
    """Rows of the table (mono) or families (cross)."""


class Sampler:
    """Batches of a table's rows; the batch of a step depends on nothing but table, rows, sampling, size, seed, step."""

    def __init__(self, table: Table, rows: NDArray[np.bool_], sampling: Sampling, batch_size: int, seed: int) -> None:
        """A sampler of the rows (n,) of a table that a mask allows.

        Raises:
            DataError: the mode has nothing to draw from.
        """
        self._sampling, self._size, self._seed = sampling, batch_size, seed
        self._columns = table.columns
        mine = np.flatnonzero(rows)
        group = table.columns["group"][mine]
        dataset = table.columns["source"][mine].astype(np.int64) * len(KINDS) + table.columns["kind"][mine]
        asked, answered = (table.columns[name][mine].astype(np.int64) for name in ("language", "passage_language"))
        order = np.lexsort((group, dataset))
        new = np.append(True, (np.diff(group[order]) != 0) | (np.diff(dataset[order]) != 0))[: len(order)]
        family = np.empty(len(mine), np.int64)
        family[order] = np.cumsum(new) - 1
        self._kin = table.kin
        weigh = _Weights(table, sampling)
        languages = list(range(len(table.languages)))
        if sampling.mode == "en-en":
            languages = [i for i in languages if table.languages[i] == "en"]
        alone = (asked == answered) & np.isin(asked, languages)
        alone &= np.isin(dataset % len(KINDS), [KINDS.index(kind) for kind in sampling.mono_kinds])
        self.mono = _mono_cells(mine[alone], asked[alone], dataset[alone], weigh)
        self.cross = _cross_cells(family, asked, answered, dataset[order[new]], weigh)
        self._questions, self._passages = _Rows(family, asked, mine), _Rows(family, answered, mine)
        inside = np.zeros(len(mine) + 1, bool)  # families that a cross cell has
        for start, size in {*zip(self.cross.start.tolist(), self.cross.size.tolist(), strict=True)}:
            inside[self.cross.members[start : start + size]] = True
        within = np.zeros(len(rows), bool)  # rows that a mono cell has
        for start, size in zip(self.mono.start.tolist(), self.mono.size.tolist(), strict=True):
            within[self.mono.members[start : start + size]] = True
        self._drawn: dict[tuple[bool, int, int], tuple[Ints, Floats]] = {}
        self.mono_share = {"x-y": 0.0, "hybrid": sampling.alpha}.get(sampling.mode, 1.0)
        self.drawn_from = int(((within[mine] & (self.mono_share > 0)) | (inside[family] & (self.mono_share < 1))).sum())
        if self.mono_share > 0 and not len(self.mono.size):
            raise DataError(f"mode {sampling.mode}: no pair in one language of kinds {', '.join(sampling.mono_kinds)}")
        if self.mono_share < 1 and not len(self.cross.size):
            raise DataError(f"mode {sampling.mode}: no group has a question and a passage in different languages")

    def batch(self, step: int) -> Batch:
        """The batch of a step; of fewer pairs than asked for where its cells are used up."""
        rng = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        mono = bool(rng.random() < self.mono_share)
        cells = self.mono if mono else self.cross
        language = dataset = -1
        if mono and self._sampling.mode != "x-x-mixed":
            language = int(cells.query_language[self._draw(rng, mono, language, dataset, 1)[0]])
        if self._sampling.one_dataset:
            dataset = int(cells.dataset[self._draw(rng, mono, language, dataset, 1)[0]])
        queries: list[int] = []
        passages: list[int] = []
        seen: tuple[set[int], set[int]] = set(), set()  # kin, texts
        stale = 0
        while len(queries) < self._size and stale < PATIENCE:
            before = len(queries)
            count = max(self._size - before, 16)
            drawn = self._draw(rng, mono, language, dataset, count)
            members = cells.members[cells.start[drawn] + (rng.random(count) * cells.size[drawn]).astype(np.int64)]
            first, second = members, members
            if not mono:
                first = self._questions.of(members, cells.query_language[drawn], rng.random(count))
                second = self._passages.of(members, cells.passage_language[drawn], rng.random(count))
            self._add(first, second, queries, passages, seen)
            stale = stale + 1 if len(queries) == before else 0
        return Batch(mono, np.array(queries, np.int64), np.array(passages, np.int64))

    def _add(
        self, first: Ints, second: Ints, queries: list[int], passages: list[int], seen: tuple[set[int], set[int]]
    ) -> None:
        """Add what is no kin of what is there and shares no text with it, until the batch is full."""
        kin, texts = seen
        columns = self._columns
        facts = [self._kin[first], columns["question"][first], columns["passage"][second]]
        for query, passage, its, question, answer in zip(
            first.tolist(), second.tolist(), *(each.tolist() for each in facts), strict=True
        ):
            if its in kin or question in texts or answer in texts:
                continue
            kin.add(its)
            texts.update((question, answer))
            queries.append(query)
            passages.append(passage)
            if len(queries) == self._size:
                return

    def _draw(self, rng: np.random.Generator, mono: bool, language: int, dataset: int, count: int) -> Ints:
        """Cells, drawn in proportion to their probability; of one language or data set where it is not -1."""
        key = mono, language, dataset
        if key not in self._drawn:
            cells = self.mono if mono else self.cross
            some = np.flatnonzero(
                ((cells.query_language == language) | (language < 0)) & ((cells.dataset == dataset) | (dataset < 0))
            )
            self._drawn[key] = some, np.cumsum(cells.probability[some])
        some, ends = self._drawn[key]
        place = np.searchsorted(ends, rng.random(count) * ends[-1], "right")
        return np.asarray(some[np.minimum(place, len(some) - 1)])


class _Rows:
    """The rows of each family and language."""

    def __init__(self, family: Ints, language: Ints, rows: Ints) -> None:
        keys = family * LANGUAGES + language
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], rows[order]

    def of(self, families: Ints, languages: Ints, uniform: Floats) -> Ints:
        """A row of each family and language, chosen by a number in [0, 1)."""
        keys = families * LANGUAGES + languages
        first, last = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        return self._rows[first + (uniform * (last - first)).astype(np.int64)]


class _Weights:
    """Probabilities of cells by the formula above."""

    def __init__(self, table: Table, sampling: Sampling) -> None:
        self._sampling = sampling
        if strange := sorted(set(sampling.factors) - set(table.sources)):
            known = ", ".join(sorted(table.sources))
            raise DataError(f"[sampling] factors: source {strange[0]!r} is not in the pairs; found {known}")
        factors = np.array([sampling.factors.get(source, 1.0) for source in table.sources])
        self._factors = np.repeat(factors, len(KINDS))
        self._shares = np.array([sampling.kinds.get(kind, 0.0) for kind in KINDS]) if sampling.kinds else None

    def __call__(self, first: Ints, second: Ints, dataset: Ints, size: Ints, cross: bool) -> Floats:
        """(c,): the probability of each cell, from its languages, data set and number of members."""
        languages = first * LANGUAGES + second
        pair = np.unique(languages)
        both, of_both = np.unique(languages * DATASETS + dataset, return_inverse=True)
        n = np.bincount(of_both, size)  # of each data set for each pair of languages
        pair_of, set_of = np.searchsorted(pair, both // DATASETS), both % DATASETS
        weight = self._factors[set_of] * n**self._sampling.size_exponent
        if cross and self._shares is not None:
            kind = pair_of * len(KINDS) + set_of % len(KINDS)
            inside = np.bincount(kind, weight, len(pair) * len(KINDS))
            share = self._shares[set_of % len(KINDS)]
            weight = share * np.divide(weight, inside[kind], out=np.zeros_like(weight), where=inside[kind] > 0)
        total = np.bincount(pair_of, weight)
        wanted = np.where(total > 0, np.bincount(pair_of, n * (weight > 0)), 0.0)
        chance = np.where(total > 0, wanted**self._sampling.language_exponent, 0.0)
        if not chance.sum():
            return np.zeros(len(size))
        chance /= chance.sum()
        given = np.divide(weight * chance[pair_of], total[pair_of], out=np.zeros_like(weight), where=weight > 0)
        return np.asarray(given[of_both] * size / n[of_both])


def _mono_cells(rows: Ints, language: Ints, dataset: Ints, weigh: _Weights) -> Cells:
    order = np.lexsort((rows, dataset, language))
    language, dataset = language[order], dataset[order]
    start = _starts(language, dataset)
    size = np.diff(np.append(start, len(order)))
    language, dataset = language[start], dataset[start]
    return _likely(
        Cells(language, language, dataset, start, size, weigh(language, language, dataset, size, False), rows[order])
    )


def _cross_cells(family: Ints, asked: Ints, answered: Ints, dataset: Ints, weigh: _Weights) -> Cells:
    """Families with the same languages form a class; each pair of different languages of a class is a cell."""
    masks = np.zeros((2, len(dataset)), np.uint64)
    for mask, language in zip(masks, (asked, answered), strict=True):
        np.bitwise_or.at(mask, family, np.uint64(1) << language.astype(np.uint64))
    order = np.lexsort((masks[1], masks[0], dataset))
    start = _starts(dataset[order], masks[0][order], masks[1][order])
    size = np.diff(np.append(start, len(order)))
    found = [
        (a, b, int(dataset[order[s]]), int(s), int(n))
        for s, n in zip(start, size, strict=True)
        for a in _bits(int(masks[0][order[s]]))
        for b in _bits(int(masks[1][order[s]]))
        if a != b
    ]
    first, second, sets, starts, sizes = np.array(found, np.int64).reshape(-1, 5).T
    return _likely(Cells(first, second, sets, starts, sizes, weigh(first, second, sets, sizes, True), order))


def _starts(*keys: NDArray[np.int64] | NDArray[np.uint64]) -> Ints:
    """Where sorted keys change, the first place included."""
    new = np.zeros(len(keys[0]), bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


def _likely(cells: Cells) -> Cells:
    """Without the cells of probability 0."""
    some = cells.probability > 0
    kept = {name: column[some] for name, column in cells._asdict().items() if name != "members"}
    return Cells(**kept, members=cells.members)


def _bits(mask: int) -> list[int]:
    return [i for i in range(LANGUAGES) if mask >> i & 1]
