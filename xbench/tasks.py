"""Task definitions: `tasks/<name>.toml`, read into frozen records; their cells and the size of each."""

import fnmatch
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from xbench.errors import DataError, IntegrityError, UsageError, unknown
from xbench.records import Cell
from xbench.sources import Source

SETTINGS = ("mono", "cross", "multi")


class Golden(NamedTuple):
    """The first, tenth and last row of one language, texts as the first 16 digits of their SHA-256."""

    queries: list[tuple[int, str, str]]  # (row, query_id, text hash)
    passages: list[tuple[int, str, str]]  # (row, doc_id, text hash)
    qrels: list[tuple[str, str]]  # (query_id, doc_id) of the same language


@dataclass(frozen=True)
class Task:
    """A data set with its settings and measures.

    `sources`, `counts` and `golden` are by language. `counts` holds what the reader must find.
    `shared[a][b]` is how many queries of language `a` have a relevant passage in language `b`.
    `folder` holds the texts of a bundled task, else it is None. `context`: a passage is its sentence and its
    whole paragraph; no definition says so, but `dataclasses.replace` or `xbench run --context`.
    """

    name: str
    version: int
    title: str
    description: str
    format: str
    licence: str
    citation: str
    languages: tuple[str, ...]
    settings: tuple[str, ...]
    measures: tuple[str, ...]
    primary: str
    repository: str
    revision: str
    sources: dict[str, Source]
    counts: dict[str, dict[str, int]]
    shared: dict[str, dict[str, int]]
    golden: dict[str, Golden]
    folder: Path | None
    context: bool = False

    @property
    def sha256(self) -> str:
        """Over everything that decides the values: the bytes of the sources and how they are used."""
        content = [self.name, self.version, self.format, self.languages, self.settings]
        content += ["context"] if self.context else []
        files = {language: source.sha256 for language, source in self.sources.items()}
        return hashlib.sha256(json.dumps([*content, files], sort_keys=True).encode()).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        """What a result says of its task."""
        said = {"name": self.name, "version": self.version, "sha256": self.sha256}
        return said | ({"context": True} if self.context else {})

    def cells(self) -> list[Cell]:
        """Every cell: mono, then cross by ordered pair of languages, then multi."""
        found: list[Cell] = []
        if "mono" in self.settings:
            found += [Cell("mono", a, (a,)) for a in self.languages]
        if "cross" in self.settings:
            found += [Cell("cross", a, (b,)) for a in self.languages for b in self.languages if a != b]
        if "multi" in self.settings:
            found += [Cell("multi", a, self.languages) for a in self.languages]
        return found

    def size(self, cell: Cell) -> tuple[int, int]:
        """How many queries with a relevant passage, and how many passages, a cell has."""
        passages = sum(self.counts[b]["passages"] for b in cell.passage_languages)
        if cell.setting == "cross":
            return self.shared[cell.query_language][cell.passage_languages[0]], passages
        return self.counts[cell.query_language]["queries"], passages


def data_folder(name: str) -> Path:
    """The folder `tasks` or `leaderboards`: inside an installed package, else beside it in the checkout."""
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
    path = data_folder("tasks") / f"{name}.toml"
    try:
        return _task(tomllib.loads(path.read_text(encoding="utf-8")), path)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # TOMLDecodeError is a ValueError
        raise DataError(f"{path}: not a task definition: {type(error).__name__}: {error}") from error


def _task(raw: dict[str, Any], path: Path) -> Task:
    source, files = raw.pop("source"), raw.pop("files")
    golden, shared = raw.pop("golden"), raw.pop("shared", {})
    languages, settings, measures = (tuple(raw.pop(key)) for key in ("languages", "settings", "measures"))
    if len(set(languages)) != len(languages):
        raise ValueError(f"a language occurs twice in {languages}")
    if raw["name"] != path.stem:
        raise ValueError(f"name {raw['name']!r} in a file called {path.name}")
    if set(files) != set(languages) or set(golden) != set(languages):
        raise ValueError("[files] and [golden] must have exactly the languages of the task")
    if not set(settings) <= set(SETTINGS):
        raise ValueError(f"settings {settings}; known: {SETTINGS}")
    counts = {a: {key: n for key, n in files[a].items() if isinstance(n, int) and key != "size"} for a in languages}
    return Task(
        **raw,
        languages=languages,
        settings=settings,
        measures=measures,
        repository=source["repository"],
        revision=source["revision"],
        sources={
            a: Source(
                raw["name"],
                f"{a}.json",
                source["url"].format(language=a, revision=source["revision"]),
                files[a]["size"],
                files[a]["sha256"],
            )
            for a in languages
        },
        counts=counts,
        # Where nothing else is said, every language has an answer to every question.
        shared={a: {b: shared.get(a, {}).get(b, counts[a]["queries"]) for b in languages} for a in languages},
        golden={
            a: Golden(
                [(row, id_, digest) for row, id_, digest in golden[a]["queries"]],
                [(row, id_, digest) for row, id_, digest in golden[a]["passages"]],
                [(query_id, doc_id) for query_id, doc_id in golden[a]["qrels"]],
            )
            for a in languages
        },
        folder=path.parent / raw["name"] if source["url"].startswith("bundled:") else None,
    )


def same_task(about: Mapping[str, Any], where: Path) -> Task:
    """The task that a result is of.

    Raises:
        UsageError: there is no such task.
        IntegrityError: it is not what it was when the result was made.
    """
    task = replace(load_task(str(about["name"])), context=about.get("context") is True)
    if (about["version"], about["sha256"]) != (task.version, task.sha256):
        raise IntegrityError(
            f"{where}: made on {task.name} version {about['version']} ({str(about['sha256'])[:12]}), "
            f"this is version {task.version} ({task.sha256[:12]}); evaluate again"
        )
    return task


def select_cells(task: Task, patterns: Sequence[str]) -> list[Cell]:
    """The cells whose names match one of the patterns, as in a shell; all without patterns.

    Raises:
        UsageError: a pattern that no cell matches.
    """
    cells = task.cells()
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in cells):
            raise UsageError(f"no cell of {task.name} is called {pattern!r}; see `xbench tasks {task.name}`")
    if not patterns:
        return cells
    return [cell for cell in cells if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)]


def select(names: list[str]) -> list[Task]:
    """The tasks of the given names, each once, in that order.

    Raises:
        UsageError: an unknown name, or none.
    """
    if not names:
        raise UsageError(f"no task given; choose from: {', '.join(task_names())}")
    return [load_task(name) for name in dict.fromkeys(names)]
