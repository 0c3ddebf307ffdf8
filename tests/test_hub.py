"""Names on the hub, against a server on this machine that speaks the little of its protocol that is used."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from checkpoints import XLMR, edit, open_, save, tokenizer

from xbench.errors import UsageError
from xbench.models import Options, load
from xbench.storage import fingerprint

OLD, NEW, CODE = "a" * 40, "b" * 40, "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories as folders by commit; branches name commits."""

    commits: dict[str, Path]
    branches: dict[str, str]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", "team", "tiny"] and parts[4] in ("revision", "tree"):
            commit = self.branches.get("/".join(parts[5:]), parts[5])
            if commit not in self.commits:
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            if parts[4] == "revision":
                return self.answer(200, {}, json.dumps({"id": "team/tiny", "sha": commit, "siblings": []}).encode())
            files = sorted(p for p in self.commits[commit].rglob("*") if p.is_file())
            tree = [
                {
                    "type": "file",
                    "path": p.relative_to(self.commits[commit]).as_posix(),
                    "size": p.stat().st_size,
                    "oid": oid(p),
                }
                for p in files
            ]
            return self.answer(200, {}, json.dumps(tree).encode())
        if parts[:3] == ["team", "tiny", "resolve"] and parts[3] in self.commits:
            file = self.commits[parts[3]] / "/".join(parts[4:])
            if file.is_file():
                headers = {"ETag": f'"{oid(file)}"', "X-Repo-Commit": parts[3]}
                return self.answer(200, headers, file.read_bytes())
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        return self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def commits(xlmr: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("hub")
    found = {commit: Path(shutil.copytree(xlmr, made / commit)) for commit in (OLD, CODE)}
    found[NEW] = save(made / NEW, "XLMRoberta", tokenizer(), seed=1, **XLMR)
    for commit in (OLD, NEW):
        (found[commit] / "README.md").write_text("---\nbase_model: intfloat/multilingual-e5-small\n---\n")
        (found[commit] / "pytorch_model.bin").write_bytes(b"never fetched")
        (found[commit] / "extra.py").write_text("raise SystemExit\n")
    (found[CODE] / "modeling.py").write_text(
        "from transformers import XLMRobertaModel\nclass Own(XLMRobertaModel): ...\n"
    )
    edit(found[CODE] / "config.json", auto_map={"AutoModel": "modeling.Own"})
    return found


@pytest.fixture(scope="module")
def hub(commits: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    handler = type(
        "Served", (Hub,), {"commits": commits, "branches": {"main": NEW, "v1": OLD, "refs/pr/1": OLD}, "asked": []}
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


RUN = """
import json, sys
from xbench.cli import main
for words in json.load(sys.stdin):
    sys.argv = ["xbench", *words]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    print("CODE", code, flush=True)
    print("CODE", code, file=sys.stderr, flush=True)
"""


def test_names_on_a_hub(hub: tuple[str, list[str]], commits: dict[str, Path], tmp_path: Path) -> None:
    """In a process of its own, as huggingface_hub reads its environment when imported."""
    endpoint, asked = hub
    prompts = ["--prompt-query", "query: ", "--prompt-passage", "passage: "]
    how = ["--device", "cpu", "-t", "mini", "--format", "json"]
    runs: list[tuple[list[str], int, str]] = [
        (["team/tiny", *prompts], 0, NEW),
        (["hf:team/tiny@v1", *prompts], 0, OLD),
        (["hf:team/tiny", "--revision", "refs/pr/1", *prompts], 0, OLD),
        ([f"team/tiny@{OLD}", "--revision", OLD, *prompts], 0, OLD),
        (["team/tiny@v1"], 2, 'add --prompt-query "query: " --prompt-passage "passage: "'),
        (["team/tiny@v1", "--revision", "main", *prompts], 2, "two revisions"),
        (["team/tiny@v9", *prompts], 3, "RevisionNotFound"),
        (["team/none", *prompts], 3, "RepositoryNotFound"),
        ([f"team/tiny@{CODE}", "--pooling", "mean"], 4, "--allow-code"),
        (["team/tiny@main", "--allow-code", *prompts], 4, "full commit"),
        ([f"team/tiny@{CODE}", "--allow-code", "--pooling", "mean", "--dim", "9"], 0, CODE),
    ]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    words = [["run", *given, "-o", str(tmp_path / "out"), *how] for given, _, _ in runs]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(words),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert not done.returncode, done.stderr
    outputs, errors = (stream.split("CODE ")[:-1] for stream in (done.stdout, done.stderr))
    codes = [int(text.split("\n")[0]) for text in done.stdout.split("CODE ")[1:]]
    assert codes == [code for _, code, _ in runs], done.stderr
    results = {}
    for (given, code, expected), output, error in zip(runs, outputs, errors, strict=True):
        lines = [line for line in error.split("\n") if line.startswith("xbench: ") and expected in line]
        if code:
            assert lines, error
            continue
        result = json.loads(output.split("\n", 1)[1] if output[0].isdigit() else output)
        assert result["model"]["name"] == f"hf:team/tiny@{expected}"
        # The command in the result gives the same weights again, whatever the branch has become.
        assert f"hf:team/tiny@{expected}" in result["command"] and "--revision" not in result["command"]
        assert ("--allow-code" in result["command"]) == (expected == CODE) == result["model"]["identity"]["code"]
        assert result["model"]["identity"]["dim"] == (9 if "--dim" in given else None)
        assert ("--dim 9" in result["command"]) == ("--dim" in given)
        results[" ".join(given)] = result["model"]
    of_commit: dict[str, set[str]] = {}
    for model in results.values():
        of_commit.setdefault(model["name"][-40:], set()).add(model["fingerprint"])
        assert set(model["identity"]["files"]) == {
            path.name for path in commits[model["name"][-40:]].iterdir() if path.suffix in (".json", ".safetensors")
        } | ({"modeling.py"} if CODE in model["name"] else set())
    assert {len(prints) for prints in of_commit.values()} == {1} and len(of_commit) == 3
    local = open_(commits[OLD], prompt_query="query: ", prompt_passage="passage: ").identity
    found = next(model["identity"] for model in results.values() if model["name"].endswith(OLD))
    assert fingerprint({**found, "batch_tokens": 0, "schema": 0}) == fingerprint(
        {**local, "batch_tokens": 0, "schema": 0}
    )
    fetched = {line.rpartition("/")[2] for line in asked if "/resolve/" in line}
    assert not {"pytorch_model.bin", "extra.py"} & fetched and {"README.md", "modeling.py"} <= fetched


def test_two_revisions_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: calls.append((name, how["revision"])))
    with pytest.raises(UsageError, match="hf:a/b@v1 and --revision v2 are two revisions; give one"):
        load("hf:a/b@v1", Options(revision="v2"))
    assert calls == []
