"""The plots of a study, as SVG: the same values give the same bytes."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xbench.intervals import LEVEL
from xbench.task import SETTINGS
from xbench.train.outcomes import EACH, Outcome, Value
from xbench.train.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; then again, with other marks.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v")
SIZE = 4.0  # inches, of a panel
# Of a fixed salt ids are made, which would be random otherwise; letters stay text.
LOOK: Any = {"svg.hashsalt": "xbench", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True}
WHERE = {"mono": "mono", "cross": "cross from", "multi": "multi"}


def plots(study: Study, found: Outcome) -> dict[str, bytes]:
    """Name -> SVG: each task and measure, as bars or curves; the first measure by language, for each model too."""
    import matplotlib

    drawn = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nobody's own settings
        matplotlib.rcParams.update(LOOK)
        for task in dict.fromkeys(value.task for value in found.values):
            for measure in study.measures:
                name = f"{task}-{measure.replace('@', '-at-')}"
                mine = [v for v in found.values if (v.task, v.measure) == (task, measure) and v.where in SETTINGS]
                if mine:
                    drawn[name] = _panels(f"{measure} on {task}", mine, study)
            for model in dict.fromkeys(model for model, where, _ in found.means if where == task):
                name = f"{task}-{study.measures[0].replace('@', '-at-')}-{model}-languages"
                drawn[name] = _by_language(study, found, model, task)
    return drawn


def _panels(title: str, values: Sequence[Value], study: Study) -> bytes:
    """A panel for each setting."""
    settings = [setting for setting in SETTINGS if any(value.where == setting for value in values)]
    figure, panels = _figure(title, len(settings), SIZE)
    for panel, setting in zip(panels, settings, strict=True):
        mine = [value for value in values if value.where == setting]
        panel.set_title(setting)
        (_curves if study.axis else _bars)(panel, mine, study)
        panel.legend(fontsize=7)
    return _svg(figure)


def _bars(panel: "Axes", values: Sequence[Value], study: Study) -> None:
    """Models side by side, a bar for each variant; whiskers over queries, a dot for each seed."""
    models, variants = list(dict.fromkeys(v.model for v in values)), list(study.variants)
    width = 0.8 / len(variants)
    for i, variant in enumerate(variants):
        for v in (v for v in values if v.variant == variant):
            x = models.index(v.model) + (i - (len(variants) - 1) / 2) * width
            label = variant if v.model == models[0] else None
            panel.bar(x, v.value, width * 0.9, color=COLOURS[i % len(COLOURS)], alpha=0.6, label=label)
            panel.errorbar(x, v.value, _whiskers(v.value, v.over_queries), color="black", capsize=2, linewidth=1)
            panel.scatter([x] * len(v.seeds), v.seeds, 6, color="black", zorder=3)
    panel.set_xticks(range(len(models)), models)


def _curves(panel: "Axes", values: Sequence[Value], study: Study) -> None:
    """A curve for each model and what else a variant sets; whiskers over queries, a dot for each seed."""
    curves: dict[str, list[tuple[float, Value]]] = {}
    for value in values:
        line, x = study.place(value.variant)
        curves.setdefault(f"{value.model} {line}".strip(), []).append((x, value))
    for i, (name, points) in enumerate(curves.items()):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        points.sort(key=lambda point: point[0])
        panel.plot(
            [x for x, _ in points], [v.value for _, v in points], marker=mark, markersize=4, color=colour, label=name
        )
        for at, v in points:
            panel.errorbar(at, v.value, _whiskers(v.value, v.over_queries), color=colour, capsize=2, linewidth=1)
            panel.scatter([at] * len(v.seeds), v.seeds, 4, color="black", zorder=3)
    panel.set_xlabel(study.axis)


def _by_language(study: Study, found: Outcome, model: str, task: str) -> bytes:
    """The first measure by language of the query: mono, cross (from it to each other one), multi."""
    measure = study.measures[0]
    means = {variant: mean for (m, t, variant), mean in found.means.items() if (m, t) == (model, task)}
    first = next(iter(means.values()))
    settings = [s for s in SETTINGS if any(c.cell.setting == s and measure in c.values for c in first.cells)]
    languages = list(dict.fromkeys(cell.cell.query_language for cell in first.cells))
    figure, panels = _figure(f"{measure} of {model} on {task}, by language of the query", len(settings), SIZE * 1.4)
    for panel, setting in zip(panels, settings, strict=True):
        panel.set_title(setting)
        for i, (variant, mean) in enumerate(means.items()):
            groups = mean.groups()[EACH].get(WHERE[setting], {})
            colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
            points = [(a, groups[a]) for a in languages if measure in groups.get(a, {}).get("values", {})]
            x = [languages.index(a) + (i - (len(means) - 1) / 2) * 0.8 / len(means) for a, _ in points]
            panel.plot(
                x, [one["values"][measure] for _, one in points], mark, markersize=4, color=colour, label=variant
            )
            for at, (_, one) in zip(x, points, strict=True):
                ends = _whiskers(one["values"][measure], one["intervals"].get(measure))
                panel.errorbar(at, one["values"][measure], ends, color=colour, capsize=1, linewidth=1)
        panel.set_xticks(range(len(languages)), languages)
        panel.legend(fontsize=7)
    return _svg(figure)


def _whiskers(value: float, ends: Sequence[float] | None) -> list[list[float]] | None:
    return [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]] if ends else None


def _figure(title: str, panels: int, width: float) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, SIZE), layout="constrained")
    figure.suptitle(f"{title} (whiskers: {LEVEL:.0%} over queries)", fontsize=10)
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for each in axes:
        each.grid(axis="y", alpha=0.3)
    return figure, axes


def _svg(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
