"""Encode, index, rank, score: one model on one task, every cell from one pass."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.catalogue import parse_all
from xbench.encode import Encoded, check_finite, encode, full_identity
from xbench.errors import DataError, UsageError
from xbench.index import Index
from xbench.intervals import with_intervals
from xbench.models import ROLES, Encoder, Given, Retriever, slug
from xbench.models.fuse import Fusion
from xbench.progress import track
from xbench.ranking import Pool, passages_above
from xbench.ranks import RankTable, judge
from xbench.readers import read
from xbench.records import Collection
from xbench.results import Result
from xbench.retrieve import log_unmatched, retrieve
from xbench.retrievers import Dense, Fused, fusion_identity
from xbench.scoring import log_undefined, score
from xbench.storage import fingerprint
from xbench.tasks import Task
from xbench.top import first_passages

# How many first passages of each query a result keeps, for language bias.
TOP = 100
TEXTS = {"total": "texts", "distinct": "distinct"}


@dataclass(frozen=True)
class Plan:
    """What moves no number but says how and where to work."""

    cache: Path
    data: Path | None = None
    offline: bool = False
    threads: int | None = None
    command: str = ""


def evaluate(
    model: Encoder | Given | Retriever | Fusion,
    task: Task,
    measures: Sequence[str] | None = None,
    *,
    plan: Plan,
    batch_tokens: int | None = None,
) -> Result:
    """Evaluate a model on every cell of a task.

    Args:
        model: from `models.load`.
        task: from `tasks.load_task`; with `context`, see there.
        measures: in ir-measures' spelling; by default the task's.
        plan: where sources and vectors are kept, and how many threads to use.
        batch_tokens: as in `encode.encode`.

    Raises:
        XbenchError: see `errors`; nothing is written then but vectors that are good.
    """
    watch = _Watch()
    wanted = parse_all(measures or task.measures)
    if foreign := [m.name for m in wanted if m.foreign]:
        raise UsageError(
            f"measure {foreign[0]!r} is not a function of the ranks of the relevant passages; "
            "write a run (xbench export) and score that (xbench score)"
        )
    depth = max([TOP, *(int(m.k) for m in wanted if m.multi_only and m.k < np.inf)])
    parts = model.parts if isinstance(model, Fusion) else (model,)
    if task.context and (given := [part for part in parts if isinstance(part, Given)]):
        raise UsageError(f"model {given[0].name!r} takes no --context: its vectors are given, whatever passages hold")
    with watch("read"):
        collection = read(task, plan.data, offline=plan.offline)
    if isinstance(model, (Encoder, Given)):
        ranking = _rank_vectors(model, task, collection, depth, plan, batch_tokens, watch)
    else:
        ranking = _rank_pools(model, task, collection, depth, plan, batch_tokens, watch)
    # Not where vectors are kept: there the texts differ.
    identity = ranking.identity | ({"context": True} if task.context else {})
    key = fingerprint(identity)
    with watch("score"):
        cells = [score(cell, ranking.table, wanted) for cell in task.cells()]
        cells = [replace(found, unmatched=ranking.unmatched.get(found.cell.name)) for found in cells]
    log_undefined(cells, wanted)
    result = Result(
        task=task.about,
        model={"name": model.name, "fingerprint": key, "slug": slug(model.name, key), "identity": identity},
        command=plan.command,
        texts=ranking.texts,
        cells=cells,
        clusters=collection.clusters,
        ranks=ranking.table,
        truncation=ranking.truncation,
    )
    with watch("intervals"):
        result = with_intervals(result)
    return replace(result, timing=watch.report() | ranking.counts)


class _Ranking(NamedTuple):
    """Where the relevant passages stand, and by what."""

    table: RankTable
    identity: dict[str, object]
    texts: dict[str, int]
    truncation: dict[str, dict[str, dict[str, int] | None]]
    unmatched: dict[str, dict[str, int]]  # by cell; empty where every passage has a score
    counts: dict[str, int]  # for the timing


def _rank_vectors(
    model: Encoder | Given,
    task: Task,
    collection: Collection,
    depth: int,
    plan: Plan,
    batch_tokens: int | None,
    watch: "_Watch",
) -> _Ranking:
    """From vectors: one pass over the joint pool gives the ranks of every cell."""
    with watch("encode"):
        encoded = vectors(model, collection, plan.cache, batch_tokens)
    identity = identity_of(model, batch_tokens)
    with watch("index"):
        space = Space.build(encoded, collection, task, plan.cache / "indexes" / fingerprint(identity))
    table = judge(collection, task.languages)
    with watch("rank"):
        above = passages_above(space.queries, space.pool, table.judged, threads=plan.threads)
    with watch("top"), track("first passages", len(table.query_ids), "queries") as advance:
        top = first_passages(space.queries, space.pool, depth, threads=plan.threads, advance=advance)
    return _ranking(table._replace(above=above, top=top), identity, [encoded], {})


def _rank_pools(
    model: Retriever | Fusion,
    task: Task,
    collection: Collection,
    depth: int,
    plan: Plan,
    batch_tokens: int | None,
    watch: "_Watch",
) -> _Ranking:
    """From a retriever, or several models fused: every pool for itself."""
    with watch("encode"):
        parts = model.parts if isinstance(model, Fusion) else ()
        encoded = [vectors(part, collection, plan.cache, batch_tokens) for part in parts if not _searches(part)]
    retriever = fused(model, encoded, collection, batch_tokens) if isinstance(model, Fusion) else model
    with watch("search"):
        table, unmatched = retrieve(retriever, task, collection, judge(collection, task.languages), depth, plan.cache)
    log_unmatched(unmatched)
    return _ranking(table, retriever.identity, encoded, unmatched)


def _searches(model: object) -> bool:
    return not isinstance(model, (Encoder, Given))


def _ranking(
    table: RankTable, identity: dict[str, object], encoded: Sequence[Encoded], unmatched: dict[str, dict[str, int]]
) -> _Ranking:
    """With the counts of one or more sets of vectors; a fusion lists its parts' truncations by their place."""
    cut = {
        f"{i}.{role}" if len(encoded) > 1 else role: {a: None if c is None else c._asdict() for a, c in by.items()}
        for i, some in enumerate(encoded, 1)
        for role, by in some.cut.items()
    }
    texts = {name: sum(getattr(some, field) for some in encoded) for name, field in TEXTS.items()} if encoded else {}
    counts = {"texts_encoded": sum(e.encoded for e in encoded)}
    counts["texts_reused"] = sum(e.distinct for e in encoded) - counts["texts_encoded"]
    return _Ranking(table, identity, texts, cut, unmatched, counts)


def identity_of(model: Encoder | Given | Retriever, batch_tokens: int | None = None) -> dict[str, object]:
    """All that can move a number of a model's results."""
    return full_identity(model, batch_tokens) if isinstance(model, Encoder) else model.identity


def fused(fusion: Fusion, encoded: Sequence[Encoded], collection: Collection, batch_tokens: int | None) -> Fused:
    """The retriever of a fusion; `encoded` are the vectors of those parts that have some, in their order."""
    left = iter(encoded)
    parts = [
        part if _searches(part) else Dense(part.name, identity_of(part, batch_tokens), next(left), collection)
        for part in fusion.parts
    ]
    return Fused(fusion.name, fusion_identity([part.identity for part in parts], fusion.weights), parts, fusion.weights)


def vectors(model: Encoder | Given, collection: Collection, cache: Path, batch_tokens: int | None = None) -> Encoded:
    """The vectors of all texts: encoded, from the cache, or given."""
    if not isinstance(model, Given):
        return encode(model, collection, cache, batch_tokens)
    encoded = Encoded({role: {} for role in ROLES}, 0, 0, 0, {role: {} for role in ROLES})
    dimensions: dict[int, str] = {}
    for role in ROLES:
        for language in collection.queries if role == "queries" else collection.passages:
            found = encoded.vectors[role][language] = model.vectors(role, language, collection)
            check_finite(model.name, found, collection.ids(role, language))
            encoded.cut[role][language] = None
            dimensions.setdefault(found.shape[1], f"{role}.{language}.npy")
    if len(dimensions) > 1:
        raise DataError(f"{model.name}: files of different widths: {dimensions}; all must have the same d")
    total = sum(map(len, collection.queries.values())) + sum(map(len, collection.passages.values()))
    return encoded._replace(texts=total, distinct=total)


class Space(NamedTuple):
    """A task's passages, indexed language by language, and its queries' vectors."""

    indexes: list[Index]
    pool: Pool  # the union of the indexes
    queries: list[NDArray[np.float32]]

    @classmethod
    def build(cls, encoded: Encoded, collection: Collection, task: Task, folder: Path) -> "Space":
        """Index; large indexes are mapped from files in `folder`. Takes the passages' vectors out of `encoded`."""
        indexes = [
            Index.build(
                encoded.vectors["passages"].pop(language),
                collection.ids("passages", language),
                folder / f"{task.name}.{language}.faiss",
            )
            for language in task.languages
        ]
        pool = Pool([index.vectors for index in indexes], [doc_id for index in indexes for doc_id in index.doc_ids])
        return cls(indexes, pool, [encoded.vectors["queries"][language] for language in task.languages])


class _Watch:
    """Wall and processor seconds of each stage."""

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, float]] = {}

    def __call__(self, stage: str) -> "_Watch":
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *error: object) -> None:
        wall, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self._stages[self._stage] = {"wall_s": round(wall, 4), "cpu_s": round(cpu, 4)}

    def report(self) -> dict[str, Any]:
        return {"stages": self._stages, "peak_rss_mb": _peak_mb()}


def _peak_mb() -> int | None:
    """Largest resident memory so far, where the platform tells."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":  # whose ru_maxrss begins with that of the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n")
        return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), None)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
