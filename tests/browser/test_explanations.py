"""Words of the glossary and controls are explained where they stand, on every page: by pointing, tapping and keys."""

from __future__ import annotations

import pytest
from browser_pages import NAME, PAGES, SITE, wait_for_answers
from playwright.sync_api import expect

PHONE = {"width": 390, "height": 844}
MOST = 8
"""Words that are tapped on a page."""


def opened(page, address: str) -> None:
    page.goto(address)
    wait_for_answers(page)
    page.evaluate("document.querySelectorAll('main details').forEach(one => one.open = true)")


def explains(page, word) -> None:
    """The sentence of the word is shown, alone, within the screen."""
    sentence = page.get_by_role("tooltip")
    expect(sentence).to_have_text(word.get_attribute("data-explained"))
    box = sentence.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]
    assert box["width"] > 40


@pytest.mark.parametrize("name", PAGES)
def test_words_are_explained_at_a_tap(server, new_page, name):
    page = new_page(**PHONE, touch=True)
    opened(page, server.address + PAGES[name])
    words = page.locator("main .term")
    assert words.count() > 0
    for i in range(min(MOST, words.count())):
        words.nth(i).tap()
        explains(page, words.nth(i))
        page.touchscreen.tap(1, 300)  # beside everything
        expect(page.get_by_role("tooltip")).to_have_count(0)
    # A sentence behind a mouse alone is no explanation: only buttons that have a name may have a title.
    assert page.locator("main [title]:not(button[aria-label], button[aria-pressed], .value)").count() == 0


def test_controls_are_explained_by_pointing_and_beside_what_a_tap_does(server, new_page):
    page = new_page()
    opened(page, f"{server.address}/latents/{SITE}/{NAME}")
    for control in (page.get_by_role("button", name="One token"), page.locator("th button").nth(1)):
        control.hover()
        explains(page, control)
        page.mouse.move(5, 5)
        expect(page.get_by_role("tooltip")).to_have_count(0)
    phone = new_page(**PHONE, touch=True)
    opened(phone, f"{server.address}/latents/{SITE}/{NAME}")
    chip = phone.get_by_role("button", name="One token")
    chip.tap()
    explains(phone, chip)
    expect(chip).to_have_attribute("aria-pressed", "true")
    opened(phone, server.address)
    head = phone.get_by_role("button", name="FVU", exact=True).last
    head.tap()
    explains(phone, head)
    expect(phone.locator("th[aria-sort]")).to_contain_text("FVU")


def test_a_word_is_explained_by_keyboard_and_goes_with_the_page(server, new_page):
    page = new_page(**PHONE)
    opened(page, server.address)
    page.keyboard.press("Tab")
    word = page.locator("main .term").first
    word.focus()
    explains(page, word)
    assert word.get_attribute("aria-describedby") == page.get_by_role("tooltip").get_attribute("id")
    page.keyboard.press("Escape")
    expect(page.get_by_role("tooltip")).to_have_count(0)
    assert word.get_attribute("aria-describedby") is None
    page.keyboard.press("Shift+Tab")
    word.focus()
    explains(page, word)
    page.keyboard.press("l")
    expect(page.get_by_role("tooltip")).to_have_count(0)
