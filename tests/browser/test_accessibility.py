"""Every page by axe-core, in both colour schemes and on a narrow screen, and nothing wider than the screen."""

from __future__ import annotations

import pytest
from browser_pages import NAME, OVERHANG, PAGES, SITE, axe_findings, findings
from playwright.sync_api import expect

SLOW = 180_000
TEXT = f"/search/{SITE}/{NAME}?mode=text"
CHAT = "User:+Who+wrote+the+letter+in+July?%0AAssistant:+A+friend."


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 375])
def test_pages_are_accessible_and_fit(server, new_page, width, dark):
    page = new_page(width=width, dark=dark)
    problems = []
    for name, address in {**PAGES, "error": "/nowhere"}.items():
        page.goto(server.address + address)
        problems += axe_findings(page, name)
        wide = page.evaluate(OVERHANG)
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


def test_what_the_model_answered_is_accessible_and_fits(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{TEXT}&chat=1&text={CHAT}")
    page.get_by_role("button", name="Show which latents fire").click()
    page.get_by_role("region", name="Latents of your text, table").wait_for(timeout=SLOW)
    page.locator(".tokbutton").nth(3).click()
    problems = findings(page, "own text, answered")

    page.goto(f"{server.address}{TEXT}&text=The+king+lived+in+Paris.&other=def+add(a,+b):+return+a")
    page.get_by_role("button", name="Compare the texts").click()
    page.get_by_role("region", name="Differences, table").wait_for(timeout=SLOW)
    problems += findings(page, "differences")

    page.goto(f"{server.address}/search/{SITE}/{NAME}?q=nation")
    page.get_by_role("region", name="Latents by meaning, table").wait_for(timeout=SLOW)
    problems += findings(page, "by meaning")

    page.goto(f"{server.address}/latent/{SITE}/{NAME}/5?text=The+king+lived+in+Paris.")
    page.get_by_role("button", name="Test text").click()
    page.locator("[data-trace]").wait_for(timeout=SLOW)
    problems += findings(page, "a latent's trace")
    assert problems == []


def test_finished_steering_and_its_sweep_are_accessible_and_fit(server, new_page):
    page = new_page()
    edits = "e=5:set:1:max,7:add:1:max"
    page.goto(f"{server.address}/steer/{SITE}/{NAME}?{edits}&n=4&say=Be+brief.&sweep=0,2")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("[data-column=random] dl")).to_contain_text("Perplexity", timeout=SLOW)
    page.get_by_role("button", name="Run sweep").click()
    expect(page.locator("td.answer")).to_have_count(2, timeout=SLOW)
    page.get_by_text("Keep this as a recipe").click()
    assert findings(page, "steering, finished") == []
