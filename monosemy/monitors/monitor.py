"""Monitors: what flags a text, by a latent's activation or by a probe's score, and the file that lists them.

Place on the path: file → [monitors] → verdicts on the firings of a text → `monosemy serve`, `monosemy trace --monitor`.

    {"format": "monosemy-monitor", "version": 1, "sae": "layers.12.resid_post/jumprelu-l0_32-s0", "monitors": [
      {"name": "months", "latent": 12, "threshold": 0.5, "unit": "max"},
      {"name": "angry", "probe": "angry.probe.json"}]}

A latent flags a text on one of whose tokens it is at least as active as its threshold, in raw units or in multiples of
its maximum on ordinary text; a probe, one to which it gives at least its threshold. A probe's own file stands for one
monitor. Paths of probes are relative to the file that names them. Limits: files are at most 1 MB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from monosemy.config import from_json
from monosemy.errors import UserError, unknown
from monosemy.monitors.firings import Firings
from monosemy.monitors.probe import FORMAT as PROBE_FORMAT
from monosemy.monitors.probe import Probe, probe_of, require_keys

FORMAT, VERSION = "monosemy-monitor", 1
UNITS = ("raw", "max")
MAX_BYTES = 1_000_000
MAX_MONITORS = 1_000


@dataclass(frozen=True)
class _Entry:
    """One line of a monitor file."""

    name: str = ""
    latent: int | None = None
    threshold: float | None = None
    unit: str = "raw"
    probe: str = ""
    """Path of a probe's file."""
    sae: str = ""
    """`SITE/NAME`; empty: that of the file."""


@dataclass(frozen=True)
class Monitor:
    """One thing that flags a text: a latent with a threshold, or a probe."""

    name: str
    sae: str
    """`SITE/NAME`; empty: whichever SAE reads the text."""
    latent: int | None = None
    threshold: float = 0.0
    unit: str = "raw"
    """raw or max of a latent's threshold; a probe's score has none."""
    probe: Probe | None = None
    maximum: float = 1.0
    """The raw activation that the unit multiplies."""

    @property
    def latents(self) -> list[int]:
        """The latents that it reads."""
        if self.probe is not None:
            return [entry.latent for entry in self.probe.weights]
        assert self.latent is not None
        return [self.latent]

    def verdict(self, firings: Firings) -> Verdict:
        """What it says of a text."""
        if self.probe is not None:
            return self._probe_verdict(firings, self.probe)
        assert self.latent is not None
        positions, values = firings.of(self.latent)
        values = values / self.maximum
        over = values >= self.threshold
        peak = int(values.argmax()) if len(values) else None
        return Verdict(
            self.name,
            "latent",
            score=0.0 if peak is None else float(values[peak]),
            threshold=self.threshold,
            unit=self.unit,
            flagged=bool(over.any()),
            latent=self.latent,
            position=None if peak is None else int(positions[peak]),
            n_tokens=int(over.sum()),
            n_dropped=firings.n_dropped,
        )

    def _probe_verdict(self, firings: Firings, probe: Probe) -> Verdict:
        contributions = probe.contributions(firings)
        latent = max(contributions, key=lambda number: contributions[number])
        positions, values = firings.of(latent)
        score = probe.score(firings)
        return Verdict(
            self.name,
            "probe",
            score=score,
            threshold=self.threshold,
            unit="probability",
            flagged=score >= self.threshold,
            latent=latent if contributions[latent] > 0 else None,
            position=int(positions[values.argmax()]) if contributions[latent] > 0 and len(values) else None,
            n_dropped=firings.n_dropped,
        )


@dataclass(frozen=True)
class Verdict:
    """What one monitor says of one text."""

    name: str
    kind: str
    """latent or probe"""
    score: float
    """The latent's largest activation, in `unit`; of a probe, its score from 0 to 1."""
    threshold: float
    unit: str
    """raw, max or probability"""
    flagged: bool
    latent: int | None = None
    """Of a probe, the latent that contributes most to its score; None where none does."""
    position: int | None = None
    """The token at which that latent is strongest, counted from the text's first; None where it is silent."""
    n_tokens: int | None = None
    """Tokens on which a latent reaches the threshold; None for a probe."""
    n_dropped: int = 0
    """Tokens at the text's end that were not read, of which the verdict says nothing."""

    def to_json(self, pieces: Sequence[str] = ()) -> dict[str, Any]:
        """Its values, with the text of the token at `position`."""
        token = pieces[self.position] if self.position is not None and self.position < len(pieces) else None
        return {**asdict(self), "token": token}


def read_monitors(path: Path) -> list[Monitor]:
    """The monitors of a file. Raises UserError, naming the file, for what is none or cannot be."""
    document = _document(path)
    if document.get("format") == PROBE_FORMAT:
        return [_of_probe(probe_of(document, path), name="", threshold=None)]
    if document.get("format") != FORMAT:
        raise UserError(
            f"{path} is no monitor file: its format is {document.get('format')!r}, not {FORMAT!r} or {PROBE_FORMAT!r}"
        )
    if document.get("version") != VERSION:
        raise UserError(f"{path} has version {document.get('version')!r} of the monitor file, this one reads {VERSION}")
    require_keys(document, ("monitors",), str(path))
    for key in document.keys() - {"format", "version", "sae", "monitors"}:
        raise unknown("setting", f"{path}: {key}", ["format", "version", "sae", "monitors"])
    entries, sae = document["monitors"], document.get("sae", "")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_MONITORS:
        raise UserError(f"{path} must list 1 to {MAX_MONITORS} monitors")
    if not isinstance(sae, str):
        raise UserError(f"the sae of {path} must be text such as SITE/NAME, got {str(sae)[:40]!r}")
    monitors = [_monitor(entry, sae, path, place=f"monitor {k} of {path}") for k, entry in enumerate(entries)]
    names = [monitor.name for monitor in monitors]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has several monitors named {name!r}; give each its own name")
    return monitors


def _document(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a monitor file or a probe's") from None
    if size > MAX_BYTES:
        raise UserError(f"{path} has {size} bytes, a monitor file at most {MAX_BYTES}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no monitor file: it is not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is no monitor file: it must hold an object, with format {FORMAT!r}")
    return document


def _monitor(values: Any, sae: str, path: Path, *, place: str) -> Monitor:
    if not isinstance(values, Mapping):
        raise UserError(f"{place} must be an object such as {{'latent': 12, 'threshold': 3}}")
    entry = from_json(_Entry, values, place)
    if (entry.latent is None) == (not entry.probe):
        raise UserError(f"{place} needs either a latent or a probe")
    if entry.probe:
        file = path.parent / Path(entry.probe).expanduser()
        probe = probe_of(_document(file), file)
        if entry.sae and entry.sae != probe.sae:
            raise UserError(f"{place} names SAE {entry.sae}, but its probe was trained on {probe.sae}; leave it out")
        return _of_probe(probe, name=entry.name, threshold=entry.threshold)
    assert entry.latent is not None
    if entry.unit not in UNITS:
        raise unknown(f"unit of {place}", entry.unit, UNITS)
    if entry.threshold is None or not (math.isfinite(entry.threshold) and entry.threshold > 0):
        raise UserError(f"{place} needs a threshold above 0, got {entry.threshold}")
    name = entry.name or f"latent {entry.latent}"
    return Monitor(name, entry.sae or sae, latent=entry.latent, threshold=entry.threshold, unit=entry.unit)


def _of_probe(probe: Probe, *, name: str, threshold: float | None) -> Monitor:
    if threshold is not None:
        probe = replace(probe, threshold=threshold)
    return Monitor(name or probe.name, probe.sae, threshold=probe.threshold, unit="probability", probe=probe)


@dataclass(frozen=True)
class WatchedSae:
    """What monitors must know of the SAE that they read."""

    label: str
    """`SITE/NAME`."""
    d_sae: int
    sha256: str
    """Of its weights."""
    maximum: Callable[[int], float | None]
    """A latent's maximum on ordinary text; None where it is not known."""


def resolved(monitors: Iterable[Monitor], saes: Sequence[WatchedSae]) -> list[Monitor]:
    """The monitors with the label of their SAE and the size of their unit.

    A monitor that names no SAE reads the first. Raises UserError for an SAE that is not there or has other weights than
    a probe was trained on, a latent that it lacks, and unit max of a latent without a maximum.
    """
    return [_resolved(monitor, saes) for monitor in monitors]


def _resolved(monitor: Monitor, saes: Sequence[WatchedSae]) -> Monitor:
    sae = next((sae for sae in saes if monitor.sae in ("", sae.label)), None)
    if sae is None:
        raise unknown(f"SAE of monitor {monitor.name!r}", monitor.sae, [sae.label for sae in saes], fix="give --sae")
    if monitor.probe is not None and monitor.probe.sae_sha256 not in ("", sae.sha256):
        raise UserError(
            f"probe {monitor.name!r} was trained on other weights of {sae.label} than those now there; train it again"
        )
    for latent in monitor.latents:
        if not 0 <= latent < sae.d_sae:
            raise UserError(
                f"monitor {monitor.name!r} reads latent {latent}, but {sae.label} has latents 0 to {sae.d_sae - 1}"
            )
    if monitor.probe is not None or monitor.unit == "raw":
        return replace(monitor, sae=sae.label)
    assert monitor.latent is not None
    maximum = sae.maximum(monitor.latent)
    if not maximum:
        raise UserError(
            f"monitor {monitor.name!r} counts in multiples of the maximum of latent {monitor.latent}, which has none: "
            "evaluate the run or build its features, or use unit raw"
        )
    return replace(monitor, sae=sae.label, maximum=maximum)
