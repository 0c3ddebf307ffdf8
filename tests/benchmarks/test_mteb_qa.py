"""MTEB's evaluation of XQuADRetrieval and MLQARetrieval (validation) beside xbench's, on the same vectors.

    pytest -s -m benchmark tests/benchmarks/test_mteb_qa.py

with `XBENCH_MTEB_PYTHON`, a Python that has mteb==2.26.24 (by default this one); `XBENCH_BENCH_MODELS=hash,hf:DIR`
(by default `hash`) and `XBENCH_BENCH_CACHE`, where vectors are kept. MTEB's tasks are those of its registry, with
local data in place of the hub's, made by the rules of its own loaders from the source files; its encoder looks
xbench's vectors up by text. MTEB scores in float32 and hands trec_eval all passages, which breaks ties by id as
xbench does, with the same ids; its MRR is its own code and breaks them by order.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xbench import readers
from xbench.evaluate import Plan, evaluate
from xbench.models import ROLES, load
from xbench.records import Collection
from xbench.space import joined, vectors
from xbench.tasks import load_task

MTEB = '''
import json, sys, warnings
from hashlib import sha256
from pathlib import Path
warnings.simplefilter("ignore")
import mteb, numpy as np, torch
from datasets import Dataset
from mteb._evaluators import retrieval_metrics
from mteb.models.model_meta import ModelMeta

name, data, vectors, out = sys.argv[1:5]
data = Path(data)
THREE = {"ara": "ar", "deu": "de", "eng": "en", "spa": "es", "hin": "hi", "vie": "vi", "zho": "zh"}

def rows(path):
    for article in json.loads(path.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield question["id"], question["question"], paragraph["context"]

def xquad(subset):  # google/xquad strips texts
    return [(i, q.strip(), c.strip()) for i, q, c in rows(data / "xquad-r" / f"{subset}.json")]

def mlqa(subset):
    context, question = (THREE[part] for part in subset.split("-"))
    asked = {i: q for i, q, _ in rows(data / "mlqa-r" / f"{question}.json")}
    return [(i, asked[i], c) for i, _, c in rows(data / "mlqa-r" / f"{context}.json") if i in asked]

def split(triples):
    """As the loaders of MTEB: texts are keys, the last id of a question stays."""
    ids = {q: i for i, q, _ in triples}
    queries, corpus, qrels = {}, {}, {}
    for _, q, c in triples:
        doc = sha256(c.encode("utf-8")).hexdigest()
        queries[ids[q]], corpus[doc] = q, c
        qrels.setdefault(ids[q], {})[doc] = 1
    return {"queries": Dataset.from_list([{"id": i, "text": t} for i, t in queries.items()]),
            "corpus": Dataset.from_list([{"id": i, "text": t, "title": ""} for i, t in corpus.items()]),
            "relevant_docs": qrels, "top_ranked": None}

task = mteb.get_task(name, eval_splits=["validation"])
subsets = [s for s in task.hf_subsets if name != "XQuADRetrieval" or s != "ro"]
task.hf_subsets = subsets
read = xquad if name == "XQuADRetrieval" else mlqa
task.load_data = lambda *a, **k: None
task.dataset = {s: {"validation": split(read(s))} for s in subsets}
task.data_loaded = True
held = np.load(vectors)
def lookup(kind):
    return dict(zip(json.loads(str(held[f"{kind}.texts"])), held[f"{kind}.vectors"]))

known = {kind: lookup(kind) for kind in ("query", "document")}

class Looked:
    mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "xbench/given", "revision": "1"})
    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        texts = [text for batch in inputs for text in batch["text"]]
        return np.stack([known[prompt_type.value][text] for text in texts])
    def similarity(self, a, b):
        return torch.as_tensor(a) @ torch.as_tensor(b).T
    def similarity_pairwise(self, a, b):
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)

# MTEB rounds values to five digits, which would hide what is compared.
retrieval_metrics.round = lambda value, digits=None: value if digits else int(value + 0.5)
result = mteb.evaluate(Looked(), task, cache=None, show_progress_bar=False)
scores = {row["hf_subset"]: {k: v for k, v in row.items() if isinstance(v, float)}
          for row in result.task_results[0].scores["validation"]}
Path(out).write_text(json.dumps(scores))
'''
THREE = {"ar": "ara", "de": "deu", "en": "eng", "es": "spa", "hi": "hin", "vi": "vie", "zh": "zho"}
# Ours -> MTEB's.
MEASURES = {
    "nDCG@10": "ndcg_at_10",
    "nDCG@100": "ndcg_at_100",
    "AP@100": "map_at_100",
    "R@10": "recall_at_10",
    "R@100": "recall_at_100",
    "P@5": "precision_at_5",
    "Success@1": "hit_rate_at_1",
    "RR@10": "mrr_at_10",
}
KINDS = ("query", "document")
TASKS = {"xquad": "XQuADRetrieval", "mlqa-dev": "MLQARetrieval"}


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("spelling", os.environ.get("XBENCH_BENCH_MODELS", "hash").split(","))
@pytest.mark.parametrize("name", TASKS)
def test_the_same_vectors(name: str, spelling: str, data: Path, tmp_path: Path) -> None:
    python = os.environ.get("XBENCH_MTEB_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import mteb"], check=False, capture_output=True).returncode:
        pytest.skip("NOT COMPARED WITH MTEB: pip install mteb==2.26.24, or name a Python that has it")
    task, cache = load_task(name), Path(os.environ.get("XBENCH_BENCH_CACHE") or tmp_path)
    model = load(spelling)
    result = evaluate(model, task, list(MEASURES), plan=Plan(cache, data, offline=True))
    collections = [part.collection for part in readers.parts(task, data, offline=True)]
    whole, each = joined(collections), collections if len(collections) > 1 else collections * len(result.cells)
    encoded = vectors(model, whole, cache)  # type: ignore[arg-type]
    held: dict[str, np.ndarray] = {}
    for role, kind in zip(ROLES, KINDS, strict=True):
        texts, found = [], []
        for language, rows in whole.rows(role).items():
            texts += [text.strip() if kind == "document" else text for _, text in rows]  # as MTEB's data loader
            found.append(encoded.vectors[role][language])
        held |= {f"{kind}.texts": np.array(json.dumps(texts)), f"{kind}.vectors": np.concatenate(found)}
    np.savez(tmp_path / "vectors.npz", **held)
    arguments = [python, "-c", MTEB, TASKS[name], str(data), str(tmp_path / "vectors.npz"), str(tmp_path / "out.json")]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "out.json").read_text())
    assert len(theirs) == len(result.cells)
    worst = dict.fromkeys(MEASURES, (0.0, ""))
    near: dict[str, int] = {}
    for cell, collection in zip(result.cells, each, strict=True):
        a, (b,) = cell.cell.query_language, cell.cell.passage_languages
        subset = a if name == "xquad" else f"{THREE[b]}-{THREE[a]}"
        for measure, key in MEASURES.items():
            gap = abs(cell.values[measure] - theirs[subset][key])
            worst[measure] = max(worst[measure], (gap, subset))
            if gap > 1e-6:  # then by scores that float32 does not tell apart, as many as there are
                near[subset] = near_ties(collection, held, a, b)
                assert gap <= near[subset] / len(cell.query_ids)
    print(f"\n{name}, {spelling}, {len(result.cells)} subsets: ours, MTEB's (means of subsets), largest difference")
    for measure, key in MEASURES.items():
        means = np.mean([c.values[measure] for c in result.cells]), np.mean([row[key] for row in theirs.values()])
        print(f"{measure:10}{means[0]:12.8f}{means[1]:12.8f}  {worst[measure][0]:.1e} {worst[measure][1]}")
    print(f"subsets with a difference above 1e-6, and their queries with a near tie: {near or 'none'}")
    assert worst["nDCG@10"][0] < 1e-6 or near


def near_ties(collection: Collection, held: dict[str, np.ndarray], a: str, b: str) -> int:
    """Queries of which a relevant passage has a score that another passage's is next to in float32."""
    tables = {k: dict(zip(json.loads(str(held[f"{k}.texts"])), held[f"{k}.vectors"], strict=True)) for k in KINDS}
    matrix = np.stack([tables["document"][text.strip()] for _, text in collection.passages[b]]).astype(np.float64)
    row = {doc_id: i for i, (doc_id, _) in enumerate(collection.passages[b])}
    count = 0
    for query_id, text in collection.queries[a]:
        scores = matrix @ tables["query"][text].astype(np.float64)
        mine = [row[doc_id] for doc_id in collection.qrels[query_id]]
        others = np.delete(scores, mine)
        count += any(np.abs(others - scores[i]).min() < 2.0**-22 for i in mine)
    return count
