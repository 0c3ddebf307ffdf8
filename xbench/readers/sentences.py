"""Answer sentences: the tasks of LAReQA, whose files `squad` reads, linked across languages."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

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
        _paragraphs(qrels),
    )


def _paragraphs(qrels: dict[str, dict[str, int]]) -> dict[str, str]:
    """Question -> the first of the paragraphs that it shares, in any language, with other questions.

    Questions that share a paragraph in one language and those that share one in another are one
    cluster, since the translations of a question are.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [(q.partition(":")[2], d.rpartition(".")[0]) for q, grades in qrels.items() for d in grades]
    questions, paragraphs = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    place = {name: i for i, name in enumerate(questions)}
    node = {name: len(questions) + i for i, name in enumerate(paragraphs)}
    ends = np.array([(place[q], node[p]) for q, p in pairs]).T
    size = len(questions) + len(paragraphs)
    _, component = connected_components(coo_array((np.ones(len(pairs)), tuple(ends)), (size, size)), directed=False)
    first: dict[int, str] = {}
    for name in paragraphs:
        first.setdefault(int(component[node[name]]), name)
    return {name: first[int(component[place[name]])] for name in questions}
