"""Which library computes a transformer on a CPU, and how its batches share the cores.

OpenVINO, where it is installed, takes the network that torch has loaded. It computes an attention in one piece and
keeps sums in float32, so that in bfloat16 it is faster than torch and nearer to float32 (benchmarks/encode.json).
Whatever computes, batches go side by side, each on one core: that leaves fewer cores waiting than all on one batch.
"""

from __future__ import annotations

import platform
import queue
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import numpy as np

from hnmine.errors import ConfigError, ModelError
from hnmine.runs.device import Kind
from hnmine.types import Int64

Engine = Literal["torch", "openvino"]

# Architectures (model_type of config.json) that were tried; OpenVINO may well compute others, if asked for.
_TRIED = frozenset(
    {"bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"}
)
_DTYPES = {"float32": "f32", "bfloat16": "bf16"}
_WRONG = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference to torch that is put up with, as a share of the largest output."""
_TIMES_TORCHS = 8
"""Or as a multiple of what torch itself loses by bfloat16."""
# On a CPU the activations of a batch should stay in its caches; a GPU wants to be filled.
TOKENS_PER_BATCH = {"cpu": 2048, "gpu": 65_536}
GRAPH_TOKENS = {"cpu": 32_768, "cuda": 131_072}
"""Most tokens in one backward pass, for the memory that activations take."""
_FEWEST_GRAPH_TOKENS = 4096
MOST_LANES = 8
"""Batches side by side in one process: they share its Python."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def choose(setting: str, device: Kind, dtype: str, model_type: str | None, *, patched: bool) -> Engine:
    """Turn `auto`, `torch` or `openvino` into an engine.

    Args:
        setting: as configured.
        device: OpenVINO serves the CPU only here.
        dtype: float32 or bfloat16; OpenVINO has no fast float16 on a CPU.
        model_type: architecture, as config.json names it.
        patched: whether the network changes from call to call (adapters), or runs code of its own.

    Raises:
        ConfigError: openvino was asked for and cannot serve.
    """
    if setting == "torch":
        return "torch"
    missing = _missing(device, dtype, patched)
    if setting == "openvino":
        if missing:
            raise ConfigError(f"engine: openvino was asked for, but {missing}; set engine: auto")
        return "openvino"
    return "openvino" if not missing and model_type in _TRIED and _is_x86() else "torch"


def _missing(device: Kind, dtype: str, patched: bool) -> str:
    if device != "cpu":
        return f"the device is {device}"
    if dtype not in _DTYPES:
        return f"the dtype is {dtype}"
    if patched:
        return "the model has adapters or code of its own"
    if find_spec("openvino") is None:
        return "it is not installed (pip install 'hnmine[cpu]')"
    return ""


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def batches_by_length(lengths: Int64, tokens_per_batch: int) -> list[list[int]]:
    """Group positions of like length, longest first, so that rows x longest stays within the budget."""
    batches: list[list[int]] = []
    current: list[int] = []
    for position in np.argsort(-lengths, kind="stable").tolist():
        if current and (len(current) + 1) * int(lengths[current[0]]) > tokens_per_batch:
            batches.append(current)
            current = []
        current.append(position)
    if current:
        batches.append(current)
    return batches


def graph_tokens(model: Any, device: str, dtype: str, free: int | None = None) -> int:
    """Return of how many tokens the device holds the activations that a backward pass needs.

    A layer keeps 34 bytes a token and unit of its width in half precision (Korthikanti et al., arXiv 2205.05198, Eq. 1
    without attention scores, which fused attention does not keep), and some more for norms in float32.

    Args:
        model: on the device, without gradients and optimizer yet.
        device: a bound by memory is known for `cuda` alone.
        dtype: of the activations.
        free: bytes; None: as the device says.
    """
    import torch

    most = GRAPH_TOKENS[device]
    configs = (getattr(module, "config", None) for module in model.modules())
    config = next((config for config in configs if hasattr(config, "num_hidden_layers")), None)
    if device == "cpu" or config is None:
        return most
    a_token: int = (76 if dtype == "float32" else 38) * config.hidden_size * config.num_hidden_layers
    to_come = 12 * sum(weights.numel() for weights in model.parameters())  # gradients and AdamW's moments, float32
    free = torch.cuda.mem_get_info()[0] if free is None else free
    return min(most, max(_FEWEST_GRAPH_TOKENS, int(0.7 * (free - to_come)) // a_token))


def own_lanes() -> int:
    """Return how many batches this process computes side by side on its CPU cores."""
    import torch

    return min(MOST_LANES, torch.get_num_threads())


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], lanes: int) -> Iterator[Result]:
    """Yield `work(item)` of every item, in order, `lanes` at a time, each with one thread of torch."""
    import torch

    def on_one_core(item: Item) -> Result:
        torch.set_num_threads(1)
        return work(item)

    if lanes == 1:
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(lanes) as pool:
            yield from pool.map(on_one_core, items)
    finally:
        torch.set_num_threads(threads)


class OpenVino:
    """A torch network compiled by OpenVINO; safe to be called from `lanes` threads."""

    def __init__(
        self, network: Any, output: str, examples: Iterator[Mapping[str, Any]], dtype: str, lanes: int
    ) -> None:
        """Trace, compile, and compare with torch on another batch.

        Args:
            network: torch module on the CPU, in float32, in evaluation mode.
            output: the name of the one output that is wanted, of shape (batch, …).
            examples: two batches of inputs by name, of other shapes.
            dtype: float32 or bfloat16.
            lanes: batches at a time, a core each.

        Raises:
            ModelError: OpenVINO cannot take the network, or computes something else than torch.
        """
        first, second = examples
        self._names = list(first)
        try:
            compiled = _compile(_bare(network, output, self._names), first, dtype, lanes)
        except Exception as error:  # what is raised depends on the operator that is not known
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"OpenVINO cannot take {type(network).__name__} ({reason}); set engine: torch") from None
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(lanes):
            self._requests.put(compiled.create_infer_request())
        _refuse_another_result(network, output, second, self(**second), dtype)

    def __call__(self, **inputs: Any) -> Any:
        """Return the output tensor; inputs of other names are left aside."""
        import torch

        request = self._requests.get()
        try:
            request.infer([inputs[name].contiguous().numpy() for name in self._names], share_inputs=True)
            return torch.from_numpy(request.get_output_tensor().data.copy())
        finally:
            self._requests.put(request)


def _bare(network: Any, output: str, names: list[str]) -> Any:
    """Return the network with inputs by position and one output, as tracing wants it."""
    import torch

    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any) -> Any:
            return self.network(**dict(zip(names, inputs, strict=True)), return_dict=True)[output]

    return Bare().eval()


def _compile(network: Any, example: Mapping[str, Any], dtype: str, lanes: int) -> Any:
    """Convert by OpenVINO's frontend itself: its `convert_model` would report each use to its maker."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracer, about what the comparison looks at
        decoder = TorchScriptPythonDecoder(network, example_input=tuple(example.values()))
        model = frontend.convert(frontend.load(decoder))
    settings = {
        "INFERENCE_PRECISION_HINT": _DTYPES[dtype],
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": lanes,
        "ENABLE_CPU_PINNING": False,  # another process would pin its threads to the same cores
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def _refuse_another_result(network: Any, output: str, inputs: Mapping[str, Any], found: Any, dtype: str) -> None:
    import torch

    def by_torch(dtype: str) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return network(**inputs, return_dict=True)[output].float()

    expected = by_torch("float32")
    if not expected.isfinite().all():
        return  # broken weights are told where they are used
    if found.shape == expected.shape:
        read = inputs["attention_mask"].bool() if expected.ndim == 3 else slice(None)
        difference = (found - expected)[read].abs().max()
        if difference <= _WRONG[dtype] * expected[read].abs().max():
            return
        # scores of a re-ranker may all be near 0, of terms that are not
        if dtype == "bfloat16" and difference <= _TIMES_TORCHS * (by_torch(dtype) - expected)[read].abs().max():
            return
    raise ModelError(f"OpenVINO computes something else than torch of {type(network).__name__}; set engine: torch")
