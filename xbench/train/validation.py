"""Validation on the held-out groups: how well their questions find their passages, in one language and across."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, ModelOutputError
from xbench.train.config import Config
from xbench.train.encoder import Trainee
from xbench.train.sampling import Batch, Sampler
from xbench.train.store import Table, Tokens, TokenStore

# Pairs of each of the two sets; and texts encoded at a time.
PAIRS = 1_000
TEXTS = 256


class Validation(NamedTuple):
    """The held-out pairs: the same for every sampling mode and every seed of the same data."""

    sets: dict[str, Batch]
    """`mono` and `cross`, those that the held-out groups have."""
    tokens: TokenStore

    def __call__(self, trainee: Trainee) -> dict[str, float]:
        """Mean reciprocal rank of each set among all its passages, of all languages, and `mean`, their mean.

        Raises:
            ModelOutputError: a vector that is not of finite numbers, which would stand before all others.
        """
        found = {name: _reciprocal_ranks(trainee, batch, self.tokens).mean() for name, batch in self.sets.items()}
        return {name: float(value) for name, value in found.items()} | {"mean": float(np.mean([*found.values()]))}


def held_out(config: Config, table: Table, tokens: TokenStore) -> Validation | None:
    """The validation of a run; None where nothing is held out.

    Pairs are drawn with the config's weights, in each language alike (mono) and across languages alike.
    """
    sets = {}
    for name, mode in (("mono", "x-x-mixed"), ("cross", "x-y")):
        sampling = replace(config.sampling, mode=mode, one_dataset=False)
        try:
            sampler = Sampler(table, table.held_out, sampling, PAIRS, 0)
        except DataError:  # data of one language, or bitexts alone
            continue
        if len((batch := sampler.batch(0)).queries) > 1:
            sets[name] = batch
    return Validation(sets, tokens) if sets else None


def _reciprocal_ranks(trainee: Trainee, batch: Batch, tokens: TokenStore) -> NDArray[np.float64]:
    """(n,): of each question's passage among the batch's; of passages as near as it, half stand before it."""
    queries = _vectors(trainee, tokens.questions, batch.queries)
    passages = _vectors(trainee, tokens.passages, batch.passages)
    scores = queries @ passages.T
    if not np.isfinite(scores).all():
        raise ModelOutputError("validation: a vector is not of finite numbers; lower learning_rate, or raise warmup")
    own = np.diagonal(scores)[:, None]
    above, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1
    return np.asarray(1 / (1 + above + equal / 2))


def _vectors(trainee: Trainee, tokens: Tokens, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 (n, d), of length 1."""
    import torch

    order = np.argsort(np.diff(tokens.offsets)[rows], kind="stable")
    found: list[NDArray[np.float32]] = []
    training = trainee.module.training
    trainee.module.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), TEXTS):
                vectors = trainee.encode(tokens.of(rows[order[start : start + TEXTS]])).float()
                found.append(torch.nn.functional.normalize(vectors).cpu().numpy())
    finally:
        trainee.module.train(training)
    vectors_ = np.concatenate(found)
    return vectors_[np.argsort(order)]
