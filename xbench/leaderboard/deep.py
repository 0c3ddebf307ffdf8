"""Ranks a result's passages again, from the vectors in the cache: nothing is encoded."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench.catalogue import parse
from xbench.encode import Encoded, cached
from xbench.errors import IncompleteError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.leaderboard.verify import same_queries
from xbench.models import Role
from xbench.records import Collection
from xbench.results import Result, read_result
from xbench.tasks import same_task

# What has no vectors of texts in the cache under its own fingerprint.
OTHERS = ("bm25", "fuse", "run", "vectors", "canary")


class _Cached:
    """The vectors of a result's model, as a model that is given them."""

    def __init__(self, result: Result, cache: Path):
        self.name, self.identity = str(result.model["name"]), dict(result.model["identity"])
        self._cache, self._command = cache, result.command
        self._encoded: Encoded | None = None

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        """float32 (n, d)."""
        if self._encoded is None:
            try:
                self._encoded = cached(self.identity, collection, self._cache)
            except IncompleteError as error:
                raise IncompleteError(f"{error}; make them again: {self._command}") from error
        return self._encoded.vectors[role][language]


def verify_vectors(path: Path, cache: Path, data: Path | None = None, definition: str | None = None) -> int:
    """Compute the per-query values of a result again from the cached vectors; returns how many.

    Raises:
        UsageError: the model has no vectors that are cached, or the task has passages with context.
        IncompleteError: the cache lacks some.
        IntegrityError: a value is not what they give.
    """
    result = read_result(path)
    task = same_task(result.task, path, definition)
    if result.model["identity"].get("kind") in OTHERS or task.context:
        raise UsageError(f"{path}: {result.model['name']} has no vectors in the cache; verify it without --deep")
    names = list(dict.fromkeys(name for cell in result.cells for name in cell.values))
    again = evaluate(_Cached(result, cache), task, names, plan=Plan(cache, data), groups={})
    number = 0
    for cell, other in zip(result.cells, again.cells, strict=True):
        measures = [parse(name) for name in cell.values]
        same_queries(cell, other, measures, f"{path}: {cell.cell.name}", "vectors")
        number += len(measures) * len(cell.query_ids)
    return number
