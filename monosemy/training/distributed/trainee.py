"""One rank's slice of an SAE in training: training/trainee.py's step, with every sum taken over ranks.

Place on the path: batches that all ranks read → this rank's rows of them → **step** → its latents' new weights. Parts
of the step that concern one latent alone (Adam, unit rows, thresholds, firing counts) run on the slice as they are.
Messages of a step, beside single numbers: counts of the search for the common cut (selection.py), x̂ [N, d_in], the
gradient of b_dec; where tokens are spread too, the gradients of the latents that some rank touched.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from monosemy.config import TrainingConfig
from monosemy.saes.base import SaeConfig, SparseAutoencoder, StepInfo
from monosemy.saes.jumprelu import JumpRelu
from monosemy.shapes import Activations, Outputs, Scalar
from monosemy.training.distributed.losses import Rows, balanced_coef, rows_of_batch, sharded_losses
from monosemy.training.distributed.ranks import LATENTS, TOKENS, Ranks
from monosemy.training.distributed.restart import drawn_latents, forget, new_weights, restart
from monosemy.training.distributed.shard import Shard, build_shard, shard_of
from monosemy.training.distributed.start import adapt, initialise
from monosemy.training.outliers import wrecking_rows
from monosemy.training.revival import LAST_RESTART
from monosemy.training.sparsity import annealed_l0
from monosemy.training.trainee import Diverged, Forward, Measures, Trainee

DENSE_ABOVE = 0.5
"""Share of latents touched from which whole gradients are summed, rather than those of the touched latents."""


class ShardedTrainee(Trainee):
    """A trainee whose SAE is one rank's slice of a dictionary. `step` takes the whole batch on every rank."""

    def __init__(
        self, sae: SparseAutoencoder, shard: Shard, config: TrainingConfig, *, n_steps: int, n_tokens: int
    ) -> None:
        super().__init__(sae, config, n_steps, n_tokens)
        self.shard, self.ranks = shard, shard.ranks
        self.optimizer.first_latent = shard.start
        self._rows: Rows
        """This rank's rows of the step that is under way."""

    @classmethod
    def of(
        cls,
        described: SaeConfig,
        ranks: Ranks,
        config: TrainingConfig,
        *,
        n_steps: int,
        n_tokens: int,
        dtype: torch.dtype = torch.float32,
    ) -> ShardedTrainee:
        """The trainee of this rank's slice of the dictionary described. Raises UserError if it cannot be shared out."""
        shard = shard_of(described, ranks)
        sae = build_shard(shard).to(dtype)
        return cls(sae, shard, config, n_steps=n_steps, n_tokens=n_tokens)

    @torch.no_grad()
    def initialise(self, x: Activations, y: Outputs | None = None) -> None:
        """Starts the slice from training rows x [n, d_in] at E‖x‖² = 1, the same on all ranks."""
        assert y is None, "transcoders are not shared out"
        l0 = self.target_l0(0.0)
        initialise(self.sae, x, l0, self.shard)
        adapt(self.optimizer, x, self.shard)
        if self.controller:
            rows = rows_of_batch(self.ranks.rows(x[: self.config.batch_tokens]), self.ranks)
            info = StepInfo(0.0, l0, 0.0, None)
            terms = sharded_losses(self.sae, rows, info, self.shard).terms
            self.controller.coef *= float(terms["error"]) / max(float(terms["sparsity"]), 1e-30)

    def target_l0(self, progress: float) -> float:
        options, config = self.sae.options, self.shard.config
        return annealed_l0(config.l0, progress, options.k_start_factor, options.k_anneal_fraction, d_sae=config.d_sae)

    def step(self, x: Activations, index: int, y: Outputs | None = None) -> dict[str, float]:
        """Takes one training step on the batch x [N, d_in] at E‖x‖² = 1, and returns its metrics.

        Raises Diverged, with nothing changed and on all ranks, when the loss or a gradient is not finite on any.
        """
        assert y is None, "transcoders are not shared out"
        self._rows = whole = rows_of_batch(self.ranks.rows(x), self.ranks)
        forward = self.forward(whole.x, index)
        if (keep := self.ordinary(forward)) is not None:
            self._rows = rows_of_batch(whole.x[keep], self.ranks)
            forward = self.forward(self._rows.x, index)
        self.differentiate(forward.output.total, index)
        self.n_left_out += whole.n_all - self._rows.n_all
        return self.update(self._rows.x, index, forward)

    def forward(self, x: Activations, index: int, y: Outputs | None = None) -> Forward:
        progress = index / self.n_steps
        l0 = self.target_l0(progress)
        coef = self.controller.used(l0) if self.controller else getattr(self.sae.options, "sparsity_coef", 0.0)
        dead = self.tracker.dead()
        some_dead = self.ranks.sum_number(int(dead.sum()), LATENTS) > 0
        info = StepInfo(progress, l0, coef, dead if some_dead else None)
        output = sharded_losses(self.sae, self._rows, info, self.shard)
        return Forward(info, self._rows.target, output)

    def ordinary(self, forward: Forward) -> Bool[Tensor, " n"] | None:
        """Which of this rank's rows the step may learn from; None when all ranks' rows are ordinary."""
        if self.config.outlier_error == 0:
            return None
        x, output = forward.target.rows, forward.output
        residual = forward.residual
        errors, energies = torch.linalg.vecdot(residual, residual), torch.linalg.vecdot(x, x)
        n_active = self.ranks.sum(output.latents.offsets.diff(), LATENTS)
        errors, energies, n_active = (
            torch.cat(self.ranks.gather(rows, TOKENS)) for rows in (errors, energies, n_active)
        )
        wrecking = wrecking_rows(errors, energies, n_active, self.config.outlier_error)
        if not bool(wrecking.any()):
            return None
        return ~wrecking[self._rows.first : self._rows.first + len(x)]

    def differentiate(self, total: Scalar, index: int, also: Trainee | None = None) -> None:
        if not torch.isfinite(total.detach()):
            raise Diverged(f"the loss became {float(total.detach())} at step {index}")
        total.backward()
        gradients = {name: p.grad for name, p in self.optimizer.parameters.items() if p.grad is not None}
        self._sum_over_tokens(gradients)
        infinite = [not bool(torch.isfinite(gradient.sum())) for gradient in gradients.values()]
        if self.ranks.sum_number(sum(infinite)) > 0:
            raise Diverged(f"a gradient is not finite at step {index}")

    @torch.no_grad()
    def _sum_over_tokens(self, gradients: Mapping[str, Tensor]) -> None:
        """Sums gradients over the ranks that hold other rows; of matrices, those of latents that some rank touched."""
        if self.ranks.n_token_shards == 1:
            return
        touched = torch.zeros(self.shard.width, dtype=torch.int32, device=self.ranks.device)
        for name, gradient in gradients.items():
            if name in ("W_enc", "W_dec"):
                by_latent = gradient.T if name == "W_enc" else gradient
                touched |= (by_latent != 0).any(1).int()
        latents = self.ranks.sum(touched, TOKENS).nonzero()[:, 0]
        for name, gradient in gradients.items():
            by_latent = gradient.T if name == "W_enc" else gradient
            if name in ("W_enc", "W_dec") and len(latents) < DENSE_ABOVE * self.shard.width:
                by_latent[latents] = self.ranks.sum(by_latent[latents], TOKENS)
            else:
                by_latent.copy_(self.ranks.sum(by_latent, TOKENS))

    def balanced_coef(self, forward: Forward) -> float | None:
        if not isinstance(self.sae, JumpRelu):
            return None
        return balanced_coef(self.sae, forward.output, forward.info, self.ranks)

    @torch.no_grad()
    def observe_firing(self, forward: Forward) -> None:
        fired = self.ranks.sum(forward.output.latents.firing_counts(), TOKENS) > 0
        self.tracker.count(fired, self._rows.n_all)

    @torch.no_grad()
    def measures(self, forward: Forward) -> Measures:
        dead = 0 if forward.info.dead is None else int(forward.info.dead.sum())
        n_active = int((forward.output.latents.values > 0).sum())
        own = torch.tensor([n_active, dead], dtype=torch.float64, device=self.ranks.device)
        n_active_all, n_dead = self.ranks.sum(own, LATENTS)
        per_row = torch.stack([forward.residual.square().sum().double(), n_active_all])
        error, n_active_all = self.ranks.sum(per_row, TOKENS) / self._rows.n_all
        return Measures(float(error), float(n_active_all), float(n_dead) / self.shard.d_sae)

    def restart_dead(self, x: Activations, index: int, forward: Forward) -> int:
        dead = self.tracker.dead()
        n_dead = self.ranks.sum_number(int(dead.sum()), LATENTS)
        if self.config.restart_share == 0 or index >= LAST_RESTART * self.n_steps or n_dead == 0:
            return 0
        generator = torch.Generator().manual_seed(self.sae.config.seed * 1_000_003 + index)
        drawn = drawn_latents(dead, self.config.restart_share, generator, self.shard)
        new = new_weights(
            self.sae,
            drawn,
            self._rows,
            forward.residual,
            anisotropy=self.optimizer.anisotropy,
            generator=generator,
            shard=self.shard,
        )
        restart(self.sae, drawn, new, forward.output, rows=self._rows, shard=self.shard)
        forget(self.optimizer, drawn.latents, ~dead, self.ranks)
        self.tracker.silent_tokens[drawn.latents] = 0
        return drawn.n_all
