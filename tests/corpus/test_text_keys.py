"""Keys of texts: equal where an encoder reads the same, different elsewhere."""

from __future__ import annotations

import hashlib

from hnmine.corpus.text_keys import Fingerprint, Reading, key_of, keys_of


def test_the_way_it_is_read_is_part_of_the_key():
    prompted, adapted = Reading("query: "), Reading("query: ", "retrieval")
    ways = [Reading(), prompted, adapted, Reading("query: ", "other"), Reading("", "retrieval"), Reading("", "query: ")]
    assert len({key_of("text", reading) for reading in ways}) == len(ways)
    assert key_of("text", prompted) != key_of("query: text")
    assert keys_of(["a", "b"], adapted).tobytes() == key_of("a", adapted) + key_of("b", adapted)


def test_keys_without_an_adapter_are_those_of_stores_written_before_there_were_any():
    assert key_of("text", Reading("query: ")) == hashlib.blake2b(b"query: \0text", digest_size=16).digest()


def test_a_fingerprint_is_its_facts_in_any_order():
    assert Fingerprint.of(a=1, b=None).digest == Fingerprint.of(b=None, a=1).digest
    different = [Fingerprint.of(a=1), Fingerprint.of(a="1"), Fingerprint.of(a=None), Fingerprint.of(b=1)]
    assert len({fingerprint.digest for fingerprint in different}) == 4
