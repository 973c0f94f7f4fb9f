"""What needs the language model: the visitor's own text, steering in four columns, the strength sweep."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from browser_pages import NAME, SITE
from playwright.sync_api import expect

SLOW = 180_000
STEER = f"/steer/{SITE}/{NAME}"


def test_own_text_shows_which_latents_fire_at_each_token(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/search/{SITE}/{NAME}?mode=text")
    page.get_by_label("Your text").fill("On 4 July the café in Paris was closed. 日本")
    page.get_by_role("button", name="Show which latents fire").click()
    tokens = page.locator(".tokbutton")
    expect(tokens.first).to_be_visible(timeout=SLOW)
    expect(page.get_by_role("button", name="Model ready")).to_be_visible(timeout=SLOW)
    assert "café" in "".join(tokens.all_inner_texts()).replace("·", " ")
    page.get_by_role("button", name="·July").click()
    expect(page.get_by_text("Latents at “·July”")).to_be_visible()
    page.locator("tbody tr a").first.click()
    expect(page).to_have_url(re.compile(rf"/latent/{re.escape(SITE)}/{NAME}/\d+"))


def test_a_latent_is_traced_over_own_text(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/latent/{SITE}/{NAME}/5")
    context = page.locator(".ctx").first.inner_text()
    page.get_by_label("Your text").fill(context)
    page.get_by_role("button", name="Test text").click()
    trace = page.locator("[data-trace]")
    expect(trace).to_be_visible(timeout=SLOW)
    expect(trace).to_contain_text("Fires on")  # its own strongest context fires it
    expect(page).to_have_url(re.compile("text="))


def test_steering_streams_four_columns_and_measures_them(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{STEER}?n=12&say=Talk+about+the+sea.&prompt=Tell+me+about+your+day.")
    expect(page.get_by_role("button", name="Write")).to_be_disabled()
    page.get_by_label("Latent to steer").fill("5")
    page.get_by_role("button", name="Add latent 5").click()
    page.get_by_label("Strength for latent 5, exactly").fill("3")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile("e=5%3Aset%3A3%3Amax"))
    page.get_by_role("button", name="Write").click()
    for column in ("default", "steered", "prompted", "random"):
        expect(page.locator(f"[data-column={column}] dl")).to_contain_text("Perplexity", timeout=SLOW)
    answers = {c: page.locator(f"[data-column={c}] .generated .ctx").inner_text() for c in ("default", "steered")}
    assert answers["default"] != answers["steered"]
    kl = page.locator("[data-column=default] dd").nth(2)
    assert float(kl.inner_text()) == 0
    assert float(page.locator("[data-column=steered] dd").nth(2).inner_text()) > 0
    page.locator("[data-column=steered] summary", has_text="Prompt as the model read it").click()
    expect(page.locator("[data-column=steered] details[open] .ctx")).to_contain_text("Tell me about your day.")
    page.locator("[data-column=steered] summary", has_text="Tokens").click()
    after = page.locator("[data-column=steered] tbody tr td:nth-child(7)").all_inner_texts()
    assert float(after[-1]) > 0
    page.get_by_role("group", name="Shade tokens by").get_by_role("button", name="KL").click()
    expect(page).to_have_url(re.compile("shade=kl"))

    again = new_page()
    again.goto(page.url)  # the address holds the whole request
    expect(again.get_by_label("Strength for latent 5, exactly")).to_have_value("3")
    expect(again.get_by_label("Instruction for the prompted column")).to_have_value("Talk about the sea.")


def test_a_number_being_typed_survives_data_that_arrive_meanwhile(server, new_page):
    page = new_page()
    waiting, latent = [], re.compile(r"/api/.*latents?/")  # the latent's label and maximum
    page.route(latent, lambda route: waiting.append(route))
    with page.expect_request(latent):
        page.goto(f"{server.address}{STEER}?e=5:set:1.5:max")
    strength = page.get_by_label("Strength for latent 5, exactly")
    strength.fill("3")
    for route in waiting:
        route.continue_()
    expect(page.get_by_text("its maximum on the")).to_be_visible()
    expect(strength).to_have_value("3")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile("e=5%3Aset%3A3%3Amax"))


def test_any_of_several_latents_is_traced_and_the_control_is_in_the_address(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{STEER}?e=5:set:3:max,6:ablate:0:max&n=4&columns=steered%2Brandom&control=7")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("[data-column=random] dl")).to_contain_text("Perplexity", timeout=SLOW)
    expect(page.locator("[data-column=random]")).to_contain_text(re.compile(r"\(latents 7, \d+\)"))
    steered = page.locator("[data-column=steered]")
    steered.locator("summary", has_text="Tokens").click()
    last = steered.locator("tbody tr td:nth-child(7)")
    assert float(last.last.inner_text()) > 0
    page.get_by_label("Traced latent").select_option("6")
    expect(page).to_have_url(re.compile("trace=6"))
    expect(steered).to_contain_text("Latent 6 before")
    after = [float(text) for text in last.all_inner_texts()]
    page.get_by_label("Traced latent").select_option("5")
    assert after != [float(text) for text in last.all_inner_texts()]
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Latent of the random column")).to_have_value("7")
    page.get_by_label("Latent of the random column").fill("8")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile("control=8"))


def test_the_strength_in_numbers_is_the_one_that_is_applied(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{STEER}?e=5:set:2:max&n=1&columns=steered")
    latent_page = json.loads(page.evaluate(f"fetch('/api/f/{SITE}/{NAME}/latent/5').then(r => r.text())"))
    assert latent_page["steering_max"]["text"] == "validation"
    assert latent_page["steering_max"]["value"] != latent_page["stats"]["max"]
    strength_line = page.get_by_text("its maximum on the validation text")
    displayed_value = float(strength_line.inner_text().split(" = ")[1].split(",")[0])
    assert abs(displayed_value / (2 * latent_page["steering_max"]["value"]) - 1) < 0.005  # shown to three figures
    with page.expect_request("**/api/steer") as steer_request:
        page.get_by_role("button", name="Write").click()
    expect(page.locator("[data-column=steered] dl")).to_contain_text("Perplexity", timeout=SLOW)
    headers = {"Content-Type": "application/json"}
    again = Request(f"{server.address}/api/steer", steer_request.value.post_data.encode(), headers)
    with urlopen(again, timeout=60) as answer:
        start = json.loads(answer.readline())
    assert start["columns"][0]["edits"][0]["value"] == pytest.approx(2 * latent_page["steering_max"]["value"])


def test_steering_can_be_stopped_and_run_again(server, new_page):
    page = new_page(expected="409 (Conflict)")  # the stopped answer ends at its next token; the page asks again
    page.goto(f"{server.address}{STEER}?e=5:set:1:max&n=200&columns=default%2Bsteered")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("[data-column=steered] .generated .ctx")).not_to_be_empty(timeout=SLOW)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Write")).to_be_enabled()
    written = page.locator("[data-column=steered] .generated .ctx").inner_text()
    page.wait_for_timeout(1_500)
    assert page.locator("[data-column=steered] .generated .ctx").inner_text() == written
    expect(page.get_by_role("button", name="Write")).to_be_enabled()
    page.goto(f"{server.address}{STEER}?e=5:ablate:0:max&n=4&columns=default%2Bsteered")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("[data-column=steered] dl")).to_contain_text("Perplexity", timeout=SLOW)


def test_a_sweep_shows_the_answer_at_each_strength(server, new_page):
    page = new_page()
    page.goto(f"{server.address}{STEER}?e=5:set:1:max&n=8&sweep=0,2,4")
    page.get_by_role("button", name="Run sweep").click()
    rows = page.locator("td.answer")
    expect(rows).to_have_count(3, timeout=SLOW)
    expect(page.locator("figure.chart svg")).to_have_count(2)
    page.get_by_label("Strengths, at most").fill("0, much")
    expect(page.get_by_role("alert")).to_contain_text("must be numbers")


def test_one_click_makes_the_model_talk_like_a_latent(server, new_page):
    page = new_page()
    page.goto(server.address)
    with page.expect_response("**/steer-examples", timeout=SLOW) as answered:
        page.get_by_role("button", name="Make it talk like one of its latents").click()
    examples = answered.value.json()["examples"]
    assert examples
    talk = page.locator("section[aria-labelledby=talk]")
    expect(talk.get_by_role("status")).to_be_empty(timeout=SLOW)
    words = talk.get_by_role("button", name=re.compile("^Talk like"))
    assert words.count() == len(examples)
    assert all(example["words"][0] in text for example, text in zip(examples, words.all_inner_texts(), strict=True))
    plain, pushed = talk.locator("p.answer").all_inner_texts()
    assert len(plain.split()) > 5
    assert plain != pushed
    strengths = talk.locator("button[aria-pressed]:not(:text('Talk like'))")
    expect(strengths).to_have_count(4)
    strengths.last.click()
    expect(strengths.last).to_have_attribute("aria-pressed", "true")
    value = strengths.last.inner_text()
    talk.get_by_role("link", name="Go on on the steering page").click()
    expect(page).to_have_url(re.compile(rf"/steer/{re.escape(SITE)}/[\w-]+\?e=\d+%3Aset%3A{value}%3Anorm"))


def test_a_concept_is_found_by_meaning(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/search/{SITE}/{NAME}?q=qqzzqq")
    button = page.get_by_role("button", name="Also find latents by meaning")
    if button.count():  # unless the model is loaded already
        button.click()
    page.get_by_role("searchbox").fill("nation")
    hits = page.get_by_role("region", name="Latents by meaning, table").locator("tbody tr")
    expect(hits.first).to_contain_text(re.compile("countr|nation|state", re.IGNORECASE), timeout=120_000)


def test_two_texts_and_a_transcript_are_told_apart(server, new_page):
    page = new_page()
    page.goto(f"{server.address}/search/{SITE}/{NAME}?mode=text")
    page.get_by_role("textbox", name="Your text").fill("The king lived in Paris.")
    page.get_by_role("button", name="Compare with a second text").click()
    page.get_by_label("A second text").fill("def add(a, b): return a + b")
    page.get_by_role("button", name="Compare the texts").click()
    only = page.get_by_role("region", name="Differences, table").locator("tbody tr")
    expect(only.first).to_contain_text("silent", timeout=120_000)
    page.get_by_role("textbox", name="Your text").fill("Another text.")  # what is saved are the texts that were read
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    differences = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert "".join(differences["texts"]["first"]["tokens"]).endswith("The king lived in Paris.")
    assert {row["fires_in"] for row in differences["latents"]} == {"first", "second", "both"}

    page.goto(f"{server.address}/search/{SITE}/{NAME}?mode=text&chat=1")
    page.get_by_role("textbox", name="Your text").fill("User: Who are you?\nAssistant: A model.")
    page.get_by_role("button", name="Show which latents fire").click()
    page.get_by_role("group", name="Whose messages").get_by_role("button", name="assistant").click()
    rows = page.get_by_role("region", name="Latents of your text, table").locator("tbody tr")
    expect(rows.first).to_contain_text("assistant")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.startswith("token,text,role,latent,label")
    assert ",assistant," in text
