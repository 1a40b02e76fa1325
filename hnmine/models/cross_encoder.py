"""A cross-encoder re-ranker: one score for a (query, document); higher is better.

Any Hugging Face sequence-classification model with one label serves, and any encoder body does after a warm-up,
which trains the head it lacks. What is saved loads with `sentence_transformers.CrossEncoder` and scores the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from hnmine.errors import ModelError
from hnmine.models import engine as engines
from hnmine.models import folder as weights
from hnmine.runs import device as devices
from hnmine.types import Float32, Int64

_CHUNK = 1024  # pairs tokenised at a time
_CLIP_CHARACTERS_PER_TOKEN = 16


def has_head(folder: Path) -> bool:
    """Whether the model in this folder has a trained ranking head with one label."""
    config = _config(folder)
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or [])


def cross_encoder(setting: str, model: str, revision: str | None) -> Path:
    """Return the folder of a model that is to score; `setting` is the key of the configuration that names it.

    Raises:
        ModelError: it cannot be had, or has no trained ranking head.
    """
    folder = weights.resolve(model, revision)
    if not has_head(folder):
        raise ModelError(
            f"{setting}: {model} has no ranking head, so its scores would be drawn at random; give a cross-encoder, "
            "for instance one that `hnmine train` left in OUT/reranker"
        )
    return folder


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no readable config.json ({error}); give a Hugging Face model folder") from None
    if not isinstance(config, dict):
        raise ModelError(f"{folder}: config.json holds a {type(config).__name__}; give a Hugging Face model folder")
    return config


class Reranker:
    """A loaded re-ranker on one device."""

    TRAIN_TOKENS_PER_PASS: ClassVar = {"cpu": 2048, "cuda": 16_384}
    """On a CPU the activations of a pass should stay in its caches."""
    PASS_TOKENS: ClassVar = {"cpu": 32, "cuda": 2048}
    """What a forward and backward pass costs beside its tokens, in tokens."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: str,
        engine: str = "auto",
        seed: int = 0,
        layers: int | None = None,
        passages: bool = False,
    ) -> None:
        """Load the model; without a ranking head it gets a fresh one, drawn with `seed`, on its first `layers`.

        `engine` computes the scores; see `engine.choose`. Training is torch's.

        With `passages`, `scores` reads a long document in overlapping passages and takes the best (MaxP, Dai and
        Callan, SIGIR 2019) instead of its beginning alone.

        Raises:
            ModelError: the folder cannot be loaded, or the model has more than one label or fewer layers.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        headed = has_head(folder)
        torch.manual_seed(seed)
        try:
            config = AutoConfig.from_pretrained(folder)
            if headed and config.num_labels != 1:  # config.json leaves out a 2
                raise ModelError(f"{folder} is a classifier with {config.num_labels} labels; a re-ranker has one")
            cut = {} if layers is None else {"num_hidden_layers": layers}
            if layers is not None and layers > config.num_hidden_layers:
                raise ModelError(f"{folder} has {config.num_hidden_layers} layers, fewer than {layers}")
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, use_safetensors=True, **cut
            )
        except ModelError:
            raise
        except Exception as error:  # the loaders raise a family of errors that differ by cause
            raise ModelError(f"re-ranker {folder} cannot be loaded: {error}") from None
        self.model = model.float().to(device).eval()
        most = getattr(self.model.config, "max_position_embeddings", None)  # some call it otherwise in config.json
        settings = self.model.config.to_dict() | {"max_position_embeddings": most}
        self.max_tokens = min(max_tokens, weights.positions(settings) or max_tokens)
        self.device, self._dtype, self._passages = device, dtype, passages
        kind: devices.Kind = "cpu" if device == "cpu" else "gpu"
        self._engine = engines.choose(engine, kind, dtype, model.config.model_type, patched=False)
        self._lanes = engines.own_lanes() if kind == "cpu" else 1
        self._tokens_per_batch = engines.TOKENS_PER_BATCH[kind]
        self._compiled: engines.OpenVino | None = None  # of the weights as they are

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision as configured."""
        return torch.autocast(self.device, dtype=getattr(torch, self._dtype), enabled=self._dtype != "float32")

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[dict[str, list[int]]]:
        """Return the tokens of each pair, cut to `max_tokens`, longest part first; not padded.

        Only the beginning of a long document is read; if that turns out too short, the whole is.
        """
        clip = _CLIP_CHARACTERS_PER_TOKEN * self.max_tokens
        rows = self._tokenize(queries, [document[:clip] for document in documents])
        for i, document in enumerate(documents):
            if len(document) > clip and len(rows[i]["input_ids"]) < self.max_tokens:
                rows[i] = self._tokenize([queries[i]], [document])[0]
        return rows

    def length(self, row: dict[str, list[int]]) -> int:
        """Return the tokens of a row."""
        return len(row["input_ids"])

    def _tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[dict[str, list[int]]]:
        encoded = self.tokenizer(list(queries), list(documents), truncation=True, max_length=self.max_tokens)
        return [{name: encoded[name][i] for name in encoded} for i in range(len(queries))]

    def _read(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[list[dict[str, list[int]]], Int64]:
        """Return tokenised rows, and for each which (query, document) it belongs to."""
        if not self._passages:
            return self.tokenize(queries, documents), np.arange(len(queries))
        encoded = self.tokenizer(
            [self._half(query) for query in queries],
            list(documents),
            truncation="only_second",
            max_length=self.max_tokens,
            stride=self.max_tokens // 8,
            return_overflowing_tokens=True,
        )
        owner = np.array(encoded.pop("overflow_to_sample_mapping"), dtype=np.int64)
        return [{name: encoded[name][i] for name in encoded} for i in range(len(owner))], owner

    def _half(self, query: str) -> str:
        """Return a query cut to half of what is read, so that passages have room beside it."""
        tokens = self.tokenizer(query, add_special_tokens=False)["input_ids"]
        most = self.max_tokens // 2
        cut: str = query if len(tokens) <= most else self.tokenizer.decode(tokens[:most])
        return cut

    def forward(self, rows: Sequence[dict[str, list[int]]], network: Any = None) -> Tensor:
        """Return the scores (n,) of tokenised pairs, padded to the longest of them; float32.

        `network` is the model as wrapped for distributed training.
        """
        padded = self.tokenizer.pad(list(rows), return_tensors="pt").to(self.device)
        with self.autocast():
            logits = (network or self.model)(**padded).logits
        scores: Tensor = logits.float().squeeze(-1)
        return scores

    def scores(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        done: Callable[[int], None] = lambda _count: None,
    ) -> Float32:
        """Return the score of each (query, document); `done` is told how many pairs were finished since last."""
        scores = np.full(len(queries), -np.inf, dtype=np.float32)
        self.model.eval()
        self.model.set_attn_implementation("sdpa")
        network = self._compile() if self._engine == "openvino" else None

        def of_batch(batch: list[int]) -> tuple[list[int], Float32]:
            with torch.inference_mode():
                return batch, self.forward([rows[i] for i in batch], network).cpu().numpy()

        for start in range(0, len(queries), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows, owner = self._read(queries[chunk], documents[chunk])
            left = np.bincount(owner)
            lengths = np.array([self.length(row) for row in rows])
            batches = engines.batches_by_length(lengths, self._tokens_per_batch)
            for batch, batch_scores in engines.side_by_side(of_batch, batches, self._lanes):
                if bad := int((~np.isfinite(batch_scores)).sum()):
                    raise ModelError(f"the re-ranker gives NaN or infinity for {bad} of {len(batch)} pairs")
                np.maximum.at(scores[chunk], owner[batch], batch_scores)
                before = np.count_nonzero(left)
                left -= np.bincount(owner[batch], minlength=len(left))
                done(int(before - np.count_nonzero(left)))
        return scores

    def _compile(self) -> Callable[..., SequenceClassifierOutput]:
        """Return the network as OpenVINO computes it."""
        if self._compiled is None:
            examples = (
                self.tokenizer(["one"] * len(texts), list(texts), padding=True, return_tensors="pt")
                for texts in (("one", "one and two"), ("one two three four five", "one", "one two"))
            )
            self._compiled = engines.OpenVino(self.model, "logits", examples, self._dtype, self._lanes)
        compiled = self._compiled
        return lambda **inputs: SequenceClassifierOutput(logits=compiled(**inputs))

    def train_mode(self) -> None:
        """Prepare for training."""
        self.model.train()
        self._compiled = None
        if self.device == "cpu":  # backward of fused attention is slower than the plain one here
            self.model.set_attn_implementation("eager")

    def save(self, folder: Path) -> None:
        """Write model and tokenizer; `CrossEncoder(folder).predict` gives these scores unchanged."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.set_attn_implementation("sdpa")
        self.model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.model_max_length = self.max_tokens
        self.tokenizer.save_pretrained(folder)
