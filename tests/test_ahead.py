"""`xbench encode`: the vectors that a run then finds; `--dry-run`: what there is to do, and nothing written."""

import json
import re
from pathlib import Path

import corpora
import pytest

from xbench import cli


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    found = capsys.readouterr()
    return int(done.value.code or 0), found.out, found.err


@pytest.fixture
def made(tmp_path: Path) -> list[object]:
    """The words of a task too large to hold, and of a model that costs next to nothing."""
    task = corpora.make(tmp_path, "made", {"en": [700, 500], "de": [300]}, queries=20)
    model = corpora.write_encoder(tmp_path / "cheap.py", 64, company=True)
    return [f"py:{model}:Cheap", "-t", task, "--data", tmp_path / "data", "--shard-rows", 256]


def cells(out: str) -> list[list[str]]:
    """The cells of the rows of Markdown tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in out.split("\n") if line.startswith("|")]


def test_what_is_encoded_ahead_is_found(
    made: list[object], tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "encode", *made)
    assert code == 0 and "vectors of 1540 texts, 1540 encoded now" in out
    rows = {(row[0], row[1]): row[2:] for row in cells(out)[2:]}
    assert rows["passages", "en"][:2] == ["1200", "5"] and rows["passages", "de"][:2] == ["300", "2"]
    assert rows["queries", "en"][:2] == ["20", "–"]
    code, out, _ = run(capsys, "encode", *made)
    assert code == 0 and "1540 texts, 0 encoded now" in out
    for number, more in enumerate([[], ["--shards", tmp_path / "elsewhere"]]):
        code, out, error = run(capsys, "run", *made, *more, "-o", tmp_path / f"out{number}", "--setting", "multi")
        assert code == 0, error
        (timing,) = (tmp_path / f"out{number}").glob("*/made.timing.json")
        assert json.loads(timing.read_text())["texts_encoded"] == 1500 * number  # queries stay in the cache
    names = [{p.relative_to(f) for p in f.rglob("*")} for f in (own_cache / "shards", tmp_path / "elsewhere")]
    assert names[0] == names[1]


def test_of_a_task_that_is_held(own_cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "encode", "hash", "-t", "mini", "--dry-run")
    assert code == 0 and not list(own_cache.rglob("*"))
    (held,) = [row for row in cells(out) if row[:2] == ["all", "held"]]
    code, out, _ = run(capsys, "encode", "hash", "-t", "mini")
    assert code == 0 and f"vectors of {held[2]} texts, {held[3]} encoded now" in out
    code, _, _ = run(capsys, "run", "hash", "-t", "mini", "-o", tmp_path)
    (timing,) = tmp_path.glob("*/mini.timing.json")
    assert code == 0 and json.loads(timing.read_text())["texts_encoded"] == 0
    code, out, _ = run(capsys, "run", "hash", "-t", "mini", "-o", tmp_path / "nothing", "--dry-run")
    assert next(row for row in cells(out) if row[:2] == ["all", "held"])[3] == "0"
    assert not (tmp_path / "nothing").exists()


def test_a_dry_run_knows_what_there_will_be(
    made: list[object], tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "encode", *made, "--dry-run", "--setting", "multi")
    assert code == 0 and not list(own_cache.rglob("*"))
    stated = {row[0]: row for row in cells(out) if row[1:2] == ["in shards"]}
    assert {a: row[2:5] for a, row in stated.items()} == {"en": ["1200", "1200", "5"], "de": ["300", "300", "2"]}
    run(capsys, "encode", *made)
    files = [p for p in (own_cache / "shards").rglob("*") if p.suffix in (".npy", ".ids")]
    size = sum(path.stat().st_size for path in files) / 1e6
    assert sum(float(row[5]) for row in stated.values()) == pytest.approx(size, rel=0.02)
    # A shard is missing: it is what is left.
    lost = sorted((own_cache / "shards").rglob("000001-*.npy"))[0]
    lost.unlink()
    _, out, _ = run(capsys, "encode", *made, "--dry-run", "--setting", "multi")
    left = {row[0]: row[3:5] for row in cells(out) if row[1:2] == ["in shards"]}
    assert sorted(left.values()) in ([["0", "0"], ["256", "1"]], [["0", "0"], ["244", "1"]], [["0", "0"], ["44", "1"]])
    values = {row[0]: row[1] for row in cells(out)}
    assert int(values["texts left to encode"]) in (256, 244, 44) and int(values["workers"]) == 1
    assert float(values["texts a second and worker, measured"]) > 0


def test_a_dry_run_does_not_guess_at_an_index(made: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    for more, name in (([], "time to search shards"), (["--index", "SQ8"], "time to make and search an index, here")):
        code, out, _ = run(capsys, "run", *made, "--dry-run", *more)
        rows = {row[0]: row[1:] for row in cells(out)}
        assert code == 0 and (rows[name][1] in ("s", "h")) is not bool(more)
        assert len([key for key in rows if "search" in key and key.startswith("time")]) == 1


def test_what_cannot_be_asked(made: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    for words, phrase in (
        (["bm25", "-t", "mini"], "model 'bm25' does not encode texts: there are no vectors to write"),
        (["hash", "-t", "mini", "--workers", "2"], "--workers is for a cluster: give --ray too"),
        (["hash", "-t", "mini", "--gpus-per-worker", "1"], "--gpus-per-worker is for a cluster"),
        (["hash", "-t", "mini", "--shards", "nosuch://x"], "nosuch"),
        (["hash", "-t", "mini", "--ray", "127.0.0.1:1"], "no Ray cluster there"),
        (["hash", "-t", "mini", "--index", "SQ8", "--shards", "ftp://127.0.0.1/x"], "give --shards a folder"),
    ):
        code, out, error = run(capsys, "run" if "--index" in words else "encode", *words)
        assert code == 2 and not out and len(error.strip().split("\n")) == 1
        assert re.search(re.escape(phrase), error), error
