"""What all writers share: an SAE taken apart, the steps that bring it into another library's form, and the files.

Place on the path: an SAE → [Parts, folded as the layout needs it] → `Exported` → a folder. Each step that changes a
number, and everything that is lost, leaves a note, which is shown before anything is written. A layout that would give
other codes is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig, SparseAutoencoder, biases_of_shifted_input
from monosemy.saes.registry import architecture
from monosemy.saes.transforms import Transforms
from monosemy.support import files
from monosemy.support.numbers import setting_text
from monosemy.support.tensors import save_tensors


@dataclass(frozen=True)
class Exported:
    """The files of an SAE in another library's layout, by their names within its folder, and what is to be said."""

    settings: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Mapping[str, Tensor]]
    notes: tuple[str, ...] = ()
    folder: str = ""
    """The name of the SAE's own folder within the one that is given, where the layout says it."""


@dataclass
class Parts:
    """An SAE taken apart: its kind, its transforms and its tensors, which the steps below change."""

    layout: str
    """The layout that it is brought into, for messages."""
    config: SaeConfig
    kind: str
    transforms: Transforms
    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, sae: SparseAutoencoder, layout: str) -> Parts:
        config = sae.config
        tensors = {name: tensor.detach().cpu().float() for name, tensor in sae.tensors().items()}
        tensors.pop("threshold_weight", None)
        # Two architectures may be one kind: a nested dictionary encodes and decodes as any other.
        kind = architecture(config.architecture).name
        return cls(layout, config, kind, config.transforms, tensors=tensors)

    def refuse(self, reason: str) -> UserError:
        return UserError(f"{self.layout} cannot hold this SAE: {reason}; SAELens' layout is the one that holds most")

    def require(self, kinds: tuple[str, ...], *, transcoder: bool = True, width: bool = False) -> None:
        """Raises UserError when the layout has no such kind; BatchTopK becomes the JumpReLU that it is at inference."""
        if self.kind == "batch_topk" and "batch_topk" not in kinds:
            threshold = self.tensors["threshold"].clamp_min(0).expand(self.config.d_sae).clone()
            self.kind, self.tensors["threshold"] = "jumprelu", threshold
            self.notes.append("BatchTopK is written as the JumpReLU that it is at inference: one threshold for all")
        if self.kind == "relu" and "relu" not in kinds and "jumprelu" in kinds:
            self.kind, self.tensors["threshold"] = "jumprelu", torch.zeros(self.config.d_sae)
            self.notes.append("ReLU is written as a JumpReLU with thresholds of zero, which is the same")
        if self.kind not in kinds:
            raise self.refuse(f"it has no {self.kind}, only {', '.join(kinds)}")
        if not transcoder and self.transforms.transcoder:
            raise self.refuse("it has no transcoders")
        if not width and self.config.d_out is not None:
            raise self.refuse(f"its output must be as wide as its input, not {self.config.d_out}")

    def require_plain_rows(self) -> None:
        """Raises UserError when rows are normalised or centred, which a layout without such a setting would drop."""
        if self.transforms.normalise != "none" or self.transforms.centre:
            what = self.transforms.normalise if self.transforms.normalise != "none" else "centring"
            raise self.refuse(f"every row of its input is changed ({what}), for which it has no setting")
        if self.transforms.merge_heads:
            self.notes.append("that its input comes as [heads, d_head] is not written: give it merged")

    def fold_input_scale(self) -> None:
        """Multiplies the encoder by a constant factor of the input, and divides the reconstruction by it."""
        scale = self.transforms.input_scale
        if scale == 1:
            return
        self.tensors["W_enc"] = self.tensors["W_enc"] * scale
        if not self.transforms.transcoder:
            for name in ("W_dec", "b_dec"):
                self.tensors[name] = self.tensors[name] / scale
        self.transforms = dataclasses.replace(self.transforms, input_scale=1.0)
        self.notes.append(f"the factor {setting_text(scale)} of its input was folded into the weights")

    def fold_b_dec(self, *, subtracted: bool) -> None:
        """Makes the encoder read x − b_dec, or x, without changing its codes beyond rounding."""
        if self.transforms.subtract_b_dec == subtracted:
            return
        if self.config.d_out is not None:
            raise self.refuse("it subtracts the output's bias from an input of another width")
        # x W + b = (x − d) W + (b + d W)
        shift = self.tensors["b_dec"] * (1 if subtracted else -1)
        self.tensors |= biases_of_shifted_input(self.tensors, shift)
        self.transforms = dataclasses.replace(self.transforms, subtract_b_dec=subtracted)
        self.notes.append("b_dec was folded into the encoder's bias; codes agree up to rounding")

    def fold_row_lengths(self) -> None:
        """Makes every decoder row of length 1 by multiplying its latent's encoder, biases and threshold by the length.

            f_i d_i = (f_i ‖d_i‖) (d_i / ‖d_i‖)

        Reconstructions stay; codes become contributions in units of the output. A row of length 0 stays as it is.
        Raises UserError for TopK with rows of unequal length, which would select other latents.
        """
        lengths = self.tensors["W_dec"].double().norm(dim=1)
        if self.kind == "topk" and float(lengths.max()) > (1 + 1e-6) * float(lengths.min()):
            raise self.refuse(
                "TopK selects by pre-activations, and rows of unit length would change which are the largest; leave "
                "--unit-rows out"
            )
        factors = torch.where(lengths > 0, lengths, 1.0)
        for name in ("W_enc", "b_enc", "b_gate", "b_mag", "threshold"):
            if name in self.tensors:
                self.tensors[name] = (self.tensors[name].double() * factors).float()
        self.tensors["W_dec"] = (self.tensors["W_dec"].double() / factors[:, None]).float()
        self.notes.append("lengths of decoder rows were folded into the encoder: codes are in units of the output")

    def note_row_lengths(self, why: str) -> None:
        """Notes decoder rows that are not of unit length."""
        lengths = self.tensors["W_dec"].norm(dim=1)
        if float((lengths - 1).abs().max()) > 1e-5:
            self.notes.append(f"decoder rows are not of unit length, which {why}")

    def origin(self, key: str, default: Any = None) -> Any:
        """What the publisher's files said of it, or of an SAE that was trained here what is recorded of its text."""
        record = self.config.record
        return record.get("origin", {}).get(key, record.get("text", {}).get(key, default))


def write_exported(exported: Exported, folder: Path) -> Path:
    """Writes the files below `folder`, each under its final name only when it is whole; returns the SAE's folder.

    Raises UserError when it cannot write.
    """
    target = Path(folder).expanduser() / exported.folder
    for name, tensors in exported.tensors.items():
        contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
        with files.atomic_path(target / name) as temporary:
            if name.endswith(".pt"):
                torch.save({key: tensor.clone() for key, tensor in contiguous.items()}, temporary)
            else:
                save_tensors(temporary, contiguous)
    for name, settings in exported.settings.items():
        if name.endswith(".yaml"):
            import yaml

            files.write_text(target / name, yaml.safe_dump(dict(settings), sort_keys=False))
        else:
            files.write_json(target / name, dict(settings))
    return target
