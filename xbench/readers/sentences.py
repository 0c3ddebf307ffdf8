"""Answer sentences: the tasks of LAReQA, whose files `squad` reads, linked across languages."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from xbench.readers.clusters import clusters
from xbench.readers.part import Part
from xbench.readers.squad import SquadFile, read_squad
from xbench.records import Collection
from xbench.task import Task


def read_sentences(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """One file a language, its key the language; as `squad.read_squad`."""
    files = {language: read_squad(paths[language], language, context=task.context) for language in task.languages}
    counts = {a: {"queries": len(f.queries), "passages": len(f.passages), **f.counts} for a, f in files.items()}
    yield Part(task.cells(), _link(task, files), counts)


def _link(task: Task, files: dict[str, SquadFile]) -> Collection:
    """The same question id in two languages is the same question: its answers are relevant in both."""
    qrels: dict[str, dict[str, int]] = {}
    for language in task.languages:
        for question_id in files[language].answers:
            qrels[f"{language}:{question_id}"] = {
                files[other].answers[question_id]: 1 for other in task.languages if question_id in files[other].answers
            }
    return Collection(
        {language: files[language].queries for language in task.languages},
        {language: files[language].passages for language in task.languages},
        qrels,
        clusters([(q.partition(":")[2], d.rpartition(".")[0]) for q, grades in qrels.items() for d in grades]),
    )
