"""Small data of one's own, for tests: files written as BEIR, MTEB and ir_datasets have them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from xbench import cli

Rows = Iterable[Mapping[str, object]]


def jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def tsv(path: Path, rows: Iterable[Iterable[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


HEADER = ("query-id", "corpus-id", "score")


def beir(
    folder: Path, passages: Mapping[str, str], queries: Mapping[str, str], qrels: Iterable[tuple[str, str, int]]
) -> Path:
    """A folder as BEIR has it, split `test`."""
    jsonl(folder / "corpus.jsonl", ({"_id": i, "title": "", "text": text} for i, text in passages.items()))
    jsonl(folder / "queries.jsonl", ({"_id": i, "text": text} for i, text in queries.items()))
    tsv(folder / "qrels" / "test.tsv", [HEADER, *qrels])
    return folder


def tiny(folder: Path) -> Path:
    """Three passages, two queries, two judgements."""
    passages = {"d1": "Tea is green.", "d2": "Coffee is brown.", "d3": "Milk is white."}
    return beir(folder, passages, {"q1": "colour of tea", "q2": "colour of milk"}, [("q1", "d1", 1), ("q2", "d3", 1)])


def run(*arguments: object) -> int:
    """The command line, in this process."""
    return cli._run([str(a) for a in arguments], False)


def error(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """The one line that a command says, which must end with this exit code."""
    capsys.readouterr()
    found = run(*arguments)
    line = capsys.readouterr().err.strip()
    assert found == code, line
    said = [part for part in line.split("\n") if part.startswith("xbench: ") and "a bug in" not in part]
    assert said and said[-1] == line.split("\n")[-1]
    return said[-1]
