"""The definition of a board, `leaderboards/<board>.toml`; its keys are in docs/leaderboards.md."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xbench.catalogue import parse
from xbench.errors import DataError, UsageError, XbenchError, unknown
from xbench.groups import Grouping, group_cells, groupings
from xbench.leaderboard.rows import Board, BoardTask, Column
from xbench.storage import storage
from xbench.task import Task
from xbench.tasks import NAME, load_task

KEYS = {  # and whether they must be there
    "name": True,
    "title": True,
    "description": False,
    "tasks": True,
    "columns": True,
    "rank": True,
    "detail": False,
    "by": False,
    "reported": False,
    "results": False,
}


class Definition(NamedTuple):
    """A board, and where its rows come from."""

    board: Board
    reported: tuple[str, ...]
    """Names of files in `reported/`."""
    results: tuple[str, ...]
    """Patterns of `<model slug>/<task>.json`, as in a shell; one match is enough."""


def board_names(folder: Path) -> list[str]:
    """The names of all boards of a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_board(folder: Path, name: str) -> Definition:
    """The board of a name.

    Raises:
        UsageError: there is no such board.
        DataError: its definition is not in the format, or says what is not so.
        StorageError: it cannot be read.
    """
    if name not in board_names(folder):
        raise unknown("board", name, board_names(folder))
    path = folder / f"{name}.toml"
    with storage(path, "read"):
        content = path.read_bytes()
    try:
        raw = tomllib.loads(content.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are
        raise DataError(f"{path}: not TOML: {error}") from error
    try:
        return _definition(raw, path)
    except UsageError as error:  # an unknown task, measure or grouping
        raise DataError(f"{path}: {error}") from error


def strict(raw: Mapping[str, Any], known: Mapping[str, bool], where: str) -> None:
    """Refuse keys that are not known, and the lack of those that must be there.

    Raises:
        DataError: there is one.
    """
    for key in raw:
        if key not in known:
            raise DataError(f"{where}: {unknown('key', key, known)}")
    if lacking := [key for key, needed in known.items() if needed and key not in raw]:
        raise DataError(f"{where}: no {lacking[0]!r}; it needs {', '.join(k for k, needed in known.items() if needed)}")


def text(raw: Mapping[str, Any], key: str, where: str, default: str = "") -> str:
    """A string of a table.

    Raises:
        DataError: it is something else.
    """
    found = raw.get(key, default)
    if not isinstance(found, str):
        raise DataError(f"{where}: {key}: found {found!r}, expected text")
    return found


def _texts(raw: Mapping[str, Any], key: str, where: str, default: Sequence[str] = ()) -> tuple[str, ...]:
    found = raw.get(key, list(default))
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise DataError(f"{where}: {key}: found {found!r}, expected a list of texts")
    if len(set(found)) < len(found):
        raise DataError(f"{where}: {key}: {next(a for a in found if found.count(a) > 1)!r} is there twice")
    return tuple(found)


def _definition(raw: dict[str, Any], path: Path) -> Definition:
    where = str(path)
    strict(raw, KEYS, where)
    name = text(raw, "name", where)
    if name != path.stem or not re.fullmatch(NAME, name):
        raise DataError(f"{where}: name: found {name!r}, expected that of the file, of letters, digits, dots, hyphens")
    tasks = _tasks(raw["tasks"], where)
    by = _texts(raw, "by", where)
    known = {task.name: groupings(task, by) for task in tasks.values()}
    columns = raw["columns"]
    if not isinstance(columns, list) or not columns:
        raise DataError(f'{where}: columns: found {columns!r}, expected a list such as ["mono AP", "multi AP"]')
    read = [_column(each, tasks, known, f"{where}: columns[{i}]") for i, each in enumerate(columns)]
    rank = _column(raw["rank"], tasks, known, f"{where}: rank")
    if len(set(read)) < len(read):
        raise DataError(f"{where}: columns: {next(c for c in read if read.count(c) > 1)} is there twice")
    if rank not in read:
        raise DataError(f"{where}: rank: {raw['rank']!r} is none of the columns; add it to them")
    detail = tuple(parse(each).name for each in _texts(raw, "detail", where, [rank.measure]))
    if detail[:1] != (rank.measure,):
        raise DataError(f"{where}: detail: found {list(detail)}, expected {rank.measure}, the ranking measure, first")
    board = Board(
        name=name,
        title=text(raw, "title", where),
        description=text(raw, "description", where),
        tasks=tuple(BoardTask(t.name, t.version, t.title, t.languages, t.settings) for t in tasks.values()),
        columns=tuple(read),
        rank=rank,
        detail=detail,
        groupings=known,
    )
    reported = _texts(raw, "reported", where)
    if wrong := [each for each in reported if not re.fullmatch(NAME, each)]:
        raise DataError(f"{where}: reported: found {wrong[0]!r}, expected the name of a file in reported/ without .csv")
    return Definition(board, reported, _texts(raw, "results", where, ["*"]))


def _tasks(raw: Any, where: str) -> dict[str, Task]:
    where = f"{where}: tasks"
    if not isinstance(raw, list) or not raw or not all(isinstance(each, dict) for each in raw):
        raise DataError(f'{where}: found {raw!r}, expected a list such as [{{ name = "xquad-r", version = 1 }}]')
    found: dict[str, Task] = {}
    for each in raw:
        strict(each, {"name": True, "version": True}, where)
        task = load_task(text(each, "name", where))
        if each["version"] != task.version or isinstance(each["version"], bool):
            raise DataError(
                f"{where}: {task.name}: found version {each['version']!r}, this xbench has version {task.version}; "
                "its results and reported numbers are others, look through them before you change the board"
            )
        if task.name in found:
            raise DataError(f"{where}: {task.name} is there twice")
        found[task.name] = task
    return found


def _column(raw: Any, tasks: Mapping[str, Task], known: Mapping[str, Mapping[str, Grouping]], where: str) -> Column:
    """A column: `[TASK] SETTING MEASURE` as text, or a table with that and a group of languages."""
    if isinstance(raw, dict):
        strict(raw, {"column": True, "by": True, "group": True, "where": False}, where)
    elif not isinstance(raw, str):
        raise DataError(f'{where}: found {raw!r}, expected "SETTING MEASURE" or a table with column, by and group')
    table: Mapping[str, Any] = raw if isinstance(raw, dict) else {"column": raw}
    said = text(table, "column", where)
    try:
        task, setting, name = _words(said, tasks)
        measure = parse(name)
        if setting not in task.settings:
            raise unknown("setting", setting, task.settings)
        if measure.multi_only and setting != "multi":
            raise UsageError(f"{measure.name} exists in multi cells only")
        group = _group(table, task, setting, known[task.name], where) if "by" in table else ""
    except DataError:
        raise
    except XbenchError as error:
        raise DataError(f"{where}: {said!r}: {error}") from error
    return Column(task.name, setting, measure.name, group)


def _words(said: str, tasks: Mapping[str, Task]) -> tuple[Task, str, str]:
    words = said.split()
    if len(words) == 2 and len(tasks) == 1:
        words = [*tasks, *words]
    if len(words) != 3:
        raise UsageError(f"expected {'TASK ' if len(tasks) > 1 else ''}SETTING MEASURE")
    if words[0] not in tasks:
        raise unknown("task of this board", words[0], tasks)
    return tasks[words[0]], words[1], words[2]


def _group(table: Mapping[str, Any], task: Task, setting: str, known: Mapping[str, Grouping], where: str) -> str:
    """`grouping: where: group`, where there are such cells."""
    by, group, place = (text(table, key, where, setting) for key in ("by", "group", "where"))
    if by not in known:
        raise unknown("grouping of this board", by, known)
    cells = group_cells([cell for cell in task.cells() if cell.setting == setting], known[by])
    if place not in cells:
        raise unknown("where", place, cells)
    if group not in cells[place]:
        raise unknown("group", group, cells[place])
    return f"{by}: {place}: {group}"
