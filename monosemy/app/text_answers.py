"""Answers about the user's own text: one text, two texts side by side, and the evidence as a file.

Place on the path: requests → live model → `Reading` → [answers] → page. Labels of all latents come from one query.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from monosemy import __version__
from monosemy.app.catalogue import Dictionary
from monosemy.app.evidence import Evidence, written
from monosemy.app.lists import at
from monosemy.app.live import MAX_TOP, LiveModel, read_text
from monosemy.app.schema import DifferenceBody, EvidenceBody, TextBody
from monosemy.support.numbers import count_text

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading

MOST_DIFFERENCES = 200


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
    return difference_of(sae, first, second)


def difference_of(sae: Dictionary, first: Reading, second: Reading) -> dict[str, Any]:
    """The latents in which two readings differ (`schema.TextDifference`), the largest difference first.

    A latent's difference is that of the logarithms of N where it is rarest in each text, 0 for a text in which it is
    silent; without features, that of its largest values as shares of its maximum.
    """
    sides = [{row["latent"]: row for row in reading.summary()} for reading in (first, second)]
    differences = {i: _difference(sae, i, sides[0].get(i), sides[1].get(i)) for i in {**sides[0], **sides[1]}}
    ranked = sorted(differences, key=lambda i: (-abs(differences[i]), i))[:MOST_DIFFERENCES]
    return {
        "rows": [
            {"latent": i, "label": label, "first": _side(sides[0].get(i)), "second": _side(sides[1].get(i))}
            for i, label in zip(ranked, sae.labels(ranked), strict=True)
        ],
        "n_first": len(sides[0].keys() - sides[1].keys()),
        "n_second": len(sides[1].keys() - sides[0].keys()),
        "n_both": len(sides[0].keys() & sides[1].keys()),
    }


def _side(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {key: row[key] for key in ("value", "one_in", "n_tokens")}


def _difference(sae: Dictionary, latent: int, first: dict[str, Any] | None, second: dict[str, Any] | None) -> float:
    def height(row: dict[str, Any] | None) -> float:
        if row is None:
            return 0.0
        if row["one_in"]:
            return math.log(row["one_in"])
        return float(row["value"]) / (at(sae.columns, "max", latent) or float(row["value"]))

    return height(first) - height(second)


def evidence_file(live: LiveModel, sae: Dictionary, body: EvidenceBody) -> str:
    """A text's evidence as a file. Raises UserError for an unknown format, and as `live.read_text` does."""
    return written(evidence(live, sae, read_text(live, sae, body.text, chat=body.chat)), body.format)


def evidence(live: LiveModel, sae: Dictionary, reading: Reading) -> Evidence:
    """A reading with labels and where it comes from."""
    latents = sorted(set(reading.latent.tolist()))
    about = {
        "Run": live.catalogue.folder.resolve().name,
        "Model": live.name,
        "SAE": f"{sae.site}/{sae.name}",
        "Tokens of the text": count_text(len(reading.pieces)),
        "Left out at its end": count_text(reading.n_dropped),
        "Rarities counted on": f"{count_text(sae.n_tokens)} tokens"
        if sae.database is not None and sae.n_tokens
        else "no features",
        "Written by": f"monosemy {__version__}",
    }
    return Evidence(reading, dict(zip(latents, sae.labels(latents), strict=True)), about)
