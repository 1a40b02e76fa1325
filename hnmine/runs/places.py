"""The former name of `hnmine.runs.directory`; goes when nobody imports it."""

from hnmine.runs.directory import Directory as Place

__all__ = ["Place"]
