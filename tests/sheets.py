"""Boards made up for tests: as many rows, languages and strangers' texts as a test wants."""

import random
from collections.abc import Sequence

from xbench.leaderboard.rows import Board, BoardTask, Column, Entry, Key, Measured, Reported, Sheet, Value

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
DETAIL = ("AP", "RR", "nDCG@10")
SCRIPTS = {"Latn": ["de", "en", "es", "tr", "vi"], "Cyrl": ["ru"], "Arab": ["ar"]}


def columns(task: str = "xquad-r") -> tuple[Column, ...]:
    return (
        Column(task, "multi", "AP"),
        Column(task, "mono", "AP"),
        Column(task, "cross", "AP"),
        Column(task, "multi", "nDCG@10"),
        Column(task, "multi", "RankDistance"),
        Column(task, "multi", "SameLanguageShare@10"),
        Column(task, "cross", "AP", "script: cross from: Latn"),
        Column(task, "mono", "AP", "script: mono: Latn"),
        Column(task, "mono", "AP", "script: mono: Cyrl"),
    )


def keys(languages: Sequence[str] = LANGUAGES) -> list[Key]:
    """mono, cross and multi of each language and pair."""
    mono, multi = ([Key(setting, a) for a in languages] for setting in ("mono", "multi"))
    return [*mono, *(Key("cross", a, b) for a in languages for b in languages if a != b), *multi]


def board(tasks: Sequence[str] = ("xquad-r",), languages: Sequence[str] = LANGUAGES, title: str = "") -> Board:
    return Board(
        name="synthetic",
        title=title or "Answer retrieval in eleven languages",
        description="Find the sentence that answers a question: in one language, across, from a pool of all.",
        tasks=tuple(BoardTask(t, 1, t.upper(), tuple(languages), ("mono", "cross", "multi")) for t in tasks),
        columns=tuple(column for task in tasks for column in columns(task)),
        rank=columns(tasks[0])[0],
        detail=DETAIL,
        groupings={
            task: {"script": {g: [a for a in some if a in languages] for g, some in SCRIPTS.items()}} for task in tasks
        },
    )


def sheet(size: int = 12, seed: int = 0, tasks: Sequence[str] = ("xquad-r",)) -> Sheet:
    """Every third row is reported, every fifth lacks three cells and so has no means, the last two have no rank."""
    rng = random.Random(seed)
    made, entries = board(tasks), []
    for i in range(size):
        skill = 0.65 * (1 - i / size) + 0.05
        reported, lacking = i % 3 == 2, i % 5 == 4 or i >= size - 2
        name = f"sentence-transformers/model-{i:03d}-multilingual-base" if i % 2 else f"model-{i:03d}"
        origins, means, cells = {}, {}, {}
        for task in tasks:
            found = keys()[:-3] if lacking else keys()
            cells[task] = {key: {m: min(1.0, max(0.0, skill * rng.uniform(0.5, 1.4))) for m in DETAIL} for key in found}
            for n, column in enumerate(columns(task)):
                if lacking and column.setting == "multi":
                    continue
                big = column.measure == "RankDistance"
                value = 1000 + 9000 * (1 - skill) * rng.uniform(0.8, 1.2) if big else skill * (1 - 0.05 * n)
                ends = (None, None) if reported else (value * 0.96, value * 1.04)
                means[column] = Value(value, *ends)
            origins[task] = (
                Reported(
                    "arXiv 2408.10536",
                    f"Table {3 + i % 4}, page 8",
                    "https://arxiv.org/abs/2408.10536",
                    "candidates with their context",
                )
                if reported
                else Measured(
                    f"results/model-{i:03d}-6c056d072fbd/{task}.json",
                    f"{i:064x}",
                    f"xbench run hf:{name} -t {task}",
                    "0.1.0",
                )
            )
        missing = {task: 3 for task in tasks} if lacking else {}
        kind = "reported" if reported else "measured"
        entries.append(
            Entry(name, kind, "" if reported else f"{rng.getrandbits(160):040x}", origins, means, cells, missing)
        )
    having = [e for e in entries if made.rank in e.means]
    entries = [
        *sorted(having, key=lambda e: -e.means[made.rank].value),
        *(e for e in entries if made.rank not in e.means),
    ]
    return Sheet(made, tuple(entries), tuple(i + 1 if i < len(having) else None for i in range(size)))
