"""The commands as a user has them: streams, exit codes, one clear line, nothing half-written."""

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from xbench import cli
from xbench.cli import COMMANDS
from xbench.tasks import load_task

MINI = load_task("mini")


def xbench(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-c", "from xbench.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on standard error that holds the words, nothing on standard output, the exit code."""
    lines = [line for line in done.stderr.split("\n") if line and not re.match(r"xbench: (encod|mini)", line)]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1 and lines[0].startswith("xbench: "), done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    assert all(word in lines[0] for word in words), lines[0]


def copied(folder: Path) -> Path:
    """mini's sources as `--data` expects those of a task that is not bundled."""
    assert MINI.folder is not None
    shutil.copytree(MINI.folder, folder / "xquad-r")
    return folder


def model(folder: Path, body: str) -> str:
    """A py: model whose `encode` has this body."""
    path = folder / "model.py"
    path.write_text(
        "import numpy as np\nclass Model:\n"
        "    def encode_queries(self, texts, language):\n        return self.encode(texts)\n"
        "    def encode_passages(self, texts, language):\n        return self.encode(texts)\n"
        f"    def encode(self, texts):\n        {body}\n"
    )
    return f"py:{path}:Model"


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from xbench.cli import _run; code = _run(['--help'], False);"
        "heavy = {'torch', 'faiss', 'pandas', 'numpy', 'transformers', 'pyarrow', 'rich'} & set(sys.modules);"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "0 []"
    assert all(name in done.stdout for name in COMMANDS)
    # The one figure the contract names; the limit is three times what is seen.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run([command, "--help"], False) == 0
    assert COMMANDS[command].split()[0] in capsys.readouterr().out


def test_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    for name, settings in (
        ("xquad-r", "132 cells: 11 mono, 110 cross, 11 multi"),
        ("mlqa-r", "56 cells: 7 mono, 42 cross, 7 multi"),
    ):
        assert cli._run(["tasks", name, "--format", "csv"], False) == 0
        rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
        assert settings in rows[0][0]
        assert len(rows) == 2 + len(load_task(name).cells())
    assert ["cross/de-zh", "cross", "de", "zh", "190", "2322"] in rows
    assert ["multi/en", "multi", "en", "ar de en es hi vi zh", "1148", "20534"] in rows
    assert cli._run(["tasks"], False) == 0
    assert all(name in capsys.readouterr().out for name in ["mini"])


def test_demo(tmp_path: Path) -> None:
    done = xbench("demo", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "out").glob("hash-*/mini.json")
    found = json.loads(result.read_text())
    assert found["command"] == "xbench run hash -t mini" and len(found["cells"]) == 132
    for setting in ("mono", "cross", "multi"):
        assert f"{found['summary'][setting]['AP']:.4f}" in done.stdout
    (other,) = (tmp_path / "out").glob("static-*/mini.json")
    better = json.loads(other.read_text())
    assert better["command"] == "xbench run static -t mini" and better["model"]["name"] == "static"
    for row in ("hash", "static"):
        summary = (found if row == "hash" else better)["summary"]
        wanted = [summary[setting]["AP"] for setting in ("mono", "cross", "multi")]
        line = next(line for line in done.stdout.split("\n")[::-1] if line.startswith(f"| {row} |"))
        assert all(f" {value:.4f} " in line for value in wanted)
    for setting in ("cross", "multi"):
        assert better["summary"][setting]["AP"] > 1.5 * found["summary"][setting]["AP"]
    again = xbench("demo", "-o", tmp_path / "again")
    assert again.stdout == done.stdout
    assert result.read_bytes() == next((tmp_path / "again").glob("hash-*/mini.json")).read_bytes()
    # The command in the result gives the result.
    assert xbench(*found["command"].split()[1:], "-o", tmp_path / "third").returncode == 0
    assert result.read_bytes() == next((tmp_path / "third").glob("hash-*/mini.json")).read_bytes()


@pytest.mark.parametrize("format_", ["rich", "md", "csv", "tex", "json"])
def test_formats(format_: str, tmp_path: Path) -> None:
    done = xbench("run", "hash", "-t", "mini", "-m", "AP", "-m", "MRR@10", "-o", tmp_path, "--format", format_)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("*/mini.json")
    found = json.loads(result.read_text())
    assert list(found["summary"]["mono"]) == ["AP", "RR@10"]
    if format_ == "json":
        assert json.loads(done.stdout) == found
    else:
        value = found["summary"]["cross"]["RR@10"]
        assert (repr(value) if format_ == "csv" else f"{value:.4f}") in done.stdout


def test_wrong_usage(tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(xbench("run", "hash", "-t", "xqad-r", "-o", out), 2, "unknown task 'xqad-r'", "did you mean 'xquad-r'")
    refused(xbench("run", "hsh", "-t", "mini", "-o", out), 2, "unknown model 'hsh'", "'hash'")
    refused(xbench("run", "hash", "-t", "mini", "-m", "nDGC@10", "-o", out), 2, "unknown measure", "nDCG")
    refused(xbench("run", "hash", "-t", "mini", "-m", "R", "-o", out), 2, "R@10")
    refused(xbench("rum"), 2, "unknown command 'rum'", "'run'")
    refused(xbench("run", "hash", "-o", out), 2, "--task")
    refused(xbench("run", "hash", "-t", "mini", "--threads", "0", "-o", out), 2, "--threads")
    refused(xbench("tasks", "de"), 2, "unknown task 'de'")
    refused(xbench("run", "py:nothing", "-t", "mini", "-o", out), 2, "py:FILE_OR_MODULE:OBJECT")
    refused(xbench("run", "py:json:Nothing", "-t", "mini", "-o", out), 2, "has no 'Nothing'")
    refused(xbench("run", "py:json:loads", "-t", "mini", "-o", out), 5, "loads", "TypeError")
    refused(xbench("run", "py:json:decoder", "-t", "mini", "-o", out), 2, "no method encode_queries")
    refused(xbench("run", "hash", "-t", "mini", "--pooling", "cls", "-o", out), 2, "takes no --pooling")
    assert not list(out.glob("**/*.json"))


def test_bad_sources(tmp_path: Path) -> None:
    data, out = copied(tmp_path), tmp_path / "out"
    run = ("run", "hash", "-t", "xquad-r", "-o", out, "--data", data)
    expected = load_task("xquad-r").sources["ar"].sha256
    refused(xbench(*run), 7, "ar.json", expected)
    refused(xbench(*run, XBENCH_DATA="/nowhere"), 7, "ar.json")  # the option wins
    (data / "xquad-r" / "ar.json").unlink()
    refused(xbench(*run), 3, "ar.json is missing", expected)
    refused(xbench("data", "verify", "xquad-r", "--data", data), 3, "ar.json")
    refused(xbench("data", "where", "xquad-r"), 3, "ar.json", "xbench data fetch")
    assert not list(out.glob("**/*.json"))


def test_altered_and_truncated_real_source(data: Path, tmp_path: Path) -> None:
    for name, change in (("altered", lambda b: b.replace(b"the", b"teh", 1)), ("truncated", lambda b: b[:-100])):
        folder = tmp_path / name / "xquad-r"
        shutil.copytree(data / "xquad-r", folder)
        whole = (folder / "en.json").read_bytes()
        (folder / "en.json").chmod(0o644)
        (folder / "en.json").write_bytes(change(whole))
        done = xbench("data", "verify", "xquad-r", "--data", folder.parent)
        refused(done, 7, "en.json", load_task("xquad-r").sources["en"].sha256)
        assert len(set(re.findall(r"[0-9a-f]{64}", done.stderr))) == 2  # expected and found


def test_data_verify_and_where(data: Path) -> None:
    done = xbench("data", "verify", "xquad-r", "mlqa-r", "mini", "--data", data)
    assert done.returncode == 0, done.stderr
    assert "13090 queries, 13014 passages, 132 cells" in done.stdout
    assert "4199 queries, 20534 passages, 56 cells" in done.stdout
    done = xbench("data", "where", "mlqa-r", XBENCH_DATA=str(data))
    assert len(done.stdout.split()) == 7 and all(Path(line).is_file() for line in done.stdout.split())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return np.full((len(texts), 4), np.nan, np.float32)", ["NaN"]),
        ("return np.full((len(texts), 4), np.inf, np.float32)", ["infinity"]),
        ("return np.zeros((len(texts), 4), np.float32)", ["zero vector"]),
        ("return np.ones((len(texts) + 1, 4), np.float32)", ["shape"]),
        ("return np.ones((len(texts), 4))", ["float64"]),
        ("raise SystemExit(0)", ["SystemExit"]),
        ("raise BrokenPipeError", ["BrokenPipeError"]),
        ("raise RuntimeError('out of\\nmemory')", ["RuntimeError: out of memory"]),
    ],
)
def test_bad_models(body: str, words: list[str], tmp_path: Path) -> None:
    done = xbench("run", model(tmp_path, body), "-t", "mini", "-o", tmp_path / "out")
    refused(done, 5, *words)
    if "raise" not in body:
        assert re.search(r"\b[a-z]{2}:[a-z]+-[12]\b", done.stderr), "no text id"
    assert not list(tmp_path.glob("out/**/*"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("def fingerprint(self): return 'v1'", ["fingerprint must be a str"]),
        ("batch_tokens = 'many'", ["batch_tokens must be a int"]),
        ("batch_tokens = 0", ["batch_tokens must be a int"]),
    ],
)
def test_attributes_of_python_models(line: str, words: list[str], tmp_path: Path) -> None:
    spelling = model(tmp_path, "return np.ones((len(texts), 4), 'f4')")
    (tmp_path / "model.py").write_text((tmp_path / "model.py").read_text() + f"    {line}\n")
    refused(xbench("run", spelling, "-t", "mini", "-o", tmp_path / "out"), 2, *words)


def test_a_measure_that_only_multi_has(tmp_path: Path) -> None:
    done = xbench("run", "hash", "-t", "mini", "-m", "RankDistance", "-o", tmp_path)
    assert done.returncode == 0 and "RankDistance" in done.stdout, done.stderr


def test_no_command_shows_the_help() -> None:
    for arguments in ((), ("data",)):
        done = xbench(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("Usage: ") and done.stderr.count("\n") > 5


def test_a_narrow_terminal_shows_every_digit(tmp_path: Path) -> None:
    done = xbench("demo", "--format", "rich", "-o", tmp_path, COLUMNS="80")
    assert "…" not in done.stdout and "0.7870" in done.stdout


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for arguments in (("--debug", "run"), ("run", "--debug")):
        done = xbench(*arguments, "nothing", "-t", "mini", "-o", tmp_path)
        assert done.returncode == 2 and "Traceback" in done.stderr


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(xbench("run", "hash", "-t", "mini", "-o", tmp_path / "file" / "out"), 6, str(tmp_path / "file"))
    refused(xbench("demo", "-o", tmp_path / "out", XBENCH_CACHE=str(tmp_path / "file")), 6, str(tmp_path / "file"))
    assert not list(tmp_path.glob("out/**/*.json"))


def test_full_disk(tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk: the write fails half-way."""
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "from xbench.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "demo", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 6 and "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not [p for p in tmp_path.glob("out/**/*") if p.is_file()]
    assert xbench("demo", "-o", tmp_path / "out").returncode == 0


def test_interrupted_and_resumed(tmp_path: Path, own_cache: Path) -> None:
    slow = model(
        tmp_path, "import time; time.sleep(.05); return np.array([[len(t), len(t) % 7, 1] for t in texts], 'f4')"
    )
    command = [
        sys.executable,
        "-c",
        "from xbench.cli import main; main()",
        "run",
        slow,
        "-t",
        "mini",
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(own_cache.glob("vectors/*/model.json")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and not out
    assert error.strip().split("\n")[-1].startswith("xbench: interrupted") and "Traceback" not in error
    assert not list(tmp_path.glob("out/**/*.json"))
    assert list(own_cache.glob("vectors/*/*.npy")), "what was encoded is kept"
    done = xbench("run", slow, "-t", "mini", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (timing,) = tmp_path.glob("out/*/mini.timing.json")
    assert 0 < json.loads(timing.read_text())["texts_reused"] < 1375


def test_damaged_cache(tmp_path: Path, own_cache: Path) -> None:
    assert xbench("run", "hash", "-t", "mini", "-o", tmp_path / "out").returncode == 0
    shard = next(own_cache.glob("vectors/*/*.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 64
    shard.write_bytes(content)
    refused(xbench("run", "hash", "-t", "mini", "-o", tmp_path / "again"), 7, str(shard), "delete it")
    shard.unlink()
    assert xbench("run", "hash", "-t", "mini", "-o", tmp_path / "again").returncode == 0


def test_hostile_names_stay_on_one_line_and_in_the_folder(tmp_path: Path) -> None:
    refused(xbench("run", "a\n\x1b[31mb", "-t", "mini", "-o", tmp_path), 2, "unknown model")
    folder = tmp_path / "x" / "..evil;<script>"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for language in MINI.languages:
        np.save(folder / f"queries.{language}.npy", rng.standard_normal((48, 4), dtype="f4"))
        np.save(folder / f"passages.{language}.npy", rng.standard_normal((77, 4), dtype="f4"))
    done = xbench("run", f"vectors:{folder}/../..evil;<script>", "-t", "mini", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("out/*/mini.json")
    assert re.fullmatch(r"[A-Za-z0-9._-]+-[0-9a-f]{12}", result.parent.name) and not result.parent.name.startswith(".")
    assert "<script>" not in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    command = (
        f"{sys.executable} -c 'from xbench.cli import main; main()' tasks xquad-r | head -2; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_packages_of_hashes_and_versions(tmp_path: Path) -> None:
    assert xbench("--version").stdout.startswith("xbench")
