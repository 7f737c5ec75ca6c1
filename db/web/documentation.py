"""The page about the JSON API, made of its OpenAPI document: nothing is fetched from elsewhere."""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates


@dataclass(frozen=True, slots=True)
class Question:
    """One path that is answered.

    Attributes:
        given: Its parameters.
        answer: What comes, in words; `shape`: which of the shapes that is made of, if any.
    """

    path: str
    text: str
    given: list[dict[str, Any]]
    answer: str
    shape: str


def page(request: Request) -> HTMLResponse:
    """Return the page."""
    app: FastAPI = request.app
    document = app.openapi()
    groups: dict[str, list[Question]] = {}
    for path, methods in document["paths"].items():
        operation = methods["get"]
        groups.setdefault(operation["tags"][0], []).append(_question(path, operation))
    context = {"place": "api", "groups": groups, "shapes": _shapes(document)}
    templates: Jinja2Templates = app.state.templates
    return templates.TemplateResponse(request, "api.html", context)


def _question(path: str, operation: dict[str, Any]) -> Question:
    given = [
        {
            "name": each["name"],
            "in": each["in"],
            "text": each.get("description", ""),
            "type": _type(each["schema"]),
            "default": each["schema"].get("default"),
        }
        for each in operation.get("parameters", [])
    ]
    content = operation["responses"]["200"].get("content", {})
    schema = content.get("application/json", {}).get("schema")
    shape = _name(schema) if schema else ""
    return Question(path, operation["description"], given, _type(schema) if schema else "events", shape)


def _shapes(document: dict[str, Any]) -> list[dict[str, Any]]:
    found = document["components"]["schemas"]
    return [
        {
            "name": name,
            "text": schema.get("description", ""),
            "fields": [
                {"name": key, "type": _type(field), "shape": _name(field)}
                for key, field in schema.get("properties", {}).items()
            ],
        }
        for name, schema in sorted(found.items())
        if "properties" in schema and not name.startswith(("HTTPValidation", "Validation"))
    ]


def _name(schema: dict[str, Any]) -> str:
    """Return the shape that a schema names, itself or as what its entries are; empty: none."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    inner = [schema["items"]] if isinstance(schema.get("items"), dict) else schema.get("anyOf", [])
    return next(filter(None, map(_name, inner)), "")


def _type(schema: dict[str, Any]) -> str:
    """Return a type in words."""
    if "$ref" in schema:
        return _name(schema)
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        inner = schema.get("items")
        return f"list of {_type(inner)}" if isinstance(inner, dict) else "list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"{_type(inner)} by name" if isinstance(inner, dict) else "object"
    return {"string": "text", "boolean": "true or false"}.get(kind, kind)
