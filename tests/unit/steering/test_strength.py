"""What counts as too strong: logits that overflow, of edited texts and of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monosemy.errors import UserError
from monosemy.steering.strength import TooStrongError, check_finite

MODEL: Any = SimpleNamespace(name="tiny", dtype=torch.float16)


@pytest.mark.parametrize("edited", [(), [True, True, False]])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_overflow_of_edited_texts_is_too_strong(edited: list[bool], value: float) -> None:
    logits = torch.zeros(3, 5)
    logits[1, 2] = value
    with pytest.raises(TooStrongError, match=r"the change at site\.a is too strong") as caught:
        check_finite(logits, "site.a", MODEL, edited)
    assert caught.value.rows == [1]


def test_overflow_of_a_text_without_edits_is_the_models() -> None:
    logits = torch.zeros(2, 3, 5)
    logits[0, 1, 2] = torch.nan
    with pytest.raises(UserError, match="tiny gives logits that are no numbers without any change") as caught:
        check_finite(logits, "site.a", MODEL, [False, True])
    assert not isinstance(caught.value, TooStrongError)


def test_forbidden_tokens_are_no_overflow() -> None:
    check_finite(torch.full((2, 5), -torch.inf), "site.a", MODEL, [False, True])
