"""BM25 of corpora that are not held: the same scores as of pools that are, ties, indexes that stay or fall."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xbench.errors import DataError, IntegrityError, StorageError
from xbench.models import LargeRetriever, jvm, load, lucene
from xbench.readers import read
from xbench.records import Collection, Corpus, CorpusFile, Passage, Query
from xbench.storage import sha256
from xbench.tasks import load_task

ENGLISH = [Passage(f"en:{i}", text) for i, text in enumerate(["running dogs", "a cat", "the", "dogs run, dogs", "cow"])]


@pytest.fixture(scope="module")
def bm25() -> Iterator[Any]:
    if not importlib.util.find_spec("pyserini"):
        pytest.skip("NO PYSERINI: nothing of bm25 is tested; pip install 'xbench[bm25]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(jvm.HEAP_VARIABLE, "256m")
        yield load("bm25")


@pytest.fixture(scope="module")
def mini() -> Collection:
    return read(load_task("mini"), None, offline=True)


def read_rows(path: Path) -> Iterator[Passage]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Passage(*json.loads(line))


def corpus(rows: Sequence[Passage], path: Path, size: int | None = None) -> Corpus:
    """In two files, and with a passage count that may be wrong."""
    path.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    files = []
    for name, some in (("a", rows[:half]), ("b", rows[half:])):
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in some))
        files.append(CorpusFile(path / name, sha256(path / name)))
    return Corpus(tuple(files), read_rows, len(rows) if size is None else size, "test-1")


Found = list[tuple[list[str], list[float]]]


def first(bm25: Any, pool: Mapping[str, Corpus], queries: Sequence[Query], language: str, k: int, cache: Path) -> Found:
    with bm25.search_large(pool, cache) as indexes:
        return [tuple(hits) for hits in indexes.pool(list(pool)).hits(queries, language, k)]


def expected(
    bm25: Any, pool: Mapping[str, Sequence[Passage]], queries: Sequence[Query], language: str, k: int, folder: Path
) -> Found:
    """By scores of all passages, sorted by score and then by the bytes of the doc_id, both descending."""
    ids = [passage.doc_id for rows in pool.values() for passage in rows]
    with bm25.search(pool, folder) as searcher:
        scores = searcher.scores(queries, language).tolist()
    found = []
    for row in scores:
        pairs = sorted(((s, i.encode()) for s, i in zip(row, ids, strict=True) if s > -np.inf), reverse=True)[:k]
        found.append(([i.decode() for _, i in pairs], [s for s, _ in pairs]))
    return found


def same(bm25: Any, pool: Mapping[str, Sequence[Passage]], asked: Sequence[Query], language: str, k: int, tmp: Path):
    pools = {a: corpus(rows, tmp / "corpora" / a) for a, rows in pool.items()}
    wanted = expected(bm25, pool, asked, language, k, tmp)
    assert first(bm25, pools, asked, language, k, tmp) == wanted
    return wanted


# The same as in memory


def test_every_pool_has_the_scores_of_the_pool_in_memory(bm25: Any, mini: Collection, tmp_path: Path) -> None:
    """Mono and cross cells of some languages, the joint pool; to a depth within the pool and beyond."""
    assert isinstance(bm25, LargeRetriever)
    some = {language: mini.passages[language] for language in ("de", "en")}
    for language, rows in some.items():
        queries = [*mini.queries[language], Query("twice", " ".join(q.text for q in mini.queries[language][:5] * 2))]
        wanted = same(bm25, {language: rows}, queries, language, 7, tmp_path)
        assert any(len(ids) == 7 for ids, _ in wanted)
        same(bm25, {language: rows}, [*mini.queries["en"], *mini.queries[language]], "en", 1000, tmp_path)
    for language in some:
        wanted = same(bm25, some, mini.queries[language], language, 12, tmp_path)
        assert any(not doc_id.startswith(language) for ids, _ in wanted for doc_id in ids)


@pytest.mark.slow
def test_real_data_has_the_scores_of_the_pool_in_memory(bm25: Any, data: Path, tmp_path: Path) -> None:
    collection = read(load_task("xquad-r"), data, offline=True)
    for language, rows in collection.passages.items():
        same(bm25, {language: rows}, collection.queries[language], language, 100, tmp_path)
    same(bm25, collection.passages, collection.queries["ru"], "ru", 100, tmp_path)


@pytest.mark.parametrize(
    ("language", "texts"),
    [
        ("ar", ["ـ كتاب ـ ـ", "كتاب جديد قديم", "كتاب"]),  # a lone tatweel is normalized to nothing
        ("fa", ["ـ کتاب ـ", "کتاب نو"]),
        ("pl", ["mam zamek i pił", "zamek zamki", "piła mam"]),  # several base forms in one place
        ("uk", ["мати була вдома", "мати"]),
        ("ja", ["関西国際空港に行く", "空港 空港", "国際"]),
        ("th", ["ฉันไปโรงเรียน", "โรงเรียน โรงเรียน"]),
        ("km", ["ខ្ញុំទៅសាលារៀន", "សាលារៀន"]),
        ("sw", ["a\u00a0b c", "\U0001f600 \U0001f601", "x" * 5000, "nul\0nul", "a b", "\u2028 b"]),
        ("qaa", ["a word", "A WORD", "-"]),
    ],
)
def test_terms_that_are_odd(bm25: Any, tmp_path: Path, language: str, texts: list[str]) -> None:
    """Empty ones, several in one place, such that ICU tells, such that white space could split: as in memory."""
    rows = [Passage(f"{language}:{i}", text) for i, text in enumerate(texts)]
    queries = [Query(str(i), text) for i, text in enumerate([*texts, " ".join(texts)])]
    wanted = same(bm25, {language: rows}, queries, language, 10, tmp_path)
    assert wanted[0][0]


def test_a_long_query(bm25: Any, tmp_path: Path) -> None:
    """Of more terms than Lucene takes by default (1,024)."""
    rows = [Passage(f"xx:{i}", f"word{i} word{i + 1} common " * (1 + i % 3)) for i in range(1500)]
    query = Query("q", "common " + " ".join(f"word{i}" for i in range(1, 1200)))
    wanted = same(bm25, {"xx": rows}, [query], "xx", 600, tmp_path)
    assert len(set(wanted[0][1])) > 1


# Ties


# In UTF-8, é < ﬀ < 😀; in UTF-16, 😀 < ﬀ.
HEADS = ["", "a", "é", "ﬀ", "😀", "9", "-"]


@pytest.mark.parametrize("buffer", [64.0, 0.15], ids=["one segment", "many"])
def test_ties_at_the_border(bm25: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: float) -> None:
    """Thousands of equal scores, the passages in no order: the first k are those of the ranking rule, for any k."""
    monkeypatch.setattr(lucene, "BUFFER_MB", buffer)
    rng = np.random.default_rng(0)
    texts = ["dog cat", "dog bird", "dog", "cow sheep dog dog", "bird"]
    numbers = rng.permutation(2500)
    rows = [
        Passage(f"en:{HEADS[i % len(HEADS)]}{i}", texts[rng.choice(5, p=[0.6, 0.2, 0, 0.001, 0.199])]) for i in numbers
    ]
    queries = [Query(text, text) for text in ("dog", "bird dog dog", "sheep", "none", "bird cat cow dog")]
    large = corpus(rows, tmp_path / "corpus")
    wanted = expected(bm25, {"en": rows}, queries, "en", len(rows), tmp_path)
    with bm25.search_large({"en": large}, tmp_path) as indexes:
        assert (len(indexes.indexes["en"].leaves) > 1) == (buffer < 1)
        for k in (1, 999, 5000):
            hits = [tuple(found) for found in indexes.pool(["en"]).hits(queries, "en", k)]
            assert hits == [(ids[:k], scores[:k]) for ids, scores in wanted], k
    ties = [len(scores) - len(set(scores)) for _, scores in wanted]
    assert max(ties) > 1900 and wanted[3] == ([], [])


# Indexes that stay


def unread(path: Path) -> Iterator[Passage]:
    raise AssertionError(f"{path} is read")
    yield


def test_an_index_is_used_again(bm25: Any, tmp_path: Path) -> None:
    """As long as the bytes of the files, how they are read, the language and the model are the same."""
    large = corpus(ENGLISH, tmp_path / "corpus")
    queries = [Query("q", "dogs")]
    found = first(bm25, {"en": large}, queries, "en", 9, tmp_path)
    assert found[0][0] == ["en:3", "en:0"]
    again = Corpus(large.files, unread, large.size, large.form)
    assert first(bm25, {"en": again}, queries, "en", 9, tmp_path) == found
    others: list[tuple[str, Corpus]] = [
        ("de", again),
        ("en", Corpus(large.files, unread, large.size, "test-2")),
        ("en", Corpus(large.files[:1], unread, large.size, large.form)),
        ("en", Corpus((large.files[0]._replace(sha256="0"), large.files[1]), unread, large.size, large.form)),
    ]
    for language, other in others:
        with pytest.raises(AssertionError, match="is read"):
            first(bm25, {language: other}, queries, language, 9, tmp_path)
    with pytest.raises(AssertionError, match="is read"), pytest.MonkeyPatch.context() as patch:
        patch.setitem(bm25.identity, "version", 2)
        first(bm25, {"en": again}, queries, "en", 9, tmp_path)
    about = [json.loads(path.read_text()) for path in (tmp_path / "lucene").glob("*/about.json")]
    assert any(a["files"] == [file.sha256 for file in large.files] and a["language"] == "en" for a in about)


def committed(cache: Path) -> list[Path]:
    return list(cache.glob("lucene/*/index/segments_*"))


def test_what_fails_leaves_no_index(bm25: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next try makes it, in the same process: also after Ctrl-C in the middle."""
    monkeypatch.setattr(lucene, "BUFFER_MB", 0.15)
    rows = [Passage(f"en:{i}", f"word{i % 50} and term{i}") for i in range(2000)]
    large = corpus(rows, tmp_path / "corpus")

    def broken(error: BaseException) -> Callable[[Path], Iterator[Passage]]:
        def read_some(path: Path) -> Iterator[Passage]:
            for i, passage in enumerate(read_rows(path)):
                if path.name == "b" and i == 700:
                    raise error
                yield passage

        return read_some

    for error in (KeyboardInterrupt(), DataError("row 701: bad")):
        with pytest.raises(type(error)):
            first(bm25, {"en": Corpus(large.files, broken(error), 2000, "test-1")}, [], "en", 9, tmp_path)
        assert not committed(tmp_path)
    for size in (1999, 2001):
        with pytest.raises(DataError, match=f"corpus: en: found 2000 passages, expected {size}; is a file missing"):
            first(bm25, {"en": Corpus(large.files, read_rows, size, "test-1")}, [], "en", 9, tmp_path)
        assert not committed(tmp_path)
    same(bm25, {"en": rows}, [Query("q", "word7 word8")], "en", 30, tmp_path)
    with pytest.raises(IntegrityError, match="2000 passages, expected 1999; delete it"):
        first(bm25, {"en": Corpus(large.files, read_rows, 1999, "test-1")}, [], "en", 9, tmp_path)


KILLED = """
import json, sys, time
from pathlib import Path
from xbench.models import load, lucene
from xbench.records import Corpus, CorpusFile, Passage
lucene.BUFFER_MB = 0.15
folder, cache, files = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
def read(path):
    for i, line in enumerate(path.open()):
        if path.name == "b" and i == 500:
            print("half", flush=True)
            time.sleep(60)
        yield Passage(*json.loads(line))
corpus = Corpus(tuple(CorpusFile(folder / name, sha) for name, sha in files), read, 2000, "test-1")
with load("bm25").search_large({"en": corpus}, cache):
    pass
"""


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(bm25: Any, tmp_path: Path) -> None:
    rows = [Passage(f"en:{i}", f"word{i % 50} and term{i}") for i in range(2000)]
    large = corpus(rows, tmp_path / "corpus")
    files = json.dumps([(file.path.name, file.sha256) for file in large.files])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "corpus"), str(tmp_path), files]
    environment = os.environ | {"XBENCH_JAVA_HEAP": "128m"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        (index,) = tmp_path.glob("lucene/*/index")
        with pytest.raises(StorageError, match=r"another process is writing there .*write.lock.*; wait for it"):
            first(bm25, {"en": large}, [], "en", 9, tmp_path)
        process.send_signal(signal.SIGKILL)
    half = {path.name for path in index.iterdir()}
    assert any(name.endswith(".cfs") for name in half) and not committed(tmp_path)
    queries = [Query("q", "word7 word8 term1999")]
    assert first(bm25, {"en": large}, queries, "en", 9, tmp_path) == expected(
        bm25, {"en": rows}, queries, "en", 9, tmp_path
    )
    fresh = tmp_path / "fresh"
    first(bm25, {"en": large}, queries, "en", 9, fresh)
    assert len(committed(tmp_path)) == 1
    assert len(list(index.iterdir())) == len(list(fresh.glob("lucene/*/index/*"))), "leftovers are cleared"


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_index(bm25: Any, tmp_path: Path, how: str) -> None:
    large = corpus([Passage(f"en:{i}", f"word{i} and term{i % 7}") for i in range(500)], tmp_path / "corpus")
    first(bm25, {"en": large}, [], "en", 9, tmp_path)
    largest = max(tmp_path.glob("lucene/*/index/*.cfs"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        largest.unlink()
    else:
        largest.write_bytes(content if how == "flipped" else content[:-100])
    with pytest.raises((IntegrityError, StorageError), match=r"bm25: index of en in .*lucene") as caught:
        first(bm25, {"en": large}, [], "en", 9, tmp_path)
    assert isinstance(caught.value, IntegrityError) and "delete that folder" in str(caught.value)


# What is refused


def test_a_doc_id_that_occurs_twice(bm25: Any, tmp_path: Path) -> None:
    rows = [*ENGLISH, Passage("en:1", "another cat")]
    large = corpus(rows, tmp_path / "corpus")
    with pytest.raises(DataError, match=r"b: row 3: doc_id 'en:1' occurs twice; first in .*a: row 2$"):
        first(bm25, {"en": large}, [], "en", 9, tmp_path)
    assert not committed(tmp_path)


def test_a_text_that_is_no_unicode(bm25: Any, tmp_path: Path) -> None:
    large = corpus([*ENGLISH, Passage("en:5", "a \ud800")], tmp_path / "corpus")
    with pytest.raises(DataError, match="en:5: its text is no Unicode"):
        first(bm25, {"en": large}, [], "en", 9, tmp_path)


def test_passages_without_a_term(bm25: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They count in no statistic, as in memory; a language of nothing else is refused."""
    rows = [*ENGLISH, Passage("en:5", "!"), Passage("en:6", "")]
    with caplog.at_level("INFO", "xbench"):
        same(bm25, {"en": rows}, [Query("q", "dogs"), Query("r", "the"), Query("s", "")], "en", 9, tmp_path)
    assert caplog.text.count("bm25: 3 of 7 passages of en have no term") >= 1
    with pytest.raises(DataError, match="none of the 2 passages of de has a term"):
        first(
            bm25, {"de": corpus([Passage("de:0", "!"), Passage("de:1", "und")], tmp_path / "de")}, [], "de", 9, tmp_path
        )


def test_what_is_missing(bm25: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lucene, "BUFFER_MB", 0.15)
    rows = [Passage(f"en:{i}#{i % 3}", f"word{i}") for i in range(1500)]
    pools = {"en": corpus(rows, tmp_path / "en"), "de": corpus([Passage("de:1", "Wort")], tmp_path / "de")}
    asked = [row.doc_id for row in rows] + ["en:1", "en:", "en:9999#0", "de:1", "de:2"]
    with bm25.search_large(pools, tmp_path) as indexes:
        assert indexes.pool(["en", "de"]).missing(asked) == ["en:1", "en:", "en:9999#0", "de:2"]
        assert indexes.pool(["de"]).missing(["de:1", "en:0#0"]) == ["en:0#0"]
