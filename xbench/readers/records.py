"""Data of one's own: queries, passages and qrels as BEIR, MTEB, ir_datasets and TREC lay them out.

A key of `[files]` is `<role>`, `<role>/<language>` or `<role>/<language>/<number>` with role `passages`, `queries` or
`qrels`, and `*` for all languages; with pools of a cell's own, `<role>/<cell>` and so on. A file of one language
(`languages`) need not name it; in a file of several, each row does, in a field `language`. `rows` says which fields a
row has.

Which passage a judgement means. Ids of two languages may be equal, so the language is found by this rule: an id that
stands as `<language>:<id>` says its own. Else it is of the language of its qrels file, if that is one language and
its passages have the id; else of the only language that has it. An id that several have is refused, unless the task
is `parallel`: then equal ids are the same thing and the judgement holds for each. In a parallel task the judgements
of qrels files of one language also hold for the same question in all other languages, as in LAReQA; judgements of
a qrels file of all languages stand as they are.

Options: `split`, which qrels these are; `large`, passages are read file by file and never held; `empty = "leave out"`,
passages without text are not in the pool; `dangling = N`, this many judgements name a passage that is not there;
`self = "keep"`, a query may be a passage of the pool, by id and text. BEIR and MTEB then leave that passage out of
the query's list (`ignore_identical_ids`), which xbench does not: without the option such data are refused.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xbench.errors import DataError
from xbench.readers.checks import Ids, Judgement, gather, refuse_dangling, shown
from xbench.readers.part import Part
from xbench.readers.rows import Text, read_judgements, read_texts
from xbench.records import Cell, Collection, Corpus, CorpusFile, Passage, Query
from xbench.task import Task

ROLES = ("passages", "queries", "qrels")
OPTIONS = {"split", "large", "empty", "dangling", "self"}
# In a key, in the place of a language: a file of all.
ALL = "*"
# A version of what `read` makes of a file: vectors of large corpora are kept under it.
FORM = "records 1"


# Language -> the ids of its passages, without language.
Known = Mapping[str, Container[str]]


def read_records(task: Task, paths: Mapping[str, Path], known: Known | None = None) -> Iterator[Part]:
    """One part, or one for each cell where each has a pool of its own.

    Which passages there are is taken from `known` for a large task; without it every id is taken to be there.

    Counts, by language or cell: `queries` (with a passage judged relevant), `passages`, `judgements` (of these
    queries, by line), and of what is left out or remarkable: `unjudged` queries and those with nothing relevant
    (`irrelevant`), passages with the same text as another (`duplicates`), queries whose text is that of a passage of
    their language under another id (`copies`) or the same one (`self`), passages without text (`empty`).

    Raises:
        DataError: a file is not in its format, an id twice, a judgement of what is not there, an empty text, nothing
            that is relevant; with file and row.
    """
    if strange := sorted(set(task.options) - OPTIONS):
        raise DataError(f"task {task.name}: unknown [options] {strange}; known: {sorted(OPTIONS)}")
    if task.pools == "language":
        yield _part(task, paths, task.cells(), "", known)
        return
    for cell in task.cells():
        own = {key: path for key, path in paths.items() if f"{key}/".partition("/")[2].startswith(f"{cell.name}/")}
        yield _part(task, own, [cell], cell.name, known)


class _Files:
    """The files of a part by role, in the order of their keys."""

    def __init__(self, task: Task, paths: Mapping[str, Path]) -> None:
        self.task, self.paths = task, paths

    def of(self, role: str) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
        """Key, path and languages of each file of a role."""
        for key, path in self.paths.items():
            if key.partition("/")[0] == role:
                yield key, path, self.task.file_languages[key]

    def texts(self, role: str, wanted: Iterable[str]) -> Iterator[Text]:
        """The rows of a role in some languages, file after file."""
        for _, path, languages in self.of(role):
            yield from (row for row in read_texts(path, role, languages) if row.language in wanted)


def _part(task: Task, paths: Mapping[str, Path], cells: list[Cell], name: str, known: Known | None) -> Part:
    files = _Files(task, paths)
    asked: Sequence[str] = [cells[0].query_language] if name else task.query_languages
    searched: Sequence[str] = cells[0].passage_languages if name else task.passage_languages
    counts = {key: Counter[str]() for key in ([name] if name else task.languages)}
    queries: dict[str, dict[str, Text]] = {a: {} for a in asked}
    for row in _distinct(files.texts("queries", asked), "query"):
        queries[row.language][row.id] = row
    large = task.options.get("large", False)
    pool = _large(task, files, searched)._replace(known=known) if large else _held(files, searched, counts, name)
    judged = judgements(task, files, queries, pool)
    kept: dict[str, list[Query]] = {a: [] for a in asked}
    qrels: dict[str, dict[str, int]] = {}
    for a in asked:
        count = counts[name or a]
        for id_, row in queries[a].items():
            lines, relevant, docs = judged.of(a, id_)
            if not relevant:
                count["irrelevant" if lines else "unjudged"] += 1
                continue
            kept[a].append(Query(f"{a}:{id_}", row.text))
            qrels[f"{a}:{id_}"] = docs
            count["judgements"] += lines
            _compare(task, row, pool, count)
        count["queries"] += len(kept[a])
    if not any(kept.values()):
        where = ", ".join(str(path) for _, path, _ in files.of("qrels")) or f"task {task.name}: no qrels file"
        raise DataError(f"{where}: no query has a relevant passage (a grade of 1 or more)")
    every = ["queries", "judgements", "unjudged", "irrelevant"]
    every += [] if pool.large else ["passages", "duplicates", "copies"]
    found = {key: {what: count[what] for what in every} | dict(count) for key, count in counts.items()}
    return Part(cells, Collection(kept, pool.passages, qrels, {}, large=pool.large), found)


def _distinct(rows: Iterable[Text], kind: str) -> Iterator[Text]:
    """The rows, if no id comes twice in a language."""
    ids: dict[str, Ids] = {}
    for row in rows:
        ids.setdefault(row.language, Ids(kind)).add(row.id, row.where)
        yield row


class Pool(NamedTuple):
    """The passages by language, and where the id of one is at home."""

    passages: dict[str, list[Passage]]
    large: dict[str, Corpus]
    bodies: dict[str, dict[str, tuple[str, str]]]  # language -> id -> (text, body), where passages are held
    texts: dict[str, set[str]]  # language -> all texts, likewise
    known: Known | None = None

    @property
    def languages(self) -> list[str]:
        """Those that have passages."""
        return list(self.large or self.passages)

    def has(self, language: str, id_: str) -> bool:
        """Whether a language has the id; of a large one this is taken for granted: `xbench tasks new` has looked."""
        if language in self.large:
            return self.known is None or id_ in self.known[language]
        return id_ in self.bodies.get(language, {})


def _held(files: _Files, searched: Sequence[str], counts: Mapping[str, Counter[str]], name: str) -> Pool:
    pool = Pool({b: [] for b in searched}, {}, {b: {} for b in searched}, {b: set() for b in searched})
    for row in with_text(files.task, _distinct(files.texts("passages", searched), "passage"), counts, name):
        b, count = row.language, counts[name or row.language]
        pool.passages[b].append(Passage(f"{b}:{row.id}", row.text))
        pool.bodies[b][row.id] = row.text, row.body
        count["passages"] += 1
        count["duplicates"] += row.text in pool.texts[b]
        pool.texts[b].add(row.text)
    if lacking := [b for b in searched if not pool.passages[b]]:
        raise DataError(f"task {files.task.name}: no passage of language {', '.join(lacking)} in any file")
    return pool


def with_text(task: Task, rows: Iterable[Text], counts: Mapping[str, Counter[str]], name: str = "") -> Iterator[Text]:
    """The passages that have a text; others are counted (under `name` or their language) if the task leaves them out.

    Raises:
        DataError: one has none, and the task does not leave such out.
    """
    for row in rows:
        if row.text:
            yield row
        elif task.options.get("empty") == "leave out":
            counts[name or row.language]["empty"] += 1
        else:
            raise DataError(
                f"{row.where}: passage {shown(row.id)} has no text; mend it, or let such passages be left out of the "
                "pool: `xbench tasks new --empty leave-out`"
            )


def large_texts(task: Task, paths: Mapping[str, Path], language: str, counts: Counter[str]) -> Iterator[Text]:
    """The passages of a language of a large task, each with its place, ids not yet compared."""
    return with_text(task, _Files(task, paths).texts("passages", [language]), {language: counts})


def _large(task: Task, files: _Files, searched: Sequence[str]) -> Pool:
    found: dict[str, Corpus] = {}
    for b in searched:
        own = {path: (key, some) for key, path, some in files.of("passages") if b in some}
        form = [FORM, b] + ["of several"] * any(len(some) > 1 for _, some in own.values())
        form += ["without empty"] * (task.options.get("empty") == "leave out")
        found[b] = Corpus(
            tuple(CorpusFile(path, task.sources[key].sha256) for path, (key, _) in own.items()),
            _reading(task, b, {path: some for path, (_, some) in own.items()}),
            task.counts.get(b, {}).get("passages", 0),
            " ".join(form),
        )
    return Pool({}, found, {}, {})


def _reading(
    task: Task, language: str, languages: Mapping[Path, tuple[str, ...]]
) -> Callable[[Path], Iterator[Passage]]:
    def read(path: Path) -> Iterator[Passage]:
        rows = (row for row in read_texts(path, "passages", languages[path]) if row.language == language)
        for row in with_text(task, rows, {language: Counter()}):
            yield Passage(f"{language}:{row.id}", row.text)

    return read


def _compare(task: Task, row: Text, pool: Pool, count: Counter[str]) -> None:
    """Count a query that is a passage; refuse one that is so by its id, unless the task keeps such."""
    text = row.text.strip()
    if text in (part.strip() for part in pool.bodies.get(row.language, {}).get(row.id, ())):
        if task.options.get("self") != "keep":
            raise DataError(
                f"{row.where}: query {shown(row.id)} is itself a passage of the pool; BEIR and MTEB leave such a "
                "passage out of the query's list and xbench ranks it: `xbench tasks new --self keep` if that is meant"
            )
        count["self"] += 1
    else:
        count["copies"] += text in pool.texts.get(row.language, ())


class Judged(NamedTuple):
    """What the qrels files say.

    `own`: of (query language, query id), by doc_id; `lines` counts it. `shared`: of a question, by doc_id, from the
    files of one language of a parallel task; `asked` are such questions, and `answered` those with a relevant passage.
    """

    own: dict[tuple[str, str], dict[str, int]]
    lines: Counter[tuple[str, str]]
    relevant: set[tuple[str, str]]
    shared: dict[str, dict[str, int]]
    asked: set[str]
    answered: set[str]

    def of(self, language: str, id_: str) -> tuple[int, bool, dict[str, int]]:
        """Of a query: how many lines judge it (or, if none, its translations), whether one is relevant, the grades.

        In a task of some of its languages the relevant passage may be in another; whether there is one does not
        depend on that, so that the counts hold.
        """
        key = (language, id_)
        relevant = key in self.relevant or id_ in self.answered
        # What is said of the question in its own language goes before what is said of it in another.
        return self.lines[key] or int(id_ in self.asked), relevant, self.shared.get(id_, {}) | self.own.get(key, {})


def judgements(task: Task, files: _Files, queries: Mapping[str, Mapping[str, Text]], pool: Pool) -> Judged:
    """Read all qrels files.

    Raises:
        DataError: as `checks.gather`; a query or passage that is nowhere (the task may expect a number of such
            passages), an id of several languages, grades that contradict each other.
    """
    found = Judged(defaultdict(dict), Counter(), set(), defaultdict(dict), set(), set())
    dangling: list[Judgement] = []
    strangers: list[Judgement] = []
    for key, path, _ in files.of("qrels"):
        own = key.split("/")[1] if "/" in key and task.pools == "language" else ""
        own = "" if own == ALL else own
        for each in (each for by_doc in gather(read_judgements(path)).values() for each in by_doc.values()):
            has = {a: rows.__contains__ for a, rows in queries.items() if own in ("", a)}
            askers = _home(each.query, list(has), lambda a, id_: has[a](id_), each, task, own)  # noqa: B023
            places = _home(each.doc, pool.languages, pool.has, each, task, own)
            strangers += [] if askers else [each]
            dangling += [] if places else [each]
            docs = {f"{b}:{id_}": each.grade for b, id_ in places}
            if own and task.parallel:
                question = each.query.removeprefix(f"{own}:")
                found.asked.add(question)
                found.answered.update([question] if each.grade > 0 else [])
                found.shared[question].update(docs)
            for asker in askers:
                found.lines[asker] += 1
                found.relevant.update([asker] if each.grade > 0 else [])
                for doc_id, grade in docs.items():
                    if found.own[asker].setdefault(doc_id, grade) != grade:
                        raise DataError(f"{each.where}: {doc_id} has grade {grade}, in another line or file another")
    if task.pools == "cell" or "languages" not in task.varied:  # else what is missing may be in another language
        refuse_dangling(strangers, "query")
        if len(dangling) != (expected := task.options.get("dangling", 0)):
            refuse_dangling(dangling, "passage", f"expected {expected}; see `xbench tasks new --dangling`")
            raise DataError(f"task {task.name}: every judged passage is there, expected {expected} that are not")
    return found


def _home(
    id_: str, languages: Sequence[str], has: Callable[[str, str], bool], each: Judgement, task: Task, own: str
) -> list[tuple[str, str]]:
    """The languages that an id means, with the id as they have it; none where no language has it."""
    head, _, rest = id_.partition(":")
    if head in languages and rest and has(head, rest):
        return [(head, rest)]
    homes = [a for a in languages if has(a, id_)]
    if own in homes:
        return [(own, id_)]
    if len(homes) > 1 and not task.parallel:
        raise DataError(
            f"{each.where}: id {shown(id_)} is one of {', '.join(homes)}; expected it in one language, or written as "
            f"{homes[0]}:{id_}, or `--parallel` if equal ids are translations of each other"
        )
    return [(a, id_) for a in homes]
