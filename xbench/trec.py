"""TREC run and qrels files: the only place that knows their columns."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from xbench.storage import atomic


def write_run(path: Path, ranking: Iterable[tuple[str, list[tuple[str, float]]]], tag: str) -> None:
    """Write `query_id Q0 doc_id rank score tag` for each query's (doc_id, score) list, best first.

    Scores are written so that they read back as the same float64.

    Raises:
        StorageError: the file cannot be written.
    """
    with atomic(path) as file:
        for query_id, passages in ranking:
            lines = [
                f"{query_id} Q0 {doc_id} {rank} {score!r} {tag}\n" for rank, (doc_id, score) in enumerate(passages, 1)
            ]
            file.write("".join(lines).encode())


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write `query_id 0 doc_id grade`.

    Raises:
        StorageError: the file cannot be written.
    """
    with atomic(path) as file:
        for query_id, grades in qrels.items():
            file.write("".join(f"{query_id} 0 {doc_id} {grade}\n" for doc_id, grade in grades.items()).encode())
