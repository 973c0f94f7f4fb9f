"""The HTTP application of `monosemy serve`: OpenAI's addresses for models, chats and completions.

Place on the path: client → security → [api] → requests → answering → client. Texts of up to `MAX_AT_ONCE` requests are
written side by side, one pass of the model at a time; further ones wait, and beyond `MAX_WAITING` are refused (429).
A request whose client leaves ends at its next token. Errors have OpenAI's form.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from monosemy import __version__
from monosemy.app.answers import answer, json_body
from monosemy.app.live import BusyError, ModelError, one_at_a_time
from monosemy.app.openapi import described, described_app
from monosemy.app.schema import parse_body
from monosemy.app.security import Send, TooLargeError
from monosemy.app.streams import EventForm, EventStream, begun
from monosemy.errors import UserError
from monosemy.serving.answering import EndEvent, TokenEvent
from monosemy.serving.answering import answer as answer_events
from monosemy.serving.requests import PREPARE, Prepared, UnknownModelError
from monosemy.serving.schema import ChatRequest, Completion, CompletionRequest, ModelList, ServedModel, Settings
from monosemy.serving.served import Served
from monosemy.serving.wire import chunks, latent_entry, whole_answer

MAX_AT_ONCE = 4
MAX_WAITING = 64
OWNER = "monosemy"
TITLE = "monosemy serve"


class QueueFullError(UserError):
    """Raised when too many requests wait (status 429)."""


STATUS: dict[type[UserError], tuple[int, str, str | None]] = {
    UserError: (400, "invalid_request_error", None),
    UnknownModelError: (404, "invalid_request_error", "model_not_found"),
    BusyError: (429, "rate_limit_error", "busy"),
    QueueFullError: (429, "rate_limit_error", "busy"),
    TooLargeError: (413, "invalid_request_error", None),
    ModelError: (503, "server_error", None),
}
"""The status, and OpenAI's type and code, of each kind of error."""


def failure(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form (`schema.Failure`)."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


SERVER_SENT = EventForm(
    "text/event-stream",
    lambda event: b"data: " + orjson.dumps(event) + b"\n\n",
    lambda message: failure(message, "server_error"),
    last=b"data: [DONE]\n\n",
)
"""Server-sent events, as OpenAI's clients read them."""


class Slots:
    """Lets so many requests write at once, and so many more wait."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._n_waiting = 0

    async def take(self) -> None:
        """Waits for a place. Raises QueueFullError if too many wait already."""
        if self._n_waiting >= MAX_WAITING:
            raise QueueFullError(f"{MAX_WAITING} requests wait already; try again in a moment")
        self._n_waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._n_waiting -= 1

    def free(self) -> None:
        self._free.release()


def make_app(served: Served) -> FastAPI:
    """The application of a served model. `security.Guard` must be wrapped around it."""
    app = described_app(TITLE, __version__)
    for kind, (status, error_type, code) in STATUS.items():
        app.add_exception_handler(kind, _handler(status, error_type, code))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.add_exception_handler(Exception, _fault)
    for add_routes in ROUTES:
        add_routes(app, served)
    return app


def _add_models(app: FastAPI, served: Served) -> None:
    @app.get("/v1/models", **described("The model as it is, and once for every recipe", answers=ModelList))
    async def models() -> Response:
        return answer({"object": "list", "data": model_entries(served)})

    @app.get("/v1/models/{name:path}", **described("One of them", answers=ServedModel))
    async def model(name: str) -> Response:
        entries = {entry["id"]: entry for entry in model_entries(served)}
        if name not in entries:
            raise UnknownModelError(f"unknown model {name[:80]!r}; this server has: {', '.join(entries)}")
        return answer(entries[name])


def model_entries(served: Served) -> list[dict[str, Any]]:
    """An entry for the model as it is, and one for each recipe."""
    return [
        {
            "id": served.name if name is None else f"{served.name}:{name}",
            "object": "model",
            "created": 0,
            "owned_by": OWNER,
            "monosemy": {
                "recipe": name,
                "edits": [asdict(edit) for edit in served.recipes[name].edits] if name else None,
                "saes": list(served.saes),
                "latents": [latent_entry(ref) for ref in served.latents_of(served.recipes[name] if name else None)],
                "monitors": [monitor.name for monitor in served.monitors],
            },
        }
        for name in (None, *served.recipes)
    ]


def _add_completions(app: FastAPI, served: Served) -> None:
    slots = Slots()

    @app.post(
        "/v1/chat/completions",
        **described(
            "An answer to a chat, written with the model's chat template", body=ChatRequest, answers=Completion
        ),
    )
    async def chat(request: Request) -> Response:
        return await _answered(served, slots, request, ChatRequest)

    @app.post(
        "/v1/completions",
        **described("A text continued as it is", body=CompletionRequest, answers=Completion),
    )
    async def completions(request: Request) -> Response:
        return await _answered(served, slots, request, CompletionRequest)


async def _answered(served: Served, slots: Slots, request: Request, kind: type[Settings]) -> Response:
    body = parse_body(kind, await json_body(request))
    prepared = await asyncio.to_thread(PREPARE[kind], served, body)
    await slots.take()
    if body.stream:
        loop, form = asyncio.get_running_loop(), SERVER_SENT
        try:
            events = await asyncio.to_thread(begun, lambda: chunks(prepared.task, _events(served, prepared)))
        except BaseException:
            slots.free()
            raise
        return EventStream(events, release=lambda: _free_from_thread(loop, slots), form=form)
    try:
        return answer(whole_answer(prepared.task, await _collected(request, _events(served, prepared))))
    finally:
        slots.free()


def _free_from_thread(loop: asyncio.AbstractEventLoop, slots: Slots) -> None:
    if not loop.is_closed():  # the server may have ended meanwhile
        loop.call_soon_threadsafe(slots.free)


def _events(served: Served, prepared: Prepared) -> Iterator[TokenEvent | EndEvent]:
    """The events of a task, with the model locked while each is made."""
    hooks = served.hooks(prepared.task.job, prepared.recipe)
    return one_at_a_time(served.live, answer_events(served.model, prepared.task.job, hooks))


async def _collected(request: Request, events: Iterator[TokenEvent | EndEvent]) -> list[TokenEvent | EndEvent]:
    """All events, unless the client leaves. Raises ClientDisconnect then, after the token at hand."""
    gone = threading.Event()

    def work() -> list[TokenEvent | EndEvent]:
        collected = []
        for event in events:
            collected.append(event)
            if gone.is_set():
                break
        return collected

    working = asyncio.ensure_future(asyncio.to_thread(work))
    while not working.done():
        await asyncio.wait({working}, timeout=0.5)
        if not working.done() and await request.is_disconnected():
            gone.set()
            await asyncio.wait({working})
            raise ClientDisconnect
    return working.result()


def _handler(status: int, kind: str, code: str | None) -> Any:
    async def handle(request: Request, error: Exception) -> Response:
        return answer(failure(str(error), kind, code), status)

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    place = f"{request.method} {request.url.path[:80]}"
    detail = f"{place} is not served here; monosemy serve has /v1/models, /v1/chat/completions and /v1/completions"
    message = detail if error.status_code in (404, 405) else str(error.detail)
    return answer(failure(message, "invalid_request_error"), error.status_code)


async def _nobody(request: Request, error: Exception) -> Response:
    """Ends a request whose client has left."""
    return Response(status_code=400)


async def _fault(request: Request, error: Exception) -> Response:
    """Answers any other exception with its type alone; the details are in the server's terminal."""
    return answer(
        failure(f"a fault of the server: {type(error).__name__}; its terminal says more", "server_error"), 500
    )


async def refuse(send: Send, status: int, message: str) -> None:
    """Sends the security layer's refusals in OpenAI's form."""
    code = "invalid_api_key" if status == 401 else None
    body = orjson.dumps(failure(message, "authentication_error" if status == 401 else "invalid_request_error", code))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


ROUTES: list[Callable[[FastAPI, Served], None]] = [_add_models, _add_completions]
"""Functions that add routes to the application."""
