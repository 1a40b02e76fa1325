"""A SentenceTransformer model, loaded: batches by tokens, by torch or OpenVINO, side by side on a CPU's cores."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.models import engine as engines
from hnmine.runs.counters import TOKENS
from hnmine.types import Float32

if TYPE_CHECKING:
    from hnmine.models.plan import Plan


class ModelEncoder:
    """A SentenceTransformer model. Batches hold texts of like length, up to a budget of tokens.

    This is the library's `encode` with the texts sorted by their tokens instead of their characters: next to nothing is
    padded, and where nothing is, attention runs without a mask.
    """

    _TOKENIZED_CHARACTERS = 2**20  # at a time: the tokenizer reads long texts to their end, whatever is used of them

    def __init__(self, plan: Plan, lanes: int | None = None) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            with plan.arranged() as folder:
                self._model = SentenceTransformer(
                    str(folder),
                    device=plan.device,
                    model_kwargs={"dtype": getattr(torch, "float32" if plan.engine == "openvino" else plan.dtype)},
                    local_files_only=True,
                    trust_remote_code=plan.trust_remote_code,
                )
                for name in plan.adapters:
                    _load_adapter(self._model.transformers_model, folder, name)
        except ModelError:
            raise
        except Exception as error:  # what is raised depends on the library that meets the broken file
            raise ModelError(f"encoder {plan.name}: {plan.folder} cannot be loaded: {error}") from None
        if plan.max_tokens is not None:
            if self._model.max_seq_length == math.inf:
                raise ModelError(f"encoder {plan.name}: a static model reads texts to their end; remove max_tokens")
            self._model.max_seq_length = plan.max_tokens
        self._model.eval()
        self._name, self._tokens_per_batch, self._adapters = plan.name, plan.tokens_per_batch, plan.adapters
        self._lanes = 1 if plan.device != "cpu" else lanes or engines.own_lanes()
        if plan.engine == "openvino":
            self._compile(plan)

    def _compile(self, plan: Plan) -> None:
        """Let OpenVINO compute the transformer; what comes before and after it stays torch's."""
        from transformers.modeling_outputs import BaseModelOutput
        from transformers.utils import logging

        body = self._model.transformers_model
        parameters = inspect.signature(body.forward).parameters
        examples = (
            {name: value for name, value in self._model.preprocess(list(texts)).items() if name in parameters}
            for texts in (("one", "one and two and three"), ("one two three four five", "one", "one two"))
        )
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # tracing looks at a loss that encoders have none of, and is warned of it
        try:
            compiled = engines.OpenVino(body, "last_hidden_state", examples, plan.dtype, self._lanes)
        except ModelError as error:
            raise ModelError(f"encoder {plan.name}: {error}") from None
        finally:
            logging.set_verbosity(verbosity)
        body.forward = lambda **inputs: BaseModelOutput(last_hidden_state=compiled(**inputs))
        for parameter in body.parameters():
            parameter.data = parameter.data.new_empty(0)  # OpenVINO has its own

    @property
    def tokenizer(self) -> Any:
        """Of the model, as transformers has it; of a static model as tokenizers has."""
        return self._model.tokenizer

    @property
    def max_tokens(self) -> float | None:
        """Tokens that are read of a text, special ones included; without limit infinite, vast or None."""
        limit: float | None = self._model.max_seq_length
        return limit

    def _switch(self, adapter: str | None) -> None:
        if self._adapters and adapter is None:
            self._model.disable_adapters()
        elif self._adapters:
            self._model.enable_adapters()
            self._model.set_adapter(adapter)

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text."""
        self._switch(reading.adapter)
        characters = np.array([len(text) for text in texts])
        parts: dict[int, Float32] = {}
        for chunk in engines.batches_by_length(characters, self._TOKENIZED_CHARACTERS):
            features = self._model.preprocess([texts[i] for i in chunk], prompt=reading.prompt or None)
            TOKENS.add(_tokens(features), encoder=self._name)
            batches = self._batches(features, len(chunk))
            for rows, vectors in engines.side_by_side(self._forward, batches, self._lanes):
                parts.update(zip([chunk[row] for row in rows], vectors, strict=True))
        return np.stack([parts[i] for i in range(len(texts))])

    def _forward(self, batch: tuple[list[int], dict[str, Any]]) -> tuple[list[int], Float32]:
        import torch

        rows, features = batch
        with torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"][:, : self._model.truncate_dim]
        return rows, vectors.float().cpu().numpy()

    def _batches(self, features: dict[str, Any], count: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Cut tokenised texts into batches of like length, without the columns that are padding in all of a batch.

        What has no mask (a static model) is one batch.
        """
        mask = features.get("attention_mask")
        if mask is None or mask.ndim != 2 or len(mask) != count:
            yield list(range(count)), self._on_device(features)
            return
        for rows in engines.batches_by_length(mask.sum(dim=1).numpy(), self._tokens_per_batch):
            used = mask[rows].any(dim=0)
            cut = {
                name: value[rows][:, used] if getattr(value, "shape", None) == mask.shape else value
                for name, value in features.items()
            }
            yield rows, self._on_device(cut)

    def _on_device(self, features: dict[str, Any]) -> dict[str, Any]:
        device = self._model.device
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in features.items()}


def _tokens(features: dict[str, Any]) -> int:
    """Return how many tokens are not padding; a static model has no mask, and none."""
    mask = features.get("attention_mask")
    return len(features.get("input_ids", ())) if mask is None else int(mask.sum())


def _load_adapter(network: Any, folder: Path, name: str) -> None:
    """Add an adapter to a transformers model; one whose tensors are not the model's is a ValueError."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports the tensors of the adapters loaded before as missing
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        where = {"subfolder": name, "local_files_only": True}
        loaded = network.load_adapter(str(folder), adapter_name=name, adapter_kwargs=where)
    logging.set_verbosity(verbosity)
    missing = [key for key in loaded.missing_keys if name in key.split(".")]
    if unmatched := sorted([*missing, *loaded.unexpected_keys]):  # these would stay random, or without effect
        raise ValueError(f"adapter {name} is of another model: {len(unmatched)} tensors, first {unmatched[0]}")
