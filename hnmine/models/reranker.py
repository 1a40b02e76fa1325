"""Re-rankers: one score for a (query, document), higher is better. Both kinds have the same methods.

A cross-encoder is any Hugging Face sequence-classification model with one label, and after a training, which gives it
the head it lacks, any encoder body. What is saved loads with `sentence_transformers.CrossEncoder` and scores the same.

A bi-encoder's score is the cosine of its vectors. The paper tunes these on the same triplets (arXiv 2505.18366, Table
4), with the distance d = 1 - cosine (Eq. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

from hnmine.config.training import Kind
from hnmine.errors import ModelError
from hnmine.models.batches import TOKENS_PER_BATCH, batches_by_length, lanes_on, side_by_side
from hnmine.models.folder import declared_prompts, max_positions, read_settings, resolve
from hnmine.models.openvino import CompiledNetwork, choose_engine
from hnmine.runs import device as devices
from hnmine.types import Float32, Int64, Role

Row = dict[str, Any]  # a pair: its tokens, as the tokenizer names them, or for a bi-encoder its texts, by role

_PAIRS_AT_ONCE = 1024  # tokenised
_CLIP_CHARACTERS_PER_TOKEN = 16
_CHARACTERS_PER_TOKEN = 4  # of a bi-encoder: decides batches only, never what is read
_TEXTS_PER_BATCH = 64


def has_ranking_head(folder: Path) -> bool:
    """Whether the model in this folder has a trained head that scores."""
    config = read_settings(folder / "config.json")
    if not config:
        raise ModelError(f"{folder} has no config.json with settings; give a Hugging Face model folder")
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or [])


def resolve_cross_encoder(setting: str, model: str) -> Path:
    """Return the folder of a model that is to score; refuse one without a ranking head, by the `setting`'s name."""
    folder = resolve(model)
    if not has_ranking_head(folder):
        raise ModelError(
            f"{setting}: {model} has no ranking head, so its scores would be drawn at random; give a cross-encoder, "
            "for instance one that `hnmine train` left in OUT/reranker"
        )
    return folder


class CrossEncoder:
    """A loaded cross-encoder on one device; a `Reranker`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: str,
        engine: str = "auto",
        seed: int = 0,
        passages: bool = False,
    ) -> None:
        """Load the model, whose weights are float32; without a ranking head it gets a fresh one, drawn with `seed`.

        Of query and document together at most `max_tokens` are read, special ones included. `dtype` and `engine` are of
        the computation; torch trains. With `passages` a long document is scored in overlapping passages, and the best
        counts (MaxP, Dai and Callan, SIGIR 2019).
        """
        self.tokenizer, model = _load(folder, seed)
        self.model = model.float().to(device).eval()

        # Read no more tokens than the model has positions.
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None)  # some call it otherwise in config.json
        readable = max_positions(config.to_dict() | {"max_position_embeddings": positions})
        self.max_tokens = min(max_tokens, readable or max_tokens)

        # Choose how it computes.
        kind: devices.Kind = "cpu" if device == "cpu" else "gpu"
        self.device, self._dtype, self._passages = device, dtype, passages
        self.tokens_per_pass, self.pass_cost = (2048, 32) if kind == "cpu" else (16_384, 2048)
        self._engine = choose_engine(engine, kind, dtype, config.model_type)
        self._lanes, self._tokens_per_batch = lanes_on(device), TOKENS_PER_BATCH[kind]
        self._compiled: CompiledNetwork | None = None  # of the weights as they are

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[Row]:
        """Return the tokens of each pair, cut to `max_tokens`, longest part first; not padded.

        Only the beginning of a long document is read; if that turns out too short, the whole is.
        """
        clip = _CLIP_CHARACTERS_PER_TOKEN * self.max_tokens
        rows = self._tokenize(queries, [document[:clip] for document in documents])
        for i, document in enumerate(documents):
            if len(document) > clip and len(rows[i]["input_ids"]) < self.max_tokens:
                rows[i] = self._tokenize([queries[i]], [document])[0]
        return rows

    def length(self, row: Row) -> int:
        """Return the tokens of a row."""
        return len(row["input_ids"])

    def forward(self, rows: Sequence[Row], network: Any = None) -> Tensor:
        """Return the scores (n,) of the rows, with gradients; `network` computes in the place of `model`."""
        padded = self.tokenizer.pad(list(rows), return_tensors="pt").to(self.device)
        with _autocast(self.device, self._dtype):
            logits = (network or self.model)(**padded).logits
        return torch.squeeze(logits.float(), -1)

    def scores(
        self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None] = lambda _count: None
    ) -> Float32:
        """Return the score (n,) of each (query, document); `done` gets the number of pairs finished since last."""
        scores = np.full(len(queries), -np.inf, dtype=np.float32)
        self.model.set_attn_implementation("sdpa")
        network = self._by_openvino() if self._engine == "openvino" else None

        def score(batch: list[int]) -> tuple[list[int], Float32]:
            with torch.inference_mode():
                return batch, self.forward([rows[i] for i in batch], network).cpu().numpy()

        for start in range(0, len(queries), _PAIRS_AT_ONCE):
            # Tokenise some pairs, and cut their rows into batches.
            chunk = slice(start, start + _PAIRS_AT_ONCE)
            rows, pair_of_row = self._rows(queries[chunk], documents[chunk])
            is_last = np.diff(pair_of_row, append=-1) != 0
            batches = batches_by_length(np.array([self.length(row) for row in rows]), self._tokens_per_batch)

            # Score the rows; a pair has the score of its best row, and counts with its last, which is the shortest.
            for batch, batch_scores in side_by_side(score, batches, self._lanes):
                _refuse_not_finite("re-ranker", batch_scores)
                np.maximum.at(scores[chunk], pair_of_row[batch], batch_scores)
                done(int(is_last[batch].sum()))
        return scores

    def train_mode(self) -> None:
        """Prepare for a training step; dropout stays off."""
        self._compiled = None
        if self.device == "cpu":  # the backward pass of fused attention is slower here than the plain one
            self.model.set_attn_implementation("eager")

    def save(self, folder: Path) -> None:
        """Write model and tokenizer; `sentence_transformers.CrossEncoder(folder).predict` gives these scores."""
        self.model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.model_max_length = self.max_tokens
        self.tokenizer.save_pretrained(folder)

    def _tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[Row]:
        return _by_row(self.tokenizer(list(queries), list(documents), truncation=True, max_length=self.max_tokens))

    def _rows(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[list[Row], Int64]:
        """Return tokenised rows, one a pair or one a passage, and for each the pair it belongs to."""
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
        pair_of_row = np.array(encoded.pop("overflow_to_sample_mapping"), dtype=np.int64)
        return _by_row(encoded), pair_of_row

    def _half(self, query: str) -> str:
        """Return a query cut to half of what is read, so that passages have room beside it."""
        tokens, most = self.tokenizer(query, add_special_tokens=False)["input_ids"], self.max_tokens // 2
        return query if len(tokens) <= most else str(self.tokenizer.decode(tokens[:most]))

    def _by_openvino(self) -> Callable[..., SequenceClassifierOutput]:
        """Return the network as OpenVINO computes it."""
        if self._compiled is None:

            def tokenize(texts: list[str]) -> Any:
                return self.tokenizer(["one"] * len(texts), texts, padding=True, return_tensors="pt")

            self._compiled = CompiledNetwork(self.model, "logits", tokenize, self._dtype, self._lanes)
        compiled = self._compiled
        return lambda **inputs: SequenceClassifierOutput(logits=compiled(**inputs))


def _by_row(encoded: Any) -> list[Row]:
    """Return what a tokenizer gives column by column."""
    return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]


def _load(folder: Path, seed: int) -> tuple[Any, Any]:
    """Return tokenizer and model; a head that the folder lacks is drawn with the seed."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    has_head = has_ranking_head(folder)
    torch.manual_seed(seed)
    safe = {"trust_remote_code": False}  # without it transformers asks on the terminal
    try:
        config = AutoConfig.from_pretrained(folder, **safe)
        if has_head and config.num_labels != 1:  # config.json leaves out a 2
            raise ModelError(f"{folder} is a classifier with {config.num_labels} labels; a re-ranker has one")
        network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, use_safetensors=True, **safe)
        return AutoTokenizer.from_pretrained(folder, **safe), network
    except ModelError:
        raise
    except Exception as error:  # the loaders raise a family of errors that differ by cause
        raise ModelError(f"re-ranker {folder} cannot be loaded: {error}") from None


class _Cosine(torch.nn.Module):
    """Both encodings in one forward pass, as distributed training wants it."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, queries: dict[str, Tensor], documents: dict[str, Tensor], query_of_document: Tensor) -> Tensor:
        """Return the cosine of each document with its query."""
        vectors = [self.encoder(features)["sentence_embedding"].float() for features in (queries, documents)]
        return functional.cosine_similarity(vectors[0][query_of_document], vectors[1], dim=1)


class BiEncoder:
    """A loaded SentenceTransformer on one device; a `Reranker`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: str,
        seed: int = 0,
        prompts: Mapping[Role, str] | None = None,
    ) -> None:
        """Load the model, whose weights are float32; `dtype` is of the computation.

        Of a text at most `max_tokens` are read, special ones included. With `seed` weights are drawn that the folder
        lacks. `prompts` stand before the texts of a role; None: those that the model declares.
        """
        from sentence_transformers import SentenceTransformer

        # Load the model.
        logging.disable_progress_bar()
        torch.manual_seed(seed)
        self._prompts = declared_prompts(folder) if prompts is None else prompts
        try:
            self._encoder = SentenceTransformer(str(folder), device=device, local_files_only=True).float()
        except Exception as error:  # what is raised depends on the library that meets the broken file
            raise ModelError(f"bi-encoder {folder} cannot be loaded: {error}") from None

        # Set what it reads, and how passes are cut: each encodes its queries beside its documents.
        self._encoder.max_seq_length = min(max_tokens, self._encoder.max_seq_length or max_tokens)
        self.model = _Cosine(self._encoder).to(device).eval()
        self.device, self._dtype = device, dtype
        self.tokens_per_pass, self.pass_cost = (2048, 256) if device == "cpu" else (16_384, 2048)

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[Row]:
        """Return a row a pair; `forward` tokenises the texts, a query that stands in several rows once."""
        return [{"query": query, "document": text} for query, text in zip(queries, documents, strict=True)]

    def length(self, row: Row) -> int:
        """Return about how many tokens of the document are read."""
        return int(min(self._encoder.max_seq_length, 2 + len(row["document"]) // _CHARACTERS_PER_TOKEN))

    def forward(self, rows: Sequence[Row], network: Any = None) -> Tensor:
        """Return the scores (n,) of the rows, with gradients; `network` computes in the place of `model`."""
        position = {query: i for i, query in enumerate(dict.fromkeys(row["query"] for row in rows))}
        queries = self._features(list(position), "query")
        documents = self._features([row["document"] for row in rows], "document")
        query_of_document = torch.tensor([position[row["query"]] for row in rows], device=self.device)
        with _autocast(self.device, self._dtype):
            scores: Tensor = (network or self.model)(queries, documents, query_of_document)
        return scores

    def scores(
        self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None] = lambda _count: None
    ) -> Float32:
        """Return the score (n,) of each (query, document), every text encoded once; `done` gets the number of pairs."""
        with torch.inference_mode():
            cosines = (self.vectors(queries, "query") * self.vectors(documents, "document")).sum(dim=1)
        scores: Float32 = cosines.cpu().numpy()
        _refuse_not_finite("bi-encoder", scores)
        done(len(scores))
        return scores

    def vectors(self, texts: Sequence[str], role: Role) -> Tensor:
        """Return the unit vector of each text (n, R), with gradients; equal texts are encoded once."""
        unique = sorted(set(texts), key=lambda text: (-len(text), text))
        position = {text: i for i, text in enumerate(unique)}
        parts = []
        for start in range(0, len(unique), _TEXTS_PER_BATCH):
            with _autocast(self.device, self._dtype):
                rows = self._encoder(self._features(unique[start : start + _TEXTS_PER_BATCH], role))
            parts.append(functional.normalize(rows["sentence_embedding"].float(), dim=1))
        return torch.cat(parts)[[position[text] for text in texts]]

    def train_mode(self) -> None:
        """Prepare for a training step: nothing is to be done, and dropout stays off."""

    def save(self, folder: Path) -> None:
        """Write the model; `SentenceTransformer(folder)` gives these vectors."""
        self._encoder.save_pretrained(str(folder), safe_serialization=True)

    def _features(self, texts: list[str], role: Role) -> dict[str, Tensor]:
        features = self._encoder.preprocess(texts, prompt=self._prompts[role] or None)
        return {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in features.items()}


Reranker = CrossEncoder | BiEncoder


def load_reranker(
    kind: Kind, folder: Path, *, engine: str = "auto", passages: bool = False, **settings: Any
) -> Reranker:
    """Load the re-ranker in this folder; `engine` and `passages` are a cross-encoder's."""
    if kind == "bi-encoder":
        return BiEncoder(folder, **settings)
    return CrossEncoder(folder, engine=engine, passages=passages, **settings)


def _autocast(device: str, dtype: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, dtype=getattr(torch, dtype), enabled=dtype != "float32")


def _refuse_not_finite(kind: str, scores: Float32) -> None:
    if bad := int((~np.isfinite(scores)).sum()):
        raise ModelError(f"the {kind} gives NaN or infinity for {bad} of {len(scores)} pairs")
