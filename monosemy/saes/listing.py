"""The saved SAEs of a run as they are listed and chosen everywhere: pages, pickers, terminal, exports.

Place on the data's path: run folder → [listing] → whoever shows or takes an SAE. Only config.json is read, so that the
server starts without torch. At each site SAEs come first, in order of name and L0, then controls (a frozen random
decoder is trained as the architecture it is a control of, and must not pass for it), then those whose training stopped
early: their numbers mean nothing. Neither is ever taken where no SAE was named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosemy.errors import UserError, unknown
from monosemy.layout import RunFiles
from monosemy.run import read_run
from monosemy.support import files

FROZEN_RANDOM = "frozen_random"
Key = tuple[str, str]
"""(site, name)."""


@dataclass(frozen=True)
class SavedSae:
    """One SAE of a run. `config`: the SaeConfig of its config.json, as JSON; empty where it holds none."""

    site: str
    name: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.site, self.name

    @property
    def label(self) -> str:
        """`SITE/NAME`, as the command line takes it."""
        return f"{self.site}/{self.name}"

    @property
    def control(self) -> bool:
        """Whether its decoder was never trained."""
        return bool(self.config.get("frozen_decoder"))

    @property
    def kind(self) -> str:
        """What it goes by: its architecture, or the control that it is."""
        return FROZEN_RANDOM if self.control else str(self.config.get("architecture") or "unknown")

    @property
    def stopped(self) -> str:
        """The trainer's message where its training stopped early, else empty."""
        return str((self.config.get("record") or {}).get("stopped") or "")

    @property
    def remark(self) -> str:
        """` (control)`, ` (training stopped early)` or nothing, to stand behind its name."""
        return " (training stopped early)" if self.stopped else " (control)" if self.control else ""


def saved_saes(folder: Path) -> list[SavedSae]:
    """The SAEs of a run, in the order they are listed. Raises UserError when a config.json is no JSON."""
    saes = []
    for entry in RunFiles(folder).saes():
        document = files.read_json(entry.config)
        config = document.get("sae") if isinstance(document, dict) else None
        saes.append(SavedSae(entry.site, entry.name, entry.folder, config if isinstance(config, dict) else {}))
    return sorted(saes, key=_rank)


def choose_sae(folder: Path, label: str | None = None) -> SavedSae:
    """The SAE called `label` (`SITE/NAME`, or NAME where that is enough); None: JumpReLU at the middle L0 of the first
    site, else the middle of what is no control.

    Raises UserError when the folder is no run or holds no SAE, for an unknown or ambiguous name, for an SAE whose
    training stopped early, and when the training of all of them did.
    """
    read_run(folder)
    saes = saved_saes(folder)
    if not saes:
        raise UserError(f"{folder} has no trained SAE; train it: monosemy train {folder}")
    if not label:
        return default_sae(folder, saes)
    matches = [sae for sae in saes if label in (sae.label, sae.name)]
    if not matches:
        raise unknown("SAE", label, [sae.label for sae in saes])
    if len(matches) > 1:
        sites = ", ".join(sae.site for sae in matches)
        raise UserError(f"SAE {label!r} is at several sites: {sites}; write SITE/{label}")
    refuse_stopped(matches[0].label, matches[0].stopped)
    return matches[0]


def default_sae(folder: Path, saes: Sequence[SavedSae]) -> SavedSae:
    """What is taken where none was named: of the first site at which one was trained to its end."""
    complete = [sae for sae in saes if not sae.stopped]
    if not complete:
        raise UserError(
            f"the training of every SAE of {folder} stopped early ({_reason(saes[0].stopped)}); train again in a new "
            "folder, e.g. with a lower --training.learning-rate"
        )
    trained = [sae for sae in complete if not sae.control] or complete
    first = [sae for sae in trained if sae.site == trained[0].site]
    jumprelu = [sae for sae in first if sae.config.get("architecture") == "jumprelu"]
    ordered = sorted(jumprelu or first, key=lambda sae: (float(sae.config.get("l0") or 0), sae.key))
    return ordered[(len(ordered) - 1) // 2]


def refuse_stopped(label: str, message: str) -> None:
    """Raises UserError when `message` says why the training of the SAE `label` (`SITE/NAME`) stopped early."""
    if message:
        raise UserError(
            f"the training of SAE {label} stopped early ({_reason(message)}), so that nothing is made of it; choose "
            "another SAE, or train again in a new folder, e.g. with a lower --training.learning-rate"
        )


def _reason(message: str) -> str:
    """The trainer's `NAME at SITE stopped: REASON; the other SAEs go on` without its frame."""
    return message.partition(" stopped: ")[2].partition(";")[0] or message


def _rank(sae: SavedSae) -> tuple[Any, ...]:
    """Numbers within names count as numbers: L0 4 before L0 32, layer 2 before layer 10."""
    parts = [[(part.isdigit(), part.zfill(9)) for part in re.split(r"(\d+)", text)] for text in sae.key]
    return parts[0], bool(sae.stopped), sae.control, parts[1]
