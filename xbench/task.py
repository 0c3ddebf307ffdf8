"""Tasks: a data set with its settings and measures; their cells, the size of each, and how a task is varied."""

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from xbench.errors import UsageError
from xbench.records import Cell
from xbench.sources import Source

SETTINGS = ("mono", "cross", "multi")
POOLS = ("language", "cell")


class Golden(NamedTuple):
    """The first, tenth and last row of one language, texts as the first 16 digits of their SHA-256."""

    queries: list[tuple[int, str, str]]  # (row, query_id, text hash)
    passages: list[tuple[int, str, str]]  # (row, doc_id, text hash)
    qrels: list[tuple[str, str]]  # (query_id, doc_id)


@dataclass(frozen=True)
class Task:
    """A data set with its settings and measures.

    `sources` are by key, which for many tasks is a language; `file_languages` says for which languages each is
    needed. `counts` holds what the reader must find, by language, or by the name of a cell where `pools` is `cell`;
    so does `golden`. `shared[a][b]` is how many queries of language `a` have a relevant passage in language `b`.
    `folder` holds the texts of a task that brings them along or is one's own, else it is None.

    `pools`: `language`, the pool of a cell is the passages of its languages; `cell`, each cell has its own.
    `cross`: the ordered pairs of the cross cells. `optional`: settings that are there if asked for. `parallel`:
    the same question id in two languages is the same question. `context`: a passage is its sentence and its whole
    paragraph. `options` are the reader's. `groups`: grouping -> group -> languages.
    `varied` says what was asked for that the definition does not say; `pinned`: size and SHA-256, as found, of the
    sources whose definition has none.
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
    file_languages: dict[str, tuple[str, ...]]
    counts: dict[str, dict[str, int]]
    shared: dict[str, dict[str, int]]
    golden: dict[str, Golden]
    folder: Path | None
    query_languages: tuple[str, ...]
    passage_languages: tuple[str, ...]
    cross: tuple[tuple[str, str], ...] | None = None
    pools: str = "language"
    optional: tuple[str, ...] = ()
    parallel: bool = True
    context: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    varied: dict[str, Any] = field(default_factory=dict)
    pinned: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Over everything that decides the values: the bytes of the sources and how they are used."""
        content = [self.name, self.version, self.format, self.languages, self.settings]
        content += ["context"] if self.context else []
        more: dict[str, Any] = {} if self.query_languages == self.languages else {"queries": self.query_languages}
        more |= {} if self.passage_languages == self.languages else {"passages": self.passage_languages}
        more |= {} if self.cross is None else {"cross": self.cross}
        more |= {} if self.pools == "language" else {"pools": self.pools}
        more |= {} if self.parallel else {"parallel": False}
        more |= {"options": self.options} if self.options else {}
        files = {key: source.sha256 for key, source in self.sources.items()}
        return hashlib.sha256(
            json.dumps([*content, *([more] if more else []), files], sort_keys=True).encode()
        ).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        """What a result says of its task; enough for `tasks.same_task` to find it again."""
        said = {"name": self.name, "version": self.version, "sha256": self.sha256, **self.varied}
        said |= {"context": True} if self.context else {}
        return said | ({"pinned": {key: list(found) for key, found in self.pinned.items()}} if self.pinned else {})

    def cells(self) -> list[Cell]:
        """Every cell: mono, then cross by ordered pair of languages, then multi."""
        found: list[Cell] = []
        if "mono" in self.settings:
            found += [Cell("mono", a, (a,)) for a in self.query_languages if a in self.passage_languages]
        if "cross" in self.settings:
            pairs = [(a, b) for a in self.query_languages for b in self.passage_languages if a != b]
            found += [Cell("cross", a, (b,)) for a, b in (pairs if self.cross is None else self.cross)]
        if "multi" in self.settings:
            found += [Cell("multi", a, self.passage_languages) for a in self.query_languages]
        return found

    def size(self, cell: Cell) -> tuple[int, int]:
        """How many queries with a relevant passage, and how many passages, a cell has; 0 where it is not known."""
        if self.pools == "cell":
            own = self.counts[cell.name]
            return own.get("queries", 0), own.get("passages", 0)
        passages = sum(self.counts[b].get("passages", 0) for b in cell.passage_languages)
        if cell.setting != "multi" and cell.query_language in self.shared:
            return self.shared[cell.query_language][cell.passage_languages[0]], passages
        return self.counts[cell.query_language].get("queries", 0), passages

    def totals(self) -> tuple[int, int]:
        """How many queries and passages there are in all; 0 where not all are known."""

        def total(key: str) -> int:
            known = [counts[key] for counts in self.counts.values() if key in counts]
            return 0 if self.pools == "cell" and len(known) < len(self.counts) else sum(known)

        return total("queries"), total("passages")


def vary(task: Task, *, languages: Sequence[str] = (), settings: Sequence[str] = (), context: bool = False) -> Task:
    """The task in some of its languages, other settings, or with context: another task, with another SHA-256.

    Raises:
        UsageError: a language or a setting that it has not, context where there is none, or nothing is left.
    """
    varied: dict[str, Any] = {}
    if context and not task.context:
        if task.format != "squad-sentences":
            raise UsageError(f"task {task.name} takes no --context: its passages are no sentences of paragraphs")
        task = replace(task, context=True)
    if settings and set(settings) != set(task.settings):
        known = [s for s in SETTINGS if s in (*task.settings, *task.optional)]
        if wrong := [s for s in settings if s not in known]:
            raise UsageError(f"task {task.name} has no setting {wrong[0]!r}; known: {', '.join(known)}")
        varied["settings"] = [s for s in known if s in settings]
    if languages and set(languages) != set(task.languages):
        if wrong := [a for a in languages if a not in task.languages]:
            raise UsageError(f"task {task.name} has no language {wrong[0]!r}; known: {', '.join(task.languages)}")
        varied["languages"] = [a for a in task.languages if a in languages]
    return _varied(task, varied)


def _varied(task: Task, varied: Mapping[str, Any]) -> Task:
    if "settings" in varied:
        task = replace(task, settings=tuple(varied["settings"]))
    if "languages" in varied:
        kept = tuple(varied["languages"])
        files = {key: some for key, some in task.file_languages.items() if set(some) & set(kept)}
        cross = None if task.cross is None else tuple(pair for pair in task.cross if set(pair) <= set(kept))
        task = replace(
            task,
            languages=kept,
            query_languages=tuple(a for a in task.query_languages if a in kept),
            passage_languages=tuple(a for a in task.passage_languages if a in kept),
            cross=cross,
            sources={key: task.sources[key] for key in files},
            file_languages=files,
        )
        names = {cell.name for cell in task.cells()} if task.pools == "cell" else set(kept)
        shared = {a: {b: n for b, n in row.items() if b in kept} for a, row in task.shared.items() if a in kept}
        counts = {key: some for key, some in task.counts.items() if key in names}
        golden = {key: _within(rows, kept) for key, rows in task.golden.items() if key in names}
        task = replace(task, shared=shared, counts=counts, golden=golden)
    elif task.pools == "cell":
        names = {cell.name for cell in task.cells()}
        counts = {key: some for key, some in task.counts.items() if key in names}
        task = replace(task, counts=counts, golden={key: rows for key, rows in task.golden.items() if key in names})
    if not task.cells():
        raise UsageError(f"task {task.name}: no cell is left of {dict(varied)}")
    return replace(task, varied=dict(varied))


def _within(golden: Golden, languages: Sequence[str]) -> Golden:
    """Without the judgements of passages in other languages."""
    return golden._replace(qrels=[(q, d) for q, d in golden.qrels if d.partition(":")[0] in languages])


def with_pins(task: Task, pinned: Mapping[str, tuple[int, str]]) -> Task:
    """The task with the sizes and hashes of sources that its definition has none of."""
    sources = {
        key: s._replace(size=pinned[key][0], sha256=pinned[key][1]) if key in pinned else s
        for key, s in task.sources.items()
    }
    return replace(task, sources=sources, pinned=dict(pinned))


def agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether what two results say of their task (`Task.about`) is one task.

    Hashes that only one of them knows are no contradiction: a scored run knows none of the corpora.
    """
    first, second = ({key: v for key, v in about.items() if key not in ("sha256", "pinned")} for about in (one, other))
    pins, others = (about.get("pinned", {}) for about in (one, other))
    if first != second or any(pins[key] != others[key] for key in pins.keys() & others.keys()):
        return False
    return bool(one["sha256"] == other["sha256"]) or pins.keys() != others.keys()


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
