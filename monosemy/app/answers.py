"""Helpers that all routes share: writing JSON answers and checking the body of a request.

Place on the path: api and every page's own routes → [answers] → browser.
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response

from monosemy.app.schema import B, parse_body
from monosemy.errors import UserError


def answer(value: Any, status: int = 200) -> Response:
    """A JSON response. NumPy arrays become lists, NaN and infinities null."""
    # orjson writes arrays straight from their memory, which json would need as Python numbers first
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json")


async def body_of(kind: type[B], request: Request) -> B:
    """The request's body as a model of schema/. Raises UserError if the body does not fit the model."""
    return parse_body(kind, await json_body(request))


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises UserError if the body is anything else."""
    try:
        value = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise UserError(f"the request is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"the request must be a JSON object, got {type(value).__name__}")
    return value
