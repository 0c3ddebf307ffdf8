"""The vectors of a task's texts, given or encoded, and its passages as indexes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.batches import check_finite
from xbench.encode import Encoded, encode
from xbench.errors import DataError
from xbench.index import Index
from xbench.models import ROLES, Encoder, Given, Role
from xbench.ranking import Pool
from xbench.records import Collection
from xbench.task import Task
from xbench.workers import Workers


def languages_of(task: Task, collection: Collection) -> tuple[str, ...]:
    """The languages of a collection, in the task's order."""
    return tuple(a for a in task.languages if a in (collection.queries | collection.passages) or a in collection.large)


def joined(collections: Sequence[Collection]) -> Collection:
    """The texts of several collections, one after the other."""
    if len(collections) == 1:
        return collections[0]
    whole = Collection({}, {}, {}, {})
    for collection in collections:
        for language, queries in collection.queries.items():
            whole.queries.setdefault(language, []).extend(queries)
        for language, passages in collection.passages.items():
            whole.passages.setdefault(language, []).extend(passages)
    return whole


def apart(encoded: Encoded, collections: Sequence[Collection]) -> Iterator[Encoded]:
    """The vectors of each of several collections; `encoded` are those of `joined`."""
    done: Counter[tuple[str, str]] = Counter()
    for collection in collections:
        own: dict[Role, dict[str, NDArray[np.float32]]] = {}
        for role in ROLES:
            own[role] = {}
            for language, rows in collection.rows(role).items():
                low = done[role, language]
                done[role, language] = high = low + len(rows)
                own[role][language] = encoded.vectors[role][language][low:high]
        yield encoded._replace(vectors=own)


def vectors(
    model: Encoder | Given,
    collection: Collection,
    cache: Path,
    batch_tokens: int | None = None,
    workers: Workers | None = None,
) -> Encoded:
    """The vectors of all texts: encoded, from the cache, or given."""
    if not isinstance(model, Given):
        return encode(model, collection, cache, batch_tokens, workers)
    encoded = Encoded({role: {} for role in ROLES}, 0, 0, 0, {role: {} for role in ROLES})
    dimensions: dict[int, str] = {}
    for role in ROLES:
        for language in collection.queries if role == "queries" else collection.passages:
            found = encoded.vectors[role][language] = model.vectors(role, language, collection)
            check_finite(model.name, found, collection.ids(role, language))
            encoded.cut[role][language] = None
            dimensions.setdefault(found.shape[1], f"{role}.{language}.npy")
    if len(dimensions) > 1:
        raise DataError(f"{model.name}: files of different widths: {dimensions}; all must have the same d")
    total = sum(map(len, collection.queries.values())) + sum(map(len, collection.passages.values()))
    return encoded._replace(texts=total, distinct=total)


class Space(NamedTuple):
    """The passages of a collection, indexed language by language, and its queries' vectors."""

    languages: list[str]  # of the indexes
    indexes: list[Index]
    pool: Pool  # the union of the indexes
    queries: list[NDArray[np.float32]]  # of every language of the collection that has some, in the task's order

    @classmethod
    def build(cls, encoded: Encoded, collection: Collection, task: Task, folder: Path) -> "Space":
        """Index; large indexes are mapped from files in `folder`. Takes the passages' vectors out of `encoded`."""
        languages = [language for language in task.languages if collection.passages.get(language)]
        indexes = [
            Index.build(
                encoded.vectors["passages"].pop(language),
                collection.ids("passages", language),
                folder / f"{task.name}-{task.sha256[:12]}.{language}.faiss",
            )
            for language in languages
        ]
        pool = Pool([index.vectors for index in indexes], [doc_id for index in indexes for doc_id in index.doc_ids])
        asked = encoded.vectors["queries"]
        return cls(languages, indexes, pool, [asked[a] for a in task.languages if a in asked])
