"""Runs monitors on texts of one's own: `monosemy trace RUN FILE --monitor FILE`.

Place on the path: file of monitors, texts → readings of every SAE that a monitor names → [verdicts] → terminal, JSON.
A file of rows (.jsonl, .csv, .tsv with a column `text`) is judged row by row. Of a chat, its messages' tokens count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.live import LiveModel, read_text
from monosemy.app.text_scope import JUDGED, TextScope
from monosemy.monitors.firings import Firings
from monosemy.monitors.labelled import ENDINGS, read_texts
from monosemy.monitors.monitor import Monitor, WatchedSae, read_monitors, resolved
from monosemy.saes.config_file import read_weights_sha256
from monosemy.support import json_text
from monosemy.support.numbers import activation_text, count_text, counted_text, fixed_text
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading

_UNITS = {"raw": "", "max": " of its maximum", "probability": ""}


def watched_sae(entry: Dictionary) -> WatchedSae:
    """What monitors must know of an SAE of a run."""

    def maximum(latent: int) -> float | None:
        measured = entry.steering_max(latent)
        return None if measured is None else measured[0]

    return WatchedSae(entry.saved.label, entry.d_sae, read_weights_sha256(entry.folder), maximum)


def monitors_of(catalogue: Catalogue, first: Dictionary, paths: Sequence[Path]) -> list[Monitor]:
    """The monitors of some files, checked against the run's SAEs. One that names no SAE reads `first`."""
    read = [monitor for path in paths for monitor in read_monitors(path)]
    entries = [first, *(entry for entry in catalogue.saes() if entry is not first)]
    labels = {monitor.sae for monitor in read}
    named = [entry for entry in entries if entry is first or entry.saved.label in labels]
    return resolved(read, [watched_sae(entry) for entry in named or entries])


def firings_of(reading: Reading) -> Firings:
    """What fires in a text; of a chat, in its messages."""
    is_read = reading.is_read
    if reading.roles:
        is_read = is_read & np.array([bool(role) for role in reading.roles])
    own = is_read[reading.position]
    return Firings(
        reading.position[own],
        reading.latent[own],
        reading.value[own],
        int(is_read.sum()),
        n_dropped=reading.n_dropped,
    )


def judged(
    live: LiveModel, monitors: Sequence[Monitor], text: str, *, chat: bool, shows_progress: bool = False
) -> list[dict[str, Any]]:
    """What every monitor says of a whole text, as `serve` answers it. Raises UserError as `read_text` does."""
    readings = {}
    for label in dict.fromkeys(monitor.sae for monitor in monitors):
        scope = _scope([monitor for monitor in monitors if monitor.sae == label], shows_progress)
        readings[label] = read_text(live, live.catalogue.sae_of(label), text, chat=chat, scope=scope)
    firings = {label: firings_of(reading) for label, reading in readings.items()}
    return [monitor.verdict(firings[monitor.sae]).to_json(readings[monitor.sae].pieces) for monitor in monitors]


def _scope(monitors: Sequence[Monitor], shows_progress: bool) -> TextScope:
    """How a text is read for these monitors: all of it, and of the codes only the latents that they name."""
    latents = sorted({latent for monitor in monitors for latent in monitor.latents})
    return replace(JUDGED, latents=latents, shows_progress=shows_progress)


def texts_of(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """(name, text) of everything in a file: its rows, or the text itself."""
    if path.suffix.lower() in ENDINGS:
        for number, row in read_texts(path, "text", most_characters=JUDGED.most_characters):
            yield f"row {number}", row
    else:
        yield str(path), text


def print_verdicts(name: str, verdicts: Sequence[dict[str, Any]], *, as_json: bool, only_flagged: bool) -> None:
    """Prints what the monitors say of one text."""
    flagged = [verdict["name"] for verdict in verdicts if verdict["flagged"]]
    if as_json:
        print(json_text.dumps({"source": name, "flags": flagged, "monitors": list(verdicts)}))
        return
    for verdict in verdicts:
        if verdict["flagged"] or not only_flagged:
            print(f"{visible(name)}: {_sentence(verdict)}")


def _sentence(verdict: dict[str, Any]) -> str:
    text = activation_text if verdict["kind"] == "latent" else (lambda value: fixed_text(value, 3))
    sign, word = ("≥", "flagged") if verdict["flagged"] else ("<", "not flagged")
    place = ""
    if verdict["position"] is not None:
        place = (
            f"; latent {verdict['latent']} strongest at token {verdict['position']} «{visible(verdict['token'] or '')}»"
        )
    many = f", on {count_text(verdict['n_tokens'])} tokens" if verdict["n_tokens"] else ""
    unit = _UNITS[verdict["unit"]]
    unread = f"; the last {counted_text(verdict['n_dropped'], 'token')} were not read" if verdict["n_dropped"] else ""
    return (
        f"{word} by {verdict['name']}: {text(verdict['score'])} {sign} {text(verdict['threshold'])}{unit}{many}{place}"
        f"{unread}"
    )
