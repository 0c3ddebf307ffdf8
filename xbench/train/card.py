"""The card of a trained model: README.md as the Hugging Face hub reads it, made from a run's record alone.

https://huggingface.co/docs/hub/model-cards: between two lines `---` stands YAML, below it Markdown. Names of languages,
sources and files are somebody else's: in YAML they are quoted, in Markdown escaped. No licence is given: that is for
who publishes the model to say, and depends on the licences of the data and of the model it began with.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xbench.modelindex import model_index, quoted, spelled
from xbench.results import Result
from xbench.storage import atomic
from xbench.strictjson import read_json
from xbench.task import SETTINGS
from xbench.train.config import KINDS
from xbench.train.store import Table

BASES = {
    "static": "a table of token vectors of which a text is the mean, from scratch",
    "tiny": "a small transformer, from scratch",
}
MODES = {
    "x-x": "batches of one language each (X-X)",
    "x-y": "batches of pairs across languages (X-Y)",
    "hybrid": "hybrid batches: of one language, or across languages",
    "x-x-mixed": "batches that mix languages, each pair in one (X-X of LAReQA)",
    "en-en": "English batches",
}
PAPER = """@misc{elmahdy2024synergistic,
  title = {Synergistic Approach for Simultaneous Optimization of Monolingual, Cross-lingual, and Multilingual
           Information Retrieval},
  author = {Adel Elmahdy and Sheng-Chieh Lin and Amin Ahmad},
  year = {2024},
  eprint = {2408.10536},
  archivePrefix = {arXiv}
}"""
# A name on the hub: not a folder of somebody's machine.
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def composition(table: Table) -> dict[str, dict[str, int]]:
    """Data set (source/kind) -> language of the question -> pairs that are used, held out or not."""
    rows = np.flatnonzero(table.used)
    facts = np.stack([table.columns[name][rows].astype(np.int64) for name in ("source", "kind", "language")])
    found: dict[str, dict[str, int]] = {}
    for (source, kind, language), n in zip(*_distinct(facts), strict=True):
        found.setdefault(f"{table.sources[source]}/{KINDS[kind]}", {})[table.languages[language]] = n
    return found


def _distinct(facts: Any) -> tuple[list[list[int]], list[int]]:
    values, counts = np.unique(facts, axis=1, return_counts=True)
    return values.T.tolist(), counts.tolist()


def card(about: Mapping[str, Any]) -> str:
    """The card of a run.

    Args:
        about: as in `training.json`, with `pairs.by` of `composition` and, where there are some, `scores`: of each
            result its `task` and `values`, setting -> measure -> value.
    """
    config = about["config"]
    base, mode = config["model"]["base"], config["sampling"]["mode"]
    by = about["pairs"]["by"]
    languages = sorted({language for row in by.values() for language in row})
    named, _, revision = base.removeprefix("hf:").partition("@")
    front: dict[str, str | list[str]] = {
        "language": languages,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "xbench"],
    }
    if base not in BASES and _HUB.fullmatch(named):
        front["base_model"] = named
    scores = about.get("scores", [])
    index = model_index(f"xbench {mode}", scores) if scores else ""
    what = BASES.get(base) or f"{_escaped(named)}{_escaped(f' at revision {revision}') if revision else ''}, fine-tuned"
    parts = [
        f"---\n{''.join(_yaml(key, value) for key, value in front.items())}{index}---",
        f"# A reference model for multilingual retrieval ({mode})",
        f"It maps questions and passages in {len(languages)} languages ({_escaped(', '.join(languages))}) to vectors; "
        "the higher their cosine, the better the passage answers the question. It was trained by xbench to compare "
        f"ways of training, not for production. The model is {what}, trained on {MODES[mode]}.",
        "## Use",
        _fenced(_USE, "python"),
        "Or evaluate it: `xbench run FOLDER -t xquad-r`.",
        "## Data",
        *_data(about, by, languages),
        "## Training",
        *_training(about),
        "## Scores",
        *_scores(scores),
        "## Limits",
        _limits(config),
        "## Citation",
        "The ways of drawing batches are those of:",
        _fenced(PAPER, "bibtex"),
    ]
    return "\n\n".join(parts) + "\n"


def add_scores(folder: Path, results: Sequence[Result]) -> None:
    """Write what a run's model scores into its record and its card; a task's older scores go.

    Raises:
        DataError: the folder's record is not JSON.
        StorageError: a file cannot be read or written.
    """
    about: Any = read_json(folder / "training.json")
    new = [{"task": result.task, "values": result.summary()} for result in results]
    again = [score["task"] for score in new]
    about["scores"] = [score for score in about.get("scores", []) if score["task"] not in again] + new
    # The card first: while the record lacks the scores, whoever calls again writes both.
    for path, text in (
        (folder / "model" / "README.md", card(about)),
        (folder / "training.json", json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n"),
    ):
        with atomic(path) as file:
            file.write(text.encode())


_USE = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER")
questions = model.encode_query(["Where does the Danube rise?"])
passages = model.encode_document(["Die Donau entspringt im Schwarzwald.", "Tea is made of leaves."])
print(model.similarity(questions, passages))"""


def _data(about: Mapping[str, Any], by: Mapping[str, Mapping[str, int]], languages: list[str]) -> list[str]:
    data, pairs = about["data"], about["pairs"]
    total = sum(n for row in by.values() for n in row.values())
    everything = {a: sum(row.get(a, 0) for row in by.values()) for a in languages}
    shares = [
        [name, *(row.get(a, 0) for a in languages), sum(row.values()), f"{sum(row.values()) / total:.1%}"]
        for name, row in [*sorted(by.items()), ("all", everything)]
    ]
    left = ", ".join(f"{n:,} for {_escaped(reason)}" for reason, n in sorted(data["left_out"].items())) or "none"
    found = [
        _table(["file", "SHA-256"], [[name, digest] for name, digest in sorted(data["files"].items())]),
        f"{pairs['training']:,} pairs to train on and {pairs['held_out']:,} held out to validate on; left out: {left}. "
        f"Batches draw from {pairs.get('drawn_from', pairs['training']):,} of them: by their mode and kinds never from "
        "the others. By data set (source/kind) and language of the question:",
        _table(["data set", *languages, "all", "share"], shares),
    ]
    if not data.get("clean_of"):
        return [*found, "Whether the pairs hold texts of an evaluation task was not looked at."]
    _, *tasks = data["clean_of"]
    names = _escaped(", ".join(f"{name} (version {version})" for name, version, _ in tasks))
    dropped = data.get("contamination")
    return [
        *found,
        f"No pair that was trained on has a text that equals, holds or is part of a question or passage of {names}, "
        "by the rule of xbench's docs/training.md; it finds copies, not translations or paraphrases. "
        + (
            f"{dropped['contaminated']:,} pairs did, and were dropped with their translations, "
            f"{dropped['dropped']:,} in all."
            if dropped
            else "None had to be dropped."
        ),
    ]


def _training(about: Mapping[str, Any]) -> list[str]:
    environment = about["environment"]
    keys = [
        [f"{part}.{key}", json.dumps(value, ensure_ascii=False)]
        for part, values in sorted(about["config"].items())
        for key, value in sorted(values.items())
    ]
    facts = [
        ["seed", about["config"]["training"]["seed"]],
        ["steps", f"{about['steps']:,}"],
        ["temperature at the end", f"{about['temperature']:.4f}"],
        ["validation (mean reciprocal rank)", "none" if about["validation"] is None else f"{about['validation']:.4f}"],
        ["SHA-256 of the config", about["sha256"]],
        *([name, value] for name, value in sorted(environment.items()) if name != "versions"),
        *([name, version] for name, version in sorted(environment["versions"].items())),
    ]
    return [
        _fenced(about["command"] or "(called from Python)", "sh"),
        _table(["what", "value"], facts),
        "The config, defaults included:",
        _table(["key", "value"], keys),
    ]


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return ["None yet: `xbench run FOLDER -t TASK`."]
    names = sorted({name for score in scores for row in score["values"].values() for name in row})
    rows = [
        [spelled(score["task"]), setting, *(_shown(score["values"][setting].get(name)) for name in names)]
        for score in scores
        for setting in SETTINGS
        if setting in score["values"]
    ]
    return [
        "Macro means over languages, in cross over ordered pairs of them; the mean of AP is mAP, of RR is MRR.",
        _table(["task", "setting", *names], rows),
    ]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value > 1 else f"{value:.4f}"


def _limits(config: Mapping[str, Any]) -> str:
    length, static = config["model"]["max_length"], config["model"]["base"] == "static"
    limits = [
        f"In training, only the first {length} tokens of a text were read; now all are."
        if static
        else f"Of a text, only the first {length} tokens are read.",
        "Languages that are not in the table of data are encoded, but nothing says how well.",
        "It has whatever errors and prejudices its data have; no one has looked for them.",
        "The licences of the data sets above hold for what is made of them: look them up before you publish it.",
    ]
    if static:
        limits.insert(1, "The order of words plays no part: “man bites dog” is “dog bites man”.")
    return "\n".join(f"- {limit}" for limit in limits)


def _yaml(key: str, value: str | Sequence[str]) -> str:
    return f"{key}: {quoted(value)}\n" if isinstance(value, str) else f"{key}:\n{''.join(map(_item, value))}"


def _item(value: str) -> str:
    return f"- {quoted(value)}\n"


def _escaped(value: object) -> str:
    """Text of one line in which nothing is Markdown, HTML or a link."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|~$&:@])", r"\\\1", "".join(c for c in line if c.isprintable()))


def _table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = (["---" if cell == "---" else _escaped(cell) for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _fenced(text: str, language: str) -> str:
    """A block of code, fenced by more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
