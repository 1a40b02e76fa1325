"""Spaces of bi-encoders trained with hard negatives of their own: what STAR, ADORE and ANCE bring to a comparison.

    STAR          both towers, static hard negatives of the start and those of the batch (`star`)
    ADORE + STAR  then the query tower alone, against what it finds at every step (`adore`)
    ANCE          both towers, hard negatives found anew after every epoch

Each begins with one model of the ensemble, whose vectors are in the store. A trained encoder is kept in
OUT/encoders/<name>-<seed>, what decides it in the run's cache, and its vectors are in the store; so it is made once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from hnmine.arms.adore import adore
from hnmine.arms.arm import Method
from hnmine.arms.star import TrainingSet, star
from hnmine.config.models import EncoderConfig
from hnmine.config.root import Config
from hnmine.embedding.ensemble import Ensemble
from hnmine.models.folder import declared_prompts, folder_sha256, resolve
from hnmine.runs.device import Choice
from hnmine.runs.folder import Run
from hnmine.runs.hashing import digest
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.training.recipe import Recipe
from hnmine.types import Float32, Role, Space, Texts, unit_rows

ENCODERS = "encoders"
"""The folder in OUT, and in the cache, of the encoders that were trained."""
EPOCHS, LEARNING_RATE, QUERIES_PER_STEP = 3, 2e-5, 32
ANCE_ROUNDS = 3
"""Each is one epoch."""

NO_TEXTS = Texts(ids=(), texts=())
EncodeBy = Callable[[EncoderConfig, Texts, Role], Float32]
"""Returns a unit vector a text by an encoder."""


def encode_by(config: Config, store: str | Path) -> EncodeBy:
    """Return what encodes texts as `config` says, by any encoder; vectors are taken from the store and kept in it."""

    def encode(encoder: EncoderConfig, texts: Texts, role: Role) -> Float32:
        documents, queries = (texts, NO_TEXTS) if role == "document" else (NO_TEXTS, texts)
        ensemble = Ensemble(
            [encoder],
            documents,
            store=store,
            embed=config.embed,
            device=config.device,
            engine=config.engine,
            ray=config.ray,
        )
        return unit_rows(ensemble.vectors(queries)[0].take(role, np.arange(len(texts))))

    return encode


class _TrainedEncoder(BaseModel):
    """What is recorded of a trained encoder beside its files."""

    seed: int


class TrainedEncoders:
    """Encoders trained on one training set from one start, each made when its space is first asked for, and kept."""

    def __init__(
        self,
        start: EncoderConfig,
        given: TrainingSet,
        recipe: Recipe,
        run: Run,
        *,
        encode: EncodeBy,
        search_device: Choice,
        suffix: str = "",
    ) -> None:
        """Find the start, an encoder that is a model; a ModelError says that it is missing.

        Of `recipe` device, number type and tokens are taken. `suffix` ends the names under which encoders are kept,
        where several training sets share a run.
        """
        assert start.model is not None
        self._start, self._folder = start, resolve(start.model, dense_head=start.dense_head)
        self._recipe, self._run, self._suffix = recipe, run, suffix
        self._encode_by, self._search_device = encode, search_device
        configured: dict[Role, str | None] = {"query": start.query_prompt, "document": start.document_prompt}
        given_prompts = {role: prompt for role, prompt in configured.items() if prompt is not None}
        self._given = replace(given, prompts=declared_prompts(self._folder) | given_prompts)
        self._spaces: dict[tuple[Method, int], Space] = {}

    def space(self, method: Method, seed: int) -> Space:
        """Return the training set's documents and queries as the trained encoder sees them."""
        if (method, seed) not in self._spaces:
            self._spaces[method, seed] = self._make(method, seed)
        return self._spaces[method, seed]

    def _make(self, method: Method, seed: int) -> Space:
        """Train the encoder, or find it trained; return its space."""
        recipe, out, key = self._recipe_of(method, seed), self._folder_of(method, seed), self._key(method, seed)
        identity = self._identity(method, recipe)
        # ADORE keeps STAR's documents; making these again also sees that STAR's folder is of the same settings.
        docs_NR = self.space("STAR", seed).docs_NR if method == "ADORE + STAR" else None
        if self._run.cache.get(key, identity, _TrainedEncoder) is not None:
            say("compare", f"{method}, seed {seed}: reused {out}")
            return self._encoded(out, docs_NR)
        # Train, in place of what may be there.
        shutil.rmtree(out, ignore_errors=True)
        rounds = ANCE_ROUNDS if method == "ANCE" else 1
        steps = rounds * recipe.epochs * len(self._given.query_rows())
        with track("compare", f"{method}, seed {seed}", steps, "queries") as progress:

            def done(queries: int, loss: float) -> None:
                progress.advance(queries, f"loss {loss:.3f}")

            if docs_NR is not None:
                star_folder, device = self._folder_of("STAR", seed), self._search_device
                space = adore(
                    star_folder, docs_NR, self._given, recipe, out, encode=self._encode, device=device, done=done
                )
            else:
                space = star(
                    self._folder,
                    self._space_of_start(),
                    self._given,
                    recipe,
                    out,
                    encode=self._encode,
                    device=self._search_device,
                    rounds=rounds,
                    in_batch=method == "STAR",
                    done=done,
                )
        self._run.cache.put(key, identity, _TrainedEncoder(seed=seed), [out / name for name in folder_sha256(out)])
        return space

    def _identity(self, method: Method, recipe: Recipe) -> str:
        """Return a digest of all that decides a trained encoder."""
        given = self._given
        rows = [given.pairs.query_rows_P.tolist(), given.pairs.doc_rows_P.tolist()]
        return digest(
            {
                "method": method,
                "start": [self._start.model_dump(mode="json"), folder_sha256(self._folder)],
                "prompts": given.prompts,
                "texts": [digest(given.documents.texts), digest(given.queries.texts)],
                "given": digest([rows, [sorted(given.known[row]) for row in sorted(given.known)]]),
                "recipe": asdict(recipe),
                "versions": versions(),
            }
        )

    def _recipe_of(self, method: Method, seed: int) -> Recipe:
        return replace(
            self._recipe,
            kind="bi-encoder",
            loss="logistic",
            epochs=1 if method == "ANCE" else EPOCHS,
            learning_rate=LEARNING_RATE,
            pairs_per_batch=QUERIES_PER_STEP,
            seed=seed,
        )

    def _key(self, method: Method, seed: int) -> str:
        return f"{ENCODERS}/{method.lower().replace(' + ', '-')}-{seed}{self._suffix}"

    def _folder_of(self, method: Method, seed: int) -> Path:
        return self._run.out / self._key(method, seed)

    def _space_of_start(self) -> Space:
        """Return what the ensemble's own encoder makes of the texts."""
        return Space(
            docs_NR=self._encode_by(self._start, self._given.documents, "document"),
            queries_QR=self._encode_by(self._start, self._given.queries, "query"),
        )

    def _encoded(self, folder: Path, docs_NR: Float32 | None) -> Space:
        """Return the space of a trained encoder; `docs_NR` are its documents, if it does not encode them itself."""
        if docs_NR is None:
            docs_NR = self._encode(folder, self._given.documents, "document")
        return Space(docs_NR=docs_NR, queries_QR=self._encode(folder, self._given.queries, "query"))

    def _encode(self, folder: Path, texts: Texts, role: Role) -> Float32:
        """Return a unit vector a text by a trained encoder, which reads as many tokens as it was trained with."""
        most = self._start.max_tokens  # None: as many as its folder says
        tokens = None if most is None else min(most, self._recipe.max_tokens)
        trained = {"name": folder.name, "model": str(folder), "max_tokens": tokens}
        return self._encode_by(self._start.model_copy(update=trained), texts, role)
