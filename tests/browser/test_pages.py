"""What a visitor does: look over the run, narrow the latents, open one, search, compare, write a note."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from browser_pages import NAME, OTHER, SITE, number, wait_for_answers, wait_until
from playwright.sync_api import expect

from monosemy.steering.recipe import find_recipe

LATENTS = f"/latents/{SITE}/{NAME}"
LATENT = f"/latent/{SITE}/{NAME}"


def test_the_overview_shows_every_sae_and_leads_to_its_latents(server, new_page):
    page = new_page()
    page.goto(server.address)
    rows = page.locator("section[aria-labelledby=saes] tbody tr")
    expect(rows).to_have_count(4)  # two SAEs, two controls
    expect(page.locator("figure.chart svg")).to_have_count(2)
    page.get_by_text("Rise of the model's loss against sparsity as a table").click()
    expect(page.locator("figure.chart").first.get_by_role("cell", name=NAME)).to_be_visible()
    rows.get_by_role("link", name=NAME).click()
    expect(page).to_have_url(server.address + LATENTS)
    expect(page.get_by_role("heading", name="1,152 latents")).to_be_visible()


def test_the_overview_shows_intervals_and_keeps_its_choice_in_the_address(server, new_page):
    page = new_page()
    page.goto(server.address)
    table = page.locator("section[aria-labelledby=saes]")
    expect(table.locator("tbody tr")).to_have_count(4)
    ends = table.locator("tbody tr").first.locator(".ends").all_inner_texts()
    assert len(ends) >= 3
    assert all(re.fullmatch(r"\[[^,]+, [^,]+\]", text) for text in ends)
    assert re.fullmatch(r"\[[\d.]+%, [\d.]+%\]", ends[-1])  # of a share, as shares
    table.get_by_role("button", name="Without").click()
    expect(table.locator("tbody tr")).to_have_count(2)
    again = new_page()
    again.goto(page.url)
    expect(again.locator("section[aria-labelledby=saes] tbody tr")).to_have_count(2)


def test_plain_arrows_scroll_until_a_row_is_chosen(server, new_page):
    page = new_page(height=600)
    page.goto(server.address + LATENTS)
    page.locator("tbody tr").first.wait_for()
    page.keyboard.press("ArrowDown")
    wait_until(page, "scrollY > 0")
    assert page.evaluate("document.activeElement.matches('[data-row]')") is False
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.href")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.href") != first
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.href") == first


def test_triage_says_the_unit_of_its_column(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    expect(page.get_by_role("button", name="One token")).to_have_attribute("data-explained", re.compile("0.5 bits"))


def test_first_paint_comes_within_a_second(server, new_page):
    page = new_page()
    painted = []
    for _ in range(5):  # the quickest: what else the machine does is not the page's
        page.goto(server.address + LATENTS)
        page.locator("tbody tr").first.wait_for()
        painted.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert min(painted) < 1000


def test_a_brush_over_the_scatter_narrows_the_list(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    heading = page.locator("#list")
    expect(heading).to_have_text("1,152 latents")
    box = page.locator(".scatter").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile("min_mean=.*max_mean=.*min_firing_rate=.*max_firing_rate="))
    expect(heading).not_to_have_text("1,152 latents")
    n_listed = number(heading.inner_text())
    assert 0 < n_listed < 1152
    low, high = (float(re.search(f"{end}_firing_rate=([0-9.e-]+)", page.url)[1]) for end in ("min", "max"))
    shares = page.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert len(shares) == min(50, n_listed)
    assert all(low * 95 <= float(text.strip("%")) <= high * 105 for text in shares)  # shown to two figures
    page.get_by_role("button", name="Clear range").click()
    expect(heading).to_have_text("1,152 latents")


def test_the_usage_plot_has_frequency_across_and_strength_upwards(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    plot = page.locator(".scatter").bounding_box()
    below = page.locator(".chart svg text", has_text="Share of tokens on which it fires, log scale").bounding_box()
    above = page.locator(".chart svg text", has_text="Mean activation when it fires, log scale").bounding_box()
    assert below["y"] >= plot["y"] + plot["height"]
    assert above["y"] + above["height"] <= plot["y"]
    # A low strip over the whole width holds weak latents of every frequency.
    page.mouse.move(plot["x"] + 2, plot["y"] + plot["height"] * 0.6)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] - 2, plot["y"] + plot["height"] - 2, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile("min_mean=.*max_firing_rate="))
    rate, mean = (columns(page)[name] for name in ("firing_rate", "mean"))
    low, high = (float(re.search(f"max_{name}=([0-9.e-]+)", page.url)[1]) for name in ("mean", "firing_rate"))
    assert low < np.sqrt(mean.min() * mean.max())
    assert high > rate.max()


def test_the_usage_plot_says_the_slope_both_ways(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    page.locator("#slopes").wait_for()
    stated = page.locator("#slopes b").all_inner_texts()
    rate, mean = (np.log(columns(page)[name]) for name in ("firing_rate", "mean"))
    expected = [np.polyfit(rate, mean, 1)[0], np.polyfit(mean, rate, 1)[0]]
    assert [float(text.replace("−", "-")) for text in stated] == pytest.approx(expected, rel=0.01)


def columns(page) -> dict[str, np.ndarray]:
    """Firing rate and mean activation of the latents that fire, as the server sends them."""
    address = f"/api/f/{SITE}/{NAME}/columns?names=firing_rate,mean"
    sent = page.evaluate(f"fetch('{address}').then((r) => r.arrayBuffer()).then((b) => [...new Float32Array(b)])")
    rate, mean = np.array(sent).reshape(2, -1)
    return {"firing_rate": rate[rate > 0], "mean": mean[rate > 0]}


def test_the_brush_works_by_keyboard(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    page.locator(".scatter").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".brush")).to_be_visible()
    expect(page).to_have_url(re.compile("min_mean="))
    before = page.url
    page.keyboard.press("ArrowRight")
    expect(page).not_to_have_url(before)
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("min_mean="))


def test_triage_filters_and_sorting_go_over_the_whole_dictionary(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    chip = page.get_by_role("button", name="Over-active")
    n = number(chip.inner_text())
    chip.click()
    expect(page.locator("#list")).to_have_text(f"{n:,} latent{'' if n == 1 else 's'}")
    page.get_by_role("button", name="All", exact=False).first.click()
    page.get_by_role("button", name="Max").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Max")
    wait_for_answers(page)
    largest = [float(text.replace(",", "")) for text in page.locator("tbody tr td:nth-child(5)").all_inner_texts()]
    assert largest == sorted(largest, reverse=True)
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("51–100 of 1,152")).to_be_visible()


def test_filters_say_their_numbers_add_up_and_leave_one_by_one(server, new_page):
    page = new_page()
    page.goto(server.address)
    clear = page.locator(".found-head a")
    n_clear = number(clear.inner_text().split(" of ")[0])
    clear.click()
    expect(page.locator("#list")).to_have_text(f"{n_clear:,} latent{'' if n_clear == 1 else 's'}")
    chip = page.get_by_role("group", name="Label").get_by_role("button", name="Clear")
    expect(chip).to_have_attribute("aria-pressed", "true")
    assert number(chip.inner_text()) == n_clear
    page.get_by_role("button", name="All", exact=False).first.click()
    page.get_by_role("button", name="Common").click()
    page.get_by_role("button", name="Many tokens").click()
    in_force = page.get_by_role("list", name="Filters in force").get_by_role("listitem")
    expect(in_force).to_contain_text(["Fires on at least 1.0%", "Token entropy at least 6"])
    wait_for_answers(page)
    rates = page.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert all(float(text.strip("%")) >= 1 for text in rates)
    page.get_by_role("button", name="Token entropy at least 6: leave this filter out").click()
    expect(in_force).to_have_count(1)
    page.get_by_text("Exact bounds (1 in force)").click()
    bound = page.get_by_label("Fires on, at least, in %")
    expect(bound).to_have_value("1")
    bound.fill("2.5")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile("min_firing_rate=0.025"))
    expect(in_force).to_contain_text(["Fires on at least 2.5%"])


def test_the_address_brings_back_the_whole_view(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENTS}?sort=mean&order=asc&min_firing_rate=0.01&offset=50")
    page.locator("tbody tr").first.wait_for()
    rows, words = page.locator("tbody tr").all_inner_texts(), page.locator("#list").inner_text()
    again = new_page()
    again.goto(page.url)
    again.locator("tbody tr").first.wait_for()
    assert again.locator("tbody tr").all_inner_texts() == rows
    assert again.locator("#list").inner_text() == words

    page.goto(f"{server.address}{LATENT}/5")
    page.get_by_role("button", name="By strength").click()
    page.get_by_role("button", name="Passage").click()
    page.get_by_role("button", name="a·b").click()
    again.goto(page.url)
    expect(again.get_by_role("button", name="By strength")).to_have_attribute("aria-pressed", "true")
    expect(again.get_by_role("button", name="Passage")).to_have_attribute("aria-pressed", "true")
    assert again.locator(".contexts").first.inner_text() == page.locator(".contexts").first.inner_text()
    page.go_back()  # changes of one view don't pile up in the history
    expect(page).to_have_url(re.compile("/latents/"))


def test_a_latent_page_has_contexts_numbers_and_neighbours(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENT}/5")
    page.locator(".contexts .value").first.wait_for()
    peaks = page.locator(".contexts .value").all_inner_texts()
    assert [float(text) for text in peaks] == sorted((float(text) for text in peaks), reverse=True)
    for heading in ("Contexts", "Firing", "Activations", "Output tokens", "Nearest latents", "Note"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    line = len(page.locator(".ctx").first.inner_text())
    page.get_by_role("button", name="Whole").click()
    wait_until(page, f"document.querySelector('.ctx').innerText.length > {line}")
    page.get_by_text("Activations above zero as a table").click()
    counts = page.locator("section[aria-labelledby=activations] details[open] td.n").all_inner_texts()
    fired = json.loads(page.evaluate(f"fetch('/api/f/{SITE}/{NAME}/latent/5').then(r => r.text())"))["stats"]["n_fired"]
    assert sum(map(number, counts)) == fired


def test_an_address_shows_the_same_contexts_whatever_a_browser_remembers(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENT}/5")
    pressed = page.locator("[aria-label='Length of contexts'] [aria-pressed=true]")
    expect(pressed).to_have_text("Line")
    page.get_by_role("button", name="Passage").click()
    page.goto(f"{server.address}{LATENT}/5")  # as someone else wrote it
    expect(pressed).to_have_text("Line")
    page.goto(server.address + LATENTS)
    page.locator("tbody tr a").first.click()
    expect(page).to_have_url(re.compile("ctx=passage"))  # one's own way on keeps the choice, in the address
    expect(pressed).to_have_text("Passage")


def test_every_score_has_its_interval_and_what_it_counts(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENTS}?sort=label_auroc")
    page.locator("tbody tr a").first.click()
    scores = page.locator(".scores")
    expect(scores).to_contain_text("Top token alone")
    latent = int(re.search(r"/(\d+)", page.url.split(NAME)[1])[1])
    stats = json.loads(page.evaluate(f"fetch('/api/f/{SITE}/{NAME}/latent/{latent}').then(r => r.text())"))["stats"]
    named = [name for name in stats if name.endswith("_auroc") and stats[name] is not None]
    assert len(named) >= 3
    spans = scores.locator("span:has(b)").all_inner_texts()
    assert len(spans) == len(named)
    assert sum("[" in text for text in spans) == sum(stats.get(f"{name}_low") is not None for name in named) >= 3
    expect(scores).to_contain_text(f"{stats['label_n']:,.0f} firing")
    expect(scores).to_contain_text(f"documents, {stats['label_n_documents']:,.0f} firing")


def test_values_show_on_hover_and_by_keyboard(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENT}/5")
    peak = page.locator(".ctx .at .u").first
    peak.hover()
    expect(page.locator(".tip")).to_contain_text(page.locator(".contexts .value").first.inner_text())
    page.mouse.move(5, 5)
    expect(page.locator(".tip")).to_have_count(0)
    page.locator(".ctx").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tip")).to_contain_text(page.locator(".contexts .value").first.inner_text())
    first = page.locator(".tip").inner_text()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".tip")).not_to_have_text(first)
    expect(page).to_have_url(f"{server.address}{LATENT}/5")  # the arrows did not turn the page
    expect(page.locator("[aria-live=polite].sr")).not_to_be_empty()


def test_keys_lead_everywhere_but_not_while_typing(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENT}/5")
    page.locator(".contexts").first.wait_for()
    page.keyboard.press("j")
    expect(page).to_have_url(f"{server.address}{LATENT}/6")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(f"{server.address}{LATENT}/7")
    page.keyboard.press("k")
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(f"{server.address}{LATENT}/5")
    page.keyboard.press("r")
    expect(page).not_to_have_url(f"{server.address}{LATENT}/5")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("g")  # nothing while the dialog is open
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    page.keyboard.press("g")
    expect(page).to_have_url(f"{server.address}/")
    page.keyboard.press("/")
    expect(page).to_have_url(re.compile("/search/"))
    page.keyboard.press("/")
    page.get_by_role("searchbox").fill("")
    page.keyboard.type("jrg?")
    expect(page.get_by_role("searchbox")).to_have_value("jrg?")
    expect(page.get_by_role("dialog")).not_to_be_visible()


def test_search_by_label_and_by_token(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENTS}?sort=label_auroc")
    page.locator("tbody tr").first.wait_for()
    labels = " ".join(page.locator("tbody tr a.plain").all_inner_texts())
    word = max(re.findall(r"[a-z]{4,}", labels), key=len)
    page.keyboard.press("g")
    page.keyboard.press("/")
    page.get_by_role("searchbox").fill(word)
    # Beside them there may be latents by meaning, whose labels need not hold the word.
    hits = page.get_by_role("region", name="Latents found, table").locator("tbody tr")
    expect(hits.first).to_be_visible()
    assert all(word.lower() in text.lower() for text in hits.locator("a.plain").all_inner_texts())
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"/latent/{re.escape(SITE)}/{NAME}/\d+"))

    page.goto(f"{server.address}/search/{SITE}/{NAME}?mode=token")
    page.get_by_role("searchbox").fill(" the")
    expect(hits.first).to_be_visible()
    expect(hits.first).to_contain_text("·the")
    page.get_by_role("searchbox").fill("qqzzqq")
    expect(page.get_by_text("The model has no token")).to_be_visible()


def test_notes_and_bookmarks_outlive_the_page(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENT}/11")
    page.get_by_label("Note on latent 11").wait_for()
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Bookmarked")).to_be_visible()
    note = page.get_by_label("Note on latent 11")
    note.fill("Fires on <b>this</b>, not on that.")
    page.get_by_role("button", name="Save note").click()
    expect(page.get_by_text("Saved in the run's folder")).to_be_visible()
    notes_text = (server.folder / "notes.json").read_text()
    assert "not on that" in notes_text
    other = new_page()
    other.goto(f"{server.address}/notes")
    expect(other.get_by_label("Note on latent 11")).to_have_value("Fires on <b>this</b>, not on that.")
    other.get_by_role("link", name=re.compile("11")).first.click()
    expect(other.get_by_role("button", name="Bookmarked")).to_be_visible()
    other.keyboard.press("b")
    expect(other.get_by_role("button", name="Bookmark", exact=False)).to_have_attribute("aria-pressed", "false")


def kept_note(server, latent):
    notes = json.loads((server.folder / "notes.json").read_text())["notes"]
    return next(((note["bookmark"], note["text"]) for note in notes if note["latent"] == latent), None)


def test_a_bookmark_from_a_page_that_knows_no_notes_keeps_the_note(server, new_page):
    stale = new_page()  # opened before the note was written
    stale.goto(f"{server.address}{LATENT}/21")
    stale.get_by_label("Note on latent 21").wait_for()
    writer = new_page()
    writer.goto(f"{server.address}{LATENT}/21")
    writer.get_by_label("Note on latent 21").fill("an hour's work")
    writer.get_by_role("button", name="Save note").click()
    expect(writer.get_by_text("Saved in the run's folder")).to_be_visible()
    stale.keyboard.press("b")
    expect(stale.get_by_role("button", name="Bookmarked")).to_be_visible()
    assert kept_note(server, 21) == (True, "an hour's work")

    deaf = new_page(expected="500")  # one whose reading of the notes fails
    deaf.route(
        "**/api/notes", lambda r: r.fulfill(status=500, body="{}") if r.request.method == "GET" else r.fallback()
    )
    deaf.goto(f"{server.address}{LATENT}/21")
    expect(deaf.get_by_role("button", name="Read the notes again")).to_be_visible()
    expect(deaf.get_by_label("Note on latent 21")).to_be_disabled()
    deaf.keyboard.press("b")
    expect(deaf.get_by_label("Note on latent 21")).to_have_value("an hour's work")  # the answer brought the notes
    assert kept_note(server, 21) == (True, "an hour's work")


def test_a_note_that_was_changed_elsewhere_is_shown_before_it_is_replaced(server, new_page):
    first, second = new_page(expected="409"), new_page()
    for page in (first, second):
        page.goto(f"{server.address}{LATENT}/22")
        page.get_by_label("Note on latent 22").wait_for()
    second.get_by_label("Note on latent 22").fill("theirs")
    second.get_by_role("button", name="Save note").click()
    expect(second.get_by_text("Saved in the run's folder")).to_be_visible()
    first.get_by_label("Note on latent 22").fill("mine")
    first.get_by_role("button", name="Save note").click()
    expect(first.get_by_text("changed elsewhere meanwhile")).to_be_visible()
    expect(first.locator("q")).to_have_text("theirs")
    assert kept_note(server, 22) == (False, "theirs")
    first.get_by_role("button", name="Save note").click()
    expect(first.get_by_text("Saved in the run's folder")).to_be_visible()
    assert kept_note(server, 22) == (False, "mine")


def test_a_draft_waits_while_another_latent_is_looked_at(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{LATENT}/23")
    page.get_by_label("Note on latent 23").fill("half a thought")
    page.get_by_role("button", name="Next latent").click()
    expect(page.get_by_label("Note on latent 24")).to_have_value("")
    page.get_by_role("button", name="Previous latent").click()
    expect(page.get_by_label("Note on latent 23")).to_have_value("half a thought")
    expect(page.get_by_text("Not saved yet")).to_be_visible()
    page.get_by_role("button", name="Save note").click()
    expect(page.get_by_text("Saved in the run's folder")).to_be_visible()


def test_the_colour_scheme_follows_the_system_and_can_be_chosen(server, new_page):
    page = new_page(dark=True)
    page.goto(server.address)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Colours: system").click()
    light = page.evaluate(background)
    assert dark != light
    page.reload()
    page.get_by_role("button", name="Colours: light").wait_for()
    assert page.evaluate(background) == light


def test_wrong_addresses_say_what_is_wrong(server, new_page):
    page = new_page()
    for address, words in (
        (f"{LATENT}/1152", "latents 0 to 1151"),
        ("/latents/layers.6.resid_post/nothing", "no SAE"),
        ("/nowhere", "no page at this address"),
    ):
        page.goto(server.address + address)
        expect(page.get_by_role("alert")).to_contain_text(words)


def test_the_overview_opens_with_latents_that_lead_to_their_pages(server, new_page):
    page = new_page()
    page.goto(server.address)
    cards = page.locator(".card.found")
    expect(cards.nth(5)).to_be_visible()
    labels = cards.locator("h3").all_inner_texts()
    assert len(set(labels)) == len(labels)  # unlike each other
    cards.first.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text(labels[0])


def test_a_steering_recipe_is_kept_and_brings_its_settings_back(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/steer/{SITE}/{NAME}?e=5:set:1.5:max,7:add:2:norm&prompt=Hello+there")
    page.get_by_text("Keep this as a recipe").click()
    expect(page.locator(".command")).to_contain_text("--edit 5:set:1.5:max --edit 7:add:2:norm --prompt 'Hello there'")
    expect(page.locator(".command")).to_contain_text(f"{server.folder.absolute()}")
    page.get_by_label("Name", exact=True).fill("Greeting")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.goto(f"{server.address}/steer/{SITE}/{NAME}")
    page.get_by_role("button", name="Greeting", exact=True).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Hello there")
    expect(page.get_by_label("Strength for latent 7, exactly")).to_have_value("2")
    page.get_by_role("button", name="Forget Greeting").click()
    expect(page.get_by_role("button", name="Greeting", exact=True)).to_have_count(0)


def test_a_latent_of_another_sae_is_added_kept_with_its_name_and_brought_back(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/steer/{SITE}/{NAME}?e=5:set:1.5:max")
    page.get_by_label("Of the SAE").select_option(f"{SITE}/{OTHER}")
    page.get_by_label("Another latent", exact=True).fill("7")
    page.get_by_role("button", name="Add latent 7").click()
    page.get_by_text("Keep this as a recipe").click()
    expect(page.locator(".command")).to_contain_text(f"--edit 5:set:1.5:max --edit {SITE}/{OTHER}:7:set:1.5:max")
    page.get_by_label("Name", exact=True).fill("Both")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.get_by_role("button", name="Both", exact=True)).to_be_visible()
    assert [edit.sae for edit in find_recipe(server.folder, "Both").edits] == [f"{SITE}/{NAME}", f"{SITE}/{OTHER}"]
    page.goto(f"{server.address}/steer/{SITE}/{NAME}")
    page.get_by_role("button", name="Both", exact=True).click()
    expect(page.get_by_label(f"Strength for latent 7 of {SITE}/{OTHER}, exactly")).to_have_value("1.5")
    assert page.evaluate(
        "[...document.querySelectorAll('.edit')].every((edit) => edit.scrollWidth <= edit.clientWidth)"
    )
    page.get_by_role("button", name="Forget Both").click()
    expect(page.get_by_role("button", name="Both", exact=True)).to_have_count(0)


def test_the_list_opens_with_clear_latents_and_every_filter_stands_in_a_group(server, new_page):
    page = new_page()
    page.goto(server.address + LATENTS)
    expect(page.get_by_text("holds best come first")).to_be_visible()
    wait_for_answers(page)
    first = page.locator("tbody tr td:nth-child(1)").all_inner_texts()[:10]
    page.get_by_role("group", name="Label").get_by_role("button", name="Clear").click()
    wait_for_answers(page)
    n = number(page.locator("#list").inner_text())
    kept = page.locator("tbody tr td:nth-child(1)").all_inner_texts()[:10]
    assert [latent for latent in first if latent in kept] == kept[: len([x for x in first if x in kept])]
    assert n >= len(kept) > 0
