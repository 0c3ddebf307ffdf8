"""Training pairs are streamed: memory does not grow with their number; and what the look for texts of tasks costs.

    pytest -s -m benchmark tests/benchmarks/test_pairs_memory.py

Each measurement has a process of its own. Peak memory is that over what it has after imports; lines are made up, of 200
characters on average, in groups of three languages. Linux alone.
"""

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.benchmark
SIZES = (100_000, 1_000_000)
LANGUAGES = ("de", "en", "fr")

READ = """
import json, re, sys, time
from pathlib import Path
from xbench.train.pairs import file_pairs, stream
from xbench.train.contamination import Contamination
from xbench.tasks import load_task
from xbench.train.config import Data
from xbench.train.store import load_table
what, path, data = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
looked = None
if what == "tasks":
    looked = Contamination([load_task("xquad-r"), load_task("mlqa-r")], data)
    looked.found([])
files = {"x": file_pairs(path)}
Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
start, before = time.process_time(), peak()
if what == "read":
    n = sum(1 for _ in stream(files))
elif what == "tasks":
    n = looked.search(stream(files)).pairs
else:
    n = len(load_table(Data(("x",)), files, path.parent / what).used)
print(json.dumps([n, time.process_time() - start, peak() - before]))
"""


def lines(number: int) -> Iterator[dict[str, object]]:
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(10_000)]
    for i in range(number):
        question, passage = (" ".join(draw.choices(words, k=k)) for k in (8, 20))
        yield {"group": f"g{i // 3}", "lang": LANGUAGES[i % 3], "question": question, "passage": passage, "source": "s"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for number in SIZES:
        path = found["jsonl", number] = folder / f"{number}.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines(number))
        path = found["parquet", number] = folder / f"{number}.parquet"
        rows = lines(number)
        writer = None
        while block := list(itertools.islice(rows, 50_000)):
            table = pa.Table.from_pylist(block)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
    return found


def measure(what: str, path: Path, data: Path) -> tuple[int, float, float]:
    command = [sys.executable, "-c", READ, what, str(path), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n, seconds, megabytes = json.loads(done.stdout)
    return n, seconds, megabytes


def test_memory_does_not_grow(files: dict[tuple[str, int], Path], data: Path) -> None:
    print()
    for what in ("read", "store", "tasks"):
        for form in ("jsonl", "parquet"):
            found = [measure(what, files[form, number], data) for number in SIZES]
            assert [n for n, *_ in found] == list(SIZES)
            shown = "; ".join(f"{n:,} pairs: {s:.1f} CPU s, {mb:.0f} MB" for n, s, mb in found)
            print(f"{what} {form}: {shown}")
            # Of files of some 200 MB. The columns of the store, 33 bytes a pair, are mapped and read, which counts.
            assert found[1][2] < found[0][2] + (120 if what == "store" else 40)


def test_the_look_for_texts_of_tasks(data: Path) -> None:
    path = data / "train" / "pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip("NO REAL DATA: no train/pairs.jsonl.gz")
    for what in ("read", "tasks"):
        n, seconds, megabytes = measure(what, path, data)
        print(f"\n{what}: {n:,} real pairs, {seconds:.1f} CPU s, {megabytes:.0f} MB")
