"""Settings as people write them: a YAML file, and overrides as `--set step.key=value`. An unknown key is an error."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hnmine.config.base import section_of
from hnmine.config.retired import remedies
from hnmine.config.root import Config
from hnmine.errors import ConfigError


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply overrides, each `key=value` or `step.key=value`, the later ones winning.

    Raises:
        ConfigError: the file, a key or a value is not usable; the message names each and says what to write.
    """
    tree: dict[str, Any] = {} if path is None else _read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors(), str(path) if path else "--set")) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"config file {path} is not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold `step: {{key: value}}`, got a {type(tree).__name__}")
    return {key: {} if value is None and _is_section(key) else value for key, value in tree.items()}


def _is_section(key: str) -> bool:
    return key in Config.model_fields and section_of(Config.model_fields[key].annotation) is not None


def _apply(tree: dict[str, Any], override: str) -> None:
    """Write the value of one override into the tree."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set wants step.key=value, got {override!r}")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: 2024-13-45 is read as a date
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value{_quoted(key.strip(), text)}") from None
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {part!r} holds a {type(child).__name__}; set it as a whole, in YAML")
        node = child
    node[parts[-1]] = value


def _quoted(key: str, text: str) -> str:
    return f"; what YAML would not take for a text needs quotes, in the shell --set '{key}=\"{text}\"'"


def _explain(problems: list[ErrorDetails], origin: str) -> str:
    """Turn pydantic's report into one line a problem."""
    bad_lists = {problem["loc"][:-1] for problem in problems}  # pydantic also calls a list with a bad item too short
    lines: list[str] = []
    for problem in problems:
        retired = list(remedies(problem["loc"], problem["input"]))
        if retired:
            lines += [f"{key}: {remedy}" for key, remedy in retired]
        elif problem["type"] != "too_short" or problem["loc"] not in bad_lists:
            lines.append(_line(problem))
    return f"{origin}: " + "\n  ".join(lines) + "\n  (`hnmine config` lists every key)"


def _line(problem: ErrorDetails) -> str:
    """Return what is wrong with one value, or the nearest known key for a misspelt one."""
    kind, came = problem["type"], f", got {problem['input']!r}"
    where = ".".join(str(part) for part in problem["loc"]) or "config"
    if kind == "extra_forbidden":
        known = list(_section_at(problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{where}: unknown key" + (
            f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
        )
    if kind == "too_short":
        return f"{where}: expected a list with at least 1 item{came}"
    if kind == "string_type":
        return f"{where}: expected a text{came}{_quoted(where, '…')}"
    came = "" if kind in ("missing", "value_error") else came
    return f"{where}: {problem['msg'].removeprefix('Value error, ').replace('tuple', 'list')}{came}"


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for part in location:
        if isinstance(part, str):
            inner = section_of(section.model_fields[part].annotation)
            assert inner is not None
            section = inner
    return section
