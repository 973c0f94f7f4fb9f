"""The settings of transcoders: the section `transcoders` of a run's configuration.

This module is loaded with every configuration, so it imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from monosemy.ranges import Range


@dataclass(frozen=True)
class TranscodersConfig:
    """Transcoders: sparse dictionaries that read an MLP's input and predict its output.

    One is trained for every architecture here × L0 × seed × layer, beside the SAEs of `architectures`, which may then
    be empty. Both sites of a layer, `layers.N.mlp_in` and `layers.N.mlp_out`, must be among `activations.sites`. A
    transcoder is saved and evaluated at `mlp_out`, as `transcoder_<architecture>-l0_<L0>-s<seed>`.
    """

    architectures: tuple[str, ...] = ()
    """Architectures of the transcoders. Empty trains none."""
    layers: Annotated[tuple[int, ...], Range(0, example=12)] = ()
    """The layers whose MLPs they stand for; empty takes every layer with both sites among `activations.sites`."""
    skip: Literal["without", "with", "both"] = "without"
    """Whether they have a linear path from input to output beside the latents, or both kinds are trained."""
    compare_saes: bool = True
    """Also train SAEs of the MLP's output with the same architectures and L0s, to compare with."""
    frozen_random: bool = True
    """Also train a control with a frozen random decoder at each L0."""
