"""Two results, paired query by query."""

from collections.abc import Sequence

from xbench.catalogue import Measure
from xbench.errors import DataError, UsageError
from xbench.intervals import RESAMPLES, SEED, groups_of, samples, settings
from xbench.paired import Comparison, compare
from xbench.results import Result
from xbench.task import SETTINGS, agree

# Of the signs: with 110 cells in a family, p must be able to get below .01 / 110.
FLIPS = 100_000


def compare_results(
    first: Result, second: Result, measures: Sequence[Measure], *, cluster: str = "paragraph", alpha: float = 0.05
) -> dict[str, list[Comparison]]:
    """Measure -> one comparison a setting (its macro mean), one a group of languages, one a cell; see `paired.compare`.

    The groups are those of the first result.

    Args:
        first, second: of the same task, same version; differences are second - first.
        measures: means only.
        cluster: what changes sides as one, as in `intervals.samples`.
        alpha: of the smallest detectable difference.

    Raises:
        DataError: results of different tasks, or with different cells or queries.
        UsageError: a median, or a measure that the results do not have.
    """
    if not agree(first.task, second.task):
        one, other = (
            f"{r.task['name']} version {r.task['version']} ({r.task['sha256'][:12]}"
            f"{', context' if r.task.get('context') else ''})"
            for r in (first, second)
        )
        raise DataError(f"results of different tasks, {one} and {other}; compare results of one task and version")
    found = {}
    names = [measure.name for measure in measures]
    parts = [samples(result.cells, result.clusters, cluster, names) for result in (first, second)]
    for measure in measures:
        if measure.statistic != "mean":
            raise UsageError(f"measure {measure.name}: only means can be compared by a paired test")
        if lacking := [r.model["name"] for r, p in zip((first, second), parts, strict=True) if measure.name not in p]:
            raise UsageError(
                f"measure {measure.name}: not in the result of {lacking[0]}; evaluate again with -m {measure.name}"
            )
        before, after = (part[measure.name][1] for part in parts)
        groups = settings(before)
        further = {name: cells for name, cells in groups_of(first).items() if set(cells) <= set(before.cells)}
        rows = compare(
            before,
            after,
            groups,
            further=further,
            higher_is_better=not measure.lower_is_better,
            resamples=RESAMPLES,
            flips=FLIPS,
            seed=SEED,
            alpha=alpha,
        )
        order = [*(setting for setting in SETTINGS if setting in groups), *further, *before.cells]
        found[measure.name] = sorted(rows, key=lambda row: order.index(row.name))
    return found
