"""What encoding and searching a task will take: shards, bytes, memory by formula; hours from a measured sample.

The sample is the first passages of each language, encoded and written as a shard of their own into a temporary
folder, by a worker. Where a corpus begins with longer texts than it goes on with, the hours are too many.
"""

import itertools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xbench.ahead import Texts, read_texts
from xbench.approximate import FLAT
from xbench.distant import Distant
from xbench.drafts import Draft, encode_drafts
from xbench.encode import missing
from xbench.evaluate import TOP
from xbench.folders import LocalFolder
from xbench.large import Large, shards_in
from xbench.memory import peak_mb
from xbench.models import ROLES, Encoder
from xbench.progress import log
from xbench.ranking import TILE_BYTES, Pool, passages_above
from xbench.records import Corpus, Judged, Passage
from xbench.shards import find_files
from xbench.tables import Table, Value
from xbench.task import Task
from xbench.threads import cores
from xbench.workers import Here

if TYPE_CHECKING:
    from xbench.evaluate import Plan

# Texts of a language that are encoded to measure, after as many as warm up.
SAMPLE, WARM = 512, 32
# Passages and queries that are searched to measure.
POOL, QUERIES = 1 << 13, 256
MB = 1e6


class _Sample(NamedTuple):
    language: str
    told: str
    passages: list[Passage]


class _Measured(NamedTuple):
    """By a worker."""

    language: str
    rate: float  # texts a second
    dimension: int
    search: float  # seconds for a query and a million passages
    memory: float  # MB, at the most until then
    threads: int


def estimate(model: Encoder, task: Task, plan: "Plan", large: Large, batch_tokens: int | None = None) -> list[Table]:
    """What is to do, and what it will take.

    Raises:
        UsageError: the model does not encode texts.
        XbenchError: as `readers.parts`, `large.encode_all`.
    """
    texts = read_texts(model, task, plan)
    workers = plan.workers or Here()
    samples = [_Sample(a, a if model.told_language else "", some) for a, some in _first_texts(texts).items()]
    log.info("%s: measuring on the first %d passages of each language", task.name, SAMPLE)
    measured = {found.language: found for found in workers.map(_measure, (model, batch_tokens), samples)}
    one = next(iter(measured.values()))
    rate = len(measured) / sum(1 / found.rate for found in measured.values())
    rows: list[list[Value]] = []
    left_of_all, bytes_of_all, seconds = 0, 0.0, 0.0
    _, lacking = missing(model, texts.held, plan.cache, batch_tokens)
    if lacking or not texts.large:
        count = sum(len(some) for role in ROLES for some in texts.held.rows(role).values())
        rows.append(["all", "held", count, lacking, None, 4 * lacking * one.dimension / MB])
        seconds, left_of_all = lacking / rate, lacking
    corpora: Mapping[str, Corpus] = texts.large.collection.large if texts.large else {}
    root = shards_in(plan.cache, plan.shards)
    all_files = find_files(model, corpora, root, large.rows, batch_tokens)
    for language, corpus in corpora.items():
        files = [file for file in all_files if file.language == language]
        there = sum(file.rows for file in files)
        left = len(corpus) - there
        # Every file ends with a shard of its own, so this is the least.
        shards = max(len(corpus.files), -(-len(corpus) // large.rows)) - sum(len(file.shards) for file in files)
        size = left * (4 * one.dimension + 11)
        rows.append([language, "in shards", len(corpus), left, max(0, shards), size / MB])
        seconds += left / measured.get(language, one).rate  # of one without passages
        left_of_all, bytes_of_all = left_of_all + left, bytes_of_all + size
    first = Table(
        f"{task.name} by {model.name}: what there is to encode",
        ["language", "texts are", "texts", "left", "shards", "MB"],
        rows,
    )
    memory = _memory(texts, one, large, samples)
    searching: list[Value] = ["time to search shards", *_span(_search_seconds(texts, one) / workers.size)]
    if large.variant.factory != FLAT:
        searching = ["time to make and search an index, here", None, "not measured"]
    what: list[list[Value]] = [
        ["texts left to encode", left_of_all, ""],
        ["shards to write", bytes_of_all / MB, "MB"],
        ["workers", workers.size, ""],
        ["texts a second and worker, measured", rate, ""],
        ["time to encode", *_span(seconds / workers.size)],
        searching,
        ["memory of a worker while encoding", memory[0], "MB"],
        ["memory of a worker while searching", memory[1], "MB"],
        ["memory of this process while searching", memory[2], "MB"],
    ]
    return [first, Table(f"{task.name} by {model.name}: what it will take", ["what", "value", "unit"], what)]


def _span(seconds: float) -> tuple[float, str]:
    """Seconds, or hours where these are more than a few minutes."""
    return (seconds, "s") if seconds < 600 else (seconds / 3600, "h")


def _first_texts(texts: Texts) -> dict[str, list[Passage]]:
    """The sample of each language."""
    large: Mapping[str, Iterable[Passage]] = texts.large.collection.large if texts.large else {}
    corpora: Mapping[str, Iterable[Passage]] = large or texts.held.passages
    found = {a: list(itertools.islice(some, WARM + SAMPLE)) for a, some in corpora.items()}
    return {a: some for a, some in found.items() if some}


def _measure(how: tuple[Encoder, int | None], sample: _Sample) -> _Measured:
    """On a worker."""
    model, batch_tokens = how
    model = model.load() if isinstance(model, Distant) else model
    size = len(sample.passages)
    warm = min(WARM, size // 2)
    with tempfile.TemporaryDirectory(prefix="xbench.") as folder:
        started = 0.0
        for number, some in enumerate((sample.passages[:warm], sample.passages[warm:])):
            started = time.perf_counter()
            place = LocalFolder(Path(folder))
            ids, contents = [p.doc_id for p in some], [p.text for p in some]
            draft = Draft(place, number, Path(), 0, True, ids, contents, sample.language, sample.told)
            (shard,) = encode_drafts(model, [draft], batch_tokens)
        seconds = time.perf_counter() - started
        del draft
    return _Measured(
        sample.language,
        (size - warm) / max(seconds, 1e-9),
        shard.dimension,
        _search_time(shard.dimension),
        float(peak_mb() or 0),
        cores(),
    )


def _search_time(dimension: int) -> float:
    """Seconds for one query, three judged passages, and a million passages; random vectors."""
    rng = np.random.default_rng(0)
    passages, queries = (rng.standard_normal((n, dimension), dtype=np.float32) for n in (POOL, QUERIES))
    pool = Pool([passages], [str(i) for i in range(POOL)])
    judged = Judged(np.arange(QUERIES + 1) * 3, rng.integers(0, POOL, 3 * QUERIES), np.ones(3 * QUERIES, np.int64))
    started = time.perf_counter()
    passages_above([queries], pool, judged)
    return (time.perf_counter() - started) / QUERIES / POOL * 1e6


def _search_seconds(texts: Texts, one: _Measured) -> float:
    """Of one worker, for all cells: a joint pool is searched by all queries, else each language by those that do."""
    if not texts.large:
        return 0.0
    part = texts.large
    passages = {a: len(corpus) for a, corpus in part.collection.large.items()}
    asked = {a: len(some) for a, some in part.collection.queries.items()}
    if any(cell.setting == "multi" for cell in part.cells):  # its first passages cost the product once more
        return 2 * one.search * sum(asked.values()) * sum(passages.values()) / 1e6
    pairs = {(cell.query_language, b) for cell in part.cells for b in cell.passage_languages}
    return one.search * sum(asked.get(a, 0) * passages.get(b, 0) for a, b in pairs) / 1e6


def _memory(texts: Texts, one: _Measured, large: Large, samples: Sequence[_Sample]) -> tuple[float, float, float]:
    """MB, by the formulas of docs/large.md: a worker that encodes, one that searches, and this process."""
    here = float(peak_mb() or 0)
    if not texts.large:
        return one.memory, 0.0, here
    collection, d, rows = texts.large.collection, one.dimension, large.rows
    lengths = [len(p.text.encode()) for sample in samples for p in sample.passages]
    text = 600 + sum(lengths) / max(1, len(lengths))
    encoding = one.memory + (4 * rows * d * 2 + 2 * rows * text) / MB
    queries = sum(map(len, collection.queries.values()))
    relevant = sum(grade > 0 for some in collection.qrels.values() for grade in some.values())
    k = TOP if any(cell.setting == "multi" for cell in texts.large.cells) else 0
    asked = 4 * (queries + relevant) * d
    searching = asked + 4 * rows * d + (TILE_BYTES + (7 << 20)) * one.threads + 300 * queries * k + 150 * rows
    driver = asked + 10 * max(len(corpus) for corpus in collection.large.values()) + 200 * queries * k
    # A worker keeps its model.
    return encoding, one.memory + searching / MB, here + driver / MB
