"""Which files of a checkpoint may be read: safetensors, JSON and tokenizers; what could run code is refused.

Nothing of the libraries is imported here, and nothing but JSON and the first bytes of weights is read. The attacks
that were tried, with what happens without this file, are listed in docs/security.md.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xbench.errors import DataError, UnsafeInput
from xbench.storage import storage
from xbench.strictjson import read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".h5", ".msgpack")
# Beside safetensors, copies in other formats and the state of a training, which no library reads here.
BYSTANDERS = re.compile(
    r"(pytorch_model|model)([.-]\d+-of-\d+)?\.(bin|h5|msgpack)|(tf_model\.h5|flax_model\.msgpack|training_args\.bin)"
    r"|(optimizer|scheduler|scaler|rng_state)[\w-]*\.(pt|pth|bin)"
)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Ways to compute that transformers has itself; any other may be fetched as compiled code, `flash_attention_2` as well.
COMPUTED = ("eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm", None)
FETCHING = ("mra", "rwkv", "sam3_video", "yoso")  # architectures that fetch compiled code to compute with
# Keys that have no business in a checkpoint, where their value is not empty.
NEVER = {
    "trust_remote_code": "asks to run code",
    "use_kernels": "asks to fetch compiled code",
    "kernel_config": "asks to fetch compiled code",
    "custom_pipelines": "names code to run",
    "audio_tokenizer": "names another repository",
    "gguf_file": "names weights in another format",
    "adapter_kwargs": "asks for weights of another folder",
    "code_revision": "names code to run",
    "use_pretrained_backbone": "asks for weights of another repository",
}
# Of the keyword arguments of from_pretrained in a module of sentence-transformers: these lead elsewhere.
ELSEWHERE = ("subfolder", "cache_dir", "revision", "variant", "use_safetensors", "weights_only", "state_dict", "config")
LOCAL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")  # module.Class, in this folder
BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class Checked(NamedTuple):
    """A folder that passed."""

    files: dict[str, Path]  # regular files by name relative to the folder
    code: list[str]  # names of its Python files, if it names any to be run; only where that was allowed


def safe_files(folder: Path, *, allow_code: bool = False) -> Checked:
    """The files of a checkpoint; refuses, from them alone, what could run code or is no checkpoint.

    Raises:
        UnsafeInput: code, pickles, compiled kernels, archives as weights, paths out of the folder, pipes.
        DataError: no checkpoint of an encoder, or JSON that is not JSON.
        StorageError: it cannot be read.
    """
    files = dict(_regular(folder))
    uses_code = False
    weighted = {path.parent for path in files.values() if path.name in WEIGHTS}
    for name, path in files.items():
        where, base = f"{folder}: {name}", path.name.lower()
        if base.endswith(PICKLES) and path.parent.name != "openvino":  # whose .bin is none
            # Each folder on its own: a module in a sub-folder falls back to its pickle.
            if path.parent not in weighted or not BYSTANDERS.fullmatch(base):
                raise UnsafeInput(f"{where} is a pickle or may hold one, which can run code; convert it to safetensors")
        elif base.endswith(".safetensors"):
            _check_weights(where, path)
        elif base == "adapter_config.json":
            raise UnsafeInput(f"{where} names another repository and a library to import; merge the adapter first")
        elif base == "generate.py" and path.parent.name == "custom_generate":
            uses_code = True  # by being there
            if not allow_code:
                raise UnsafeInput(f"{where} is code that replaces a model's generate; remove it")
        elif base.endswith(".safetensors.index.json"):
            _check_index(where, read_json(path))
        elif base.endswith(".json") and ("config" in base or base in ("modules.json", "special_tokens_map.json")):
            for key, value in _pairs(read_json(path)):
                uses_code |= _check(key, value, where, base, files, allow_code)
    if "config.json" not in files and "modules.json" not in files:
        raise DataError(f"{folder} has neither config.json nor modules.json; expected the folder of one checkpoint")
    if not any(name.endswith(".safetensors") for name in files):
        cure = "convert the weights, or take a revision that has them (on the hub often refs/pr/NUMBER)"
        raise DataError(f"{folder} has no weights as safetensors, such as model.safetensors; {cure}")
    return Checked(files, sorted(name for name in files if name.endswith(".py")) if uses_code else [])


def _regular(folder: Path) -> Iterator[tuple[str, Path]]:
    """Regular files by name, in order; links and anything that is not a file are looked at without being opened."""
    with storage(folder, "read"):
        paths = sorted(folder.rglob("*"))
        root = Path(os.path.realpath(folder))
    for path in paths:
        if path.is_symlink():
            target = Path(os.path.realpath(path))
            if path.is_dir():  # which rglob does not enter
                raise UnsafeInput(f"{path} is a link to a folder, which goes unchecked; copy the files in its place")
            # The cache of the hub: snapshots/COMMIT/NAME is a link to blobs/HASH.
            blob = target.parent == root.parent.parent / "blobs" and root.parent.name == "snapshots"
            if not target.is_relative_to(root) and not (blob and BLOB.fullmatch(target.name)):
                raise UnsafeInput(f"{path} is a link to {target}, outside of the folder; copy the file in its place")
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path
        elif not path.is_dir():
            raise UnsafeInput(f"{path} is neither file nor folder; reading a pipe or device may never end; remove it")


def _check_weights(where: str, path: Path) -> None:
    """Refuse a pickle, zip, tar or anything else that is only called safetensors: a length, then a JSON object."""
    with storage(path, "read"), path.open("rb") as file:
        head = file.read(9)
        size = os.fstat(file.fileno()).st_size
    if head == b"version h":
        raise DataError(f"{where} is a pointer of git-lfs, not the weights; run: git lfs pull")
    if head[8:] != b"{" or not 2 <= int.from_bytes(head[:8], "little") <= min(size, 10**8):
        raise UnsafeInput(f"{where} is not safetensors but something else under that name; convert the weights")


def _check_index(where: str, index: object) -> None:
    weights = index.get("weight_map") if isinstance(index, dict) else None
    for shard in set(map(str, weights.values())) if isinstance(weights, dict) else ():
        if not shard.endswith(".safetensors") or _leaves(shard):
            raise UnsafeInput(f"{where}: weight_map names {shard}, which is no safetensors file of this folder")


def _check(key: str, value: object, where: str, base: str, files: Mapping[str, Path], allow_code: bool) -> bool:
    """Refuse a pair of a config; whether it names code to run."""
    names = list(_strings(value))
    if key in NEVER and value:
        raise UnsafeInput(f"{where}: {key} {NEVER[key]}; remove it")
    if re.search("(attn|experts)_implementation(_internal)?$", key):
        values = value.values() if isinstance(value, dict) else [value]
        if strange := [v for v in values if not isinstance(v, str | None) or v not in COMPUTED]:
            raise UnsafeInput(f"{where}: {key} {strange[0]} names code to fetch and run; remove it")
    elif key.endswith("name_or_path") and key not in ("_name_or_path", "name_or_path") and value:  # these are unread
        raise UnsafeInput(f"{where}: {key} {value} leads out of the folder; remove it")
    elif key == "quant_method" and value:  # whether code is fetched, by others' packages or not, depends on the machine
        raise UnsafeInput(f"{where}: quantization {value} may fetch code; take the checkpoint it was made from")
    elif key == "model_type" and value in FETCHING:
        raise UnsafeInput(f"{where}: {key} {value} fetches compiled code; take another architecture")
    elif key == "transformers_weights" and value and (_leaves(str(value)) or ".safetensors" not in str(value)):
        raise UnsafeInput(f"{where}: {key} {value} is no safetensors file of this folder")
    elif key == "activation_function" and "." in str(value):  # of Dense, which imports it
        if not re.fullmatch(r"torch\.nn(\.modules\.\w+)?\.\w+", str(value)):
            raise UnsafeInput(f"{where}: {key} {value} is code from outside torch.nn")
    elif key.endswith(("_file", "_files", "_path", "_dir")):
        # Authors leave paths of their own machines behind: only one that leads to something here is an attack.
        if out := [v for v in names if _leaves(v) and Path(where.partition(": ")[0], v).expanduser().exists()]:
            raise UnsafeInput(f"{where}: {key} {out[0]} is outside of the folder; remove it")
    elif key == "backend" and base.startswith("sentence_") and value not in (None, "torch"):
        raise UnsafeInput(f"{where}: backend {value} runs other files than the safetensors; remove it")
    elif key in ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs"):
        inside = list(_pairs(value))
        if bad := [k for k, v in inside if k in ELSEWHERE or any(_leaves(text) for text in _strings(v))]:
            raise UnsafeInput(f"{where}: {key} sets {bad[0]}, which leads out of the folder; remove it")
    elif key == "model_type" and base.startswith("config_sent") and value != "SentenceTransformer":
        raise DataError(f"{where}: a {value} is no encoder of single texts; take a SentenceTransformer")
    elif key == "path" and any(map(_leaves, names)):
        raise UnsafeInput(f"{where}: path {value} is outside of the folder")
    elif key == "types" and "modules.json" in files and isinstance(value, dict) and any(map(_leaves, value)):
        raise UnsafeInput(f"{where}: {next(filter(_leaves, value))} is outside of the folder")
    return _check_classes(key, value, names, where, base, files, allow_code)


def _check_classes(
    key: str, value: object, names: list[str], where: str, base: str, files: Mapping[str, Path], allow_code: bool
) -> bool:
    """Refuse a class that is neither the libraries' own nor, where that is allowed, one of a file beside it."""
    if key == "auto_map":
        foreign, what = names, "auto_map names code to run"
    elif (key == "type" and base == "modules.json") or (key == "types" and "modules.json" in files):
        foreign = [name for name in names if not name.startswith("sentence_transformers.")]
        what = f"type {foreign[0] if foreign else ''} is code from outside sentence_transformers"
    elif key in ("tokenizer_class", "processor_class") or key.endswith(("_processor_type", "_extractor_type")):
        foreign = [v for v in names if not (v.isidentifier() or v.startswith("sentence_transformers."))]
        what = f"{key} {foreign[0] if foreign else ''} is code from outside the libraries"
    elif key == "custom_generate":
        foreign, what = names, "custom_generate names code to run"
    else:
        return False
    if not foreign:
        return False
    if not allow_code:
        cure = "read it, then pin it: --allow-code with the full commit of a name, or for a folder with --revision"
        raise UnsafeInput(f"{where}: {what}; take a model without, or {cure}")
    for name in foreign:
        if not LOCAL.fullmatch(name) or name.rpartition(".")[0].replace(".", "/") + ".py" not in files:
            raise UnsafeInput(f"{where}: {name} is code of another place than this folder, which is never run")
    return True


def _leaves(name: str) -> bool:
    """Whether a path is absolute or goes up, on any platform."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or name.startswith("~") or bool(re.match("[A-Za-z]:", name))


def _pairs(value: object) -> Iterator[tuple[str, object]]:
    """Every key and value of nested JSON."""
    todo = [value]
    for found in todo:  # grows on the way
        todo.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
        yield from found.items() if isinstance(found, dict) else ()


def _strings(value: object) -> Iterator[str]:
    """Every string in nested JSON, keys aside."""
    todo = [value]
    for found in todo:
        todo.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
        if isinstance(found, str):
            yield found
