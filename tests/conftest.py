"""Models for tests: the real embedded one, and tiny random ones of every family; and what makes all machines alike."""

from __future__ import annotations

import os
from collections.abc import Callable

import hypothesis
import pytest
import shape_checks  # noqa: F401  (before what it checks is imported)
from tiny_models import make_tiny_model

from monosemy.models.adapter import LanguageModel

# An example may take as long as it takes: a busy or slow machine is no fault of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Tests read what is printed, and ask servers of their own: the terminal's and the network's settings are not theirs.
for name in ("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], LanguageModel]:
    """`tiny_model("gemma2")`: a random four-layer model of a family, d_model 32, byte tokenizer, unchecked."""
    return make_tiny_model


@pytest.fixture(scope="session")
def embedded_model() -> LanguageModel:
    """SmolLM2-135M-Instruct in float32 on the CPU (fetched and converted at first use)."""
    from monosemy.models.sources import load_model

    return load_model("embedded", device="cpu")
