"""Pieces of windows: each in the batches of one process, by the model that is meant."""

from collections.abc import Sequence
from pathlib import Path

import corpora
import numpy as np
import pytest

from xbench import apart
from xbench.apart import encode_apart
from xbench.batches import Window, Work
from xbench.distant import Distant, Spec, ask
from xbench.encode import _encode_here, text_key
from xbench.models import Options
from xbench.workers import Here


def made(folder: Path, dimension: int) -> Distant:
    """A model whose last bits depend on the batch."""
    corpora.write_encoder(folder / f"own{dimension}.py", dimension, company=True)
    return ask(Spec(f"py:own{dimension}.py:Cheap", Options(), str(folder)), Here())


def window(texts: Sequence[str]) -> Window:
    return Window("passages", [Work(text_key("passages", "", text), text, "en", text) for text in texts])


def test_two_models_of_the_same_texts(tmp_path: Path) -> None:
    """What a process has prepared for one is not given to the other: here, what cuts the texts off."""
    source = """
import numpy as np
class Own:
    batch_tokens, fingerprint = 64, "{n}"
    def encode_passages(self, texts, language):
        return np.array([[len(text) + {n}, 1] for text in texts], np.float32)
    encode_queries = encode_passages
"""
    for n in (1, 2):
        (tmp_path / f"own{n}.py").write_text(source.format(n=n), encoding="utf-8")
    some = window(["a", "bcd"])
    asked = []
    for n in (1, 2, 1):
        model = ask(Spec(f"py:own{n}.py:Own", Options(), str(tmp_path)), Here())
        ((_, batch),) = encode_apart(model, [some], [[True, True]], 64, Here())
        assert sorted(batch.vectors[:, 0].tolist()) == [1 + n, 3 + n]
        asked.append(next(iter(apart._PREPARED))[0])
    assert [spec.spelling for spec in asked] == ["py:own1.py:Own", "py:own2.py:Own", "py:own1.py:Own"]


@pytest.mark.parametrize("piece", [7, 50, 1 << 11])
def test_the_batches_of_one_process(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "PIECE", piece)
    rng = np.random.default_rng(0)
    texts = [f"{i} " + "word " * int(rng.integers(1, 30)) for i in range(200)]
    windows = [window(texts[:150]), window(texts[150:])]
    missing = [rng.random(150) < 0.6, np.ones(50, np.bool_)]
    model = made(tmp_path, 16)
    lacks = [some.tolist() for some in missing]

    def vectors(found: object) -> dict[str, bytes]:
        each = [(w.works[i].text, row.tobytes()) for w, b in found for i, row in zip(b.places, b.vectors, strict=True)]  # type: ignore[attr-defined]
        assert len(each) == len(dict(each)) == sum(map(sum, lacks)), "each once"
        return dict(each)

    apart_ = vectors(encode_apart(model, windows, lacks, 900, Here()))
    assert apart_ == vectors(_encode_here(model.load(), windows, lacks, 900))
