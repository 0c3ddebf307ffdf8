"""Pairs of tasks: each query with what is relevant to it, as the files of the task have it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from own import beir, jsonl, run
from test_own import card, parquet

from xbench.errors import DataError, UsageError
from xbench.own import new
from xbench.task import Task, vary
from xbench.tasks import data_folder, load_task, read_definition
from xbench.train.config import config_of
from xbench.train.from_tasks import task_pairs
from xbench.train.pairs import Pair, Pairs
from xbench.train.prepare import find_files


def read(pairs: Pairs) -> list[Pair]:
    return list(pairs.read(lambda _: None))


def squad(path: Path, language: str, name: str) -> list[tuple[str, ...]]:
    """Group, language, question and answer sentence of a SQuAD file with sentences, by its own definition."""
    found = []
    for article in json.loads(path.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                start = qa["answers"][0]["answer_start"]
                (sentence,) = [
                    text
                    for text, (low, high) in zip(paragraph["sentences"], paragraph["sentence_breaks"], strict=True)
                    if low <= start < high
                ]
                found.append((f"{name}:{qa['id']}", language, qa["question"], sentence))
    return found


def test_sentences_with_their_questions() -> None:
    """In their own language, though the answers in all languages are relevant; translations share a group."""
    task = load_task("mini")
    expected = [row for a in task.languages for row in squad(data_folder("tasks") / "mini" / f"{a}.json", a, "mini")]
    pairs = read(task_pairs(task))
    assert [tuple(pair) for pair in pairs] == [(*row, row[1], "qa", "mini", ()) for row in expected]
    groups = {pair.group for pair in pairs}
    assert len(pairs) == len(groups) * len(task.languages) == task.totals()[0]


def test_real_sentences(data: Path) -> None:
    task = vary(load_task("mlqa-r"), languages=["de", "zh"])
    expected = [row for a in ("de", "zh") for row in squad(data / "mlqa-r" / f"{a}.json", a, "mlqa-r")]
    assert [tuple(pair)[:4] for pair in read(task_pairs(task, data))] == expected


def test_translations(data: Path) -> None:
    """Each sentence with the English one, which is in no other language."""
    task = vary(load_task("tatoeba-laser"), languages=["de", "sw", "en"])
    pairs = read(task_pairs(task, data))
    folder = data / "tatoeba-laser"
    expected = [
        (f"tatoeba-laser:{a}:{code}.{i}", a, first, second, "en", "bitext", "tatoeba-laser", ())
        for a, code in (("de", "deu"), ("sw", "swh"))
        for i, (first, second) in enumerate(
            zip(
                *((folder / f"tatoeba.{code}-eng.{side}").read_text().split("\n")[:-1] for side in (code, "eng")),
                strict=True,
            )
        )
    ]
    assert [tuple(pair) for pair in pairs] == expected and len(pairs) > 1_000


def mine(folder: Path, *options: str) -> Task:
    """A task in two languages, with several relevant passages, grades of 0 and a question that only German answers."""
    for a in ("de", "en"):
        passages = {f"{a}{i}": f"passage {i} in {a}" for i in range(4)}
        qrels = [("q1", f"{a}0", 2), ("q1", f"{a}1", 1), ("q1", f"{a}2", 0), ("q2", f"{a}3", int(a == "de"))]
        beir(folder / "d" / a, passages, {"q1": f"first in {a}", "q2": f"second in {a}"}, qrels)
    assert run("tasks", "new", "my", "--from", folder / "d", "--force", "-o", folder / "my.toml", *options) == 0
    return read_definition(folder / "my.toml")


@pytest.mark.parametrize("large", [False, True])
def test_judgements(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair a relevant passage; what is judged and not relevant are hard negatives; questions are not parallel."""
    monkeypatch.setattr(new, "LARGE", 0 if large else 10)
    task = mine(tmp_path)
    assert bool(task.options.get("large")) is large
    expected = [
        (f"my:{a}:q1", a, f"first in {a}", f"passage {i} in {a}", a, "qa", "my", (f"passage 2 in {a}",))
        for a in ("de", "en")
        for i in (0, 1)
    ]
    expected.insert(2, ("my:de:q2", "de", "second in de", "passage 3 in de", "de", "qa", "my", ()))
    assert [tuple(pair) for pair in read(task_pairs(task))] == expected


def test_parallel_questions(tmp_path: Path) -> None:
    """One group; a question that its own language does not answer is paired with the answer in another."""
    pairs = read(task_pairs(mine(tmp_path, "--parallel")))
    assert [(pair.group, pair.language, pair.passage) for pair in pairs] == [
        ("my:q1", "de", "passage 0 in de"),
        ("my:q1", "de", "passage 1 in de"),
        ("my:q2", "de", "passage 3 in de"),
        ("my:q1", "en", "passage 0 in en"),
        ("my:q1", "en", "passage 1 in en"),
        ("my:q2", "en", "passage 3 in de"),
    ]
    assert [pair.passage_language for pair in pairs] == ["de", "de", "de", "en", "en", "de"]
    assert {pair.negatives for pair in pairs if pair.language == "en"} == {("passage 2 in en",), ()}


def test_a_corpus_that_lacks_a_judged_passage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "LARGE", 0)
    task = mine(tmp_path)
    corpus = tmp_path / "d" / "de" / "corpus.jsonl"
    corpus.write_text("".join(line for line in corpus.read_text().splitlines(True) if "de1" not in line))
    bare = {k: s._replace(sha256="") if k.startswith("passages") else s for k, s in task.sources.items()}
    with pytest.raises(DataError, match=r"my: 1 judged passages are in no corpus, first de:de1"):
        read(task_pairs(replace(task, sources=bare)))


@pytest.mark.parametrize("parts", [("ar-ar", "ar-de", "de-ar", "de-de"), ("ar-de", "de-ar")])
def test_a_task_with_a_pool_a_cell(parts: tuple[str, ...], tmp_path: Path) -> None:
    """Cells in one language have all its texts, which those across languages would bring once more."""
    configs: dict[str, dict[str, str]] = {}
    for part in parts:
        columns: dict[str, dict[str, list[object]]] = {
            "corpus": {"id": ["d1"], "text": [f"tea {part}"]},
            "queries": {"id": ["q1"], "text": [f"tea? {part}"]},
            "qrels": {"query__id": ["q1"], "corpus__id": ["d1"], "score": [1]},
        }
        for what, values in columns.items():
            parquet(tmp_path / "s" / part / f"{what}.parquet", **values)
            configs[f"{part}-{what}"] = {"test": f"{part}/{what}.parquet"}
    card(tmp_path / "s", configs)
    options = ("--pairs", "query-passage", "--parallel", "-o", tmp_path / "my.toml")
    assert run("tasks", "new", "my", "--from", tmp_path / "s", *options) == 0
    pairs = read(task_pairs(read_definition(tmp_path / "my.toml")))
    chosen = ("ar-ar", "de-de") if "ar-ar" in parts else parts
    assert [tuple(pair) for pair in pairs] == [
        ("my:q1", part[:2], f"tea? {part}", f"tea {part}", part[3:], "qa", "my", ()) for part in chosen
    ]


def test_in_a_config(tmp_path: Path) -> None:
    """`task:NAME` and `task:FILE.toml` beside files; the SHA-256 is the task's."""
    mine(tmp_path)
    jsonl(tmp_path / "p.jsonl", [{"group": "a", "lang": "en", "question": "?!", "passage": "x"}])
    names = ["p.jsonl", "task:mini", f"task:{tmp_path / 'my.toml'}"]
    config = config_of({"data": {"files": names}, "model": {"base": "static"}}, tmp_path / "config.toml")
    files = find_files(config.data, tmp_path, None)
    assert list(files) == names and [len(read(pairs)) for pairs in files.values()] == [
        1,
        load_task("mini").totals()[0],
        5,
    ]
    assert len({pairs.sha256 for pairs in files.values()}) == 3
    assert task_pairs(load_task("mini")).sha256 == files["task:mini"].sha256
    assert task_pairs(vary(load_task("mini"), languages=["de"])).sha256 != files["task:mini"].sha256
    for name, error, phrase in (
        ("task:minni", UsageError, "unknown task 'minni'; did you mean 'mini'"),
        ("task:none.toml", UsageError, "none.toml: no such file"),
        ("none.jsonl", DataError, r"\[data\] files: no .*none.jsonl"),
    ):
        wrong = config_of({"data": {"files": [name]}, "model": {"base": "static"}}, tmp_path / "config.toml")
        with pytest.raises(error, match=phrase):
            find_files(wrong.data, tmp_path, None)
