"""Encoding over actors equals encoding without, nothing is encoded twice, and what breaks is told or repaired."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config.mining import EmbedConfig
from hnmine.config.models import EncoderConfig, LexicalConfig
from hnmine.corpus.text_keys import PLAIN, Reading, keys_of
from hnmine.embedding.encode import Embedded, EncodeBlock, _worth_ray, cpu_actors, embed, gpu_actors
from hnmine.embedding.store import VectorStore
from hnmine.errors import DeviceError, ModelError
from hnmine.models.fingerprint import Fingerprint
from hnmine.models.lexical import Fit
from hnmine.models.plan import Plan, plan
from hnmine.runs.ray_session import start_ray
from hnmine.types import Texts
from tests.builders.devices import CPU
from tests.builders.models import encoder_plan, tiny_jina_encoder, tiny_word_encoder
from tests.builders.texts import random_texts

QUERY = Reading("query : ")
WORDS = ["deploy", "mysql", "postgres", "in", "the", "cloud", "on", "premises", "query", "passage", "doc"]


TEXTS = {"document": random_texts(60, "a"), "query": random_texts(20, "b")}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Plan:
    folder = tiny_word_encoder(tmp_path_factory.mktemp("embed") / "model")
    return Plan(name="tiny", folder=folder, fingerprint=Fingerprint.of(kind="tiny"), query=QUERY)


@pytest.fixture
def lexical(tmp_path: Path) -> Plan:
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(width=8))
    return plan(config, TEXTS["document"], tmp_path / "fit", CPU, 8192)


def run(plan: Plan, root: Path, texts: dict[str, Texts] = TEXTS, **settings) -> Embedded:
    settings = {"ray": False, "block_texts": 16, "device": "cpu"} | settings
    return embed(plan, texts, VectorStore(root, plan.fingerprint), EmbedConfig(**settings))


def blocks(plan: Plan, root: Path) -> list[Path]:
    return sorted((root / plan.fingerprint.digest).glob("*.parquet"))


def vectors(done: Embedded, role: str) -> np.ndarray:
    """The vectors of all texts, as `take` gives them; `scan` must give the same."""
    taken = done.take(role, np.arange(done.count(role)))
    scanned = np.full_like(taken, np.nan)
    for rows, values in done.scan(role):
        assert np.isnan(scanned[rows]).all()
        scanned[rows] = values
    assert np.array_equal(scanned, taken)
    return taken


def same(first: Embedded, second: Embedded) -> bool:
    return all(np.array_equal(vectors(first, role), vectors(second, role)) for role in ("document", "query"))


# Without Ray


def test_every_text_has_the_vector_of_its_own_prompt(tiny, tmp_path):
    done = run(tiny, tmp_path)
    encoder = tiny.build()
    assert (done.encoded, done.reused) == (80, 0)
    for role, reading in (("document", PLAIN), ("query", QUERY)):
        one_by_one = np.concatenate([encoder.encode([text], reading) for text in TEXTS[role].texts[:10]])
        assert vectors(done, role)[:10] == pytest.approx(one_by_one, abs=1e-5)


def test_a_second_call_encodes_nothing(tiny, tmp_path):
    first = run(tiny, tmp_path)
    written = blocks(tiny, tmp_path)
    second = run(replace(tiny, folder=tmp_path / "gone"), tmp_path)  # not even loaded
    assert (second.encoded, second.reused) == (0, 80)
    assert same(first, second)
    assert blocks(tiny, tmp_path) == written


def test_a_killed_run_encodes_the_missing_blocks_and_ends_alike(tiny, tmp_path):
    whole = run(tiny, tmp_path / "whole")
    run(tiny, tmp_path / "killed")
    lost = blocks(tiny, tmp_path / "killed")[::2]
    keys = keys_of(TEXTS["document"].texts), keys_of(TEXTS["query"].texts, QUERY)
    for path in lost:
        path.unlink()
    (lost[0].with_suffix(".tmp")).write_bytes(b"half a block")
    _, found = VectorStore(tmp_path / "killed", tiny.fingerprint).load(np.concatenate(keys))
    kept = set(blocks(tiny, tmp_path / "killed"))
    again = run(tiny, tmp_path / "killed")
    fresh = set(blocks(tiny, tmp_path / "killed")) - kept
    assert sum(pq.read_metadata(path).num_rows for path in fresh) == (~found).sum()
    assert 0 < (~found).sum() < 80
    assert (again.encoded, again.reused) == ((~found).sum(), found.sum())
    assert same(again, whole)  # the cut depends on the texts alone, so the batches are the same


def test_a_new_text_is_the_only_one_encoded(tiny, tmp_path):
    run(tiny, tmp_path)
    documents = Texts(ids=(*TEXTS["document"].ids, "new"), texts=(*TEXTS["document"].texts, "a new text"))
    done = run(tiny, tmp_path, TEXTS | {"document": documents})
    assert (done.encoded, done.reused) == (1, 80)
    assert vectors(done, "document").shape == (61, 32)


def test_equal_texts_are_encoded_once_and_another_prompt_makes_another_text(tiny, tmp_path):
    twice = Texts(ids=("1", "2", "3"), texts=("mysql", "cloud", "mysql"))
    done = run(tiny, tmp_path / "one", {"document": twice, "query": twice})
    assert done.encoded == 4
    assert np.array_equal(vectors(done, "document")[0], vectors(done, "document")[2])
    assert np.abs(vectors(done, "document") - vectors(done, "query")).max() > 1e-3
    done = run(replace(tiny, query=PLAIN), tmp_path / "two", {"document": twice, "query": twice})
    assert done.encoded == 2
    assert np.array_equal(vectors(done, "document"), vectors(done, "query"))


def test_a_text_read_with_two_adapters_has_two_vectors(tmp_path):
    plan = encoder_plan(
        tiny_jina_encoder(tmp_path / "model"), query_adapter="retrieval_query", document_adapter="retrieval_passage"
    )
    done = run(plan, tmp_path / "store", {"document": TEXTS["query"], "query": TEXTS["query"]})
    assert done.encoded == 2 * len(TEXTS["query"])
    encoder = plan.build()
    for role in ("document", "query"):
        expected = encoder.encode(TEXTS["query"].texts, plan.reading(role))
        assert vectors(done, role) == pytest.approx(expected, abs=1e-5), role
    assert np.abs(vectors(done, "document") - vectors(done, "query")).max() > 1e-2


@pytest.mark.parametrize(
    ("gpus", "by_node", "expected"),
    [
        (1, [1], 1),
        (1, [0, 4, 2], 6),
        (0.5, [1], 2),
        (0.3, [2, 1], 9),
        (0.7, [2], 2),
        (0.1, [1], 10),
    ],
)
def test_actors_fill_the_gpus_of_every_node(gpus, by_node, expected, tiny):
    assert gpu_actors(replace(tiny, gpus=gpus), by_node) == expected


@pytest.mark.parametrize(
    ("by_node", "actors", "expected"),
    [
        ([2], None, (1, 2)),
        ([2], 2, (2, 1)),
        ([2], 5, (5, 1)),
        ([64], None, (8, 8)),
        ([0, 16, 4], None, (5, 4)),
        ([0, 16, 4], 2, (2, 4)),
        ([3, 12], None, (5, 3)),
        ([1], None, (1, 1)),
    ],
)
def test_actors_fill_the_cores_of_every_node(by_node, actors, expected):
    assert cpu_actors(by_node, actors) == expected


@pytest.mark.parametrize("actors", [None, 3])
def test_a_cluster_without_a_cpu_is_an_error_and_nothing_waits(actors):
    with pytest.raises(DeviceError, match="no node of the Ray cluster has a CPU"):
        cpu_actors([0, 0], actors)


@pytest.mark.ray
def test_a_gpu_that_this_machine_lacks_is_looked_for_in_the_cluster_even_for_one_block(tiny, tmp_path):
    """And is not waited for where there is none."""
    with pytest.raises(DeviceError, match="encoder tiny: no node of the Ray cluster has a GPU"):
        run(replace(tiny, device="cuda"), tmp_path, block_texts=10_000)


def test_no_queries_are_no_trouble(tiny, tmp_path):
    done = run(tiny, tmp_path, {"document": TEXTS["document"], "query": Texts(ids=(), texts=())})
    assert vectors(done, "query").shape == (0, 32)
    assert done.encoded == 60


def test_a_vector_that_vanishes_after_encoding_is_a_model_error(tiny, tmp_path):
    done = run(tiny, tmp_path)
    blocks(tiny, tmp_path)[0].unlink()
    with pytest.raises(ModelError, match=r"encoder tiny: \d+ vectors that were in .* a moment ago"):
        list(done.scan("document")) + list(done.scan("query"))
    with pytest.raises(ModelError, match="start again"):
        done.take("document", np.arange(60)), done.take("query", np.arange(20))


@pytest.mark.parametrize("size", [7, 1000])
def test_the_size_of_blocks_changes_no_vector_beyond_rounding(size, tiny, tmp_path):
    expected, done = run(tiny, tmp_path / "16"), run(tiny, tmp_path / "other", block_texts=size)
    assert vectors(done, "document") == pytest.approx(vectors(expected, "document"), abs=1e-6)


def poison(plan: Plan, folder: Path) -> Plan:
    """A copy of the model with a NaN among its weights."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(plan.folder, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("LayerNorm.weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return replace(plan, folder=folder)


def test_vectors_that_are_not_numbers_are_a_model_error_and_never_stored(tiny, tmp_path):
    bad = poison(tiny, tmp_path / "nan")
    with pytest.raises(ModelError, match=r"encoder tiny \(float32\) gives NaN or infinity for \d+ texts, first '"):
        run(bad, tmp_path / "store")
    assert not blocks(bad, tmp_path / "store")


def test_a_damaged_block_is_encoded_again_and_nothing_else(tiny, root):
    first = run(tiny, root)
    folder = VectorStore(root, tiny.fingerprint).folder
    name = folder.files(".parquet")[0]
    raw = folder.read(name).to_pybytes()
    folder.write(name, raw[: len(raw) // 2])
    second = run(tiny, root)
    assert second.encoded == pq.read_metadata(pa.BufferReader(raw)).num_rows
    assert second.encoded + second.reused == 80
    assert same(first, second)
    assert run(tiny, root).encoded == 0


# With Ray


@pytest.mark.ray
def test_actors_write_to_an_object_store_what_one_process_writes(s3, tmp_path):
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(width=8))
    there = plan(config, TEXTS["document"], s3("bucket/actors"), CPU, 8192)
    over_actors = run(there, s3("bucket/actors"), ray=True, actors=2)
    assert (over_actors.encoded, over_actors.reused) == (80, 0)
    assert len(VectorStore(s3("bucket/actors"), there.fingerprint).folder.files(".parquet")) == 5
    assert same(over_actors, run(there, tmp_path))
    assert run(there, s3("bucket/actors"), ray=True, actors=2).encoded == 0


@dataclass(frozen=True, kw_only=True)
class InTheWay(Plan):
    """Building it puts a file where the blocks were to be, as if somebody had taken the folder away."""

    way: Path = Path()

    def build(self, lanes: int | None = None) -> Any:
        shutil.rmtree(self.way, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.way.write_text("")
        return super().build(lanes)


@pytest.mark.ray
def test_a_store_that_actors_cannot_write_is_told_without_a_traceback(lexical, tmp_path, capfd):
    folder = tmp_path / "store" / lexical.fingerprint.digest
    with pytest.raises(ModelError, match=r"vector store .* cannot be (used|written): .*; choose another embed.store"):
        run(InTheWay(**vars(lexical), way=folder), tmp_path / "store", ray=True, actors=2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.ray
def test_two_actors_give_bit_for_bit_what_one_process_gives(tiny, tmp_path):
    alone = run(tiny, tmp_path / "alone")
    over_actors = run(tiny, tmp_path / "ray", ray=True, actors=2)
    assert (over_actors.encoded, over_actors.reused) == (80, 0)
    assert same(over_actors, alone)
    assert len(blocks(tiny, tmp_path / "ray")) == len(blocks(tiny, tmp_path / "alone")) > 5


@pytest.mark.ray
def test_a_model_that_cannot_be_loaded_is_a_model_error_through_ray(tiny, tmp_path, capfd):
    broken = replace(tiny, folder=Path(shutil.copytree(tiny.folder, tmp_path / "broken")))
    (broken.folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"encoder tiny: .*broken cannot be loaded"):
        run(broken, tmp_path / "store", ray=True, actors=2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.ray
def test_vectors_that_are_not_numbers_are_a_model_error_through_ray(lexical, tmp_path, capfd):
    nan = np.full((8, len(WORDS)), np.nan, dtype=np.float32)
    broken = replace(lexical, fit=Fit.write(tmp_path / "fit", "nan", WORDS, np.ones(len(WORDS), np.float32), nan))
    with pytest.raises(ModelError, match=r"encoder lexical \(float32\) gives NaN or infinity"):
        run(broken, tmp_path / "store", ray=True, actors=2)
    assert "Traceback" not in capfd.readouterr().err


def own_actors() -> list[Any]:
    """Return the encoder actors below this very process: other sessions on the machine have processes of that name."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::MapWorker"):
                found.append(process)
    return found


@pytest.mark.ray
def test_an_actor_that_is_killed_in_the_middle_is_replaced_and_nothing_is_lost(lexical, tmp_path):
    texts = {"document": random_texts(3000, "many", 60), "query": TEXTS["query"]}
    expected = run(lexical, tmp_path / "alone", texts, block_texts=8)
    root, killed, over = tmp_path / "killed", [], threading.Event()

    def kill_one() -> None:
        while not killed and not over.is_set():
            if 5 < len(blocks(lexical, root)) < 300 and (actors := own_actors()):
                actors[0].kill()
                killed.append(actors[0].pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        done = run(lexical, root, texts, ray=True, actors=2, block_texts=8)
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1
    assert done.encoded == expected.encoded
    assert same(done, expected)


class Deadly:
    """An encoder whose native code takes its process down on one text, as an exhausted memory would."""

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> np.ndarray:
        if any("mysql" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((len(texts), 2), dtype=np.float32)


class DeadlyPlan(Plan):
    def build(self) -> Deadly:
        return Deadly()


@pytest.mark.ray
def test_a_block_that_always_kills_its_actor_ends_in_a_model_error(tmp_path):
    plan = DeadlyPlan(name="deadly", folder=tmp_path, fingerprint=Fingerprint.of(kind="deadly"))
    texts = {"document": Texts(ids=("1", "2"), texts=("mysql", "cloud")), "query": TEXTS["query"].take([])}
    with pytest.raises(ModelError, match=r"encoder deadly: its process died 4 times on one block"):
        run(plan, tmp_path, texts, ray=True, actors=1, block_texts=1)


@pytest.mark.ray
def test_what_is_left_when_a_node_took_all_retries_is_begun_again(tiny, tmp_path, monkeypatch, capsys):
    """Here the loss is played; in test_cluster.py a node is really killed."""
    start_ray()
    from ray.exceptions import RayActorError

    given = []

    def lost_after_one(plan, left, store, config):
        given.append(len(left))
        work = EncodeBlock(plan, store, 1)
        yield work(left[0])
        if len(given) < 3:
            work(left[1])  # stored, and lost on its way back
            raise RayActorError
        yield from map(work, left[1:])

    monkeypatch.setattr("hnmine.embedding.encode._by_pool", lost_after_one)
    done = run(tiny, tmp_path / "lost", ray=True)
    assert given == [5, 3, 1]
    assert same(done, run(tiny, tmp_path / "alone"))
    assert "actors were lost; 3 block(s) are left and begun again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cores", "device", "address", "actors", "expected"),
    [
        (2, "cpu", "", None, False),
        (8, "cpu", "", None, False),
        (9, "cpu", "", None, True),
        (2, "cpu", "", 1, True),
        (2, "cpu", "ray://head", None, True),
        (2, "cuda", "", None, True),
    ],
)
def test_ray_is_started_where_one_process_is_not_enough(monkeypatch, tiny, cores, device, address, actors, expected):
    monkeypatch.setattr("hnmine.embedding.encode.os.cpu_count", lambda: cores)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert _worth_ray(replace(tiny, device=device), EmbedConfig(actors=actors)) is expected
