"""Contamination: pairs are counted by source and task, real texts that are planted are found, and a run refuses."""

import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own import jsonl
from test_overlap import least, letters, same

from xbench.errors import DataError
from xbench.task import vary
from xbench.tasks import load_task
from xbench.train import contamination, overlap
from xbench.train.config import config_of
from xbench.train.contamination import Contamination, task_texts
from xbench.train.overlap import Index, TaskText
from xbench.train.pairs import Pair, stream
from xbench.train.prepare import find_files, read_table
from xbench.train.store import Table


def pair(question: str, passage: str = "nothing", group: str = "g", source: str = "s", **more: object) -> Pair:
    return Pair(group, "en", question, passage, "en", "qa", source, ())._replace(**more)


def of(*texts: TaskText) -> Contamination:
    """Of these texts, as if tasks had them."""
    looked = Contamination([])
    looked.__dict__["_index"] = Index(texts)
    return looked


def test_a_report_counts_pairs_by_source_and_task() -> None:
    looked = of(
        TaskText("one", "en:1", "Who was it?"), TaskText("two", "en:2", "It was me."), TaskText("one", "en:3", "you")
    )
    pairs = [
        pair("who was it", "it was me", "a", "left"),  # in both tasks, and one pair
        pair("who was it", "You!", "b", "left"),  # two texts of one task, and one pair
        pair("who is it", "it is me", "c", "left"),
        pair("who", "me", "d", "right", negatives=("no", "It was me!")),
    ]
    assert [list(hits) for hits in looked.found(pairs)] == [
        ["who was it", "it was me"],
        ["who was it", "You!"],
        [],
        ["It was me!"],
    ]
    report = looked.search(iter(pairs))
    assert (report.pairs, report.contaminated) == (4, 3)
    assert report.counts == {("left", "one"): 2, ("left", "two"): 1, ("right", "two"): 1}
    said = str(report.refuse())
    assert said.startswith(
        "3 training pairs hold texts of evaluation tasks (left in one: 2, left in two: 1, right in two: 1), "
        "such as 'who was it' is in one en:1; 'it was me' is in two en:2; 'You!' is in one en:3; expected none: "
    )
    assert "[data] without" in said and '[data] contaminated = "drop"' in said and "\n" not in said
    assert json.loads(json.dumps(report.to_json())) == {
        "dropped": 4,
        "contaminated": 3,
        "by": [
            {"source": "left", "task": "one", "pairs": 2},
            {"source": "left", "task": "two", "pairs": 1},
            {"source": "right", "task": "two", "pairs": 1},
        ],
        "examples": [
            {"source": "left", "text": "who was it", "task": "one", "id": "en:1"},
            {"source": "left", "text": "it was me", "task": "two", "id": "en:2"},
            {"source": "left", "text": "You!", "task": "one", "id": "en:3"},
        ],
    }


def test_examples_are_three_of_different_texts_cut_and_on_one_line() -> None:
    looked = of(*(TaskText("t", str(i), str(i)) for i in range(9)), TaskText("t", "long", "line\nfeed " * 20))
    report = looked.search([pair("1", "2"), pair("2"), pair("line\nfeed " * 20), pair("4")])
    assert [e.found.id for e in report.examples] == ["1", "2", "long"]
    assert "\n" not in str(report.refuse()) and "…" in str(report.refuse())
    assert len(report.to_json()["examples"][2]["text"]) == 60


def test_pairs_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is looked up before more pairs are read than it holds."""
    monkeypatch.setattr(overlap, "BLOCK", 100)
    read: list[int] = []

    def pairs() -> Iterator[Pair]:
        for i in range(50):
            read.append(i)
            yield pair(f"{i:010d}", f"{i:020d}")

    looked = of(TaskText("t", "1", "x" * 30))
    found: Callable[..., object] = looked.found
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(looked, "found", lambda pairs: (seen.append((len(pairs), len(read))), found(pairs))[1])
    assert looked.search(pairs()).pairs == 50
    assert seen[:2] == [(3, 4), (3, 7)] and len(seen) == 17  # three pairs of 30 characters


def test_texts_of_tasks() -> None:
    """Questions and passages of every language, wherever they stand in a pair."""
    task = load_task("mini")
    texts = list(task_texts([task]))
    assert len(texts) == sum(task.totals()) and {text.task for text in texts} == {"mini"}
    looked = Contamination([task])
    pairs = [pair(f"«{text.text}»", "nothing") for text in texts]
    pairs += [pair("nothing", text.text) for text in texts] + [pair("a", negatives=("b", t.text)) for t in texts]
    report = looked.search(pairs)
    assert report.contaminated == len(pairs) and report.counts == {("s", "mini"): len(pairs)}


def test_the_key_covers_tasks_and_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    mini, german = load_task("mini"), vary(load_task("mini"), languages=["de"])
    keys = [Contamination(tasks).key for tasks in ([], [mini], [german])]
    monkeypatch.setattr(contamination, "RULE", 0)
    keys.append(Contamination([mini]).key)
    assert len({json.dumps(key) for key in keys}) == 4


def test_questions_of_a_task_with_corpora_that_are_not_there(data: Path) -> None:
    texts = list(task_texts([load_task("mrtydi")], data, offline=True))
    assert len(texts) == load_task("mrtydi").totals()[0]
    assert of(*texts).found([pair(texts[7].text)]) == [{texts[7].text: texts[7]}]


def row(group: str, lang: str, question: str, source: str) -> dict[str, str]:
    return {"group": group, "lang": lang, "question": question, "passage": f"{group} {lang}", "source": source}


def table(tmp_path: Path, **data: object) -> Table:
    """Of a file of eight pairs, two of which have a text of `mini`, one of these a translation; and a bad source."""
    first, second, third = (t.text for t in itertools.islice(task_texts([load_task("mini")]), 3))
    rows = [row("a", "en", f"{first}!", "one"), row("a", "de", "Was?", "one"), row("b", "en", "What?", "one")]
    rows += [row("c", "en", second, "two"), row("b", "de", "Was nun?", "one"), row("d", "en", "Who?", "two")]
    rows += [row("e", "en", third, "bad"), row("f", "en", "Whom?", "bad")]
    jsonl(tmp_path / "pairs.jsonl", rows)
    values = {"data": {"files": ["pairs.jsonl"], "clean_of": ["mini"], **data}, "model": {"base": "static"}}
    config = config_of(values, tmp_path / "config.toml")
    files = find_files(config.data, tmp_path, None)
    found = read_table(config, files, tmp_path / "cache", None)
    assert [p.group for p in itertools.compress(stream(files), found.contaminated)] == [
        row["group"] for row, bad in zip(rows, found.contaminated, strict=True) if bad
    ]
    return found


def test_a_run_refuses_or_drops(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=r"^2 training pairs hold .*\(one in mini: 1, two in mini: 1\)"):
            table(tmp_path, without=["bad"])
    with pytest.raises(DataError, match=r"^3 training pairs .*bad in mini: 1"):
        table(tmp_path)
    kept = table(tmp_path, without=["bad"], contaminated="drop")
    # The translation in group a goes too; what is in a source that is left out counts as left out by its source.
    assert kept.used.tolist() == [False, False, True, False, True, True, False, False]
    assert kept.contaminated.tolist() == [True, True, False, True, False, False, False, False]
    assert kept.about["left_out"] == {"sources": 2, "contaminated": 3}
    assert kept.about["clean_of"] == Contamination([load_task("mini")]).key
    assert {key: kept.about["contamination"][key] for key in ("dropped", "contaminated")} == {
        "dropped": 3,
        "contaminated": 2,
    }
    clean = table(tmp_path, without=["bad"], languages=["de"])  # what is not used cannot contaminate
    assert clean.used.sum() == 2 and "contamination" not in clean.about
    unasked = table(tmp_path, clean_of=[])
    assert unasked.used.all() and "clean_of" not in unasked.about


@pytest.fixture(scope="module")
def real(data: Path) -> Contamination:
    return Contamination([load_task("xquad-r"), load_task("mlqa-r")], data)


def training(data: Path, step: int) -> Iterator[Pair]:
    path = data / "train" / "pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip("NO REAL DATA: no train/pairs.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in itertools.islice(lines, 0, None, step):
            row = json.loads(line)
            yield pair(row["question"], row["passage"], row["group"], row["source"])


def test_real_texts_that_are_planted_are_found(data: Path, real: Contamination) -> None:
    """Among real pairs, which are clean: whole, in other letters, within another text and, long enough, cut."""
    pairs = list(training(data, 60))
    assert real.search(pairs).to_json() == {"dropped": 10_220, "contaminated": 0, "by": [], "examples": []}
    texts = list(task_texts([load_task("xquad-r"), load_task("mlqa-r")], data))
    draw = random.Random(1)
    planted: dict[str, bool] = {}
    for text in draw.sample(texts, 200):
        whole = text.text
        cut = whole[1:] if draw.random() < 0.5 else whole[:-2]
        planted |= {whole: True, f"«{whole.upper()}»": same(whole.upper(), whole) > 0}
        planted |= {f"So: {whole} - so.": len(letters(whole)) >= least(letters(whole))}
        planted |= {cut: len(letters(cut)) >= 2 * least(letters(cut)) or letters(cut) == letters(whole)}
    mixed = [*pairs, *(pair("?", text) for text in planted)]
    draw.shuffle(mixed)
    found = {text for hits in real.found(mixed) for text in hits}
    assert not {text for text, bad in planted.items() if bad} - found and found <= planted.keys()
    more = found - {text for text, bad in planted.items() if bad}  # by another text of the tasks
    assert all(any(same(text, other.text) for other in texts) for text in more) and len(more) < 5
    assert real.search(mixed).contaminated == len(found) > 700


@pytest.mark.slow
def test_the_training_data_are_clean(data: Path, real: Contamination) -> None:
    report = real.search(training(data, 1))
    assert (report.pairs, report.contaminated) == (613_176, 0)
