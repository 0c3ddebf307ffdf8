"""What batches are made of: shares as the formula has them, and as they come out when batches are drawn."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from xbench import tables
from xbench.train.config import KINDS, Config
from xbench.train.prepare import find_files, read_table
from xbench.train.sampling import Batch, Cells, Sampler
from xbench.train.store import Table

# Batches drawn to see what they are made of, at most.
DRAWN = 1_000


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


def dry_run(config: Config, cache: Path, data: Path | None) -> list[tables.Table]:
    """What a run would draw, as tables: pairs used and left out, shares, batches that stay short. Trains nothing.

    Raises:
        XbenchError: as `prepare.find_files` and `prepare.read_table`.
    """
    table = read_table(config, find_files(config.data, config.folder, data), cache, data)
    t = config.training
    sampler = Sampler(table, table.training, config.sampling, t.batch_size, t.seed)
    batches = [sampler.batch(step) for step in range(min(t.steps, DRAWN))]
    found = shares(sampler, table, batches)
    pairs: list[list[tables.Value]] = [
        ["for training", int(table.training.sum())],
        ["that batches draw from", sampler.drawn_from],
        ["held out", int(table.held_out.sum())],
        *([f"left out: {reason}", n] for reason, n in table.about["left_out"].items()),
    ]
    short = sum(len(batch.queries) < t.batch_size for batch in batches)
    shown = [tables.Table("pairs", ["pairs", "number"], pairs)]
    for what in dict.fromkeys(share.what for share in found):
        rows: list[list[tables.Value]] = [
            [s.name, round(s.expected, 4), round(s.realised, 4), s.pairs] for s in found if s.what == what
        ]
        shown.append(tables.Table(f"shares by {what}", [what, "by the formula", "drawn", "number"], rows))
    shown.append(tables.Table("batches drawn", ["batches", "of them short"], [[len(batches), short]]))
    return shown


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
