"""Judgements: qrels in TREC's and BEIR's columns; errors name file and row."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from xbench.errors import DataError
from xbench.readers.checks import check_id, lines, place, shown, tsv_rows

# The highest grade. trec_eval makes room for every grade up to the highest, so that 10**9 stops a machine.
HIGHEST = 1000
# Ids that an error shows of many.
SHOWN = 5


class Judgement(NamedTuple):
    """One line of qrels; `where` is `file:row`."""

    query: str
    doc: str
    grade: int
    where: str


def grade_of(value: object, where: str) -> int:
    """The grade of a judgement: a whole number, as a text, an integer or a float without a fraction (MTEB's Parquet).

    Below 1 means judged and not relevant, as in trec_eval.

    Raises:
        DataError: it is none, or above `HIGHEST`.
    """
    number: int | None = None
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if number is None:
        raise DataError(f"{where}: grade {shown(value)}, expected a whole number")
    if abs(number) > HIGHEST:
        raise DataError(f"{where}: grade {number} is beyond {HIGHEST}; is this another column?")
    return number


QUERY_COLUMNS = ("query-id", "query_id", "qid")
DOC_COLUMNS = ("corpus-id", "corpus_id", "doc_id", "docid", "pid")
GRADE_COLUMNS = ("score", "relevance", "grade", "label")


def trec_qrels(path: Path) -> Iterator[Judgement]:
    """TREC's qrels: four columns, `query_id 0 doc_id grade`, split by spaces or tabs; the second means nothing.

    Raises:
        DataError: as `lines`; another number of columns, no id, no grade; with file and row.
    """
    for row, text in lines(path):
        where, cells = f"{path}:{row}", [cell for cell in re.split("[ \t]+", text) if cell]
        if len(cells) != 4:
            raise DataError(f"{where}: {len(cells)} columns, expected 4: query_id 0 doc_id grade")
        yield Judgement(check_id(cells[0], where), check_id(cells[2], where), grade_of(cells[3], where), where)


def beir_qrels(path: Path) -> Iterator[Judgement]:
    """BEIR's qrels: a header, then three columns split by tabs, `query-id corpus-id score`.

    BEIR's reader drops the first line, whatever it holds (beir/datasets/data_loader.py, `_load_qrels`); here it must
    be a header, so that no judgement is lost.

    Raises:
        DataError: as `tsv_rows`; no header, another number of columns, no id, no grade; with file and row.
    """
    for number, (where, cells) in enumerate(tsv_rows(path)):
        if number == 0:
            names = (QUERY_COLUMNS, DOC_COLUMNS, GRADE_COLUMNS)
            if len(cells) != 3 or any(cell not in some for cell, some in zip(cells, names, strict=True)):
                raise DataError(f"{where}: {shown(cells)}, expected a header: query-id, corpus-id, score, between tabs")
        elif len(cells) != 3:
            raise DataError(f"{where}: {len(cells)} columns, expected 3 between tabs: query-id corpus-id score")
        else:
            yield Judgement(check_id(cells[0], where), check_id(cells[1], where), grade_of(cells[2], where), where)


def text_qrels(path: Path) -> Iterator[Judgement]:
    """Qrels of either form, told by the first line: four columns are TREC's, anything else must be BEIR's.

    Raises:
        DataError: as `trec_qrels` and `beir_qrels`.
    """
    first = next(text for _, text in lines(path))
    return trec_qrels(path) if len(first.split()) == 4 else beir_qrels(path)


def gather(rows: Iterable[Judgement]) -> dict[str, dict[str, Judgement]]:
    """Judgements by query and passage.

    Raises:
        DataError: the same pair twice, whether with the same grade or another; with both places.
    """
    found: dict[str, dict[str, Judgement]] = {}
    for each in rows:
        first = found.setdefault(each.query, {}).setdefault(each.doc, each)
        if first is not each:
            other = "" if first.grade == each.grade else f", with grade {first.grade} and not {each.grade}"
            raise DataError(
                f"{each.where}: passage {shown(each.doc)} of query {shown(each.query)} is judged for the second time, "
                f"first in {place(first.where)}{other}"
            )
    return found


def refuse_dangling(rows: Sequence[Judgement], kind: str, cure: str = "") -> None:
    """Refuse judgements of a `kind` (`query`, `passage`) that is nowhere.

    Raises:
        DataError: there is one; with the first, how many, and some ids.
    """
    if rows:
        ids = list(dict.fromkeys(each.query if kind == "query" else each.doc for each in rows))
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        raise DataError(
            f"{rows[0].where}: {kind} {', '.join(map(shown, ids[:SHOWN]))}{more}: judged, but in no file of this task "
            f"({len(rows)} judgement{'s' if len(rows) > 1 else ''}){'; ' if cure else ''}{cure}"
        )
