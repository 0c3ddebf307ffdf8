"""Numbers that others have printed: the committed ones against their originals, and what is refused."""

import csv
import re
from decimal import Decimal
from pathlib import Path

import pytest
from boardfiles import BOARD, ROOT, boards

from xbench.errors import DataError
from xbench.leaderboard.boards import board_names, load_board
from xbench.leaderboard.entries import entries
from xbench.leaderboard.reported import HEADER, MEAN, Source, mean_name, read_source, recomputed
from xbench.leaderboard.rows import Column, Key, Reported

BOARDS = ROOT / "leaderboards"
REFERENCE = ROOT.parent / "shared" / "reference"
SOURCES = sorted(path.stem for path in (BOARDS / "reported").glob("*.csv"))
ABOUT = 'source = "S"\ntitle = "T"\nurl = "https://example.org/a"\n'
LINE = "mini,1,A,mono,en,,,AP,0.5,Table 1"


def source(folder: Path, *lines: str, about: str = ABOUT) -> Source:
    (folder / "reported").mkdir(exist_ok=True)
    (folder / "reported" / "s.toml").write_text(about, encoding="utf-8")
    (folder / "reported" / "s.csv").write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return read_source(folder, "s")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="NO REFERENCE TABLES beside the checkout")
def test_all_values_of_the_paper() -> None:
    """Row by row as transcribed from its tables, independently of this folder."""
    tasks = {"XQuAD-R": "xquad-r", "MLQA-R": "mlqa-r", "MIRACL": "miracl"}
    with (REFERENCE / "arxiv-2408.10536.csv").open(encoding="utf-8") as file:
        right = {
            (
                tasks[r["dataset"]],
                f"{r['base_model']} {r['sampling']}",
                r["setting"],
                r["query_language"],
                r["measure"],
            ): (r["value"], r["source"])
            for r in csv.DictReader(file)
        }
    rows = read_source(BOARDS, "arxiv-2408.10536").rows
    found = {(r.task, r.system, r.key.setting, r.key.query_language, r.measure): (str(r.value), r.where) for r in rows}
    assert len(right) == len(rows) == 1032 and found == right


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="NO REFERENCE TABLES beside the checkout")
def test_all_values_of_miracl() -> None:
    systems = {"bm25": "BM25", "mdpr": "mDPR", "hybrid": "BM25 + mDPR", "mcontriever": "mContriever"}
    groups = {"avg 18": (MEAN, ""), "avg 16** (no de yo)": (MEAN, "average: mono: 16")}
    with (REFERENCE / "miracl-v1.0-dev-baselines.csv").open(encoding="utf-8") as file:
        right = {
            (systems[key.partition("_")[0]], *groups.get(r["language"], (r["language"], "")), key.partition("_")[2]): v
            for r in csv.DictReader(file)
            for key, v in r.items()
            if "_nDCG" in key or "_R@" in key
        }
    rows = read_source(BOARDS, "miracl-v1.0").rows
    found = {(r.system, r.key.query_language, r.group, r.measure): r.value for r in rows}
    assert len(rows) == 160 and found == {key: Decimal(v) for key, v in right.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_printed_means_are_those_of_the_printed_values(name: str) -> None:
    """By hand here; to half a unit of rounding on either side, but for the listed misprints."""
    found = read_source(BOARDS, name)
    for row in found.rows:
        if row.key.query_language != MEAN:
            continue
        sub = {"average: mono: 15": {"de", "en", "yo"}, "average: mono: 16": {"de", "yo"}}.get(row.group, set())
        own = [
            r.value
            for r in found.rows
            if (r.task, r.system, r.key.setting, r.measure) == (row.task, row.system, row.key.setting, row.measure)
            and r.key.query_language not in {MEAN, *sub}
        ]
        if own:
            wrong = abs(sum(own) / len(own) - row.value) > Decimal(1).scaleb(int(row.value.as_tuple().exponent))
            assert wrong == (mean_name(row) in found.misprints), row
    if name == "arxiv-2408.10536":
        means = [row for row in found.rows if row.key.query_language == MEAN]
        assert len(list(recomputed(found.rows))) == len(means) == 96 and not found.misprints


def test_sentences_with_and_without_their_paragraph_never_share_a_board() -> None:
    """As protocol.md decides: LAReQA's candidates have their paragraph, those of xquad-r and mlqa-r have not."""
    folder = ROOT / "leaderboards"
    for name in board_names(folder):
        found = load_board(folder, name)
        rows = entries(found._replace(results=()), folder)
        kinds = {"the sentence and its paragraph" in o.note for e in rows for o in e.origins.values() if o.note}
        assert len(kinds) <= 1 and not (True in kinds and found.results), name


def test_unverified_numbers_say_so() -> None:
    board = load_board(BOARDS, "lareqa")
    rows = {e.name: e for e in entries(board._replace(results=()), BOARDS) if "XTREME-R" in str(e.origins)}
    for name in ("mBERT", "XLM-R Large"):
        (origin,) = rows[name].origins.values()
        assert isinstance(origin, Reported)
        assert "Not verified" in origin.note and "from memory" in origin.where


def test_an_entry(tmp_path: Path) -> None:
    """Printed means as printed, others only where all of their cells are there."""
    folder = boards(tmp_path, BOARD + 'reported = ["s"]\n')
    languages = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
    source(
        folder,
        *(f"mini,1,A,mono,{a},,,AP,0.{i:02},Table 1" for i, a in enumerate(languages)),
        *(f"mini,1,A,cross,{a},,,AP,0.{i + 20},Table 2" for i, a in enumerate(languages)),
        *(f"mini,1,A,multi,{a},,,AP,0.5,Table 2" for a in languages[1:]),
        "mini,1,A,multi,mean,,,RankDistance,512.25,Table 3",
        "mini,1,B,multi,mean,,,AP,0.375,Table 9",
        about=ABOUT + 'note = "N."\n[tasks]\nmini = "M."\n[systems]\nA = "O."\n',
    )
    definition = load_board(folder, "b")
    a, b = entries(definition, folder)
    assert (a.name, a.kind, a.revision, a.note) == ("A", "reported", "", "O.")
    assert a.origins == {"mini": Reported("S", "Table 1, Table 2, Table 3", "https://example.org/a", "N. M. O.")}
    mono, cross, multi, distance = definition.board.columns
    assert {c: round(v.value, 12) for c, v in a.means.items()} == {mono: 0.05, cross: 0.25, distance: 512.25}
    assert a.cells["mini"][Key("cross", "de")] == {"AP": 0.21} and a.missing == {"mini": 1}
    assert b.means == {multi: (0.375, None, None)} and b.missing == {"mini": 132} and b.cells == {"mini": {}}


def test_means_of_groups(tmp_path: Path) -> None:
    column = '{ column = "mono AP", by = "script", group = "Cyrl" }, '
    column += '{ column = "cross AP", by = "script", group = "Latn", where = "cross from" }, '
    column += '{ column = "cross AP", by = "script", group = "Cyrl", where = "cross to" }, '
    folder = boards(tmp_path, BOARD.replace("columns = [", f"columns = [{column}") + 'reported = ["s"]\n')
    lines = ["mini,1,A,mono,ru,,,AP,0.25,T"]
    source(folder, *lines, *(f"mini,1,A,cross,{a},,,AP,0.5,T" for a in ("de", "en", "es", "tr", "vi")))
    definition = load_board(folder, "b")
    (found,) = entries(definition, folder)
    cyrl, latn_from, _, *_ = definition.board.columns
    assert {c: v.value for c, v in found.means.items()} == {cyrl: 0.25, latn_from: 0.5}
    # Values by query language say nothing of the passages' languages.
    everyone = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
    source(folder, *(f"mini,1,A,cross,{a},,,AP,0.5,T" for a in everyone))
    (found,) = entries(definition, folder)
    assert set(found.means) == {latn_from, Column("mini", "cross", "AP")}
    # A printed mean of a group is taken as it is.
    source(folder, *lines, "mini,1,A,mono,mean,,script: mono: Cyrl,AP,0.25,T", "mini,1,A,mono,mean,,,AP,0.125,T")
    (found,) = entries(definition, folder)
    assert found.means == {cyrl: (0.25, None, None), Column("mini", "mono", "AP"): (0.125, None, None)}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("minni,1,A,mono,en,,,AP,0.5,T", "unknown task 'minni'; did you mean 'mini'"),
        ("mini,2,A,mono,en,,,AP,0.5,T", "mini version '2', this xbench has version 1"),
        ("mini,1, ,mono,en,,,AP,0.5,T", "no system or no place"),
        ("mini,1,A,mono,en,,,AP,0.5,", "no system or no place"),
        ("mini,1,A,duo,en,,,AP,0.5,T", "unknown setting 'duo'"),
        ("mini,1,A,mono,fr,,,AP,0.5,T", "unknown query language 'fr'"),
        ("mini,1,A,mono,en,de,,AP,0.5,T", "passage language 'de' in mono"),
        ("mini,1,A,cross,en,fr,,AP,0.5,T", "passage language 'fr' in cross"),
        ("mini,1,A,cross,mean,de,,AP,0.5,T", "only cross cells have one"),
        ("mini,1,A,cross,en,en,,AP,0.5,T", "passage language 'en' in cross"),
        (f"mini,1,A,multi,en,,,RankDistance,{'9' * 400},T", "beyond the range of a number"),
        ("mini,1,A,mono,en,,script: mono: Latn,AP,0.5,T", "only a mean has one"),
        ("mini,1,A,mono,mean,,script: mono: Lat,AP,0.5,T", "expected `grouping: where: group`"),
        ("mini,1,A,mono,mean,,scripts: mono: Latn,AP,0.5,T", "unknown grouping 'scripts'"),
        ("mini,1,A,mono,mean,,script,AP,0.5,T", "expected `grouping: where: group`"),
        ("mini,1,A,mono,en,,,APP,0.5,T", "unknown measure 'APP'"),
        ("mini,1,A,mono,en,,,RankDistance,5,T", "RankDistance exists in multi cells only"),
        ("mini,1,A,mono,en,,,AP,50.5,T", "AP of 50.5, expected a fraction from 0 to 1"),
        ("mini,1,A,mono,en,,,AP,-0.5,T", "value '-0.5', expected a number"),
        ("mini,1,A,mono,en,,,AP,nan,T", "value 'nan'"),
        ("mini,1,A,mono,en,,,AP,٠.٥,T", "expected a number"),
        ("mini,1,A,mono,en,,,AP,,T", "value ''"),
        ("mini,1,A,mono,en,,AP,0.5,T", "9 fields, expected 10"),
        ('mini,1,"A,mono,en,,,AP,0.5,T', "not CSV"),
        (LINE, "the same value as in line 2"),
    ],
)
def test_what_is_wrong_in_a_line(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(DataError) as error:
        source(tmp_path, LINE, line)
    assert what in str(error.value) and "\n" not in str(error.value)
    assert re.search(r"s\.csv(:3)?: ", str(error.value))


def test_a_wrong_mean_is_refused_unless_it_is_called_a_misprint(tmp_path: Path) -> None:
    languages = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
    lines = [f"mini,1,A,mono,{a},,,AP,0.51,T" for a in languages]
    for value in ("0.5", "0.51", "0.510", "0.511", "0.50"):  # 0.51 in each language, rounded from at most .515
        source(tmp_path, *lines, f"mini,1,A,mono,mean,,,AP,{value},T")
    with pytest.raises(DataError, match=r"mini A: mono AP: the mean is given as 0.53, but that of its values is 0.51"):
        source(tmp_path, *lines, "mini,1,A,mono,mean,,,AP,0.53,T")
    about = ABOUT + '[misprints]\n"mini A: mono AP" = "Wrong."\n'
    assert source(tmp_path, *lines, "mini,1,A,mono,mean,,,AP,0.53,T", about=about).misprints
    with pytest.raises(DataError, match="is called a misprint, but its values have that mean"):
        source(tmp_path, *lines, "mini,1,A,mono,mean,,,AP,0.51,T", about=about)


@pytest.mark.parametrize(
    ("about", "what"),
    [
        (ABOUT.replace("https", "javascript"), "url: found 'javascript://example.org/a'"),
        (ABOUT.replace("/a", "/a)[x](https://evil"), "url: found"),
        (ABOUT.replace('"S"', "1"), "source: found 1, expected text"),
        (ABOUT + "x = 1", "unknown key 'x'"),
        (ABOUT + '[systems]\nC = "x"', "unknown system 'C'"),
        (ABOUT + "[tasks]\nmini = 1", "expected a table of notes"),
        ("source = ", "not TOML"),
        ("", "no 'source'"),
    ],
)
def test_what_is_wrong_in_a_citation(tmp_path: Path, about: str, what: str) -> None:
    with pytest.raises(DataError) as error:
        source(tmp_path, LINE, about=about)
    assert what in str(error.value) and "s.toml" in str(error.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    source(tmp_path, LINE)
    (tmp_path / "reported" / "s.csv").write_text(HEADER.replace("task", "tasks") + "\n")
    with pytest.raises(DataError, match=r"s.csv:1: found tasks,version"):
        read_source(tmp_path, "s")
    (tmp_path / "reported" / "s.csv").unlink()
    with pytest.raises(DataError, match=r"s.csv: no such file; a source is"):
        read_source(tmp_path, "s")
