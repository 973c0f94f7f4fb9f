"""Which latents count as dead: silence counted in tokens, by hand."""

from __future__ import annotations

import torch

from monosemy.latents import SparseLatents
from monosemy.training.dead import FiringTracker


def test_silence_is_counted_in_tokens_and_ends_with_a_firing() -> None:
    tracker = FiringTracker(3, 8, torch.device("cpu"))
    assert not bool(tracker.dead().any())
    # Latent 0 fires in the first batch, latent 1 in the second, latent 2 in neither; batches of 4 tokens.
    tracker.observe(SparseLatents.from_dense(torch.tensor([[0.0, 0, 0]] * 3 + [[2.0, 0, 0]])))
    assert tracker.silent_tokens.tolist() == [0, 4, 4]
    tracker.observe(SparseLatents.from_dense(torch.tensor([[0.0, 1, 0]] * 2 + [[0.0, 0, 0]] * 2)))
    assert tracker.silent_tokens.tolist() == [4, 0, 8]
    assert tracker.dead().tolist() == [False, False, True]  # from the 8th silent token on


def test_an_entry_of_value_zero_is_no_firing() -> None:
    tracker = FiringTracker(2, 2, torch.device("cpu"))
    code = SparseLatents(torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1]).int(), torch.tensor([0.0, 1, 0, 0]), 2)
    tracker.observe(code)
    assert tracker.dead().tolist() == [True, False]
