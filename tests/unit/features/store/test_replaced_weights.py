"""Features whose SAE was replaced since they were built are refused wherever latents are read or named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from feature_runs import NAME, SITE, write_feature_run

from monosemy.errors import UserError
from monosemy.features.commands import run_show
from monosemy.features.store.database import open_features
from monosemy.features.view.names import latent_names
from monosemy.report.terminal import run_lines


def test_features_of_other_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_feature_run(tmp_path / "run")
    sae = run / "saes" / SITE / NAME
    config = {"format": "monosemy-sae", "format_version": 1, "weights_sha256": "cd34", "sae": {"d_sae": 4}}
    (sae / "config.json").write_text(json.dumps(config))
    run_show([str(run), "0"])
    assert "0" in capsys.readouterr().out
    assert list(latent_names(sae, [0])) == [0]
    lines = run_lines(run)
    assert any(line.endswith("  features built") for line in lines)
    assert any(f"{SITE}/{NAME} " in line and line.endswith("  yes") for line in lines)
    (sae / "config.json").write_text(json.dumps(config | {"weights_sha256": "ab12"}))
    for read in (lambda: run_show([str(run), "0"]), lambda: open_features(run, SITE, NAME)):
        with pytest.raises(UserError, match=f"has since been replaced.* monosemy features .* --saes {SITE}/{NAME}"):
            read()
    assert latent_names(sae, [0]) == {}  # the names that `steer` shows
    assert any(line.endswith("  outdated") for line in run_lines(run))
