"""Corpora as wholes: what no single line can tell."""

from array import array

import numpy as np

from xbench.errors import DataError
from xbench.progress import track
from xbench.records import Collection


def check_corpora(name: str, collection: Collection) -> None:
    """Read corpora to the end: as many passages as expected, each id once, the judged ones among them.

    Holds 8 bytes a passage of one language.

    Raises:
        DataError: it is not so; besides those of `Corpus.read`. `name` is that of the task.
    """
    judged = {doc_id: query_id for query_id, grades in collection.qrels.items() for doc_id in grades}
    for language, corpus in collection.large.items():
        hashes = array("q")
        with track(f"reading {name}/{language}", corpus.size, "passages") as advance:
            for passage in corpus:
                judged.pop(passage.doc_id, None)
                hashes.append(hash(passage.doc_id))
                if len(hashes) % 100_000 == 0:
                    advance(100_000)
        if len(hashes) != corpus.size:
            raise DataError(
                f"{name}/{language}: found {len(hashes)} passages, expected {corpus.size}; is a file missing?"
            )
        ordered = np.sort(np.frombuffer(hashes, np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        seen: set[str] = set()
        for passage in corpus if suspects else ():
            if hash(passage.doc_id) in suspects and passage.doc_id in seen:
                raise DataError(f"{name}/{language}: passage {passage.doc_id} occurs twice")
            seen |= {passage.doc_id} if hash(passage.doc_id) in suspects else set()
    if collection.large and judged:
        doc_id, query_id = next(iter(judged.items()))
        raise DataError(f"{name}: {len(judged)} judged passages are in no corpus, first {doc_id} of {query_id}")
