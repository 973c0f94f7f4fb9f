"""Pairs around an MLP of the real embedded model, narrow and short: trained, measured, shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from monosemy.cli import main
from monosemy.support.files import read_json

pytestmark = pytest.mark.integration

DENSE, SPARSE = "jsae_0-l0_8-s0", "jsae_0.5-l0_8-s0"
MEASURES = ["--measure-tokens", "2k", "--average-tokens", "1k", "--curves", "40", "--ablation-tokens", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    settings = "--layer 3 --l0 8 --d-sae 384 --tokens 16k --validation-tokens 4k --batch 256 --lambda 0 0.5"
    settings += " --loss-tokens 256 --no-report"
    main(["jacobian", "train", "--run", str(folder), *settings.split(), *MEASURES])
    return folder


def test_the_penalty_lowers_the_share_over_every_threshold(run):
    dense, sparse = read_json(run / "jacobian" / "frontier.json")["rows"]
    assert (dense["name"], sparse["name"]) == (DENSE, SPARSE)
    assert dense["estimates"]["elements_per_token"]["value"] == pytest.approx(64, rel=0.05)
    for measure in ("over_0.005", "over_0.01", "over_0.02", "mean_abs"):
        ends = sparse["estimates"][measure]["interval"], dense["estimates"][measure]["interval"]
        assert ends[0][1] < ends[1][0], measure
    assert sparse["reduction"]["over_0.01"]["interval"][0] > 1.5
    for row in (dense, sparse):
        assert row["variance_explained_in"]["value"] > 0.1
        assert row["ablation"]["rank_correlation"]["value"] > 0.5, "J s foretells what ablating does"


def test_pairs_and_graph_of_real_text(run, tmp_path, capsys):
    main(["jacobian", "pairs", str(run), "--pair", SPARSE, "--tokens", "8k", "-n", "3", "--no-report"])
    assert "output latent" in capsys.readouterr().out
    document = read_json(run / "jacobian" / SPARSE / "pairs.json")
    example = document["outputs"][0]["inputs"][0]["examples"][0]
    assert example["in_values"][example["at"]] == pytest.approx(example["in_value"], rel=1e-2, abs=1e-3)
    out = ["--out", str(tmp_path / "graph.json")]
    main(["jacobian", "graph", str(run), "--pair", SPARSE, "--text", "In July we went to Paris.", *out])
    graph = read_json(tmp_path / "graph.json")
    assert "".join(graph["tokens"]).endswith("In July we went to Paris.")
    for token_graph in graph["graphs"]:
        values = {node["id"]: node["value"] for node in token_graph["nodes"] if node["kind"] == "output"}
        for target, value in values.items():
            assert sum(e["weight"] for e in token_graph["edges"] if e["target"] == target) == pytest.approx(
                value, abs=1e-3
            )
