"""One SAE in training, with its optimizer, sparsity controller and firing counts; it advances one batch at a time.

`step` takes a whole training step, in this order:
  1. `forward`: settles the step's L0, λ and dead latents, and computes the loss. It changes nothing.
  2. `ordinary`: finds the rows that would wreck the SAE; if there are any, `forward` runs again without them.
  3. `differentiate`: computes the gradients.
  4. `update`: Adam, the SAE's own `observe`, firing counts, restarts of dead latents, controller.
SAEs that share a loss do not call `step`: their unit takes these parts of their steps side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SparseAutoencoder, StepInfo, StepOutput
from monosemy.saes.losses import Target
from monosemy.saes.starts import Anisotropy
from monosemy.shapes import Activations, Outputs, Scalar
from monosemy.training.dead import FiringTracker, dead_after_tokens
from monosemy.training.optim import Adam, default_rate, schedule
from monosemy.training.outliers import ordinary_rows
from monosemy.training.revival import LAST_RESTART, drawn_latents, forget, new_weights
from monosemy.training.sparsity import SparsityController, annealed_l0


class Diverged(Exception):
    """A batch, a loss or a gradient holds NaN or infinity; the message says which of them, and at which step."""


class Forward(NamedTuple):
    """The settings of a step, its target, and the loss computed with them before anything changes."""

    info: StepInfo
    target: Target
    output: StepOutput

    @property
    def residual(self) -> Outputs:
        """What the output leaves of its target, [N, d_out], without gradient."""
        return self.target.rows.detach() - self.output.reconstruction


class Measures(NamedTuple):
    """Sums over a step's rows and latents."""

    error: float
    """mean_n ‖x_n − x̂_n‖²."""
    l0: float
    dead_fraction: float


class Trainee:
    """An SAE and everything that changes while it trains for `n_steps` steps on `n_train_tokens` tokens."""

    def __init__(self, sae: SparseAutoencoder, config: TrainingConfig, n_steps: int, n_train_tokens: int) -> None:
        self.sae, self.config, self.n_steps = sae, config, n_steps
        options = sae.options
        self.learning_rate = (
            config.learning_rate or options.learning_rate or default_rate(sae.d_in, config.batch_tokens)
        )
        self.optimizer = Adam(sae, options.beta1, options.beta2)
        dead_after = dead_after_tokens(config, n_train_tokens)
        self.tracker = FiringTracker(sae.d_sae, dead_after, sae.W_dec.device)
        self.controller: SparsityController | None = None
        if sae.coefficient and options.sparsity_coef == 0:
            # At this gain λ can change by up to a factor e³ in a tenth of the run, fast enough for the annealed target.
            self.controller = SparsityController(options.sparsity_coef_start, gain=min(0.2, 30 / n_steps))
        self.stopped: str | None = None
        self.n_left_out = 0

    @torch.no_grad()
    def initialise(self, x: Activations, y: Outputs | None = None) -> None:
        """Starts the SAE from training rows x [n, d_in] at E‖x‖² = 1, and measures what its steps depend on.

        y [n, d_out], at E‖y‖² = 1, are what a transcoder should give for them.
        """
        l0 = self.target_l0(0.0)
        self.sae.initialise(x, l0, y)
        self.optimizer.adapt(x, y)
        if self.controller:
            # In the loss, λ times the sparsity term then starts at a fixed share of the error, whatever the data.
            some_x, some_y = (rows[: self.config.batch_tokens] for rows in (x, x if y is None else y))
            terms = self.sae.losses(some_x, StepInfo(0.0, l0, 0.0, None), self.sae.target(some_x, some_y)).terms
            self.controller.coef *= float(terms["error"]) / max(float(terms["sparsity"]), 1e-30)

    def target_l0(self, progress: float) -> float:
        """The L0 that the step at `progress` (share of steps done) should have."""
        options, config = self.sae.options, self.sae.config
        return annealed_l0(config.l0, progress, options.k_start_factor, options.k_anneal_fraction, d_sae=config.d_sae)

    def step(self, x: Activations, index: int, y: Outputs | None = None) -> dict[str, float]:
        """Takes one training step on x [N, d_in] at E‖x‖² = 1, and returns its metrics. `index` counts from 0.

        y [N, d_out] is what a transcoder should give. Raises Diverged, with nothing changed, when the loss or a
        gradient is not finite.
        """
        forward = self.forward(x, index, y)
        # Only their error tells which rows would wreck the SAE, so a batch with such a row runs forward twice.
        if (keep := self.ordinary(forward)) is not None:
            x, y = x[keep], None if y is None else y[keep]
            forward = self.forward(x, index, y)
        self.differentiate(forward.output.total, index)
        if keep is not None:
            self.n_left_out += int((~keep).sum())
        return self.update(x, index, forward)

    def ordinary(self, forward: Forward) -> Bool[Tensor, " n"] | None:
        """The rows that the step may learn from, bool [N]; None when it may learn from all (outliers.py)."""
        output = forward.output
        n_active = output.latents.offsets.diff()
        return ordinary_rows(forward.target.rows, output.reconstruction, n_active, self.config.outlier_error)

    def forward(self, x: Activations, index: int, y: Outputs | None = None) -> Forward:
        """Computes the loss of step `index` on x, and for a transcoder on y. Pure: changes nothing."""
        progress = index / self.n_steps
        l0 = self.target_l0(progress)
        coef = self.controller.used(l0) if self.controller else getattr(self.sae.options, "sparsity_coef", 0.0)
        dead = self.tracker.dead()
        info = StepInfo(progress, l0, coef, dead if bool(dead.any()) else None)
        target = self.sae.target(x, x if y is None else y)
        return Forward(info, target, self.sae.losses(x, info, target))

    def differentiate(self, total: Scalar, index: int, also: Trainee | None = None) -> None:
        """Computes the gradients of a loss that is this SAE's own or shared with `also`.

        Raises Diverged when the loss or a gradient of either SAE is not finite.
        """
        if not torch.isfinite(total.detach()):
            raise Diverged(f"the loss became {float(total.detach())} at step {index}")
        total.backward()
        for trainee in (self, also) if also is not None else (self,):
            for name, parameter in trainee.optimizer.parameters.items():
                # A single NaN or infinity makes the sum non-finite, and a sum is much faster than testing every entry.
                if parameter.grad is not None and not torch.isfinite(parameter.grad.sum()):
                    raise Diverged(f"the gradient of {name} is not finite at step {index}")

    def update(self, x: Activations, index: int, forward: Forward) -> dict[str, float]:
        """Applies the gradients just computed, updates all other state, and returns the step's metrics."""
        info, target, output = forward
        rate = self.learning_rate * schedule(info.progress, self.config.warmup_fraction, self.config.decay_fraction)
        balanced_coef = self.balanced_coef(forward)
        # Adam first: all that follows prepares the next step, and nothing may change the parameters between their
        # gradients and Adam.
        self.optimizer.step(rate)
        self.sae.observe(output, info)
        self.observe_firing(forward)
        n_restarted = self.restart_dead(x, index, forward)
        error, l0, dead_fraction = self.measures(forward)
        if self.controller and balanced_coef is not None:
            self.controller.follow(balanced_coef)
        elif self.controller:
            self.controller.observe(l0, info.l0)
        loss = float(output.total.detach())
        metrics = {"loss": loss, "fvu": error / max(float(target.variance), 1e-30), "l0": l0, "asked_l0": info.l0}
        metrics |= {"dead_fraction": dead_fraction, "learning_rate": rate, "sparsity_coef": info.sparsity_coef}
        metrics["restarted"] = n_restarted
        metrics["rows_left_out"] = self.n_left_out
        return metrics | {f"loss_{name}": float(term) for name, term in output.terms.items()}

    def balanced_coef(self, forward: Forward) -> float | None:
        """The λ that the step's gradient calls for (`SparseAutoencoder.balanced_coef`)."""
        return self.sae.balanced_coef(forward.output, forward.info)

    def observe_firing(self, forward: Forward) -> None:
        """Counts which latents fired in the step."""
        self.tracker.observe(forward.output.latents)

    def measures(self, forward: Forward) -> Measures:
        """What the step's metrics say of its rows."""
        dead, residual = forward.info.dead, forward.residual
        error = float(residual.square().sum() / len(residual))
        return Measures(error, forward.output.latents.l0, 0.0 if dead is None else int(dead.sum()) / self.sae.d_sae)

    def restart_dead(self, x: Activations, index: int, forward: Forward) -> int:
        """Restarts some of the dead latents (revival.py), and returns how many."""
        dead = self.tracker.dead()
        if self.config.restart_share == 0 or index >= LAST_RESTART * self.n_steps or not bool(dead.any()):
            return 0
        # Its own generator for every step: a resumed run draws what it would have drawn.
        generator = torch.Generator().manual_seed(self.sae.config.seed * 1_000_003 + index)
        latents = drawn_latents(dead, self.config.restart_share, generator)
        anisotropy = self.optimizer.anisotropy
        new = new_weights(self.sae, latents, x, forward.residual, anisotropy=anisotropy, generator=generator)
        with torch.no_grad():
            self.sae.restart(latents, new, forward.output)
        forget(self.optimizer, latents, ~dead)
        self.tracker.silent_tokens[latents] = 0
        return len(latents)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a checkpoint needs: parameters, buffers, Adam's moments, firing counts."""
        own = {f"sae.{name}": t for name, t in self.sae.state_dict().items()}
        moments = {f"adam.{name}": t for name, t in self.optimizer.tensors().items()}
        anisotropy = {f"anisotropy.{name}": t for name, t in self.optimizer.anisotropy._asdict().items()}
        return own | moments | anisotropy | {"silent": self.tracker.silent_tokens}

    def state(self) -> dict[str, Any]:
        """Everything else that a checkpoint needs, as JSON values."""
        controller = self.controller.state() if self.controller else None
        progress = {"n_steps": self.optimizer.n_steps, "stopped": self.stopped, "n_left_out": self.n_left_out}
        return {**progress, "units": self.optimizer.units, "controller": controller}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restores `tensors` and `state`, so that training continues exactly where they were taken."""
        # How many directions dominate is measured, so these have no fixed shape to be copied into.
        # Cloned, because tensors of a file need not be aligned as torch aligns its own, and products round differently.
        measured = {
            name: tensors[f"anisotropy.{name}"].to(self.sae.W_dec.device).clone() for name in Anisotropy._fields
        }
        self.optimizer.anisotropy = Anisotropy(**measured)
        for name, tensor in self.tensors().items():
            # In place: W_enc stays stored column by column, and the optimizer keeps its references to the parameters.
            tensor.copy_(tensors[name])
        self.optimizer.n_steps, self.stopped = state["n_steps"], state["stopped"]
        self.n_left_out = state["n_left_out"]
        self.optimizer.units = state["units"]
        if self.controller:
            self.controller.restore(state["controller"])
