"""A board as Markdown, CSV and LaTeX; the same sheet gives the same bytes."""

import csv
import io
import re
from collections.abc import Sequence

from xbench.catalogue import parse
from xbench.leaderboard.rows import Column, Entry, Measured, Reported, Sheet
from xbench.leaderboard.sheet import best, heading
from xbench.tables import inert, latex, no_formula

DASH = "–"


def shown(entry: Entry, column: Column) -> str:
    """A value's text: four decimals, one for values of 10 and more; of a printed number no more than it has."""
    value = entry.means.get(column)
    if value is None:
        return DASH
    text = f"{value.value:,.1f}" if abs(value.value) >= 10 else f"{value.value:.4f}"
    return min(text, repr(value.value), key=len) if entry.kind == "reported" and value.value < 10 else text


def _missing(sheet: Sheet, entry: Entry) -> str:
    several = len(sheet.board.tasks) > 1
    return ", ".join(f"{name + ': ' if several else ''}{n}" for name, n in entry.missing.items())


def _rank(rank: int | None) -> str:
    return DASH if rank is None else str(rank)


def markdown(sheet: Sheet) -> str:
    """A table of the columns, best values bold; below it where each row comes from."""
    board = sheet.board
    tasks = ", ".join(f"`{task.name}` (version {task.version})" for task in board.tasks)
    direction = "lowest" if parse(board.rank.measure).lower_is_better else "highest"
    lines = [
        "<!-- Made by `xbench leaderboard build`: do not edit. -->",
        "",
        f"# {inert(board.title)}",
        "",
        *([_paragraph(board.description), ""] if board.description else []),
        f"Tasks: {tasks}. Ranked by {inert(heading(board, board.rank))}, {direction} first; the best value of a column "
        "is bold. A measured row was evaluated by xbench, its values are linked to the result file; a reported row is "
        "what others have printed, by their own programs. Missing: cells without a value of the ranking measure; a "
        "mean is shown only where all its cells are there, or where the source prints it.",
        "",
    ]
    columns = [heading(board, column) for column in board.columns]
    bests = [best(sheet, column) for column in board.columns]
    lines += [_row(["rank", "model", "kind", "revision", *map(inert, columns), "missing"])]
    lines += ["|" + "|".join([" --: ", " --- ", " --- ", " --- ", *[" --: "] * (len(columns) + 1)]) + "|"]
    for entry, rank in zip(sheet.entries, sheet.ranks, strict=True):
        values = [_value(entry, column, top) for column, top in zip(board.columns, bests, strict=True)]
        start = [_rank(rank), inert(entry.name), entry.kind, inert(entry.revision[:12])]
        lines.append(_row([*start, *values, inert(_missing(sheet, entry))]))
    return "\n".join([*lines, *_measured(sheet), *_reported(sheet)]) + "\n"


def _paragraph(text: str) -> str:
    """Text that may stand at the start of a line: neither a heading nor an item of a list."""
    return re.sub(r"^(\d*)(?=[-+=#.)])", r"\1\\", inert(" ".join(text.split())))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(entry: Entry, column: Column, top: float | None) -> str:
    text = shown(entry, column)
    value, origin = entry.means.get(column), entry.origins.get(column.task)
    if value is not None and value.value == top:
        text = f"**{text}**"
    # Folders of results are ASCII letters, digits, dots and hyphens: `entries` refuses others.
    return f"[{text}](../{origin.file})" if value is not None and isinstance(origin, Measured) else text


def _measured(sheet: Sheet) -> list[str]:
    rows = [
        _row([inert(entry.name), task, inert(origin.command), inert(origin.version), f"`{origin.sha256[:12]}`", note])
        for entry in sheet.entries
        for task, origin in entry.origins.items()
        if isinstance(origin, Measured)
        for note in [inert(entry.note)]
    ]
    if not rows:
        return []
    head = [_row(["model", "task", "command", "xbench", "SHA-256", "note"]), "|" + " --- |" * 6]
    return ["", "## Measured", "", *head, *rows]


def _reported(sheet: Sheet) -> list[str]:
    rows = [
        _row([inert(entry.name), task, f"[{inert(o.source)}]({o.url}), {inert(o.where)}", inert(_said(entry, o))])
        for entry in sheet.entries
        for task, o in entry.origins.items()
        if isinstance(o, Reported)
    ]
    if not rows:
        return []
    return ["", "## Reported", "", _row(["model", "task", "source", "note"]), "|" + " --- |" * 4, *rows]


def _said(entry: Entry, origin: Reported) -> str:
    """What differs from how the task measures, and the entry's own note unless that holds it."""
    return origin.note if entry.note in origin.note else " ".join(filter(None, [origin.note, entry.note]))


def csv_text(sheet: Sheet) -> str:
    """A row an entry, at full precision; `low` and `high` are the ends of the interval."""
    board = sheet.board
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [heading(board, column) for column in board.columns]
    ends = [name + end for name in columns for end in ("", " low", " high")]
    head = ["rank", "model", "kind", "revision", *ends, "missing", "sources", "note"]
    writer.writerow([no_formula(name) for name in head])
    for entry, rank in zip(sheet.entries, sheet.ranks, strict=True):
        values = [entry.means.get(column) for column in board.columns]
        numbers = ["" if n is None else repr(n) for v in values for n in (v or (None, None, None))]
        sources = "; ".join(
            origin.file if isinstance(origin, Measured) else f"{origin.source}, {origin.where}, {origin.url}"
            for origin in entry.origins.values()
        )
        text = [no_formula(each) for each in (entry.name, entry.kind, entry.revision)]
        last = [no_formula(each) for each in (_missing(sheet, entry), sources, entry.note)]
        writer.writerow(["" if rank is None else rank, *text, *numbers, *last])
    return out.getvalue()


def latex_text(sheet: Sheet) -> str:
    """A table for booktabs, best values bold; reported rows are marked by a dagger."""
    board = sheet.board
    lines = [
        f"% {latex(board.title)}; made by xbench leaderboard build. $^\\dagger$: reported by others, not measured.",
        r"\begin{tabular}{rl" + "r" * len(board.columns) + "}",
        r"\toprule",
        " & ".join(["", "model", *(latex(heading(board, column)) for column in board.columns)]) + r" \\",
        r"\midrule",
    ]
    bests = [best(sheet, column) for column in board.columns]
    for entry, rank in zip(sheet.entries, sheet.ranks, strict=True):
        values = []
        for column, top in zip(board.columns, bests, strict=True):
            text, value = latex(shown(entry, column)), entry.means.get(column)
            values.append(rf"\textbf{{{text}}}" if value is not None and value.value == top else text)
        mark = r"$^\dagger$" if entry.kind == "reported" else ""
        lines.append(" & ".join([latex(_rank(rank)), latex(entry.name) + mark, *values]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def index(sheets: Sequence[Sheet]) -> str:
    """A table of all boards, for `leaderboards/README.md`."""
    lines = [
        "<!-- Made by `xbench leaderboard build`: do not edit. -->",
        "",
        "# Leaderboards",
        "",
        "Boards, the numbers that they show and the pages made from them; docs/leaderboards.md says how to build, "
        "extend and verify them. Measured rows were evaluated by xbench, reported ones printed by others.",
        "",
        _row(["board", "what", "measured", "reported", "tables", "page"]),
        "| --- | --- | --: | --: | --- | --- |",
    ]
    for sheet in sheets:
        name = sheet.board.name
        kinds = [entry.kind for entry in sheet.entries]
        tables = f"[Markdown](tables/{name}.md), [CSV](tables/{name}.csv), [LaTeX](tables/{name}.tex)"
        counts = [str(kinds.count("measured")), str(kinds.count("reported"))]
        lines.append(_row([f"`{name}`", inert(sheet.board.title), *counts, tables, f"[HTML](pages/{name}.html)"]))
    return "\n".join(lines) + "\n"
