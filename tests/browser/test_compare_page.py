"""Two SAEs beside each other: which two the page opens with, and what it does where one has no features."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from browser_pages import NAME, OTHER, SITE, Server, number, wait_for_answers
from playwright.sync_api import expect


def test_compare_matches_two_saes(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/compare?a={SITE}/{NAME}&b={SITE}/{OTHER}&threshold=0.5")
    tab = page.get_by_role("button", name=re.compile(r"^Matched"))
    matched = number(tab.inner_text())
    assert 0 < matched <= 1152
    rows = page.locator("section[aria-label=Latents] tbody tr")
    rows.first.wait_for()
    cosines = [float(text) for text in rows.locator("td:nth-child(3)").all_inner_texts()]
    assert min(cosines) >= 0.495
    page.get_by_role("button", name=re.compile(r"^Only in the first")).click()
    expect(page).to_have_url(re.compile("view=only_a"))
    expect(page.get_by_role("button", name=re.compile(r"^Only in the first"))).to_contain_text(f"{1152 - matched:,}")
    by_correlation = page.get_by_role("group", name="Match by").get_by_role("button", name="Correlation")
    by_correlation.click()
    expect(page).to_have_url(re.compile("by=correlation"))
    expect(by_correlation).to_have_attribute("aria-pressed", "true")


def test_compare_opens_with_the_sae_at_hand_beside_the_one_that_suits_it(server, new_page):
    page = new_page()
    for first, second in ((NAME, OTHER), (OTHER, NAME)):
        page.goto(f"{server.address}/latents/{SITE}/{first}")
        page.get_by_role("link", name="Compare").click()
        choices = page.locator("section[aria-label='Which SAEs'] select")
        expect(choices.first).to_have_value(f"{SITE}/{first}")
        expect(choices.last).to_have_value(f"{SITE}/{second}")
        wait_for_answers(page)
        expect(page.locator("section[aria-label=Latents] tbody tr").first).to_be_visible()
        assert page.url == f"{server.address}/compare"


def test_compare_opens_with_the_lowest_fvu_and_works_where_one_sae_has_features(run_folder, new_page, tmp_path):
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.rmtree(run / "features" / SITE / OTHER)
    evaluation = json.loads((run / "evaluation.json").read_text())
    record = next(record for record in evaluation["records"] if record["name"] == OTHER)
    for name, fvu in (("topk-l0_32-s1", record["fvu"] - 0.1), ("topk-l0_32-s2", record["fvu"] + 0.1)):
        shutil.copytree(run / "saes" / SITE / OTHER, run / "saes" / SITE / name)
        evaluation["records"].append(record | {"name": name, "fvu": fvu})
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    server = Server(run)
    try:
        page = new_page()
        page.goto(f"{server.address}/compare")
        choices = page.locator("section[aria-label='Which SAEs'] select")
        expect(choices.first).to_have_value(f"{SITE}/{NAME}")
        expect(choices.last).to_have_value(f"{SITE}/topk-l0_32-s1")
        rows = page.locator("section[aria-label=Latents] tbody tr")
        expect(rows.first).to_be_visible()
        command = page.get_by_text(f"--saes {SITE}/topk-l0_32-s1")
        expect(command).to_be_visible()
        needs = page.get_by_text("Correlation needs to know when latents fire")
        expect(needs).to_have_count(0)
        expect(page.get_by_role("columnheader", name="Correlation")).to_have_count(0)
        ways = page.get_by_role("group", name="Match by")
        ways.get_by_role("button", name="Correlation").click()
        expect(needs).to_be_visible()
        expect(command).to_be_visible()
        expect(rows).to_have_count(0)
        ways.get_by_role("button", name="Decoder cosine").click()
        expect(needs).to_have_count(0)
        expect(rows.first).to_be_visible()
    finally:
        server.stop()
