"""The result file: strict JSON and per-query Parquet, written whole or not at all."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbench.records import Cell
from xbench.storage import atomic, storage

SCHEMA = 1
# Libraries that can move a number.
PACKAGES = ("numpy", "faiss-cpu", "torch", "transformers", "sentence-transformers", "tokenizers", "pandas", "pyarrow")


@dataclass(frozen=True)
class CellResult:
    """The values of one cell, and of each of its queries."""

    cell: Cell
    passages: int
    left_out: int  # queries without a relevant passage in the pool
    query_ids: list[str]
    values: dict[str, float]  # measure -> value of the cell
    per_query: dict[str, NDArray[np.float64]]  # measure -> (queries,)

    def to_json(self) -> dict[str, Any]:
        """As in the result file."""
        return {
            "setting": self.cell.setting,
            "query_language": self.cell.query_language,
            "passage_languages": list(self.cell.passage_languages),
            "queries": len(self.query_ids),
            "passages": self.passages,
            "left_out": self.left_out,
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
    timing: dict[str, Any] = field(default_factory=dict)

    def summary(self, *, by_query: bool = False) -> dict[str, dict[str, float]]:
        """Setting -> measure -> mean.

        Macro: mono and multi over query languages, cross over ordered pairs of languages, each
        counting once. `by_query`: each cell counts by its number of queries.
        """
        found: dict[str, dict[str, float]] = {}
        for setting in dict.fromkeys(c.cell.setting for c in self.cells):
            cells = [c for c in self.cells if c.cell.setting == setting and c.query_ids]
            weights = [len(c.query_ids) if by_query else 1 for c in cells]
            if cells:
                found[setting] = {
                    name: float(np.average([c.values[name] for c in cells], weights=weights))
                    for name in cells[0].values
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
            "cells": [c.to_json() for c in self.cells],
            "summary": self.summary(),
            "summary_by_query": self.summary(by_query=True),
            "environment": environment(),
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
    """Write `<task>.json`, `<task>.queries.parquet` and `<task>.timing.json`; returns the first.

    The JSON is written last: where it is, the rest is. What two runs of one command cannot have
    in common (seconds, how much was encoded before) is in the timing file alone.

    Raises:
        StorageError: a file cannot be written.
    """
    name = result.task["name"]
    content = (json.dumps(result.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    with storage(folder / f"{name}.json", "replace"):
        (folder / f"{name}.json").unlink(missing_ok=True)  # never beside the values of another run
    with atomic(folder / f"{name}.queries.parquet") as file:
        frame(result).to_parquet(file, index=False, compression="zstd")
    with atomic(folder / f"{name}.timing.json") as file:
        file.write((json.dumps(result.timing, indent=1) + "\n").encode())
    with atomic(folder / f"{name}.json") as file:
        file.write(content)
    return folder / f"{name}.json"


def frame(result: Result) -> Any:
    """A pandas DataFrame, one row a cell and query: `cell`, `query_id`, one column a measure (NaN: undefined)."""
    import pandas

    filled = [c for c in result.cells if c.query_ids]
    sizes = [len(c.query_ids) for c in filled]
    names = list(dict.fromkeys(name for c in filled for name in c.per_query))
    columns: dict[str, Any] = {
        "cell": [c.cell.name for c in filled for _ in c.query_ids],
        "query_id": [query_id for c in filled for query_id in c.query_ids],
    }
    for name in names:
        columns[name] = np.concatenate(
            [c.per_query.get(name, np.full(n, np.nan)) for c, n in zip(filled, sizes, strict=True)]
        )
    return pandas.DataFrame(columns)
