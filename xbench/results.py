"""The result file: strict JSON and per-query Parquet, written whole or not at all."""

import importlib.metadata
import json
import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbench import parquet
from xbench.catalogue import parse
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.groups import Grouping, group_cells
from xbench.ranks import RankTable
from xbench.records import Cell
from xbench.storage import atomic, fingerprint, storage
from xbench.strictjson import read_json

SCHEMA = 1
# Libraries that can move a number.
PACKAGES = ("numpy", "faiss-cpu", "torch", "transformers", "sentence-transformers", "tokenizers", "pandas", "pyarrow")


@dataclass(frozen=True)
class CellResult:
    """The values of one cell, and of each of its queries."""

    cell: Cell
    passages: int
    left_out: int  # queries without a relevant passage in the pool
    missing: int  # queries for which a run has no passage in the pool; they count 0
    query_ids: list[str]
    values: dict[str, float]  # measure -> value of the cell
    per_query: dict[str, NDArray[np.float64]]  # column -> (queries,)
    # Of a retriever, what it has not retrieved and the tie rule has ranked last: `queries` with nothing retrieved,
    # `relevant` passages, `passages` (pairs with a query).
    unmatched: dict[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the result file."""
        return {
            "setting": self.cell.setting,
            "query_language": self.cell.query_language,
            "passage_languages": list(self.cell.passage_languages),
            "queries": len(self.query_ids),
            "passages": self.passages,
            "left_out": self.left_out,
            "missing": self.missing,
            **({} if self.unmatched is None else {"unmatched": self.unmatched}),
            "values": self.values,
        }


@dataclass(frozen=True)
class Result:
    """What one evaluation of one model on one task gives."""

    task: dict[str, Any]
    model: dict[str, Any]
    command: str
    texts: dict[str, int]
    cells: list[CellResult]
    clusters: dict[str, str]  # question -> paragraph or the like, as in `Collection`
    ranks: RankTable | None = None  # None for a result that was read: see `read_ranks`
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # cell or setting -> measure
    intervals_by_query: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # setting -> measure
    statistics: dict[str, Any] = field(default_factory=dict)  # how the intervals were made
    timing: dict[str, Any] = field(default_factory=dict)
    groupings: dict[str, Grouping] = field(default_factory=dict)  # name -> group -> languages
    # role -> language -> {"texts": cut, "tokens": lost}; None where the model does not tell, empty where none encodes
    truncation: dict[str, dict[str, dict[str, int] | None]] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)  # how pools too large to hold were searched; see docs/large.md
    environment: dict[str, str] = field(default_factory=dict)  # of a result that was read: where it was made

    def groups(self) -> dict[str, dict[str, Any]]:
        """Grouping -> where (see `groups.group_cells`) -> group -> its `cells` and the mean of each measure over them.

        Macro means as in `summary`; `languages` of each grouping are its groups'.
        """
        found: dict[str, dict[str, Any]] = {}
        filled = {c.cell: c for c in self.cells if c.query_ids}
        for name, grouping in self.groupings.items():
            found[name] = {"languages": grouping}
            for where, groups in group_cells(list(filled), grouping).items():
                found[name][where] = {}
                for group, cells in groups.items():
                    values = [filled[cell].values for cell in cells]
                    shared = [m for m in values[0] if all(m in some for some in values)]
                    found[name][where][group] = {
                        "cells": len(cells),
                        "queries": sum(len(filled[cell].query_ids) for cell in cells),
                        "values": {m: math.fsum(some[m] for some in values) / len(values) for m in shared},
                        "intervals": self.intervals.get(f"{name}: {where}: {group}", {}),
                    }
        return found

    def summary(self, *, by_query: bool = False) -> dict[str, dict[str, float]]:
        """Setting -> measure -> mean.

        Macro: mono and multi over query languages, cross over ordered pairs of languages, each
        counting once. `by_query`: each cell counts by its number of queries. A measure that one of the
        cells lacks has no mean.
        """
        found: dict[str, dict[str, float]] = {}
        for setting in dict.fromkeys(c.cell.setting for c in self.cells):
            cells = [c for c in self.cells if c.cell.setting == setting and c.query_ids]
            weights = [len(c.query_ids) if by_query else 1 for c in cells]
            if cells:
                found[setting] = {
                    name: float(np.average([c.values[name] for c in cells], weights=weights))
                    for name in cells[0].values
                    if all(name in c.values for c in cells)
                }
        return found

    def to_json(self) -> dict[str, Any]:
        """The result file's content: nothing in it differs between two runs of the same command."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "model": self.model,
            "command": self.command,
            "texts": self.texts,
            "truncation": self.truncation,
            **({"search": self.search} if self.search else {}),
            "cells": [c.to_json() | {"intervals": self.intervals.get(c.cell.name, {})} for c in self.cells],
            "summary": self.summary(),
            "summary_by_query": self.summary(by_query=True),
            "intervals": {setting: self.intervals[setting] for setting in self.summary() if setting in self.intervals},
            "intervals_by_query": self.intervals_by_query,
            **({"groups": self.groups()} if self.groupings else {}),
            "statistics": self.statistics,
            "environment": self.environment or environment(),
            "timing": {"file": f"{self.task['name']}.timing.json"},
        }


def environment() -> dict[str, str]:
    """Versions of all that can move a number."""
    found = {"xbench": _version("xbench"), "python": platform.python_version(), "machine": platform.machine()}
    return found | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_result(result: Result, folder: Path) -> Path:
    """Write `<task>.json`, and beside it the tables and `<task>.timing.json`; returns the first.

    The tables are `.queries.parquet`, `.ranks.parquet` and `.top.parquet`. The JSON is written last:
    where it is, the rest is. What two runs of one command cannot have in common (seconds, how much
    was encoded before) is in the timing file alone.

    Raises:
        StorageError: a file cannot be written.
    """
    name = result.task["name"]
    content = (json.dumps(result.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    with storage(folder / f"{name}.json", "replace"):
        (folder / f"{name}.json").unlink(missing_ok=True)  # never beside the values of another run
    about = about_result(result)
    parquet.write(folder / f"{name}.queries.parquet", columns(result), about | {"clusters": result.clusters})
    if result.ranks:
        parquet.write_ranks(folder, name, result.ranks, about)
    with atomic(folder / f"{name}.timing.json") as file:
        file.write((json.dumps(result.timing, indent=1) + "\n").encode())
    with atomic(folder / f"{name}.json") as file:
        file.write(content)
    return folder / f"{name}.json"


def columns(result: Result) -> dict[str, Any]:
    """One row a cell and query: `cell`, `query_id`, one column a measure (NaN: undefined)."""
    filled = [c for c in result.cells if c.query_ids]
    names = list(dict.fromkeys(name for c in filled for name in c.per_query))
    found: dict[str, Any] = {
        "cell": [c.cell.name for c in filled for _ in c.query_ids],
        "query_id": [query_id for c in filled for query_id in c.query_ids],
    }
    for name in names:
        found[name] = np.concatenate([c.per_query.get(name, np.full(len(c.query_ids), np.nan)) for c in filled])
    return found


def read_result(path: Path) -> Result:
    """What `write_result` wrote, without ranks and timing.

    Raises:
        DataError: no file, not a result file of this schema, or a table beside it is missing.
        IntegrityError: the fingerprint is not that of the identity, the table beside it is of another
            result, or a value is not what the table gives.
        StorageError: a file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a result, DIR/<model>/<task>.json")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a result file of schema {SCHEMA}; expected DIR/<model>/<task>.json")
    try:
        about = _about(content)
        table, said = parquet.read(path.parent / f"{content['task']['name']}.queries.parquet", ["cell", "query_id"])
        rows = dict(tuple(table.to_pandas().groupby("cell", sort=False)))
        cells = [_read_cell(cell, rows) for cell in content["cells"]]
        groups = content.get("groups", {})
        result = Result(
            content["task"],
            content["model"],
            str(content["command"]),
            content["texts"],
            cells,
            said["clusters"],
            intervals={c.cell.name: raw["intervals"] for c, raw in zip(cells, content["cells"], strict=True)}
            | content["intervals"]
            | _group_intervals(groups),
            intervals_by_query=content["intervals_by_query"],
            statistics=content["statistics"],
            truncation=content.get("truncation", {}),
            groupings={name: some["languages"] for name, some in groups.items()},
            search=content.get("search", {}),
            environment=dict(content["environment"]),
        )
        values = {name: parse(name) for name in dict.fromkeys(n for cell in cells for n in cell.values)}
    except (AttributeError, LookupError, TypeError, ValueError, UsageError) as error:
        raise DataError(f"{path}: not a whole result file: {type(error).__name__}: {error}") from error
    _same_result(path, about, said)
    for cell in cells:
        for name, value in cell.values.items():
            queries = cell.per_query.get(values[name].column)
            if queries is None or values[name].aggregate(queries) != value:
                raise IntegrityError(f"{path}: {name} of {cell.cell.name} is {value}, not what its queries give")
    return result


def _group_intervals(groups: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    return {
        f"{name}: {where}: {group}": one["intervals"]
        for name, grouping in groups.items()
        for where, some in grouping.items()
        if where != "languages"
        for group, one in some.items()
        if one["intervals"]
    }


def read_ranks(path: Path, result: Result) -> RankTable:
    """The ranks beside a result file.

    Raises:
        DataError: they are missing or not whole.
        IntegrityError: they are of another result.
    """
    table, said = parquet.read_ranks(path.parent, result.task["name"])
    for part in said:
        _same_result(path, about_result(result), part)
    return table


def about_result(result: Result) -> dict[str, str]:
    """What ties the tables to their result."""
    return {"fingerprint": result.model["fingerprint"], "task": result.task["sha256"]}


def _about(content: dict[str, Any]) -> dict[str, str]:
    """The same of a file's content, if all the strings are there."""
    task, model = content["task"], content["model"]
    strings = [*(task[key] for key in ("name", "sha256")), *(model[key] for key in ("name", "fingerprint", "slug"))]
    if not all(isinstance(text, str) for text in strings) or not isinstance(task["version"], int):
        raise TypeError("task and model need name, version, sha256, fingerprint, slug as text")
    if not isinstance(model["identity"], dict) or fingerprint(model["identity"]) != model["fingerprint"]:
        raise IntegrityError(f"model {model['name']}: the fingerprint is not that of the identity")
    return {"fingerprint": model["fingerprint"], "task": task["sha256"]}


def _same_result(path: Path, about: dict[str, str], said: dict[str, Any]) -> None:
    if about != {key: said.get(key) for key in about}:
        raise IntegrityError(f"{path}: a table beside it is of another result; copy all of a folder, or evaluate again")


def _read_cell(raw: dict[str, Any], rows: dict[Any, Any]) -> CellResult:
    cell = Cell(raw["setting"], raw["query_language"], tuple(raw["passage_languages"]))
    frame = rows.get(cell.name)
    if raw["queries"] != (0 if frame is None else len(frame)):
        found = 0 if frame is None else len(frame)
        raise ValueError(f"cell {cell.name} has {raw['queries']} queries, its per-query file {found}")
    per_query, query_ids = {}, []
    if frame is not None:
        query_ids = frame["query_id"].to_list()
        arrays = {str(name): frame[name].to_numpy(np.float64) for name in frame.columns.drop(["cell", "query_id"])}
        per_query = {name: values for name, values in arrays.items() if not np.isnan(values).all()}
    counts = raw["passages"], raw["left_out"], raw["missing"]
    return CellResult(cell, *counts, query_ids, dict(raw["values"]), per_query, raw.get("unmatched"))
