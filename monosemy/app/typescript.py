"""Writes web/src/types.ts, the front-end's types, from the models of the API: `python -m monosemy.app.typescript`.

Place on the path: schema/, graph_schema.py, steering/request.py and steering/recipe.py → JSON schema (by pydantic) →
[TypeScript]. `make web` runs it, and a test fails when the file differs from the models. A field with a default is
optional in TypeScript.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from monosemy.app import graph_schema, schema
from monosemy.app.openapi import with_docstrings
from monosemy.steering import request

TARGET = Path(__file__).parent / "web" / "src" / "types.ts"
KINDS: tuple[Any, ...] = (
    schema.RunInfo,
    schema.FeatureInfo,
    schema.LatentList,
    schema.LatentPage,
    schema.Highlights,
    schema.SteerExamples,
    schema.LabelSearch,
    schema.TextDifference,
    schema.MeaningSearch,
    schema.TokenSearch,
    schema.TextBody,
    schema.DifferenceBody,
    schema.EvidenceBody,
    schema.TextResult,
    schema.Comparison,
    request.SteeringRequest,
    schema.SaeBody,
    schema.SweepValues,
    schema.SteerEvent,
    schema.SweepEvent,
    schema.Recipes,
    schema.RecipeName,
    schema.Notes,
    schema.NoteChange,
    graph_schema.GraphList,
    graph_schema.GraphPage,
    graph_schema.GraphContexts,
    graph_schema.GraphEdits,
    graph_schema.GraphIntervention,
)
"""The bodies and answers of all addresses; the types that they contain are written too."""
HEAD = "/** Types of the HTTP API. Made from monosemy/app/schema by `make web`: change them there. */\n"
PRIMITIVES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def render() -> str:
    """The text of types.ts."""
    with_docstrings()
    adapters: list[Any] = [(i, "validation", TypeAdapter(kind)) for i, kind in enumerate(KINDS)]
    _, document = TypeAdapter.json_schemas(adapters, ref_template="{model}")
    return HEAD + "".join(f"\n{_declaration(name, body)}" for name, body in document["$defs"].items())


def _declaration(name: str, body: dict[str, Any]) -> str:
    """A named JSON schema as an exported interface or type."""
    comment = _comment(body.get("description", ""), "")
    if body.get("type") != "object":
        return f"{comment}export type {name} = {_type(body)};\n"
    required = body.get("required", [])
    lines = [
        f"{_comment(field.get('description', ''), '  ')}  {key}{'' if key in required else '?'}: {_type(field)};\n"
        for key, field in body["properties"].items()
    ]
    if body.get("additionalProperties") is True:
        lines.append("  [more: string]: unknown;\n")
    return f"{comment}export interface {name} {{\n{''.join(lines)}}}\n"


def _comment(text: str, indent: str) -> str:
    if not text:
        return ""
    lines = text.splitlines()
    if len(lines) == 1:
        return f"{indent}/** {text} */\n"
    return f"{indent}/**\n" + "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines) + f"{indent} */\n"


def _type(body: dict[str, Any]) -> str:
    """A JSON schema as a TypeScript type."""
    if "$ref" in body:
        return str(body["$ref"])
    if "const" in body:
        return f'"{body["const"]}"'
    if "enum" in body:
        return " | ".join(f'"{value}"' for value in body["enum"])
    if "anyOf" in body:
        return " | ".join(_type(option) for option in body["anyOf"])
    if "prefixItems" in body:
        return f"[{', '.join(map(_type, body['prefixItems']))}]"
    if body.get("type") == "array":
        item = _type(body.get("items", {}))
        # [] binds tighter than |
        return f"({item})[]" if "|" in item else f"{item}[]"
    if body.get("type") == "object":
        return f"Record<string, {_type(body['additionalProperties'])}>"
    return PRIMITIVES[body["type"]] if "type" in body else "unknown"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
