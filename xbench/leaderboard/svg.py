"""Plots of matplotlib as parts of a page: its colours, its letters, no styles of their own, strangers' text last.

A page that forbids inline styles forbids those of matplotlib's SVG, so each becomes an attribute; and the few colours
that a plot may use become classes, so that dark and light are the page's to choose.
"""

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What plots are drawn in -> the name that the page's classes have for it.
INK, QUIET, MEASURED, REPORTED, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_CLASSES = {INK: "ink", QUIET: "quiet", MEASURED: "measured", REPORTED: "reported", PAPER: "paper"}
# Of a font its size alone.
_KEPT = {"fill", "stroke", "opacity", "fill-opacity", "stroke-opacity", "stroke-width", "stroke-dasharray"}
_KEPT |= {"font-size", "text-anchor"}
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline(figure: "Figure", name: str, label: str, texts: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """A figure as an `<svg>` element for a page.

    Args:
        figure: drawn in the colours above; its texts are numbers or keys of `texts`.
        name: of the plot, alone on its page: ids begin with it.
        label: what a screen reader says instead of the plot.
        texts: what stands in the figure -> what is shown there. Matplotlib would take a dollar sign for mathematics,
            and warn of letters that its font lacks.
        titles: `gid` of a part -> what is shown when the pointer is on it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    root = Tree.fromstring(out.getvalue())  # noqa: S314 (what matplotlib has just written)
    _clean(root, name, texts, titles)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Tree.tostring(root, encoding="unicode")


def _clean(root: Tree.Element, name: str, texts: Mapping[str, str], titles: Mapping[str, str]) -> None:
    content = Tree.tostring(root, encoding="unicode")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', content))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("style", "metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        about = element.attrib
        key = about.pop("id", "")
        if key in titles:
            title = Tree.Element("title")
            title.text = titles[key]
            element.insert(0, title)
        if key in used:
            about["id"] = f"{name}-{key}"
        if link := about.pop(_LINK, None):
            about["href"] = f"#{name}-{link[1:]}"
        if clip := about.get("clip-path"):
            about["clip-path"] = clip.replace("#", f"#{name}-")
        _restyle(about)
        if about.get("transform", "").startswith("rotate(-0 "):
            del about["transform"]
        for attribute, value in about.items():  # a hundredth of a point is finer than any screen
            about[attribute] = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)
        element.text = texts.get(element.text or "", element.text)
        # Line ends between elements are all that matplotlib puts there.
        element.tail = None
        element.text = element.text if (element.text or "").strip() else None


def _restyle(about: dict[str, Any]) -> None:
    """Attributes for the declarations of a style, classes for its colours."""
    classes = []
    for declaration in about.pop("style", "").split(";"):
        what, _, value = (part.strip() for part in declaration.partition(":"))
        if what == "font" and (size := re.search(r"([\d.]+)px", value)):
            about["font-size"] = size[1]
        elif value in _CLASSES:
            classes.append(f"{what}-{_CLASSES[value]}")
        elif what in _KEPT:
            about[what] = value
    if classes:
        about["class"] = " ".join(classes)
