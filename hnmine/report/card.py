"""Model cards for the hub: README.md of each re-ranker, and the head of a ranker's, from what the manifest says.

https://huggingface.co/docs/hub/model-cards: front matter in YAML, with the figures as `model-index`. Nothing
is invented: licence, languages and data sets are settings, a base model is named if it is one of the hub, and no path
of this machine is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.constants import HF_HUB_CACHE

from hnmine.config.encoders import MODELS
from hnmine.config.rerankers import RERANKERS as PRESETS
from hnmine.config.steps import CardFacts
from hnmine.config.training import LOADED_BY, Kind
from hnmine.models.folder import MINILM_NAMES
from hnmine.ranking.evaluate import BEFORE, DEV_ALONE
from hnmine.ranking.measures import MAIN_METRIC, METRICS, Paired
from hnmine.report.rankings import asked
from hnmine.runs.folder import RERANKERS, START, Run

_CALLS: dict[Kind, str] = {
    "cross-encoder": "print(model.predict([(query, text) for text in texts]))",
    "bi-encoder": "print(model.similarity(model.encode_query(query), model.encode_document(texts)))",
}
_EXAMPLE = """\
query = "how do I reset my password?"
texts = ["To reset your password, open the settings and choose Security.", "Our offices are closed on public holidays."]
"""
_INTERVAL = ": 95 % interval, p of a paired randomisation test"
USE = """## Intended use

Puts in order the documents that a first stage found for a query, in the domain of its data. It was tested behind one
first stage alone, on the documents that this finds; it cannot bring back what the first stage misses.

## Limits

The figures hold for the collection that it was trained and tested on. Other domains, languages, longer texts and other
first stages were not tried. Few queries make wide intervals; documents that nobody judged count as wrong, though
some are right. Scores order the documents of one query; across queries they say nothing.
"""


def write_reranker_cards(run: Run) -> None:
    """Write README.md of each re-ranker that the run trained; with figures where these are known."""
    training = run.manifest["training"]
    for name, facts in {**training["presets"], START: training["start"]}.items():
        if "recipe" not in facts:  # the start came as it is
            continue
        row = "before: warm-started" if name == START else f"after: {name}"
        run.write_text(f"{RERANKERS}/{name}/README.md", _reranker_card(run, name, row, facts))


def head_ranker_card(run: Run) -> None:
    """Put front matter at the head of OUT/ranker/README.md, and what it was made from at its end."""
    path, chosen = run.out / "ranker" / "README.md", run.manifest["ranker"]["chosen"]
    spec = json.loads((run.out / "ranker" / "ranker.json").read_text(encoding="utf-8"))
    models = {part["path"].partition("@")[0] for part in spec["parts"].values() if "@" in part["path"]}
    if "re-ranker" in spec["parts"] and "training" in run.manifest:
        models |= {hub_name(run.manifest["training"]["start"]["model"]) or ""}
    data = _data(run, chosen, "hnmine", sorted(models - {""}), ["ranker"])
    made = _made(run, is_trained="re-ranker" in spec["parts"] and not chosen.startswith(f"{BEFORE}as given"))
    text = f"{_tests(run, chosen)}\n{USE}\n{made}\n{_licence(run.config.ranker.card)}"
    run.write_text("ranker/README.md", _card(data, f"{path.read_text(encoding='utf-8').rstrip()}\n\n{text}"))


def hub_name(model: str) -> str | None:
    """Return the name on the hub of a model that came from there; None of a folder, whatever it is called."""
    cached = Path(model).parent.parent.name
    if Path(model).parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    if model in MINILM_NAMES:
        return MINILM_NAMES[-1]
    name = model.partition("@")[0]
    is_fetched = (Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir()
    return name if name.count("/") == 1 and is_fetched and not Path(model).exists() else None


def licence_of(model: str) -> str:
    """Return a model of the hub with its licence, if it is one that hnmine lists."""
    listed = {preset.model.partition("@")[0]: preset.licence for preset in PRESETS.values()}
    listed |= {name: facts.licence for name, facts in MODELS.items()}
    licence = listed.get(model) or listed.get(model.rpartition("/")[2])
    return f"{model} ({licence})" if licence else model


def _reranker_card(run: Run, name: str, row: str, facts: Mapping[str, Any]) -> str:
    """Return the card of one re-ranker; `row` is what the table calls it."""
    training, kind = run.manifest["training"], facts["recipe"]["kind"]
    base, loads = hub_name(training["start"]["model"]), LOADED_BY[kind]
    data = _data(run, row, "sentence-transformers", [base] if base else [], [kind])
    steps = "\n".join(f"| {step} | {value:.4f} |" for step, value in facts["dev_by_step"].items())
    settings = _public({"training": facts["recipe"], "max_tokens": training["max_tokens"], "hnmine": _versions(run)})
    text = (
        f"# Re-ranker `{name}`, fine-tuned by hnmine\n\n"
        f"```python\nfrom sentence_transformers import {loads}\n"
        f"model = {loads}('path of this folder')\n{_EXAMPLE}{_CALLS[kind]}\n```\n\n"
        f"It reads {training['max_tokens']:,} tokens of query and document together.\n\n"
        f"{_tests(run, row)}\n{USE}\n{_made(run)}"
        f"* {facts['lists']:,} lists trained on; step {facts['best_step']} of {facts['steps']} was kept: the start, "
        "step 0, must be beaten on dev\n"
        f"* base model: {licence_of(base) if base else 'a folder that is not of the hub'}\n\n"
        f"| step | {MAIN_METRIC} on dev |\n|---|---|\n{steps}\n\n"
        f"## Settings\n\n```json\n{json.dumps(settings, indent=1)}\n```\n\n{_licence(run.config.ranker.card)}"
    )
    return _card(data, text)


def _data(run: Run, row: str, library: str, base: list[str], tags: list[str]) -> ModelCardData:
    """Return the front matter, with the figures of this row of the table if it was evaluated."""
    card, evaluation = run.config.ranker.card, run.manifest.get("evaluation", {})
    values, datasets = evaluation.get("metrics", {}).get(row, {}), card.get("datasets", [])
    results = [
        EvalResult(
            task_type="text-ranking",
            task_name="Re-ranking behind a first stage",
            dataset_type=datasets[0] if len(datasets) == 1 else "unknown",
            dataset_name="the collection that hnmine was given",
            dataset_split="dev" if evaluation.get("test_is_dev") else evaluation["split"],
            metric_type=metric.lower(),
            metric_name=metric,
            metric_value=round(values[metric], 4),
        )
        for metric in METRICS
        if metric in values
    ]
    named = {"model_name": "hnmine", "eval_results": results} if results else {}
    return ModelCardData(
        base_model=base or None,
        language=card.get("language"),
        license=card.get("license"),
        library_name=library,
        pipeline_tag="text-ranking",
        datasets=datasets or None,
        tags=["hnmine", "hard-negatives", *tags],
        **named,
    )


def _tests(run: Run, row: str) -> str:
    """Return the figures beside those of the first stage and the start, and the intervals of the changes."""
    evaluation = run.manifest.get("evaluation", {})
    if row not in evaluation.get("metrics", {}):
        return "Not yet measured on test queries: `hnmine evaluate` does.\n"
    shown = [name for name in evaluation["metrics"] if name == row or name.startswith(("first stage", "before"))]
    lines = [f"## Figures on {evaluation['queries']:,} {asked(evaluation['split'])}\n"]
    lines += [f"{DEV_ALONE}\n"] if evaluation.get("test_is_dev") else []
    lines.append(f"| | {' | '.join(METRICS)} |")
    lines.append("|---" * (len(METRICS) + 1) + "|")
    for name in shown:
        values = " | ".join(f"{evaluation['metrics'][name][metric]:.3f}" for metric in METRICS)
        lines.append(f"| {'**' * (name == row)}{name}{'**' * (name == row)} | {values} |")
    against = {"the start": "against_start", str(evaluation.get("untrained")): "against_untrained"}
    lines += [""] + [
        f"* {MAIN_METRIC} against {other}: {Paired(**test)}{_INTERVAL * (not Paired(**test).too_few)}"
        for other, key in against.items()
        if (test := evaluation.get(key, {}).get(row, {}).get(MAIN_METRIC))
    ]
    return "\n".join(lines) + "\n"


def _made(run: Run, *, is_trained: bool = True) -> str:
    """Return what data it was made from, counted; what was mined has a part in what was trained alone."""
    mining = run.manifest.get("mining", {})
    counts, lines = mining.get("counts", {}), [f"## Made from\n\n* hnmine {_versions(run).get('hnmine', '')}"]
    for name in ("documents", "queries", "pairs", "negatives") if is_trained else ("documents",):
        if name in counts:
            label = {"queries": "train queries", "pairs": "train pairs", "negatives": "hard negatives"}.get(name, name)
            lines.append(f"* {counts[name]:,} {label}")
    if datasets := run.config.ranker.card.get("datasets"):
        lines.append(f"* data: {', '.join(datasets)}")
    return "\n".join(lines) + "\n"


def _licence(card: CardFacts) -> str:
    if "license" in card:
        return ""
    return "## Licence\n\nNone is stated here (`ranker.card`). Those of the base models and of the data hold.\n"


def _versions(run: Run) -> dict[str, str]:
    sections = [run.manifest.get(step, {}) for step in ("training", "evaluation")]
    return next((each["versions"] for each in sections if "versions" in each), {})


def _public(value: Any) -> Any:
    """Return settings as others may see them: of a path of this machine the last name alone."""
    if isinstance(value, Mapping):
        return {key: _public(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    is_path = isinstance(value, str) and value.startswith(("/", "~", "."))
    return Path(value).name if is_path else value


def _card(data: ModelCardData, text: str) -> str:
    """Return a card whose front matter the hub's own reader reads again."""
    card = f"---\n{data.to_yaml()}\n---\n\n{text}"
    ModelCard(card, ignore_metadata_errors=False)
    return card
