"""On the screen of a phone or tablet no page is wider than it, whatever the tokens and names are; its pickers name
controls, last."""

from __future__ import annotations

from collections.abc import Iterator

import feature_runs
import pytest
from app_cases import LIVE_NAME, LIVE_SITE, model_run, page_run
from browser_pages import Server, wait_for_answers
from feature_runs import NAME, SITE
from playwright.sync_api import expect

from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae

PHONE = {"width": 375, "height": 812}
FIT = "document.documentElement.scrollWidth <= innerWidth"
LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 2


@pytest.fixture(scope="module")
def long_words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Tokens and labels without a place to break them."""
    with pytest.MonkeyPatch.context() as patch:
        words = [LONG.encode() if token == feature_runs.JULY else word for token, word in enumerate(feature_runs.WORDS)]
        patch.setattr(feature_runs, "WORDS", words)
        patch.setattr(feature_runs, "_labels", lambda: [(f"“{LONG}”", {"hints": [LONG]})] * feature_runs.M)
        running = Server(page_run(tmp_path_factory.mktemp("browser") / "long"))
    yield running
    running.stop()


@pytest.mark.parametrize(
    "address",
    [
        "/",
        f"/latents/{SITE}/{NAME}",
        f"/latent/{SITE}/{NAME}/0",
        f"/latent/{SITE}/{NAME}/0?ctx=whole",
        f"/search/{SITE}/{NAME}?q=Donau",
        f"/search/{SITE}/{NAME}?mode=token&q=Donau",
        f"/search/{SITE}/{NAME}?mode=text",
        "/compare",
        f"/steer/{SITE}/{NAME}?e=0:set:1.5:max",
        f"/steer/{SITE}/{NAME}",
        f"/search/{SITE}/{NAME}?mode=text&text=a&other=b",
        "/notes",
        "/nowhere",
    ],
)
def test_no_page_is_wider_than_a_phone_or_tablet(long_words, new_page, address):
    page = new_page(**PHONE, expected="404")
    page.goto(long_words.address + address)
    wait_for_answers(page)
    page.evaluate("document.querySelectorAll('main details').forEach(one => one.open = true)")
    assert page.evaluate(FIT)
    for width in (390, 820):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(100)  # plots follow the width
        assert page.evaluate(FIT), width


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A run with a control and an SAE whose training stopped."""
    run = model_run(tmp_path_factory.mktemp("browser") / "controlled")
    for name, settings in {
        "frozen_random-l0_4-s0": {"frozen_decoder": True},
        "relu-l0_4-s0": {"record": {"stopped": "relu-l0_4-s0 stopped: the loss became nan at step 3"}},
    }.items():
        architecture = "topk" if "frozen_decoder" in settings else "relu"
        sae = build_sae(SaeConfig(architecture, 32, 64, 4.0, site=LIVE_SITE, **settings))
        save_sae(sae, run / "saes" / LIVE_SITE / name)
    running = Server(run)
    yield running
    running.stop()


def test_pickers_name_controls_and_put_them_last(controlled, new_page):
    page = new_page(**PHONE)
    page.goto(f"{controlled.address}/latents/{LIVE_SITE}/{LIVE_NAME}")
    wait_for_answers(page)
    assert page.get_by_label("SAE", exact=True).locator("option").all_inner_texts() == [
        "TopK, L0 4 (no features)",
        "Frozen random (control), L0 4 (no features)",
        "ReLU + L1, L0 4 (training stopped early)",
    ]
    page.get_by_label("SAE", exact=True).select_option(index=1)
    expect(page.get_by_role("heading", name="Latents of Frozen random (control), L0 4")).to_be_visible()
    expect(page.locator(".message code")).to_contain_text(f"--saes {LIVE_SITE}/frozen_random-l0_4-s0")


def test_ones_own_text_fits_a_phone(controlled, new_page):
    page = new_page(**PHONE)
    page.goto(f"{controlled.address}/search/{LIVE_SITE}/{LIVE_NAME}?mode=text")
    page.get_by_label("Your text").fill(f"a {LONG} b")
    page.get_by_role("button", name="Show which latents fire").click()
    expect(page.get_by_role("region", name="Latents of your text, table")).to_be_visible(timeout=120_000)
    assert page.evaluate(FIT)
