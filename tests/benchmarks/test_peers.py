"""AP and RR of every query over the whole of XQuAD-R's joint pool: xbench beside its peers.

    make bench      (XBENCH_BENCH_ROUNDS=3, XBENCH_BENCH_QUESTIONS=1190, XBENCH_BENCH_ONLY=a part of a name)

Real qrels, made-up vectors: random passages, equal where their texts are; a query is the mean of its
relevant passages plus as much noise as brings mAP to .05, a middling model's. Each contestant has a
process of its own, with the same number of threads. The clock runs from vectors, ids and qrels in
memory to the means and the AP and RR of each query; imports, loading and a warm-up on some 22 queries
come before. "Over start" is the peak less what was resident then.

The reference: products in float64, each row fully sorted by score, then doc_id, both descending.
"Exact" is within 1e-9 of it; if not, how many queries are off and by how much at most. Read with care:

- Only "all 132 cells" ranks in the pools of single languages too; the others would start again for those.
- Past 1,000 passages, top-1000 has nothing: a deeper cut costs more. Whatever sorts float32 scores
  decides near-ties by chance; that hardly moves a mean.
- The NumPy sorts use threads over blocks, as xbench does; pytrec_eval and ir-measures have none, nor
  do sentence-transformers' loops over hits, whose evaluator gives means only.
- pytrec_eval is usually given a run as one dict; blocks spare memory. "ranx, arrays" is ranx's inner
  form, of numbered passages: its Run of strings is what its documentation shows. A whole job of it
  goes before the first round, since numba compiles anew for each length of ids.
- "1/40" was run on every 40th query, and its seconds are times 40; its memory is that of the sample.
"""

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from xbench.threads import cores

NOISE = 1.45
SAMPLE = 40
BLOCK = 512
MEASURES = ["AP", "RR"]
Values = tuple[float, float, Any, Any]  # mean AP, mean RR, and of each query, or None


class Problem(NamedTuple):
    query_ids: list[str]  # language by language
    doc_ids: list[str]
    qrels: dict[str, dict[str, int]]
    queries: np.ndarray
    passages: np.ndarray
    column: dict[str, int]  # of a doc_id in `passages`

    def every(self, step: int) -> "Problem":
        ids = self.query_ids[::step]
        return self._replace(query_ids=ids, qrels={q: self.qrels[q] for q in ids}, queries=self.queries[::step].copy())

    def blocks(self, size: int = BLOCK) -> Iterable["Problem"]:
        for low in range(0, len(self.queries), size):
            part = slice(low, low + size)
            yield self._replace(query_ids=self.query_ids[part], queries=self.queries[part])

    def relevant(self) -> tuple[np.ndarray, np.ndarray]:
        """Compressed sparse rows: the columns of each query's relevant passages."""
        lists = [[self.column[d] for d in self.qrels[q]] for q in self.query_ids]
        return np.cumsum([0, *map(len, lists)]), np.concatenate(lists)

    def marks(self) -> np.ndarray:
        """Bool (n, m): whether the passage is relevant."""
        indptr, columns = self.relevant()
        marks = np.zeros((len(self.queries), len(self.doc_ids)), bool)
        marks[np.repeat(np.arange(len(marks)), np.diff(indptr)), columns] = True
        return marks

    def ties_descending(self) -> "Problem":
        """Passages by descending doc_id: a stable sort then leaves ties so."""
        order = sorted(range(len(self.doc_ids)), key=self.doc_ids.__getitem__, reverse=True)
        return problem(self.query_ids, [self.doc_ids[j] for j in order], self.qrels, self.queries, self.passages[order])


def problem(query_ids: list[str], doc_ids: list[str], *rest: Any) -> Problem:
    return Problem(query_ids, doc_ids, *rest, {d: j for j, d in enumerate(doc_ids)})


def prepare(folder: Path, data: Path, questions: int) -> None:
    """Write the problem and its reference values."""
    from xbench.readers import read
    from xbench.tasks import load_task

    collection = read(load_task("xquad-r"), data)
    query_ids = [row.query_id for rows in collection.queries.values() for row in rows[:questions]]
    found = [row for rows in collection.passages.values() for row in rows]
    number = {text: i for i, text in enumerate(dict.fromkeys(row.text for row in found))}
    same = np.array([number[row.text] for row in found])
    rng = np.random.default_rng(0)
    distinct = rng.standard_normal((len(number), 768), dtype=np.float32)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    ids = query_ids, [row.doc_id for row in found], {q: collection.qrels[q] for q in query_ids}
    queries = rng.standard_normal((len(query_ids), 768), dtype=np.float32) * np.float32(NOISE / math.sqrt(768))
    made = problem(*ids, queries, distinct[same])
    indptr, columns = made.relevant()
    queries += np.add.reduceat(made.passages[columns], indptr[:-1]) / np.diff(indptr)[:, None].astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    np.save(folder / "queries.npy", queries)
    np.save(folder / "passages.npy", made.passages)
    place = np.argsort(sorted(range(len(same)), key=ids[1].__getitem__))
    reference = []
    for part in made.blocks():
        products = part.queries.astype(np.float64) @ distinct.astype(np.float64).T
        for mark, scores in zip(part.marks(), products[:, same], strict=True):  # equal passages tie
            ranks = 1 + np.flatnonzero(mark[np.lexsort((-place, -scores))])
            reference.append((np.mean(np.arange(1, len(ranks) + 1) / ranks), 1 / ranks[0]))
    np.save(folder / "reference.npy", np.transpose(reference))


def means(ap: Any, rr: Any) -> Values:
    return float(np.mean(ap)), float(np.mean(rr)), np.asarray(ap), np.asarray(rr)


def of_ranks(p: Problem, ranks: list[np.ndarray]) -> Values:
    """From the ranks of the relevant passages, ascending within each query."""
    counts = np.array([len(p.qrels[q]) for q in p.query_ids])
    first = np.cumsum(counts) - counts
    flat = np.concatenate(ranks)
    place = np.arange(len(flat)) - np.repeat(first, counts) + 1
    return means(np.add.reduceat(place / flat, first) / counts, 1 / flat[first])


def product(p: Problem) -> None:
    for part in p.blocks(1309):
        part.queries @ p.passages.T


def xbench(p: Problem, settings: tuple[str, ...]) -> Values:
    from xbench.catalogue import parse_all
    from xbench.ranking import Pool, passages_above
    from xbench.ranks import judge
    from xbench.records import Collection, Passage, Query
    from xbench.scoring import score
    from xbench.tasks import load_task

    task = load_task("xquad-r")

    def grouped(kind: Any, ids: list[str]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {a: [] for a in task.languages}
        for name in ids:
            rows[name.partition(":")[0]].append(kind(name, ""))
        return rows

    collection = Collection(grouped(Query, p.query_ids), grouped(Passage, p.doc_ids), p.qrels, {})
    queries, passages = (
        np.split(matrix, np.cumsum([*map(len, rows.values())])[:-1])
        for matrix, rows in ((p.queries, collection.queries), (p.passages, collection.passages))
    )
    table = judge(collection, task.languages)
    table = table._replace(above=passages_above(queries, Pool(passages, p.doc_ids), table.judged))
    cells = [cell for cell in task.cells() if cell.setting in settings]
    found = [score(cell, table, parse_all(MEASURES)) for cell in cells]
    joint = [result.per_query for result in found if result.cell.setting == "multi"]
    return means(*(np.concatenate([values[name] for values in joint]) for name in MEASURES))


def numpy_argsort(p: Problem) -> Values:
    p = p.ties_descending()

    def ranks(part: Problem) -> np.ndarray:
        order = np.argsort(-(part.queries @ p.passages.T), axis=1, kind="stable")
        return 1 + np.take_along_axis(part.marks(), order, axis=1).nonzero()[1]

    with threadpool_limits(1), ThreadPoolExecutor(cores()) as executor:
        return of_ranks(p, list(executor.map(ranks, p.blocks())))


def numpy_sort(p: Problem) -> Values:
    """Sorting values is much faster than argsort; of equal ones, those in lower columns stand above."""
    p = p.ties_descending()

    def ranks(part: Problem) -> np.ndarray:
        scores = -(part.queries @ p.passages.T)
        out = []
        for mark, unsorted, row in zip(part.marks(), scores, np.sort(scores, axis=1), strict=True):
            columns = mark.nonzero()[0]
            first, last = (np.searchsorted(row, unsorted[columns], side) for side in ("left", "right"))
            for j in np.flatnonzero(last - first > 1):
                first[j] += np.count_nonzero(unsorted[: columns[j]] == unsorted[columns[j]])
            out.append(np.sort(1 + first))
        return np.concatenate(out)

    with threadpool_limits(1), ThreadPoolExecutor(cores()) as executor:
        return of_ranks(p, list(executor.map(ranks, p.blocks())))


def torch_sort(p: Problem) -> Values:
    import torch

    p = p.ties_descending()
    passages = torch.from_numpy(p.passages).T
    ranks = []
    for part in p.blocks():
        order = torch.sort(torch.from_numpy(part.queries) @ passages, dim=1, descending=True, stable=True).indices
        ranks.append(1 + torch.from_numpy(part.marks()).gather(1, order).nonzero()[:, 1].numpy())
    return of_ranks(p, ranks)


Run = dict[str, dict[str, float]]


def search(p: Problem, block: int) -> Iterable[tuple[Problem, np.ndarray, np.ndarray]]:
    import faiss

    index = faiss.IndexFlatIP(p.passages.shape[1])
    index.add(p.passages)
    for part in p.blocks(block):
        yield part, *index.search(part.queries, 1000)


def top_1000(p: Problem, block: int) -> Iterable[Run]:
    name = p.doc_ids.__getitem__
    for part, scores, rows in search(p, block):
        lists = zip(part.query_ids, rows.tolist(), scores.tolist(), strict=True)
        yield {q: dict(zip(map(name, r), s, strict=True)) for q, r, s in lists}


def all_passages(p: Problem, block: int) -> Iterable[Run]:
    for part in p.blocks(block):
        scores = (part.queries @ p.passages.T).tolist()
        yield {q: dict(zip(p.doc_ids, s, strict=True)) for q, s in zip(part.query_ids, scores, strict=True)}


def pytrec_eval(p: Problem, block: int) -> Values:
    from pytrec_eval import RelevanceEvaluator

    found: dict[str, dict[str, float]] = {}
    evaluator = RelevanceEvaluator(p.qrels, {"map", "recip_rank"})
    for run in top_1000(p, block):
        found |= evaluator.evaluate(run)
    return means(*([found[q][name] for q in p.query_ids] for name in ("map", "recip_rank")))


def ir_measures(p: Problem, runs: Callable[[Problem, int], Iterable[Run]], block: int) -> Values:
    from ir_measures import AP, RR, calc

    found: dict[Any, dict[str, float]] = {AP: {}, RR: {}}
    for run in runs(p, block):
        for metric in calc([AP, RR], {q: p.qrels[q] for q in run}, run).per_query:
            found[metric.measure][metric.query_id] = metric.value
    return means(*([values[q] for q in p.query_ids] for values in found.values()))


def ranx_run(p: Problem) -> Values:
    import ranx

    run = ranx.Run(*top_1000(p, len(p.queries)))
    ranx.evaluate(ranx.Qrels(p.qrels), run, ["map", "mrr"])
    return means(*([run.scores[name][q] for q in p.query_ids] for name in ("map", "mrr")))


def ranx_arrays(p: Problem) -> Values:
    import ranx

    ((_, scores, rows),) = search(p, len(p.queries))
    indptr, columns = p.relevant()
    assert len(set(np.diff(indptr))) == 1
    qrels = np.stack([columns, np.ones(len(columns))], axis=1).reshape(len(p.queries), -1, 2)
    run = np.stack([rows, scores], axis=2, dtype=np.float64)
    found = ranx.evaluate(qrels, run, ["map", "mrr"], return_mean=False)
    return means(found["map"], found["mrr"])


def sentence_transformers(p: Problem) -> Values:
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import dot_score

    class Model:
        def encode_query(self, texts: list[str], **_: object) -> torch.Tensor:
            return torch.from_numpy(p.queries)

    evaluator = InformationRetrievalEvaluator(
        dict.fromkeys(p.query_ids, ""),
        dict.fromkeys(p.doc_ids, ""),
        {q: set(grades) for q, grades in p.qrels.items()},
        **{f"{name}_at_k": [1] for name in ("ndcg", "accuracy", "precision_recall")},
        **{f"{name}_at_k": [1000] for name in ("map", "mrr")},
        score_functions={"dot": dot_score},
        write_csv=False,
    )
    found = evaluator.compute_all_metrics(Model(), corpus_embeddings=torch.from_numpy(p.passages))["dot"]
    return found["map@k"][1000], found["mrr@k"][1000], None, None


def scikit_learn(p: Problem) -> Values:
    from sklearn.metrics import average_precision_score

    pairs = (zip(part.marks(), part.queries @ p.passages.T, strict=True) for part in p.blocks())
    ap = [average_precision_score(mark, scores) for part in pairs for mark, scores in part]
    return float(np.mean(ap)), math.nan, np.array(ap), None


class Contestant(NamedTuple):
    job: Callable[[Problem], Values | None]
    needs: tuple[str, ...] = ()
    slow: bool = False  # one round
    sample: int = 1
    first: bool = False  # a whole job goes before the first round


CONTESTANTS = {
    "the product alone (limit)": Contestant(product),
    "xbench, joint pool (11 cells)": Contestant(partial(xbench, settings=("multi",))),
    "xbench, all 132 cells": Contestant(partial(xbench, settings=("mono", "cross", "multi"))),
    "NumPy sort + searchsorted": Contestant(numpy_sort),
    "NumPy stable argsort": Contestant(numpy_argsort),
    "torch stable sort": Contestant(torch_sort),
    "faiss top-1000 + pytrec_eval": Contestant(partial(pytrec_eval, block=1 << 30), ("pytrec_eval",)),
    "faiss top-1000 + pytrec_eval, blocks": Contestant(partial(pytrec_eval, block=4 * BLOCK), ("pytrec_eval",)),
    "faiss top-1000 + ir-measures": Contestant(partial(ir_measures, runs=top_1000, block=1 << 30), ("ir_measures",)),
    "faiss top-1000 + ranx": Contestant(ranx_run, ("ranx",), slow=True, first=True),
    "faiss top-1000 + ranx, arrays": Contestant(ranx_arrays, ("ranx",), first=True),
    "sentence-transformers' evaluator, top-1000": Contestant(sentence_transformers, slow=True),
    "product + ir-measures, blocks, 1/40": Contestant(
        partial(ir_measures, runs=all_passages, block=64), ("ir_measures",), slow=True, sample=SAMPLE
    ),
    "product + scikit-learn, 1/40": Contestant(scikit_learn, ("sklearn",), slow=True, sample=SAMPLE),
}


def megabytes(field: str) -> float:
    """VmRSS, resident now, or VmHWM, the peak; ru_maxrss would begin with the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def contest(folder: Path, name: str) -> dict[str, Any]:
    """One round of a contestant, in this process."""
    job, sample = CONTESTANTS[name].job, CONTESTANTS[name].sample
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    given = problem(*ids, np.load(folder / "queries.npy"), np.load(folder / "passages.npy")).every(sample)
    job(given.every(max(1, len(given.queries) // 22)))
    start, wall, cpu = megabytes("VmRSS"), time.perf_counter(), time.process_time()
    values = job(given)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = megabytes("VmHWM")
    row = {"wall_s": wall * sample, "cpu_s": cpu * sample, "peak_mb": peak, "over_start_mb": peak - start}
    if values is None:
        return row
    true = np.load(folder / "reference.npy")[:, ::sample]
    gaps = [None if mine is None else abs(mine - line) for mine, line in zip(values[2:], true, strict=True)]
    return row | {
        "means": [f"{value:.6f}" for value in values[:2]],
        "means_off": [abs(value - line.mean()) for value, line in zip(values[:2], true, strict=True)],
        "off": [None if gap is None else [int((gap > 1e-9).sum()), gap.max()] for gap in gaps],
    }


def exact(row: dict[str, Any]) -> str:
    if not any(row["off"]):
        return f"no per-query values; mAP {row['means_off'][0]:.1g} off"
    known = [(name, *off) for name, off in zip(MEASURES, row["off"], strict=True) if off]
    wrong = [f"{name} of {count:,} queries off, by {gap:.1g} at most" for name, count, gap in known if count]
    return "; ".join(wrong) or "yes"


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peers(data: Path, tmp_path: Path) -> None:
    rounds, questions = (int(os.environ.get(f"XBENCH_BENCH_{n}", d)) for n, d in (("ROUNDS", 3), ("QUESTIONS", 1190)))
    only = os.environ.get("XBENCH_BENCH_ONLY", "")
    threads = {f"{name}_NUM_THREADS": str(cores()) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}

    def run(*words: str) -> str:
        command = [sys.executable, "-W", "ignore", __file__, str(tmp_path), *words]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | threads).stdout

    run("prepare", str(data), str(questions))
    entered = {n: c for n, c in CONTESTANTS.items() if only in n or n.startswith(("the product", "xbench"))}
    for name, contestant in list(entered.items()):
        if missing := [module for module in contestant.needs if importlib.util.find_spec(module) is None]:
            print(f"\nSKIPPED, NOT INSTALLED: {', '.join(missing)}, for {name}")
            del entered[name]
        elif contestant.first:
            run("contest", name)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in entered}
    for number in range(rounds):
        for name, contestant in entered.items():
            if not (number and contestant.slow):
                found[name].append(json.loads(run("contest", name).splitlines()[-1]))
    true = np.load(tmp_path / "reference.npy")
    print(f"\n{true.shape[1]:,} queries, {cores()} threads; median (range) of {rounds} rounds, or of one if no range")
    print(f"Reference: mAP {true[0].mean():.6f}, MRR {true[1].mean():.6f}\n")
    columns = (
        "contestant|wall s|CPU s|wall / product|CPU / product|peak MB|over start MB|mAP|MRR|exact?|values per query"
    )
    print(f"| {' | '.join(columns.split('|'))} |\n|---|{'--:|' * 8}---|---|")
    limits = found["the product alone (limit)"]
    for name, rows in found.items():
        seconds, ratios = [], []
        for clock in ("wall_s", "cpu_s"):
            values = sorted(row[clock] for row in rows)
            seconds.append(f"{statistics.median(values):.1f}")
            if len(values) > 1:
                seconds[-1] += f" ({values[0]:.1f} to {values[-1]:.1f})"
            pairs = zip(rows, limits, strict=False)
            ratios.append(f"{statistics.median(row[clock] / limit[clock] for row, limit in pairs):.2f}")
        memory = [f"{max(row[peak] for row in rows):.0f}" for peak in ("peak_mb", "over_start_mb")]
        quality = ["", "", "", ""]
        if "means" in rows[0]:
            told = [measure for measure, off in zip(MEASURES, rows[0]["off"], strict=True) if off]
            quality = [*rows[0]["means"], exact(rows[0]), " and ".join(told) or "none"]
        print(f"| {' | '.join([name, *seconds, *ratios, *memory, *quality])} |")
    for name in ("xbench, joint pool (11 cells)", "xbench, all 132 cells"):
        assert all(exact(row) == "yes" and max(row["means_off"]) < 1e-9 for row in found[name]), found[name]
    assert all(found.values())


if __name__ == "__main__":
    target, action, *rest = sys.argv[1:]
    if action == "prepare":
        prepare(Path(target), Path(rest[0]), int(rest[1]))
    else:
        print(json.dumps(contest(Path(target), *rest)))
