"""Data of one's own: queries, passages and qrels as BEIR, MTEB, ir_datasets and TREC lay them out.

A key of `[files]` is `<role>`, `<role>/<language>` or `<role>/<language>/<number>` with role `passages`, `queries` or
`qrels`, and `*` for all languages; with pools of a cell's own, `<role>/<cell>` and so on. A file of one language
(`languages`) need not name it; in a file of several, each row does, in a field `language`. `rows` says which fields a
row has.

Options: `split`, which qrels these are; `large`, passages are read file by file and never held; `empty = "leave out"`,
passages without text are not in the pool; `dangling = N`, this many judgements name a passage that is not there;
`self = "keep"`, a query may be a passage of the pool, by id and text. BEIR and MTEB then leave that passage out of
the query's list (`ignore_identical_ids`), which xbench does not: without the option such data are refused;
`answers`, rows of queries and passages may have answer strings, `answers` or `answer`, and a passage one of its own;
`without_passages`, languages that have queries alone, which a parallel task in some of its languages must know.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xbench.errors import DataError
from xbench.readers.checks import Ids, shown
from xbench.readers.judged import Known, Pool, judgements
from xbench.readers.part import Part
from xbench.readers.rows import Text, read_texts
from xbench.records import Cell, Collection, Corpus, CorpusFile, Passage, Query
from xbench.task import Task

ROLES = ("passages", "queries", "qrels")
OPTIONS = {"split", "large", "empty", "dangling", "self", "without_passages", "answers"}
# A version of what `read` makes of a file: vectors of large corpora are kept under it.
FORM = "records 1"


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
            rows = read_texts(path, role, languages, answers=bool(self.task.options.get("answers")))
            yield from (row for row in rows if row.language in wanted)


def _part(task: Task, paths: Mapping[str, Path], cells: list[Cell], name: str, known: Known | None) -> Part:
    files = _Files(task, paths)
    asked: Sequence[str] = [cells[0].query_language] if name else task.query_languages
    searched: Sequence[str] = cells[0].passage_languages if name else task.passage_languages
    counts = {key: Counter[str]() for key in ([name] if name else task.languages)}
    queries: dict[str, dict[str, Text]] = {a: {} for a in asked}
    ids = {a: Ids("query") for a in asked}
    for row in files.texts("queries", asked):
        queries[row.language][ids[row.language].add(row.id, row.where)] = row
    if task.options.get("large"):
        pool = Pool({}, _large(task, files, searched), known or {}, {}, {}, {})
    else:
        pool = _held(files, searched, queries, counts, name)
    judged = judgements(task, [(key, path) for key, path, _ in files.of("qrels")], queries, pool)
    kept: dict[str, list[Query]] = {a: [] for a in asked}
    qrels: dict[str, dict[str, int]] = {}
    answers: dict[str, Sequence[str]] = {}
    for a in asked:
        count = counts[name or a]
        for id_, row in queries[a].items():
            some, relevant, docs = judged.of(a, id_)
            if not relevant:
                count["irrelevant" if some else "unjudged"] += 1
                continue
            kept[a].append(Query(f"{a}:{id_}", row.text))
            qrels[f"{a}:{id_}"] = docs
            if row.answers:
                answers[f"{a}:{id_}"] = row.answers
                count["answered"] += 1
            count["judgements"] += judged.lines[a, id_]
            _compare(task, row, pool, count)
        count["queries"] += len(kept[a])
    if not any(kept.values()):
        where = ", ".join(str(path) for _, path, _ in files.of("qrels")) or f"task {task.name}: no qrels file"
        raise DataError(f"{where}: no query has a relevant passage (a grade of 1 or more)")
    every = ["queries", "judgements", "unjudged", "irrelevant"]
    every += [] if pool.large else ["passages", "duplicates", "copies"]
    found = {key: {what: count[what] for what in every} | dict(count) for key, count in counts.items()}
    return Part(cells, Collection(kept, pool.passages, qrels, {}, answers, pool.items, pool.large), found)


def _held(
    files: _Files,
    searched: Sequence[str],
    queries: Mapping[str, Mapping[str, Text]],
    counts: Mapping[str, Counter[str]],
    name: str,
) -> Pool:
    ids = {b: Ids("passage") for b in searched}
    pool = Pool({b: [] for b in searched}, {}, ids, {b: {} for b in searched}, {b: set() for b in searched}, {})
    for row in with_text(files.task, files.texts("passages", searched), counts, name):
        b, count = row.language, counts[name or row.language]
        ids[b].add(row.id, row.where)
        pool.passages[b].append(Passage(f"{b}:{row.id}", row.text))
        if len(row.answers) > 1:
            raise DataError(
                f"{row.where}: passage {shown(row.id)} has {len(row.answers)} answers; expected one at most"
            )
        pool.items.update({f"{b}:{row.id}": row.answers[0]} if row.answers else {})
        count["passages"] += 1
        count["duplicates"] += row.text in pool.texts[b]
        pool.texts[b].add(row.text)
        if row.id in queries.get(b, ()):
            pool.bodies[b][row.id] = row.text, row.body
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


def _large(task: Task, files: _Files, searched: Sequence[str]) -> dict[str, Corpus]:
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
    return found


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
