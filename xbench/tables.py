"""Tables of a result, and the formats they are shown in."""

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.intervals import LEVEL
from xbench.paired import Comparison
from xbench.results import CellResult, Result

FORMATS = ("rich", "md", "csv", "tex")
Value = str | int | float | None


class Table(NamedTuple):
    """A title, column heads and rows; None is a value that does not exist."""

    title: str
    columns: list[str]
    rows: list[list[Value]]


def tables(result: Result, primary: str) -> list[Table]:
    """Mono, cross as a language-by-language matrix of `primary`, multi, and the summary."""
    name = _task(result)
    by_setting: dict[str, list[CellResult]] = {}
    for cell in result.cells:
        by_setting.setdefault(cell.cell.setting, []).append(cell)
    found = []
    if "mono" in by_setting:
        found.append(_by_language(f"{name} mono: query and passage in the same language", by_setting["mono"]))
    if "cross" in by_setting:
        found += _cross(name, by_setting["cross"], by_setting.get("mono", []), primary)
    if "multi" in by_setting:
        found.append(_by_language(f"{name} multi: all languages in one pool", by_setting["multi"]))
    means = result.summary()
    names = list(dict.fromkeys(m for values in means.values() for m in values))
    missing = any(c.missing for c in result.cells)
    rows: list[list[Value]] = []
    for setting, values in means.items():
        cells = [c for c in by_setting[setting] if c.query_ids]
        queries = sum(len(c.query_ids) for c in cells)
        rows.append([setting, len(cells), queries, *(values.get(m) for m in names)])
        if missing:
            rows[-1].insert(3, sum(c.missing for c in cells))
    title = f"{name} summary of {result.model['name']}: macro means over languages (cross: over ordered pairs)"
    columns = ["setting", "cells", "queries", *(["missing"] if missing else []), *names]
    return [
        *found,
        Table(title, columns, rows),
        *group_tables(result),
        *_intervals(result, names),
        *_truncation(result),
    ]


def group_tables(result: Result) -> list[Table]:
    """One table a grouping of languages: a row for each group, where it has cells."""
    found = []
    for name, grouping in result.groups().items():
        places = [
            (where, group, one) for where in grouping if where != "languages" for group, one in grouping[where].items()
        ]
        names = list(dict.fromkeys(m for _, _, one in places for m in one["values"]))
        rows: list[list[Value]] = [
            [where, group, one["cells"], one["queries"], *(one["values"].get(m) for m in names)]
            for where, group, one in places
        ]
        title = f"{_task(result)} by {name}: macro means over the cells of a group, of {result.model['name']}"
        found.append(Table(title, ["where", "group", "cells", "queries", *names], rows))
    return found


def _truncation(result: Result) -> list[Table]:
    """Texts cut and tokens lost by language and role; no table where nothing is cut, or nothing encoded."""
    roles = result.truncation
    known = [cut for by_language in roles.values() for cut in by_language.values() if cut]
    if not any(cut["texts"] for cut in known):
        return []
    languages = list(dict.fromkeys(language for by_language in roles.values() for language in by_language))
    columns = ["language", *(f"{role}: {what}" for role in roles for what in ("texts cut", "tokens lost"))]
    rows: list[list[Value]] = [
        [a, *((by.get(a) or {}).get(what) for by in roles.values() for what in ("texts", "tokens"))] for a in languages
    ]
    return [Table(f"{result.task['name']}: what {result.model['name']} has cut off", columns, rows)]


def _intervals(result: Result, names: list[str]) -> list[Table]:
    """The intervals of the summary."""
    about = result.statistics
    rows: list[list[Value]] = [
        [setting, *(_range(result.intervals.get(setting, {}).get(name)) for name in names)]
        for setting in result.summary()
    ]
    if not about or not names:
        return []
    title = (
        f"{_task(result)} summary, intervals of {about['level']:.0%}: "
        f"bootstrap over {about['clusters']} clusters ({about['cluster']})"
    )
    return [Table(title, ["setting", *names], rows)]


def _range(ends: list[float] | None) -> Value:
    return f"{shown(ends[0])} to {shown(ends[1])}" if ends else None


def bias_tables(result: Result, maps: Mapping[str, NDArray[np.float64]], languages: Sequence[str]) -> list[Table]:
    """Measures of language bias by query language, and matrices by pair of languages."""
    task = _task(result)
    means, ends = result.summary().get("multi", {}), result.intervals.get("multi", {})
    rows: list[list[Value]] = [
        [name, *(c.values.get(name) for c in result.cells), value, _range(ends.get(name))]
        for name, value in means.items()
    ]
    columns = ["measure", *(c.cell.query_language for c in result.cells), "mean", f"{result.statistics['level']:.0%}"]
    found = [Table(f"{task}: language bias of {result.model['name']}, by language of the query", columns, rows)]
    for title, matrix in maps.items():
        lines: list[list[Value]] = [
            [a, *(None if np.isnan(value) else float(value) for value in row)]
            for a, row in zip(languages, matrix, strict=True)
        ]
        found.append(Table(f"{task}: {title}, queries down, passages across", ["query", *languages], lines))
    return [*found, *group_tables(result)]


def comparison_tables(first: Result, second: Result, found: Mapping[str, Sequence[Comparison]]) -> list[Table]:
    """One table a measure: a row for each setting, then for each cell."""
    columns = ["cell", "queries", "first", "second", "difference", f"{LEVEL:.0%}", "p", "p Holm"]
    columns += ["d_z", "wins", "ties", "losses", "detectable"]
    tables = []
    for name, rows in found.items():
        lines: list[list[Value]] = []
        for r in rows:
            values = [r.first, r.second, r.difference, _range([*r.interval[:2]]), r.p, r.p_holm, r.effect]
            lines.append([r.name, r.queries, *values, r.wins, r.ties, r.losses, r.detectable])
        title = f"{_task(first)}: {name} of {second.model['name']} (second) and {first.model['name']} (first)"
        tables.append(Table(title, columns, lines))
    return tables


def _task(result: Result) -> str:
    return f"{result.task['name']}{' with context' if result.task.get('context') else ''}"


def _by_language(title: str, cells: list[CellResult]) -> Table:
    names = list(dict.fromkeys(m for c in cells for m in c.values))
    rows: list[list[Value]] = [
        [c.cell.query_language, len(c.query_ids), c.passages, *(c.values.get(m) for m in names)] for c in cells
    ]
    return Table(title, ["language", "queries", "passages", *names], rows)


def _cross(name: str, cross: list[CellResult], mono: list[CellResult], primary: str) -> list[Table]:
    """A matrix of one measure where most pairs of languages have a cell, else a row for each cell."""
    asked, found = (list(dict.fromkeys(names)) for names in zip(*map(_pair, cross), strict=True))
    searched = [a for a in asked if a in found] + [b for b in found if b not in asked]
    if 2 * len(cross) < len(asked) * len(searched) or 1 in (len(asked), len(searched)):
        table = _by_language(f"{name} cross: query and passage in different languages", cross)
        names = [f"{a}-{b}" for a, b in map(_pair, cross)]
        rows: list[list[Value]] = [[pair, *row[1:]] for pair, row in zip(names, table.rows, strict=True)]
        return [table._replace(columns=["query-passage", *table.columns[1:]], rows=rows)]
    return _matrix(name, asked, searched, {_pair(c): c for c in [*cross, *mono]}, primary)


def _pair(cell: CellResult) -> tuple[str, str]:
    return cell.cell.query_language, cell.cell.passage_languages[0]


def _matrix(
    name: str, asked: list[str], searched: list[str], cells: dict[tuple[str, str], CellResult], primary: str
) -> list[Table]:
    """The cross cells of one measure and their numbers of queries; the diagonal is mono."""
    values: list[list[Value]] = []
    counts: list[list[Value]] = []
    for a in asked:
        row = [cells[a, b].values.get(primary) if (a, b) in cells else None for b in searched]
        off = [v for v, b in zip(row, searched, strict=True) if a != b and v is not None]
        values.append([a, *row, sum(off) / len(off) if off else None])
        counts.append([a, *(len(cells[a, b].query_ids) if (a, b) in cells else None for b in searched)])
    title = f"{name} cross: {primary} by language of the query (down) and of the passages (across)"
    return [
        Table(f"{title}; the diagonal is mono, the mean is without it", ["query", *searched, "mean"], values),
        Table(f"{name} cross: queries with a relevant passage in each cell", ["query", *searched], counts),
    ]


def shown(value: Value) -> str:
    """A cell's text: four decimals, one for values of 10 and more, and a dash for what does not exist."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return plain(str(value))


def plain(text: str) -> str:
    """Names come from strangers: control characters, line breaks among them, are shown as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def side_by_side(results: Sequence[Result], measures: Sequence[str]) -> Table:
    """Results of one task: a row each, macro means of some measures by setting."""
    means = [result.summary() for result in results]
    heads = [(setting, m) for setting in means[0] for m in measures if any(m in some[setting] for some in means)]
    rows: list[list[Value]] = [
        [result.model["name"], *(some[setting].get(m) for setting, m in heads)]
        for result, some in zip(results, means, strict=True)
    ]
    title = f"{_task(results[0])}: models side by side, macro means over languages (cross: over ordered pairs)"
    return Table(title, ["model", *(f"{setting} {m}" for setting, m in heads)], rows)


def render(tables: list[Table], format_: str) -> str:
    """Text in Markdown, CSV (full precision, one block a table) or LaTeX (booktabs)."""
    text = "\n".join({"md": _markdown, "csv": _csv, "tex": _latex}[format_](table) for table in tables)
    return text.rstrip("\n")


def print_rich(tables: list[Table]) -> None:
    """Print to a terminal."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in tables:
        grid = RichTable(title=Text(plain(table.title)), title_justify="left", title_style="bold")
        for i, column in enumerate(table.columns):
            grid.add_column(Text(plain(column)), justify="left" if i == 0 else "right", no_wrap=True)
        for row in table.rows:
            grid.add_row(*(Text(shown(value)) for value in row))
        # As wide as the table: a terminal that breaks a line still shows every digit, a cut column does not.
        width = Measurement.get(Console(width=10_000), Console(width=10_000).options, grid).maximum
        console = Console(file=sys.stdout)
        console.width = max(console.width, width)
        console.print(grid, soft_wrap=False)


# Backslashes before: what marks text up; @ of a mention or an address; : of an address or of an emoji; www.
_MARKUP = re.compile(
    r"([\\`*_\[\]<>|&!~$]|(?<!\w)@|@(?=[\w-]+\.)|(?<=mailto):|(?<=xmpp):|:(?=//)|(?<!\w):(?=[\w+-]+:)|(?<=www)\.)",
    re.IGNORECASE,
)


def inert(text: str) -> str:
    """Text of one line, not at the start of one, in which nothing is Markdown, HTML, a formula or a link."""
    return _MARKUP.sub(r"\\\1", plain(text))


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(map(inert, cells)) + " |"

    rule = "|" + "|".join([" --- "] + [" --: "] * (len(table.columns) - 1)) + "|"
    rows = [line([shown(value) for value in row]) for row in table.rows]
    return "\n".join([f"**{inert(table.title)}**", "", line(table.columns), rule, *rows, ""])


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([no_formula(table.title)])
    writer.writerow([no_formula(c) for c in table.columns])
    for row in table.rows:
        writer.writerow(["" if v is None else no_formula(v) if isinstance(v, str) else repr(v) for v in row])
    return out.getvalue()


def no_formula(text: str) -> str:
    """Text that no spreadsheet takes for a formula, full-width signs included."""
    shown = plain(text)
    return "'" + shown if shown.startswith(tuple("=+-@＝＋－＠")) else shown


_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "–": "--",
}


def latex(text: str) -> str:
    """Text of one line in which nothing is LaTeX."""
    return "".join(_LATEX.get(c, c) for c in plain(text))


def _latex(table: Table) -> str:
    def line(cells: list[str]) -> str:
        text = " & ".join(map(latex, cells))
        guard = "{}" if text.startswith(("[", "*")) else ""  # else an argument of the line break above
        return f"{guard}{text} \\\\"

    head = [r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}", r"\toprule", line(table.columns), r"\midrule"]
    body = [line([shown(value) for value in row]) for row in table.rows]
    return "\n".join([f"% {plain(table.title)}", *head, *body, r"\bottomrule", r"\end{tabular}", ""])
