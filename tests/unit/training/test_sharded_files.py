"""Checkpoints and saved slices of a dictionary that is spread over processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from sharded_steps import CONTINUED, L0, alone, assembled, rows, spread

from monosemy import load_sae
from monosemy.errors import UserError
from monosemy.saes import wide
from monosemy.saes.wide import WideSae

MESHES = {2: [2, 1], 4: [2, 4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> dict[str, Path]:
    return {str(n): place for n, place in spread(tmp_path_factory.getbasetemp()).items()}


@pytest.mark.parametrize("case", CONTINUED)
def test_training_continues_on_other_numbers_of_ranks(case, folder):
    expected = alone(case, torch.float64)[0].tensors()
    for n_ranks, meshes in MESHES.items():
        for n_latent_shards in meshes:
            whole = assembled(folder[str(n_ranks)], case, torch.float64, 0, n_latent_shards)
            torch.testing.assert_close(whole, dict(expected), rtol=1e-12, atol=1e-12)
    unbroken = assembled(folder["2"], f"{case}-unbroken", torch.float64, 0, 2)
    resumed = assembled(folder["2"], case, torch.float64, 0, 2)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())


def test_a_checkpoint_is_safetensors_and_json_alone(folder):
    files = {path.suffix for path in (folder["2"] / "topk" / "step-00000003").iterdir()}
    assert files == {".safetensors", ".json"}


@pytest.mark.parametrize("case", CONTINUED)
def test_slices_are_one_sae_and_are_used_in_place(case, folder, monkeypatch):
    monkeypatch.setattr(wide, "BLOCK_LATENTS", 9)
    sliced = folder["4"] / f"{case}-slices-4"
    assert len(list(sliced.glob("sae-*-of-00004.safetensors"))) == 4
    sae, opened, x = load_sae(sliced), WideSae(sliced), rows(40, seed=77, dtype=torch.float32)
    assert sae.config.l0 == L0
    assert sae.config.record["n_tokens"] == 5
    trained = alone(case, torch.float64)[0].sae.float()
    for name, tensor in trained.tensors().items():
        torch.testing.assert_close(sae.tensors()[name].float(), tensor)
    code, expected = opened.encode(x), sae.encode(x)
    assert expected.n_entries > 0
    torch.testing.assert_close(code.to_dense(), expected.to_dense())
    torch.testing.assert_close(opened(x), sae(x))
    some = torch.tensor([80, 0, 41])
    torch.testing.assert_close(opened.decoder_rows(some), sae.W_dec[some])
    torch.testing.assert_close(opened.encoder_rows(some), sae.W_enc[:, some].T)


def test_damaged_slices_are_refused(folder, tmp_path):
    sliced = shutil.copytree(folder["2"] / "topk-slices-2", tmp_path / "sae")
    part = sliced / "sae-00002-of-00002.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=r"00002-of-00002.* is damaged"):
        load_sae(sliced)
    part.unlink()
    for opens in (load_sae, WideSae):
        with pytest.raises(UserError, match=r"00002-of-00002.* is missing"):
            opens(sliced)
    index = sliced / "sae.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text())))
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        WideSae(sliced)
