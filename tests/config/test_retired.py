"""A setting that is gone or renamed is answered with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from hnmine.config.base import section_of
from hnmine.config.load import load
from hnmine.config.retired import RETIRED
from hnmine.config.root import Config
from hnmine.errors import ConfigError

BEFORE = {
    "sources": "template train_split dev_split test_split dev_share seed",
    "encoders.*": "name model precomputed revision query_prompt document_prompt max_tokens long_documents max_passages "
    "architecture dense_head query_adapter document_adapter trust_remote_code dtype engine weight tokens_per_batch "
    "gpus",
    "encoders.*.lexical": "width max_terms seed fit",
    "embed": "store device actors block_texts tokens_per_batch ray",
    "reduce": "variance fit_rows seed basis device",
    "search": "candidates index ivf_lists ivf_probes ivf_seed shards device",
    "select": "negatives",
    "guards": "first_rank last_rank margin relative_margin near_duplicate agreement",
    "guards.denoise": "model revision margin most max_tokens dtype engine device",
    "train": "model revision kind presets loss margin scale epochs learning_rate warmup_share weight_decay clip_norm "
    "dropout pairs_per_batch in_batch_negatives max_tokens max_pairs evaluations_per_epoch patience mlflow dev_queries "
    "dtype engine device workers ray seed",
    "train.auto": "arms learning_rates pairs",
    "train.warm_up": "epochs learning_rate negatives layers",
    "train.distill": "lessons documents",
    "train.anchors": "source per_pair depth",
    "train.teacher": "model revision max_tokens dtype engine",
    "evaluate": "first_stage depth long_documents blend queries seed k1 b",
    "compare": "arms seeds negatives learning_rates sizes models",
    "nightly": "refit_variance refit_share train_share promote_margin keep lease work",
}
"""Every setting of version 0.1.0 by its section."""
KEYS_BEFORE = [f"{section}.{key}" for section, keys in BEFORE.items() for key in keys.split()]


def keys_now(section: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    keys = set()
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        keys.add(f"{prefix}{name}")
        keys |= keys_now(inner, f"{prefix}{name}." + ("*." if name == "encoders" else "")) if inner else set()
    return keys


def tree_with(key: str, value: Any = 7) -> dict[str, Any]:
    """Return settings that hold nothing but this key."""
    name, _, rest = key.partition(".")
    if rest.startswith("*."):
        return {name: [tree_with(rest.removeprefix("*."), value)]}
    return {name: tree_with(rest, value) if rest else value}


@pytest.mark.parametrize("key", sorted(set(KEYS_BEFORE) - keys_now()))
def test_a_key_that_is_gone_is_answered_with_a_remedy(key: str, tmp_path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(tree_with(key)))
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = [line.strip() for line in str(caught.value).removeprefix(f"{path}: ").splitlines()]
    answers = [line for line in lines if line.startswith(f"{key.replace('*', '0')}: ")]
    assert len(answers) == 1
    assert any(word in answers[0] for word in ("write ", "remove it", "compare")), answers
    assert "unknown key" not in answers[0]


def test_no_key_that_exists_is_called_gone() -> None:
    assert not keys_now() & RETIRED.keys()


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("reduce.seed=3", "reduce.seed: write seed=N, without a section"),
        ("train.anchors={per_pair: 5, depth: 9}", "train.anchors.depth: remove it; it is always 50"),
        ("train.anchors.per_pair=5", "train.anchors.per_pair: write train.anchors=N"),
        ("train.distill.lessons=5", "train.distill.lessons: write train.lessons=N"),
        ("train.teacher.model=a/b", "train.teacher.model: write train.teacher=MODEL"),
        ("train.warm_up={layers: 3}", "train.warm_up.layers: remove it; all layers are kept"),
        ("encoders=[{name: a, model: m, revision: abc}]", "encoders.0.revision: write the commit after the model's"),
        ("encoders=[{name: a, model: m, long_documents: max}]", "encoders.0.long_documents: write mean"),
        ("encoders=[{name: a, lexical: {fit: x}}]", "encoders.0.lexical.fit: remove it; a night keeps"),
        ("train.presets=[paper, auto]", "train.presets: auto: preset auto is gone; `hnmine compare --quick`"),
        ("compare.arms=[positives only]", "compare.arms: positives-only: write positives"),
        ("train.presets=two conditions, expanded queries", "expanded queries are gone, they gained nothing; take two-"),
        ("compare.arms=['two conditions, relabelled, then BM25']", "compare.arms: two-conditions-relabelled-then-bm25"),
    ],
)
def test_the_answer_names_the_key_and_what_to_write(override: str, answer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=[override])
    assert answer in str(caught.value)


def test_a_remedy_can_be_followed() -> None:
    """What the table says to write is a setting."""
    for key, remedy in RETIRED.items():
        if remedy.startswith("write ") and "=" in remedy:
            name = remedy.removeprefix("write ").partition("=")[0]
            assert name in keys_now(), key
