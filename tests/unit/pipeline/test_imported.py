"""Published SAEs become a run, join one, and stand in for one, on a tiny model as wide as the published SAEs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from narrow_model import SITE, SIZES, write_inputs
from published_saes import FOLDER, lens_folder, outputs
from safetensors.torch import load_file

import monosemy
from monosemy import cli
from monosemy.app.catalogue import Catalogue
from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    to_json,
)
from monosemy.errors import UserError
from monosemy.pipeline.imported import ImportSettings, import_saes
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import load_sae, save_sae

NAMES = ("topk-l0_4-s0", "jumprelu-l0_4-s0")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a model 24 wide and a text."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def trained(inputs) -> Path:
    """A run that trained two SAEs."""
    config = RunConfig(
        model=ModelConfig(source=str(inputs / "model"), device="cpu"),
        text=TextConfig(source=str(inputs / "text.jsonl"), context_length=64, n_tokens=6000, n_validation_tokens=2048),
        activations=ActivationsConfig(sites=(SITE,), dtype="float32", buffer_tokens=4096),
        architectures=("topk", "jumprelu"),
        l0=(4.0,),
        d_sae=48,
        training=TrainingConfig(batch_tokens=128),
        evaluation=EvaluationConfig(n_loss_tokens=512, n_bootstrap=50),
    )
    (inputs / "trained.json").write_text(json.dumps(to_json(config)))
    cli.main(["train", str(inputs / "trained.json"), "--run", str(inputs / "trained")])
    return inputs / "trained"


@pytest.fixture(scope="module")
def flags(inputs) -> list[str]:
    return ["--model", str(inputs / "model"), "--text", str(inputs / "text.jsonl"), "--site", SITE]


@pytest.fixture(scope="module")
def imported(inputs, flags) -> Path:
    """A run of three published SAEs: two that name no L0, of which one normalises its rows, and one that does."""
    folder = inputs / "imported"
    saes = [str(FOLDER / case) for case in ("lens_jumprelu", "lens_jumprelu_layernorm", "dl_topk")]
    cli.main(["import", *saes, "--run", str(folder), *flags, *SIZES, "--loss-tokens", "512"])
    cli.main(["evaluate", str(folder)])
    cli.main(["features", str(folder), "--tokens", "4000", "--saes", "published_jumprelu"])
    return folder


def records(folder: Path) -> dict[str, dict]:
    return {record["name"]: record for record in monosemy.open_run(folder).records}


def failure(capsys, *words: str) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


def test_every_imported_sae_is_measured_beside_pca_and_has_no_target_where_it_names_none(imported):
    measured = records(imported)
    assert measured["published_topk-l0_6"]["target_l0"] == 6
    assert measured["published_jumprelu"]["target_l0"] is None
    pca = {record["target_l0"] for record in measured.values() if record["architecture"] == "pca"}
    unnamed = {round(measured[name]["l0"]) for name in ("published_jumprelu", "published_jumprelu_2")}
    assert 6 in pca
    assert all(any(abs(level - l0) <= 2 for level in pca) for l0 in unnamed if l0 <= 24)
    for record in measured.values():
        low, high = record["fvu_interval"]
        assert low < record["fvu"] < high
        assert record["delta_loss"] is not None


def test_weights_and_codes_stay_those_of_the_publisher(imported):
    for case, name in (("lens_jumprelu_layernorm", "published_jumprelu_2"), ("dl_topk", "published_topk-l0_6")):
        sae, case_outputs = load_sae(imported / "saes" / SITE / name), outputs(case)
        torch.testing.assert_close(sae.encode(case_outputs["x"]).to_dense(), case_outputs["codes"])
        torch.testing.assert_close(sae(case_outputs["x"]), case_outputs["recon"])


def test_what_makes_its_numbers_differ_is_said_by_the_commands_the_report_and_the_pages(imported, capsys):
    cli.main(["evaluate", str(imported)])
    printed = capsys.readouterr()
    assert printed.err.count("published_jumprelu: it is of openai-community/gpt2") == 1
    assert "it was trained on texts that begin with BOS" in printed.err
    assert "published_jumprelu_2: it is of layers.3.resid_post" in printed.err
    page = (imported / "report.html").read_text()
    assert "3 published sparse autoencoders" in page
    assert "published JumpReLU 2" in page
    assert "its numbers on" in page
    entries = {entry.name: entry.entry() for entry in Catalogue(imported).saes()}
    assert entries["published_jumprelu"]["target_l0"] is None
    assert any("gpt2" in warning for warning in entries["published_jumprelu"]["warnings"])
    assert entries["published_jumprelu"]["architecture"] == "published_jumprelu"


def test_the_views_of_a_run_show_it(imported, capsys):
    cli.main(["show", str(imported), "0"])
    cli.main(["info", str(imported)])
    described = capsys.readouterr().out
    assert f"{imported}: 3 SAEs\n" in described
    (line,) = (line for line in described.splitlines() if f" {SITE}/published_topk-l0_6" in line)
    record = records(imported)[line.split()[0].split("/")[1]]
    assert float(line.split()[2]) == pytest.approx(record["fvu"], abs=5e-4)
    run = monosemy.open_run(imported)
    assert "3 (3 imported)" in repr(run)
    assert "L0" not in repr(run)
    assert set(run.evaluation["site"]) == {SITE}


def test_sae_trained_here_exported_and_imported_measures_the_same(trained, inputs, capsys):
    for name in NAMES:
        cli.main(["export", str(trained), str(inputs / "exports" / name), "--sae", name])
        cli.main(["import", str(inputs / "exports" / name), "--run", str(trained)])
    cli.main(["evaluate", str(trained)])
    assert "warning" not in capsys.readouterr().err
    measured = records(trained)
    for name, copy in zip(NAMES, ("published_topk-l0_4", "published_jumprelu"), strict=True):
        for measure in ("fvu", "l0", "delta_loss"):
            assert measured[copy][measure] == pytest.approx(measured[name][measure], rel=1e-4)
            assert measured[copy][f"{measure}_interval"] == pytest.approx(
                measured[name][f"{measure}_interval"], rel=1e-3
            )
    assert {"frozen_random-l0_4-s0", "pca-l0_4"} <= set(measured)
    assert "Beside them, 2 published sparse autoencoders" in (trained / "report.html").read_text()
    assert monosemy.open_run(trained).load().config.record.get("imported") is None


def test_commands_take_an_sae_and_find_its_run_again(inputs, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sae = str(FOLDER / "dl_jumprelu")
    words = [sae, *flags, *SIZES]
    assert "has no features yet; build them: monosemy features runs/" in failure(capsys, "show", sae, "0", *words[1:])
    cli.main(["evaluate", *words])
    cli.main(["features", *words, "--tokens", "4000"])
    cli.main(["show", sae, "0", *words[1:]])
    cli.main(["steer", *words, "--latent", "1", "--add", "0.5", "--prompt", "the cat", "--tokens", "2", "--plain"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert "dl_jumprelu-" in folder.name
    printed = capsys.readouterr()
    assert f"run: {folder.relative_to(tmp_path)}, with the SAE as {SITE}/published_jumprelu" in printed.err
    # Another text is another run.
    other = inputs / "other.jsonl"
    other.write_text((inputs / "text.jsonl").read_text())
    failure(capsys, "show", sae, "0", *[str(other) if word.endswith("text.jsonl") else word for word in words[1:]])
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_an_sae_in_a_run_belongs_to_that_run(trained, capsys):
    assert "has no features yet" in failure(capsys, "show", str(trained / "saes" / SITE / NAMES[0]), "0")


def test_a_run_of_imported_saes_trains_nothing(imported, capsys):
    assert "holds imported SAEs only" in failure(capsys, "train", str(imported))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ImportSettings(model="google/gemma-2-2b", site=SITE), "leave --model out"),
        (ImportSettings(text="other.txt", site=SITE), "leave --text out"),
        (ImportSettings(), "has no site layers.3.resid_post, only layers.1.resid_post"),
        (ImportSettings(site="layers.99.resid_post"), "layers.99"),
        (ImportSettings(site=SITE, name="jumprelu"), "is in use"),
        (ImportSettings(site=SITE, name="../x"), "other characters"),
    ],
)
def test_what_does_not_fit_the_run_is_one_line_and_changes_nothing(trained, settings, message):
    before = sorted(trained.rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        import_saes([str(FOLDER / "lens_jumprelu")], trained, settings)
    assert "\n" not in str(error.value)
    assert sorted(trained.rglob("*")) == before


def test_transcoders_are_measured_at_the_site_that_they_give(inputs, flags, tmp_path):
    """Two published ones in a run of their own, at equal codes and outputs to the published files'."""
    saes, run = [str(FOLDER / case) for case in ("lens_transcoder", "lens_skip_transcoder")], tmp_path / "run"
    cli.main(["import", *saes, "--run", str(run), *flags[:4], "--site", "layers.3.mlp_in", *SIZES])
    cli.main(["evaluate", str(run)])
    cli.main(["features", str(run), "--tokens", "2000"])
    measured = records(run)
    names = {record["name"] for record in measured.values() if record["architecture"].startswith("published_")}
    assert names == {"published_transcoder_relu", "published_skip_transcoder_relu"}
    model = monosemy.load_model(str(inputs / "model"))
    rows = {}
    for name in names:
        folder = run / "saes" / "layers.3.mlp_out" / name
        sae = load_sae(folder)
        assert (sae.config.site, sae.config.site_out) == ("layers.3.mlp_in", "layers.3.mlp_out")
        tokens = torch.randint(0, model.tokenizer.vocab_size, (8, 64), generator=torch.Generator().manual_seed(0))
        if not rows:
            rows = model.activations(tokens, ["layers.3.mlp_in", "layers.3.mlp_out"])
        expected = load_sae(FOLDER / name.replace("published_", "lens_").replace("_relu", ""))
        x = rows["layers.3.mlp_in"].flatten(0, 1)
        assert torch.equal(sae.decode(sae.encode(x)), expected.decode(expected.encode(x)))
        # Other text than the run's, so near in size only: its code is of the input, not of the output.
        assert measured[name]["l0"] == pytest.approx(sae.encode(x).l0, rel=0.3)
    assert "linear_map" in measured


def test_wrong_words_are_one_line(imported, inputs, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, text, site = flags[1], flags[3], flags[5]
    sae = str(FOLDER / "dl_topk")
    save_sae(build_sae(SaeConfig("topk", 24, 48, 4.0)), tmp_path / "nameless")
    assert "does not say which model it is of; name it, e.g. --model" in failure(capsys, "evaluate", "nameless")
    assert "name the site, e.g. --site" in failure(capsys, "evaluate", "nameless", "--model", model)
    save_sae(build_sae(SaeConfig("topk", 32, 64, 4.0)), tmp_path / "wide")
    assert f"32 wide, but {SITE} is 24 wide" in failure(capsys, "evaluate", "wide", "--model", model, "--site", site)
    assert "unknown site" in failure(capsys, "evaluate", sae, "--model", model, "--site", "layers.1.mpl_out")
    assert "and no SAE of a layout that is read" in failure(capsys, "evaluate", text)
    assert "is not a run folder" in failure(capsys, "show", "runs/dmo", "3")
    assert "is in the run already" in failure(capsys, "import", sae, "--run", str(imported), "--site", site)
    assert "is named twice" in failure(capsys, "import", *[sae, sae, "--run", "runs/new", *flags])
    transcoder = str(FOLDER / "lens_transcoder")
    there = ["--run", str(imported), "--site", "layers.3.mlp_in"]
    assert "needs both that it reads and that it gives" in failure(capsys, "import", transcoder, *there)
    assert "leave it out" in failure(capsys, "evaluate", str(imported), "--site", site)
    assert "leave it out" in failure(capsys, "show", sae, "0", "--sae", "x")
    assert "does not exist" in failure(capsys, "evaluate", sae, "--model", model, "--site", site, "--text", "no.txt")
    assert not list(tmp_path.rglob("run.json"))


def test_a_factor_that_files_leave_out_is_given_at_import(inputs, flags, tmp_path, capsys):
    tensors = load_file(FOLDER / "lens_jumprelu" / "sae_weights.safetensors")
    settings = {"architecture": "jumprelu", "normalize_activations": "expected_average_only_in"}
    unscaled = str(lens_folder(tmp_path / "sae", tensors, **settings))
    words = ["import", unscaled, *flags, *SIZES, "--run", str(tmp_path / "run")]
    assert "--input-scale -1 must be above 0" in failure(capsys, *words, "--input-scale", "-1")
    assert not (tmp_path / "run").exists()
    cli.main([*words, "--input-scale", "1.5"])
    assert "--input-scale" not in capsys.readouterr().err
    (sae,) = monosemy.open_run(tmp_path / "run").saes.values()
    assert load_sae(sae.folder).config.transforms.input_scale == 1.5
    plain_sae = str(FOLDER / "lens_jumprelu")
    assert "leave input_scale out" in failure(capsys, "import", plain_sae, *words[2:-1], "runs/x", "--input-scale", "2")
    cli.main([*words[:-1], str(tmp_path / "warned")])
    assert "--input-scale" in capsys.readouterr().err
