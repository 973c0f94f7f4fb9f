"""What pairs of SAEs around an MLP add to the program: a command, settings, pairs to train, a section of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monosemy.rooms import Command, Room

if TYPE_CHECKING:
    from monosemy.circuits.jacobian.settings import JacobianConfig


def trains_pairs(settings: JacobianConfig) -> bool:
    """Whether a run with these settings trains pairs."""
    return bool(settings.lambdas)


ROOM = Room(
    name="jacobian",
    commands=(
        Command(
            "jacobian",
            "train pairs of SAEs around an MLP that compute sparsely, measure them, and show pairs and graphs",
            "monosemy.circuits.jacobian.commands:run_jacobian",
            purpose="circuits",
        ),
    ),
    settings="monosemy.circuits.jacobian.settings:JacobianConfig",
    takes_part=trains_pairs,
    requirements="monosemy.circuits.jacobian.requirements:REQUIREMENTS",
    units="monosemy.circuits.jacobian.build:build_pairs",
    planned_units="monosemy.circuits.jacobian.build:planned_pairs",
    report="monosemy.circuits.jacobian.report_section:read_section",
    labels={"jsae_": "Pair, λ = "},
)
