"""The tables beside a result file (values, ranks, first passages of queries), and the rows of anybody's Parquet."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xbench.errors import DataError
from xbench.ranks import RankTable
from xbench.records import Judged
from xbench.storage import atomic, storage

KEY = b"xbench"
# Rows of somebody's file that are held at once.
BATCH = 10_000
# Bytes of a column of it that are read at once.
BUFFER = 1 << 20


def write(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write columns of equal length, NaN as null, and `about` (JSON values) into the file's own metadata.

    Raises:
        StorageError: the file cannot be written.
    """
    arrays = {
        name: column if isinstance(column, pa.Array) else pa.array(column, from_pandas=True)
        for name, column in columns.items()
    }
    table = pa.table(arrays, metadata={KEY: json.dumps(about, ensure_ascii=False, sort_keys=True).encode()})
    with atomic(path) as file:
        pq.write_table(table, file, compression="zstd")


def read(path: Path, columns: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """A table that `write` wrote, and what it says of itself.

    Raises:
        DataError: no Parquet file of xbench, or it lacks one of `columns`.
        StorageError: it cannot be read.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; a result is a JSON and the tables beside it, evaluate again or copy all"
        )
    with storage(path, "read"):
        content = path.read_bytes()
    try:
        table = pq.read_table(pa.BufferReader(content))
        table.validate(full=True)
        lacking = [name for name in columns if name not in table.column_names]
        about = json.loads((table.schema.metadata or {})[KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # OSError: of what it holds
        what = " ".join(str(error).split())
        raise DataError(f"{path}: not a Parquet file of xbench: {type(error).__name__}: {what}") from error
    if lacking:
        raise DataError(f"{path}: no column {lacking[0]!r}; found {', '.join(table.column_names)}")
    return table, about


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of anybody's Parquet file, a batch held at a time.

    Raises:
        DataError: no Parquet file, or damaged; with the rows that could not be read.
        StorageError: it cannot be read.
    """
    done = 0
    with _parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                rows = batch.to_pylist()
                yield from rows
                done += len(rows)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            what = " ".join(str(error).split())[:200]
            raise DataError(
                f"{path}:{done + 1}: this or one of the next {BATCH} rows cannot be read: {what}"
            ) from error


def count_rows(path: Path) -> int:
    """How many rows a Parquet file says it has; errors as `read_rows`."""
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    if not path.is_file():
        raise DataError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a Parquet file")
    with storage(path, "read"), path.open("rb") as raw:
        try:
            # By default Arrow holds every row group that it has read: the whole file in the end.
            file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER)
        except (pa.ArrowException, OSError) as error:  # OSError: of what it holds
            what = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: not a Parquet file: {what}") from error
        yield file


def coded(table: pa.Table, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """A column of strings as codes (rows,) into its distinct values, in the order they first occur."""
    column = table.column(name).cast(pa.string()).combine_chunks().dictionary_encode()
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.indices.to_numpy().astype(np.int64), column.dictionary.to_pylist()


def write_ranks(folder: Path, name: str, table: RankTable, about: Mapping[str, Any]) -> None:
    """`<task>.ranks.parquet` and `<task>.top.parquet`: all that language bias is computed from.

    Raises:
        StorageError: a file cannot be written.
    """
    about = dict(about) | {"languages": list(table.languages), "sizes": [int(n) for n in table.sizes]}
    ids = pa.array(table.doc_ids, pa.string())
    queries = pa.array(table.query_ids, pa.string())
    each = np.repeat(np.arange(len(table.query_ids)), np.diff(table.judged.indptr))
    names = pa.array(table.languages, pa.string())
    columns = {
        "query_id": _coded(each, queries),
        "doc_id": _coded(table.judged.rows, ids),
        "language": _coded(table.doc_language[table.judged.rows], names),
        "grade": table.judged.grades.astype(np.int32),
    }
    for i, language in enumerate(table.languages):
        columns[f"above_{language}"] = np.ascontiguousarray(table.above[:, i])
    if table.alone is not None:
        columns["above_alone"] = table.alone
    write(folder / f"{name}.ranks.parquet", columns, about)
    query, place = np.nonzero(table.top >= 0)
    rows = table.top[query, place]
    columns = {
        "query_id": _coded(query, queries),
        "rank": (place + 1).astype(np.int32),
        "doc_id": _coded(rows, ids),
        "language": _coded(table.doc_language[rows], names),
    }
    write(folder / f"{name}.top.parquet", columns, about | {"depth": table.top.shape[1]})


def _coded(codes: NDArray[Any], values: pa.StringArray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), values)


def read_ranks(folder: Path, name: str) -> tuple[RankTable, list[dict[str, Any]]]:
    """What `write_ranks` wrote, without the queries that have no judged passage, and what the files say of themselves.

    Raises:
        DataError: a file is not one of these, or the two contradict each other.
        StorageError: a file cannot be read.
    """
    path = folder / f"{name}.ranks.parquet"
    ranks, about = read(path, ["query_id", "doc_id", "language", "grade"])
    top, about_top = read(folder / f"{name}.top.parquet", ["query_id", "rank", "doc_id", "language"])
    try:
        languages, sizes = tuple(about["languages"]), about["sizes"]
        if [languages, sizes] != [tuple(about_top["languages"]), about_top["sizes"]]:
            raise ValueError("different languages or sizes")
        return _checked(_table(ranks, top, languages, sizes, int(about_top["depth"]))), [about, about_top]
    except (LookupError, TypeError, ValueError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{path}: contradicts itself or {name}.top.parquet: {type(error).__name__}: {error}") from error


def _table(ranks: pa.Table, top: pa.Table, languages: tuple[str, ...], sizes: list[int], depth: int) -> RankTable:
    number = {language: i for i, language in enumerate(languages)}
    each, query_ids = coded(ranks, "query_id")
    (rows, ids), (top_rows, top_ids) = coded(ranks, "doc_id"), coded(top, "doc_id")
    doc_ids = list(dict.fromkeys([*ids, *top_ids]))
    place = {doc_id: i for i, doc_id in enumerate(doc_ids)}
    rows = np.array([place[doc_id] for doc_id in ids], np.int64)[rows]
    top_rows = np.array([place[doc_id] for doc_id in top_ids], np.int64)[top_rows]
    doc_language = np.full(len(doc_ids), -1)
    for at, part in ((rows, ranks), (top_rows, top)):
        codes, names = coded(part, "language")
        mine = np.array([number[language] for language in names], np.int64)[codes]
        known = doc_language[at]
        doc_language[at] = mine
        if ((known >= 0) & (known != mine)).any() or (doc_language[at] != mine).any():
            raise ValueError("a passage of two languages")
    query = {query_id: i for i, query_id in enumerate(query_ids)}
    codes, names = coded(top, "query_id")
    lines = np.array([query.get(query_id, -1) for query_id in names], np.int64)[codes]
    rank = _whole(top, "rank")
    if len(rank) and rank.min() < 1:
        raise ValueError("a rank below 1")
    first = np.full((len(query_ids), depth), -1, np.int32)
    some = lines >= 0
    first[lines[some], rank[some] - 1] = top_rows[some]
    sequence = np.lexsort((rows, each))
    above = np.stack([_whole(ranks, f"above_{language}") for language in languages], axis=1)
    return RankTable(
        languages,
        np.array(sizes, np.int64),
        query_ids,
        np.array([number[query_id.partition(":")[0]] for query_id in query_ids], np.int64),
        doc_ids,
        doc_language,
        Judged(
            np.concatenate([[0], np.cumsum(np.bincount(each, minlength=len(query_ids)))]).astype(np.int64),
            rows[sequence],
            _whole(ranks, "grade")[sequence],
        ),
        above[sequence].astype(np.int32),
        first,
        _whole(ranks, "above_alone")[sequence].astype(np.int32) if "above_alone" in ranks.column_names else None,
    )


def _whole(table: pa.Table, name: str) -> NDArray[np.int64]:
    column = table.column(name)
    if column.null_count or not pa.types.is_integer(column.type):
        raise ValueError(f"column {name} of {column.type}, expected whole numbers everywhere")
    return np.asarray(column.to_numpy(), np.int64)


def _checked(t: RankTable) -> RankTable:
    """The table, if it can be one."""
    pairs = np.repeat(np.arange(len(t.query_ids)), np.diff(t.judged.indptr)) * (len(t.doc_ids) + 1) + t.judged.rows
    ordered, lost = np.sort(t.top, axis=1), t.above < 0
    wrong = {
        "sizes that are no numbers of passages": t.sizes.shape != (len(t.languages),)
        or (t.sizes < np.bincount(t.doc_language, minlength=len(t.sizes))).any(),
        "queries that do not stand language by language": (np.diff(t.query_language) < 0).any(),
        "a passage judged twice": (np.diff(pairs) == 0).any(),
        "a passage twice in a list": ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any(),
        "more passages above than there are": ((t.above < -1) | (t.above > t.sizes)).any(),
        "more passages above alone than there are": t.alone is not None
        and ((t.alone < -1) | (t.alone >= t.sizes[t.doc_language[t.judged.rows]])).any(),
        "a passage retrieved in part": (lost.any(axis=1) != lost.all(axis=1)).any(),
    }
    for problem, bad in wrong.items():
        if bad:
            raise ValueError(problem)
    return t
