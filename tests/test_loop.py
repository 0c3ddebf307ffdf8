"""The training loop: it learns, goes on bit for bit after any interruption, and says what is wrong."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from xbench import storage
from xbench.errors import DataError, IntegrityError, ModelOutputError, UsageError
from xbench.models import load
from xbench.train import checkpoints, loop, store
from xbench.train.config import Config, config_of
from xbench.train.distributed import World
from xbench.train.prepare import prepare
from xbench.train.sampling import Sampler

LANGUAGES = ("de", "en", "fr")


def write_pairs(path: Path, groups: int = 120, negatives: bool = False) -> None:
    """Questions and passages of three made-up languages: a word of a language has its translation in the others."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for group in range(groups):
            words = rng.choice(80, 6, replace=False)
            for language in LANGUAGES:
                said = [f"{language}{word}x" for word in words]
                pair: dict[str, Any] = {"group": f"g{group}", "lang": language, "source": "made"}
                pair |= {"question": " ".join(said[:3]) + "?", "passage": " ".join(said[1:]) + f" {language}{group}."}
                if negatives:
                    pair["negatives"] = [f"{said[0]} {language}{i}x wrong" for i in range(group % 3)]
                file.write(json.dumps(pair) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "pairs.jsonl")
    return tmp_path


def config(base: str = "static", **parts: dict[str, Any]) -> Config:
    """A run of seconds, with dropout, so that random numbers matter."""
    values: dict[str, dict[str, Any]] = {
        "data": {"files": ["pairs.jsonl"], "holdout": 0.2},
        "model": {
            "base": base,
            "vocabulary": 400,
            "dim": 16,
            "layers": 1,
            "heads": 2,
            "dropout": 0.2,
            "max_length": 32,
        },
        "training": {
            "steps": 24,
            "batch_size": 16,
            "learning_rate": 0.02,
            "warmup": 4,
            "checkpoint_every": 5,
            "validate_every": 8,
        },
    }
    for part, given in parts.items():
        values.setdefault(part, {}).update(given)
    return config_of(values, Path("config.toml"))


def run(chosen: Config, folder: Path, data: Path) -> Path:
    return loop.train(chosen, folder, cache=data / "cache", data=data, threads=1)


def weights(model: Path) -> dict[str, np.ndarray]:
    return load_file(next(model.rglob("model.safetensors")))


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


def log_of(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().split("\n") if line]
    return [{key: value for key, value in line.items() if key != "pairs_per_second"} for line in lines]


class Stop(Exception):
    """What interrupts a run in these tests."""


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Stop the next run when it draws the batch of a step."""
    draw = Sampler.batch

    def batch(self: Sampler, at: int) -> Any:
        if at == step:
            raise Stop
        return draw(self, at)

    monkeypatch.setattr(Sampler, "batch", batch)


@pytest.mark.parametrize("base", ["static", "tiny"])
def test_it_learns_and_its_model_loads_anywhere(base: str, data: Path) -> None:
    from sentence_transformers import SentenceTransformer

    chosen = config(
        base,
        model={"dim": 32, "dropout": 0.0, "prompt_query": "ask: "},
        training={"steps": 150, "batch_size": 32, "validate_every": 10, "checkpoint_every": 0},
        loss={"temperature": 0.1, "learn_temperature": base == "tiny"},
    )
    model = run(chosen, data / "run", data)
    values = [line["validation/mean"] for line in log_of(data / "run") if "validation/mean" in line]
    assert len(values) == 15 and values[-1] > max(0.5, values[0] + 0.1), values
    about = json.loads((data / "run" / "training.json").read_text())
    assert about["steps"] == 150 and about["sha256"] == chosen.sha256
    assert about["validation"] == values[-1], "of the weights that are saved, not of better ones before"
    assert (about["temperature"] != pytest.approx(0.1)) == (base == "tiny")
    assert {path.stat().st_mode & 0o444 for path in [model, *model.iterdir()]} == {0o444 & ~storage.umask()}
    texts = ["de1x de2x de3x?", "fr7x", "en5x en6x."]
    theirs = SentenceTransformer(str(model), device="cpu")
    assert theirs.prompts["query"] == "ask: "
    ours = load(str(model))
    for role, encode in (("queries", theirs.encode_query), ("passages", theirs.encode_document)):
        prepared = ours.prepare(texts, role)  # type: ignore[union-attr]
        found = ours.encode(prepared.items, role, "de")  # type: ignore[union-attr]
        np.testing.assert_allclose(found, encode(texts, normalize_embeddings=True), atol=1e-6)


@pytest.mark.parametrize("base", ["static", "tiny"])
def test_interrupted_anywhere_it_ends_in_the_same_bits(base: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(base)
    straight = run(chosen, data / "straight", data)
    for stops in [[3], [5], [13, 22], [0, 6, 11, 23]]:
        folder = data / f"stopped-{stops}"
        for stop in stops:
            with monkeypatch.context() as patch, pytest.raises(Stop):
                interrupt(patch, stop)
                run(chosen, folder, data)
        assert same(straight, run(chosen, folder, data))
        assert log_of(folder) == log_of(data / "straight")
        left = sorted(path.name for path in folder.iterdir())
        assert left == sorted(["config.json", "log.jsonl", "model", "tensorboard", "training.json"])


@pytest.mark.parametrize("base", ["static", "tiny"])
def test_without_the_generators_state_it_ends_in_others(base: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(base)
    straight = run(chosen, data / "straight", data)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt(patch, 13)
        run(chosen, data / "run", data)
    monkeypatch.setattr(checkpoints, "restore_rng", lambda tensors, world: None)
    assert not same(straight, run(chosen, data / "run", data))


def test_the_learned_temperature_and_the_moments_come_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(loss={"learn_temperature": True}, training={"patience": 50, "learning_rate": 0.3})
    straight = run(chosen, data / "straight", data)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt(patch, 12)
        run(chosen, data / "run", data)
    assert same(straight, run(chosen, data / "run", data))
    kept = [json.loads((data / name / "training.json").read_text())["temperature"] for name in ("straight", "run")]
    assert kept[0] == kept[1] != pytest.approx(0.05, rel=1e-3)


def test_stopping_early_keeps_the_best_weights(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation is scripted: the best is the second of five, and patience is 3."""
    script = {4: 0.1, 8: 0.5, 12: 0.3, 16: 0.3, 20: 0.2, 24: 0.9}
    seen: list[tuple[int, dict[str, np.ndarray]]] = []

    def validate(trainee: Any) -> dict[str, float]:
        step = 4 * (len(seen) + 1)
        seen.append((step, {n: t.detach().numpy().copy() for n, t in trainee.module.state_dict().items()}))
        return {"mean": script[step]}

    monkeypatch.setattr(loop, "held_out", lambda *_: validate)
    model = run(config(training={"validate_every": 4, "patience": 3}), data / "run", data)
    assert [step for step, _ in seen] == [4, 8, 12, 16, 20]
    assert {name: tensor.tolist() for name, tensor in weights(model).items()} == {
        name.removeprefix("0."): tensor.tolist() for name, tensor in seen[1][1].items()
    }
    about = json.loads((data / "run" / "training.json").read_text())
    assert about["steps"] == 20 and about["validation"] == 0.5


def test_saved_as_integers(data: Path) -> None:
    full = run(config(), data / "full", data)
    small = run(config(model={"int8": True}), data / "small", data)
    (exact,) = weights(full).values()
    kept = weights(small)
    assert kept["embeddings"].dtype == np.int8 and np.abs(kept["embeddings"]).max() == 127
    back = kept["embeddings"] * kept["weights"][:, None]
    assert (np.abs(back - exact) <= np.abs(exact).max(axis=1, keepdims=True) / 254 * 1.001).all()
    texts = ["de1x de2x de3x?", "fr7x"]
    one, two = (load(str(model)) for model in (full, small))
    found = [each.encode(each.prepare(texts, "queries").items, "queries", "de") for each in (one, two)]  # type: ignore[union-attr]
    assert (found[0] * found[1]).sum(axis=1).min() > 0.999


def test_a_finished_run_is_not_done_again_and_a_folder_is_of_one_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = run(config(), data / "run", data)
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("trained again"))
    assert run(config(), data / "run", data) == model
    with pytest.raises(DataError, match=r"training.json: of another config than this one; choose another folder"):
        run(config(training={"seed": 1}), data / "run", data)


def test_seeds_differ_and_threads_and_caches_do_not_matter(data: Path) -> None:
    one = run(config(), data / "one", data)
    assert not same(one, run(config(training={"seed": 1}), data / "two", data))
    again = loop.train(config(), data / "three", cache=data / "another", data=data, threads=1)
    assert same(one, again)
    assert (one / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()


def test_gradient_caching_gives_the_same_model(data: Path) -> None:
    one = run(config("tiny", training={"steps": 8}), data / "one", data)
    two = run(config("tiny", training={"steps": 8, "micro_batch": 8}), data / "two", data)
    three = run(config("tiny", training={"steps": 8, "micro_batch": 8}, model={"dropout": 0.0}), data / "three", data)
    four = run(config("tiny", training={"steps": 8}, model={"dropout": 0.0}), data / "four", data)
    assert not same(one, two), "other parts draw other dropout"
    for name, tensor in weights(three).items():
        np.testing.assert_allclose(tensor, weights(four)[name], atol=2e-4)


def test_hard_negatives_are_used(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", negatives=True)
    without = run(config(), tmp_path / "without", tmp_path)
    assert not same(without, run(config(sampling={"negatives": 2}), tmp_path / "with", tmp_path))


def test_bfloat16(data: Path) -> None:
    full = weights(run(config("tiny", model={"dropout": 0.0}), data / "full", data))
    half = weights(run(config("tiny", model={"dropout": 0.0}, training={"dtype": "bfloat16"}), data / "half", data))
    assert all(tensor.dtype == np.float32 for tensor in half.values())
    assert any(not np.array_equal(full[name], half[name]) for name in full)


def test_a_loss_that_is_no_number(data: Path) -> None:
    with pytest.raises(
        ModelOutputError, match=r"step \d+: the loss is (nan|inf); lower learning_rate, or raise warmup"
    ):
        run(config(training={"learning_rate": 1e30, "clip": 0.0, "warmup": 0}), data / "run", data)


def test_damaged_and_foreign_checkpoints(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data / "run"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt(patch, 12)
        run(config(), folder, data)
    (place,) = folder.glob("checkpoint-*")
    assert place.name == "checkpoint-10"
    state = (place / "state.safetensors").read_bytes()
    for damaged in (state[:-1], state[:100] + bytes([state[100] ^ 1]) + state[101:], b""):
        (place / "state.safetensors").write_bytes(damaged)
        with pytest.raises(IntegrityError, match="checkpoint-10/state.safetensors is damaged.*delete .*checkpoint-10"):
            run(config(), folder, data)
    (place / "state.safetensors").write_bytes(state)
    facts = json.loads((place / "state.json").read_text())
    for name, value in (("config", "0" * 64), ("files", {}), ("processes", 2), ("clean_of", [1, ["a", "1", "0"]])):
        (place / "state.json").write_text(json.dumps(facts | {name: value}))
        with pytest.raises(DataError, match=f"another {name}"):
            run(config(), folder, data)
    (place / "state.json").write_text("[]")
    with pytest.raises(IntegrityError, match="no state of step 10"):
        run(config(), folder, data)


def test_weights_that_are_no_numbers_win_no_validation(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step's loss is a number, and what it makes of the weights is not."""
    step = torch.optim.AdamW.step
    made: list[int] = []

    def spoiled(self: torch.optim.AdamW, *_: Any) -> None:
        step(self)
        made.append(1)
        if len(made) == 24:
            for parameter in self.param_groups[0]["params"]:
                parameter.data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiled)
    with pytest.raises(ModelOutputError, match="validation: a vector is not of finite numbers; lower learning_rate"):
        run(config(), data / "run", data)
    assert not (data / "run" / "training.json").exists()


def test_the_recorded_validation_is_of_the_saved_weights(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patience, expected in ((0, 0.3), (9, 0.9)):
        script = iter([0.2, 0.9, 0.3])
        monkeypatch.setattr(loop, "held_out", lambda *_, script=script: lambda trainee: {"mean": next(script)})
        run(config(training={"patience": patience}), data / str(patience), data)
        assert json.loads((data / str(patience) / "training.json").read_text())["validation"] == expected


def test_stopping_early_needs_something_to_judge_by(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", groups=6)
    chosen = config(data={"holdout": 0.01}, training={"patience": 1})
    with pytest.raises(DataError, match="patience: no pairs to judge by in a holdout of 0.01; raise it"):
        run(chosen, tmp_path / "run", tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[data\] files: no .*pairs.jsonl"):
        run(config(), tmp_path / "run", tmp_path)


@pytest.mark.parametrize("base", ["hf:./nowhere", "statik"])
def test_a_base_that_is_none(base: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=rf"^\[model\] base: cannot load {base}: .*expected static, tiny, the folder"):
        run(config(base), data / "run", data)


def test_what_it_starts_from_is_recorded(data: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(minilm, data / "base")
    chosen = config(str(data / "base"), training={"steps": 2, "batch_size": 4, "checkpoint_every": 1})
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt(patch, 1)
        run(chosen, data / "run", data)
    tokenizer = data / "base" / "special_tokens_map.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")
    with pytest.raises(DataError, match="base"):
        run(chosen, data / "run", data)
    run(chosen, data / "other", data)
    recorded = json.loads((data / "other" / "training.json").read_text())["base"]
    assert recorded == {
        str(path.relative_to(data / "base")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((data / "base").rglob("*"))
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt")
    }


def test_what_a_killed_run_left_of_its_model_goes(data: Path) -> None:
    (data / "run" / ".model-x7" / "1_Pooling").mkdir(parents=True)
    run(config(), data / "run", data)
    assert not [*(data / "run").glob(".model-*")]


def test_a_damaged_tokenizer_in_the_cache(data: Path) -> None:
    run(config(), data / "one", data)
    (kept,) = (data / "cache" / "tokenizers").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=f"{kept.name} is damaged: .*; delete it, and it is made again"):
        run(config(), data / "two", data)


def test_of_two_writers_of_a_cache_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever moment: also between another one's look at what is there and its renaming."""
    place = tmp_path / "pairs" / "key"
    exists = Path.exists
    with store._folder(place) as slow:
        (slow / "manifest.json").write_text("slow")
        with store._folder(place) as fast:
            (fast / "manifest.json").write_text("fast")
        monkeypatch.setattr(Path, "exists", lambda self, **more: self != place and exists(self, **more))
    assert (place / "manifest.json").read_text() == "fast"
    assert [path.name for path in place.parent.iterdir()] == ["key"]


SCRIPT = """
import json, sys
from pathlib import Path
import logging
sys.path.insert(0, {tests!r})
from test_loop import config, run
run(config("tiny", training={{"steps": {steps}, "checkpoint_every": 3}}), Path({folder!r}), Path({data!r}))
"""


def killed(folder: Path, data: Path, kills: int, steps: int) -> int:
    """Train in a process that is killed at random moments, then once in peace; how often it was killed."""
    code = SCRIPT.format(tests=str(Path(__file__).parent), steps=steps, folder=str(folder), data=str(data))
    rng, done = np.random.default_rng(1), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while done < kills:
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        # Into the steps: the imports take seconds, and a kill there shows nothing.
        before = time.monotonic()
        reached = {path.name for path in folder.glob("checkpoint-*")}
        while process.poll() is None and time.monotonic() - before < 120:
            if {path.name for path in folder.glob("checkpoint-*")} != reached:
                break
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is not None:
            assert process.returncode == 0, "it failed by itself"
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return done


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, data: Path) -> None:
    steps = 12 * kills
    chosen = config("tiny", training={"steps": steps, "checkpoint_every": 3})
    straight = run(chosen, data / "straight", data)
    assert killed(data / "run", data, kills, steps) == kills
    assert same(straight, data / "run" / "model")
    assert log_of(data / "run") == log_of(data / "straight")


def test_batches_that_do_not_divide_among_processes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "join", lambda: World(0, 3))
    with pytest.raises(UsageError, match="batch_size: 16 pairs do not divide among 3 processes; take a multiple"):
        run(config(), data / "run", data)
    table, tokens, *_ = prepare(config(), data / "cache", data)
    sampler = Sampler(table, table.used, config().sampling, 8, 0)
    queries, passages = loop._texts(sampler.batch(0), tokens, 0, 0, World(0, 8))
    assert len(queries) == len(passages) == 8
    with pytest.raises(
        DataError, match="step 7: a batch of 8 pairs, all that are left to draw, does not divide among 9"
    ):
        loop._texts(sampler.batch(0), tokens, 0, 6, World(0, 9))


class Elsewhere(World):
    """A process on a machine that does not see the checkpoint of process 0."""

    def agree(self, value: float) -> float:
        return 10.0 if type(value) is int else value


def test_machines_without_a_folder_in_common(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "join", Elsewhere)
    with pytest.raises(IntegrityError, match="run: its checkpoint is not the one of process 0; give all machines one"):
        run(config(), data / "run", data)


def test_one_process_evaluates(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xbench.cli.train import command

    (data / "config.toml").write_text('[data]\nfiles = ["pairs.jsonl"]\n[model]\nbase = "static"\n')
    monkeypatch.setattr(loop, "train", lambda *_, **__: data / "run" / "model")
    monkeypatch.setattr("xbench.train.distributed.join", lambda: World(1, 2))
    monkeypatch.setattr("xbench.evaluate.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    command.main([str(data / "config.toml"), "-t", "mini"], standalone_mode=False)


def test_data_of_a_task_are_looked_for_before_training(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xbench.cli.train import command

    (data / "config.toml").write_text('[data]\nfiles = ["pairs.jsonl"]\n[model]\nbase = "static"\n')
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(DataError, match="xquad-r"):
        command.main([str(data / "config.toml"), "-t", "xquad-r", "--data", str(data)], standalone_mode=False)


def test_two_processes_give_the_model_of_one(data: Path) -> None:
    """By torchrun and the command, as a user would."""
    text = (
        '[data]\nfiles = ["pairs.jsonl"]\n[model]\nbase = "tiny"\nvocabulary = 400\ndim = 16\nlayers = 1\nheads = 2\n'
        "dropout = 0.0\nmax_length = 32\n[loss]\nsymmetric = true\n"
        "[training]\nsteps = 10\nbatch_size = 16\nlearning_rate = 0.02\ncheckpoint_every = 4\n"
    )
    (data / "config.toml").write_text(text)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    tail = ["xbench", "train", "config.toml", "--threads", "1", "-o"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words, name in (([sys.executable, "-m"], "one"), (launch, "two")):
        found = subprocess.run([*words, *tail, name], cwd=data, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
    one, two = weights(data / "one" / "model"), weights(data / "two" / "model")
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor, two[name], atol=1e-4)
    assert json.loads((data / "two" / "training.json").read_text())["environment"]["processes"] == 2
