"""What a new result must be before a board takes it: a failing example of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from boardfiles import SLUG, changed, copied, evaluated, table_changed
from click.testing import CliRunner

from xbench.catalogue import parse
from xbench.cli import cli
from xbench.errors import DataError, IntegrityError, UsageError, XbenchError
from xbench.evaluate import Plan, evaluate
from xbench.leaderboard import add as module
from xbench.leaderboard.add import add, examine
from xbench.leaderboard.sums import read_sums
from xbench.leaderboard.verify import verify
from xbench.models import load, slug
from xbench.results import write_result
from xbench.storage import fingerprint, sha256
from xbench.task import vary
from xbench.tasks import load_task


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `verify`, which has its own tests and would take seconds each time; here it must be called."""
    called: list[Path] = []
    monkeypatch.setattr(module, "verify", called.append)
    yield  # type: ignore[misc]
    assert called


def test_a_good_result_is_copied_and_listed(tmp_path: Path) -> None:
    path, folder = copied(tmp_path / "new", ranks=True), tmp_path / "boards"
    where = add(path, folder)
    assert where == folder / "results" / SLUG / "mini.json"
    assert sorted(file.name for file in where.parent.iterdir()) == ["mini.json", "mini.queries.parquet"]
    assert read_sums(folder / "results") == {f"{SLUG}/{f.name}": sha256(f) for f in where.parent.iterdir()}
    assert where.read_bytes() == path.read_bytes() and verify(where).hashed == 2
    before = (folder / "results" / "SHA256SUMS").read_bytes()
    assert add(path, folder) is None and (folder / "results" / "SHA256SUMS").read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_another_result_is_replaced_only_if_asked_for(tmp_path: Path) -> None:
    path, folder = copied(tmp_path / "new"), tmp_path / "boards"
    where = add(path, folder)
    assert where
    old = where.read_bytes()
    changed(path, lambda content: content["texts"].update(total=1))
    with pytest.raises(UsageError, match="another result of hash is there"):
        add(path, folder)
    assert where.read_bytes() == old
    assert add(path, folder, replace=True) == where and where.read_bytes() == path.read_bytes()
    assert read_sums(folder / "results")[f"{SLUG}/mini.json"] == sha256(path)


@pytest.mark.usefixtures("quick")
def test_the_list_keeps_other_results(tmp_path: Path) -> None:
    folder = tmp_path / "boards"
    add(copied(tmp_path / "one"), folder)
    other = changed(copied(tmp_path / "two"), identity(version=2))
    retie(other)
    where = add(other, folder)
    assert where and where.parent.name != SLUG
    files = [file for file in (folder / "results").glob("*/*") if file.is_file()]
    assert read_sums(folder / "results") == {f"{f.parent.name}/{f.name}": sha256(f) for f in files} and len(files) == 4


@pytest.mark.usefixtures("quick")
def test_a_crash_leaves_no_half_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = copied(tmp_path / "new"), tmp_path / "boards"
    add(path, folder)
    changed(path, lambda content: content["texts"].update(total=1))

    def broken(target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(module, "atomic", broken)
    with pytest.raises(OSError, match="no space"):
        add(path, folder, replace=True)
    assert not (folder / "results" / SLUG / "mini.json").exists()  # never beside the values of another


def rename(name: str, command: str = "xbench run hash -t mini") -> Callable[[Any], None]:
    def change(content: Any) -> None:
        model = content["model"]
        model |= {"name": name, "slug": slug(name, model["fingerprint"])}
        content["command"] = command

    return change


def command(text: str) -> Callable[[Any], None]:
    return lambda content: content.update(command=text)


def identity(**new: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        model = content["model"]
        model["identity"] |= new
        model["fingerprint"] = fingerprint(model["identity"])
        model["slug"] = slug(model["name"], model["fingerprint"])

    return change


def environment(**new: Any) -> Callable[[Any], None]:
    return lambda content: content["environment"].update(new)


def without(setting: str, language: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        content["cells"] = [c for c in content["cells"] if (c["setting"], c["query_language"]) != (setting, language)]

    return change


def no_measure(content: Any) -> None:
    for cell in content["cells"]:
        del cell["values"]["AP"]


BAD: list[tuple[Callable[[Any], None], type[XbenchError], str]] = [
    (without("multi", "de"), DataError, "1 of 132 cells are missing: multi/de"),
    (without("cross", "de"), DataError, "10 of 132 cells are missing: cross/de-ar"),
    (no_measure, DataError, "mono/ar has no AP; evaluate with the task's own measures"),
    (environment(xbench="not installed"), DataError, "xbench is not installed there"),
    (environment(torch=""), DataError, "no version of torch"),
    (lambda content: content["environment"].pop("numpy"), DataError, "no version of numpy"),
    (lambda content: content["model"].update(slug="other"), IntegrityError, "slug 'other', expected 'hash-"),
    (command("rm -rf ."), DataError, "expected that of `xbench run`, `score` or `study`"),
    (command(""), DataError, "command ''"),
    (command("xbench run hash -t mini\x1b[31m"), DataError, "more than a line of printable text"),
    (command("xbench run hash -t mini " + "x" * 1000), DataError, "of 1,000 characters"),
    (rename("evil\u202ename"), DataError, "more than a line of printable text"),
    (rename("a\nb"), DataError, "more than a line of printable text"),
    (command("xbench run vectors:/home/me/v -t mini"), DataError, "command: .* a path of one machine"),
    (command("xbench run /data/model -t mini"), DataError, "a path of one machine"),
    (command("xbench run hash -t mini --groups=~/g.toml"), DataError, "a path of one machine"),
    (command("xbench run 'C:\\models\\x' -t mini"), DataError, "a path of one machine"),
    (command("xbench run hf:file:///x -t mini"), DataError, "a path of one machine"),
    (rename("hf:/srv/models/e5"), DataError, "model.name: .* a path of one machine"),
    (identity(folder="/mnt/x"), DataError, "model.identity.folder: .* a path of one machine"),
    (identity(files={"/Users/a": "x"}), DataError, "a path of one machine"),
    (identity(prompt="a\x1bb"), DataError, "more than a line of printable text"),
    (identity(kind="canary"), UsageError, "is a canary"),
    (identity(kind="fuse", parts=[{"kind": "hash"}, {"kind": "canary"}]), UsageError, "is a canary"),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("change", "error", "what"), BAD, ids=[what for _, _, what in BAD])
def test_what_is_refused(tmp_path: Path, change: Callable[[Any], None], error: type[XbenchError], what: str) -> None:
    path = changed(copied(tmp_path / "new"), change)
    retie(path)
    with pytest.raises(error, match=what) as caught:
        add(path, tmp_path / "boards")
    assert "\n" not in str(caught.value) and not (tmp_path / "boards").exists()


def retie(path: Path) -> None:
    """Let the table say the fingerprint that the JSON has now: not what is tested here."""
    file = path.parent / "mini.queries.parquet"
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"xbench"])
    about["fingerprint"] = json.loads(path.read_text())["model"]["fingerprint"]
    pq.write_table(table.replace_schema_metadata({b"xbench": json.dumps(about)}), file)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "name",
    [
        "hf:intfloat/multilingual-e5-base@" + "a" * 40,
        "api:https://example.org/v1#model",
        "fuse:bm25+hf:a/b",
        "py:model.py:Model",
        "Modèle 模型 مدل",
    ],
)
def test_names_and_commands_that_are_fine(tmp_path: Path, name: str) -> None:
    line = f"xbench run {name} -t mini --prompt-query 'query: and/or '"
    path = changed(copied(tmp_path / "new"), rename(name, line))
    retie(path)
    assert add(path, tmp_path / "boards")


@pytest.mark.usefixtures("quick")
def test_a_prompt_may_have_lines(tmp_path: Path) -> None:
    path = changed(copied(tmp_path / "new"), identity(prompt="Instruct: find it\nQuery: "))
    retie(path)
    assert examine(path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("measure", "value"), [("AP", 1.5), ("AP", -0.25), ("R@10", 1.01), ("RankDistance", 1e9), ("RankDistance", -1.0)]
)
def test_values_out_of_range(tmp_path: Path, measure: str, value: float) -> None:
    path = copied(tmp_path / "new")
    content = json.loads(path.read_text())
    (cell,) = (c for c in content["cells"] if (c["setting"], c["query_language"]) == ("multi", "en"))

    def change(table: dict[str, list[Any]]) -> None:
        rows = [i for i, name in enumerate(table["cell"]) if name == "multi/en"]
        table[measure][rows[3]] = value
        for name in (measure, "RankDistanceMedian") if measure == "RankDistance" else (measure,):
            found = parse(name)
            cell["values"][name] = found.aggregate(np.array([table[found.column][i] for i in rows]))

    table_changed(path, change)
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=rf"multi/en: {measure} of \S+, expected 0 to "):
        examine(path)


@pytest.mark.usefixtures("quick")
def test_a_model_that_has_read_the_answers(tmp_path: Path) -> None:
    """Whatever it calls itself."""
    path = copied(tmp_path / "new", model="canary:oracle")
    with pytest.raises(UsageError, match="is a canary"):
        examine(path)
    changed(path, identity(kind="hf"))
    retie(path)
    with pytest.raises(IntegrityError, match="AP is 1 in every cell, as of a model that has read the answers"):
        examine(path)


def test_only_of_the_whole_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"of mini with \{'languages': \['de', 'en'\]\}; a board takes results of the"):
        examine(copied(tmp_path / "new", languages=("de", "en")))
    task = vary(load_task("mini"), languages=("de", "en"), context=True)
    result = evaluate(load("hash"), task, plan=Plan(tmp_path / "cache", command="xbench run hash -t mini --context"))
    with pytest.raises(DataError, match="of mini with .*context"):
        examine(write_result(result, tmp_path / "c" / result.model["slug"]))


def test_what_verify_refuses_is_refused(tmp_path: Path) -> None:
    path = changed(copied(tmp_path / "new"), lambda content: content["summary"]["mono"].update(AP=0.9))
    with pytest.raises(IntegrityError, match=r"summary.mono.AP is 0.9, but its queries give 0.7"):
        add(path, tmp_path / "boards")
    for what, value in (("queries", 47), ("passages", 76), ("left_out", 1), ("missing", 1)):
        path = copied(tmp_path / what)
        changed(path, lambda content, w=what, v=value: content["cells"][0].update({w: v}))  # type: ignore[misc]
        with pytest.raises((IntegrityError, DataError), match="queries|passages|missing"):
            add(path, tmp_path / "boards")
    path = copied(tmp_path / "version")
    changed(path, lambda content: content["task"].update(version=2))
    with pytest.raises(IntegrityError, match="made on mini version 2"):
        add(path, tmp_path / "boards")
    path = copied(tmp_path / "table")
    (path.parent / "mini.queries.parquet").unlink()
    with pytest.raises(DataError, match="no such file"):
        add(path, tmp_path / "boards")


@pytest.mark.usefixtures("quick")
def test_a_file_of_another_name(tmp_path: Path) -> None:
    path = copied(tmp_path / "new")
    renamed = path.rename(path.with_name("other.json"))
    with pytest.raises(DataError, match="expected the name mini.json"):
        add(renamed, tmp_path / "boards")


def test_the_command(tmp_path: Path) -> None:
    source = next(evaluated().glob("*-*"))
    shutil.copytree(source, tmp_path / "new")
    arguments = ["leaderboard", "add", str(tmp_path / "new" / "mini.json"), "--folder", str(tmp_path / "boards")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0 and str(tmp_path / "boards" / "results" / SLUG / "mini.json") in done.output
    assert CliRunner().invoke(cli, arguments).exit_code == 0
