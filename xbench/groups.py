"""Groups of languages: by script, family or resource level, seen by a model or not, or as a task or a user says.

`tasks/groups/languages.toml` says of each language its `script`, `family` and `resource`; `tasks/groups/trained.toml`
which languages a model was trained on. A file of one's own has a table for each grouping: groups and their languages.
"""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xbench.errors import DataError, UsageError, unknown
from xbench.progress import log
from xbench.records import Cell
from xbench.storage import storage
from xbench.task import Task
from xbench.tasks import data_folder

Grouping = dict[str, list[str]]  # group -> languages; a language may be in several groups, or in none
FACTS = ("script", "family", "resource")
OTHER = "other"  # the group of cells whose language is in none


def groupings(task: Task, names: Sequence[str] = (), files: Sequence[Path] = ()) -> dict[str, Grouping]:
    """The groupings of a task's languages: its own, those of the given names, and those of files.

    Args:
        task: its own come first, those of which all languages are there.
        names: `script`, `family`, `resource`, or `seen:NAME` for the languages of `trained.toml`.
        files: TOML, a table for each grouping: group = [languages].

    Raises:
        UsageError: an unknown name, two groupings of one name.
        DataError: a file is not in this form.
        StorageError: it cannot be read.
    """
    found: dict[str, Grouping] = {}
    for name, by in task.groups.items():  # a mean over 18 languages is none over two of them
        whole = {group: list(some) for group, some in by.items() if set(some) <= set(task.languages)}
        found |= {name: whole} if whole else {}
    chosen = [(name, known_grouping(name, task)) for name in dict.fromkeys(names) if name not in found]
    for name, grouping in [*chosen, *(pair for file in files for pair in read_groupings(file).items())]:
        if name in found:
            raise UsageError(f"grouping {name!r} is there twice; give it another name")
        kept = {group: [a for a in task.languages if a in some] for group, some in grouping.items()}
        found[name] = {group: some for group, some in kept.items() if some}
        strangers = sorted({a for some in grouping.values() for a in some} - set(task.languages))
        if not found[name] or list(found[name]) == ["unseen"] != list(grouping):
            raise UsageError(f"grouping {name!r} has no language of {task.name}: {', '.join(task.languages)}")
        if strangers and ":" not in name:  # a typing error, or a file for several tasks
            log.info("grouping %s: no languages of %s, left out: %s", name, task.name, ", ".join(strangers))
    return found


def known_grouping(name: str, task: Task) -> Grouping:
    """A grouping of `tasks/groups`; see `groupings`."""
    grouping: Grouping = {}
    if name.startswith("seen:"):
        trained = _data("trained")
        if name.removeprefix("seen:") not in trained:
            raise unknown("grouping", name, _names())
        seen = trained[name.removeprefix("seen:")]["languages"]
        return {"seen": list(seen), "unseen": [a for a in task.languages if a not in seen]}
    if name not in FACTS:
        raise unknown("grouping", name, [*_names(), *task.groups])
    for language in task.languages:
        if name in (facts := _data("languages").get(language, {})):
            grouping.setdefault(str(facts[name]), []).append(language)
    return dict(sorted(grouping.items()))


def _names() -> list[str]:
    return [*FACTS, *(f"seen:{name}" for name in _data("trained"))]


@functools.cache
def _data(name: str) -> dict[str, Any]:
    return tomllib.loads((data_folder("tasks") / "groups" / f"{name}.toml").read_text(encoding="utf-8"))


def read_groupings(file: Path) -> dict[str, Grouping]:
    """The groupings of a file; see `groupings`.

    Raises:
        DataError: it is not in this form.
        StorageError: it cannot be read.
    """
    with storage(file, "read"):
        content = file.read_bytes()
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are
        raise DataError(f"{file}: not TOML: {error}") from error
    for name, grouping in found.items():
        if not isinstance(grouping, dict) or not grouping:
            raise DataError(
                f"{file}: {name}: found {grouping!r}, expected a table of groups, [{name}] GROUP = [languages]"
            )
        for group, some in grouping.items():
            if group == OTHER:
                raise DataError(f"{file}: {name}: the group {OTHER!r} is that of all languages in no group; rename it")
            if not isinstance(some, list) or not some or not all(isinstance(a, str) for a in some):
                raise DataError(f"{file}: {name}.{group}: found {some!r}, expected a list of languages")
    return found


def group_cells(cells: Sequence[Cell], grouping: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[Cell]]]:
    """Where -> group -> its cells, in the order of the grouping.

    Where is `mono` and `multi`, by the language of the query, and for cross cells `cross from` by that of the query,
    `cross to` by that of the passages, `cross` by both, and `cross within` for pairs of the same group or of different
    ones. Cells of languages in no group are in the group `other`.
    """

    def of(language: str) -> list[str]:
        return [group for group, some in grouping.items() if language in some] or [OTHER]

    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        own = of(cell.query_language)
        places = [(cell.setting, group) for group in own]
        if cell.setting == "cross":
            other = of(cell.passage_languages[0])
            same = OTHER if OTHER in (*own, *other) else "same" if set(own) & set(other) else "different"
            places = [("cross from", group) for group in own] + [("cross to", group) for group in other]
            places += [("cross within", same)] + [("cross", f"{a} > {b}") for a in own for b in other]
        for where, group in places:
            found.setdefault(where, {}).setdefault(group, []).append(cell)
    names = [*grouping, OTHER]
    sequence = [*grouping, "same", "different", *(f"{a} > {b}" for a in names for b in names), OTHER]
    order = {name: i for i, name in enumerate(sequence)}
    return {where: dict(sorted(some.items(), key=lambda item: order[item[0]])) for where, some in found.items()}
