"""Sparsity targets and the controller that lands them.

The user asks for an L0; the schedule says which L0 each step should have (it falls from a multiple of the asked one
over the first part of training: a dense start keeps latents alive), and for architectures whose L0 follows from a
coefficient λ, the controller moves log λ against the measured excess:

    log λ ← log λ + gain · clip(log(L0 / target), ±1),   λ used = λ · (L0̄ / target)^proportional

with L0̄ a short moving average. Source: ours; a raw coefficient saturates and never lands (peers' first complaint).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


def annealed_l0(l0: float, progress: float, start_factor: float, anneal_fraction: float, d_sae: int) -> float:
    """The L0 a step should have: geometric fall from start_factor·l0 (at most d_sae/2) to l0."""
    if anneal_fraction <= 0 or progress >= anneal_fraction:
        return l0
    # Half of the latents is as dense as a code may start; below the target the annealing has nothing to do.
    start = max(l0, min(start_factor * l0, d_sae / 2))
    return math.exp(math.log(start) + (math.log(l0) - math.log(start)) * progress / anneal_fraction)


@dataclass
class SparsityController:
    """λ of one SAE. State: log λ (integral part) and the moving average of the L0 (proportional part)."""

    coef: float
    gain: float
    proportional: float = 1.0
    average_l0: float | None = None
    beta: float = 0.8

    def used(self, target: float) -> float:
        """λ for a step that should have `target` active latents."""
        if self.average_l0 is None:  # the first step: nothing is measured yet
            return self.coef
        return self.coef * (max(self.average_l0, 1e-3) / target) ** self.proportional

    def observe(self, l0: float, target: float) -> None:
        """One step's measured L0 against what it should have been."""
        self.average_l0 = l0 if self.average_l0 is None else self.beta * self.average_l0 + (1 - self.beta) * l0
        # In logarithms a factor too many and a factor too few weigh the same. The clip holds one odd batch in check,
        # and the bounds keep λ a number when an SAE has gone silent.
        excess = math.log(max(l0, 1e-3) / target)
        self.coef = min(1e3, max(1e-9, self.coef * math.exp(self.gain * max(-1.0, min(1.0, excess)))))

    def state(self) -> dict[str, Any]:
        return {"coef": self.coef, "average_l0": self.average_l0}

    def restore(self, state: dict[str, Any]) -> None:
        self.coef, self.average_l0 = state["coef"], state["average_l0"]
