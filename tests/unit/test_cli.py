"""Words to a configuration: short names, units, architecture options, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from monosemy import cli
from monosemy.errors import UserError
from monosemy.pipeline import check_config
from monosemy.recipes import quick


def test_short_names_units_and_options():
    words = ["--tokens", "1.5M", "--sites", "layers.3.mlp_out", "--l0", "8", "20"]
    words += ["--jumprelu.bandwidth-relative=0.3", "--jumprelu.recipe", "tanh", "--training.n-passes", "3"]
    config = cli._parse(quick(), words)
    assert config.text.n_tokens == 1_500_000
    assert config.activations.sites == ("layers.3.mlp_out",)
    assert config.l0 == (8.0, 20.0)
    assert config.training.n_passes == 3
    assert config.options == {"jumprelu.bandwidth_relative": 0.3, "jumprelu.recipe": "tanh"}
    assert config.d_sae == quick().d_sae  # the base's own, where no flag says otherwise
    check_config(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jumprelu.bandwidth-relativ", "0.3"], "did you mean .*bandwidth_relative"),
        (["--jumprelu.bandwidth", "wide"], "--jumprelu.bandwidth must be of type float, got 'wide'"),
        (["--jumprelu.recipe", "tan"], "did you mean 'tanh'"),
        (["--architectures", "jumprel"], "did you mean 'jumprelu'"),
        (["--l0", "4000"], "at most d_sae 1152"),
        (["--l0", "0"], "above 0"),
        (["--d-sae", "0"], "--d-sae 0 must be at least 1 and .*; e.g. 2304"),
        (["--topk.k"], "needs a value"),
    ],
)
def test_refused_before_anything_is_loaded(words, message):
    with pytest.raises(UserError, match=message) as found:
        check_config(cli._parse(quick(), words))
    assert "\n" not in str(found.value)


def test_unknown_words_end_with_status_2(capsys):
    for words in (["trian"], ["train", "quik"], ["info", "jumprel"], ["evaluate", "/nowhere"], ["train", "--run"]):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_info_lists_an_architectures_options(capsys):
    cli.main(["info", "jumprelu"])
    shown = capsys.readouterr().out
    assert "jumprelu.bandwidth_relative = 0.5" in shown
    assert "L0" in shown


def test_counts_take_units_in_either_form(capsys):
    assert cli._parse(quick(), ["--tokens=300k"]).text.n_tokens == 300_000
    assert cli._parse(quick(), ["--training.log-tokens", "2k"]).training.log_tokens == 2_000
    with pytest.raises(UserError, match=r"takes a count such as .*, got '1.5X'"):
        cli._parse(quick(), ["--tokens", "1.5X"])
    with pytest.raises(SystemExit):
        cli._parse(quick(), ["--help"])
    shown = capsys.readouterr().out
    assert "--tokens = --text.n-tokens" in shown
    assert "quick" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training.log-tokens", "0"], "--training.log-tokens 0 must be at least 1; e.g. 10000"),
        (["--l0", "32", "32"], "--l0 holds 32.0 twice"),
        (["--l0", "2.5"], "whole number"),
        (["--text.seed", "-1"], "--text.seed -1 must be at least 0"),
        (["--activations.storage", "stream"], "n_passes 2 needs activations kept on disk"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(words, message):
    with pytest.raises(UserError, match=message):
        check_config(cli._parse(quick(), words))


def test_a_run_folder_is_continued_in_place():
    assert cli._default_folder("demo") == Path("runs/demo")
    assert cli._default_folder("elsewhere/settings.json") == Path("runs/settings")
    assert cli._default_folder("elsewhere/mine/run.json") == Path("elsewhere/mine")
