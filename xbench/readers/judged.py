"""What qrels mean where queries and passages are of several languages.

Which passage a judgement means. Ids of two languages may be equal, so the language is found by this rule: an id that
stands as `<language>:<id>` says its own. Else it is of the language of its qrels file, if that is one language and
its passages have the id; else of the only language that has it. An id that several have is refused, unless the task
is `parallel`: then equal ids are the same thing and the judgement holds for each. In a parallel task the judgements
of qrels files of one language also hold for the same question in all other languages, as in LAReQA; judgements of
a qrels file of all languages stand as they are.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xbench.errors import DataError
from xbench.readers.checks import shown
from xbench.readers.qrels import Judgement, gather, refuse_dangling
from xbench.readers.rows import read_judgements
from xbench.records import Corpus, Passage
from xbench.task import Task

# In a key, in the place of a language: a file of all.
ALL = "*"
# Language -> the ids of its passages, without language.
Known = Mapping[str, Container[str]]


class Pool(NamedTuple):
    """The passages by language, and where the id of one is at home."""

    passages: dict[str, list[Passage]]
    large: dict[str, Corpus]
    ids: Known  # where passages are held; of large ones if they were counted
    bodies: dict[str, dict[str, tuple[str, str]]]  # language -> id -> (text, body) of those with the id of a query
    texts: dict[str, set[str]]  # language -> all texts, where passages are held
    items: dict[str, str]  # doc_id -> its answer string, where passages are held

    @property
    def languages(self) -> list[str]:
        """Those that have passages."""
        return list(self.large or self.passages)

    def has(self, language: str, id_: str) -> bool:
        """Whether a language has the id; of a large one this is taken for granted: `xbench tasks new` has looked."""
        return id_ in self.ids[language] if language in self.ids else language in self.large


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

    def of(self, language: str, id_: str) -> tuple[bool, bool, dict[str, int]]:
        """Of a query: whether it or a translation is judged, whether a passage is relevant to it, the grades.

        In a task of some of its languages the relevant passage may be in another; whether there is one does not
        depend on that, so that the counts hold.
        """
        key = (language, id_)
        judged, relevant = key in self.lines or id_ in self.asked, key in self.relevant or id_ in self.answered
        # What is said of the question in its own language goes before what is said of it in another.
        return judged, relevant, self.shared.get(id_, {}) | self.own.get(key, {})


def judgements(
    task: Task, files: Iterable[tuple[str, Path]], queries: Mapping[str, Container[str]], pool: Pool
) -> Judged:
    """Read all qrels files.

    Raises:
        DataError: as `checks.gather`; a query or passage that is nowhere (the task may expect a number of such
            passages), an id of several languages, grades that contradict each other.
    """
    found = Judged(defaultdict(dict), Counter(), set(), defaultdict(dict), set(), set())
    dangling: list[Judgement] = []
    strangers: list[Judgement] = []
    by_language: defaultdict[str, list[Path]] = defaultdict(list)
    for key, path in files:
        own = key.split("/")[1] if "/" in key and task.pools == "language" else ""
        by_language["" if own == ALL else own].append(path)
    for own, paths in by_language.items():
        # The passages of this language are not there, of a task in some of its languages: ids without one mean these.
        away = own and own not in task.languages and own not in task.options.get("without_passages", ())
        rows = (each for path in paths for each in read_judgements(path))
        for each in (each for by_doc in gather(rows).values() for each in by_doc.values()):
            has = {a: known.__contains__ for a, known in queries.items() if own in ("", a)}
            askers = _home(each.query, list(has), lambda a, id_: has[a](id_), each, task, own)  # noqa: B023
            places = _home(each.doc, pool.languages, pool.has, each, task, own, bare=not away)
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
    id_: str,
    languages: Sequence[str],
    has: Callable[[str, str], bool],
    each: Judgement,
    task: Task,
    own: str,
    bare: bool = True,
) -> list[tuple[str, str]]:
    """The languages that an id means, with the id as they have it; none where no language has it."""
    head, _, rest = id_.partition(":")
    if head in languages and rest and has(head, rest):
        return [(head, rest)]
    homes = [a for a in languages if has(a, id_)] if bare else []
    if own in homes:
        return [(own, id_)]
    if len(homes) > 1 and not task.parallel:
        raise DataError(
            f"{each.where}: id {shown(id_)} is one of {', '.join(homes)}; expected it in one language, or written as "
            f"{homes[0]}:{id_}, or `--parallel` if equal ids are translations of each other"
        )
    return [(a, id_) for a in homes]
