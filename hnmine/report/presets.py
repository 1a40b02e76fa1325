"""Named encoders and re-rankers as `hnmine presets` lists them."""

from __future__ import annotations

from hnmine.config.encoders import MODELS, PRESETS, ModelFacts
from hnmine.config.rerankers import RERANKERS
from hnmine.runs.tables import text_table


def presets_table() -> str:
    """Return every preset with its models, and what one chooses them by."""
    encoders = []
    for name, ensemble in PRESETS.items():
        models = [encoder.model.partition("@")[0] for encoder in ensemble if encoder.model]
        encoders += [(name if at == 0 else "", model, *_facts(MODELS[model])) for at, model in enumerate(models)]
    rerankers = [(name, preset.model.partition("@")[0], *_facts(preset)) for name, preset in RERANKERS.items()]
    header = ("model", "size", "languages", "licence", "layout", "run on")
    return "\n".join(
        (
            "encoders: --set encoders=NAME (each model is pinned to a commit; the default adds a lexical encoder)",
            text_table(encoders, ("name", *header), left=(0, 1, 3, 4, 5, 6)),
            "",
            "re-rankers: --set train.model=NAME, hnmine rank --model NAME (each is pinned to a commit)",
            text_table(rerankers, ("name", *header), left=(0, 1, 3, 4, 5, 6)),
        )
    )


def _facts(facts: ModelFacts) -> tuple[str, ...]:
    return facts.parameters, facts.languages, facts.licence.partition(":")[0], facts.layout, facts.run_on
