"""A run with trained re-rankers, without the training: what `hnmine evaluate` and the ranker begin with."""

from __future__ import annotations

from pathlib import Path

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.models.folder import folder_sha256
from hnmine.project import open_project
from hnmine.ranking.blend import blended
from hnmine.ranking.measures import rerank
from hnmine.runs.files import write_json
from tests.builders.models import load_cross_encoder, tiny_cross_encoder, tiny_word_encoder


def trained_run(out: Path, encoder: Path, seed: int = 1) -> Config:
    """Write tiny re-rankers and their manifest into OUT, and an encoder; return a configuration to evaluate with."""
    start, after = tiny_cross_encoder(out / "rerankers" / "start", seed=3), out / "rerankers" / "paper"
    tiny_cross_encoder(after, seed=seed)
    tiny_word_encoder(encoder)
    files = {
        f"rerankers/{folder.name}/{name}": sha
        for folder in (start, after)
        for name, sha in folder_sha256(folder).items()
    }
    training = {
        "start": {"model": "body", "warmed_up": True},
        "presets": {"paper": {}},
        "kind": "cross-encoder",
        "max_tokens": 64,
        "inputs": {},
        "best": "after: paper",
    }
    write_json(out / "manifest.json", {"training": training, "files": files})
    encoders = f"encoders=[{{name: lexical, lexical: {{width: 8}}}}, {{name: words, model: {encoder}, dtype: float32}}]"
    quick = ["device=cpu", "engine=torch", "ray=false", "train.dtype=float32", "evaluate.depth=9"]
    return load(overrides=[encoders, *quick])


def judge_by_a_sum(data: Path, work: Path, config: Config, reranker: Path) -> None:
    """Let the right document of dev and test queries be the first by a sum of two encoders and a re-ranker."""
    score = load_cross_encoder(reranker, max_tokens=64).raw_scores
    with open_project(data, work, config) as project:
        dev, test = project.evaluator.dev, project.evaluator.test
        assert dev is not None
        for name, task, parts in zip(("test", "dev"), (test, dev), project.evaluator.parts, strict=True):
            summed = {**parts, "re-ranker": rerank(task, score)}
            sum_QK = blended(task, summed, {"words": 0.5, "lexical": 0.2, "re-ranker": 0.3})
            rows = zip(task.queries.ids, task.doc_rows_QK, sum_QK.argmax(1), strict=True)
            lines = [f"{query}\t{task.document_ids[int(docs[at])]}\t1\n" for query, docs, at in rows]
            (data / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
