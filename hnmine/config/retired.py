"""Settings that are gone or have another name, each with what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

_SEED = "write seed=N, without a section: one seed serves every draw"
_DEVICE = "write device=auto, cpu or gpu, without a section: one device serves every step"
_ENGINE = "write engine=auto, torch or openvino, without a section: one engine serves every model"
_RAY = "write ray=null, true or false, without a section: it holds for encoding and training"
_COMMIT = "write the commit after the model's name, NAME@COMMIT"
_COMPARE = "preset auto is gone; `hnmine compare --quick` answers its question, and its last line trains the winner"


def _always(value: str) -> str:
    return f"remove it; it is always {value}"


RETIRED: Final[dict[str, str]] = {
    "sources.seed": _SEED,
    "encoders.*.revision": _COMMIT,
    "encoders.*.trust_remote_code": "remove it; Python code from a model's repository never runs",
    "encoders.*.architecture": "remove it; a GTE model is recognised by its config.json",
    "encoders.*.engine": _ENGINE,
    "encoders.*.tokens_per_batch": "write embed.tokens_per_batch, which holds for every encoder",
    "encoders.*.max_passages": _always("16"),
    "encoders.*.lexical.max_terms": _always("50,000"),
    "encoders.*.lexical.seed": _SEED,
    "encoders.*.lexical.fit": "remove it; a night keeps the fit of the one before by itself",
    "embed.device": _DEVICE,
    "embed.ray": _RAY,
    "embed.block_texts": _always("512"),
    "reduce.seed": _SEED,
    "reduce.device": _DEVICE,
    "search.device": _DEVICE,
    "search.candidates": "remove it; the list grows from 64 as far as the proof needs it",
    "search.ivf_lists": "remove it; the number follows from the number of documents",
    "search.ivf_seed": _SEED,
    "guards.relative_margin": "write guards.margin, the largest d(Q,PD) - d(Q,D)",
    "guards.denoise.revision": _COMMIT,
    "guards.denoise.max_tokens": _always("256"),
    "guards.denoise.dtype": _always("the fastest number type that the device computes"),
    "guards.denoise.engine": _ENGINE,
    "guards.denoise.device": _DEVICE,
    "train.revision": _COMMIT,
    "train.auto": _COMPARE,
    "train.warm_up": "remove it; a model without a ranking head is warmed up for 1 epoch at 5e-5 on 3 random negatives",
    "train.warm_up.layers": "remove it; all layers are kept: start from a smaller model instead",
    "train.distill": "write train.lessons=N",
    "train.distill.lessons": "write train.lessons=N",
    "train.distill.documents": _always("6"),
    "train.anchors.per_pair": "write train.anchors=N",
    "train.anchors.source": "remove it; other easy negatives are arms: --preset mistakes-of-the-start, or random",
    "train.anchors.depth": _always("50"),
    "train.teacher.model": "write train.teacher=MODEL",
    "train.teacher.revision": "write train.teacher=NAME@COMMIT",
    "train.teacher.max_tokens": _always("256"),
    "train.teacher.dtype": _always("the fastest number type that the device computes"),
    "train.teacher.engine": _ENGINE,
    "train.scale": _always("1, or 20 for a bi-encoder"),
    "train.warmup_share": _always("0.1"),
    "train.weight_decay": _always("0.01"),
    "train.clip_norm": _always("1"),
    "train.dropout": "remove it; fine-tuning runs with dropout off",
    "train.in_batch_negatives": "remove it; train an arm that has them, --preset in-batch or bm25-and-in-batch",
    "train.patience": "remove it; the best look at dev is kept, however many follow it",
    "train.engine": _ENGINE,
    "train.device": _DEVICE,
    "train.ray": _RAY,
    "train.seed": _SEED,
    "evaluate.seed": _SEED,
    "compare.negatives": _always("4, the same for every arm"),
    "nightly.lease": _always("60 seconds"),
}
"""Remedy by key; `*` stands for the position in a list. A key without an entry has that of the section it was in."""

RETIRED_VALUES: Final[dict[tuple[str, str], str]] = {
    ("encoders.*.long_documents", "max"): "write mean; the maximum made rankings worse wherever it was measured",
}
"""Remedy by key and value."""

_ARMS: Final[dict[str, str]] = {
    "auto": _COMPARE,
    "positives-only": "write positives",
    "two-conditions-relabelled-then-bm25": "relabelling did harm and is gone; take two-conditions-denoised-then-bm25",
    "two-conditions-expanded-queries": "expanded queries are gone, they gained nothing; take two-conditions",
}


def refuse_retired_arms(slugs: Iterable[str]) -> None:
    """Raise ValueError if a way to choose negatives, named by its slug, was removed; the message names another."""
    for name in slugs:
        if name in _ARMS:
            raise ValueError(f"{name}: {_ARMS[name]}")


def remedies(location: tuple[int | str, ...], value: Any) -> Iterator[tuple[str, str]]:
    """Yield (key, remedy) of each retired setting that stands at `location`, or below it in `value`."""
    if isinstance(value, dict):
        below = [found for key, inner in value.items() for found in remedies((*location, key), inner)]
        if below:
            yield from below
            return
    key = ".".join("*" if isinstance(part, int) else str(part) for part in location)
    remedy = RETIRED_VALUES.get((key, value)) if isinstance(value, str) else None
    while remedy is None and key:
        remedy, key = RETIRED.get(key), key.rpartition(".")[0]
    if remedy is not None:
        yield ".".join(map(str, location)), remedy
