"""What a study writes: `study.json` with everything, `table.md` for readers, `table.csv` for programs, plots."""

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xbench.gate import FLIPS
from xbench.intervals import LEVEL, RESAMPLES, SEED
from xbench.progress import log
from xbench.results import Result
from xbench.storage import atomic
from xbench.tables import Table, Value, render, shown
from xbench.task import SETTINGS
from xbench.train.outcomes import ALPHA, Outcome, outcome
from xbench.train.study import Study
from xbench.train.trials import Tasks, Trial, finished, states

SCHEMA = 1
Trials = Mapping[str, Mapping[str, Sequence[Trial]]]


def report(study: Study, folder: Path, tasks: Tasks) -> list[Table]:
    """Write what the finished models of a study tell; the same runs give the same bytes. Returns tables for readers.

    There is nothing to write before all runs of one model are finished.

    Raises:
        XbenchError: as `trials.finished` and `outcomes.outcome`; StorageError: a file cannot be written.
    """
    missing = [state.run.name for state in states(study.runs(), folder, tasks.chosen) if not state.done]
    trials = finished(study, folder, tasks)
    if not trials:
        log.info("no report yet: %d runs of %s are missing", len(missing), study.name)
        return []
    found = outcome(study, trials)
    tables = [means_table(study, found), *verdict_tables(found), long_table(found)]
    notes = [study.question, *_notes(trials, missing, tasks.left_out)]
    _write(folder / "table.md", "\n\n".join([f"# Study {study.name}", *notes, render(tables, "md")]) + "\n")
    _write(folder / "table.csv", render([long_table(found)], "csv") + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        from xbench.train.plots import plots

        for name, content in plots(study, found).items():
            with atomic(folder / "plots" / f"{name}.svg") as file:
                file.write(content)
    else:
        log.info("no plots: matplotlib is not installed (pip install 'xbench[train]')")
    about = to_json(study, trials, found) | {"missing": missing, "left_out": tasks.left_out}
    _write(folder / "study.json", json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return tables[:-1]


def to_json(study: Study, trials: Trials, found: Outcome) -> dict[str, Any]:
    """Everything, as JSON values; nothing in it says when or where the runs were made."""
    runs = [trial for variants in trials.values() for some in variants.values() for trial in some]
    environments: list[Any] = []
    for trial in runs:
        if trial.record["environment"] not in environments:
            environments.append(trial.record["environment"])
    cells = [
        {"model": model, "task": task, "variant": variant, "cells": _cells(mean)}
        for (model, task, variant), mean in found.means.items()
    ]
    return {
        "schema": SCHEMA,
        "study": study.about,
        "sha256": study.sha256,
        "environments": environments,
        "files": {name: digest for trial in runs for name, digest in trial.record["data"]["files"].items()},
        "statistics": {
            "level": LEVEL,
            "over_seeds": "Student's t",
            "over_queries": "percentile bootstrap of values averaged over seeds",
            "resamples": RESAMPLES,
            "test": "paired randomisation of values averaged over seeds",
            "flips": FLIPS,
            "seed": SEED,
            "correction": "Holm",
            "alpha": ALPHA,
        },
        "runs": [_run(trial, environments) for trial in runs],
        "values": [value._asdict() for value in found.values],
        "tests": [test._asdict() for test in found.tests],
        "claims": [
            verdict.claim._asdict() | {"verdict": verdict.verdict, "test": verdict.test._asdict()}
            for verdict in found.verdicts
        ],
        "cells": cells,
    }


def _run(trial: Trial, environments: list[Any]) -> dict[str, Any]:
    run, record = trial.run, trial.record
    return {
        "run": run.name,
        "sha256": run.config.sha256,
        "overrides": dict(run.overrides),
        "steps": record["steps"],
        "pairs": record["pairs"]["training"],
        "drawn_from": record["pairs"].get("drawn_from"),
        "validation": record["validation"],
        "environment": environments.index(record["environment"]),
        "results": {
            task: {
                "task": result.task,
                "fingerprint": result.model["fingerprint"],
                "values": result.summary(),
            }
            for task, result in trial.results.items()
        },
    }


def _cells(mean: Result) -> dict[str, dict[str, list[float | None]]]:
    """Cell -> measure -> mean over seeds, and the ends of its interval over queries."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for cell in mean.cells:
        ends = mean.intervals.get(cell.cell.name, {})
        found[cell.cell.name] = {m: [value, *ends.get(m, (None, None))] for m, value in cell.values.items()}
    return found


def means_table(study: Study, found: Outcome) -> Table:
    """A row for each model, task and variant; `*`: differs from the baseline."""
    columns = [
        (m, s) for m in study.measures for s in SETTINGS if any((v.measure, v.where) == (m, s) for v in found.values)
    ]
    different = {(t.model, t.task, t.second, t.measure, t.where) for t in found.tests if t.p_holm < ALPHA}
    rows: list[list[Value]] = []
    for key in dict.fromkeys((v.model, v.task, v.variant) for v in found.values):
        mine = {(v.measure, v.where): v for v in found.values if (v.model, v.task, v.variant) == key}
        marks = ["*" if (*key, *column) in different else "" for column in columns]
        cells = [shown(mine[c].value) + mark if c in mine else None for c, mark in zip(columns, marks, strict=True)]
        rows.append([*key, max(len(v.seeds) for v in mine.values()), *cells])
    title = f"Means over seeds; * differs from {study.baseline} by p Holm < {ALPHA} over queries"
    return Table(title, ["model", "task", "variant", "seeds", *(f"{m} {s}" for m, s in columns)], rows)


def verdict_tables(found: Outcome) -> list[Table]:
    """The claims with their verdicts; no table without claims."""
    if not found.verdicts:
        return []
    rows: list[list[Value]] = [
        [
            v.claim.text,
            v.test.model,
            v.test.task,
            f"{v.claim.measure} {v.claim.setting}",
            v.verdict,
            v.test.difference,
            _range(v.test.over_queries),
            _range(v.test.over_seeds),
            v.test.p_holm,
            f"{v.test.agree} of {v.test.seeds}",
        ]
        for v in found.verdicts
    ]
    columns = ["claim", "model", "task", "measure", "verdict", "difference", *_ENDS, "p Holm", "seeds agree"]
    return [Table("Claims", columns, rows)]


_ENDS = [f"{LEVEL:.0%} over queries", f"{LEVEL:.0%} over seeds"]


def long_table(found: Outcome) -> Table:
    """Every value, and its difference from the baseline's."""
    tests = {(t.model, t.task, t.where, t.measure, t.second): t for t in found.tests}
    rows: list[list[Value]] = []
    for v in found.values:
        row: list[Value] = [v.model, v.task, v.where, v.measure, v.variant, len(v.seeds), v.value]
        row += [_range(v.over_queries), _range(v.over_seeds)]
        test = tests.get((v.model, v.task, v.where, v.measure, v.variant))
        if test is None:
            rows.append([*row, *[None] * 6])
            continue
        row += [test.difference, _range(test.over_queries), _range(test.over_seeds), test.p, test.p_holm]
        rows.append([*row, f"{test.agree} of {test.seeds}"])
    columns = ["model", "task", "where", "measure", "variant", "seeds", "value", *_ENDS]
    columns += ["difference", *(f"difference {each}" for each in _ENDS), "p", "p Holm", "seeds agree"]
    return Table("Values, and differences from the baseline", columns, rows)


def _notes(trials: Trials, missing: Sequence[str], left_out: Sequence[str]) -> Iterable[str]:
    held = "; ".join(
        f"{model} {variant} "
        + ", ".join("–" if t.record["validation"] is None else f"{t.record['validation']:.4f}" for t in some)
        for model, variants in trials.items()
        for variant, some in variants.items()
    )
    yield f"Mean reciprocal rank on held-out pairs, seed by seed: {held or 'none'}."
    if left_out:
        yield f"Left out, since their data were not at hand: {', '.join(left_out)}."
    if missing:
        yield f"Not finished, and their models not shown: {', '.join(missing)}."


def _range(ends: Sequence[float] | None) -> Value:
    return f"{shown(float(ends[0]))} to {shown(float(ends[1]))}" if ends else None


def _write(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())
