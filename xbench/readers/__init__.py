"""Readers, one file per source format; what they give is checked against the task's counts."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xbench.errors import DataError, IntegrityError, UsageError
from xbench.readers.belebele import read_belebele
from xbench.readers.corpora import check_corpora
from xbench.readers.mewslix import read_mewslix
from xbench.readers.miracl import read_miracl
from xbench.readers.paragraphs import read_paragraphs
from xbench.readers.part import Part, Reader
from xbench.readers.records import read_records
from xbench.readers.sentences import read_sentences
from xbench.readers.tatoeba import read_tatoeba
from xbench.readers.translations import read_translations
from xbench.readers.wikihop import read_wikihop
from xbench.readers.xor import read_xor
from xbench.records import Collection, Passage, Query
from xbench.sources import locate, verify
from xbench.storage import sha256
from xbench.task import Task, with_pins

READERS: dict[str, Reader] = {
    "mewsli-x": read_mewslix,
    "miracl": read_miracl,
    "records": read_records,
    "belebele": read_belebele,
    "squad-paragraphs": read_paragraphs,
    "squad-sentences": read_sentences,
    "tatoeba": read_tatoeba,
    "translations": read_translations,
    "wikihop": read_wikihop,
    "xor-retrieve": read_xor,
}


def source_path(task: Task, key: str, data: Path | None, *, offline: bool = False) -> Path:
    """Where the verified source of a key lies; fetched into the cache if it must be.

    Raises:
        DataError, IntegrityError, StorageError: as `sources.locate`.
    """
    source = task.sources[key]
    if task.folder is None:
        return locate(source, data, offline=offline)
    path = task.folder / source.name
    if source.sha256:
        verify(path, source)
    elif not path.is_file():
        raise DataError(f"{path} is missing or not a file")
    return path


def source_paths(task: Task, data: Path | None, *, offline: bool = False) -> dict[str, Path]:
    """Where all sources of a task are; as `source_path`. Asked before long work, it fails before it, not after."""
    return {key: source_path(task, key, data, offline=offline) for key in task.sources}


def pin(task: Task, data: Path | None = None, *, offline: bool = False, passages: bool = True) -> Task:
    """The task with the size and the SHA-256, as found, of every source whose definition has none; as `parts`."""
    bare = {
        key: source_path(task, key, data, offline=offline)
        for key, source in task.sources.items()
        if not source.sha256 and (passages or not source.passages)
    }
    return with_pins(task, {key: (path.stat().st_size, sha256(path)) for key, path in bare.items()}) if bare else task


def read(task: Task, data: Path | None = None, *, offline: bool = False) -> Collection:
    """The texts of a task whose cells share one collection; as `parts`.

    Raises:
        UsageError: every cell has its own pool.
    """
    found = list(parts(task, data, offline=offline))
    if len(found) != 1:
        raise UsageError(f"task {task.name}: every cell has a pool of its own; choose one cell (--cell)")
    return found[0].collection


def parts(task: Task, data: Path | None = None, *, offline: bool = False, passages: bool = True) -> Iterator[Part]:
    """The texts of a task and what is relevant to what.

    Args:
        task: its sources are verified by size and SHA-256 each time; its `context` says what a passage is.
        data: a folder `data/<task>/...` of sources at hand; else the cache, fetched if need be.
        offline: never fetch.
        passages: without, files that hold nothing but passages are not looked for; corpora then have a size alone.

    Raises:
        DataError: a source is missing or not in its format, or its counts are not the expected ones.
        IntegrityError: a source is not the published file.
    """
    if task.format not in READERS:
        raise DataError(f"task {task.name}: no reader for format {task.format!r}; known: {', '.join(sorted(READERS))}")
    wanted = [key for key, source in task.sources.items() if passages or not source.passages]
    paths = {key: source_path(task, key, data, offline=offline) for key in wanted}
    seen: set[str] = set()
    # Of a file that could not be seen when the task was written, not every count is known.
    unseen = bool(task.pinned) or not all(source.sha256 for source in task.sources.values())
    for part in READERS[task.format](task, paths):
        for key, found in part.counts.items():
            large = ("passages",) if part.collection.large else ()  # counted when they are read
            expected = {what: n for what, n in task.counts[key].items() if what not in large}
            known = expected.keys() if unseen else found.keys() | expected.keys()
            if any(found.get(what) != expected.get(what) for what in known):
                where = paths.get(key, f"{task.name}/{key}")
                raise DataError(f"{where}: found {found}, expected {expected}; is the task definition of this version?")
        seen |= set(part.counts)
        yield part if task.parallel else part._replace(collection=_apart(part.collection))
    if seen != set(task.counts):
        raise DataError(f"task {task.name}: nothing was read of {sorted(set(task.counts) - seen)[:5]}")


def _apart(collection: Collection) -> Collection:
    """With each query in its own cluster, or that of its question, so that no two languages share one."""
    names = [query.query_id for rows in collection.queries.values() for query in rows]
    return collection._replace(clusters={name: collection.clusters.get(name, name) for name in names})


def check(task: Task, data: Path | None = None, *, offline: bool = False) -> list[Part]:
    """`parts`, the golden rows, which are of texts without context, and whole corpora: for `xbench data verify`.

    Raises:
        IntegrityError: a golden row differs; besides those of `parts`.
    """
    task = replace(task, context=False)
    found = list(parts(task, data, offline=offline))
    for part in found:
        for key in part.counts:
            _check_golden(task, key, part)
        check_corpora(task.name, part.collection)
    if task.shared:
        _check_shared(task, found[0].collection)
    return found


def _check_golden(task: Task, key: str, part: Part) -> None:
    collection = part.collection
    if key not in task.golden:
        return
    cell = next((cell for cell in part.cells if cell.name == key), None)
    asked, searched = (key, key) if cell is None else (cell.query_language, cell.passage_languages[0])
    golden = task.golden[key]
    passages: Sequence[Passage] = collection.passages.get(searched, [])
    if searched in collection.large:
        last = max((row for row, _, _ in golden.passages), default=-1)
        passages = list(itertools.islice(collection.large[searched], last + 1))
    kinds: Mapping[str, tuple[list[tuple[int, str, str]], Sequence[Query | Passage]]] = {
        "query": (golden.queries, collection.queries.get(asked, [])),
        "passage": (golden.passages, passages),
    }
    for kind, (expected, rows) in kinds.items():
        for row, id_, digest in expected:
            there = [(r[0], hashlib.sha256(r[1].encode()).hexdigest()[:16]) for r in rows[row : row + 1]]
            if there != [(id_, digest)]:
                shown = there[0] if there else "missing"
                raise IntegrityError(f"{task.name}/{key}: {kind} row {row} is {shown}, expected {(id_, digest)}")
    for query_id, doc_id in golden.qrels:
        if collection.qrels.get(query_id, {}).get(doc_id, 0) < 1:
            raise IntegrityError(f"{task.name}/{key}: {doc_id} is not relevant to {query_id}, as expected")


def _check_shared(task: Task, collection: Collection) -> None:
    for language, expected in task.shared.items():
        grades = [collection.qrels[query_id] for query_id in collection.ids("queries", language)]
        relevant = [{d.partition(":")[0] for d, grade in some.items() if grade > 0} for some in grades]
        shared = {b: sum(b in some for some in relevant) for b in expected}
        if shared != expected:
            raise DataError(
                f"{task.name}/{language}: queries with an answer in each language: found {shared}, expected {expected}"
            )
