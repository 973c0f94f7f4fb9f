"""Pages served from a process beside: they answer while the parent works, and end with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from app_cases import page_run

from monosemy.app.beside import PagesBeside

BUSY_PARENT = """
import sys, time
from pathlib import Path
from monosemy.app.beside import PagesBeside
pages = PagesBeside(Path(sys.argv[1]))
pages.start()
while True:  # as training does, without ever waiting
    pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return page_run(tmp_path_factory.mktemp("beside") / "run")


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}api/run", timeout=20) as response:
            return b'"saes"' in response.read()
    except (urllib.error.URLError, ConnectionError):
        return False


def test_they_are_served_from_start_to_close(run, capsys):
    pages = PagesBeside(run)
    try:
        pages.start()
        assert answers(pages.address)
        address = pages.address
        pages.start()  # once is enough
        assert pages.address == address
        other = PagesBeside(run)  # the usual port is taken
        other.start()
        assert answers(other.address)
        assert other.address != address
        other.close()
    finally:
        pages.close()
    assert not pages.serving
    assert not answers(pages.address)
    assert capsys.readouterr().out.count(f"look at it now: {address}") == 1


def test_they_end_with_a_parent_that_is_killed(run):
    command = [sys.executable, "-c", BUSY_PARENT, str(run)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    address = next(word for word in parent.stdout.readline().split() if word.startswith("http://"))
    assert answers(address)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 20
    while answers(address):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_without_anything_to_show_is_said_and_does_no_harm(tmp_path, capfd):
    pages = PagesBeside(tmp_path)
    pages.start()
    assert not pages.serving
    error = capfd.readouterr().err
    assert "is not a run folder" in error
    assert "the pages could not be served; look at them later: monosemy browse" in error
    pages.stay()


def test_a_server_that_does_not_start_in_time_is_given_up(run, capfd, monkeypatch):
    monkeypatch.setattr("monosemy.app.beside.START_SECONDS", 0.0)
    pages = PagesBeside(run)
    pages.start()
    assert not pages.serving
    assert "the pages could not be served" in capfd.readouterr().err
