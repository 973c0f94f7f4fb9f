"""Exports features in the format of circuit-tracer's frontend: `monosemy export-circuit-tracer RUN`.

Place on the data's path: the way out to attribution graphs. Each latent is written as the JSON that circuit-tracer 0.5
declares in frontend/feature_models.py, in one of the two forms that its frontend loads:

    features/index.json.gz    {"<layer>": {"filename", "offsets" [d_sae + 1]}}
    features/layer_<n>.bin    per latent 4 bytes of length (little-endian), then gzip of the JSON
    <number>.json             when latents are named: number is the Cantor pairing of layer and latent, the frontend's
                              node id; serve them from any address (feature_json_base_url of a graph's metadata)

Characters split over several tokens are whole again. Line breaks and tabs become the signs ⏎ → ↵ that circuit-tracer
uses, lone surrogates and NUL those of `visible.storable`.
Limits: `transcoder_id` names this SAE, but attribution graphs need transcoders, so the features of a residual-stream
SAE can be viewed but not attributed to. Logit effects lack their values, for which the format has no field. Activations
of examples have the precision of 8 bits each (`activation_codes`).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import FIRING_GROUPS, by_group, excerpt
from monosemy.features.view.facts import value_of
from monosemy.features.view.selection import new_folder, place_of, require_text
from monosemy.support import files
from monosemy.support.numbers import five_digits
from monosemy.support.progress import stage
from monosemy.support.visible import json_line, storable

QUANTILE_NAMES = {
    "top": "Top activations",
    "q4": "Subsample interval 0 (strongest fifth)",
    "q3": "Subsample interval 1",
    "q2": "Subsample interval 2",
    "q1": "Subsample interval 3",
    "q0": "Subsample interval 4 (weakest fifth)",
}
CONTEXT = 32
"""Tokens of an example around its peak, as many as in public feature files."""


def export_circuit_tracer(
    database: FeatureDatabase, out: Path, latents: Sequence[int] | None = None, *, context: int = CONTEXT
) -> Path:
    """Writes the new folder `out` and returns it: all latents packed (`latents` None), or one JSON file per named one.

    `context` is the number of tokens of an example, with the peak two thirds of the way in. Raises UserError if `out`
    exists and is not an empty folder, and for a site without a layer number.
    """
    require_text(database.info, "circuit-tracer's format")
    out, layer = new_folder(out), place_of(database.info["site"]).layer
    with files.atomic_folder(out) as folder:
        if latents is None:
            _packed(database, folder / "features", layer, context)
        else:
            for latent in latents:
                path = folder / f"{cantor(layer, latent)}.json"
                path.write_bytes(json_line(feature(database, latent, context)).encode())
    return out


def cantor(layer: int, latent: int) -> int:
    """Cantor's pairing (x + y)(x + y + 1) / 2 + y, by which circuit-tracer numbers latent y of layer x."""
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def feature(database: FeatureDatabase, latent: int, context: int = CONTEXT) -> dict[str, Any]:
    """A latent as a JSON object of circuit-tracer; one that never fired has no examples, and zeros for its range."""
    _, counts = database.histogram(latent)
    _, values = database.quantiles(latent)
    raised, lowered = database.output_tokens(latent)
    maximum = value_of(database.columns, "max", latent) or 0.0
    info = database.info
    return {
        "transcoder_id": f"{info['model']['name']}/{info['site']}/{info['name']}",
        "index": latent,
        "layer": place_of(info["site"]).layer,
        "examples_quantiles": _quantiles(database, latent, context),
        "top_logits": [with_signs(database.tokens.text(token)) for token, _ in raised],
        "bottom_logits": [with_signs(database.tokens.text(token)) for token, _ in lowered],
        "act_min": 0.0,
        "act_max": five_digits(maximum),
        # v == v leaves out NaN, which JSON cannot hold
        "quantile_values": [five_digits(float(v)) for v in values if v == v],
        "histogram": [float(count) for count in counts],
        "activation_frequency": five_digits(value_of(database.columns, "firing_rate", latent) or 0.0),
    }


def _quantiles(database: FeatureDatabase, latent: int, context: int) -> list[dict[str, Any]]:
    """The latent's examples by group; one that an earlier group already had is marked as repeated."""
    written_places: set[tuple[int, int]] = set()
    before = 2 * context // 3
    quantiles = []
    for group, group_examples in by_group(database, latent, FIRING_GROUPS).items():
        examples = []
        for example in group_examples:
            passage = excerpt(database, example, before, context - before - 1)
            place = (int(example.context), int(example.peak))
            examples.append(
                {
                    "tokens": [with_signs(piece) for piece in passage.pieces],
                    "tokens_acts_list": [five_digits(value) for value in passage.activations],
                    "train_token_ind": passage.peak,
                    "is_repeated_datapoint": place in written_places,
                }
            )
            written_places.add(place)
        quantiles.append({"quantile_name": QUANTILE_NAMES[group], "examples": examples})
    return quantiles


def _packed(database: FeatureDatabase, folder: Path, layer: int, context: int) -> None:
    """Writes all latents to one file, and an index of the offsets at which their records begin."""
    folder.mkdir(parents=True)
    n = database.n_latents
    name = f"layer_{layer}.bin"
    offsets = [0]
    with stage("export", total=n, unit="latents") as bar, (folder / name).open("wb") as file:
        for latent in range(n):
            _write_record(file, feature(database, latent, context))
            offsets.append(file.tell())
            bar.advance()
    # one offset more than there are latents: each record ends where the next begins
    index = {str(layer): {"filename": name, "offsets": offsets}}
    (folder / "index.json.gz").write_bytes(gzip.compress(json_line(index).encode(), mtime=0))


def _write_record(file: BinaryIO, document: dict[str, Any]) -> None:
    packed = gzip.compress(json_line(document).encode(), mtime=0)  # no time stamp: the same features, the same bytes
    file.write(struct.pack("<I", len(packed)) + packed)


def with_signs(text: str) -> str:
    """A token's text with visible line breaks and tabs, as circuit-tracer's frontend shows them."""
    return storable(text).replace("\n", "⏎").replace("\t", "→").replace("\r", "↵")
