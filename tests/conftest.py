"""Models for tests: the real embedded one, and tiny random ones of every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_models import make_tiny_model

from monosemy.models.adapter import LanguageModel


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], LanguageModel]:
    """`tiny_model("gemma2")`: a random four-layer model of a family, d_model 32, byte tokenizer, unchecked."""
    return make_tiny_model


@pytest.fixture(scope="session")
def embedded_model() -> LanguageModel:
    """SmolLM2-135M-Instruct in float32 on the CPU (fetched and converted at first use)."""
    from monosemy.models.sources import load_model

    return load_model("embedded", device="cpu")
