"""Encode, index, rank, score: one model on one task, every cell from one pass."""

import sys
import time
from collections.abc import Mapping, Sequence
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
from xbench.retrievers import Dense, Fused
from xbench.scoring import log_undefined, score
from xbench.storage import fingerprint
from xbench.tasks import Task
from xbench.top import first_passages

# How many first passages of each query a result keeps, for language bias.
TOP = 100


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
    parts = model.parts if isinstance(model, Fusion) else (model,)
    if task.context and (given := [part for part in parts if isinstance(part, Given)]):
        raise UsageError(f"model {given[0].name!r} takes no --context: its vectors are given, whatever passages hold")
    depth = max([TOP, *(int(m.k) for m in wanted if m.multi_only and m.k < np.inf)])
    with watch("read"):
        collection = read(task, plan.data, offline=plan.offline)
    job = _Job(task, collection, depth, plan, batch_tokens, watch)
    ranking = job.by_vectors(model) if isinstance(model, (Encoder, Given)) else job.by_pools(model)
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


class _Job(NamedTuple):
    """What there is to do."""

    task: Task
    collection: Collection
    depth: int  # first passages to keep
    plan: Plan
    batch_tokens: int | None
    watch: "_Watch"

    def by_vectors(self, model: Encoder | Given) -> _Ranking:
        """One pass over the joint pool gives the ranks of every cell."""
        watch, plan = self.watch, self.plan
        with watch("encode"):
            encoded = vectors(model, self.collection, plan.cache, self.batch_tokens)
        identity = identity_of(model, self.batch_tokens)
        with watch("index"):
            folder = plan.cache / "indexes" / fingerprint(identity)
            space = Space.build(encoded, self.collection, self.task, folder)
        table = judge(self.collection, self.task.languages)
        with watch("rank"):
            above = passages_above(space.queries, space.pool, table.judged, threads=plan.threads)
        with watch("top"), track("first passages", len(table.query_ids), "queries") as advance:
            top = first_passages(space.queries, space.pool, self.depth, threads=plan.threads, advance=advance)
        return _ranking(table._replace(above=above, top=top), identity, {"": encoded}, {})

    def by_pools(self, model: Retriever | Fusion) -> _Ranking:
        """A retriever, or several models fused, searches every pool for itself."""
        encoded: dict[int, Encoded] = {}
        retriever: Retriever | Fused
        if isinstance(model, Fusion):
            with self.watch("encode"):
                for place, part in enumerate(model.parts):
                    if isinstance(part, (Encoder, Given)):
                        encoded[place] = vectors(part, self.collection, self.plan.cache, self.batch_tokens)
            retriever = fused(model, encoded, self.collection, self.batch_tokens)
        else:
            retriever = model
        table = judge(self.collection, self.task.languages)
        with self.watch("search"):
            table, unmatched = retrieve(retriever, self.task, self.collection, table, self.depth, self.plan.cache)
        log_unmatched(unmatched)
        return _ranking(table, retriever.identity, {f"{i + 1}.": some for i, some in encoded.items()}, unmatched)


def _ranking(
    table: RankTable, identity: dict[str, object], encoded: Mapping[str, Encoded], unmatched: dict[str, dict[str, int]]
) -> _Ranking:
    """With the counts of sets of vectors; those of a fusion's parts are told apart by `1.`, `2.`, ... their place."""
    cut = {
        place + role: {a: None if c is None else c._asdict() for a, c in by_language.items()}
        for place, some in encoded.items()
        for role, by_language in some.cut.items()
    }
    sets = list(encoded.values())
    distinct, fresh = sum(some.distinct for some in sets), sum(some.encoded for some in sets)
    texts = {"total": sum(some.texts for some in sets), "distinct": distinct} if sets else {}
    return _Ranking(table, identity, texts, cut, unmatched, {"texts_encoded": fresh, "texts_reused": distinct - fresh})


def identity_of(model: Encoder | Given | Retriever, batch_tokens: int | None = None) -> dict[str, object]:
    """All that can move a number of a model's results."""
    return full_identity(model, batch_tokens) if isinstance(model, Encoder) else model.identity


def fused(
    fusion: Fusion, encoded: Mapping[int, Encoded], collection: Collection, batch_tokens: int | None = None
) -> Fused:
    """The retriever of a fusion; `encoded` are the vectors of those parts that have some, by their place."""
    parts = [
        Dense(part.name, identity_of(part, batch_tokens), encoded[i], collection) if i in encoded else part
        for i, part in enumerate(fusion.parts)
    ]
    return Fused.of(fusion.name, parts, fusion.weights)


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
                folder / f"{task.name}-{task.sha256[:12]}.{language}.faiss",
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
