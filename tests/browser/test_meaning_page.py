"""The search page by meaning: what there is of a concept is found, and where nothing is near the page says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from app_cases import EMBEDDED_NAME as NAME
from app_cases import EMBEDDED_SITE as SITE
from browser_pages import Server
from concept_runs import ANGER, BRACKETS, GENDER, concept_run
from playwright.sync_api import expect

LOADING = 180_000
NOTHING_NEAR = "No latent's words lie near"


@pytest.fixture(scope="module")
def concepts(tmp_path_factory, embedded_model) -> Iterator[Server]:
    running = Server(concept_run(tmp_path_factory.mktemp("concepts") / "run", embedded_model))
    yield running
    running.stop()


def test_gender_anger_and_bracket_find_their_latents_and_what_is_not_there_the_nearest(concepts, new_page):
    page = new_page()
    page.goto(f"{concepts.address}/search/{SITE}/{NAME}?q=gender")
    page.get_by_role("button", name="Also find latents by meaning").click()
    rows = page.get_by_role("region", name="Latents by meaning, table").locator("tbody tr")
    for words, latent in (("gender", GENDER), ("anger", ANGER), ("bracket", BRACKETS)):
        page.get_by_role("searchbox").fill(words)
        expect(rows.locator("td").first).to_have_text(str(latent), timeout=LOADING)
        expect(rows).to_have_count(1)
        expect(page.get_by_text(NOTHING_NEAR)).to_have_count(0)
    page.get_by_role("searchbox").fill("photosynthesis")
    expect(page.get_by_text(f"{NOTHING_NEAR} “photosynthesis”. The nearest concepts there are:")).to_be_visible()
    expect(rows.first).to_be_visible()
