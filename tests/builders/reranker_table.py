"""The table of re-rankers that load and that are refused, as `docs/models.md` shows it.

    python -m tests.builders.reranker_table

writes it anew, between its markers.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hnmine.errors import ModelError
from hnmine.models.cross_encoder import CrossEncoder
from hnmine.models.ranking_head import has_ranking_head
from tests.builders.commands import REPOSITORY
from tests.builders.rerankers import BODY, LAYOUTS, Layout, declare, plain_bert

DOCUMENT = REPOSITORY / "docs" / "models.md"
BEGIN, END = "<!-- re-rankers: begin -->", "<!-- re-rankers: end -->"
LOADS = "loads; its scores are those of `CrossEncoder.predict`"
LOADS_BARE = "loads; its scores are those of peft"


def _changed(label: str, layout: Layout, change: Callable[[Path], object]) -> Layout:
    def build(folder: Path) -> Path:
        change(layout.build(folder))
        return folder

    return Layout(label, build)


def _without_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _own_module(folder: Path) -> None:
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[-1]["type"] = "own_module.Score"
    path.write_text(json.dumps(modules))


def _without_base(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "/no/such/folder"}))


def _template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


_BERT, _CHAT = LAYOUTS["Bert"], LAYOUTS["Qwen3 of yes and no, with a chat template"]
REFUSED = {
    layout.name: layout
    for layout in (
        Layout("a classifier with two labels", lambda folder: plain_bert(folder, labels=2)),
        _changed("weights that lack a layer", _BERT, _without_tensors),
        _changed("weights in `pytorch_model.bin` alone", _BERT, _pickled),
        declare(_BERT, "code for the model in the folder (`auto_map`)", "config.json",
                model_type="new-kind", auto_map={"AutoModel": "modeling_new.NewModel"}),
        _changed("code for a module in the folder", LAYOUTS["modules: mean, dense"], _own_module),
        declare(_BERT, "code for the activation in the folder", "config.json",
                sentence_transformers={"activation_fn": "own.Activation"}),
        _changed("an adapter whose base is not there", LAYOUTS["LoRA of a Bert re-ranker"], _without_base),
        _changed("a chat template that fails", _CHAT, _template("{{ messages[9].content.upper() }}")),
        _changed("a chat template without query and document", _CHAT, _template("<|im_start|>user <|im_end|>")),
    )
}  # fmt: skip


def outcome(folder: Path) -> str:
    """Return what happens to the model in a folder: it loads, or hnmine refuses it for a reason."""
    try:
        head = has_ranking_head(folder)
        CrossEncoder(folder, max_tokens=512, device="cpu", dtype="float32", engine="torch")
    except ModelError as error:
        return f"refused: {_in_short(str(error), folder)}"
    if head:
        has_settings = (folder / "config.json").is_file() or (folder / "modules.json").is_file()
        return LOADS if has_settings else LOADS_BARE
    return "is no re-ranker yet: `hnmine train` gives it a head and warms it up first, and says so"


def _in_short(message: str, folder: Path) -> str:
    """Return what is wrong, on one line and without the place."""
    line = message.partition("; ")[0].replace(str(folder), "MODEL").replace("re-ranker MODEL", "MODEL")
    return textwrap.shorten(line, 130, placeholder=" …").replace("|", "\\|")


def rows(outcome_of: Callable[[Layout], str]) -> Iterator[str]:
    """Yield the lines of the table: each outcome once, with the layouts that have it."""
    layouts: dict[str, list[str]] = {}
    for layout in (*LAYOUTS.values(), BODY, *REFUSED.values()):
        layouts.setdefault(outcome_of(layout), []).append(layout.name)
    yield "| what happens | layouts |"
    yield "| --- | --- |"
    for found, names in layouts.items():
        yield f"| {found} | {'; '.join(names)} |"


def in_document() -> list[str]:
    """Return the lines between the markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()


def main() -> None:
    """Write the table into the document."""

    def build_and_try(layout: Layout) -> str:
        with tempfile.TemporaryDirectory() as place:
            return outcome(layout.build(Path(place) / "model"))

    table = "\n".join(rows(build_and_try))
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
