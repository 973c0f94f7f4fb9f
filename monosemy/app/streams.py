"""Streams answers line by line: the events of a worker thread as newline-delimited JSON, until the client leaves.

Place on the path: steering's iterator of events → [worker thread → event loop] → browser. The answer begins only when
the first two events are there: the first is a description, and the second needs a pass of the model. Bad input is thus
answered by an ordinary error with its status. After each event the worker checks whether it was cancelled, which
happens when the connection is closed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from monosemy.app.live import LiveModel
from monosemy.errors import UserError

Events = Iterator[Any]


class EventForm(NamedTuple):
    """How a stream's events are written."""

    media_type: str
    line: Callable[[Any], bytes]
    error: Callable[[str], Any]
    """The last event, which says what went wrong."""
    last: bytes = b""
    """What stands at the end of every stream."""


LINES = EventForm(
    "application/x-ndjson",
    lambda event: orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY),
    lambda error: {"kind": "error", "error": error},
)
"""A JSON object a line."""
_END: Any = object()
_log = logging.getLogger("monosemy")


async def stream_events(live: LiveModel, make: Callable[[], Events]) -> Response:
    """The response that streams the events of `make()`, and holds the one steering stream until they end.

    Raises BusyError while another stream runs, and whatever `make` or its first two events raise.
    """
    live.hold_stream()
    try:
        events = await asyncio.to_thread(begun, make)
    except BaseException:
        live.free_stream()
        raise
    return EventStream(events, release=live.free_stream)


def begun(make: Callable[[], Events]) -> Generator[Any, None, None]:
    """The events, of which the first two have already been computed. Blocks; raises what they raise."""
    events = make()
    # not a generator itself: its errors must be raised here, before the response has begun
    first_events = [*itertools.islice(events, 2)]
    return _continued(first_events, events)


def _continued(first_events: list[Any], events: Events) -> Generator[Any, None, None]:
    try:
        yield from first_events
        yield from events
    finally:
        if close := getattr(events, "close", None):
            close()


class EventStream(Response):
    """A response of one event after another, until they end or the client leaves; `release` is then called once."""

    def __init__(
        self, events: Generator[Any, None, None], *, release: Callable[[], None], form: EventForm = LINES
    ) -> None:
        super().__init__(media_type=form.media_type)
        del self.headers["content-length"]
        self._events, self._release, self._form = events, release, form
        self._cancelled = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the worker's events as they come, and cancels the worker when the client leaves."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        worker = threading.Thread(target=self._work, args=(asyncio.get_running_loop(), queue), daemon=True)
        worker.start()
        # wait for the next event or the client's departure, whichever comes first
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                waiting = asyncio.ensure_future(queue.get())
                await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    return
                event = waiting.result()
                if event is _END:
                    await send({"type": "http.response.body", "body": self._form.last})
                    return
                await send({"type": "http.response.body", "body": self._form.line(event), "more_body": True})
        # the worker may still be in a pass: it notices after its next event, and then frees the stream
        finally:
            self._cancelled.set()
            gone.cancel()

    def _work(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any]) -> None:
        """Runs the events in the worker thread; errors become a last event, since the status is already sent."""

        # asyncio's queue is not thread-safe: the loop's own thread must put
        def put(event: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, event)

        try:
            for event in self._events:
                put(event)
                if self._cancelled.is_set():
                    break
        except UserError as error:
            put(self._form.error(str(error)))
        except Exception as error:
            _log.exception("a stream failed")
            put(self._form.error(f"{type(error).__name__}: {error}"))
        finally:
            # the generator is closed before another stream may begin
            self._events.close()
            self._release()
            put(_END)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
