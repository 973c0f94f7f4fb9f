"""What pairs of SAEs require of a run before it begins: settings that fit together, memory and disk space.

Whether the Jacobian's formula covers the MLP is checked later, once the model is loaded (`build`).
"""

from __future__ import annotations

from collections.abc import Sequence

from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.config import RunConfig, room_settings
from monosemy.pipeline.checks import require_distinct
from monosemy.pipeline.requirements import Requirements
from monosemy.support.estimates import Cost, ModelSize, Remedy
from monosemy.support.flags import flag_of

PENALTY = "Jacobian penalty"
MEMORY_SETTING = "jacobian.max_memory_mb"


def n_pairs(config: RunConfig) -> int:
    """The number of pairs that the run trains: λ × L0 × seeds."""
    return len(room_settings(config, JacobianConfig).lambdas) * len(config.l0) * len(config.seeds)


class PairRequirements(Requirements):
    """The checks and costs that training pairs adds to a run."""

    def architectures(self, config: RunConfig) -> Sequence[str]:
        return (room_settings(config, JacobianConfig).architecture,)

    def check(self, config: RunConfig) -> None:
        from monosemy.circuits.jacobian.training_pair import pair_sites
        from monosemy.models.sites import parse_site

        settings = room_settings(config, JacobianConfig)
        require_distinct(flag_of("jacobian.lambdas"), settings.lambdas)
        # The model, and so its number of layers, is not known yet: any layer number may pass.
        sites = [str(parse_site(name, 1_000_000, post_norms=False)) for name in config.activations.sites]
        pair_sites(sites, settings.layer)

    def cost(self, config: RunConfig, model: ModelSize) -> Cost:
        settings = room_settings(config, JacobianConfig)
        # Per SAE: encoder and decoder, biases and, with room to spare, thresholds.
        n_parameters = 2 * model.d_model * config.d_sae + 3 * config.d_sae + model.d_model
        return Cost(
            n_parameters=2 * n_pairs(config) * n_parameters,
            memory={PENALTY: settings.max_memory_mb * 1_000_000} if any(settings.lambdas) else {},
            remedies={PENALTY: Remedy(f"lower {flag_of(MEMORY_SETTING)}", (MEMORY_SETTING,))},
        )


REQUIREMENTS = PairRequirements()
