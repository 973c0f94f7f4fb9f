"""What a reader of the report meets, in which order: two figures, six latents; the rest folded, provenance last."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser

import pytest
from report_runs import write_run

from monosemy.report.page import write_report
from research.speed import browser
from research.speed.browser import NAME, SITE

N_LATENTS = 64
VOID = {"meta", "img", "source", "br", "link"}


class Outline(HTMLParser):
    """The landmarks of a page in order, unfolded or folded: figures, cards, tables, sections."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.unfolded: list[str] = []
        self.folded: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("figure", "article", "table", "section"):
            sections = self.folded if "details" in self._open else self.unfolded
            sections.append(f"section {dict(attrs).get('id')}" if tag == "section" else tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def outline(tmp_path_factory: pytest.TempPathFactory) -> Outline:
    """Of a run with the files of every stage, in which one SAE has features of 64 latents."""
    folder = tmp_path_factory.mktemp("order")
    run = write_run(folder / "run", sites=(SITE,), architectures=("topk", "jumprelu"), l0=(64.0,), d_sae=N_LATENTS)
    with pytest.MonkeyPatch.context() as patch:  # a tenth of a second rather than seven
        patch.setattr(browser, "VOCABULARY", 512)
        patch.setattr(browser, "N_TOKENS", 1 << 14)
        browser.write_synthetic_run(folder / "features", N_LATENTS)
    shutil.copytree(folder / "features" / "features", run / "features")
    shutil.copy(folder / "features" / "saes" / SITE / NAME / "config.json", run / "saes" / SITE / NAME)
    return Outline(write_report(run).read_text(encoding="utf-8"))


def test_two_figures_then_six_latents_then_what_is_folded_and_provenance_last(outline: Outline):
    assert outline.unfolded == [
        "section summary",
        *["figure"] * 2,
        "table",  # which architecture is best at each L0
        "section latents",
        *["article"] * 6,
        "section site-0",
        "section provenance",
        "table",  # what was used
    ]


def test_the_other_figures_and_tables_are_folded(outline: Outline):
    assert outline.folded.count("figure") >= 4
    assert outline.folded.count("table") >= 8
    assert not {"article", "section provenance"} & set(outline.folded)
