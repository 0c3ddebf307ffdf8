"""The result file: its means against hand calculations, its bytes, and what a failed write leaves."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from xbench.errors import DataError, IntegrityError, StorageError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.records import Cell
from xbench.results import CellResult, Result, columns, read_ranks, read_result, write_result
from xbench.strictjson import read_json
from xbench.tasks import load_task

FILES = ["small.queries.parquet", "small.timing.json", "small.json"]


def cell(setting: str, a: str, b: tuple[str, ...], size: int, **per_query: list[float]) -> CellResult:
    values = {name: math.fsum(row) / len(row) for name, row in per_query.items()}
    ids = [f"{a}:{i}" for i in range(max(map(len, per_query.values()), default=0))]
    arrays = {name: np.array(row) for name, row in per_query.items()}
    return CellResult(Cell(setting, a, b), size, 3 - len(ids), 0, ids, values, arrays)


def small(**changes: Any) -> Result:
    """Three languages, of which `fr` asks nothing and shares no question with `de`."""
    pool = ("de", "en", "fr")
    cells = [
        cell("mono", "de", ("de",), 5, AP=[0.1, 0.2, 0.6], RR=[0.5, 0.5, 0.5]),
        cell("mono", "en", ("en",), 7, AP=[0.7], RR=[1.0]),
        cell("cross", "de", ("en",), 7, AP=[0.25, 0.5], RR=[0.25, 1.0]),
        cell("cross", "de", ("fr",), 4),
        cell("cross", "en", ("de",), 5, AP=[0.875], RR=[1.0]),
        cell("cross", "en", ("fr",), 4, AP=[0.125], RR=[0.5]),
        cell("multi", "de", pool, 16, AP=[0.0, 0.0, 0.75], RR=[0.0, 0.0, 1.0], RankDistance=[2.0, 4.0, 12.0]),
        cell("multi", "en", pool, 16, AP=[1 / 3], RR=[1.0], RankDistance=[14.0]),
    ]
    task = {"name": "small", "version": 1, "sha256": "0" * 64}
    model = {"name": "hash", "fingerprint": "f" * 64, "identity": {"größe": 3}}
    result = Result(task, model, "xbench run hash -t small", {"total": 9}, cells, {"0": "p"}, timing={"wall_s": 1.5})
    return replace(result, **changes)


def test_means_by_hand() -> None:
    # Languages, and ordered pairs, count once each; the pair without queries is left out, not a zero.
    macro = {
        "mono": {"AP": (0.3 + 0.7) / 2, "RR": (0.5 + 1) / 2},
        "cross": {"AP": (0.375 + 0.875 + 0.125) / 3, "RR": (0.625 + 1 + 0.5) / 3},
        "multi": {"AP": (0.25 + 1 / 3) / 2, "RR": (1 / 3 + 1) / 2, "RankDistance": (6 + 14) / 2},
    }
    by_query = {
        "mono": {"AP": (0.1 + 0.2 + 0.6 + 0.7) / 4, "RR": (1.5 + 1) / 4},
        "cross": {"AP": (0.25 + 0.5 + 0.875 + 0.125) / 4, "RR": (1.25 + 1 + 0.5) / 4},
        "multi": {"AP": (0.75 + 1 / 3) / 4, "RR": 2 / 4, "RankDistance": (18 + 14) / 4},
    }
    for found, expected in ((small().summary(), macro), (small().summary(by_query=True), by_query)):
        assert found == {setting: pytest.approx(values, rel=1e-14) for setting, values in expected.items()}
    nothing = small(cells=[small().cells[3]])
    assert nothing.summary() == {} and columns(nothing) == {"cell": [], "query_id": []}


def test_the_contract(tmp_path: Path) -> None:
    """design.md, section 4."""
    path = write_result(small(), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "small.json" and {p.name for p in path.parent.iterdir()} == set(FILES)
    found: Any = read_json(path)
    assert found["schema"] == 1 and found["command"] == "xbench run hash -t small" and found["texts"] == {"total": 9}
    assert found["task"] == {"name": "small", "version": 1, "sha256": "0" * 64}
    assert found["model"] == {"name": "hash", "fingerprint": "f" * 64, "identity": {"größe": 3}}
    assert found["summary"] == small().summary() and found["summary_by_query"] == small().summary(by_query=True)
    assert found["environment"]["numpy"] == np.__version__ and {"xbench", "python"} <= set(found["environment"])
    # Seconds differ between two runs, so they have a file of their own.
    assert found["timing"] == {"file": "small.timing.json"} and "1.5" not in str(found)
    assert read_json(path.parent / "small.timing.json") == {"wall_s": 1.5}
    cells = found["cells"]
    empty = {"setting": "cross", "query_language": "de", "passage_languages": ["fr"], "queries": 0, "passages": 4}
    assert cells[3] == empty | {"left_out": 3, "missing": 0, "values": {}, "intervals": {}}
    assert [(c["queries"], c["left_out"]) for c in cells[2:4]] == [(2, 1), (0, 3)]
    assert cells[7]["passage_languages"] == ["de", "en", "fr"]
    assert cells[7]["values"] == {"AP": 1 / 3, "RR": 1.0, "RankDistance": 14.0}, "full precision"
    again = write_result(small(timing={"wall_s": 99.0}), tmp_path).parent
    assert [(again / n).read_bytes() == (path.parent / n).read_bytes() for n in FILES] == [True, False, True]


def test_the_values_of_the_queries(tmp_path: Path) -> None:
    write_result(small(), tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "small.queries.parquet").to_pydict()
    assert list(table) == ["cell", "query_id", "AP", "RR", "RankDistance"]
    ids = [(c.cell.name, query_id) for c in small().cells for query_id in c.query_ids]
    assert list(zip(table["cell"], table["query_id"], strict=True)) == ids
    assert table["AP"] == [0.1, 0.2, 0.6, 0.7, 0.25, 0.5, 0.875, 0.125, 0.0, 0.0, 0.75, 1 / 3]
    assert table["RankDistance"] == [None] * 8 + [2.0, 4.0, 12.0, 14.0], "null, not NaN, where it is not defined"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(bad: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(small(cells=[replace(small().cells[0], values={"AP": bad})]), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocked", FILES)
def test_the_json_is_written_last(blocked: str, tmp_path: Path) -> None:
    (tmp_path / blocked).mkdir()
    with pytest.raises(StorageError, match=blocked):
        write_result(small(), tmp_path)
    # An old JSON goes first, so where it cannot, nothing else is written.
    written = [] if blocked == "small.json" else FILES[: FILES.index(blocked)]
    assert {path.name for path in tmp_path.iterdir()} == {*written, blocked}


def test_no_json_beside_the_values_of_another_run(tmp_path: Path) -> None:
    write_result(small(), tmp_path)
    (tmp_path / "small.timing.json").unlink()
    (tmp_path / "small.timing.json").mkdir()  # so that the second write fails half-way
    with pytest.raises(StorageError):
        write_result(small(cells=small().cells[1:]), tmp_path)
    if (tmp_path / "small.json").exists():
        queries = sum(c["queries"] for c in json.loads((tmp_path / "small.json").read_bytes())["cells"])
        assert queries == pyarrow.parquet.read_table(tmp_path / "small.queries.parquet").num_rows


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results of one task: `a/mini.json` and `b/mini.json`."""
    folder, plan = tmp_path_factory.mktemp("stored"), Plan(tmp_path_factory.mktemp("cache"))
    for name, model in (("a", "canary:random"), ("b", "canary:oracle")):
        result = evaluate(load(model), load_task("mini"), ["AP", "RankDistance", "RankDistanceMedian"], plan=plan)
        write_result(result, folder / name)
    return folder


@pytest.fixture
def copy(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored, tmp_path / "copy")
    return tmp_path / "copy" / "a" / "mini.json"


def test_what_is_written_is_read(copy: Path) -> None:
    found = read_result(copy)
    content = json.loads(copy.read_bytes())
    assert found.to_json() == content | {"environment": found.to_json()["environment"]}
    assert write_result(found, copy.parent / "again").read_bytes() == copy.read_bytes()
    tables = [path / "mini.queries.parquet" for path in (copy.parent, copy.parent / "again")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert read_ranks(copy, found).languages == load_task("mini").languages


def edit(*keys: Any, value: Any) -> Callable[[Path], None]:
    """Put a value, or nothing if it is `del`, at a place of the JSON."""

    def change(path: Path) -> None:
        content = place = json.loads(path.read_bytes())
        for key in keys[:-1]:
            place = place[key]
        if value is del_:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        path.write_text(json.dumps(content))

    return change


def swap(table: str) -> Callable[[Path], None]:
    return lambda path: shutil.copy(path.parents[1] / "b" / f"mini.{table}.parquet", path.parent)


del_ = object()
DAMAGE = [
    (edit("schema", value=2), DataError, "schema 1"),
    (edit("model", value="hash"), DataError, "not a whole result"),
    *((edit("model", key, value=del_), DataError, key) for key in ("name", "fingerprint", "slug", "identity")),
    *((edit("task", key, value=del_), DataError, key) for key in ("name", "version", "sha256")),
    (edit("task", "name", value=["mini"]), DataError, "as text"),
    (edit("cells", value=del_), DataError, "cells"),
    (edit("cells", 0, "queries", value=3), DataError, "mono/ar has 3 queries, its per-query file 48"),
    (edit("cells", 0, "values", "Foo", value=0.5), DataError, "unknown measure 'Foo'"),
    (edit("cells", 0, "values", "AP", value=0.99), IntegrityError, "AP of mono/ar is 0.99"),
    (edit("cells", 131, "values", "RankDistanceMedian", value="1"), IntegrityError, "Median of multi/zh is 1"),
    (edit("cells", 0, "values", "RR", value=0.5), IntegrityError, "RR of mono/ar"),
    (edit("model", "identity", "dimension", value=3), IntegrityError, "fingerprint"),
    (edit("model", "identity", value="x"), IntegrityError, "fingerprint"),
    (edit("task", "sha256", value="0"), IntegrityError, "of another result"),
    (swap("queries"), IntegrityError, "of another result"),
    (lambda path: (path.parent / "mini.queries.parquet").unlink(), DataError, "no such file"),
    (lambda path: path.unlink(), DataError, "no such file"),
    (lambda path: path.write_text("[]"), DataError, "not a result file"),
    (lambda path: path.write_text("{"), DataError, "not JSON"),
]


@pytest.mark.parametrize(("change", "error", "words"), DAMAGE)
def test_a_damaged_result_is_refused(
    change: Callable[[Path], None], error: type[Exception], words: str, copy: Path
) -> None:
    change(copy)
    with pytest.raises(error, match=re.escape(words)) as caught:
        read_result(copy)
    assert str(copy.parent) in str(caught.value) or "fingerprint" in words


@pytest.mark.parametrize("table", ["ranks", "top"])
def test_ranks_of_another_result_are_refused(table: str, copy: Path) -> None:
    swap(table)(copy)
    with pytest.raises(IntegrityError, match="of another result"):
        read_ranks(copy, read_result(copy))
