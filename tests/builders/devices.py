"""The device of every test that needs none in particular."""

from hnmine.runs.device import Choice

CPU = Choice(kind="cpu", reason="test")
