"""The state of a training run: saved whole or not at all, and read again bit for bit.

A checkpoint is a folder `checkpoint-<step>` of two files: `state.safetensors` with the weights, the best
weights, the optimiser's moments and the states of the random number generators, and `state.json` with
everything else and the SHA-256 of the first. Nothing is pickled, so nothing that is read can run code.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xbench.errors import DataError, IntegrityError
from xbench.storage import atomic, sha256, storage
from xbench.strictjson import read_json

if TYPE_CHECKING:
    import torch

    from xbench.train.distributed import World

NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


class State(NamedTuple):
    """Where a run stands after a step."""

    tensors: "dict[str, torch.Tensor]"
    """By name: `model.*`, `best.*`, `loss.*`, `optimizer.*`, `rng.*`."""
    facts: dict[str, Any]
    """JSON values: the step, the best validation, the config's SHA-256."""


def save(folder: Path, step: int, state: State) -> None:
    """Write the checkpoint of a step, then delete older ones.

    Raises:
        StorageError: it cannot be written; older ones are still there then.
    """
    from safetensors.torch import save_file

    target = folder / f"checkpoint-{step}"
    with storage(target, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".checkpoint-", dir=folder))
        try:
            # Cloned, since safetensors refuses tensors that share memory; contiguous, since it writes bytes.
            tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
            save_file(tensors, part / "state.safetensors")
            facts = {**state.facts, "step": step, "sha256": sha256(part / "state.safetensors")}
            with atomic(part / "state.json") as file:
                file.write(json.dumps(facts, sort_keys=True, allow_nan=False).encode())
            with (part / "state.safetensors").open("rb+") as written:
                os.fsync(written.fileno())
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    remove(folder, before=step)


def load(folder: Path, expected: Mapping[str, Any]) -> tuple[int, State] | None:
    """The newest checkpoint of a run: its step and state; None where there is none.

    Args:
        folder: the run's.
        expected: facts that must be the same, such as the config's SHA-256.

    Raises:
        IntegrityError: it is damaged.
        DataError: it is of another run.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    steps = _steps(folder)
    if not steps:
        return None
    place = folder / f"checkpoint-{max(steps)}"
    facts: Any = read_json(place / "state.json")
    cure = f"delete {place} to go on from an older one or from the start"
    if type(facts) is not dict or type(facts.get("step")) is not int or facts["step"] != max(steps):
        raise IntegrityError(f"{place / 'state.json'}: no state of step {max(steps)}; {cure}")
    for name, value in expected.items():
        if facts.get(name) != value:
            raise DataError(
                f"{place}: a run with another {name} ({facts.get(name)!r}, not {value!r}); choose another folder"
            )
    if sha256(place / "state.safetensors") != facts.get("sha256"):
        raise IntegrityError(f"{place / 'state.safetensors'} is damaged: not the bytes that were written; {cure}")
    try:
        return max(steps), State(load_file(place / "state.safetensors"), facts)
    except SafetensorError as error:
        raise IntegrityError(f"{place / 'state.safetensors'} is damaged: {error}; {cure}") from error


def remove(folder: Path, before: float = float("inf")) -> None:
    """Delete the checkpoints of steps before one, and what interrupted writers left."""
    for step in _steps(folder):
        if step < before:
            # Renamed first: a folder half deleted must not look like a checkpoint.
            doomed = folder / f".checkpoint-{step}-old"
            shutil.rmtree(doomed, ignore_errors=True)
            with storage(folder, "write"):
                (folder / f"checkpoint-{step}").rename(doomed)
    for rest in folder.glob(".checkpoint-*"):
        shutil.rmtree(rest, ignore_errors=True)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max(_steps(folder), default=0)


def _steps(folder: Path) -> list[int]:
    found = (NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*"))
    return sorted(int(match[1]) for match in found if match)


def optimizer_tensors(optimizer: "torch.optim.Optimizer") -> "dict[str, torch.Tensor]":
    """Its moments and step counts, by parameter's place and name."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: "torch.optim.Optimizer", tensors: "Mapping[str, torch.Tensor]") -> None:
    """The reverse of `optimizer_tensors`.

    Raises:
        ValueError: not the moments of these parameters: the fused optimiser would read and write beyond them.
    """
    import torch

    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in part(tensors, "optimizer.").items():
        place, key = name.split(".", 1)
        state.setdefault(int(place), {})[key] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    fits = bool(state)  # a weight that never had a gradient has no moments
    for i, values in state.items():
        p = parameters[i]
        expected = {"exp_avg": (p.shape, p.dtype), "exp_avg_sq": (p.shape, p.dtype), "step": ((), torch.float32)}
        fits &= {key: (tuple(value.shape), value.dtype) for key, value in values.items()} == expected
    if not fits:
        raise ValueError("the optimiser's moments are not those of the model's weights")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@contextlib.contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Turn what a restored state that is not of the run raises into an IntegrityError."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{folder}: its newest checkpoint does not fit the run: {what}; delete it to go on from an older one or "
            "from the start"
        ) from error


def rng_tensors(world: "World") -> "dict[str, torch.Tensor]":
    """The states of torch's generators in every process: the processor's, and the accelerator's where there is one."""
    import torch

    mine = {"cpu": torch.get_rng_state()}
    if world.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(world.device)
    return {
        f"rng.{name}.{rank}": all_[rank]
        for name, state in mine.items()
        for all_ in [world.gather(state)]
        for rank in range(world.size)
    }


def restore_rng(tensors: "Mapping[str, torch.Tensor]", world: "World") -> None:
    """The reverse of `rng_tensors`, of this process."""
    import torch

    torch.set_rng_state(tensors[f"rng.cpu.{world.rank}"])
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"rng.cuda.{world.rank}"], world.device)


def part(tensors: "Mapping[str, torch.Tensor]", prefix: str) -> "dict[str, torch.Tensor]":
    """Those whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
