"""Fingerprints: equal facts, equal names."""

from __future__ import annotations

from hnmine.models.fingerprint import Fingerprint


def test_a_fingerprint_is_its_facts_in_any_order():
    assert Fingerprint.of(a=1, b=None).digest == Fingerprint.of(b=None, a=1).digest
    different = [Fingerprint.of(a=1), Fingerprint.of(a="1"), Fingerprint.of(a=None), Fingerprint.of(b=1)]
    assert len({fingerprint.digest for fingerprint in different}) == 4
