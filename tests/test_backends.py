"""What computes: the same vectors by each back end, declared variants, and what is refused. Not timed here."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from checkpoints import REAL, cosines, edit, save, tokenizer  # noqa: E402
from test_checkpoint import (  # noqa: E402, F401
    _threads,
    in_batches,
    make_st,
    minilm,
    one_by_one,
    open_,
    texts_of_all_lengths,
    xlmr,
)

from xbench.errors import UsageError  # noqa: E402
from xbench.models import Encoder, Options, backends, load  # noqa: E402
from xbench.storage import fingerprint  # noqa: E402

needs_openvino = pytest.mark.skipif(not backends.installed(), reason="NOT TESTED: pip install 'xbench[openvino]'")


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    found = vectors.astype(np.float64)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def real(**options: Any) -> NDArray[np.float32]:
    model = open_(minilm(), **options)
    return model.encode(model.prepare(REAL, "passages").items, "passages", "")


@pytest.fixture(scope="module")
def reference() -> NDArray[np.float32]:
    """Of MiniLM with real weights, straight from transformers in float64: the mean over a text's tokens."""
    folder = minilm()
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in REAL:
        ids = tokens(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**ids).last_hidden_state[0].mean(dim=0).numpy())
    return np.asarray(unit(np.stack(rows)), np.float32)


# float32 of either back end, and what the declared variants cost; on processors that have none of their
# instructions they may be exact, never worse.
@pytest.mark.parametrize(
    ("backend", "dtype", "least"),
    [
        ("torch", "float32", 1 - 1e-6),
        ("torch", "bfloat16", 0.9999),
        pytest.param("openvino", "float32", 1 - 1e-6, marks=needs_openvino),
        pytest.param("openvino", "bfloat16", 0.9998, marks=needs_openvino),
        pytest.param("openvino", "int8", 0.985, marks=needs_openvino),
    ],
)
def test_real_weights_by_each(backend: str, dtype: str, least: float, reference: NDArray[np.float32]) -> None:
    found = real(backend=backend, dtype=dtype)
    assert found.dtype == np.float32 and cosines(found, reference).min() >= least
    if dtype == "float32":
        assert np.abs(found - reference).max() <= 1e-6
    if dtype == "int8":  # coarser than bfloat16, in which the rest of it is computed
        assert (
            cosines(found, reference).min() < cosines(real(backend=backend, dtype="bfloat16"), reference).min() - 1e-4
        )


@needs_openvino
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_thousand_texts_in_batches_as_alone_by_openvino(xlmr: Path, pooling: str) -> None:  # noqa: F811
    texts = texts_of_all_lengths()
    model = open_(xlmr, pooling=pooling, backend="openvino")
    alone = one_by_one(model, texts)
    assert cosines(in_batches(model, texts), alone).min() >= 1 - 1e-6
    assert cosines(alone[::20], one_by_one(open_(xlmr, pooling=pooling), texts[::20])).min() >= 1 - 1e-6


@needs_openvino
@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_folder_of_modules_by_openvino(make_st: Callable[..., Path], include_prompt: bool) -> None:  # noqa: F811
    folder = make_st("mean", include_prompt=include_prompt)
    edit(folder / "config_sentence_transformers.json", prompts={"document": "the river of "})
    edit(folder / "tokenizer_config.json", padding_side="left")
    texts = texts_of_all_lengths(50)
    expected = one_by_one(open_(folder), texts)
    assert cosines(in_batches(open_(folder, backend="openvino"), texts), expected).min() >= 1 - 1e-6


def test_onednn_computes_where_it_can(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    texts = texts_of_all_lengths(60)
    model = open_(xlmr)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    without = open_(xlmr)
    assert without.identity["backend"] == "torch"
    assert cosines(in_batches(model, texts), in_batches(without, texts)).min() >= 1 - 1e-6
    if model.identity["backend"] == "torch, oneDNN":
        assert fingerprint(model.identity) != fingerprint(without.identity)


def test_a_layer_that_onednn_gets_wrong_stays_with_torch(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    if open_(xlmr).identity["backend"] != "torch, oneDNN":
        pytest.skip("no oneDNN on this machine")
    expected = in_batches(open_(xlmr), texts_of_all_lengths(20))
    product = torch.ops.mkldnn._linear_pointwise

    def wrong(*args: Any) -> Any:
        return product(*args) * 1.01 + 0.01

    def failing(*args: Any) -> Any:
        raise RuntimeError("opaque tensors have no storage")

    for broken in (wrong, failing):
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", broken)
        model = open_(xlmr)
        assert model.identity["backend"] == "torch"
        assert cosines(in_batches(model, texts_of_all_lengths(20)), expected).min() >= 1 - 1e-6


@needs_openvino
def test_variants_are_in_the_identity(xlmr: Path) -> None:  # noqa: F811
    models: list[Encoder] = [
        open_(xlmr, backend=backend, dtype=dtype)
        for backend, dtype in (
            (None, "float32"), ("torch", "bfloat16"), ("openvino", "float32"), ("openvino", "bfloat16"),
            ("openvino", "int8"),
        )
    ]  # fmt: skip
    assert len({fingerprint(model.identity) for model in models}) == len(models)
    assert fingerprint(open_(xlmr, backend="torch").identity) == fingerprint(models[0].identity)
    import openvino

    versions = [model.identity["versions"] for model in models]
    assert all(isinstance(found, dict) for found in versions)
    assert ["openvino" in found for found in versions] == [False, False, True, True, True]  # type: ignore[operator]
    assert str(openvino.__version__).startswith(versions[2]["openvino"])  # type: ignore[index]


@needs_openvino
def test_models_of_other_kinds_by_openvino(tmp_path: Path) -> None:
    """Causal with positions of its own, and the encoder of an encoder-decoder."""
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    gpt |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 1}
    texts = texts_of_all_lengths(40)
    for kind, config in (("GPT2", gpt), ("T5", t5)):
        folder = save(tmp_path / kind, kind, tokenizer(), **config)
        expected = in_batches(open_(folder, pooling="last"), texts)
        assert cosines(in_batches(open_(folder, pooling="last", backend="openvino"), texts), expected).min() >= 1 - 1e-6


def test_what_does_not_go_together(xlmr: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    refused: list[tuple[dict[str, Any], str]] = [
        ({"dtype": "int8"}, "dtype int8 needs --backend openvino"),
        ({"backend": "onnx"}, "unknown backend 'onnx'; did you mean 'openvino'[?] known: openvino, torch"),
        ({"backend": "openvino", "dtype": "float16"}, "not float16"),
    ]
    for options, message in refused:
        with pytest.raises(UsageError, match=message) as caught:
            open_(xlmr, **options)
        assert caught.value.exit_code == 2
    monkeypatch.setattr(backends, "installed", lambda: False)
    with pytest.raises(UsageError, match=r"not installed; pip install 'xbench\[openvino\]'"):
        open_(xlmr, backend="openvino")


@needs_openvino
def test_a_model_that_cannot_be_converted(
    xlmr: Path,  # noqa: F811
    make_st: Callable[..., Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import openvino
    import sentence_transformers

    def failing(*args: Any, **more: Any) -> Any:
        raise RuntimeError("no rule for\naten::strange")

    original = openvino.convert_model

    def unfaithful(module: Any, **more: Any) -> Any:
        with torch.no_grad():
            module.model.embeddings.word_embeddings.weight.add_(torch.randn(32))
        return original(module, **more)

    for broken, message in ((failing, "no rule for aten::strange"), (unfaithful, "cosine to torch")):
        monkeypatch.setattr(openvino, "convert_model", broken)
        with pytest.raises(UsageError, match=message) as caught:
            open_(xlmr, backend="openvino")
        assert "cannot convert this checkpoint; use --backend torch" in str(caught.value)
        assert "\n" not in str(caught.value)
    part = sentence_transformers.sentence_transformer.modules.StaticEmbedding(
        tokenizer().backend_tokenizer, embedding_dim=8
    )
    folder = make_st("mean", parts=[part])
    with pytest.raises(UsageError, match="no transformer"):
        open_(folder, backend="openvino")


@needs_openvino
def test_openvino_reports_to_nobody_and_prints_nothing(xlmr: Path, tmp_path: Path) -> None:  # noqa: F811
    """Its converter reports each conversion over the network, unless the reporting library is missing."""
    code = """
import json, sys
from xbench.models import Options, load
model = load(f"hf:{sys.argv[1]}", Options(device="cpu", backend="openvino"))
model.encode(model.prepare(["a"], "queries").items, "queries", "")
from openvino.tools.ovc import telemetry_utils
print(json.dumps([telemetry_utils.tm.__name__, [name for name in sys.modules if name.startswith("openvino_tele")]]))
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    done = subprocess.run(
        [sys.executable, "-c", code, xlmr], capture_output=True, text=True, check=True, env=environment, timeout=100
    )
    assert json.loads(done.stdout) == ["openvino.tools.ovc.telemetry_stub", ["openvino_telemetry"]]
    assert not done.stderr and not list(tmp_path.rglob("*openvino*"))


def test_a_graph_that_is_right_for_one_shape_alone_is_refused(tmp_path: Path) -> None:
    """Longformer pads to its windows, which a trace takes for constants."""
    config: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 130, "attention_window": 8, "pad_token_id": 1, "initializer_range": 0.3,
    }  # fmt: skip
    folder = save(tmp_path / "longformer", "Longformer", tokenizer(), **config)
    with pytest.raises(UsageError, match="backend openvino cannot convert this checkpoint"):
        load(f"hf:{folder}", Options(device="cpu", backend="openvino", pooling="mean"))
