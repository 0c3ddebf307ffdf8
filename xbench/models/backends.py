"""What computes a transformer's hidden states: torch's own layers, oneDNN's, or a graph of OpenVINO.

docs/speed.md has what each gains, and what was tried and not kept. A graph is made here, from the weights that are
loaded already, and held in memory: none is ever read from a model's folder.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbench.errors import UsageError, unknown
from xbench.models import Options
from xbench.threads import cores

if TYPE_CHECKING:  # torch takes seconds to import
    import torch
    from torch import Tensor, nn

BACKENDS = ("torch", "openvino")
DTYPES = ("float32", "bfloat16", "float16", "int8")
# The least cosine, over a few short texts, of the vectors by a converted graph to those by torch in float32: what
# differs more was not converted faithfully.
FAITHFUL = {"float32": 1 - 1e-5, "bfloat16": 0.99, "int8": 0.9}
# Activations of int8 are scaled in groups of as many values; smaller ones are slower and hardly more exact.
GROUP = 128


def check(options: Options, device: str) -> None:
    """Refuse what this machine or a back end cannot do.

    Raises:
        UsageError: an unknown back end or dtype, two that do not go together, or one that is not installed.
    """
    backend = options.backend or "torch"
    for kind, value, known in (("backend", backend, BACKENDS), ("dtype", options.dtype, DTYPES)):
        if value not in known:
            raise unknown(kind, value, known)
    if backend == "torch":
        if options.dtype == "int8":
            raise UsageError("dtype int8 needs --backend openvino; torch's own int8 is too far off (docs/speed.md)")
        return
    if options.dtype == "float16":
        raise UsageError("backend openvino takes dtype float32, bfloat16 or int8, not float16")
    if device != "cpu":
        raise UsageError(f"backend openvino computes on the cpu, not on {device}; give --device cpu")
    if not installed():
        raise UsageError("backend openvino is not installed; pip install 'xbench[openvino]'")


def installed() -> bool:
    """Whether openvino is; without importing it."""
    return importlib.util.find_spec("openvino") is not None


def weights_dtype(options: Options, device: str) -> "torch.dtype":
    """In which weights are loaded; float32 where a back end rounds them itself."""
    import torch

    rounded = options.backend == "openvino" or (device == "cpu" and options.dtype == "bfloat16")
    return torch.float32 if rounded else getattr(torch, options.dtype)


def speed_up(models: Sequence["nn.Module"], options: Options, device: str, run: Callable[[], "Tensor"]) -> str:
    """Make models of transformers compute as the options say; returns how they do, for the identity.

    Args:
        models: changed in place.
        options: the back end and the dtype.
        device: where they are.
        run: vectors (n, d) of a few texts through these models, to compare them before and after.

    Raises:
        UsageError: the back end cannot convert one of them.
    """
    import torch

    if options.backend == "openvino":
        torch.set_num_threads(1)  # two pools of threads would wait for each other, busily
        return _to_openvino(models, options.dtype, run)
    if device != "cpu":
        return "torch"
    torch.set_num_threads(cores())  # not what a model of openvino left
    if options.dtype == "bfloat16":
        # Matrices in bfloat16, the rest in float32: weights in bfloat16 alone are slower and less exact.
        for model in models:
            model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
        return "torch, autocast"
    return "torch, oneDNN" if options.dtype == "float32" and _to_onednn(models, run) else "torch"


def _to_onednn(models: Sequence["nn.Module"], run: Callable[[], "Tensor"]) -> bool:
    """Give linear layers to oneDNN, which torch does by itself on ARM, and for float32 on x86 only if compiled.

    torch multiplies there by MKL, which is slow on processors not of its maker. False, and nothing changed, where
    oneDNN is missing or some other code of the model looks into these layers.
    """
    import torch
    from torch import nn

    mkldnn: Any = torch.backends.mkldnn
    ops: Any = torch.ops.mkldnn  # what torch.compile puts in a linear layer's place; not promised to stay
    if not mkldnn.is_available() or not hasattr(ops, "_reorder_linear_weight") or not hasattr(ops, "_linear_pointwise"):
        return False

    class Linear(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.weight, self.bias = ops._reorder_linear_weight(layer.weight.detach()), layer.bias

        def forward(self, x: "Tensor") -> "Tensor":
            found: Tensor = ops._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return found

    found = [
        (parent, name, layer)
        for model in models
        for parent in list(model.modules())
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and layer.weight.dtype == torch.float32
    ]
    if not found:
        return False
    expected = run()
    try:
        for parent, name, layer in found:
            setattr(parent, name, Linear(layer))
        same = _least_cosine(run(), expected) >= 1 - 1e-6
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        same = False
    if not same:
        for parent, name, layer in found:
            setattr(parent, name, layer)
    return same


def _to_openvino(models: Sequence["nn.Module"], dtype: str, run: Callable[[], "Tensor"]) -> str:
    if not models:
        raise UsageError("backend openvino finds no transformer in this checkpoint; use --backend torch")
    cure = "cannot convert this checkpoint; use --backend torch"
    try:
        expected = run()
        for model in models:
            model.forward = _Graph(model, dtype)
        cosine = _least_cosine(run(), expected)
    except Exception as error:  # a converter of other people's code raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"backend openvino {cure} ({reason:.200})") from error
    if not cosine >= FAITHFUL[dtype]:
        raise UsageError(f"backend openvino {cure} (cosine to torch {cosine:.6f}, expected at least {FAITHFUL[dtype]})")
    return "openvino"


def _least_cosine(a: "Tensor", b: "Tensor") -> float:
    from torch.nn.functional import cosine_similarity

    return float(cosine_similarity(a.double(), b.double()).min())


class _Graph:
    """In place of a model's `forward`: the same hidden states, by OpenVINO; converted when the inputs are known."""

    def __init__(self, model: "nn.Module", dtype: str) -> None:
        self._model, self._forward, self._dtype = model, model.forward, dtype
        self._requests: dict[tuple[str, ...], Any] = {}

    def __call__(self, **inputs: Any) -> Any:
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        names = tuple(tensors)
        if names not in self._requests:
            self._requests[names] = self._compile(names, tuple(tensors.values()))
        arrays = [tensor.contiguous().numpy() for tensor in tensors.values()]
        # The result is the request's own memory, written over by the next batch; it is pooled before.
        found = self._requests[names].infer(arrays, share_inputs=True, share_outputs=True)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(found[0]))

    def _compile(self, names: tuple[str, ...], example: tuple["Tensor", ...]) -> Any:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it reports each conversion
        import openvino
        from torch import nn

        class Hidden(nn.Module):
            def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
                super().__init__()
                self.model, self.whole = model, forward

            def forward(self, *tensors: "Tensor") -> "Tensor":
                found = self.whole(**dict(zip(names, tensors, strict=True)), return_dict=True)
                hidden: Tensor = found.last_hidden_state
                return hidden

        graph = openvino.convert_model(Hidden(self._model, self._forward), example_input=example)
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": 1}
        settings["INFERENCE_PRECISION_HINT"] = "f32" if self._dtype == "float32" else "bf16"
        if self._dtype == "int8":
            _weights_to_int8(graph)
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP
        return openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()


def _weights_to_int8(graph: Any) -> None:
    """Weights of matrix products as int8 with a scale for each output, symmetric; embeddings stay as they are."""
    from openvino import Type
    from openvino import opset13 as ops

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        weights: NDArray[np.float32] = node.input_value(1).get_node().get_data()
        if weights.ndim != 2:
            continue
        inner = 1 if node.get_attributes()["transpose_b"] else 0
        scale = np.maximum(np.abs(weights).max(axis=inner, keepdims=True), 1e-12).astype(np.float32) / 127
        rounded = ops.convert(ops.constant(np.rint(weights / scale).astype(np.int8)), Type.f32)
        node.input(1).replace_source_output(ops.multiply(rounded, ops.constant(scale)).output(0))
