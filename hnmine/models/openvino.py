"""OpenVINO as the engine of a transformer on a CPU: chosen, compiled from the torch network, and checked against it.

OpenVINO computes an attention in one piece and keeps sums in float32. In bfloat16 it is faster than torch
(benchmarks/engines.json) and nearer to float32 (benchmarks/encode.json).
"""

from __future__ import annotations

import importlib
import platform
import queue
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from hnmine.errors import ConfigError, ModelError
from hnmine.runs.device import Kind

Engine = Literal["torch", "openvino"]
Inputs = Mapping[str, Any]  # tensors by the name of the network's argument

# Architectures (`model_type` in config.json) that `auto` gives to OpenVINO; it may compute others if asked to.
TRIED = ("bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta")

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
_LARGEST_ERROR = {"float32": 1e-3, "bfloat16": 0.1}  # as a share of the largest output
_LARGEST_MULTIPLE = 8  # or as a multiple of the error that torch makes in bfloat16


def choose_engine(setting: str, device: Kind, dtype: str, model_type: str | None, *, adapters: bool = False) -> Engine:
    """Turn `auto`, `torch` or `openvino` into an engine; with `adapters` the network changes between two calls."""
    obstacles = {
        f"the device is {device}": device != "cpu",
        f"the dtype is {dtype}": dtype not in _PRECISIONS,
        "the model has adapters": adapters,
        "it is not installed (pip install 'hnmine[cpu]')": find_spec("openvino") is None,
    }
    obstacle = next((reason for reason, holds in obstacles.items() if holds), None)
    if setting == "openvino" and obstacle:
        raise ConfigError(f"engine: openvino was asked for, but {obstacle}; set engine: auto")
    fast = model_type in TRIED and platform.machine().lower() in ("x86_64", "amd64")
    return "openvino" if setting == "openvino" or (setting == "auto" and fast and not obstacle) else "torch"


class CompiledNetwork:
    """A torch network as OpenVINO computes it; up to `lanes` threads call it at a time, others wait."""

    def __init__(
        self, network: Any, output: str, tokenize: Callable[[list[str]], Inputs], dtype: str, lanes: int
    ) -> None:
        """Trace and compile the network by a batch of texts, and compare it with torch on another.

        The network is on the CPU, in float32 and in evaluation mode; `output` names the one output that is wanted, and
        `tokenize` returns what the network takes.
        """
        first, second = tokenize(["one", "one and two"]), tokenize(["one two three four five", "one", "one two"])
        self._names = list(first)
        try:
            compiled = _compile(network, output, first, dtype, lanes)
        except Exception as error:  # the type depends on the operator that is not known
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"OpenVINO cannot take {type(network).__name__} ({reason}); set engine: torch") from None
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(lanes):
            self._requests.put(compiled.create_infer_request())
        _refuse_other_results(network, output, second, self(**second), dtype)

    def __call__(self, **inputs: Any) -> Any:
        """Return the output tensor; inputs that the network was not traced with are left aside."""
        import torch

        request = self._requests.get()
        try:
            request.infer([inputs[name].contiguous().numpy() for name in self._names], share_inputs=True)
            return torch.from_numpy(request.get_output_tensor().data.copy())
        finally:
            self._requests.put(request)


def _import_openvino() -> Any:
    """Import OpenVINO without the package by which it reports each import to its maker; it knows to do without."""
    reports = "openvino_telemetry"
    if reports not in sys.modules:
        sys.modules[reports] = None  # type: ignore[assignment]  # as the import system knows what cannot be imported
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[reports]
    return importlib.import_module("openvino")


def _compile(network: Any, output: str, example: Inputs, dtype: str, lanes: int) -> Any:
    """Compile by OpenVINO's frontend itself: its `convert_model` would report each use to its maker."""
    import torch

    openvino = _import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Wrap the network, since tracing wants inputs by position and one output.
    class Traceable(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any) -> Any:
            return self.network(**dict(zip(example, inputs, strict=True)), return_dict=True)[output]

    # Trace it, and turn the trace into OpenVINO's own graph.
    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's tracer doubts what the comparison checks
        decoder = TorchScriptPythonDecoder(Traceable().eval(), example_input=tuple(example.values()))
        graph = frontend.convert(frontend.load(decoder))

    # Compile the graph, a core a batch.
    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": lanes,
        "ENABLE_CPU_PINNING": False,  # pinned threads would share cores with those of another process
    }
    return openvino.Core().compile_model(graph, "CPU", settings)


def _refuse_other_results(network: Any, output: str, inputs: Inputs, found: Any, dtype: str) -> None:
    """Raise ModelError if OpenVINO's output is farther from torch's in float32 than `dtype` explains."""
    import torch

    def by_torch(dtype: str) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return network(**inputs, return_dict=True)[output].float()

    expected = by_torch("float32")
    if not expected.isfinite().all():
        return  # broken weights are reported where they are used
    mask = inputs["attention_mask"].bool()
    read = mask if expected.shape[:2] == mask.shape else slice(None)  # else one vector a text
    allowed = _LARGEST_ERROR[dtype] * expected[read].abs().max()
    if dtype == "bfloat16":  # all scores of a re-ranker may be sums near 0 of terms that are not
        allowed = max(allowed, _LARGEST_MULTIPLE * (by_torch(dtype) - expected)[read].abs().max())
    if found.shape != expected.shape or (found - expected)[read].abs().max() > allowed:
        raise ModelError(f"OpenVINO computes something else than torch of {type(network).__name__}; set engine: torch")
