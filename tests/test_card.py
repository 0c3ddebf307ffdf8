"""The model card: what it says, that the hub reads it, and that nobody's name is Markdown or YAML in it."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.task import vary
from xbench.tasks import load_task
from xbench.train.card import add_scores, card, composition
from xbench.train.config import KINDS, config_of
from xbench.train.store import Table


def about(**changes: Any) -> dict[str, Any]:
    """A run's record; changes are by dotted key."""
    values = {"data": {"files": ["train/pairs.jsonl.gz"]}, "model": {"base": "static", "max_length": 77}}
    found: dict[str, Any] = {
        "config": config_of(values, Path("config.toml")).about,
        "sha256": "c" * 64,
        "command": "xbench train static --set training.seed=3",
        "data": {"files": {"train/pairs.jsonl.gz": "d" * 64}, "rows": 12, "left_out": {"sources": 2_000}},
        "pairs": {
            "training": 9_000,
            "held_out": 1_000,
            "by": {"one/qa": {"de": 6_000, "en": 1_500}, "two/term": {"en": 2_500}},
        },
        "steps": 1_500,
        "validation": 0.25,
        "temperature": 0.05,
        "environment": {"versions": {"torch": "2.13.0"}, "device": "cpu", "threads": 1, "processes": 1},
    }
    for key, value in changes.items():
        *parts, last = key.split("__")
        place = found
        for part in parts:
            place = place[part]
        place[last] = value
    return found


def front(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    found = yaml.safe_load(text.split("\n---\n")[0][4:])
    assert isinstance(found, dict)
    return found


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, as a reader of Markdown shows them; no cell may hold anything but text."""
    rows: list[list[str]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(text.split("\n---\n", 1)[1]):
        assert token.type not in ("html_block",), token.content
        if token.type == "tr_open":
            rows.append([])
        for child in token.children or []:
            assert child.type in ("text", "text_special", "code_inline", "softbreak"), (child.type, token.content)
        if token.type == "inline" and token.level >= 4 and rows:
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def test_what_a_card_says() -> None:
    text = card(about())
    assert front(text) == {
        "language": ["de", "en"],
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "xbench"],
    }
    rows = cells(text)
    assert ["train/pairs.jsonl.gz", "d" * 64] in rows
    assert [row for row in rows if len(row) == 5] == [
        ["data set", "de", "en", "all", "share"],
        ["one/qa", "6000", "1500", "7500", "75.0%"],
        ["two/term", "0", "2500", "2500", "25.0%"],
        ["all", "6000", "4000", "10000", "100.0%"],
    ]
    assert ["seed", "0"] in rows and ["torch", "2.13.0"] in rows and ["device", "cpu"] in rows
    assert ["SHA-256 of the config", "c" * 64] in rows and ["steps", "1,500"] in rows
    assert ["validation (mean reciprocal rank)", "0.2500"] in rows
    assert ["model.max_length", "77"] in rows and ["sampling.alpha", "0.5"] in rows
    assert len(
        [row for row in rows if len(row) == 2 and "." in row[0] and row[0].split(".")[0] in about()["config"]]
    ) == sum(len(part) for part in about()["config"].values())
    for phrase in (
        "9,000 pairs to train on and 1,000 held out",
        "2,000 for sources",
        "```sh\nxbench train static --set training.seed=3\n```",
        "was not looked at",
        "None yet",
        "In training, only the first 77 tokens of a text were read; now all are.",
        "order of words plays no part",
        "eprint = {2408.10536}",
        "in 2 languages (de, en)",
        "retrieval (hybrid)\n",
        "from scratch, trained on hybrid batches: of one language, or across languages.",
    ):
        assert phrase in text, phrase
    assert [line for line in text.split("\n") if line.startswith("## ")] == [
        f"## {name}" for name in ("Use", "Data", "Training", "Scores", "Limits", "Citation")
    ]
    assert "Of a text, only the first 77 tokens are read." in card(about(config__model__base="tiny"))
    assert "license" not in front(text)
    assert card(about()) == text and text.endswith("\n") and "None\n" not in text


def test_the_hub_reads_it() -> None:
    read = ModelCard(card(about(config__model__base="hf:org/name-1@abc")), ignore_metadata_errors=False).data
    assert read.language == ["de", "en"] and read.base_model == "org/name-1"
    assert read.pipeline_tag == "sentence-similarity" and read.library_name == "sentence-transformers"


@pytest.mark.parametrize(
    ("base", "named"),
    [("hf:org/name", "org/name"), ("hf:/home/me/x", None), ("hf:../x", None), ("tiny", None), ("hf:org/a/b", None)],
)
def test_the_base_model_is_one_on_the_hub(base: str, named: str | None) -> None:
    text = card(about(config__model__base=base))
    assert front(text).get("base_model") == named
    assert ("order of words" in text) is False


def test_what_it_is_clean_of() -> None:
    key = [1, ["xquad-r", 1, "e" * 64], ["mlqa-r", 2, "f" * 64]]
    text = card(about(data__clean_of=key))
    assert "question or passage of xquad-r (version 1), mlqa-r (version 2)" in text
    assert "None had to be dropped" in text and "was not looked at" not in text
    text = card(about(data__clean_of=key, data__contamination={"dropped": 1_234, "contaminated": 20}))
    assert "20 pairs did, and were dropped with their translations, 1,234 in all." in text


def test_no_validation_no_command() -> None:
    text = card(about(validation=None, command="", data__left_out={}))
    assert ["validation (mean reciprocal rank)", "none"] in cells(text)
    assert "left out: none." in text and "(called from Python)" in text


NAME = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20) | st.sampled_from(
    [
        "|",
        "`",
        "a|b",
        "<img src=x>",
        "[x](http://x)",
        "*b*",
        "\\",
        "---",
        "```",
        "a\n# b",
        "\u2028x",
        "&lt;",
        "$x$",
        ": x",
        "\x85",
        "~~x~~",
        "http://x.y",
    ]
)


@given(NAME, NAME, NAME, NAME)
@settings(max_examples=300, deadline=None)
def test_nobodys_name_is_markup(language: str, source: str, file: str, version: str) -> None:
    text = card(
        about(
            pairs__by={f"{source}/qa": {language: 5}},
            data__files={file: "d" * 64},
            environment__versions={"torch": version},
            command=f"xbench train {file}",
            config__data__sources=[source],
        )
    )
    assert front(text)["language"] == [language]

    def shown(name: str) -> str:
        return "".join(c for c in " ".join(name.split()) if c.isprintable()).strip()

    rows = cells(text)
    assert [shown(file), "d" * 64] in rows
    assert [shown(f"{source}/qa"), "5", "5", "100.0%"] in rows
    assert ["torch", shown(version)] in rows
    assert len(re.findall(r"^## ", text.replace(file, ""), re.M)) == 6


def test_a_command_cannot_end_its_block() -> None:
    text = card(about(command="xbench train x\n```\n# Not a heading\n````\n<script>"))
    (block,) = [t for t in MarkdownIt().parse(text.split("\n---\n", 1)[1]) if t.type == "fence" and t.info == "sh"]
    assert block.content == "xbench train x\n```\n# Not a heading\n````\n<script>\n"


def test_composition_counts_what_is_used() -> None:
    columns = {
        "source": np.array([0, 0, 1, 1, 1], np.uint16),
        "kind": np.array([0, 0, 2, 2, 0], np.uint8),
        "language": np.array([1, 0, 1, 1, 0], np.uint8),
    }
    used = np.array([True, True, True, True, False])
    table = Table(columns, ["en", "de"], ["a", "b"], used, ~used, ~used, np.arange(len(used), dtype=np.int32), {})
    assert composition(table) == {f"a/{KINDS[0]}": {"en": 1, "de": 1}, f"b/{KINDS[2]}": {"de": 2}}
    json.dumps(composition(table))


def test_scores_are_added(tmp_path: Path) -> None:
    """To the record and the card; a task's later scores take the place of its older ones."""
    mini = load_task("mini")
    plan = Plan(tmp_path / "cache")
    whole, some = (evaluate(load("hash"), t, plan=plan) for t in (mini, vary(mini, languages=["de", "en"])))
    (tmp_path / "model").mkdir()
    (tmp_path / "training.json").write_text(json.dumps(about()))
    add_scores(tmp_path, [whole])
    add_scores(tmp_path, [some, whole])
    record = json.loads((tmp_path / "training.json").read_text())
    assert [score["task"] for score in record["scores"]] == [some.task, whole.task]
    assert record["scores"][1]["values"] == whole.summary()
    text = (tmp_path / "model" / "README.md").read_text()
    assert text == card(record) and "None yet" not in text
    rows = [row for row in cells(text) if row[0].startswith("mini")]
    assert [row[:2] for row in rows] == [
        [name, setting]
        for name in ("mini (version 1); languages: de, en", "mini (version 1)")
        for setting in ("mono", "cross", "multi")
    ]
    (heads,) = [row for row in cells(text) if row[:2] == ["task", "setting"]]
    means = whole.summary()["multi"]
    assert rows[-1][heads.index("AP")] == f"{means['AP']:.4f}"
    assert rows[-1][heads.index("RankDistance")] == f"{means['RankDistance']:,.1f}"
    assert rows[-2][heads.index("RankDistance")] == ""  # only multi has one
    unchanged = copy.deepcopy(record)
    card(record)
    assert record == unchanged
