"""The local server behind the pages: `monosemy browse RUN`.

Place on the path: run folder and feature databases → [HTTP API, see web/src/api.ts] → the page in a browser.

Everything but the model runs in the event loop (a latent's page takes about a millisecond); the model's passes and
comparisons run in threads. Nothing here imports torch: the model is loaded at first need (`live`).
Limits: a server shows one run; it is meant for one person or a few, not for the internet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import webbrowser
from typing import Any

import uvicorn

from monosemy.app.api import make_app
from monosemy.app.catalogue import Catalogue
from monosemy.app.connections import MAX_CONNECTIONS, PromptProtocol
from monosemy.app.pages import vocabulary
from monosemy.app.room import ROOM
from monosemy.app.security import Access, Guard
from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.saes.listing import print_warnings
from monosemy.support.arguments import Parser, whole
from monosemy.support.subjects import add_subject, open_subject

DEFAULT_PORT = 8321


def run_browse(words: list[str]) -> None:
    """`monosemy browse RUN|SAE [--host 127.0.0.1] [--port 8321] [--no-open]`: serves until interrupted.

    Raises UserError for bad input.
    """
    parser = Parser("monosemy browse", ROOM.commands[0].summary, examples=("monosemy browse runs/demo",))
    add_subject(parser)
    parser.add_argument(
        "--port",
        type=whole(Range(0, 65535, example=DEFAULT_PORT)),
        default=DEFAULT_PORT,
        help="The server's port; 0 takes a free one.",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="The server's address; visitors of another one than loopback are asked for a token.",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        help="A host name that a proxy passes on, may be repeated; visitors are asked for a token.",
    )
    parser.add_argument("--no-open", action="store_true", help="Do not open the page.")
    flags = parser.parse_args(words)
    subject = open_subject(flags, moved=("model",))
    catalogue = Catalogue(subject.folder, subject.moved)
    # bound here rather than by uvicorn: the port is known, also for --port 0, before the address is printed
    listener = bind(flags.host, flags.port)
    port = listener.getsockname()[1]
    access = Access.to(flags.host, port, tuple(flags.name))
    address = page_address(access)
    print(f"browse {catalogue.folder.name}: {address}  (Ctrl-C stops)")
    saes = catalogue.refresh()
    for problem in filter(None, (sae.problem for sae in saes)):
        print(f"warning: {problem}")
    print_warnings(sae.saved for sae in saes)
    if not any(sae.database for sae in saes):
        print(f"no latent pages yet: no features were built; build them: {catalogue.build_command}")
    sys.stdout.flush()
    # the socket already listens, so a browser that is quicker than the server waits instead of failing
    if not flags.no_open and can_open():
        webbrowser.open(address)
    threading.Thread(target=warm, args=(catalogue,), daemon=True).start()
    serve(catalogue, access, listener)


def warm(catalogue: Catalogue) -> None:
    """Makes the tables for which the first page and the first token search would otherwise wait."""
    for sae in catalogue.saes():
        if sae.database is not None:
            vocabulary(sae.database)
            sae.database.tokens_matching("a", limit=1)


def serve(catalogue: Catalogue, access: Access, listener: socket.socket) -> None:
    """Serves until interrupted (Ctrl-C), which is the normal end."""
    with contextlib.suppress(KeyboardInterrupt):
        make_server(catalogue, access).run(sockets=[listener])


def make_server(catalogue: Catalogue, access: Access) -> uvicorn.Server:
    """The pages' server, ready to run on a socket that is already bound."""
    return server_of(Guard(make_app(catalogue), access))


def server_of(app: Any) -> uvicorn.Server:
    """A server of an ASGI application, ready to run on a socket that is already bound."""
    # no access log: it would print the token, which is part of the first address
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        ws="none",
        lifespan="off",
        http=PromptProtocol,
        limit_concurrency=MAX_CONNECTIONS,
    )
    return uvicorn.Server(settings)


def bind(host: str, port: int, default: int = DEFAULT_PORT) -> socket.socket:
    """A socket that listens on host and port; port 0 takes a free one. `default` is the port that errors name.

    Raises UserError for a port that is out of range or in use, and for an address that is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, got {port}; {default} is the default")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"unknown host {host!r} ({error.strerror}); give an address of this machine") from None
    # a server that has just ended must not block its port while old connections time out
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(_refused(host, port, error)) from None
    return listener


def _refused(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use, perhaps by another monosemy; choose another: --port {port + 1}, or 0"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than you have; choose one from 1024 up"
    return f"cannot listen on {host}: {error.strerror}; give an address of this machine, e.g. 127.0.0.1 or 0.0.0.0"


def page_address(access: Access) -> str:
    """The address to open in a browser, with the token if one is needed."""
    host = access.host if access.host not in ("0.0.0.0", "::") else socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{access.port}/" + (f"?token={access.token}" if access.token else "")


def can_open() -> bool:
    """Whether there is a screen to open a page on."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
