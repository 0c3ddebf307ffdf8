"""Workers that answer in any order, and do some things twice: the same bytes as one process, in order, makes."""

import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import pytest
from test_ranking import make
from test_sharded import asked, check, cut
from test_shards import corpus, encode_corpus, files_of

from xbench import apart, encode, sharded
from xbench.apart import encode_apart
from xbench.batches import Window, Work
from xbench.census import take_census
from xbench.distant import Distant, Spec, ask
from xbench.encode import encode as encode_collection
from xbench.encode import text_key
from xbench.errors import DataError, IntegrityError
from xbench.folders import LocalFolder
from xbench.models import Encoder, Options, load
from xbench.records import Collection, Passage, Query
from xbench.sharded import search
from xbench.workers import Here


class Shuffled:
    """As a cluster: what is sent is pickled, `size` items are under way, results come as they please.

    `twice`: everything is done a second time, as if the worker had been lost just before it answered.
    """

    size = 3

    def __init__(self, seed: int, twice: bool = False):
        self._random, self._twice = random.Random(seed), twice
        self.answers: list[Any] = []

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Iterable[Any]) -> Iterator[Any]:
        common = pickle.dumps((function, shared))
        waiting, running = iter(items), []
        while True:
            while len(running) < self.size:
                try:
                    running.append(pickle.dumps(next(waiting)))
                except StopIteration:
                    break
            if not running:
                return
            item = running.pop(self._random.randrange(len(running)))
            for _ in range(1 + self._twice):
                function, shared = pickle.loads(common)
                answer = pickle.dumps(function(shared, pickle.loads(item)))
            self.answers.append(pickle.loads(answer))
            yield pickle.loads(answer)

    def report(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """An encoder whose last bits depend on the batch."""
    (tmp_path / "seen").mkdir()
    corpora.write_encoder(tmp_path / "cheap.py", 8, company=True, seen=str(tmp_path / "seen"))
    return Spec("py:cheap.py:Cheap", Options(), str(tmp_path))


def sizes(folder: Path) -> list[int]:
    """Of the batches that were encoded since the last call."""
    found = [int(n) for path in (folder / "seen").iterdir() for n in path.read_text().split()]
    for path in (folder / "seen").iterdir():
        path.unlink()
    return found


def here(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.chdir(spec.folder)
    model = load(spec.spelling)
    assert isinstance(model, Encoder)
    return model


def texts(queries: int, passages: int) -> Collection:
    """Of two languages; some texts occur more than once."""
    words = [f"{'word ' * (i * 7 % 11)}{i}" for i in range(passages)]
    return Collection(
        {a: [Query(f"{a}:{i}", f"{a}? {words[i % 9]} {i // 2}") for i in range(queries)] for a in "ab"},
        {a: [Passage(f"{a}:{i}", f"{words[i]}{a if i % 3 else ''}") for i in range(passages)] for a in "ab"},
        {},
        {},
    )


@pytest.mark.parametrize("seed", range(3))
def test_texts_that_are_held(seed: int, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of windows, each batch whole and once; what the store has is left out, as in one process."""
    monkeypatch.setattr(encode, "WINDOW", 50)
    monkeypatch.setattr(apart, "PIECE", 7)
    model = here(spec, monkeypatch)
    for number, some in enumerate((texts(9, 40), texts(20, 130))):  # the second one finds texts of the first
        expected = encode_collection(model, some, tmp_path / "here", 200)
        alone = sizes(tmp_path)
        workers = Shuffled(seed)
        distant = ask(spec, workers)
        workers.answers.clear()
        found = encode_collection(distant, some, tmp_path / "there", 200, workers)
        assert found._replace(vectors={}) == expected._replace(vectors={})
        for role, by_language in expected.vectors.items():
            for language, vectors in by_language.items():
                assert found.vectors[role][language].tobytes() == vectors.tobytes(), (number, role, language)
        assert sorted(sizes(tmp_path)) == sorted(alone)  # the batches of one process
        filled = [batch for _, batch in workers.answers if batch.places]
        assert len(filled) > 3 and all(len(batch.places) == len(batch.vectors) == len(batch.lost) for batch in filled)
    assert len(apart._PREPARED) == 1, "of many windows the last one is held"
    again = Shuffled(seed)
    assert encode_collection(distant, texts(20, 130), tmp_path / "there", 200, again).encoded == 0
    assert again.answers == []


@pytest.mark.parametrize("twice", [False, True])
def test_shards(twice: bool, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is encoded once, even where a worker is lost that had written it; resumed from any state."""
    some, model = corpus(tmp_path, (20, 14, 0, 3)), here(spec, monkeypatch)
    local = LocalFolder(tmp_path / "c")
    expected = encode_corpus(model, "a", some, local, shard_rows=7, batch_tokens=40)
    alone = sizes(tmp_path)
    for seed in range(4):
        folder, workers = LocalFolder(tmp_path / f"{seed}"), Shuffled(seed, twice)
        found = encode_corpus(ask(spec, workers), "a", some, folder, shard_rows=7, batch_tokens=40, workers=workers)
        assert found.encoded == 37 and [s.vectors for s in found.shards] == [s.vectors for s in expected.shards]
        assert files_of(folder.path) == files_of(local.path) and found.cut == expected.cut
        assert sorted(sizes(tmp_path)) == sorted(alone)
        lost = random.Random(seed).sample(found.shards, 3)
        for shard in lost:
            Path(shard.folder.where(shard.card)).unlink()
        found = encode_corpus(ask(spec, workers), "a", some, folder, shard_rows=7, batch_tokens=40, workers=workers)
        assert found.encoded == sum(shard.rows for shard in lost)
        assert files_of(folder.path) == files_of(local.path)
        sizes(tmp_path)


def test_what_workers_find_is_verified(spec: Spec, tmp_path: Path) -> None:
    """Both what was there before, and what a worker wrote that was lost."""
    some, folder, workers = corpus(tmp_path), LocalFolder(tmp_path / "c"), Shuffled(0)
    model = ask(spec, workers)
    found = encode_corpus(model, "a", some, folder, shard_rows=7, workers=workers)
    shard = found.shards[1]
    path = Path(shard.folder.where(shard.files[shard.vectors]))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=path.name):
        encode_corpus(model, "a", some, folder, shard_rows=7, workers=workers)

    class Late(Shuffled):
        """Between the driver's look and the worker's, the card of a damaged shard has appeared."""

        def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Iterable[Any]) -> Iterator[Any]:
            for item in items:
                if not card.exists() and getattr(item, "number", None) is not None:
                    card.write_bytes(content)
                yield function(shared, item)

    card = Path(shard.folder.where(shard.card))
    content = card.read_bytes()
    card.unlink()
    with pytest.raises(IntegrityError, match=path.name):
        encode_corpus(model, "a", some, folder, shard_rows=7, workers=Late(0))
    path.write_bytes(good)
    assert encode_corpus(model, "a", some, folder, shard_rows=7, workers=workers) == (found.shards, 0)


@pytest.mark.parametrize("kind", ["normal", "copies", "grid", "constant"])
def test_searches(kind: str, tmp_path: Path) -> None:
    """Floors are of when an item was sent, and shards are merged as they are done."""
    case = make(kind, 16, (90, 60), (9, 4))
    groups = cut(tmp_path, case, 11)
    wanted = {case.doc_ids[row] for row in case.judged.rows}
    for seed in range(6):
        workers = Shuffled(seed, twice=seed == 5)
        for k in (1, 7, 40):
            check(case, search(*asked(case, groups), k, tmp_path / f"{seed}", workers=workers), k)
        for some in groups:
            known, expected = take_census(some, wanted, workers=workers), take_census(some, wanted)
            assert known.doc_ids == expected.doc_ids and known.vectors.tobytes() == expected.vectors.tobytes()
            assert len(known.doc_ids) > 1


def test_an_interrupted_search_of_workers_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first shards are done but those that were answered."""
    monkeypatch.setattr(sharded, "KEEP_SECONDS", -1.0)
    case = make("copies", 8, (60, 50), (9, 4))
    job = asked(case, cut(tmp_path, case, 10))
    for stop in range(1, 9):
        steps: list[int] = []

        def advance(rows: int, steps: list[int] = steps, stop: int = stop) -> None:
            steps.append(rows)
            if len(steps) == stop + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(*job, 15, tmp_path / f"{stop}", advance=advance, workers=Shuffled(stop))
        left = Shuffled(stop + 1)
        check(case, search(*job, 15, tmp_path / f"{stop}", workers=left), 15)
        assert len(left.answers) == 11 - (stop - 1)


def test_a_census_of_workers_names_what_occurs_twice(tmp_path: Path) -> None:
    case = make("normal", 4, (40,), (3,))
    (some,) = cut(tmp_path, case, 10)
    with pytest.raises(DataError, match=rf"{case.doc_ids[12]}' occurs twice"):
        take_census(
            [
                *some,
                *cut(tmp_path / "again", case._replace(pieces=[case.pieces[0][12:13]], doc_ids=[case.doc_ids[12]]), 10)[
                    0
                ],
            ],
            set(),
            workers=Shuffled(0),
        )


def test_a_model_elsewhere_encodes_nothing_here(spec: Spec) -> None:
    model = ask(spec, Shuffled(0))
    assert isinstance(model, Distant) and isinstance(model, Encoder)
    for call in (lambda: model.prepare(["x"], "queries"), lambda: model.encode(["x"], "queries", "a")):
        with pytest.raises(DataError, match="is on the workers"):
            call()
    assert pickle.loads(pickle.dumps(model)) == model
    assert np.array_equal(model.load().encode(["x"], "queries", "a"), spec.load().encode(["x"], "queries", "a"))


OWN = """
import numpy as np

class Own:
    batch_tokens, fingerprint = 64, "{n}"

    def encode_passages(self, texts, language):
        return np.array([[len(text) + {n}, 1] for text in texts], np.float32)

    encode_queries = encode_passages
"""


def test_what_is_prepared_belongs_to_a_model(tmp_path: Path) -> None:
    """A process keeps the last window that it has tokenized; another model would cut its texts elsewhere."""
    some = Window("passages", [Work(text_key("passages", "", text), text, "en", text) for text in ("a", "bcd")])
    for n in (1, 2, 1):
        (tmp_path / f"own{n}.py").write_text(OWN.format(n=n), encoding="utf-8")
        model = ask(Spec(f"py:own{n}.py:Own", Options(), str(tmp_path)), Here())
        ((_, batch),) = encode_apart(model, [some], [[True, True]], 64, Here())
        assert sorted(batch.vectors[:, 0].tolist()) == [1 + n, 3 + n]
        ((spec, _),) = apart._PREPARED
        assert spec == model.spec
