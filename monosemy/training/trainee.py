"""One SAE in training: its optimizer, sparsity controller and firing counts, advanced one batch at a time.

`step` is the only place where training changes anything. Its order: what the step should be (L0, λ, dead latents) →
pure loss (`forward`), again without the rows that would wreck the SAE (`ordinary`) → gradients (`differentiate`) →
Adam → the SAE's own `observe` → controller and firing counts (`update`). SAEs with a loss in common take the three
parts of their steps side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.losses import variance
from monosemy.shapes import Activations, Scalar
from monosemy.training.dead import FiringTracker
from monosemy.training.optim import Adam, schedule
from monosemy.training.outliers import ordinary_rows
from monosemy.training.sparsity import SparsityController, annealed_l0


class Diverged(Exception):
    """A NaN or an infinity in a batch, loss or gradient; the message says which, at which step and site."""


class Forward(NamedTuple):
    """The settings of a step, and its loss before anything changes."""

    info: StepInfo
    output: StepOutput


class Trainee:
    """An SAE and everything that changes while it is trained for `n_steps` steps on `n_train_tokens` tokens."""

    def __init__(self, sae: SparseAutoencoder, config: TrainingConfig, n_steps: int, n_train_tokens: int) -> None:
        self.sae, self.config, self.n_steps = sae, config, n_steps
        options = sae.options
        self.learning_rate = config.learning_rate or options.learning_rate
        self.optimizer = Adam(sae, options.beta1, options.beta2)
        # At least one batch: a latent cannot be dead before it had a chance to fire.
        dead_after = max(config.batch_tokens, min(10_000_000, int(config.dead_fraction * n_train_tokens)))
        self.tracker = FiringTracker(sae.d_sae, dead_after, sae.W_dec.device)
        self.controller: SparsityController | None = None
        if sae.coefficient and options.sparsity_coef == 0:
            # The gain lets λ change by e³ over a tenth of the run: fast enough to follow the annealed target.
            self.controller = SparsityController(options.sparsity_coef_start, gain=min(0.2, 30 / n_steps))
        self.stopped: str | None = None
        self.n_left_out = 0

    def target_l0(self, progress: float) -> float:
        options, config = self.sae.options, self.sae.config
        return annealed_l0(config.l0, progress, options.k_start_factor, options.k_anneal_fraction, config.d_sae)

    def step(self, x: Activations, index: int) -> dict[str, float]:
        """One training step on x [N, d_in] at E‖x‖² = 1; `index` counts from 0. Returns the step's metrics.

        Raises Diverged, with nothing changed, when the loss or a gradient is not finite.
        """
        forward = self.forward(x, index)
        # Rows that would wreck the SAE are known only by their error, so a batch with one of them is run twice.
        if (keep := self.ordinary(x, forward)) is not None:
            x = x[keep]
            forward = self.forward(x, index)
        self.differentiate(forward.output.total, index)
        if keep is not None:
            self.n_left_out += int((~keep).sum())
        return self.update(x, index, forward)

    def ordinary(self, x: Activations, forward: Forward) -> Bool[Tensor, " n"] | None:
        """The rows that the step may learn from, [N] of bool; None for all (outliers.py)."""
        return ordinary_rows(x, forward.output.reconstruction, self.config.outlier_error)

    def forward(self, x: Activations, index: int) -> Forward:
        """The loss of step `index` on x; changes nothing."""
        progress = index / self.n_steps
        target = self.target_l0(progress)
        coef = self.controller.used(target) if self.controller else getattr(self.sae.options, "sparsity_coef", 0.0)
        dead = self.tracker.dead()
        info = StepInfo(progress, target, coef, dead if bool(dead.any()) else None)
        return Forward(info, self.sae.losses(x, info))

    def differentiate(self, total: Scalar, index: int, also: Trainee | None = None) -> None:
        """Gradients of a loss, this SAE's own or one shared with `also`.

        Raises Diverged when the loss or a gradient is not finite.
        """
        if not torch.isfinite(total.detach()):
            raise Diverged(f"the loss became {float(total.detach())} at step {index}")
        total.backward()
        for trainee in (self, also) if also is not None else (self,):
            for name, parameter in trainee.optimizer.parameters.items():
                # One NaN or infinity spoils the sum, and a sum is much quicker than a test of every entry.
                if parameter.grad is not None and not torch.isfinite(parameter.grad.sum()):
                    raise Diverged(f"the gradient of {name} is not finite at step {index}")

    def update(self, x: Activations, index: int, forward: Forward) -> dict[str, float]:
        """Moves everything by the step whose gradients are there; returns the step's metrics."""
        info, output = forward
        rate = self.learning_rate * schedule(info.progress, self.config.warmup_fraction, self.config.decay_fraction)
        # Adam first: what follows measures the step just taken and prepares the next one, and none of it may move a
        # gradient that is still to be applied.
        self.optimizer.step(rate)
        self.sae.observe(output, info)
        self.tracker.observe(output.latents)
        l0 = output.latents.l0
        if self.controller:
            self.controller.observe(l0, info.l0)
        error = float((x - output.reconstruction).square().sum() / len(x))
        dead_fraction = 0.0 if info.dead is None else int(info.dead.sum()) / self.sae.d_sae
        loss = float(output.total.detach())
        metrics = {"loss": loss, "fvu": error / max(float(variance(x)), 1e-30), "l0": l0, "asked_l0": info.l0}
        metrics |= {"dead_fraction": dead_fraction, "learning_rate": rate, "sparsity_coef": info.sparsity_coef}
        metrics["rows_left_out"] = self.n_left_out
        return metrics | {f"loss_{name}": float(term) for name, term in output.terms.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything with a shape that a checkpoint needs: parameters, buffers, moments, firing counts."""
        own = {f"sae.{name}": t for name, t in self.sae.state_dict().items()}
        return (
            own | {f"adam.{n}": t for n, t in self.optimizer.tensors().items()} | {"silent": self.tracker.silent_tokens}
        )

    def state(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        controller = self.controller.state() if self.controller else None
        progress = {"n_steps": self.optimizer.n_steps, "stopped": self.stopped, "n_left_out": self.n_left_out}
        return {**progress, "controller": controller}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continues exactly where `tensors` and `state` were taken. Memory layouts stay this object's own."""
        for name, tensor in self.tensors().items():
            # In place: W_enc stays stored column by column, and the optimizer keeps its references.
            tensor.copy_(tensors[name])
        self.optimizer.n_steps, self.stopped = state["n_steps"], state["stopped"]
        self.n_left_out = state["n_left_out"]
        if self.controller:
            self.controller.restore(state["controller"])
