"""The engine of torch against NumPy's, a slow sort by exact scores and exact fractions.

Everything with `device` runs on the processor, and on a GPU too where torch sees one.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_ranking import KINDS, Case, copies, dots, gridded, headed, make, normal, slow_above, slow_order, spread, spy

from xbench import accelerator, ranking
from xbench.accelerator import accelerated, describe, find
from xbench.arithmetic import error_band, largest_norm
from xbench.errors import UsageError
from xbench.ranking import Pool, passages_above
from xbench.records import Judged
from xbench.top import first_passages

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DIMENSIONS = [1, 7, 256, 257, 700]
BACKENDS: Any = torch.backends
OWNERS = [BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def precision() -> Iterator[None]:
    """What a test does to torch's settings ends with it."""
    yield
    torch.set_float32_matmul_precision("highest")
    for owner in (BACKENDS, *OWNERS):
        owner.fp32_precision = "none"


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room: many tiles, strips and steps, and many ways back."""
    for name, value in {"ROOM": 16 * 4 * 1500, "QUERIES": 40, "BACK": 7, "SENT": 4 * 1000}.items():
        monkeypatch.setattr(accelerator, name, value)
    monkeypatch.setattr(ranking, "PENDING", 20)


def count(case: Case, **options: Any) -> NDArray[np.int32]:
    return passages_above(case.queries, Pool(case.pieces, case.doc_ids), case.judged, **options)


def same(case: Case, device: str, **options: Any) -> None:
    """As the slow sort says, and bit for bit as NumPy."""
    found = count(case, device=device, **options)
    assert found.tobytes() == count(case, **options).tobytes()
    np.testing.assert_array_equal(found, slow_above(case)[:, : options.get("pieces")])


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_a_slow_sort(kind: str, d: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = spy(monkeypatch, ranking._Block, "_put")
    same(make(kind, d), device)
    assert (len(decided) == 0) == (kind in ("grid", "integers"))  # which float32 adds up without rounding


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_little_room_changes_no_count(kind: str, d: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    products, put = spy(monkeypatch, accelerator, "_product"), spy(monkeypatch, ranking._Block, "_put")
    gathered, select = [], torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *a: (out := select(*a), gathered.append(out.numel()))[0])
    case = make(kind, d)
    found, share = count(case, device=device), 1500
    assert 24 * max(gathered) <= 2 * 4 * share
    for left, right, out in products[1:]:  # after the first, which tests the device
        assert out.numel() <= share and left.numel() <= share and right.numel() <= 2 * share
    assert len(products) > 8
    assert all(len(entry) <= 7 for _, entry, _ in put)
    assert kind != "constant" or len(put) > 100
    assert found.tobytes() == count(case).tobytes()
    np.testing.assert_array_equal(found, slow_above(case))


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, None])
@pytest.mark.parametrize("kind", ["copies", "grid"])
def test_the_first_pieces_alone(kind: str, pieces: int | None, device: str) -> None:
    same(make(kind, 7), device, pieces=pieces)


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("block", [1, 3, None])
@pytest.mark.parametrize("kind", ["copies", "integers"])
def test_blocks_change_no_count(kind: str, block: int | None, device: str) -> None:
    same(make(kind, 30, (40, 0, 1, 300), (40, 0, 33)), device, block=block, threads=1)


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_are_those_of_the_slow_order(kind: str, d: int, device: str) -> None:
    case = make(kind, d)
    pool, passages = Pool(case.pieces, case.doc_ids), np.concatenate(case.pieces)
    orders = [slow_order(query, passages, case.doc_ids) for query in np.concatenate(case.queries)]
    for k in (1, 20, 10**6):
        found = first_passages(case.queries, pool, k, device=device)
        assert (found.dtype, found.shape) == (np.int32, (len(orders), min(k, len(pool))))
        assert found.tolist() == [order[:k] for order in orders], k


@pytest.mark.parametrize("room", [1 << 14, 1 << 18, 1 << 22])
@pytest.mark.parametrize("kind", ["copies", "grid", "constant", "normal", "signed zeros"])
def test_a_floor_leaves_out_what_numpy_leaves_out(
    kind: str, room: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pool large enough that a floor under the scores is looked for."""
    monkeypatch.setattr(accelerator, "ROOM", room)
    rng, d, n = np.random.default_rng(3), 32, 1500
    queries, passages = (function(rng, size, d) for function, size in zip(KINDS[kind], (65, n), strict=True))
    doc_ids = [f"{i}" for i in rng.permutation(n)]
    pool = Pool([passages[:1100], passages[1100:1100], passages[1100:]], doc_ids)
    orders = np.array([slow_order(query, passages, doc_ids)[:40] for query in queries])
    options: dict[str, Any] = {"queries": [queries[:30], queries[:0], queries[30:]], "pool": pool, "k": 40}
    assert first_passages(**options, device=device).tolist() == orders.tolist()
    scores = np.array([dots(query, passages) for query in queries])
    for floor in (scores.max(axis=1) + 1, np.sort(scores, axis=1)[:, -7], np.full(65, -np.inf)):
        found = first_passages(**options, floor=floor, device=device)
        assert found.tobytes() == first_passages(**options, floor=floor).tobytes()
        reached = np.take_along_axis(scores, orders, axis=1) >= floor[:, None]
        assert (np.where(reached, found, -1) == np.where(reached, orders, -1)).all()
    assert (first_passages(**options, floor=scores.max(axis=1) + 1, device=device) == -1).all()


def test_few_pass_the_floor(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    looked_at = spy(monkeypatch, Pool, "dot")
    pool = Pool([copies(rng, 4000, 64)], [f"{i}" for i in range(4000)])
    first_passages([normal(rng, 100, 64)], pool, 20, device=device)
    assert sum(len(call[2]) for call in looked_at) < 100 * 4000 / 20


def definition(queries: NDArray[np.float32], passages: NDArray[np.float32], doc_ids: list[str]) -> list[list[int]]:
    """All rows for each query, best first, by fractions that are rounded once."""
    exact = [
        [
            float(sum((Fraction(a) * Fraction(b) for a, b in zip(q, p, strict=True)), Fraction(0)))
            for p in passages.tolist()
        ]
        for q in queries.tolist()
    ]
    return [sorted(range(len(doc_ids)), key=lambda j, s=s: (s[j], doc_ids[j].encode()), reverse=True) for s in exact]


NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -1.0, 1.0, 2.0, 1 / 3, 1 + 2.0**-23]).map(lambda x: float(np.float32(x))),
    st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@given(st.data(), st.integers(1, 4), st.integers(0, 5), st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_any_numbers_are_ranked_by_the_definition(data: st.DataObject, d: int, n: int, m: int) -> None:
    row = st.lists(NUMBERS, min_size=d, max_size=d)
    some = data.draw(st.lists(row, min_size=1, max_size=4))  # few, so that vectors are equal
    queries = np.array(data.draw(st.lists(row, min_size=n, max_size=n)), np.float32).reshape(n, d)
    passages = np.array(data.draw(st.lists(st.one_of(row, st.sampled_from(some)), min_size=m, max_size=m)), np.float32)
    doc_ids = data.draw(st.lists(st.text("a\uff01\U0001f600", max_size=3), min_size=m, max_size=m, unique=True))
    cut = data.draw(st.integers(0, m))
    pool = Pool([passages[:cut], passages[cut:]], doc_ids)
    judged = Judged(np.arange(0, n * m + 1, m), np.tile(np.arange(m), n), np.ones(n * m, np.int64))
    orders = definition(queries, passages, doc_ids)
    expected = [
        [sum(j < cut for j in o[: o.index(r)]), sum(j >= cut for j in o[: o.index(r)])]
        for o in orders
        for r in range(m)
    ]
    for device in DEVICES:
        assert passages_above([queries], pool, judged, device=device).tolist() == expected
        assert first_passages([queries], pool, m, device=device).tolist() == orders


def test_read_only_maps_of_files_are_searched(tmp_path: Path, device: str) -> None:
    case, maps = make("copies", 20), []
    for i, matrix in enumerate([*case.queries, *case.pieces]):
        np.save(tmp_path / f"{i}.npy", matrix)
        maps.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r" if len(matrix) else None))
    same(case._replace(queries=maps[:3], pieces=maps[3:]), device)


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("make", [normal, spread, gridded])
def test_products_stay_within_the_band(make: Any, d: int, device: str) -> None:
    made = make(np.random.default_rng(d), 65, d)
    for matrix in (made, abs(made), headed(65, d, 1, 2.0**-12)):  # the last loses half an ulp again and again
        pool = Pool([matrix[1:40], matrix[40:]], [f"{j}" for j in range(64)])
        with accelerated(pool, device) as engine:
            found = engine.multiply(engine.send(matrix), 0, 64).cpu().numpy()
        true = np.array([dots(query, matrix[1:]) for query in matrix])
        norms = largest_norm(matrix), pool.norm
        assert np.abs(found - true).max() <= error_band(d, *norms, split=True) + engine.slack(*norms)


def test_products_that_waver_within_the_band_move_nothing(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries may round the same row differently at another place."""
    product = accelerator._product

    def wavering(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        product(left, right, out)
        out *= 1 + torch.randint(-1, 2, out.shape, device=out.device) * 2.0**-20

    monkeypatch.setattr(accelerator, "_product", wavering)
    rng = np.random.default_rng(0)
    queries, passages = normal(rng, 9, 300), np.repeat(normal(rng, 30, 300), 4, axis=0)
    doc_ids = [f"{i:03}" for i in rng.permutation(120)]
    judged = Judged(np.arange(0, 271, 30), np.tile(np.arange(30), 9), np.ones(270, np.int64))
    same(Case([queries], [passages], doc_ids, judged), device)
    found = first_passages([queries], Pool([passages], doc_ids), 50, device=device)
    assert found.tolist() == [slow_order(query, passages, doc_ids)[:50] for query in queries]


@pytest.mark.parametrize(
    "scale", [(1e-19, 1e-19), (1e-38, 1), (1, 3e-39), (1e-39, 1e4), (3e-18, 1e-19), (1e-22, 1e-17)]
)
def test_devices_may_take_tiny_numbers_for_nothing(
    scale: tuple[float, float], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flushed(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor.abs() < 2.0**-126, 0.0, tensor)

    def product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        left, right = flushed(left), flushed(right)
        out.zero_()
        for i in range(left.shape[1]):
            out += flushed(left[:, i, None] * right[:, i])
            out.copy_(flushed(out))

    monkeypatch.setattr(accelerator, "_product", product)
    case = make("normal", 20)
    queries, pieces = ([m * np.float32(s) for m in some] for some, s in zip(case[:2], scale, strict=True))
    case = case._replace(queries=queries, pieces=pieces)
    same(case, device)
    pool, passages = Pool(pieces, case.doc_ids), np.concatenate(pieces)
    orders = [slow_order(query, passages, case.doc_ids)[:1] for query in np.concatenate(queries)]
    assert first_passages(queries, pool, 1, device=device).tolist() == orders


def readings() -> list[str]:
    return [owner.fp32_precision for owner in (BACKENDS, *OWNERS)]


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("start", ["none", "high", "medium", "highest", "generic", "own"])
@pytest.mark.parametrize("search", ["above", "first"])
def test_reduced_precision_is_off_meanwhile_and_back_afterwards(
    start: str, search: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if start in ("high", "medium", "highest"):  # torch's old interface
        torch.set_float32_matmul_precision(start)
    elif start == "generic":
        BACKENDS.fp32_precision = "tf32"
    elif start == "own":
        OWNERS[0].fp32_precision, OWNERS[1].fp32_precision = "tf32", "bf16"
    before, meanwhile = readings(), []
    original = accelerator._product
    monkeypatch.setattr(accelerator, "_product", lambda *a: (meanwhile.append(readings()[1:]), original(*a))[1])
    case = make("copies", 30)
    pool = Pool(case.pieces, case.doc_ids)
    if search == "above":
        passages_above(case.queries, pool, case.judged, device=device)
    else:
        first_passages(case.queries, pool, 3, device=device)
    assert len(meanwhile) > 1 and all(values == ["ieee", "ieee"] for values in meanwhile)
    assert readings() == before
    if start in ("high", "medium", "highest"):
        assert torch.get_float32_matmul_precision() == start  # raises where the old and the new interface disagree
    BACKENDS.fp32_precision = "ieee"  # what followed it before, follows it now
    assert readings()[1:] == (before[1:] if start not in ("none", "generic") else ["ieee", "ieee"])


@pytest.mark.usefixtures("precision")
def test_of_two_searches_at_once_the_last_one_gives_precision_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("high")
    pool, entered, leave = Pool([np.ones((3, 2), np.float32)], ["a", "b", "c"]), threading.Event(), threading.Event()

    def other() -> None:
        with accelerated(pool, "cpu"):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with accelerated(pool, "cpu"):
        thread.start()
        assert entered.wait(60)
    assert readings()[1:] == ["ieee", "ieee"]
    leave.set()
    thread.join()
    assert readings()[1:] == ["tf32", "tf32"]
    with pytest.raises(ZeroDivisionError), accelerated(pool, "cpu"):
        raise ZeroDivisionError
    assert readings()[1:] == ["tf32", "tf32"]


def test_autocast_of_a_model_moves_nothing(device: str) -> None:
    case = make("copies", 300)
    with torch.autocast(device, torch.bfloat16):
        same(case, device)


def test_forced_reduced_precision_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        """As TF32 cuts: 10 bits after the first."""
        left, right = ((t.view(torch.int32) & -(1 << 13)).view(torch.float32) for t in (left, right))
        torch.mm(left, right.T, out=out)

    monkeypatch.setattr(accelerator, "_product", cut)
    with pytest.raises(
        UsageError, match=f"search device '{device}.*: products are off by 0.125015, float32's by at most 0.00399"
    ):
        count(make("normal", 7), device=device)
    monkeypatch.setattr(accelerator, "_product", lambda left, right, out: out.fill_(torch.nan))
    with pytest.raises(UsageError, match="off by nan"):
        count(make("normal", 7), device=device)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpu", "unknown to torch"),
        ("cpu:1", "torch sees 1"),
        ("", "unknown to torch"),
        ("mps", "no IEEE float32 is promised there"),
        ("meta", "no IEEE float32"),
        ("cuda:99", r"torch sees \d+ CUDA devices here"),
    ],
)
def test_other_devices_are_refused(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^search device '{name}': {why}"):
        count(make("normal", 7), device=name)
    with pytest.raises(UsageError, match=why):
        first_passages([], Pool([], []), 1, device=name)
    with pytest.raises(UsageError, match=why):
        describe(name)


@pytest.mark.skipif("cuda" in DEVICES, reason="there is a GPU")
def test_without_a_gpu_none_is_found_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find() is None
    with pytest.raises(UsageError, match="^search device 'cuda': torch sees 0 CUDA devices here; search without"):
        count(make("normal", 7), device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find() == "cuda"


def test_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (describe(None), describe("cpu")) == ("numpy", "torch cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert (describe("cuda"), describe("cuda:0")) == ("torch cuda (Card 1)", "torch cuda:0 (Card 0)")


def test_a_device_without_memory_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore about it")

    monkeypatch.setattr(accelerator.Accelerator, "multiply", full)
    with pytest.raises(UsageError, match=r"^search device 'cpu' is out of memory \(CUDA out.* 2 GiB\.\); free some.*$"):
        count(make("normal", 7), device="cpu")


def test_half_of_the_free_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may be on the device, too."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 << 20, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 12 << 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 << 20)
    monkeypatch.setattr(accelerator.Accelerator, "_send_rows", lambda self, low, high: None)
    pool = Pool([np.ones((2048, 1024), np.float32)], [f"{j}" for j in range(2048)])  # 8 MiB
    engine = accelerator.Accelerator(pool, torch.device("cuda"))
    assert engine.block(2048) == (1 << 20) // 4 // (2048 + 1024 + 1)
    assert engine.block(10**9) == 1
    assert engine.columns * accelerator.QUERIES * 4 <= 1 << 20


def test_nothing_to_search(device: str) -> None:
    empty, none = np.zeros(0, np.int64), Judged(np.zeros(14, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert count(make("normal", 7)._replace(judged=none), device=device).shape == (0, 4)
    pool = Pool([np.ones((0, 3), np.float32)], [])
    assert passages_above(
        [np.ones((2, 3), np.float32)], pool, Judged(np.zeros(3, np.int64), empty, empty), device=device
    ).shape == (0, 1)
    assert first_passages([np.ones((2, 3), np.float32)], pool, 4, device=device).shape == (2, 0)
    assert first_passages(
        [np.ones((0, 3), np.float32)], Pool([np.ones((2, 3), np.float32)], ["a", "b"]), 4, device=device
    ).shape == (0, 2)


def test_torch_is_imported_when_it_is_needed() -> None:
    program = "import sys, xbench.sharded, xbench.accelerator; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False\n"


@pytest.mark.skipif(DEVICES == ["cpu"], reason="NOT TESTED ON A GPU: torch sees none here; nor was this whole file")
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("kind", ["normal", "constant"])
def test_a_gpu_gives_no_more_than_its_room(kind: str, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "ROOM", room := 1 << 26)
    d = 64
    rows = room // 2 // d // 4 // 2 * (1 if held else 5)
    rng = np.random.default_rng(0)
    queries, passages = (function(rng, n, d) for function, n in zip(KINDS[kind], (200, rows), strict=True))
    judged = Judged(np.arange(0, 401, 2), rng.integers(0, rows, 400), np.ones(400, np.int64))
    case = Case([queries], [passages], [f"{j}" for j in range(rows)], judged)
    first_passages([queries], Pool([passages], case.doc_ids), 10, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    found, before = count(case, device="cuda"), torch.cuda.memory_allocated()
    assert torch.cuda.max_memory_allocated() - before <= room + 2 * 8 * rows + (40 << 20)  # cuBLAS has its own
    assert found.tobytes() == count(case).tobytes()
