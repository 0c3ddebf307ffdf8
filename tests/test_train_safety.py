"""A run's folder may come from anybody: what is read when it goes on can be damaged or hostile, and never runs code."""

import ast
import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loop import Stop, config, interrupt, write_pairs
from test_loop import run as train

from xbench.errors import DataError, IntegrityError
from xbench.train import checkpoints
from xbench.train.checkpoints import State, load, save

PACKAGE = Path(checkpoints.__file__).parent
TENSORS = {"model.weight": torch.arange(6.0).reshape(2, 3), "rng.cpu.0": torch.zeros(8, dtype=torch.uint8)}


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with one good checkpoint."""
    save(tmp_path, 7, State(TENSORS, {"config": "c"}))
    return tmp_path


def forge(run: Path, content: bytes) -> None:
    """Other bytes, with the SHA-256 that makes them look right."""
    place = run / "checkpoint-7"
    (place / "state.safetensors").write_bytes(content)
    facts = json.loads((place / "state.json").read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    (place / "state.json").write_text(json.dumps(facts))


def refused(run: Path) -> str:
    with pytest.raises((IntegrityError, DataError)) as caught:
        load(run, {"config": "c"})
    assert "\n" not in str(caught.value) and "checkpoint-7" in str(caught.value)
    return str(caught.value)


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def test_nothing_that_unpickles_is_called() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                assert name not in ("torch.load", "torch.save", "joblib.load", "pandas.read_pickle"), f"{path}: {name}"
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert not names & {"torch.load", "torch.save", "torch.serialization"}, path
            if isinstance(node, ast.keyword):
                assert node.arg not in ("allow_pickle", "weights_only"), path
                assert node.arg != "trust_remote_code" or ast.unparse(node.value) == "False", path


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_no_checkpoint(protocol: int, run: Path) -> None:
    forge(run, pickle.dumps(Bomb(run / "ran"), protocol))
    assert "is damaged" in refused(run)
    torch.save({"model.weight": Bomb(run / "ran")}, run / "zip")
    forge(run, (run / "zip").read_bytes())
    assert "is damaged" in refused(run)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "state.pkl"):  # not looked at
        (run / "checkpoint-7" / name).write_bytes(pickle.dumps(Bomb(run / "ran"), protocol))
    assert "is damaged" in refused(run)
    assert not (run / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 1 << 40) + b"{}",
        header("{"),
        header("[" * 50_000),
        header('{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}'),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}') + b"\0" * 4,
        header('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}') + b"\0" * 4,
        header('{"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}') + b"\0" * 4,
        header(
            '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
            ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
        )
        + b"\0" * 4,
    ],
)
def test_tensors_that_are_none(content: bytes, run: Path) -> None:
    forge(run, content)
    assert "is damaged" in refused(run)


def test_bytes_that_changed(run: Path) -> None:
    path = run / "checkpoint-7" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "not the bytes that were written" in refused(run)
    path.unlink()
    with pytest.raises(Exception, match="cannot read"):
        load(run, {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"step": 8}',
        b'{"step": "7"}',
        b'{"step": true}',
        b'{"step": 7.0}',
        b'{"step": 7, "step": 7}',
        b'{"step": NaN}',
        b'{"step": 7, "config": "d"}',
        b'{"step": 7, "config": "c"}',
        b'{"step": 7, "config": "c", "sha256": null}',
    ],
)
def test_facts_that_are_none(content: bytes, run: Path) -> None:
    (run / "checkpoint-7" / "state.json").write_bytes(content)
    refused(run)


def test_a_step_is_a_whole_number(run: Path) -> None:
    facts = json.loads((run / "checkpoint-7" / "state.json").read_text())
    (run / "checkpoint-7" / "state.json").write_text(json.dumps(facts | {"step": 7.0}))
    assert "no state of step 7" in refused(run)


def test_names_that_are_no_checkpoints(run: Path) -> None:
    """They are neither read nor deleted."""
    names = ["checkpoint-", "checkpoint-8x", "checkpoint--9", "checkpoint-9.old", "checkpoint-\u0669"]
    names += ["checkpoint-09"]
    for name in names:
        (run / name).mkdir()
    found = load(run, {"config": "c"})
    assert (
        found is not None and found[0] == 7 and torch.equal(found[1].tensors["model.weight"], TENSORS["model.weight"])
    )
    save(run, 8, State(TENSORS, {"config": "c"}))
    assert sorted(path.name for path in run.iterdir()) == sorted([*names, "checkpoint-8"])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run that was stopped after step 12, with a checkpoint of step 10, and its pairs."""
    folder = tmp_path_factory.mktemp("stopped")
    write_pairs(folder / "pairs.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 12)
        with pytest.raises(Stop):
            train(REAL, folder / "run", folder)
    return folder


REAL = config(training={"patience": 9}, loss={"learn_temperature": True})


def wrong_shape(t: dict[str, torch.Tensor], name: str) -> None:
    t[name] = torch.zeros(3, dtype=t[name].dtype)


TENSOR_FAULTS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    # The fused optimiser does not look at shapes: it would read and write beyond these.
    "moments of another shape": lambda t: wrong_shape(t, "optimizer.0.exp_avg"),
    "second moments of another shape": lambda t: wrong_shape(t, "optimizer.0.exp_avg_sq"),
    "moments of another type": lambda t: t.update({"optimizer.0.exp_avg": t["optimizer.0.exp_avg"].double()}),
    "steps of another shape": lambda t: t.update({"optimizer.0.step": torch.zeros(2)}),
    "moments of no weight": lambda t: t.update({"optimizer.9.exp_avg": torch.zeros(3)}),
    "a moment missing": lambda t: t.pop("optimizer.0.exp_avg_sq"),
    "a moment more": lambda t: t.update({"optimizer.0.max_exp_avg_sq": t["optimizer.0.exp_avg_sq"].clone()}),
    "moments without a place": lambda t: t.update({"optimizer.x.exp_avg": torch.zeros(3)}),
    "no moments": lambda t: [t.pop(name) for name in list(t) if name.startswith("optimizer.")],
    "weights of another shape": lambda t: wrong_shape(t, "model.0.embedding.weight"),
    "weights missing": lambda t: t.pop("model.0.embedding.weight"),
    "weights more": lambda t: t.update({"model.more": torch.zeros(3)}),
    "best weights of another shape": lambda t: wrong_shape(t, "best.0.embedding.weight"),
    "best weights missing": lambda t: t.update({"best.more": t.pop("best.0.embedding.weight")}),
    "no temperature": lambda t: [t.pop(name) for name in list(t) if name.startswith("loss.")],
    "no generator": lambda t: t.pop("rng.cpu.0"),
    "a generator of another size": lambda t: t.update({"rng.cpu.0": torch.zeros(9, dtype=torch.uint8)}),
    "a generator of another type": lambda t: t.update({"rng.cpu.0": torch.zeros(5056)}),
    "a generator of zeros": lambda t: t.update({"rng.cpu.0": torch.zeros_like(t["rng.cpu.0"])}),
}
FACT_FAULTS: dict[str, dict[str, object]] = {
    "best that is no number": {"best": "high"},
    "best that is a list": {"best": []},
    "losses that are no numbers": {"recent": [[]]},
    "losses that are no list": {"recent": 7},
    "patience that is no number": {"stale": None},
}


@pytest.mark.parametrize("fault", [*TENSOR_FAULTS, *FACT_FAULTS])
def test_a_state_that_does_not_fit_the_run(fault: str, stopped: Path, tmp_path: Path) -> None:
    """With the SHA-256 that makes it look right."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    place = tmp_path / "run" / "checkpoint-10"
    tensors = load_file(place / "state.safetensors")
    if fault in TENSOR_FAULTS:
        TENSOR_FAULTS[fault](tensors)
    save_file(tensors, place / "state.safetensors")
    digest = hashlib.sha256((place / "state.safetensors").read_bytes()).hexdigest()
    facts = json.loads((place / "state.json").read_text()) | {"sha256": digest} | FACT_FAULTS.get(fault, {})
    (place / "state.json").write_text(json.dumps(facts))
    with pytest.raises(IntegrityError, match="its newest checkpoint does not fit the run: ") as caught:
        train(REAL, tmp_path / "run", stopped)
    assert "\n" not in str(caught.value)


def test_the_state_itself_fits(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", tmp_path / "run")
    assert (train(REAL, tmp_path / "run", stopped) / "model.safetensors").is_file()
