"""Tables: what is in them, and names that would break out of them."""

import csv
import io
import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from test_results import small

from xbench.records import Cell
from xbench.tables import Table, print_rich, render, shown, tables

HOSTILE = [
    *("a|b", "\\|c", "a\\", "<script>alert(1)</script>", "<https://e.example>", "&%$#_{}~^\\", 'a,"b"', "[1pt]", "*"),
    *("=1+2", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "x\r=1+2", "x\n=1+2", "x\n\n| a | b |", "\uff1d1+2"),
    *("[x](https://e.example)", "![x](https://e.example)", "[red]b[/red]", "[/]", "\x1b[31mred", "\x1b]0;title\x07"),
]


def hostile(name: str) -> Table:
    return Table(f"summary of {name}: means", [name, "b", name], [[name, 0.5, None], ["x", name, 1], [name, name, 2]])


def test_what_the_tables_hold() -> None:
    mono, cross, counts, multi, summary = tables(small(), "AP")
    assert mono.columns == ["language", "queries", "passages", "AP", "RR"]
    assert mono.rows == [["de", 3, 5, pytest.approx(0.3), 0.5], ["en", 1, 7, 0.7, 1.0]]
    assert multi.columns == [*mono.columns, "RankDistance"]
    assert multi.rows == [["de", 3, 16, 0.25, pytest.approx(1 / 3), 6.0], ["en", 1, 16, 1 / 3, 1.0, 14.0]]
    # The diagonal is mono, and the mean is without it.
    columns = ["query", "de", "en", "fr"]  # French has no queries, but passages
    assert cross.columns == [*columns, "mean"] and counts.columns == columns
    assert cross.rows == [["de", pytest.approx(0.3), 0.375, None, 0.375], ["en", 0.875, 0.7, 0.125, 0.5]]
    assert counts.rows == [["de", 3, 2, 0], ["en", 1, 1, 1]]
    means = small().summary()
    assert summary.columns == ["setting", "cells", "queries", "AP", "RR", "RankDistance"]
    assert [row[:3] for row in summary.rows] == [["mono", 2, 4], ["cross", 3, 4], ["multi", 2, 4]]
    assert [row[3:] for row in summary.rows] == [[values.get(m) for m in means["multi"]] for values in means.values()]


def test_a_value_that_is_not_there_is_a_dash() -> None:
    cells = small().cells
    cross = tables(small(cells=[replace(cells[2], query_ids=[], values={}), cells[4]]), "AP")[0]
    assert cross.rows == [["de", None, None, None], ["en", 0.875, None, 0.875]]
    assert render([cross], "md").split("\n")[4:6] == ["| de | – | – | – |", "| en | 0.8750 | – | 0.8750 |"]
    assert "de & -- & -- & -- \\\\\n" in render([cross], "tex") and "\nde,,,\nen,0.875,,0.875" in render([cross], "csv")
    values = [None, 0.5, 1 / 3, 9.9, 10.0, 410.25, -0.5, 1190, 0, 0.0, "en"]
    assert " ".join(map(shown, values)) == "– 0.5000 0.3333 9.9000 10.0 410.2 -0.5000 1190 0 0.0000 en"


def test_few_pairs_of_languages_are_a_list() -> None:
    result = small()
    cross = [cell for cell in result.cells if cell.cell.setting == "cross"][:1]
    three = [replace(cross[0], cell=Cell("cross", a, ("en",))) for a in ("ar", "de", "el")]
    (table, *_) = tables(small(cells=three), "AP")
    assert table.columns == ["query-passage", "queries", "passages", *cross[0].values]
    assert [row[0] for row in table.rows] == ["ar-en", "de-en", "el-en"]
    assert table.rows[2][1:] == [len(cross[0].query_ids), cross[0].passages, *cross[0].values.values()]
    # Four of nine pairs are a list, five are a matrix.
    pairs = [("ar", "de"), ("de", "el"), ("el", "ar"), ("ar", "el"), ("de", "ar")]
    five = [replace(cross[0], cell=Cell("cross", a, (b,))) for a, b in pairs]
    assert tables(small(cells=five[:4]), "AP")[0].columns[0] == "query-passage"
    assert tables(small(cells=five), "AP")[0].columns == ["query", "ar", "de", "el", "mean"]


def test_csv_holds_full_precision() -> None:
    rows = list(csv.reader(io.StringIO(render(tables(small(), "AP")[3:4], "csv"))))
    assert rows[1] == ["language", "queries", "passages", "AP", "RR", "RankDistance"]
    assert rows[2:] == [["de", "3", "16", "0.25", repr(1 / 3), "6.0"], ["en", "1", "16", repr(1 / 3), "1.0", "14.0"]]
    assert "x,-0.25,-3" in render([Table("t", ["a", "b", "c"], [["x", -0.25, -3]])], "csv"), "a number, not text"


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_in_markdown(name: str) -> None:
    text = render([hostile(name)], "md")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = [token.type for token in tokens]
    assert [kinds.count(kind) for kind in ("table_open", "th_open", "tr_open", "td_open")] == [1, 3, 4, 9]
    assert kinds[:3] == ["paragraph_open", "inline", "paragraph_close"] and kinds.count("paragraph_open") == 1
    inline = {child.type for token in tokens for child in token.children or []}
    assert not inline & {"html_inline", "link_open", "image"} and "\x1b" not in text
    head = tokens[kinds.index("th_open") + 1].children or []
    assert not name.isprintable() or "".join(child.content for child in head) == name


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_in_csv(name: str) -> None:
    text = render([hostile(name)._replace(title=name)], "csv")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [len(row) for row in rows] == [1, 3, 3, 3, 3] and "\x1b" not in text
    assert not any(value.startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")) for row in rows for value in row)
    assert not name.isprintable() or rows[1][0].removeprefix("'") == name


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_in_latex(name: str) -> None:
    text = render([hostile(name)], "tex")
    comment, *lines = text.rstrip("\n").split("\n")
    assert comment.startswith("% ") and len(lines) == 9 and not re.search(r"[\x00-\x08\x0b-\x1f]", text)
    for line in (lines[2], *lines[4:7]):
        bare = re.sub(r"^\{\}|\\text(backslash|asciitilde|asciicircum)\{\}|\\[&%$#_{}]", "", line)
        assert bare.endswith(r" \\") and bare.count("&") == 2 and not re.search(r"[%$#_{}~^\\]", bare[:-2])
        assert not line.startswith(("[", "*")), "would be an argument of the line above"


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_names_on_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rich([*tables(small(), "AP"), hostile(name), Table("wide", list("abcdefghijklmnop"), [[0.1235] * 16])])
    out = capsys.readouterr().out
    assert "small mono" in out and out.count("0.1235") == 16 and not re.search(r"[\x00-\x09\x0b-\x1f]", out)
    assert not name.startswith("[") or name in out.replace("\n", "")
