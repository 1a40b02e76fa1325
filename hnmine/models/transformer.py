"""A SentenceTransformer model, loaded: batches by tokens, by torch or OpenVINO, side by side on a CPU's cores."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from hnmine.config.encoders import EncoderConfig
from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.models.batches import batches_by_length, halved_if_too_large, lanes_on, side_by_side
from hnmine.models.openvino import CompiledNetwork, Engine
from hnmine.models.strict import checked, load, readable_tokens
from hnmine.runs.counters import TOKENS
from hnmine.types import Float32

Features = dict[str, Any]  # tokenised texts as a model takes them: tensors by name, and a few plain values

_CHARACTERS_AT_ONCE = 2**20  # the tokenizer reads a long text to its end, however little of it is used


class TransformerEncoder:
    """A SentenceTransformer model. Batches hold texts of like length, up to a budget of tokens.

    This is the library's `encode` with the texts sorted by their tokens instead of their characters: next to nothing is
    padded, and where nothing is, attention runs without a mask.
    """

    def __init__(
        self,
        folder: Path,
        config: EncoderConfig,
        *,
        device: str,
        dtype: str,
        engine: Engine,
        tokens_per_batch: int,
        lanes: int | None = None,
    ) -> None:
        """Load the model; see `plan.Plan` for the arguments. Errors of the libraries that read it pass through."""
        # Load the model and its adapters, and compile it if OpenVINO computes.
        logging.disable_progress_bar()
        loaded_dtype = getattr(torch, "float32" if engine == "openvino" else dtype)  # OpenVINO rounds by itself
        self._model = load(SentenceTransformer, folder, device=device, model_kwargs={"dtype": loaded_dtype}).eval()
        self._lanes = lanes or lanes_on(device)
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it would warn of a loss that is not there
        for adapter in sorted(config.adapters):
            _load_adapter(self._model.transformers_model, folder, adapter)
        if engine == "openvino":
            _compute_by_openvino(self._model, dtype, self._lanes)
        logging.set_verbosity(verbosity)

        # Set how much is read and computed at a time.
        if config.max_tokens is not None:
            if self._model.max_seq_length == math.inf:
                raise ModelError("a static model reads texts to their end; remove max_tokens")
            self._model.max_seq_length = min(config.max_tokens, readable_tokens(self._model) or config.max_tokens)
        self._config, self._tokens_per_batch = config, tokens_per_batch
        self.tokenizer: Any = self._model.tokenizer  # a static model's is of the library tokenizers
        self.max_tokens: float | None = self._model.max_seq_length  # without limit infinite, vast or None

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text (n, width), in the order of the texts."""
        # Switch to the adapter, or to the bare model.
        if self._config.adapters and reading.adapter is None:
            self._model.disable_adapters()
        elif self._config.adapters:
            self._model.enable_adapters()
            self._model.set_adapter(reading.adapter)

        # Tokenise chunk by chunk, and encode each in batches.
        characters = np.array([len(text) for text in texts])
        vectors: dict[int, Float32] = {}
        for chunk in batches_by_length(characters, _CHARACTERS_AT_ONCE):
            features = self._tokenize([texts[i] for i in chunk], reading.prompt)
            mask = features.get("attention_mask")  # a static model has none
            tokens = len(features.get("input_ids", ())) if mask is None else int(mask.sum())
            TOKENS.add(tokens, encoder=self._config.name)
            batches = self._batches(features, len(chunk))
            for rows, computed in side_by_side(self._forward, batches, self._lanes):
                vectors.update(zip([chunk[row] for row in rows], computed, strict=True))
        return np.stack([vectors[i] for i in range(len(texts))])

    def _tokenize(self, texts: list[str], prompt: str) -> Features:
        """Return the tokens of the texts; the end token alone of a text that has none, as a decoder's empty one."""
        features: Features = self._model.preprocess(texts, prompt=prompt or None)
        mask = features.get("attention_mask")
        if mask is not None and mask.ndim == 2 and len(mask) == len(texts) and not (full := mask.any(dim=1)).all():
            end = self.tokenizer.eos_token or self.tokenizer.pad_token
            texts = [text if has else end for text, has in zip(texts, full.tolist(), strict=True)]
            features = self._model.preprocess(texts, prompt=prompt or None)
        return features

    def _forward(self, batch: tuple[list[int], Features]) -> tuple[list[int], Float32]:
        """Compute a batch; where memory runs out, halves of it."""
        rows, features = batch

        def compute(part: Sequence[int]) -> Float32:
            with torch.inference_mode():
                cut = features if len(part) == len(rows) else _rows_of(features, list(part), len(rows))
                vectors = self._model(batch_to_device(cut, self._model.device))["sentence_embedding"]
                vectors = vectors[:, : self._model.truncate_dim]
            return np.asarray(vectors.float().cpu().numpy())

        mask = features.get("attention_mask")
        is_cut = mask is not None and mask.ndim == 2 and len(mask) == len(rows)  # texts of a static model are one row
        return rows, halved_if_too_large(compute, range(len(rows)), "embed") if is_cut else compute(rows)

    def _batches(self, features: Features, count: int) -> Iterator[tuple[list[int], Features]]:
        """Cut tokenised texts into batches of like length, without the columns that are padding in all of a batch.

        Texts without a mask (of a static model) are one batch.
        """
        mask = features.get("attention_mask")
        if mask is None or mask.ndim != 2 or len(mask) != count:
            yield list(range(count)), features
            return
        for rows in batches_by_length(mask.sum(dim=1).numpy(), self._tokens_per_batch):
            used = mask[rows].any(dim=0)
            cut = {
                name: value[rows][:, used] if getattr(value, "shape", None) == mask.shape else value
                for name, value in features.items()
            }
            yield rows, cut


def _rows_of(features: Features, part: list[int], count: int) -> Features:
    """Return these texts of a batch of so many; plain values are all texts'."""
    return {
        name: value[part] if isinstance(value, torch.Tensor) and value.ndim and len(value) == count else value
        for name, value in features.items()
    }


def _load_adapter(network: Any, folder: Path, name: str) -> None:
    """Add an adapter to a transformers model; one of another model would stay random, or without effect."""
    source = {"subfolder": name, "local_files_only": True}
    with warnings.catch_warnings(), checked(folder / name, adapter=name):
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        network.load_adapter(str(folder), adapter_name=name, adapter_kwargs=source)


def _compute_by_openvino(model: Any, dtype: str, lanes: int) -> None:
    """Let OpenVINO compute the transformer; what comes before and after it stays torch's."""
    body = model.transformers_model
    arguments = inspect.signature(body.forward).parameters

    def tokenize(texts: list[str]) -> Features:
        return {name: value for name, value in model.preprocess(texts).items() if name in arguments}

    compiled = CompiledNetwork(body, "last_hidden_state", tokenize, dtype, lanes)
    body.forward = lambda **inputs: BaseModelOutput(last_hidden_state=compiled(**inputs))
    for parameter in body.parameters():  # which are OpenVINO's now
        parameter.data = parameter.data.new_empty(0)
