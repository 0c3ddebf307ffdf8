"""Boards: their definition, and the order of rows."""

from pathlib import Path

import pytest
from boardfiles import BOARD, ROOT, boards

from xbench.errors import DataError, UsageError
from xbench.leaderboard.boards import board_names, load_board
from xbench.leaderboard.rows import Board, Column, Entry, Value
from xbench.leaderboard.sheet import best, heading, order
from xbench.tasks import task_names


def board(tmp_path: Path, old: str = "", new: str = "") -> Board:
    assert old in BOARD
    return load_board(boards(tmp_path, BOARD.replace(old, new) if old else BOARD), "b").board


def test_a_board(tmp_path: Path) -> None:
    definition = load_board(boards(tmp_path), "b")
    assert definition.reported == () and definition.results == ("*",)
    found = definition.board
    assert (found.name, found.title, found.description) == ("b", "A board", "")
    (task,) = found.tasks
    assert (task.name, task.version, task.settings) == ("mini", 1, ("mono", "cross", "multi"))
    assert found.columns[1] == Column("mini", "cross", "AP") and found.rank == Column("mini", "multi", "AP")
    assert found.detail == ("AP", "RankDistance")
    assert found.groupings["mini"]["script"]["Latn"] == ["de", "en", "es", "tr", "vi"]


def test_spellings_of_measures_and_several_tasks(tmp_path: Path) -> None:
    text = BOARD.replace("version = 1 }", 'version = 1 }, { name = "xquad-r", version = 1 }')
    for name in ("mono AP", "cross AP", "multi AP", "multi RankDistance"):
        text = text.replace(f'"{name}"', f'"xquad-r {name}"')
    found = load_board(boards(tmp_path, text.replace("mono AP", "mono mAP")), "b").board
    assert found.columns[0] == Column("xquad-r", "mono", "AP")
    assert [heading(found, column) for column in found.columns][:2] == ["xquad-r mono AP", "xquad-r cross AP"]


@pytest.mark.parametrize(
    ("said", "group"),
    [
        ('{ column = "multi AP", by = "script", group = "Latn" }', "script: multi: Latn"),
        ('{ column = "cross AP", by = "script", group = "Cyrl", where = "cross from" }', "script: cross from: Cyrl"),
        ('{ column = "cross AP", by = "script", group = "Latn > Cyrl" }', "script: cross: Latn > Cyrl"),
    ],
)
def test_columns_of_groups(tmp_path: Path, said: str, group: str) -> None:
    found = board(tmp_path, '"mono AP"', said)
    assert found.columns[0].group == group
    name = heading(found, found.columns[0])
    assert name.endswith(group if "from" in group else group.replace(": multi", "").replace(": cross:", ":"))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('name = "b"', 'name = "c"', "name: found 'c', expected that of the file"),
        ('title = "A board"', "", "no 'title'"),
        ('title = "A board"', "title = 3", "title: found 3, expected text"),
        ('title = "A board"', 'title = "A"\nextra = 1', "unknown key 'extra'"),
        ('title = "A board"', 'title = "A"\ncolums = 1', "did you mean 'columns'?"),
        ('title = "A board"', 'title = "A', "not TOML"),
        ('"mini"', '"minni"', "unknown task 'minni'; did you mean 'mini'?"),
        ("version = 1", "version = 2", "mini: found version 2, this xbench has version 1"),
        ("version = 1", "version = true", "mini: found version True"),
        ("version = 1", "version = 1, sha = 2", "tasks: unknown key 'sha'"),
        ('[{ name = "mini", version = 1 }]', '["mini"]', "tasks: found ['mini'], expected a list such as"),
        ("version = 1 }]", 'version = 1 }, { name = "mini", version = 1 }]', "mini is there twice"),
        ('"mono AP"', '"mono"', "columns[0]: 'mono': expected SETTING MEASURE"),
        ('"mono AP"', '"xquad-r mono AP"', "columns[0]: 'xquad-r mono AP': unknown task of this board"),
        ('"mono AP"', '"duo AP"', "unknown setting 'duo'"),
        ('"mono AP"', '"mono nDGC@10"', "unknown measure 'nDGC@10'"),
        ('"mono AP"', '"mono RankDistance"', "RankDistance exists in multi cells only"),
        ('"mono AP"', "7", "columns[0]: found 7"),
        ('"mono AP"', '"cross AP"', "is there twice"),
        ('"mono AP"', '{ column = "mono AP", by = "family", group = "x" }', "unknown grouping of this board 'family'"),
        ('"mono AP"', '{ column = "mono AP", by = "script", group = "Latin" }', "unknown group 'Latin'; did you mean"),
        (
            '"mono AP"',
            '{ column = "mono AP", by = "script", group = "Latn", where = "cross" }',
            "unknown where 'cross'",
        ),
        ('"mono AP"', '{ column = "mono AP", by = "script" }', "no 'group'"),
        ('rank = "multi AP"', 'rank = "multi RR"', "rank: 'multi RR' is none of the columns"),
        ('["AP", "RankDistance"]', '["RankDistance"]', "expected AP, the ranking measure, first"),
        ('["AP", "RankDistance"]', '["AP", "Ap@"]', "unknown measure"),
        ('by = ["script"]', 'by = "script"', "by: found 'script', expected a list of texts"),
        ('by = ["script"]', 'by = ["scripts"]', "unknown grouping 'scripts'"),
        ('by = ["script"]', 'reported = ["../x"]', "reported: found '../x'"),
        ('by = ["script"]', 'results = ["a", "a"]', "results: 'a' is there twice"),
    ],
)
def test_what_is_wrong_in_a_definition(tmp_path: Path, old: str, new: str, what: str) -> None:
    with pytest.raises(DataError) as error:
        board(tmp_path, old, new)
    assert what in str(error.value) and str(tmp_path / "b.toml") in str(error.value) and "\n" not in str(error.value)


def test_no_such_board(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown board 'bb'; did you mean 'b'"):
        load_board(boards(tmp_path), "bb")


def entry(name: str, value: float | None, column: Column) -> Entry:
    means = {} if value is None else {column: Value(value)}
    return Entry(name, "measured", "", {}, means, {})


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        ("multi AP", [("bz", 1), ("ca", 1), ("d", 3), ("a", 4), ("e", None), ("f", None)]),
        ("multi RankDistance", [("a", 1), ("d", 2), ("bz", 3), ("ca", 3), ("e", None), ("f", None)]),
    ],
)
def test_order_and_ranks(tmp_path: Path, rank: str, expected: list[tuple[str, int | None]]) -> None:
    detail = '["AP", "RankDistance"]', '["RankDistance"]'
    text = BOARD if "AP" in rank else BOARD.replace('rank = "multi AP"', f'rank = "{rank}"').replace(*detail)
    found = load_board(boards(tmp_path, text), "b").board
    values = {"f": None, "d": 0.5, "ca": 0.7, "bz": 0.7, "e": None, "a": 0.0}
    sheet = order(found, [entry(name, value, found.rank) for name, value in values.items()])
    assert [(e.name, n) for e, n in zip(sheet.entries, sheet.ranks, strict=True)] == expected
    assert best(sheet, found.rank) == (0.7 if "AP" in rank else 0.0) and best(sheet, found.columns[0]) is None


def test_the_boards_of_xbench() -> None:
    """Every task that can have results has a board, and each can be read."""
    names = board_names(ROOT / "leaderboards")
    found = [load_board(ROOT / "leaderboards", name) for name in names]
    assert {task.name for each in found for task in each.board.tasks} == set(task_names()) - {"wikihop"}
    sources = {path.stem for path in (ROOT / "leaderboards" / "reported").glob("*.csv")}
    assert sources == {name for each in found for name in each.reported}
