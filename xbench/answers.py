"""Answer strings: how they are compared, and whether the first passage of a pool has one.

`EM@1` is for passages that carry an answer string of their own (question-answer pairs, answer candidates): whether
that of the first passage equals an answer to the query. `HasAnswer@1` is for passages as texts: whether the first
one contains an answer. Both compare normalised strings, in the language of the passage:

- en, es, hi, vi, de, ar, zh as MLQA's official scorer (facebookresearch/MLQA, mlqa_evaluation_v1.py,
  `normalize_answer`);
- all others as SQuAD v1.1's (evaluate-v1.1.py), whose articles are English.

Neither touches Unicode's forms: a composed and a decomposed letter differ, as they do there.
"""

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.records import Collection

# What MLQA's scorer replaces by a space, after lower case and without punctuation. Its pattern for Arabic has a first
# branch that cannot match, so the article goes wherever its two letters stand, inside words too.
ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "hi": "",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": "ال",
    "zh": "",
}
ENGLISH = ARTICLES["en"]
# Of the first passages that `answered` takes: nothing retrieved, and a pool that was not searched.
MISSING, UNSEARCHED = -1, -2
# Each Chinese character is a token of its own in MLQA's "mixed segmentation".
HAN = re.compile("([\u4e00-\u9fa5])")


def normalise(text: str, language: str) -> str:
    """Lower case, without punctuation and articles, one space between tokens.

    Punctuation is every character of Unicode's categories P and of ASCII's for MLQA's languages, ASCII's alone for
    the others. The language is the first part of a tag: `zh-Hant` is zh.
    """
    language = language.partition("-")[0]
    punctuation = _punctuation if language in ARTICLES else string.punctuation.__contains__
    text = "".join(c for c in text.lower() if not punctuation(c))
    if articles := ARTICLES.get(language, ENGLISH):
        text = re.sub(articles, " ", text)
    if language == "zh":
        text = HAN.sub(r" \1 ", text)
    return " ".join(text.split())


@functools.lru_cache(1 << 14)
def _punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def matches(text: str, answers: Sequence[str], language: str) -> bool:
    """Whether a text equals one of the answers, both normalised: SQuAD's and MLQA's exact match."""
    found = normalise(text, language)
    return any(normalise(answer, language) == found for answer in answers)


def contains(text: str, answers: Sequence[str], language: str) -> bool:
    """Whether one of the answers is a substring of a text, both normalised.

    No word boundary is asked for, so that languages written without spaces and inflected words count: `art` is in
    `party`. DPR's `has_answer` (facebookresearch/DPR, qa_validation.py) compares whole tokens, and keeps articles.
    An answer of which nothing is left (`the`, `+`) is in no text, or it would be in every one.
    """
    found = normalise(text, language)
    wanted = [normalise(answer, language) for answer in answers]
    return any(answer in found for answer in wanted if answer)


def answered(collection: Collection, languages: Sequence[str], first: NDArray[np.int64]) -> dict[str, NDArray[np.int8]]:
    """Whether the first passage of each pool has the answer to each query, by family of measures.

    Args:
        collection: its `answers` and `items`; passages of a `Corpus` are not at hand, so nothing is known of them.
        languages: the languages of a `RankTable`, whose queries and passages stand in their order.
        first: int (queries, languages + 1), the first passage of the pool of each language and, last, of the joint
            pool, as its place among all passages; `MISSING`: a run retrieved none; `UNSEARCHED`.

    Returns:
        `EM` and `HasAnswer` -> int8 (queries, languages + 1): 1 or 0, -1 where it is unknown: the query has no
        answer string, `EM` and the passage carries none, or the pool was not searched.
    """
    queries = [query.query_id for a in languages for query in collection.queries.get(a, [])]
    passages = [(a, passage) for a in languages for passage in collection.passages.get(a, [])]
    kinds: Mapping[str, Callable[[str, str], str | None]] = {
        "EM": lambda doc_id, text: collection.items.get(doc_id),
        "HasAnswer": lambda doc_id, text: text,
    }
    found = {family: np.full(first.shape, -1, np.int8) for family in kinds}
    if collection.large:
        return found
    for i, query_id in enumerate(queries):
        wanted = collection.answers.get(query_id, ())
        for j, row in enumerate(first[i].tolist() if wanted else []):
            if row == MISSING:
                found["EM"][i, j] = 0 if collection.items else -1
                found["HasAnswer"][i, j] = 0
            if row < 0:
                continue
            language, passage = passages[row]
            for family, compare in (("EM", matches), ("HasAnswer", contains)):
                if (text := kinds[family](*passage)) is not None:
                    found[family][i, j] = compare(text, wanted, language)
    return found
