"""The report's section on latents: it shows what the database holds, escaped, and is absent without features."""

from __future__ import annotations

from pathlib import Path

from app_cases import model_run, page_run
from feature_runs import MARKUP

from monosemy.app.report_section import read_section


def test_the_section_shows_clear_latents_with_their_contexts(tmp_path: Path):
    section = read_section(page_run(tmp_path / "run"))
    assert section is not None
    assert (section.anchor, section.drawings) == ("latents", {})
    html = str(section.html)
    assert html.count("<article") == 3  # the fourth latent never fired
    assert html.index("latent 0;") < html.index("latent 1;")  # the only scored label leads
    assert "label score 0.93 [0.90, 0.95]" in html
    assert '<span class="a5"> July</span>' in html
    assert MARKUP not in html
    assert "&lt;script&gt;" in html


def test_a_run_without_features_has_no_such_section(tmp_path: Path):
    assert read_section(model_run(tmp_path / "run")) is None


def test_a_folder_without_saes_has_none_either(tmp_path: Path):
    run = page_run(tmp_path / "run")
    for part in ("saes", "features"):
        (run / part).rename(run / f"no-{part}")
    assert read_section(run) is None
