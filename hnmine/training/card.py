"""The model card of a fine-tuned re-ranker: README.md in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hnmine.config.training import LOADED_BY, Kind
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.runs.manifest import versions

_CALLS: dict[Kind, str] = {
    "cross-encoder": "model.predict([('query', 'document')])",
    "bi-encoder": "model.similarity(model.encode_query('query'), model.encode_document('document'))",
}


def model_card(name: str, kind: Kind, data: str, dev_by_step: Mapping[str, float], recipe: Mapping[str, Any]) -> str:
    """Return the card; `data` says in sentences what the re-ranker was trained on."""
    rows = "\n".join(f"| {step} | {value:.4f} |" for step, value in dev_by_step.items())
    settings = f"{json.dumps(recipe, indent=1)}\n{json.dumps(versions(), indent=1)}"
    return (
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\ntags: [{kind}, hnmine]\n---\n"
        f"# Re-ranker `{name}`, fine-tuned by hnmine\n\n"
        f"{data}\n\n"
        f"| step | {MAIN_METRIC} on dev |\n|---|---|\n{rows}\n\n"
        f"```json\n{settings}\n```\n\n"
        f"```python\nfrom sentence_transformers import {LOADED_BY[kind]}\n"
        f"model = {LOADED_BY[kind]}('path of this folder')\n{_CALLS[kind]}\n```\n"
    )
