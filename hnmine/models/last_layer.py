"""The last layer of a re-ranker, computed for the one token that the head reads.

Attention in the last layer needs all tokens, what follows it does not: a classifier reads the first token, a decoder
that answers yes or no the last. Output projection and feed-forward network are three quarters of a layer's products, so
a body of 6 layers has an eighth less to do, one of 12 a sixteenth. Scores and gradients stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

FIRST, LAST = 0, -1
_AFTER_ATTENTION = {  # modules of a layer by path, and the tokens that a head may read after them
    "attention.output": (FIRST,),  # BERT, RoBERTa, ELECTRA, DeBERTa and their kin
    "attention.LayerNorm": (FIRST,),  # MPNet
    "ffn": (FIRST,),  # DistilBERT: what it adds to the other tokens is not read
    "mlp": (LAST, FIRST),  # decoders, ModernBERT: the same
}
_LARGEST_DIFFERENCE = 1e-4
"""As a share of how far the scores are from each other."""


def compute_one_token(network: torch.nn.Module, scores: Callable[[], Tensor]) -> bool:
    """Let the last layer compute one token where `scores` stay as they are; return whether it does from now on.

    Args:
        network: a transformer with its configuration
        scores: computes the scores (n,) of some texts of different length by the network, without gradients
    """
    full = scores()
    allowed = _LARGEST_DIFFERENCE * (full.max() - full.min())
    for attach in _hooks(network):
        handle = attach()
        try:
            found = scores()
        except Exception:  # what is raised depends on the head: it reads more than one token
            found = torch.full_like(full, torch.nan)
        if found.shape == full.shape and bool(((found - full).abs() < allowed).all()):
            return True
        handle.remove()
    return False


def _hooks(network: torch.nn.Module) -> Iterator[Callable[[], Any]]:
    """Yield what may be attached to the last layer, each a function that does it and returns a handle."""
    depth = getattr(getattr(network, "config", None), "num_hidden_layers", None)
    lists = [part for part in network.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == depth]
    for path, tokens in _AFTER_ATTENTION.items():
        try:
            part = lists[-1][-1].get_submodule(path)
        except (AttributeError, IndexError):
            continue
        for token in tokens:
            yield partial(part.register_forward_pre_hook, partial(_of_one_token, token), with_kwargs=True)
        return


def _of_one_token(token: int, _module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of a module with one token of every text."""
    tokens = slice(token, token + 1 or None)

    def cut(value: Any) -> Any:
        return value[:, tokens] if isinstance(value, Tensor) and value.ndim == 3 else value

    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}
