"""Pairs of a task's queries and the passages that are relevant to them: `task:NAME`, or `task:FILE.toml`.

A query gives a pair with each relevant passage in its own language, or where there is none, with each in any other.
The same question in several languages is one group, unless the task says that its questions are not parallel; so a
question and a passage in two languages meet in training by their group. What is judged and not relevant, and in the
language of the passage, are hard negatives. The kind is qa, or bitext where a passage is the query's translation.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from xbench.errors import DataError
from xbench.readers import parts, pin
from xbench.records import Collection, Passage
from xbench.task import Task, vary
from xbench.train.pairs import Advance, Pair, Pairs

PREFIX = "task:"
# Formats of tasks whose passages are translations of the queries.
BITEXTS = ("tatoeba", "translations")


def task_pairs(task: Task, data: Path | None = None, *, offline: bool = False) -> Pairs:
    """The pairs of a task; `data`, `offline` as in `readers.parts`.

    Raises:
        XbenchError: as `readers.pin`; when they are read, as `readers.parts`.
    """
    if task.pools == "cell" and "mono" in task.settings:
        task = vary(task, settings=["mono"])  # the other cells have the same texts once more
    task = pin(task, data, offline=offline)
    digest = hashlib.sha256(f"{task.name} {task.sha256}".encode()).hexdigest()
    return Pairs(digest, 0, partial(_read, task, data, offline))


def _read(task: Task, data: Path | None, offline: bool, _: Advance) -> Iterator[Pair]:
    kind = "bitext" if task.format in BITEXTS else "qa"
    for part in parts(task, data, offline=offline):
        collection = part.collection
        texts = _judged_texts(task, collection)
        for language, queries in collection.queries.items():
            for query in queries:
                group = query.query_id if query.query_id in collection.clusters else query.query_id.partition(":")[2]
                grades = collection.qrels[query.query_id]
                relevant = [doc_id for doc_id, grade in grades.items() if grade > 0]
                own = [doc_id for doc_id in relevant if _language(doc_id) == language]
                for doc_id in own or relevant:
                    other = _language(doc_id)
                    negatives = [d for d, grade in grades.items() if grade <= 0 and _language(d) == other]
                    yield Pair(
                        f"{task.name}:{group}",
                        language,
                        query.text,
                        texts[doc_id],
                        other,
                        kind,
                        task.name,
                        tuple(texts[d] for d in negatives),
                    )


def _judged_texts(task: Task, collection: Collection) -> Mapping[str, str]:
    """doc_id -> text of every judged passage; corpora are read once, and of them nothing else is held."""
    judged = {doc_id for grades in collection.qrels.values() for doc_id in grades}
    pools: list[Iterable[Passage]] = [*collection.passages.values(), *collection.large.values()]
    texts = {passage.doc_id: passage.text for pool in pools for passage in pool if passage.doc_id in judged}
    if lacking := sorted(judged - texts.keys()):
        raise DataError(f"{task.name}: {len(lacking)} judged passages are in no corpus, first {lacking[0]}")
    return texts


def _language(doc_id: str) -> str:
    return doc_id.partition(":")[0]
