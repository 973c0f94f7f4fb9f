"""A layout takes a module and a line: `load_sae` opens it as any other, and a file that none knows is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monosemy.errors import UserError
from monosemy.saes import formats
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import load_sae, read_sae_config

LAYOUT = """
from safetensors.torch import load_file

from monosemy.saes.base import SaeConfig


def recognises(path):
    return path.suffix == ".transposed"


def config(path):
    return SaeConfig("topk", d_in=8, d_sae=24, l0=3, site="layers.1.mlp_out")


def tensors(path, config):
    stored = load_file(path)
    return {"W_enc": stored["encoder"].T, "W_dec": stored["decoder"].T, "b_enc": stored["b"], "b_dec": stored["mean"]}
"""


@pytest.fixture
def transposed(tmp_path, monkeypatch) -> Path:
    """A file of a layout that keeps both matrices the other way round, and the layout's line."""
    (tmp_path / "transposed_layout.py").write_text(LAYOUT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(formats.LAYOUTS, "transposed", "transposed_layout")
    yield tmp_path / "sae.transposed"
    sys.modules.pop("transposed_layout", None)


def test_an_sae_of_another_layout_is_an_ordinary_one(transposed):
    sae = build_sae(SaeConfig("topk", d_in=8, d_sae=24, l0=3, seed=5))
    with torch.no_grad():
        sae.b_enc.normal_()
    stored = {"encoder": sae.W_enc.T, "decoder": sae.W_dec.T, "b": sae.b_enc, "mean": sae.b_dec}
    save_file({name: tensor.detach().contiguous() for name, tensor in stored.items()}, transposed)
    loaded = load_sae(transposed)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(loaded(x), sae(x))
    assert loaded.config.site == "layers.1.mlp_out"
    assert loaded.W_enc.stride() == sae.W_enc.stride()  # a latent's weights are contiguous, whatever the file's order
    assert read_sae_config(transposed).l0 == 3


def test_wrong_shapes_and_files_of_no_layout_are_refused(transposed, tmp_path):
    zeros = {"encoder": torch.zeros(24, 8), "decoder": torch.zeros(8, 24), "b": torch.zeros(23), "mean": torch.zeros(8)}
    save_file(zeros, transposed)
    with pytest.raises(UserError, match=r"tensor b_enc is \(23,\) but a topk SAE has \(24,\)"):
        load_sae(transposed)
    (tmp_path / "sae.unknown").write_bytes(b"weights")
    with pytest.raises(UserError, match="is not a saved SAE"):
        load_sae(tmp_path / "sae.unknown")
