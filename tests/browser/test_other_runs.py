"""A run whose features were not built, and explanations that a chat model wrote after the pages were open."""

from __future__ import annotations

from app_cases import LIVE_NAME, LIVE_SITE
from feature_runs import NAME, SITE
from playwright.sync_api import expect

from monosemy.features.store.database import open_features


def test_a_run_without_features_says_the_command_and_still_shows_statistics(bare, new_page):
    page = new_page()
    page.goto(bare.address)
    expect(page.get_by_text("monosemy features")).to_be_visible()
    page.get_by_role("link", name=LIVE_NAME).click()
    expect(page.get_by_role("heading", name="64 latents")).to_be_visible()
    expect(page.get_by_text("No features are built for this SAE")).to_be_visible()
    page.goto(f"{bare.address}/latent/{LIVE_SITE}/{LIVE_NAME}/3")
    expect(page.get_by_text("so its latents have no pages")).to_be_visible()
    page.goto(f"{bare.address}/search/{LIVE_SITE}/{LIVE_NAME}")
    expect(page.get_by_text("labels and tokens can't be searched")).to_be_visible()


def test_a_chat_models_explanation_is_shown_with_its_scores(hostile, new_page):
    score = {"auroc": 0.5, "auroc_low": 0.4, "auroc_high": 0.6, "n_positive": 20, "n_negative": 19, "n_missing": 1}
    record = {"model": "a chat model", "n_passages": 24, "scores": {"detection_random": score}}
    record["skipped"] = {"simulation": "the model gives no log-probabilities"}
    open_features(hostile.folder, SITE, NAME).write_explanations({0: ("The month of July.", record)})
    page = new_page()
    page.goto(f"{hostile.address}/latent/{SITE}/{NAME}/0")
    expect(page.locator("h1")).to_have_text("“July” after “in”")  # no better than chance: the label leads
    explanation = page.locator("section[aria-labelledby=explanation]")
    expect(explanation).to_contain_text("The month of July.")
    expect(explanation).to_contain_text("AUROC 0.500 [0.400, 0.600]")
    expect(explanation).to_contain_text("Simulation: not measured, the model gives no log-probabilities.")
