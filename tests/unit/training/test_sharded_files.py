"""Checkpoints and saved slices of a dictionary that is spread over processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_steps import CONTINUED, L0, alone, assembled, rows, spread

from monosemy import load_sae
from monosemy.config import to_json
from monosemy.errors import UserError
from monosemy.saes import wide
from monosemy.saes.base import SaeConfig
from monosemy.saes.slices import write_index, write_slice
from monosemy.saes.wide import WideSae
from monosemy.training.distributed import checkpoint

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


IN_PLACE = """
import re, resource, sys
from pathlib import Path
import torch
from monosemy import WideSae, load_sae
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
torch.set_num_threads(1)
x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
build_sae(SaeConfig("topk", 64, 20_000, 8.0))(x)  # compiles what is compiled
opened = WideSae(sys.argv[1])
kilobytes = re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(kilobytes) + (48 << 20), resource.RLIM_INFINITY))
code = opened.encode(x)
print(code.n_entries, bool(torch.isfinite(opened.decode(code)).all()))
try:
    load_sae(sys.argv[1])
except (MemoryError, RuntimeError):
    print("too large to load")
"""
"""Use of an SAE of 102 MB of weights by a process that may take 48 MB more for data; mapped files do not count."""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is bounded so on Linux alone")
def test_an_sae_in_slices_is_used_in_less_memory_than_it_has(tmp_path):
    n_latents = 200_000
    W_dec = torch.randn(n_latents, 64, generator=torch.Generator().manual_seed(1)) / 8
    slices = []
    for number in range(2):
        latents = slice(number * n_latents // 2, (number + 1) * n_latents // 2)
        tensors = {"W_enc": W_dec[latents].clone().T, "W_dec": W_dec[latents], "b_enc": torch.zeros(n_latents // 2)}
        common = {"b_dec": torch.zeros(64)} if number == 0 else {}
        slices.append(write_slice(tmp_path, number, 2, {**tensors, **common}, start=latents.start))
    write_index(tmp_path, slices, to_json(SaeConfig("topk", 64, n_latents, 8.0)))
    done = subprocess.run([sys.executable, "-c", IN_PLACE, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{16 * 8} True", "too large to load"], done.stderr


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


def test_a_torch_without_the_writer_is_refused_before_anything_is_trained(monkeypatch):
    checkpoint.require_writer()
    for writer in (None, lambda path: None):
        monkeypatch.setattr(checkpoint.distributed_checkpoint, "HuggingFaceStorageWriter", writer)
        with pytest.raises(UserError, match=r"cannot write checkpoints of SAEs in slices; install a newer one"):
            checkpoint.require_writer()
