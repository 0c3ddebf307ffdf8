"""The engine of torch: float32 products on a GPU, compared and counted there (see `counting`).

Only counts, comparisons that float32 leaves open and passages that reach a floor come back, so the ranking rule decides
with the same code as without a GPU, and every number is the same to the bit.

A search takes at most ROOM bytes of a device's memory, and at most half of what is free there; besides these, 8 bytes
a passage of the tiles at work, 24 and 4 a segment for each relevant passage of their queries, and what torch's
libraries take for themselves.
"""

from __future__ import annotations

import glob
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import SPLIT, Matrix, error_band
from xbench.counting import Bounds, Counter, Put, Rows, Scores, Segment, parts
from xbench.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xbench.ranking import Pool

# Bytes of device memory for a search. Half of them hold the pool's vectors, if it has no more; otherwise an eighth for
# each worker holds those it multiplies with. Of each worker, a sixteenth are the scores of a block, with its queries,
# one the products that are added to them, and an eighth what it compares.
ROOM = 4 << 30
# Of NVIDIA, AMD, and Windows' subsystem for Linux.
DRIVERS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
# Threads that ask a device at once: one may decide what is left open while the other has the device.
WORKERS = 2
# Queries that one tile is multiplied with, if there are as many: vectors that are not held are sent once for these.
QUERIES = 2048
# Bytes for each comparison: a score, three flags, and its place twice while it is looked for.
COMPARED = 24
# Open comparisons that come back at once, and bytes of vectors that are copied on the way to a device.
BACK, SENT = 1 << 18, 1 << 26


def find() -> str | None:
    """The device to search on: "cuda", if torch sees a GPU of NVIDIA or AMD; None: there is none.

    Apple's GPUs are left out: torch promises no IEEE float32 products there, and float32 bands are what exactness
    rests on. Where no file of a driver is, torch is not asked: it takes seconds and 200 MB that the model may not need.
    """
    if sys.platform == "linux" and "torch" not in sys.modules and not any(map(glob.glob, DRIVERS)):
        return None
    import torch

    return "cuda" if torch.cuda.is_available() else None


def describe(device: str | None) -> str:
    """What multiplies and compares on a device, for a result: "numpy", or as "torch cuda (NVIDIA H100)".

    Raises:
        UsageError: torch does not have it.
    """
    if device is None:
        return "numpy"
    import torch

    found = _device(device)
    return f"torch {device}" + (f" ({torch.cuda.get_device_name(found)})" if found.type == "cuda" else "")


@contextmanager
def accelerated(pool: Pool, device: str) -> Iterator[Accelerator]:
    """An engine for a pool on a device; torch's reduced precisions are off in this process until it is left.

    Raises:
        UsageError: torch does not have the device, its memory is too small, or its products are not float32's.
    """
    import torch

    where = _device(device)
    try:
        with _IEEE:
            _refuse_reduced(where)
            yield Accelerator(pool, where)
    except torch.OutOfMemoryError as error:
        about = str(error).partition("\n")[0]
        raise UsageError(
            f"search device {device!r} is out of memory ({about}); free some, or search without"
        ) from error


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"search device {name!r}: unknown to torch; expected cuda, cuda:N or cpu") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"search device {name!r}: no IEEE float32 is promised there; expected cuda, cuda:N or cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise UsageError(f"search device {name!r}: torch sees {count} CUDA devices here; search without, or on another")
    if device.type == "cuda" and device.index is None:  # the current one is another in another thread
        device = torch.device("cuda", torch.cuda.current_device())
    return device


class _Ieee:
    """Keeps torch's matrix products at float32 while anybody needs it: the settings are those of the whole process."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._before: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        import torch

        with self._lock:
            if not self._users:
                backends: Any = torch.backends
                self._before = [(o, o.fp32_precision) for o in (backends.cuda.matmul, backends.mkldnn.matmul)]
                for owner, _ in self._before:
                    owner.fp32_precision = "ieee"
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                for owner, value in self._before:
                    owner.fp32_precision = "none"  # what a wider setting decides, reads as its value
                    if owner.fp32_precision != value:
                        owner.fp32_precision = value


_IEEE = _Ieee()


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """The product (n, d) x (m, d) into `out` (n, m) from parts of SPLIT dimensions, as `arithmetic.multiply`.

    Each part is a product of its own: added to `out` by the library, its sum might go on from there. A model's autocast
    is its thread's own, and does not reach the threads of a search.
    """
    import torch

    torch.mm(left[:, :SPLIT], right[:, :SPLIT].T, out=out)
    for low in range(SPLIT, left.shape[1], SPLIT):
        out += torch.mm(left[:, low : low + SPLIT], right[:, low : low + SPLIT].T)


def _refuse_reduced(device: torch.device) -> None:
    """Multiply numbers that TF32 and bfloat16 cut: drivers and variables of the environment can force those, too."""
    import torch

    value = 1 + 2.0**-12
    vectors = torch.full((64, SPLIT), value, dtype=torch.float32, device=device)
    out = torch.empty((64, 64), dtype=torch.float32, device=device)
    _product(vectors, vectors, out)
    worst = float((out.double() - SPLIT * value**2).abs().max())
    band = error_band(SPLIT, norm := SPLIT**0.5 * value, norm, split=True)
    if not worst <= band:
        raise UsageError(
            f"search device '{device}': products are off by {worst:g}, float32's by at most {band:g}: a reduced "
            "precision is forced there; switch it off, or search without"
        )


class Accelerator:
    """The engine of a torch device; to be had from `accelerated`."""

    def __init__(self, pool: Pool, device: torch.device):
        import torch

        self.pool, self.device = pool, device
        self.dimension = int(pool.pieces[0].shape[1]) if pool.pieces else 0
        room = ROOM
        if device.type == "cuda":  # what torch holds in reserve is free for it, too
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            room = min(room, (torch.cuda.mem_get_info(device)[0] + unused) // 2)
        self._share = max(1, room // 16 // 4)  # float32 numbers
        self.columns = max(1, self._share // QUERIES)
        self.compared = max(1, 2 * 4 * self._share // COMPARED)
        vector = max(1, self.dimension)
        self._strip = max(1, 2 * self._share // vector)
        self._vectors = self._send_rows(0, len(pool)) if len(pool) * vector <= 8 * self._share else None

    def block(self, columns: int) -> int:
        """As many as their share of memory holds, vectors and scores."""
        return max(1, self._share // (columns + self.dimension + 1))

    def slack(self, query_norm: float, pool_norm: float) -> float:
        """What is lost where numbers below float32's normal range are taken for 0, in inputs, products, sums and here.

        Devices may do so. Of d terms, each loses 2^-126 of one factor, and as much as a product and as a sum.
        """
        return (2 * self.dimension + 2) * 2.0**-126 * (1 + query_norm + pool_norm)

    def tiles(self, columns: int) -> list[list[Segment]]:
        """In segments as long as the pieces allow."""
        return [self._tile(low, min(low + columns, len(self.pool))) for low in range(0, len(self.pool), columns)]

    def _tile(self, low: int, high: int) -> list[Segment]:
        found = []
        for piece, (start, end) in enumerate(itertools.pairwise(self.pool.offsets.tolist())):
            first, last = max(low, start), min(high, end)
            if first < last:
                found.append(Segment(piece, first - start, last - start, first - low))
        return found

    def counter(self, queries: Matrix, bounds: Bounds) -> Counter:
        """Entries are compared as many at once as their share of memory holds."""
        return _Counter(self, queries, bounds)

    def scores(self, queries: Matrix) -> Scores:
        """They stay on the device."""
        return _Scores(self, queries)

    def send(self, array: NDArray[Any]) -> Tensor:
        """A copy on the device; the array may be read-only, as maps of files are."""
        import torch

        return torch.tensor(array, device=self.device)

    def multiply(self, queries: Tensor, low: int, high: int) -> Tensor:
        """(n, high - low) float32 scores of queries (n, d) and the pool rows from low to high."""
        import torch

        out = torch.empty((len(queries), high - low), dtype=torch.float32, device=self.device)
        step = self._strip if self._vectors is None else max(1, high - low)
        for first in range(low, high, step):
            last = min(first + step, high)
            rows = self._send_rows(first, last) if self._vectors is None else self._vectors[first:last]
            _product(queries, rows, out[:, first - low : last - low])
        return out

    def _send_rows(self, low: int, high: int) -> Tensor:
        """(high - low, d) vectors of the pool on the device."""
        import torch

        out = torch.empty((high - low, self.dimension), dtype=torch.float32, device=self.device)
        step = max(1, SENT // 4 // max(1, self.dimension))
        for piece, start, end, at in self._tile(low, high):
            for first in range(start, end, step):
                rows = self.pool.pieces[piece][first : min(first + step, end)]
                to = at + first - start
                out[to : to + len(rows)].copy_(torch.tensor(rows))
        return out


class _Counter:
    def __init__(self, engine: Accelerator, queries: Matrix, bounds: Bounds):
        self.engine, self.exact = engine, bounds.exact
        self.queries, self.query = engine.send(queries), engine.send(bounds.query)
        self.low, self.high, self.order = (engine.send(a[:, None]) for a in (bounds.low, bounds.high, bounds.order))

    def count(self, tile: Sequence[Segment], put: Put) -> NDArray[np.int32]:
        import torch

        first = int(self.engine.pool.offsets[tile[0].piece]) + tile[0].low
        width = tile[-1].start + tile[-1].high - tile[-1].low
        scores = self.engine.multiply(self.queries, first, first + width)
        order = self.engine.send(self.engine.pool.order[first : first + width]) if self.exact else None
        counts = torch.empty((len(self.query), len(tile)), dtype=torch.int32, device=self.engine.device)
        step = max(1, self.engine.compared // width)
        for low in range(0, len(self.query), step):
            part = slice(low, low + step)
            mine = scores.index_select(0, self.query[part])
            above = mine > self.high[part]
            if order is not None:
                above |= (mine == self.high[part]) & (order > self.order[part])
            for k, segment in enumerate(tile):
                inside = slice(segment.start, segment.start + segment.high - segment.low)
                counts[part, k] = above[:, inside].sum(dim=1)
            if order is not None:
                continue
            left = (above != (mine > self.low[part])).flatten().nonzero()[:, 0]
            for some in left.split(BACK):  # a model that ties everything leaves everything open
                entry, column = np.divmod(some.cpu().numpy(), width)
                put(entry + low, column + first)
        found: NDArray[np.int32] = counts.cpu().numpy()
        return found


class _Scores:
    def __init__(self, engine: Accelerator, queries: Matrix):
        self.engine = engine
        self.values = engine.multiply(engine.send(queries), 0, len(engine.pool))

    def floor(self, k: int) -> Matrix:
        n, size = self.values.shape
        count = parts(k)
        if count > size:
            return np.full(n, -np.inf, np.float32)
        maxima = self.values[:, : size // count * count].unflatten(1, (-1, count)).amax(dim=1)
        floor: Matrix = maxima.kthvalue(count - k + 1, dim=1).values.cpu().numpy()
        return floor

    def let_pass(self, floor: Matrix) -> int:
        self.flags = self.values >= self.engine.send(floor[:, None])
        return int(self.flags.sum())

    def passing(self, part: slice) -> tuple[Rows, Rows, Matrix]:
        place = self.flags[part].flatten().nonzero()[:, 0]
        query, row = np.divmod(place.cpu().numpy(), self.values.shape[1])
        return query, row, self.values[part].flatten()[place].cpu().numpy()
