"""What the tests of steering share."""

from __future__ import annotations

import pytest

from monosemy.config import ModelConfig, RunConfig
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae


@pytest.fixture
def run(tmp_path):
    """A run with four untrained SAEs of a tiny model."""
    folder = tmp_path / "run"
    with open_run(folder, RunConfig(model=ModelConfig(source="embedded"))) as opened:
        for architecture, l0 in (("topk", 4), ("jumprelu", 2), ("jumprelu", 4), ("jumprelu", 8)):
            sae = build_sae(SaeConfig(architecture, 16, 32, l0, site="layers.2.resid_post"))
            save_sae(sae, opened.files.sae("layers.2.resid_post", f"{architecture}-l0_{l0}-s0").folder)
    return folder
