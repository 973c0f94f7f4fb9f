"""A real Chromium on the real server: the quick recipe's run with features of both its SAEs, and a hand-made run whose
texts are hostile. Nothing is skipped: without a browser or a built page these tests fail and say what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_cases import model_run, page_run
from browser_pages import NAME, OTHER, SITE, Server

# Seconds by which every answer of the server is held back, as on a busy machine: `MONOSEMY_BROWSER_SLOW=0.4 make
# test-browser` finds tests that look too early.
SLOW = float(os.environ.get("MONOSEMY_BROWSER_SLOW", 0))
TRAIN = """
import sys
from pathlib import Path
from monosemy.cli import main
from monosemy.pipeline.features import build_features
main(["train", "quick", "--run", sys.argv[1]])
build_features(Path(sys.argv[1]), sys.argv[2:], 30_000)
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives the pages in a real Chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(900))  # the first one waits for the run to be trained


def chromium_path() -> str:
    """The browser: MONOSEMY_CHROMIUM, else one on the PATH."""
    names = (os.environ.get("MONOSEMY_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    executable = next((path for name in names if name and (path := shutil.which(name))), None)
    if executable is None:
        pytest.fail("these tests need Chromium: apt-get install chromium, or set MONOSEMY_CHROMIUM to its path")
    return executable


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick recipe, trained on the embedded model, with features of both SAEs; a copy of MONOSEMY_BROWSER_RUN
    where that names such a run, which saves two minutes while working on the pages."""
    folder = tmp_path_factory.mktemp("browser") / "quick"
    if ready := os.environ.get("MONOSEMY_BROWSER_RUN"):
        return Path(shutil.copytree(ready, folder))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), f"{SITE}/{NAME}", f"{SITE}/{OTHER}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def server(run_folder: Path) -> Iterator[Server]:
    running = Server(run_folder)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Tokens and labels that are markup, cut characters, line breaks and tabs; a latent that never fires."""
    running = Server(page_run(tmp_path_factory.mktemp("browser") / "hostile"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A run without features and without an evaluation, its model a tiny random one."""
    running = Server(model_run(tmp_path_factory.mktemp("browser") / "bare"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        # Inside a container Chromium's own sandbox can't be set up; the pages come from this machine alone.
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium):
    """Opens a page; the test fails if any page logged an error, threw one or asked another host for something.
    `expected` are words of errors that the test provokes."""
    contexts, wrong = [], []

    def open_page(
        width: int = 1440, height: int = 900, dark: bool = False, touch: bool = False, expected: str | None = None
    ):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", has_touch=touch
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        if SLOW:
            slow = context.new_cdp_session(page)
            line = {"offline": False, "latency": 1000 * SLOW, "downloadThroughput": -1, "uploadThroughput": -1}
            slow.send("Network.emulateNetworkConditions", line)
        page.on("pageerror", lambda error: wrong.append(f"threw: {error}"))

        def logged(message) -> None:
            if message.type == "error" and not (expected and expected in message.text):
                wrong.append(f"logged: {message.text}")

        page.on("console", logged)
        page.on("request", lambda r: None if r.url.startswith("http://127.0.0.1:") else wrong.append(f"asked {r.url}"))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
