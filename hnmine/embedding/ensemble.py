"""The encoders of a run: each is planned once, its weights are hashed once, and its store is opened once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hnmine.config.mining import EmbedConfig
from hnmine.config.models import EncoderConfig
from hnmine.corpus.text_keys import Keys, keys_of
from hnmine.embedding.encode import encode_missing
from hnmine.embedding.pool import device_of_encoders
from hnmine.embedding.precomputed import Precomputed, read_vectors
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import StoredVectors, Vectors
from hnmine.models.plan import Plan, plan
from hnmine.runs.directory import Directory
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64, Role, Texts, unit_rows


@dataclass(frozen=True)
class _Computed:
    """An encoder that computes here: its plan, its store, and the keys of the documents as it reads them."""

    plan: Plan
    store: VectorStore
    document_keys: Keys


@dataclass(frozen=True)
class _Given:
    """An encoder whose vectors were made elsewhere: their folder, and the documents' vectors."""

    folder: Path
    docs_NR: Float32


class Ensemble:
    """Several encoders of one corpus; queries may come in portions.

    The documents are looked for in the store, and those it lacks are encoded, with the first queries that are asked
    for. After that only queries are.
    """

    def __init__(
        self,
        encoders: Sequence[EncoderConfig],
        documents: Texts,
        *,
        store: str | Path,
        embed: EmbedConfig,
        device: str = "auto",
        engine: str = "auto",
        ray: bool | None = None,
        seed: int = 0,
        fits: Mapping[str, str] | None = None,
    ) -> None:
        """Plan all encoders, so that what is missing is said at once and not after hours of encoding.

        Args:
            encoders: at least one.
            documents: the corpus; lexical encoders are fitted on it.
            store: a folder or an address that pyarrow.fs understands.
            embed: how texts become vectors.
            device: auto, cpu or gpu.
            engine: auto, torch or openvino; what computes on a CPU.
            ray: whether Ray's actors encode; None: where they bring more than one process has.
            seed: of the lexical encoders' SVD.
            fits: names of the fits that lexical encoders keep, by encoder; the others are fitted anew.

        Raises:
            ConfigError: the address of the store cannot be understood.
            DataError: precomputed vectors do not fit, the corpus has no terms, or the store cannot be used.
            ModelError: a model is missing or unsafe.
            DeviceError: a GPU was asked for and is not there.
        """
        self.documents = documents
        self.names = tuple(encoder.name for encoder in encoders)
        self.weights = tuple(encoder.weight for encoder in encoders)
        self.encoded = self.reused = 0
        """Distinct texts that were encoded, and that the store had, over all encoders and calls."""
        self.fits: dict[str, str] = {}
        """Names of the lexical encoders' fits, by encoder."""
        self._embed, self._ray = embed, ray
        self._computed: dict[str, _Computed] = {}
        self._given: dict[str, _Given] = {}
        self._width: dict[str, int] = {}  # of an encoder whose documents are all in the store
        # Make the store, and say what is loaded
        Directory.at(store).create()
        if models := [encoder.name for encoder in encoders if encoder.model is not None]:
            say("embed", f"models are loaded: {', '.join(models)}")
        # Plan each encoder
        choice = device_of_encoders(device, ray)
        for encoder in encoders:
            if encoder.precomputed is not None:
                self._read_given(encoder.name, encoder.precomputed)
                continue
            fit = (fits or {}).get(encoder.name)
            planned = plan(encoder, documents, store, choice, embed.tokens_per_batch, engine=engine, seed=seed, fit=fit)
            self._add_computed(planned, store)

    def _read_given(self, name: str, folder: Path) -> None:
        docs_NR = read_vectors(name, folder, "document", self.documents)
        self._given[name] = _Given(folder, docs_NR)
        say("embed", f"{name}: precomputed, width {docs_NR.shape[1]}")

    def _add_computed(self, planned: Plan, store: str | Path) -> None:
        keys = keys_of(self.documents.texts, planned.reading("document"))
        self._computed[planned.name] = _Computed(planned, VectorStore(store, planned.fingerprint), keys)
        if planned.fit is not None:
            self.fits[planned.name] = planned.fit.name

    def vectors(self, queries: Texts) -> tuple[Vectors, ...]:
        """Return every encoder's vectors of the documents and of these queries; encode those that the store lacks.

        Raises:
            DataError: precomputed vectors lack a text, or the store cannot be used.
            ModelError: an encoder cannot be loaded or computes nonsense.
        """
        # Read what was made elsewhere first, so that what is missing there is said before anything is encoded
        found: dict[str, Vectors] = {}
        for name, given in self._given.items():
            queries_QR = read_vectors(name, given.folder, "query", queries)
            found[name] = Precomputed.checked(name, given.docs_NR, queries_QR)
        # Encode what the stores lack
        for name, computed in self._computed.items():
            found[name] = self._stored(computed, queries)
        return tuple(found[name] for name in self.names)

    def cosines(self, queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
        """Return the cosines (Q, K) of queries with some documents, by encoder; -inf where the row is negative.

        Args:
            queries: Q texts.
            doc_rows_QK: rows of documents; -1 where there is none.

        Raises: as `vectors` does.
        """
        there_QK = doc_rows_QK >= 0
        query_F = np.nonzero(there_QK)[0]
        rows_U, position_F = np.unique(doc_rows_QK[there_QK], return_inverse=True)
        cosines: dict[str, Float32] = {}
        for name, vectors in zip(self.names, self.vectors(queries), strict=True):
            docs_UR = unit_rows(vectors.take("document", rows_U))
            queries_QR = unit_rows(vectors.take("query", np.arange(len(queries))))
            cosines_QK = np.full(doc_rows_QK.shape, -np.inf, dtype=np.float32)
            cosines_QK[there_QK] = np.einsum("fr,fr->f", queries_QR[query_F], docs_UR[position_F])
            cosines[name] = cosines_QK
        return cosines

    def _stored(self, encoder: _Computed, queries: Texts) -> StoredVectors:
        """Return the vectors of one encoder; look for the documents in the first call alone."""
        name = encoder.plan.name
        keys: dict[Role, Keys] = {
            "document": encoder.document_keys,
            "query": keys_of(queries.texts, encoder.plan.reading("query")),
        }
        texts: dict[Role, Texts] = {"query": queries}
        if name not in self._width:
            texts = {"document": self.documents, "query": queries}
        if len(queries) or "document" in texts:
            result = encode_missing(encoder.plan, texts, keys, encoder.store, actors=self._embed.actors, ray=self._ray)
            self.encoded, self.reused = self.encoded + result.encoded, self.reused + result.reused
            self._width[name] = result.width
        return StoredVectors(
            name=name,
            store=encoder.store,
            keys=keys,
            width=self._width[name],
            reading=encoder.plan.reading("document"),
        )
