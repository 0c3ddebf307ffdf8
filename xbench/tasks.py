"""Task definitions: `tasks/<name>.toml` read into `Task`s, and tasks found by name."""

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xbench.errors import DataError, IntegrityError, UsageError, unknown
from xbench.sources import Source
from xbench.storage import storage
from xbench.task import POOLS, SETTINGS, Golden, Task, vary, with_pins

# Of tasks, which are parts of file names.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


def data_folder(name: str) -> Path:
    """The folder `tasks`: inside an installed package, else beside it in the checkout."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name


def task_names() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(path.stem for path in data_folder("tasks").glob("*.toml"))


@functools.cache
def load_task(name: str) -> Task:
    """The definition of a task.

    Raises:
        UsageError: there is no such task.
        DataError: its definition is not in the format, or contradicts itself.
    """
    if name not in task_names():
        raise unknown("task", name, task_names())
    return read_definition(data_folder("tasks") / f"{name}.toml")


def read_definition(path: Path) -> Task:
    """The task of a definition file.

    Raises:
        DataError: it is not in the format, or contradicts itself.
        StorageError: it cannot be read.
    """
    with storage(path, "read"):
        content = path.read_bytes()
    return parse_definition(content, path)


def parse_definition(content: bytes, path: Path) -> Task:
    """The task of a definition that lies, or is going to lie, at a path; as `read_definition`."""
    try:
        return _task(tomllib.loads(content.decode()), path)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # TOMLDecodeError is a ValueError
        raise DataError(f"{path}: not a task definition: {type(error).__name__}: {error}") from error


def select(names: list[str]) -> list[Task]:
    """The tasks of the given names, each once, in that order; a name that ends in `.toml` is a file of one's own.

    Raises:
        UsageError: an unknown name, none, no such file, two tasks of one name.
        DataError: as `read_definition`.
    """
    if not names:
        raise UsageError(f"no task given; choose from: {', '.join(task_names())}")
    found: dict[str, Task] = {}
    for name in dict.fromkeys(names):
        task = _own(Path(name)) if name.endswith(".toml") else load_task(name)
        if task.name in found:
            raise UsageError(f"{name}: a second task called {task.name!r}; their results would have the same name")
        found[task.name] = task
    return list(found.values())


def _own(path: Path) -> Task:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected a task's definition, see `xbench tasks new --help`")
    task = read_definition(path)
    if task.name in task_names():
        raise UsageError(f"{path}: {task.name!r} is the name of a task that xbench has; call yours otherwise")
    return task


def same_task(about: Mapping[str, Any], where: Path, definition: str | None = None) -> Task:
    """The task that a result is of; `definition` is the file of a task of one's own.

    Raises:
        UsageError: there is no such task.
        IntegrityError: it is not what it was when the result was made.
    """
    name = str(about["name"])
    if definition is None and name not in task_names():
        raise UsageError(f"{where}: made on {name}, a task that xbench has not; if it is yours, say -t {name}.toml")
    (task,) = select([definition or name])
    if task.name != name:
        raise UsageError(f"{where}: made on {name}, not on {definition}")
    chosen = {key: tuple(about.get(key, ())) for key in ("languages", "settings")}
    try:
        task = vary(task, context=about.get("context") is True, **chosen)
        task = with_pins(task, {key: (size, digest) for key, (size, digest) in about.get("pinned", {}).items()})
        same = (about["version"], about["sha256"]) == (task.version, task.sha256)
    except (TypeError, ValueError, LookupError, UsageError):
        same = False
    if not same:
        raise IntegrityError(
            f"{where}: made on {task.name} version {about['version']} ({str(about['sha256'])[:12]}), "
            f"this is version {task.version} ({task.sha256[:12]}); evaluate again"
        )
    return task


def _task(raw: dict[str, Any], path: Path) -> Task:
    name, source, files = raw["name"], raw.pop("source"), _parts(raw.pop("files"))
    if name != path.stem:
        raise ValueError(f"name {name!r} in a file called {path.name}")
    if not re.fullmatch(NAME, name):
        raise ValueError(f"name {name!r}: expected letters, digits, dots, hyphens and underscores")
    languages, settings, measures = (tuple(raw.pop(key)) for key in ("languages", "settings", "measures"))
    if len(set(languages)) != len(languages):
        raise ValueError(f"a language occurs twice in {languages}")
    if not {*settings, *raw.get("optional", ())} <= set(SETTINGS):
        raise ValueError(f"settings {settings}; known: {SETTINGS}")
    if raw.get("pools", "language") not in POOLS:
        raise ValueError(f"pools {raw['pools']!r}; known: {POOLS}")
    counts, shared, golden = raw.pop("counts"), raw.pop("shared", {}), raw.pop("golden", {})
    asked, searched = (tuple(raw.pop(f"{role}_languages", languages)) for role in ("query", "passage"))
    cross = raw.pop("cross", None)
    task = Task(
        optional=tuple(raw.pop("optional", ())),
        groups={name: {group: tuple(some) for group, some in by.items()} for name, by in raw.pop("groups", {}).items()},
        **raw,
        languages=languages,
        settings=settings,
        measures=measures,
        repository=source["repository"],
        revision=source["revision"],
        sources={key: _source(name, source, key, file) for key, file in files.items()},
        file_languages={
            key: tuple(file.get("languages", [key] if key in languages else languages)) for key, file in files.items()
        },
        counts={key: {what: int(n) for what, n in some.items()} for key, some in counts.items()},
        shared={},
        golden={key: _golden(rows) for key, rows in golden.items()},
        folder=_folder(source, path),
        query_languages=asked,
        passage_languages=searched,
        cross=None if cross is None else tuple((a, b) for a, b in cross),
    )
    _check(task)
    if ("cross" in settings or shared) and task.pools == "language":
        # Where nothing else is said, every language has an answer to every question.
        pairs = {(cell.query_language, b) for cell in task.cells() for b in cell.passage_languages}
        full = {
            a: {b: shared.get(a, {}).get(b, task.counts[a]["queries"]) for b in searched if (a, b) in pairs}
            for a in asked
        }
        task.shared.update(full)
    return task


def _parts(files: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """With each file of `parts = N` files, whose names have `{part}` in them, as N files `KEY-0`, `KEY-1`, ..."""
    found: dict[str, dict[str, Any]] = {}
    for key, file in files.items():
        one = {what: value for what, value in file.items() if what != "parts"}
        if "parts" not in file:
            found[key] = one
        for part in range(file.get("parts", 0)):
            found[f"{key}-{part}"] = one | {"name": one["name"].replace("{part}", str(part))}
    return found


def _folder(source: Mapping[str, Any], path: Path) -> Path | None:
    """Where the files lie of a task that brings them along, or that names them where its owner keeps them (`at`)."""
    if source["url"].startswith("file:"):
        return path.parent / str(source["at"])
    return path.parent / path.stem if source["url"].startswith("bundled:") else None


def _source(task: str, source: Mapping[str, Any], key: str, file: Mapping[str, Any]) -> Source:
    if unknown_keys := set(file) - {"size", "sha256", "name", "languages", "url", "passages"}:
        raise ValueError(f"[files] {key}: unknown {sorted(unknown_keys)}")
    if ("size" in file) != ("sha256" in file):
        raise ValueError(f"[files] {key}: size and sha256 go together")
    name = file.get("name", source.get("name", "{key}")).format(key=key)
    if source["url"].startswith("file:") and (name.startswith("/") or ".." in name.split("/")):
        raise ValueError(f"[files] {key}: name {name!r} leads out of the folder of the files")
    filled = {"key": key, "name": name, "file": Path(name).name, "revision": source["revision"]}
    url = file.get("url", source["url"]).format(**filled)
    record = file.get("size", 0), file.get("sha256", "")
    return Source(source.get("folder", task), name, url, *record, file.get("passages", False))


def _golden(rows: Mapping[str, Any]) -> Golden:
    return Golden(
        [(row, id_, digest) for row, id_, digest in rows.get("queries", [])],
        [(row, id_, digest) for row, id_, digest in rows.get("passages", [])],
        [(query_id, doc_id) for query_id, doc_id in rows.get("qrels", [])],
    )


def _check(task: Task) -> None:
    """Refuse a definition that contradicts itself."""
    known = set(task.languages)
    named = {*task.query_languages, *task.passage_languages, *(a for pair in task.cross or () for a in pair)}
    named |= {a for some in task.file_languages.values() for a in some}
    if named != known:
        raise ValueError(f"languages {sorted(named ^ known)} are not both in `languages` and used")
    keys = {cell.name for cell in task.cells()} if task.pools == "cell" else known
    if set(task.counts) != keys:
        raise ValueError(
            f"[counts] must have exactly the {task.pools}s of the task: {sorted(set(task.counts) ^ keys)[:5]}"
        )
    if not set(task.golden) <= keys:
        raise ValueError(f"[golden] names {sorted(set(task.golden) - keys)[:5]}, which the task has not")
    if strangers := {a for by in task.groups.values() for some in by.values() for a in some} - known:
        raise ValueError(f"[groups] names {sorted(strangers)}, which are no languages of the task")
    if task.primary not in task.measures:
        raise ValueError(f"primary {task.primary!r} is not among the measures")
