"""Serves a run's pages from a process beside the one that works on the run: `monosemy demo` shows its first look so.

Place on the path: commands → [a child process] → server. In a process of its own a page answers while training holds
the interpreter. The child ends with its parent, however that ends: it watches its standard input, a pipe that the
kernel closes with the parent. Limits: loopback only.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import webbrowser
from pathlib import Path
from typing import IO

from monosemy.app.catalogue import Catalogue
from monosemy.app.security import Access
from monosemy.app.server import DEFAULT_PORT, bind, can_open, page_address, serve, warm
from monosemy.errors import UserError

HOST = "127.0.0.1"
START_SECONDS = 30.0
"""How long the server may take to start; what it serves beside does not wait longer."""


class PagesBeside:
    """The pages of a run, served by a child process from `start` to `close`."""

    def __init__(self, folder: Path, *, open_page: bool = False) -> None:
        """`open_page` opens them in the browser when they are served, where there is a screen."""
        self.folder, self.open_page = folder, open_page
        self.address = ""
        self._child: subprocess.Popen[str] | None = None

    @property
    def serving(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts serving and prints the address; does nothing if the pages are served already.

        A server that does not start is said, and nothing more: what runs beside it is more important.
        """
        if self.serving:
            return
        command = [sys.executable, "-m", "monosemy.app.beside", str(self.folder)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self.address = _line_within(self._child.stdout, START_SECONDS)
        if not self.address:
            self.close()
            print(f"the pages could not be served; look at them later: monosemy browse {self.folder}", file=sys.stderr)
            return
        print(f"look at it now: {self.address}  (the pages of {self.folder})", flush=True)
        if self.open_page and can_open():
            webbrowser.open(self.address)

    def stay(self) -> None:
        """Serves, from now on if it did not, until Ctrl-C."""
        self.start()
        if self._child is not None and self.address:
            print("Ctrl-C ends the pages", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                self._child.wait()

    def close(self) -> None:
        """Ends the server, if it runs."""
        if self._child is not None:
            self._child.kill()  # it writes nothing that a sudden end could harm
            self._child.wait()
            self._child = None


def _line_within(pipe: IO[str], seconds: float) -> str:
    """The pipe's first line; empty where none comes in time, or the pipe is closed."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(pipe.readline()), daemon=True)
    reader.start()
    reader.join(seconds)
    return lines[0].strip() if lines else ""


def main(folder: Path) -> None:
    """The child: prints the address, then serves until it is stopped or its parent is gone."""
    catalogue = Catalogue(folder)
    try:
        listener = bind(HOST, DEFAULT_PORT)
    except UserError:  # another run is being looked at
        listener = bind(HOST, 0)
    access = Access.to(HOST, listener.getsockname()[1], ())
    print(page_address(access), flush=True)
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    threading.Thread(target=warm, args=(catalogue,), daemon=True).start()
    serve(catalogue, access, listener)


def _end_with(pipe: IO[str]) -> None:
    """Ends this process when the other end of the pipe is closed."""
    pipe.read()
    os._exit(0)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        print(f"warning: no pages: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        pass  # before there was anything to serve
