"""The schedule of the target L0, and the controller that makes the L0 follow it.

The user asks for a target L0. The schedule says which L0 each step should have: it starts at a multiple of the target
and falls to it over the first part of training, because a dense start keeps latents alive. For architectures whose L0
follows from a coefficient λ, a proportional-integral controller moves log λ by the measured excess:

    log λ ← log λ + gain · clip(log(L0 / target), ±1),   λ used = λ · (L0̄ / target)^proportional

where L0̄ is a short moving average. JumpReLU has a closer way (saes/jumprelu.py): a common factor on its thresholds
gives every batch its L0, and each step's gradient says which λ would have kept it there. λ only follows (`follow`).
Source: this project. With a coefficient that is fixed in advance, the L0 lands wherever that coefficient happens to
lead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


def annealed_l0(l0: float, progress: float, start_factor: float, anneal_fraction: float, *, d_sae: int) -> float:
    """The L0 that the step at `progress` should have: it falls geometrically from start_factor·l0 to l0.

    The start is at most d_sae/2, and never below l0.
    """
    if anneal_fraction <= 0 or progress >= anneal_fraction:
        return l0
    # A code may start with at most half of the latents. A target above that is not annealed at all.
    start = max(l0, min(start_factor * l0, d_sae / 2))
    return math.exp(math.log(start) + (math.log(l0) - math.log(start)) * progress / anneal_fraction)


@dataclass
class SparsityController:
    """The controller of one SAE's coefficient λ.

    Its state is λ (`coef`, the integral part) and the moving average of the L0 (`average_l0`, the proportional part).
    """

    coef: float
    gain: float
    proportional: float = 1.0
    average_l0: float | None = None
    beta: float = 0.8

    def used(self, target: float) -> float:
        """The λ for a step that should have `target` active latents per token."""
        if self.average_l0 is None:  # the first step: nothing is measured yet
            return self.coef
        return self.coef * (max(self.average_l0, 1e-3) / target) ** self.proportional

    def observe(self, l0: float, target: float) -> None:
        """Moves λ by one step's measured L0 and the target that the step had."""
        self.average_l0 = l0 if self.average_l0 is None else self.beta * self.average_l0 + (1 - self.beta) * l0
        # In logarithms, twice the target and half of it weigh the same. The clip limits the effect of one odd batch,
        # and the bounds keep λ finite and above zero when an SAE has gone silent.
        excess = math.log(max(l0, 1e-3) / target)
        self.coef = min(1e3, max(1e-9, self.coef * math.exp(self.gain * max(-1.0, min(1.0, excess)))))

    def follow(self, balanced: float) -> None:
        """Moves λ a tenth of the way to the one that a step's gradient calls for."""
        self.coef += 0.1 * (balanced - self.coef)

    def state(self) -> dict[str, Any]:
        return {"coef": self.coef, "average_l0": self.average_l0}

    def restore(self, state: dict[str, Any]) -> None:
        self.coef, self.average_l0 = state["coef"], state["average_l0"]
