"""Shards searched one after the other against the whole pool in memory, and against a slow sort."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_ranking import KINDS, Case, make, slow_above, slow_order, spy

from xbench import sharded
from xbench.census import Known, take_census
from xbench.errors import DataError, IntegrityError
from xbench.folders import LocalFolder
from xbench.ranking import Pool, passages_above
from xbench.records import Judged
from xbench.shard import Shard
from xbench.sharded import Ranks, search
from xbench.top import first_passages

Matrix = NDArray[np.float32]


def shard(folder: Path, vectors: Matrix, ids: Sequence[str], start: int = 0) -> Shard:
    """A shard on disk, written out by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", vectors)
    (folder / "x.ids").write_text("".join(f"{doc_id}\n" for doc_id in ids), encoding="utf-8", newline="")
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("x.npy", "x.ids")]
    about = (LocalFolder(folder), 0, Path("docs.jsonl.gz"), start, len(ids), True, vectors.shape[1], *digests, None)
    for name, to in zip(("x.npy", "x.ids"), Shard(*about).files.values(), strict=True):
        (folder / name).rename(folder / to)
    return Shard(*about)


def cut(folder: Path, case: Case, size: int) -> list[list[Shard]]:
    """The pieces of a case as groups of shards of `size` passages."""
    groups, done = [], 0
    for g, piece in enumerate(case.pieces):
        groups.append(
            [
                shard(folder / f"{g}.{i}", piece[i : i + size], case.doc_ids[done + i : done + len(piece)][:size], i)
                for i in range(0, len(piece), size)
            ]
        )
        done += len(piece)
    return groups


def asked(case: Case, groups: list[list[Shard]]) -> tuple[Matrix, list[list[Shard]], Judged, Known]:
    """What `search` is asked; the judged passages come from the shards."""
    wanted = {case.doc_ids[row] for row in case.judged.rows}
    each = [take_census(some, wanted) for some in groups]
    known = Known(
        [a for one in each for a in one.doc_ids], np.concatenate([one.vectors for one in each if one.doc_ids])
    )
    place = {doc_id: i for i, doc_id in enumerate(known.doc_ids)}
    rows = np.array([place[case.doc_ids[row]] for row in case.judged.rows], np.int64)
    return np.concatenate(case.queries), groups, case.judged._replace(rows=rows), known


def check(case: Case, ranks: Ranks, k: int) -> None:
    pool = Pool(case.pieces, case.doc_ids)
    assert ranks.above.tobytes() == passages_above(case.queries, pool, case.judged).tobytes()
    expected = [[case.doc_ids[row] for row in rows] for rows in first_passages(case.queries, pool, k)]
    assert ranks.top == expected


@pytest.mark.parametrize("d", [3, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_the_whole_pool(kind: str, d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicates, near-duplicates and ties within shards, across them, across languages, and across the k border."""
    case = make(kind, d)
    expected = slow_above(case)
    orders = [
        [case.doc_ids[row] for row in slow_order(query, np.concatenate(case.pieces), case.doc_ids)]
        for query in np.concatenate(case.queries)
    ]
    for size, k in ((11, 7), (50, 30), (500, 10**6)):
        groups = cut(tmp_path / f"{size}", case, size)
        found = search(*asked(case, groups), k, tmp_path / "searches")
        np.testing.assert_array_equal(found.above, expected)
        assert found.top == [order[:k] for order in orders]
        check(case, found, k)


@pytest.mark.parametrize("kind", ["normal", "copies", "grid", "constant"])
def test_pools_in_which_a_floor_is_looked_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(kind, 32, (2300, 900), (40, 25))
    groups = cut(tmp_path, case, 700)
    sums = spy(monkeypatch, sharded, "exact_scores")
    for threads in (1, 2):
        check(case, search(*asked(case, groups), 20, tmp_path / f"{threads}", threads=threads), 20)
    # An exact sum for each passage that may be among the first; one for all of them of a model that ties everything.
    assert sum(len(queries) for queries, _ in sums) <= 2 * 65 * 6 * (1 if kind == "constant" else 20)


def test_late_shards_give_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the k-th best score so far as floor, few passages are looked at."""
    case = make("normal", 16, (4000,), (30,))
    results: list[int] = []
    original = sharded.first_passages

    def counted(*args: object, **options: object) -> NDArray[np.int32]:
        rows = original(*args, **options)  # type: ignore[arg-type]
        results.append(int((rows >= 0).sum()))
        return rows

    monkeypatch.setattr(sharded, "first_passages", counted)
    check(case, search(*asked(case, cut(tmp_path, case, 500)), 10, tmp_path), 10)
    assert results[0] == 300 and sum(results[4:]) < 300


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each shard in turn; what is done is not searched again, and the numbers are those of one go."""
    monkeypatch.setattr(sharded, "KEEP_SECONDS", -1.0)
    case = make("copies", 8, (60, 50), (9, 4))
    job = asked(case, cut(tmp_path, case, 20))
    pools = spy(monkeypatch, sharded, "passages_above")
    for stop in range(1, 6):
        steps: list[int] = []

        def advance(rows: int, steps: list[int] = steps, stop: int = stop) -> None:
            steps.append(rows)
            if len(steps) == stop + 1:
                raise KeyboardInterrupt

        folder = tmp_path / f"{stop}"
        with pytest.raises(KeyboardInterrupt):
            search(*job, 15, folder, advance=advance)
        pools.clear()
        done: list[int] = []
        check(case, search(*job, 15, folder, advance=done.append), 15)
        assert sum(done) == 110 and len(pools) == 6 - (stop - 1)
        pools.clear()
        check(case, search(*job, 15, folder), 15)
        assert pools == []
    for changed in (14, 15):  # another k, other queries: another search
        queries = job[0] if changed == 14 else job[0][::-1]
        pools.clear()
        search(queries, *job[1:], changed, folder)
        assert len(pools) == 6


def test_what_is_kept_of_a_search_is_checked(tmp_path: Path) -> None:
    case = make("normal", 8, (60, 50), (9, 4))
    job = asked(case, cut(tmp_path, case, 20))
    search(*job, 15, tmp_path / "searches")
    (file,) = (tmp_path / "searches").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match="delete it"):
        search(*job, 15, tmp_path / "searches")


def test_no_judged_no_passages_no_k(tmp_path: Path) -> None:
    case = make("normal", 8, (60, 50), (9, 4))
    queries, groups, judged, known = asked(case, cut(tmp_path, case, 20))
    nothing = Judged(np.zeros(14, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    nobody = Known([], np.empty((0, 8), np.float32))
    found = search(queries, groups, nothing, nobody, 5, tmp_path / "a")
    assert found.above.shape == (0, 2)
    assert found.top == search(queries, groups, judged, known, 5, tmp_path / "b").top
    assert search(queries, groups, judged, known, 0, tmp_path / "c").top == [[]] * 13
    assert search(queries, [[], []], nothing, nobody, 5, tmp_path / "d").top == [[]] * 13


def test_a_census_names_what_occurs_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"a:{i}" for i in range(30)]
    vectors = np.arange(30, dtype=np.float32)[:, None]
    parts = [shard(tmp_path / f"{i}", vectors[i : i + 10], ids[i : i + 10], i) for i in (0, 10, 20)]
    known = take_census(parts, {"a:3", "a:25", "b:1", "a:20"})
    assert known.doc_ids == ["a:3", "a:20", "a:25"] and known.vectors[:, 0].tolist() == [3, 20, 25]
    # Equal hashes of other ids are no duplicates; 7 hashes for 30 ids.
    monkeypatch.setattr("xbench.census._hashes", lambda ids: np.array([int(i[2:]) % 7 for i in ids], np.uint64))
    assert take_census(parts, set()).vectors.shape == (0, 1)
    for collide in (True, False):
        if not collide:
            monkeypatch.undo()
        ids[24] = "a:7"
        twice = [*parts[:2], shard(tmp_path / f"twice{collide}", vectors[20:], ids[20:], 20)]
        with pytest.raises(DataError, match=r"^docs.jsonl.gz: row 25: doc_id 'a:7' .* docs.jsonl.gz: row 8$"):
            take_census(twice, set())


def test_shards_that_hold_one_passage_each(tmp_path: Path) -> None:
    case = make("grid", 5, (17, 3), (4, 2))
    for k in itertools.chain(range(1, 5), (20,)):
        check(case, search(*asked(case, cut(tmp_path / f"{k}", case, 1)), k, tmp_path), k)
