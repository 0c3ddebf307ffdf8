"""Encoding: every distinct text once, the same batches after a kill, one cache for many runs."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from xbench import encode
from xbench.batches import plan
from xbench.encode import encode as encode_collection
from xbench.encode import text_key
from xbench.errors import IntegrityError, ModelOutputError
from xbench.models import ROLES, Prepared, Role
from xbench.readers import read
from xbench.records import Collection, Passage, Query
from xbench.store import Cut, Store
from xbench.tasks import load_task

# A model whose last bits depend on the company a text is encoded in, as those of real models do:
# a resumed run that cut other batches would not end with the same bytes.
MODEL = """
import hashlib, time
import numpy as np

class Model:
    batch_tokens = 300
    def encode(self, texts):
        time.sleep(0.008)
        company = hashlib.sha256("|".join(texts).encode()).digest()
        out = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            noise = int.from_bytes(company[:2], "big") * 1e-6
            out.append(np.random.default_rng(seed).standard_normal(32) + noise)
        return np.array(out, np.float32)
    def encode_queries(self, texts, language):
        return self.encode(texts)
    def encode_passages(self, texts, language):
        return self.encode(texts)
"""
DRIVER = """
import sys
import xbench.encode
from xbench.cli import main
xbench.encode.SHARD_SECONDS = 0.02
main(sys.argv[1:])
"""


class Counting:
    """Counts what it is asked for; vectors are a function of role and text."""

    name = "counting"
    batch_tokens = 64

    def __init__(self, told_language: bool = False):
        self.told_language = told_language
        self.identity: dict[str, object] = {"kind": "counting", "told": told_language}
        self.calls: list[tuple[str, str, list[str]]] = []

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        return Prepared(texts, [len(text) for text in texts], [len(text) % 3 for text in texts])

    def _encode(self, role: str, texts: Sequence[str], language: str) -> NDArray[np.float32]:
        self.calls.append((role, language, list(texts)))
        return np.array([[len(text) + 1, sum(map(ord, text)), len(role)] for text in texts], np.float32)

    def encode(self, items: Sequence[str], role: Role, language: str) -> NDArray[np.float32]:
        return self._encode(role, items, language)


def collection() -> Collection:
    queries = {"a": [Query("a:1", "same"), Query("a:2", "other")], "b": [Query("b:1", "same"), Query("b:2", "x")]}
    passages = {
        "a": [Passage("a:0.0.0", "same"), Passage("a:0.0.1", "twice"), Passage("a:0.0.2", "twice")],
        "b": [Passage("b:0.0.0", "twice")],
    }
    return Collection(queries, passages, {}, {})


def test_each_distinct_text_once_by_role_and_language(tmp_path: Path) -> None:
    blind, told = Counting(), Counting(told_language=True)
    found = encode_collection(blind, collection(), tmp_path)
    assert (found.texts, found.distinct, found.encoded) == (8, 5, 5)
    asked = [(role, text) for role, _, texts in blind.calls for text in texts]
    assert sorted(asked) == sorted(set(asked)) and len(asked) == 5
    found = encode_collection(told, collection(), tmp_path)
    assert (found.texts, found.distinct, found.encoded) == (8, 7, 7)
    assert all(len({language}) == 1 for _, language, _ in told.calls)
    # A text that occurs twice keeps its own vector, in every row.
    expected = np.array([[6, sum(map(ord, "twice")), 8]], np.float32)
    for rows, language in ((slice(1, 3), "a"), (slice(0, 1), "b")):
        assert (found.vectors["passages"][language][rows] == expected).all()
    assert (found.vectors["queries"]["a"][0] == [5, sum(map(ord, "same")), 7]).all()


def test_what_is_stored_is_not_encoded_again(tmp_path: Path) -> None:
    first = encode_collection(Counting(), collection(), tmp_path)
    again = Counting()
    second = encode_collection(again, collection(), tmp_path)
    assert second.encoded == 0 and again.calls == []
    for role in ("queries", "passages"):
        for language in ("a", "b"):
            assert (first.vectors[role][language] == second.vectors[role][language]).all()
    more = collection()
    more.queries["b"].append(Query("b:3", "new"))
    model = Counting()
    assert encode_collection(model, more, tmp_path).encoded == 1
    assert [texts for _, _, texts in model.calls] == [["new"]]


def test_the_key_is_the_identity_and_the_batches(tmp_path: Path) -> None:
    model = Counting()
    assert encode_collection(model, collection(), tmp_path).encoded == 5
    assert encode_collection(model, collection(), tmp_path, batch_tokens=7).encoded == 5
    model.identity = {"kind": "counting", "told": False, "weights": "other"}
    assert encode_collection(model, collection(), tmp_path).encoded == 5
    assert text_key("queries", "", "x") != text_key("passages", "", "x") != text_key("passages", "x", "")


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from("ab")), max_size=40), st.integers(1, 80))
def test_plan(texts: list[tuple[int, str]], budget: int) -> None:
    lengths, languages = [n for n, _ in texts], [a for _, a in texts]
    batches = list(plan(lengths, languages, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(texts)))
    for batch in batches:
        assert len({languages[i] for i in batch}) == 1
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
    for language in "ab":
        sizes = [lengths[i] for batch in batches for i in batch if languages[i] == language]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("role", "output", "words"),
    [
        ("queries", lambda x: np.where(np.arange(len(x))[:, None] == 1, np.nan, x).astype("f4"), ["NaN", "a:1"]),
        ("passages", lambda x: np.where(x > 0, np.inf, x).astype("f4"), ["infinity", "a:0.0.1"]),
        ("queries", lambda x: x * np.float32(0), ["zero vector", "a:2"]),
        ("queries", lambda x: x.astype("f8"), ["float64", "a:2"]),
        ("queries", lambda x: x[:-1], ["(3, d)", "(2, 3)"]),
        ("queries", lambda x: x[0], ["(3, d)", "(3,)"]),
        ("queries", lambda x: x[:, :0], ["(3, 0)"]),
        ("queries", lambda x: x.tolist(), ["list"]),
        ("queries", lambda x: None, ["NoneType"]),
    ],
)
def test_bad_output_names_the_first_text(role, output, words, tmp_path, monkeypatch) -> None:
    model = Counting()
    good = model._encode
    monkeypatch.setattr(
        model, "_encode", lambda r, texts, a: output(good(r, texts, a)) if r == role else good(r, texts, a)
    )
    with pytest.raises(ModelOutputError) as caught:
        encode_collection(model, collection(), tmp_path)
    assert caught.value.exit_code == 5
    assert all(word in str(caught.value) for word in ["counting", *words]), caught.value


def test_changing_width_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()
    model.batch_tokens = 5
    good = model._encode
    monkeypatch.setattr(model, "_encode", lambda r, texts, a: good(r, texts, a)[:, : 2 + (len(model.calls) < 2)])
    with pytest.raises(ModelOutputError, match="2 dimensions, but 3 before"):
        encode_collection(model, collection(), tmp_path)


def test_a_model_may_use_its_array_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As models with a fixed output buffer do: the vectors of a batch must not change with the next one."""
    model, buffer = Counting(), np.empty((100, 3), np.float32)
    model.batch_tokens = 5
    good = model._encode

    def same_array(role: str, texts: Sequence[str], language: str) -> NDArray[np.float32]:
        buffer[: len(texts)] = good(role, texts, language)
        return buffer[: len(texts)]

    monkeypatch.setattr(model, "_encode", same_array)
    found, fresh = encode_collection(model, collection(), tmp_path / "a"), Counting()
    fresh.batch_tokens = 5
    expected = encode_collection(fresh, collection(), tmp_path / "b")
    for role in ("queries", "passages"):
        for language in ("a", "b"):
            assert (found.vectors[role][language] == expected.vectors[role][language]).all()


def test_queries_and_passages_of_different_width_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()
    good = model._encode
    monkeypatch.setattr(model, "_encode", lambda r, texts, a: good(r, texts, a)[:, : 2 + (r == "queries")])
    with pytest.raises(ModelOutputError, match="2 dimensions, but 3 before"):
        encode_collection(model, collection(), tmp_path)


def test_good_vectors_survive_a_bad_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()
    model.batch_tokens = 5
    good = model._encode

    def interrupted(role: str, texts: Sequence[str], language: str) -> NDArray[np.float32]:
        if "x" in texts:
            raise KeyboardInterrupt
        return good(role, texts, language)

    monkeypatch.setattr(model, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_collection(model, collection(), tmp_path)
    assert encode_collection(Counting(), collection(), tmp_path, batch_tokens=5).encoded == 3  # x and two passages


def test_damaged_shard(tmp_path: Path) -> None:
    store = Store(tmp_path, {"kind": "x"})
    store.add([b"k" * 32], np.ones((1, 4), np.float32), [0])
    (shard,) = tmp_path.glob("*.npy")
    whole = shard.read_bytes()
    for i in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[i] ^= 1
        shard.write_bytes(broken)
        with pytest.raises(IntegrityError, match=shard.stem):
            Store(tmp_path, {"kind": "x"})
    shard.write_bytes(whole)
    assert (Store(tmp_path, {"kind": "x"}).gather([b"k" * 32]) == 1).all()
    with pytest.raises(IntegrityError, match="another model"):
        Store(tmp_path, {"kind": "y"})


@pytest.mark.parametrize(("name", "distinct"), [("xquad-r", 26029), ("mlqa-r", 24721)])
def test_published_texts_by_role_and_language(name: str, distinct: int, data: Path, tmp_path: Path) -> None:
    found = encode_collection(Counting(told_language=True), read(load_task(name), data), tmp_path, batch_tokens=10**6)
    assert found.encoded == found.distinct == distinct


def test_what_is_cut_is_counted_by_occurrence(tmp_path: Path) -> None:
    """And kept with the vectors: a run that encodes nothing says the same."""
    for _ in range(2):
        cut = encode_collection(Counting(), collection(), tmp_path).cut
        # `same` has 4 characters, `other` and `twice` 5, `x` 1: `Counting` says that a text loses its length modulo 3.
        assert cut["queries"] == {"a": Cut(2, 1 + 2), "b": Cut(2, 1 + 1)}
        assert cut["passages"] == {"a": Cut(3, 1 + 2 + 2), "b": Cut(1, 2)}


def test_what_is_cut_is_unknown_if_one_text_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()
    monkeypatch.setattr(model, "prepare", lambda texts, role: Prepared(texts, [1] * len(texts)))
    cut = encode_collection(model, collection(), tmp_path).cut
    assert {value for by_language in cut.values() for value in by_language.values()} == {None}


def test_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is sorted and cut for itself, and the next one is prepared by another thread meanwhile."""
    monkeypatch.setattr(encode, "WINDOW", 2)
    model, threads = Counting(), set()
    good = model.prepare

    def prepare(texts: Sequence[str], role: Role) -> Prepared:
        threads.add(threading.get_ident())
        assert len(texts) <= 2
        return good(texts, role)

    monkeypatch.setattr(model, "prepare", prepare)
    found = encode_collection(model, collection(), tmp_path / "a")
    assert [texts for _, _, texts in model.calls] == [["other", "same"], ["x"], ["twice", "same"]]
    assert threading.get_ident() not in threads and len(threads) == 1
    monkeypatch.undo()
    whole = encode_collection(Counting(), collection(), tmp_path / "b")
    for role in ROLES:
        for language in ("a", "b"):
            assert np.array_equal(found.vectors[role][language], whole.vectors[role][language])


def test_prepared_for_another_number_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting()
    monkeypatch.setattr(model, "prepare", lambda texts, role: Prepared(texts[1:], [1] * len(texts)))
    with pytest.raises(ModelOutputError, match="prepared"):
        encode_collection(model, collection(), tmp_path)


def start(cache: Path, output: Path, model: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"XBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    arguments = ["run", f"py:{model}:Model", "-t", "mini", "-o", str(output)]
    command = [sys.executable, "-c", DRIVER, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error.decode()


def result_bytes(output: Path) -> dict[str, bytes]:
    names = ("mini.json", "mini.queries.parquet")
    found = {path.name: path.read_bytes() for path in output.rglob("mini.*") if path.name in names}
    assert sorted(found) == sorted(names)
    return found


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_kills(kills: int, tmp_path: Path) -> None:
    """Killed at a random moment of the encoding and started again: the bytes of the undisturbed run."""
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    finish(start(tmp_path / "cache", tmp_path / "undisturbed", model))
    expected = result_bytes(tmp_path / "undisturbed")
    rng = random.Random(20)
    partly = 0
    for i in range(kills):
        cache, output = tmp_path / f"cache{i}", tmp_path / f"killed{i}"
        process = start(cache, output, model)
        while not list(cache.glob("vectors/*/model.json")):  # encoding begins
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        partly += bool(list(cache.glob("vectors/*/*.npy")))
        finish(start(cache, output, model))
        assert result_bytes(output) == expected
    assert partly >= kills / 3, "hardly any kill hit a half-filled store; the test would prove little"


def test_two_runs_share_a_cache(tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    both = [start(tmp_path / "cache", tmp_path / f"out{i}", model) for i in range(2)]
    for process in both:
        finish(process)
    assert result_bytes(tmp_path / "out0") == result_bytes(tmp_path / "out1")
    finish(start(tmp_path / "fresh", tmp_path / "alone", model))
    assert result_bytes(tmp_path / "alone") == result_bytes(tmp_path / "out0")


def test_shards_are_flushed_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "SHARD_BYTES", 1)
    model = Counting()
    model.batch_tokens = 5
    encode_collection(model, collection(), tmp_path)
    assert len(list(tmp_path.glob("vectors/*/*.npy"))) == len(model.calls)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that fills up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("NO FULL DISK WAS TRIED: mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """Exit code 6 and one line; what was whole stays, and with more room the bytes of an undisturbed run."""
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    finish(start(tmp_path / "cache", tmp_path / "undisturbed", model))
    process = start(small_disk / "cache", tmp_path / "out", model)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 6, error.decode()
    last = error.decode().strip().split("\n")[-1]
    assert "No space left on device" in last and str(small_disk) in last and "free space" in last
    assert not list((tmp_path / "out").rglob("mini.json"))
    kept = list(small_disk.rglob("*.npy"))
    assert kept and all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in kept)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    finish(start(small_disk / "cache", tmp_path / "out", model))
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "undisturbed")


def test_damaged_shard_by_command(tmp_path: Path) -> None:
    """Exit code 7 names the file; deleted, as the line says, only its texts are encoded again, to the same bytes."""
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    finish(start(tmp_path / "cache", tmp_path / "undisturbed", model))
    shard = sorted(tmp_path.glob("cache/vectors/*/*.npy"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    process = start(tmp_path / "cache", tmp_path / "out", model)
    _, error = process.communicate(timeout=120)
    last = error.decode().strip().split("\n")[-1]
    assert process.returncode == 7 and str(shard) in last and "delete it and run again" in last
    shard.unlink()
    finish(start(tmp_path / "cache", tmp_path / "out", model))
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "undisturbed")
