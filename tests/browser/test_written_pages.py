"""Pages that are written as files, and those of a run on rows: axe-core finds nothing, and they fit every screen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from browser_pages import NAME, SITE, Server, findings
from feature_runs import open_tiny
from row_runs import NAME as ROW_NAME
from row_runs import row_run, write_table

from monosemy.circuits.heads.circuit import find_circuit
from monosemy.circuits.heads.page import write_circuit
from monosemy.features.export.html import export_html
from research.heads.compiled import compile_circuit


def read(chromium, file: Path) -> list[str]:
    """What is wrong with a written page, opened from its file: it asks for nothing else and runs without errors."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
    page.goto(file.as_uri())
    wrong += findings(page, file.name)
    context.close()
    return wrong


def test_the_report(server, chromium):
    report = server.folder / "report.html"
    assert read(chromium, report) == []
    assert report.stat().st_size < 2_500_000
    page, seconds = chromium.new_page(), []
    for _ in range(3):  # the quickest: what else the machine does is not the page's
        page.goto(report.as_uri())
        seconds.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
    page.close()
    assert 0 < min(seconds) < 1


def test_the_page_of_a_circuit(chromium, tmp_path):
    planted = compile_circuit("ioi", n_examples=16)
    circuit = find_circuit(planted.model, planted.data, n_prompts=8, compare=["eap", "codes", "mean-difference"])
    assert read(chromium, write_circuit(circuit, tmp_path)) == []


def test_the_evidence_of_a_text(server, chromium, tmp_path):
    body = {"text": "User: Who wrote?\nAssistant: The king of France, in July.", "chat": True, "format": "html"}
    address = f"{server.address}/api/f/{SITE}/{NAME}/evidence"
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=180) as answer:
        (tmp_path / "evidence.html").write_bytes(answer.read())
    assert read(chromium, tmp_path / "evidence.html") == []


def test_exported_latents(chromium, tmp_path):
    page = export_html(open_tiny(tmp_path / "run"), [0, 1, 2, 3], tmp_path / "latents.html")
    assert read(chromium, page) == []


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("rows")
    write_table(folder)
    running = Server(row_run(folder))
    yield running
    running.stop()


def test_the_pages_of_rows(rows, new_page):
    page, problems = new_page(), []
    place = f"rows/{ROW_NAME}"
    latent = page.request.get(f"{rows.address}/api/f/rows/{ROW_NAME}/highlights").json()["latents"][0]["latent"]
    for address in (
        "",
        f"latents/{place}",
        f"latent/{place}/{latent}",
        f"search/{place}?q=red",
        f"search/{place}?mode=token&q=red",
        f"compare?a={place}",
        "notes",
    ):
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(f"{rows.address}/{address}")
        problems += findings(page, address or "overview")
        assert page.locator("main .term").count() > 0, address
    assert problems == []
