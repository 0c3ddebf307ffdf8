"""Rows of stored results, and tables made of them."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boardfiles import BOARD, ROOT, SLUG, boards, changed, copied, table_changed
from click.testing import CliRunner
from markdown_it import MarkdownIt
from markdown_it.token import Token

from xbench.cli import cli
from xbench.errors import DataError, IntegrityError
from xbench.leaderboard import render
from xbench.leaderboard.boards import load_board
from xbench.leaderboard.build import build, check, rendered
from xbench.leaderboard.entries import entries
from xbench.leaderboard.rows import Column, Entry, Key, Measured, Reported, Sheet, Value
from xbench.leaderboard.sheet import build_sheet
from xbench.leaderboard.sums import write_sums
from xbench.storage import sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A board with a measured row, which is listed, and a reported one."""
    found = boards(tmp_path / "boards", BOARD + 'reported = ["s"]\n')
    path = copied(found / "results")
    write_sums(found / "results", {f"{SLUG}/{path.name}": sha256(path)})
    (found / "reported").mkdir()
    (found / "reported" / "s.toml").write_text(
        'source = "S"\ntitle = "T"\nurl = "https://example.org/a"\nnote = "N."\n'
    )
    lines = ["mini,1,A,multi,mean,,,AP,0.5,Table 1", "mini,1,A,mono,mean,,,AP,0.25,Table 2"]
    header = "task,version,system,setting,query_language,passage_language,group,measure,value,where"
    (found / "reported" / "s.csv").write_text("\n".join([header, *lines]) + "\n")
    return found


def measured(folder: Path) -> Entry:
    return next(e for e in entries(load_board(folder, "b"), folder) if e.kind == "measured")


def test_a_measured_row(folder: Path) -> None:
    path = folder / "results" / SLUG / "mini.json"
    content = json.loads(path.read_text())
    found = measured(folder)
    assert (found.name, found.revision, found.note, found.missing) == ("hash", "", "", {})
    version = content["environment"]["xbench"]
    origin = Measured(f"results/{SLUG}/mini.json", sha256(path), "xbench run hash -t mini", version)
    assert found.origins == {"mini": origin}
    for setting, measure in (("mono", "AP"), ("cross", "AP"), ("multi", "AP"), ("multi", "RankDistance")):
        value = found.means[Column("mini", setting, measure)]
        assert value == (content["summary"][setting][measure], *content["intervals"][setting][measure])
    assert len(found.cells["mini"]) == 132
    (cell,) = (c for c in content["cells"] if (c["query_language"], c["passage_languages"]) == ("ar", ["de"]))
    assert found.cells["mini"][Key("cross", "ar", "de")] == cell["values"]


def without_a_cell(content: Any) -> None:
    content["cells"] = [c for c in content["cells"] if (c["setting"], c["query_language"]) != ("multi", "de")]


def test_a_missing_cell_has_no_mean(folder: Path) -> None:
    """Its setting has no mean, whatever the summary says; the others keep theirs."""
    path = changed(folder / "results" / SLUG / "mini.json", without_a_cell)
    write_sums(folder / "results", {f"{SLUG}/mini.json": sha256(path)})
    found = measured(folder)
    assert found.missing == {"mini": 1}
    assert set(found.means) == {Column("mini", "mono", "AP"), Column("mini", "cross", "AP")}
    sheet = build_sheet(load_board(folder, "b"), folder)
    assert [entry.name for entry in sheet.entries] == ["A", "hash"] and sheet.ranks == (1, None)


def test_some_languages_are_an_incomplete_row(tmp_path: Path) -> None:
    """Mono and cross cells of fewer languages are the same cells; a joint pool of fewer is another."""
    folder = boards(tmp_path)
    copied(folder / "results", languages=("de", "en", "ru"))
    found = measured(folder)
    assert found.means == {} and len(found.cells["mini"]) == 9
    assert found.missing == {"mini": 132 - 9} and "3 cells of other pools" in found.note


def test_groups(tmp_path: Path) -> None:
    columns = '{ column = "multi AP", by = "script", group = "Latn" }, '
    columns += '{ column = "cross AP", by = "script", group = "Cyrl > Latn" }'
    folder = boards(tmp_path, BOARD.replace("columns = [", f"columns = [{columns}, "))
    path = copied(folder / "results")
    content = json.loads(path.read_text())
    latin = ("de", "en", "es", "tr", "vi")
    multi = [c["values"]["AP"] for c in content["cells"] if c["setting"] == "multi" and c["query_language"] in latin]
    cross = [
        c["values"]["AP"]
        for c in content["cells"]
        if c["query_language"] == "ru" and c["passage_languages"][0] in latin and c["setting"] == "cross"
    ]
    found = list(measured(folder).means.values())
    assert len(multi) == len(cross) == 5
    assert found[0].value == pytest.approx(sum(multi) / 5) and found[1].value == pytest.approx(sum(cross) / 5)
    assert found[0].low is None  # the result was made without these groups


def other_task(content: Any) -> None:
    content["task"]["sha256"] = "0" * 64


def test_another_version_of_the_task_is_refused(folder: Path) -> None:
    path = changed(folder / "results" / SLUG / "mini.json", other_task)
    write_sums(folder / "results", {f"{SLUG}/mini.json": sha256(path)})
    with pytest.raises(IntegrityError, match=r"made on mini version 1 \(000000000000\), this is version 1"):
        measured(folder)


def hand_edited(content: Any) -> None:
    content["cells"][0]["values"]["AP"] = 0.99


def test_a_result_that_is_not_listed_is_checked(folder: Path) -> None:
    changed(folder / "results" / SLUG / "mini.json", hand_edited)
    with pytest.raises(IntegrityError, match="not what its queries give"):
        build(folder)


def too_good(content: Any) -> None:
    content["summary"]["multi"]["AP"] = 0.999


def narrow(content: Any) -> None:
    content["intervals"]["multi"]["AP"] = [0.0881, 0.0882]


def no_numbers(content: Any) -> None:
    content["intervals"]["multi"]["AP"] = ["x", "y"]


@pytest.mark.parametrize("edit", [too_good, narrow, no_numbers])
@pytest.mark.parametrize("listed", [True, False])
def test_means_and_intervals_that_do_not_follow_are_not_shown(folder: Path, edit: Any, listed: bool) -> None:
    """Neither of a file that is another than the list has, nor of one that no list has."""
    changed(folder / "results" / SLUG / "mini.json", edit)
    if not listed:
        (folder / "results" / "SHA256SUMS").unlink()
    with pytest.raises(IntegrityError, match="but its queries give"):
        measured(folder)


def test_folders_that_are_not_their_models(folder: Path) -> None:
    (folder / "results" / SLUG).rename(folder / "results" / "other")
    with pytest.raises(DataError, match="in a folder 'other', expected 'hash-"):
        measured(folder)


@pytest.mark.parametrize("broken", [{}, {"task": {"name": "mini"}}, [], {"model": []}])
def test_broken_results_are_bad_data(folder: Path, broken: Any) -> None:
    """Even where the list of hashes has them."""
    path = folder / "results" / SLUG / "mini.json"
    path.write_text(json.dumps(broken))
    write_sums(folder / "results", {f"{SLUG}/mini.json": sha256(path)})
    with pytest.raises(DataError, match="not whole result files"):
        measured(folder)


def test_patterns_of_results(folder: Path) -> None:
    for pattern, number in (("hash-*", 1), (f"{SLUG}/mini.json", 1), ("bm25-*", 0), ("*/xquad-r.json", 0)):
        boards(folder, BOARD + f'results = ["{pattern}"]\n')
        assert len(entries(load_board(folder, "b"), folder)) == number


def test_tables(folder: Path) -> None:
    sheet = build_sheet(load_board(folder, "b"), folder)
    text = render.markdown(sheet)
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert rows[0] == (
        "| rank | model | kind | revision | mono AP | cross AP | multi AP | multi RankDistance | missing |"
    )
    assert rows[2] == "| 1 | A | reported |  | 0.25 | – | **0.5** | – | 132 |"
    link = f"](../results/{SLUG}/mini.json)"
    assert re.fullmatch(rf"\| 2 \| hash \| measured \|  \| \[\*\*0\.\d{{4}}\*\*{re.escape(link)} \| .* \|  \|", rows[3])
    assert "[S](https://example.org/a), Table 1, Table 2 | N. |" in text and "xbench run hash -t mini" in text
    lines = list(csv.reader(io.StringIO(render.csv_text(sheet))))
    mean = sheet.entries[1].means[sheet.board.rank]
    assert lines[0][10:13] == ["multi AP", "multi AP low", "multi AP high"]
    assert [float(n) for n in lines[2][10:13]] == list(mean) and lines[1][10:13] == ["0.5", "", ""]
    assert lines[1][-2] == "S, Table 1, Table 2, https://example.org/a" and lines[2][-2] == f"results/{SLUG}/mini.json"
    tex = render.latex_text(sheet)
    assert r"1 & A$^\dagger$ & 0.25 & -- & \textbf{0.5} & -- \\" in tex
    assert tex.count("&") == 3 * (2 + 4 - 1) and "hash &" in tex


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "a | b | c",
    "`code` **bold** _it_ ~~no~~",
    "https://evil.example www.evil.example me@evil.example",
    "&lt;b&gt; &#60;",
    "$\\input{/etc/passwd}$ \\write18{ls} % # ^ {",
    '=HYPERLINK("https://evil.example")',
    "+1+1",
    "-2",
    "@SUM(A1)",
    "a\nb\r\nc\td",
    "\x1b[31mred\x1b[0m \x07",
    "\u202egnp.exe \u2066x\u2069 \u200b",
    "# heading",
    "- item",
    "1. item",
    "---",
    "\\",
    "<!-- x -->",
    '"><svg onload=alert(1)>',
    "'; drop table",
]


def hostile(text: str) -> Sheet:
    definition = load_board(ROOT / "leaderboards", "mini")
    board = definition.board
    column = board.rank
    rows = (
        Entry(
            text,
            "measured",
            text,
            {"mini": Measured(f"results/{SLUG}/mini.json", "0" * 64, text, text)},
            {},
            {},
            {},
            text,
        ),
        Entry(
            text, "reported", "", {"mini": Reported(text, text, "https://example.org", text)}, {column: Value(0.5)}, {}
        ),
    )
    return Sheet(replace(board, title=text, description=text), rows, (None, 1))


def tokens(text: str) -> list[Token]:
    found = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
    return [token for top in found for token in (top, *(top.children or []))]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text: str) -> None:
    sheet, plain = hostile(text), hostile("plain")
    kinds = [token.type for token in tokens(render.markdown(sheet)) if token.type != "text_special"]
    usual = [token.type for token in tokens(render.markdown(plain))]

    def merged(types: list[str]) -> list[str]:
        return [kind for kind in types if kind not in ("text", "text_special", "softbreak")]

    assert merged(kinds) == merged(usual)
    bare = render.markdown(sheet).replace("https://example.org", "")
    assert not re.search(
        r"(?<!\\)(://|@)|www\.|(?<!\\)\$", bare.replace("\\:", "").replace("@10", "")
    )  # no links of GitHub's
    shown = "".join(token.content for token in tokens(render.markdown(sheet)) if not token.children)
    visible = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).strip()
    assert visible in shown or visible.replace("\\n", " ") in shown
    for made in (render.markdown, render.csv_text, render.latex_text):
        assert all(c.isprintable() or c == "\n" for c in made(sheet))
        assert made(sheet).count("\n") == made(plain).count("\n")
    for row in csv.reader(io.StringIO(render.csv_text(sheet))):
        assert not any(field.startswith(("=", "+", "@", "-")) for field in row)
    assert not re.search(r"(?<!\\)(?:\\\\)*[%#_](?!.*made by)", render.latex_text(sheet).split("\n", 1)[1])
    assert "\\write18" not in render.latex_text(sheet).replace("textbackslash{}write18", "")


def test_build_twice_gives_the_same_bytes_and_check_sees_every_change(folder: Path) -> None:
    assert build(folder) == [*rendered(folder)]
    assert build(folder) == []
    assert check(folder) == len(rendered(folder))
    for path in rendered(folder):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0", b"1", 1) + b" ")
        with pytest.raises(IntegrityError, match=rf"1 of \d+ files are stale: {re.escape(str(path))}; run"):
            check(folder)
        path.unlink()
        with pytest.raises(IntegrityError, match="stale"):
            check(folder)
        assert build(folder) == [path] and path.read_bytes() == content
    (folder / "tables" / "gone.md").write_text("x")
    with pytest.raises(IntegrityError, match="gone.md"):
        check(folder)
    assert build(folder) == [folder / "tables" / "gone.md"] and not (folder / "tables" / "gone.md").exists()


def test_the_command(folder: Path) -> None:
    arguments = ["leaderboard", "build", "--folder", str(folder)]
    done = CliRunner().invoke(cli, [*arguments, "b"])
    assert done.exit_code == 0 and str(folder / "tables" / "b.md") in done.output
    assert not (folder / "README.md").exists()  # of all boards only
    assert CliRunner().invoke(cli, arguments).exit_code == 0 and (folder / "README.md").is_file()
    assert CliRunner().invoke(cli, [*arguments, "--check"]).exit_code == 0
    (folder / "tables" / "b.csv").unlink()
    failed = CliRunner().invoke(cli, [*arguments, "--check"])
    assert isinstance(failed.exception, IntegrityError) and failed.exception.exit_code == 7
    assert not (folder / "tables" / "b.csv").exists()


def test_a_folder_without_boards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no boards; expected a folder with files BOARD.toml"):
        build(tmp_path)


def test_the_committed_tables_are_not_stale() -> None:
    """So a pull request that changes a number without its tables fails here."""
    assert check(ROOT / "leaderboards") > 3


def test_a_run_that_lacks_queries_says_so(folder: Path) -> None:
    def lost(content: Any) -> None:
        content["cells"][0]["missing"] = 7

    path = changed(folder / "results" / SLUG / "mini.json", lost)
    write_sums(folder / "results", {f"{SLUG}/mini.json": sha256(path)})
    assert measured(folder).note == "mini: nothing retrieved for 7 queries of cells, which count 0."


def test_a_table_that_lacks_a_row_is_refused(folder: Path) -> None:
    (folder / "results" / "SHA256SUMS").unlink()
    table_changed(folder / "results" / SLUG / "mini.json", lambda t: [column.pop() for column in t.values()] and None)
    with pytest.raises(DataError, match="has 48 queries, its per-query file 47"):
        measured(folder)
