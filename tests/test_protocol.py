"""The protocol a second, slow way: own reader, float64, full sort; every cell on real data."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.models.hashing import DIMENSION, HashEncoder
from xbench.readers import read
from xbench.results import Result
from xbench.tasks import load_task

Encode = Callable[[list[str]], NDArray[np.float32]]


def projected(texts: list[str]) -> NDArray[np.float32]:
    """Vectors off the grid of `hash`: float32 adds them up with rounding, as those of real models."""
    plane = np.random.default_rng(0).standard_normal((DIMENSION, 96), dtype=np.float32)
    # One text at a time: equal texts get equal vectors, whatever a product of matrices does at its edges.
    rows = [row @ plane for row in HashEncoder().encode(texts, "passages", "")]
    return np.stack([row / np.linalg.norm(row) for row in rows])


def slow_protocol(
    folder: Path, languages: list[str], encode: Encode
) -> dict[tuple[str, str, tuple[str, ...]], dict[str, float]]:
    """(setting, query language, passage languages) -> AP, RR, rank distance, queries; protocol.md, sections 1 and 2.

    Written from the definitions, sharing no line with xbench but the vectors. Scores are rounded to
    12 places, so that equal vectors tie whatever the library does in the last bits.
    """
    queries: dict[str, list[tuple[str, str]]] = {}
    doc_ids: list[str] = []
    texts: list[str] = []
    languages_of: list[str] = []
    relevant: dict[str, list[int]] = {}
    for language in languages:
        queries[language] = []
        for a, article in enumerate(json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))["data"]):
            for p, paragraph in enumerate(article["paragraphs"]):
                base = len(doc_ids)
                for s, sentence in enumerate(paragraph["sentences"]):
                    doc_ids.append(f"{language}:{a}.{p}.{s}")
                    texts.append(sentence)
                    languages_of.append(language)
                for question in paragraph["qas"]:
                    start = question["answers"][0]["answer_start"]
                    for s, (low, high) in enumerate(paragraph["sentence_breaks"]):
                        if low <= start < high:
                            relevant.setdefault(question["id"], []).append(base + s)
                            break
                    queries[language].append((question["id"], question["question"]))
    passages = encode(texts).astype(np.float64)
    # doc_id descending first, so that a stable sort by score leaves ties in that order.
    by_id = sorted(range(len(doc_ids)), key=lambda i: doc_ids[i].encode(), reverse=True)
    of = np.array(languages_of)
    pools = {(language,): [i for i in by_id if of[i] == language] for language in languages}
    pools[tuple(languages)] = by_id
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, float]] = {}
    for a in languages:
        scores = np.round(encode([text for _, text in queries[a]]).astype(np.float64) @ passages.T, 12)
        for names, members in pools.items():
            setting = "multi" if len(names) > 1 else "mono" if names == (a,) else "cross"
            aps, rrs, distances = [], [], []
            order = np.argsort(-scores[:, members], axis=1, kind="stable")
            place = np.empty_like(order)
            np.put_along_axis(place, order, np.arange(1, len(members) + 1)[None], axis=1)
            column = {row: j for j, row in enumerate(members)}
            for i, (question_id, _) in enumerate(queries[a]):
                ranks = sorted(int(place[i, column[row]]) for row in relevant[question_id] if row in column)
                if not ranks:
                    continue
                aps.append(sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks))
                rrs.append(1 / ranks[0])
                distances.append(ranks[-1] - ranks[0])
            found[setting, a, names] = {
                "AP": math.fsum(aps) / len(aps),
                "RR": math.fsum(rrs) / len(rrs),
                "RankDistance": math.fsum(distances) / len(distances),
                "queries": len(aps),
                "passages": len(members),
            }
    return found


def hashed(texts: list[str]) -> NDArray[np.float32]:
    return HashEncoder().encode(texts, "passages", "")


def check(result: Result, folder: Path, languages: list[str], encode: Encode = hashed) -> None:
    slow = slow_protocol(folder, languages, encode)
    assert len(result.cells) == len(slow)
    for cell in result.cells:
        expected = slow[cell.cell]
        found = cell.values | {"queries": len(cell.query_ids), "passages": cell.passages}
        for name, value in expected.items():
            if name != "RankDistance" or cell.cell.setting == "multi":
                assert abs(found[name] - value) <= 1e-9, (cell.cell, name)


def run_hash(task: str, cache: Path, data: Path | None = None) -> Result:
    return evaluate(load("hash"), load_task(task), plan=Plan(cache=cache, data=data, offline=True))


def test_mini(own_cache: Path) -> None:
    task = load_task("mini")
    assert task.folder is not None
    check(run_hash("mini", own_cache), task.folder, list(task.languages))


def test_real_data_with_vectors_that_round(data: Path, tmp_path: Path, own_cache: Path) -> None:
    """The path of real models, where float32 leaves comparisons open: MLQA-R, random projections of `hash`."""
    task = load_task("mlqa-r")
    collection = read(task, data)
    for role in ("queries", "passages"):
        for language, rows in getattr(collection, role).items():
            np.save(tmp_path / f"{role}.{language}.npy", projected([row.text for row in rows]))
    result = evaluate(load(f"vectors:{tmp_path}"), task, plan=Plan(own_cache, data))
    check(result, data / "mlqa-r", list(task.languages), projected)


@pytest.mark.parametrize(
    ("name", "cells", "encoded"), [("xquad-r", (11, 110, 11), 26021), ("mlqa-r", (7, 42, 7), 24695)]
)
def test_real_data(name: str, cells: tuple[int, int, int], encoded: int, data: Path, own_cache: Path) -> None:
    result = run_hash(name, own_cache, data)
    settings = [c.cell.setting for c in result.cells]
    assert tuple(settings.count(s) for s in ("mono", "cross", "multi")) == cells
    assert result.texts["distinct"] == result.timing["texts_encoded"] == encoded
    check(result, data / name, list(load_task(name).languages))
    # Macro means by hand: over languages, and over ordered pairs.
    for setting in ("mono", "cross", "multi"):
        values = [c.values["AP"] for c in result.cells if c.cell.setting == setting]
        assert math.isclose(result.summary()[setting]["AP"], sum(values) / len(values), rel_tol=1e-12)
