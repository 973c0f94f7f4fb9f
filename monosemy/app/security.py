"""Decides who may talk to the local server, and what its pages may do.

Place on the path: browser → [security] → server; an ASGI layer around all of the server.

    Host      must be one of the server's own names, with its port; a foreign name that resolves to this machine (DNS
              rebinding) gets 403
    Origin    if the browser sends one, it must be this server's own, so that a page of another site can neither call
              the API nor make the browser call it (403)
    token     needed on any address but loopback: `/?token=…`, printed at the start, is exchanged for a cookie
              (HttpOnly, SameSite=Strict); requests without that cookie get 403
    body      at most MAX_BODY bytes, twice as many for two texts, whatever its declared length (413)
    key       in the place of the token, for programs (`monosemy serve`): `Authorization: Bearer …`, else 401
    headers   a strict content-security policy ('self' only, no frames, no inline script or style), nosniff,
              no-referrer, same-origin opener and resources; only assets may be cached

Source: the usual defences of local servers (Jupyter's token, the Fetch standard's Origin and Sec-Fetch-Site).
Limits: plain HTTP. On a network that is not trusted, keep the server on loopback and connect through an SSH tunnel.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import KW_ONLY, dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import orjson

from monosemy.errors import UserError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Refuse = Callable[[Send, int, str], Awaitable[None]]
"""Sends an error of a status."""

MAX_BODY = 256 * 1024
"""Size of the largest request body, in bytes: room for the longest text at four bytes a character."""
_CALLED = ("/api/", "/v1/")
"""How the addresses begin that answer programs, and no page of another site."""
_TWO_TEXTS = "/text-difference"
"""How the addresses end whose requests hold two texts."""
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class TooLargeError(UserError):
    """Raised while a body is read, once it exceeds `largest_body` (status 413)."""


@dataclass(frozen=True)
class Access:
    """The names under which the server answers, and its secrets.

    `token` is None, which means that none is needed, only on a loopback address without further names. `session` is the
    value of the cookie that the token is exchanged for.
    """

    host: str
    port: int
    token: str | None
    session: str
    _: KW_ONLY
    names: tuple[str, ...] = ()
    """Further host names that it answers to at any port, such as those of a proxy."""

    @staticmethod
    def to(host: str, port: int, names: tuple[str, ...] = (), key: str | None = None) -> Access:
        """Access to a server bound to `host` and `port`, with new random secrets, or with the user's own `key`."""
        token = None if is_loopback(host) and not names else secrets.token_urlsafe(32)
        token = key or token
        return Access(host, port, token, secrets.token_urlsafe(32), names=names)

    @property
    def cookie(self) -> str:
        """Name of the cookie. It contains the port, because browsers share cookies between the ports of a host."""
        return f"monosemy_{self.port}"

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server.

        Beyond loopback, any literal IP address is accepted: DNS rebinding needs a name.
        """
        try:
            parts = urlsplit(f"//{header}")
            name, port = (parts.hostname or "").lower(), parts.port or 80
        except ValueError:
            return False
        if "@" in header or "/" in header:
            return False
        # a proxy's port is its own affair
        if name in (own.lower() for own in self.names):
            return True
        if port != self.port:
            return False
        if name in LOOPBACK or name == self.host.lower():
            return True
        return not is_loopback(self.host) and (_is_address(name) or name == socket.gethostname().lower())

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin header is that of a page served by this Host."""
        return origin in (f"http://{host}", f"https://{host}")

    def admits(self, cookie_header: str) -> bool:
        """Whether the cookie is the one given out for the token; always true if no token is needed."""
        if self.token is None:
            return True
        try:
            morsel = SimpleCookie(cookie_header).get(self.cookie)
        except CookieError:
            return False
        # compared in constant time, so that the time taken tells nothing about the secret
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self.session.encode())

    def opens(self, token: str) -> bool:
        """Whether this is the token; False if none is needed."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def largest_body(path: str) -> int:
    """Size of the largest request body that an address takes, in bytes."""
    return 2 * MAX_BODY if path.endswith(_TWO_TEXTS) else MAX_BODY


def _too_large(largest: int) -> str:
    return f"the request is larger than the {largest // 1024} KiB that are taken"


class Guard:
    """The ASGI layer that refuses requests `Access` does not admit, caps bodies, and adds the security headers."""

    def __init__(self, app: App, access: Access, *, bearer: bool = False, refuse: Refuse | None = None) -> None:
        """`bearer`: the token is a key that every request brings. `refuse` answers in another form than `{"error"}`."""
        self.app, self.access, self.bearer = app, access, bearer
        self.refuse = refuse or _answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # no websockets here
            return await send({"type": "websocket.close", "code": 1008})
        send = _with_headers(send)
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        # the dict above keeps the last of repeated headers: a request with two Hosts must be told from a normal one
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        if refusal := self._refusal(scope, headers, len(hosts)):
            return await self.refuse(send, *refusal)
        if self.bearer:
            scheme, _, key = headers.get(b"authorization", "").partition(" ")
            if self.access.token is not None and not (scheme.lower() == "bearer" and self.access.opens(key.strip())):
                return await self.refuse(send, 401, "give the server's key: Authorization: Bearer KEY")
        # the address with the token is opened once; from then on the cookie admits
        elif self.access.token is not None:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            if scope["method"] == "GET" and self.access.opens(query.pop("token", "")):
                return await self._exchange(scope, send, query)
            if not self.access.admits(headers.get(b"cookie", "")):
                return await self.refuse(send, 403, "open the address with the token that monosemy browse printed")
        await self.app(scope, _capped(receive, largest_body(scope["path"])), send)

    def _refusal(self, scope: Scope, headers: dict[bytes, str], n_hosts: int) -> tuple[int, str] | None:
        """(status, error) of a request to be refused for its headers; None if it may pass."""
        host = headers.get(b"host", "")
        if n_hosts != 1 or not self.access.knows_host(host):
            return 403, f"this server does not answer to the host name {host[:80]!r}"
        origin = headers.get(b"origin")
        if origin is not None and not self.access.knows_origin(origin, host):
            return 403, f"requests from {origin[:80]!r} are refused"
        # a link on another site may open a page, but no other site may call the API
        elsewhere = headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")
        if elsewhere and (scope["method"] != "GET" or scope["path"].startswith(_CALLED)):
            return 403, "requests from other sites are refused"
        # JSON only: a form of another site can send other types without asking first (no CORS preflight)
        if scope["method"] in ("POST", "PUT"):
            if headers.get(b"content-type", "").partition(";")[0].strip().lower() != "application/json":
                return 415, "send application/json"
            length = headers.get(b"content-length", "0")
            largest = largest_body(scope["path"])
            if not length.isdigit() or int(length) > largest:
                return 413, _too_large(largest)
        return None

    async def _exchange(self, scope: Scope, send: Send, query: dict[str, str]) -> None:
        """Sets the cookie, and redirects to the same page without the token in its address."""
        place = quote("/" + scope["path"].lstrip("/"))  # a browser would take "//name" for another host
        place += f"?{urlencode(query)}" if query else ""
        cookie = f"{self.access.cookie}={self.access.session}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", place.encode()), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _capped(receive: Receive, largest: int) -> Receive:
    """`receive`, raising TooLargeError once the body is too long, whatever length it declared."""
    read = 0

    async def capped() -> MutableMapping[str, Any]:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > largest:
            raise TooLargeError(_too_large(largest))
        return message

    return capped


def _with_headers(send: Send) -> Send:
    """`send`, adding the security headers; headers that the answer itself sets are kept."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own: Headers = list(message.get("headers", []))
            present = {key.lower() for key, _ in own}
            message["headers"] = own + [pair for pair in _HEADERS.items() if pair[0] not in present]
        await send(message)

    return sending


async def _answer(send: Send, status: int, error: str) -> None:
    body = orjson.dumps({"error": error})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
