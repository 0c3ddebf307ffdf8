"""MIRACL and Mr. TyDi: official counts, what a passage is, what is refused, and runs scored without corpora."""

import dataclasses
import gzip
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval

from xbench import cli, readers
from xbench.catalogue import parse_all
from xbench.errors import DataError, IntegrityError
from xbench.readers.miracl import read_judgements, read_passages, read_topics
from xbench.records import Query
from xbench.runs import score_file
from xbench.task import Task, agree, vary, with_pins
from xbench.tasks import load_task, read_definition, same_task
from xbench.trec import read_qrels

# project-miracl/miracl, README: dev queries and judgments (of de and yo, which it lacks, MTEB's queries); MTEB's
# MIRACLRetrieval: passages and relevant passages a query; protocol.md, 4.1: BM25's nDCG@10; the files of the corpus, as
# its loader lists them.
MIRACL = """
ar 2896 29197 2061414 1.954 .481 5
bn 411 4206 297265 2.100 .508 1
en 799 8350 32893221 2.911 .351 66
es 648 6443 10373953 4.610 .319 21
fa 632 6571 2207172 2.079 .333 5
fi 1271 12008 1883509 1.925 .551 4
fr 343 3429 14636953 2.131 .183 30
hi 350 3494 506264 2.149 .458 2
id 960 9668 1446315 3.217 .449 3
ja 860 8354 6953614 2.081 .369 14
ko 213 3057 1486752 2.568 .419 3
ru 1252 13100 9543918 2.843 .334 20
sw 482 5092 131924 1.888 .383 1
te 828 1606 518079 1.031 .494 2
th 733 7573 542166 1.832 .484 2
zh 393 3928 4934368 2.529 .180 10
de 305 - 15866222 2.659 .226 32
yo 119 - 49043 1.210 .406 1
"""
# MTEB's statistics of MrTidyRetrieval: queries, passages, relevant passages.
MRTYDI = """
ar 1081 2106586 1257
bn 111 304059 130
en 744 32907100 935
fi 1254 1908757 1451
id 829 1469399 961
ja 720 7000027 923
ko 421 1496126 492
ru 995 9597504 1168
sw 670 136689 743
te 646 548224 677
th 1190 568855 1368
"""
AVERAGES = {"18": 0.385, "16": 0.394}


def rows(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in table.strip().split("\n")}


def test_official_counts(data: Path) -> None:
    task = load_task("miracl")
    (part,) = readers.parts(task, data, passages=False)  # compares what it finds with the definition
    assert list(part.counts) == list(task.languages) == list(rows(MIRACL))
    for language, (queries, judged, passages, mean, _, files) in rows(MIRACL).items():
        found = part.counts[language]
        assert found["queries"] == int(queries) and len(part.collection.large[language]) == int(passages)
        assert judged == "-" or found["judged"] == int(judged)
        assert found["relevant"] / found["queries"] == pytest.approx(float(mean), abs=5e-4)
        names = [s.name for key, s in task.sources.items() if s.passages and task.file_languages[key] == (language,)]
        assert names == [f"miracl-corpus-v1.0-{language}/docs-{i}.jsonl.gz" for i in range(int(files))]
    assert task.totals() == (13_495, 106_332_152)
    assert set(part.collection.qrels) == {q.query_id for some in part.collection.queries.values() for q in some}
    assert {g for some in part.collection.qrels.values() for g in some.values()} == {0, 1}
    assert sum(map(len, part.collection.qrels.values())) == 126_076 + 3_144 + 1_188
    task = load_task("mrtydi")
    (part,) = readers.parts(task, data, passages=False)
    for language, numbers in rows(MRTYDI).items():
        found = part.counts[language]
        assert [found["queries"], len(part.collection.large[language]), found["relevant"]] == [int(n) for n in numbers]
    assert task.totals() == (8_661, 58_043_326)


def test_averages_are_the_published_ones() -> None:
    groups = load_task("miracl").groups["average"]
    assert {name: len(some) for name, some in groups.items()} == {"18": 18, "16": 16, "15": 15}
    bm25 = {language: float(row[4]) for language, row in rows(MIRACL).items()}
    for name, expected in AVERAGES.items():
        assert sum(bm25[a] for a in groups[name]) / len(groups[name]) == pytest.approx(expected, abs=6e-4)
    assert set(groups["18"]) - set(groups["15"]) == {"en", "de", "yo"}


def test_settings() -> None:
    task = load_task("miracl")
    assert {cell.setting for cell in task.cells()} == {"mono"} and len(task.cells()) == 18
    joint = vary(task, languages=["th", "sw"], settings=["multi"])
    assert [cell.name for cell in joint.cells()] == ["multi/sw", "multi/th"]
    assert joint.size(joint.cells()[0]) == (482, 131_924 + 542_166)
    assert len(joint.sources) == 2 * 2 + 1 + 2
    # What a passage is decides the values.
    assert dataclasses.replace(task, options={"join": "\n"}).sha256 != task.sha256


# From the README of project-miracl, and from Mr. TyDi's card; its archives have the third form.
LINES: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"docid": "39#0", "title": "Albedo", "text": "Albedo (meaning ..."}, ("39#0", "Albedo Albedo (meaning ...")),
    ({"docid": "25#0", "title": "", "text": " Autism is\u2028a \n"}, ("25#0", "Autism is\u2028a")),
    ({"id": "7#3", "contents": "ماء\n\na\n\nb"}, ("7#3", "ماء a\n\nb")),
    ({"id": "7#4", "contents": "no title"}, ("7#4", "no title")),
    ({"docid": "1", "text": "t", "url": None}, ("1", "t")),
    ({"docid": "1", "title": "t", "text": ""}, ("1", "t")),
    ({"docid": "é/x😀", "title": " a", "text": "b "}, ("é/x😀", "a b")),
]


def written(path: Path, found: list[Any]) -> Path:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["docs-0.jsonl", "docs-0.jsonl.gz"])
def test_what_a_passage_is(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, [row for row, _ in LINES])
    assert [tuple(p) for p in read_passages(path, "xx")] == [(f"xx:{id_}", text) for _, (id_, text) in LINES]
    assert [p.text for p in read_passages(path, "xx", "\n")][:3] == [
        "Albedo\nAlbedo (meaning ...",
        "Autism is\u2028a",
        "ماء\na\n\nb",
    ]


def mteb_text(row: dict[str, str]) -> str:
    """As `_corpus_to_dict` of MTEB has it (mteb/_create_dataloaders.py)."""
    return (row["title"] + " " + row["text"]).strip() if len(row["title"]) > 0 else row["text"].strip()


def test_a_passage_is_mtebs(tmp_path: Path) -> None:
    rng, parts = random.Random(1), ["", " ", "a", "\u3000", "\n", "ب", "b c", "\u2028", "\xa0"]
    found = [
        {"docid": f"{i}#0", "title": "".join(rng.choices(parts, k=3)), "text": "".join(rng.choices(parts, k=4)) + "."}
        for i in range(300)
    ]
    path = written(tmp_path / "x.jsonl", found)
    assert [p.text for p in read_passages(path, "x")] == [mteb_text(row) for row in found]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"title": "t", "text": "x"}, "field 'docid' is missing; fields: 'text', 'title'"),
    ({"docid": "1", "title": "t"}, "field 'text' is missing"),
    ({"docid": "1", "contents": "x"}, "field 'text' is missing"),
    ({}, "field 'docid' is missing; fields: none"),
    ({"docid": 1, "text": "x"}, "field 'docid': expected text, found int"),
    ({"docid": "1", "text": None}, "field 'text': expected text, found NoneType"),
    ({"docid": "1", "title": ["t"], "text": "x"}, "field 'title': expected text, found list"),
    ({"id": "1", "contents": 7}, "field 'text': expected text, found int"),
    ({"contents": "x"}, "field 'docid': expected text, found NoneType"),
    ({"docid": "", "text": "x"}, "docid '' is empty or holds white space"),
    ({"docid": "1 2", "text": "x"}, "docid '1 2' is empty or holds white space"),
    ({"docid": "1\u2028", "text": "x"}, "is empty or holds white space"),
    ({"docid": "1", "title": " ", "text": "\n\u3000"}, "title and text of passage 1 are empty"),
]


@pytest.mark.parametrize(("row", "phrase"), FAULTS)
def test_a_bad_passage_is_named_with_its_line(row: dict[str, Any], phrase: str, tmp_path: Path) -> None:
    path = written(tmp_path / "docs-3.jsonl.gz", [{"docid": "0#0", "text": "good"}, row])
    with pytest.raises(DataError) as caught:
        list(read_passages(path, "xx"))
    assert str(caught.value).startswith(f"{path}:2: ") and phrase in str(caught.value)


TOPICS = [
    ("1\ta\n2 b\n", ":2: 1 columns, expected 2: query_id<TAB>text"),
    ("1\ta\n2\tb\tc\n", ":2: 3 columns"),
    ("1\ta\n\n", ":2: 1 columns"),
    ("1\ta\n1\tb\n", ":2: query id '1' for the second time, first in line 1"),
    ("1\ta\n 2\tb\n", ":2: query id ' 2' is empty or holds white space"),
    ("1\ta\n\tb\n", ":2: query id '' is empty"),
    ("1\ta\n2\t\u3000\n", ":2: the text of query 2 is empty"),
    ("1\ta\r\n", ":1: ends with a carriage return"),
    ("", ": no line in it"),
]
QRELS = [
    ("1 Q0 d\n", ":1: 3 columns, expected 4: query_id 0 doc_id grade"),
    ("1 Q0 d 1 x\n", ":1: 5 columns"),
    ("1 Q0 d 1\n1 Q0 e 1.0\n", ":2: grade '1.0', expected a whole number"),
    ("1 Q0 d one\n", ":1: grade 'one'"),
    ("1 Q0 d 1\n1\tQ0\td\t0\n", ":2: passage d of query 1 is judged twice, first in line 1"),
    ("1 Q0 d 1\n3 Q0 d 1\n", ":2: query 3 is judged, but no topic"),
    ("", ": no line in it"),
]


@pytest.mark.parametrize(("content", "phrase"), [*TOPICS, *QRELS])
def test_bad_topics_and_qrels(content: str, phrase: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(content, newline="")
    with pytest.raises(DataError) as caught:
        if (content, phrase) in TOPICS:
            read_topics(path, "xx")
        else:
            read_judgements(path, "xx", [Query("xx:1", "a"), Query("xx:2", "b")])
    assert str(caught.value).startswith(f"{path}{phrase}")


def test_topics_and_qrels_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress("2\t a\u2028b \n10\tc".encode()))
    assert [tuple(q) for q in read_topics(path, "xx")] == [("xx:2", " a\u2028b "), ("xx:10", "c")]
    path.write_bytes(gzip.compress(b"1\tQ0\td#1\t1\n1 0  e 0\n1 x f -2"))
    assert list(read_qrels(path)) == [(1, "1", "d#1", 1), (2, "1", "e", 0), (3, "1", "f", -2)]
    assert read_judgements(path, "xx", [Query("xx:1", "a"), Query("xx:2", "b")]) == {
        "xx:1": {"xx:d#1": 1, "xx:e": 0, "xx:f": -2},
        "xx:2": {},
    }


@pytest.fixture
def yoruba(data: Path, tmp_path: Path) -> Callable[[Callable[[list[Any]], object]], tuple[Task, Path]]:
    """The Yoruba task beside a corpus of the right size that has the judged passages, changed as told."""

    def make(change: Callable[[list[Any]], object]) -> tuple[Task, Path]:
        folder = tmp_path / "miracl"
        (folder / "miracl-corpus-v1.0-yo").mkdir(parents=True)
        for part in ("topics", "qrels"):
            (folder / part).symlink_to(data / "miracl" / part)
        judged = dict.fromkeys(d for _, _, d, _ in read_qrels(folder / "qrels" / "qrels.miracl-v1.0-yo-dev.tsv"))
        docids = [*judged, *(f"x{i}#0" for i in range(49_043 - len(judged)))]
        found = [{"docid": docid, "title": f"t{i}", "text": "ọ̀rọ̀"} for i, docid in enumerate(docids)]
        change(found)
        written(folder / "miracl-corpus-v1.0-yo" / "docs-0.jsonl.gz", found)
        return vary(load_task("miracl"), languages=["yo"]), tmp_path

    return make


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda found: None, None),
        (lambda found: found.pop(), r"miracl/yo: found 49042 passages, expected 49043; is a file missing\?"),
        (lambda found: found[7].update(docid="y#0"), r"1 judged passages are in no corpus, first yo:.* of yo:"),
        (lambda found: found[40_000].update(docid="x9#0"), r"miracl/yo: passage yo:x9#0 occurs twice"),
        (lambda found: found[40_000].update(text=7), r"docs-0\.jsonl\.gz:40001: field 'text'"),
    ],
)
def test_a_whole_corpus(
    change: Callable[[list[Any]], object], phrase: str | None, yoruba: Callable[..., tuple[Task, Path]]
) -> None:
    task, folder = yoruba(change)
    if phrase:
        with pytest.raises(DataError, match=phrase):
            readers.check(task, folder)
        return
    (part,) = readers.check(task, folder)
    corpus = part.collection.large["yo"]
    assert part.collection.passages == {} and len(corpus) == 49_043
    assert next(iter(corpus)).text == "t0 ọ̀rọ̀"
    pinned = readers.pin(task, folder)
    (part,) = readers.parts(pinned, folder)
    (file,) = part.collection.large["yo"].files
    assert file.sha256 == pinned.sources["passages-yo-0"].sha256 != "" and "yo" in corpus.form
    assert cli._run(["data", "verify", "miracl", "--languages", "yo", "--data", str(folder)], False) == 0
    golden = task.golden["yo"]
    other = golden._replace(queries=[golden.queries[0], (9, "yo:0", "0" * 16), golden.queries[2]])
    with pytest.raises(IntegrityError, match="query row 9"):
        readers.check(dataclasses.replace(task, golden={"yo": other}), folder)
    with pytest.raises(DataError, match=r"docs-0\.jsonl\.gz is missing or not a file, and no SHA-256"):
        readers.check(vary(load_task("miracl"), languages=["sw"]), folder)


def made_up(qrels: dict[str, dict[str, int]], seed: int) -> dict[str, dict[str, float]]:
    """Up to 300 passages a query, many tied, some judged; some queries have none. Scores are exact in float32."""
    rng = random.Random(seed)
    run = {}
    for query_id, grades in qrels.items():
        docs = [d for d in grades if rng.random() < 0.6] + [
            f"{rng.randrange(10**6)}#{rng.randrange(9)}" for _ in "x" * 300
        ]
        some = dict.fromkeys(docs[: rng.choice([0, 5, 100, 150, 310])])
        run[query_id] = {d: rng.randrange(40) / 4 + 3 * grades.get(d, 0) for d in some}
    return {query_id: some for query_id, some in run.items() if some}


def trec_eval(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]], depth: int) -> dict[str, float]:
    """trec_eval -c -M DEPTH: the means over the queries of the qrels, of runs cut at DEPTH."""
    cut = {
        q: dict(sorted(some.items(), key=lambda pair: (pair[1], pair[0].encode()), reverse=True)[:depth])
        for q, some in run.items()
    }
    names = {"ndcg_cut.10", "recall.100", "recip_rank", "map_cut.100", "success.10"}
    found = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(cut)
    assert 0 < len(found) < len(qrels)
    return {
        ours: sum(row[theirs] for row in found.values()) / len(qrels)
        for ours, theirs in {
            "nDCG@10": "ndcg_cut_10",
            "R@100": "recall_100",
            "RR@100": "recip_rank",
            "AP@100": "map_cut_100",
            "Success@10": "success_10",
        }.items()
    }


@pytest.mark.parametrize(("name", "language"), [("miracl", "sw"), ("miracl", "yo"), ("miracl", "zh"), ("mrtydi", "bn")])
@pytest.mark.parametrize("prefix", [True, False])
def test_a_run_is_scored_without_its_corpus(name: str, language: str, prefix: bool, data: Path, tmp_path: Path) -> None:
    task = vary(load_task(name), languages=[language])
    names = [source.name for key, source in task.sources.items() if key.startswith("qrels")]
    qrels: dict[str, dict[str, int]] = {}
    for _, query_id, doc_id, grade in read_qrels(data / name / names[0]):
        qrels.setdefault(query_id, {})[doc_id] = grade
    run = made_up(qrels, 3)
    path, head = tmp_path / "their.run", f"{language}:" if prefix else ""
    path.write_text("".join(f"{head}{q}\tQ0\t{head}{d} 1 {s} x\n" for q, some in run.items() for d, s in some.items()))
    (part,) = readers.parts(task, data, passages=False)
    expected = trec_eval(qrels, run, 100)
    result = score_file(path, task, part.collection, part.cells, parse_all([*expected]), ignore_ranks=True)
    (cell,) = result.cells
    assert cell.values == pytest.approx(expected, abs=1e-12)
    assert (len(cell.query_ids), cell.missing, cell.left_out) == (len(qrels), len(qrels) - len(run), 0)
    assert cell.passages == task.counts[language]["passages"] and result.statistics["clusters"] == len(qrels)


def test_a_run_of_all_languages_and_the_joint_pool(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["sw:6 Q0 sw:32589#0 1 9 x", "sw:6 Q0 yo:1#1 2 8 x", "sw:6 Q0 sw:93957#6 3 7 x"]
    (tmp_path / "a.run").write_text("\n".join(lines))
    arguments = ["score", str(tmp_path / "a.run"), "-t", "miracl", "--languages", "sw,yo", "--data", str(data)]
    arguments += ["--setting", "mono", "--setting", "multi", "-m", "R@2", "-o", str(tmp_path)]
    assert cli._run(arguments, False) == 0
    (path,) = tmp_path.glob("a.run-*/miracl.json")
    content = json.loads(path.read_text())
    values = {f"{c['setting']}/{c['query_language']}": c["values"]["R@2"] * c["queries"] for c in content["cells"]}
    assert values == pytest.approx({"mono/sw": 1, "mono/yo": 0, "multi/sw": 1 / 2, "multi/yo": 0})
    sizes = {f"{c['setting']}/{c['query_language']}": c["passages"] for c in content["cells"]}
    assert sizes == {"mono/sw": 131_924, "mono/yo": 49_043, "multi/sw": 180_967, "multi/yo": 180_967}
    assert content["task"]["languages"] == ["sw", "yo"] and same_task(content["task"], path)
    # The qrels of a scored run, which are all of it that can be exported.
    assert cli._run(["export", str(path), "--qrels-only", "--data", str(data), "--cell", "multi/sw"], False) == 0
    found = {(q, d): grade for _, q, d, grade in read_qrels(path.parent / "miracl.multi.sw.qrels.trec")}
    official = read_qrels(data / "miracl" / "qrels" / "qrels.miracl-v1.0-sw-dev.tsv")
    assert found == {(f"sw:{q}", f"sw:{d}"): grade for _, q, d, grade in official} and len(found) == 5_092
    # A language that is not in the pool, and ids without one where there are several.
    for line, phrase in (("sw:6 Q0 th:1#1 1 9 x", "unknown passage 'th:1#1'"), ("6 Q0 1#1 1 9 x", "unknown query '6'")):
        (tmp_path / "a.run").write_text(line)
        assert cli._run(arguments, False) == 3 and phrase in capsys.readouterr().err


def test_a_scored_run_and_an_evaluated_model_are_of_one_task() -> None:
    task = vary(load_task("miracl"), languages=["yo"])
    pinned, other = (with_pins(task, {"passages-yo-0": (5, digit * 64)}) for digit in "ab")
    about = [json.loads(json.dumps(each.about)) for each in (task, pinned, other)]
    assert agree(about[0], about[1]) and agree(about[1], about[0]) and agree(about[1], about[1])
    assert not agree(about[1], about[2])
    assert not agree(about[0], json.loads(json.dumps(vary(load_task("miracl"), languages=["sw"]).about)))
    assert not agree(about[0], {**about[0], "sha256": "0"}) and not agree(about[0], {**about[1], "version": 2})


def test_each_language_has_its_own_files(data: Path, tmp_path: Path) -> None:
    task = vary(load_task("miracl"), languages=["hi", "yo"])
    for part in ("topics", "qrels"):
        (tmp_path / "miracl").mkdir(exist_ok=True)
        (tmp_path / "miracl" / part).symlink_to(data / "miracl" / part)
    for name in ("hi/docs-0", "hi/docs-1", "yo/docs-0"):
        path = tmp_path / "miracl" / f"miracl-corpus-v1.0-{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        written(path, [{"docid": name, "text": "x"}])
    (part,) = readers.parts(readers.pin(task, tmp_path), tmp_path)
    found = {a: [p.doc_id for p in corpus] for a, corpus in part.collection.large.items()}
    assert found == {"hi": ["hi:hi/docs-0", "hi:hi/docs-1"], "yo": ["yo:yo/docs-0"]}
    # Of two results that know some hashes each, those that both know must be the same.
    some, more = {"passages-hi-0": (1, "a")}, {"passages-hi-0": (1, "b"), "passages-hi-1": (1, "c")}
    assert not agree(with_pins(task, some).about, with_pins(task, more).about)
    assert agree(with_pins(task, some).about, with_pins(task, {**more, **some}).about)


def test_files_in_parts(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "tasks" / "miracl.toml").read_text(encoding="utf-8")
    for old, new, phrase in (
        ("parts = 66, ", "parts = 2, passes = 1, ", "unknown ['passes']"),
        ("parts = 66, name", "parts = 66, nome", "name"),
    ):
        (tmp_path / "miracl.toml").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(DataError) as caught:
            read_definition(tmp_path / "miracl.toml")
        assert phrase in str(caught.value)


def test_a_corpus_is_never_held(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl.gz", [{"docid": f"{i}#0", "text": f"{i} {'y' * 400}"} for i in range(20_000)])
    tracemalloc.start()
    assert sum(1 for _ in read_passages(path, "x")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
