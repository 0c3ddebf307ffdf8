r"""Mewsli-X: entity mentions in WikiNews articles, and the descriptions of the entities that they may name.

Format: google-research/google-research, dense_representations_for_entity_retrieval/mel (mewsli-x.md,
mewsli_x/schema.py, release mewsli-x_20220518_6). `candidate_set_entities.jsonl` has one entity a line, of which each
has one description, in one of 50 languages; `wikinews_mentions-<split>.jsonl` one article a line with its mentions,
whose text the user fills in by the release's get-mewsli-x.sh.

Texts are those of XTREME-R's baseline (google-research/xtreme, third_party/utils_mewslix.py), so that values can be
laid beside its own. A query is the mention, a colon and the one sentence that holds it, with ` { ` and ` } ` around it:

    Smith: The verdict came back for { Smith }, who stepped down as AG of ...

with braces that the sentence has itself, before or after it, made parentheses; a passage is the sentences of the
description with a space between. In both, ends of lines become spaces, then each two spaces one, once, and white space
around goes. Titles of entities and of articles are not used. Relevant is the one gold entity.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from xbench.lines import objects
from xbench.readers.node import Node
from xbench.readers.part import Part
from xbench.records import Collection, Passage, Query
from xbench.task import Task

# Where Python's str.splitlines ends a line, as the baseline does.
_ENDS = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_BRACES = re.compile(r"\{(.*?)\}")


def read_mewslix(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """Sources `entities` and `mentions`. Other languages than the task's are left out; so is a mention of their entity.

    Ids are `<language of the article>:<example_id>` and `<language of the description>:<entity_id>`.

    Raises:
        DataError: a field is missing or of the wrong type, a text is empty, an id has white space or occurs twice, a
            span is not in its text or a mention in no sentence, a gold entity is no candidate; with file and line.
        StorageError: a file cannot be read.
    """
    passages: dict[str, list[Passage]] = {language: [] for language in task.passage_languages}
    doc_ids: dict[str, str] = {}  # by entity
    for number, value in objects(paths["entities"]):
        entity = Node(value, f"{paths['entities']}:{number}")
        language, id_ = entity.text("description_language"), _id(entity, "entity_id")
        if id_ in doc_ids:
            entity.fail(f"entity {id_} for the second time")
        doc_ids[id_] = f"{language}:{id_}"
        if language in passages:
            passages[language].append(Passage(doc_ids[id_], _description(entity)))
    queries: dict[str, list[Query]] = {language: [] for language in task.query_languages}
    articles = dict.fromkeys(queries, 0)
    qrels: dict[str, dict[str, int]] = {}
    for number, value in objects(paths["mentions"]):
        article = Node(value, f"{paths['mentions']}:{number}")
        language = article.get("context").text("language")
        if language not in queries:
            continue
        articles[language] += 1
        for mention in article.list("mentions"):
            id_, gold = _id(mention, "example_id"), mention.text("entity_id")
            query = Query(f"{language}:{id_}", _mention(article.get("context"), mention.get("mention_span")))
            if query.query_id in qrels:
                mention.fail(f"mention {id_} for the second time")
            if gold not in doc_ids:
                mention.fail(f"gold entity {gold} is not among the candidates")
            queries[language].append(query)
            here = doc_ids[gold].partition(":")[0] in passages
            qrels[query.query_id] = {doc_ids[gold]: 1} if here else {}
    counts = {
        language: ({"passages": len(passages[language])} if language in passages else {})
        | ({"queries": len(queries[language]), "articles": articles[language]} if language in queries else {})
        for language in task.languages
    }
    yield Part(task.cells(), Collection(queries, passages, qrels, {}), counts)


def _id(node: Node, key: str) -> str:
    id_ = node.text(key)
    if id_.split() != [id_]:
        node.fail(f"{key} {id_!r} holds white space")
    return id_


def _description(entity: Node) -> str:
    text = entity.text("description")
    sentences = [text[slice(*_span(span, len(text)))] for span in entity.list("sentence_spans")]
    return Node(_on_one_line(" ".join(sentences)), f"{entity.where}.description").is_text()


def _mention(context: Node, span: Node) -> str:
    """The text of a query (`preprocess_mention`)."""
    whole = context.get("text").value
    if whole == "":
        context.fail("the text of the article is empty; fill it in by the release's get-mewsli-x.sh")
    whole, name = context.text("text"), span.text("text")
    start, end = _span(span, len(whole))
    if whole[start:end] != name:
        span.fail(f"the article has {whole[start:end]!r} at {start}, the mention is {name!r}")
    sentences = [_span(each, len(whole)) for each in context.list("sentence_spans")]
    inside = [(low, high) for low, high in sentences if low <= start and end <= high]
    if not inside:
        span.fail(f"the mention at {start} to {end} is in no sentence")
    low, high = inside[0]
    left, right = (_BRACES.sub(r"(\1)", part) for part in (whole[low:start], whole[end:high]))
    return _on_one_line(f"{name}: {left} {{ {name} }} {right}")


def _span(node: Node, length: int) -> tuple[int, int]:
    start, end = node.get("start").value, node.get("end").value
    if not (type(start) is int and type(end) is int and 0 <= start < end <= length):
        node.fail(f"[{start!r}, {end!r}] is no span of a text of {length} characters")
    return start, end


def _on_one_line(text: str) -> str:
    return _ENDS.sub(" ", text).replace("  ", " ").strip()
