"""What a run on a table of rows requires before it begins: settings that fit together."""

from __future__ import annotations

from collections.abc import Sequence

from monosemy.config import RunConfig, room_settings, taking_part
from monosemy.errors import UserError
from monosemy.pipeline.requirements import Requirements
from monosemy.rows.settings import RowsConfig
from monosemy.support.estimates import Cost, ModelSize


class RowRequirements(Requirements):
    """The checks that a table of rows adds to a run."""

    def architectures(self, config: RunConfig) -> Sequence[str]:
        return ()

    def check(self, config: RunConfig) -> None:
        source = room_settings(config, RowsConfig).source
        if (storage := config.activations.storage) != "disk":
            raise UserError(f"activations.storage {storage} needs a language model, and the rows of {source} have none")
        for room in taking_part(config):
            if room.units:
                raise UserError(
                    f"the settings {room.name} train around a part of a language model, and the rows of {source} have "
                    f"none; leave --{room.name}.… out"
                )

    def cost(self, config: RunConfig, model: ModelSize) -> Cost:
        return Cost()


REQUIREMENTS = RowRequirements()
