"""Addresses that ask for what isn't there: the page names the value and what there is, and goes on without it."""

from __future__ import annotations

import re

import pytest
from browser_pages import NAME, SITE, wait_for_answers
from playwright.sync_api import expect

PLACE = f"{SITE}/{NAME}"
WRONG = {
    f"latents/{PLACE}?min_colour=3": (r"min_colour=3.* no column colour.* firing_rate", "Leave it out"),
    f"latents/{PLACE}?max_mean=lots": (
        r"max_mean=lots.* not a number\. Mean goes from [\d.]+ to [\d.]+",
        "Leave it out",
    ),
    f"latents/{PLACE}?min_top_cosine=2": (r"min_top_cosine=2, which no latent passes: .* goes from", "Leave it out"),
    f"latents/{PLACE}?sort=beauty": (r"sort=beauty.* one of clear, firing_rate", "Leave it out"),
    f"latents/{PLACE}?offset=5000": (r"from row 5,001 on, and it has 1,152", "To its start"),
    f"search/{PLACE}?mode=smell&q=the": (r"mode=smell.* one of label, token, text", "Leave it out"),
    "compare?a=nowhere/topk": (r"a=nowhere/topk.* no such SAE.* have all 3", "Leave it out"),
    "compare?view=both": (r"view=both.* one of matched, only_a, only_b", "Leave it out"),
    "compare?threshold=7": (r"threshold=7.* number from 0.05 to 0.99", "Leave it out"),
    "compare?offset=5000": (r"from row 5,001 on", "To its start"),
    f"steer/{PLACE}?e=5:set:1:max,1152:set:1:max": (
        r"“1152:set:1:max”: there is no latent 1152.* 0 to 1151",
        "Go on without",
    ),
}


@pytest.mark.parametrize("address", WRONG)
def test_a_wrong_value_is_named_and_can_be_left_out(server, new_page, address):
    text, way_on = WRONG[address]
    page = new_page()
    page.goto(f"{server.address}/{address}")
    message = page.get_by_role("alert").filter(has_text=re.compile(text))
    expect(message).to_have_count(1)
    message.get_by_role("button", name=way_on).click()
    expect(page.get_by_role("alert")).to_have_count(0)
    wait_for_answers(page)


def test_bounds_that_hold_bring_no_message(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/latents/{PLACE}?min_top_logit=0&max_mean=1e3&order=asc&sort=latent")
    expect(page.locator("section[aria-labelledby=list] tbody tr").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_number_finds_the_latent_or_says_which_there_are(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/search/{PLACE}?q=1152")
    expect(page.get_by_text("There is no latent 1152: this SAE has latents 0 to 1151.")).to_be_visible()
    page.get_by_role("searchbox").fill("17")
    page.get_by_role("link", name="latent 17").click()
    expect(page).to_have_url(re.compile(rf"/latent/{re.escape(PLACE)}/17"))


def test_a_latent_out_of_range_leads_to_the_list(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/latent/{PLACE}/1152")
    expect(page.get_by_role("alert")).to_contain_text("latents 0 to 1151")
    page.get_by_role("link", name="the list of them").click()
    expect(page.get_by_role("heading", name="1,152 latents")).to_be_visible()


def test_a_pasted_chat_is_offered_to_be_read_as_one(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/search/{PLACE}?mode=text")
    text, offer = page.get_by_label("Your text"), page.get_by_role("button", name="Read as a chat")
    text.fill("Remember:\nUser: is no chat here.")
    expect(offer).to_have_count(0)
    for chat in ("User: Who wrote?\nAssistant: The king.", "**Human:** Hello.\n\nAI: Hello."):
        text.fill(chat)
        expect(offer).to_be_visible()
    offer.click()
    expect(page.get_by_label("A chat: lines “User:”, “Assistant:”")).to_be_checked()
    expect(page).to_have_url(re.compile("chat=1"))
    expect(offer).to_have_count(0)
    expect(text).to_have_value("**Human:** Hello.\n\nAI: Hello.")


def test_graphs_of_a_run_without_transcoders_say_how_to_get_some(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/graphs")
    for command in ("monosemy train transcoders --run runs/transcoders", "--run runs/transcoders", "monosemy browse"):
        expect(page.locator("code", has_text=command).first).to_be_visible()
    expect(page.get_by_text("A graph needs transcoders")).to_be_visible()
