"""An SAE of the real model, exported in SAELens' layout, measures the same by itself, in a run of its own and in ours.

The exported folder names model and site in that library's words, which is all that the commands are given.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import monosemy
from monosemy.cli import main

pytestmark = pytest.mark.integration

SITE, NAME = "layers.6.resid_post", "jumprelu-l0_16-s0"
TEXT = ["--text.n-tokens", "20k", "--text.n-validation-tokens", "8k"]
SMALL = ["--d-sae", "128", "--l0", "16", "--architectures", "jumprelu", "--evaluation.n-loss-tokens", "256"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that trained one SAE, which it then exports and imports again."""
    folder = tmp_path_factory.mktemp("import") / "trained"
    main(["train", "quick", "--run", str(folder), *TEXT, *SMALL, "--activations.sites", SITE])
    main(["export", str(folder), str(folder.parent / "published"), "--sae", NAME])
    main(["import", str(folder.parent / "published"), "--run", str(folder)])
    main(["evaluate", str(folder)])
    return folder


def records(folder: Path) -> dict[str, dict]:
    return {record["name"]: record for record in monosemy.open_run(folder).records}


def test_beside_the_original_it_measures_the_same(trained):
    measured = records(trained)
    original, copy = measured[NAME], measured["published_jumprelu"]
    for measure in ("fvu", "l0", "delta_loss"):
        assert copy[measure] == pytest.approx(original[measure], rel=1e-4)
        assert copy[f"{measure}_interval"] == pytest.approx(original[f"{measure}_interval"], rel=1e-3)


def test_by_itself_it_finds_its_model_and_site_and_measures_the_same(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    published = str(trained.parent / "published")
    main(["evaluate", published, *TEXT])
    main(["features", published, *TEXT, "--tokens", "4k"])
    main(["show", published, "0", *TEXT])
    assert "warning" not in capsys.readouterr().err
    (folder,) = Path("runs").iterdir()
    original, copy = records(trained)[NAME], records(folder)["published_jumprelu"]
    assert (copy["site"], copy["target_l0"], copy["n_tokens"]) == (SITE, None, original["n_tokens"])
    for measure in ("fvu", "l0"):
        assert copy[measure] == pytest.approx(original[measure], rel=1e-4)
