"""Mine hard negatives for a domain, fine-tune a re-ranker on them, and prove the gain.

    import hnmine
    manifest = hnmine.run("my-search/", "out/")           # or hnmine.mine, hnmine.train, hnmine.evaluate
    config = hnmine.load_config(overrides=["select.negatives=4"])
    collection = hnmine.Collection.of(corpus, queries, qrels)  # of tables; takes the place of the folder
    table = hnmine.negatives("out/").to_pandas()          # what was mined, with ids
    print(hnmine.explain("my-search/", "out/", "q1"))     # why documents are its negatives, or are none
    hnmine.export("out/", "flagembedding", "to/")         # for another tool; `hnmine export --list`
    page = hnmine.report("out/")                          # OUT/report.html, made anew; every step leaves it
    ranker = hnmine.Ranker.load("out/ranker")             # ranker.rank(query, documents)

Nothing heavy is imported until a step is called.
"""

from importlib import import_module
from typing import Any

_ELSEWHERE = {
    "Collection": ("hnmine.corpus.objects", "Collection"),
    "Config": ("hnmine.config.root", "Config"),
    "HnmineError": ("hnmine.errors", "HnmineError"),
    "explain": ("hnmine.explaining", "explain"),
    "export": ("hnmine.report.exports", "export"),
    "Ranker": ("hnmine.ranker.ranker", "Ranker"),
    "load_config": ("hnmine.config.load", "load"),
    "nightly": ("hnmine.nights.night", "nightly"),
    "report": ("hnmine.report.page", "report"),
}
__all__ = ["Collection", "Config", "HnmineError", "Ranker", "audit", "compare", "embed", "evaluate", "load_config"]
__all__ += ["explain", "export", "mine", "negatives", "nightly", "rank", "report", "run", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hnmine' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, ("hnmine.pipeline", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
