"""Every page by axe-core, in both colour schemes and on a narrow screen, and nothing wider than the screen."""

from __future__ import annotations

import pytest
from browser_pages import NAME, OTHER, SITE, axe_findings

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
    "error": "/nowhere",
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 375])
def test_pages_are_accessible_and_fit(server, new_page, width, dark):
    page = new_page(width=width, dark=dark)
    problems = []
    for name, address in PAGES.items():
        page.goto(server.address + address)
        problems += axe_findings(page, name)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            problems.append(f"{name}: {wide} pixels wider than the screen")
    assert problems == []


def test_the_help_dialog_is_accessible(server, new_page):
    from axe_playwright_python.sync_playwright import Axe

    page = new_page()
    page.goto(server.address)
    page.locator("main").wait_for()
    page.keyboard.press("?")
    assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []
