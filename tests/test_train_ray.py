"""Training on a cluster of two nodes, which this machine plays: by torchrun on both, and by Ray."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from test_loop import weights, write_pairs

from xbench.cli.train import command
from xbench.errors import DataError, IncompleteError, StorageError, UsageError
from xbench.train import launch
from xbench.train.config import read_config
from xbench.train.loop import train
from xbench.train.remote import Group, refusing, working

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
print("ready", cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "remove":
        cluster.remove_node(node, allow_graceful=False)
    else:
        node = cluster.add_node(num_cpus=1)
    print("ready", flush=True)
cluster.shutdown()
"""
CONFIG = """
[data]
files = ["pairs.jsonl"]
holdout = 0.2
[model]
base = "tiny"
vocabulary = 400
dim = 16
layers = 1
heads = 2
dropout = 0.0
max_length = 32
[training]
steps = 12
batch_size = 16
learning_rate = 0.02
checkpoint_every = 5
validate_every = 8
"""
# With other processes' dropout, and long enough to be interrupted.
LONG = ["--set", "model.dropout=0.2", "--set", "training.steps=250", "--set", "training.checkpoint_every=20"]


def environment() -> dict[str, str]:
    ours = {"XBENCH_CACHE": "cache", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    root = str(Path(__file__).parent.parent)
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}  # looks less seldom
    return {**os.environ, **ours, **ray, "PYTHONPATH": root}


class Cluster:
    """Two nodes of one processor each, as children of a process of their own."""

    def __init__(self, place: Path) -> None:
        with (place / "cluster.log").open("w") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
                env=environment(),
                cwd=place,
            )

    @functools.cached_property
    def address(self) -> str:
        return self.ready()

    def ready(self) -> str:
        """Wait; the address, the first time."""
        assert self.process.stdout
        for line in self.process.stdout:
            if found := re.fullmatch(r"ready ?(\S*)\n", line):
                return found[1]
        raise AssertionError("no cluster")

    def tell(self, what: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self.ready()

    def trainers(self) -> list[psutil.Process]:
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in below if "TrainWorker" in " ".join(each.cmdline())]

    def close(self) -> None:
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.communicate(timeout=60)
        assert not psutil.wait_procs(below, timeout=20)[1], "processes are left"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("train")
    write_pairs(found / "pairs.jsonl")
    (found / "config.toml").write_text(CONFIG)
    return found


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    found = Cluster(place)
    yield found
    found.close()


def start(place: Path, output: str, *more: str, before: tuple[str, ...] = ("-m", "xbench")) -> "subprocess.Popen[str]":
    words = [sys.executable, *before, "train", "config.toml", "-o", output, *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, cwd=place, env=environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def done(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    out, told = process.communicate(timeout=200)
    assert process.returncode == code, told
    return out, told


def files(model: Path) -> dict[str, str]:
    """Hash of each file; the card says which command trained it."""
    some = (path for path in model.rglob("*") if path.is_file() and path.name != "README.md")
    return {str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest() for path in some}


@pytest.mark.slow
def test_the_same_weights_by_torchrun_on_two_nodes_and_by_ray(cluster: Cluster, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nodes = [
        start(
            place,
            "torchrun",
            before=(
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                f"--node-rank={rank}",
                "--nproc-per-node=1",
                "--master-addr=127.0.0.1",
                f"--master-port={port}",
                "-m",
                "xbench",
            ),
        )
        for rank in range(2)
    ]
    assert [done(node)[0] for node in nodes] == ["torchrun/model\n", ""]
    out, told = done(start(place, "ray", "--ray", cluster.address))
    assert out == f"{place / 'ray' / 'model'}\n"
    assert "xbench: training: 12 of 12 steps" in told and told.count("step 8: mono") == 1
    assert files(place / "ray" / "model") == files(place / "torchrun" / "model")
    left = {path.name for path in (place / "ray").iterdir()} - {"tensorboard"}
    assert left == {"config.json", "log.jsonl", "model", "training.json"}
    assert json.loads((place / "ray" / "training.json").read_text())["environment"]["processes"] == 2
    train(read_config(place / "config.toml"), place / "one", cache=place / "cache", threads=1)
    for name, tensor in weights(place / "one" / "model").items():
        np.testing.assert_allclose(tensor, weights(place / "ray" / "model")[name], atol=1e-4)


OTHER_VERSION = """
import importlib.metadata
import sys
found = importlib.metadata.version
importlib.metadata.version = lambda name: "2.0.0+cu126" if name == "torch" else found(name)
from xbench.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_an_error_of_a_process_is_the_command_s(cluster: Cluster, place: Path) -> None:
    """Process 0 finds no data, while process 1 waits for it."""
    process = start(place, "error", "--ray", cluster.address, "--set", 'data.files=["none.jsonl"]')
    out, told = done(process, DataError.exit_code)
    missing = f"xbench: [data] files: no {place / 'none.jsonl'}; put it there, or name its folder by --data"
    assert not out and told.split("\n")[-2] == missing
    assert "lost a process" not in told, "an error that stays is not tried again"
    assert [path.name for path in (place / "error").iterdir()] == ["config.json"]


@pytest.mark.slow
def test_other_versions_are_refused(cluster: Cluster, place: Path) -> None:
    process = start(place, "versions", "--ray", cluster.address, before=("-c", OTHER_VERSION))
    told = done(process, UsageError.exit_code)[1]
    found = importlib.metadata.version("torch").partition("+")[0]
    assert told.count("\n") == 2 and f"found torch {found}, expected 2.0.0 as where the command runs; install" in told


@pytest.mark.slow
@pytest.mark.parametrize("what", ["process", "machine"])
def test_after_a_loss_it_ends_in_the_same_weights(what: str, cluster: Cluster, place: Path) -> None:
    if not (place / "whole").is_dir():
        done(start(place, "whole", "--ray", cluster.address, *LONG))
    process = start(place, what, "--ray", cluster.address, *LONG)
    wait_for_checkpoint(place / what)
    time.sleep(random.random() * 3)
    if what == "process":
        random.choice(cluster.trainers()).kill()
    else:
        cluster.tell("remove")
        time.sleep(5)
        cluster.tell("add")
    out, told = done(process)
    assert out == f"{place / what / 'model'}\n"
    assert told.count("xbench: lost a process (") == 1 and told.count("goes on after step") == 1
    assert files(place / what / "model") == files(place / "whole" / "model")


@pytest.mark.slow
def test_interrupted_it_leaves_no_process(cluster: Cluster, place: Path) -> None:
    process = start(place, "interrupted", "--ray", cluster.address, *LONG)
    wait_for_checkpoint(place / "interrupted")
    assert len(trainers := cluster.trainers()) == 2
    os.killpg(process.pid, signal.SIGINT)
    told = done(process, 130)[1]
    assert told.endswith("\nxbench: interrupted; what is done is kept, and the same command goes on from there\n")
    assert not psutil.wait_procs(trainers, timeout=20)[1]
    assert not list((place / "interrupted").glob(".ray*"))


def wait_for_checkpoint(folder: Path) -> None:
    for _ in range(1200):
        if any(folder.glob("checkpoint-*")):
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint in a minute")


def test_what_is_sent_needs_no_xbench() -> None:
    """A machine without it says so."""
    from ray import cloudpickle

    order = {"versions": {"numpy": importlib.metadata.version("numpy"), "xbench": "1.2.3"}}
    sent = cloudpickle.dumps(working(order, None))
    run = (
        "import importlib.metadata as m, pickle, sys; sys.modules['xbench'] = None; found = m.version\n"
        "def version(name):\n    if name == 'xbench': raise m.PackageNotFoundError(name)\n    return found(name)\n"
        "m.version = version; pickle.load(sys.stdin.buffer)()"
    )
    told = subprocess.run([sys.executable, "-c", run], input=sent, capture_output=True).stderr.decode()
    assert "found xbench none, expected 1.2.3 as where the command runs; install the same versions on all" in told


def test_what_a_build_is_for_makes_no_other_version() -> None:
    refusing({"versions": {"torch": importlib.metadata.version("torch").partition("+")[0]}})()
    with pytest.raises(ImportError, match="found torch 2"):
        refusing({"versions": {"torch": "1.0"}})()


def test_a_folder_that_a_machine_does_not_see(tmp_path: Path) -> None:
    order = {"versions": {}, "environment": {}, "scratch": str(tmp_path / "none"), "folder": "FOLDER"}
    with pytest.raises(StorageError, match=r"does not see FOLDER; choose a folder \(-o\) on storage that all machines"):
        working(order, None)()


def test_paths_mean_the_same_in_a_process_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XBENCH_DATA", "data")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HOME", raising=False)
    text = CONFIG + "[data.limits]\nfr = 7\nde = 5\n[sampling.kinds]\nqa = 1\nctx = 0.5\n[loss]\nalignment = 1\n"
    (here / "config.toml").write_text(text)
    config = read_config("config.toml", {"model.base": "hf:base"})
    orders: list[dict[str, Any]] = []
    monkeypatch.setattr(launch, "connected", lambda _: contextlib.nullcontext(Nodes((4, 0), (4, 0))))
    monkeypatch.setattr(launch, "_persist", lambda _, group, order, folder: orders.append(order))
    out = launch.launch(config, Path("run"), address="x", cache=Path("c"), data=Path("d"), threads=3, command="said")
    assert out == here / "run" / "model"

    calls: list[Any] = []
    monkeypatch.setattr("xbench.train.loop.train", lambda *args, **given: calls.append((args, given, os.getcwd())))
    monkeypatch.chdir(elsewhere)
    for name in ("XBENCH_DATA", "XBENCH_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "other")  # taken back after the test
    monkeypatch.setenv("RANK", "1")
    Path(orders[0]["scratch"]).mkdir()
    working(orders[0], None)()
    ((found, folder), given, place) = calls[0]
    assert (found.sha256, found.folder, folder) == (config.sha256, here, here / "run")
    assert given == {"cache": here / "c", "data": here / "d", "threads": 3, "command": "said"}
    assert place == str(here), "where `hf:base` is a folder"
    assert [os.environ[name] for name in ("XBENCH_DATA", "XBENCH_CACHE")] == [str(here / "data"), str(here / "c")]
    assert os.environ["HF_HUB_OFFLINE"] == "1" and "HF_HOME" not in os.environ


class Nodes:
    """What a cluster has, as Ray says it; a node that is dead has nothing."""

    def __init__(self, *nodes: tuple[float, float]) -> None:
        self._nodes = nodes

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        alive = [{"Alive": True, "Resources": {"CPU": c} | ({"GPU": g} if g else {})} for c, g in self._nodes]
        return [dead, *alive]


@pytest.mark.parametrize(
    ("nodes", "given", "expected"),
    [
        (((4, 0), (4, 0)), (None, None, None), (2, 0, 4)),  # one process a machine, with all its processors
        (((4, 0), (2, 0)), (None, None, None), (2, 0, 2)),  # as many as the smaller one has
        (((4, 0), (4, 0)), (3, None, None), (3, 0, 2)),  # two on one of them
        (((4, 0), (4, 0)), (2, None, 1), (2, 0, 1)),
        (((16, 4), (16, 4)), (None, None, None), (8, 1, 4)),  # one for each GPU
        (((16, 4), (2, 0)), (None, None, None), (4, 1, 4)),  # a machine without is not used
        (((16, 4), (8, 0)), (None, 0, None), (2, 0, 8)),  # unless GPUs are not wanted
        (((0, 0), (8, 0)), (None, None, None), (1, 0, 8)),  # a head that only leads
        (((1, 0),), (1, None, None), (1, 0, 1)),
        (((1, 0),), (4, 1, 2), (4, 1, 2)),  # machines may come
    ],
)
def test_how_many_processes(nodes: Any, given: Any, expected: Any) -> None:
    assert launch._group(Nodes(*nodes), "auto", *given) == expected


def test_too_small_a_cluster() -> None:
    with pytest.raises(
        UsageError, match=r"--ray local: there is room for 2 of 3 processes of 1 processors each; lower"
    ):
        launch._group(Nodes((2, 0)), "local", 3, None, 1)
    with pytest.raises(UsageError, match="there is room for 1 of 2 processes of 1 processors and a GPU each; lower"):
        launch._group(Nodes((8, 1)), "local", 2, None, 1)
    with pytest.raises(UsageError, match="--ray auto: no machine there has a GPU; say --workers to wait for some"):
        launch._group(Nodes((8, 0)), "auto", None, 1, None)


def test_which_failures_are_losses() -> None:
    lost, bug, bad = RuntimeError("connection closed"), KeyError("x"), DataError("bad")
    assert launch._judge([lost]) is None and launch._judge([lost, bug]) is None
    assert launch._judge([bug]) is bug and launch._judge([lost, bug, bad]) is bad
    found = launch._judge([ImportError("found torch")])
    assert isinstance(found, UsageError) and str(found) == "found torch"
    assert isinstance(launch._judge([TimeoutError("no room")]), IncompleteError)


def test_losses_without_progress_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As many as it takes between checkpoints; here one is written at the third and no more."""
    attempts = []

    def attempt(*_: object) -> list[Exception]:
        attempts.append(1)
        if len(attempts) == 3:
            (tmp_path / "checkpoint-5").mkdir()
        return [RuntimeError("died")]

    monkeypatch.setattr(launch, "_attempt", attempt)
    monkeypatch.setattr(launch, "_ear", lambda _: None)
    with pytest.raises(
        IncompleteError, match="processes were lost 4 times after step 5, without a new checkpoint; .* died"
    ):
        launch._persist(Nodes((2, 0)), Group(2, 0, 1), {}, tmp_path)
    assert len(attempts) == 2 + 4


def test_a_finished_run_needs_no_cluster(place: Path, tmp_path: Path) -> None:
    config = read_config(place / "config.toml")
    (tmp_path / "training.json").write_text(json.dumps({"sha256": config.sha256}))
    assert launch.launch(config, tmp_path, address="127.0.0.1:1", cache=tmp_path) == tmp_path / "model"


def test_wrong_usage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(place / "config.toml"), "-o", str(place / "none")]
    for option in ("--workers=2", "--gpus-per-worker=0"):
        with pytest.raises(UsageError, match=f"{option.partition('=')[0]} is for a cluster: give --ray too"):
            command.main([*words, option], standalone_mode=False)
    with pytest.raises(UsageError, match=r"--ray 127\.0\.0\.1:1: no Ray cluster there"):
        command.main([*words, "--ray", "127.0.0.1:1"], standalone_mode=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="--ray starts the processes itself"):
        command.main([*words, "--ray", "local"], standalone_mode=False)
    assert not (place / "none").exists()
