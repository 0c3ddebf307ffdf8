"""The runs of a study: each trained and evaluated once, and kept; what is there and matches is not done again.

OUT/<model>/<variant>/seed-<n>/                        a training run, see `loop`
OUT/<model>/<variant>/seed-<n>/vectors/                of texts of tasks; gone when the run is evaluated on all
OUT/results/<model>/<variant>/seed-<n>/<task>.json     what it scores, see `results`

A training run is known by the SHA-256 of its config, a result by the files of the model and by the task.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xbench.catalogue import parse_all
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.groups import Grouping, groupings
from xbench.models import Encoder, load
from xbench.progress import log
from xbench.readers import pin, source_paths
from xbench.results import Result, read_result, write_result
from xbench.storage import sha256, storage, writable
from xbench.task import Task, agree
from xbench.tasks import select
from xbench.train.card import add_scores
from xbench.train.record import record
from xbench.train.study import Run, Study

Train = Callable[..., Path]


class Trial(NamedTuple):
    """A run that is finished: trained, and evaluated on all tasks."""

    run: Run
    record: Mapping[str, Any]
    """Its `training.json`."""
    results: dict[str, Result]
    """By task."""


class State(NamedTuple):
    """How far a run is."""

    run: Run
    trained: bool
    missing: list[str]
    """Tasks that it is not evaluated on."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained and not self.missing


class Tasks(NamedTuple):
    """The tasks of a study, ready to be evaluated on."""

    chosen: list[Task]
    left_out: list[str]
    """Names of optional tasks whose data are not at hand."""
    groupings: dict[str, dict[str, Grouping]]
    """Task -> those of its languages."""


def find_tasks(study: Study, data: Path | None) -> Tasks:
    """The tasks of a study whose data are there, or can be fetched.

    Raises:
        XbenchError: as `tasks.select`, `readers.source_path`, `groups.groupings`, of a task that is not optional.
    """
    names = [str(study.folder / name) if name.endswith(".toml") else name for name in (*study.tasks, *study.optional)]
    chosen, left_out = [], []
    for task, said in zip(select(names), (*study.tasks, *study.optional), strict=True):
        optional = said in study.optional
        try:
            source_paths(task, data, offline=optional)
            chosen.append(pin(task, data))
        except DataError:
            if not optional:
                raise
            left_out.append(task.name)
            log.info("%s is left out: its data are not at hand", task.name)
    return Tasks(chosen, left_out, {task.name: _groupings(study, task) for task in chosen})


def _groupings(study: Study, task: Task) -> dict[str, Grouping]:
    """By name, those that have languages of the task."""
    found = groupings(task, study.by)
    for name, by in study.groups.items():
        mine = {group: [a for a in task.languages if a in some] for group, some in by.items()}
        if kept := {group: some for group, some in mine.items() if some}:
            found[name] = kept
    return found


def selected(study: Study, only: Sequence[str]) -> list[Run]:
    """The runs whose names, or whose ends, match one of the patterns, such as `hybrid/seed-0`; all without patterns.

    Raises:
        UsageError: a pattern that no run matches; and as `Study.runs`.
    """
    runs = study.runs()
    for pattern in only:
        if not any(PurePosixPath(run.name).match(pattern) for run in runs):
            raise UsageError(f"--only {pattern}: no run is called so; they are MODEL/VARIANT/seed-N, see --dry-run")
    return [run for run in runs if not only or any(PurePosixPath(run.name).match(pattern) for pattern in only)]


def states(runs: Sequence[Run], folder: Path, tasks: Sequence[Task]) -> list[State]:
    """How far runs are; reads records alone.

    Raises:
        DataError: a folder holds another run.
    """
    found = []
    for run in runs:
        trained = record(run.config, folder / run.name) is not None
        missing = [task.name for task in tasks if not _result_path(run, folder, task).is_file()]
        found.append(State(run, trained, missing))
    return found


def run_all(
    study: Study,
    runs: Sequence[Run],
    folder: Path,
    tasks: Tasks,
    train: Train,
    *,
    cache: Path,
    data: Path | None = None,
    threads: int | None = None,
    command: Callable[[Run], tuple[str, str]] = lambda run: ("", ""),
) -> None:
    """Train and evaluate what is not there yet, run by run.

    Args:
        study: that the runs are of.
        runs: some of its.
        folder: of the study.
        tasks: from `find_tasks`.
        train: as `loop.train`.
        cache, data, threads: as there.
        command: for the record, those that train a run and that evaluate it.

    Raises:
        DataError, IntegrityError: what is there does not match; and as `loop.train` and `evaluate`.
    """
    writable(folder)
    for number, run in enumerate(runs, 1):
        place = folder / run.name
        to_train, to_evaluate = command(run)
        if record(run.config, folder / run.name) is None:
            log.info("%s: run %d of %d", run.name, number, len(runs))
            train(run.config, place, cache=cache, data=data, threads=threads, command=to_train)
        model: Encoder | None = None
        results = []
        for task in tasks.chosen:
            result = _kept(study, run, folder, task)
            if result is None:
                model = model or _load(place / "model", f"{study.name}/{run.name}")
                plan = Plan(place / "vectors", data, False, threads, to_evaluate)
                asked = [*task.measures, *(m for m in study.measures if m not in task.measures)]
                result = evaluate(model, task, asked, plan=plan, groups=tasks.groupings[task.name])
                write_result(result, folder / "results" / run.name)
            results.append(result)
        scored = [score["task"] for score in (record(run.config, folder / run.name) or {}).get("scores", [])]
        if unsaid := [result for result in results if result.task not in scored]:
            add_scores(place, unsaid)
        with storage(place / "vectors", "remove"):
            if (place / "vectors").is_dir():
                shutil.rmtree(place / "vectors")


def finished(study: Study, folder: Path, tasks: Tasks) -> dict[str, dict[str, list[Trial]]]:
    """Model -> variant -> its trials, seed by seed; of models of which all runs are finished.

    Raises:
        DataError, IntegrityError: what is there does not match; runs that saw different bytes of one file.
    """
    found: dict[str, dict[str, list[Trial]]] = {}
    todo = {state.run.model for state in states(study.runs(), folder, tasks.chosen) if not state.done}
    files: dict[str, tuple[str, str]] = {}
    for run in study.runs():
        if run.model in todo:
            continue
        about, results = record(run.config, folder / run.name), {}
        for task in tasks.chosen:
            if (result := _kept(study, run, folder, task)) is not None:
                results[task.name] = replace(result, groupings=tasks.groupings[task.name])
        if about is None or len(results) < len(tasks.chosen):
            raise IntegrityError(f"{folder / run.name}: went away while it was read")
        for name, digest in about["data"]["files"].items():
            first, other = files.setdefault(name, (digest, run.name))
            if digest != first:
                raise IntegrityError(
                    f"{folder / run.name}: trained on another {name} ({digest[:12]}) than {other} ({first[:12]}); "
                    "move one of the two away, and train again"
                )
        found.setdefault(run.model, {}).setdefault(run.variant, []).append(Trial(run, about, results))
    return found


def _load(folder: Path, name: str) -> Encoder:
    """The model of a run, under a name that says nothing of this machine."""
    model = load(f"hf:{folder}")
    if not isinstance(model, Encoder):
        raise DataError(f"{folder}: is no encoder")
    model.name = name
    return model


def _result_path(run: Run, folder: Path, task: Task) -> Path:
    return folder / "results" / run.name / f"{task.name}.json"


def _kept(study: Study, run: Run, folder: Path, task: Task) -> Result | None:
    """The result of a run on a task, if it is there and is just that."""
    path, model = _result_path(run, folder, task), folder / run.name / "model"
    if not path.is_file():
        return None
    result = read_result(path)
    files: dict[str, str] = result.model["identity"].get("files") or {}
    if not files or any(not (model / n).is_file() or sha256(model / n) != digest for n, digest in files.items()):
        raise IntegrityError(f"{path}: of another model than {model}; move it away, and it is evaluated again")
    if not agree(result.task, task.about):
        raise IntegrityError(f"{path}: of another version of {task.name}; move it away, and it is evaluated again")
    has = {name for cell in result.cells for name in cell.values}
    if lacking := [m.name for m in parse_all(study.measures) if m.name not in has]:
        raise DataError(f"{path}: has no {lacking[0]}; move it away, and it is evaluated again")
    return result
