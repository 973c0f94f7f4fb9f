"""Lists and chooses the saved SAEs of a run, in the same way for pages, pickers, terminal and exports.

Place on the data's path: run folder → [listing] → everything that shows or uses an SAE. Only config.json is read, so
that the server starts without torch. At each site the list starts with the SAEs in the order of their names and L0s.
Controls follow: a frozen random decoder is trained with the architecture that it is a control for and must not be
mistaken for it. SAEs whose training stopped early come last, because their numbers mean nothing. Where no SAE is named,
none that stopped early is ever chosen, one that was imported only where the run trained none, and a control only where
there is nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosemy.errors import UserError, unknown
from monosemy.layout import RunFiles
from monosemy.run import read_run
from monosemy.saes.config_file import read_config_file
from monosemy.support.numbers import counted_text
from monosemy.support.visible import visible
from monosemy.support.wording import and_text, natural_order, sites_text

FROZEN_RANDOM = "frozen_random"
TRANSCODER, SKIP_TRANSCODER = "transcoder_", "skip_transcoder_"
"""How the kinds of transcoders begin, without and with a linear path."""
FIRST_LOOK = "first look: trained on the start of the text only"
"""What is said of an SAE that is to be replaced by its full-length self."""
Key = tuple[str, str]
"""(site, name)."""


@dataclass(frozen=True)
class SavedSae:
    """One saved SAE of a run. `config` is the SaeConfig in its config.json, as JSON; empty where there is none."""

    site: str
    name: str
    folder: Path
    config: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"SavedSae({self.label!r}, {self.kind}, {self.config.get('d_sae', 'unknown')} latents)"

    @property
    def key(self) -> Key:
        return self.site, self.name

    @property
    def label(self) -> str:
        """`SITE/NAME`, the form in which the command line accepts it."""
        return f"{self.site}/{self.name}"

    @property
    def control(self) -> bool:
        """Whether the SAE is a control with a frozen random decoder."""
        return bool(self.config.get("frozen_decoder"))

    @property
    def imported(self) -> Mapping[str, Any]:
        """What the import of an SAE from elsewhere recorded: its `source` and `warnings`; empty for one of the run."""
        imported = (self.config.get("record") or {}).get("imported")
        return imported if isinstance(imported, Mapping) else {}

    @property
    def warnings(self) -> list[str]:
        """What must be known of its numbers, a sentence part each: that it is a first look, or, of an imported SAE,
        what may make them differ here from the published ones."""
        first_look = [FIRST_LOOK] if self.first_look else []
        return [*first_look, *(str(warning) for warning in self.imported.get("warnings") or [])]

    @property
    def kind(self) -> str:
        """Its architecture, `frozen_random` for a control; of a transcoder with `transcoder_` before it.

        For an imported SAE what it is called in this run.
        """
        if self.imported:
            return label_of(self.name)
        kind = FROZEN_RANDOM if self.control else str(self.config.get("architecture") or "unknown")
        if not self.is_transcoder:
            return kind
        return f"{SKIP_TRANSCODER if self.config['transforms'].get('skip') else TRANSCODER}{kind}"

    @property
    def is_transcoder(self) -> bool:
        """Whether it reads another site than the one that it gives, under which it lies."""
        return bool((self.config.get("transforms") or {}).get("transcoder"))

    @property
    def stopped(self) -> str:
        """The trainer's message when its training stopped early; empty when it was trained to the end."""
        return str((self.config.get("record") or {}).get("stopped") or "")

    @property
    def first_look(self) -> bool:
        """Whether it was trained on the start of the text alone, and is to be replaced by its full-length self."""
        return bool((self.config.get("record") or {}).get("first_look"))

    @property
    def remark(self) -> str:
        """A suffix for its name: ` (control)`, ` (training stopped early)`, ` (first look)` or nothing."""
        if self.stopped:
            return " (training stopped early)"
        return " (control)" if self.control else " (first look)" if self.first_look else ""


def label_of(name: str) -> str:
    """What tables and figures call the SAEs of this name: `topk` of `topk-l0_32-s0`."""
    return name.split("-")[0]


def is_transcoder_kind(kind: str) -> bool:
    """Whether an SAE of this `SavedSae.kind` is a transcoder."""
    return kind.startswith((TRANSCODER, SKIP_TRANSCODER))


def dictionaries_text(saes: Sequence[SavedSae]) -> str:
    """How many there are of each sort: `30 transcoders`, `15 SAEs and 3 controls`; `0 SAEs` without any."""
    n_controls = sum(sae.control for sae in saes)
    n_transcoders = sum(sae.is_transcoder and not sae.control for sae in saes)
    n_autoencoders = len(saes) - n_controls - n_transcoders
    sorts = {"transcoder": n_transcoders, "SAE": n_autoencoders, "control": n_controls}
    named = [counted_text(n, sort) for sort, n in sorts.items() if n or (sort == "SAE" and not n_transcoders)]
    return and_text(named)


def print_warnings(saes: Iterable[SavedSae]) -> None:
    """Prints what must be known of the SAEs on standard error, a line each."""
    for sae in saes:
        for warning in sae.warnings:
            print(f"warning: {sae.label}: {visible(warning)}", file=sys.stderr)


def saved_saes(folder: Path) -> list[SavedSae]:
    """The SAEs of a run, in the order of every list. Raises UserError when a config.json is not valid JSON."""
    saes = []
    for entry in RunFiles(folder).saes():
        document = read_config_file(entry.folder)
        config = document.get("sae") if isinstance(document, dict) else None
        saes.append(SavedSae(entry.site, entry.name, entry.folder, config if isinstance(config, dict) else {}))
    return sorted(saes, key=_rank)


def choose_sae(folder: Path, label: str | None = None) -> SavedSae:
    """Finds the SAE named `label`: `SITE/NAME`, or NAME alone where only one site has it.

    Without a label, chooses the JumpReLU SAE with the middle L0 of the first site, or the SAE with the middle L0 where
    the site has no JumpReLU.
    Raises UserError when the folder is not a run or holds no SAE, when the name is unknown or ambiguous, when the
    training of the named SAE stopped early, and, without a label, when that of every SAE did.
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
        sites = sites_text(sae.site for sae in matches)
        raise UserError(f"SAE {label!r} is at several sites: {sites}; write SITE/{label}")
    refuse_stopped(matches[0].label, matches[0].stopped)
    return matches[0]


def default_sae(folder: Path, saes: Sequence[SavedSae]) -> SavedSae:
    """The SAE to use where none was named, from the first site that has one trained to the end (`choose_sae`).

    Raises UserError when the training of every SAE stopped early.
    """
    complete = [sae for sae in saes if not sae.stopped]
    if not complete:
        raise UserError(
            f"the training of every SAE of {folder} stopped early ({_reason(saes[0].stopped)}); train again in a new "
            "folder, e.g. with a lower --training.learning-rate"
        )
    candidates = [sae for sae in complete if not sae.control] or complete
    trained = [sae for sae in candidates if not sae.imported] or candidates
    first = [sae for sae in trained if sae.site == trained[0].site]
    jumprelu = [sae for sae in first if sae.config.get("architecture") == "jumprelu"]
    ordered = sorted(jumprelu or first, key=lambda sae: (float(sae.config.get("l0") or 0), sae.key))
    return ordered[(len(ordered) - 1) // 2]


def refuse_stopped(label: str, message: str) -> None:
    """Raises UserError if the SAE `label` (`SITE/NAME`) stopped early, that is, if its `message` is not empty."""
    if message:
        raise UserError(
            f"the training of SAE {label} stopped early ({_reason(message)}), so that nothing is made of it; choose "
            "another SAE, or train again in a new folder, e.g. with a lower --training.learning-rate"
        )


def _reason(message: str) -> str:
    """The REASON in the trainer's message `NAME at SITE stopped: REASON; the other SAEs go on`."""
    return message.partition(" stopped: ")[2].partition(";")[0] or message


def _rank(sae: SavedSae) -> tuple[Any, ...]:
    """The sort key of the list. Numbers within names count as numbers: L0 4 before L0 32, layer 2 before layer 10."""
    return natural_order(sae.site), bool(sae.stopped), sae.control, natural_order(sae.name)
