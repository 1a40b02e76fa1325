"""Settings as people write them (YAML, and `--set step.key=value`) and read them (`hnmine config`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hnmine.config.base import section_of
from hnmine.config.encoders import DEFAULT_PRESET, PRESETS
from hnmine.config.retired import remedies
from hnmine.config.root import Config
from hnmine.errors import ConfigError
from hnmine.redaction import redacted

_SHOWN = 200  # signs of a value in a message
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


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
    except RecursionError:
        raise ConfigError(f"config file {path} has brackets in brackets without end") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold `step: {{key: value}}`, got a {type(tree).__name__}")
    sections = {key for key, field in Config.model_fields.items() if section_of(field.annotation)}
    return {key: {} if value is None and key in sections else value for key, value in tree.items()}


def _apply(tree: dict[str, Any], override: str) -> None:
    """Write the value of one override into the tree."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set wants step.key=value, got {_shown(override)}")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2024-13-45 is read as a date
        raise ConfigError(f"--set {key}: {_shown(text)} is not a YAML value{_quoted(key.strip(), text)}") from None
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {part!r} holds a {type(child).__name__}; set it as a whole, in YAML")
        node = child
    node[parts[-1]] = value


def _shown(value: Any) -> str:
    """Return a value as it stands in a message."""
    text = redacted(repr(value))  # before it is cut, where a half would not be known
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _quoted(key: str, text: str) -> str:
    text = text if len(text) <= _SHOWN else "…"
    return f"; what YAML would not take for a text needs quotes, in the shell --set '{key}=\"{text}\"'"


def _explain(problems: list[ErrorDetails], origin: str) -> str:
    """Turn pydantic's report into one line a problem."""
    bad_lists = {
        problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))
    }  # pydantic also calls a list with a bad item too short
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
    kind, came = problem["type"], f", got {_shown(problem['input'])}"
    where = ".".join(str(part) for part in problem["loc"]) or "config"
    if kind == "extra_forbidden":
        known = list(_section_at(problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        near = near or _of_other_sections(str(problem["loc"][-1]))
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if kind == "too_short":
        return f"{where}: expected a list with at least 1 item{came}"
    if kind == "string_type":
        return f"{where}: expected a text{came}{_quoted(where, '…')}"
    if kind == "model_type":
        return f"{where}: expected keys{came}; {_entry(problem['loc'])}"
    if kind == "literal_error" and isinstance(problem["input"], str):
        known = re.findall(r"'([^']*)'", problem["msg"])
        near = difflib.get_close_matches(problem["input"], known, n=1)
        came += f"; did you mean {near[0]!r}?" if near else ""
    came = "" if kind in ("missing", "value_error") else came
    return f"{where}: {problem['msg'].removeprefix('Value error, ').replace('tuple', 'list')}{came}"


def _entry(location: tuple[int | str, ...]) -> str:
    """Return what to write in the place of a value that should hold keys."""
    if location[0] == "encoders" and len(location) == 2:
        return f"an entry is {{name: …, model: …}}; or give one preset, encoders=NAME: {', '.join(PRESETS)}"
    required = [f"{key}: …" for key, field in _section_at(location).model_fields.items() if field.is_required()]
    return f"write {'.'.join(map(str, location))}={{{', '.join(required)}}}"


def _of_other_sections(key: str) -> list[str]:
    """Return the dotted names of the settings of this name, of any section."""
    sections = {name: each.annotation for name, each in Config.model_fields.items()}
    return [f"{name}.{key}" for name, each in sections.items() if key in getattr(each, "model_fields", ())]


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for part in location:
        if isinstance(part, str):
            section = section_of(section.model_fields[part].annotation) or section
    return section


def describe() -> str:
    """Return every setting with its default, meaning and range, one line a key, as YAML that `load` reads.

    Keys of an entry of `encoders`, and of a section that is null, are comments.
    """
    return "\n".join(_described(Config))


def _described(section: type[BaseModel], comment: str = "# ") -> list[str]:
    """Return the lines of a section; `comment` begins those of a section in it that is null or a list by default."""
    lines = []
    for key, field in section.model_fields.items():
        inner = section_of(field.annotation)
        always_there = inner is field.annotation
        if inner and always_there:
            lines.append(f"{key}:  # {(inner.__doc__ or '').strip()}")
            lines += [f"  {line}" for line in _described(inner, comment)]
        else:
            lines.append(f"{key}: {_default(key, field)}  # {field.description}{_range(field)}")
            lines += [f"  {comment}{line}" for line in _described(inner, "")] if inner else []
    return lines


def _default(key: str, field: FieldInfo) -> str:
    """Return the default as YAML on one line."""
    if field.is_required():
        return "(required)"
    value: Any = DEFAULT_PRESET if key == "encoders" else field.default
    if isinstance(value, tuple):
        value = list(value)
    style = '"' if isinstance(value, str) and "\n" in value else None
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, sort_keys=False, width=1000)
    return text.strip().removesuffix("\n...")


def _range(field: FieldInfo) -> str:
    """Return the range of a number in brackets, or nothing."""
    parts = [
        words.format(f"{bound:,}" if isinstance(bound, int) else f"{bound:,g}")
        for rule in field.metadata
        for name, words in _BOUNDS.items()
        if (bound := getattr(rule, name, None)) is not None
    ]
    return f" ({' '.join(parts)})" if parts else ""
