"""Hardware that a plan can be made for without being there: its devices and the speeds that are assumed of them.

Place on the path: `--hardware h100x8` → [devices and their assumed speeds] → the plan of a run. Nothing is measured.
The figures are those of the makers' data sheets, dense; `MODEL_SHARE`, `PRODUCT_SHARE` and `BANDWIDTH_SHARE` are the
parts of them that a plan counts on. Weights of SAEs are float32, and their products are too (PyTorch's default
precision), which is why the float32 figure counts and not that of TF32.

Limits: main memory and disks of other machines are not known; flags give them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from monosemy.errors import UserError, unknown

MODEL_SHARE = 0.4
"""The part of the half-precision (or float32) figure that a language model's forward pass reaches."""
PRODUCT_SHARE = 0.6
"""The part of the float32 figure that the encoder's product reaches."""
BANDWIDTH_SHARE = 0.7
"""The part of the memory's bandwidth that Adam reaches."""
MOST_DEVICES = 1024


class Device(NamedTuple):
    """A kind of device, in bytes, operations a second and bytes a second."""

    memory: float
    half: float
    """Operations a second in bfloat16."""
    single: float
    """Operations a second in float32."""
    bandwidth: float

    def model_rate(self, dtype: str) -> float:
        """Operations a second that a language model in this number format is assumed to reach."""
        return MODEL_SHARE * (self.single if dtype == "float32" else self.half)


DEVICES = {
    "a100": Device(80e9, 312e12, 19.5e12, 2.0e12),
    "b200": Device(180e9, 2250e12, 75e12, 7.7e12),
    "h100": Device(80e9, 989e12, 67e12, 3.35e12),
    "h200": Device(141e9, 989e12, 67e12, 4.8e12),
    "l40s": Device(48e9, 362e12, 91.6e12, 0.86e12),
    "rtx3090": Device(24e9, 71e12, 35.6e12, 0.94e12),
    "rtx4090": Device(24e9, 165e12, 82.6e12, 1.01e12),
}
"""By name: memory, bfloat16, float32, bandwidth."""


class Hardware(NamedTuple):
    """Several devices of one kind."""

    name: str
    device: Device
    n_devices: int


def hardware_of(name: str) -> Hardware:
    """The hardware of a name such as `h100` or `h100x8`. Raises UserError, with the names, for an unknown one."""
    several = re.fullmatch(r"(\w+)x(\d{1,6})", name.lower())
    if name.lower() in DEVICES or several is None:  # rtx4090 is no 4,090 devices
        kind, n_devices = name.lower(), 1
    else:
        kind, n_devices = several[1], int(several[2])
    if kind not in DEVICES:
        raise unknown("hardware", name, DEVICES, fix="several devices are written h100x8")
    if not 1 <= n_devices <= MOST_DEVICES:
        raise UserError(f"--hardware {name} must have from 1 to {MOST_DEVICES} devices; e.g. {kind}x8")
    return Hardware(f"{kind}x{n_devices}", DEVICES[kind], n_devices)


def hardware_with(
    name: str | None, memory: int | None, tflops: float | None, bandwidth: float | None
) -> Hardware | None:
    """The hardware of a name with some of its figures replaced: bytes, 10¹² operations and TB a second.

    None without a name. Raises UserError for an unknown name, and for figures without one.
    """
    if name is None:
        if (memory, tflops, bandwidth) != (None, None, None):
            raise UserError("figures of a device replace those of --hardware; name it, e.g. --hardware h100x8")
        return None
    hardware = hardware_of(name)
    device = hardware.device
    figures = {"memory": memory, "single": tflops and tflops * 1e12, "bandwidth": bandwidth and bandwidth * 1e12}
    return hardware._replace(device=device._replace(**{key: float(n) for key, n in figures.items() if n is not None}))
