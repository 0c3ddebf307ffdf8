"""Shards of corpora: each text once, the same bytes after a kill, nothing read that is done, damage named."""

import gzip
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_encode import Counting, small_disk  # noqa: F401

from xbench import batches, drafts
from xbench.errors import DataError, IntegrityError, ModelOutputError, StorageError
from xbench.folders import Folder, LocalFolder
from xbench.models import Encoder
from xbench.records import Corpus, CorpusFile, Passage
from xbench.shards import Shards, encode_corpora
from xbench.store import Cut

# Killed at random moments by the test; its vectors depend on the company a text is encoded in.
PROGRAM = """
import sys
from pathlib import Path
from typing import Any
from test_shards import Company, corpus, encode_corpus
from xbench.folders import LocalFolder

encode_corpus(Company(), "a", corpus(Path(sys.argv[1])), LocalFolder(Path(sys.argv[2])), shard_rows=7)
"""


class Company(Counting):
    """Slow, and the last bits of a vector depend on what else is in the batch, as with real models."""

    batch_tokens = 40

    def _encode(self, role: str, texts: list[str], language: str) -> NDArray[np.float32]:
        time.sleep(0.02)
        noise = int.from_bytes(hashlib.sha256("|".join(texts).encode()).digest()[:2], "big")
        return super()._encode(role, texts, language) + np.float32(noise * 1e-3)


def encode_corpus(model: Encoder, language: str, some: Corpus, root: Folder, **options: Any) -> Shards:
    """`encode_corpora` of one language."""
    return encode_corpora(model, {language: some}, root, **options)[language]


def read(path: Path) -> Iterator[Passage]:
    """A passage a line: doc_id, tab, text."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            yield Passage(*line.rstrip("\n").split("\t"))


def corpus(folder: Path, sizes: tuple[int, ...] = (20, 14, 0, 3)) -> Corpus:
    """Files of so many passages; every fifth text is one of three."""
    files = []
    for number, size in enumerate(sizes):
        ids = [
            (f"a:{number}.{i}", "x" * (i % 3 + 1) if i % 5 == 0 else f"text {number} {i}" * (i % 4 + 1))
            for i in range(size)
        ]
        path = folder / f"docs-{number}.gz"
        path.write_bytes(gzip.compress("".join(f"{a}\t{text}\n" for a, text in ids).encode(), mtime=0))
        files.append(CorpusFile(path, hashlib.sha256(path.read_bytes()).hexdigest()))
    return Corpus(tuple(files), read, sum(sizes), "tab 1")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".tmp"}


def test_what_a_shard_holds(tmp_path: Path) -> None:
    model, some = Counting(), corpus(tmp_path)
    found = encode_corpus(model, "a", some, LocalFolder(tmp_path / "c"), shard_rows=7)
    passages = list(some)
    assert [(s.source.name, s.start, s.rows, s.last) for s in found.shards] == [
        ("docs-0.gz", 0, 7, False),
        ("docs-0.gz", 7, 7, False),
        ("docs-0.gz", 14, 6, True),
        ("docs-1.gz", 0, 7, False),
        ("docs-1.gz", 7, 7, True),  # known to be the last without another one
        ("docs-2.gz", 0, 0, True),
        ("docs-3.gz", 0, 3, True),
    ]
    assert found.encoded == 37
    assert [doc_id for s in found.shards for doc_id in s.doc_ids()] == [p.doc_id for p in passages]
    vectors = np.concatenate([s.matrix() for s in found.shards if s.rows])
    expected = [[len(p.text) + 1, sum(map(ord, p.text)), len("passages")] for p in passages]  # as `Counting` has it
    assert vectors.dtype == np.float32 and vectors.tolist() == expected
    lost = [len(p.text) % 3 for p in passages]  # likewise
    assert found.cut == Cut(sum(n > 0 for n in lost), sum(lost))
    assert found.shards[1].some_ids(np.array([0, 3, 6])) == ["a:0.7", "a:0.10", "a:0.13"]
    for shard in found.shards:  # what is on disk is plain NumPy and text
        folder = shard.folder.path
        card = json.loads((folder / shard.card).read_text())
        names = list(shard.files.values())
        assert [name.partition("-")[2][:16] for name in names] == [card["vectors"][:16], card["ids"][:16]]
        assert np.array_equal(np.load(folder / shard.files[shard.vectors]), shard.matrix())
    # Of equal texts of a shard one is asked for; batches never cross shards.
    for role, language, texts in model.calls:
        assert (role, language) == ("passages", "a") and len(texts) == len(set(texts))
        assert sum(map(len, texts)) <= 64 or len(texts) == 1


def test_what_is_there_is_neither_encoded_nor_read(tmp_path: Path) -> None:
    some = corpus(tmp_path)
    first = encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "c"), shard_rows=7)

    def refuse(path: Path) -> Iterator[Passage]:
        raise AssertionError(path)

    model, done = Counting(), Corpus(some.files, refuse, some.size, some.form)
    again = encode_corpus(model, "a", done, LocalFolder(tmp_path / "c"), shard_rows=7)
    assert again == (first.shards, 0) and model.calls == []
    # One is missing, as its damaged file was deleted: its file alone is read, no further than to it.
    before = files_of(tmp_path / "c")
    lost = first.shards[1]
    (lost.folder.path / lost.files[lost.vectors]).unlink()
    seen: list[str] = []

    def watched(path: Path) -> Iterator[Passage]:
        for passage in read(path):
            seen.append(passage.doc_id)
            yield passage

    model = Counting()
    partly = encode_corpus(
        model, "a", Corpus(some.files, watched, some.size, some.form), LocalFolder(tmp_path / "c"), shard_rows=7
    )
    assert partly == (first.shards, 7) and files_of(tmp_path / "c") == before
    assert seen == [f"a:0.{i}" for i in range(15)]  # one more tells whether the shard is the last
    assert all("text 0 " in text or set(text) == {"x"} for _, _, texts in model.calls for text in texts)


@pytest.mark.parametrize("sizes", [(20, 14), (3,)])
def test_languages_of_one_file(sizes: tuple[int, ...], tmp_path: Path) -> None:
    """Read and encoded once for all, unless the model is told the language."""
    some, model = corpus(tmp_path, sizes), Counting()
    alone = encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "alone"), shard_rows=7)
    found = encode_corpora(model, {"a": some, "b": some}, LocalFolder(tmp_path / "c"), shard_rows=7)
    for language in "ab":
        assert [s.vectors for s in found[language].shards] == [s.vectors for s in alone.shards]
        assert found[language].encoded == sum(sizes)
    asked = [text for _, _, texts in model.calls for text in texts]
    once = Counting()
    encode_corpus(once, "a", some, LocalFolder(tmp_path / "once"), shard_rows=7)
    assert sorted(asked) == sorted(text for _, _, texts in once.calls for text in texts)


def test_other_shards_for_all_that_can_move_a_vector(tmp_path: Path) -> None:
    some, cache = corpus(tmp_path), tmp_path / "c"
    encode_corpus(Counting(), "a", some, LocalFolder(cache), shard_rows=7)
    changed = Counting()
    changed.identity = {"kind": "counting", "told": False, "weights": "other"}
    other = CorpusFile(some.files[0].path, "0" * 64)
    for model, language, texts, options in (
        (Counting(), "a", some, {"shard_rows": 8}),
        (Counting(), "a", some, {"shard_rows": 7, "batch_tokens": 50}),
        (changed, "a", some, {"shard_rows": 7}),
        (Counting(told_language=True), "a", some, {"shard_rows": 7}),
        (Counting(told_language=True), "b", some, {"shard_rows": 7}),
        (Counting(), "a", Corpus(some.files, read, some.size, "tab 2"), {"shard_rows": 7}),
    ):
        assert encode_corpus(model, language, texts, LocalFolder(cache), **options).encoded == 37  # type: ignore[arg-type]
    one = Corpus((other, *some.files[1:]), read, some.size, some.form)
    assert encode_corpus(Counting(), "a", one, LocalFolder(cache), shard_rows=7).encoded == 20
    # A model that is not told the language has the same vectors for any.
    assert encode_corpus(Counting(), "b", some, LocalFolder(cache), shard_rows=7).encoded == 0


def test_windows_and_the_thread_that_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows a shard; errors of the reader come through."""
    some = corpus(tmp_path, (23,))
    whole = encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "c"), shard_rows=10)
    monkeypatch.setattr(drafts, "WINDOW", 3)
    parts = encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "d"), shard_rows=10)
    assert [s.vectors for s in parts.shards] == [s.vectors for s in whole.shards]

    def broken(path: Path) -> Iterator[Passage]:
        for passage in read(path):
            if passage.doc_id == "a:0.12":
                raise DataError(f"{path}: row 13: no text")
            yield passage

    cache = tmp_path / "e"
    with pytest.raises(DataError, match="row 13"):
        encode_corpus(
            Counting(), "a", Corpus(some.files, broken, some.size, some.form), LocalFolder(cache), shard_rows=5
        )
    assert encode_corpus(Counting(), "a", some, LocalFolder(cache), shard_rows=5).encoded == 23 - 10  # two were whole


def test_counts_and_vectors_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = corpus(tmp_path)
    with pytest.raises(DataError, match="found 37 passages, expected 38"):
        encode_corpus(
            Counting(), "a", Corpus(some.files, read, 38, some.form), LocalFolder(tmp_path / "c"), shard_rows=7
        )
    model = Counting()
    good = model._encode

    def bad(role: str, texts: list[str], language: str) -> NDArray[np.float32]:
        return np.where([["text 1 9" in text] for text in texts], np.nan, good(role, texts, language)).astype("f4")

    monkeypatch.setattr(model, "_encode", bad)
    with pytest.raises(ModelOutputError, match=r"NaN or infinity for a:1\.9 "):
        encode_corpus(model, "a", some, LocalFolder(tmp_path / "d"), shard_rows=7)
    # What was whole before stays; another width than it has is refused.
    wide = Counting()
    monkeypatch.setattr(wide, "_encode", lambda *args: np.pad(good(*args), ((0, 0), (0, 1))))
    with pytest.raises(ModelOutputError, match="4 dimensions, but 3 before"):
        encode_corpus(wide, "a", some, LocalFolder(tmp_path / "d"), shard_rows=7)
    assert 0 < encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "d"), shard_rows=7).encoded < 37


def test_damage_is_named(tmp_path: Path) -> None:
    some, cache = corpus(tmp_path), tmp_path / "c"
    first = encode_corpus(Counting(), "a", some, LocalFolder(cache), shard_rows=7)
    before = files_of(cache)
    for path in (
        first.shards[3].folder.path / name for name in (*first.shards[3].files.values(), first.shards[3].card)
    ):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 20)):
            broken = bytearray(whole)
            broken[place] ^= 1
            path.write_bytes(broken)
            with pytest.raises(IntegrityError, match=path.name):
                encode_corpus(Counting(), "a", some, LocalFolder(cache), shard_rows=7)
        path.unlink()  # as the line says
        assert encode_corpus(Counting(), "a", some, LocalFolder(cache), shard_rows=7).encoded == 7
        assert files_of(cache) == before


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_kills(kills: int, tmp_path: Path) -> None:
    """kill -9 at a random moment and again: the bytes of the undisturbed run, though company moves vectors."""
    encode_corpus(Company(), "a", corpus(tmp_path), LocalFolder(tmp_path / "undisturbed"), shard_rows=7)
    expected = files_of(tmp_path / "undisturbed")
    rng = random.Random(3)
    partly = 0
    for i in range(kills):
        cache = tmp_path / f"{i}"
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(cache)],
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
        )
        while not list(cache.glob("*/model.json")):
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        partly += bool(list(cache.glob("*/*/*.json")))
        encode_corpus(Company(), "a", corpus(tmp_path), LocalFolder(cache), shard_rows=7)
        assert files_of(cache) == expected
    assert partly >= kills / 3, "hardly any kill hit a half-filled store; the test would prove little"


def test_full_disk(small_disk: Path, tmp_path: Path) -> None:  # noqa: F811
    """What was whole stays, and with more room the bytes of an undisturbed run."""
    some = corpus(tmp_path, (4000, 4000))
    encode_corpus(Counting(), "a", some, LocalFolder(tmp_path / "undisturbed"), shard_rows=1000)
    with pytest.raises(StorageError, match="No space left on device; free space"):
        encode_corpus(Counting(), "a", some, LocalFolder(small_disk), shard_rows=1000)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert 0 < encode_corpus(Counting(), "a", some, LocalFolder(small_disk), shard_rows=1000).encoded < 8000
    assert files_of(small_disk) == files_of(tmp_path / "undisturbed")


def test_a_window_without_texts_is_not_prepared() -> None:
    window = batches.Window("passages", [])
    assert [len(prepared.items) for _, prepared in batches.prepare_ahead(Counting(), [window])] == [0]
