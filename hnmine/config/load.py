"""Settings as people write them: a YAML file, overridden with `--set step.key=value`, and the list of all keys.

Unknown keys are errors. `hnmine config` prints every key with its default, meaning, unit and range.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hnmine.config.root import Config, EncoderConfig
from hnmine.errors import ConfigError


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `step.key=value` overrides, the later ones winning.

    Raises:
        ConfigError: the file, the key or the value is not usable; the message names it.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, str(path) if path else "--set")) from None


def describe() -> str:
    """Return every key with its default, description and range, as YAML that `load` reads."""
    lines: list[str] = []
    for step, field in Config.model_fields.items():
        if step == "encoders":
            from hnmine.config.encoder_presets import PRESETS

            lines += [f"encoders:  # a preset ({', '.join(PRESETS)}), or a list; keys of an entry:"]
            lines += [f"  # {line}" for line in _describe(EncoderConfig, optional="")]
            lines += [f"  - {_value(encoder.model_dump(exclude_unset=True))}" for encoder in field.default]
        else:
            assert isinstance(field.annotation, type)
            lines += [f"{step}:  # {(field.annotation.__doc__ or '').strip()}"]
            lines += [f"  {line}" for line in _describe(field.annotation)]
    return "\n".join(lines)


def _describe(section: type[BaseModel], optional: str = "# ") -> list[str]:
    """Return a line a key; the keys of a section that is null by default begin with `optional`."""
    lines = []
    for key, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is not None and below is field.annotation:
            lines.append(f"{key}:  # {(below.__doc__ or '').strip()}")
        else:
            default = "(required)" if field.is_required() else _value(field.default)
            lines.append(f"{key}: {default}  # {field.description}{_range(field)}")
        mark = "" if below is field.annotation else optional
        lines += [f"  {mark}{line}" for line in _describe(below)] if below else []
    return lines


def _range(field: FieldInfo) -> str:
    """Return the range of a number in brackets, or nothing."""
    words = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    parts = [
        words[name].format(f"{bound:,g}")
        for rule in field.metadata
        for name in words
        if (bound := getattr(rule, name, None)) is not None
    ]
    return f" ({' '.join(parts)})" if parts else ""


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, or may hold."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _value(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, tuple):
        value = list(value)
    style = '"' if isinstance(value, str) and "\n" in value else None
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, sort_keys=False, width=1000)
    return text.strip().removesuffix("\n...")


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
    return {step: {} if settings is None else settings for step, settings in tree.items()}


def _apply(tree: dict[str, Any], override: str) -> None:
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


def _explain(error: ValidationError, origin: str) -> str:
    """Turn pydantic's report into one line a problem, with the nearest known key for a misspelt one."""
    lines = []
    problems = error.errors()
    items = {problem["loc"][:-1] for problem in problems}  # of a list with a bad item pydantic says it is too short
    for problem in problems:
        kind, came = problem["type"], f", got {problem['input']!r}"
        where = ".".join(str(part) for part in problem["loc"]) or "config"
        if kind == "extra_forbidden":
            known = _keys_at(problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            lines.append(f"{where}: unknown key{hint}")
        elif kind == "too_short" and problem["loc"] not in items:
            lines.append(f"{where}: expected a list with at least 1 item{came}")
        elif kind == "string_type":
            lines.append(f"{where}: expected a text{came}{_quoted(where, '…')}")
        elif kind != "too_short":
            came = "" if kind in ("missing", "value_error") else came
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ').replace('tuple', 'list')}{came}")
    return f"{origin}: " + "\n  ".join(lines) + "\n  (`hnmine config` lists every key)"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        if part == "encoders" or isinstance(part, int):
            model = EncoderConfig
        else:
            section = _section_of(model.model_fields[str(part)].annotation)
            assert section is not None
            model = section
    return list(model.model_fields)
