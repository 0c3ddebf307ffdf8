"""Which file of a folder is what: BEIR's folder, MTEB's dataset, files named by what they hold.

BEIR (beir/datasets/data_loader.py): `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`. MTEB (mteb/abstasks/
retrieval_dataset_loaders.py): configurations `corpus`, `queries` (or `query`), `default` (or `qrels`), and with a
subset, mostly a language, `<subset>-corpus`, `<subset>-queries`, `<subset>-qrels`; the dataset's card says which files
they have. All others, as ir_datasets and TREC give them: names made of a word for what is in a file, a language and a
split in any order, as in `docs.de.tsv`, `de/queries.jsonl.gz`, `qrels.de.test.txt`, `corpus/de/part-00001.jsonl`.
"""

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from xbench.errors import DataError, UsageError
from xbench.own.card import Card, read_card
from xbench.readers.checks import shown
from xbench.readers.rows import suffix

LAYOUTS = ("beir", "mteb", "jsonl", "tsv")
_WORDS = {
    "passages": ("corpus", "passages", "docs", "documents", "collection"),
    "queries": ("queries", "query", "topics"),
    "qrels": ("qrels",),
}
_ROLE = {word: role for role, words in _WORDS.items() for word in words}
_SPLITS = ("train", "dev", "test", "validation", "val")
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_NUMBER = re.compile(r"([a-z]+-)?[0-9]{1,6}(-of-[0-9]{1,6})?")


# Which kinds of file a layout takes, where it does not take all.
_KINDS = {
    "beir": {"passages": (".jsonl",), "queries": (".jsonl",), "qrels": (".tsv",)},
    "jsonl": {"passages": (".jsonl",), "queries": (".jsonl",)},
    "tsv": dict.fromkeys(_WORDS, (".tsv",)),
}


class Piece(NamedTuple):
    """A file, or one of several that follow each other: its role, its part (a language or subset, or none), path."""

    role: str
    part: str
    path: str  # below the folder


class Layout(NamedTuple):
    """The files in use, those that are not, and what the card says of the licence."""

    pieces: list[Piece]
    unused: list[str]
    licence: str = ""


def find(folder: Path, layout: str | None, split: str, languages: tuple[str, ...]) -> Layout:
    """What is where in a folder.

    Args:
        folder: of the files.
        layout: one of `LAYOUTS`; None: `mteb` where a card says which files there are, else by the names.
        split: of the qrels; also of queries and passages where there are several.
        languages: known ones, so that a part of a file's name is taken for one.

    Raises:
        DataError: no folder, no qrels of the split, no queries or no passages.
        UnsafeInput, StorageError: as `card.read_card`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected one with passages, queries and qrels")
    card = read_card(folder) if layout in (None, "mteb") else None
    if card and any(_config(name, card.configs) for name in card.configs):
        told, unused = _by_card(card)
    else:
        told, unused = _by_name(folder, layout, (*_SPLITS, split), languages)
    pieces: list[Piece] = []
    for role, part in dict.fromkeys((each.role, each.part) for each in told):
        here = [each for each in told if (each.role, each.part) == (role, part)]
        chosen = _chosen(folder, role, part, [each.split for each in here], split)
        pieces += [Piece(role, part, each.path) for each in here if each.split == chosen]
        unused += [each.path for each in here if each.split != chosen]
    used = {piece.path for piece in pieces}
    for role, words in _WORDS.items():
        if not any(piece.role == role for piece in pieces):
            there = ", ".join(sorted({*unused} - used)[:8]) or "nothing of use"
            raise DataError(
                f"{folder}: no file of {role} (split {split!r}); expected {' or '.join(words)} in a file's or folder's "
                f"name, or a dataset's card that says so; found {there}"
            )
    return Layout(pieces, sorted({*unused} - used), card.licence if card else "")


class _Told(NamedTuple):
    """What a card or a name tells of a file."""

    role: str
    part: str
    split: str
    path: str


def _by_card(card: Card) -> tuple[list[_Told], list[str]]:
    """What the card tells of files, in its order, and the files of other configurations."""
    told: dict[_Told, None] = {}
    unused: list[str] = []
    for name, splits in card.configs.items():
        role = _config(name, card.configs)
        for split, paths in splits.items():
            told |= {_Told(*role, split, path): None for path in paths} if role else {}
            unused += [] if role else paths
    return list(told), unused


def _config(name: str, names: Container[str]) -> tuple[str, str] | None:
    """Role and part of a configuration of MTEB's."""
    if name == "default" or (name == "qrels" and "default" not in names):
        return "qrels", ""
    if name == "query" or (name == "queries" and "query" not in names):
        return "queries", ""
    if name == "corpus":
        return "passages", ""
    part, _, word = name.rpartition("-")
    return (_ROLE[word], part) if part and word in ("corpus", "queries", "qrels") else None


def _chosen(folder: Path, role: str, part: str, splits: list[str], wanted: str) -> str:
    """The split to take: the wanted one, else the only one (MTEB's `_get_split`); qrels of another are never taken."""
    found = list(dict.fromkeys(splits))
    if wanted in found or (role == "qrels" and found == [""]):
        return wanted if wanted in found else ""
    if len(found) == 1 and role != "qrels":
        return found[0]
    raise DataError(
        f"{folder}: {part + ' ' if part else ''}{role} of split {wanted!r} are not there; "
        f"found {', '.join(repr(each) for each in found)}; choose with --split"
    )


def _by_name(
    folder: Path, layout: str | None, splits: tuple[str, ...], languages: tuple[str, ...]
) -> tuple[list[_Told], list[str]]:
    """What names tell of files, and the files whose names tell nothing."""
    found: list[_Told] = []
    unused: list[str] = []
    for path in _walk(folder, folder):
        name = path.relative_to(folder).as_posix()
        try:
            kind = suffix(path)
        except DataError:
            unused.append(name)
            continue
        stem = re.sub(r"\.(jsonl|json|tsv|txt|trec|parquet)(\.gz)?$", "", name, flags=re.I)
        told = _tokens(stem, splits, languages)
        if told and kind in _KINDS.get(layout or "", {}).get(told[0], (kind,)):
            found.append(_Told(*told, name))
        else:
            unused.append(name)
    return found, unused


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and len(path.relative_to(root).parts) < 5:
            yield from _walk(path, root)
        elif path.is_file():
            yield path


def _tokens(stem: str, splits: tuple[str, ...], languages: tuple[str, ...]) -> tuple[str, str, str] | None:
    """(role, part, split) that a name tells; None where it tells no role, or holds a word that says nothing."""
    role = part = split = ""
    for token in re.split(r"[/.]", stem):
        shard = re.fullmatch(r"(.+?)[-_][0-9]{1,6}(-of-[0-9]{1,6})?", token)
        word = shard[1] if shard else token
        head, _, tail = word.rpartition("-")
        if word in _ROLE or (word == "default" and not role):
            found = _ROLE.get(word, "qrels")
            if role not in ("", found):
                return None
            role = found
        elif tail in _ROLE and head and not role and not part:
            role, part = _ROLE[tail], head
        elif word in splits:
            split = split or word
        elif (word in languages or (_LANGUAGE.fullmatch(word) and not _NUMBER.fullmatch(word))) and not part:
            part = word
        elif not _NUMBER.fullmatch(word) and word != role and word not in ("data", "part"):
            return None
    return (role, part, split) if role else None


def named(pieces: list[Piece]) -> list[str]:
    """The parts that names tell, sorted; for messages and as languages."""
    return sorted({piece.part for piece in pieces if piece.part})


def listed(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(shown(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
