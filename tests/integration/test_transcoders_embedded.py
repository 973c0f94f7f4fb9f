"""Transcoders around an MLP of the real embedded model, narrow and short: trained, measured, exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from monosemy.cli import main
from monosemy.saes.storage import load_sae
from monosemy.support.files import read_json

pytestmark = pytest.mark.integration

SITES = ("layers.12.mlp_in", "layers.12.mlp_out")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "transcoders"
    settings = "--architectures --transcoders.architectures topk jumprelu --transcoders.skip both --l0 16 --d-sae 576"
    settings += " --tokens 16k --text.n-validation-tokens 4k --evaluation.n-loss-tokens 512"
    settings += " --evaluation.no-frozen-random --evaluation.no-pca"
    main(["train", "quick", "--run", str(folder), "--sites", *SITES, *settings.split()])
    return folder


def test_transcoders_beat_their_controls_on_real_text(run):
    records = {r["name"].partition("-")[0]: r for r in read_json(run / "evaluation.json")["records"]}
    for name in ("topk", "jumprelu"):
        plain, skip = records[f"transcoder_{name}"], records[f"skip_transcoder_{name}"]
        for record in (plain, skip):
            assert record["l0"] == pytest.approx(16, rel=0.15)
            assert record["dead_fraction"] < 0.2
            assert record["fvu_interval"][1] < records["transcoder_frozen_random"]["fvu_interval"][0]
        assert skip["fvu"] < plain["fvu"]
        assert skip["fvu"] < 1.1 * records["linear_map"]["fvu"]
        assert records[name]["fvu"] < plain["fvu"], "an SAE sees what it describes"
    assert records["skip_transcoder_topk"]["delta_loss_interval"][1] < 0.5


def test_one_layer_of_a_set_is_exported_and_opened(run, tmp_path, capsys):
    name = f"{SITES[1]}/transcoder_jumprelu-l0_16-s0"
    main(["export", str(run), str(tmp_path / "set"), "--sae", name, "--layout", "circuit-tracer"])
    assert "written" in capsys.readouterr().out
    exported = load_sae(tmp_path / "set" / "layer_12.safetensors")
    own = load_sae(run / "saes" / name)
    assert (own.config.site, own.config.site_out) == SITES
    # A set names its output by what joins the residual stream, which without a post-norm is the MLP's output itself.
    assert (exported.config.site, exported.config.site_out) == (SITES[0], f"{SITES[1]}_post")
