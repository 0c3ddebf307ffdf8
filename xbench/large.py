"""Tasks whose passages are too many to hold: vectors in shards on disk, searched one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.approximate import FLAT, Variant, approximate, build, recall
from xbench.arithmetic import Matrix
from xbench.census import Known, take_census
from xbench.encode import Encoded, encode
from xbench.errors import DataError
from xbench.folders import Folder, LocalFolder
from xbench.index import Approximate
from xbench.models import Encoder
from xbench.progress import track
from xbench.ranks import RankTable
from xbench.records import Cell, Collection, Judged
from xbench.shard import Shard
from xbench.sharded import Ranks, search
from xbench.shards import ROWS, encode_corpora
from xbench.workers import Here, Workers


@dataclass(frozen=True)
class Large:
    """How large pools are worked on; all of it is part of a model's fingerprint there, and of no other's.

    `rows`: passages a shard. `variant`: how they are searched.
    """

    rows: int = ROWS
    variant: Variant = field(default_factory=Variant)


class Pools(NamedTuple):
    """What is searched: some cells of a task over one collection, by vectors."""

    cells: Sequence[Cell]
    collection: Collection
    languages: tuple[str, ...]  # of the collection, in the task's order
    queries: Mapping[str, Matrix]
    shards: Mapping[str, Sequence[Shard]]
    dangling: int = 0  # judged passages that are in no pool, as the task says


class Found(NamedTuple):
    """The ranks, for each cell's name what was not retrieved (see `CellResult.unmatched`), and how it was searched."""

    table: RankTable
    unmatched: dict[str, dict[str, int]]
    about: dict[str, Any]


def shards_in(cache: Path, shards: Folder | None) -> Folder:
    """The folder of all shards: the given one, by default in the cache."""
    return shards or LocalFolder(cache / "shards")


def encode_all(
    model: Encoder,
    collection: Collection,
    large: Large,
    cache: Path,
    batch_tokens: int | None = None,
    *,
    shards: Folder | None = None,
    workers: Workers | None = None,
) -> tuple[Encoded, dict[str, list[Shard]]]:
    """The vectors of the queries, with what all texts took, and the shards of the passages by language.

    Every passage counts as a distinct text. Shards are in `shards`, by default in the cache.

    Raises:
        UsageError: an index that FAISS cannot make of the model's vectors.
        XbenchError: as `encode.encode` and `shards.encode_corpora`.
    """
    encoded = encode(model, collection._replace(passages={}), cache, batch_tokens, workers)
    if large.variant.factory != FLAT:  # before hours of encoding, not after
        for queries in encoded.vectors["queries"].values():
            Approximate.check(large.variant.factory, queries.shape[1], large.variant.nprobe)
    root = shards_in(cache, shards)
    options: dict[str, Any] = {"shard_rows": large.rows, "batch_tokens": batch_tokens, "workers": workers}
    found = encode_corpora(model, collection.large, root, **options)
    for language, some in found.items():
        encoded.cut["passages"][language] = some.cut
        rows = sum(shard.rows for shard in some.shards)
        encoded = encoded._replace(
            texts=encoded.texts + rows, distinct=encoded.distinct + rows, encoded=encoded.encoded + some.encoded
        )
    return encoded, {language: some.shards for language, some in found.items()}


def rank(
    pools: Pools,
    variant: Variant,
    depth: int,
    folder: Path,
    threads: int | None = None,
    workers: Workers | None = None,
) -> Found:
    """Search every pool that a cell needs.

    Of judged passages only the relevant ones are looked for.

    Args:
        pools: what is searched.
        variant: how.
        depth: first passages of the joint pool to keep.
        folder: where searches are kept, and indexes.
        threads: how many; never changes a number.
        workers: who searches shards, by default this process; an index is always searched by this one.

    Raises:
        DataError: judged passages that are in no pool, or a doc_id twice.
        UsageError: an index that FAISS cannot make.
        XbenchError: as `sharded.search`.
    """
    job = _Job(pools, variant, folder, threads, workers or Here())
    table, searched = job.table, job.searched
    above, alone = np.full_like(table.above, -1), np.full(len(table.above), -1, np.int32)
    joint = any(cell.setting == "multi" for cell in pools.cells)
    if joint:
        entries, found = job.search(searched, depth)
        part = np.zeros((len(entries), len(table.languages)), np.int32)  # a language without passages has none above
        part[:, [table.languages.index(a) for a in searched]] = found.above
        part[(found.above < 0).any(axis=1)] = -1
        above[entries] = part
        table = _with_top(table, found.top)
    else:
        for language in searched:
            entries, found = job.search([language], 0)
            alone[entries] = found.above[:, 0]
    table = table._replace(above=above, alone=None if joint else alone)
    about: dict[str, Any] = {"index": variant.factory, "shards": sum(len(job.shards[a]) for a in searched)}
    if variant.factory == FLAT:
        return Found(table, {}, about | {"engine": ", ".join(sorted(job.engines))})
    about |= {"nprobe": variant.nprobe or 1, "depth": variant.depth, "recall": {a: job.recall(a) for a in searched}}
    return Found(table, {cell.name: _unmatched(table, cell, variant.depth) for cell in pools.cells}, about)


class _Job:
    """The judged passages of some pools, and the searches for them."""

    def __init__(self, pools: Pools, variant: Variant, folder: Path, threads: int | None, workers: Workers):
        self.pools, self.variant, self.folder, self.threads, self.workers = pools, variant, folder, threads, workers
        self.shards = {a: [shard for shard in some if shard.rows] for a, some in pools.shards.items()}
        self.searched = [a for a in pools.languages if self.shards.get(a)]
        collection, languages = pools.collection, pools.languages
        judged = [
            {doc_id: grade for doc_id, grade in collection.qrels.get(query_id, {}).items() if grade > 0}
            for a in languages
            for query_id in collection.ids("queries", a)
        ]
        wanted = {doc_id for some in judged for doc_id in some}
        with track("reading ids", sum(s.rows for some in self.shards.values() for s in some), "passages") as advance:
            each = [take_census(self.shards[a], wanted, advance, workers) for a in self.searched]
        doc_ids = [doc_id for known in each for doc_id in known.doc_ids]
        missing = sorted(wanted - set(doc_ids))
        if len(missing) != pools.dangling:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(f"{len(missing)} judged passages are in no corpus, expected {pools.dangling}: {shown}")
        self.known = Known(doc_ids, np.concatenate([known.vectors for known in each]))
        self.table = _table(pools, self.shards, [*doc_ids, *missing], judged)
        self.engines: set[str] = set()  # of exact searches
        self._indexes: dict[str, Approximate] = {}

    def asked(self, language: str) -> list[str]:
        """The languages whose queries search the passages of a language."""
        found = {cell.query_language for cell in self.pools.cells if language in cell.passage_languages}
        return [a for a in self.pools.languages if a in found and len(self.pools.queries.get(a, ()))]

    def search(self, searched: Sequence[str], k: int) -> tuple[NDArray[np.int64], Ranks]:
        """Search the pool of some languages; the entries of `table.judged` that are in it, and their ranks."""
        table = self.table
        asked = sorted({a for b in searched for a in self.asked(b)}, key=table.languages.index)
        queries = np.concatenate([self.pools.queries[a] for a in asked])
        numbers = [[table.languages.index(a) for a in some] for some in (asked, searched)]
        query = np.repeat(np.arange(len(table.query_ids)), np.diff(table.judged.indptr))
        inside = np.isin(table.query_language[query], numbers[0]) & (table.judged.rows < len(self.known.doc_ids))
        entries = np.flatnonzero(inside & np.isin(table.doc_language[table.judged.rows], numbers[1]))
        counts = np.bincount(query[entries], minlength=len(table.query_ids))
        counts = counts[np.isin(table.query_language, numbers[0])]
        used, rows = np.unique(table.judged.rows[entries], return_inverse=True)
        known = Known([self.known.doc_ids[i] for i in used], self.known.vectors[used])
        judged = Judged(np.concatenate([[0], np.cumsum(counts)]), rows, table.judged.grades[entries])
        groups = [self.shards[a] for a in searched]
        if self.variant.factory != FLAT:
            indexes = [self._index(a) for a in searched]
            return entries, approximate(queries, groups, indexes, judged, known, k, self.variant.depth)
        total, what = sum(shard.rows for some in groups for shard in some), "+".join(searched)
        with track(f"searching {what}", total, "passages") as advance:
            options: dict[str, Any] = {"threads": self.threads, "advance": advance, "workers": self.workers}
            found = search(queries, groups, judged, known, k, self.folder, **options)
            self.engines |= found.engines
            return entries, found

    def recall(self, language: str) -> dict[str, float | int]:
        """Of the index of a language, for the queries that search it."""
        queries = np.concatenate([self.pools.queries[a] for a in self.asked(language)])
        index = self._index(language)
        return recall(queries, self.shards[language], index, self.variant.depth, self.folder, self.threads)

    def _index(self, language: str) -> Approximate:
        if language not in self._indexes:
            self._indexes[language] = build(self.variant, self.shards[language], self.folder)
        return self._indexes[language]


def _table(
    pools: Pools, shards: Mapping[str, Sequence[Shard]], doc_ids: list[str], judged: Sequence[Mapping[str, int]]
) -> RankTable:
    """With nothing ranked yet."""
    languages, collection = pools.languages, pools.collection
    place = {doc_id: i for i, doc_id in enumerate(doc_ids)}
    flat = [pair for some in judged for pair in sorted((place[doc_id], grade) for doc_id, grade in some.items())]
    pairs = np.array(flat, np.int64).reshape(-1, 2)
    return RankTable(
        languages,
        np.array([sum(shard.rows for shard in shards.get(a, [])) for a in languages], np.int64),
        [query_id for a in languages for query_id in collection.ids("queries", a)],
        np.repeat(np.arange(len(languages)), [len(collection.queries.get(a, [])) for a in languages]),
        doc_ids,
        _languages(doc_ids, languages),
        Judged(np.cumsum([0, *map(len, judged)]), pairs[:, 0].copy(), pairs[:, 1].copy()),
        np.full((len(pairs), len(languages)), -1, np.int32),
        np.full((len(judged), 0), -1, np.int32),
    )


def _languages(doc_ids: Sequence[str], languages: Sequence[str]) -> NDArray[np.int64]:
    """(n,) of each doc_id, whose first part names it."""
    number = {language: i for i, language in enumerate(languages)}
    return np.array([number[doc_id.partition(":")[0]] for doc_id in doc_ids], np.int64)


def _with_top(table: RankTable, lists: Sequence[Sequence[str]]) -> RankTable:
    """With the first passages of all queries."""
    place = {doc_id: i for i, doc_id in enumerate(table.doc_ids)}
    for some in lists:
        for doc_id in some:
            place.setdefault(doc_id, len(place))
    top = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
    for line, some in zip(top, lists, strict=True):
        line[: len(some)] = [place[doc_id] for doc_id in some]
    return table._replace(doc_ids=list(place), doc_language=_languages(list(place), table.languages), top=top)


def _unmatched(table: RankTable, cell: Cell, depth: int) -> dict[str, int]:
    """What an index has not proposed; unlike a retriever's, it has no rank."""
    ranked, query_ids = table.ranked(cell)
    sizes = table.sizes[[table.languages.index(a) for a in cell.passage_languages]]
    lost = int(np.maximum(sizes - depth, 0).sum()) * len(query_ids)
    return {"queries": 0, "relevant": int(np.isinf(ranked.ranks).sum()), "passages": lost}
