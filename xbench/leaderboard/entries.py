"""The rows of a board: stored results and printed numbers in one form."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xbench.errors import DataError, IntegrityError
from xbench.leaderboard import means
from xbench.leaderboard.boards import Definition
from xbench.leaderboard.reported import MEAN, Row, Source, mean_name, read_source, values_of
from xbench.leaderboard.rows import Board, Column, Entry, Key, Measured, Reported, Value
from xbench.leaderboard.sums import read_sums
from xbench.leaderboard.verify import recompute
from xbench.records import Cell
from xbench.storage import sha256
from xbench.strictjson import read_json
from xbench.task import Task
from xbench.tasks import load_task, same_task

# Of folders of results: what `models.slug` makes.
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def entries(definition: Definition, folder: Path) -> list[Entry]:
    """All rows of a board: measured ones by their folder, then reported ones by source.

    Raises:
        DataError: a result or a source is missing or not in its form.
        IntegrityError: a result is of another version of the task, or not what its own queries give.
        StorageError: a file cannot be read.
    """
    reported = [
        entry for name in definition.reported for entry in _reported(read_source(folder, name), definition.board)
    ]
    return [*measured(definition, folder), *reported]


def result_files(folder: Path, tasks: Sequence[str]) -> list[Path]:
    """The result files of some tasks in a folder of boards, sorted."""
    return sorted(path for name in tasks for path in (folder / "results").glob(f"*/{name}.json"))


def measured(definition: Definition, folder: Path) -> list[Entry]:
    """The rows of stored results: one a model, whatever tasks of the board it has results of.

    A result that SHA256SUMS lists as it is was checked when it was added; any other is checked now.
    """
    board = definition.board
    sums = read_sums(folder / "results")
    found: dict[str, dict[str, Path]] = {}
    for path in result_files(folder, [task.name for task in board.tasks]):
        slug = path.parent.name
        if any(fnmatch.fnmatchcase(f"{slug}/{path.name}", pattern) for pattern in _whole(definition.results)):
            found.setdefault(slug, {})[path.stem] = path
    rows = []
    for slug, files in sorted(found.items()):
        try:
            rows.append(_measured(board, folder, slug, files, sums))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            where = folder / "results" / slug
            raise DataError(f"{where}: not whole result files: {type(error).__name__}: {error}") from error
    return rows


def _whole(patterns: Sequence[str]) -> list[str]:
    return [pattern if "/" in pattern else f"{pattern}/*" for pattern in patterns]


def _measured(board: Board, folder: Path, slug: str, files: Mapping[str, Path], sums: Mapping[str, str]) -> Entry:
    origins: dict[str, Measured | Reported] = {}
    cells: dict[str, dict[Key, dict[str, float]]] = {task.name: {} for task in board.tasks}
    found: dict[Column, Value] = {}
    notes: list[str] = []
    names: set[tuple[str, str]] = set()
    for name, path in sorted(files.items()):
        digest = sha256(path)
        content: Any = read_json(path)
        if sums.get(f"{slug}/{path.name}") != digest:
            recompute(path)
        if not SLUG.fullmatch(slug) or content["model"]["slug"] != slug:
            raise DataError(f"{path}: in a folder {slug!r}, expected {content['model']['slug']!r}; see the slug in it")
        if content["task"]["name"] != name:
            raise DataError(f"{path}: a result of {content['task']['name']}; expected one of {name}, as the file says")
        task = _task(content, path)
        names.add((content["model"]["name"], content["model"]["fingerprint"]))
        file = f"results/{slug}/{path.name}"
        origins[name] = Measured(file, digest, str(content["command"]), str(content["environment"]["xbench"]))
        known = {means.key_of(cell) for cell in task.cells()}
        filled = {_cell(raw): raw for raw in content["cells"] if raw["queries"]}
        whole = {cell: filled[cell] for cell in task.cells() if cell in filled}
        cells[name] = {means.key_of(cell): dict(raw["values"]) for cell, raw in whole.items()}
        found |= _means(board, task, content, cells[name])
        if lost := sum(raw["missing"] for raw in whole.values()):
            notes.append(f"{name}: nothing retrieved for {lost} queries of cells, which count 0.")
        if extra := [cell for cell in filled if means.key_of(cell) in known and cell not in whole]:
            notes.append(f"{name}: {len(extra)} cells of other pools are left out.")
    if len(names) != 1:
        raise IntegrityError(f"{folder / 'results' / slug}: results of {len(names)} models, expected one a folder")
    lacking = {
        task.name: means.missing(load_task(task.name), board.rank.measure, cells[task.name]) for task in board.tasks
    }
    ((name, _),) = names
    return Entry(
        name=name,
        kind="measured",
        revision=_revision(name),
        origins={task.name: origins[task.name] for task in board.tasks if task.name in origins},
        means={column: found[column] for column in board.columns if column in found},
        cells=cells,
        missing={name: n for name, n in lacking.items() if n},
        note=" ".join(notes),
    )


def _cell(raw: Mapping[str, Any]) -> Cell:
    return Cell(raw["setting"], raw["query_language"], tuple(raw["passage_languages"]))


def _task(content: Mapping[str, Any], path: Path) -> Task:
    """The task as the board has it, of which the result may have some languages or settings.

    Cells are taken by their pool, so that a joint pool of fewer languages is never taken for that of all.
    """
    task = same_task(content["task"], path)
    whole = load_task(task.name)
    if task.context != whole.context:
        raise IntegrityError(f"{path}: made {'with' if task.context else 'without'} context, the board's task is not")
    return whole


def _revision(name: str) -> str:
    """The commit that a checkpoint of the hub is pinned to."""
    revision = name.rpartition("@")[2] if "@" in name else ""
    return revision if re.fullmatch("[0-9a-f]{7,40}", revision) else ""


def _means(board: Board, task: Task, content: Mapping[str, Any], cells: means.Values) -> dict[Column, Value]:
    """The means of the columns of which all cells are there, with their intervals if the result has them."""
    found: dict[Column, Value] = {}
    for column in board.columns:
        if column.task != task.name:
            continue
        needed = means.cells_of(task, column, board.groupings[task.name])
        value = means.mean(task, needed, column.measure, cells)
        if value is None:
            continue
        if not column.group:
            count = sum(raw["setting"] == column.setting and raw["queries"] > 0 for raw in content["cells"])
            if count == len(needed):  # the same mean, by the result's own summation
                value = content["summary"][column.setting][column.measure]
            ends = content["intervals"].get(column.setting, {}).get(column.measure)
            found[column] = Value(value, *(ends if ends and count == len(needed) else ()))
            continue
        grouping, where, group = column.group.split(": ", 2)
        stored = content.get("groups", {}).get(grouping, {})
        same = stored.get("languages") == board.groupings[task.name][grouping]
        one = stored.get(where, {}).get(group, {}) if same else {}
        ends = one.get("intervals", {}).get(column.measure) if one.get("cells") == len(needed) else None
        found[column] = Value(value, *(ends or ()))
    return found


def _reported(source: Source, board: Board) -> list[Entry]:
    """One row a system that a source has numbers of for a task of the board."""
    names = {task.name for task in board.tasks}
    systems = dict.fromkeys(row.system for row in source.rows if row.task in names)
    return [_of_system(source, board, system) for system in systems]


def _of_system(source: Source, board: Board, system: str) -> Entry:
    by_task: dict[str, list[Row]] = {}
    for row in source.rows:
        if row.system == system:
            by_task.setdefault(row.task, []).append(row)
    cells = {task.name: values_of(by_task.get(task.name, [])) for task in board.tasks}
    printed = {
        Column(row.task, row.key.setting, row.measure, row.group): float(row.value)
        for rows in by_task.values()
        for row in rows
        if row.key.query_language == MEAN
    }
    found: dict[Column, Value] = {}
    for column in board.columns:
        task = load_task(column.task)
        known = board.groupings[column.task]
        value = printed.get(column)
        if value is None:
            value = means.mean(task, means.cells_of(task, column, known), column.measure, cells[column.task])
        if value is not None:
            found[column] = Value(value)
    wrong = [source.misprints.get(mean_name(row), "") for rows in by_task.values() for row in rows]
    note = " ".join(filter(None, [source.systems.get(system, ""), *wrong]))
    origins = {}
    for task_ in board.tasks:
        if rows := by_task.get(task_.name):
            said = [source.note, source.tasks.get(task_.name, ""), note]
            where = ", ".join(dict.fromkeys(row.where for row in rows))
            origins[task_.name] = Reported(source.source, where, source.url, " ".join(filter(None, said)))
    lacking = {name: means.missing(load_task(name), board.rank.measure, some) for name, some in cells.items()}
    return Entry(
        name=system,
        kind="reported",
        revision="",
        origins=origins,
        means=found,
        cells=cells,
        missing={name: n for name, n in lacking.items() if n},
        note=note,
    )
