"""Two processes against one, as torchrun starts them; and started again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xbench.errors import UsageError
from xbench.train.distributed import World, join

TESTS = Path(__file__).parent

OPERATIONS = """
import sys
import torch
from test_gradients import PASSAGES, QUERIES, Encoder, assert_equal, gradients, loss_of_all
from xbench.train.distributed import join
from xbench.train.gradients import backward

world = join()
assert join() == world and world.size == 2 and world.device.type == "cpu"
mine = torch.tensor([[1.5, world.rank]], requires_grad=True)
assert world.gather(mine).tolist() == [[[1.5, 0.0]], [[1.5, 1.0]]] and not world.gather(mine).requires_grad
states = world.gather(torch.full((4,), 250 + world.rank, dtype=torch.uint8))
assert states.tolist() == [[250] * 4, [251] * 4]
one, two = torch.full((3,), 1.0 + world.rank), torch.tensor(10.0 * world.rank)
world.sum(one, two)
assert one.tolist() == [3.0] * 3 and two.item() == 10
assert world.agree(0.1 + world.rank) == 0.1 and world.agree(float("-inf") if world.rank == 0 else 3) == float("-inf")

queries, passages = QUERIES, PASSAGES[:14]
for cut in ({"buckets": 1}, {"buckets": 3}, {"micro_batch": 5}):
    alone, its_loss, shared, our_loss = Encoder(), loss_of_all(), Encoder(), loss_of_all()
    expected = backward(alone, queries, passages, its_loss)
    found = backward(shared, queries, passages, our_loss, world=world, **cut)
    assert sum(texts for texts, _ in shared.shapes) == (24 if "micro_batch" in cut else 12)
    assert abs(found - expected) <= 1e-6 * expected
    world.sum_gradients([torch.zeros(1), *shared.parameters(), *our_loss.parameters()])
    assert_equal(gradients(shared, our_loss), gradients(alone, its_loss))
    for each in gradients(shared, our_loss):
        both = world.gather(each)
        assert torch.equal(both[0], both[1])
world.wait()
print(f"process {world.rank} is done", file=sys.stderr)
"""

RESTARTED = """
import os, signal, sys
import torch
from xbench.train.distributed import join

world = join()
world.wait()
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and world.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
total = torch.tensor(1.0 + world.rank)
world.sum(total)
assert total == 3
print(f"process {world.rank} is done", file=sys.stderr)
"""


def torchrun(script: Path, *options: str) -> str:
    """Run a script in two processes; what they wrote to standard error."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options, str(script)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # No process may abort at its end, either.
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_two_processes_against_one(tmp_path: Path) -> None:
    script = tmp_path / "operations.py"
    script.write_text(OPERATIONS, encoding="utf-8")
    told = torchrun(script)
    assert "process 0 is done" in told and "process 1 is done" in told
    assert "warning" not in told.lower()


def test_started_again_after_a_death(tmp_path: Path) -> None:
    """torchrun starts both processes again, with the store that still holds the addresses of the first two."""
    script = tmp_path / "restarted.py"
    script.write_text(RESTARTED, encoding="utf-8")
    told = torchrun(script, "--max-restarts=1")
    assert told.count("process 0 is done") == told.count("process 1 is done") == 1


def test_waiting_leaves_no_tensors_to_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread would let go of them when Python ends, and now and then abort the process."""
    calls: list[object] = []
    monkeypatch.setattr("torch.distributed.barrier", lambda device_ids: calls.append(device_ids))
    monkeypatch.setattr("torch.distributed.all_gather", lambda *_: pytest.fail("gathered tensors"))
    World(1, 2).wait()
    World(1, 2, torch.device("cuda", 1)).wait()
    assert calls == [None, [1]]


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join()
    assert (world.rank, world.size) == (0, 1)
    tensor = torch.tensor([2.0], requires_grad=True)
    assert world.gather(tensor).tolist() == [[2.0]] and not world.gather(tensor).requires_grad
    world.sum(tensor)
    world.wait()
    assert tensor.tolist() == [2.0] and world.agree(0.1) == 0.1


def test_incomplete_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        UsageError, match="WORLD_SIZE is 2 and LOCAL_RANK is not set; start the processes with torchrun"
    ):
        join()


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "3",
        "RANK": "2",
        "LOCAL_RANK": "2",
        "MASTER_ADDR": "",
        "MASTER_PORT": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU; found 2: start at most 2 processes"):
        join()
    assert World().device.type == "cpu"
