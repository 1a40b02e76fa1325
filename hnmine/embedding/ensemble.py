"""The encoders of a run: each is planned once, its weights are hashed once, and its store is opened once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hnmine.config.root import Config
from hnmine.corpus.text_keys import Keys, keys_of
from hnmine.embedding.encode import encode_missing
from hnmine.embedding.pool import device_of_encoders
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import Precomputed, StoredVectors, Vectors, read_vectors
from hnmine.models.plan import Plan, plan
from hnmine.models.preflight import check_encoder
from hnmine.runs.directory import Directory
from hnmine.runs.nodes import in_cluster
from hnmine.runs.progress import say
from hnmine.runs.ray_tasks import in_order
from hnmine.types import Float32, Int64, Role, Texts, unit_rows


class Ensemble:
    """Several encoders of one corpus; queries may come in portions.

    The documents are looked for in the store, and those it lacks are encoded, with the first queries that are asked
    for. After that only queries are.
    """

    def __init__(
        self, config: Config, documents: Texts, store: str | Path, fits: Mapping[str, str] | None = None
    ) -> None:
        """Plan all encoders, so that what is missing is said at once and not after hours of encoding.

        Lexical encoders keep the fit that `fits` names for them; the others are fitted on the documents.

        Raises:
            ConfigError: the address of the store cannot be understood.
            DataError: precomputed vectors do not fit, the corpus has no terms, or the store cannot be used.
            ModelError: a model is missing or unsafe.
            DeviceError: a GPU was asked for and is not there.
        """
        self.documents = documents
        self.names = tuple(encoder.name for encoder in config.encoders)
        self.weights = tuple(encoder.weight for encoder in config.encoders)
        self.encoded = self.reused = 0
        """Distinct texts that were encoded, and that the store had, over all encoders and calls."""
        self.fits: dict[str, str] = {}
        """Names of the lexical encoders' fits, by encoder."""
        self._actors, self._ray = config.embed.actors, config.ray
        self._given: dict[str, tuple[Path, Float32]] = {}  # folder and documents' vectors of what was made elsewhere
        self._computed: dict[str, tuple[Plan, StoredVectors]] = {}  # of the documents; width 0: not looked for yet
        # Make the store, and say what is loaded
        Directory.at(store).create()
        if models := [encoder.name for encoder in config.encoders if encoder.model is not None]:
            say("embed", f"models are loaded: {', '.join(models)}")
        # Plan each encoder
        device, tokens = device_of_encoders(config.device, config.ray), config.embed.tokens_per_batch
        for encoder in config.encoders:
            name = encoder.name
            if encoder.precomputed is not None:
                docs_NR = read_vectors(name, encoder.precomputed, "document", documents)
                self._given[name] = encoder.precomputed, docs_NR
                say("embed", f"{name}: precomputed, width {docs_NR.shape[1]}")
                continue
            fit = (fits or {}).get(name)
            planned = plan(encoder, documents, store, device, tokens, engine=config.engine, seed=config.seed, fit=fit)
            if planned.fit is not None:
                self.fits[name] = planned.fit.name
            vectors, reading = VectorStore(store, planned.fingerprint), planned.reading("document")
            keys: dict[Role, Keys] = {"document": keys_of(documents.texts, reading)}
            self._computed[name] = (
                planned,
                StoredVectors(name=name, store=vectors, keys=keys, width=0, reading=reading),
            )

    def check(self, queries: Texts) -> None:
        """Load each encoder that has texts to encode, and let it read a few: what is wrong is said before the work.

        Raises:
            ModelError: one cannot be loaded or cannot read a text.
        """
        for planned, known in self._computed.values():
            keys = np.concatenate([known.keys["document"], keys_of(queries.texts, planned.reading("query"))])
            if planned.folder is None or known.store.contains(keys)[0].all():
                continue
            if self._ray is not False and in_cluster():  # the driver may have no GPU, and little memory
                gpus = planned.config.gpus if planned.device == "cuda" else 0
                for _ in in_order(check_encoder, [(planned,)], gpus):
                    pass
            else:
                check_encoder(planned)

    def vectors(self, queries: Texts) -> tuple[Vectors, ...]:
        """Return every encoder's vectors of the documents and of these queries; encode those that the store lacks.

        Raises:
            DataError: precomputed vectors lack a text, or the store cannot be used.
            ModelError: an encoder cannot be loaded or computes nonsense.
        """
        # Read what was made elsewhere first, so that what is missing there is said before anything is encoded
        found: dict[str, Vectors] = {}
        for name, (folder, docs_NR) in self._given.items():
            queries_QR = read_vectors(name, folder, "query", queries)
            found[name] = Precomputed(name=name, docs_NR=docs_NR, queries_QR=queries_QR)
        for name in self._computed:
            found[name] = self._stored(name, queries)
        return tuple(found[name] for name in self.names)

    def cosines(self, queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
        """Return the cosines (Q, K) of Q queries with some documents, by encoder; -inf where the row is negative.

        Raises as `vectors` does.
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

    def _stored(self, name: str, queries: Texts) -> StoredVectors:
        """Return the vectors of one encoder; look for the documents in the first call alone."""
        planned, known = self._computed[name]
        found = replace(known, keys=known.keys | {"query": keys_of(queries.texts, planned.reading("query"))})
        texts: dict[Role, Texts] = {"query": queries} if known.width else {"document": self.documents, "query": queries}
        if any(map(len, texts.values())):
            result = encode_missing(planned, texts, found.keys, known.store, actors=self._actors, ray=self._ray)
            self.encoded, self.reused = self.encoded + result.encoded, self.reused + result.reused
            found = replace(found, width=result.width)
            self._computed[name] = planned, found
        return found
