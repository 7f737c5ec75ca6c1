"""What each settings key takes, drawn from the settings classes: for errors, tables and files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fl_main.settings import AgentSettings, AggregatorSettings, RunSettings, Section

KINDS: dict[str, type[Section]] = {
    "aggregator": AggregatorSettings,
    "run": RunSettings,
    "agent": AgentSettings,
}

_NAMES = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "null": "null"}
_BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a settings file.

    Attributes:
        name: All names from the top, joined by dots.
        kind: What its value is, in words: `a whole number`, `text`, `a section`, …
        limits: What of that is allowed, in words; empty if all of it is.
        item: What is inside, in words, for a list or mapping.
        default: Its default as JSON; None if the key must be given.
        description: The field's description.
        is_optional: Whether null may be given.
    """

    name: str
    kind: str
    limits: str
    item: str
    default: str | None
    description: str
    is_optional: bool

    @property
    def allowed(self) -> str:
        """Kind and limits as one phrase."""
        words = " ".join(filter(None, (self.kind, self.limits)))
        return f"{words}, each {self.item}" if self.item else words

    @property
    def is_section(self) -> bool:
        """Whether the key has keys of its own."""
        return self.kind == "a section"

    @property
    def is_path(self) -> bool:
        """Whether the value is a path, or a list of some."""
        return "a path" in (self.kind, self.item)

    @property
    def is_text(self) -> bool:
        """Whether the value is text of some sort, so that `5` or `no` needs no quotes."""
        return self.kind in ("text", "a path", "")

    @property
    def is_free(self) -> bool:
        """Whether the value is a mapping with keys of the user's choice."""
        return self.kind == "a mapping"


def keys(model: type[BaseModel]) -> dict[str, Key]:
    """Return every key of a settings class by its dotted name, sections before what is in them."""
    schema = model.model_json_schema()
    return {key.name: key for key in _keys(schema, schema.get("$defs", {}), "")}


def _keys(section: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    for name, field in section["properties"].items():
        node, is_optional = _resolved(field, definitions)
        yield Key(
            name=prefix + name,
            kind=_kind(node),
            limits=_limits(node),
            item=_item(node, definitions),
            default=json.dumps(field["default"], ensure_ascii=False) if "default" in field else None,
            description=field.get("description", ""),
            is_optional=is_optional,
        )
        inner = _resolved(node.get("items", node), definitions)[0]
        if "properties" in inner:  # of the section, or of each section of a list
            yield from _keys(inner, definitions, f"{prefix}{name}.")


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The schema behind references and `or null`, and whether null is allowed."""
    choices = node.get("anyOf", [])
    others = [choice for choice in choices if choice != {"type": "null"}]
    if choices and len(others) == 1:
        return _resolved(others[0], definitions)[0], True
    if "$ref" in node:
        return definitions[node["$ref"].rpartition("/")[2]], False
    return node, False


def _kind(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        return one_of([_kind(choice) for choice in node["anyOf"]])
    if "enum" in node:
        return ""  # its limits say it all
    match node.get("type"):
        case "string":
            return "a path" if node.get("format") == "path" else "text"
        case "array":
            return "a list"
        case "object":
            return "a section" if "properties" in node else "a mapping"
        case name:
            return _NAMES.get(name or "", "")


def _limits(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return one_of(node["enum"])
    if "patternErrorMessage" in node:
        return str(node["patternErrorMessage"])
    bounds = [f"{words} {node[bound]}" for bound, words in _BOUNDS.items() if bound in node]
    if "maxLength" in node:
        bounds.append(f"of at most {node['maxLength']} characters")
    return " and ".join(bounds)


def _item(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    inner = node.get("items") or node.get("additionalProperties")
    if not isinstance(inner, Mapping):
        return ""
    return _kind(_resolved(inner, definitions)[0])


def one_of(names: Sequence[str]) -> str:
    """Join names as a sentence does: a, b or c."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def markdown_table(model: type[BaseModel]) -> str:
    """Return a table of all keys of a settings class, for the documentation."""
    lines = ["| key | takes | default | is |", "|---|---|---|---|"]
    for key in keys(model).values():
        default = "required" if key.default is None else f"`{key.default}`"
        if key.is_section:
            default = "–" if key.is_optional else ""
        cells = [f"`{key.name}`", key.allowed.replace("|", "\\|"), default, key.description]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a settings file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **KINDS[kind].model_json_schema()}
