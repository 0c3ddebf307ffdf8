"""A board as one HTML file that asks nothing of anybody: no server, no other file, no address but those one clicks.

The table is there without scripts; with them it sorts and filters, and each row opens on its cells. Text of strangers
is made harmless three times over: control characters and those that turn the direction of text are shown as escapes
(`tables.plain`), the template escapes HTML, and scripts set text alone. A policy in the page allows its one script and
its one style sheet, by their SHA-256.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbench.catalogue import parse
from xbench.intervals import LEVEL
from xbench.leaderboard import links
from xbench.leaderboard.cells import digits, of_task, scaled, total
from xbench.leaderboard.plots import plots
from xbench.leaderboard.rows import Column, Entry, Measured, Reported, Sheet, Value
from xbench.tables import plain

if TYPE_CHECKING:
    from jinja2 import Template

_ASSETS = Path(__file__).parent / "assets"
# With more columns than this, those of one group of languages are chosen by the reader.
_MANY = 8


def page(sheet: Sheet) -> str:
    """The board as HTML, for `pages/NAME.html` in the folder of boards; the same sheet gives the same text.

    Raises:
        UsageError: matplotlib, which draws the plots, is not installed.
    """
    from markupsafe import Markup

    columns = sheet.board.columns
    titles = {c: _title(sheet, c) for c in columns}
    places = [digits(e.means[c].value for e in sheet.entries if c in e.means) for c in columns]
    script, style = (_asset(name) for name in ("page.js", "page.css"))
    # Within a script element nothing may look like its end, or like a comment.
    data = json.dumps(_data(sheet, places), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return _template().render(
        board=sheet.board,
        plain=plain,
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        script=Markup(script),  # noqa: S704 (a file of this package)
        style=Markup(style),  # noqa: S704 (likewise)
        data=Markup(data),  # noqa: S704 (escaped above)
        columns=[_head(sheet, column) for column in columns],
        rows=[_row(sheet, entry, rank, places) for entry, rank in zip(sheet.entries, sheet.ranks, strict=True)],
        ranked=titles[sheet.board.rank],
        better="lower" if parse(sheet.board.rank.measure).lower_is_better else "higher",
        level=f"{LEVEL:.0%}",
        kinds=[sum(e.kind == kind for e in sheet.entries) for kind in ("measured", "reported")],
        plots=[plot._replace(svg=Markup(plot.svg)) for plot in plots(sheet, titles)],  # noqa: S704 (by ElementTree)
    )


@functools.cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(_asset("page.html.j2"))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _title(sheet: Sheet, column: Column) -> str:
    task = [_task_title(sheet, column.task)] if len(sheet.board.tasks) > 1 else []
    return plain(", ".join([f"{column.setting} {column.measure}", *([column.group] if column.group else []), *task]))


def _task_title(sheet: Sheet, name: str) -> str:
    return next((task.title for task in sheet.board.tasks if task.name == name), name)


def _head(sheet: Sheet, column: Column) -> dict[str, Any]:
    return {
        "task": plain(_task_title(sheet, column.task)) if len(sheet.board.tasks) > 1 else "",
        "setting": plain(column.setting),
        "measure": plain(column.measure),
        "group": plain(column.group),
        "shown": not column.group or len(sheet.board.columns) <= _MANY,
        "rank": column == sheet.board.rank,
    }


def _row(sheet: Sheet, entry: Entry, rank: int | None, places: Sequence[int]) -> dict[str, Any]:
    sources = [f"{o.source}, {o.where}" for o in entry.origins.values() if isinstance(o, Reported)]
    about = [
        *([entry.revision] if entry.revision else []),
        *dict.fromkeys(sources),
        *([entry.note] if entry.note else []),
    ]
    return {
        "rank": rank,
        "name": plain(entry.name),
        "kind": entry.kind,
        "about": plain(" · ".join(about)),
        "values": [_value(sheet, entry, c, p) for c, p in zip(sheet.board.columns, places, strict=True)],
    }


def _value(sheet: Sheet, entry: Entry, column: Column, places: int) -> dict[str, Any]:
    value = entry.means.get(column)
    if value is None:
        lacking = entry.missing.get(column.task, 0)
        of = total(sheet, column.task, sheet.board.detail[0])
        return {"lacking": f"missing: {lacking} of {of} cells" if lacking else "no value"}
    ends = ""
    if value.low is not None and value.high is not None:
        to = "–" if value.low >= 0 else " to "
        ends = f"{value.low:.{places}f}{to}{value.high:.{places}f}"
    origin = entry.origins.get(column.task)
    return {"text": f"{value.value:.{places}f}", "ends": ends, "link": _link(origin), "lacking": ""}


def _link(origin: Measured | Reported | None) -> str | None:
    if origin is None:
        return None
    return links.file(origin.file) if isinstance(origin, Measured) else links.web(origin.url)


def _data(sheet: Sheet, places: Sequence[int]) -> dict[str, Any]:
    """What the script reads; each text in it is shown as it is."""
    board = sheet.board
    tasks, cells = zip(*(of_task(sheet, task) for task in board.tasks), strict=True)
    return {
        "tasks": tasks,
        "measures": [{"name": plain(m), "lower": parse(m).lower_is_better} for m in board.detail],
        "columns": [
            {
                "task": [task.name for task in board.tasks].index(c.task),
                "what": plain(" ".join([c.setting, c.measure, *([c.group] if c.group else [])])),
                "lower": parse(c.measure).lower_is_better,
                "digits": p,
            }
            for c, p in zip(board.columns, places, strict=True)
        ],
        "entries": [
            {
                "name": plain(entry.name),
                "kind": entry.kind,
                "rank": rank,
                "revision": plain(entry.revision),
                "note": plain(entry.note),
                "origins": [_origin(entry.origins.get(task.name)) for task in board.tasks],
                "missing": [entry.missing.get(task.name, 0) for task in board.tasks],
                "means": [_ends(entry.means.get(c), p) for c, p in zip(board.columns, places, strict=True)],
                "cells": [cells[t][i] for t in range(len(board.tasks))],
            }
            for i, (entry, rank) in enumerate(zip(sheet.entries, sheet.ranks, strict=True))
        ],
    }


def _ends(value: Value | None, places: int) -> list[int | None] | None:
    if value is None:
        return None
    found = [scaled(v, places) for v in value]
    return found if value.low is not None and value.high is not None else found[:1]


def _origin(origin: Measured | Reported | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    names = (
        ("file", "sha256", "command", "version") if isinstance(origin, Measured) else ("source", "where", "url", "note")
    )
    return {name: plain(getattr(origin, name)) for name in names} | {"link": _link(origin)}
