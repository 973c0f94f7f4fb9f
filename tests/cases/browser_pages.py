"""A browse server in a process of its own, and how to wait for its pages: shared by the tests in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

SITE, NAME, OTHER = "layers.6.resid_post", "jumprelu-l0_32-s0", "topk-l0_32-s0"
"""The site of the quick recipe's run, and its two SAEs."""
PAGES = {
    "overview": "/",
    "latents": f"/latents/{SITE}/{NAME}?min_mean=1&max_mean=20&min_firing_rate=0.001&max_firing_rate=0.1",
    "latent": f"/latent/{SITE}/{NAME}/5?show=quantiles&ctx=passage",
    "latent in lines": f"/latent/{SITE}/{NAME}/5?ctx=line&spaces=1",
    "search": f"/search/{SITE}/{NAME}?q=the",
    "token search": f"/search/{SITE}/{NAME}?mode=token&q=%20the",
    "own text": f"/search/{SITE}/{NAME}?mode=text",
    "compare": f"/compare?a={SITE}/{NAME}&b={SITE}/{OTHER}",
    "steer": f"/steer/{SITE}/{NAME}?e=5:set:1.5:max,7:scale:0:max",
    "steer, nothing chosen": f"/steer/{SITE}/{NAME}",
    "own texts compared": f"/search/{SITE}/{NAME}?mode=text&text=a&other=b&chat=1",
    "notes": "/notes",
}
"""Addresses of every page of the quick recipe's run, in every state that an address can bring."""
OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""By how many pixels a page is wider than the screen."""
SERVE = "import sys; from monosemy.app.server import run_browse; run_browse(sys.argv[1:])"


class Server:
    """`monosemy browse FOLDER` in a process of its own, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-c", SERVE, str(folder), "--port", "0", "--no-open"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line}"
        self.address = next(word for word in line.split() if word.startswith("http://")).rstrip("/")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def number(text: str) -> int:
    """The whole number that a text holds: 1152 of `Matched (1,152)`."""
    return int(re.sub(r"\D", "", text))


def wait_until(page, expression: str, seconds: float = 20.0) -> None:
    """Waits for a JavaScript expression to hold. Playwright's own `wait_for_function` calls `eval` inside the page,
    which the page's content security policy refuses."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression}: not within {seconds:g} s"
        page.wait_for_timeout(20)


def wait_for_answers(page) -> None:
    """Waits until everything in view answers the address: older answers stay in view, marked, until the new are in."""
    from playwright.sync_api import expect

    page.locator("h1, main .message").first.wait_for()
    expect(page.locator("[aria-busy=true], .empty.busy")).to_have_count(0)


def findings(page, name: str) -> list[str]:
    """What is wrong with the page in view, a line each: by axe-core in light colours on the screen that it has and in
    dark ones on a phone's, and wherever it is wider than a screen."""
    lines = []
    for width, scheme in ((page.viewport_size["width"], "light"), (820, None), (375, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        if scheme:
            page.emulate_media(color_scheme=scheme)
            lines += axe_findings(page, f"{name}, {width} pixels, {scheme}")
        page.wait_for_timeout(100)  # plots follow the width
        if (wide := page.evaluate(OVERHANG)) > 0:
            lines.append(f"{name}: {wide} pixels wider than a screen of {width}")
    return lines


def axe_findings(page, name: str) -> list[str]:
    """What axe-core finds wrong on the page in view, everything unfolded; a line each, with `name` in front."""
    from axe_playwright_python.sync_playwright import Axe

    wait_for_answers(page)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    return [
        f"{name}: {violation['id']} {violation['help']} {[node['target'] for node in violation['nodes'][:3]]}"
        for violation in Axe().run(page).response["violations"]
    ]
