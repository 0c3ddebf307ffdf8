"""Which files of a checkpoint may be read: safetensors, JSON and tokenizers; what could run code is refused."""

from pathlib import Path

from xbench.errors import DataError, UnsafeInput
from xbench.storage import storage
from xbench.strictjson import read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def safe_files(folder: Path) -> dict[str, Path]:
    """The files by name relative to the folder; refuses, from them alone, what could run code or is no checkpoint."""
    with storage(folder, "read"):
        paths = sorted(folder.rglob("*"))
    files = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}  # no pipe, which could hang
    if link := next((path for path in paths if path.is_symlink() and path.is_dir()), None):  # rglob does not enter it
        raise UnsafeInput(f"{link} is a link to a folder, which goes unchecked; copy the files in its place")
    safe = {path.parent for path in files.values() if path.suffix == ".safetensors"}
    for name, path in files.items():
        where, base = f"{folder}: {name}", path.name.lower()
        # Each folder on its own: a module in a sub-folder falls back to its pickle. OpenVINO's .bin is none.
        if base.endswith(PICKLES) and path.parent not in safe and path.parent.name != "openvino":
            raise UnsafeInput(f"{where} is a pickle, which can run code; convert it to safetensors or remove it")
        if base == "adapter_config.json":
            raise DataError(f"{where} asks for weights of another folder; merge the adapter into its base model")
        todo = [read_json(path)] if base == "modules.json" or (base.endswith(".json") and "config" in base) else []
        for found in todo:  # grows on the way
            todo.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
            for key, value in found.items() if isinstance(found, dict) else ():
                if key == "auto_map" and value:
                    raise UnsafeInput(f"{where}: auto_map names code to run; take a model that transformers knows")
                if "attn_implementation" in key and "/" in str(value):  # a repository of compiled code
                    raise UnsafeInput(f"{where}: {key} {value} names code to fetch and run; remove it")
                if key == "model_type" and base.startswith("config_sent") and value != "SentenceTransformer":
                    raise DataError(f"{where}: a {value} is no encoder of single texts; take a SentenceTransformer")
                kinds = [value] if key == "type" and base == "modules.json" else []
                if key == "types" and isinstance(value, dict) and "modules.json" in files:  # of a router
                    kinds = list(value.values())
                if alien := [kind for kind in kinds if not str(kind).startswith("sentence_transformers.")]:
                    raise UnsafeInput(f"{where}: type {alien[0]} is code from outside sentence_transformers")
    if "config.json" not in files and "modules.json" not in files:
        raise DataError(f"{folder} has neither config.json nor modules.json; expected the folder of one checkpoint")
    return files
