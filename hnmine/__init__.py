"""Mine hard negatives for a domain, fine-tune a re-ranker on them, and prove the gain.

    import hnmine
    manifest = hnmine.run("my-search/", "out/")           # or hnmine.mine, hnmine.train, hnmine.evaluate
    config = hnmine.load_config(overrides=["select.negatives=4"])

Nothing heavy is imported until a step is called.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Config": "hnmine.config.root",
    "HnmineError": "hnmine.errors",
    "audit": "hnmine.pipeline",
    "compare": "hnmine.pipeline",
    "evaluate": "hnmine.pipeline",
    "load_config": "hnmine.config.load",
    "mine": "hnmine.pipeline",
    "run": "hnmine.pipeline",
    "train": "hnmine.pipeline",
}
__all__ = ["Config", "HnmineError", "audit", "compare", "evaluate", "load_config", "mine", "run", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hnmine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), {"load_config": "load"}.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
