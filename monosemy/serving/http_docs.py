"""Fills docs/http-api.md from the applications' own OpenAPI documents: `python -m monosemy.serving.http_docs`.

Place on the path: routes and models of `monosemy serve` and `monosemy browse` → OpenAPI → [tables of addresses and
fields]. A test fails when the page differs, so that it says what the servers do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI

from monosemy import __version__
from monosemy.app import api as pages
from monosemy.app.openapi import REFERENCE, described_app, document
from monosemy.serving import api as serving

TARGET = Path(__file__).parents[2] / "docs" / "http-api.md"
_BLOCK = re.compile(r"(<!-- api: (?P<name>\w+) -->\n).*?(<!-- api end -->\n)", re.DOTALL)


def serve_app() -> FastAPI:
    """The routes of `monosemy serve`, over nothing."""
    app = described_app(serving.TITLE, __version__)
    for add_routes in serving.ROUTES:
        add_routes(app, cast(Any, None))
    return app


def pages_app() -> FastAPI:
    """The routes of `monosemy browse`, over nothing."""
    app = described_app(pages.TITLE, __version__)
    for add_routes in pages.ROUTES:
        add_routes(app, cast(Any, None), cast(Any, None))
    return app


def filled(text: str) -> str:
    """The page with its tables made anew."""
    documents = {"serve": document(serve_app()), "browse": document(pages_app())}
    return _BLOCK.sub(lambda block: f"{block[1]}{_tables(documents[block['name']])}{block[3]}", text)


def _tables(described: dict[str, Any]) -> str:
    """The table of addresses, then one for every model that they name."""
    schemas = described["components"]["schemas"]
    rows, references = ["| request | what | body | answer |", "|---|---|---|---|"], []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            body = [_type(entry["schema"]) for entry in content.values()]
            response = operation["responses"]["200"]
            media_type, entry = next(iter(response["content"].items()))
            answer = _type(entry["schema"]) if entry else response["description"]
            kind = "" if media_type == "application/json" else f" (`{media_type}`)"
            query = [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
            words = "".join(f"; `?{p['name']}=`{_meaning(p)}" for p in query)
            rows.append(
                f"| `{method.upper()} {path}` | {operation['summary']}{words} | {', '.join(body)} | {answer}{kind} |"
            )
            references += re.findall(rf"{REFERENCE}(\w+)", str([content, entry]))
    return "\n".join(rows) + "\n\n" + "".join(_model(name, schemas[name]) for name in _reached(references, schemas))


def _meaning(parameter: dict[str, Any]) -> str:
    return f" {parameter['description']}" if parameter.get("description") else ""


def _reached(names: list[str], schemas: dict[str, Any]) -> list[str]:
    """The models that are named, and those that they contain, each once."""
    reached = list(dict.fromkeys(names))
    for name in reached:
        reached += [other for other in re.findall(rf"{REFERENCE}(\w+)", str(schemas[name])) if other not in reached]
    return list(dict.fromkeys(reached))


def _model(name: str, schema: dict[str, Any]) -> str:
    """A model's heading and table of fields."""
    about = _prose(schema.get("description", ""))
    heading = f"#### {name}\n\n" + (f"{about}\n\n" if about else "")
    if "properties" not in schema:
        return f"{heading}{_type(schema)}\n\n"
    required = schema.get("required", [])
    rows = [
        f"| `{key}`{'' if key in required else ' ?'} | {_type(field)} | {_prose(field.get('description', ''))} |"
        for key, field in schema["properties"].items()
    ]
    return heading + "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) + "\n\n"


def _prose(text: str) -> str:
    """A docstring as a cell: one line, without what Markdown would take for markup."""
    line = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    # lists of JSON would be read as links; what stands in code words already stays
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if i % 2 else re.sub(r"\[.*\]|\{[^}]*\}", r"`\g<0>`", part) for i, part in enumerate(parts))


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words, with links to models."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        return f"[{name}](#{name.lower()})"
    if "allOf" in schema:
        return " with ".join(map(_type, schema["allOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(map(_type, options)))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"pair of {_type(schema['prefixItems'][0])}"
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


if __name__ == "__main__":
    TARGET.write_text(filled(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
