"""The page of a board, as text: what is in it, what could break out of it, and that it is always the same."""

import base64
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sheets import DETAIL, LANGUAGES, PAYLOADS, SCRIPTS, board, hostile, keys, plain_text, sheet

from xbench.errors import UsageError
from xbench.leaderboard import links
from xbench.leaderboard.page import page
from xbench.leaderboard.rows import Column, Entry, Key, Measured, Reported, Sheet, Value
from xbench.tables import plain

VOID = {"meta", "link", "input"}


class Page(HTMLParser):
    """Elements in document order: tag, attributes and all text within; every one must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.all: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        element = (tag, dict(attrs), [])
        self.all.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, texts in self.open:
            texts.append(data)

    def find(self, tag: str, **wanted: str) -> list[str]:
        """The texts of the elements of a tag, with some attributes."""
        return ["".join(x) for t, a, x in self.all if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    def table(self) -> list[list[tuple[str, list[str]]]]:
        """The rows of the board: of each cell its text and its links."""
        rows: list[list[tuple[str, list[str]]]] = []
        for tag, about, texts in self.all:
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append(("".join(texts), []))
            elif tag == "a" and rows and rows[-1]:
                rows[-1][-1][1].append(str(about["href"]))
        return rows


def data(text: str) -> dict[str, Any]:
    (found,) = Page(text).find("script", id="data")
    return json.loads(found)


@pytest.fixture(scope="module")
def made() -> Sheet:
    return sheet(15, tasks=("xquad-r", "mlqa-r"))


@pytest.fixture(scope="module")
def html(made: Sheet) -> str:
    return page(made)


def test_the_table_is_there_without_scripts(made: Sheet, html: str) -> None:
    found = Page(html)
    head, *rows = found.table()
    assert len(found.find("table")) == len(found.find("caption")) == 1 and len(rows) == 15
    scopes = [about.get("scope") for tag, about, _ in found.all if tag == "th"]
    assert scopes == ["col"] * (2 + 18) + ["row"] * 15 and [t for t, a, _ in found.all if "aria-sort" in a] == ["th"]
    assert [text for text, _ in head[:2]] == ["Rank", "Model"]
    columns = made.board.columns
    for (text, _), c in zip(head[2:], columns, strict=True):
        assert text.split() == [c.task.upper(), c.setting, *c.group.split(), c.measure]
    for row, entry, rank in zip(rows, made.entries, made.ranks, strict=True):
        assert row[0][0] == ("–" if rank is None else str(rank))
        origin = entry.origins["xquad-r"]
        about = entry.revision if isinstance(origin, Measured) else f"{origin.source}, {origin.where}"
        assert row[1][0] == f"{entry.name}{entry.kind} {about}"
        for (text, hrefs), c in zip(row[2:], columns, strict=True):
            if (value := entry.means.get(c)) is None:
                assert (text, hrefs) == ("missing: 3 of 132 cells", [])
                continue
            form = "{:.1f}" if c.measure == "RankDistance" else "{:.4f}"
            ends = "" if value.low is None else "–".join(map(form.format, value[1:]))
            assert text == form.format(value.value) + ends
            mine = entry.origins[c.task]
            assert hrefs == [f"../{mine.file}" if isinstance(mine, Measured) else mine.url]
    assert {"missing: 3 of 132 cells"} < {text for row in rows for text, _ in row}
    assert "Ranked by multi AP, XQUAD-R (higher is better)" in found.find("caption")[0]
    assert found.find("html", lang="en")


def test_less_is_better_and_no_value(made: Sheet) -> None:
    rank = Column("xquad-r", "multi", "RankDistance")
    other = replace(made, board=replace(made.board, rank=rank))
    assert "RankDistance, XQUAD-R (lower is better)" in Page(page(other)).find("caption")[0]
    # Nothing is missing, but this measure was not printed; and an interval with an end below zero.
    entry = replace(made.entries[0], means={made.board.rank: Value(-0.1, -0.2, 0.1)}, missing={})
    _, row = Page(page(Sheet(made.board, (entry,), (1,)))).table()
    assert [text for text, _ in row[2:4]] == ["-0.1000-0.2000 to 0.1000", "no value"]


def test_the_same_bytes(html: str, tmp_path: Path) -> None:
    """In another process, with other hashes, another clock and somebody's own settings of matplotlib."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.hashsalt: other\naxes.grid: true\n")
    code = "import sys; from sheets import sheet; from xbench.leaderboard.page import page\n"
    code += "sys.stdout.buffer.write(page(sheet(15, tasks=('xquad-r', 'mlqa-r'))).encode())"
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    other = {"PYTHONHASHSEED": "7", "MPLCONFIGDIR": str(tmp_path), "MATPLOTLIBRC": str(tmp_path), "TZ": "Asia/Tokyo"}
    env = os.environ | other | {"PYTHONPATH": os.pathsep.join(paths)}
    out = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, check=True).stdout
    assert out == html.encode()


def test_the_policy_allows_what_is_there_and_nothing_else(html: str) -> None:
    found = Page(html)

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    (script,) = [x for t, a, x in found.all if t == "script" and "type" not in a]
    (style,) = found.find("style")
    (policy,) = [a["content"] for _, a, _ in found.all if a.get("http-equiv") == "Content-Security-Policy"]
    wanted = f"default-src 'none'; script-src {hashed(''.join(script))}; style-src {hashed(style)}; img-src data:; "
    assert policy == wanted + "base-uri 'none'; form-action 'none'"
    tags = [tag for tag, _, _ in found.all]
    assert tags.index("meta") < tags.index("style") and tags.count("script") == 2 and tags.count("style") == 1
    assert "url(" not in style and "@import" not in style


def test_no_part_of_a_page_acts_or_asks(html: str) -> None:
    for text in (html, page(hostile())):
        found = Page(text)
        names = {name for _, about, _ in found.all for name in about}
        assert not {n for n in names if n.startswith("on")} and not names & {
            "style",
            "src",
            "srcset",
            "action",
            "target",
        }
        assert {a["href"] for t, a, _ in found.all if t == "link"} == {"data:,"}
        known = (
            "html head meta title link style body a header footer main div h1 h2 h3 p ul li bdi b small span form label"
        )
        known += " input select option details summary fieldset legend table caption thead tbody tr th td button code"
        known += " dialog script figure figcaption svg g path text use defs clippath rect title"
        assert {tag for tag, _, _ in found.all} <= set(known.split())
        ids = [a["id"] for _, a, _ in found.all if "id" in a]
        assert len(ids) == len(set(ids))
        local = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert set(local) <= set(ids) and len(local) > 10


def test_strangers_are_text() -> None:
    found = Page(page(hostile()))
    head, *rows = found.table()
    texts = [plain_text(text) for text in PAYLOADS]
    assert len(PAYLOADS) == len(set(texts)) == 50 and list(map(plain, PAYLOADS)) == texts
    for i, row in enumerate(rows):
        about = f"{texts[i]} · {texts[i]}, {texts[i]} · {texts[i]}" if i % 2 else f"{texts[i]} · {texts[i]}"
        assert row[1][0] == f"{texts[i]}{'reported' if i % 2 else 'measured'} {about}"
        for _, hrefs in row[2:]:
            assert all(re.fullmatch(r"\.\./(?:[\w.~-]|%[0-9A-F]{2})+(?:/(?:[\w.~-]|%[0-9A-F]{2})+)*", h) for h in hrefs)
            assert not (i % 2 and hrefs), "none of them is an address"
    assert "mono: ".join([texts[26] + ": ", texts[22]]) in head[3][0]
    assert [a["abbr"] for t, a, _ in found.all if "abbr" in a] == texts
    inside = data(page(hostile()))
    assert [e["name"] for e in inside["entries"]] == texts == inside["tasks"][0]["languages"]
    (raw,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page(hostile()), re.S)
    assert not set("<>&") & set(raw) and json.loads(raw) == inside


@pytest.mark.parametrize(
    "url",
    [
        *("https://arxiv.org/abs/2408.10536", "http://e.example", "https://e.example:8080/a/b?c=d&e=f#g"),
        *("HTTPS://E.example/", "https://e.example/a(b)%20c~d", "https://1.2.3.4/"),
    ],
)
def test_addresses(url: str) -> None:
    assert links.web(url) == url


@pytest.mark.parametrize(
    "url",
    [
        *PAYLOADS,
        *(
            "",
            "e.example",
            "ftp://e.example/",
            "file:///etc/passwd",
            "https:/e.example",
            "https:///e.example",
            "https://",
        ),
        *(" https://e.example/", "https://e.example/\n", "https://e.example/a b", "https://u:p@e.example/"),
        *("https://e.example:port/", "https://e.example/\u00e9", "https://\u0435.example/", "https://e.example\\f"),
        *("https://-e.example/", "https://e.example-/", "https://e.example:123456/", "https://e.example/<b>"),
    ],
)
def test_no_addresses(url: str) -> None:
    assert links.web(url) is None


def test_files() -> None:
    assert links.file("results/hash-6c/xquad-r.json") == "../results/hash-6c/xquad-r.json"
    assert links.file("results/a b/c#d?é%.json") == "../results/a%20b/c%23d%3F%C3%A9%25.json"
    assert links.file("javascript:alert(1)") == "../javascript%3Aalert%281%29"
    assert links.file("a\\..\\b") == "../a%5C..%5Cb"
    for path in ("", "/etc/passwd", "../secret", "a/../../b", "a//b", "./a", "a/\u202eb", "a\nb", "\ud800"):
        assert links.file(path) is None


def test_the_cells_in_the_page(made: Sheet, html: str) -> None:
    """Each value to four places as Python prints them; means over cells by another way."""
    inside = data(html)
    assert inside["measures"] == [{"name": m, "lower": False} for m in DETAIL]
    for t, task in enumerate(inside["tasks"]):
        name = task["name"]
        assert task["languages"] == list(LANGUAGES) and task["total"] == 132 and task["digits"] == [4, 4, 4]
        places = [Key(s, LANGUAGES[q], LANGUAGES[p] if p >= 0 else "") for s, q, p in task["cells"]]
        assert places == keys(), "in the order of the settings and of the languages"
        for entry, found in zip(made.entries, inside["entries"], strict=True):
            cells, (own, means) = entry.cells[name], found["cells"][t]
            for m, values, over in zip(DETAIL, own, means, strict=True):
                for key, value in zip(places, values, strict=True):
                    assert value == (int(f"{cells[key][m]:.4f}".replace(".", "")) if key in cells else None)
                for (where, group, n), value in zip(task["means"], over, strict=True):
                    wanted = over_cells(entry, name, where, group, m)
                    some = [v for v in wanted if v is not None]
                    assert n == len(wanted)
                    assert value == (round(statistics.fmean(some) * 10**4) if len(some) == n else None)
    wheres = [f"script: {where}" for where in ("mono", "cross from", "cross to", "cross within", "multi")]
    assert list(dict.fromkeys(where for where, _, _ in inside["tasks"][0]["means"])) == [
        "cross from",
        "cross to",
        *wheres,
    ]


def over_cells(entry: Entry, task: str, where: str, group: str, measure: str) -> list[float | None]:
    """The values that a mean is over, by its definition: None for one that lacks."""
    cells = {(k.setting, *k[1:]): v[measure] for k, v in entry.cells[task].items()}
    of = {a: next((g for g, some in SCRIPTS.items() if a in some), "other") for a in LANGUAGES}
    pairs = [(a, b) for a in LANGUAGES for b in LANGUAGES if a != b]
    if where in ("cross from", "cross to"):
        return [cells.get(("cross", *p)) for p in pairs if p[where == "cross to"] == group]
    setting = where.removeprefix("script: ")
    if setting in ("mono", "multi"):
        return [cells.get((setting, a, "")) for a in LANGUAGES if of[a] == group]
    if setting == "cross within":
        kind = {
            p: "other" if "other" in (of[p[0]], of[p[1]]) else ("different", "same")[of[p[0]] == of[p[1]]]
            for p in pairs
        }
        return [cells.get(("cross", *p)) for p in pairs if kind[p] == group]
    return [cells.get(("cross", *p)) for p in pairs if of[p[setting == "cross to"]] == group]


def small(cells: dict[Key, float], missing: int, settings: tuple[str, ...] = ("mono", "cross")) -> dict[str, Any]:
    """What a page says of an entry with some cells of three languages: `where group` -> its mean."""
    made = board(languages=("ar", "de", "en"))
    made = replace(made, tasks=(replace(made.tasks[0], settings=settings),), detail=("AP",), groupings={})
    origins = {"xquad-r": Reported("a", "b", "https://e.example/")}
    values = {key: {"AP": value} for key, value in cells.items()}
    entry = Entry("a", "reported", "", origins, {made.rank: Value(0.5)}, {"xquad-r": values}, {"xquad-r": missing})
    inside = data(page(Sheet(made, (entry,), (1,))))
    (task,), (one,) = inside["tasks"], inside["entries"]
    return {f"{w} {g}": v for (w, g, _), v in zip(task["means"], one["cells"][0][1][0], strict=True)} | {
        "total": task["total"]
    }


def test_means_are_of_all_cells_or_are_not() -> None:
    pairs = [("ar", "de"), ("de", "ar"), ("ar", "en")]
    cross = {Key("cross", a, b): 0.1 * i for i, (a, b) in enumerate(pairs, 1)}
    # A task of three pairs alone has them all; one that lacks some has no mean, for nobody can say which.
    whole = {
        "cross from ar": 2000,
        "cross from de": 2000,
        "cross to ar": 2000,
        "cross to de": 1000,
        "cross to en": 3000,
    }
    assert small(cross, 0) == whole | {"cross from en": None, "total": 3}
    assert small(cross, 2) == dict.fromkeys([*whole, "cross from en"]) | {"total": 5}
    # A source that prints cross by language of the query alone: that is shown as printed.
    printed = {Key("cross", a): 0.25 for a in ("ar", "de")} | {Key("mono", "ar"): 0.75}
    assert small(printed, 8) == {"cross from ar": 2500, "cross from de": 2500, "cross from en": None, "total": 9}
    # All pairs of the languages are there, so what is missing is elsewhere.
    every = {Key("cross", a, b): 0.5 for a in ("ar", "de", "en") for b in ("ar", "de", "en") if a != b}
    found = small(every, 3)
    assert found.pop("total") == 9 and set(found.values()) == {5000} and len(found) == 6


def test_a_board_without_entries(made: Sheet) -> None:
    found = Page(page(Sheet(made.board, (), ())))
    assert len(found.table()) == 1 and "No entries yet." in found.find("p") and not found.find("h2")


def test_few_bytes_for_big_values(made: Sheet) -> None:
    far = replace(made.board, detail=("RankDistance",), tasks=made.board.tasks[:1])
    cells = {Key("multi", "ar"): {"RankDistance": 5195.65}, Key("multi", "de"): {"RankDistance": 3.14159}}
    entry = replace(made.entries[0], cells={"xquad-r": cells}, missing={"xquad-r": 130})
    far = replace(far, columns=far.columns[:9])
    inside = data(page(Sheet(far, (entry,), (1,))))
    assert inside["tasks"][0]["digits"] == [1] and inside["entries"][0]["cells"][0][0] == [[51956, 31]]
    assert inside["measures"] == [{"name": "RankDistance", "lower": True}] and inside["tasks"][0]["total"] == 132


def test_plots() -> None:
    many = sheet(60)
    names = [e.name for e in many.entries]
    found = Page(page(many))
    titles = ["multi AP", "multi RankDistance against multi AP", "multi RankDistance", "multi SameLanguageShare@10"]
    assert found.find("h3") == titles
    labels = [str(a["aria-label"]) for t, a, _ in found.all if t == "svg"]
    assert len(labels) == 4 and all(a.get("role") == "img" for t, a, _ in found.all if t == "svg")
    assert labels[0] == "Bars of multi AP for 40 entries, higher is better; the numbers are in the table"
    having = sum(many.board.rank in e.means for e in many.entries)
    note = f"The best 40 of {having} entries with a value, by multi AP. The numbers are in the table above."
    assert found.find("p", **{"class": "quiet"}).count(note) == 3 and having > 40
    tips = [x for x in found.find("title")[1:]]
    ap, far = (Column("xquad-r", "multi", m) for m in ("AP", "RankDistance"))
    best = many.entries[:40]
    assert tips[:40] == [f"{e.name} ({e.kind}): AP {e.means[ap].value:.4f}" for e in best]
    wanted = [f"AP {e.means[ap].value:.4f}, RankDistance {e.means[far].value:.1f}" for e in best]
    assert [tip.partition(": ")[2] for tip in tips[40:80]] == wanted
    texts = found.find("text")
    assert f"{best[0].means[ap].value:.4f}" in texts and f"1 · {names[0]}" in texts and len(tips) == 160
    # A name of 49 letters: from its last slash, both ends.
    assert names[1] == "sentence-transformers/model-001-multilingual-base" and "2 · …/model-00…ingual-base" in texts
    colours = {v for t, a, _ in found.all for k, v in a.items() if k in ("fill", "stroke")}
    assert colours == {"none"}, "colours are classes"
    few = Page(page(sheet(8)))
    assert "All with a value. The numbers are in the table above." in few.find("p", **{"class": "quiet"})


def bar(text: str, gid: str) -> float:
    """The length of the first bar with this title, in points."""
    (path,) = re.findall(rf"<title>{re.escape(gid)}[^<]*</title><path d=\"([^\"]+)\"", text)[:1]
    xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)]
    return max(xs) - min(xs)


def test_bars_are_as_long_as_the_values() -> None:
    one = sheet(30)
    text = page(one)
    first, last = one.entries[0], [e for e in one.entries if one.board.rank in e.means][-1]
    wanted = first.means[one.board.rank].value / last.means[one.board.rank].value
    assert math.isclose(bar(text, f"{first.name} (") / bar(text, f"{last.name} ("), wanted, rel_tol=1e-3)


def test_names_that_fonts_and_mathematics_would_trip_over() -> None:
    one = sheet(10)
    names = ["$\\frac{1}{0$", "日本語" * 12, "עברית", "\u202eabc", "hybrid/static/hybrid/seed-0", "a/" + "b" * 30]
    entries = tuple(replace(e, name=name) for e, name in zip(one.entries, names, strict=False))
    texts = Page(page(replace(one, entries=entries, ranks=one.ranks[:6]))).find("text")
    wanted = [
        "$\\frac{1}{0$",
        "日本語日本…本語日本語",
        "עברית",
        "\\u202eabc",
        "…/static/hybrid/seed-0",
        "…/bbbbbbbb…bbbbbbbbbbb",
    ]
    assert [text for text in texts if " · " in text][:6] == [f"{i} · {name}" for i, name in enumerate(wanted, 1)]


def test_the_plots_need_matplotlib(made: Sheet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"need matplotlib: pip install 'xbench\[leaderboards\]'"):
        page(made)


def test_a_board_of_200(tmp_path: Path) -> None:
    text = page(sheet(200))
    assert len(text.encode()) < 2_000_000 and len(Page(text).table()) == 201


def test_the_script_can_stand_in_a_page() -> None:
    """Nothing in the files ends the element they stand in, and the policy holds for the bytes as they are read."""
    folder = Path(links.__file__).parent / "assets"
    script, style = ((folder / name).read_bytes() for name in ("page.js", "page.css"))
    assert b"</script" not in script.lower() and b"<!--" not in script and b"</style" not in style.lower()
    assert b"\r" not in script + style
    # What makes HTML of text, runs text, keeps or sends anything.
    banned = "innerHTML outerHTML insertAdjacentHTML document.write eval( Function( localStorage fetch( XMLHttpRequest"
    assert not [word for word in banned.split() if word.encode() in script]
