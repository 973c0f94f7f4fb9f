"""Starting the server: without torch, so that it is quick, and with clear words where it cannot."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from app_cases import model_run, page_run

from monosemy.app.security import Access
from monosemy.app.server import _refused, bind, page_address, run_browse
from monosemy.errors import UserError

BROWSE = "import sys; from monosemy.app.server import run_browse; run_browse(sys.argv[1:])"
HEAVY = "torch", "transformers", "numba", "datasets", "matplotlib", "pyarrow"


def test_it_answers_and_stops_when_told(tmp_path: Path):
    """How soon is for research/speed/browser.py to say, on a machine that does nothing else."""
    run = page_run(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-c", BROWSE, str(run), "--port", "0", "--no-open"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])  # type: ignore[index]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/run")
    assert len(json.load(connection.getresponse())["saes"]) == 2
    process.send_signal(signal.SIGINT)
    process.wait(60)


def test_the_server_and_every_page_without_the_model_do_without_heavy_packages(tmp_path: Path):
    run = page_run(tmp_path / "run")
    program = f"""
import sys
from pathlib import Path
from monosemy.app import server, api, pages, lists
from monosemy.app.catalogue import Catalogue
from monosemy.app.compare import Comparison
from monosemy.features.store.notes import put_note
catalogue = Catalogue(Path({str(run)!r}))
api.make_app(catalogue)
a, b = catalogue.refresh()
pages.latent_page(a, 0)
lists.latent_list(a, {{"sort": "max", "q": "july"}})
Comparison(a, b).page("cosine", "matched", threshold=None, offset=0, limit=10)
put_note(catalogue.folder, a.site, a.name, 0, bookmark=True, text="")
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_folder_that_is_no_run_or_holds_no_sae_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is not a run folder"):
        run_browse([str(tmp_path)])
    run = model_run(tmp_path / "run")
    for path in sorted((run / "saes").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="holds no trained SAE yet; train it first: monosemy train"):
        run_browse([str(run)])


def test_a_run_without_features_says_how_to_build_them(tmp_path: Path):
    run = model_run(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-c", BROWSE, str(run), "--port", "0", "--no-open"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert f"build them: monosemy features {run}" in process.stdout.readline()
    process.terminate()
    process.wait(60)


def test_a_port_in_use_or_out_of_range_is_refused_with_the_fix():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use.*--port {port + 1}"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match="from 0 to 65535, got 70000"):
        bind("127.0.0.1", 70_000)


def test_an_address_that_is_not_this_machines_is_refused():
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1"):
        bind("192.0.2.1", 0)
    with pytest.raises(UserError, match=r"unknown host 'no\.such\.host\.invalid'"):
        bind("no.such.host.invalid", 0)


def test_a_port_that_needs_more_rights_is_refused():
    message = _refused("127.0.0.1", 1, PermissionError(errno.EACCES, "Permission denied"))
    assert "needs more rights" in message
    if os.geteuid() != 0:  # the superuser may take any port
        with pytest.raises(UserError, match="needs more rights"):
            bind("127.0.0.1", 1)


def test_the_printed_address_has_the_token_where_one_is_needed():
    assert page_address(Access.to("127.0.0.1", 8321)) == "http://127.0.0.1:8321/"
    assert page_address(Access.to("::1", 8321)) == "http://[::1]:8321/"
    open_to_others = Access.to("0.0.0.0", 8321)
    assert page_address(open_to_others).endswith(f":8321/?token={open_to_others.token}")
