"""Checkpoints of all shapes, made here in seconds, and one with real weights from a package."""

import fnmatch
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from checkpoints import (  # noqa: E402
    POSITIONS,
    REAL,
    TEXTS,
    XLMR,
    alone,
    change,
    cosines,
    edit,
    hidden_of,
    ids_of,
    open_,
    save,
    tokenizer,
    write,
)  # fmt: skip
from safetensors.torch import load_file, save_file  # noqa: E402

from xbench.errors import DataError, IntegrityError, UsageError  # noqa: E402
from xbench.models import ROLES, Options, load  # noqa: E402
from xbench.models.checkpoint import pool  # noqa: E402
from xbench.storage import fingerprint  # noqa: E402

POOLINGS = ("mean", "cls", "last")
pytestmark = pytest.mark.usefixtures("one_thread")


# Real weights


def test_real_weights_as_sentence_transformers_itself(minilm: Path, sentence_transformers: Any) -> None:
    model = open_(minilm)
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    for mine in (model.encode(REAL, "queries", "en"), model.encode(REAL, "passages", "de")):
        assert mine.shape == (len(REAL), 384) and mine.dtype == np.float32 and mine.flags.c_contiguous
        assert np.abs(mine - theirs.encode(REAL, show_progress_bar=False)).max() <= 1e-6
    assert model.lengths(REAL, "queries") == [min(len(theirs.tokenizer(text)["input_ids"]), 256) for text in REAL]
    prompted = open_(minilm, prompt_query="query: ")
    expected = theirs.encode(REAL, prompt="query: ", show_progress_bar=False)
    assert np.abs(prompted.encode(REAL, "queries", "en") - expected).max() <= 1e-6
    assert np.abs(prompted.encode(REAL, "passages", "en") - model.encode(REAL, "passages", "en")).max() == 0
    assert model.identity["pooling"] == "mean" and model.identity["max_length"] == 256
    assert "data_config.json" in model.identity["files"] and "README.md" not in model.identity["files"]


def test_real_weights_by_either_library(minilm: Path, tmp_path: Path, sentence_transformers: Any) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(minilm / name, plain)
    a = open_(minilm)
    b = open_(plain, max_length=256)
    assert "sentence-transformers" in a.identity["versions"] and "sentence-transformers" not in b.identity["versions"]
    assert np.abs(a.encode(REAL, "queries", "en") - b.encode(REAL, "queries", "en")).max() <= 1e-6
    assert a.lengths(REAL, "passages") == b.lengths(REAL, "passages")
    assert open_(plain).identity["max_length"] == 512
    assert open_(minilm, max_length=20).lengths(["bridge " * 400], "queries") == [20]


# Pooling, padding, cutting


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_text_as_the_formula_says(xlmr: Path, pooling: str) -> None:
    text = TEXTS[1]
    hidden = hidden_of(xlmr, ids_of(xlmr, text))
    expected = {"mean": hidden.sum(axis=0) / len(hidden), "cls": hidden[0], "last": hidden[-1]}[pooling]
    raw = open_(xlmr, pooling=pooling, normalize=False).encode([text], "passages", "en")
    assert np.abs(raw[0] - expected).max() <= 1e-5
    unit = open_(xlmr, pooling=pooling).encode([text], "queries", "en")
    assert np.abs(unit[0] - expected / np.sqrt((expected**2).sum())).max() <= 1e-6


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_batch_equals_alone(copy: Path, pooling: str, side: str) -> None:
    edit(copy / "tokenizer_config.json", padding_side=side)
    model = open_(copy, pooling=pooling)
    batch = model.encode(TEXTS, "passages", "en")
    assert batch.shape == (len(TEXTS), 32) and batch.dtype == np.float32 and batch.flags.c_contiguous
    assert np.abs(cosines(batch, alone(model, TEXTS)) - 1).max() <= 1e-6
    order = [5, 0, 3, 2, 7, 1, 6, 4]
    assert np.abs(cosines(model.encode([TEXTS[i] for i in order], "passages", ""), batch[order]) - 1).max() <= 1e-6


@pytest.mark.parametrize("how", POOLINGS)
def test_pool_ignores_pads_on_both_sides(how: str) -> None:
    rows = [torch.randn(length, 5, generator=torch.Generator().manual_seed(length)) for length in (1, 3, 4)]
    expected = [{"mean": row.mean(dim=0), "cls": row[0], "last": row[-1]}[how] for row in rows]
    for left in (0, 1, 2):  # pads on the right, on the left, on both sides
        hidden = torch.full((3, 9, 5), float("nan"))
        mask = torch.zeros(3, 9, dtype=torch.int64)
        for i, row in enumerate(rows):
            start = (9 - len(row)) * left // 2
            hidden[i, start : start + len(row)], mask[i, start : start + len(row)] = row, 1
        assert torch.allclose(pool(hidden, mask, how), torch.stack(expected), atol=1e-6, rtol=0)
    half = pool(torch.full((1, 3, 2), 3.0, dtype=torch.bfloat16), torch.ones(1, 3, dtype=torch.int64), how)
    assert half.dtype == torch.float32


def test_causal_model_without_pad_token(tmp_path: Path) -> None:
    """GPT-2 counts positions from the first column, and its tokenizer adds no token to an empty text."""
    config: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    config |= {"bos_token_id": 0, "eos_token_id": 0}
    folder = save(tmp_path / "gpt", "GPT2", tokenizer(special=False, padding_side="left"), **config)
    full = [text for text in TEXTS if text]
    for pooling in POOLINGS:
        model = open_(folder, pooling=pooling)
        batch = model.encode(TEXTS, "queries", "")
        assert model.lengths(TEXTS, "queries")[0] == 0 and not batch[0].any()
        assert np.abs(cosines(batch[1:], alone(model, full)) - 1).max() <= 1e-6
        assert not model.encode(["", ""], "queries", "").any()
    assert open_(folder).identity["max_length"] == 64
    hidden = hidden_of(folder, ids_of(folder, full[0]))
    last = open_(folder, pooling="last", normalize=False).encode(full, "queries", "")[0]
    assert np.abs(last - hidden[-1]).max() <= 1e-4


def test_encoder_of_an_encoder_decoder(tmp_path: Path) -> None:
    config = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 1}
    model = open_(save(tmp_path / "t5", "T5", tokenizer(), **config))
    assert np.abs(cosines(model.encode(TEXTS, "passages", ""), alone(model, TEXTS)) - 1).max() <= 1e-6


def test_pad_token_is_needed_for_the_others(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", pad_token=None)
    with pytest.raises(DataError, match="no pad token; set pad_token"):
        open_(copy)


def test_max_length_cuts(xlmr: Path) -> None:
    text = TEXTS[5]
    ids = ids_of(xlmr, text)
    assert open_(xlmr).lengths([text, "", "a"], "queries") == [POSITIONS - 2, 2, 3]
    model = open_(xlmr, max_length=6, normalize=False)
    assert model.lengths([text, "", "a"], "queries") == [6, 2, 3]
    hidden = hidden_of(xlmr, [*ids[:5], ids[-1]])
    assert np.abs(model.encode([text], "passages", "en")[0] - hidden.mean(axis=0)).max() <= 1e-5
    assert model.identity["max_length"] == 6
    # RoBERTa's first two positions are no room for tokens; a model cut too late would fail on a long text.
    assert open_(xlmr, max_length=32).encode([text], "passages", "en").shape == (1, 32)
    for impossible in (33, 512, 2, 0, -1):
        with pytest.raises(UsageError, match="choose from 3 to 32"):
            open_(xlmr, max_length=impossible)


def test_lengths_of_more_texts_than_a_chunk(xlmr: Path) -> None:
    texts = [f"bridge {'river ' * (i % 9)}" for i in range(2100)]
    found = open_(xlmr, prompt_passage="x: ").lengths(texts, "passages")
    assert found == [len(ids_of(xlmr, "x: " + text)) for text in texts]


def test_prompts_change_vectors_and_identity(xlmr: Path) -> None:
    plain, model = open_(xlmr), open_(xlmr, prompt_query="query: ", prompt_passage="the ")
    prompted = [f"query: {text}" for text in TEXTS]
    assert np.array_equal(model.encode(TEXTS, "queries", "en"), plain.encode(prompted, "queries", "en"))
    assert np.array_equal(model.encode(["river"], "passages", "en"), plain.encode(["the river"], "passages", "en"))
    assert cosines(model.encode(TEXTS, "queries", "en"), plain.encode(TEXTS, "queries", "en")).max() < 0.9999
    assert model.lengths(TEXTS, "queries") == plain.lengths(prompted, "queries")
    assert model.identity["prompts"] == {"queries": "query: ", "passages": "the "}
    assert plain.identity["prompts"] == {"queries": "", "passages": ""}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_only_when_asked(copy: Path, st: Path, dtype: str) -> None:
    edit(copy / "config.json", dtype=dtype)  # transformers 5 would follow this
    for folder in (copy, st):
        full, half = open_(folder), open_(folder, dtype=dtype)
        a, b = full.encode(TEXTS, "queries", "en"), half.encode(TEXTS, "queries", "en")
        assert a.dtype == b.dtype == np.float32
        assert 0 < np.abs(a - b).max() < 0.3 and cosines(a, b).min() > 0.98
        assert np.abs((b.astype(np.float64) ** 2).sum(axis=1) - 1).max() <= 1e-6
        assert full.identity["dtype"] == "float32" and fingerprint(full.identity) != fingerprint(half.identity)
    assert np.array_equal(open_(copy).encode(TEXTS, "queries", ""), load_original(copy).encode(TEXTS, "queries", ""))


def load_original(folder: Path) -> Any:
    edit(folder / "config.json", dtype="float32")
    return open_(folder)


# Folders of sentence-transformers


def test_prompts_and_similarity_of_the_folder(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    folder = make_st(prompts={"query": "query: ", "document": "the "}, similarity_fn_name="dot")
    model = open_(folder)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 32  # 6.2 says 34, the rows of the table, and fails on a text as long
    assert model.identity["prompts"] == {"queries": "query: ", "passages": "the "}
    assert model.identity["normalize"] is False and model.identity["pooling"] == "cls"
    assert np.abs(model.encode(TEXTS, "queries", "") - theirs.encode_query(TEXTS)).max() <= 1e-5
    assert np.abs(model.encode(TEXTS, "passages", "") - theirs.encode_document(TEXTS)).max() <= 1e-5
    assert model.lengths(TEXTS, "passages") == [min(len(ids_of(folder, f"the {text}")), 32) for text in TEXTS]
    other = open_(folder, prompt_query="", prompt_passage="x", normalize=True)
    assert other.identity["prompts"] == {"queries": "", "passages": "x"}
    assert np.abs((other.encode(TEXTS, "queries", "").astype(np.float64) ** 2).sum(axis=1) - 1).max() <= 1e-6


def test_passage_prompt_is_not_hidden(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    """sentence-transformers 6.2 says it uses "passage" where there is no "document", and does not."""
    folder = make_st()
    edit(folder / "config_sentence_transformers.json", prompts={"query": "query: ", "passage": "passage: "})
    model = open_(folder)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 32
    expected = theirs.encode(TEXTS, prompt="passage: ", normalize_embeddings=True)
    assert model.identity["prompts"] == {"queries": "query: ", "passages": "passage: "}
    assert np.abs(model.encode(TEXTS, "passages", "") - expected).max() <= 1e-6


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_of_the_folder_stands(make_st: Callable[..., Path], xlmr: Path, pooling: str) -> None:
    folder = make_st(pooling={"last": "lasttoken"}.get(pooling, pooling))
    model = open_(folder, pooling=pooling)
    assert fingerprint(model.identity) == fingerprint(open_(folder).identity)
    same = open_(xlmr, pooling=pooling)
    assert np.abs(model.encode(TEXTS, "queries", "") - same.encode(TEXTS, "queries", "")).max() <= 1e-6
    assert np.abs(cosines(model.encode(TEXTS, "passages", ""), alone(model, TEXTS)) - 1).max() <= 1e-6
    for other in set(POOLINGS) - {pooling}:
        with pytest.raises(UsageError, match=f"pooling {other} contradicts {pooling}"):
            open_(folder, pooling=other)


def test_options_the_folder_cannot_follow(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    modules = sentence_transformers.sentence_transformer.modules
    for distance in ("euclidean", "manhattan"):
        with pytest.raises(UsageError, match=f"{distance} distance"):
            open_(make_st(similarity_fn_name=distance))
    normalised = make_st(modules.Normalize())
    open_(normalised, normalize=True)
    with pytest.raises(UsageError, match="module of its own"):
        open_(normalised, normalize=False)


def test_max_length_of_the_folder(make_st: Callable[..., Path]) -> None:
    folder = make_st()
    edit(folder / "sentence_bert_config.json", max_seq_length=12, query_length=7)
    assert open_(folder).lengths([TEXTS[5]], "passages") == [12]
    assert open_(folder).lengths([TEXTS[5]], "queries") == [7]
    assert open_(folder).identity["max_length"] == 12
    cut = open_(folder, max_length=9)
    assert cut.lengths([TEXTS[5]], "passages") == cut.lengths([TEXTS[5]], "queries") == [9]
    edit(folder / "sentence_bert_config.json", max_seq_length=9, query_length=9)
    same = open_(folder)
    for role in ROLES:
        assert np.array_equal(cut.encode(TEXTS, role, ""), same.encode(TEXTS, role, ""))
    edit(folder / "sentence_bert_config.json", max_seq_length=512, query_length=None)  # more than it has positions for
    assert open_(folder).encode([TEXTS[5]], "passages", "").shape == (1, 32)
    assert open_(folder).identity["max_length"] == 32
    with pytest.raises(UsageError, match="choose from 3 to 32"):
        open_(folder, max_length=33)


def test_router_has_two_sides(make_st: Callable[..., Path], sentence_transformers: Any, tmp_path: Path) -> None:
    modules = sentence_transformers.sentence_transformer.modules
    folders = [save(tmp_path / str(seed), "XLMRoberta", tokenizer(), seed=seed, **XLMR) for seed in (1, 2)]
    sides = [[modules.Transformer(str(folder)), modules.Pooling(32, "mean")] for folder in folders]
    routed = make_st(parts=[modules.Router.for_query_document(*sides)])
    model, queries, passages = open_(routed), open_(folders[0]), open_(folders[1])
    assert np.abs(model.encode(TEXTS, "queries", "") - queries.encode(TEXTS, "queries", "")).max() <= 1e-6
    assert np.abs(model.encode(TEXTS, "passages", "") - passages.encode(TEXTS, "passages", "")).max() <= 1e-6
    assert model.lengths(TEXTS, "queries") == queries.lengths(TEXTS, "queries")
    cut = open_(routed, max_length=5)
    for role in ROLES:
        assert cut.lengths(TEXTS, role) == [min(length, 5) for length in queries.lengths(TEXTS, role)]
    assert sum(name.endswith("model.safetensors") for name in model.identity["files"]) == 2


def test_bag_of_embeddings(make_st: Callable[..., Path], sentence_transformers: Any) -> None:
    """No transformer, no mask, no limit; and weights in half precision, which must not pass unseen."""
    modules = sentence_transformers.sentence_transformer.modules
    bpe = tokenizer().backend_tokenizer
    weights = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float16)
    part = modules.StaticEmbedding(bpe, embedding_weights=weights).half()
    folder = make_st(parts=[part])
    assert next(iter(load_file(folder / "model.safetensors").values())).dtype == torch.float16
    model = open_(folder, normalize=False)
    expected = weights[bpe.encode(TEXTS[2], add_special_tokens=False).ids].astype(np.float64).mean(axis=0)
    assert np.abs(model.encode([TEXTS[2]], "passages", "")[0] - expected).max() <= 1e-6
    assert model.lengths(["abc", ""], "queries") == [3, 0]
    assert model.identity["max_length"] is None and model.identity["pooling"] == "none"
    with pytest.raises(UsageError, match="leave max_length out"):
        open_(folder, max_length=5)


# Identity


def test_every_option_changes_the_fingerprint(xlmr: Path, st: Path) -> None:
    for folder, poolings in ((xlmr, ("cls", "last")), (st, ())):
        changes: list[dict[str, Any]] = [{"pooling": pooling} for pooling in poolings]
        changes += [{"normalize": False}, {"prompt_query": "q"}, {"prompt_passage": "q"}, {"max_length": 9}]
        changes += [{"dtype": "bfloat16"}, {"dtype": "float16"}]
        prints = [fingerprint(open_(folder, **change).identity) for change in [{}, *changes]]
        assert len(set(prints)) == len(prints)
    assert fingerprint(open_(xlmr, pooling="mean", normalize=True, max_length=32, prompt_query="").identity) == (
        fingerprint(open_(xlmr).identity)
    )


@pytest.mark.parametrize("which", ["xlmr", "st"])
def test_files_make_the_identity_not_their_place(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    original = request.getfixturevalue(which)
    folder = Path(shutil.copytree(original, tmp_path / "a@b" / "elsewhere"))  # an @ that is no revision
    model = open_(folder)
    base = fingerprint(model.identity)
    assert base == fingerprint(open_(original).identity)
    assert base == fingerprint(load(str(folder), Options(device="cpu")).identity)
    assert model.name == f"hf:{folder}" and str(tmp_path) not in json.dumps(model.identity)
    (folder / "README.md").write_text("other")
    (folder / "training_log.csv").write_text("1")
    os.utime(folder / "config.json", (0, 0))
    assert fingerprint(open_(folder).identity) == base
    assert set(model.identity["files"]) == {
        path.relative_to(original).as_posix()
        for path in original.rglob("*")
        if path.suffix in (".json", ".safetensors")
    }
    for name in model.identity["files"]:
        path = folder / name
        before = path.read_bytes()
        if path.suffix == ".json":
            path.write_bytes(before + b"\n")
        else:
            weights = load_file(path)
            next(iter(weights.values())).view(-1)[0] += 1
            save_file(weights, path, metadata={"format": "pt"})
        assert fingerprint(open_(folder).identity) != base, name
        path.write_bytes(before)


def test_identity_says_it_all(xlmr: Path) -> None:
    identity = open_(xlmr).identity
    assert set(identity) == {
        "kind", "files", "pooling", "normalize", "prompts", "max_length", "padding_side", "truncation_side",
        "dtype", "device", "processor", "backend", "versions", "code", "dim", "similarity", "attention",
    }  # fmt: skip
    assert set(identity["versions"]) == {"torch", "transformers", "tokenizers"}
    assert identity["kind"] == "hf" and identity["device"] == "cpu" and identity["truncation_side"] == "right"


@pytest.mark.parametrize("which", ["copy", "st"])
def test_nothing_on_the_screen(
    which: str,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = request.getfixturevalue(which)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # its handler holds an older stderr
    if which == "copy":  # a missing pooler is no error, but transformers reports it at length
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        assert len(kept) < len(weights)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    capfd.readouterr()
    caplog.clear()
    model = open_(folder, pooling="mean" if which == "copy" else None)
    model.lengths(TEXTS, "queries")
    model.encode(TEXTS, "queries", "en")
    model.encode(TEXTS, "passages", "en")
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert transformers.utils.logging.is_progress_bar_enabled() == bars


# What is broken


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.attention.self.key.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_in_half(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no config": ("xlmr", lambda folder: (folder / "config.json").unlink(), "neither config.json nor modules.json"),
    "no weights": ("xlmr", lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "weight lost": ("xlmr", drop_weight, "encoder.layer.1.attention.self.key.weight"),
    "weights cut": ("xlmr", cut_in_half, "Safetensor"),
    "weights cut st": ("st", cut_in_half, "Safetensor"),
    "config cut": ("xlmr", write("config.json", '{"model_type": '), "config.json"),
    "twice": ("xlmr", write("config.json", '{"auto_map": 1, "auto_map": null}'), "config.json"),
    "deep": ("xlmr", write("config.json", "[" * 10**5), "config.json"),
    "modules": ("st", write("modules.json", '{"a": 1}'), "cannot load"),
    "alien": ("xlmr", change("config.json", model_type="nosuch"), "nosuch"),
    "cross-encoder": ("st", change("config_sentence_transformers.json", model_type="CrossEncoder"), "CrossEncoder"),
    "tokenizer": ("xlmr", write("tokenizer.json", "{}"), "cannot load"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_one_line(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base, damage, message = BROKEN[name]
    folder = Path(shutil.copytree(request.getfixturevalue(base), tmp_path / "model"))
    open_(folder)
    damage(folder)
    with pytest.raises(DataError) as caught:
        open_(folder)
    text = str(caught.value)
    assert caught.value.exit_code == 3 and message in text and str(folder) in text and "\n" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'; did you mean 'mean'? known: cls, last, mean"),
        ({"pooling": "Mean"}, "did you mean 'mean'"),
        ({"dtype": "float"}, "unknown dtype 'float'"),
        ({"dtype": "auto"}, "unknown dtype 'auto'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:"}, "unknown device"),
        ({"device": "cuda:4000"}, "no device cuda:4000 on this machine"),
    ],
)
def test_unknown_options(xlmr: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_(xlmr, **options)
    assert caught.value.exit_code == 2 and message in str(caught.value)


def test_a_name_without_network_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, as huggingface_hub reads its environment when imported."""
    code = """
import sys
from xbench.errors import XbenchError
from xbench.models import load
for name in sys.argv[1:]:
    try:
        load(name)
    except XbenchError as error:
        print(type(error).__name__, error.exit_code, error)
"""
    names = ["hf:nobody/nothing", "nobody/nothing@main", "hf:nothing@v1", f"hf:{tmp_path / 'missing'}", "hf:@main"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True, env=environment, timeout=50
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(names) and not done.stderr
    for name, line in zip(names, lines, strict=True):
        assert line.startswith("DataError 3 ") and name in line and "give the folder" in line and "network" in line


def test_what_is_asked_of_the_hub(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str | None]] = []
    patterns: list[str] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((name, revision))
        patterns[:] = allow_patterns
        return str(xlmr)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    prints = {
        fingerprint(load(name, Options(device="cpu")).identity) for name in ("hf:a", "a/b@v1", "hf:a/b@refs/pr/1")
    }
    assert calls == [("a", None), ("a/b", "v1"), ("a/b", "refs/pr/1")]
    assert prints == {fingerprint(open_(xlmr).identity)}

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert all(
        map(wanted, ["model.safetensors", "config.json", "1_Pooling/config.json", "0/spiece.model", "vocab.txt"])
    )
    assert wanted("README.md")  # for its base model
    assert not any(
        map(wanted, ["pytorch_model.bin", "modeling.py", "docs/README.md", "onnx/model.onnx", "a/rust_model.ot"])
    )


def test_a_checkpoint_that_is_written_meanwhile(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a training: what is hashed must be what is loaded."""
    from xbench.models import hf

    good = hf.load_transformers

    def load_and_write(folder: Path, *more: Any) -> Any:
        found = good(folder, *more)
        weights = load_file(folder / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors")
        return found

    monkeypatch.setattr(hf, "load_transformers", load_and_write)
    with pytest.raises(IntegrityError, match=r"model\.safetensors was changed while it was read"):
        open_(copy)


def test_the_processor_is_part_of_the_identity(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = open_(xlmr).identity
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "another")
    other = open_(xlmr).identity
    assert {key for key in base if base[key] != other[key]} == {"processor"} and other["processor"] == "another"
