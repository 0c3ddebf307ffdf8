"""Tasks evaluated by shards: every number is that of the same task in memory; approximate search is declared."""

import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xbench import approximate, cli, readers
from xbench.approximate import Variant
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.large import Large
from xbench.models import Prepared, Role, load
from xbench.parquet import read_ranks
from xbench.readers.part import Part
from xbench.readers.sentences import read_sentences
from xbench.records import Corpus, CorpusFile, Passage
from xbench.results import Result, read_result, write_result
from xbench.storage import sha256
from xbench.task import Task, vary
from xbench.tasks import load_task

MINI = vary(load_task("mini"), languages=["de", "en", "th"])


class Small:
    """32 dimensions, a function of the text alone: the sum of a random vector for each of its trigrams."""

    name, told_language, batch_tokens = "small", False, 500
    table = np.random.default_rng(0).standard_normal((512, 32))

    def __init__(self) -> None:
        self.identity: dict[str, object] = {"kind": "small"}

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        return Prepared(texts, [len(text) for text in texts], [len(text) % 3 for text in texts])

    def encode(self, items: Sequence[str], role: Role, language: str) -> NDArray[np.float32]:
        grams = [[zlib.crc32(f" {text}"[i : i + 3].encode()) % 512 for i in range(len(text))] for text in items]
        return np.array([self.table[some].sum(axis=0) for some in grams], np.float32)


def passages_of(path: Path) -> Iterator[Passage]:
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        yield Passage(*json.loads(line))


def as_large(part: Part, large: dict[str, Corpus]) -> Part:
    """As a reader gives large tasks: passages are neither held nor counted."""
    counts = {key: {what: n for what, n in some.items() if what != "passages"} for key, some in part.counts.items()}
    return part._replace(collection=part.collection._replace(passages={}, large=large), counts=counts)


@pytest.fixture
def by_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader of `mini` gives its passages as files, two a language."""

    def reader(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
        for part in read_sentences(task, paths):
            large = {}
            for language, rows in part.collection.passages.items():
                files = []
                for number, some in enumerate((rows[:50], rows[50:])):
                    path = tmp_path / f"{language}.{number}.jsonl"
                    path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
                    files.append(CorpusFile(path, sha256(path)))
                large[language] = Corpus(tuple(files), passages_of, len(rows), "mini 1")
            yield as_large(part, large)

    monkeypatch.setitem(readers.READERS, "squad-sentences", reader)
    return tmp_path


def values(result: Result) -> dict[str, dict[str, float]]:
    return {cell.cell.name: cell.values for cell in result.cells}


def in_memory(task: Task, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    with monkeypatch.context() as patch:
        patch.setitem(readers.READERS, "squad-sentences", read_sentences)
        return evaluate(Small(), task, plan=Plan(cache))


@pytest.mark.parametrize("settings", [("mono", "cross", "multi"), ("mono",), ("mono", "cross"), ("multi",)])
def test_every_number_is_that_of_the_task_in_memory(
    settings: tuple[str, ...], by_files: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(MINI, settings=settings)
    expected = in_memory(task, own_cache, monkeypatch)
    for rows in (13, 1 << 16):
        found = evaluate(Small(), task, plan=Plan(own_cache), large=Large(rows))
        assert values(found) == values(expected)
        for a, b in zip(found.cells, expected.cells, strict=True):
            assert (a.query_ids, a.passages, a.left_out, a.unmatched) == (b.query_ids, b.passages, b.left_out, None)
            for name in b.per_query:
                np.testing.assert_array_equal(a.per_query[name], b.per_query[name])
        assert (found.intervals, found.clusters) == (expected.intervals, expected.clusters)
        assert found.search["shard_rows"] == rows and found.search["index"] == "flat"
        assert found.truncation["passages"] == expected.truncation["passages"]
        assert found.model["fingerprint"] != expected.model["fingerprint"]
    # Written and read again, and the tables beside it are whole.
    path = write_result(found, by_files / "out")
    assert read_result(path).search == found.search and "search" not in expected.to_json()
    ranks, table = read_ranks(path.parent, "mini")[0], found.ranks
    assert table is not None
    assert ranks.sizes.tolist() == table.sizes.tolist()
    for cell in task.cells():
        again = ranks.ranked(cell)[0], table.ranked(cell)[0]
        assert again[0].ranks.tolist() == again[1].ranks.tolist() and again[0].pool == again[1].pool


def test_the_same_again_without_work(by_files: Path, own_cache: Path) -> None:
    found = [evaluate(Small(), MINI, plan=Plan(own_cache, threads=n), large=Large(20)) for n in (1, 2)]
    assert found[0].to_json() == found[1].to_json()
    assert found[0].timing["texts_encoded"] > 0 and found[1].timing["texts_encoded"] == 0
    # One doc_id in two files of a language: named.
    path = by_files / "de.1.jsonl"
    lines = path.read_text().split("\n")
    first = json.loads((by_files / "de.0.jsonl").read_text().split("\n")[4])[0]
    lines[2] = json.dumps([first, "x"])
    path.write_text("\n".join(lines))
    corpus = Corpus(
        tuple(CorpusFile(p, sha256(p)) for p in sorted(by_files.glob("de.*.jsonl"))), passages_of, 0, "mini 1"
    )
    size = len(list(corpus))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(readers.READERS, "squad-sentences", _with(dataclasses.replace(corpus, size=size)))
        with pytest.raises(DataError, match=rf"de\.1\.jsonl: row 3: doc_id '{first}' .*de\.0\.jsonl: row 5$"):
            evaluate(Small(), dataclasses.replace(MINI, settings=("mono",)), plan=Plan(own_cache))


def _with(corpus: Corpus):  # type: ignore[no-untyped-def]
    def reader(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
        for part in read_sentences(task, paths):
            yield as_large(part, {"de": corpus})

    return reader


def test_judged_passages_in_no_corpus(by_files: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, unless the task says how many: then they are relevant and never retrieved, as trec_eval has it."""
    whole = readers.READERS["squad-sentences"]

    def reader(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
        for part in whole(task, paths):
            query_id = part.collection.queries["en"][0].query_id
            part.collection.qrels[query_id]["en:nowhere"] = 1
            yield part

    monkeypatch.setitem(readers.READERS, "squad-sentences", reader)
    task = dataclasses.replace(MINI, settings=("mono",))
    with pytest.raises(DataError, match="1 judged passages are in no corpus, expected 0: en:nowhere"):
        evaluate(Small(), task, ["R@10", "AP"], plan=Plan(own_cache))
    task = dataclasses.replace(task, options={"dangling": 1})
    found = evaluate(Small(), task, ["R@10", "AP"], plan=Plan(own_cache))
    usual = in_memory(dataclasses.replace(task, options={}), own_cache, monkeypatch)
    for a, b in zip(found.cells, usual.cells, strict=True):
        if a.cell.query_language == "en":
            assert a.per_query["R@10"][0] == b.per_query["R@10"][0] / 2
            assert a.per_query["AP"][0] == pytest.approx(b.per_query["AP"][0] / 2) and b.per_query["AP"][0] > 0
        else:
            assert a.per_query["AP"].tolist() == b.per_query["AP"].tolist()


@pytest.mark.parametrize("factory", ["SQ8", "IVF4,PQ4x4"])
def test_an_index_that_proposes_all_moves_nothing(
    factory: str, by_files: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nprobe = 4 if "IVF" in factory else None
    variant, task = Variant(factory, nprobe, 1000), dataclasses.replace(MINI, settings=("mono", "multi"))
    found = evaluate(Small(), task, plan=Plan(own_cache), large=Large(30, variant))
    expected = in_memory(task, own_cache, monkeypatch)
    assert values(found) == values(expected)
    assert {cell.unmatched["relevant"] for cell in found.cells if cell.unmatched} == {0}
    assert found.search["index"] == factory and found.search["depth"] == 1000
    assert {some["R@100"] for some in found.search["recall"].values()} == {1.0}
    assert found.model["identity"]["index"] == {
        "factory": factory,
        "nprobe": nprobe or 1,
        "depth": 1000,
        "train_rows": 1 << 18,
        "seed": 0,
    }


@pytest.mark.parametrize("settings", [("mono",), ("mono", "multi")])
def test_what_an_index_does_not_propose_is_not_retrieved(
    settings: tuple[str, ...], by_files: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an exact index of depth 5: those of ranks up to 5 in their language keep them, the others have none."""
    task = dataclasses.replace(MINI, settings=settings)
    expected = in_memory(task, own_cache, monkeypatch).ranks
    monkeypatch.setattr(approximate, "RECALL_K", 10)
    result = evaluate(Small(), task, ["R@5", "R@100"], plan=Plan(own_cache), large=Large(30, Variant("Flat", None, 5)))
    found = result.ranks
    assert expected is not None and found is not None
    lost = 0
    for cell, values_ in zip(task.cells(), result.cells, strict=True):
        if cell.setting == "mono":
            (a, _), (b, _) = found.ranked(cell), expected.ranked(cell)
            assert a.ranks.tolist() == [rank if rank <= 5 else np.inf for rank in b.ranks]
            assert values_.unmatched == {
                "queries": 0,
                "relevant": int((b.ranks > 5).sum()),
                "passages": (b.pool - 5) * len(values_.query_ids),
            }
            lost += int((b.ranks > 5).sum())
    assert lost > 5  # else this test would prove nothing
    # Of an exact index the first 5 are all there, of the first 10 half.
    assert {some["R@10"] for some in result.search["recall"].values()} == {0.5}
    path = write_result(result, by_files / "out")
    ranks = read_ranks(path.parent, "mini")[0]
    for cell in task.cells():
        assert ranks.ranked(cell)[0].ranks.tolist() == found.ranked(cell)[0].ranks.tolist()


def test_a_language_without_passages(by_files: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of it stands above anything, unless the passage is not retrieved at all; the tables say the same."""

    def reader(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
        for part in whole(task, paths):
            some = part.collection
            qrels = {q: {d: g for d, g in rows.items() if d[:2] != "th"} for q, rows in some.qrels.items()}
            large = {language: corpus for language, corpus in some.large.items() if language != "th"}
            yield part._replace(collection=some._replace(qrels=qrels, large=large))

    whole = readers.READERS["squad-sentences"]
    monkeypatch.setitem(readers.READERS, "squad-sentences", reader)
    task, lost = dataclasses.replace(MINI, settings=("multi",)), []
    for variant in (Variant(), Variant("Flat", None, 5)):
        result = evaluate(Small(), task, ["R@5"], plan=Plan(own_cache), large=Large(30, variant))
        assert result.ranks is not None and result.ranks.sizes.tolist() == [77, 77, 0]
        gone = result.ranks.above[:, 0] < 0
        assert (result.ranks.above[gone] == -1).all() and (result.ranks.above[~gone, 2] == 0).all()
        lost.append(int(gone.sum()))
        path = write_result(result, by_files / "out")
        assert (read_ranks(path.parent, "mini")[0].above < 0).sum() == 3 * lost[-1]
    assert lost[0] == 0 < lost[1]


def test_a_damaged_index_is_refused(by_files: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, large = dataclasses.replace(MINI, settings=("mono",)), Large(30, Variant("SQ8"))
    trained: list[int] = []
    build = approximate.Approximate.build
    monkeypatch.setattr(
        approximate.Approximate, "build", staticmethod(lambda *a: (trained.append(len(a[1])), build(*a))[1])
    )
    first = evaluate(Small(), task, plan=Plan(own_cache), large=large)
    assert len(trained) == len(task.languages)
    assert evaluate(Small(), task, plan=Plan(own_cache), large=large).to_json() == first.to_json()
    assert len(trained) == len(task.languages)
    index = sorted(own_cache.rglob("*.faiss"))[0]
    content = bytearray(index.read_bytes())
    content[-9] ^= 1
    index.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged; delete"):
        evaluate(Small(), task, plan=Plan(own_cache), large=large)
    index.with_suffix(".json").unlink()
    assert evaluate(Small(), task, plan=Plan(own_cache), large=large).to_json() == first.to_json()


def test_what_is_asked_for_in_vain(by_files: Path, own_cache: Path) -> None:
    for variant, message in (
        (Variant("nonsense"), "--index 'nonsense': no FAISS index of"),
        (Variant("IVF4,PQ7"), "--index 'IVF4,PQ7': .*multiple"),
        (Variant("SQ8", 3), "takes no --nprobe"),
        (Variant("IVF4096,SQ8"), "'IVF4096,SQ8' on .* vectors: "),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(Small(), MINI, plan=Plan(own_cache), large=Large(30, variant))
    with pytest.raises(UsageError, match="needs all passages of mini at once"):
        evaluate(load("fuse:hash+bm25"), MINI, plan=Plan(own_cache))


def test_by_command(by_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = by_files / "out"
    more = [
        "--languages",
        "de,en",
        "--shard-rows",
        "30",
        "--index",
        "IVF2,SQ8",
        "--nprobe",
        "2",
        "--depth",
        "50",
        "--setting",
        "mono",
    ]
    assert cli._run(["run", "hash", "-t", "mini", "-o", str(out), *more], False) == 0
    (path,) = out.glob("*/mini.json")
    content = json.loads(path.read_text())
    assert content["search"] | {"recall": 0} == {
        "shard_rows": 30,
        "index": "IVF2,SQ8",
        "nprobe": 2,
        "depth": 50,
        "shards": content["search"]["shards"],
        "recall": 0,
    }
    assert content["command"] == (
        "xbench run hash -t mini --languages de,en --setting mono"
        " --shard-rows 30 --index IVF2,SQ8 --nprobe 2 --depth 50"
    )
    capsys.readouterr()
    assert cli._run(["run", "hash", "-t", "mini", "-o", str(out), "--nprobe", "2"], False) == 2
    assert "--nprobe and --depth are for an approximate --index" in capsys.readouterr().err
