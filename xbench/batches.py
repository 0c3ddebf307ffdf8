"""Texts in batches: prepared ahead by a thread, cut by length, and checked when they come back as vectors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import ModelOutputError, XbenchError
from xbench.models import Encoder, Prepared, Role
from xbench.store import UNKNOWN

# Texts that are tokenized, sorted and cut into batches together; two such windows are held at once.
WINDOW = 1 << 15


class Work(NamedTuple):
    """A distinct text to encode, with the id of its first occurrence for errors."""

    key: bytes
    text: str
    language: str
    first_id: str


class Window(NamedTuple):
    """Texts of one role that are batched together."""

    role: Role
    works: Sequence[Work]
    of: Any = None  # whatever the caller wants to know it by


def plan(lengths: Sequence[int], languages: Sequence[str], budget: int) -> Iterator[list[int]]:
    """Cut texts into batches of one language, longest first, of at most `budget` padded tokens.

    The price of a batch is its longest text times its size; a text longer than the budget goes
    alone. Longest first: what does not fit in memory fails at once, and times left are not rosy.
    """
    order = sorted(range(len(lengths)), key=lambda i: (languages[i], -lengths[i], i))
    batch: list[int] = []
    for i in order:
        full = batch and (languages[i] != languages[batch[0]] or lengths[batch[0]] * (len(batch) + 1) > budget)
        if full:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class Batch(NamedTuple):
    """Some of a window's works (`places`), encoded together, and how many tokens each text lost (or UNKNOWN)."""

    places: list[int]
    vectors: NDArray[np.float32]
    lost: list[int]


def batches(model: Encoder, window: Window, prepared: Prepared, budget: int) -> Iterator[list[int]]:
    """The places of a window's works that are encoded together: a function of the window alone."""
    languages = [work.language if model.told_language else "" for work in window.works]
    return plan([max(n, 1) for n in prepared.lengths], languages, budget)


def encode_batch(model: Encoder, window: Window, prepared: Prepared, places: list[int], dimension: int | None) -> Batch:
    """Encode some of a window's works together; `dimension` is that of earlier batches, None if this is the first.

    Raises:
        ModelOutputError: NaN, infinity, a zero vector, a wrong shape, dtype or number of rows.
    """
    chosen = [window.works[i] for i in places]
    items = [prepared.items[i] for i in places]
    vectors = _ask(model, len(items), lambda: model.encode(items, window.role, chosen[0].language))
    _check(model, vectors, chosen, dimension)
    lost = [UNKNOWN if prepared.lost is None else prepared.lost[i] for i in places]
    # A copy: some models give the same array each time, with new content.
    return Batch(places, np.array(vectors, order="C"), lost)


def prepare_ahead(model: Encoder, windows: Iterable[Window]) -> Iterator[tuple[Window, Prepared]]:
    """Each window with its texts tokenized; while one is encoded, a thread takes and tokenizes the next.

    `windows` is iterated by that thread: what reads texts from files does so while the model works.
    """
    waiting = iter(windows)

    def following() -> tuple[Window, Prepared] | None:
        window = next(waiting, None)
        return None if window is None else (window, _prepare(model, window))

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(following)
        while (found := future.result()) is not None:
            future = executor.submit(following)
            yield found


def _prepare(model: Encoder, window: Window) -> Prepared:
    texts = [work.text for work in window.works]
    if not texts:
        return Prepared([], [], [])
    prepared: Any = _ask(model, len(texts), lambda: model.prepare(texts, window.role))
    sizes = [len(part) for part in prepared if part is not None]
    if sizes != [len(texts)] * len(sizes):
        raise ModelOutputError(f"model {model.name!r} prepared {sizes} of {len(texts)} texts")
    return Prepared(*prepared)


def _ask(model: Encoder, texts: int, call: Callable[[], Any]) -> Any:
    """Other people's code: what it raises is a fault of the model, not of xbench."""
    try:
        return call()
    except XbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelOutputError(
            f"model {model.name!r} raised {type(error).__name__}: {error} (on {texts} texts; --debug shows where)"
        ) from error


def _check(model: Encoder, vectors: object, works: Sequence[Work], dimension: int | None) -> None:
    """Refuse what cannot be ranked, naming the first text it happened to."""
    first = works[0].first_id
    if not isinstance(vectors, np.ndarray):
        raise ModelOutputError(
            f"model {model.name!r}, batch of {first}: expected a NumPy array, found {type(vectors).__name__}"
        )
    if vectors.dtype != np.float32:
        raise ModelOutputError(f"model {model.name!r}, batch of {first}: expected float32, found {vectors.dtype}")
    if vectors.ndim != 2 or len(vectors) != len(works) or not vectors.shape[1]:
        raise ModelOutputError(
            f"model {model.name!r}, batch of {first}: expected shape ({len(works)}, d), found {vectors.shape}"
        )
    if dimension is not None:
        check_width(model.name, vectors.shape[1], dimension, first)
    check_finite(model.name, vectors, [work.first_id for work in works])


def check_width(name: str, found: int, before: int, first: str) -> None:
    """Refuse vectors of another width; names the first text.

    Raises:
        ModelOutputError: it is another.
    """
    if found != before:
        raise ModelOutputError(f"model {name!r}, batch of {first}: {found} dimensions, but {before} before")


def check_finite(name: str, vectors: NDArray[np.float32], ids: Sequence[str]) -> None:
    """Refuse NaN, infinity and zero vectors; names the first text.

    Raises:
        ModelOutputError: there is one.
    """
    step = max(1, (1 << 22) // vectors.shape[1])
    for low in range(0, len(vectors), step):
        block = vectors[low : low + step]
        finite = np.isfinite(block).all(axis=1)
        for bad, what in ((~finite, "NaN or infinity"), (~block.any(axis=1), "a zero vector")):
            if bad.any():
                row = int(bad.argmax())
                raise ModelOutputError(
                    f"model {name!r}: {what} for {ids[low + row]} ({int(bad.sum())} of {len(block)} texts); "
                    "it cannot be ranked"
                )
