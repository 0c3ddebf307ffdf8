"""Numbers that others have printed: `leaderboards/reported/<source>.csv` with its citation in `<source>.toml`."""

import csv
import io
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from xbench.catalogue import FAMILIES, parse
from xbench.errors import DataError, UsageError, unknown
from xbench.groups import groupings
from xbench.leaderboard import means
from xbench.leaderboard.boards import strict, text
from xbench.leaderboard.rows import Column, Key
from xbench.storage import storage
from xbench.task import Task
from xbench.tasks import load_task

HEADER = "task,version,system,setting,query_language,passage_language,group,measure,value,where"
MEAN = "mean"  # instead of a query language: the mean that is printed, over all or those of a group
KEYS = {"source": True, "title": True, "url": True, "note": False, "tasks": False, "systems": False, "misprints": False}
_URL = re.compile(r"https?://[a-z0-9][a-z0-9.-]*(/[\w./~#?=&%+-]*)?", re.ASCII | re.IGNORECASE)


class Row(NamedTuple):
    """A printed number."""

    task: str
    version: int
    system: str
    key: Key
    """Its query language is MEAN for a printed mean."""
    group: str
    """As in `Column`, of a printed mean."""
    measure: str
    value: Decimal
    """As it is printed, its digits included; shares as fractions."""
    where: str


class Source(NamedTuple):
    """A citation and its numbers."""

    name: str
    source: str
    title: str
    url: str
    note: str
    tasks: dict[str, str]
    """Task -> what differs from how it measures."""
    systems: dict[str, str]
    """System -> a note on it."""
    misprints: dict[str, str]
    """Printed mean (`mean_name`) that is not that of the printed values -> a note on it."""
    rows: tuple[Row, ...]


def read_source(folder: Path, name: str) -> Source:
    """A citation and its numbers.

    Raises:
        DataError: a file is missing or not in its form, or a printed mean is not that of the printed values.
        StorageError: a file cannot be read.
    """
    about, path = folder / "reported" / f"{name}.toml", folder / "reported" / f"{name}.csv"
    for file in (about, path):
        if not file.is_file():
            raise DataError(f"{file}: no such file; a source is a CSV of numbers and a TOML that cites it")
    with storage(about, "read"):
        content = about.read_bytes()
    try:
        raw = tomllib.loads(content.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are
        raise DataError(f"{about}: not TOML: {error}") from error
    strict(raw, KEYS, str(about))
    source, title, url, note = (text(raw, key, str(about)) for key in ("source", "title", "url", "note"))
    if not _URL.fullmatch(url):
        raise DataError(f"{about}: url: found {url!r}, expected an address that begins with https://")
    rows = tuple(read_rows(path))
    tasks = _notes(raw, "tasks", about, {row.task for row in rows})
    systems = _notes(raw, "systems", about, {row.system for row in rows})
    misprints = _notes(raw, "misprints", about, {mean_name(row) for row in rows if row.key.query_language == MEAN})
    _agree(rows, misprints, path)
    return Source(name, source, title, url, note, tasks, systems, misprints, rows)


def _notes(raw: dict[str, Any], key: str, path: Path, known: set[str]) -> dict[str, str]:
    found = raw.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(note, str) for note in found.values()):
        raise DataError(f"{path}: {key}: found {found!r}, expected a table of notes as text")
    for name in found:
        if name not in known:
            raise DataError(f"{path}: {key}: {unknown(key[:-1], name, known)}")
    return found


def read_rows(path: Path) -> list[Row]:
    """The numbers of a CSV; as `read_source`."""
    with storage(path, "read"):
        content = path.read_bytes()
    try:
        lines = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{path}: not CSV in UTF-8: {error}") from error
    if not lines or lines[0] != HEADER.split(","):
        raise DataError(f"{path}:1: found {','.join(lines[0]) if lines else 'nothing'}, expected {HEADER}")
    rows: list[Row] = []
    seen: dict[tuple[object, ...], int] = {}
    for number, line in enumerate(lines[1:], 2):
        where = f"{path}:{number}"
        if len(line) != len(lines[0]):
            raise DataError(f"{where}: {len(line)} fields, expected {len(lines[0])}")
        try:
            row = _row(line)
        except UsageError as error:
            raise DataError(f"{where}: {error}") from error
        same = (row.task, row.system, row.key, row.group, row.measure)
        if same in seen:
            raise DataError(f"{where}: the same value as in line {seen[same]}: {','.join(map(str, line))}")
        seen[same] = number
        rows.append(row)
    return rows


def _row(line: Sequence[str]) -> Row:
    name, version, system, setting, asked, searched, group, measure, value, where = line
    task = load_task(name)
    if version != str(task.version):
        raise UsageError(f"{name} version {version!r}, this xbench has version {task.version}; are they comparable?")
    if not system.strip() or not where.strip():
        raise UsageError("no system or no place; expected both, as the source has them")
    if setting not in task.settings:
        raise unknown("setting", setting, task.settings)
    if asked != MEAN and asked not in task.query_languages:
        raise unknown("query language", asked, [*task.query_languages, MEAN])
    cells = {means.key_of(cell) for cell in task.cells()} if searched else set()
    if searched and Key(setting, asked, searched) not in cells:
        raise UsageError(f"passage language {searched!r} in {setting}; only cross cells have one, of the task's")
    if group and asked != MEAN:
        raise UsageError(f"group {group!r}; only a mean has one")
    found = parse(measure)
    if not re.fullmatch(r"\d*\.?\d+", value, re.ASCII):
        raise UsageError(f"value {value!r}, expected a number such as .7581")
    number = Decimal(value)
    if not math.isfinite(float(number)):
        raise UsageError(f"value {value:.20} ...: beyond the range of a number")
    if (found.bounded or found.foreign) and number > 1:
        raise UsageError(f"{found.name} of {value}, expected a fraction from 0 to 1; divide percentages by 100")
    column = Column(name, setting, found.name, group)
    if found.family in FAMILIES and found.multi_only and setting != "multi":
        raise UsageError(f"{found.name} exists in multi cells only")
    if group and (group.count(": ") < 2 or not _cells(task, column)):
        raise UsageError(f"group {group!r} of {name}; expected `grouping: where: group`, such as `script: mono: Latn`")
    return Row(name, task.version, system, Key(setting, asked, searched), group, found.name, number, where)


def _cells(task: Task, column: Column) -> list[Any]:
    """The cells of a column, its grouping being one of the task's or of xbench's."""
    name = column.group.split(": ")[0]
    known = groupings(task, [name] if name and name not in task.groups else [])
    return list(means.cells_of(task, column, known))


def values_of(rows: Iterable[Row]) -> dict[Key, dict[str, float]]:
    """The values of cells; printed means are left out."""
    found: dict[Key, dict[str, float]] = {}
    for row in rows:
        if row.key.query_language != MEAN:
            found.setdefault(row.key, {})[row.measure] = float(row.value)
    return found


def recomputed(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """Each printed mean of which all values are printed as well, with their plain mean."""
    tables: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        tables.setdefault((row.task, row.system), []).append(row)
    for (name, _), some in tables.items():
        task, values = load_task(name), values_of(some)
        for row in some:
            if row.key.query_language == MEAN:
                column = Column(name, row.key.setting, row.measure, row.group)
                found = means.mean(task, _cells(task, column), row.measure, values)
                if found is not None:
                    yield row, found


def mean_name(row: Row) -> str:
    """What `[misprints]` calls a printed mean: `mrtydi hybrid: mono RR@100`."""
    return " ".join(filter(None, [f"{row.task} {row.system}: {row.key.setting} {row.measure}", row.group]))


def _agree(rows: Sequence[Row], misprints: Collection[str], path: Path) -> None:
    """Refuse a printed mean that cannot be that of the printed values: half a unit of rounding on either side."""
    known = set(misprints)
    for row, found in recomputed(rows):
        exponent = row.value.as_tuple().exponent
        agree = isinstance(exponent, int) and abs(found - float(row.value)) <= 10.0**exponent + 1e-12
        if not agree and mean_name(row) not in known:
            raise DataError(
                f"{path}: {mean_name(row)}: the mean is given as {row.value}, but that of its values is {found:.6g}; "
                f"compare with {row.where}, and if that is a misprint say so in [misprints]"
            )
        known -= set() if agree else {mean_name(row)}
    if known:
        raise DataError(f"{path}: {sorted(known)[0]!r} is called a misprint, but its values have that mean")
