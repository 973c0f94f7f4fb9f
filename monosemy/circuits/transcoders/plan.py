"""Which dictionaries a run with transcoders trains: known from the settings, before anything is loaded.

Place on the path: settings → **plan** → the requirements of a run (`requirements`), the dictionaries (`build`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from monosemy.circuits.transcoders.settings import TranscodersConfig
from monosemy.config import RunConfig, room_settings
from monosemy.errors import UserError
from monosemy.ranges import number_name
from monosemy.saes.listing import FROZEN_RANDOM, SKIP_TRANSCODER, TRANSCODER
from monosemy.support.wording import sites_text


class Planned(NamedTuple):
    """A dictionary to be trained: a transcoder, or an SAE of the output where `source` is None."""

    name: str
    source: str | None
    """The site that it reads, an MLP's input."""
    site: str
    """The site that it gives, the MLP's output; it is saved and evaluated there."""
    architecture: str
    l0: float
    seed: int
    skip: bool = False
    frozen: bool = False


def mlp_sites(sites: Sequence[str], layers: Sequence[int]) -> list[tuple[str, str]]:
    """The (`layers.N.mlp_in`, `layers.N.mlp_out`) among `sites`, by layer: all of them, or those of `layers`.

    Raises UserError where a site is missing.
    """
    ends = {end: {s.rsplit(".", 1)[0] for s in sites if s.endswith(f".{end}")} for end in ("mlp_in", "mlp_out")}
    blocks = [f"layers.{layer}" for layer in layers]
    if not blocks:
        blocks = sorted(ends["mlp_in"] & ends["mlp_out"], key=lambda block: int(block.split(".")[1]))
    lacking = [f"{block}.{end}" for block in blocks for end in ends if block not in ends[end]]
    if lacking or not blocks:
        lacking = lacking or ["layers.N.mlp_in", "layers.N.mlp_out"]
        raise UserError(
            f"activations.sites ({sites_text(sites)}) lack {' and '.join(lacking[:2])}, between which transcoders are "
            "trained; add them"
        )
    return [(f"{block}.mlp_in", f"{block}.mlp_out") for block in blocks]


def planned(config: RunConfig, sites: Sequence[str]) -> Iterator[Planned]:
    """Yields every dictionary that the room trains in a run at these sites, by their canonical names."""
    settings = room_settings(config, TranscodersConfig)
    skips = {"without": (False,), "with": (True,), "both": (False, True)}[settings.skip]
    kinds = [(name, name, skip, False) for skip, name in itertools.product(skips, settings.architectures)]
    if settings.frozen_random:
        kinds.append((FROZEN_RANDOM, "topk", skips[0], True))
    # SAEs that the run trains at the output anyway are not trained twice.
    saes = [name for name in settings.architectures if name not in config.architectures]
    for source, site in mlp_sites(sites, settings.layers):
        for l0, seed in itertools.product(config.l0, config.seeds):
            ending = f"-l0_{number_name(l0)}-s{seed}"
            for label, architecture, skip, frozen in kinds:
                prefix = SKIP_TRANSCODER if skip else TRANSCODER
                yield Planned(
                    prefix + label + ending, source, site, architecture, l0=l0, seed=seed, skip=skip, frozen=frozen
                )
            if settings.compare_saes:
                for name in saes:
                    yield Planned(name + ending, None, site, name, l0=l0, seed=seed)
