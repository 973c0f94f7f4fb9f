"""Where a model's weights lie: on one device, spread over several by accelerate, in main memory or on disk; in 8 bits.

Place on the path: settings → **placement** → `sources.load_model`. accelerate's hooks move each layer's input to the
layer's device, and bring weights that lie in main memory or on disk when the layer runs. Reading and replacing go
through hooks of our own beside them, so that sites work as on one device; what is read lies on its layer's device.

Source: transformers' `device_map` and `BitsAndBytesConfig`. Limits: circuits read weights themselves, and need a model
whose weights all lie on devices; 8-bit weights need bitsandbytes and a GPU, which were not at hand: loading them is
written by transformers' documentation and was never run. One process to a model: several would fill the same devices.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from monosemy.errors import UserError, unknown
from monosemy.support import ranks

if TYPE_CHECKING:
    import torch
    from torch import nn

DEVICE_MAPS = ("none", "auto", "balanced", "balanced_low_0", "sequential")
WEIGHTS = ("full", "8bit")


class Placement(NamedTuple):
    """How a model lies on devices."""

    device_map: str | Mapping[str, str | int] = "none"
    """One of `DEVICE_MAPS`, or {module: device, `cpu` or `disk`}."""
    weights: str = "full"
    """`full` or `8bit`."""
    offload_folder: str | None = None
    """Where weights lie that the map puts on `disk`."""

    @property
    def spread(self) -> bool:
        """Whether accelerate places the modules."""
        return self.device_map != "none"


ONE_DEVICE = Placement()


def require_placement(placement: Placement, device: str, *, randomise: str, kind: str) -> None:
    """Raises UserError for a placement that contradicts other settings or that this machine cannot have."""
    if isinstance(placement.device_map, str) and placement.device_map not in DEVICE_MAPS:
        raise unknown("device map", placement.device_map, DEVICE_MAPS)
    if placement.weights not in WEIGHTS:
        raise unknown("kind of weights", placement.weights, WEIGHTS)
    if placement == ONE_DEVICE:
        return
    flag = "--model.weights 8bit" if placement.weights == "8bit" else f"--model.device-map {placement.device_map}"
    if randomise != "none":
        raise UserError(f"{flag} does not go with --model.randomise {randomise}, which rewrites weights; leave one out")
    if kind == "gguf":
        raise UserError(f"{flag} does not go with a .gguf file; give the model as a folder or a hub id")
    if placement.spread and device != "auto":
        raise UserError(f"{flag} spreads the model over devices, and --device {device} names one; leave one out")
    if placement.spread and ranks.n_local_ranks() > 1:
        raise UserError(
            f"{flag} fills all devices with one model, and {ranks.n_local_ranks()} processes would each load one; "
            "use one process"
        )
    if placement.weights == "8bit":
        _require_8bit()


def _require_8bit() -> None:
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("--model.weights 8bit needs bitsandbytes, which is not installed: pip install bitsandbytes")
    if not torch.cuda.is_available():
        raise UserError("--model.weights 8bit needs a GPU, and there is none; leave it out, or use --dtype bfloat16")


def placed_by(placement: Placement, device: torch.device) -> dict[str, Any]:
    """The options of transformers' loader for a placement; `device` is that of a model on one device."""
    options: dict[str, Any] = {}
    if placement.spread:
        options["device_map"] = placement.device_map
        if placement.offload_folder is not None:
            options["offload_folder"] = placement.offload_folder
    elif device.type != "cpu":
        options["device_map"] = {"": str(device)}  # weights go straight to the device
    if placement.weights == "8bit":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    return options


def input_device(module: nn.Module) -> torch.device:
    """Where a model takes its tokens: its first weights' device, or that on which they run where they lie elsewhere."""
    import torch

    first = next(module.parameters()).device
    if first.type != "meta":
        return first
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device(device)
    return first
