"""A number of a result that was changed by hand is found."""

import json
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boardfiles import ROOT, SLUG, changed, copied, table_changed
from click.testing import CliRunner

from xbench.cli import cli
from xbench.errors import DataError, IncompleteError, IntegrityError, UsageError, XbenchError
from xbench.evaluate import Plan, evaluate
from xbench.intervals import with_intervals
from xbench.leaderboard import verify as module
from xbench.leaderboard.deep import verify_vectors
from xbench.leaderboard.sums import read_sums, write_sums
from xbench.leaderboard.verify import verify
from xbench.models import load
from xbench.results import Result, read_result, write_result
from xbench.storage import sha256
from xbench.task import vary
from xbench.tasks import load_task

SMALL = ("de", "en")


def numbers(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a JSON value are."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(each, (*place, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place


def moved(value: float, rng: random.Random) -> float:
    """Another number of the same type: a digit changed, or a little more or less, never by less than 1e-6."""
    if isinstance(value, int):
        return value + rng.choice([-1, 1, 10])
    return value + rng.choice([-1, 1]) * rng.choice([1e-6, 1e-4, 0.01, 0.5])


def test_a_result_as_it_is(tmp_path: Path) -> None:
    report = verify(copied(tmp_path, ranks=True))
    content = json.loads((tmp_path / SLUG / "mini.json").read_text())
    derived = [p for p in numbers(content) if p[0] in ("cells", "summary", "intervals", "intervals_by_query")]
    assert report.values >= len(derived) > 2000
    queries = sum(len(cell["values"]) * cell["queries"] for cell in content["cells"])
    assert report.per_query == queries and report.hashed == 0


def listed(path: Path) -> dict[str, str]:
    files = [path, path.parent / f"{path.stem}.queries.parquet"]
    sums = {f"{path.parent.name}/{file.name}": sha256(file) for file in files}
    write_sums(path.parent.parent, sums)
    return sums


def fails(path: Path) -> bool:
    try:
        verify(path)
    except (IntegrityError, DataError):
        return True
    return False


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of the same per-query values are drawn once: seconds each time."""
    known: dict[bytes, Result] = {}

    def once(result: Result) -> Result:
        said = [
            (c.cell, c.query_ids, sorted(c.values), {k: v.tobytes() for k, v in c.per_query.items()})
            for c in result.cells
        ]
        key = pickle.dumps((said, result.clusters, result.groupings))
        if key not in known:
            known[key] = with_intervals(result)
        drawn = known[key]
        return replace(
            result,
            intervals=drawn.intervals,
            intervals_by_query=drawn.intervals_by_query,
            statistics=drawn.statistics,
        )

    monkeypatch.setattr(module, "with_intervals", once)
    monkeypatch.setattr("xbench.results._version", str)


@pytest.mark.usefixtures("remembered")
def test_a_thousand_edits_are_found(tmp_path: Path) -> None:
    """Of one number each, anywhere in the JSON or in the table: all by the hashes, and nearly all without them.

    What no other number depends on is left to the hashes: counts of texts and of tokens cut.
    """
    path = copied(tmp_path / "a", languages=SMALL)
    table_file = path.parent / "mini.queries.parquet"
    listed(path)
    original, table, sums = path.read_bytes(), pq.read_table(table_file), tmp_path / "a" / "SHA256SUMS"
    list_ = sums.read_bytes()
    content = json.loads(original)
    places = [p for p in numbers(content) if p != ("schema",)]
    columns = table.to_pydict()
    values = [
        (name, i)
        for name, column in columns.items()
        if name not in ("cell", "query_id")
        for i, value in enumerate(column)
        if value is not None
    ]
    rng = random.Random(7)
    found, without = 0, []
    for number in range(1000):
        path.write_bytes(original)
        pq.write_table(table, table_file)
        if number % 2:
            where: tuple[Any, ...] = rng.choice(places)
            edited = json.loads(original)
            inner = edited
            for key in where[:-1]:
                inner = inner[key]
            inner[where[-1]] = moved(inner[where[-1]], rng)
            path.write_text(json.dumps(edited, indent=1, ensure_ascii=False) + "\n")
        else:
            name, i = where = rng.choice(values)
            new = {key: list(column) for key, column in columns.items()}
            new[name][i] = moved(float(new[name][i]), rng)
            pq.write_table(pa.table(new, metadata=table.schema.metadata), table_file)
        sums.write_bytes(list_)
        found += fails(path)
        sums.unlink()
        if not fails(path):
            without.append(where)
    assert found == 1000
    assert {place[0] for place in without} <= {"texts", "truncation"}, without
    assert len(without) < 100


@pytest.mark.parametrize(
    ("column", "value"), [("AP", None), ("RankDistance", 5.0), ("new", 0.5), ("query_id", "de:x"), ("cell", "mono/xx")]
)
def test_edits_of_other_kinds_in_the_table(tmp_path: Path, column: str, value: Any) -> None:
    def change(table: dict[str, list[Any]]) -> None:
        table.setdefault(column, [None] * len(table["cell"]))[0] = value

    assert fails(table_changed(copied(tmp_path, languages=SMALL), change))


@pytest.mark.parametrize(
    "place",
    [
        ("cells", 0, "setting"),
        ("cells", 0, "query_language"),
        ("model", "fingerprint"),
        ("task", "sha256"),
        ("task", "version"),
        ("statistics", "cluster"),
        ("environment", "xbench"),
        ("timing",),
    ],
)
def test_edits_of_text(tmp_path: Path, place: tuple[Any, ...]) -> None:
    def change(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = 3 if place[-1] in ("xbench", "version") else "edited"

    path = changed(copied(tmp_path, languages=SMALL), change)
    assert fails(path) != (place == ("timing",))  # says where the seconds are


def test_a_key_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="extra is 'x', but its queries give missing"):
        verify(changed(copied(tmp_path, languages=SMALL), lambda content: content.update(extra="x")))


def drop(content: Any) -> None:
    del content["intervals"]["mono"]["AP"]


def test_a_number_that_was_taken_out_is_missed(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"intervals.mono.AP is missing, but its queries give \["):
        verify(changed(copied(tmp_path, languages=SMALL), drop))


def double(content: Any) -> None:
    content["cells"].append(content["cells"][0])


def test_a_cell_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="mono/de is no cell of mini, or is there twice"):
        verify(changed(copied(tmp_path, languages=SMALL), double))


def forge(path: Path) -> None:
    """A better result that contradicts nothing in itself: every AP of mono/en is 1, and all that follows from it."""
    result = read_result(path)
    cells = [
        replace(c, per_query=c.per_query | {"AP": np.ones(len(c.query_ids))}, values=c.values | {"AP": 1.0})
        if c.cell.name == "mono/en"
        else c
        for c in result.cells
    ]
    write_result(with_intervals(replace(result, cells=cells)), path.parent)


def test_a_forgery_that_contradicts_nothing(tmp_path: Path) -> None:
    """Neither the ranks beside it nor the list of hashes agree with it; by itself it cannot be told."""
    path = copied(tmp_path, ranks=True, languages=SMALL)
    listed(path)
    verify(copied(tmp_path / "same", ranks=True, languages=SMALL))
    forge(path)
    with pytest.raises(IntegrityError, match="mini.json: SHA-256 .* in .*SHA256SUMS"):
        verify(path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(IntegrityError, match=r"mono/en: AP of en:\S+ is 1, by its ranks 0\.\d+"):
        verify(path)
    for file in path.parent.glob("*.ranks.parquet"):
        file.unlink()
    assert verify(path).per_query == 0


def test_vectors_in_the_cache(tmp_path: Path) -> None:
    task, cache = vary(load_task("mini"), languages=SMALL), tmp_path / "cache"
    result = evaluate(load("hash"), task, plan=Plan(cache, command="xbench run hash -t mini"))
    path = write_result(result, tmp_path / "out" / result.model["slug"])
    assert verify_vectors(path, cache) == sum(len(c.query_ids) * len(c.values) for c in result.cells)
    with pytest.raises(IncompleteError, match="make them again: xbench run hash -t mini"):
        verify_vectors(path, tmp_path / "empty")
    forge(path)
    with pytest.raises(IntegrityError, match=r"mono/en: AP of en:\S+ is 1, by its vectors 0\.\d+"):
        verify_vectors(path, cache)
    with pytest.raises(UsageError, match="no vectors in the cache"):
        verify_vectors(copied(tmp_path, languages=SMALL, model="canary:constant"), cache)


def test_the_list_of_hashes(tmp_path: Path) -> None:
    path = copied(tmp_path, languages=SMALL)
    sums = listed(path)
    assert verify(path).hashed == 2
    write_sums(tmp_path, {name: digest for name, digest in sums.items() if name.endswith(".json")})
    with pytest.raises(IntegrityError, match=r"queries.parquet: SHA-256 \w{12}, in .*SHA256SUMS not listed"):
        verify(path)
    write_sums(tmp_path, sums | {f"{SLUG}/mini.ranks.parquet": "0" * 64})
    with pytest.raises(IntegrityError, match="mini.ranks.parquet: SHA-256 missing"):
        verify(path)
    write_sums(tmp_path, {"b/x.json": "0" * 64, "a/x.json": "1" * 64})
    assert (tmp_path / "SHA256SUMS").read_text() == f"{'1' * 64}  a/x.json\n{'0' * 64}  b/x.json\n"
    (tmp_path / "SHA256SUMS").write_text(f"{'1' * 64}  a/x.json")  # no last line feed: as an editor may leave it
    assert read_sums(tmp_path) == {"a/x.json": "1" * 64}
    (tmp_path / "SHA256SUMS").write_text("x\n")
    with pytest.raises(DataError, match="SHA256SUMS:1: found 'x', expected"):
        verify(path)
    assert read_sums(tmp_path / "nowhere") == {}


def test_rounding_is_no_edit(tmp_path: Path) -> None:
    """Means and intervals may differ by the last digits: another processor adds up in another order."""

    def change(content: Any) -> None:
        content["intervals"]["mono"]["AP"][0] *= 1 + 1e-12
        content["summary"]["cross"]["AP"] *= 1 - 1e-15

    assert verify(changed(copied(tmp_path, languages=SMALL), change)).values
    assert module.ROUNDING == 1e-9


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "boards"
    path = copied(folder / "results")
    listed(path)
    done = CliRunner().invoke(cli, ["leaderboard", "verify", "--folder", str(folder)])
    assert done.exit_code == 0 and "1 results verified" in done.output
    changed(path, lambda content: content["texts"].update(total=1))
    failed = CliRunner().invoke(cli, ["leaderboard", "verify", str(path)])
    assert isinstance(failed.exception, XbenchError) and failed.exception.exit_code == 7
    path.unlink()
    failed = CliRunner().invoke(cli, ["leaderboard", "verify", "--folder", str(folder)])
    assert isinstance(failed.exception, IntegrityError) and "listed in SHA256SUMS, but missing" in str(failed.exception)


@pytest.mark.parametrize("name", ["leaderboard", "empty"])
def test_a_folder_without_anything_is_no_success(tmp_path: Path, name: str) -> None:
    """A misspelt --folder would pass in CI for years."""
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli, ["leaderboard", "verify", "--folder", str(tmp_path / name)])
    assert isinstance(done.exception, DataError) and "neither results nor boards" in str(done.exception)


def test_all_committed_results_are_listed() -> None:
    """`xbench leaderboard verify` recomputes them; here only that none came in without `add`."""
    folder = ROOT / "leaderboards" / "results"
    found = {f"{p.parent.name}/{p.name}": sha256(p) for p in folder.glob("*/*") if p.is_file()}
    assert found == read_sums(folder)
