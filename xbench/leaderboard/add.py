"""Takes a new result into a folder of boards, if it is all that a board can trust; as for a pull request."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xbench.catalogue import parse
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.leaderboard.entries import SLUG
from xbench.leaderboard.sums import read_sums, write_sums
from xbench.leaderboard.verify import ROUNDING, verify
from xbench.models import slug
from xbench.results import PACKAGES, Result, read_result
from xbench.storage import atomic, sha256, storage
from xbench.strictjson import read_json
from xbench.task import Task
from xbench.tasks import load_task, same_task

# Below zero too: a correlation.
SIGNED = ("MRC",)
# An absolute path, at the start of a text or after what can stand before one; `https://` is none.
_PATH = re.compile(r"""(?:^|[\s=:'"@,+(])(?:/(?!/)[^\s]|~[\w]*/|[A-Za-z]:[\\/](?!/)|\\\\\w)|file:""", re.ASCII)


def add(path: Path, folder: Path, *, replace: bool = False) -> Path | None:
    """Check a result and copy it, with its per-query values, into `folder/results`; returns where it is.

    None if the same result is there already. Ranks and first passages stay where they are: they are large, and follow
    from the model.

    Args:
        path: the result file, with its tables beside it.
        folder: of boards.
        replace: take it instead of another result of that model and task.

    Raises:
        DataError, IntegrityError, UsageError: it is not to be trusted, or another one is there; see `examine`.
        StorageError: a file cannot be read or written.
    """
    sources = [path.parent / f"{path.stem}.queries.parquet", path]
    digests = {file.name: sha256(file) for file in sources if file.is_file()}
    result = examine(path)
    name = str(result.model["slug"])
    target = folder / "results" / name
    if path.name != f"{result.task['name']}.json":
        raise DataError(f"{path}: a result of {result.task['name']}; expected the name {result.task['name']}.json")
    sums = read_sums(folder / "results")
    new = {f"{name}/{file}": digest for file, digest in digests.items()}
    there = {file: sha256(target / file) for file in digests if (target / file).is_file()}
    if there == digests and new.items() <= sums.items():
        return None
    if there and there != digests and not replace:
        raise UsageError(
            f"{target / path.name}: another result of {result.model['name']} is there; look at both, then --replace"
        )
    if path.resolve() != (target / path.name).resolve():
        contents = {}
        for file in sources:
            with storage(file, "read"):
                contents[file.name] = file.read_bytes()
        with storage(target, "replace"):
            (target / path.name).unlink(missing_ok=True)  # never beside the values of another result
        for file_name, content in contents.items():
            with atomic(target / file_name) as out:
                out.write(content)
    if {file: sha256(target / file) for file in digests} != digests:
        raise IntegrityError(f"{path}: has changed while it was copied; add it again")
    write_sums(folder / "results", sums | new)
    return target / path.name


def examine(path: Path) -> Result:
    """All that a result must be to stand on a board.

    It follows from its per-query values (`verify`), is of a task that xbench has, as it is now and whole: all
    languages, settings and cells, with the numbers of queries and passages of its definition. Values are finite and
    within their measure's range. Its environment is stated; its name, command and identity are text of a line without a
    path of somebody's machine. It is no canary, and does not rank as one.

    Raises:
        DataError, IntegrityError, UsageError: it is not.
        StorageError: a file cannot be read.
    """
    verify(path)
    result = read_result(path)
    content: Any = read_json(path)
    task = same_task(result.task, path)
    _whole(result, task, path)
    _values(result, task, path)
    _canary(result, task, path)
    _environment(content, path)
    _text(result, content, path)
    return result


def _whole(result: Result, task: Task, path: Path) -> None:
    definition = load_task(task.name)
    if task.varied or task.context != definition.context:
        said = {**task.varied, **({"context": task.context} if task.context != definition.context else {})}
        raise DataError(
            f"{path}: of {task.name} with {said}; a board takes results of the whole task, as it is defined"
        )
    lacking = [cell.name for cell in task.cells() if cell not in {each.cell for each in result.cells}]
    empty = [each.cell.name for each in result.cells if not each.query_ids and task.size(each.cell)[0]]
    if lacking or empty:
        raise DataError(
            f"{path}: {len(lacking + empty)} of {len(task.cells())} cells are missing: {(lacking + empty)[0]}"
        )
    for cell in result.cells:
        if cell.query_ids and task.primary not in cell.values:
            raise DataError(f"{path}: {cell.cell.name} has no {task.primary}; evaluate with the task's own measures")


def _values(result: Result, task: Task, path: Path) -> None:
    for cell in result.cells:
        for name, value in cell.values.items():
            measure = parse(name)
            low = -1.0 if measure.family in SIGNED else 0.0
            high = 1.0 if measure.bounded else float(cell.passages)
            values = np.append(cell.per_query[measure.column], value)
            if measure.foreign or measure.family == "SameLanguageLift":
                high = np.inf
            inside = (values >= low - ROUNDING) & (values <= high + ROUNDING)
            if not inside.all():
                worst = values[~inside][0]
                raise IntegrityError(f"{path}: {cell.cell.name}: {name} of {worst:.6g}, expected {low:g} to {high:g}")


def _canary(result: Result, task: Task, path: Path) -> None:
    """Models that have seen the answers, or rank nothing, are tests of the harness and no rows of a board."""
    identity = result.model["identity"]
    parts = identity.get("parts", []) if isinstance(identity.get("parts", []), list) else []
    kinds = [each.get("kind") for each in [identity, *parts] if isinstance(each, dict)]
    if "canary" in kinds:
        raise UsageError(f"{path}: {result.model['name']} is a canary, of which the right values are known; no model")
    filled = [cell for cell in result.cells if cell.query_ids]
    if task.primary in ("AP", "RR", "nDCG@10", "XtremeAP@20", "Success@1") and all(
        cell.values[task.primary] == 1.0 for cell in filled
    ):
        raise IntegrityError(f"{path}: {task.primary} is 1 in every cell, as of a model that has read the answers")


def _environment(content: Any, path: Path) -> None:
    found = content["environment"]
    needed = ("xbench", "python", "machine", *PACKAGES)
    if lacking := [name for name in needed if not found.get(name, "").strip()]:
        raise DataError(f"{path}: environment: no version of {lacking[0]}; expected {', '.join(needed)}")
    if found["xbench"] == "not installed":
        raise DataError(f"{path}: environment: xbench is not installed there, so nobody knows which one it was")


def _text(result: Result, content: Any, path: Path) -> None:
    name, key = str(result.model["name"]), str(result.model["fingerprint"])
    if not SLUG.fullmatch(slug(name, key)) or result.model["slug"] != slug(name, key):
        raise IntegrityError(
            f"{path}: slug {result.model['slug']!r}, expected {slug(name, key)!r}, from the fingerprint"
        )
    if not result.command.startswith(("xbench run ", "xbench score ", "xbench study ")):
        raise DataError(f"{path}: command {result.command!r:.80}, expected that of `xbench run`, `score` or `study`")
    for place, text in _strings({key: content[key] for key in ("task", "model", "command", "environment")}):
        # Prompts are in the identity: they may have lines.
        if (
            len(text) > 1000
            or not text.replace("\n", " " if place.startswith("model.identity") else "\n").isprintable()
        ):
            raise DataError(f"{path}: {place}: {text[:40]!r}: more than a line of printable text of 1,000 characters")
        if _PATH.search(text):
            raise DataError(
                f"{path}: {place}: {text[:80]!r}: a path of one machine, where nobody else has it; evaluate "
                "by a name on the hub, or from the folder of the files"
            )


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield f"{place} (key)", str(key)
            yield from _strings(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _strings(each, f"{place}[{i}]")
