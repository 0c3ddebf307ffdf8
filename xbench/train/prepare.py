"""All that a run needs before its first step: the pairs' columns, a model, the pairs as its tokens."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, XbenchError
from xbench.models.checkpoint import quiet
from xbench.storage import atomic, fingerprint, sha256
from xbench.tasks import select
from xbench.train.config import Config, Data
from xbench.train.contamination import Contamination
from xbench.train.encoder import Trainee
from xbench.train.from_tasks import PREFIX, task_pairs
from xbench.train.pairs import Pairs, file_pairs, stream
from xbench.train.scratch import TOKENIZER_PAIRS, load_tokenizer, static_model, tiny_model, train_tokenizer
from xbench.train.store import Table, Tokens, TokenStore, load_table, load_tokens, used_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer


class Prepared(NamedTuple):
    """What a run trains on, and what it trains."""

    table: Table
    tokens: TokenStore
    trainee: Trainee
    base: dict[str, str]
    """The files of the checkpoint it starts from -> their SHA-256; empty for a model from scratch."""


def find_files(data: Data, beside: Path, folder: Path | None) -> dict[str, Pairs]:
    """The pairs of files, in the data folder, else beside the config, and of tasks (`task:NAME`).

    Raises:
        DataError: a file is in neither.
        XbenchError: as `task_pairs`.
    """
    found = {}
    for name in data.files:
        if name.startswith(PREFIX):
            (task,) = select([name.removeprefix(PREFIX)])
            found[name] = task_pairs(task, folder)
            continue
        places = [place / name for place in (folder, beside) if place is not None]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            cure = "put it there, or name its folder by --data" if folder is None else "put it there"
            raise DataError(f"[data] files: no {' and no '.join(str(place) for place in places)}; {cure}")
        found[name] = file_pairs(path)
    return found


def read_table(config: Config, files: Mapping[str, Pairs], cache: Path, folder: Path | None) -> Table:
    """The pairs' columns, and which of them the config uses; `folder` holds the sources of tasks, as `--data`.

    Raises:
        DataError: pairs have texts of tasks that the config wants to be clean of, and does not drop them.
    """
    if not config.data.clean_of:
        return load_table(config.data, files, cache)
    contamination = Contamination(select(list(config.data.clean_of)), folder)
    table = load_table(config.data, files, cache, contamination)
    about = {**table.about, "clean_of": contamination.key}
    if table.contaminated.any():
        report = contamination.search(itertools.compress(stream(files), table.contaminated))
        if config.data.contaminated == "refuse":
            raise report.refuse()
        about["contamination"] = report.to_json()
    return table._replace(about=about)


def prepare(config: Config, cache: Path, data: Path | None) -> Prepared:
    """Read and tokenize the pairs, make or load the model; what is in the cache is not done again.

    The model's random numbers are torch's: seed them first.

    Raises:
        DataError, UsageError: see `load_table`, `Trainee`.
    """
    files = find_files(config.data, config.folder, data)
    table = read_table(config, files, cache, data)
    base = config.model.base
    if base in ("static", "tiny"):
        tokenizer = _tokenizer(config, table, files, cache)
        model = static_model(config.model, tokenizer) if base == "static" else tiny_model(config.model, tokenizer)
        hashes: dict[str, str] = {}
    else:
        model, hashes = _checkpoint(config)
    trainee = Trainee(model, config.model)
    tokens = load_tokens(table, files, trainee.tokenize, trainee.key, cache)
    if base == "static":
        trainee.weigh(_counts((tokens.questions, tokens.passages), tokenizer.get_vocab_size()))
    return Prepared(table, tokens, trainee, hashes)


def _tokenizer(config: Config, table: Table, files: Mapping[str, Pairs], cache: Path) -> "Tokenizer":
    """The tokenizer of the training text: kept in the cache, and always read from there."""
    size = config.model.vocabulary
    about = {**table.about, "data": asdict(config.data), "vocabulary": size, "version": 2}
    path = cache / "tokenizers" / f"{fingerprint(about)[:32]}.json"
    if not path.is_file():
        made = train_tokenizer(used_texts(table, files, TOKENIZER_PAIRS), size)
        with atomic(path) as file:
            file.write(made.to_str().encode())
    return load_tokenizer(path)


def _checkpoint(config: Config) -> tuple["SentenceTransformer", dict[str, str]]:
    """A checkpoint by name or folder, checked like any model of `xbench run`, and the SHA-256 of its files.

    Raises:
        DataError: no such folder or name on the hub, or it is broken.
        UnsafeInput, UsageError: as `hub.find` and `safety.safe_files`.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from xbench.models.hub import SUFFIXES, find
    from xbench.models.safety import safe_files

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    weights = {"use_safetensors": True}
    try:
        place = find(config.model.base, None, code=False)
        files, _ = safe_files(place.folder, allow_code=False)
        hashes = {name: sha256(files[name]) for name in sorted(files) if name.endswith(SUFFIXES)}
        with quiet:
            if "modules.json" in files:
                return SentenceTransformer(str(place.folder), device="cpu", model_kwargs=weights, **safe), hashes
            body = Transformer(str(place.folder), model_kwargs=weights | safe)
            pooling = Pooling(body.get_embedding_dimension(), config.model.pooling)
            return SentenceTransformer(modules=[body, pooling, Normalize()], device="cpu"), hashes
    except XbenchError:
        raise
    except Exception as error:  # offline, broken or unknown: on these the libraries raise anything
        cure = "expected static, tiny, the folder of a whole checkpoint, or a name on the hub and a network"
        raise DataError(f"[model] base: cannot load {config.model.base}: {error!r:.300}; {cure}") from error


def _counts(texts: tuple[Tokens, ...], vocabulary: int, block: int = 1 << 22) -> NDArray[np.int64]:
    """(v,): how often each token id occurs."""
    counts = np.zeros(vocabulary, np.int64)
    for tokens in texts:
        for start in range(0, len(tokens.ids), block):
            counts += np.bincount(tokens.ids[start : start + block], minlength=vocabulary)
    return counts
