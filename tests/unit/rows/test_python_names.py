"""Errors of `fit` name the arguments of Python, whatever the checks call them."""

from __future__ import annotations

import pytest

from monosemy.errors import UserError
from monosemy.rows.python_names import in_python, python_names


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("--training.n-passes 0 must be at least 1", 'training["n_passes"] 0 must be at least 1'),
        ("training.n_passes 3 needs a disk", 'training["n_passes"] 3 needs a disk'),
        ("unknown setting 'training.nope'", "unknown setting 'training[\"nope\"]'"),
        ("lower --d-sae, or --l0 8", "lower d_sae, or l0 8"),
        ("--jumprelu.bandwidth-relative -1", 'options["bandwidth_relative"] -1'),
        ("--rows.validation-fraction 2", "validation_fraction 2"),
        ("rows.npy holds 0.5; e.g. 1e-3 -- or none", "rows.npy holds 0.5; e.g. 1e-3 -- or none"),
    ],
)
def test_flags_become_arguments(message, expected):
    assert in_python(message) == expected


def test_the_error_keeps_its_type():
    class Special(UserError, TypeError):
        pass

    with pytest.raises(Special, match=r"^d_sae$"), python_names():
        raise Special("--d-sae")
