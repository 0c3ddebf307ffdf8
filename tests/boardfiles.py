"""Folders of boards for tests: a result of `hash` on the bundled task, and boards of little text."""

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.results import write_result
from xbench.task import vary
from xbench.tasks import load_task

ROOT = Path(__file__).parent.parent
SLUG = "hash-6c056d072fbd"
BOARD = """name = "b"
title = "A board"
tasks = [{ name = "mini", version = 1 }]
columns = ["mono AP", "cross AP", "multi AP", "multi RankDistance"]
rank = "multi AP"
detail = ["AP", "RankDistance"]
by = ["script"]
"""


@functools.cache
def evaluated(languages: tuple[str, ...] = (), model: str = "hash") -> Path:
    """A folder with the result of a model on `mini`, with its ranks: `<slug>/mini.json`. Not to be written into."""
    folder = Path(tempfile.mkdtemp(prefix="xbench-test."))
    task = vary(load_task("mini"), languages=languages)
    result = evaluate(load(model), task, plan=Plan(folder / "cache", command=f"xbench run {model} -t mini"))
    write_result(result, folder / result.model["slug"])
    return folder


def copied(target: Path, *, ranks: bool = False, **choice: Any) -> Path:
    """A copy of that result; returns the path of its JSON."""
    (source,) = evaluated(**choice).glob("*-*")
    shutil.copytree(
        source, target / source.name, ignore=None if ranks else shutil.ignore_patterns("*.ranks.*", "*.top.*")
    )
    return target / source.name / "mini.json"


def boards(folder: Path, text: str = BOARD, name: str = "b") -> Path:
    """A folder of one board."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """A JSON file with a change, written as `write_result` writes it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def table_changed(path: Path, change: Callable[[dict[str, list[Any]]], None]) -> Path:
    """The per-query table beside a result file, with a change and the same metadata; returns the result's path."""
    file = path.parent / f"{path.stem}.queries.parquet"
    table = pq.read_table(file)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns, metadata=table.schema.metadata), file)
    return path
