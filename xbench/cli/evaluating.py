"""What `xbench run` and `xbench demo` have in common."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbench.cli.options import as_large, command_line, show_result, show_tables, varied
from xbench.cli.placing import placed, shards_folder
from xbench.sources import default_cache

if TYPE_CHECKING:
    from xbench.results import Result


def evaluate_and_show(
    model: str,
    tasks: tuple[str, ...],
    *,
    output: Path,
    format_: str | None,
    threads: int | None,
    run_depth: int,
    data: Path | None = None,
    measures: tuple[str, ...] = (),
    batch_tokens: int | None = None,
    context: bool = False,
    languages: str | None = None,
    settings: tuple[str, ...] = (),
    by: tuple[str, ...] = (),
    group_files: tuple[Path, ...] = (),
    offline: bool = False,
    shard_rows: int | None = None,
    index: str | None = None,
    nprobe: int | None = None,
    depth: int | None = None,
    ray: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    shards: str | None = None,
    dry_run: bool = False,
    **options: Any,
) -> "list[Result]":
    """Evaluate, write each result as soon as it is there, print its tables; returns the results."""
    from xbench.approximate import FLAT
    from xbench.catalogue import parse_all
    from xbench.errors import UsageError
    from xbench.estimate import estimate
    from xbench.evaluate import Plan, evaluate
    from xbench.export import export_qrels, export_runs
    from xbench.folders import RemoteFolder
    from xbench.groups import groupings
    from xbench.models import Encoder, Options
    from xbench.models.fuse import Fusion
    from xbench.readers import parts as parts_of
    from xbench.readers import source_paths
    from xbench.storage import writable

    chosen = varied(list(tasks), languages, settings, context=context)
    groups = [groupings(task, by, group_files) for task in chosen]
    parse_all(measures)
    asked = {"shard-rows": shard_rows, "index": index, "nprobe": nprobe, "depth": depth}
    large = as_large(asked)
    folder_of_shards = shards_folder(shards)
    if isinstance(folder_of_shards, RemoteFolder) and large.variant.factory != FLAT:
        raise UsageError(f"--index {index} reads shards many times: give --shards a folder, found {shards}")
    results = []
    with placed(model, Options(**options), ray, workers, gpus_per_worker) as (loaded, others):
        parts = loaded.parts if isinstance(loaded, Fusion) else (loaded,)
        if batch_tokens and not any(isinstance(part, Encoder) for part in parts):
            raise UsageError(f"model {model!r} takes no --batch-tokens: nothing is encoded")
        if not dry_run:
            writable(output)  # before hours of encoding, not after
        for task in chosen:
            source_paths(task, data, offline=offline)
        if any(re.search("@[0-9a-f]{40}$", part.name) for part in parts):  # commits, for the branch or tag asked for
            options["revision"] = None
        for said, task, own in zip(dict.fromkeys(tasks), chosen, groups, strict=True):
            given: dict[str, Any] = {"measures": measures, "batch-tokens": batch_tokens, "context": context or None}
            given |= {"languages": languages, "setting": settings, "by": by, "groups": group_files, **asked, **options}
            words = command_line("run", loaded.name, said, given)
            plan = Plan(default_cache(), data, offline, threads, words, folder_of_shards, others)
            if dry_run:
                show_tables(estimate(loaded, task, plan, large, batch_tokens), format_ if format_ != "json" else None)
                continue
            result = evaluate(loaded, task, measures, plan=plan, batch_tokens=batch_tokens, groups=own, large=large)
            show_result(result, task, output, format_)
            results.append(result)
            if run_depth:
                folder = output / result.model["slug"]
                how: dict[str, Any] = {"cache": default_cache(), "depth": run_depth}
                for part in parts_of(task, data, offline=offline):
                    export_qrels(task, part.collection, part.cells, folder)
                    export_runs(result, task, part.collection, part.cells, folder, **how)
    return results
