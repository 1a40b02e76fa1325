"""A chat template that computes for ever, or fills the memory, is one error within seconds, whatever the text is."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder as Peer

from hnmine.errors import ModelError
from hnmine.models import preflight
from hnmine.models.reranker import CrossEncoder
from hnmine.models.templates import SECONDS
from tests.builders.rerankers import LAYOUTS

LOOPS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "loops that print": "{% for a in range(99999) %}{% for b in range(99999) %}yes {% endfor %}{% endfor %}",
    "a text of 50 GB": "{{ 'yes' * 5 * 10**10 }}",
    "a text of 2 GB, doubled": "{% set n = namespace(text='yes') %}{% for a in range(30) %}"
    "{% set n.text = n.text ~ n.text %}{% endfor %}{{ n.text }}",
    "a filter that pads": "{{ 'yes' | center(20000000000) }}",
    "a format that pads": "{{ '%30000000000d' | format(1) }}",
    "a number without end": "{% set n = messages | length %}{{ (9 + n) ** (10 ** 9) % 7 }}",
    "a constant without end": "{{ 9 ** (10 ** 9) % 7 }}",
    "a megabyte for each text": "{{ 'yes ' * 2**18 }}",
    "a list of many": "{{ ([1] * 10**10) | length }}",
}


def spoiled(folder: Path, beginning: str) -> Path:
    """Return a re-ranker whose chat template begins with this."""
    path = LAYOUTS["Qwen3 of yes and no, with a chat template"].build(folder) / "chat_template.jinja"
    path.write_text(beginning + path.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def loaded(folder: Path) -> CrossEncoder:
    return CrossEncoder(folder, max_tokens=64, device="cpu", dtype="float32")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_template_without_end_is_one_error_at_the_check(loop: str, tmp_path: Path) -> None:
    folder = spoiled(tmp_path / "model", LOOPS[loop])
    how = {"max_tokens": 64, "device": "cpu", "dtype": "float32"}
    start, held = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ModelError, match=rf"^the chat template of {folder} computes .* or fills .*; repair it"
    ) as caught:
        preflight.check_reranker("train.model", str(folder), "cross-encoder", folder, how)
    assert time.monotonic() - start < 5 * SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 2**18, "KiB, in this process"
    assert "\n" not in str(caught.value)


def test_a_template_that_computes_for_ever_for_some_texts_is_said_when_they_come(tmp_path: Path) -> None:
    condition = "(messages | selectattr('role', 'eq', 'document') | first).content == 'a garden'"
    model = loaded(spoiled(tmp_path / "model", f"{{% if {condition} %}}{LOOPS['nested loops']}{{% endif %}}"))
    before = model.scores(["a", "b"], ["a house", "gardens"])
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot read query 'b' with document 'a garden': .*the chat template of "):
        model.scores(["a", "b", "c"], ["a house", "a garden", "gardens"])
    assert time.monotonic() - start < 5 * SECONDS
    np.testing.assert_array_equal(model.scores(["a", "b"], ["a house", "gardens"]), before)


def test_texts_of_any_script_and_length_are_rendered_as_the_library_does(tmp_path: Path) -> None:
    folder = spoiled(tmp_path / "model", "{{ bos_token }}{% set n = namespace(text='') %}")
    queries, documents = ["ü 東京", "a\nb", ""], ["🙂 b", "x" * 500_000, "東 \x00 \u2028" * 50_000]
    peer = Peer(str(folder), device="cpu", max_length=64)
    mine = loaded(folder).library
    for pair in zip(queries, documents, strict=True):
        assert mine.preprocess([pair])["input_ids"].tolist() == peer.preprocess([pair])["input_ids"].tolist()


def test_the_library_itself_renders_for_others_as_before(tmp_path: Path) -> None:
    folder = spoiled(tmp_path / "model", "{{ raise_exception('no') if messages | length > 2 }}")
    model, peer = loaded(folder), Peer(str(folder), device="cpu")
    chat = [{"role": "query", "content": "a"}, {"role": "document", "content": "b"}]
    texts = [each.tokenizer.apply_chat_template(chat, tokenize=False) for each in (model.library, peer)]
    assert texts[0] == texts[1] != ""


def test_a_fork_renders_in_a_process_of_its_own(tmp_path: Path) -> None:
    model = loaded(spoiled(tmp_path / "model", ""))
    expected = model.tokenize(["a"], ["b"])
    child = os.fork()
    if not child:
        os._exit(0 if model.tokenize(["a"], ["b"]) == expected else 1)
    assert [model.tokenize(["a"], ["b"]) for _ in range(50)] == [expected] * 50
    assert os.waitpid(child, 0)[1] == 0
