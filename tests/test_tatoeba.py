"""Tatoeba: LASER's files, XTREME-R's list of languages, accuracy@1 written out, and damaged files."""

from pathlib import Path

import numpy as np
import pytest

from xbench import cli, readers
from xbench.errors import DataError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.models.hashing import HashEncoder
from xbench.readers.tatoeba import read_tatoeba
from xbench.results import read_result
from xbench.task import Task, vary
from xbench.tasks import load_task

# google-research/xtreme, scripts/run_tatoeba.sh, without `en`.
XTREME_R = (
    "ar he vi id jv tl eu ml ta te af nl de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw zh kk tr et fi hu "
    "az lt pl uk ro"
)
# The numbers of lines that LASER's README and paper name: 1,000 where there are as many.
SIZES = {"tatoeba": (41, 36_692), "tatoeba-laser": (112, 88_877)}


@pytest.fixture
def tatoeba(data: Path) -> Path:
    if not (data / "tatoeba-laser").is_dir():
        pytest.skip("NO REAL DATA: no tatoeba-laser/ beside xquad-r/")
    return data


@pytest.mark.parametrize("name", SIZES)
def test_the_released_files(name: str, tatoeba: Path) -> None:
    task = load_task(name)
    parts = readers.check(task, tatoeba)
    found = [(p.cells[0].query_language, *(len(rows) for rows in p.collection.queries.values())) for p in parts]
    assert (len(found), sum(n for _, n in found)) == SIZES[name] and max(n for _, n in found) == 1000
    assert {a for a, _ in found} == set(task.query_languages) and task.passage_languages == ("en",)
    assert {cell.setting for cell in task.cells()} == {"cross"} and task.totals() == (SIZES[name][1],) * 2
    if name == "tatoeba":
        assert set(task.query_languages) == set(XTREME_R.split())
        laser = load_task("tatoeba-laser")
        assert all(laser.sources[key] == source for key, source in task.sources.items())
    # wc -l of the files, by language.
    wanted = {"ka": 746, "th": 548, "af": 1000, "sw": 390, "te": 234}
    assert {a: n for a, n in found if a in wanted} == wanted


def test_accuracy_as_xtreme_has_it(tatoeba: Path, own_cache: Path) -> None:
    """The nearest English sentence of the language's own file is the one on the same line."""
    task = vary(load_task("tatoeba"), languages=["de", "te", "en"])
    result = evaluate(load("hash"), task, plan=Plan(own_cache, tatoeba, offline=True))
    for cell, code in zip(result.cells, ("deu", "tel"), strict=True):
        sides = [
            HashEncoder().encode(
                (tatoeba / "tatoeba-laser" / f"tatoeba.{code}-eng.{side}").read_text("utf-8").split("\n")[:-1], role, ""
            )
            for side, role in ((code, "queries"), ("eng", "passages"))
        ]
        scores = sides[0].astype(np.float64) @ sides[1].T.astype(np.float64)
        best = scores.max(axis=1)
        alone = (scores >= best[:, None] - 1e-9).sum(axis=1) == 1  # elsewhere the tie rule decides
        hits = scores.argmax(axis=1) == np.arange(len(scores))
        assert alone.mean() > 0.9 and cell.per_query["Success@1"][alone].tolist() == hits[alone].tolist()
    assert result.summary()["cross"]["Success@1"] == np.mean([c.values["Success@1"] for c in result.cells])


def write(folder: Path, foreign: bytes, english: bytes) -> tuple[Task, dict[str, Path]]:
    paths = {"te": folder / "tatoeba.tel-eng.tel", "te-en": folder / "tatoeba.tel-eng.eng"}
    for path, content in zip(paths.values(), (foreign, english), strict=True):
        path.write_bytes(content)
    return vary(load_task("tatoeba"), languages=["te", "en"]), paths


def test_lines_end_with_a_line_feed_alone(tmp_path: Path) -> None:
    foreign, english = "a\u2028b\nc\x85d\ne\x0cf\n", "g\nh\ng\n"
    (part,) = read_tatoeba(*write(tmp_path, foreign.encode(), english.encode()))
    assert [q.text for q in part.collection.queries["te"]] == ["a\u2028b", "c\x85d", "e\x0cf"]
    assert part.counts == {"cross/te-en": {"queries": 3, "passages": 3, "duplicates": 1}}
    assert part.collection.qrels == {f"te:tel.{i}": {f"en:tel.{i}": 1} for i in range(3)}


@pytest.mark.parametrize(
    ("foreign", "english", "phrase"),
    [
        (b"a\nb\n", b"c\n", "tel: 2 lines, but 1 in"),
        (b"a\n \t\n", b"c\nd\n", "tel:2: the line is empty"),
        (b"a\nb\n", b"c\n\n", "eng:2: the line is empty"),
        (b"a\nb", b"c\nd\n", "tel:2: the last line does not end"),
        (b"a\n\xe0\xb0\n", b"c\nd\n", "tel:2: not UTF-8 (byte 2: 0xe0)"),
        (b"a\r\nb\r\n", b"c\nd\n", "tel:1: a carriage return"),
        (b"\xef\xbb\xbfa\nb\n", b"c\nd\n", "tel:1: a carriage return or byte order mark"),
        ("a\nb\n".encode("utf-16"), b"c\nd\n", "tel:1: not UTF-8"),
    ],
)
def test_damaged_files(foreign: bytes, english: bytes, phrase: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_tatoeba(*write(tmp_path, foreign, english)))
    assert phrase in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_runs_of_a_cell(tatoeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tatoeba)]
    choice = ["-t", "tatoeba", "--languages", "te,sw,en"]
    assert cli._run(["run", "hash", *choice, *data, "-o", str(tmp_path)], False) == 0
    (path,) = tmp_path.glob("*/tatoeba.json")
    assert cli._run(["export", str(path), *data, "--depth", "50", "--cell", "cross/te-en"], False) == 0
    (run,) = path.parent.glob("*.run.trec")
    assert cli._run(["score", str(run), *choice, *data, "-o", str(tmp_path / "a")], False) == 2
    assert "every cell of tatoeba has a pool of its own" in capsys.readouterr().err
    cell = ["--cell", "cross/te-en", "-m", "Success@1", "-m", "R@10"]
    assert cli._run(["score", str(run), *choice, *data, *cell, "-o", str(tmp_path / "a")], False) == 0
    (scored,) = (tmp_path / "a").glob("*/tatoeba.json")
    values = {c.cell.name: c.values for c in read_result(path).cells}
    (found,) = read_result(scored).cells
    assert found.values == {name: values["cross/te-en"][name] for name in ("Success@1", "R@10")}
    # There is no joint pool, and so no bias to look at.
    capsys.readouterr()
    assert cli._run(["bias", str(path)], False) == 2
    assert "tatoeba: the result has no multi cell" in capsys.readouterr().err
