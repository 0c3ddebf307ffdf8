"""Workers of a real cluster of two nodes: how their errors arrive, what is lost with one, and what is refused."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpora
import nodes
import numpy as np
import pytest
import servers

from xbench import cli, distant
from xbench.cluster import RETRIES, connected, room
from xbench.distant import Spec, ask
from xbench.errors import IntegrityError, UsageError, XbenchError
from xbench.models import Options
from xbench.workers import Here

# Minutes of real clusters, here and in test_train_ray.py; CI runs test_ray.py.
pytestmark = pytest.mark.slow

# Everything that needs a connection, in one process with one: a name and what came of it, a line each.
PROGRAM = """
import json, os, pathlib, sys, time
from xbench import distant, errors
from xbench.cluster import RayWorkers, connected
from xbench.distant import Spec, ask
from xbench.models import Options

folder = pathlib.Path(sys.argv[2])


def tell(name, value):
    print(json.dumps([name, value]), flush=True)


def caught(act):
    try:
        return ["fine", str(act()), 0]
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "exit_code", -1)]


def fail(shared, name):
    if name == "ValueError":
        raise ValueError("of the model's own")
    raise getattr(errors, name)(f"{shared}: {name}, row 3")


def square(shared, x):
    time.sleep(0.3 if x == 0 else 0.02)
    return x, shared + x * x


def attempts(name):
    with (folder / name).open("a") as file:
        file.write("x")
    return len((folder / name).read_text())


def fatal(shared, item):
    attempts("fatal")
    os._exit(1)


def once(shared, item):
    if attempts(f"once-{item}") == 1 and item in shared:
        os._exit(1)
    return item


def where(shared, item):
    time.sleep(0.2)
    return os.getpid()


with connected(sys.argv[1]) as ray:
    with connected("nobody:1") as again:  # the outer one is taken, and it is not ended by this block
        tell("nested", again is ray)
    workers = RayWorkers(ray)
    tell("size", [workers.size, workers.processors, workers.gpus])
    for name in [c.__name__ for c in (errors.XbenchError, *errors.XbenchError.__subclasses__())] + ["ValueError"]:
        tell(name, caught(lambda name=name: list(workers.map(fail, "node", [name]))))
    asked, most, found = [], 0, []

    def items():
        for i in range(40):
            asked.append(i)
            yield i

    for pair in workers.map(square, 1000, items()):
        found.append(pair)
        most = max(most, len(asked) - len(found))
    tell("square", [found, most])
    tell("none", list(workers.map(square, 0, [])))
    tell("fatal", [*caught(lambda: list(workers.map(fatal, None, [0]))), attempts("fatal") - 1])
    tell("once", [sorted(workers.map(once, [1, 4], range(6))), [attempts(f"once-{i}") - 1 for i in range(6)]])
    few = RayWorkers(ray)
    tell("where", [len(set(few.map(where, None, range(10)))), few.report()])
    tell("many", caught(lambda: sorted(x for x, _ in RayWorkers(ray, workers=50).map(square, 0, range(60)))))
    tell("one", [RayWorkers(ray, workers=1).size, len(set(RayWorkers(ray, workers=1).map(where, None, range(3)))) > 0])
    for gpus in (1, 0.25):
        tell(f"gpus {gpus}", caught(lambda gpus=gpus: RayWorkers(ray, None, gpus)))
    spec = Spec("hash", Options(), str(folder))
    model = ask(spec, workers)
    tell("ask", [model.name, model.told_language, model.batch_tokens, model.identity])
    tell("bm25", caught(lambda: ask(Spec(f"vectors:{folder}", Options(), "/"), workers)))
    distant.versions = lambda: {"xbench": "0.0", "numpy": "1.0"}
    tell("versions", caught(lambda: ask(spec, workers)))
tell("ended", ray.is_initialized())
"""
NODES = """
import ray

class Cheap:
    fingerprint = ray.get_runtime_context().get_node_id()[:8]  # other weights on each node

    def encode_passages(self, texts, language):
        import time
        import numpy as np
        time.sleep(0.2)
        return np.ones((len(texts), 3), np.float32)

    encode_queries = encode_passages
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with nodes.cluster({"num_cpus": 1}) as two:
        yield two.address


@pytest.fixture(scope="module")
def told(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program has found."""
    folder = tmp_path_factory.mktemp("told")
    command = [sys.executable, "-c", PROGRAM, address, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.split("\n") if line)


def test_errors_of_workers_arrive_as_they_are(told: dict[str, Any]) -> None:
    kinds = [XbenchError, *XbenchError.__subclasses__()]
    assert len(kinds) == 8
    for kind in kinds:
        assert told[kind.__name__] == [kind.__name__, f"node: {kind.__name__}, row 3", kind.exit_code]
    name, message, _ = told["ValueError"]  # a bug, as in one process: with the traceback of the worker
    assert "ValueError" in name and "of the model's own" in message


def test_every_item_once_and_asked_for_when_there_is_somebody(told: dict[str, Any]) -> None:
    found, most = told["square"]
    assert sorted(found) == [[x, 1000 + x * x] for x in range(40)]
    assert found[0][0] != 0, "as they are done"
    size, processors, gpus = told["size"]
    assert (size, processors, gpus) == (2, 1, 0) and most <= size
    assert told["none"] == []


def test_a_worker_that_is_lost(told: dict[str, Any]) -> None:
    """Its item is done again; one whose workers are lost each time ends the run."""
    items, attempts = told["once"]
    assert items == list(range(6)) and attempts == [1, 2, 1, 1, 2, 1]
    name, message, code, tried = told["fatal"]
    assert (name, code, tried) == ("IncompleteError", 10, RETRIES + 1)
    assert f"lost {RETRIES + 1} times" in message and "the same command goes on" in message and "\n" not in message


def test_who_worked(told: dict[str, Any]) -> None:
    processes, report = told["where"]
    each = report["workers"]
    assert set(each) == {"processes", "nodes", "processors", "gpus", "peak_rss_mb"}
    assert each["processes"] == processes >= 2 and each["nodes"] == 2
    assert (each["processors"], each["gpus"]) == (1, 0) and 20 < each["peak_rss_mb"] < 4000


def test_more_workers_than_the_cluster_has_room_for_wait_for_nodes(told: dict[str, Any]) -> None:
    assert told["many"] == ["fine", str(list(range(60))), 0]
    assert told["one"] == [1, True]


def test_what_a_cluster_has_not(told: dict[str, Any]) -> None:
    for gpus in (1, 0.25):
        name, message, code = told[f"gpus {gpus}"]
        assert (name, code) == ("UsageError", 2)
        assert message == f"--gpus-per-worker {gpus:g}: no node of the cluster has more than 0"


def test_connections(told: dict[str, Any]) -> None:
    assert told["nested"] is True and told["ended"] is False


def test_a_model_is_what_a_worker_says(told: dict[str, Any]) -> None:
    from xbench.models import Encoder, load

    model = load("hash")
    assert isinstance(model, Encoder)
    assert told["ask"] == [model.name, model.told_language, model.batch_tokens, model.identity]
    name, _, code = told["bm25"]
    assert (name, code) in {("UsageError", 2), ("DataError", 3)}
    name, message, code = told["versions"]
    assert (name, code) == ("IntegrityError", 7)
    assert "'numpy': '1.0'" in message and np.__version__ in message and "same versions" in message


def test_a_worker_with_another_model_or_other_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tmp_path / "own.py"
    encoder.write_text(corpora.ENCODER.format(dimension=4, company=False, delay=0, seen=""), encoding="utf-8")
    spec = Spec("py:own.py:Cheap", Options(), str(tmp_path))  # spelled from the user's folder
    before = os.getcwd()
    model = ask(spec, Here())
    assert os.getcwd() == before and model.name == "py:own.py:Cheap"
    assert model.load() is model.load(), "once a process"
    other = distant.Distant(spec, model.name, False, 1, {**model.identity, "fingerprint": "another"})
    with pytest.raises(IntegrityError, match="is another one on node .*: fingerprint is '4 False'.*'another'"):
        other.load()
    more = distant.Distant(spec, model.name, False, 1, {**model.identity, "zzz": 1})
    with pytest.raises(IntegrityError, match="zzz is None, on another node 1"):
        more.load()
    monkeypatch.setattr(distant, "versions", lambda: {"xbench": "1", "numpy": "0.1"})
    with pytest.raises(IntegrityError, match="is another one on node .*: numpy is '0.1'"):
        model.load()


def test_how_manyroom() -> None:
    some = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}, {"GPU": 1.0}, {"CPU": 16.0, "GPU": 1.0}]
    for processors, gpus, expected in ((1, 0, 27), (4, 0, 6), (8, 0, 3), (17, 0, 0), (4, 1, 3), (2, 0.5, 6), (8, 2, 1)):
        assert room(some, processors, gpus) == expected, (processors, gpus)


def cause(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli._run(list(arguments), False)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return code, message


def test_options_of_a_cluster_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "encode"):
        for option, value in (("--workers", "2"), ("--gpus-per-worker", "0.5"), ("--gpus-per-worker", "0")):
            code, message = cause(capsys, command, "hash", "-t", "xquad-r", option, value)
            assert (code, message) == (2, f"xbench: {option} is for a cluster: give --ray too\n")
    assert cause(capsys, "run", "hash", "-t", "xquad-r", "--workers", "0")[0] == 2
    assert cause(capsys, "run", "hash", "-t", "xquad-r", "--ray", "local", "--gpus-per-worker", "-1")[0] == 2


def test_without_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(UsageError), connected("local"):
        pass
    code, message = cause(capsys, "run", "hash", "-t", "xquad-r", "--ray", "auto")
    assert code == 2 and "--ray needs Ray" in message and "pip install 'xbench[distributed]'" in message


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nobody.invalid:6379", "nonsense"])
def test_nobody_at_the_address(address: str, tmp_path: Path) -> None:
    start = time.monotonic()
    done = servers.run("run", "hash", "-t", "xquad-r", "--ray", address, cwd=tmp_path, environment={})
    message = done.stderr.decode()
    assert done.returncode == 2 and message.count("\n") == 1, message
    assert f"--ray {address}: no Ray cluster there (" in message and "ray start --head" in message
    assert time.monotonic() - start < 30
    assert not list(tmp_path.iterdir())


def test_what_does_not_run_on_workers(address: str, tmp_path: Path) -> None:
    task = corpora.make(tmp_path, "made", {"en": [70, 40]}, queries=8)
    command = ["-t", str(task), "--data", str(tmp_path / "data"), "--ray", address]
    (tmp_path / "given").mkdir()
    for model in ("vectors:given", "bm25"):
        done = servers.run("run", model, *command, cwd=tmp_path, environment={})
        assert done.returncode == 2, done.stderr.decode()
        assert f"model '{model}' does not encode texts: only such models run with --ray" in done.stderr.decode()
    done = servers.run("run", "hash", *command, "--gpus-per-worker", "1", cwd=tmp_path, environment={})
    assert done.returncode == 2 and b"no node of the cluster has more than 0" in done.stderr


def test_nodes_that_differ_are_refused(address: str, tmp_path: Path) -> None:
    """An object whose `fingerprint` is another one on each node, as of weights that were copied by hand."""
    task = corpora.make(tmp_path, "made", {"en": [70, 40]}, queries=8)
    (tmp_path / "own.py").write_text(NODES, encoding="utf-8")
    command = ["run", "py:own.py:Cheap", "-t", str(task), "--data", str(tmp_path / "data"), "--ray", address]
    own = {"XBENCH_CACHE": str(tmp_path / "cache")}
    done = servers.run(*command, "--shard-rows", "16", cwd=tmp_path, environment=own)
    message = done.stderr.decode().rstrip("\n").rpartition("\n")[2]
    assert done.returncode == 7, message
    assert message.startswith("xbench: model 'py:own.py:Cheap' is another one on node ")
    assert "fingerprint is '" in message and "take nodes that are alike" in message
