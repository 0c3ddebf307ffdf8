"""Exported runs, scored again, give the result they come from; the two commands fail with one line."""

import dataclasses
import gzip
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from xbench import cli, export
from xbench.catalogue import parse_all
from xbench.errors import IncompleteError, IntegrityError
from xbench.evaluate import Plan, evaluate
from xbench.export import export_qrels, export_runs
from xbench.models import load
from xbench.readers import read
from xbench.records import Cell
from xbench.results import CellResult, Result, read_result, write_result
from xbench.runs import score_file
from xbench.tasks import load_task

MINI = load_task("mini")
COLLECTION = read(MINI)
CELLS = {cell.name: cell for cell in MINI.cells()}
RANKS = ["AP", "RR", "nDCG@10", "R@10"]
MEASURES = [
    *RANKS,
    "RankDistance",
    "RankDistanceMedian",
    "SameLanguageShare@10",
    "AlignmentViolation",
    "SameLanguageShare@150",
]
SOME = ["mono/th", "cross/ar-de", "cross/zh-el", "multi/en", "multi/hi"]
Lines = dict[str, list[tuple[str, str, float]]]  # query_id -> (doc_id, rank, score)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def stored(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result file of `hash`."""
    result = evaluate(load("hash"), MINI, MEASURES, plan=Plan(cache, offline=True, command="xbench run hash -t mini"))
    return write_result(result, tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def hashed(stored: Path) -> Result:
    return read_result(stored)


@pytest.fixture(scope="module")
def joint(hashed: Result, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the joint pool, all languages in one file."""
    folder = tmp_path_factory.mktemp("joint")
    multi = [cell for cell in CELLS.values() if cell.setting == "multi"]
    export_runs(hashed, MINI, COLLECTION, multi, folder, cache=cache)
    (folder / "all.run").write_bytes(b"".join(path.read_bytes() for path in sorted(folder.glob("*.trec"))))
    return folder / "all.run"


def cells(names: Sequence[str]) -> list[Cell]:
    return [CELLS[name] for name in names]


def score(path: Path, names: Sequence[str], measures: Sequence[str] = MEASURES) -> Result:
    return score_file(path, MINI, COLLECTION, cells(names), parse_all(measures))


def lines(path: Path) -> Lines:
    found: Lines = {}
    for line in path.read_text("utf-8").splitlines():
        query_id, _, doc_id, rank, value, _ = line.split(" ")
        found.setdefault(query_id, []).append((doc_id, rank, float(value)))
    return found


def same(found: CellResult, result: Result) -> None:
    """Bit for bit."""
    (expected,) = (c for c in result.cells if c.cell == found.cell)
    assert found.to_json() == expected.to_json() and found.query_ids == expected.query_ids
    multi = 4 if found.cell.setting == "multi" else 0  # a median has no column of its own
    assert len(found.values) == len(RANKS) + multi + bool(multi)
    assert len(found.per_query) == len(RANKS) + multi
    assert all(np.array_equal(values, expected.per_query[name]) for name, values in found.per_query.items())


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("scores", ["model", "rank"])
def test_an_exported_run_has_the_values_of_the_result(
    scores: str, suffix: str, hashed: Result, cache: Path, tmp_path: Path
) -> None:
    export_runs(hashed, MINI, COLLECTION, cells(SOME), tmp_path, cache=cache, scores=scores, suffix=suffix)
    assert len(list(tmp_path.iterdir())) == len(SOME)
    for name in SOME:
        path = tmp_path / f"mini.{name.replace('/', '.')}.run.trec{suffix}"
        assert (path.read_bytes()[:2] == b"\x1f\x8b") == bool(suffix)
        again = score(path, [name])
        same(again.cells[0], hashed)
        for measure, ends in again.intervals[name].items():
            # Not bit for bit: BLAS adds up in another order where a result has more cells.
            assert ends == pytest.approx(hashed.intervals[name][measure], rel=1e-12, abs=0)


def test_a_joint_run_gives_every_cell(joint: Path, hashed: Result, tmp_path: Path) -> None:
    result = score(joint, list(CELLS))
    assert len(result.cells) == 132
    for found in result.cells:
        same(found, hashed)
    assert result.summary() == hashed.summary()
    assert result.intervals == hashed.intervals
    back = read_result(write_result(result, tmp_path))
    assert back.to_json() == result.to_json() and back.model["identity"]["kind"] == "run"
    assert back.texts == {}


def test_the_fingerprint_of_a_run(joint: Path, tmp_path: Path) -> None:
    """It says which bytes were scored and in which cells, not what the file is called."""
    for name in ("x", "y", "z"):
        (tmp_path / name).write_bytes(joint.read_bytes()[: 40_000 if name == "z" else 50_000].rpartition(b"\n")[0])
    chosen = [("x", SOME[:2]), ("y", SOME[:2]), ("x", SOME[:1]), ("z", SOME[:2])]
    keys = [score(tmp_path / file, names, ["AP"]).model["fingerprint"] for file, names in chosen]
    assert keys[0] == keys[1] and len(set(keys)) == 3


def cut(run: Lines, path: Path, depth: int) -> Lines:
    """Write the first of each query."""
    kept = {q: rows[:depth] for q, rows in run.items()}
    path.write_text("".join(f"{q} Q0 {d} {r} {s!r} t\n" for q, rows in kept.items() for d, r, s in rows), "utf-8")
    return kept


def by_ir_measures(name: str, run: Lines) -> dict[str, float]:
    """Means, from minus the rank."""
    inside = {a: set(COLLECTION.ids("passages", a)) for a in CELLS[name].passage_languages}
    pool = set().union(*inside.values())
    asked = COLLECTION.ids("queries", CELLS[name].query_language)
    qrels = {q: {d: g for d, g in COLLECTION.qrels[q].items() if d in pool} for q in asked}
    ranks = {q: {d: -float(i) for i, (d, *_) in enumerate(rows)} for q, rows in run.items()}
    found = ir_measures.calc_aggregate([ir_measures.parse_measure(m) for m in RANKS], qrels, ranks)
    return {str(measure): value for measure, value in found.items()}


def test_a_shallow_run(hashed: Result, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is not retrieved counts as never found; a distance to it does not exist, and that is said."""
    export_runs(hashed, MINI, COLLECTION, cells(["multi/en"]), tmp_path, cache=cache)
    run = cut(lines(tmp_path / "mini.multi.en.run.trec"), tmp_path / "x.run", 10)
    caplog.set_level(logging.INFO, "xbench")
    (found,) = score(tmp_path / "x.run", ["multi/en"]).cells
    assert found.missing == 0
    (whole,) = (c for c in hashed.cells if c.cell == found.cell)
    assert list(found.values) == [*RANKS, "SameLanguageShare@10"] == list(found.per_query)
    for name in ("nDCG@10", "R@10", "SameLanguageShare@10"):
        assert found.values[name] == whole.values[name]
    for name, value in by_ir_measures("multi/en", run).items():
        assert abs(found.values[name] - value) <= 1e-12, name
    assert found.values["AP"] < whole.values["AP"]
    assert "no RankDistance in 1 cells (multi/en): undefined for some queries" in caplog.text


def test_a_run_that_lacks_queries(hashed: Result, cache: Path, tmp_path: Path) -> None:
    export_runs(hashed, MINI, COLLECTION, cells(["cross/ar-de"]), tmp_path, cache=cache)
    run = lines(tmp_path / "mini.cross.ar-de.run.trec")
    kept = cut(dict(list(run.items())[5:]), tmp_path / "x.run", 1000)
    (found,) = score(tmp_path / "x.run", ["cross/ar-de"], RANKS).cells
    assert (found.missing, len(found.query_ids), found.left_out) == (5, 48, 0)
    for name, value in by_ir_measures("cross/ar-de", kept).items():
        assert abs(found.values[name] - value) <= 1e-12, name
        assert found.per_query[name][:5].tolist() == [0] * 5
    # In another cell all are missing, and it says 0 with `missing`, not nothing.
    (other,) = score(tmp_path / "x.run", ["mono/de"], RANKS).cells
    assert other.missing == 48 and set(other.values.values()) == {0.0}


def save_vectors(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(len(list(folder.iterdir())))
    for role, n in (("queries", 48), ("passages", 77)):
        for language in MINI.languages:
            np.save(folder / f"{role}.{language}.npy", rng.integers(-3, 4, (n, 6)).astype("f4") + np.float32(0.5))
    return f"vectors:{folder}"


@pytest.mark.parametrize("model", ["hash", "vectors", "canary:constant"])
def test_the_first_k_are_a_prefix(model: str, tmp_path: Path, own_cache: Path) -> None:
    """Of a stored result; ties across rank k are cut by the rule, and ranks and scores say so."""
    spelling = save_vectors(tmp_path / "v") if model == "vectors" else model
    path = write_result(evaluate(load(spelling), MINI, ["AP"], plan=Plan(own_cache, offline=True)), tmp_path / "r")
    found = {}
    for depth in (None, 1, 7, 10_000):
        export_runs(
            read_result(path), MINI, COLLECTION, cells(SOME), tmp_path / f"{depth}", cache=own_cache, depth=depth
        )
        found[depth] = {p.name: lines(p) for p in (tmp_path / f"{depth}").iterdir()}
    assert found[10_000] == found[None]
    for name, run in found[None].items():
        pool = 847 if "multi" in name else 77
        for q, rows in run.items():
            assert [rank for _, rank, _ in rows] == [str(i) for i in range(1, pool + 1)]
            assert rows == sorted(rows, key=lambda row: (row[2], row[0].encode()), reverse=True)
            assert found[1][name][q] == rows[:1] and found[7][name][q] == rows[:7]
        assert len(run) == len(found[7][name]) == 48
    assert score(tmp_path / "None" / "mini.multi.en.run.trec", ["multi/en"], ["AP"]).cells[0].values == {
        "AP": next(c.values["AP"] for c in read_result(path).cells if c.cell.name == "multi/en")
    }


@pytest.mark.parametrize("model", ["hash", "fuse:hash+canary:random"])
def test_more_queries_than_are_searched_at_once(
    model: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(load(model), MINI, ["AP"], plan=Plan(own_cache, offline=True))
    for block in (64, 7):
        monkeypatch.setattr(export, "BLOCK", block)
        export_runs(result, MINI, COLLECTION, cells(SOME), tmp_path / f"{block}", cache=own_cache, depth=3)
    found = {path.name: path.read_bytes() for path in (tmp_path / "64").iterdir()}
    assert found and found == {path.name: path.read_bytes() for path in (tmp_path / "7").iterdir()}


@pytest.mark.parametrize("name", SOME)
def test_qrels_are_what_is_relevant_in_the_cell(name: str, tmp_path: Path) -> None:
    export_qrels(MINI, COLLECTION, [CELLS[name]], tmp_path)
    export_qrels(MINI, COLLECTION, [CELLS[name]], tmp_path, ".gz")
    path = tmp_path / f"mini.{name.replace('/', '.')}.qrels.trec"
    assert gzip.decompress(path.with_suffix(".trec.gz").read_bytes()) == path.read_bytes()
    found = [line.split(" ") for line in path.read_text("utf-8").splitlines()]
    question = {q: q.partition(":")[2] for a in MINI.languages for q in COLLECTION.ids("queries", a)}
    expected = {
        (q, "0", d, str(grade))
        for q, grades in COLLECTION.qrels.items()
        for d, grade in grades.items()
        if q.startswith(CELLS[name].query_language + ":") and d.partition(":")[0] in CELLS[name].passage_languages
    }
    assert {tuple(row) for row in found} == expected and len(found) == len(expected)
    assert {question[row[0]] for row in found} == set(question.values())
    assert len(found) == (48 * 11 if "multi" in name else 48)


# --- what cannot be exported -----------------------------------------------------------------------------------------


def test_without_the_vectors(hashed: Result, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="lacks the vectors of 1375 texts; make them again: xbench run hash -t m"):
        export_runs(hashed, MINI, COLLECTION, cells(SOME), tmp_path / "out", cache=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_other_vectors(tmp_path: Path, own_cache: Path) -> None:
    spelling = save_vectors(tmp_path / "v")
    result = evaluate(load(spelling), MINI, ["AP"], plan=Plan(own_cache))
    save_vectors(tmp_path / "v")
    with pytest.raises(IntegrityError, match="not the vectors of the result"):
        export_runs(result, MINI, COLLECTION, cells(SOME), tmp_path / "out", cache=own_cache)
    assert not (tmp_path / "out").exists()


# --- the commands ----------------------------------------------------------------------------------------------------


def xbench(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli._run([str(a) for a in arguments], False)
    return code, *capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], code: int, words: Sequence[str], *arguments: object) -> None:
    found, out, error = xbench(capsys, *arguments)
    assert (found, out) == (code, ""), error
    assert error.startswith("xbench: ") and error.count("\n") == 1 and all(word in error for word in words), error


def test_export_and_score_commands(stored: Path, joint: Path, cache: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XBENCH_CACHE", str(cache))
    chosen = ["--cell", "multi/en", "--cell", "mono/t[hr]"]
    assert xbench(capsys, "export", stored, *chosen, "--depth", 20, "--gzip", "-o", tmp_path)[0] == 0
    names = [f"mini.{cell}.{kind}.trec.gz" for cell in ("mono.th", "mono.tr", "multi.en") for kind in ("qrels", "run")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert gzip.decompress((tmp_path / names[-1]).read_bytes()).count(b"\n") == 48 * 20
    assert xbench(capsys, "export", stored, "--cell", "mono/en", "--scores", "rank")[0] == 0  # beside the result
    assert {row[0][2] for row in lines(stored.parent / "mini.mono.en.run.trec").values()} == {-1.0}
    options = ["-t", "mini", *chosen, "-m", "AP", "-m", "Bpref", "-o", tmp_path / "s", "--format", "csv"]
    code, out, error = xbench(capsys, "score", joint, *options)
    (path,) = tmp_path.glob("s/all.run-*/mini.json")
    again = read_result(path)
    assert code == 0 and repr(again.summary()["multi"]["AP"]) in out, error
    assert again.command == f"xbench score {joint} -t mini --cell multi/en --cell 'mono/t[hr]' -m AP -m Bpref"
    assert [c.cell.name for c in again.cells] == ["mono/th", "mono/tr", "multi/en"]
    refused(capsys, 2, ["run:all.run", "--qrels-only"], "export", path, "-o", tmp_path / "q")
    assert xbench(capsys, "export", path, "--qrels-only", "--cell", "multi/en", "-o", tmp_path / "q2")[0] == 0
    assert [p.name for p in (tmp_path / "q2").iterdir()] == ["mini.multi.en.qrels.trec"]


def test_bad_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, options = tmp_path / "x.run", ["-t", "mini", "--cell", "mono/en", "-o", tmp_path / "out"]
    good = "en:tea-1 Q0 en:0.0.0 1 2.0 t\n"
    for line, words in (
        ("en:tea-1 Q0 en:0.0.1 2 nan t\n", ["score 'nan'"]),
        ("en:tea-1 Q0 en:0.0.1 2 3.0 t\n", ["rank 2 with score", "--ignore-ranks"]),
        ("en:tea-1 Q0 en\x1b[31m:\r0.0.1 2 1 t\n", ["columns"]),
        ("en:tea-1 Q0 en\x1b[31m: 2 1 t\n", ["unknown passage", r"\x1b[31m"]),
    ):
        path.write_bytes((good + line).encode())
        refused(capsys, 3, [f"{path}:2: ", *words], "score", path, *options)
    path.write_bytes(good.encode())
    refused(
        capsys,
        2,
        ["no cell of mini is called 'mono/xx'", "xbench tasks mini"],
        "score",
        path,
        "-t",
        "mini",
        "--cell",
        "mono/xx",
    )
    refused(capsys, 2, ["unknown task"], "score", path, "-t", "minni")
    refused(capsys, 2, ["unknown measure"], "score", path, *options, "-m", "nDGC@10")
    assert not list(tmp_path.glob("out/**/*.json"))
    path.write_bytes((good + "en:tea-1 Q0 en:0.0.1 2 3.0 t\n").encode())
    assert xbench(capsys, "score", path, *options, "--ignore-ranks")[0] == 0
    assert read_result(next(tmp_path.glob("out/*/mini.json"))).command.endswith(" --ignore-ranks")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["absent", "folder", "fifo"])
def test_a_run_that_is_no_file(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fifo would be waited for."""
    if kind != "absent":
        (os.mkfifo if kind == "fifo" else os.mkdir)(tmp_path / kind)
    refused(
        capsys,
        3,
        [{"absent": "no such file", "folder": "a folder", "fifo": "no regular file"}[kind]],
        "score",
        tmp_path / kind,
        "-t",
        "mini",
        "-o",
        tmp_path / "out",
    )


def test_exports_that_fail(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, 2, ["no cell of mini is called 'cross/en'"], "export", stored, "--cell", "cross/en")
    refused(capsys, 10, ["xbench run hash -t mini"], "export", stored, "--cell", "mono/en", "-o", tmp_path)
    refused(capsys, 3, ["no such file"], "export", tmp_path / "absent.json")
    refused(capsys, 2, ["--depth"], "export", stored, "--depth", "0")
    (tmp_path / "file").write_text("")
    refused(capsys, 6, [str(tmp_path / "file")], "export", stored, "-o", tmp_path / "file")


def test_a_result_names_no_code_to_run(tmp_path: Path, own_cache: Path) -> None:
    """A result file comes from anywhere: nothing that it says may be imported."""
    result = evaluate(load("canary:constant"), load_task("mini"), ["AP"], plan=Plan(own_cache))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nO = 1\n")
    for kind in ("vectors", "canary"):
        model = result.model | {"name": f"py:{tmp_path / 'evil.py'}:O", "identity": {"kind": kind}}
        evil = dataclasses.replace(result, model=model)
        task = load_task("mini")
        with pytest.raises(IntegrityError, match="not of the kind"):
            export_runs(evil, task, read(task), task.cells()[:1], tmp_path / "out", cache=own_cache)
    assert not (tmp_path / "ran").exists()
