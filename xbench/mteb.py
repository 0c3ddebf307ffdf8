"""Results in the shape of MTEB's result files (its `TaskResult`), and those files read.

A file has a task's name, the revision of its data and, by split, one entry a subset: `hf_subset`, `languages`, values
of measures by MTEB's names, and `main_score`. Tasks that MTEB has as well are called by its names, so that a file can
be laid beside MTEB's own; for others the task is xbench's and a subset is a cell, `cross/ar-de`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xbench.catalogue import parse
from xbench.errors import DataError, UsageError
from xbench.records import Cell
from xbench.results import Result
from xbench.strictjson import read_json
from xbench.task import Task

# MTEB's names of our measures with a cut-off.
FIELDS = {"nDCG": "ndcg_at_", "AP": "map_at_", "RR": "mrr_at_", "R": "recall_at_", "P": "precision_at_"} | {
    "Success": "hit_rate_at_"
}
FAMILIES = {field: family for family, field in FIELDS.items()}
# MTEB's own deepest cut-off; where no pool is larger, a measure without one has the same value.
DEEPEST = 1000
# MTEB's codes of languages, ISO 639-3 and 15924; of others it is sent ours.
CODES = {
    **{"ar": "ara-Arab", "bn": "ben-Beng", "de": "deu-Latn", "el": "ell-Grek", "en": "eng-Latn", "es": "spa-Latn"},
    **{"fa": "fas-Arab", "fi": "fin-Latn", "fr": "fra-Latn", "hi": "hin-Deva", "id": "ind-Latn", "ja": "jpn-Jpan"},
    **{"ko": "kor-Hang", "ru": "rus-Cyrl", "sw": "swa-Latn", "te": "tel-Telu", "th": "tha-Thai", "tr": "tur-Latn"},
    **{"vi": "vie-Latn", "yo": "yor-Latn", "zh": "zho-Hans"},
}


class Name(NamedTuple):
    """A task of MTEB."""

    task: str
    split: str
    subset: Callable[[Cell], str]


def _language(cell: Cell) -> str:
    return cell.query_language


def _context_first(cell: Cell) -> str:
    return f"{CODES[cell.passage_languages[0]][:3]}-{CODES[cell.query_language][:3]}"


def _passage_first(cell: Cell) -> str:
    return f"{cell.passage_languages[0]}-{cell.query_language}"


NAMES = {
    "xquad": Name("XQuADRetrieval", "validation", _language),
    "mlqa-dev": Name("MLQARetrieval", "validation", _context_first),
    "mlqa-test": Name("MLQARetrieval", "test", _context_first),
    "belebele": Name("BelebeleRetrieval", "test", _passage_first),
    "miracl": Name("MIRACLRetrieval", "dev", _language),
}


def name_of(task: Task) -> Name:
    """What MTEB calls a task; itself, split `test`, a subset a cell, where MTEB has none."""
    return NAMES.get(task.name) or Name(task.name, "test", lambda cell: cell.name)


def to_mteb(result: Result, task: Task) -> tuple[dict[str, Any], list[str]]:
    """The content of an MTEB-shaped file, and the measures that MTEB has no name for.

    AP and RR without a cut-off are `map_at_1000` and `mrr_at_1000` in pools of at most 1,000 passages, where these are
    the same. A cell's `main_score` is the task's primary measure, whatever MTEB's is.

    Raises:
        DataError: a cell has no value of the primary measure.
    """
    name = name_of(task)
    lost: dict[str, None] = {}
    scores = []
    for cell in result.cells:
        if not cell.query_ids:
            continue
        if task.primary not in cell.values:
            raise DataError(
                f"{cell.cell.name} has no {task.primary}, which MTEB's main_score is made of; evaluate again"
            )
        fields: dict[str, Any] = {}
        for measure, value in cell.values.items():
            field = _field(measure, cell.passages)
            if field is None:
                lost[measure] = None
            else:
                fields[field] = value
        languages = dict.fromkeys([cell.cell.query_language, *cell.cell.passage_languages])
        codes = [CODES.get(language, language.replace("_", "-")) for language in languages]
        about = {"hf_subset": name.subset(cell.cell), "languages": codes}
        scores.append({**fields, "main_score": cell.values[task.primary], **about})
    content = {
        "dataset_revision": task.sha256,
        "task_name": name.task,
        "mteb_version": None,
        "evaluation_time": None,
        "kg_co2_emissions": None,
        "scores": {name.split: scores},
    }
    return content, list(lost)


def _field(measure: str, pool: int) -> str | None:
    """MTEB's name of a measure in a pool; None without one."""
    found = parse(measure)
    if found.family not in FIELDS:
        return None
    if "@" in found.name:
        return f"{FIELDS[found.family]}{int(found.k)}"
    return f"{FIELDS[found.family]}{DEEPEST}" if pool <= DEEPEST else None


class Read(NamedTuple):
    """What an MTEB file says of a task of ours."""

    values: dict[Cell, dict[str, float]]
    """Cell -> measure -> value, a fraction."""
    others: dict[str, int]
    """What no measure or cell of ours is, and how often it is there."""


def read_mteb(path: Path, task: Task) -> Read:
    """The values of an MTEB result file that a task of ours has cells and measures for.

    Raises:
        DataError: the file is not in MTEB's form, or a value is no number from 0 to 1.
        UsageError: it is of another task, or has no subset of ours.
    """
    content: Any = read_json(path, nan=True)  # MTEB writes it, for correlations that are not defined
    name = name_of(task)
    try:
        found, splits = str(content["task_name"]), dict(content["scores"])
        entries = [(str(entry["hf_subset"]), dict(entry)) for entry in splits.get(name.split, [])]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not a result file of MTEB: {what}; expected task_name and scores by split") from error
    if found != name.task:
        raise UsageError(f"{path}: of {found!r:.80}; {task.name} is MTEB's {name.task}, split {name.split}")
    cells = {name.subset(cell): cell for cell in task.cells()}
    values: dict[Cell, dict[str, float]] = {}
    others: dict[str, int] = {}
    for split in splits:
        if split != name.split:
            others[f"split {split}"] = 1
    for subset, entry in entries:
        if subset not in cells or cells[subset] in values:
            others[f"subset {subset}"] = others.get(f"subset {subset}", 0) + 1
            continue
        values[cells[subset]] = _values(entry, others, f"{path}: {subset}")
    if not values:
        raise UsageError(f"{path}: no subset of {name.task}, split {name.split}, that {task.name} has a cell for")
    return Read(values, others)


def _values(entry: Mapping[str, Any], others: dict[str, int], where: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for field, value in entry.items():
        match = re.fullmatch(r"([a-z_]+_at_)([1-9]\d{0,5})", field, re.ASCII)
        if not match or match[1] not in FAMILIES:
            if field not in ("hf_subset", "languages", "main_score", "mteb_version"):
                others[field] = others.get(field, 0) + 1
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where}: {field}: found {value!r:.40}, expected a number from 0 to 1")
        found[f"{FAMILIES[match[1]]}@{match[2]}"] = float(value)
    return found
