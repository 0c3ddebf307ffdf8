"""BM25 of a corpus that is not held: time and memory of indexing and of searching, by number of passages.

    make bench      (XBENCH_BENCH_PASSAGES=1000000, XBENCH_BENCH_QUERIES=1000)

Generated passages of 30 to 150 words in JSONL, as MIRACL's: their frequencies are Zipf's over two million words. A
query has six words of one passage and two of anywhere. Each line of the table is a process of its own, with 512 MB for
Java; "anonymous" is the memory of Python and Java without the pages of the index that the system maps and may drop.
"cpu" are seconds of processor, which other work on the machine does not change.
The corpora and the indexes are deleted.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from xbench.models import load
from xbench.models.jvm import java_class
from xbench.records import Corpus, CorpusFile, Passage, Query

pytestmark = pytest.mark.benchmark
PASSAGES = int(os.environ.get("XBENCH_BENCH_PASSAGES", "1000000"))
QUERIES = int(os.environ.get("XBENCH_BENCH_QUERIES", "1000"))
WORDS = 2_000_000
HEAP = 512
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]  # 70


def word(number: int) -> str:
    """The more frequent, the shorter."""
    found = SYLLABLES[number % 70]
    while number := number // 70:
        found += SYLLABLES[number % 70]
    return found


def generate(path: Path, passages: int) -> None:
    rng = np.random.default_rng(0)
    words = [word(i) for i in range(WORDS)]
    share = np.cumsum(1 / (np.arange(WORDS) + 2.7))
    with path.open("w") as file:
        for low in range(0, passages, 1000):
            lengths = rng.integers(30, 151, min(1000, passages - low))
            drawn = np.searchsorted(share, rng.random(int(lengths.sum())) * share[-1]).tolist()
            start = 0
            for i, length in enumerate(lengths.tolist(), low):
                text = " ".join([words[j] for j in drawn[start : start + length]])
                file.write(
                    json.dumps({"docid": f"{i // 5}#{i % 5}", "title": f"Article {i // 5}", "text": text}) + "\n"
                )
                start += length


def read_rows(path: Path) -> Iterator[Passage]:
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            yield Passage(f"en:{row['docid']}", f"{row['title']}\n{row['text']}")


def measure(path: Path, passages: int, cache: Path) -> dict[str, float]:
    """Index, open again, search."""
    peak = {"RssAnon": 0, "VmHWM": 0}

    def watch() -> None:
        while True:
            for line in Path("/proc/self/status").read_text().split("\n"):
                if (name := line.partition(":")[0]) in peak:
                    peak[name] = max(peak[name], int(line.split()[1]) >> 10)
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    model = load("bm25")
    corpus = Corpus(
        (CorpusFile(path, str(passages)),), lambda file: islice(read_rows(file), passages), passages, "bench"
    )
    rng = np.random.default_rng(1)
    rows = [row.text.split() for row in islice(read_rows(path), QUERIES)]
    texts = [" ".join([*rng.choice(row, 6), *rng.choice(rows[0], 2)]) for row in rows]
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def clock(what: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        seconds[what], seconds[f"{what} cpu"] = time.perf_counter() - wall, time.process_time() - cpu

    with clock("reading alone"):
        for _ in corpus:
            pass
    with clock("indexing"), model.search_large({"en": corpus}, cache):
        pass
    with contextlib.ExitStack() as stack:
        with clock("opening"):
            indexes = stack.enter_context(model.search_large({"en": corpus}, cache))
        with clock("searching"):
            queries = [Query("q", text) for text in texts]
            hits = [len(found.doc_ids) for found in indexes.pool(["en"]).hits(queries, "en", 1000)]
        segments = len(indexes.indexes["en"].leaves)
    heap = int(java_class("java.lang.Runtime").getRuntime().totalMemory()) >> 20
    size = sum(file.stat().st_size for file in cache.rglob("*")) >> 20
    found = {
        "passages": passages,
        **seconds,
        "hits": float(np.mean(hits)),
        "segments": segments,
        "index MB": size,
        "Java heap MB": heap,
    }
    return found | {"anonymous MB": peak["RssAnon"], "resident MB": peak["VmHWM"]}


def test_time_and_memory(tmp_path: Path) -> None:
    if not importlib.util.find_spec("pyserini"):
        pytest.skip("NO PYSERINI: pip install 'xbench[bm25]'")
    path = tmp_path / "corpus.jsonl"
    generate(path, PASSAGES)
    print(f"\n{QUERIES} queries; {path.stat().st_size >> 20} MB of JSONL; seconds")
    found = []
    for share in (4, 1):
        cache = tmp_path / str(share)
        command = [sys.executable, __file__, str(path), str(PASSAGES // share), str(cache)]
        environment = os.environ | {"XBENCH_JAVA_HEAP": f"{HEAP}m"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.append(json.loads(done.stdout))
        print(", ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    first, last = found[0], found[-1]
    assert last["indexing cpu"] < 1.3 * 4 * first["indexing cpu"], "time grows with the passages, no faster"
    assert last["anonymous MB"] < HEAP + 300, "memory is bounded"


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
