"""Groups of languages: means by plain Python, where they show, files that are in no form."""

import json
import logging
import statistics
import tomllib
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from xbench import cli
from xbench.errors import DataError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.groups import group_cells, groupings, read_groupings
from xbench.intervals import samples, with_intervals
from xbench.models import load
from xbench.records import Cell
from xbench.results import Result, read_result, write_result
from xbench.stats import bootstrap
from xbench.tables import tables
from xbench.task import vary
from xbench.tasks import load_task, task_names

ROOT = Path(__file__).parent.parent
MINI = load_task("mini")
MINE = {"size": {"big": ["en", "de", "ru"], "small": ["el", "de"], "none": ["xx"]}}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    own = {"size": {"big": ["de", "en", "ru"], "small": ["de", "el"]}}
    plan = Plan(tmp_path_factory.mktemp("cache"))
    return evaluate(load("hash"), MINI, ["AP", "R@10", "RankDistance"], plan=plan, groups=own)


def test_means_by_hand(result: Result) -> None:
    value = {c.cell.name: c.values["AP"] for c in result.cells}
    found, languages = result.groups()["size"], MINI.languages
    big, small = {"de", "en", "ru"}, {"de", "el"}
    rest = set(languages) - big - small
    assert found["languages"] == {"big": ["de", "en", "ru"], "small": ["de", "el"]}
    for where in ("mono", "multi"):
        assert list(found[where]) == ["big", "small", "other"]
        for group, some in (("big", big), ("small", small), ("other", rest)):
            assert found[where][group]["cells"] == len(some) and found[where][group]["queries"] == 48 * len(some)
            mean = statistics.fmean(value[f"{where}/{a}"] for a in some)
            assert found[where][group]["values"]["AP"] == pytest.approx(mean, rel=1e-14)
    pairs = [(a, b) for a in languages for b in languages if a != b]

    def mean(chosen: list[tuple[str, str]]) -> float:
        return statistics.fmean(value[f"cross/{a}-{b}"] for a, b in chosen)

    expected = {
        "cross from": {"big": [p for p in pairs if p[0] in big], "small": [p for p in pairs if p[0] in small]},
        "cross to": {"big": [p for p in pairs if p[1] in big], "small": [p for p in pairs if p[1] in small]},
        "cross": {
            "big > small": [p for p in pairs if p[0] in big and p[1] in small],
            "other > big": [p for p in pairs if p[0] in rest and p[1] in big],
            "small > small": [("de", "el"), ("el", "de")],
        },
        "cross within": {
            "same": [p for p in pairs if set(p) <= big or set(p) <= small],
            "different": [("en", "el"), ("ru", "el"), ("el", "en"), ("el", "ru")],
            "other": [p for p in pairs if set(p) & rest],
        },
    }
    for where, groups in expected.items():
        for group, chosen in groups.items():
            assert found[where][group]["cells"] == len(chosen), (where, group)
            assert found[where][group]["values"]["AP"] == pytest.approx(mean(chosen), rel=1e-14), (where, group)
    # Nothing is left out: every cell is somewhere.
    assert sum(one["cells"] for one in found["cross within"].values()) == 110
    assert "RankDistance" in found["multi"]["big"]["values"] and "RankDistance" not in found["mono"]["big"]["values"]


def test_the_rest_of_the_result_is_as_without(result: Result, own_cache: Path, tmp_path: Path) -> None:
    plain = evaluate(load("hash"), MINI, ["AP", "R@10", "RankDistance"], plan=Plan(own_cache))
    assert plain.groups() == {} and "groups" not in plain.to_json()
    with_groups = result.to_json()
    del with_groups["groups"]
    assert json.dumps(with_groups) == json.dumps(plain.to_json())
    # Written and read, and made again from what was read.
    stored = read_result(write_result(result, tmp_path))
    assert stored.groups() == result.groups() and with_intervals(stored).groups() == result.groups()


def test_intervals_of_groups(result: Result) -> None:
    """Those of the bootstrap of a group of cells."""
    _, part = samples(result.cells, result.clusters)["AP"]
    names = [f"cross/{a}-{b}" for a, b in (("de", "el"), ("el", "de"))]
    expected = bootstrap(part, {"g": names}, seed=0)["g"]
    assert result.groups()["size"]["cross"]["small > small"]["intervals"]["AP"] == [expected.low, expected.high]


def test_tables(result: Result) -> None:
    (table,) = [t for t in tables(result, "AP") if " by size" in t.title]
    assert table.columns == ["where", "group", "cells", "queries", "AP", "R@10", "RankDistance"]
    row = next(row for row in table.rows if row[:2] == ["multi", "small"])
    one = result.groups()["size"]["multi"]["small"]["values"]
    assert row == ["multi", "small", 2, 96, one["AP"], one["R@10"], one["RankDistance"]]
    assert next(row for row in table.rows if row[0] == "mono")[-1] is None


def test_where_a_measure_is_missing_there_is_no_mean(result: Result) -> None:
    cells = [replace(c, values={} if c.cell.name == "mono/el" else c.values) for c in result.cells]
    found = replace(result, cells=cells).groups()["size"]["mono"]
    assert found["small"]["values"] == {} and found["big"]["values"] == result.groups()["size"]["mono"]["big"]["values"]


def test_groupings_of_a_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    own = replace(MINI, groups={"average": {"2": ("de", "en"), "1": ("de",)}})
    assert groupings(own) == {"average": {"2": ["de", "en"], "1": ["de"]}}
    assert groupings(own, ["average"]) == groupings(own)
    assert groupings(vary(own, languages=["de", "el"])) == {"average": {"1": ["de"]}}
    assert groupings(vary(own, languages=["en", "el"])) == {}
    unseen = groupings(MINI, ["seen:paper"])["seen:paper"]
    assert unseen["unseen"] == ["el", "vi"] and len(unseen["seen"]) == 9  # arXiv 2408.10536: el and vi are unseen
    (tmp_path / "g.toml").write_text('[size]\nbig = ["ru", "en", "de"]\nnone = ["xx"]\n')
    # In the task's order, without languages and groups that it has not.
    assert groupings(MINI, [], [tmp_path / "g.toml"]) == {"size": {"big": ["de", "en", "ru"]}}
    assert "grouping size: no languages of mini, left out: xx" in caplog.text
    belebele = groupings(load_task("belebele"), ["seen:paper"])["seen:paper"]
    assert "eng_Latn" in belebele["seen"] and "ell_Grek" in belebele["unseen"] and len(belebele["seen"]) == 10
    with pytest.raises(UsageError, match="grouping 'seen:paper' has no language of mini: el, vi"):
        groupings(vary(MINI, languages=["el", "vi"]), ["seen:paper"])
    with pytest.raises(UsageError, match="grouping 'size' is there twice"):
        groupings(MINI, [], [tmp_path / "g.toml"] * 2)
    with pytest.raises(UsageError, match="unknown grouping 'scripts'; did you mean 'script'"):
        groupings(MINI, ["scripts"])
    with pytest.raises(UsageError, match="unknown grouping 'seen:nobody'"):
        groupings(MINI, ["seen:nobody"])
    (tmp_path / "g.toml").write_text('[size]\nbig = ["xx"]\n')
    with pytest.raises(UsageError, match="has no language of mini: ar, de"):
        groupings(MINI, [], [tmp_path / "g.toml"])


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"[size", "not TOML"),
        (b'[size]\nbig = ["\xff"]', "not TOML"),
        (b"size = 3", "size: found 3, expected a table"),
        (b"[size]", "size: found {}"),
        (b"[size]\nbig = 3", "size.big: found 3, expected a list of languages"),
        (b"[size]\nbig = []", "size.big: found []"),
        (b"[size]\nbig = [1]", "size.big: found [1]"),
        (b'[size]\nother = ["de"]', "the group 'other' is that of all languages in no group"),
    ],
)
def test_files_in_no_form(content: bytes, phrase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "g.toml"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_groupings(file)
    assert str(caught.value).startswith(f"{file}: ") and phrase in str(caught.value)
    assert cli._run(["run", "hash", "-t", "mini", "--groups", str(file), "-o", str(tmp_path)], False) == 3
    assert phrase in capsys.readouterr().err


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.toml").write_text('[size]\nbig = ["de", "en"]\nsmall = ["el"]\n')
    own = ["--groups", str(tmp_path / "g.toml")]
    plain = ["run", "hash", "-t", "mini", "-m", "AP", "-m", "RankDistance"]
    assert cli._run([*plain, *own, "--by", "seen:paper", "-o", str(tmp_path / "a")], False) == 0
    out = capsys.readouterr().out
    assert "mini by seen:paper" in out and "mini by size" in out and "| mono | unseen | 2 | 96 |" in out
    (path,) = (tmp_path / "a").glob("*/mini.json")
    content = json.loads(path.read_text())
    assert (
        set(content["groups"]) == {"seen:paper", "size"} and f"--by seen:paper --groups {own[1]}" in content["command"]
    )
    # Bias by group, from the stored result, with those it has or others.
    assert cli._run(["bias", str(path)], False) == 0
    assert "mini by seen:paper" in capsys.readouterr().out
    assert cli._run(["bias", str(path), *own, "--format", "json"], False) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["groups"]) == ["size"] and found["groups"]["size"]["multi"]["small"]["cells"] == 1
    # A paired test for each group, corrected over the groups.
    assert cli._run(["run", "canary:random", *plain[2:], "-o", str(tmp_path / "b")], False) == 0
    (other,) = (tmp_path / "b").glob("*/mini.json")
    capsys.readouterr()
    assert cli._run(["compare", str(path), str(other), *own, "--format", "csv"], False) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.split("\n")]
    rows = {line[0]: line for line in lines if len(line) > 5}
    stored = {p: read_result(p) for p in (path, other)}
    for name, cells in (("size: mono: big", ["mono/de", "mono/en"]), ("size: multi: small", ["multi/el"])):
        means = [
            statistics.fmean(c.values["AP"] for c in stored[p].cells if c.cell.name in cells) for p in (path, other)
        ]
        assert [float(x) for x in rows[name][2:4]] == pytest.approx(means, rel=1e-12)
    names = list(rows)
    assert names.index("multi") < names.index("size: mono: big") < names.index("mono/ar")
    assert float(rows["size: multi: small"][7]) >= float(rows["size: multi: small"][6])  # Holm's p


def test_cells_of_one_language_in_no_group() -> None:
    cells = [Cell("cross", "a", ("b",)), Cell("mono", "a", ("a",))]
    assert group_cells(cells, {"g": ["b"]}) == {
        "cross from": {"other": cells[:1]},
        "cross to": {"g": cells[:1]},
        "cross within": {"other": cells[:1]},
        "cross": {"other > g": cells[:1]},
        "mono": {"other": cells[1:]},
    }


FACTS = tomllib.loads((ROOT / "tasks" / "groups" / "languages.toml").read_text(encoding="utf-8"))
# Joshi et al. 2020, table 1: the example languages of each class, as far as they are here.
CLASSES = {
    "5": "en es de ja fr",
    "4": "ru hu vi nl ko",
    "3": "id uk ceb af he",
    "2": "zul_Latn lo mlt_Latn ga",
}


def test_facts_of_every_language_of_every_task() -> None:
    for name in task_names():
        for language in load_task(name).languages:
            assert {"name", "script", "family"} <= FACTS[language].keys(), (name, language)
    assert {fact for facts in FACTS.values() for fact in facts} == {"name", "script", "family", "resource"}
    assert {facts.get("resource") for facts in FACTS.values()} == {None, *"012345"}
    for level, languages in CLASSES.items():
        assert {FACTS[a]["resource"] for a in languages.split()} == {level}
    for code, facts in FACTS.items():
        if "_" in code and facts["script"] not in ("Hani", "Jpan"):
            assert code.endswith(f"_{facts['script']}"), code
    found = groupings(load_task("xquad-r"), ["script", "family", "resource"])
    assert found["script"]["Latn"] == ["de", "en", "es", "tr", "vi"] and found["family"]["Turkic"] == ["tr"]
    assert list(found["resource"]) == ["3", "4", "5"] and found["resource"]["3"] == ["el", "th"]


SCRIPTS = {
    **{"Latn": "LATIN", "Arab": "ARABIC", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI", "Beng": "BENGALI", "Grek": "GREEK"},
    **{"Hebr": "HEBREW", "Armn": "ARMENIAN", "Geor": "GEORGIAN", "Hani": "CJK", "Hang": "HANGUL", "Khmr": "KHMER"},
    **{"Mlym": "MALAYALAM", "Taml": "TAMIL", "Telu": "TELUGU", "Thai": "THAI", "Ethi": "ETHIOPIC"},
    "Jpan": "HIRAGANA KATAKANA CJK",
}
MIXED = {"lfn", "sr", "uz"}


def test_scripts_of_real_texts(data: Path) -> None:
    folder = data / "tatoeba-laser"
    if not folder.is_dir():
        pytest.skip("NO REAL DATA: no tatoeba-laser/ beside xquad-r/")
    task = load_task("tatoeba-laser")
    for language in task.query_languages:
        letters = [c for c in (folder / task.sources[language].name).read_text("utf-8") if c.isalpha()]
        names = Counter(unicodedata.name(c, "?").split()[0] for c in letters)
        share = sum(names[name] for name in SCRIPTS[FACTS[language]["script"]].split()) / len(letters)
        assert (share > 0.9) == (language not in MIXED), (language, share)
