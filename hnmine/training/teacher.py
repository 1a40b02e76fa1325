"""The cross-encoder whose scores the losses `marginmse` and `kl` learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.embedding.score_store import ScoreStore
from hnmine.models.cross_encoder import CrossEncoder, resolve_cross_encoder
from hnmine.models.folder import folder_sha256
from hnmine.runs.device import Choice, choose_dtype
from hnmine.runs.hashing import digest
from hnmine.runs.progress import say, track
from hnmine.training.lists import Lists
from hnmine.types import Score

TEACHER_TOKENS = 256
"""Tokens of query and document together that the teacher reads."""


class Teacher:
    """A cross-encoder that is found at once, and loaded when the first list needs its scores."""

    def __init__(self, model: str, device: Choice, *, engine: str, scores: Path) -> None:
        """Find the model.

        Args:
            model: folder or hub name.
            device: where it scores.
            engine: auto, torch or openvino.
            scores: the folder where scores are kept.

        Raises:
            ModelError: it is missing or has no trained ranking head.
        """
        self._model, self._device = model, device
        dtype = choose_dtype("auto", device.kind)
        self._settings: dict[str, Any] = {"max_tokens": TEACHER_TOKENS, "dtype": dtype, "engine": engine}
        self._folder = resolve_cross_encoder("train.teacher", model)
        self._store = ScoreStore(scores, self._folder, self._settings, self._load)

    def facts(self) -> dict[str, Any]:
        """Return all that decides its scores."""
        return {"model": self._model, **self._settings, "files": digest(folder_sha256(self._folder))}

    def _load(self) -> Score:
        say("train", f"the teacher is {self._model} on {self._device}, {self._settings['dtype']}")
        return CrossEncoder(self._folder, device=self._device.torch_name, **self._settings).scores

    def teach(self, name: str, lists: Lists, scale: float) -> Lists:
        """Return the lists, those without a teacher with this one's scores, divided by the loss's `scale`."""
        # Score all documents of these lists.
        sizes = [len(lists.documents[i]) for i in lists.untaught]
        queries = [lists.queries[i] for i in lists.untaught for _ in lists.documents[i]]
        documents = [text for i in lists.untaught for text in lists.documents[i]]
        with track("train", f"{name}: taught", len(documents), "documents") as progress:
            scores = self._store.scores(queries, documents, progress.advance) / scale
        # Hand each list its own.
        teacher = list(lists.teacher or [()] * len(lists))
        for i, scores_of_list in zip(lists.untaught, np.split(scores, np.cumsum(sizes)[:-1]), strict=True):
            teacher[i] = tuple(scores_of_list.tolist())
        return replace(lists, teacher=tuple(teacher))
