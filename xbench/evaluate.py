"""Encode, index, rank, score: one model on one task, every cell from one pass."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xbench.answers import answered
from xbench.catalogue import Measure, parse_all
from xbench.cutoff import check_depth, large_identity, log_cut, retrieve_first
from xbench.encode import Encoded, full_identity
from xbench.errors import UsageError
from xbench.firsts import first_by_vectors
from xbench.folders import Folder
from xbench.groups import Grouping, groupings
from xbench.intervals import with_intervals
from xbench.large import Large, encode_all
from xbench.large import Pools as LargePools
from xbench.large import rank as rank_large
from xbench.memory import peak_mb
from xbench.models import Encoder, Given, LargeRetriever, Retriever, slug
from xbench.models.fuse import Fusion
from xbench.progress import track
from xbench.ranking import passages_above
from xbench.ranks import RankTable, judge
from xbench.readers import parts, pin
from xbench.readers.part import Part
from xbench.records import Collection
from xbench.results import Result
from xbench.retrieve import Pools, log_unmatched, retrieve
from xbench.retrievers import Dense, Fused
from xbench.scoring import log_undefined, score
from xbench.shards import shard_identity
from xbench.space import Space, apart, joined, languages_of, vectors
from xbench.storage import fingerprint
from xbench.task import Task
from xbench.top import first_passages
from xbench.workers import Workers

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
    shards: Folder | None = None  # of vectors too many to hold; by default in the cache
    workers: Workers | None = None  # who encodes, and searches such shards; by default this process


def evaluate(
    model: Encoder | Given | Retriever | Fusion,
    task: Task,
    measures: Sequence[str] | None = None,
    *,
    plan: Plan,
    batch_tokens: int | None = None,
    groups: Mapping[str, Grouping] | None = None,
    large: Large | None = None,
) -> Result:
    """Evaluate a model on every cell of a task.

    Args:
        model: from `models.load`.
        task: from `tasks.load_task`; with `context`, see there.
        measures: in ir-measures' spelling; by default the task's.
        plan: where sources and vectors are kept, and how many threads to use.
        batch_tokens: as in `encode.encode`.
        groups: groupings of its languages, as `groups.groupings`; by default the task's own.
        large: how pools are worked on that are too large to hold; for others it has no effect.

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
    models = model.parts if isinstance(model, Fusion) else (model,)
    if task.context and (given := [each for each in models if isinstance(each, Given)]):
        raise UsageError(f"model {given[0].name!r} takes no --context: its vectors are given, whatever passages hold")
    depth = max([TOP, *(int(m.k) for m in wanted if m.multi_only and m.k < np.inf)])
    with watch("read"):
        task = pin(task, plan.data, offline=plan.offline)
        read = list(parts(task, plan.data, offline=plan.offline))
    job = _Job(task, read, depth, plan, batch_tokens, watch, any(m.of_answers for m in wanted))
    if any(part.collection.large for part in read):
        ranking = job.by_first(model, wanted) if isinstance(model, LargeRetriever) else job.by_shards(model, large)
    else:
        ranking = job.by_vectors(model) if isinstance(model, (Encoder, Given)) else job.by_pools(model)
    # Not where vectors are kept: there the texts differ.
    identity = ranking.identity | ({"context": True} if task.context else {})
    key = fingerprint(identity)
    with watch("score"):
        cells = [
            replace(score(cell, table, wanted), unmatched=ranking.unmatched.get(cell.name))
            for part, table in zip(read, ranking.tables, strict=True)
            for cell in part.cells
        ]
    log_undefined(cells, wanted)
    result = Result(
        task=task.about,
        model={"name": model.name, "fingerprint": key, "slug": slug(model.name, key), "identity": identity},
        command=plan.command,
        texts=ranking.texts,
        cells=cells,
        clusters={question: name for part in read for question, name in part.collection.clusters.items()},
        ranks=ranking.tables[0] if len(read) == 1 else None,
        truncation=ranking.truncation,
        groupings=dict(groupings(task) if groups is None else groups),
        search=dict(ranking.search),
    )
    with watch("intervals"):
        result = with_intervals(result)
    report = plan.workers.report() if plan.workers else {}
    return replace(result, timing=watch.report() | ranking.counts | report)


class _Ranking(NamedTuple):
    """Where the relevant passages stand, and by what."""

    tables: list[RankTable]  # one a part
    identity: dict[str, object]
    texts: dict[str, int]
    truncation: dict[str, dict[str, dict[str, int] | None]]
    unmatched: dict[str, dict[str, int]]  # by cell; empty where every passage has a score
    counts: dict[str, int]  # for the timing
    search: Mapping[str, Any]  # how large pools were searched


class _Job(NamedTuple):
    """What there is to do."""

    task: Task
    parts: list[Part]
    depth: int  # first passages to keep
    plan: Plan
    batch_tokens: int | None
    watch: "_Watch"
    answers: bool  # whether to look for answer strings in first passages

    def by_vectors(self, model: Encoder | Given) -> _Ranking:
        """One pass over the joint pool of a part gives the ranks of all its cells."""
        plan = self.plan
        with self.watch("encode"):
            encoded = vectors(model, self.whole(), plan.cache, self.batch_tokens, plan.workers)
        identity = identity_of(model, self.batch_tokens)
        folder = plan.cache / "indexes" / fingerprint(identity)
        tables = [
            self._rank(part, some, folder)
            for part, some in zip(self.parts, apart(encoded, [part.collection for part in self.parts]), strict=True)
        ]
        return _ranking(tables, identity, {"": encoded}, {})

    def _rank(self, part: Part, encoded: Encoded, folder: Path) -> RankTable:
        watch, threads = self.watch, self.plan.threads
        with watch("index"):
            space = Space.build(encoded, part.collection, self.task, folder)
        table = judge(part.collection, languages_of(self.task, part.collection))
        with watch("rank"):
            above = np.zeros_like(table.above)
            columns = [table.languages.index(language) for language in space.languages]
            above[:, columns] = passages_above(space.queries, space.pool, table.judged, threads=threads)
        table = table._replace(above=above)
        if any(cell.setting == "multi" for cell in part.cells):
            with watch("top"), track("first passages", len(table.query_ids), "queries") as advance:
                top = first_passages(space.queries, space.pool, self.depth, threads=threads, advance=advance)
            table = table._replace(top=top)
        if self.answers:
            with watch("answers"):
                first = first_by_vectors(part.cells, table, space, threads=threads)
                table = table._replace(answered=answered(part.collection, table.languages, first))
        return table

    def by_shards(self, model: Encoder | Given | Retriever | Fusion, large: Large | None) -> _Ranking:
        """Vectors in shards on disk, which are searched one after the other."""
        large = large or Large()
        if not isinstance(model, Encoder):
            raise UsageError(
                f"model {model.name!r} needs all passages of {self.task.name} at once, which are too many to hold; "
                "bm25 and models that encode texts can search them"
            )
        if len(self.parts) > 1:
            raise UsageError(f"task {self.task.name}: pools of a cell's own cannot be too large to hold")
        (part,), plan = self.parts, self.plan
        identity = shard_identity(model, self.batch_tokens, large.rows) | large.variant.identity
        with self.watch("encode"):
            place: dict[str, Any] = {"shards": plan.shards, "workers": plan.workers}
            encoded, shards = encode_all(model, part.collection, large, plan.cache, self.batch_tokens, **place)
        languages, dangling = languages_of(self.task, part.collection), self.task.options.get("dangling", 0)
        pools = LargePools(part.cells, part.collection, languages, encoded.vectors["queries"], shards, dangling)
        with self.watch("rank"):
            folder = plan.cache / "searches" / fingerprint(identity)
            table, unmatched, about = rank_large(
                pools, large.variant, self.depth, folder, None if plan.workers else plan.threads, plan.workers
            )
        about = {"shard_rows": large.rows, **about}
        return _ranking([table], identity, {"": encoded}, unmatched)._replace(search=about)

    def whole(self) -> Collection:
        """The texts of all parts, one after the other."""
        return joined([part.collection for part in self.parts])

    def by_pools(self, model: Retriever | Fusion) -> _Ranking:
        """A retriever, or several models fused, searches every pool for itself."""
        encoded: dict[int, Encoded] = {}
        apart_: dict[int, list[Encoded]] = {}
        collections = [part.collection for part in self.parts]
        if isinstance(model, Fusion):
            with self.watch("encode"):
                for place, one in enumerate(model.parts):
                    if isinstance(one, (Encoder, Given)):
                        encoded[place] = vectors(one, self.whole(), self.plan.cache, self.batch_tokens)
                        apart_[place] = list(apart(encoded[place], collections))
        tables: list[RankTable] = []
        unmatched: dict[str, dict[str, int]] = {}
        identity: dict[str, object] = {}
        asked = [len(part.collection.queries[cell.query_language]) for part in self.parts for cell in part.cells]
        with self.watch("search"), track("searching", sum(asked), "queries") as advance:
            for number, (part, collection) in enumerate(zip(self.parts, collections, strict=True)):
                retriever: Retriever | Fused
                if isinstance(model, Fusion):
                    some = {place: each[number] for place, each in apart_.items()}
                    retriever = fused(model, some, collection, self.batch_tokens)
                else:
                    retriever = model
                table = judge(collection, languages_of(self.task, part.collection))
                job = Pools(retriever, self.task, part.cells, collection, self.answers)
                table, lost = retrieve(job, table, self.depth, self.plan.cache, advance)
                tables.append(table)
                unmatched |= lost
                identity = retriever.identity
        log_unmatched(unmatched)
        return _ranking(tables, identity, {f"{i + 1}.": some for i, some in encoded.items()}, unmatched)

    def by_first(self, model: LargeRetriever, measures: Sequence[Measure]) -> _Ranking:
        """A retriever searches the first passages of pools that are too large for scores of all."""
        check_depth(measures)
        tables: list[RankTable] = []
        unmatched: dict[str, dict[str, int]] = {}
        for part in self.parts:
            asked = sum(len(part.collection.queries[cell.query_language]) for cell in part.cells)
            with contextlib.ExitStack() as stack:
                with self.watch("index"):
                    searchers = stack.enter_context(model.search_large(part.collection.large, self.plan.cache))
                with self.watch("search"), track("searching", asked, "queries") as advance:
                    table = judge(part.collection, languages_of(self.task, part.collection))
                    dangling = self.task.options.get("dangling", 0)
                    table, lost = retrieve_first(part, searchers, table, self.depth, advance, dangling)
            tables.append(table)
            unmatched |= lost
        log_cut(unmatched)
        return _ranking(tables, large_identity(model), {}, unmatched)


def _ranking(
    tables: list[RankTable],
    identity: dict[str, object],
    encoded: Mapping[str, Encoded],
    unmatched: dict[str, dict[str, int]],
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
    counts = {"texts_encoded": fresh, "texts_reused": distinct - fresh}
    return _Ranking(tables, identity, texts, cut, unmatched, counts, {})


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
        before = self._stages.get(self._stage, {"wall_s": 0.0, "cpu_s": 0.0})  # a stage comes once a part
        self._stages[self._stage] = {
            "wall_s": round(before["wall_s"] + wall, 4),
            "cpu_s": round(before["cpu_s"] + cpu, 4),
        }

    def report(self) -> dict[str, Any]:
        return {"stages": self._stages, "peak_rss_mb": peak_mb()}
