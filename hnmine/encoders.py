"""The encoders of the ensemble behind one interface: texts in, one float32 row a text out.

An encoder is planned first and built later. The plan is small, travels to the actors, knows its fingerprint, and
needs no model library; only `build` imports one. Three kinds:

    model        anything SentenceTransformer loads (safetensors only)
    lexical      TF-IDF and a truncated SVD, fitted on the corpus before encoding
    precomputed  vectors made elsewhere: no encoder at all, see `read_precomputed`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnmine import device as devices
from hnmine import weights
from hnmine.config import EncoderConfig, LexicalConfig
from hnmine.errors import DataError, ModelError
from hnmine.store import Fingerprint, keys_of
from hnmine.types import Float32, Texts

Role = Literal["document", "query"]


class Encoder(Protocol):
    """A loaded encoder. Loading is heavy and done once; `encode` is light."""

    def encode(self, texts: Sequence[str], prompt: str) -> Float32:
        """Return one row a text; the rows need not be unit vectors."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an actor needs to build an encoder, and what decides its output."""

    name: str
    folder: Path
    fingerprint: Fingerprint
    document_prompt: str = ""
    query_prompt: str = ""
    kind: Literal["model", "lexical"] = "model"
    max_tokens: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    tokens_per_batch: int = 8192

    def prompt(self, role: Role) -> str:
        """Return what is put before a text of this role."""
        return self.document_prompt if role == "document" else self.query_prompt

    def build(self) -> Encoder:
        """Load the encoder; heavy."""
        return LexicalEncoder(self.folder) if self.kind == "lexical" else ModelEncoder(self)


def plan(config: EncoderConfig, corpus: Texts, store: Path, device: devices.Choice, tokens_per_batch: int) -> Plan:
    """Plan a `model` or `lexical` encoder; the lexical one is fitted on `corpus` here.

    Raises:
        ModelError: the model is missing or unsafe.
    """
    if config.lexical is not None:
        return _plan_lexical(config.name, config.lexical, corpus, store)
    assert config.model is not None
    folder = weights.resolve(config.model, config.revision)
    _refuse_too_many_tokens(config, folder)
    dtype = devices.choose_dtype(config.dtype, device.kind)
    prompts = _own_prompts(folder)
    return Plan(
        name=config.name,
        folder=folder,
        fingerprint=Fingerprint.of(
            kind="model",
            files=weights.folder_sha256(folder),
            max_tokens=config.max_tokens,
            dtype=dtype,
            sentence_transformers=version("sentence-transformers").split(".")[0],
        ),
        document_prompt=prompts["document"] if config.document_prompt is None else config.document_prompt,
        query_prompt=prompts["query"] if config.query_prompt is None else config.query_prompt,
        max_tokens=config.max_tokens,
        device=device.torch_name,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )


def _own_prompts(folder: Path) -> dict[Role, str]:
    """Read the prompts a model declares, as SentenceTransformer's encode_query and encode_document mean them.

    Like these, leave `default_prompt_name` aside. Unlike version 6 of encode_document, do see passage and corpus.
    """
    prompts = _read_settings(folder / "config_sentence_transformers.json").get("prompts") or {}
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return {"query": prompts.get("query") or "", "document": document}


def _refuse_too_many_tokens(config: EncoderConfig, folder: Path) -> None:
    positions = _read_settings(folder / "config.json").get("max_position_embeddings")
    if config.max_tokens is not None and isinstance(positions, int) and 0 < positions < config.max_tokens:
        raise ModelError(
            f"encoder {config.name}: max_tokens is {config.max_tokens}, but {folder} has {positions} positions; "
            f"set max_tokens to {positions} or less"
        )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return settings if isinstance(settings, dict) else {}


class ModelEncoder:
    """A SentenceTransformer model. Batches hold texts of like length, up to a budget of tokens."""

    _CHARACTERS_PER_TOKEN = 4  # decides batch sizes only, never what is read

    def __init__(self, plan: Plan) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self._model = SentenceTransformer(
                str(plan.folder),
                device=plan.device,
                model_kwargs={"dtype": getattr(torch, plan.dtype)},
                local_files_only=True,
            )
        except Exception as error:  # what is raised depends on the library that meets the broken file
            raise ModelError(f"encoder {plan.name}: {plan.folder} cannot be loaded: {error}") from None
        if plan.max_tokens is not None:
            self._model.max_seq_length = plan.max_tokens
        self._tokens_per_batch = plan.tokens_per_batch

    def encode(self, texts: Sequence[str], prompt: str) -> Float32:
        """Return one row a text."""
        longest = self._model.max_seq_length or 512
        lengths = np.array([len(prompt) + len(text) for text in texts]) // self._CHARACTERS_PER_TOKEN + 2
        parts: dict[int, Float32] = {}
        for batch in batches_by_length(np.minimum(lengths, longest), self._tokens_per_batch):
            rows = self._model.encode(
                [texts[i] for i in batch],
                prompt=prompt,  # an empty one too: None would mean the model's default
                batch_size=len(batch),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            parts.update(zip(batch, np.asarray(rows, dtype=np.float32), strict=True))
        return np.stack([parts[i] for i in range(len(texts))])


def batches_by_length(lengths: np.typing.NDArray[np.int64], tokens_per_batch: int) -> list[list[int]]:
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


_TERM = r"(?u)\b\w\w+\b"


def _plan_lexical(name: str, config: LexicalConfig, corpus: Texts, store: Path) -> Plan:
    corpus_digest = hashlib.sha256(np.sort(keys_of(corpus.texts), axis=0).tobytes()).hexdigest()
    fingerprint = Fingerprint.of(
        kind="lexical", corpus=corpus_digest, scikit_learn=version("scikit-learn"), **config.model_dump()
    )
    folder = store / fingerprint.digest / "fitted"
    if not folder.exists():
        _fit_lexical(config, corpus, folder)
    return Plan(name=name, folder=folder, fingerprint=fingerprint, kind="lexical")


def _fit_lexical(config: LexicalConfig, corpus: Texts, folder: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, max_features=config.max_terms, token_pattern=_TERM, dtype=np.float32
    )
    try:
        matrix = vectorizer.fit_transform(corpus.texts)
    except ValueError as error:
        raise DataError(f"the lexical encoder finds no terms in the corpus: {error}; remove it from encoders") from None
    width = max(1, min(config.width, min(matrix.shape) - 1))
    _, _, components = randomized_svd(matrix, n_components=width, random_state=config.seed)
    hidden = folder.with_name(f"{folder.name}.{np.random.SeedSequence().entropy:x}.tmp")
    hidden.mkdir(parents=True)
    vocabulary = {term: int(column) for term, column in vectorizer.vocabulary_.items()}
    (hidden / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    np.save(hidden / "idf.npy", vectorizer.idf_.astype(np.float32))
    np.save(hidden / "components.npy", components.astype(np.float32))
    try:
        hidden.rename(folder)
    except OSError:  # another run fitted the same corpus meanwhile: its files are the same
        if not folder.exists():
            raise


class LexicalEncoder:
    """TF-IDF rows times the components of a truncated SVD; a text without a known term is the zero vector."""

    def __init__(self, folder: Path) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._vectorizer = TfidfVectorizer(
            sublinear_tf=True, vocabulary=vocabulary, token_pattern=_TERM, dtype=np.float32
        )
        self._vectorizer.idf_ = np.load(folder / "idf.npy", allow_pickle=False)
        self._components = np.load(folder / "components.npy", allow_pickle=False)

    def encode(self, texts: Sequence[str], prompt: str) -> Float32:
        """Return one row a text."""
        rows = self._vectorizer.transform([prompt + text for text in texts]) @ self._components.T
        return np.ascontiguousarray(rows, dtype=np.float32)


def read_precomputed(name: str, folder: Path, texts: dict[Role, Texts]) -> dict[Role, Float32]:
    """Read vectors made elsewhere: `documents.parquet` and `queries.parquet`, columns `id` and `vector`.

    Vectors of ids that the collection does not have are ignored.

    Raises:
        DataError: a file, a column or a vector is missing; ids repeat; a vector is not finite or all zero; widths
            differ.
    """
    files: dict[Role, Path] = {"document": folder / "documents.parquet", "query": folder / "queries.parquet"}
    vectors = {role: _read_vectors(name, files[role], wanted) for role, wanted in texts.items()}
    widths = {role: array.shape[1] for role, array in vectors.items() if len(array)}
    if len(set(widths.values())) > 1:
        raise DataError(
            f"encoder {name}: documents.parquet has vectors of width {widths['document']}, queries.parquet of width "
            f"{widths['query']}; both must come from the same model"
        )
    return vectors


def _read_vectors(name: str, path: Path, wanted: Texts) -> Float32:
    where = f"encoder {name}: {path}"
    if not path.is_file():
        raise DataError(f"{where} does not exist; a precomputed folder holds documents.parquet and queries.parquet")
    try:
        table = pq.read_table(path, columns=["id", "vector"])
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DataError(f"{where} is not a Parquet file with the columns id and vector: {error}") from None
    if table.column_names != ["id", "vector"]:
        raise DataError(f"{where} needs the columns id and vector, has {pq.read_schema(path).names}")
    if table.column("id").null_count:
        raise DataError(f"{where}: {table.column('id').null_count} rows have no id; every vector needs one")
    ids = [str(text_id) for text_id in table.column("id").to_pylist()]
    row_of = {text_id: row for row, text_id in enumerate(ids)}
    if len(row_of) != len(ids):
        repeated = next(text_id for row, text_id in enumerate(ids) if row_of[text_id] != row)
        raise DataError(f"{where}: id {repeated!r} stands in two rows; keep one")
    missing = [text_id for text_id in wanted.ids if text_id not in row_of]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(wanted)} vectors are missing, first {missing[0]!r}; add them")
    rows = np.array([row_of[text_id] for text_id in wanted.ids], dtype=np.int64)
    values = _matrix(where, table.column("vector"), ids)[rows]
    not_finite, zero = ~np.isfinite(values).all(axis=1), ~values.any(axis=1)
    for bad, what in ((not_finite, "holds NaN or infinity"), (zero, "is all zero")):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: the vector of {wanted.ids[at]!r} (row {int(rows[at]) + 1}) {what}, and so do "
                f"{int(bad.sum()) - 1} others; encode these texts again or remove them from the collection"
            )
    return values


def _matrix(where: str, column: pa.ChunkedArray, ids: list[str]) -> Float32:
    array = column.combine_chunks()
    kind = array.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise DataError(f"{where}: vector must be a list of floats, is {kind}")
    if array.null_count:
        at = int(np.flatnonzero(np.asarray(array.is_null()))[0])
        raise DataError(f"{where}: {array.null_count} vectors are null, the first of id {ids[at]!r} (row {at + 1})")
    lengths = np.asarray(pc.list_value_length(array))
    odd = np.flatnonzero(lengths != lengths[0]) if len(lengths) else lengths
    if len(odd):
        at = int(odd[0])
        raise DataError(
            f"{where}: widths differ: {int(lengths[0])} in row 1, {int(lengths[at])} in row {at + 1} (id {ids[at]!r})"
        )
    flat = array.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(array), -1)
