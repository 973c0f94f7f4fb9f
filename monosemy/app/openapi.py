"""What the HTTP applications say of themselves: a line for every address, the models of its body and its answer.

Place on the path: routes → [OpenAPI document] → docs/http-api.md (`monosemy.serving.http_docs`). Routes read their
bodies and write their answers themselves (`answers`), so that FastAPI would know of neither.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{model}"
_bodies: dict[str, type[BaseModel]] = {}


def described(
    summary: str, *, body: type[BaseModel] | None = None, answers: Any = None, media_type: str = "application/json"
) -> dict[str, Any]:
    """The arguments of a route's decorator that describe it.

    `answers` is the model of its JSON, or text for what is none; `media_type` that of the answer.
    """
    extra: dict[str, Any] = {}
    if body is not None:
        _bodies[body.__name__] = body
        schema = {"$ref": _REFERENCE.format(model=body.__name__)}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    arguments: dict[str, Any] = {"summary": summary, "openapi_extra": extra}
    if answers is None or isinstance(answers, str):
        content: dict[str, Any] = {media_type: {}}
        extra["responses"] = {"200": {"description": answers or "Done", "content": content}}
        return arguments | {"response_model": None}
    return arguments | {"response_model": answers}


def described_app(title: str, version: str) -> FastAPI:
    """An application without pages of its own for its description, which would load scripts from elsewhere."""
    return FastAPI(title=title, version=version, openapi_url=None, docs_url=None, redoc_url=None)


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, with the models of bodies."""
    described_routes = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, schemas = models_json_schema([(body, "validation") for body in _bodies.values()], ref_template=_REFERENCE)
    components = described_routes.setdefault("components", {}).setdefault("schemas", {})
    components |= {name: schema for name, schema in schemas.get("$defs", {}).items() if name not in components}
    return described_routes
