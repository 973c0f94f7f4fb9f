"""Ranges that the options of several architectures share."""

from __future__ import annotations

from monosemy.ranges import Range

RATE = Range(0, 1, example=2e-3, above_low=True)
"""A learning rate at E‖x‖² = 1."""
FACTOR = Range(0, 1e4, example=1)
"""A learning rate as a multiple of another."""
DECAY = Range(0, 1, example=0.9, below_high=True)
"""Decay of a moving average per step."""
START_FACTOR = Range(1, 1e6, example=2)
"""The L0 at the start as a multiple of the asked one."""
COEF = Range(0, 1e6, example=0.03)
"""Weight of a term of the loss; 0 leaves it out or to a controller."""
FIRST_COEF = Range(0, 1e3, example=0.01, above_low=True)
"""λ from which a controller starts."""
