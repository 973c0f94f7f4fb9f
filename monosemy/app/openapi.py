"""What the HTTP applications say of themselves: a line for every address, its query, the models of body and answer.

Place on the path: routes → [OpenAPI document] → docs/http-api.md (`monosemy.serving.http_docs`). Routes read their
bodies and write their answers themselves (`answers`), so that FastAPI would know of neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import ConfigDict, TypeAdapter

from monosemy.steering import recipe, request

REFERENCE = "#/components/schemas/"
_kinds: dict[str, Any] = {}


def described(
    summary: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Any = None,
    answers: Any = None,
    media_type: str = "application/json",
) -> dict[str, Any]:
    """The arguments of a route's decorator that describe it.

    `query` names parameters of the address with what they mean. `body` and `answers` are models, or tuples of models
    whose fields come together; `answers` may be text for what is no JSON, `media_type` that of the answer.
    """
    extra: dict[str, Any] = {}
    if query:
        extra["parameters"] = [
            {"name": name, "in": "query", "required": False, "description": meaning, "schema": {"type": "string"}}
            for name, meaning in query.items()
        ]
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(body)}}}
    content: dict[str, Any] = {} if answers is None or isinstance(answers, str) else {"schema": _reference(answers)}
    about = answers if isinstance(answers, str) else "The answer"
    extra["responses"] = {"200": {"description": about, "content": {media_type: content}}}
    return {"summary": summary, "openapi_extra": extra, "response_model": None}


def _reference(kind: Any) -> dict[str, Any]:
    """The schema that refers to a model, or to several whose fields come together."""
    if isinstance(kind, tuple):
        return {"allOf": [_reference(part) for part in kind]}
    name = getattr(kind, "__name__", str(kind))
    _kinds[name] = kind
    return {"$ref": f"{REFERENCE}{name}"}


def described_app(title: str, version: str) -> FastAPI:
    """An application without pages of its own for its description, which would load scripts from elsewhere."""
    return FastAPI(title=title, version=version, openapi_url=None, docs_url=None, redoc_url=None)


def with_docstrings() -> None:
    """Has pydantic read the docstrings of steering requests' and recipes' fields: these are plain dataclasses."""
    for kind in (request.SteeringRequest, request.Edit, request.Positions, recipe.SteeringRecipe):
        kind.__pydantic_config__ = ConfigDict(use_attribute_docstrings=True)  # type: ignore[union-attr]


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, with the models of bodies and answers that its routes name."""
    with_docstrings()
    described_routes = get_openapi(title=app.title, version=app.version, routes=app.routes)
    adapters: list[Any] = [(name, "validation", TypeAdapter(kind)) for name, kind in _kinds.items()]
    _, schemas = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE + "{model}")
    described_routes["components"] = {"schemas": schemas.get("$defs", {})}
    return described_routes
