"""The documentation's commands run, and its table is what they print."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

import xbench
from xbench.cli import COMMANDS
from xbench.tasks import task_names
from xbench.train.config import Config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    ]


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A folder with `xbench` on its PATH, as after installation, and the files that the pages show."""
    program = tmp_path / "bin" / "xbench"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from xbench.cli import main; main()' \"$@\"\n")
    program.chmod(0o755)
    for _, block in blocks("python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    return tmp_path


# Run by `test_the_table_of_the_readme`, which looks at what it prints.
TABLE = "xbench run hash -t xquad-r -t mlqa-r"


@pytest.mark.parametrize(("page", "block"), [b for b in blocks("sh") if "make " not in b[1] and b[1].strip() != TABLE])
def test_commands(page: str, block: str, shell: Path, request: pytest.FixtureRequest) -> None:
    environment = os.environ | {"PATH": f"{shell / 'bin'}:{os.environ['PATH']}"}
    if re.search(r"-t (xquad-r|mlqa-r|miracl)|verify", block):
        environment["XBENCH_DATA"] = str(request.getfixturevalue("data"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=shell, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{page}:\n{block}\n{done.stderr}"


PROGRAMS = [
    *(block for _, block in blocks("python")),
    "\n".join(line[4:] for line in str(xbench.__doc__).partition("::\n")[2].split("\n")),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_python(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(program, {"__name__": "example"})


def test_make_targets_are_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("make demo", "make test"):
        assert target in readme and target in run
    if shutil.which("make"):
        done = subprocess.run(
            ["make", "-n", "demo", "test", "VENV=/nonexistent/venv"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and "-c constraints.txt" in done.stdout


def test_every_task_and_command_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"`{name}`" in text for name in task_names())
    assert all(f"xbench {name}" in text for name in COMMANDS)


@pytest.mark.parametrize(
    "model", ["hash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("static", "bm25"))]
)
def test_the_table_of_the_readme(model: str, data: Path, shell: Path) -> None:
    """The rows of `hash`, `static` and `bm25` are those that the commands below the table print."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    environment = os.environ | {"XBENCH_DATA": str(data)}
    line = TABLE.replace("hash", model)
    assert f"```sh\n{line}\n```" in readme or f"    {line}\n" in readme
    command = [str(shell / "bin" / "xbench"), *line.split()[1:], "-o", str(shell / "out")]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    for task in ("xquad-r", "mlqa-r"):
        (path,) = (shell / "out").glob(f"{model}-*/{task}.json")
        mean = json.loads(path.read_text())["summary"]
        values = [mean["mono"]["AP"], mean["cross"]["AP"], mean["multi"]["AP"], mean["multi"]["RR"]]
        cells = " | ".join(f"{value:.4f}" for value in values)
        assert f"| `{task}` | `{model}` | {cells} | {mean['multi']['RankDistance']:,.1f} |" in readme, cells


def test_constraints_cover_the_dependencies() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.split("[>=<]", name)[0].lower().replace("ray[train]", "ray") for names in groups for name in names}
    own = {name for name in wanted if name.startswith("xbench[")}
    assert own == {"xbench[bm25,distributed,leaderboards,openvino,train]"} and wanted - own <= pinned


def test_nothing_names_this_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split("\n")[:-1]:
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        assert not re.search(r"(?<![\w.])/(work|root|farm)/[a-z.]", text), name


def test_every_key_of_a_training_config_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for part in dataclasses.fields(Config):
        if part.name == "folder":
            continue
        (table,) = re.findall(rf"^\| `\[{part.name}\]` \|.*\n((?:\|.*\n)+)", page, re.M)
        rows = [[cell.strip() for cell in line.split(" | ")] for line in table.split("\n")[1:-1]]
        keys = [(key, row) for row in rows for key in re.findall(r"`(\w+)`", row[0])]
        fields = dataclasses.fields(get_type_hints(Config)[part.name])
        assert [key for key, _ in keys] == [field.name for field in fields]
        for field, (key, row) in zip(fields, keys, strict=True):
            place = re.findall(r"`(\w+)`", row[0]).index(key)
            default = row[1].split(", ")[place] if ", " in row[1] else row[1]
            if default in ("needed", "all", "none", "empty"):
                assert field.default in (dataclasses.MISSING, (), ""), key
            else:
                assert field.default == ast.literal_eval(
                    default.strip("`").replace("false", "False").replace('["qa"]', '("qa",)')
                ), key
