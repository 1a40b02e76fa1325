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
class _Planned:
    """An encoder that is computed here: its plan, its store, and the keys of the documents as it reads them."""

    plan: Plan
    store: VectorStore
    document_keys: Keys


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
        self._members: list[_Planned | Path] = []
        self._given: dict[str, Float32] = {}  # precomputed vectors of the documents, by encoder
        self._width: dict[str, int] = {}  # of an encoder whose documents are all in the store
        # Make the store, and say what is loaded
        Directory.at(store).create()
        if models := [encoder.name for encoder in encoders if encoder.model is not None]:
            say("embed", f"models are loaded: {', '.join(models)}")
        # Plan each encoder
        choice = device_of_encoders(device, ray)
        for encoder in encoders:
            if encoder.precomputed is not None:
                self._members.append(encoder.precomputed)
                continue
            kept = (fits or {}).get(encoder.name)
            planned = plan(
                encoder, documents, store, choice, embed.tokens_per_batch, engine=engine, seed=seed, fit=kept
            )
            if planned.fit is not None:
                self.fits[encoder.name] = planned.fit.name
            keys = keys_of(documents.texts, planned.reading("document"))
            self._members.append(_Planned(planned, VectorStore(store, planned.fingerprint), keys))

    def vectors(self, queries: Texts) -> tuple[Vectors, ...]:
        """Return every encoder's vectors of the documents and of these queries; encode those that the store lacks.

        Raises:
            DataError: precomputed vectors lack a text, or the store cannot be used.
            ModelError: an encoder cannot be loaded or computes nonsense.
        """
        found: list[Vectors] = []
        for name, member in zip(self.names, self._members, strict=True):
            if isinstance(member, _Planned):
                found.append(self._stored(name, member, queries))
            else:
                found.append(self._precomputed(name, member, queries))
        return tuple(found)

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

    def _stored(self, name: str, member: _Planned, queries: Texts) -> StoredVectors:
        keys: dict[Role, Keys] = {
            "document": member.document_keys,
            "query": keys_of(queries.texts, member.plan.reading("query")),
        }
        # Look for the documents once; of later calls only the queries may be missing
        texts: dict[Role, Texts] = {"document": self.documents, "query": queries}
        if name in self._width:
            texts.pop("document")
        if len(queries) or "document" in texts:
            result = encode_missing(member.plan, texts, keys, member.store, actors=self._embed.actors, ray=self._ray)
            self.encoded, self.reused = self.encoded + result.encoded, self.reused + result.reused
            self._width[name] = result.width
        return StoredVectors(
            name=name,
            store=member.store,
            keys=keys,
            width=self._width[name],
            reading=member.plan.reading("document"),
        )

    def _precomputed(self, name: str, folder: Path, queries: Texts) -> Precomputed:
        if name not in self._given:
            self._given[name] = read_vectors(name, folder, "document", self.documents)
            say("embed", f"{name}: precomputed, width {self._given[name].shape[1]}")
        return Precomputed.checked(name, self._given[name], read_vectors(name, folder, "query", queries))
