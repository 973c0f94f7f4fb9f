"""Words to a configuration: short names, units, architecture options, and what is refused."""

from __future__ import annotations

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
        (["--jumprelu.bandwidth", "wide"], "must be of type float, got 'wide'"),
        (["--jumprelu.recipe", "tan"], "did you mean 'tanh'"),
        (["--architectures", "jumprel"], "did you mean 'jumprelu'"),
        (["--l0", "4000"], "at most d_sae 1152"),
        (["--l0", "0"], "above 0"),
        (["--d-sae", "0"], "d_sae must be above 0"),
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
