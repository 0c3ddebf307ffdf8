"""Which languages the files of a folder are in: what the user says, what their names say, what their rows say."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from xbench.errors import DataError, UsageError
from xbench.own.layouts import Layout, Piece, listed, named
from xbench.readers.judged import ALL
from xbench.readers.rows import LANGUAGES, read_texts
from xbench.records import Cell

PAIRS = ("query-passage", "passage-query")


class Wish(NamedTuple):
    """What the user says of the files; see `xbench tasks new --help`."""

    languages: tuple[str, ...] = ()
    queries_in: str | None = None
    passages_in: str | None = None
    pairs: str | None = None
    settings: tuple[str, ...] = ()


class File(NamedTuple):
    """A file of the task: its key, its languages, its path below the folder."""

    key: str
    languages: tuple[str, ...]
    path: str


class Plan(NamedTuple):
    """The files, which languages have queries and passages, and with pools of a cell's own, the cells."""

    files: list[File]
    asked: tuple[str, ...]
    searched: tuple[str, ...]
    cells: tuple[Cell, ...]
    unused: list[str]

    @property
    def languages(self) -> tuple[str, ...]:
        """All of them, those with queries first."""
        return tuple(dict.fromkeys((*self.asked, *self.searched)))


def plan(folder: Path, layout: Layout, wish: Wish) -> Plan:
    """Give every file a key and its languages. Nothing is guessed: a file that no one says the language of is refused.

    Raises:
        UsageError: it is not said which languages there are, or said of ones that are not there.
        DataError: a file of several languages whose rows do not say theirs.
    """
    return _pairs(layout, wish) if wish.pairs else _languages(folder, layout, wish)


def _languages(folder: Path, layout: Layout, wish: Wish) -> Plan:
    fixed = {"queries": wish.queries_in, "passages": wish.passages_in}
    named_in = [a for a in (wish.queries_in, wish.passages_in) if a]
    parts = named([piece for piece in layout.pieces if piece.role != "qrels"])
    known = wish.languages or tuple(dict.fromkeys([*parts, *named_in]))
    joint = [p for p in layout.pieces if not p.part and p.role != "qrels" and not fixed[p.role]]
    if not known or (joint and not wish.languages):
        names = " and ".join(sorted({piece.path for piece in joint}))
        raise UsageError(
            f"{folder}: which language are {names} in? say --language L; or --languages A,B,... where each row says "
            f"its own in a field {LANGUAGES[0]!r}; or --queries-in and --passages-in"
        )
    pieces = [piece for piece in layout.pieces if not piece.part or piece.part in known]
    left = [piece.path for piece in layout.pieces if piece.part and piece.part not in known]
    having: dict[str, list[str]] = {"queries": [], "passages": []}
    languages: dict[Piece, tuple[str, ...]] = {}
    for piece in pieces:
        if piece.role == "qrels":
            languages[piece] = known
            continue
        one = piece.part or fixed[piece.role] or (known[0] if len(known) == 1 else "")
        if one and one not in known:
            raise UsageError(f"{one!r} is not among --languages {','.join(known)}")
        languages[piece] = (one,) if one else known
        having[piece.role] += [one] if one else _said(folder / piece.path, piece.role, known)
    asked, searched = (tuple(a for a in known if a in having[role]) for role in ("queries", "passages"))
    if lacking := [a for a in known if a not in (*asked, *searched)]:
        raise UsageError(
            f"{folder}: no queries and no passages in {listed(lacking)}; found {listed(parts) or 'no names'}"
        )
    if not asked or not searched:
        raise UsageError(f"{folder}: no {'passages' if asked else 'queries'} in {listed(list(known))}")
    several = len(known) > 1
    keys = _keys(pieces, {p: p.part or (ALL if len(languages[p]) > 1 else languages[p][0]) for p in pieces}, several)
    # A language that is nowhere else would be in the qrels alone.
    whole = {a for a in known if a in asked or a in searched}
    files = [File(keys[p], tuple(a for a in languages[p] if a in whole), p.path) for p in pieces]
    return Plan(files, asked, searched, (), sorted([*layout.unused, *left]))


def _said(path: Path, role: str, known: tuple[str, ...]) -> list[str]:
    """The languages that the rows of a file say."""
    return list(dict.fromkeys(row.language for row in read_texts(path, role, known)))


def _keys(pieces: Iterable[Piece], part: dict[Piece, str], several: bool) -> dict[Piece, str]:
    """`<role>/<part>`, with a number where several files are of one; a task of one language needs no part."""
    groups: dict[str, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(f"{piece.role}/{part[piece]}", []).append(piece)
    found: dict[Piece, str] = {}
    for base, group in groups.items():
        for number, piece in enumerate(group, 1):
            short = base if several or len(group) > 1 or base.endswith(f"/{ALL}") else base.partition("/")[0]
            found[piece] = f"{base}/{number:04d}" if len(group) > 1 else short.removesuffix(f"/{ALL}")
    return found


def _pairs(layout: Layout, wish: Wish) -> Plan:
    """Subsets such as `de-en`, each with a pool of its own: the cells of the task."""
    if joint := [piece.path for piece in layout.pieces if not piece.part]:
        raise UsageError(f"--pairs, but {listed(joint)} is of no pair of languages")
    cells = {part: _cell(part, wish) for part in named(layout.pieces)}
    if wish.languages:
        cells = {p: c for p, c in cells.items() if {c.query_language, *c.passage_languages} <= set(wish.languages)}
    cells = {p: c for p, c in cells.items() if c.setting in (wish.settings or c.setting)}
    whole = {p: c for p, c in cells.items() if len({x.role for x in layout.pieces if x.part == p}) == 3}
    if broken := sorted(set(cells) - set(whole)):
        raise DataError(f"subsets {listed(broken)} lack queries, passages or qrels")
    if not whole:
        raise UsageError(f"no pair of languages is left of {listed(named(layout.pieces))}")
    if len({c.name for c in whole.values()}) < len(whole):
        raise UsageError(f"two of the subsets {listed(sorted(whole))} are the same pair of languages")
    pieces = [piece for piece in layout.pieces if piece.part in whole]
    keys = _keys(pieces, {piece: whole[piece.part].name for piece in pieces}, True)
    files = []
    for piece in pieces:
        cell = whole[piece.part]
        sides = {"queries": (cell.query_language,), "passages": cell.passage_languages}
        either = tuple(dict.fromkeys((cell.query_language, *cell.passage_languages)))
        files.append(File(keys[piece], sides.get(piece.role, either), piece.path))
    order = wish.languages or sorted({a for c in whole.values() for a in (c.query_language, *c.passage_languages)})
    asked, searched = {c.query_language for c in whole.values()}, {c.passage_languages[0] for c in whole.values()}
    mono = {c.query_language for c in whole.values() if c.setting == "mono"}
    if mono and mono != asked & searched:
        raise UsageError(
            f"subsets of one language are there for {listed(sorted(mono))}, but not for "
            f"{listed(sorted((asked & searched) - mono))}; choose one setting: --settings cross or --settings mono"
        )
    left = [piece.path for piece in layout.pieces if piece.part not in whole]
    queries, passages = (tuple(a for a in order if a in some) for some in (asked, searched))
    return Plan(files, queries, passages, tuple(whole.values()), sorted([*layout.unused, *left]))


def _cell(part: str, wish: Wish) -> Cell:
    cuts = [(part[:i], part[i + 1 :]) for i, c in enumerate(part) if c == "-"]
    cuts = [cut for cut in cuts if not wish.languages or set(cut) <= set(wish.languages)]
    if part in wish.languages or "-" not in part:
        return Cell("mono", part, (part,))
    if len(cuts) != 1 or not all(cuts[0]):
        if wish.languages and not cuts:
            return Cell("mono", part, (part,))  # of languages that are not wished for
        raise UsageError(
            f"subset {part!r} is no pair of two languages for sure; say which there are: --languages A,B,..."
        )
    query, passage = cuts[0] if wish.pairs == "query-passage" else cuts[0][::-1]
    return Cell("mono" if query == passage else "cross", query, (passage,))
