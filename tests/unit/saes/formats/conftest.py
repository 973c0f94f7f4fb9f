"""Weights for tests that write an SAE in another library's layout."""

from __future__ import annotations

import pytest
from published_saes import random_weights
from torch import Tensor


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return random_weights()
