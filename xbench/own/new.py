"""Make a task of a folder of files: find them, read everything once with all checks, write the definition."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xbench.catalogue import parse_all
from xbench.errors import DataError, UsageError
from xbench.own.census import Census, census
from xbench.own.definition import definition, golden_rows
from xbench.own.layouts import find
from xbench.own.plan import Plan, Wish, plan
from xbench.readers.part import Part
from xbench.readers.records import read_records
from xbench.readers.rows import count_rows
from xbench.sources import Source
from xbench.storage import atomic, sha256, storage
from xbench.task import SETTINGS, Task
from xbench.tasks import NAME, parse_definition, task_names

# Rows of a language's files above which its passages are read file by file and never held.
LARGE = 500_000
MEASURES = ("nDCG@10", "AP", "RR", "R@10", "R@100", "Success@1")
MULTI_MEASURES = ("RankDistance", "nRankDistance")
_LANGUAGE = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")


class Order(NamedTuple):
    """What is asked for; see `xbench tasks new --help`."""

    name: str
    folder: Path
    output: Path
    layout: str | None = None
    wish: Wish = Wish()
    split: str = "test"
    parallel: bool = False
    measures: tuple[str, ...] = ()
    empty: str | None = None
    dangling: int = 0
    self_: str | None = None
    answers: bool = False
    force: bool = False


class Made(NamedTuple):
    """The task, which stands in its file, and files of the folder that it does not use."""

    task: Task
    unused: list[str]
    empty: dict[str, int]  # passages left out of a large corpus


def make(order: Order) -> Made:
    """Make the task and write its definition, whole or not at all.

    Raises:
        UsageError: a name that cannot be one, a file in the way, a language or setting that is not there, ...
        DataError: the files are not what they should be; with file and row.
        UnsafeInput: a dataset's card with more than plain YAML, or paths that lead out of the folder.
        StorageError: a file cannot be read or written.
    """
    _check(order)
    layout = find(order.folder, order.layout, order.split, order.wish.languages)
    planned = plan(order.folder, layout, order.wish)
    for a in planned.languages:
        if not _LANGUAGE.fullmatch(a) or len(a) > 40:
            raise UsageError(f"language {a!r}: expected letters and digits, with hyphens or underscores between them")
    paths = {file.key: order.folder / file.path for file in planned.files}
    task = _draft(order, planned, layout.licence, _rows(planned, paths))
    counted: dict[str, Census] = {}
    if task.options.get("large"):
        rows = _rows(planned, paths)
        counted = {b: census(task, paths, b, rows[b]) for b in task.passage_languages}
    parts = _read(task, paths, counted)
    task, golden = _found(order, task, parts, counted)
    content = definition(task, _at(order), golden)
    read = parse_definition(content, order.output)
    with atomic(order.output) as file:
        file.write(content)
    return Made(read, planned.unused, {b: each.empty for b, each in counted.items()})


def _check(order: Order) -> None:
    if not re.fullmatch(NAME, order.name):
        raise UsageError(f"name {order.name!r}: expected letters, digits, dots, hyphens and underscores, 100 at most")
    if order.name in task_names():
        raise UsageError(f"{order.name!r} is the name of a task that xbench has; call yours otherwise")
    if order.output.name != f"{order.name}.toml":
        raise UsageError(f"{order.output}: expected a file called {order.name}.toml, as the task is called")
    if order.output.exists() and not order.force:
        raise UsageError(f"{order.output} is there already, and may hold what you have filled in; --force replaces it")
    if foreign := [m.name for m in parse_all(order.measures) if m.foreign]:
        raise UsageError(f"measure {foreign[0]!r} is for runs only (xbench score -m); choose others for the task")


def _at(order: Order) -> str:
    """The folder of the files: from the definition on where they lie below it, else absolute."""
    folder, base = (Path(os.path.realpath(path)) for path in (order.folder, order.output.parent))
    return folder.relative_to(base).as_posix() if folder.is_relative_to(base) else folder.as_posix()


def _rows(planned: Plan, paths: Mapping[str, Path]) -> dict[str, int]:
    """How many passages a language has at most."""
    found = dict.fromkeys(planned.searched, 0)
    for file in planned.files:
        if file.key.partition("/")[0] == "passages":
            rows = count_rows(paths[file.key])
            found |= {b: found[b] + rows for b in file.languages if b in found}
    return found


def _draft(order: Order, planned: Plan, licence: str, rows: Mapping[str, int]) -> Task:
    """The task before anything is counted, with every setting that it can have."""
    options: dict[str, Any] = {"split": order.split}
    if max(rows.values()) > LARGE and not planned.cells:
        options["large"] = True
    options |= {"empty": "leave out"} if order.empty == "leave-out" else {}
    options |= {"dangling": order.dangling} if order.dangling else {}
    options |= {"self": "keep"} if order.self_ == "keep" else {}
    options |= {"answers": True} if order.answers else {}
    if order.parallel and (mute := [a for a in planned.asked if a not in planned.searched]):
        options["without_passages"] = mute
    sources: dict[str, Source] = {}
    for file in planned.files:
        path = order.folder / file.path
        with storage(path, "read"):
            size = path.stat().st_size
        sources[file.key] = Source(order.name, file.path, f"file:{file.path}", size, sha256(path))
    pairs = {(cell.query_language, cell.passage_languages[0]) for cell in planned.cells if cell.setting == "cross"}
    cross = [(a, b) for a in planned.asked for b in planned.searched if (a, b) in pairs]
    task = Task(
        name=order.name,
        version=1,
        title=order.name,
        description="",
        format="records",
        licence=licence,
        citation="",
        languages=planned.languages,
        settings=SETTINGS,
        measures=(),
        primary="",
        repository="",
        revision="",
        sources=sources,
        file_languages={file.key: file.languages for file in planned.files},
        counts={},
        shared={},
        golden={},
        folder=order.folder,
        query_languages=planned.asked,
        passage_languages=planned.searched,
        cross=tuple(cross) if planned.cells else None,
        pools="cell" if planned.cells else "language",
        parallel=order.parallel,
        options=options,
    )
    there = {cell.setting for cell in planned.cells or task.cells()}
    there -= {"multi"} if len(planned.languages) == 1 else set()
    return replace(task, settings=tuple(s for s in SETTINGS if s in there))


def _read(task: Task, paths: Mapping[str, Path], counted: Mapping[str, Census]) -> list[Part]:
    if not counted:
        return list(read_records(task, paths))
    (part,) = read_records(task, paths, {b: each.ids for b, each in counted.items()})
    # Evaluation does not look for ids in the corpus: what they mean must be plain without.
    try:
        same = [one.collection.qrels for one in read_records(task, paths)] == [part.collection.qrels]
    except DataError:
        same = False
    if not same:
        raise DataError(
            f"task {task.name}: in a corpus of more than {LARGE} passages, the language of a judged passage must be "
            "plain from the qrels: write ids as <language>:<id>, or have qrels of each language that name its own"
        )
    return [part]


def _found(
    order: Order, task: Task, parts: list[Part], counted: Mapping[str, Census]
) -> tuple[Task, dict[str, dict[str, Any]]]:
    """The task with what was found in its files, and golden rows."""
    counts = {key: dict(found) for part in parts for key, found in part.counts.items()}
    for b, each in counted.items():
        counts[b]["passages"] = each.passages
    task = replace(task, counts={key: _sorted(found) for key, found in counts.items()})
    settings, golden = task.settings, {}
    if task.pools == "cell":
        for part in parts:
            (cell,) = part.cells
            golden[cell.name] = golden_rows(part, cell.query_language, cell.passage_languages[0])
    else:
        (part,) = parts
        for a in task.languages:
            golden[a] = golden_rows(part, a, a, counted[a].first if a in counted else ())
        shared = _shared(task, part)
        pairs = [(a, b) for a in shared for b in shared[a] if a != b]
        some = [pair for pair in pairs if shared[pair[0]][pair[1]]]
        there = {"mono"} if any(shared[a].get(a) for a in shared) else set()
        there |= {"cross"} if some else set()
        there |= {"multi"} if len(task.passage_languages) > 1 else set()
        settings = tuple(s for s in settings if s in there)
        task = replace(task, shared=shared, cross=tuple(some) if "cross" in there and some != pairs else None)
    if lacking := [s for s in order.wish.settings if s not in settings]:
        raise UsageError(
            f"no query has a relevant passage in setting {lacking[0]!r}; there is {', '.join(settings) or 'none'}"
        )
    settings = tuple(s for s in settings if s in (order.wish.settings or settings))
    if "cross" not in settings:
        task = replace(task, cross=None)
    multi = MULTI_MEASURES if "multi" in settings and task.pools == "language" else ()
    measures = tuple(m.name for m in parse_all(order.measures or (*MEASURES, *multi)))
    return replace(task, settings=settings, measures=measures, primary=measures[0]), golden


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """Queries and passages first."""
    first = {what: counts[what] for what in ("queries", "passages")}
    return first | {what: counts[what] for what in sorted(counts) if what not in first}


def _shared(task: Task, part: Part) -> dict[str, dict[str, int]]:
    """Query language -> passage language -> queries with a relevant passage there."""
    found = {a: dict.fromkeys(task.passage_languages, 0) for a in task.query_languages}
    for a in task.query_languages:
        for query_id in part.collection.ids("queries", a):
            grades = part.collection.qrels[query_id]
            for b in {doc_id.partition(":")[0] for doc_id, grade in grades.items() if grade > 0}:
                found[a][b] += 1
    return found
