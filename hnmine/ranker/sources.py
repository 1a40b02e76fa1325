"""The parts of a run's rankings: where they lie now, and how they get into a ranker's folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.models.folder import OTHER_RUNTIMES, resolve
from hnmine.models.lexical import Fit
from hnmine.project import Project
from hnmine.ranker.bm25 import Bm25Statistics
from hnmine.ranker.parts import Part
from hnmine.ranking.evaluate import RERANKER, Reranker

_NOT_COPIED = shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", ".*", *OTHER_RUNTIMES)


def sources(project: Project) -> dict[str, Part]:
    """Return first stage and encoders, by name, with the places where they are now; those that can score new texts."""
    config = project.config
    bm25 = config.evaluate.first_stage == "bm25"
    parts = {next(iter(project.evaluator.first_stage.alone.weights)): Part(kind="bm25" if bm25 else "given")}
    for encoder in config.encoders if config.evaluate.blend == "encoders" else ():
        if encoder.precomputed is None:
            path = project.ensemble.fits.get(encoder.name) or str(
                resolve(encoder.model or "", dense_head=encoder.dense_head).absolute()
            )
            parts[encoder.name] = Part(kind="encoder", path=path, encoder=encoder, engine=config.engine)
    return parts


def reranker_part(config: Config, reranker: Reranker) -> Part:
    """Return a re-ranker as a part, in its place."""
    reading: dict[str, Any] = {"max_tokens": reranker.max_tokens, "dtype": config.train.dtype}
    if reranker.kind == "cross-encoder":
        reading["passages"] = config.evaluate.long_documents == "maxp"
    path = str(reranker.folder.absolute())
    return Part(kind="re-ranker", path=path, reranker=reranker.kind, reading=reading, engine=config.engine)


def copied(part: Part, project: Project, name: str, root: Path) -> Part:
    """Put what a part needs into a ranker's folder; return the part as it is there."""
    if part.kind == "given":
        return part
    if part.kind == "bm25":
        evaluate, path = project.config.evaluate, "bm25.safetensors"
        Bm25Statistics.of(project.collection.documents.texts, k1=evaluate.k1, b=evaluate.b).save(root / path)
    elif part.encoder and part.encoder.lexical:
        content = Fit(project.store, part.path).read()
        if content is None:
            raise DataError(f"the lexical fit {part.path} is gone from {project.store}; run again")
        path = f"lexical/{part.path}"
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content.to_pybytes())
    elif pinned := _pinned(Path(part.path)):
        return part.model_copy(update={"path": pinned})
    else:
        path = RERANKER if part.kind == "re-ranker" else f"encoders/{name}"
        shutil.copytree(part.path, root / path, ignore=_NOT_COPIED)
    update: dict[str, Any] = {"path": path}
    if part.encoder and part.encoder.model:  # names no folder of this machine
        update["encoder"] = part.encoder.model_copy(update={"model": path})
    return part.model_copy(update=update)


def _pinned(folder: Path) -> str | None:
    """Return name@commit of a folder in the hub's cache; None of any other."""
    cached = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cached.startswith("models--"):
        return None
    return f"{cached.removeprefix('models--').replace('--', '/')}@{folder.name}"
