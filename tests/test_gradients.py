"""Gradients of a batch, however it is cut, against one graph of everything."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from xbench.errors import UsageError
from xbench.train.distributed import World
from xbench.train.gradients import backward
from xbench.train.losses import InfoNCE


class Encoder(nn.Module):
    """Token embeddings, dropout, a layer, averaged over the tokens; notes the shapes it was given."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Embedding(50, 16)
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(16, 8)
        self.shapes: list[tuple[int, int]] = []

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=0)
        self.shapes.append((ids.shape[0], ids.shape[1]))
        hidden = self.layer(self.dropout(self.embeddings(ids)))
        mask = (ids > 0)[:, :, None]
        found: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return found


def texts(count: int, seed: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=draw).tolist()
    return [torch.randint(1, 50, (length,), generator=draw).tolist() for length in lengths]


QUERIES, PASSAGES = texts(10, 1), texts(15, 2)


def loss_of_all() -> InfoNCE:
    return InfoNCE(0.1, learn_temperature=True, symmetric=True, alignment=0.3)


def gradients(*modules: nn.Module) -> list[Tensor]:
    found = [each.grad for module in modules for each in module.parameters()]
    return [each for each in found if each is not None]


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize(
    "cut", [{"buckets": 1}, {"buckets": 4}, {"micro_batch": 1}, {"micro_batch": 4}, {"micro_batch": 25}]
)
def test_against_one_graph(cut: dict[str, int]) -> None:
    encoder, loss = Encoder(), loss_of_all()
    expected = loss(encoder(QUERIES), encoder(PASSAGES))
    expected.backward()
    other, other_loss = Encoder(), loss_of_all()
    found = backward(other, QUERIES, PASSAGES, other_loss, **cut)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert_equal(gradients(other, other_loss), gradients(encoder, loss))


@pytest.mark.parametrize(("buckets", "micro_batch"), [(4, 7), (3, 9), (25, 1)])
def test_cached_with_dropout(buckets: int, micro_batch: int) -> None:
    """The same texts are dropped in both forward passes, and afterwards the generator stands where it would."""
    found = []
    for cut in ({"buckets": buckets}, {"micro_batch": micro_batch}):
        encoder, loss = Encoder(dropout=0.4), loss_of_all()
        torch.manual_seed(7)
        value = backward(encoder, QUERIES, PASSAGES, loss, **cut)
        found.append((value, gradients(encoder, loss), torch.rand(3)))
    assert found[0][0] == found[1][0]
    assert_equal(found[1][1], found[0][1])
    assert torch.equal(found[0][2], found[1][2])
    plain = Encoder()
    backward(plain, QUERIES, PASSAGES, loss_of_all())
    assert not torch.allclose(gradients(plain)[0], found[0][1][0], rtol=0.01)


def test_gradients_are_added() -> None:
    once, twice = Encoder(), Encoder()
    backward(once, QUERIES, PASSAGES, InfoNCE())
    for _ in range(2):
        backward(twice, QUERIES, PASSAGES, InfoNCE(), micro_batch=6)
    assert_equal(gradients(twice), [2 * each for each in gradients(once)])


def test_texts_of_like_length_are_encoded_together() -> None:
    encoder = Encoder()
    backward(encoder, QUERIES, PASSAGES, InfoNCE(), buckets=5)
    lengths = sorted((len(text) for text in [*QUERIES, *PASSAGES]), reverse=True)
    assert encoder.shapes == [(5, max(lengths[i : i + 5])) for i in range(0, 25, 5)]
    encoder.shapes.clear()
    backward(encoder, QUERIES, PASSAGES, InfoNCE(), micro_batch=20)
    assert encoder.shapes == [(20, lengths[0]), (5, lengths[20])] * 2
    encoder.shapes.clear()
    backward(encoder, QUERIES, PASSAGES, InfoNCE(), micro_batch=25, buckets=1)
    assert encoder.shapes == [(25, lengths[0])], "nothing to save: one pass"


@pytest.mark.parametrize("micro_batch", [0, 7])
def test_bfloat16(micro_batch: int) -> None:
    """Every weight has its gradient, near float32's; weights, gradients and loss are float32."""
    exact, rounded = Encoder(), Encoder()
    expected = backward(exact, QUERIES, PASSAGES, InfoNCE(0.1))
    found = backward(rounded, QUERIES, PASSAGES, InfoNCE(0.1), micro_batch, dtype=torch.bfloat16)
    assert found != expected and found == pytest.approx(expected, rel=0.02)
    assert {each.dtype for each in gradients(rounded)} == {torch.float32}
    assert_equal(gradients(rounded), gradients(exact), tolerance=0.03)


def test_memory_does_not_grow_with_the_batch() -> None:
    """What graphs keep is counted as they keep it: at most that of one part at a time, where gradients are cached."""

    def most(**cut: int) -> int:
        alive, peak = 0, 0

        class Note:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal alive, peak
                self.tensor, self.size = tensor, tensor.numel()
                alive += self.size
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.size

        encoder = Encoder()

        def encode(part: Sequence[Sequence[int]]) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(Note, lambda note: note.tensor):
                return encoder(part)

        many = texts(200, 4)
        backward(encode, many[:100], many[100:], InfoNCE(), **cut)
        return peak

    assert most(micro_batch=10) < most(buckets=4) / 10


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(UsageError, match="10 questions and 15 passages do not divide among 2 processes"):
        backward(Encoder(), QUERIES, PASSAGES, InfoNCE(), world=World(0, 2))
