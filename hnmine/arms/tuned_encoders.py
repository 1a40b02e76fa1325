"""Spaces of bi-encoders tuned with hard negatives of their own: what STAR, ADORE and ANCE bring to a comparison.

    STAR          both towers, static hard negatives of the start and those of the batch (`star`)
    ADORE + STAR  then the query tower alone, against what it finds at every step (`adore`)
    ANCE          both towers, hard negatives found anew after every epoch

Each begins with the first model of the ensemble, whose vectors are in the store. A tuned encoder is kept in
OUT/encoders/<name>-<seed> (and `-<pairs>` where they are not all), the digest of all that decides it beside it, its
vectors in the store; so neither is made twice.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hnmine.arms.adore import adore
from hnmine.arms.star import TrainingSet, star
from hnmine.config.models import EncoderConfig
from hnmine.config.root import Config
from hnmine.config.training import TrainConfig
from hnmine.embedding.encode import device_for, embed
from hnmine.embedding.store import VectorStore
from hnmine.models import folder as weights
from hnmine.models.plan import Plan, plan
from hnmine.runs import device as devices
from hnmine.runs.files import write_json
from hnmine.runs.folder import Run, versions
from hnmine.runs.hashing import digest
from hnmine.runs.progress import say, track
from hnmine.training.worker import Recipe
from hnmine.types import Float32, Role, Space, Texts, unit_rows

Method = Literal["STAR", "ADORE + STAR", "ANCE"]
_EPOCHS, _RATE, _QUERIES_PER_STEP, _ROUNDS = 3, 2e-5, 32, 3


def start_of(config: Config) -> EncoderConfig | None:
    """Return the encoder that is tuned: the first that is a model that sentence-transformers loads as its folder is.

    So it has no adapters, no code of its own, and nothing that is laid out anew (`weights.arranged`).
    """
    for encoder in config.encoders:
        arranged = encoder.dense_head or encoder.query_adapter or encoder.document_adapter
        if encoder.model is not None and not arranged:
            return encoder
    return None


class Tuned:
    """Tunes encoders and keeps them."""

    def __init__(self, given: TrainingSet, config: Config, run: Run, own: str = "") -> None:
        """Take what is trained on; `start_of(config)` must not be None. `own` marks what is kept of these pairs."""
        start = start_of(config)
        assert start is not None
        assert start.model is not None
        self._config, self._run, self._encoder, self._own = config, run, start, own
        self._start = weights.resolve(start.model)
        self._device = devices.choose_device(config.device)
        self._store: str | Path = config.embed.store or run.out / "store"
        self._planned = self._plan(start, given.documents)
        prompts: dict[Role, str] = {"query": self._planned.query.prompt, "document": self._planned.document.prompt}
        self._given = replace(given, prompts=prompts)
        self._spaces: dict[tuple[Method, int], Space] = {}

    def space(self, method: Method, seed: int) -> Space:
        """Return all documents and queries as the tuned encoder sees them."""
        if (method, seed) not in self._spaces:
            self._spaces[method, seed] = self._make(method, seed)
        return self._spaces[method, seed]

    def _make(self, method: Method, seed: int) -> Space:
        recipe = self._recipe(method, seed)
        out = self._folder_of(method, seed)
        given = self._given
        rows = [given.pairs.query_rows_P.tolist(), given.pairs.doc_rows_P.tolist()]
        planned = self._planned
        identity = digest(
            {
                "method": method,
                "start": [planned.fingerprint.digest, planned.document, planned.query],
                "prompts": given.prompts,
                "texts": [digest(given.documents.texts), digest(given.queries.texts)],
                "given": digest([rows, [sorted(given.known[row]) for row in sorted(given.known)]]),
                "recipe": asdict(recipe),
                "versions": versions(),
            }
        )
        # ADORE keeps STAR's documents; what lies in STAR's folder may be of other settings
        docs_NR = self.space("STAR", seed).docs_NR if method == "ADORE + STAR" else None
        if _is_whole(out, identity):
            say("compare", f"{method}, seed {seed}: reused {out}")
            return self._of_tuned(out) if docs_NR is None else self._with_queries(docs_NR, out)
        shutil.rmtree(out, ignore_errors=True)
        if docs_NR is not None:
            star_folder = self._folder_of("STAR", seed)
            steps = recipe.epochs * len(given.query_rows())
            with track("compare", f"{method}, seed {seed}", steps, "queries") as progress:
                space = adore(
                    star_folder,
                    docs_NR,
                    given,
                    recipe,
                    out,
                    encode=self._encode,
                    device=self._search_device(),
                    done=lambda count, loss: progress.advance(count, f"loss {loss:.3f}"),
                )
        else:
            rounds, of_start = _ROUNDS if method == "ANCE" else 1, self._of_start()
            steps = rounds * recipe.epochs * len(given.query_rows())
            with track("compare", f"{method}, seed {seed}", steps, "queries") as progress:
                space = star(
                    self._start,
                    of_start,
                    given,
                    recipe,
                    out,
                    encode=self._encode,
                    device=self._search_device(),
                    rounds=rounds,
                    in_batch=method == "STAR",
                    done=lambda count, loss: progress.advance(count, f"loss {loss:.3f}"),
                )
        # last, for a folder without it is not trusted; and beside it, for what is in it names its vectors
        write_json(_record_of(out), {"identity": identity, "files": weights.folder_sha256(out)})
        return space

    def _folder_of(self, method: Method, seed: int) -> Path:
        return self._run.out / "encoders" / f"{method.lower().replace(' + ', '-')}-{seed}{self._own}"

    def _recipe(self, method: Method, seed: int) -> Recipe:
        settings = TrainConfig(
            kind="bi-encoder",
            loss="logistic",
            epochs=1 if method == "ANCE" else _EPOCHS,  # a round
            learning_rate=_RATE,
            pairs_per_batch=_QUERIES_PER_STEP,
            max_tokens=self._config.train.max_tokens,
        )
        dtype = devices.choose_dtype(self._config.train.dtype, self._device.kind, training=True)
        return Recipe.of(settings, self._device, dtype, seed=seed)

    def _search_device(self) -> devices.Choice:
        return devices.choose_device(self._config.device, needs="faiss-gpu")

    def _of_start(self) -> Space:
        """Return what the ensemble itself makes of the texts, which is in the store."""
        return Space(
            docs_NR=self._embedded(self._encoder, self._given.documents, "document"),
            queries_QR=self._embedded(self._encoder, self._given.queries, "query"),
        )

    def _of_tuned(self, folder: Path) -> Space:
        return self._with_queries(self._encode(folder, self._given.documents, "document"), folder)

    def _with_queries(self, docs_NR: Float32, folder: Path) -> Space:
        return Space(docs_NR=docs_NR, queries_QR=self._encode(folder, self._given.queries, "query"))

    def _encode(self, folder: Path, texts: Texts, role: Role) -> Float32:
        return self._embedded(self._settings(folder), texts, role)

    def _embedded(self, encoder: EncoderConfig, texts: Texts, role: Role) -> Float32:
        """Return unit vectors, through the store and its actors."""
        planned = self._plan(encoder, texts)
        made = embed(planned, {role: texts}, VectorStore(self._store, planned.fingerprint), self._config.embed)
        return unit_rows(made.take(role, np.arange(len(texts))))

    def _plan(self, encoder: EncoderConfig, texts: Texts) -> Plan:
        return plan(encoder, texts, self._store, device_for(self._config.embed), self._config.embed.tokens_per_batch)

    def _settings(self, folder: Path) -> EncoderConfig:
        own = self._encoder.max_tokens  # None: as many as the folder says, which are those it was tuned with
        most = None if own is None else min(own, self._config.train.max_tokens)
        return self._encoder.model_copy(
            update={"name": folder.name, "model": str(folder), "max_tokens": most}
        )


def _record_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _is_whole(out: Path, identity: str) -> bool:
    """Whether a folder holds what was tuned under this identity, as it was left."""
    try:
        record = json.loads(_record_of(out).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(record == {"identity": identity, "files": weights.folder_sha256(out)})
