"""What the causal methods refuse or announce: overflow, too little memory, more checks than planned."""

from __future__ import annotations

import dataclasses

import pytest
from known_circuits import contrast

from monosemy.circuits.heads.combined import CombinedConfig, combined_circuit
from monosemy.circuits.heads.contrast import MEMORY_MARGIN, _require_memory, metric_difference
from monosemy.errors import UserError


def test_what_cannot_be_told_or_held_is_refused():
    some = contrast("induction")
    broken = dataclasses.replace(some.batches[0], m_clean=some.batches[0].m_clean * float("nan"))
    with pytest.raises(UserError, match=r"is nan on the prompts and .* numbers overflow in .*; load it as float32"):
        metric_difference(dataclasses.replace(some, batches=[broken]))
    batch = some.batches[0].first(2)
    n_bytes = sum(x.nbytes for p in (batch.clean, batch.corrupted) for x in (p.values, p.logits, *(p.residual or ())))
    each = int(MEMORY_MARGIN * n_bytes / 2)
    _require_memory(batch, 10, available=8 * each + 8)
    with pytest.raises(UserError, match=r"^11 prompts of .* need about .* are free; use at most 10 prompts$"):
        _require_memory(batch, 11, available=8 * each + 8)


def test_more_checks_than_planned_are_announced():
    with pytest.warns(UserWarning, match=r"^\d+ more heads than the \d of the budget look like members"):
        combined_circuit(contrast("ioi"), CombinedConfig(share=0.01, min_checks=1, code_share=0))
