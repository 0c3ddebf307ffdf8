"""What two results must have in common before their values can be compared, and what tells them apart."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from xbench.catalogue import Measure
from xbench.errors import DataError, IncompleteError, UsageError
from xbench.intervals import samples
from xbench.records import Cell
from xbench.results import CellResult, Result
from xbench.stats import Sample
from xbench.task import agree

Tier = Literal["A", "B", "C"]
# Of a model's identity: where it ran, and what follows from that. All else is the model.
PLACE = frozenset({"versions", "device", "processor", "batch_tokens", "attention"})


def same_task(first: Result, second: Result) -> None:
    """Refuse results of different tasks or versions.

    Raises:
        DataError: they are.
    """
    if agree(first.task, second.task):
        return
    one, other = (
        f"{r.task['name']} version {r.task['version']} ({r.task['sha256'][:12]}"
        f"{', context' if r.task.get('context') else ''})"
        for r in (first, second)
    )
    raise DataError(f"results of different tasks, {one} and {other}; compare results of one task and version")


def names(results: Sequence[Result]) -> list[str]:
    """What to call the models of results: with the start of the fingerprint where two would be called the same."""
    prints: dict[str, set[str]] = {}
    for result in results:
        prints.setdefault(result.model["name"], set()).add(result.model["fingerprint"])
    return [
        f"{name} ({result.model['fingerprint'][:12]})" if len(prints[name := result.model["name"]]) > 1 else name
        for result in results
    ]


def means(results: Sequence[Result], measures: Sequence[Measure], cluster: str) -> dict[str, list[Sample]]:
    """Measure -> its sample of each of two or more results.

    Raises:
        UsageError: a measure that is no mean, or that a result has not.
        DataError: a value of a query is missing or not finite.
    """
    wanted = [measure.name for measure in measures]
    try:
        parts = [samples(result.cells, result.clusters, cluster, wanted) for result in results]
    except ValueError as error:
        raise DataError(f"{results[0].task['name']}: {error}; evaluate again") from error
    for measure in measures:
        if measure.statistic != "mean":
            raise UsageError(f"measure {measure.name}: only means can be compared by a paired test")
        for result, part in zip(results, parts, strict=True):
            if measure.name not in part:
                name = result.model["name"]
                raise UsageError(
                    f"measure {measure.name}: not in the result of {name}; evaluate again with -m {measure.name}"
                )
    return {name: [part[name][1] for part in parts] for name in wanted}


def only(result: Result, wanted: Sequence[Cell]) -> list[CellResult]:
    """The wanted cells of a result.

    Raises:
        IncompleteError: it lacks one.
    """
    there = {cell.cell: cell for cell in result.cells}
    if lacking := [cell.name for cell in wanted if cell not in there]:
        raise IncompleteError(
            f"{result.model['name']} on {result.task['name']}: {len(lacking)} of {len(wanted)} cells are missing: "
            f"{', '.join(lacking[:5])}; evaluate all, or choose cells by --cell"
        )
    return [there[cell] for cell in wanted]


def same_queries(first: Sequence[CellResult], second: Sequence[CellResult], said: Sequence[str]) -> None:
    """Refuse cells with different pools or queries, or for which one run has nothing where the other has something.

    Raises:
        DataError: different pools or queries.
        IncompleteError: a run lacks queries that the other has.
    """
    for one, other in zip(first, second, strict=True):
        where = one.cell.name
        if (one.passages, one.left_out) != (other.passages, other.left_out):
            raise DataError(
                f"{where}: {one.passages} passages and {one.left_out} queries left out for {said[0]}, "
                f"{other.passages} and {other.left_out} for {said[1]}; expected the same pool"
            )
        if odd := sorted(set(one.query_ids) ^ set(other.query_ids)):
            raise DataError(f"{where}: {len(odd)} queries are in one of the two results only: {', '.join(odd[:5])}")
        if one.missing != other.missing:
            raise IncompleteError(
                f"{where}: the run of {said[0]} has nothing for {one.missing} queries, that of {said[1]} for "
                f"{other.missing}; complete the run"
            )


def tier(first: Result, second: Result) -> Tier:
    """A: same fingerprint and environment; B: same model in another environment; C: another model."""
    if first.model["fingerprint"] == second.model["fingerprint"]:
        return "A" if first.environment == second.environment else "B"
    one, other = (_bare(result.model["identity"]) for result in (first, second))
    return "B" if one == other else "C"


def moved(first: Result, second: Result) -> list[str]:
    """What of the environments and of where the models ran differs: `torch 2.9.0, now 2.10.0`."""
    one, other = ({**result.environment, **_place(result.model["identity"])} for result in (first, second))
    return [
        f"{name} {one.get(name, 'unknown')}, now {other.get(name, 'unknown')}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def _bare(identity: Any) -> Any:
    """An identity, those of a fusion's parts too, without where the model ran."""
    if isinstance(identity, Mapping):
        return {name: _bare(value) for name, value in identity.items() if name not in PLACE}
    return [_bare(value) for value in identity] if isinstance(identity, list) else identity


def _place(identity: Any, at: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    if isinstance(identity, Mapping):
        for name, value in identity.items():
            if name == "versions" and isinstance(value, Mapping):
                found |= {f"{at}{package}": str(version) for package, version in value.items()}
            elif name in PLACE:
                found[f"{at}{name}"] = str(value)
            elif name == "parts" and isinstance(value, list):
                for number, part in enumerate(value, 1):
                    found |= _place(part, f"{number}. ")
    return found
