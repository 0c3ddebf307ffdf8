"""Tables of a comparison beside those of its rows: who wins how often, and the queries that differ most."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xbench.catalogue import Measure
from xbench.gate.compare import Change, most_changed, tallies
from xbench.gate.pairs import names
from xbench.gate.queries import first_ranks, texts
from xbench.paired import Comparison
from xbench.results import Result
from xbench.tables import Table, Value
from xbench.task import Task

LONGEST = 300  # characters of a query that are shown


def tally_tables(
    first: Result,
    others: Sequence[Result],
    found: Sequence[Mapping[str, Sequence[Comparison]]],
    measures: Sequence[Measure],
    alpha: float,
) -> list[Table]:
    """One a measure: a row for each of the others and setting, with cells and queries won, even and lost."""
    columns = [
        "model",
        "setting",
        *(f"{what} {how}" for what in ("cells", "queries") for how in ("won", "even", "lost")),
    ]
    start, *said = names([first, *others])
    made = []
    for measure in measures:
        rows: list[list[Value]] = []
        for name, mine in zip(said, found, strict=True):
            some = tallies(mine[measure.name], higher_is_better=not measure.lower_is_better, alpha=alpha)
            rows += [[name, *tally] for tally in some]
        title = f"{first.task['name']}: {measure.name} against {start}: cells by p Holm <= {alpha:g}"
        made.append(Table(title, columns, rows))
    return made


def changed_tables(
    results: Sequence[tuple[Path, Result]], measures: Sequence[Measure], count: int, task: Task, data: Path | None
) -> list[Table]:
    """One a measure, setting and other result: the queries whose values differ most from those of the first.

    With the rank of the first relevant passage in both, where ranks lie beside the results, and with the texts of
    the queries, where the data are at hand.

    Args:
        results: path and result, those of the first first.
        measures, count: which, how many of each setting.
        task, data: where the texts are; nothing is fetched.

    Raises:
        DataError, IntegrityError: as `queries.first_ranks`.
    """
    (path, first), *others = results
    said = dict(zip((place for place, _ in results), names([result for _, result in results]), strict=True))
    changed = [
        (place, measure, setting, changes)
        for place, other in others
        for measure in measures
        for setting, changes in most_changed(first, other, measure, count).items()
    ]
    words = texts(task, data, {change.query_id for *_, changes in changed for change in changes})
    named = {change.cell for *_, changes in changed for change in changes}
    cells = [cell.cell for cell in first.cells if cell.cell.name in named]
    before = first_ranks(path, first, cells) if cells else {}
    after = {place: first_ranks(place, other, cells) if cells else {} for place, other in others}
    return [
        _table(changes, (before, after[place]), words)._replace(
            title=f"{first.task['name']} {setting}: the {len(changes)} queries whose {measure.name} differs most, "
            f"of {said[place]} (second) and {said[path]} (first)"
        )
        for place, measure, setting, changes in changed
    ]


def _table(
    changes: Sequence[Change],
    ranks: tuple[Mapping[tuple[str, str], float], Mapping[tuple[str, str], float]],
    words: Mapping[str, str],
) -> Table:
    columns = ["query", "cell", "first", "second", "difference"]
    ranked, texted = bool(ranks[0] and ranks[1]), bool(words)
    columns += ["first's rank", "second's rank"] * ranked + ["text"] * texted
    rows: list[list[Value]] = []
    for change in changes:
        row: list[Value] = [change.query_id, change.cell, change.first, change.second, change.difference]
        if ranked:
            row += [_rank(some.get((change.cell, change.query_id))) for some in ranks]
        if texted:
            text = words.get(change.query_id)
            row.append(text if text is None or len(text) <= LONGEST else text[:LONGEST] + " ...")
        rows.append(row)
    return Table("", columns, rows)


def _rank(rank: float | None) -> Value:
    return None if rank is None or rank == float("inf") else int(rank)
