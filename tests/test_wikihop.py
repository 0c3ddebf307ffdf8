"""WikiHop: two real samples by hand, a file of the published size, damaged samples."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from xbench import readers
from xbench.errors import DataError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.readers.part import Part
from xbench.readers.wikihop import read_wikihop
from xbench.tasks import load_task

TASK = load_task("wikihop")
SAMPLE: dict[str, Any] = {
    "id": "WH_dev_0",
    "query": "country_of_origin tea, the drink",
    "answer": "u.s.a.",
    "candidates": ["china", "u.s.a."],
    "supports": ["The U.S.A. drinks it.", "Jerusalem drinks it.", "China grows it.", " "],
}


def parse(folder: Path, samples: Any) -> Part:
    (folder / "dev.json").write_text(json.dumps(samples), encoding="utf-8")
    (part,) = read_wikihop(TASK, {"en": folder / "dev.json"})
    return part


def test_two_real_samples(data: Path) -> None:
    path = data / "wikihop-sample" / "qangaroo.json"
    if not path.is_file():
        pytest.skip("NO REAL DATA: no wikihop-sample/ beside xquad-r/")
    (part,) = read_wikihop(TASK, {"en": path})
    assert [q.text for q in part.collection.queries["en"]] == [
        "country sms braunschweig",
        "member of political party thomas l. woolwine",
    ]
    # Read by a person: "German Empire" stands in the first, the eleventh and the fourteenth, "Democratic Party" in one.
    assert part.collection.qrels == {
        "en:WH_dev_0": {"en:WH_dev_0.0": 1, "en:WH_dev_0.10": 1, "en:WH_dev_0.13": 1},
        "en:WH_dev_1": {"en:WH_dev_1.5": 1},
    }
    assert part.counts == {"en": {"queries": 2, "passages": 24, "supports": 24, "empty": 0, "unanswered": 0}}
    assert part.collection.answers == {"en:WH_dev_0": ("german empire",), "en:WH_dev_1": ("democratic party",)}


def test_what_is_relevant(tmp_path: Path) -> None:
    other = SAMPLE | {"id": "WH_dev_1", "answer": "france", "supports": ["China grows it.", "The U.S.A. drinks it."]}
    part = parse(tmp_path, [SAMPLE, other])
    found = part.collection
    assert [q.text for q in found.queries["en"]] == ["country of origin tea, the drink"] * 2
    # Equal passages are one, an empty one is none, and "usa" does not stand in "Jerusalem".
    assert [p.doc_id for p in found.passages["en"]] == ["en:WH_dev_0.0", "en:WH_dev_0.1", "en:WH_dev_0.2"]
    assert found.qrels == {"en:WH_dev_0": {"en:WH_dev_0.0": 1}, "en:WH_dev_1": {}}
    assert part.counts["en"] == {"queries": 2, "passages": 3, "supports": 6, "empty": 1, "unanswered": 1}


def test_a_file_of_the_published_size(tmp_path: Path, own_cache: Path) -> None:
    rng = random.Random(5)
    pool = [f"Town {i} lies in land {i % 97}. {' '.join(rng.choices('abcdefgh', k=9))}" for i in range(3000)]
    samples = []
    for i in range(5129):
        supports = rng.sample(pool, 5)
        answer = re.findall(r"land \d+", supports[i % 5])[0]
        query = f"country town {rng.randrange(3000)}"
        samples.append(SAMPLE | {"id": f"WH_dev_{i}", "query": query, "answer": answer, "supports": supports})
    (tmp_path / "wikihop").mkdir()
    (tmp_path / "wikihop" / "dev.json").write_text(json.dumps(samples))
    (part,) = readers.parts(TASK, tmp_path)
    assert part.counts["en"]["queries"] == 5129 and part.counts["en"]["unanswered"] == 0
    for i in rng.sample(range(5129), 200):  # the definition, slowly
        mine = {p.doc_id: p.text for p in part.collection.passages["en"] if p.text in samples[i]["supports"]}
        wanted = {d for d, text in mine.items() if re.search(rf"\b{samples[i]['answer']}\b", text)}
        assert part.collection.qrels[f"en:WH_dev_{i}"].keys() == wanted
    result = evaluate(load("hash"), TASK, ["AP"], plan=Plan(own_cache, tmp_path))
    assert len(result.cells[0].query_ids) == 5129 and result.task["pinned"].keys() == {"en"}
    (tmp_path / "wikihop" / "dev.json").write_text(json.dumps(samples[1:]))
    with pytest.raises(DataError, match=r"'queries': 5128.*expected \{'queries': 5129\}"):
        list(readers.parts(TASK, tmp_path))


GONE = object()


@pytest.mark.parametrize(
    ("field", "value", "phrase"),
    [
        *((key, GONE, f"field {key!r} is missing") for key in ("id", "query", "answer", "supports")),
        *((key, 3, "expected text, found int") for key in ("id", "query", "answer")),
        ("supports", "text", "expected a list, found str"),
        ("supports", ["a", None], "supports[1]: expected text, found NoneType"),
        ("answer", " ", "the text is empty"),
        ("id", "WH dev", "holds white space or occurs twice"),
        ("id", "WH_dev_1", "holds white space or occurs twice"),
        ("query", "country", "'country' is no relation and entity"),
    ],
)
def test_damaged_samples(field: str, value: object, phrase: str, tmp_path: Path) -> None:
    sample = {key: v for key, v in (SAMPLE | {field: value}).items() if v is not GONE}
    with pytest.raises(DataError) as caught:
        parse(tmp_path, [SAMPLE | {"id": "WH_dev_1"}, sample])
    assert phrase in str(caught.value) and f"{tmp_path / 'dev.json'}: " in str(caught.value)
    assert "[1]" in str(caught.value)
