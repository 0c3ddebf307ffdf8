"""What batches are made of: shares as the formula has them, and as they come out when batches are drawn."""

from collections import Counter
from typing import NamedTuple

from xbench.train.config import KINDS
from xbench.train.sampling import Batch, Cells, Sampler
from xbench.train.store import Table


class Share(NamedTuple):
    """How often something is drawn."""

    what: str
    """mode, data set, kind, query language, passage language, or languages."""
    name: str
    expected: float
    """By the formula in `sampling`."""
    realised: float
    pairs: int
    """Drawn in all; of a mode, batches."""


def shares(sampler: Sampler, table: Table, batches: list[Batch]) -> list[Share]:
    """Of the pairs of some batches: what they are drawn from; of modes: of batches.

    Expected and realised differ by chance, where pairs that would be false negatives are thrown away, and where a
    batch stays short.
    """
    expected: dict[str, Counter[str]] = {}
    for cells, weight in ((sampler.mono, sampler.mono_share), (sampler.cross, 1 - sampler.mono_share)):
        for what, names in _of_cells(cells, table).items():
            for name, probability in zip(names, (cells.probability * weight).tolist(), strict=True):
                expected.setdefault(what, Counter())[name] += probability
    drawn: dict[str, Counter[str]] = {what: Counter() for what in expected}
    for batch in batches:
        for what, names in _of_pairs(batch, table).items():
            drawn[what].update(names)
    pairs = sum(len(batch.queries) for batch in batches)
    found = [
        Share(what, name, expected[what][name], drawn[what][name] / max(pairs, 1), drawn[what][name])
        for what in expected
        for name in sorted(set(expected[what]) | set(drawn[what]))
        if expected[what][name] > 0 or drawn[what][name]
    ]
    mono = sum(batch.mono for batch in batches)
    modes = [
        ("same language", sampler.mono_share, mono),
        ("across languages", 1 - sampler.mono_share, len(batches) - mono),
    ]
    return [
        Share("batches", name, share, n / max(len(batches), 1), n) for name, share, n in modes if share or n
    ] + found


def _of_cells(cells: Cells, table: Table) -> dict[str, list[str]]:
    languages = table.languages
    first = [languages[i] for i in cells.query_language]
    second = [languages[i] for i in cells.passage_language]
    kinds = [KINDS[i % len(KINDS)] for i in cells.dataset]
    sets = [f"{table.sources[i // len(KINDS)]}/{KINDS[i % len(KINDS)]}" for i in cells.dataset]
    return _named(kinds, sets, first, second)


def _of_pairs(batch: Batch, table: Table) -> dict[str, list[str]]:
    languages, columns = table.languages, table.columns
    first = [languages[i] for i in columns["language"][batch.queries]]
    second = [languages[i] for i in columns["passage_language"][batch.passages]]
    kinds = [KINDS[i] for i in columns["kind"][batch.queries]]
    return _named(kinds, table.dataset(batch.queries), first, second)


def _named(kinds: list[str], sets: list[str], first: list[str], second: list[str]) -> dict[str, list[str]]:
    pairs = [f"{a}-{b}" for a, b in zip(first, second, strict=True)]
    return {"kind": kinds, "data set": sets, "query language": first, "passage language": second, "languages": pairs}
