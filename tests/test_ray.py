"""A run on a cluster of two nodes against the same run on one machine: the same bytes, whatever is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import corpora
import nodes
import psutil
import pytest
import servers
from test_folders import results
from test_shards import files_of


class Made:
    """A made-up task of two languages, one encoder, and what one machine makes of them.

    The encoder's file is part of its fingerprint, so all runs have one, with its delay and its folder of who encoded.
    """

    def __init__(
        self, folder: Path, sizes: dict[str, list[int]], rows: int, delay: float, settings: tuple[str, ...]
    ) -> None:
        self.folder, self.rows = folder, rows
        self.seen = folder / "seen"
        self.seen.mkdir()
        self.shards = sum(-(-size // rows) for some in sizes.values() for size in some)
        self.passages = sum(map(sum, sizes.values()))
        task = corpora.make(folder, "made", sizes, queries=20)
        encoder = corpora.write_encoder(folder / "cheap.py", 64, company=True, delay=delay, seen=str(self.seen))
        self.command = ["run", f"py:{encoder}:Cheap", "-t", str(task), "--data", str(folder / "data")]
        self.command += ["--shard-rows", str(rows)]
        for setting in settings:
            self.command += ["--setting", setting]
        code, self.stdout, self.stderr = self.finish(self.start("here"))
        assert code == 0, self.stderr
        self.results, self.vectors = self.made("here")
        self.texts = sum(self.encoded())
        assert len(self.results) > 1 and sum(name.endswith(".npy") for name in self.vectors) == self.shards

    def start(self, name: str, *more: str, group: bool = False) -> "subprocess.Popen[bytes]":
        """The command, with a cache and a folder of results of that name."""
        return subprocess.Popen(
            [sys.executable, "-m", "xbench", *self.command, "-o", str(self.folder / name / "out"), *more],
            cwd=self.folder,
            env=os.environ | {"XBENCH_CACHE": str(self.folder / name / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=group,
        )

    def finish(self, process: "subprocess.Popen[bytes]") -> tuple[int, bytes, str]:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        return process.returncode, out, err.decode()

    def run(self, name: str, *more: str) -> None:
        """To the end; everything is as on one machine."""
        code, out, err = self.finish(self.start(name, *more))
        assert code == 0, err
        assert out == self.stdout
        self.check(name)

    def check(self, name: str, vectors: Path | None = None) -> None:
        found, shards = self.made(name)
        assert found.keys() == self.results.keys()
        for file, content in self.results.items():
            assert found[file] == content, file
        shards = shards if vectors is None else files_of(vectors)
        assert shards.keys() == self.vectors.keys()
        assert [file for file, content in self.vectors.items() if shards[file] != content] == []

    def made(self, name: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Results but for their times, and shards."""
        return results(self.folder / name / "out"), files_of(self.folder / name / "cache" / "shards")

    def timing(self, name: str) -> dict[str, object]:
        (path,) = (self.folder / name / "out").glob("*/made.timing.json")
        found: dict[str, object] = json.loads(path.read_text())
        return found

    def encoded(self) -> list[int]:
        """The sizes of all batches since `forget`, those of killed processes among them."""
        return [int(line) for path in self.seen.iterdir() for line in path.read_text().split("\n") if line]

    def redone(self) -> float:
        """How many shards were encoded in vain."""
        return (sum(self.encoded()) - self.texts) / self.rows

    def forget(self) -> None:
        for path in self.seen.iterdir():
            path.unlink()

    def processes(self) -> list[int]:
        """Workers that have encoded and are alive."""
        found = []
        for path in self.seen.iterdir():
            try:
                if psutil.Process(int(path.name)).name().startswith("ray::"):
                    found.append(int(path.name))
            except psutil.NoSuchProcess:
                continue
        return sorted(found)

    def wait_for(self, batches: int, process: "subprocess.Popen[bytes]") -> None:
        """Until so many have been begun."""
        deadline = time.monotonic() + 120
        while len(self.encoded()) < batches:
            assert time.monotonic() < deadline and process.poll() is None, (process.poll(), process.communicate())
            time.sleep(0.01)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    sizes = {"en": [600, 300], "de": [400, 100]}
    return Made(tmp_path_factory.mktemp("made"), sizes, 128, 0.002, ("mono", "multi"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[nodes.Nodes]:
    with nodes.cluster({"num_cpus": 1}) as two:
        yield two


def test_the_bytes_of_one_machine(made: Made, cluster: nodes.Nodes) -> None:
    made.forget()
    made.run("there", "--ray", cluster.address)
    assert sum(made.encoded()) == made.texts  # each once
    assert len(list(made.seen.iterdir())) == 2, "both nodes work"
    workers = made.timing("there")["workers"]
    assert isinstance(workers, dict) and workers["nodes"] == 2 and workers["processes"] >= 2
    made.forget()
    made.run("there", "--ray", cluster.address)  # what is there is not encoded again
    assert made.encoded() == []


def test_begun_on_one_and_finished_on_the_other(made: Made, cluster: nodes.Nodes) -> None:
    for name, more in (("begun-here", ("--ray", cluster.address)), ("begun-there", ())):
        shards = made.folder / name / "cache" / "shards"
        shutil.copytree(made.folder / "here" / "cache" / "shards", shards)
        cards = sorted(path for path in shards.rglob("*.json") if path.name != "model.json")
        assert len(cards) == made.shards
        lost = 0
        for card in cards[::3]:
            lost += json.loads(card.read_text())["rows"]
            card.unlink()
        made.forget()
        made.run(name, *more)
        assert sum(made.encoded()) == lost + made.texts - made.passages, "the missing ones and the queries"


def test_interrupted(made: Made, cluster: nodes.Nodes, tmp_path: Path) -> None:
    """Ctrl-C on the cluster, with the shards at a URL; one machine finishes it."""
    with servers.ftp(tmp_path / "ftp") as url:
        made.forget()
        process = made.start("stopped", "--ray", cluster.address, "--shards", f"{url}/shards", group=True)
        made.wait_for(6, process)
        os.killpg(process.pid, signal.SIGINT)
        code, out, err = made.finish(process)
        assert (code, out) == (130, b"")
        assert err.rstrip("\n").endswith(
            "xbench: interrupted; what is done is kept, and the same command goes on from there"
        )
        assert not list((made.folder / "stopped" / "out").rglob("*.json"))
        assert 0 < len(list((tmp_path / "ftp" / "shards").rglob("*.npy"))) < made.shards
        process = made.start("stopped", "--shards", f"{url}/shards")
        code, out, err = made.finish(process)
        assert (code, out) == (0, made.stdout), err
        made.check("stopped", tmp_path / "ftp" / "shards")
        assert made.redone() <= 2  # what both workers had in hand


def test_a_worker_is_killed(made: Made, cluster: nodes.Nodes) -> None:
    made.forget()
    process = made.start("killed", "--ray", cluster.address)
    made.wait_for(random.Random(time.time_ns()).randint(3, made.shards - 2), process)
    os.kill(made.processes()[0], signal.SIGKILL)
    code, out, err = made.finish(process)
    assert code == 0, err
    assert out == made.stdout
    made.check("killed")
    assert 0 <= made.redone() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["xquad-r", "mlqa-r"])
def test_real_tasks(task: str, data: Path, tmp_path: Path, cluster: nodes.Nodes) -> None:
    """The vectors of a task that is held, in pieces."""
    each = []
    for name, more in (("here", ()), ("there", ("--ray", cluster.address))):
        command = ["run", "hash", "-t", task, "--data", str(data), "-o", name, *more]
        start = time.monotonic()
        done = servers.run(*command, cwd=tmp_path, environment={"XBENCH_CACHE": str(tmp_path / "cache" / name)})
        assert done.returncode == 0, done.stderr.decode()
        print(task, name, f"{time.monotonic() - start:.1f} s")
        each.append((done.stdout, results(tmp_path / name)))
    assert each[0] == each[1]


KILLS = 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker, a node and the driver in turn, at random moments: finished, with the same bytes.

    A worker or a node, which has one worker, costs one shard at most; the driver what both workers have in hand.
    """
    made = Made(tmp_path, {"en": [5000, 1500], "de": [3000]}, 256, 0.003, ("mono", "multi"))
    rng, killed, runs, redone = random.Random(8), 0, 0, 0.0
    kinds = ["worker", "node", "driver"]
    with nodes.cluster({"num_cpus": 1}) as cluster:
        node = 0
        while killed < KILLS:
            made.forget()
            name, allowed, did = f"run-{runs}", 0, []
            process = made.start(name, "--ray", cluster.address)
            while True:
                try:
                    process.wait(rng.uniform(0.5, 5))
                    break
                except subprocess.TimeoutExpired:
                    pass
                if killed == KILLS:
                    continue
                kind = kinds[killed % len(kinds)]
                if kind == "worker":
                    if not (alive := made.processes()):
                        continue  # none is at work yet
                    os.kill(rng.choice(alive), signal.SIGKILL)
                elif kind == "node":
                    cluster.remove(node)
                    node = cluster.add(num_cpus=1, object_store_memory=300 << 20)
                else:
                    process.kill()
                    process.communicate()
                    process = made.start(name, "--ray", cluster.address)
                killed += 1
                allowed += 2 if kind == "driver" else 1
                did.append(kind)
            code, out, err = made.finish(process)
            assert code == 0, err
            assert out == made.stdout
            made.check(name)
            with capsys.disabled():
                print(
                    f"\n{name}: killed {did or 'nothing'}, {made.redone():.2f} shards of {made.shards} encoded in vain"
                )
            assert 0 <= made.redone() <= allowed
            redone += made.redone()
            runs += 1
            shutil.rmtree(tmp_path / name)
    with capsys.disabled():
        print(f"{killed} kills in {runs} runs, {redone:.2f} shards encoded in vain")
