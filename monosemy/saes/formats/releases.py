"""What sae-lens knows about releases in its layout that their own cfg.json leaves out, by their repositories' names.

Three releases for GPT-2 small were trained on a model loaded with centred writing weights. Others expect inputs times a
constant factor, or rows of one length. The repository's name is looked for in the path, cloned or in the hub's cache.
Source: sae-lens 6.54, pretrained_saes.yaml (config_overrides and norm_scaling_factor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


@dataclass(frozen=True)
class Release:
    """A published set of SAEs."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings in place of cfg.json's."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """By hook, the factor that brings inputs to the mean length √d, of SAEs that cfg.json says expect such inputs."""


RELEASES: dict[str, Release] = {
    "GPT2-Small-SAEs-Reformatted": Release(_CENTRED),
    "GPT2-Small-Feature-Splitting-Experiment-Layer-8": Release(_CENTRED),
    "gpt2-small-mlp-out-saes": Release(
        _CENTRED,
        {
            "blocks.0.hook_mlp_out": 1.049317316132615,
            "blocks.1.hook_mlp_out": 2.3693984005104283,
            "blocks.2.hook_mlp_out": 1.6411934982190302,
            "blocks.3.hook_mlp_out": 1.8958522157897557,
            "blocks.4.hook_mlp_out": 1.81673478700627,
            "blocks.5.hook_mlp_out": 1.550234472245924,
            "blocks.6.hook_mlp_out": 1.3237742807210804,
            "blocks.7.hook_mlp_out": 1.1042905114723296,
            "blocks.8.hook_mlp_out": 0.9123762783479742,
            "blocks.9.hook_mlp_out": 0.6955335635232373,
            "blocks.10.hook_mlp_out": 0.3619728926727644,
            "blocks.11.hook_mlp_out": 0.2851548652550073,
        },
    ),
    "Gemma-2b-Residual-Stream-SAEs": Release(factors={"blocks.12.hook_resid_post": 0.21381938399317255}),
    "Mistral-7B-Residual-Stream-SAEs": Release({"normalize_activations": "constant_norm_rescale"}),
}
"""By the repository's name without its owner."""


def release_of(path: Path) -> Release:
    """The release that an SAE's path names, an empty one where it names none."""
    names = (part.rpartition("--")[2] for part in reversed(path.absolute().parts))
    return next((RELEASES[name] for name in names if name in RELEASES), Release())
