"""WikiHop as retrieval: the entity and relation search the support passages of all samples of a split.

There is no standard retrieval version of WikiHop (Welbl, Stenetorp and Riedel 2018); this one is ours. A sample is
a query such as `member_of_political_party thomas l. woolwine`, its answer, and support passages of Wikipedia
of which some hold the answer and others lead there. Here the query's text is the relation with blanks and then
the entity; the pool is the distinct support passages of all samples; relevant are those of the sample's own
support passages that hold the answer as whole words, letter case and punctuation aside. Other passages may hold it
by chance, or for another entity, and count as not relevant.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from xbench.readers.node import Node
from xbench.readers.part import Part
from xbench.records import Collection, Passage, Query
from xbench.strictjson import read_json
from xbench.task import Task


def read_wikihop(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """One part; ids are `en:WH_dev_0` and `en:WH_dev_0.3`, the first place where a passage stands.

    Counted: `supports`, passages before equal ones are merged; `empty`, supports without text, which are left out;
    `unanswered`, queries none of whose support passages holds the answer, which have nothing relevant and so are
    left out of the cell.

    Raises:
        DataError: not JSON, a field missing or of the wrong type, an id with white space or twice, an empty text.
        StorageError: the file cannot be read.
    """
    (path,) = paths.values()
    (language,) = task.languages
    root = Node({"": read_json(path)}, f"{path}: ")
    queries: list[Query] = []
    answers: dict[str, tuple[str, ...]] = {}
    place: dict[str, Passage] = {}
    words: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    counts = {"queries": 0, "passages": 0, "supports": 0, "empty": 0, "unanswered": 0}
    for sample in root.list(""):
        id_ = sample.text("id")
        query_id = f"{language}:{id_}"
        if any(c.isspace() for c in id_) or query_id in qrels:
            sample.fail(f"id {id_!r} holds white space or occurs twice")
        relation, _, entity = sample.text("query").partition(" ")
        if not entity.strip():
            sample.fail(f"query {relation!r} is no relation and entity, parted by a blank")
        queries.append(Query(query_id, f"{relation.replace('_', ' ')} {entity}"))
        answers[query_id] = (sample.text("answer"),)
        wanted = _words(answers[query_id][0])
        relevant = qrels[query_id] = {}
        for i, support in enumerate(sample.list("supports")):
            counts["supports"] += 1
            if isinstance(support.value, str) and not support.value.strip():
                counts["empty"] += 1
                continue
            text = support.is_text()
            passage = place.setdefault(text, Passage(f"{query_id}.{i}", text))
            if passage.doc_id not in words:
                words[passage.doc_id] = _words(text)
            if wanted in words[passage.doc_id]:
                relevant[passage.doc_id] = 1
        counts["unanswered"] += not relevant
    counts |= {"queries": len(queries), "passages": len(place)}
    collection = Collection({language: queries}, {language: list(place.values())}, qrels, {}, answers)
    yield Part(task.cells(), collection, {language: counts})


def _words(text: str) -> str:
    """The words of a text between single blanks, one before the first and one after the last."""
    return " ".join(["", *re.findall(r"\w+", text.lower()), ""])
