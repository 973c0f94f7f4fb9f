"""Ranges of the options that several architectures share."""

from __future__ import annotations

from monosemy.ranges import Range

RATE = Range(0, 1, example=2e-3, above_low=True)
"""A learning rate at E‖x‖² = 1."""
FACTOR = Range(0, 1e4, example=1)
"""A learning rate as a multiple of another one."""
DECAY = Range(0, 1, example=0.9, below_high=True)
"""The decay of a moving average per step."""
START_FACTOR = Range(1, 1e6, example=2)
"""The L0 at the start of training as a multiple of the target L0."""
COEF = Range(0, 1e6, example=0.03)
"""The weight of a loss term; 0 leaves the term out, or its weight to a controller."""
FIRST_COEF = Range(0, 1e3, example=0.01, above_low=True)
"""The λ that a controller starts from."""
