"""Answers about the user's own text: one text, two texts side by side, and the evidence as a file.

Place on the path: requests → live model → `Reading` → [answers] → page. Labels of all latents come from one query.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from monosemy import __version__
from monosemy.app.catalogue import Dictionary
from monosemy.app.differences import SIDES, TextDifferences, difference_answer, differences, written_differences
from monosemy.app.evidence import Evidence, written
from monosemy.app.live import MAX_TOP, LiveModel, read_text
from monosemy.app.schema import DifferenceBody, EvidenceBody, TextBody
from monosemy.support.numbers import count_text

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading


def text_result(live: LiveModel, sae: Dictionary, body: TextBody) -> dict[str, Any]:
    """The code of a text (`schema.TextResult`). Blocks. Raises UserError as `live.read_text` does."""
    from monosemy.app.own_text import SUMMARY

    if body.latent is not None:
        sae.check_latent(body.latent)
    reading = read_text(live, sae, body.text, chat=body.chat)
    tops, summary = reading.tops(min(max(body.top, 1), MAX_TOP)), reading.summary()[:SUMMARY]
    firing = [entry for entries in (*tops, summary) for entry in entries]
    for entry, label in zip(firing, sae.labels([entry["latent"] for entry in firing]), strict=True):
        entry["label"] = label
    return {
        "tokens": reading.pieces,
        "special": reading.special,
        "roles": reading.roles,
        "top": tops,
        "summary": summary,
        "trace": None if body.latent is None else reading.trace(body.latent),
        "l0": reading.l0(),
        "n_dropped": reading.n_dropped,
        "n_windows": reading.n_windows,
    }


def text_difference(live: LiveModel, sae: Dictionary, body: DifferenceBody) -> dict[str, Any]:
    """The latents in which two texts differ (`schema.TextDifference`). Raises UserError as `live.read_text` does."""
    first, second = (read_text(live, sae, text, chat=body.chat) for text in (body.text, body.other))
    return difference_answer(differences(sae, first, second))


def evidence_file(live: LiveModel, sae: Dictionary, body: EvidenceBody) -> str:
    """A text's evidence, or what differs between two, as a file.

    Raises UserError for an unknown format, and as `live.read_text` does.
    """
    reading = read_text(live, sae, body.text, chat=body.chat)
    if body.other is None:
        return written(evidence(live, sae, reading), body.format)
    other = read_text(live, sae, body.other, chat=body.chat)
    return difference_file(live, sae, differences(sae, reading, other), kind=body.format)


def evidence(live: LiveModel, sae: Dictionary, reading: Reading) -> Evidence:
    """A reading with labels and where it comes from."""
    latents = sorted(set(reading.latent.tolist()))
    about = _about(live, sae, {"the text": reading})
    return Evidence(reading, dict(zip(latents, sae.labels(latents), strict=True)), about)


def difference_file(live: LiveModel, sae: Dictionary, texts: TextDifferences, *, kind: str) -> str:
    """What differs between two texts, as a file. Raises UserError for an unknown format."""
    about = _about(live, sae, {f"the {side} text": of for side, of in zip(SIDES, texts.readings, strict=True)})
    return written_differences(texts, about, kind)


def _about(live: LiveModel, sae: Dictionary, readings: Mapping[str, Reading]) -> dict[str, str]:
    """Where a file comes from, for people."""
    facts = {"Run": live.catalogue.folder.resolve().name, "Model": live.name, "SAE": f"{sae.site}/{sae.name}"}
    for name, reading in readings.items():
        facts[f"Tokens of {name}"] = count_text(len(reading.pieces))
        facts[f"Left out at the end of {name}"] = count_text(reading.n_dropped)
    facts["Rarities counted on"] = (
        f"{count_text(sae.n_tokens)} tokens" if sae.database is not None and sae.n_tokens else "no features"
    )
    return facts | {"Written by": f"monosemy {__version__}"}
