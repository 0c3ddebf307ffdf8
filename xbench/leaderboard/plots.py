"""The plots of a board: the ranking column and language bias as bars, and rank distance against the ranking column."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xbench.catalogue import parse
from xbench.errors import UsageError
from xbench.leaderboard.cells import digits
from xbench.leaderboard.rows import Column, Entry, Sheet, Value
from xbench.leaderboard.svg import INK, MEASURED, PAPER, QUIET, REPORTED, inline
from xbench.tables import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 40  # entries of a plot
WIDTH = 4.9  # inches: a phone's, so that letters keep their size there
_LETTERS = 22  # of a name beside its bar; wide ones, such as Chinese, count twice
# Ids are made of a fixed salt, which would be random otherwise; letters stay text.
_LOOK: Any = {
    "svg.hashsalt": "xbench",
    "svg.fonttype": "none",
    "font.size": 9,
    "lines.linewidth": 1,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    **dict.fromkeys(["axes.facecolor", "figure.facecolor"], "none"),
    **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], INK),
    **dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color", "grid.color"], QUIET),
}


class Plot(NamedTuple):
    """A plot with what is said of it."""

    title: str
    note: str
    svg: str


class _Point(NamedTuple):
    key: str
    entry: Entry
    rank: int | None
    values: tuple[Value, ...]

    @property
    def colour(self) -> str:
        return MEASURED if self.entry.kind == "measured" else REPORTED

    def title(self, columns: Sequence[Column], places: Sequence[int]) -> str:
        """What is shown when the pointer is on it."""
        said = [f"{c.measure} {v.value:.{p}f}" for c, v, p in zip(columns, self.values, places, strict=True)]
        return f"{plain(self.entry.name)} ({self.entry.kind}): {', '.join(said)}"


def plots(sheet: Sheet, titles: dict[Column, str]) -> list[Plot]:
    """The plots that the columns allow, each of the best entries by the ranking column.

    Args:
        sheet: its columns of one group of languages are left out.
        titles: what a page calls the columns.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("the plots of a page need matplotlib: pip install 'xbench[leaderboards]'") from error
    board = sheet.board
    biased = [c for c in board.columns if not c.group and parse(c.measure).multi_only and c != board.rank]
    distances = [c for c in biased if "RankDistance" in c.measure and c.task == board.rank.task][:1]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nobody's own settings
        matplotlib.rcParams.update(_LOOK)
        drawn = [_bars(sheet, board.rank, titles, "bars")]
        drawn += [_scatter(sheet, c, titles, "distance") for c in distances]
        drawn += [_bars(sheet, c, titles, f"bias{i}") for i, c in enumerate(biased)]
    return [plot for plot in drawn if plot]


def _points(sheet: Sheet, columns: Sequence[Column]) -> tuple[list[_Point], int]:
    """The best entries that have a value of all columns, in order, and how many have."""
    found = [
        _Point(f"e{i}", entry, rank, tuple(entry.means[c] for c in columns))
        for i, (entry, rank) in enumerate(zip(sheet.entries, sheet.ranks, strict=True))
        if all(c in entry.means for c in columns)
    ]
    return found[:MOST], len(found)


def _note(shown: int, having: int, column: str) -> str:
    which = (
        f"The best {shown} of {having} entries with a value, by {column}." if shown < having else "All with a value."
    )
    return f"{which} The numbers are in the table above."


def _better(column: Column) -> str:
    return "lower is better" if parse(column.measure).lower_is_better else "higher is better"


def _bars(sheet: Sheet, column: Column, titles: dict[Column, str], name: str) -> Plot | None:
    points, having = _points(sheet, [column])
    if not points:
        return None
    places = digits(v.value for p in points for v in p.values)
    # The height of a bar is the same in all plots: inches for each, and for the axis below.
    height, below, left, right = 0.2 * len(points), 0.45, 2.15, 0.55
    figure, axes = _figure(height + below + 0.05, left, below, WIDTH - left - right, height)
    texts = {"@x": f"{titles[column]} ({_better(column)})"}
    for y, point in enumerate(points):
        (value,) = point.values
        full = point.entry.kind == "measured"
        style: dict[str, Any] = {"edgecolor": point.colour, "facecolor": point.colour if full else "none"}
        axes.barh(y, value.value, 0.62, **style)[0].set_gid(point.key)
        if ends := _ends(value):
            axes.plot(ends, [y, y], color=INK, solid_capstyle="butt")
        axes.text(1.02, y, f"{value.value:.{places}f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        texts[f"@{point.key}"] = _short(point)
    axes.set_yticks(range(len(points)), [f"@{p.key}" for p in points])
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x")
    axes.set_xlabel("@x")
    label = f"Bars of {titles[column]} for {len(points)} entries, {_better(column)}; the numbers are in the table"
    svg = inline(figure, name, label, texts, {p.key: p.title([column], [places]) for p in points})
    return Plot(titles[column], _note(len(points), having, titles[sheet.board.rank]), svg)


def _scatter(sheet: Sheet, column: Column, titles: dict[Column, str], name: str) -> Plot | None:
    """The column up, the ranking column to the right; points have their rank beside them."""
    across = sheet.board.rank
    points, having = _points(sheet, [across, column])
    if not points:
        return None
    left, below = 0.75, 0.5
    figure, axes = _figure(3.6, left, below, WIDTH - left - 0.1, 3.6 - below - 0.1)
    for point in points:
        x, y = point.values
        if ends := _ends(x):
            axes.plot(ends, [y.value, y.value], color=QUIET, alpha=0.5)
        if ends := _ends(y):
            axes.plot([x.value, x.value], ends, color=QUIET, alpha=0.5)
        full = point.entry.kind == "measured"
        style: dict[str, Any] = {"marker": "o" if full else "D", "markersize": 5 if full else 4.5}
        style |= {"markeredgecolor": point.colour, "markerfacecolor": point.colour if full else PAPER}
        axes.plot([x.value], [y.value], linestyle="none", gid=point.key, **style)
        if point.rank is not None:
            at = (x.value, y.value)
            axes.annotate(str(point.rank), at, xytext=(4, 3), textcoords="offset points", fontsize=7.5)
    axes.grid()
    axes.set_xlabel("@x")
    axes.set_ylabel("@y")
    texts = {"@x": f"{titles[across]} ({_better(across)})", "@y": f"{titles[column]} ({_better(column)})"}
    places = [digits(p.values[i].value for p in points) for i in (0, 1)]
    label = f"{titles[column]} against {titles[across]} for {len(points)} entries; the numbers are in the table"
    svg = inline(figure, name, label, texts, {p.key: p.title([across, column], places) for p in points})
    note = f"Each point has its rank beside it. {_note(len(points), having, titles[across])}"
    return Plot(f"{titles[column]} against {titles[across]}", note, svg)


def _ends(value: Value) -> list[float] | None:
    return None if value.low is None or value.high is None else [value.low, value.high]


def _short(point: _Point) -> str:
    """Its rank and its name; of a long one as many of the last folders as there is room for, or both ends."""
    name = plain(point.entry.name)
    while _width(name) > _LETTERS and "/" in name.removeprefix("…/"):
        name = "…/" + name.removeprefix("…/").partition("/")[2]
    if _width(name) > _LETTERS:
        first, last = name, name
        while _width(first) > _LETTERS // 2 - 1:
            first = first[:-1]
        while _width(last) > _LETTERS // 2:
            last = last[1:]
        name = f"{first}…{last}"
    return name if point.rank is None else f"{point.rank} · {name}"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _figure(height: float, left: float, below: float, width: float, tall: float) -> tuple["Figure", "Axes"]:
    """A figure and its axes, in inches: nothing is laid out by what letters measure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left / WIDTH, below / height, width / WIDTH, tall / height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
