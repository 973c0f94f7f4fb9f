"""A latent in the terminal and on a page of its own: nothing is lost without colour, nothing can run."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from feature_runs import MARKUP, NAME, SITE, open_tiny, write_feature_run
from rich.console import Console

from monosemy.errors import UserError
from monosemy.features.commands import run_export_html, run_show
from monosemy.features.export import html_page
from monosemy.features.export.html import export_html
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import excerpt, level, quoted
from monosemy.features.view.selection import open_selected, parse_latents, place_of
from monosemy.features.view.show import latent_page
from monosemy.models.sites import parse_site
from monosemy.support.numbers import activation_text

VOID = {"meta", "br", "input", "link", "img", "rect", "line"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> FeatureDatabase:
    return open_tiny(tmp_path_factory.mktemp("run") / "run")


class Page(HTMLParser):
    """Collects tags, attributes and text; checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def printed(database: FeatureDatabase, latent: int, *, colour: bool = False) -> str:
    stream = io.StringIO()
    Console(
        file=stream, width=100, force_terminal=colour, color_system="truecolor" if colour else None, highlight=False
    ).print(latent_page(database, latent))
    return stream.getvalue()


# ---- a context as people read it


def test_a_character_cut_over_two_tokens_is_one_piece_with_the_larger_activation(database: FeatureDatabase) -> None:
    passage = excerpt(database, database.examples(1, ["top"])[0])
    assert "".join(passage.pieces).count("—") == 1
    assert passage.pieces[passage.peak] == "—"
    assert passage.activations[passage.peak] == passage.value == 4.0  # the tokens had 1 and 4


def test_cutting_keeps_the_peak_and_says_that_there_is_more(database: FeatureDatabase) -> None:
    example = database.examples(0, ["top"])[0]
    cut = excerpt(database, example, before=2, after=0)
    assert cut.pieces == (" market", " in", " July")
    assert cut.pieces[cut.peak] == " July"
    assert cut.cut == (True, True)
    assert excerpt(database, example, 99, 99) == excerpt(database, example)


def test_no_cut_divides_a_character(database: FeatureDatabase) -> None:
    july = database.examples(0, ["top"])[0]
    assert excerpt(database, july, before=0, after=1).pieces == (" July", "—")  # one token behind it is half of “—”
    second = database.examples(0, ["q0"])[0]  # peak at 11; its fifth token before is the other half
    assert excerpt(database, second, before=5, after=0).pieces[0] == "—"


def test_levels_say_zero_only_where_a_latent_is_silent() -> None:
    assert [level(v, 9.0) for v in (0.0, 1e-6, 1.0, 1.01, 9.0, 9.5)] == [0, 1, 1, 2, 9, 9]
    assert level(1.0, 0.0) == 0


def test_numbers_have_three_digits_and_no_exponents() -> None:
    assert [activation_text(v) for v in (0, 0.001234, 12.345, 1234.5, None)] == ["0", "0.00123", "12.3", "1,234", "–"]
    assert quoted(" a\n ") == "“␣a↵␣”"


# ---- the terminal


def test_the_terminal_page_reads_without_colour(database: FeatureDatabase) -> None:
    text = printed(database, 0)
    assert "\x1b" not in text
    assert "“July” after “in”" in text
    assert "«July»₉" in text
    assert "July₃" in text
    assert "0.93 (0.90–0.95)" in text
    assert "41 held-out firing windows of 17 documents" in " ".join(text.split())
    assert "its commonest token (baseline) 0.88" in " ".join(text.split())
    assert "fires on 4.17% of tokens · in all 2 tokens · mean 5.00 · maximum 8.00" in text
    assert "Near misses" in text


def test_the_terminal_page_shades_where_colour_is_there(database: FeatureDatabase) -> None:
    text = printed(database, 0, colour=True)
    assert "48;2;29;77;184" in text  # the strongest shade
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == printed(database, 0)


def test_a_latent_that_never_fired_says_so(database: FeatureDatabase) -> None:
    text = printed(database, 3)
    assert "never fired" in text
    assert "nan" not in text.lower()


def test_show_prints_one_group_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_show([str(write_feature_run(tmp_path / "run")), "0", "--group", "q0"])
    text = capsys.readouterr().out
    assert "Weakest fifth" in text
    assert "Strongest" not in text


# ---- the page


def test_the_page_holds_everything_and_loads_nothing(database: FeatureDatabase, tmp_path: Path) -> None:
    written = export_html(database, [0, 1, 2, 3], tmp_path / "some.html").read_text()
    page = Page(written)
    assert not re.search(r"(src|href)=\"(?!#)", written)
    assert "default-src 'none'" in written
    assert [a["id"] for tag, a in page.tags if tag == "article"] == [f"latent-{i}" for i in range(4)]
    for words in ("“July” after “in”", "0.93 (0.90–0.95)", "4.17%", "Near misses", "a newspaper", "of 17 documents"):
        assert words in page.text
    assert "nan" not in page.text.lower()


def test_markup_in_a_token_stays_text(database: FeatureDatabase, tmp_path: Path) -> None:
    page = Page(export_html(database, [2], tmp_path / "one.html").read_text())
    assert MARKUP in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_every_activation_of_a_context_is_also_in_a_table(database: FeatureDatabase, tmp_path: Path) -> None:
    written = export_html(database, [1], tmp_path / "one.html").read_text()
    assert re.search(r"<summary>4.00</summary>.*?<td class=\"n\">4.00</td>", written)
    assert 'title="4.00"' in written


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_every_shade_and_shades_grow() -> None:
    for ink, shades in (
        (html_page.LIGHT_INK, html_page.LIGHT_SHADES),
        (html_page.DARK_INK, html_page.DARK_SHADES),
    ):
        ratios = [contrast(ink, shade) for shade in shades]
        assert min(ratios) >= 4.5
        assert ratios == sorted(ratios, reverse=True)


# ---- what is asked for


def test_latents_are_numbers_and_ranges(database: FeatureDatabase) -> None:
    assert parse_latents(["2", "0-1,2", "3"], database) == [2, 0, 1, 3]
    for words, message in ((["x"], "no number"), (["2-1"], "backwards"), (["4"], "0 to 3"), (["1-9"], "0 to 3")):
        with pytest.raises(UserError, match=message):
            parse_latents(words, database)


def test_the_sae_is_chosen_by_name(tmp_path: Path) -> None:
    run = write_feature_run(tmp_path / "one")
    assert open_selected(run, None).info["name"] == NAME
    larger_run = write_feature_run(tmp_path / "two", (NAME, "relu-l0_4-s0"))
    assert (
        open_selected(larger_run, "relu-l0_4-s0").info["name"]
        == open_selected(larger_run, f"{SITE}/relu-l0_4-s0").info["name"]
    )
    with pytest.raises(UserError, match=f"choose one: --sae {SITE}/relu"):
        open_selected(larger_run, None)
    with pytest.raises(UserError, match="did you mean"):
        open_selected(larger_run, "topk-l0_5-s0")
    with pytest.raises(UserError, match="not a run folder"):
        open_selected(tmp_path, None)


def test_a_run_without_features_names_the_command_that_builds_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="monosemy features"):
        open_selected(write_feature_run(tmp_path / "run", ()), None)


def test_places_have_the_names_of_other_tools() -> None:
    assert place_of("layers.12.resid_post").hook == "blocks.12.hook_resid_post"
    assert place_of("layers.3.mlp_out").short == "mlp"
    for post_norms in (False, True):
        for kind in ("resid_pre", "resid_post", "attn_heads", "attn_out", "mlp_in", "mlp_out"):
            hook = place_of(f"layers.3.{kind}", post_norms=post_norms).hook
            assert str(parse_site(hook, 6, post_norms=post_norms)) == f"layers.3.{kind}"
    with pytest.raises(UserError, match="no layer"):
        place_of("embedding")


def test_an_html_export_never_replaces_a_file_of_somebody_elses(tmp_path: Path) -> None:
    run, out = write_feature_run(tmp_path / "run"), tmp_path / "thesis.html"
    out.write_text("years of work")
    with pytest.raises(UserError, match="was not made by export-html"):
        run_export_html([str(run), "0", "--out", str(out)])
    assert out.read_text() == "years of work"
    run_export_html([str(run), "0", "--out", str(tmp_path / "new.html")])
    run_export_html([str(run), "0-2", "--out", str(tmp_path / "new.html")])  # its own it may replace
    assert 'id="latent-2"' in (tmp_path / "new.html").read_text()
    for name, message in (("run", "is a folder"), ("x.txt", "must end in .html")):
        with pytest.raises(UserError, match=message):
            run_export_html([str(run), "0", "--out", str(tmp_path / name)])
