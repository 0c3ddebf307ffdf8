"""The gradients of one batch: texts in buckets of like length, at constant memory if asked, in any number of processes.

The loss sees all vectors of the batch at once, so its gradient is taken in two steps: first with regard to the
vectors, then, given these, with regard to the weights. Between the two the vectors of all processes are gathered, and
their gradients summed; and between the two the graphs of the encoder can be thrown away and made again piece by piece
(GradCache: Gao et al. 2021, arXiv 2101.06983), which costs a second forward pass and keeps one piece in memory.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from xbench.errors import UsageError
from xbench.train.distributed import World
from xbench.train.losses import InfoNCE, wide

# Buckets of a batch that is not cut for memory: most of the padding is gone, and few small passes are made.
BUCKETS = 4
ALONE = World()

Encode = Callable[[Sequence[Any]], Tensor]
"""From the token ids of k texts to their vectors, float (k, d), with the graph for gradients."""


def backward(
    encode: Encode,
    queries: Sequence[Any],
    passages: Sequence[Any],
    loss: InfoNCE,
    micro_batch: int = 0,
    world: World = ALONE,
    *,
    buckets: int = BUCKETS,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Add the gradients of a batch's loss to `.grad` of the encoder's and the loss's parameters.

    Of several processes each has a part of them; `World.sum_gradients` makes them whole.

    Args:
        encode: the model.
        queries: token ids of the n questions of the whole batch.
        passages: token ids of m >= n passages: the i-th answers the i-th question, those after the n-th are hard
            negatives. Every process gives the same questions and passages.
        loss: of their vectors.
        micro_batch: texts encoded at a time, with cached gradients; 0: all graphs are kept, for one backward pass.
        world: the processes.
        buckets: how many parts of like length the texts are encoded in where graphs are kept; 1 suits a model that
            needs no padding.
        dtype: what the encoder computes in, by autocast; weights, vectors, loss and gradients stay float32.

    Returns:
        The loss of the whole batch.

    Raises:
        UsageError: a batch that does not divide among the processes.
    """
    n, texts = len(queries), [*queries, *passages]
    if len(texts) % world.size:
        found = f"{n} questions and {len(passages)} passages"
        raise UsageError(f"batch_size: {found} do not divide among {world.size} processes; choose a multiple of it")

    # Dealt out by length: every process has as many texts, and about as many tokens. The longest come first, so that
    # a batch that memory cannot hold fails at its beginning.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    shares = [order[rank :: world.size] for rank in range(world.size)]
    own = shares[world.rank]
    cached = 0 < micro_batch < len(own)
    size = micro_batch if cached else -(-len(own) // buckets)
    parts = [[texts[i] for i in own[start : start + size]] for start in range(0, len(own), size)]

    def vectors(part: Sequence[Any]) -> Tensor:
        # A context for each part: one around all would keep the rounded weights of a pass without a graph for the
        # passes with one, whose gradients then end there, and would add up gradients in bfloat16.
        with torch.autocast(world.device.type, dtype, enabled=dtype != torch.float32):
            return wide(encode(part))

    states: list[tuple[Tensor, ...]] = []
    encoded: list[Tensor] = []
    for part in parts:
        states.append(_rng(world.device))
        with torch.set_grad_enabled(not cached):
            encoded.append(vectors(part))
    mine = torch.cat(encoded)

    # The loss of this process's rows against all columns, and its gradient with regard to all vectors.
    places = torch.tensor([i for share in shares for i in share], device=mine.device)
    everyone = torch.empty(len(texts), mine.shape[1], dtype=mine.dtype, device=mine.device)
    everyone[places] = world.gather(mine).flatten(0, 1)
    everyone.requires_grad_()
    rows = slice(n * world.rank // world.size, n * (world.rank + 1) // world.size)
    value = loss(everyone[:n], everyone[n:], rows)
    value.backward()
    gradient, total = cast(Tensor, everyone.grad), value.detach()
    world.sum(gradient, total)
    wanted = gradient[torch.tensor(own, device=mine.device)]

    if not cached:
        torch.autograd.backward(mine, wanted)
    else:
        # In the order of the first passes: the generator then ends where it stood after them.
        for part, state, its in zip(parts, states, torch.split(wanted, size), strict=True):
            _set_rng(state, world.device)
            torch.autograd.backward(vectors(part), its)
    return float(total)


def _rng(device: torch.device) -> tuple[Tensor, ...]:
    """The states of the generators that dropout draws from."""
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []))


def _set_rng(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
