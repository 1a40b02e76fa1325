"""Every model that is named is loaded and reads a few texts, before hours of work that need it.

What `strict` refuses, what gives NaN, a template or a tokenizer that fails on an empty text or on one that is longer
than the window: each is said here, with the setting that names the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.errors import HnmineError, ModelError
from hnmine.models.finite import FiniteEncoder
from hnmine.models.folder import model_type, resolve
from hnmine.models.plan import Plan
from hnmine.runs.counters import uncounted
from hnmine.runs.device import choose_device, choose_dtype, visible_gpus
from hnmine.runs.progress import say

Step = Literal["mine", "train", "compare"]
OTHERS_READ = 256
"""Tokens of a pair that guards and teachers read."""
MOST_READ = 32_768
"""Tokens of a pair that may be asked for; more is no request but stands for all that a model declares."""
QUERIES = ("what is it", "", "a question of many words " * 120)
DOCUMENTS = ("It is a document of a few words.", "a passage of many words " * 120, "")
"""Pairs that every re-ranker scores; encoders encode the texts of their role."""


def check_encoder(plan: Plan) -> None:
    """Load an encoder, and let it encode short, empty and over-long texts of both roles.

    It is done by torch, since OpenVINO takes long to compile; and where the GPU is another machine's, in float32 on the
    CPU.

    Raises:
        ModelError: it cannot be loaded, cannot read such a text, or gives NaN or infinity in every number type.
    """
    plan = replace(plan, engine="torch")
    if plan.device == "cuda" and not visible_gpus():
        plan = replace(plan, device="cpu", dtype="float32")
    encoder = FiniteEncoder(plan, 1)
    try:
        with uncounted():
            encoder.encode(QUERIES, plan.query)
            encoder.encode(DOCUMENTS, plan.document)
    except HnmineError:
        raise
    except Exception as error:  # the type depends on the tokenizer and the modules
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"encoder {plan.name}: {plan.folder} cannot encode a text: {reason}") from None
    finally:
        del encoder
        _leave(plan.device)


def check_rerankers(config: Config, steps: Collection[Step]) -> None:
    """Load each re-ranker that these steps are configured to use, once, and let it score a few pairs.

    Raises:
        ModelError: one is missing, cannot be loaded, cannot score a pair or gives NaN; the message names its setting.
        DeviceError: a GPU was asked for and is not there.
    """
    # List what is named, each model once.
    named: dict[tuple[Kind, str], tuple[str, bool]] = {}  # the setting, and whether it is a start of training
    if "train" in steps or "compare" in steps:
        starts = (config.compare.models if "compare" in steps else None) or ()
        for model in starts or (config.train.model,):
            named[config.train.kind, model] = "compare.models" if starts else "train.model", True
        if config.train.teacher is not None:
            named.setdefault(("cross-encoder", config.train.teacher), ("train.teacher", False))
    if "mine" in steps and config.guards.denoise is not None:
        named.setdefault(("cross-encoder", config.guards.denoise.model), ("guards.denoise.model", False))

    if not named:
        return

    # Let each score, loaded as the step will.
    from hnmine.models.ranking_head import resolve_cross_encoder  # imports torch and transformers

    for (kind, model), (setting, is_start) in named.items():
        try:
            folder = resolve(model) if is_start else resolve_cross_encoder(setting, model)
            number_type, device = config.train.dtype if is_start else "auto", choose_device(config.device)
            how = {
                "max_tokens": config.train.max_tokens if is_start else OTHERS_READ,
                "device": device.torch_name,
                "dtype": choose_dtype(number_type, device.kind, training=is_start, model_type=model_type(folder)),
                "engine": config.engine if config.engine == "openvino" else "torch",
                "passages": is_start and config.evaluate.long_documents == "maxp",  # as it will be evaluated
            }
            check_reranker(setting, model, kind, folder, how)
        except ModelError as error:
            reason = str(error).removeprefix(f"{setting}: ")
            raise ModelError(f"{setting}: {reason if model in reason else f'{model}: {reason}'}") from None


def check_reranker(setting: str, model: str, kind: Kind, folder: Path, how: Mapping[str, Any]) -> None:
    """Load a re-ranker as `load_reranker` takes it, and let it score short, empty and over-long texts.

    Where it cannot read as many tokens as are asked for, this is said under the `setting` that names the `model`. Where
    the GPU is another machine's, it is done in float32 on the CPU.

    Raises:
        ModelError: it cannot be loaded, cannot score such a pair, gives NaN or infinity, or the same for all.
    """
    from hnmine.models.reranker import load_reranker  # imports torch and transformers

    # Load it, and say how much it reads.
    if how["device"] == "cuda" and not visible_gpus():
        how = {**how, "device": "cpu", "dtype": "float32", "engine": "torch"}
    reranker, asked = load_reranker(kind, folder, **how), how["max_tokens"]
    read = int(getattr(reranker, "max_tokens", asked or 0))
    if asked is not None and read < asked <= MOST_READ:
        cut = f"reads {read} tokens of a pair, not {asked}: it has no more positions, or declares no more"
        say("check", f"{setting}: {model} {cut}", level="warning")

    # Let it score, and tell pairs apart.
    try:
        if len(set(reranker.raw_scores(QUERIES, DOCUMENTS).tolist())) == 1:
            raise ModelError(
                f"{folder} gives every pair the same score: of query and document nothing is read, or the weights "
                f"are broken; let it read more than {read} tokens, or use another model"
            )
    except HnmineError:
        raise
    except Exception as error:  # the type depends on the template, the tokenizer and the modules
        raise ModelError(f"{folder} cannot score a pair: {type(error).__name__}: {error}") from None
    finally:
        del reranker
        _leave(how["device"])


def _leave(device: str) -> None:
    """Leave a GPU's memory to the steps."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
