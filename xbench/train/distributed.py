"""Several processes that train one model, as torchrun starts them: gloo between processors, NCCL between GPUs.

    torchrun --nproc-per-node 2 -m xbench train CONFIG

Every process draws the same batch, encodes its share of the texts and sees the vectors of all, so that a batch means
the same in one process and in many; `gradients` does this with the few operations below. They need no
DistributedDataParallel, which would sum gradients once per backward pass, where gradient caching has many.
"""

import atexit
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from xbench.errors import UsageError

# How long a process waits for another: one may prepare the data for all. torchrun ends them when one has died.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """This process among all; alone by default. Alone, nothing below costs anything."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    def gather(self, rows: Tensor) -> Tensor:
        """The tensors of all processes, of one shape: (size, *shape), in order of rank, without gradients."""
        if self.size == 1:
            return rows.detach()[None]
        # Generators' states are on the processor always, and NCCL sends what is on the GPU only.
        mine = rows.detach().to(self.device).contiguous()
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return torch.stack(found).to(rows.device)

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor, on `device`, by its sum over the processes, in place: equal in all of them."""
        if self.size > 1:
            # All on their way at once: many small ones then cost little more than their sum.
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients of parameters that have one; these must be the same parameters in every process."""
        self.sum(*(each.grad for each in parameters if each.grad is not None))

    def agree(self, value: float) -> float:
        """The value that process 0 has, in all of them."""
        return float(self.gather(torch.tensor(value, dtype=torch.float64))[0])

    def wait(self) -> None:
        """Until every process has come here.

        By an operation without tensors, and so the one to end with: a thread of gloo lets go of tensors a moment after
        we have them, for which it needs Python's lock, and if Python is ending by then it aborts the process.
        """
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


def join() -> World:
    """Find the other processes by the environment that torchrun, accelerate launch or Ray Train sets; else be alone.

    May be called again, and where torch.distributed is set up already, as Ray Train does. A process takes the GPU of
    its number on its machine, where there are GPUs.

    Raises:
        UsageError: the environment is incomplete; or more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if size > 1 and missing:
        raise UsageError(f"WORLD_SIZE is {size} and {missing[0]} is not set; start the processes with torchrun")
    rank, local = (int(os.environ[name]) if size > 1 else 0 for name in ("RANK", "LOCAL_RANK"))
    device = torch.device("cpu")
    if gpus := torch.cuda.device_count():
        if local >= gpus:
            raise UsageError(
                f"process {local} of this machine has no GPU; found {gpus}: start at most {gpus} processes"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        store, *_ = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun keeps its store when it restarts processes, with the addresses of the dead ones: begin a new page.
        store = PrefixStore(f"xbench/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        atexit.register(_leave)
    return World(rank, size, device)


def _leave() -> None:
    """Give gloo's threads time, and Python's lock, to let go of what they still hold; see `World.wait`."""
    dist.destroy_process_group()
    time.sleep(0.5)
