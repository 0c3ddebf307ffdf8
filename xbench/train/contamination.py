"""Which training pairs hold a text of an evaluation task, so that a claim to be zero-shot on it would be wrong.

Every text of a pair (question, passage, hard negatives) is held against every question and passage of the tasks, by
the rule of `overlap`. Of passages too many to hold (MIRACL, Mr. TyDi) nothing is looked at; of their task, the
questions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from xbench.errors import DataError
from xbench.readers import parts, pin
from xbench.task import Task
from xbench.train.overlap import RULE, Index, TaskText, blocks
from xbench.train.pairs import Pair

EXAMPLES = 3


class Example(NamedTuple):
    """A training text and the text of a task that it equals, holds or is part of."""

    source: str
    text: str
    found: TaskText


class Report(NamedTuple):
    """What `Contamination.search` found."""

    pairs: int  # that were looked up
    contaminated: int
    counts: Mapping[tuple[str, str], int]  # contaminated pairs by (source, task)
    examples: Sequence[Example]  # the first ones of different texts

    def refuse(self) -> DataError:
        """The error for data that must not hold what was found."""
        counts = ", ".join(f"{source} in {task}: {n}" for (source, task), n in sorted(self.counts.items()))
        shown = "; ".join(f"{_short(e.text)!r} is in {e.found.task} {e.found.id}" for e in self.examples)
        return DataError(
            f"{self.contaminated} training pairs hold texts of evaluation tasks ({counts}), such as {shown}; expected "
            "none: leave a source out ([data] without), drop them and their translations ([data] contaminated = "
            '"drop"), or take the task from [data] clean_of and do not call results on it zero-shot'
        )

    def to_json(self) -> dict[str, Any]:
        """What a run's record says of the pairs that were dropped."""
        return {
            "dropped": self.pairs,
            "contaminated": self.contaminated,
            "by": [{"source": source, "task": task, "pairs": n} for (source, task), n in sorted(self.counts.items())],
            "examples": [
                {"source": e.source, "text": _short(e.text), "task": e.found.task, "id": e.found.id}
                for e in self.examples
            ],
        }


def task_texts(tasks: Iterable[Task], data: Path | None = None, *, offline: bool = False) -> Iterator[TaskText]:
    """The questions and passages of tasks, but no passages that are too many to hold.

    Raises:
        XbenchError: as `readers.parts`.
    """
    for task in tasks:
        for part in parts(task, data, offline=offline, passages=False):
            for role in ("queries", "passages"):
                for rows in part.collection.rows(role).values():
                    yield from (TaskText(task.name, row[0], row[1]) for row in rows)


class Contamination:
    """Tasks, to look training pairs up in; their texts are read when they are first asked for."""

    def __init__(self, tasks: Sequence[Task], data: Path | None = None, *, offline: bool = False) -> None:
        """Note where the texts are.

        Raises:
            XbenchError: as `readers.pin`.
        """
        self._tasks = [pin(task, data, offline=offline, passages=False) for task in tasks]
        self._data, self._offline = data, offline

    @property
    def key(self) -> list[Any]:
        """All that decides what is found, as a JSON value."""
        return [RULE, *([task.name, task.version, task.sha256] for task in self._tasks)]

    @cached_property
    def _index(self) -> Index:
        return Index(task_texts(self._tasks, self._data, offline=self._offline))

    def found(self, pairs: Sequence[Pair]) -> list[dict[str, TaskText]]:
        """Of each pair, its texts that are the same as one of a task, and that one.

        Raises:
            XbenchError: as `readers.parts`.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in _texts(pair)))
        same = {text: found for text, found in zip(texts, self._index.found(texts), strict=True) if found}
        return [{text: same[text] for text in _texts(pair) if text in same} for pair in pairs]

    def search(self, pairs: Iterable[Pair]) -> Report:
        """Look up pairs, a block of them held at a time; errors as `found`."""
        number = contaminated = 0
        counts = Counter[tuple[str, str]]()
        examples: list[Example] = []
        for block in blocks(pairs, lambda pair: sum(map(len, _texts(pair)))):
            number += len(block)
            for pair, hits in zip(block, self.found(block), strict=True):
                contaminated += bool(hits)
                counts.update((pair.source, task) for task in {hit.task for hit in hits.values()})
                for text, hit in hits.items():
                    if len(examples) < EXAMPLES and all(hit != other.found for other in examples):
                        examples.append(Example(pair.source, text, hit))
        return Report(number, contaminated, counts, examples)


def _texts(pair: Pair) -> tuple[str, ...]:
    return tuple(dict.fromkeys((pair.question, pair.passage, *pair.negatives)))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
