"""Boards made up for tests: as many rows, languages and strangers' texts as a test wants."""

import random
import unicodedata
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


# What strangers could call a model, a language or a file: none of it may become anything but text.
PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "--><img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<img src=//e.example/x.png>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<base href=//e.example/>",
    "<meta http-equiv=refresh content='0;url=//e.example'>",
    "<link rel=stylesheet href=//e.example/x.css>",
    "<style>*{display:none}</style>",
    "</style><style>body{background:url(//e.example)}",
    "<form action=//e.example><button>go</button>",
    "<a href=javascript:alert(1)>x</a>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<math><mtext></table><img src=x onerror=alert(1)>",
    "</td></tr></table><h1>over</h1>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<template><script>alert(1)</script></template>",
    '" onmouseover="alert(1)" x="',
    "' onfocus='alert(1)' autofocus='",
    "` onclick=alert(1) `",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "//e.example/x",
    'https://e.example/" onclick="alert(1)',
    "https://user@e.example/",
    "https://e.example\\@f.example/",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}",
    "]]><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\u003cscript\\u003ealert(1)",
    "$\\frac{1}{2}$ \\input{/etc/passwd}",
    "\x00\x1b[31mred\x07",
    "a\u2028b\u2029c\r\nd",
    "\u202egnp.exe\u202c",
    "\u2066\u2067\u2068isolates\u2069\u200f\u200e\u061c",
    "zero\u200bwidth\ufeff\u00ad\u2060",
    "\u05e9\u05dc\u05d5\u05dd \u65e5\u672c\u8a9e \U0001f600 e\u0301",
)


def plain_text(text: str) -> str:
    """What is shown of a stranger's text: escapes of what Unicode does not call printable, by another way."""
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    return "".join(
        c.encode("unicode_escape").decode() if c != " " and unicodedata.category(c) in hidden else c for c in text
    )


def hostile() -> Sheet:
    """Each payload in all texts of an entry, and as a language; the even rows are measured."""
    languages = PAYLOADS
    task = BoardTask(PAYLOADS[0], 1, PAYLOADS[1], languages, ("mono", PAYLOADS[4]))
    rank = Column(task.name, "mono", "AP")
    odd = Column(task.name, "mono", "AP", f"{PAYLOADS[26]}: mono: {PAYLOADS[22]}")
    groups = {PAYLOADS[26]: {PAYLOADS[22]: list(languages[:3])}}
    made = Board("x", PAYLOADS[23], PAYLOADS[3], (task,), (rank, odd), rank, ("AP",), {task.name: groups})
    cells = {Key("mono", a): {"AP": i / 50} for i, a in enumerate(languages)}
    cells |= {Key("cross", a, b): {"AP": 0.5} for a in languages[:8] for b in languages[:8] if a != b}
    entries = []
    for i, text in enumerate(PAYLOADS):
        origin = Reported(text, text, text, text) if i % 2 else Measured(text, text, text, text)
        kind = "reported" if i % 2 else "measured"
        means = {rank: Value(1 - i / 100, 0.0, 1.0), odd: Value(0.5)}
        entries.append(Entry(text, kind, text, {task.name: origin}, means, {task.name: cells}, note=text))
    return Sheet(made, tuple(entries), tuple(range(1, len(PAYLOADS) + 1)))
