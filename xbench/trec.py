"""TREC run and qrels files: the only place that knows their columns."""

import gzip
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError
from xbench.lines import raw_lines, text_lines
from xbench.progress import track
from xbench.storage import atomic, storage

COLUMNS = "query_id Q0 doc_id rank score tag"
QRELS_COLUMNS = "query_id 0 doc_id grade"


class RankedList(NamedTuple):
    """What a run gives for one query, in the file's order."""

    query: int
    docs: NDArray[np.int64]  # (n,) which passages
    scores: NDArray[np.float64]  # (n,)


def read_run(
    path: Path, query_ids: Sequence[str], doc_ids: Sequence[str], *, ignore_ranks: bool = False, prefix: str = ""
) -> Iterator[RankedList]:
    """The lists of a TREC run (plain or gzip), one query after the other; every line is checked.

    One query is held at a time where the lines of each stand together, else the whole run, in
    32 bytes a line. Scores are read as float64, as trec_eval 10 does; trec_eval 9 keeps float32.

    Args:
        path: lines of `query_id Q0 doc_id rank score tag`, separated by spaces or tabs.
        query_ids: those that may occur; a query is given as its place in them.
        doc_ids: those that may occur, likewise.
        ignore_ranks: do not compare the rank column with the scores. It never decides anything.
        prefix: what query_ids and doc_ids begin with and the file leaves out, such as `sw:`.

    Raises:
        DataError: no file, a wrong number of columns, an unknown or twice retrieved passage, an unknown
            query, a score that is no finite number, a rank that is no number or contradicts the
            scores, no line at all; with file and line.
        StorageError: the file cannot be read.
    """
    check_file(path)
    queries = {id_[len(prefix) :].encode(): i for i, id_ in enumerate(query_ids) if id_.startswith(prefix)}
    docs = {id_[len(prefix) :].encode(): i for i, id_ in enumerate(doc_ids) if id_.startswith(prefix)}
    held: dict[int, _Lines] = {}
    grouped, current = _grouped(path), -1
    with track(f"reading {path.name}", _size(path), "bytes") as advance:
        for number, line in enumerate(raw_lines(path, advance), 1):
            fields = line.split()
            problem = None
            if len(fields) != 6:
                problem = f"{len(fields)} columns, expected 6: {COLUMNS}"
            elif fields[0] not in queries:
                problem = f"unknown query {_shown(fields[0])}, expected one like {query_ids[0]}"
            elif fields[2] not in docs:
                problem = f"unknown passage {_shown(fields[2])}, expected one like {doc_ids[0]}"
            elif not fields[3].isdigit() or len(fields[3]) > 18:
                problem = f"rank {_shown(fields[3])}, expected a whole number"
            elif (score := _score(fields[4])) is None:
                problem = f"score {_shown(fields[4])}, expected a finite number"
            if problem:
                raise DataError(f"{path}:{number}: {problem}")
            query = queries[fields[0]]
            if grouped and query != current and current >= 0:
                yield held.pop(current).checked(path, current, query_ids, doc_ids, ignore_ranks)
            current = query
            lines = held.setdefault(query, _Lines())
            lines.number.append(number)
            lines.doc.append(docs[fields[2]])
            lines.rank.append(int(fields[3]))
            lines.score.append(score)  # type: ignore[arg-type]
    if not held:
        raise DataError(f"{path}: no line in it, expected {COLUMNS}")
    for query in sorted(held):
        yield held.pop(query).checked(path, query, query_ids, doc_ids, ignore_ranks)


def named(path: Path) -> Iterator[tuple[str, str]]:
    """The query_id and doc_id of each line of a run; lines that `read_run` refuses may be left out."""
    for line in raw_lines(path):
        fields = line.split(None, 3)
        if len(fields) == 4:
            yield fields[0].decode("utf-8", "backslashreplace"), fields[2].decode("utf-8", "backslashreplace")


def read_qrels(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """The lines of TREC qrels, plain or gzip, columns separated by spaces or tabs: line, query_id, doc_id, grade.

    The second column decides nothing, as in trec_eval. A grade of 0 says that the passage is judged, not relevant.

    Raises:
        DataError: a wrong number of columns, a grade that is no whole number, a pair for the second time, no line
            at all; with file and line.
        StorageError: the file cannot be read.
    """
    seen: dict[tuple[str, str], int] = {}
    for number, line in text_lines(path):
        fields = line.split()
        if len(fields) != 4:
            raise DataError(f"{path}:{number}: {len(fields)} columns, expected 4: {QRELS_COLUMNS}")
        query_id, _, doc_id, grade = fields
        if not re.fullmatch("-?[0-9]{1,9}", grade):
            raise DataError(f"{path}:{number}: grade {grade[:80]!r}, expected a whole number")
        if (query_id, doc_id) in seen:
            first = seen[query_id, doc_id]
            raise DataError(
                f"{path}:{number}: passage {doc_id} of query {query_id} is judged twice, first in line {first}"
            )
        seen[query_id, doc_id] = number
        yield number, query_id, doc_id, int(grade)
    if not seen:
        raise DataError(f"{path}: no line in it, expected {QRELS_COLUMNS}")


def check_file(path: Path) -> None:
    """Refuse what is no file, before it is read: a pipe would be waited for.

    Raises:
        DataError: it is none.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
        raise DataError(f"{path}: {found}; expected a TREC run, {COLUMNS}")


class _Lines:
    """The lines of one query."""

    def __init__(self) -> None:
        self.number, self.doc, self.rank, self.score = array("q"), array("q"), array("q"), array("d")

    def checked(
        self, path: Path, query: int, query_ids: Sequence[str], doc_ids: Sequence[str], ignore_ranks: bool
    ) -> RankedList:
        """As arrays, if no passage occurs twice and the ranks agree with the scores."""
        number, doc, rank = (np.frombuffer(part, np.int64) for part in (self.number, self.doc, self.rank))
        score = np.frombuffer(self.score, np.float64)
        by_doc = np.argsort(doc, kind="stable")
        twice = np.flatnonzero(np.diff(doc[by_doc]) == 0)
        if len(twice):
            first, second = by_doc[twice[0]], by_doc[twice[0] + 1]
            raise DataError(
                f"{path}:{number[second]}: passage {doc_ids[doc[first]]} of query {query_ids[query]} "
                f"for the second time, first in line {number[first]}"
            )
        by_rank = np.lexsort((-score, rank))
        before, after = score[by_rank][:-1], score[by_rank][1:]  # compared: a difference could overflow
        rises = (after > before) | ((np.diff(rank[by_rank]) == 0) & (after != before))
        if rises.any() and not ignore_ranks:
            one, other = by_rank[rises.argmax()], by_rank[rises.argmax() + 1]
            raise DataError(
                f"{path}:{number[other]}: rank {rank[other]} with score {float(score[other])!r} contradicts line "
                f"{number[one]}, rank {rank[one]} with score {float(score[one])!r}, of query {query_ids[query]}; "
                "mend the run, or give --ignore-ranks to go by the scores"
            )
        return RankedList(query, doc, score)


def _grouped(path: Path) -> bool:
    """Whether the lines of each query stand together."""
    seen: set[bytes] = set()
    last = b""
    for line in raw_lines(path):
        query = line.split(None, 1)[0] if line.strip() else last
        if query != last:
            if query in seen:
                return False
            seen.add(query)
            last = query
    return True


def _size(path: Path) -> int:
    with storage(path, "read"):
        return path.stat().st_size


def _score(text: bytes) -> float | None:
    """The number of a text, None if it is none; Python alone would take 1_0 for ten."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and b"_" not in text else None


def _shown(text: bytes) -> str:
    return repr(text[:80].decode("utf-8", "backslashreplace"))


def write_run(path: Path, ranking: Iterable[tuple[str, list[tuple[str, float]]]], tag: str) -> None:
    """Write `query_id Q0 doc_id rank score tag` for each query's (doc_id, score) list, best first.

    Scores are written so that they read back as the same float64. A path that ends in `.gz` is
    packed, the same bytes each time.

    Raises:
        StorageError: the file cannot be written.
    """

    def lines() -> Iterator[str]:
        for query_id, passages in ranking:
            for rank, (doc_id, score) in enumerate(passages, 1):
                yield f"{query_id} Q0 {doc_id} {rank} {float(score)!r} {tag}\n"

    _write(path, lines())


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write `query_id 0 doc_id grade`; as `write_run`.

    Raises:
        StorageError: the file cannot be written.
    """
    _write(path, (f"{q} 0 {doc_id} {grade}\n" for q, grades in qrels.items() for doc_id, grade in grades.items()))


def _write(path: Path, lines: Iterable[str]) -> None:
    with atomic(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                packed.writelines(line.encode() for line in lines)
        else:
            file.writelines(line.encode() for line in lines)
