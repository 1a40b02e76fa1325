"""All re-rankers that were trained into a run, whatever command did it: none is demoted by a later and worse one.

OUT/cache/trained/<name>.json     what OUT/rerankers/<name> is, with the sha256 of its files

A model of the same name that another training is about to replace is set aside as <name>-earlier, and stays there as
long as it is better on dev.
"""

from __future__ import annotations

import shutil
from typing import Any

from pydantic import BaseModel, ConfigDict

from hnmine.config.training import Kind
from hnmine.ranking.evaluate import KeptScores
from hnmine.ranking.measures import MAIN_METRIC, means, measure
from hnmine.ranking.rows import DEV
from hnmine.runs.folder import RERANKERS
from hnmine.runs.progress import say
from hnmine.training.trainer import Trainer, Training

_EARLIER = "-earlier"


class Trained(BaseModel):
    """A re-ranker of OUT/rerankers, and what it is worth."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Kind
    max_tokens: int
    model: str
    """That it was trained from."""
    held_out: str
    """How the dev queries came about: of others it may have been trained on some."""
    dev_identity: str
    dev: float
    """MAIN_METRIC on these."""
    training: Training

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        facts = {"kind": self.kind, "max_tokens": self.max_tokens, "model": self.model}
        return self.training.model_dump() | facts | {"dev": self.dev}


class Shelf:
    """The re-rankers of a run by name, those of earlier commands too."""

    def __init__(self, trainer: Trainer, *, earlier: bool = True) -> None:
        """Find what earlier commands have left, and measure it on the dev queries of today."""
        data, config = trainer.data, trainer.config
        self._trainer, self._run, self._dev = trainer, trainer.run, data.dev
        self._identity = data.dev.identity
        self._held_out = data.dev_name + (f", seed {config.seed}" if "%" in data.dev_name else "")
        found = self._run.cache.all("trained", Trained) if earlier else {}
        self.known = {name: self._today(name, each) for name, each in found.items() if self._is_comparable(name, each)}

    def make_room(self, name: str, identity: str) -> None:
        """Set a model aside that a training of another identity would replace, unless a better one is there."""
        before, aside = self.known.get(name), f"{name}{_EARLIER}"
        if before is None or before.training.identity == identity:
            return
        rival = self.known.get(aside)
        if rival is None or rival.dev < before.dev:
            self._run.claim(f"{RERANKERS}/{aside}")
            shutil.rmtree(self._trainer.folder(aside), ignore_errors=True)
            self._trainer.folder(name).rename(self._trainer.folder(aside))
            self._note(aside, before)
        self._forget(name)

    def add(self, name: str, training: Training) -> None:
        """Take what was trained now; what was set aside for it goes if it is no better."""
        config = self._trainer.config.train
        self._note(
            name,
            Trained(
                kind=config.kind,
                max_tokens=config.max_tokens,
                model=config.model,
                held_out=self._held_out,
                dev_identity=self._identity,
                dev=training.dev,
                training=training,
            ),
        )
        aside = self.known.get(f"{name}{_EARLIER}")
        if aside is not None and aside.dev <= training.dev:
            self._forget(f"{name}{_EARLIER}")
            shutil.rmtree(self._trainer.folder(f"{name}{_EARLIER}"), ignore_errors=True)

    def files(self) -> dict[str, str]:
        """Return the sha256 of the models' files, by path in OUT."""
        return {path: sha for name in self.known for path, sha in self._run.cache.files(f"trained/{name}").items()}

    def _note(self, name: str, trained: Trained) -> None:
        folder = self._trainer.folder(name)
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
        self._run.cache.put(f"trained/{name}", trained.training.identity, trained, files)
        self.known[name] = trained

    def _forget(self, name: str) -> None:
        self._run.cache.drop(f"trained/{name}")
        del self.known[name]

    def _is_comparable(self, name: str, trained: Trained) -> bool:
        if trained.held_out == self._held_out:
            return True
        other = f"{trained.held_out} chose its step, and it may have been trained on some of {self._held_out}"
        say("train", f"{name} of an earlier command is left out of the choice: {other}")
        return False

    def _today(self, name: str, trained: Trained) -> Trained:
        """Return a model with its worth on the dev queries of today."""
        if trained.dev_identity == self._identity:
            return trained
        kept = KeptScores(self._run, trained.kind, trained.max_tokens)
        (scores_QK,) = kept.of_folder({f"{DEV}after: {name}": self._dev}, self._trainer.folder(name))
        dev = means(measure(self._dev, scores_QK))[MAIN_METRIC]
        return trained.model_copy(update={"dev": dev, "dev_identity": self._identity})
