"""The latents of an SAE in Python and notebooks, on a hand-made database."""

from __future__ import annotations

import pytest
from feature_runs import MARKUP, NAME, SITE, write_feature_run

import monosemy
from monosemy.errors import UserError


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return monosemy.open_run(write_feature_run(tmp_path_factory.mktemp("features") / "run")).features()


def test_a_latent_has_its_label_its_numbers_and_its_contexts(features):
    july = features[0]
    assert len(features) == 4
    assert july.label == features.database.label(0)["text"]
    assert july.firing_rate == pytest.approx(features.database.stats(0)["firing_rate"])
    (context,) = july.contexts()
    assert context.value == 8.0
    assert context.pieces[context.peak] == " July"
    assert repr(july).startswith("<Latent 0 (")
    assert repr(features).startswith(f"<Features of {SITE}/{NAME}: latents 4, ")
    with pytest.raises(UserError, match="latent 4 is out of range"):
        features[4]


def test_a_notebook_shows_the_firing_tokens_shaded_and_everything_escaped(features):
    july = features[0]._repr_html_()
    assert "<b> July</b>" in july
    assert july.count("rgba(66,133,244,0.60)") == 1, "the peak has the deepest shade"
    assert july.count("rgba(66,133,244,") == 2
    assert MARKUP not in features[2]._repr_html_()
    assert "&lt;script&gt;" in features[2]._repr_html_()
    assert "<table></table>" in features[3]._repr_html_(), "a silent latent has no contexts"


def test_latents_are_found_and_listed(features):
    clear = features.clear(3)
    assert clear[0].number == 0, "the one whose label was scored"
    assert {latent.number for latent in clear} == {0, 1, 2}, "those that fired"
    assert clear._repr_html_().count("<tr>") == 1 + len(clear)
    assert [latent.number for latent in features.search("july")] == [0]
    assert features.search("nothing like it") == []


def test_printed_they_stand_one_a_line_and_a_latent_with_its_contexts(features):
    heading, context = str(features[0]).splitlines()
    assert heading == repr(features[0])
    assert context.split()[0] == "8.00"
    assert " «July»" in context
    assert str(features.clear(3)).splitlines() == [repr(latent) for latent in features.clear(3)]
    assert str(features.search("nothing like it")) == "no latents"
    assert "\x1b" not in str(features[2])


def test_the_features_of_another_sae_are_asked_for_by_name(tmp_path):
    run = monosemy.open_run(write_feature_run(tmp_path / "run", (NAME, "jumprelu-l0_4-s0")))
    assert run.features("jumprelu-l0_4-s0").database.info["name"] == "jumprelu-l0_4-s0"
    assert run.features(f"{SITE}/{NAME}").database.info["name"] == NAME
    with pytest.raises(UserError, match="unknown SAE"):
        run.features("other")
