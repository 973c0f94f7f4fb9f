"""Tensors on a full disk, and who may read the file."""

from __future__ import annotations

import errno
import resource
import stat

import pytest
import torch

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import load_sae, save_sae
from monosemy.support.tensors import save_tensors
from monosemy.training.checkpoint import checkpoint_folders, load_checkpoint, save_checkpoint


@pytest.fixture
def small_files():
    """No file of this process may pass 64 kB, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_is_an_os_error(tmp_path, small_files):
    small_files()
    with pytest.raises(OSError, match="too large") as caught:
        save_tensors(tmp_path / "a", {"t": torch.zeros(100_000)})
    assert caught.value.errno == errno.EFBIG


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path, small_files):
    save_checkpoint(tmp_path, 1, {"t": torch.ones(10)}, {})
    small_files()
    with pytest.raises(UserError, match=r"cannot write .*step-00000002"):
        save_checkpoint(tmp_path, 2, {"t": torch.ones(100_000)}, {})
    [left] = checkpoint_folders(tmp_path)
    assert load_checkpoint(left)[0]["t"].sum() == 10
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_saved_sae_is_readable_by_whom_its_folder_is(tmp_path, small_files):
    sae = build_sae(SaeConfig("topk", 8, 16, 2))
    save_sae(sae, tmp_path)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
    small_files()
    wide = build_sae(SaeConfig("topk", 64, 4096, 2))
    with pytest.raises(UserError, match="cannot write"):
        save_sae(wide, tmp_path)
    assert torch.equal(load_sae(tmp_path).W_enc, sae.W_enc)
