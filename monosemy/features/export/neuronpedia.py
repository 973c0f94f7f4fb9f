"""Exports features for Neuronpedia's bulk importer or its upload call: `monosemy export-neuronpedia RUN`.

Place on the data's path: the way out to a shared site. Nothing is sent; files are written in one of two layouts:

    bulk     OUT/<model>/<layer>-<set>/{release,model,sourceset,source}.jsonl
             …/features/batch-N.jsonl.gz, activations/batch-N.jsonl.gz, explanations/batch-N.jsonl.gz
             (batch N holds the same 1,024 latents in all three)
    upload   OUT/batch-N.json: {"modelId", "source", "features": up to 128}, the body of POST /api/feature/upload-batch

The bulk importer inserts the columns that the *first* line of a file names, so all lines of a file have the same keys.
`index` is text there. The importer makes no ids, so they are given, and derived from what they name: importing twice
changes nothing. Source: Neuronpedia's schema.prisma and lib/db/import.ts, and the request class of its Python client,
neuronpedia 1.2.

The fields hold:
    frac_nonzero                the firing rate
    freq_hist_data_*            counts of positive activations, and the middles of their bins
    neuron_alignment_*          the largest weights of the decoder vector by size, and their shares of its L1 norm
    topkCosSim*                 nearest decoder directions
    correlated_features_*       correlation of *firing* (not of activations)
    bin*                        the fifths of firing windows by peak
correlated_neurons_*, logits_hist_data_* and correlated_features_l1 are empty because they are not measured. Only
contexts in which the latent fires are exported, with activations in the precision of 8 bits (`activation_codes`).
`typeName` and `explanationModelName` of explanations are null, because the importer refuses names that its own tables
lack; `notes` say how a label was made. Tokens are the exact text, except that lone surrogates and NUL, which UTF-8 or
the site's database can't hold, are replaced by signs (`visible.storable`).
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.errors import UserError
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.excerpt import FIRING_GROUPS, Excerpt, by_group, excerpt
from monosemy.features.view.facts import explanation, fired, score_text, scores, value_of
from monosemy.features.view.selection import Place, new_folder, place_of, require_text
from monosemy.support import files
from monosemy.support.numbers import five_digits
from monosemy.support.progress import stage
from monosemy.support.visible import json_line, storable

BATCH = 1024
"""Latents per bulk file, as in Neuronpedia's own exports."""
UPLOAD_BATCH, UPLOAD_LOGITS = 128, 20
"""The largest numbers of features, and of output tokens per feature, that the upload call takes."""
CONTEXT = 64
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user id that public converters use; a Neuronpedia database made from its own seed data contains it."""
N_ALIGNED = 3


@dataclass(frozen=True)
class Names:
    """The names that the export has on the site."""

    model: str
    source_set: str
    source: str
    place: Place
    _: KW_ONLY
    creator: str


def export_neuronpedia(
    database: FeatureDatabase,
    out: Path,
    latents: Sequence[int] | None = None,
    *,
    layout: str = "bulk",
    context: int = CONTEXT,
    model: str | None = None,
    source_set: str | None = None,
    creator: str = CREATOR,
) -> Path:
    """Writes the new folder `out`; returns the folder to import (bulk) or `out` itself (upload).

    `latents` None means all. `context` is the number of tokens of an example, with the peak two thirds of the way in.
    `model` and `source_set` are names on the site; without them, they are derived from the run. Raises UserError for a
    name that the site would refuse, an unknown layout, or an `out` that is not new or empty.
    """
    if layout not in ("bulk", "upload"):
        raise UserError(f"--layout {layout!r} is unknown; choose bulk (importer) or upload (its upload call)")
    out, names = new_folder(out), names_for(database.info, model, source_set, creator)
    numbers = list(range(database.n_latents) if latents is None else latents)
    with files.atomic_folder(out) as folder, stage("export", total=len(numbers), unit="latents") as bar:
        target = folder / names.model / names.source if layout == "bulk" else folder
        if layout == "bulk":
            _write_heads(database.info, names, target)
        # file by file, so that memory holds one batch of latents
        size = BATCH if layout == "bulk" else UPLOAD_BATCH
        for number, start in enumerate(range(0, len(numbers), size)):
            part = numbers[start : start + size]
            if layout == "bulk":
                _write_bulk(database, names, part, target, number=number, context=context)
            else:
                body = {
                    "modelId": names.model,
                    "source": names.source,
                    "features": [_upload(database, latent, context) for latent in part],
                }
                (folder / f"batch-{number}.json").write_text(json_line(body), encoding="utf-8")
            bar.advance(len(part))
    return out / names.model / names.source if layout == "bulk" else out


def names_for(info: dict[str, Any], model: str | None, source_set: str | None, creator: str) -> Names:
    """The names on the site, of letters, digits, `-` and `_`; the source is named `<layer>-<set>`.

    Raises UserError for a given name with other characters.
    """
    require_text(info, "Neuronpedia's format")
    place = place_of(info["site"], post_norms=bool(info["model"]["post_norms"]))
    model = model or _slug(str(info["model"]["name"]).rsplit("/", 1)[-1])
    source_set = source_set or f"{place.short}-{_slug(str(info['name']))}"
    for flag, name in (("--model-id", model), ("--source-set", source_set)):
        if not re.fullmatch(r"[a-zA-Z0-9-_]+", name):
            raise UserError(f"{flag} {name!r} may hold letters, digits, '-' and '_' only")
    return Names(model, source_set, f"{place.layer}-{source_set}", place, creator=creator)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")


# ---- bulk


def _write_heads(info: dict[str, Any], names: Names, folder: Path) -> None:
    """Writes the four files for release, model, set and source, with no columns but those of the site's tables."""
    folder.mkdir(parents=True)
    common = {"creatorId": names.creator, "createdAt": info["created"], "visibility": "PUBLIC"}
    described = f"{info['architecture']} SAE {info['name']} at {info['site']}, trained with monosemy"
    release = f"monosemy-{names.model}-{names.source_set}"
    rows: dict[str, dict[str, Any]] = {
        "release": {
            "name": release,
            "description": described,
            "descriptionShort": described,
            "creatorName": "monosemy",
        },
        "model": {
            "id": names.model,
            "displayName": str(info["model"]["name"]),
            "displayNameShort": str(info["model"]["name"]),
            "layers": int(info["model"]["n_layers"]),
            "neuronsPerLayer": 0,
            "owner": "",
        },
        "sourceset": {
            "modelId": names.model,
            "name": names.source_set,
            "description": described,
            "type": names.place.short,
            "creatorName": "monosemy",
            "releaseName": release,
        },
        "source": {
            "id": names.source,
            "modelId": names.model,
            "setName": names.source_set,
            "num_prompts": int(info["n_contexts"]),
            "num_tokens_in_prompt": int(info["context_length"]),
            "notes": f"{info['n_tokens']} tokens; weights SHA-256 {info['sae_sha256']}; activations were kept in "
            f"{info['example_activations']}",
        },
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(json_line(row | common) + "\n", encoding="utf-8")


def _write_bulk(
    database: FeatureDatabase, names: Names, latents: Sequence[int], folder: Path, *, number: int, context: int
) -> None:
    """Writes one batch of latents: a file each of features, activations and explanations."""
    rows: dict[str, list[str]] = {"features": [], "activations": [], "explanations": []}
    for latent in latents:
        rows["features"].append(json_line(_feature(database, names, latent)))
        rows["activations"] += map(json_line, _activations(database, names, latent, context))
        rows["explanations"] += map(json_line, _explanations(database, names, latent))
    for kind, lines in rows.items():
        (folder / kind).mkdir(exist_ok=True)
        if lines:  # the importer fails on an empty file
            # mtime 0: the same features give the same bytes
            data = "".join(f"{line}\n" for line in lines).encode()
            (folder / kind / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(data, compresslevel=5, mtime=0))


def _feature(database: FeatureDatabase, names: Names, latent: int) -> dict[str, Any]:
    """The latent's row of the site's table of features."""
    raised, lowered = database.output_tokens(latent)
    near = database.neighbours(latent)
    edges, counts = database.histogram(latent)
    heights, middles = _bars(edges, counts) if fired(database, latent) else ([], [])
    # stable sort of the sizes, so that equal weights are listed in the order of their dimensions
    vector = np.asarray(database.decoder_vector(latent), np.float64)
    sizes = np.abs(vector)
    aligned = np.argsort(-sizes, kind="stable")[:N_ALIGNED]
    maximum = value_of(database.columns, "max", latent) or 0.0
    return {
        "modelId": names.model,
        "layer": names.source,
        "index": str(latent),
        "creatorId": names.creator,
        "createdAt": database.info["created"],
        "maxActApprox": five_digits(maximum),
        "hasVector": True,
        "vector": [five_digits(float(v)) for v in vector],
        "vectorDefaultSteerStrength": five_digits(maximum),
        "hookName": names.place.hook,
        "topkCosSimIndices": [int(other) for other, _ in near["decoder"]],
        "topkCosSimValues": [five_digits(float(v)) for _, v in near["decoder"]],
        "neuron_alignment_indices": [int(i) for i in aligned],
        "neuron_alignment_values": [five_digits(float(vector[i])) for i in aligned],
        "neuron_alignment_l1": [five_digits(float(sizes[i] / sizes.sum())) for i in aligned] if sizes.any() else [],
        "correlated_neurons_indices": [],
        "correlated_neurons_pearson": [],
        "correlated_neurons_l1": [],
        "correlated_features_indices": [int(other) for other, _ in near["coactivation"]],
        "correlated_features_pearson": [five_digits(float(v)) for _, v in near["coactivation"]],
        "correlated_features_l1": [],
        "neg_str": [storable(database.tokens.text(token)) for token, _ in lowered],
        "neg_values": [five_digits(float(v)) for _, v in lowered],
        "pos_str": [storable(database.tokens.text(token)) for token, _ in raised],
        "pos_values": [five_digits(float(v)) for _, v in raised],
        "frac_nonzero": five_digits(value_of(database.columns, "firing_rate", latent) or 0.0),
        "freq_hist_data_bar_heights": heights,
        "freq_hist_data_bar_values": middles,
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "sourceSetName": names.source_set,
    }


def _activations(database: FeatureDatabase, names: Names, latent: int, context: int) -> list[dict[str, Any]]:
    """The rows of the site's table of activations, one per example."""
    rows = []
    for number, (passage, bin_) in enumerate(_examples(database, latent, context)):
        rows.append(
            {
                "id": _identity("activation", names, latent, number, content=database.info["sae_sha256"]),
                "modelId": names.model,
                "layer": names.source,
                "index": str(latent),
                "creatorId": names.creator,
                "createdAt": database.info["created"],
                "tokens": [storable(piece) for piece in passage.pieces],
                "values": [five_digits(value) for value in passage.activations],
                "maxValue": five_digits(max(passage.activations)),
                "maxValueTokenIndex": int(np.argmax(passage.activations)),
                "minValue": five_digits(min(passage.activations)),
                "dataIndex": str(passage.context),
                "dataSource": passage.source or None,
                "binMin": -1.0 if bin_ is None else bin_[0],
                "binMax": 99.0 if bin_ is None else bin_[1],
                "binContains": -1.0 if bin_ is None else 0.2,
                "qualifyingTokenIndex": passage.peak,
            }
        )
    return rows


def _explanations(database: FeatureDatabase, names: Names, latent: int) -> list[dict[str, Any]]:
    """The rows of the site's table of explanations: the label, and a chat model's explanation if there is one."""
    return [
        {
            "id": _identity(f"explanation {kind}", names, latent, 0, content=text),
            "modelId": names.model,
            "layer": names.source,
            "index": str(latent),
            "authorId": names.creator,
            "description": text,
            "typeName": None,
            "explanationModelName": None,
            "notes": notes,
        }
        for kind, text, notes in _texts(database, latent)
    ]


def _texts(database: FeatureDatabase, latent: int) -> list[tuple[str, str, str]]:
    """(kind, text, how it was made) of a latent's label and of its explanation, as far as they exist."""
    label = database.label(latent)
    texts = []
    if label.get("text"):
        measured = "; ".join(f"AUROC {score_text(score)} from {score.way}" for score in scores(database, latent))
        texts.append(
            ("label", str(label["text"]), f"from token statistics, no language model; {measured or 'unscored'}")
        )
    if chat_text := explanation(label):
        texts.append(("chat", chat_text, "by a chat model"))
    return texts


# ---- upload


def _upload(database: FeatureDatabase, latent: int, context: int) -> dict[str, Any]:
    """A latent as the upload call takes it."""

    def logits(tokens: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
        return [
            {"token": storable(database.tokens.text(i)), "value": five_digits(float(v))}
            for i, v in tokens[:UPLOAD_LOGITS]
        ]

    raised, lowered = database.output_tokens(latent)
    return {
        "index": latent,
        "density": five_digits(value_of(database.columns, "firing_rate", latent) or 0.0),
        "topLogits": logits(raised),
        "bottomLogits": logits(lowered),
        "explanations": [
            {"text": text, "methodName": None, "modelName": None} for _, text, _ in _texts(database, latent)
        ],
        "activations": [
            {
                "tokens": [storable(piece) for piece in passage.pieces],
                "values": [five_digits(value) for value in passage.activations],
                "quantileMin": None if bin_ is None else bin_[0],
                "quantileMax": None if bin_ is None else bin_[1],
                "quantileFraction": None if bin_ is None else 0.2,
            }
            for passage, bin_ in _examples(database, latent, context)
        ],
    }


# ---- both


def _examples(
    database: FeatureDatabase, latent: int, context: int
) -> Iterator[tuple[Excerpt, tuple[float, float] | None]]:
    """The contexts in which the latent fires, each with the range of peaks in its fifth.

    The range is that of the stored examples; it is None for the strongest contexts, which belong to no fifth.
    """
    before = 2 * context // 3
    for group, examples in by_group(database, latent, FIRING_GROUPS).items():
        peaks = [float(example.value) for example in examples]
        for example in examples:
            bin_ = None if group == "top" else (five_digits(min(peaks)), five_digits(max(peaks)))
            yield excerpt(database, example, before, context - before - 1), bin_


def _bars(edges: np.ndarray, counts: np.ndarray) -> tuple[list[float], list[float]]:
    middles = (np.asarray(edges[:-1], np.float64) + np.asarray(edges[1:], np.float64)) / 2
    return [float(count) for count in counts], [five_digits(float(middle)) for middle in middles]


def _identity(kind: str, names: Names, latent: int, number: int, *, content: str) -> str:
    """A row's id: 25 letters and digits that begin with c, like the site's own ids; equal rows get equal ids."""
    text = "\0".join((kind, names.model, names.source, str(latent), str(number), content))
    return "c" + hashlib.sha256(text.encode()).hexdigest()[:24]
