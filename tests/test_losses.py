"""The loss against its definition, written out term by term in Python's floats."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from xbench.errors import UsageError
from xbench.train.losses import InfoNCE


def vectors(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """float64, of lengths from 0.5 to 2."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randn(n + m, 5, generator=draw, dtype=torch.float64)
    found *= torch.rand(n + m, 1, generator=draw, dtype=torch.float64) * 1.5 + 0.5
    return found[:n], found[n:]


def cosine(x: Sequence[float], y: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def surprise(right: float, scores: Sequence[float], temperature: float) -> float:
    return -math.log(math.exp(right / temperature) / sum(math.exp(s / temperature) for s in scores))


def direct(
    queries: Tensor,
    passages: Tensor,
    temperature: float,
    symmetric: bool = False,
    alignment: float = 0.0,
    rows: Sequence[int] | None = None,
) -> float:
    """The definition."""
    q, p = queries.tolist(), passages.tolist()
    total = 0.0
    for i in range(len(q)) if rows is None else rows:
        own = cosine(q[i], p[i])
        term = surprise(own, [cosine(q[i], p[j]) for j in range(len(p))], temperature)
        if symmetric:
            back = surprise(own, [cosine(q[j], p[i]) for j in range(len(q))], temperature)
            term = (term + back) / 2
        total += term + alignment * (1 - own)
    return total / len(q)


@pytest.mark.parametrize("alignment", [0.0, 0.7])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("m", [6, 9])
def test_the_definition(m: int, symmetric: bool, alignment: float) -> None:
    queries, passages = vectors(6, m)
    loss = InfoNCE(0.2, symmetric=symmetric, alignment=alignment)
    expected = direct(queries, passages, 0.2, symmetric, alignment)
    assert loss(queries, passages).item() == pytest.approx(expected, rel=1e-12)
    parts = [loss(queries, passages, rows).item() for rows in (slice(0, 2), slice(2, 6))]
    assert parts[0] == pytest.approx(direct(queries, passages, 0.2, symmetric, alignment, [0, 1]), rel=1e-12)
    assert sum(parts) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients(symmetric: bool) -> None:
    queries, passages = (each.requires_grad_() for each in vectors(6, 9))
    loss = InfoNCE(0.3, learn_temperature=True, symmetric=symmetric, alignment=0.5).double()
    assert torch.autograd.gradcheck(lambda q, p, _: loss(q, p), (queries, passages, loss.log_scale))


def test_learned_temperature() -> None:
    """A parameter on a logarithmic scale, saved, and held between its bounds; it comes back from beyond them."""
    queries, passages = vectors(4, 4)
    loss = InfoNCE(0.05, learn_temperature=True)
    assert [*loss.state_dict()] == ["log_scale"] and loss.log_scale is not None
    assert loss.log_scale.item() == pytest.approx(math.log(20))
    assert loss.temperature == pytest.approx(0.05)
    other = InfoNCE(0.5, learn_temperature=True)
    other.load_state_dict(loss.state_dict())
    assert other.temperature == loss.temperature
    for beyond, bound in ((9.0, 0.01), (-3.0, 1.0)):
        loss.log_scale.data.fill_(beyond)
        assert loss.temperature == bound, "as the last step may leave it"
        value = loss(queries, passages)
        assert value.item() == pytest.approx(direct(queries, passages, bound), rel=1e-5)
        loss.log_scale.grad = None
        value.backward()
        assert loss.log_scale.grad
        assert loss.temperature == pytest.approx(bound)
    assert not [*InfoNCE().parameters()] and InfoNCE(0.02).temperature == 0.02


def test_float32_under_autocast() -> None:
    queries, passages = (each.float() for each in vectors(6, 9))
    expected = direct(queries, passages, 0.05, symmetric=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = InfoNCE(symmetric=True)(queries, passages)
        rounded = InfoNCE()(queries.bfloat16(), passages.bfloat16())
    assert found.dtype == rounded.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("temperature", "learn"), [(0.0, False), (-1, False), (math.nan, False), (1.5, True), (0.001, True)]
)
def test_temperatures_refused(temperature: float, learn: bool) -> None:
    with pytest.raises(UsageError, match="temperature is .*; expected one "):
        InfoNCE(temperature, learn)
