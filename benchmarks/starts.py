"""The two re-rankers that a comparison begins with, and the data it may use.

    python benchmarks/starts.py --data DIR --apidocs DIR --out DIR [--pairs 1000]

A comparison of ways to choose negatives depends on where the re-ranker stands before, so there are two:

    OUT/cold      all-MiniLM-L6-v2 with a ranking head, tuned on API documentation: it has never
                  seen the domain
    OUT/deployed  that one, tuned on train queries of the domain with lists of its first stage: what a team has running

OUT/data is DIR without the train queries of OUT/deployed, so that no arm trains on what its start has seen. Both are
tuned for one epoch with InfoNCE over a positive and four of BM25's first 50. DIR of --apidocs is what `hnmine apidocs`
writes. `--cold` takes a cold start that was made before.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

import hnmine
from hnmine.config.root import Config
from hnmine.config.steps import SourcesConfig
from hnmine.config.training import TrainConfig

BODY = "all-MiniLM-L6-v2"
ARM = "random-of-bm25-s-first-50"


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder of the domain")
    parser.add_argument("--apidocs", type=Path, help="BEIR folder of API documentation")
    parser.add_argument("--cold", type=Path, help="a cold start that was made before")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs that each is tuned on, at most")
    parser.add_argument("--share", type=float, default=0.5, help="of the train queries that the deployed one may see")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--template", help="how a document's fields are joined, as sources.template")
    options = parser.parse_args()
    if (options.cold is None) == (options.apidocs is None):
        parser.error("give either --apidocs or --cold")
    options.out.mkdir(parents=True, exist_ok=True)
    cold = options.cold or options.out / "cold"
    settings = TrainConfig(max_pairs=options.pairs, max_tokens=options.max_tokens, dev_queries=100)
    if options.cold is None:
        tune(options.apidocs, settings.model_copy(update={"model": BODY}), cold)
    seen, unseen = divide(options.data, options.out, options.share)
    tune(seen, settings.model_copy(update={"model": str(cold)}), options.out / "deployed", options.template)
    print(f"compare on {unseen} from {cold} or {options.out / 'deployed'}")


def divide(data: Path, out: Path, share: float) -> tuple[Path, Path]:
    """Write two BEIR folders that share all but the train queries; return theirs: the deployed one's, and the rest."""
    header, *lines = (data / "qrels" / "train.tsv").read_text(encoding="utf-8").splitlines()
    queries = sorted({line.split("\t")[0] for line in lines})
    rng = np.random.default_rng(0)
    chosen = set(rng.choice(queries, size=round(share * len(queries)), replace=False).tolist())
    folders = out / "seen", out / "data"
    for folder, inside in zip(folders, (True, False), strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(data / "qrels", folder / "qrels")
        for name in ("corpus", "queries"):
            for suffix in (".jsonl", ".jsonl.gz"):
                if (path := data / f"{name}{suffix}").is_file():
                    (folder / path.name).symlink_to(path.resolve())
        kept = [line for line in lines if (line.split("\t")[0] in chosen) == inside]
        (folder / "qrels" / "train.tsv").write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    return folders


def tune(data: Path, settings: TrainConfig, out: Path, template: str | None = None) -> None:
    """Tune a model on lists of BM25's and put it into `out`; what was tuned before is reused."""
    sources = SourcesConfig(template=template) if template else SourcesConfig()
    run = out.with_name(f"{out.name}-run")
    hnmine.train(data, run, Config(train=settings.model_copy(update={"presets": (ARM,)}), sources=sources))
    shutil.copytree(run / "rerankers" / ARM, out, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
