"""Readers, one file per source format; every one gives a Collection, checked against the task's counts."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from xbench.errors import DataError, IntegrityError
from xbench.readers.squad import SquadFile, read_squad
from xbench.records import Collection
from xbench.sources import locate, verify
from xbench.tasks import Task


def source_path(task: Task, language: str, data: Path | None, *, offline: bool = False) -> Path:
    """Where the verified source of a language lies; fetched into the cache if it must be.

    Raises:
        DataError, IntegrityError, StorageError: as `sources.locate`.
    """
    source = task.sources[language]
    if task.folder is None:
        return locate(source, data, offline=offline)
    path = task.folder / source.name
    verify(path, source)
    return path


def read(task: Task, data: Path | None = None, *, offline: bool = False) -> Collection:
    """The texts of a task and what is relevant to what.

    Args:
        task: its sources are verified by size and SHA-256 each time; its `context` says what a passage is.
        data: a folder `data/<task>/...` of sources at hand; else the cache, fetched if need be.
        offline: never fetch.

    Raises:
        DataError: a source is missing or not in its format, or its counts are not the expected ones.
        IntegrityError: a source is not the published file.
    """
    return _link(task, _read_files(task, data, offline))


def check(task: Task, data: Path | None = None, *, offline: bool = False) -> Collection:
    """`read`, and the golden rows too, which are of sentences: for `xbench data verify`.

    Raises:
        IntegrityError: a golden row differs; besides those of `read`.
    """
    task = replace(task, context=False)
    files = _read_files(task, data, offline)
    collection = _link(task, files)
    for language in task.languages:
        golden, file = task.golden[language], files[language]
        for kind, expected, rows in (
            ("query", golden.queries, file.queries),
            ("passage", golden.passages, file.passages),
        ):
            for row, id_, digest in expected:
                found = [(r[0], hashlib.sha256(r[1].encode()).hexdigest()[:16]) for r in rows[row : row + 1]]
                if found != [(id_, digest)]:
                    raise IntegrityError(
                        f"{task.name}/{language}: {kind} row {row} is {found[0] if found else 'missing'}, "
                        f"expected {(id_, digest)}"
                    )
        for query_id, doc_id in golden.qrels:
            if collection.qrels.get(query_id, {}).get(doc_id) != 1:
                raise IntegrityError(f"{task.name}/{language}: {doc_id} is not relevant to {query_id}, as expected")
        shared = {
            b: sum(any(d.startswith(f"{b}:") for d in collection.qrels[q.query_id]) for q in file.queries)
            for b in task.languages
        }
        if shared != task.shared[language]:
            raise DataError(
                f"{task.name}/{language}: queries with an answer in each language: found {shared}, "
                f"expected {task.shared[language]}"
            )
    return collection


def _read_files(task: Task, data: Path | None, offline: bool) -> dict[str, SquadFile]:
    if task.format != "squad-sentences":
        raise DataError(f"task {task.name}: no reader for format {task.format!r}; known: squad-sentences")
    files = {}
    for language in task.languages:
        path = source_path(task, language, data, offline=offline)
        file = files[language] = read_squad(path, language, context=task.context)
        found = {"queries": len(file.queries), "passages": len(file.passages), **file.counts}
        if found != task.counts[language]:
            raise DataError(
                f"{path}: found {found}, expected {task.counts[language]}; is the task definition of this version?"
            )
    return files


def _link(task: Task, files: dict[str, SquadFile]) -> Collection:
    """The same question id in two languages is the same question: its answers are relevant in both."""
    qrels: dict[str, dict[str, int]] = {}
    for language in task.languages:
        for question_id in files[language].answers:
            qrels[f"{language}:{question_id}"] = {
                files[other].answers[question_id]: 1 for other in task.languages if question_id in files[other].answers
            }
    return Collection(
        {language: files[language].queries for language in task.languages},
        {language: files[language].passages for language in task.languages},
        qrels,
        _paragraphs(qrels),
    )


def _paragraphs(qrels: dict[str, dict[str, int]]) -> dict[str, str]:
    """Question -> the first of the paragraphs that it shares, in any language, with other questions.

    Questions that share a paragraph in one language and those that share one in another are one
    cluster, since the translations of a question are.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [(q.partition(":")[2], d.rpartition(".")[0]) for q, grades in qrels.items() for d in grades]
    questions, paragraphs = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    place = {name: i for i, name in enumerate(questions)}
    node = {name: len(questions) + i for i, name in enumerate(paragraphs)}
    ends = np.array([(place[q], node[p]) for q, p in pairs]).T
    size = len(questions) + len(paragraphs)
    _, component = connected_components(coo_array((np.ones(len(pairs)), tuple(ends)), (size, size)), directed=False)
    first: dict[int, str] = {}
    for name in paragraphs:
        first.setdefault(int(component[node[name]]), name)
    return {name: first[int(component[place[name]])] for name in questions}
