"""docs/settings.md, made of the settings themselves: `python docs/tools/settings_page.py` writes it anew.

Types, defaults, ranges and meanings are those of the models in `hnmine/config/`. Who would turn a setting stands in
`settings_users.yaml`; a test says which setting lacks a line there, and whether the page is current.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hnmine.config.encoders import DEFAULT_PRESET
from hnmine.config.root import Config

PAGE = Path(__file__).parents[1] / "settings.md"
USERS = Path(__file__).with_name("settings_users.yaml")
HEAD = """\
# Settings

Made from the code by `docs/tools/settings_page.py`; `hnmine config` prints the same as a YAML file.

A setting is written in a file (`--config settings.yaml`) or on the command line (`--set train.epochs=2`); the later one
wins, and an unknown key is an error that names the nearest one. `null` is YAML's word for nothing. Most people turn
none but `encoders` and `train.model`.
"""
HEADER = "| setting | type | default | meaning | who turns it |\n|---|---|---|---|---|\n"


def page() -> str:
    """Return the page."""
    schema, users = Config.model_json_schema(), yaml.safe_load(USERS.read_text(encoding="utf-8"))
    sections: dict[str, tuple[str, list[str]]] = {"": ("Everywhere", [])}
    for key, field, about in _settings(schema["properties"], schema["$defs"]):
        if field is None:
            sections[key] = (f"`{key}`: {about}", [])
            continue
        section = max((name for name in sections if name == "" or key.startswith(f"{name}.")), key=len)
        default = DEFAULT_PRESET if key == "encoders" else field.get("default", "(required)")
        cells = (f"`{key}`", _type(field), f"`{_yaml(default)}`", about, users.get(key, ""))
        sections[section][1].append("| " + " | ".join(map(_cell, cells)) + " |")
    parts = [f"## {title}\n\n{HEADER}" + "\n".join(rows) + "\n" for title, rows in sections.values()]
    return "\n".join([HEAD, *parts])


def keys() -> list[str]:
    """Return the name of every setting."""
    schema = Config.model_json_schema()
    return [key for key, field, _ in _settings(schema["properties"], schema["$defs"]) if field is not None]


def _settings(properties: Any, sections: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any] | None, str]]:
    """Yield name, schema and meaning of each setting; a section, whose settings follow, has no schema."""
    for name, field in properties.items():
        key, inner = f"{prefix}{name}", _section(field)
        about = sections[inner].get("description", "") if inner else field.get("description", "")
        always = inner is not None and "$ref" in field
        if always:
            yield key, None, about
        else:
            yield key, field, field.get("description", about)
        if inner:
            if not always:
                yield key, None, f"keys of {'an entry' if field.get('type') == 'array' else 'this section'}"
            yield from _settings(sections[inner]["properties"], sections, f"{key}.")


def _section(field: dict[str, Any]) -> str | None:
    """Return the name of the section that a field holds, may hold, or holds a list of."""
    candidates = (field, field.get("items", {}), *field.get("anyOf", ()))
    return next((each["$ref"].rpartition("/")[2] for each in candidates if "$ref" in each), None)


def _type(field: dict[str, Any]) -> str:
    """Return the type and range of a field in words."""
    if "anyOf" in field:
        return " or ".join("null" if each.get("type") == "null" else _type(each) for each in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    if "$ref" in field:
        return "section"
    if field["type"] == "array":
        return f"list of {'entries' if '$ref' in field['items'] else _type(field['items'])}"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    bounds = [word.format(f"{field[bound]:,}") for bound, word in words.items() if bound in field]
    return " ".join(["path" if field.get("format") == "path" else names[field["type"]], *bounds])


def _yaml(value: Any) -> str:
    return (
        json.dumps(value)
        if isinstance(value, str) and "\n" in value
        else yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...")
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
