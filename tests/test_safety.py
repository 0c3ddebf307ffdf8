"""Attacks on a checkpoint's folder: refused from its files alone; loaded unchecked, they do what docs/security.md says."""

# ruff: noqa: E501 (tables)

import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from checkpoints import TEXTS, change, edit, open_, write
from safetensors.numpy import save_file

from xbench.errors import DataError, UnsafeInput, UsageError
from xbench.models import ROLES, Options, load, slug
from xbench.models.safety import PICKLES, safe_files
from xbench.storage import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parent.parent
SBERT, TOKENIZER = "sentence_bert_config.json", "tokenizer_config.json"


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def canary(folder: Path) -> Path:
    """What an attack makes when its code runs; beside the folder."""
    return folder.with_name(f"{folder.name}.canary")


def poison(folder: Path) -> bytes:
    return pickle.dumps(Touch(canary(folder)))


def python(folder: Path, name: str) -> None:
    """A module of the checkpoint, and one that is installed, that make the canary when imported."""
    (folder / name).parent.mkdir(exist_ok=True)
    for path in (folder / name, folder.parent / "installed.py"):
        path.write_text(f"import os\nos.mkdir({str(canary(folder))!r})\nclass Model: ...\n")


def pickled(name: str, *, instead: str = "") -> Callable[[Path], None]:
    """A pickle, zipped where torch and numpy do so; in place of the weights if told."""

    def attack(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if instead:
            (folder / instead).unlink()
        if name.endswith(".npy"):
            np.save(path, np.array([Touch(canary(folder))], object), allow_pickle=True)
        elif name.endswith(".npz"):
            np.savez(path, a=np.array([Touch(canary(folder))], object))
        else:
            path.write_bytes(poison(folder))

    return attack


def torch_zip(name: str) -> Callable[[Path], None]:
    """As torch.save writes it: a zip with a pickle, whose checksum is wrong; a scanner that unzips gives up."""

    def attack(folder: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", poison(folder))
            archive.writestr("archive/version", "3\n")
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / name).write_bytes(buffer.getvalue())

    return attack


def tarred(folder: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("\x10")  # which looks like the length of a header
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    (folder / "model.safetensors").write_bytes(buffer.getvalue())


def index(shard: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(poison(folder))
        names = ["embeddings.word_embeddings.weight"]
        text = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)})
        (folder / "model.safetensors.index.json").write_text(text)

    return attack


def auto_map(file: str, value: Any, **more: Any) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        python(folder, "evil.py")
        if not (folder / file).exists():
            (folder / file).write_text("{}")
        edit(folder / file, auto_map=value, **more)

    return attack


def module(number: int, **values: Any) -> Callable[[Path], None]:
    """Change a line of modules.json; its Python file is there."""

    def attack(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        python(folder, "evil.py")
        if (path := values.get("path")) and not (folder / path).exists():
            shutil.copytree(folder / modules[number]["path"], folder / path)
        modules[number].update(values)
        (folder / "modules.json").write_text(json.dumps(modules))

    return attack


def added(kind: str, config: dict[str, Any], *, weights: str = "") -> Callable[[Path], None]:
    """One more module, with a config and maybe a pickle."""

    def attack(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 2, "name": "2", "path": "2_More", "type": f"sentence_transformers.models.{kind}"})
        (folder / "modules.json").write_text(json.dumps(modules))
        python(folder, "evil.py")
        (folder / "2_More").mkdir()
        name = "wordembedding_config.json" if kind == "WordEmbeddings" else "config.json"
        (folder / "2_More" / name).write_text(json.dumps(config))
        if not weights and kind == "Dense":
            tensors = {"linear.weight": np.eye(32, dtype=np.float32), "linear.bias": np.zeros(32, np.float32)}
            save_file(tensors, folder / "2_More" / "model.safetensors")
        if weights:
            (folder / "2_More" / "pytorch_model.bin").write_bytes(poison(folder))
        if weights == "decoy":
            shutil.copy(folder / "model.safetensors", folder / "2_More" / "decoy.safetensors")

    return attack


def router(folder: Path) -> None:
    module(1, type="sentence_transformers.models.Router")(folder)
    config = {"types": {"a": "evil.Model"}, "structure": {"query": ["a"]}, "parameters": {}}
    (folder / "1_Pooling" / "router_config.json").write_text(json.dumps(config))


def linked(name: str, target: str) -> Callable[[Path], None]:
    """A link out of the folder, to a copy of what it replaces."""

    def attack(folder: Path) -> None:
        outside = folder.parent / target
        shutil.copy(folder / name, outside)
        (folder / name).unlink()
        (folder / name).symlink_to(outside)

    return attack


def linked_folder(folder: Path) -> None:
    shutil.move(folder / "1_Pooling", folder.parent / "outside")
    (folder / "1_Pooling").symlink_to(folder.parent / "outside")


def pipe(name: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return attack


def outside(file: str, key: str, text: str | None = None, **more: Any) -> Callable[[Path], None]:
    """A key that names a file beside the folder, which is there."""

    def attack(folder: Path) -> None:
        target = folder.parent / f"{folder.name}.outside"
        shutil.copytree(folder, target)
        value = (text or "{path}/tokenizer.json").format(path=target, name=target.name)
        edit(folder / file, **{key: value}, **more)

    return attack


def arguments(**values: Any) -> Callable[[Path], None]:
    return change(SBERT, model_args=values)


def generate(folder: Path) -> None:
    python(folder, "custom_generate/generate.py")


RUNS, READS, IGNORES = "runs it", "reads it", "ignores it"
DENSE = {"in_features": 32, "out_features": 32, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


class Attack(NamedTuple):
    base: str  # xlmr: a plain checkpoint, st: a folder of sentence-transformers
    what: str  # in the table of docs/security.md
    do: Callable[[Path], None]
    file: str  # what the refusal names
    unchecked: str  # what the libraries do when xbench loads it without its check ...
    trusting: str  # ... and when they are called without xbench, with trust_remote_code=True
    payload: str = ""  # whose opening is "reads it"; by default the file; all: the only weights


ATTACKS = {
    # Pickles
    "bin": Attack("xlmr", "pickle as the only weights", pickled("pytorch_model.bin", instead="model.safetensors"), "pytorch_model.bin", "OSError", "reads it, UnpicklingError"),
    "pt": Attack("xlmr", "the same, .pt", pickled("pytorch_model.pt", instead="model.safetensors"), "pytorch_model.pt", "OSError", "OSError"),
    "pth": Attack("xlmr", "the same, .PTH", pickled("model.PTH", instead="model.safetensors"), "model.PTH", "OSError", "OSError"),
    "ckpt": Attack("xlmr", "the same, .ckpt", pickled("model.ckpt", instead="model.safetensors"), "model.ckpt", "OSError", "OSError"),
    "pkl": Attack("st", "the same, .pkl", pickled("model.pkl", instead="model.safetensors"), "model.pkl", "OSError", "OSError"),
    "zip": Attack("xlmr", "pickle zipped, as torch does", torch_zip("pytorch_model.bin"), "pytorch_model.bin", "OSError", "reads it, UnpicklingError"),
    "npy": Attack("xlmr", "NumPy array of objects", pickled("vectors.npy"), "vectors.npy", IGNORES, IGNORES),
    "npz": Attack("xlmr", "the same, .npz", pickled("vectors.npz"), "vectors.npz", IGNORES, IGNORES),
    "joblib": Attack("xlmr", "pickle of joblib", pickled("head.joblib"), "head.joblib", IGNORES, IGNORES),
    "beside": Attack("xlmr", "pickle beside safetensors", pickled("spk_dict.pt"), "spk_dict.pt", IGNORES, IGNORES),
    "dense": Attack("st", "pickle in a module", added("Dense", DENSE, weights="bin"), "2_More/pytorch_model.bin", "reads it, UnpicklingError", "reads it, UnpicklingError"),
    "decoy": Attack("st", "the same, with other safetensors beside", added("Dense", DENSE, weights="decoy"), "2_More/pytorch_model.bin", "reads it, UnpicklingError", "reads it, UnpicklingError"),
    # Archives and other things called safetensors
    "named": Attack("xlmr", "pickle called safetensors", pickled("model.safetensors"), "model.safetensors", "SafetensorError", "SafetensorError"),
    "zipped": Attack("xlmr", "zip called safetensors", torch_zip("model.safetensors"), "model.safetensors", "SafetensorError", "SafetensorError"),
    "tarred": Attack("xlmr", "tar called safetensors", tarred, "model.safetensors", "SafetensorError", "SafetensorError"),
    "shard": Attack("xlmr", "index of shards that names a pickle", index("pytorch_model.bin"), "model.safetensors.index.json", "reads it, UnpicklingError", "reads it, UnpicklingError", "pytorch_model.bin"),
    "shard-out": Attack("xlmr", "index of shards that leaves the folder", index("../outside.safetensors"), "model.safetensors.index.json", READS, READS, "all"),
    # Code of the checkpoint
    "auto": Attack("xlmr", "auto_map of the model", auto_map("config.json", {"AutoModel": "evil.Model", "AutoConfig": "evil.Model"}, model_type="evil"), "config.json", "ValueError", RUNS, "evil.py"),
    "auto-list": Attack("xlmr", "auto_map of the tokenizer", auto_map(TOKENIZER, {"AutoTokenizer": [None, "evil.Model"]}), TOKENIZER, IGNORES, RUNS, "evil.py"),
    "auto-nested": Attack("xlmr", "auto_map in a part of a config", auto_map("config.json", None, text_config={"auto_map": {"AutoModel": "evil.Model"}}), "config.json", IGNORES, IGNORES, "evil.py"),
    "auto-other": Attack("xlmr", "auto_map of another repository", auto_map("config.json", {"AutoModel": "evil/repo--evil.Model"}), "config.json", IGNORES, "OSError", "evil.py"),
    "auto-processor": Attack("st", "auto_map of a processor", auto_map("processor_config.json", {"AutoProcessor": "evil.Model"}, processor_class="Model"), "processor_config.json", "ValueError", RUNS, "evil.py"),
    "type": Attack("st", "module of a type in the folder", module(1, type="evil.Model"), "modules.json", "ValueError", RUNS, "evil.py"),
    "type-other": Attack("st", "module of an installed type", module(1, type="installed.Model"), "modules.json", "ValueError", RUNS, "../installed.py"),
    "router": Attack("st", "the same inside a router", router, "1_Pooling/router_config.json", "ValueError", RUNS, "evil.py"),
    "words": Attack("st", "tokenizer class of a module", added("WordEmbeddings", {"tokenizer_class": "evil.Model"}), "wordembedding_config.json", "ValueError", RUNS, "evil.py"),
    "activation": Attack("st", "activation function of a module", added("Dense", DENSE | {"activation_function": "installed.Model"}), "2_More/config.json", IGNORES, RUNS, "../installed.py"),
    "generate": Attack("xlmr", "custom_generate/generate.py", generate, "custom_generate/generate.py", IGNORES, IGNORES),
    "pipelines": Attack("xlmr", "custom_pipelines", change("config.json", custom_pipelines={"x": {"impl": "evil.P"}}), "config.json", IGNORES, IGNORES, "evil.py"),
    "trust": Attack("st", "trust_remote_code in a config", arguments(trust_remote_code=True), SBERT, IGNORES, IGNORES, "evil.py"),
    "revision": Attack("st", "code_revision in a config", arguments(code_revision="main"), SBERT, IGNORES, IGNORES, "evil.py"),
    # Compiled code
    "kernel": Attack("xlmr", "attention of a repository", change("config.json", attn_implementation="evil/kernel"), "config.json", "ImportError", "ImportError", "evil.py"),
    "kernel-internal": Attack("xlmr", "the same, key _..._internal", change("config.json", _attn_implementation_internal="evil/kernel"), "config.json", IGNORES, IGNORES, "evil.py"),
    "kernel-part": Attack("xlmr", "the same, of a part", change("config.json", attn_implementation={"": "a/b@c:d"}), "config.json", "ImportError", "ImportError", "evil.py"),
    "kernel-module": Attack("st", "the same, of a module", arguments(attn_implementation="a/b"), SBERT, "ImportError", "ImportError", "evil.py"),
    "flash": Attack("xlmr", "attention fetched if not installed", change("config.json", attn_implementation="flash_attention_2"), "config.json", "ImportError", "ImportError", "evil.py"),
    "use-kernels": Attack("st", "use_kernels", arguments(use_kernels=True), SBERT, "ValueError", "ValueError", "evil.py"),
    "quantized": Attack("xlmr", "quantization, here one with fetched kernels", change("config.json", quantization_config={"quant_method": "mxfp4"}), "config.json", "ImportError", "ImportError", "evil.py"),
    # Out of the folder
    "path": Attack("st", "path of a module, ../", module(1, path="../outside"), "modules.json", "ValueError", "ValueError", "../outside/config.json"),
    "path-root": Attack("st", "path of a module, absolute", module(1, path="/tmp"), "modules.json", "ValueError", "ValueError", "/tmp/config.json"),
    "link": Attack("xlmr", "link to a file outside", linked("config.json", "outside.json"), "config.json", READS, READS),
    "link-folder": Attack("st", "link to a folder", linked_folder, "1_Pooling", READS, READS, "1_Pooling/config.json"),
    "tokenizer": Attack("xlmr", "tokenizer_file outside", outside(TOKENIZER, "tokenizer_file"), TOKENIZER, IGNORES, IGNORES, "../model.outside/tokenizer.json"),
    "tokenizer-name": Attack("st", "tokenizer_name_or_path outside", outside(SBERT, "tokenizer_name_or_path", "{path}"), SBERT, READS, READS, "../model.outside/tokenizer_config.json"),
    "weights": Attack("xlmr", "transformers_weights outside", outside("config.json", "transformers_weights", "../{name}/model.safetensors"), "config.json", "ValueError", "ValueError", "all"),
    "subfolder": Attack("st", "subfolder of a module's weights", arguments(subfolder="../outside"), SBERT, IGNORES, IGNORES, "../outside/config.json"),
    "adapter": Attack("xlmr", "adapter of another base model", write("adapter_config.json", '{"base_model_name_or_path": "evil/repo", "peft_type": "LORA"}'), "adapter_config.json", IGNORES, IGNORES, "evil.py"),
    "audio": Attack("st", "tokenizer of another repository", write("processor_config.json", '{"audio_tokenizer": {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "evil/repo"}}'), "processor_config.json", "reads it, OSError", "reads it, OSError"),
    "backend": Attack("st", "another backend's files", change(SBERT, backend="onnx", model_args={"file_name": "evil.onnx"}), SBERT, "TypeError", "TypeError", "evil.onnx"),
    "gguf": Attack("st", "weights of another format", arguments(gguf_file="evil.gguf"), SBERT, "ValueError", "ValueError", "evil.gguf"),
    # Not a file
    "pipe": Attack("xlmr", "pipe as a config", pipe("config.json"), "config.json", "hangs", "ValueError"),
    "pipe-st": Attack("st", "pipe as a module's config", pipe("1_Pooling/config.json"), "1_Pooling/config.json", "hangs", "hangs"),
}  # fmt: skip


@pytest.fixture(scope="module")
def attacked(xlmr: Path, st: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each attack, alone in a folder of its own."""
    folders = {}
    for name, attack in ATTACKS.items():
        folder = Path(shutil.copytree(xlmr if attack.base == "xlmr" else st, tmp_path_factory.mktemp(name) / "model"))
        attack.do(folder)
        folders[name] = folder
    return folders


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str, attacked: dict[str, Path]) -> None:
    folder = attacked[name]
    with pytest.raises(UnsafeInput) as caught:
        load(f"hf:{folder}", Options(device="cpu"))
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    assert ATTACKS[name].file in str(caught.value) and str(folder) in str(caught.value)
    assert not canary(folder).exists()


def test_the_folders_load_without_attacks(xlmr: Path, st: Path) -> None:
    for folder in (xlmr, st):
        assert safe_files(folder).code == [] and open_(folder, pooling="mean" if folder == xlmr else None)


AUDITED = """
import os, sys
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
from xbench.errors import UnsafeInput
from xbench.models import load
for folder in sys.argv[1:]:
    del opened[:]
    try:
        load(f"hf:{folder}")
        print(folder, "was loaded")
    except UnsafeInput:
        pass
    for path in opened:
        inside = os.path.realpath(path).startswith(os.path.realpath(os.path.dirname(folder)))
        if inside and not path.endswith((".json", ".safetensors")):
            print(folder, "opened", path)
print(sorted({"torch", "transformers", "sentence_transformers", "tokenizers", "evil", "this"} & set(sys.modules)))
"""


def test_refused_before_anything_is_imported_or_read(attacked: dict[str, Path]) -> None:
    """Opened until then: JSON, and the first bytes of what is called safetensors; a hook of Python tells."""
    command = [sys.executable, "-c", AUDITED, *map(str, attacked.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "[]\n" and not done.stderr


CONTROL = """
import json, logging, os, pathlib, stat, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import torch, transformers
from sentence_transformers import SentenceTransformer
from xbench.models import Options, hf
from xbench.models.safety import Checked

torch.set_num_threads(1)
opened = set()
def hook(event, given):
    if event == "open" and isinstance(given[0], str):
        path = os.path.normpath(os.path.join(os.getcwd(), given[0]))
        opened.add(path)
        if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            raise TimeoutError("nobody writes into this pipe")
sys.addaudithook(hook)

def everything(folder, allow_code):
    names = [path for path in folder.rglob("*") if not path.is_dir()]
    return Checked({path.relative_to(folder).as_posix(): path for path in names}, [])
hf.safe_files = everything
hf.sha256 = lambda path: ""  # what xbench itself reads does not count

def unchecked(folder):
    hf.load_hf(f"hf:{folder}", Options(device="cpu", pooling=None))

def trusting(folder):
    if (folder / "modules.json").exists():
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    else:
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)

for folder, payload in json.load(sys.stdin):
    found = []
    sys.path.insert(0, os.path.dirname(folder))
    for way in (unchecked, trusting):
        opened.clear()
        sys.modules.pop("installed", None)
        error = ""
        try:
            way(pathlib.Path(folder))
        except BaseException as raised:
            while type(raised).__module__ == "xbench.errors" and raised.__cause__:
                raised = raised.__cause__
            error = type(raised).__name__
        canary = folder + ".canary"
        ran = os.path.exists(canary)
        if ran:
            os.rmdir(canary)
        # Shards are opened by Rust, unseen; where they are the only weights, all is well only if they were read.
        read = not error if payload == "all" else os.path.normpath(os.path.join(folder, payload)) in opened
        what = "runs it" if ran else "hangs" if error == "TimeoutError" else "reads it" if read else ""
        if error and not ran and error != "TimeoutError":
            what += (", " if what else "") + error
        found.append(what or "ignores it")
    sys.path.remove(os.path.dirname(folder))
    print(json.dumps(found), flush=True)
"""


def test_attacks_do_what_the_table_says_when_unchecked(attacked: dict[str, Path], tmp_path: Path) -> None:
    """The controls: the same folders, `safe_files` patched out; and the libraries asked to trust them."""
    cases = [(str(attacked[name]), a.payload or a.file) for name, a in ATTACKS.items()]
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CONTROL], input=json.dumps(cases), capture_output=True, text=True, env=environment
    )
    assert not done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("[")]
    found = dict(zip(ATTACKS, lines, strict=True))
    assert found == {name: [attack.unchecked, attack.trusting] for name, attack in ATTACKS.items()}


ALONE = {
    **dict.fromkeys(
        (".bin", ".pt", ".PTH", ".ckpt", ".pkl", ".joblib", ".safetensors"),
        lambda path: pickle.loads(path.read_bytes()),
    ),
    ".npy": lambda path: np.load(path, allow_pickle=True),
    ".npz": lambda path: np.load(path, allow_pickle=True)["a"],
    ".py": lambda path: exec(path.read_text(), {}),
}


@pytest.mark.parametrize(
    "name", [*(n for n, a in ATTACKS.items() if Path(a.payload or a.file).suffix in ALONE and n != "zip"), "zip"]
)
def test_payloads_work(name: str, attacked: dict[str, Path]) -> None:
    """Where the libraries stopped an attack, it was not for want of a payload: opened on its own, it runs."""
    folder, payload = attacked[name], ATTACKS[name].payload or ATTACKS[name].file
    path = folder / payload
    if payload.endswith(".py") and not path.exists():
        python(folder, payload)
    if zipfile.is_zipfile(path) and not payload.endswith(".npz"):
        path = Path(zipfile.ZipFile(path).extract("archive/data.pkl", folder.parent))
    if not tarfile.is_tarfile(path):
        ALONE[path.suffix](path)
        assert canary(folder).is_dir()
        canary(folder).rmdir()


def test_the_table_of_the_docs() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [f"| {a.what} | `{a.file}` | {a.unchecked} | {a.trusting} |" for a in ATTACKS.values()]
    assert re.findall(r"^\| .* \|$", page, re.MULTILINE)[2:] == rows, "\n" + "\n".join(rows)


# What is not refused


def test_bystanders_are_never_read(xlmr: Path, copy: Path) -> None:
    """Copies of the weights in other formats, and the state of a training, lie beside safetensors everywhere."""
    names = ["pytorch_model.bin", "tf_model.h5", "training_args.bin", "optimizer.pt", "rng_state_0.pth", "scheduler.pt"]
    for name in (*names, "openvino/openvino_model.bin"):
        pickled(name)(copy)
    python(copy, "modeling.py")  # which nothing names
    made = open_(copy, pooling="mean")
    assert np.array_equal(made.encode(TEXTS, "queries", ""), open_(xlmr, pooling="mean").encode(TEXTS, "queries", ""))
    assert made.identity["code"] is False and not canary(copy).exists()
    assert fingerprint(made.identity) == fingerprint(open_(xlmr, pooling="mean").identity)
    for suffix in PICKLES:
        (copy / f"other{suffix}").write_bytes(b"")
        with pytest.raises(UnsafeInput, match=f"other{suffix} is a pickle"):
            safe_files(copy)
        (copy / f"other{suffix}").unlink()


def test_the_cache_of_the_hub_may_link_to_its_blobs(st: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for path in (path for path in st.rglob("*") if path.is_file()):
        blob = repository / "blobs" / fingerprint({"name": path.relative_to(st).as_posix()})
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(st)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert fingerprint(open_(snapshot).identity) == fingerprint(open_(st).identity)
    config = snapshot / "config.json"
    for other in (repository / "blobs" / "evil", tmp_path / "models--evil" / "blobs" / ("1" * 64), tmp_path / "x.json"):
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(st / "config.json", other)
        config.unlink()
        config.symlink_to(other)
        with pytest.raises(UnsafeInput, match=r"config\.json is a link to .*, outside of the folder"):
            safe_files(snapshot)
    config.unlink()
    config.symlink_to(snapshot / "1_Pooling" / "config.json")  # within the folder
    assert "config.json" in safe_files(snapshot).files
    config.unlink()
    config.symlink_to("nowhere")
    with pytest.raises(UnsafeInput, match="neither file nor folder"):
        safe_files(snapshot)


def test_what_authors_leave_behind(copy: Path) -> None:
    """Paths of their machines, which lead nowhere here; keys that have no effect."""
    nowhere = "/nonexistent/author/tokenizer.json"
    edit(copy / TOKENIZER, tokenizer_file=nowhere, special_tokens_map_file=nowhere, name_or_path=nowhere)
    edit(
        copy / "config.json", _name_or_path="/nonexistent/author/model", use_kernels=False, attn_implementation="eager"
    )
    assert open_(copy, pooling="mean").identity["attention"] == ["eager"]


def test_what_configs_often_say(st: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(st, tmp_path / "st"))
    edit(
        folder / SBERT, model_args={"torch_dtype": "float32"}, tokenizer_args={"padding_side": "left"}, backend="torch"
    )
    edit(
        folder / TOKENIZER, tokenizer_class="XLMRobertaTokenizer", processor_class=None, model_input_names=["input_ids"]
    )
    edit(
        folder / "config.json",
        **{
            "auto_map": {},
            "_attn_implementation_autoset": True,
            "experts_implementation": "eager",
            "quantization_config": {},
        },
        **{"activation_function": "gelu_new", "tokenizer_class": "XLMRobertaTokenizer", "transformers_weights": None},
    )
    write("2_Dense/config.json", json.dumps(DENSE))(folder)
    write("trainer_state.json", '{"loss": NaN, "auto_map": {"x": "evil.Model"}}')(folder)
    write("model.safetensors.index.json", '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')(folder)
    assert safe_files(folder).code == [] == safe_files(folder, allow_code=True).code


def test_a_pointer_of_git_lfs_says_so(copy: Path) -> None:
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="git lfs pull"):
        open_(copy)


# Code that is allowed

MODELING = """
from transformers import XLMRobertaModel
from .scale import SCALE

class Scaled(XLMRobertaModel):
    def forward(self, *given, **named):
        out = super().forward(*given, **named)
        out.last_hidden_state = out.last_hidden_state * SCALE
        return out
"""


@pytest.fixture
def coded(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with code that doubles its hidden states."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (copy / "modeling.py").write_text(MODELING)
    (copy / "scale.py").write_text("SCALE = 2.0\n")
    edit(copy / "config.json", auto_map={"AutoModel": "modeling.Scaled"})
    return copy


def pin_of(folder: Path, **options: Any) -> str:
    with pytest.raises(UnsafeInput, match="only if pinned; read modeling.py, scale.py, then --revision") as caught:
        open_(folder, allow_code=True, pooling="mean", **options)
    return str(caught.value)[-64:]


def test_code_of_a_folder_runs_if_allowed_and_pinned(
    coded: Path, xlmr: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnsafeInput, match="auto_map names code to run; take a model without, or .*--allow-code"):
        open_(coded)
    pin = pin_of(coded)
    for wrong in ("0" * 64, pin[:-1] + ("0" if pin[-1] != "0" else "1")):
        assert pin_of(coded, revision=wrong) == pin
    how = {"pooling": "mean", "normalize": False}
    caplog.clear()
    with caplog.at_level("INFO", "xbench"):
        model = open_(coded, allow_code=True, revision=pin, **how)
    assert [r.message for r in caplog.records] == [
        f"hf:{coded}: runs 2 Python files of the checkpoint (modeling.py, scale.py)"
    ]
    plain = open_(xlmr, **how).encode(TEXTS, "queries", "")
    assert np.abs(model.encode(TEXTS, "queries", "") - 2 * plain).max() <= 1e-4
    assert model.identity["code"] is True and {"modeling.py", "scale.py"} <= set(model.identity["files"])
    (coded / "scale.py").write_text("SCALE = 3.0\n")
    changed = pin_of(coded, revision=pin)
    other = open_(coded, allow_code=True, revision=changed, **how)
    assert changed != pin and fingerprint(other.identity) != fingerprint(model.identity)
    assert np.abs(other.encode(TEXTS, "queries", "") - 3 * plain).max() <= 1e-4


MODULE = """
from sentence_transformers.base.modules import Module

class Scale(Module):
    config_keys = ["by"]

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, features, **_):
        features["sentence_embedding"] = features["sentence_embedding"] * self.by
        return features

    def save(self, output_path, *_, **__):
        self.save_config(output_path)
"""


def test_a_module_of_the_folder_runs_if_allowed_and_pinned(
    st: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = Path(shutil.copytree(st, tmp_path / "st"))
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Scale", "type": "scaling.Scale"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "scaling.py").write_text(MODULE)
    write("2_Scale/config.json", '{"by": 3.0}')(folder)
    with pytest.raises(UnsafeInput, match="type scaling.Scale is code from outside sentence_transformers"):
        open_(folder)
    with pytest.raises(UnsafeInput, match="only if pinned; read scaling.py") as caught:
        open_(folder, allow_code=True)
    model = open_(folder, allow_code=True, revision=str(caught.value)[-64:], normalize=False)
    plain = open_(st, normalize=False)
    for role in ROLES:
        assert np.abs(model.encode(TEXTS, role, "") - 3 * plain.encode(TEXTS, role, "")).max() <= 1e-4
    assert model.identity["code"] is True and "scaling.py" in model.identity["files"]


def test_allowed_code_is_that_of_the_folder(coded: Path) -> None:
    for foreign in (
        "evil/repo--modeling.Scaled",
        "os.path.join",
        "..modeling.Scaled",
        "/tmp/modeling.Scaled",
        "modeling",
    ):
        edit(coded / "config.json", auto_map={"AutoModel": foreign})
        with pytest.raises(UnsafeInput, match=rf"{re.escape(foreign)} is code of another place"):
            open_(coded, allow_code=True)


def test_a_family_that_needs_code_says_so(coded: Path) -> None:
    named = coded.rename(coded.with_name("nomic-embed-text-v1.5"))
    with pytest.raises(UnsafeInput, match=r"--allow-code .*nomic-embed-text-v1\.5 needs code of its own: https://hugg"):
        open_(named)


def test_allowing_code_allows_nothing_else(
    attacked: dict[str, Path], xlmr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"auto", "auto-list", "auto-nested", "auto-processor", "type", "router", "words", "generate"}
    for name, folder in attacked.items():
        with pytest.raises(UnsafeInput) as caught:
            load(f"hf:{folder}", Options(device="cpu", allow_code=True))
        assert ("only if pinned" in str(caught.value)) == (name in code), name
        assert not canary(folder).exists()
    # Without code in the folder, the permission changes nothing and is not handed on.
    allowed, plain = (open_(xlmr, pooling="mean", allow_code=allow) for allow in (True, False))
    assert allowed.identity["code"] is False and fingerprint(allowed.identity) == fingerprint(plain.identity)
    handed: list[Options] = []

    def refuse(folder: Path, options: Options, device: str) -> None:
        handed.append(options)
        raise ValueError

    monkeypatch.setattr("xbench.models.hf.load_transformers", refuse)
    with pytest.raises(DataError):
        open_(xlmr, pooling="mean", allow_code=True)
    assert [options.allow_code for options in handed] == [False]


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "refs/pr/1", "0" * 39, "0" * 64, "A" * 40])
def test_code_of_a_name_needs_its_full_commit(revision: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("fetched"))
    for spelling, option in ((f"hf:a/b@{revision}" if revision else "hf:a/b", None), ("hf:a/b", revision)):
        with pytest.raises(UnsafeInput, match="which may change, is not run; give its full commit"):
            load(spelling, Options(allow_code=True, revision=option))


def test_a_folder_has_no_revision(xlmr: Path) -> None:
    for options in ({"revision": "main"}, {"revision": "0" * 40}, {"revision": "main", "allow_code": True}):
        with pytest.raises(UsageError, match="is a folder, which has no revision"):
            open_(xlmr, **options)


# Names never become paths elsewhere

HOSTILE = [
    "", ".", "..", "../..", "/", "//", "/etc/passwd", "a/../../b", "~", "~root/x", "a\0b", "\0", "CON", "con", "NUL", "aux.txt",
    "COM1", "lpt9.", "CON.x/", "a:b", "C:\\x", "\\\\host\\share", "..\\..\\x", "a\nb", "a\rb", "\t", " ", "  a  ", "a.", "a..",
    ".hidden", "-rf", "--output=/x", "$(id)", "`id`", "%2e%2e%2f", "*", "?", "a|b", "<b>", "&amp;", "'", '"', "#", ";",
    "\u202egpj.exe", "\u2066a\u2069", "\ufeff", "é", "e\u0301", "\u212b", "Å", "ß", "SS", "ﬁ", "fi", "İ", "ı", "😀", "漢字", "\ud800",
    "x" * 300, "é" * 300, "x" * 300 + "/", "a/" * 200, "." * 300, "-" * 300, "Model", "model", "MODEL", "mo-del", "mo del", "mo\u00addel",
]  # fmt: skip
HOSTILE += [prefix + name for name in HOSTILE[:44] for prefix in ("hf:", "org/", "hf:org/name@")]


def test_slugs_stay_in_their_folder(tmp_path: Path) -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 200
    slugs = [slug(name, fingerprint({"name": name.encode("utf-8", "surrogatepass").hex()})) for name in HOSTILE]
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
    for made in slugs:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", made) and len(made) <= 80 and made[-1] not in ". "
        assert made.partition(".")[0].lower() not in reserved
        (tmp_path / made).mkdir()  # on this system too, and each is new
        assert (tmp_path / made).resolve().parent == tmp_path.resolve()
    assert len({made.lower() for made in slugs}) == len(HOSTILE)


def test_every_quantization_is_refused(xlmr: Path, tmp_path: Path) -> None:
    """All that transformers knows, so that an upgrade brings no way in."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    folder = Path(shutil.copytree(xlmr, tmp_path / "model"))
    assert len(AUTO_QUANTIZER_MAPPING) > 10
    for name in AUTO_QUANTIZER_MAPPING:
        edit(folder / "config.json", quantization_config={"quant_method": name})
        with pytest.raises(UnsafeInput, match=f"quantization {name} may fetch code"):
            safe_files(folder)


def test_architectures_that_fetch_code_are_refused(xlmr: Path, tmp_path: Path) -> None:
    """Found in the library's own source, where it asks for a repository of compiled code by name."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    models = Path(spec.origin).parent / "models"
    found = {path.parent.name for path in models.rglob("modeling_*.py") if "get_kernel(" in path.read_text("utf-8")}
    assert found
    folder = Path(shutil.copytree(xlmr, tmp_path / "model"))
    for name in found:
        edit(folder / "config.json", model_type=name)
        with pytest.raises(UnsafeInput, match=f"model_type {name} fetches"):
            safe_files(folder)


@pytest.mark.parametrize(
    "name", ["a/b@../../../../outside/ref", "a/../../b", "../a", "a/b@/etc", "a/b@x y", "hf:a/b@v1\0"]
)
def test_names_that_lead_out_of_the_cache_of_the_hub(name: str) -> None:
    from xbench.models.hub import find

    with pytest.raises((UnsafeInput, FileNotFoundError)):
        find(name, None, code=False)
