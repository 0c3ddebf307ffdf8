"""A declared variant of searching shards: FAISS proposes a few passages of each language, the ranking rule decides.

A relevant passage that is not proposed is not retrieved. How often that happens is measured: the share of the
exact first passages that are among the first of the proposed ones, of a sample of the queries.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import Matrix
from xbench.census import Known
from xbench.errors import IntegrityError
from xbench.index import Approximate
from xbench.progress import log, track
from xbench.ranking import Pool, passages_above
from xbench.records import Judged
from xbench.shard import Shard
from xbench.sharded import Ranks, search
from xbench.storage import atomic, fingerprint, sha256
from xbench.strictjson import read_json
from xbench.top import first_passages

FLAT = "flat"
# Vectors that an index is trained on, drawn from all of a language with this seed.
TRAIN_ROWS, SEED = 1 << 18, 0
# Queries of a language, drawn with the same seed, and first passages that recall is measured with.
RECALL_QUERIES, RECALL_K = 100, 100
BLOCK_BYTES = 128 << 20  # of proposed passages' vectors, held at once


class Variant(NamedTuple):
    """What is asked for: FAISS's factory string, lists to probe, and passages proposed of each language."""

    factory: str = FLAT
    nprobe: int | None = None
    depth: int = 1000

    @property
    def identity(self) -> dict[str, object]:
        """What it adds to a model's; nothing where the search is exact."""
        if self.factory == FLAT:
            return {}
        about = {"factory": self.factory, "nprobe": self.nprobe or 1, "depth": self.depth}
        return {"index": {**about, "train_rows": TRAIN_ROWS, "seed": SEED}}


def build(variant: Variant, shards: Sequence[Shard], folder: Path) -> Approximate:
    """The index of a language: from the folder, or trained, filled shard by shard and written.

    Held while it is filled: the sample (TRAIN_ROWS vectors), then the index. A killed run begins anew: to add is
    cheap beside encoding.
    """
    about = {"factory": variant.factory, "train_rows": TRAIN_ROWS, "seed": SEED, "shards": [s.vectors for s in shards]}
    file = folder / f"{fingerprint(about)[:32]}.faiss"
    card = file.with_suffix(".json")
    if not card.is_file():
        with track("indexing", sum(shard.rows for shard in shards), "passages") as advance:

            def matrices() -> Iterator[Matrix]:
                for shard in shards:
                    yield shard.matrix()
                    advance(shard.rows)

            Approximate.build(variant.factory, _sample(shards), matrices(), file)
        with atomic(card) as out:
            out.write(json.dumps({"sha256": sha256(file)}).encode())
    elif not file.is_file() or read_json(card) != {"sha256": sha256(file)}:
        raise IntegrityError(f"{file} is damaged; delete {card} and run again")
    return Approximate(file, variant.nprobe)


def _sample(shards: Sequence[Shard]) -> Matrix:
    """float32 (at most TRAIN_ROWS, d) drawn without replacement from all rows, in their order."""
    starts = np.cumsum([0, *(shard.rows for shard in shards)])
    chosen = np.sort(np.random.default_rng(SEED).permutation(starts[-1])[:TRAIN_ROWS])
    cuts = np.searchsorted(chosen, starts)
    parts = [
        shard.matrix()[chosen[low:high] - start]
        for shard, start, low, high in zip(shards, starts, cuts[:-1], cuts[1:], strict=False)
    ]
    return np.concatenate(parts)


def approximate(
    queries: Matrix,
    groups: Sequence[Sequence[Shard]],
    indexes: Sequence[Approximate],
    judged: Judged,
    known: Known,
    k: int,
    depth: int,
) -> Ranks:
    """As `sharded.search`, in the pool of what each index proposes; `above` is -1 where it proposes not the passage.

    Args:
        queries: float32 (n, d).
        groups: the non-empty shards of each language.
        indexes: of these.
        judged: rows are places in `known`.
        known: the judged passages.
        k: first passages to give.
        depth: passages that each index proposes.
    """
    above = np.full((len(judged.rows), len(groups)), -1, np.int32)
    top: list[list[str]] = []
    place = {doc_id: i for i, doc_id in enumerate(known.doc_ids)}
    proposed = sum(min(depth, sum(shard.rows for shard in shards)) for shards in groups)
    step = max(1, BLOCK_BYTES // (4 * queries.shape[1] * max(1, proposed)))
    for low in range(0, len(queries), step):
        some = queries[low : low + step]
        parts = [
            _Proposed.of(index.candidates(some, depth), shards, some.shape[1])
            for index, shards in zip(indexes, groups, strict=True)
        ]
        for i in range(len(some)):
            ids = [doc_id for part in parts for doc_id in part.ids[i]]
            pool = Pool([part.vectors[i] for part in parts], ids)
            rows = {place[doc_id]: row for row, doc_id in enumerate(ids) if doc_id in place}
            first, last = (int(n) for n in judged.indptr[low + i : low + i + 2])
            there = [e for e in range(first, last) if int(judged.rows[e]) in rows]
            mine = np.array([rows[int(judged.rows[e])] for e in there], np.int64)
            one = Judged(np.array([0, len(there)]), mine, judged.grades[there])
            above[there] = passages_above([some[i : i + 1]], pool, one, threads=1)
            top.append([ids[row] for row in first_passages([some[i : i + 1]], pool, k, threads=1)[0]] if k else [])
    return Ranks(above, top)


class _Proposed(NamedTuple):
    """For each query the passages of one language that are proposed."""

    vectors: list[Matrix]
    ids: list[list[str]]

    @classmethod
    def of(cls, rows: NDArray[np.int64], shards: Sequence[Shard], dimension: int) -> "_Proposed":
        """Take rows (n, depth), -1 for none, from the shards, each opened once."""
        starts = np.cumsum([0, *(shard.rows for shard in shards)])
        wanted = np.unique(rows[rows >= 0])
        cuts = np.searchsorted(wanted, starts)
        vectors = np.empty((len(wanted), dimension), np.float32)
        ids: list[str] = []
        for shard, start, low, high in zip(shards, starts, cuts[:-1], cuts[1:], strict=False):
            if low < high:
                own = wanted[low:high] - start
                vectors[low:high] = shard.matrix()[own]
                ids += shard.some_ids(own)
        places = [np.searchsorted(wanted, np.unique(some[some >= 0])) for some in rows]
        return cls([vectors[some] for some in places], [[ids[i] for i in some] for some in places])


def recall(
    queries: Matrix, shards: Sequence[Shard], index: Approximate, depth: int, folder: Path, threads: int | None
) -> dict[str, float | int]:
    """The share of the exact first RECALL_K passages among the index's first RECALL_K, of RECALL_QUERIES queries."""
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(queries))[:RECALL_QUERIES])
    some = np.ascontiguousarray(queries[chosen])
    nothing = Judged(np.zeros(len(some) + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    nobody = Known([], np.empty((0, some.shape[1]), np.float32))
    with track("measuring recall", sum(shard.rows for shard in shards), "passages") as advance:
        exact = search(some, [shards], nothing, nobody, RECALL_K, folder, threads=threads, advance=advance).top
    found = approximate(some, [shards], [index], nothing, nobody, RECALL_K, depth).top
    share = float(np.mean([len({*a} & {*b}) / len(a) for a, b in zip(exact, found, strict=True)]))
    log.info("recall of the first %d: %.4f on %d queries", RECALL_K, share, len(some))
    return {f"R@{RECALL_K}": share, "queries": len(some)}
