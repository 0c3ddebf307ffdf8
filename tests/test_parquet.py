"""The tables beside a result: what is written is what is read, and what is damaged is refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_ranks import SEEDS, content, world

from xbench.errors import DataError
from xbench.parquet import read, read_ranks, write, write_ranks
from xbench.ranks import RankTable

PARTS = ("ranks", "top")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`t.ranks.parquet` and `t.top.parquet` of three languages, 15 passages and the first 5 of each query."""
    write_ranks(tmp_path, "t", world(3).table(5), {})
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_ranks(folder, "t")[0]
    return str(caught.value)


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("seed", SEEDS[::2])
def test_what_is_written_is_read(seed: int, run: bool, tmp_path: Path) -> None:
    """Of every cell: runs that are shorter than the depth, or lack a relevant passage, too."""
    w = world(seed, run=run)
    w.qrels[w.queries[-1]] = {}  # it has first passages, and is not to be in anybody's place
    for depth in (0, 3, len(w.pool), len(w.pool) + 2):
        table = w.table(depth)
        write_ranks(tmp_path / "a", "t", table, {})
        found = read_ranks(tmp_path / "a", "t")[0]
        assert (found.languages, found.sizes.tolist()) == (table.languages, table.sizes.tolist())
        assert found.top.shape[1] == depth
        for cell in w.cells():
            assert content(found, cell) == content(table, cell), (cell, depth)
        assert found.query_ids == [q for q in w.queries if w.qrels[q]]
        # Once more, from the table itself and from what was read: the bytes are a function of the content.
        write_ranks(tmp_path / "b", "t", w.table(depth), {})
        for part in PARTS:
            first, second = ((tmp_path / x / f"t.{part}.parquet").read_bytes() for x in "ab")
            assert first == second


@pytest.mark.parametrize("seed", SEEDS[::2])
def test_ranks_in_pools_of_one_language(seed: int, tmp_path: Path) -> None:
    """A number of its own for each judged passage, which must stay with it."""
    w = world(seed)
    table = w.table(3)
    sizes = table.sizes[table.doc_language[table.judged.rows]]
    table = table._replace(alone=(np.arange(len(sizes)) % sizes).astype(np.int32))
    write_ranks(tmp_path, "t", table, {})
    found = read_ranks(tmp_path, "t")[0]
    assert found.alone is not None and table.alone is not None

    def pairs(t: RankTable) -> dict[tuple[str, str], int]:
        each = np.repeat(np.arange(len(t.query_ids)), np.diff(t.judged.indptr))
        ids = [(t.query_ids[q], t.doc_ids[d]) for q, d in zip(each, t.judged.rows, strict=True)]
        assert t.alone is not None
        return dict(zip(ids, t.alone.tolist(), strict=True))

    assert pairs(found) == pairs(table)


def test_nothing_is_relevant_or_found(tmp_path: Path) -> None:
    w = world(0)
    w.qrels, w.lists = dict.fromkeys(w.queries, {}), dict.fromkeys(w.queries, [])  # noqa: RUF024
    write_ranks(tmp_path, "t", w.table(4), {})
    found = read_ranks(tmp_path, "t")[0]
    assert found.query_ids == found.doc_ids == [] and found.top.shape == (0, 4)
    assert all(found.ranked(cell)[1] == [] for cell in w.cells())


def test_the_columns_are_plain_to_others(folder: Path) -> None:
    """As documented: ids and names, not numbers of ours; a row for each judged passage, and for each place."""
    w = world(3)
    rows = pq.read_table(folder / "t.ranks.parquet").to_pylist()
    assert [(row["query_id"], row["doc_id"]) for row in rows] == [
        (q, d) for q in w.queries for d in w.pool if d in w.qrels[q]
    ]
    for row in rows:
        q, d = row["query_id"], row["doc_id"]
        assert row["language"] == d[:2] and row["grade"] == w.qrels[q][d]
        assert [row[f"above_{a}"] for a in w.languages] == w.above(q, d)
    top = [tuple(row.values()) for row in pq.read_table(folder / "t.top.parquet").to_pylist()]
    assert top == [(q, rank, d, d[:2]) for q in w.queries for rank, d in enumerate(w.lists[q][:5], 1)]


def test_nan_is_null_and_about_is_kept(tmp_path: Path) -> None:
    path, about = tmp_path / "x.parquet", {"größe": [1, None, "a"], "a": 2}
    write(path, {"a": ["x", "y"], "b": np.array([np.nan, 1.5])}, about)
    before = path.read_bytes()
    write(path, {"a": ["x", "y"], "b": np.array([np.nan, 1.5])}, dict(reversed(about.items())))
    assert path.read_bytes() == before
    table, found = read(path, ["b"])
    assert table.to_pydict() == {"a": ["x", "y"], "b": [None, 1.5]} and found == about
    with pytest.raises(DataError, match=r"x\.parquet: no column 'c'; found a, b"):
        read(path, ["a", "c"])
    with pytest.raises(DataError, match="none.parquet: no such file"):
        read(tmp_path / "none.parquet", [])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"PAR1",
        lambda whole: b"PAR1PAR1",
        lambda whole: b"cell,query_id\n" * 100,
        lambda whole: bytes(len(whole)),
        lambda whole: b"PAR1" + b"\xff" * 100 + b"PAR1",
        *(lambda whole, n=n: whole[: n * len(whole) // 20] for n in range(1, 20)),
        lambda whole: whole[:-1],
        lambda whole: whole[1:],
    ],
)
def test_a_file_that_is_none_is_refused(damage: Callable[[bytes], bytes], part: str, folder: Path) -> None:
    path = folder / f"t.{part}.parquet"
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refused(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_file_with_a_wrong_byte_is_read_or_refused(part: str, folder: Path) -> None:
    """Parquet has no checksum here: what cannot be seen is read; nothing else escapes."""
    path, rng = folder / f"t.{part}.parquet", random.Random(0)
    whole, others = path.read_bytes(), []
    for _ in range(300):
        n = rng.randrange(len(whole))
        path.write_bytes(whole[:n] + bytes([whole[n] ^ rng.randrange(1, 256)]) + whole[n + 1 :])
        try:
            read_ranks(folder, "t")[0]
        except DataError as error:
            assert str(folder) in str(error)
        except Exception as error:
            others.append(f"{n}: {type(error).__name__}: {error}")
    assert others == []


def test_a_table_of_somebody_else_is_refused(folder: Path) -> None:
    path = folder / "t.top.parquet"
    for metadata in (None, {"pandas": "{}"}, {"xbench": "{"}, {"xbench": b"\xff"}):
        pq.write_table(pa.table({"query_id": ["en:1"]}, metadata=metadata), path)
        assert refused(folder).startswith(f"{path}: not a Parquet file of xbench")


Change = Callable[[pa.Table, dict[str, Any]], pa.Table]


def column(name: str, values: Callable[[list[Any]], list[Any]]) -> Change:
    def change(table: pa.Table, about: dict[str, Any]) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, [values(table.column(name).to_pylist())])

    return change


def says(**changes: Any) -> Change:
    def change(table: pa.Table, about: dict[str, Any]) -> pa.Table:
        about.update(changes)
        return table

    return change


def changed(folder: Path, part: str, change: Change) -> Path:
    path = folder / f"t.{part}.parquet"
    table, about = read(path, [])
    table = change(table, about)
    pq.write_table(table.replace_schema_metadata({"xbench": json.dumps(about)}), path)
    return path


@pytest.mark.parametrize(
    ("part", "name"),
    [
        *(("ranks", name) for name in ("query_id", "doc_id", "language", "grade", "above_el")),
        *(("top", name) for name in ("query_id", "rank", "doc_id", "language")),
    ],
)
def test_a_missing_column_is_named(part: str, name: str, folder: Path) -> None:
    path = changed(folder, part, lambda table, about: table.drop_columns([name]))
    message = refused(folder)
    assert name in message and str(path if name != "above_el" else folder) in message


CONTRADICTIONS = [
    ("ranks", says(languages=["zh", "el"])),
    ("ranks", says(languages=["zh", "el", "th", "xx"])),
    ("ranks", says(languages=3)),
    ("ranks", says(sizes=["a", "b", "c"])),
    ("top", says(depth=-1)),
    ("top", says(depth=4)),
    ("top", says(depth="x")),
    ("top", says(depth=None)),
    *((p, column(c, lambda x: [None, *x[1:]])) for p in PARTS for c in ("query_id", "doc_id", "language")),
    *((p, column("language", lambda x: ["xx", *x[1:]])) for p in PARTS),
    *((p, column("doc_id", lambda x: [[1]] * len(x))) for p in PARTS),
    ("ranks", column("query_id", lambda x: ["xx:q", *x[1:]])),
    ("ranks", column("grade", lambda x: ["a"] * len(x))),
    ("top", column("rank", lambda x: [None, *x[1:]])),
    ("top", column("rank", lambda x: [6, *x[1:]])),
    ("top", column("rank", lambda x: [1.5] * len(x))),
    ("ranks", says(languages=["th", "el", "zh"])),  # not those of the other file
    ("top", says(languages=["th", "el", "zh"])),
    ("top", says(sizes=[1, 1, 1])),
    ("ranks", says(sizes=[1])),  # then an IndexError of `ranked`
    ("ranks", says(sizes=[-1, -1, -1])),
    ("ranks", says(sizes=[10**30, 1, 1])),  # OverflowError
    ("top", says(depth=10**12)),  # MemoryError
    ("top", column("rank", lambda x: [0, *x[1:]])),  # counted from the end: becomes the last place
    ("top", column("doc_id", lambda x: [x[1], *x[1:]])),  # the same passage twice
    ("ranks", column("grade", lambda x: [None, *x[1:]])),  # RuntimeWarning, and a grade of -2^63
    ("ranks", column("above_el", lambda x: [None, *x[1:]])),
    ("ranks", column("above_el", lambda x: ["a"] * len(x))),  # then a ValueError of `ranked`
    ("ranks", column("above_el", lambda x: [-1, *x[1:]])),  # retrieved, and not
    ("ranks", column("above_el", lambda x: [10**6] * len(x))),  # more than there are
    ("ranks", column("language", lambda x: ["el"] * len(x))),  # the other file has it in another
    ("ranks", lambda table, about: table.take([*range(len(table))][::-1])),  # `ranked` then loses queries
    ("ranks", lambda table, about: pa.concat_tables([table, table])),
]


@pytest.mark.parametrize(
    ("part", "change"),
    CONTRADICTIONS,
)
def test_contradictions_are_refused(part: str, change: Change, folder: Path) -> None:
    changed(folder, part, change)
    assert refused(folder).startswith(str(folder / "t.ranks.parquet"))


def test_other_encodings_of_the_same_content_are_read(folder: Path) -> None:
    """As another writer would leave them: plain strings, wide numbers, rows of the first passages in any order."""
    before = read_ranks(folder, "t")[0]
    for part in PARTS:
        changed(folder, part, lambda t, about: pa.Table.from_pylist(t.to_pylist()))
    changed(folder, "top", lambda t, about: t.take([*range(len(t))][::-1]))
    assert all(content(read_ranks(folder, "t")[0], cell) == content(before, cell) for cell in world(3).cells())
