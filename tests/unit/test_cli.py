"""Words to a configuration: short names, units, architecture options, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_words import parsed

from monosemy import __version__, cli, commands
from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.pipeline import check_config
from monosemy.recipes import quick
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support.flags import ELSEWHERE, flag_of, settings_of


def test_short_names_units_and_options():
    words = ["--tokens", "1.5M", "--sites", "layers.3.mlp_out", "--l0", "8", "20"]
    words += ["--jumprelu.bandwidth-relative=0.3", "--jumprelu.recipe", "tanh", "--training.n-passes", "3"]
    config = parsed(quick(), words)
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
    with pytest.raises(UserError, match=message) as caught:
        check_config(parsed(quick(), words))
    assert "\n" not in str(caught.value)


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
    output = capsys.readouterr().out
    assert "jumprelu.bandwidth_relative = 0.5" in output
    assert "L0" in output


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_info_advises_a_setting_that_can_be_given_as_it_stands(architecture, capsys):
    cli.main(["info", architecture])
    output = capsys.readouterr().out
    assert "None" not in output[output.index("options, with") :]
    (advice,) = re.findall(r"^  monosemy train quick (--\S+) (\S+)$", output, re.MULTILINE)
    option = advice[0].removeprefix("--").replace("-", "_")
    parsed(quick(), list(advice))  # refused if it could not be given
    assert f"  {option} = " in output
    assert f"{architecture}.learning_rate = chosen from the width of the activations and the batch size" in output


def test_counts_take_units_in_either_form(capsys):
    assert parsed(quick(), ["--tokens=300k"]).text.n_tokens == 300_000
    assert parsed(quick(), ["--training.log-tokens", "2k"]).training.log_tokens == 2_000
    with pytest.raises(UserError, match=r"takes a count such as .*, got '1.5X'"):
        parsed(quick(), ["--tokens", "1.5X"])
    with pytest.raises(SystemExit):
        parsed(quick(), ["--help"])
    output = capsys.readouterr().out
    assert re.search(r"--tokens( N)?, --text\.n-tokens N", output)  # Python 3.13 names the value once
    assert "quick" in output


def test_the_help_of_train_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    words = capsys.readouterr().out.split()
    flags = {word.rstrip(",") for word in words}
    for setting in settings_of(RunConfig):
        assert flag_of(setting.name) in flags
        assert setting.documentation, setting.name
    assert "Number of latents in each SAE. (default: 2304)" in " ".join(words)


def test_yes_or_no_settings_lists_and_words_that_belong_to_nothing():
    assert parsed(quick(), ["--evaluation.pca"]).evaluation.pca
    assert not parsed(quick(), ["--evaluation.no-pca"]).evaluation.pca
    assert not parsed(quick(), ["--evaluation.pca", "False"]).evaluation.pca
    assert parsed(quick(), ["--log-to"]).log_to == ()
    assert parsed(quick(), ["--training.learning-rate", "None"]).training.learning_rate is None
    assert parsed(quick(), ["--l0", "8", "--l0", "16", "4"]).l0 == (16.0, 4.0)  # the last word counts
    for words, message in (
        (["--evaluation.pca", "maybe"], "--evaluation.pca takes True or False, or no value, got 'maybe'"),
        (["--seedz", "3"], "unknown flag --seedz; did you mean --seeds"),
        (["--batch-tokens", "3"], "unknown flag --batch-tokens; did you mean --training.batch-tokens"),
        (["--out", "x"], "unknown flag --out; monosemy train --help lists the settings"),  # nothing resembles it
        (["--out=x"], "unknown flag --out=x; monosemy train --help lists the settings"),
        (["--lr", "1e-3"], "unknown flag --lr; here --training.learning-rate takes its place; monosemy train --help"),
        (["--l1_coefficient=5"], "here --l0, the L0 that is wanted, takes its place"),
        (["--arch", "topk"], "unknown flag --arch"),  # no abbreviations: a later setting could make them ambiguous
        (["--tokens", "5", "6"], "'6' belongs to no flag"),
        (["--text"], "--text: expected one argument"),
        (["--model.dtype", "float23"], "did you mean 'float32'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            parsed(quick(), words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["features"],
            "missing: RUN, a run folder, or an SAE (its folder, file or name on the hub), e.g. runs/demo; "
            "monosemy features --help tells more",
        ),
        (
            ["export-html", "runs/demo"],
            "missing: LATENTS, numbers and ranges of latents, e.g. 12 40-45; --out FILE, the file to write, "
            "e.g. latents.html; monosemy export-html --help tells more",
        ),
        (["demo", "--out", "x"], "unknown flag --out; monosemy demo --help lists the settings"),
        (["train", "quick", "--out", "x"], "unknown flag --out; monosemy train --help lists the settings"),
    ],
)
def test_errors_of_the_parser_speak_as_the_help_does_and_name_the_typed_command(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


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
        check_config(parsed(quick(), words))


def test_a_run_folder_is_continued_in_place():
    assert commands._default_folder("demo") == Path("runs/demo")
    assert commands._default_folder("elsewhere/settings.json") == Path("runs/settings")
    assert commands._default_folder("elsewhere/mine/run.json") == Path("elsewhere/mine")


def run_module(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)


def test_the_package_and_the_module_can_be_run():
    for module in ("monosemy", "monosemy.cli"):
        assert run_module(module, "--version").stdout == f"{__version__}\n"
    refused = run_module("monosemy", "trian")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_help_as_a_word(capsys):
    cli.main(["help"])
    assert "usage: monosemy COMMAND" in capsys.readouterr().out
    for words, usage in ((["help", "show"], "usage: monosemy show"), (["help", "demo"], "usage: monosemy demo ")):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        output = capsys.readouterr().out
        assert usage in output
        assert words[1] == "show" or "usage: monosemy train" not in output


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate"],
        ["evaluate", "runs/none", "more"],
        ["report", "--nothing"],
        ["features", "runs/none", "--tokens", "many"],
        ["features", "runs/none", "--tokens", "-5"],
        ["browse", "runs/none", "--port", "99999"],
        ["browse", "runs/none", "--port", "http"],
        ["show", "runs/none", "first"],
        ["show", "runs/none", "3", "-n", "0"],
        ["export-html", "runs/none"],
        ["export-parquet", "runs/none", "--out"],
        ["export-neuronpedia", "runs/none", "--out", "o", "--layout", "flat"],
        ["export-circuit-tracer", "runs/none", "--out", "o", "--context", "0"],
        ["steer", "runs/none", "--tokens", "few"],
        ["explain", "runs/none"],
        ["explain", "runs/none", "--chat", "embedded", "--n", "0"],
        ["circuits", "ioi", "--dtype", "int8"],
        ["circuits", "ioi", "--prompts", "1e3"],
        ["jacobian", "train", "--lambda", "nan", "--run", "runs/none"],
        ["jacobian", "train", "--learning-rate", "0", "--run", "runs/none"],
        ["jacobian", "train"],
        ["jacobian", "graph", "runs/none"],
        ["train", "quick", "--nothing", "3"],
        ["train", "quick", "3"],
        ["train", "quick", "--d-sae", "wide"],
        ["train", "quick", "--model.dtype", "float8"],
        ["demo", "--l0", "x"],
    ],
)
def test_every_wrong_word_is_one_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_a_run_folder_whose_name_is_no_text_is_refused_in_a_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "quick", "--run", str(tmp_path / "caf\udce9")])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "byte E9" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_flag_that_takes_the_place_of_another_librarys_setting_exists():
    flags = {flag_of(setting.name) for setting in settings_of(RunConfig)} | {"--run"}
    assert {text.split()[0].rstrip(",") for text in ELSEWHERE.values()} <= flags
