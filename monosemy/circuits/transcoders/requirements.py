"""What transcoders require of a run before it begins: sites that fit together, memory and disk space."""

from __future__ import annotations

from collections.abc import Sequence

from monosemy.circuits.transcoders.plan import planned
from monosemy.circuits.transcoders.settings import TranscodersConfig
from monosemy.config import RunConfig, room_settings
from monosemy.pipeline.checks import require_distinct
from monosemy.pipeline.requirements import Requirements
from monosemy.support.estimates import Cost, ModelSize
from monosemy.support.flags import flag_of


class TranscoderRequirements(Requirements):
    """The checks and costs that training transcoders adds to a run."""

    def architectures(self, config: RunConfig) -> Sequence[str]:
        return room_settings(config, TranscodersConfig).architectures

    def check(self, config: RunConfig) -> None:
        settings = room_settings(config, TranscodersConfig)
        require_distinct(flag_of("transcoders.architectures"), settings.architectures)
        if settings.layers:
            require_distinct(flag_of("transcoders.layers"), settings.layers)
        list(planned(config, _sites(config)))

    def cost(self, config: RunConfig, model: ModelSize) -> Cost:
        width = model.d_model
        # Encoder and decoder, biases and, with room to spare, thresholds; the linear path.
        n_parameters = sum(
            2 * width * config.d_sae + 3 * config.d_sae + width + width * width * plan.skip
            for plan in planned(config, _sites(config))
        )
        return Cost(n_parameters=n_parameters)


def _sites(config: RunConfig) -> list[str]:
    """The canonical names of the run's sites; the model, and so its number of layers, is not known yet."""
    from monosemy.models.sites import parse_site

    return [str(parse_site(name, 1_000_000, post_norms=False)) for name in config.activations.sites]


REQUIREMENTS = TranscoderRequirements()
