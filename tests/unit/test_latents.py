"""SparseLatents against the dense code it stands for."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosemy.latents import SparseLatents


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 2**31))
def test_parts_joined_are_the_whole_code(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(sum(lengths), 7, generator=generator).relu()
    joined = SparseLatents.concatenate([SparseLatents.from_dense(part) for part in dense.split(lengths)])
    whole = SparseLatents.from_dense(dense)
    for name in ("offsets", "indices", "values"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert joined.d_sae == 7
