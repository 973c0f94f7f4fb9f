"""Who may talk to the local server: foreign names and pages may not, nor anybody without the token elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_cases import Server, page_run
from feature_runs import MARKUP, NAME, SITE

from monosemy.app.security import MAX_BODY, POLICY, Access

BASE = f"/api/f/{SITE}/{NAME}"
NOTE = {"site": SITE, "name": NAME, "latent": 0, "bookmark": True, "text": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with Server(run) as started:
        yield started


def test_a_foreign_host_name_is_refused_though_it_resolves_to_this_machine(server: Server):
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "127.0.0.1:1",
        f"127.0.0.1.evil.example:{server.port}",
        "",
    ):
        status, error = server.refusal("GET", "/", headers={"Host": host})
        assert (status, "does not answer to the host name" in error) == (403, True), host
    for host in (
        f"127.0.0.1:{server.port}",
        f"localhost:{server.port}",
        f"LOCALHOST:{server.port}",
        f"[::1]:{server.port}",
    ):
        assert server.ask("GET", "/api/run", headers={"Host": host})[0] == 200, host


def test_two_host_headers_are_refused(server: Server):
    connection = server.connect()
    connection.putrequest("GET", "/api/run", skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{server.port}")
    connection.putheader("Host", "evil.example")
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)


def test_a_foreign_page_can_neither_read_nor_write(server: Server):
    own = f"http://127.0.0.1:{server.port}"
    for origin in ("http://evil.example", "null", own + ".evil.example", f"http://127.0.0.1:{server.port + 1}"):
        assert server.refusal("GET", "/api/run", headers={"Origin": origin})[0] == 403, origin
        assert server.refusal("PUT", "/api/notes", NOTE, {"Origin": origin})[0] == 403, origin
    assert server.ask("GET", "/api/run", headers={"Origin": own})[0] == 200
    # an image or a form of another site: no Origin, but the browser says whence
    for where in ("cross-site", "same-site"):
        assert server.refusal("GET", "/api/run", headers={"Sec-Fetch-Site": where})[0] == 403
        assert server.ask("GET", "/", headers={"Sec-Fetch-Site": where})[0] == 200  # a link may open the page
    form = {"Content-Type": "text/plain"}
    assert server.refusal("PUT", "/api/notes", NOTE, form)[0] == 415  # what a form could send without asking first


def test_every_answer_carries_the_policy(server: Server):
    for path in ("/", "/api/run", "/api/nothing", f"{BASE}/latent/0", "/static/nothing"):
        _, headers, _ = server.ask("GET", path)
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
    assert "unsafe" not in POLICY
    assert "frame-ancestors 'none'" in POLICY


def test_a_body_too_large_is_refused_declared_or_not(server: Server):
    text = b'{"text": "' + b"x" * MAX_BODY + b'"}'
    status, error = server.refusal("POST", f"{BASE}/text", text)
    assert (status, "larger than the 256 KiB" in error) == (413, True)
    status, error = server.refusal("POST", f"{BASE}/text-difference", text + b" " * MAX_BODY)
    assert (status, "larger than the 512 KiB" in error) == (413, True)
    assert server.refusal("POST", f"{BASE}/text-difference", text)[0] == 400  # read, and its fields refused
    connection = server.connect()
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    connection.request("POST", f"{BASE}/text", iter([text[:1000], text[1000:]]), headers, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_requests_that_never_end_are_closed_and_leave_no_trace(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monosemy.app.connections.REQUEST_SECONDS", 0.5)
    logged: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = logged.append  # type: ignore[method-assign]
    with Server(run) as server:
        logging.getLogger("uvicorn.error").addHandler(listener)
        head = f"PUT /api/notes HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        body = f"{head}Content-Type: application/json\r\nContent-Length: 90\r\n\r\n{{"
        half = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(60)]
        for number, connection in enumerate(half):
            connection.sendall(("", head, body)[number % 3].encode())
        assert server.ask("GET", "/api/run")[0] == 200  # others are answered meanwhile
        for connection in half:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b""  # closed by the server; the socket's own limit is no answer
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=60)  # one that never stops sending
        with pytest.raises(ConnectionError):
            send_slowly(slow, head * 10)
        early = socket.create_connection(("127.0.0.1", server.port))  # and one that leaves by itself
        early.sendall(body.encode())
        early.close()
        idle = server.connect()  # a connection that is kept between two requests is no slow one
        for _ in range(2):
            idle.request("GET", "/api/model")
            assert json.loads(idle.getresponse().read())["state"] == "absent"
            time.sleep(0.7)
    logging.getLogger("uvicorn.error").removeHandler(listener)
    assert [record.getMessage() for record in logged if record.levelno >= logging.WARNING] == []


def send_slowly(connection: socket.socket, text: str) -> None:
    for letter in text:
        connection.sendall(letter.encode())
        time.sleep(0.05)


def test_connections_beyond_the_limit_are_closed_at_once(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monosemy.app.connections.MAX_CONNECTIONS", 5)
    with Server(run) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(5)]
        sixth = socket.create_connection(("127.0.0.1", server.port), timeout=60)  # accepted in their order
        with contextlib.suppress(ConnectionResetError):
            assert sixth.recv(1) == b""
        for connection in idle:
            connection.close()
        assert status_at_last(server) == 200


def status_at_last(server: Server) -> int:
    """Of a request, as soon as the server has noticed that others left: until then it hangs up on this one too."""
    end = time.monotonic() + 60
    while True:
        try:
            return server.ask("GET", "/api/run")[0]
        except ConnectionError:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app/server.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/static/..%2f..%2frun.json",
        f"/api/f/..%2f..%2f{SITE}/{NAME}/info",
        f"/api/f/{SITE}/..%2f{NAME}/info",
        f"/api/f/{SITE}/../../run.json",
        f"/api/f/{SITE}/{NAME}%00/info",
        "/api/compare?a=../../etc/passwd&b=x",
    ],
)
def test_no_path_leads_out_of_the_tables(server: Server, path: str):
    status, _, content = server.ask("GET", path)
    assert status == 404
    assert b"import" not in content
    assert b"root:" not in content


def test_a_method_that_an_address_lacks_is_refused_in_json(server: Server):
    assert server.refusal("DELETE", "/api/notes") == (405, "Method Not Allowed")


def test_markup_in_a_token_arrives_as_text_in_json(server: Server):
    status, headers, content = server.ask("GET", f"{BASE}/latent/2")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert MARKUP.encode() in content  # not mangled; nosniff and the type keep it from being a page


def test_another_host_asks_for_the_token_and_gives_a_cookie(run: Path):
    with Server(run, host="0.0.0.0") as server:
        for path in ("/", "/api/run", "/static/app.js", "/?token=wrong", "/?token="):
            assert server.refusal("GET", path)[0] == 403
        status, headers, _ = server.ask("GET", f"/latents?sort=max&token={server.access.token}")
        assert (status, headers["location"]) == (303, "/latents?sort=max")
        set_cookie = headers["set-cookie"]
        assert "HttpOnly" in set_cookie
        assert "SameSite=Strict" in set_cookie
        assert str(server.access.token) not in set_cookie
        cookie = {"Cookie": set_cookie.split(";")[0]}
        assert server.ask("GET", "/api/run", headers=cookie)[0] == 200
        assert server.ask("GET", "/api/run", headers={"Cookie": set_cookie.split("=")[0] + "=wrong"})[0] == 403
        assert server.refusal("PUT", "/api/notes", NOTE)[0] == 403
        assert server.refusal("PUT", "/api/notes", NOTE, {**cookie, "Origin": "http://evil.example"})[0] == 403
        rebound = {**cookie, "Host": f"evil.example:{server.port}"}
        assert server.refusal("GET", "/api/run", headers=rebound)[0] == 403
        by_address = {**cookie, "Host": f"192.0.2.7:{server.port}"}
        assert server.ask("GET", "/api/run", headers=by_address)[0] == 200


def test_the_exchange_never_leads_to_another_host(run: Path):
    with Server(run, host="0.0.0.0") as server:
        for path in ("//evil.example/", "/%2f%2fevil.example", "/\\evil.example", "/%0d%0aset-cookie:x=1"):
            _, headers, _ = server.ask("GET", f"{path}?token={server.access.token}")
            assert headers["location"].startswith("/")
            assert not headers["location"].startswith(("//", "/\\"))


def test_a_name_of_a_proxy_is_known_at_any_port_and_asks_for_the_token():
    access = Access.to("127.0.0.1", 8321, ("lab.example",))
    assert access.token is not None
    assert access.knows_host("lab.example")
    assert access.knows_host("LAB.example:443")
    assert access.knows_host("127.0.0.1:8321")
    for foreign in ("evil.example", "evil.lab.example", "192.0.2.7:8321", "lab.example@evil.example", "lab.example:x"):
        assert not access.knows_host(foreign), foreign
    assert access.knows_origin("https://lab.example", "lab.example")


def test_tokens_are_long_and_new_each_time():
    first, second = (Access.to("0.0.0.0", 1) for _ in range(2))
    assert first.token != second.token
    assert len(first.token or "") >= 43
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert Access.to(host, 1).token is None
    assert Access.to("192.168.1.5", 1).token is not None
