"""The exported HTML page on narrow screens: nothing scrolls sideways, with every context closed or all of them open."""

from __future__ import annotations

from pathlib import Path

import feature_runs
import pytest

from monosemy.features.export.html import export_html

LONG = "networkx/algorithms/approximation/traveling_salesman_and_more_of_a_path_without_a_space.py"


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A page whose documents, labels and hints have long names without a space."""
    labels = feature_runs._labels()
    labels[0] = (LONG, {"hints": [f"mostly in {LONG}"]})
    monkeypatch.setattr(feature_runs, "_labels", lambda: labels)
    monkeypatch.setattr(feature_runs, "DOCUMENTS", [(0, "code", LONG)])
    database = feature_runs.open_tiny(tmp_path / "run")
    return export_html(database, [0, 1, 2, 3], tmp_path / "page.html").as_uri()


@pytest.mark.parametrize("width", [320, 420, 1240])
def test_nothing_scrolls_sideways(chromium, exported: str, width: int) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(exported)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for opened in page.locator("details").all():
        opened.evaluate("one => one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()
