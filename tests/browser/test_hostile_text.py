"""Text that is markup stays text; cut characters are whole; invisible ones are seen; silent latents have a page."""

from __future__ import annotations

import json

from feature_runs import BREAK, JULY, MARKUP, NAME, SITE
from playwright.sync_api import expect

LATENT = f"/latent/{SITE}/{NAME}"


def test_a_script_in_a_token_is_shown_and_never_run(hostile, new_page):
    page = new_page()
    page.on("dialog", lambda dialog: dialog.accept() or (_ for _ in ()).throw(AssertionError("a script ran")))
    for address in (f"{LATENT}/2?ctx=whole", f"/latents/{SITE}/{NAME}", f"/search/{SITE}/{NAME}?q=script"):
        page.goto(hostile.address + address)
        expect(page.get_by_text(MARKUP).first).to_be_visible()
        assert page.locator("#app script").count() == 0
    page.goto(f"{hostile.address}{LATENT}/2")
    page.locator(".ctx .at .u").first.hover()
    expect(page.locator(".tip")).to_contain_text(MARKUP)
    page.get_by_label("Note on latent 2").fill(MARKUP)
    page.get_by_role("button", name="Save note").click()
    expect(page.get_by_text("Saved in the run's folder")).to_be_visible()
    page.goto(f"{hostile.address}/notes")
    expect(page.get_by_label("Note on latent 2")).to_have_value(MARKUP)


def test_the_policy_forbids_inline_scripts_and_foreign_sources(hostile, chromium):
    page = chromium.new_page()
    answer = page.goto(hostile.address)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    ran = page.evaluate(
        """() => new Promise(resolve => {
            addEventListener('securitypolicyviolation', () => resolve('refused'), { once: true });
            const element = document.createElement('div');
            element.innerHTML = '<img src=x onerror="window.ran = true">';
            document.body.append(element);
            setTimeout(() => resolve(window.ran ? 'ran' : 'silent'), 1500);
        })"""
    )
    assert ran == "refused"
    page.context.close()


def test_a_character_cut_over_two_tokens_is_one_unit(hostile, new_page):
    page = new_page()
    page.goto(f"{hostile.address}{LATENT}/1?ctx=whole")
    dash = page.locator(".ctx").first.locator(".u", has_text="—")
    expect(dash.first).to_have_text("—")
    dash.first.hover()
    expect(page.locator(".tip")).to_contain_text("4")  # the larger of its two tokens' values


def test_white_space_is_visible(hostile, new_page):
    page = new_page()
    page.goto(f"{hostile.address}{LATENT}/0?ctx=whole")
    text = page.locator(".ctx").first
    assert all(mark in text.inner_text() for mark in "↵→")
    assert "·July" not in text.inner_text()
    page.keyboard.press("w")
    expect(text).to_contain_text("·July")
    run = json.loads(page.evaluate(f"fetch('/api/f/{SITE}/{NAME}/latent/0').then(r => r.text())"))
    assert {token["id"] for token in run["raised"]} == {JULY, BREAK}
    expect(page.locator("section[aria-labelledby=outputs]")).to_contain_text("·July")
    expect(page.locator("section[aria-labelledby=outputs]")).to_contain_text("↵")


def test_a_latent_that_never_fired_has_a_page(hostile, new_page):
    page = new_page()
    page.goto(f"{hostile.address}{LATENT}/3")
    expect(page.get_by_text("This latent never fired")).to_be_visible()
    expect(page.get_by_role("heading", name="Latent 3")).to_be_visible()
