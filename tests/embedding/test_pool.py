"""Encoding over actors equals encoding without, and what dies in the middle is begun again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnmine.config.encoders import EncoderConfig, LexicalConfig
from hnmine.corpus.text_keys import KEY_BYTES, PLAIN, Reading, keys_of
from hnmine.embedding import pool
from hnmine.embedding.missing import missing_blocks
from hnmine.embedding.pool import (
    BlockEncoder,
    cpu_actors,
    device_of_encoders,
    encode_by_actors,
    gpu_actors,
    is_worth_ray,
)
from hnmine.embedding.store import VectorStore
from hnmine.errors import DeviceError, ModelError
from hnmine.models.lexical import Fit
from hnmine.models.plan import Plan, plan
from hnmine.types import Texts
from tests.builders.devices import CPU
from tests.builders.embedding import TEXTS, blocks_of, embed_into, same_vectors
from tests.builders.texts import random_texts

# How many actors, and whether any


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
    config = tiny.config.model_copy(update={"gpus": gpus})
    assert gpu_actors(replace(tiny, config=config), by_node) == expected


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
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert is_worth_ray(replace(tiny, device=device), actors) is expected


@pytest.mark.parametrize(("device", "ray"), [("cpu", None), ("auto", False)])
def test_a_cluster_is_not_asked_for_the_device_where_its_actors_do_not_encode(device, ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://nobody.invalid:10001")  # asking would fail
    assert device_of_encoders(device, ray).kind == "cpu"


# With Ray


@pytest.mark.ray
def test_a_gpu_that_this_machine_lacks_is_looked_for_in_the_cluster_even_for_one_block(tiny, tmp_path):
    """And is not waited for where there is none."""
    with pytest.raises(DeviceError, match="encoder tiny: no node of the Ray cluster has a GPU"):
        embed_into(replace(tiny, device="cuda"), tmp_path, block_texts=10_000)


@pytest.mark.ray
def test_two_actors_give_bit_for_bit_what_one_process_gives(tiny, tmp_path):
    alone, _ = embed_into(tiny, tmp_path / "alone")
    over_actors, result = embed_into(tiny, tmp_path / "ray", ray=True, actors=2)
    assert (result.encoded, result.reused) == (80, 0)
    assert same_vectors(over_actors, alone)
    assert len(blocks_of(tiny, tmp_path / "ray")) == len(blocks_of(tiny, tmp_path / "alone")) == 6


@pytest.mark.ray
def test_actors_write_to_an_object_store_what_one_process_writes(s3, tmp_path):
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(width=8))
    there = plan(config, TEXTS["document"], s3("bucket/actors"), CPU, 8192)
    over_actors, result = embed_into(there, s3("bucket/actors"), ray=True, actors=2)
    assert (result.encoded, result.reused) == (80, 0)
    assert len(VectorStore(s3("bucket/actors"), there.fingerprint).folder.files(".parquet")) == 6
    assert same_vectors(over_actors, embed_into(there, tmp_path)[0])
    assert embed_into(there, s3("bucket/actors"), ray=True, actors=2)[1].encoded == 0


# What fails is told, not retried


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
        embed_into(InTheWay(**vars(lexical), way=folder), tmp_path / "store", ray=True, actors=2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.ray
def test_a_model_that_cannot_be_loaded_is_a_model_error_through_ray(tiny, tmp_path, capfd):
    broken = replace(tiny, folder=Path(shutil.copytree(tiny.folder, tmp_path / "broken")))
    (broken.folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"encoder tiny: .*broken cannot be loaded"):
        embed_into(broken, tmp_path / "store", ray=True, actors=2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.ray
def test_vectors_that_are_not_numbers_are_a_model_error_through_ray(lexical, tmp_path, capfd):
    terms = sorted({word for text in TEXTS["document"].texts for word in text.split() if len(word) > 1})
    nan = np.full((8, len(terms)), np.nan, dtype=np.float32)
    fit = Fit.write(tmp_path / "fit", "nan", terms, np.ones(len(terms), np.float32), nan)
    with pytest.raises(ModelError, match=r"encoder lexical \(float32\) gives NaN or infinity"):
        embed_into(replace(lexical, fit=fit), tmp_path / "store", ray=True, actors=2)
    assert "Traceback" not in capfd.readouterr().err


# What dies is replaced


def actors_below_this_process() -> list[Any]:
    """Return this test's encoder actors; other tests on the machine have processes of that name."""
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
    expected, encoded_alone = embed_into(lexical, tmp_path / "alone", texts, block_texts=8)
    root, killed, over = tmp_path / "killed", [], threading.Event()

    def kill_one() -> None:
        while not killed and not over.is_set():
            if 5 < len(blocks_of(lexical, root)) < 300 and (actors := actors_below_this_process()):
                actors[0].kill()
                killed.append(actors[0].pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        vectors, result = embed_into(lexical, root, texts, ray=True, actors=2, block_texts=8)
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1
    assert result == encoded_alone
    assert same_vectors(vectors, expected)


class Deadly:
    """An encoder whose native code takes its process down on one text, as an exhausted memory would."""

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> np.ndarray:
        if any("mysql" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((len(texts), 2), dtype=np.float32)


class DeadlyPlan(Plan):
    def build(self, lanes: int | None = None) -> Any:
        return Deadly()


@pytest.mark.ray
def test_a_block_that_always_kills_its_actor_ends_in_a_model_error(tiny, tmp_path):
    texts = {"document": Texts(ids=("1", "2"), texts=("mysql", "mysql again")), "query": TEXTS["query"].take([])}
    with pytest.raises(ModelError, match=r"encoder tiny: its process died 4 times on one block"):
        embed_into(DeadlyPlan(**vars(tiny)), tmp_path, texts, ray=True, actors=1, block_texts=1)


class Actor:
    """Stands for the handle of an actor."""


@pytest.mark.ray
@pytest.mark.parametrize("is_lost", [True, False])
def test_actors_lost_before_their_first_block_are_begun_again_only_if_a_node_was_lost(
    is_lost, tiny, tmp_path, monkeypatch
):
    """Here the loss is played; in test_cluster.py a node is really killed."""
    from ray.exceptions import RayActorError

    monkeypatch.setattr(pool, "is_node_lost", lambda nodes: is_lost)
    keys = {role: keys_of(TEXTS[role].texts, tiny.reading(role)) for role in TEXTS}
    blocks = missing_blocks(tiny, TEXTS, np.concatenate(list(keys.values())), np.zeros(80, dtype=bool), 16)
    store = VectorStore(tmp_path / "lost", tiny.fingerprint)
    given = []

    def lost_at_first(plan, left, store, actors):
        given.append(len(left))
        if len(given) == 1:
            raise RayActorError
        yield from map(BlockEncoder(plan, store, 1), left)

    with contextlib.nullcontext() if is_lost else pytest.raises(ModelError, match="its process died 4 times"):
        assert len(list(encode_by_actors(tiny, blocks, store, None, lost_at_first))) == 6
    assert given == ([6, 6] if is_lost else [6])


@pytest.mark.ray
def test_what_is_left_when_a_node_took_all_retries_is_begun_again(tiny, tmp_path, capsys):
    """Here the loss is played; in test_cluster.py a node is really killed."""
    from ray.exceptions import RayActorError

    given, lost_actors = [], []

    def lost_after_one(plan, left, store, actors):
        assert all(actor() is None for actor in lost_actors), "cores of a pool that is referred to are never free"
        given.append((len(left), actors))
        encoder = BlockEncoder(plan, store, 1)
        yield encoder(left[0])
        if len(given) < 3:
            encoder(left[1])  # stored, and lost on its way back
            error, actor = RayActorError(), Actor()
            error.actor, actor.error = actor, error  # a circle, as Ray Data leaves it
            lost_actors.append(weakref.ref(actor))
            raise error
        yield from map(encoder, left[1:])

    keys = {role: keys_of(TEXTS[role].texts, tiny.reading(role)) for role in TEXTS}
    all_keys = np.concatenate(list(keys.values()))
    blocks = missing_blocks(tiny, TEXTS, all_keys, np.zeros(80, dtype=bool), 16)
    store = VectorStore(tmp_path / "lost", tiny.fingerprint)
    results = list(encode_by_actors(tiny, blocks, store, 7, lost_after_one))
    assert given == [(6, 7), (4, 7), (2, 7)]
    rows = [row for result in results for row in result.to_pylist()]
    assert [(row["failure"], len(row["keys"])) for row in rows] == [("", row["count"] * KEY_BYTES) for row in rows]
    assert len(rows) == 4
    assert store.contains(all_keys)[0].all()
    assert "actors were lost; 4 block(s) are left and begun again" in capsys.readouterr().err
    _, result = embed_into(tiny, tmp_path / "lost")
    assert result.encoded == 0
