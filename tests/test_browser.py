"""The page of a board in a real browser: driven by mouse, by keyboard, by strangers' text; light, dark, phone, desktop.

The browser is XBENCH_CHROMIUM, else chromium or Chrome where the system has one; XBENCH_SHOTS names a folder for the
screenshots.
"""

import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import chromium
from sheets import LANGUAGES, PAYLOADS, hostile, plain_text, sheet

from xbench.leaderboard.page import page
from xbench.leaderboard.rows import Key, Sheet

sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER: pip install playwright")
SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 740}
SHEET = sheet(30, tasks=("xquad-r", "mlqa-r"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if (found := chromium()) is None:
        pytest.skip("NO BROWSER: set XBENCH_CHROMIUM, or apt-get install chromium")
    with sync_api.sync_playwright() as play:
        one = play.chromium.launch(executable_path=found, args=SWITCHES)
        yield one
        one.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {"board": SHEET, "hostile": hostile()}
    for name, one in made.items():
        (folder / f"{name}.html").write_text(page(one), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, files: dict[str, Path]) -> Iterator[Open]:
    """Opens a page; at the end nothing may have been said on the console, asked for, thrown or popped up."""
    contexts, troubles = [], []

    def opened(name: str = "board", size: dict[str, int] = DESKTOP, url: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        one = context.new_page()
        url = url or files[name].as_uri()
        one.on("console", lambda said: troubles.append(f"console: {said.text}"))
        one.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        one.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        one.on("popup", lambda other: troubles.append(f"popup: {other.url}"))
        one.on("request", lambda asked: asked.url != url and troubles.append(f"request: {asked.url}"))
        one.on("framenavigated", lambda frame: frame.url != url and troubles.append(f"went to {frame.url}"))
        one.goto(url)
        return one

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


def shown(one: Any) -> list[str]:
    """The names of the rows that are shown, from the top."""
    rows = "[...document.querySelectorAll('#board tbody tr')].filter(row => row.checkVisibility())"
    return one.evaluate(f"{rows}.map(row => row.querySelector('th button').innerText)")


def by(board: Sheet, column: int, reverse: bool) -> list[str]:
    """Names as a column of the board has them sorted: equal and lacking values keep their order, these at the end."""
    c = board.board.columns[column]
    having = [e for e in board.entries if c in e.means]
    having.sort(key=lambda e: round(e.means[c].value, 4), reverse=reverse)
    return [e.name for e in [*having, *(e for e in board.entries if c not in e.means)]]


def shoot(one: Any, name: str, folder: Path) -> None:
    to = Path(os.environ.get("XBENCH_SHOTS") or folder)
    to.mkdir(parents=True, exist_ok=True)
    one.screenshot(path=to / f"{name}.png")
    assert (to / f"{name}.png").stat().st_size > 10_000


def test_sort_and_filter(visit: Open) -> None:
    one = visit()
    names = [e.name for e in SHEET.entries]
    assert shown(one) == names and one.locator("[aria-sort]").inner_text() == "Rank"
    heads = one.locator("#board thead button")
    # Bigger first where that is better, smaller first for rank distance, and back again.
    for column, reverse in ((0, True), (4, False), (2, True)):
        for way in (reverse, not reverse):
            heads.nth(2 + column).click()
            assert shown(one) == by(SHEET, column, way)
            assert one.locator("[aria-sort]").count() == 1
            sorted_as = one.locator("#board thead th").nth(2 + column).get_attribute("aria-sort")
            assert sorted_as == ("descending" if way else "ascending")
    heads.nth(1).click()
    assert shown(one) == sorted(names)
    heads.nth(0).click()
    assert shown(one) == names
    status = one.get_by_role("status").first
    one.get_by_label("Filter").fill("model-01 TABLE")
    wanted = [e.name for e in SHEET.entries if "model-01" in e.name and e.kind == "reported"]
    assert len(wanted) > 1 and shown(one) == wanted
    assert status.inner_text() == f"{len(wanted)} of 30 rows, by Rank, ascending"
    one.get_by_label("Filter").fill("")
    for kind in ("reported", "measured"):
        one.get_by_label("Kind").select_option(kind)
        assert shown(one) == [e.name for e in SHEET.entries if e.kind == kind]
    one.get_by_label("Kind").select_option("all")
    one.get_by_label("Filter").fill("<nothing>")
    assert shown(one) == [] and status.inner_text().startswith("0 of 30 rows")


def test_columns_and_intervals(visit: Open) -> None:
    one = visit()
    heads = one.locator("#board thead th:visible")
    groups = [i for i, c in enumerate(SHEET.board.columns) if c.group]
    assert heads.count() == 2 + len(SHEET.board.columns) - len(groups)
    one.locator("summary").click()
    one.locator(f"#columns input[value='{groups[0]}']").check()
    one.locator("#columns input[value='1']").uncheck()
    assert heads.count() == 2 + len(SHEET.board.columns) - len(groups)
    head = one.locator("#board thead th").nth(2 + groups[0]).inner_text().split("\n")
    assert head == ["XQUAD-R", "cross", "script: cross from: Latn", "AP"]
    cells = one.locator("#board tbody tr").first.locator("td:visible")
    assert cells.count() == heads.count() - 1, "cells go with their heads"
    one.locator("h1").click()
    assert not one.locator("#columns fieldset").is_visible()
    assert one.locator("#board td small:visible").count()
    one.get_by_role("checkbox", name="Intervals").uncheck()
    assert not one.locator("#board td small:visible").count()


def number(value: float) -> str:
    return f"{value:.4f}"


def test_a_row_opens_on_its_cells(visit: Open) -> None:
    one = visit()
    entry = next(e for e in SHEET.entries if e.kind == "measured" and not e.missing)
    other = next(e for e in SHEET.entries if e.kind == "reported" and not e.missing)
    cells, against = entry.cells["mlqa-r"], other.cells["mlqa-r"]
    one.get_by_role("button", name=entry.name, exact=True).click()
    dialog = one.get_by_role("dialog", name=entry.name)
    origin = entry.origins["mlqa-r"]
    link = dialog.get_by_role("link", name=origin.file)
    assert link.get_attribute("href") == f"../{origin.file}"
    assert {origin.command, origin.sha256} <= set(dialog.locator("code").all_inner_texts())
    dialog.get_by_role("combobox", name="Task").select_option("MLQA-R")
    dialog.get_by_role("combobox", name="Measure").select_option("nDCG@10")
    heat = dialog.locator("table.heat")

    def square(q: str, p: str) -> Any:
        return heat.locator("tbody tr").nth(LANGUAGES.index(q)).locator("td").nth(LANGUAGES.index(p))

    value = {(k.setting, *k[1:]): v["nDCG@10"] for k, v in cells.items()}
    for q, p in (("ar", "zh"), ("zh", "ar"), ("en", "de")):
        assert square(q, p).inner_text() == number(value["cross", q, p])
    assert square("hi", "hi").inner_text() == number(value["mono", "hi", ""])
    assert heat.locator("td.own").count() == 11 and heat.locator("td").count() == 121
    table = dialog.locator("section", has_text="nDCG@10 by language").locator("tbody tr").nth(LANGUAGES.index("ru"))
    others = [a for a in LANGUAGES if a != "ru"]
    out, into = [value["cross", "ru", a] for a in others], [value["cross", a, "ru"] for a in others]
    wanted = [value["mono", "ru", ""], sum(out) / 10, sum(into) / 10, value["multi", "ru", ""]]
    assert table.locator("td").all_inner_texts() == [number(v) for v in wanted]
    dialog.get_by_role("combobox", name="Compare with").select_option(str(SHEET.entries.index(other)))
    difference = round(value["cross", "ar", "zh"], 4) - round(against[Key("cross", "ar", "zh")]["nDCG@10"], 4)
    assert square("ar", "zh").inner_text() == f"{difference:+.4f}".replace("-", "−")
    side = "--better" if difference > 0 else "--worse"
    assert side in square("ar", "zh").evaluate("cell => cell.style.backgroundColor")
    one.keyboard.press("Escape")
    assert not dialog.is_visible()
    # One without values of three cells: what is missing is said, and has no mean.
    lacking = next(e for e in SHEET.entries if e.missing)
    one.get_by_role("button", name=lacking.name, exact=True).click()
    dialog = one.get_by_role("dialog", name=lacking.name)
    assert dialog.get_by_text("3 of 132 cells").count() == 2
    rows = dialog.locator("section", has_text="AP by language").first.locator("tbody tr")
    assert [rows.nth(i).locator("td").last.inner_text() for i in (10, 9, 8)] == ["–"] * 3


def test_values_by_language_alone(visit: Open, tmp_path: Path) -> None:
    """Sources print cross by language of the query: there is no map, and nothing to compare maps with."""
    printed = {"xquad-r": {Key("cross", a): {"AP": 0.25} for a in LANGUAGES}}
    entries = (replace(SHEET.entries[0], cells=printed, missing={"xquad-r": 132}), *SHEET.entries[1:])
    file = tmp_path / "printed.html"
    file.write_text(page(replace(SHEET, entries=entries)), encoding="utf-8")
    one = visit(url=file.as_uri())
    one.locator("#board tbody button").first.click()
    table = one.get_by_role("region", name="AP by language")
    assert table.locator("thead th").all_inner_texts() == ["language", "cross from"]
    assert table.locator("td").all_inner_texts() == ["0.2500"] * 11
    assert not one.locator(".heat").count() and not one.get_by_role("combobox", name="Compare with").is_visible()
    one.keyboard.press("Escape")
    one.locator("#board tbody button").nth(1).click()
    assert one.locator(".heat").is_visible() and one.get_by_role("combobox", name="Compare with").is_visible()


def test_copy(visit: Open) -> None:
    one = visit(permissions=["clipboard-read", "clipboard-write"])
    one.locator("#board tbody button").first.click()
    one.get_by_role("button", name="Copy").first.click()
    one.get_by_text("Copied.").wait_for()
    command = SHEET.entries[0].origins["xquad-r"].command
    assert one.evaluate("navigator.clipboard.readText()") == command
    # Without a clipboard the command is selected.
    one.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    one.get_by_role("button", name="Copy").first.click()
    assert one.evaluate("getSelection().toString()") == command


def tab_to(one: Any, wanted: str, limit: int = 80) -> None:
    """Press Tab until the element of a selector has the focus."""
    for _ in range(limit):
        one.keyboard.press("Tab")
        if one.evaluate("s => document.activeElement.matches(s)", wanted):
            return
    raise AssertionError(f"{wanted} is not within {limit} tabs")


def until(one: Any, expression: str) -> None:
    """Wait for what takes a moment, such as scrolling. The page's policy forbids Playwright's own way."""
    end = time.monotonic() + 5
    while not one.evaluate(expression):
        assert time.monotonic() < end, expression
        one.wait_for_timeout(20)


def test_by_keyboard_alone(visit: Open) -> None:
    one = visit(size=PHONE)
    press = one.keyboard.press
    tab_to(one, ".skip", 1)
    tab_to(one, "#theme", 1)
    press("Enter")
    assert one.evaluate("document.documentElement.dataset.theme") == "dark"
    tab_to(one, "#filter", 1)
    one.keyboard.type("model-00")
    assert len(shown(one)) == 10
    tab_to(one, "#kind", 1)
    press("ArrowDown")
    assert shown(one) == [e.name for e in SHEET.entries if "model-00" in e.name and e.kind == "measured"]
    tab_to(one, "summary", 2)
    press("Enter")
    tab_to(one, "#columns input", 1)
    press("Space")
    assert not one.locator("#board thead th").nth(2).is_visible()
    press("Escape")
    assert (
        one.evaluate("document.activeElement.matches('summary')") and not one.locator("#columns fieldset").is_visible()
    )
    tab_to(one, ".scroll", 1)
    press("ArrowRight")
    until(one, "document.querySelector('.scroll').scrollLeft > 0")
    tab_to(one, "th:nth-child(4) button")
    press("Enter")
    assert one.locator("[aria-sort=descending]").count() == 1
    press("Space")
    assert one.locator("[aria-sort=ascending]").count() == 1
    tab_to(one, "tbody button", 40)
    name = one.evaluate("document.activeElement.innerText")
    press("Enter")
    dialog = one.get_by_role("dialog", name=name)
    assert dialog.is_visible() and one.evaluate("document.activeElement.closest('dialog') !== null")
    tab_to(one, "dialog label:nth-of-type(2) select")
    before = dialog.locator(".heat td").first.inner_text()
    press("ArrowDown")
    assert dialog.locator(".heat td").first.inner_text() != before
    tab_to(one, "dialog .scroll:has(.heat)")
    press("ArrowRight")
    until(one, "document.querySelector('dialog .scroll:has(.heat)').scrollLeft > 0")
    press("Escape")
    assert not dialog.is_visible() and one.evaluate("document.activeElement.innerText") == name


def test_nothing_of_strangers_comes_alive(visit: Open) -> None:
    one = visit("hostile")
    assert len(PAYLOADS) == 50
    texts = [plain_text(text) for text in PAYLOADS]
    assert one.evaluate("[...document.querySelectorAll('#board tbody th button')].map(b => b.textContent)") == texts
    named = {"title": PAYLOADS[23], "h1": PAYLOADS[23], ".lead": PAYLOADS[3], ".facts bdi": PAYLOADS[1]}
    for where, text in named.items():
        assert one.evaluate("s => document.querySelector(s).textContent", where) == plain_text(text)
    opened = """[...document.querySelectorAll('#board tbody button')].map(button => {
        button.click();
        const said = [...document.querySelectorAll('dialog bdi')].map(b => b.textContent);
        document.querySelector('dialog header button').click();
        return said;
    })"""
    for i, said in enumerate(one.evaluate(opened)):
        joined = f"{texts[i]}, {texts[i]}"
        # Name, revision, note; the task; source, address and note, or file, command and version.
        wanted = [texts[i]] * 3 + [texts[1], *([joined, texts[i], texts[i]] if i % 2 else [texts[i]] * 3)]
        assert said[:7] == wanted and set(texts) <= set(said), "and the languages"
    assert one.evaluate("document.scripts.length") == 2
    foreign = "img,iframe,object,embed,base,video,audio,source,template,math,form[action],a[target],script[src]"
    assert one.locator(foreign).count() == 0
    assert one.locator("style").count() == 1 and one.locator("link").count() == 1 and one.locator("meta").count() == 5
    names = one.evaluate("[...new Set([...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()))]")
    assert not [name for name in names if name.startswith("on") or name in ("autofocus", "srcdoc", "formaction")]
    links = one.evaluate("[...document.querySelectorAll('a')].map(a => a.protocol + ' ' + a.getAttribute('href'))")
    assert links and {link.partition(" ")[0] for link in links} == {"file:"}, "no payload is an address"
    assert all(link.partition(" ")[2].startswith(("../", "#")) for link in links)
    unsafe = r"/[^\n\P{C}]|\p{Zl}|\p{Zp}/u"
    assert not one.evaluate(f"{unsafe}.test(document.documentElement.textContent)")


def test_without_scripts(visit: Open) -> None:
    one = visit(java_script_enabled=False)
    assert one.locator("#board tbody tr").count() == 30
    assert one.locator("button:visible, form:visible").count() == 0
    assert one.get_by_text("Scripts are off").is_visible()
    assert one.locator("#board tbody tr").first.locator("td").count() == 1 + len(SHEET.board.columns)


def test_over_http_one_file_is_asked_for(visit: Open, files: dict[str, Path]) -> None:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = files["board"].read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        one = visit(url=f"http://127.0.0.1:{server.server_port}/board.html")
        one.locator("#board tbody button").first.click()
        assert one.locator(".heat").is_visible()
        server.shutdown()
        thread.join()
    assert asked == ["/board.html"]


# Of every text that is seen, the least contrast to what is behind it: WCAG's formula, colours as computed.
CONTRAST = """(root) => {
  const parse = (text) => {
    const n = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    return text.startsWith("color(") ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const e of document.querySelector(root).querySelectorAll("*")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("title")) continue;
    const style = getComputedStyle(e);
    let back = e;
    while (back.parentElement && parse(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
    const ink = style[e.closest("svg") ? "fill" : "color"];
    const [a, b] = [ink, getComputedStyle(back).backgroundColor].map(parse).map(light);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_readable(visit: Open, tmp_path: Path, scheme: str, size: dict[str, int]) -> None:
    one = visit(size=size, color_scheme=scheme)
    name = f"{size['width']}-{scheme}"

    def fits(root: str) -> None:
        wide, seen = one.evaluate(
            "s => [document.querySelector(s).scrollWidth, document.querySelector(s).clientWidth]", root
        )
        assert wide <= seen, root
        contrasts = one.evaluate(CONTRAST, root)
        assert len(contrasts) > 100 and [text for ratio, text in contrasts if ratio < 4.5] == []

    fits("html")
    dark = one.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    shoot(one, name, tmp_path)
    # Scrolled, the heads stay at the top and the names at the left.
    table = one.locator("main > .scroll")
    assert one.evaluate("document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth")
    table.evaluate("e => e.scrollTo(10000, 400)")
    edge, head = table.bounding_box(), one.locator("thead th.name").bounding_box()
    assert abs(head["x"] - edge["x"]) < 2 and abs(head["y"] - edge["y"]) < 2
    shoot(one, f"{name}-scrolled", tmp_path)
    one.locator(".plots svg").first.scroll_into_view_if_needed()
    shoot(one, f"{name}-plots", tmp_path)
    one.locator("#board tbody button").first.click()
    fits("dialog")
    shoot(one, f"{name}-row", tmp_path)
    one.locator(".heat").scroll_into_view_if_needed()
    shoot(one, f"{name}-heat", tmp_path)
    one.get_by_role("combobox", name="Compare with").select_option(index=3)
    fits("dialog")
    one.locator(".heat").scroll_into_view_if_needed()
    shoot(one, f"{name}-difference", tmp_path)
    one.keyboard.press("Escape")
    one.locator("#theme").click()
    assert one.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert one.locator("#theme").inner_text() == f"{scheme.title()} theme"


def test_motion(visit: Open) -> None:
    moves = "getComputedStyle(document.querySelector('#theme')).transitionDuration !== '0s'"
    assert visit().evaluate(moves) and not visit(reduced_motion="reduce").evaluate(moves)
