"""The sampler against the formula, written out a second, slow way, and against what a batch must never hold."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from xbench.errors import DataError
from xbench.train.config import Data, Sampling
from xbench.train.pairs import file_pairs
from xbench.train.sampling import Batch, Sampler
from xbench.train.shares import shares
from xbench.train.store import Table, load_table

KINDS = ("qa", "ctx", "bitext", "term")


def line(group: str, lang: str, kind: str = "qa", source: str = "s", question: str = "", **more: str) -> dict[str, str]:
    """A pair whose texts occur once, unless given."""
    text = f"{source} {kind} {group} {lang}"
    made = {"group": group, "lang": lang, "question": question or f"q {text}", "passage": f"p {text}"}
    return {**made, "kind": kind, "source": source, **more}


def table_of(lines: list[dict[str, str]], folder: Path, **data: object) -> Table:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    chosen = Data(files=("pairs.jsonl",), **{"holdout": 0.0, **data})  # type: ignore[arg-type]
    return load_table(chosen, {"pairs.jsonl": file_pairs(path)}, folder / "cache")


def world(counts: dict[tuple[str, str, tuple[str, ...]], int]) -> list[dict[str, str]]:
    """(source, kind, languages) -> so many groups that have all these languages."""
    return [
        line(f"{source}-{kind}-{'.'.join(languages)}-{i}", language, kind, source)
        for (source, kind, languages), groups in counts.items()
        for i in range(groups)
        for language in languages
    ]


COUNTS = {
    ("big", "qa", ("de", "en")): 160,
    ("big", "qa", ("de", "en", "fr")): 90,
    ("small", "qa", ("de", "en", "fr")): 60,
    ("english", "qa", ("en",)): 200,
    ("news", "bitext", ("de", "fr")): 120,
    ("news", "bitext", ("en", "fr")): 140,
    ("bible", "ctx", ("de", "en", "fr")): 80,
}


def formula(sampling: Sampling, mono: bool) -> dict[tuple[str, str, str, str], float]:
    """(query language, passage language, source, kind) -> probability: the module's formula, with loops."""
    languages = ("de", "en", "fr")
    n: Counter[tuple[str, str, str, str]] = Counter()
    for (source, kind, has), groups in COUNTS.items():
        for a, b in itertools.product(has, has):
            if (a == b) == mono and (not mono or kind in sampling.mono_kinds):
                if mono and sampling.mode == "en-en" and a != "en":
                    continue
                n[a, b, source, kind] += groups
    found = {}
    pairs = [(a, b) for a in languages for b in languages if any(k[:2] == (a, b) for k in n)]

    def weight(key: tuple[str, str, str, str]) -> float:
        return sampling.factors.get(key[2], 1.0) * n[key] ** sampling.size_exponent

    sizes = {}
    given_: dict[tuple[str, str], dict[tuple[str, str, str, str], float]] = {}
    for pair in pairs:
        keys = [key for key in n if key[:2] == pair]
        if mono or not sampling.kinds:
            given_[pair] = {key: weight(key) / sum(map(weight, keys)) for key in keys}
        else:
            kinds = {key[3] for key in keys if sampling.kinds.get(key[3], 0)}
            total = sum(sampling.kinds[kind] for kind in kinds)
            given_[pair] = {
                key: sampling.kinds[key[3]] / total * weight(key) / sum(weight(k) for k in keys if k[3] == key[3])
                for key in keys
                if key[3] in kinds
            }
        if any(given_[pair].values()):  # else there is nothing to draw: not 0 to the power of 0
            sizes[pair] = sum(n[key] for key in given_[pair] if given_[pair][key]) ** sampling.language_exponent
    for pair in sizes:
        for key, share in given_[pair].items():
            found[key] = sizes[pair] / sum(sizes.values()) * share
    return found


def cells(sampler: Sampler, table: Table, mono: bool) -> dict[tuple[str, str, str, str], float]:
    found: Counter[tuple[str, str, str, str]] = Counter()
    of = sampler.mono if mono else sampler.cross
    for a, b, dataset, p in zip(of.query_language, of.passage_language, of.dataset, of.probability, strict=True):
        source, kind = divmod(int(dataset), len(KINDS))
        found[table.languages[a], table.languages[b], table.sources[source], KINDS[kind]] += float(p)
    return dict(found)


SAMPLINGS = [
    Sampling(mode="hybrid"),
    Sampling(mode="hybrid", size_exponent=0.5, language_exponent=0.5),
    Sampling(mode="hybrid", size_exponent=0.0, language_exponent=1.0, mono_kinds=("qa", "ctx")),
    Sampling(mode="hybrid", kinds={"qa": 0.5, "bitext": 0.3, "ctx": 0.2}, factors={"news": 0.25, "small": 3.0}),
    Sampling(mode="hybrid", kinds={"bitext": 1.0}, factors={"english": 0.0}),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("mono", [True, False])
def test_probabilities_are_the_formula(sampling: Sampling, mono: bool, tmp_path: Path) -> None:
    table = table_of(world(COUNTS), tmp_path)
    sampler = Sampler(table, table.used, sampling, 8, 0)
    expected = {key: p for key, p in formula(sampling, mono).items() if p}
    assert cells(sampler, table, mono) == pytest.approx(expected, rel=1e-12)


def drawn(table: Table, batch: Batch) -> list[tuple[str, str, str, str]]:
    c = table.columns
    return [
        (
            table.languages[c["language"][q]],
            table.languages[c["passage_language"][p]],
            table.sources[c["source"][q]],
            KINDS[c["kind"][q]],
        )
        for q, p in zip(batch.queries, batch.passages, strict=True)
    ]


@pytest.mark.parametrize("mode", ["x-y", "x-x-mixed", "en-en", "x-x"])
def test_draws_follow_the_formula(mode: str, tmp_path: Path) -> None:
    """Chi-square: pairs of batches of 2, in which nearly nothing is thrown away."""
    sampling = Sampling(mode=mode, size_exponent=0.5, kinds={"qa": 0.5, "bitext": 0.3, "ctx": 0.2})
    table = table_of(world(COUNTS), tmp_path)
    sampler = Sampler(table, table.used, sampling, 2, seed=5)
    batches = [sampler.batch(step) for step in range(6_000)]
    # The second pair of a batch is tied to the first: of an x-x batch by its language.
    found = Counter(drawn(table, batch)[0] for batch in batches)
    expected = {key: p for key, p in formula(sampling, mode != "x-y").items() if p}
    assert set(found) <= set(expected)
    keys = sorted(expected)
    test = chisquare([found[key] for key in keys], [expected[key] * len(batches) for key in keys])
    assert test.pvalue > 1e-3
    wrong = {key: 1.0 for key in keys}  # the test can fail: by it, uniform draws are none of these
    assert chisquare([found[k] for k in keys], [wrong[k] * len(batches) / len(keys) for k in keys]).pvalue < 1e-3 or (
        len(keys) == 1
    )


def test_members_are_uniform(tmp_path: Path) -> None:
    counts = {("a", "qa", ("de", "en")): 7, ("a", "qa", ("de", "en", "fr")): 5}
    table = table_of(world(counts), tmp_path)
    sampler = Sampler(table, table.used, Sampling(mode="x-y"), 2, seed=1)
    rows = Counter((int(batch.queries[0]), int(batch.passages[0])) for batch in map(sampler.batch, range(8_000)))
    c = table.columns
    by_pair: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
    for (q, p), times in rows.items():
        assert c["group"][q] == c["group"][p]
        by_pair.setdefault((int(c["language"][q]), int(c["passage_language"][p])), Counter())[q, p] += times
    assert len(by_pair) == 6
    for pair, found in by_pair.items():
        members = 12 if {table.languages[i] for i in pair} == {"de", "en"} else 5
        assert len(found) == members
        assert chisquare(list(found.values())).pvalue > 1e-4


def test_modes_of_batches(tmp_path: Path) -> None:
    table = table_of(world(COUNTS), tmp_path)
    for alpha in (0.0, 0.3, 1.0):
        sampler = Sampler(table, table.used, Sampling(mode="hybrid", alpha=alpha), 8, seed=2)
        mono = 0
        for batch in map(sampler.batch, range(2_000)):
            pairs = drawn(table, batch)
            mono += batch.mono
            if batch.mono:
                assert len({pair[:2] for pair in pairs}) == 1 and pairs[0][0] == pairs[0][1]
            else:
                assert all(pair[0] != pair[1] for pair in pairs)
        assert abs(mono - alpha * 2_000) <= 4 * (2_000 * alpha * (1 - alpha)) ** 0.5
    mixed = Sampler(table, table.used, Sampling(mode="x-x-mixed"), 8, seed=2)
    languages = [{pair[:2] for pair in drawn(table, mixed.batch(step))} for step in range(50)]
    assert all(a == b for pairs in languages for a, b in pairs) and any(len(pairs) > 1 for pairs in languages)
    english = Sampler(table, table.used, Sampling(mode="en-en"), 8, seed=2)
    assert {pair[:2] for step in range(50) for pair in drawn(table, english.batch(step))} == {("en", "en")}
    # Sets of English alone join mono batches only.
    assert "english" not in {pair[2] for pair in cells(sampler, table, False)}, (
        "sets of English alone join mono batches"
    )


def test_one_data_set_a_batch(tmp_path: Path) -> None:
    table = table_of(world(COUNTS), tmp_path)
    sampler = Sampler(table, table.used, Sampling(mode="hybrid", one_dataset=True), 8, seed=3)
    batches = [drawn(table, sampler.batch(step)) for step in range(300)]
    assert all(len({pair[2:] for pair in pairs}) == 1 for pairs in batches)
    assert len({pairs[0][2:] for pairs in batches}) == 5
    cross = [pairs for pairs in batches if pairs[0][0] != pairs[0][1]]
    assert any(len({pair[:2] for pair in pairs}) > 1 for pairs in cross), "languages are mixed within a batch"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_false_negatives(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Few groups, few texts: whatever is drawn, no two members share a group or a text."""
    lines = data.draw(
        st.lists(
            st.builds(
                lambda g, a, q, p, kind, source: {
                    "group": f"g{g}",
                    "lang": a,
                    "question": f"text {q}",
                    "passage": f"text {p}",
                    "kind": kind,
                    "source": source,
                },
                st.integers(0, 6),
                st.sampled_from(["de", "en", "fr"]),
                st.integers(0, 12),
                st.integers(0, 12),
                st.sampled_from(KINDS),
                st.sampled_from(["s", "t"]),
            ),
            min_size=1,
            max_size=30,
        )
    )
    table = table_of(lines, tmp_path_factory.mktemp("pairs"))
    mode = data.draw(st.sampled_from(["x-x", "x-y", "hybrid", "x-x-mixed", "en-en"]))
    try:
        sampler = Sampler(
            table, table.used, Sampling(mode=mode, mono_kinds=("qa", "ctx")), 6, data.draw(st.integers(0, 9))
        )
    except DataError:
        return
    for batch in map(sampler.batch, range(5)):
        assert len(batch.queries) >= 1
        groups = [lines[q]["group"] for q in batch.queries]
        assert len(set(groups)) == len(groups)
        texts = [
            {lines[q]["question"], lines[p]["passage"]} for q, p in zip(batch.queries, batch.passages, strict=True)
        ]
        assert all(not (a & b) for a, b in itertools.combinations(texts, 2))
        for q, p in zip(batch.queries, batch.passages, strict=True):
            assert lines[q]["group"] == lines[p]["group"]
            assert (lines[q]["source"], lines[q]["kind"]) == (lines[p]["source"], lines[p]["kind"])
            assert (q == p) if batch.mono else (lines[q]["lang"] != lines[p]["lang"])


def test_no_passage_is_another_ones_in_another_language(tmp_path: Path) -> None:
    """Two questions on one paragraph: in whatever languages they are drawn, each passage answers both."""
    languages = ("de", "en", "fr")
    lines = [
        line(f"g{i}-{j}", language, passage=f"paragraph {i} in {language}")
        for i in range(6)
        for j in range(4)
        for language in languages
    ]
    # By way of another: h0 has g0's passage in German alone, h1 has h0's in French alone.
    lines += [line("h0", "de", passage="paragraph 0 in de"), line("h0", "fr", passage="h in fr")]
    lines += [line("h1", "fr", passage="h in fr"), line("h1", "en", passage="h1 in en")]
    table = table_of(lines, tmp_path)
    for mode in ("x-y", "x-x-mixed", "x-x", "hybrid"):
        sampler = Sampler(table, table.used, Sampling(mode=mode), 16, 0)
        for batch in map(sampler.batch, range(40)):
            paragraphs = [lines[q]["group"][1:].split("-")[0] for q in batch.queries]
            kin = ["0" if lines[q]["group"][0] == "h" else p for q, p in zip(batch.queries, paragraphs, strict=True)]
            assert len(set(kin)) == len(kin) >= 5


def test_how_many_pairs_are_drawn_from(tmp_path: Path) -> None:
    table = table_of(
        world({("a", "qa", ("de", "en")): 7, ("a", "qa", ("fr",)): 5, ("b", "term", ("de", "fr")): 3}), tmp_path
    )
    cases = [
        (Sampling(mode="x-x"), 19),
        (Sampling(mode="en-en"), 7),
        (Sampling(mode="x-x-mixed", mono_kinds=("term",)), 6),
        (Sampling(mode="x-y"), 20),
        (Sampling(mode="x-y", kinds={"qa": 1.0}), 14),
        (Sampling(mode="hybrid"), 25),
        (Sampling(mode="hybrid", alpha=0.0), 20),
        (Sampling(mode="hybrid", alpha=1.0), 19),
    ]
    for sampling, expected in cases:
        sampler = Sampler(table, table.used, sampling, 4, 0)
        batches = [sampler.batch(step) for step in range(400)]
        rows = np.unique(np.concatenate([np.append(batch.queries, batch.passages) for batch in batches]))
        assert sampler.drawn_from == len(rows) == expected


def test_pure_and_seeded(tmp_path: Path) -> None:
    table = table_of(world(COUNTS), tmp_path)

    def rows(seed: int, steps: list[int]) -> list[list[int]]:
        sampler = Sampler(table, table.used, Sampling(), 16, seed)
        return [[*batch.queries.tolist(), *batch.passages.tolist()] for batch in map(sampler.batch, steps)]

    assert rows(1, [0, 1, 2, 3]) == [*rows(1, [2, 3]), *rows(1, [0, 1])][2:] + rows(1, [2, 3])
    assert rows(1, [3]) != rows(2, [3]) and rows(1, [3]) != rows(1, [4])


def test_rows_outside_the_mask_are_never_drawn(tmp_path: Path) -> None:
    table = table_of(world(COUNTS), tmp_path, holdout=0.3)
    assert table.held_out.any() and not table.held_out.all()
    sampler = Sampler(table, table.used & ~table.held_out, Sampling(), 32, 0)
    rows = np.concatenate([np.append(b.queries, b.passages) for b in map(sampler.batch, range(200))])
    assert not table.held_out[rows].any()
    by_group: dict[int, set[bool]] = {}
    for group, held in zip(table.columns["group"].tolist(), table.held_out.tolist(), strict=True):
        by_group.setdefault(group, set()).add(held)
    assert all(len(sides) == 1 for sides in by_group.values()), "translations stay on one side"


def test_no_passage_that_is_held_out_is_trained_on(tmp_path: Path) -> None:
    lines = [
        line(f"g{i}-{j}", language, passage=f"paragraph {i} in {language}")
        for i in range(60)
        for j in range(3)
        for language in ("de", "en")
    ]
    tables = [table_of(some, tmp_path, holdout=0.3) for some in (lines, lines[::-1])]
    sides: dict[str, set[bool]] = {}
    for pair, held in zip(lines, tables[0].held_out.tolist(), strict=True):
        sides.setdefault(pair["passage"], set()).add(held)
    assert all(len(each) == 1 for each in sides.values()) and 20 < sum(True in each for each in sides.values()) < 52
    assert tables[1].held_out.tolist()[::-1] == tables[0].held_out.tolist(), "whatever the order of the lines"


def test_a_batch_is_short_where_its_cells_are_used_up(tmp_path: Path) -> None:
    table = table_of(world({("a", "qa", ("de",)): 5, ("a", "qa", ("en",)): 40}), tmp_path)
    sampler = Sampler(table, table.used, Sampling(mode="x-x"), 16, 0)
    sizes = {drawn(table, batch)[0][0]: len(batch.queries) for batch in map(sampler.batch, range(40))}
    assert sizes == {"de": 5, "en": 16}


def test_questions_and_passages_of_different_languages_in_a_line(tmp_path: Path) -> None:
    lines = [line(f"g{i}", "de", passage_lang="en") for i in range(20)]
    table = table_of(lines, tmp_path)
    sampler = Sampler(table, table.used, Sampling(mode="x-y"), 8, 0)
    assert {pair[:2] for pair in drawn(table, sampler.batch(0))} == {("de", "en")}
    with pytest.raises(DataError, match="no pair in one language"):
        Sampler(table, table.used, Sampling(mode="x-x"), 8, 0)


def test_nothing_to_draw_from(tmp_path: Path) -> None:
    table = table_of(world({("a", "bitext", ("de",)): 5}), tmp_path)
    with pytest.raises(DataError, match="mode x-y: no group has a question and a passage in different languages"):
        Sampler(table, table.used, Sampling(mode="x-y"), 4, 0)
    with pytest.raises(DataError, match="mode en-en: no pair in one language of kinds qa"):
        Sampler(table, table.used, Sampling(mode="en-en"), 4, 0)
    with pytest.raises(DataError, match="factors: source 'b' is not in the pairs; found a"):
        Sampler(table, table.used, Sampling(mode="x-x", mono_kinds=("bitext",), factors={"b": 1.0}), 4, 0)


def test_shares(tmp_path: Path) -> None:
    table = table_of(world(COUNTS), tmp_path)
    sampler = Sampler(table, table.used, Sampling(), 16, 0)
    batches = [sampler.batch(step) for step in range(200)]
    found = shares(sampler, table, batches)
    for what in {share.what for share in found}:
        some = [share for share in found if share.what == what]
        assert sum(share.expected for share in some) == pytest.approx(1, abs=1e-12)
        assert sum(share.realised for share in some) == pytest.approx(1, abs=1e-12)
    by_name = {(share.what, share.name): share for share in found}
    for (what, name), count in {
        ("batches", "same language"): sum(batch.mono for batch in batches),
        ("languages", "de-fr"): sum(pair[:2] == ("de", "fr") for batch in batches for pair in drawn(table, batch)),
        ("data set", "big/qa"): sum(pair[2:] == ("big", "qa") for batch in batches for pair in drawn(table, batch)),
        ("kind", "ctx"): sum(pair[3] == "ctx" for batch in batches for pair in drawn(table, batch)),
    }.items():
        assert by_name[what, name].pairs == count
    cross = formula(Sampling(), False)
    assert by_name["languages", "de-fr"].expected == pytest.approx(
        0.5 * sum(p for key, p in cross.items() if key[:2] == ("de", "fr"))
    )
