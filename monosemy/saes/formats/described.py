"""What all layouts share: the files of an SAE, checked, and the SaeConfig of what a publisher describes.

Place on the path: beneath the layouts. A file must lie in the SAE's own folder: a name with `..` or a symbolic link
that leads elsewhere could make an SAE out of any file of the machine. The hub's cache is the exception, where every
file is such a link to another folder of the same repository.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats.stored import StoredTensor, shown, shown_names
from monosemy.saes.transforms import NO_TRANSFORMS, Transforms
from monosemy.support.hook_names import hub_model, site_of_hook
from monosemy.support.numbers import setting_text

MAX_K = 1 << 20
INPUT_SCALE = "load_sae(…, input_scale="
"""In the warning of an SAE whose files leave the constant factor of its input out: how to give it."""
_LONGEST_TEXT = 1000


def folder_of(path: Path) -> Path:
    """The folder of an SAE that is given by its folder or by one of its files."""
    return path.parent if path.is_file() else path


def member(path: Path, name: str) -> Path:
    """The file `name` in the SAE's folder. Raises UserError when it is missing or lies elsewhere."""
    folder = folder_of(path)
    place = folder / name
    if not place.is_file():
        raise UserError(f"{place} does not exist or is not a file")
    if not place.resolve().is_relative_to(_root(folder)):
        raise UserError(f"{place} leads out of its folder, to {place.resolve()}; copy the file itself there")
    return place


def holds(path: Path, *names: str) -> bool:
    """Whether `path` is a folder with all these files, or one of them."""
    if path.is_file() and path.name not in names:
        return False
    return all((folder_of(path) / name).is_file() for name in names)


def _root(folder: Path) -> Path:
    """The folder that an SAE's files must lie in: its own, or that of its repository in the hub's cache."""
    resolved = folder.resolve()
    repository = next((parent for parent in (resolved, *resolved.parents) if parent.name.startswith("models--")), None)
    return repository if repository and "snapshots" in resolved.parts else resolved


def matrix(tensors: Mapping[str, StoredTensor], name: str, path: Path) -> StoredTensor:
    """The matrix of this name. Raises UserError when the file has none, or one that is empty."""
    stored = tensor(tensors, name, path)
    if len(stored.shape) != 2 or 0 in stored.shape or not stored.dtype.is_floating_point:
        raise UserError(f"tensor {name} of {path} has shape {stored.shape} and type {stored.dtype}, not a matrix's")
    return stored


def tensor(tensors: Mapping[str, StoredTensor], name: str, path: Path) -> StoredTensor:
    """The tensor of this name. Raises UserError when the file has none."""
    if name not in tensors:
        raise UserError(f"{path} has no tensor {name}; it has {shown_names(sorted(tensors))}")
    return tensors[name]


def scalar(stored: StoredTensor) -> float:
    """The value of a tensor of one number. Raises UserError for any other."""
    if stored.shape not in ((), (1,)):
        raise UserError(f"tensor {stored.name} of {stored.path} has shape {stored.shape} instead of being one number")
    return float(stored.read().reshape(()))


@dataclass(frozen=True)
class Description:
    """What a publisher's files say about an SAE, in the publisher's words."""

    layout: str
    """The layout's name."""
    architecture: str
    """Ours."""
    model: str = ""
    hook: str = ""
    """The library's name of the site that is read."""
    hook_out: str = ""
    """Of the site that is written, for transcoders."""
    l0: float = 0
    """k, or the published mean number of active latents; 0 where it is not said."""
    transforms: Transforms = NO_TRANSFORMS
    typical_norm: float = 1.0
    """Root mean square of the norm of the activations it was trained on (output side); 1 where it is not said."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth recording: prepend_bos, context_size, dataset, warnings …"""

    def sae_config(self, W_enc: StoredTensor, W_dec: StoredTensor) -> SaeConfig:
        """The configuration of an SAE with these matrices [d_in, d_sae] and [d_sae, d_out]."""
        d_in, d_sae = W_enc.shape
        d_out = W_dec.shape[1]
        if not 0 <= self.l0 <= d_sae:
            raise UserError(f"{W_enc.path} has {d_sae} latents, of which {setting_text(self.l0)} can't be active")
        site, site_out = site_of_hook(self.hook), site_of_hook(self.hook_out)
        origin = {"layout": self.layout, "model": self.model, "hook": self.hook, "hook_out": self.hook_out}
        return SaeConfig(
            self.architecture,
            d_in=d_in,
            d_sae=d_sae,
            l0=self.l0,
            scale=self.typical_norm,
            site=site,
            model=hub_model(self.model),
            record={
                "origin": {key: value for key, value in {**origin, **self.facts}.items() if value not in ("", None)}
            },
            transforms=self.transforms,
            d_out=d_out if d_out != d_in else None,
            site_out="" if site_out == site else site_out,
        )


def text(settings: Mapping[str, Any], key: str, default: str = "") -> str:
    """A setting that is a text; the default where it is missing or null. Raises UserError for any other value."""
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise UserError(f"the SAE's settings say {key} = {shown(value)}, which should be a short text")
    return value


def count(settings: Mapping[str, Any], key: str) -> int:
    """A setting that is a positive whole number, such as k. Raises UserError when it is missing or is none."""
    value = settings.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_K:
        raise UserError(f"the SAE's settings say {key} = {shown(value)}, which should be a positive whole number")
    return value


def positive(settings: Mapping[str, Any], key: str, default: float) -> float:
    """A setting that is a number above 0; the default where it is missing. Raises UserError for any other value."""
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f"the SAE's settings say {key} = {shown(value)}, which should be a number above 0")
    return float(value)


def section(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A setting that is a group of settings; empty where it is missing. Raises UserError for any other value."""
    value = settings.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"the SAE's settings say {key} = {shown(value)}, which should be a group of settings")
    return value


def number_after(word: str, path: Path) -> int | None:
    """The whole number behind `word` in the last part of a path that has it: 71 behind `average_l0_`."""
    for part in reversed(path.absolute().parts):
        if match := re.search(re.escape(word) + r"(\d+)", part):
            return int(match[1])
    return None
