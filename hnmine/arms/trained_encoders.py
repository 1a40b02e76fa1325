"""Spaces of bi-encoders trained by STAR, ADORE + STAR or ANCE (`encoder_training`), in which arms look.

Each begins with one model of the ensemble, whose vectors are in the store. A trained encoder is kept in
OUT/encoders/<name>-<seed>, what decides it in the run's cache, and its vectors are in the store; so it is made once.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from hnmine.arms.arm import Method, trainable_encoder
from hnmine.arms.encoder_training import TrainingSet, adore, star
from hnmine.config.encoders import EncoderConfig
from hnmine.config.root import Config
from hnmine.embedding.ensemble import Ensemble
from hnmine.errors import ConfigError
from hnmine.models.folder import declared_prompts, folder_sha256, resolve
from hnmine.runs.device import choose_device
from hnmine.runs.files import digest
from hnmine.runs.folder import Run
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.training.gradient import Recipe
from hnmine.training.trainer import LORA_RATE
from hnmine.types import Float32, Role, Space, Texts, unit_rows

ENCODERS = "encoders"
"""The folder in OUT, and in the cache, of the encoders that were trained."""
EPOCHS, LEARNING_RATE, QUERIES_PER_STEP = 3, 2e-5, 32
ANCE_ROUNDS = 3  # each is one epoch


class TrainedEncoders:
    """Encoders trained on one training set from one start."""

    def __init__(self, given: TrainingSet, recipe: Recipe, config: Config, run: Run, suffix: str = "") -> None:
        """Find the start, the first of the configured encoders that can be trained.

        Of `recipe` device, number type and tokens are taken. `suffix` ends the names under which encoders are kept,
        where several training sets share a run.
        """
        start = trainable_encoder(config.encoders)
        assert start is not None
        assert start.model is not None
        self._start, self._folder = start, resolve(start.model, dense_head=start.dense_head)
        if run.replaces(self._folder):
            raise ConfigError(f"encoders: {self._folder} is in --out, where it may be replaced; choose another --out")
        self._recipe, self._config, self._run, self._suffix = recipe, config, run, suffix
        configured: dict[Role, str | None] = {"query": start.query_prompt, "document": start.document_prompt}
        given_prompts = {role: prompt for role, prompt in configured.items() if prompt is not None}
        self._given = replace(given, prompts=declared_prompts(self._folder) | given_prompts)

    def space(self, method: Method, seed: int) -> Space:
        """Return the training set's documents and queries as an encoder sees them that is trained, or was before."""
        # ADORE keeps STAR's documents; making these again also sees that STAR's folder is of the same settings.
        docs_NR = self.space("STAR", seed).docs_NR if method == "ADORE + STAR" else None
        lora = self._recipe.lora and self._recipe.lora | {"keep": "merged"}  # the store encodes by whole models
        recipe = replace(
            self._recipe,
            kind="bi-encoder",
            loss="logistic",
            epochs=1 if method == "ANCE" else EPOCHS,
            learning_rate=LEARNING_RATE * (LORA_RATE if lora else 1),
            lora=lora,
            pairs_per_batch=QUERIES_PER_STEP,
            seed=seed,
        )
        identity, key = self._identity(method, recipe), self._key(method, seed)
        out = self._run.out / key
        trained = self._trained(out)
        if self._run.cache.get(key, identity, EncoderConfig) is not None:
            say("compare", f"{method}, seed {seed}: reused {out}")
        else:
            self._run.claim(key)
            hidden = out.with_name(f".{out.name}.tmp")
            shutil.rmtree(hidden, ignore_errors=True)  # left by a call that was killed
            self._train(method, recipe, docs_NR, hidden)
            self._run.place(hidden, key)
            self._run.cache.put(key, identity, trained, [out / name for name in folder_sha256(out)])
        return self._space_of(trained, docs_NR)

    def encode(self, encoder: EncoderConfig, texts: Texts, role: Role) -> Float32:
        """Return a unit vector a text by any encoder, from the store or else computed as configured."""
        config, nothing = self._config.model_copy(update={"encoders": (encoder,)}), Texts(ids=(), texts=())
        documents, queries = (texts, nothing) if role == "document" else (nothing, texts)
        ensemble = Ensemble(config, documents, config.embed.store or self._run.out / "store")
        return unit_rows(ensemble.vectors(queries)[0].take(role, np.arange(len(texts))))

    def _train(self, method: Method, recipe: Recipe, docs_NR: Float32 | None, out: Path) -> None:
        """Train an encoder into the folder `out`; `docs_NR` are the documents of ADORE."""
        device, rounds = choose_device(self._config.device, needs="faiss-gpu"), ANCE_ROUNDS if method == "ANCE" else 1
        queries = rounds * recipe.epochs * len(self._given.query_rows())
        with track("compare", f"{method}, seed {recipe.seed}", queries, "queries") as progress:

            def done(queries: int, loss: float) -> None:
                progress.advance(queries, f"loss {loss:.3f}")

            if docs_NR is not None:
                star_folder = self._run.out / self._key("STAR", recipe.seed)
                adore(star_folder, docs_NR, self._given, recipe, out, device=device, done=done)
                return
            star(
                self._folder,
                self._space_of(self._start),
                self._given,
                recipe,
                out,
                space_of=lambda folder: self._space_of(self._trained(folder)),
                device=device,
                rounds=rounds,
                in_batch=method == "STAR",
                done=done,
            )

    def _space_of(self, encoder: EncoderConfig, docs_NR: Float32 | None = None) -> Space:
        """Return the training set as an encoder sees it; `docs_NR` are its documents, if it does not encode them."""
        if docs_NR is None:
            docs_NR = self.encode(encoder, self._given.documents, "document")
        return Space(docs_NR=docs_NR, queries_QR=self.encode(encoder, self._given.queries, "query"))

    def _trained(self, folder: Path) -> EncoderConfig:
        """Return the encoder in a folder, which reads as many tokens as it was trained with."""
        most = self._start.max_tokens  # None: as many as its folder says
        tokens = None if most is None else min(most, self._recipe.max_tokens)
        return self._start.model_copy(update={"name": folder.name, "model": str(folder), "max_tokens": tokens})

    def _key(self, method: Method, seed: int) -> str:
        return f"{ENCODERS}/{method.lower().replace(' + ', '-')}-{seed}{self._suffix}"

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
