"""The training loop, from a config to a folder that holds a model: read it from top to bottom.

FOLDER/config.json          what is trained, written first
FOLDER/checkpoint-<step>/   where to go on from; gone when the run is finished
FOLDER/log.jsonl            a line every LOG steps and every validation; for TensorBoard too, where it is installed
FOLDER/model/               a sentence-transformers folder
FOLDER/training.json        what was trained and how, written last: with it, the run is finished
"""

import importlib.metadata
import json
import math
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from xbench.errors import DataError, IntegrityError, ModelOutputError, UsageError
from xbench.progress import log, track
from xbench.storage import atomic, storage, sync, umask
from xbench.threads import cores
from xbench.train import checkpoints
from xbench.train.card import card, composition
from xbench.train.config import Config, Training
from xbench.train.distributed import World, join
from xbench.train.encoder import Trainee
from xbench.train.gradients import backward
from xbench.train.journal import Journal
from xbench.train.losses import InfoNCE
from xbench.train.prepare import prepare
from xbench.train.record import record
from xbench.train.sampling import Batch, Sampler
from xbench.train.store import TokenStore
from xbench.train.validation import held_out

# Steps between two lines of the log.
LOG = 50


def train(
    config: Config,
    folder: Path,
    *,
    cache: Path,
    data: Path | None = None,
    threads: int | None = None,
    command: str = "",
) -> Path:
    """Train a model, or go on where an interrupted run stopped; a finished one is returned at once.

    The same config, data, versions, processes and threads give the same weights, bit for bit, however often the
    run was interrupted.

    Args:
        config: what to train.
        folder: of the run.
        cache: where pairs, tokens and tokenizers are kept.
        data: the folder of the config's files.
        threads: to compute with; by default all cores.
        command: for the record.

    Returns:
        The folder of the model.

    Raises:
        UsageError: a batch size that does not divide among the processes.
        DataError: see `prepare`; or the folder holds another run; or it should stop early, and nothing is held out.
        ModelOutputError: the loss, or a vector, is no longer a number.
        IntegrityError, StorageError: a checkpoint is damaged, or cannot be written.
    """
    import torch

    t, started = config.training, time.monotonic()
    torch.set_num_threads(threads or cores())
    world = join()
    if t.batch_size % world.size:
        raise UsageError(
            f"[training] batch_size: {t.batch_size} pairs do not divide among {world.size} processes; take a multiple"
        )
    if world.agree(world.rank == 0 and _claim(config, folder)):
        log.info("%s: finished before", folder)
        world.wait()
        return folder / "model"

    # What is trained, on what, and how it is judged.
    torch.manual_seed(t.seed)
    if world.rank > 0:
        world.wait()  # for process 0, which fills the cache for all
    table, tokens, trainee, base = prepare(config, cache, data)
    if world.rank == 0:
        world.wait()
    model = trainee.module.to(world.device)
    loss = InfoNCE(**config.about["loss"]).to(world.device)
    sampler = Sampler(table, table.training, config.sampling, t.batch_size, t.seed)
    validate = held_out(config, table, tokens)
    if t.patience and not validate:
        raise DataError(f"[training] patience: no pairs to judge by in a holdout of {config.data.holdout}; raise it")
    parameters = [*model.parameters(), *loss.parameters()]
    groups = [
        {"params": [*model.parameters()], "weight_decay": t.weight_decay},
        {"params": [*loss.parameters()], "weight_decay": 0.0},  # a learned temperature is no weight
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=t.learning_rate, fused=True)
    dtype = getattr(torch, t.dtype)

    # Where it stands.
    step, best, stale, recent = 0, -math.inf, 0, list[float]()
    latest: float | None = None  # of a validation
    weights: dict[str, torch.Tensor] = {}  # the best ones, where training may stop early
    expected = {"config": config.sha256, "files": table.about["files"], "processes": world.size}
    expected["clean_of"] = table.about.get("clean_of")  # their texts decide what is left out
    expected["base"] = base
    torch.manual_seed(t.seed + world.rank)  # each process drops other neurons
    if found := checkpoints.load(folder, expected):
        step, (tensors, facts) = found
        with checkpoints.fitting(folder):
            best, stale = (-math.inf if facts["best"] is None else float(facts["best"])), int(facts["stale"])
            recent = [float(value) for value in facts["recent"]]
            if weights := checkpoints.part(tensors, "best."):
                model.load_state_dict(weights)  # now, not after hours
            model.load_state_dict(checkpoints.part(tensors, "model."))
            loss.load_state_dict(checkpoints.part(tensors, "loss."))
            checkpoints.restore_optimizer(optimizer, tensors)
            checkpoints.restore_rng(tensors, world)
        log.info("%s: goes on after step %d", folder, step)
    if step != world.agree(step):
        raise IntegrityError(f"{folder}: its checkpoint is not the one of process 0; give all machines one folder")

    model.train()
    journal = Journal(folder, step) if world.rank == 0 else None
    last, pairs = time.monotonic(), 0
    with track("training", t.steps - step, "steps") as advance:
        while step < t.steps and not (t.patience and stale >= t.patience):
            batch = sampler.batch(step)
            for group in optimizer.param_groups:
                group["lr"] = t.learning_rate * _schedule(step, t)
            queries, passages = _texts(batch, tokens, config.sampling.negatives, step, world)
            value = backward(
                trainee.encode,
                queries,
                passages,
                loss,
                t.micro_batch,
                world,
                buckets=trainee.buckets,
                dtype=dtype,
            )
            world.sum_gradients(parameters)
            if not math.isfinite(value):
                raise ModelOutputError(f"step {step + 1}: the loss is {value}; lower learning_rate, or raise warmup")
            if t.clip:
                torch.nn.utils.clip_grad_norm_(parameters, t.clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            recent.append(value)
            pairs += len(batch.queries)
            advance(1)

            end = step == t.steps
            if step % LOG == 0 or end:
                if journal:
                    seconds = time.monotonic() - last
                    rate = t.learning_rate * _schedule(step - 1, t)
                    journal.write(
                        step, loss=sum(recent) / len(recent), learning_rate=rate, pairs_per_second=pairs / seconds
                    )
                recent, last, pairs = [], time.monotonic(), 0
            if validate and ((t.validate_every and step % t.validate_every == 0) or end):
                values = {name: world.agree(value) for name, value in validate(trainee).items()}
                log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
                if journal:
                    journal.write(step, **{f"validation/{name}": value for name, value in values.items()})
                latest = values["mean"]
                better = latest > best
                best, stale = (latest, 0) if better else (best, stale + 1)
                if better and t.patience:
                    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            if t.checkpoint_every and step % t.checkpoint_every == 0 and not end:
                tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
                tensors |= {f"loss.{name}": tensor for name, tensor in loss.state_dict().items()}
                tensors |= {f"best.{name}": tensor for name, tensor in weights.items()}
                tensors |= checkpoints.optimizer_tensors(optimizer) | checkpoints.rng_tensors(world)
                facts = {**expected, "best": best if best > -math.inf else None, "stale": stale, "recent": recent}
                if world.rank == 0:
                    checkpoints.save(folder, step, checkpoints.State(tensors, facts))

    # What comes of it.
    if weights:
        model.load_state_dict(weights)
    if journal:
        journal.close()
        about = {
            "config": config.about,
            "sha256": config.sha256,
            "command": command,
            **({"base": base} if base else {}),
            "data": table.about,
            "pairs": {
                "training": int(table.training.sum()),
                "drawn_from": sampler.drawn_from,
                "held_out": int(table.held_out.sum()),
                "by": composition(table),
            },
            "steps": step,
            "validation": best if weights else latest,  # of the weights that are saved
            "temperature": loss.temperature,
            "seconds": round(time.monotonic() - started, 1),
            "environment": _environment(world),
        }
        _finish(trainee, folder, about)
    world.wait()
    return folder / "model"


def _claim(config: Config, folder: Path) -> bool:
    """Make a folder this run's; whether the run is finished there."""
    if record(config, folder) is not None:
        return True
    if not (folder / "config.json").is_file():
        with atomic(folder / "config.json") as file:
            file.write(_json({"config": config.about, "sha256": config.sha256}))
    return False


def _texts(batch: Batch, tokens: TokenStore, negatives: int, step: int, world: World) -> tuple[list[Any], list[Any]]:
    """The token ids of a batch's questions and passages, then of hard negatives; as many as divide among processes."""
    n = len(batch.queries) - len(batch.queries) % world.size  # of a short batch; others divide
    if not n:
        raise DataError(
            f"step {step + 1}: a batch of {len(batch.queries)} pairs, all that are left to draw, does not divide among "
            f"{world.size} processes; start fewer, or leave its language or data set out"
        )
    queries, passages = tokens.questions.of(batch.queries[:n]), tokens.passages.of(batch.passages[:n])
    if not negatives:
        return queries, passages
    hard: dict[bytes, Any] = {}
    answers = {ids.tobytes() for ids in passages}
    for row in batch.passages[:n].tolist():
        first, count = int(tokens.first_negative[row]), int(tokens.first_negative[row + 1] - tokens.first_negative[row])
        chosen = [first + (step + i) % count for i in range(min(negatives, count))]  # in turn, where there are more
        hard |= {ids.tobytes(): ids for ids in tokens.negatives.of(chosen)}
    kept = [ids for key, ids in hard.items() if key not in answers]  # else a question would be told to avoid its answer
    return queries, [*passages, *kept[: len(kept) - len(kept) % world.size]]


def _schedule(step: int, t: Training) -> float:
    """Share of the learning rate at a step, from 0: rises linearly over the warm-up, then falls linearly to 0."""
    if step < t.warmup:
        return (step + 1) / t.warmup
    return (t.steps - step) / max(1, t.steps - t.warmup)


def _environment(world: World) -> dict[str, Any]:
    import torch

    packages = ("torch", "sentence-transformers", "transformers", "tokenizers", "numpy", "xbench")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": world.device.type,
        "processor": str(torch.backends.cpu.get_cpu_capability()),
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


def _finish(trainee: Trainee, folder: Path, about: dict[str, Any]) -> None:
    """Write the model, then the record that makes the run finished; then there is nothing to go on from."""
    with storage(folder / "model", "write"):
        for left in folder.glob(".model-*"):  # by a run that was killed here
            shutil.rmtree(left)
        part = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
        trainee.save(part)
        (part / "README.md").write_text(card(about), encoding="utf-8")
        for path in part.iterdir():  # some libraries write for the owner's eyes alone
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())
        part.chmod(0o777 & ~umask())
        sync(part)
        shutil.rmtree(folder / "model", ignore_errors=True)  # of a run that was stopped between these two lines
        part.rename(folder / "model")
    with atomic(folder / "training.json") as file:
        file.write(_json(about))
    checkpoints.remove(folder)


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
