"""Builds the feature database of one SAE from its finished codes.

Place on the path: codes and hidden means (`encode_pass`), decoder, unembedding → [aggregation, neighbours, logit
effects, examples, labels] → `write`. All statistics are exact over the tokens of the pass. Examples of each fifth,
negatives and samples for labels are drawn at random from a fixed seed, so the same codes give the same bytes.

Cost beyond the model's pass: one sort of all firings, Σ L0² additions (co-activation), 2·d_sae²·d_in operations
(neighbours), 2·d_sae·V·d_in operations (output tokens), labels. Memory: `ENTRIES_AT_ONCE` firings, and about 4 KB per
latent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int, Int32, Int64, Shaped
from numpy import ndarray

from monosemy.features.building.by_latent import Firings, Text, blocks, summarise
from monosemy.features.building.coactivation import coactivation, sketches
from monosemy.features.building.contexts import Examples, gather_examples
from monosemy.features.building.encode_pass import Codes
from monosemy.features.building.label_inputs import background_firings, draw_background, sampled_peaks
from monosemy.features.building.logit_effects import OutputMap, top_effects
from monosemy.features.building.neighbours import decoder_neighbours
from monosemy.features.building.row_index import row_index
from monosemy.features.labels.inputs import LabelInputs
from monosemy.features.labels.labelling import Labels, label_latents
from monosemy.features.labels.token_embedding import TokenEmbedding, peak_likeness
from monosemy.features.store.activation_codes import KEPT_IN
from monosemy.features.store.settings import FORMAT, FeatureSettings
from monosemy.features.store.token_texts import packed
from monosemy.features.store.write import write_database
from monosemy.shapes import DecoderMatrix

Arrays = dict[str, Shaped[ndarray, " ..."]]
COLUMN_HELP = {
    "n_fired": "tokens on which the latent fires",
    "firing_rate": "share of the encoded tokens on which it fires",
    "mean": "mean activation where it fires, raw",
    "min": "smallest activation where it fires, raw",
    "max": "largest activation, raw; 0 for a latent that never fires",
    "first_share": "share of its firings on the first token of a document",
    "last_share": "share of its firings on the last token of a document",
    "mean_position": "mean position of its firings in the context, in tokens from 0",
    "token_entropy": "entropy of the tokens it fires on, in bits: 0 for a single token",
    "peak_likeness": "how alike the tokens at its peaks are in the model's embedding: mean cosine; none for one",
    "n_windows": "windows in which it fires",
    "top_cosine": "cosine of its decoder direction with the nearest other one",
    "top_coactivation": "highest correlation of its firing with another latent's",
    "top_logit": "how much it raises the output token it raises most, in logits per unit of activation",
}
_OWN = frozenset(COLUMN_HELP)
_READERS = {
    "label": "the label's tokens",
    "hidden": "the model's mean hidden state at the SAE's own site",
    "combined": "the label's tokens and the hidden state together",
    "top_token": "the token most frequent at its peaks alone (the trivial rule)",
    "embedding": "a sentence-embedding model",
}
COLUMN_HELP |= {
    f"{reader}_auroc": f"how well {means} tells firing from silent windows of held-out documents: AUROC, 0.5 is chance"
    for reader, means in _READERS.items()
}
COLUMN_HELP |= {f"{r}_auroc_strong": f"the same for {m}, on the strongest quarter alone" for r, m in _READERS.items()}
COLUMN_HELP |= {
    f"{reader}_auroc_{end}": f"{end} end of the 95% interval of {reader}_auroc"
    for reader in _READERS
    for end in ("low", "high")
}
COLUMN_HELP |= {
    "label_n": "held-out firing windows behind the scores",
    "label_n_negative": "held-out silent windows behind the scores",
    "label_n_documents": "held-out documents that the firing windows are of; the intervals count these",
    "label_n_negative_documents": "held-out documents that the silent windows are of; the intervals count these",
}
_OF_TEXT = ("first_share", "last_share", "mean_position", "token_entropy", "peak_likeness", "n_windows", "top_logit")
"""Columns that say nothing about rows that stand in no text."""
ROW_COLUMN_HELP = COLUMN_HELP | {
    "n_fired": "rows on which the latent fires",
    "firing_rate": "share of the rows on which it fires",
    "label_auroc": "how well the label's words tell its rows from others, held-out rows alone: AUROC, 0.5 is chance",
    "label_n": "held-out rows on which it fires, behind the score",
    "label_n_negative": "held-out rows on which it is silent, behind the score",
    "label_n_documents": "groups of the firing rows; the interval counts these",
    "label_n_negative_documents": "groups of the silent rows; the interval counts these",
}


@dataclass(frozen=True)
class FeatureInputs:
    """Everything one database is built from."""

    codes: Codes
    text: Text
    documents: Int32[ndarray, "sequence position"]
    """Number of the document that each token belongs to."""
    document_names: Mapping[int, tuple[str, str]]
    """Document number → (source, origin), for the documents that occur."""
    hidden: Float16[ndarray, "window d_in"]
    """Mean hidden state of each window."""
    W_dec: DecoderMatrix
    outputs: OutputMap | str
    """How directions reach the output, or the reason why they have no direct path to it."""
    token_bytes: Sequence[bytes]
    special: Bool[ndarray, " vocab"]
    """Which tokens are special."""
    info: Mapping[str, Any]
    """Facts about the run and the SAE, for features.json."""
    embeddings: Float32[ndarray, "window _"] | None = None
    """The sentence embedding of each window; None if no embedding model was named."""
    label: Callable[[LabelInputs], Labels] = label_latents
    """Makes the labels of all latents."""
    pictures: Callable[[Int64[ndarray, " n"]], Mapping[int, bytes]] | None = None
    """Thumbnails of some positions, given by token index in increasing order; None for none."""

    @property
    def of_rows(self) -> bool:
        """Whether the positions are rows that stand in no text: contexts of one position, tokens that occur once."""
        return bool(self.info.get("unit") == "rows")


def build_database(
    inputs: FeatureInputs,
    folder: Path,
    settings: FeatureSettings | None = None,
    *,
    advance: Callable[[str], object] = lambda step: None,
    entries_at_once: int | None = None,
) -> None:
    """Aggregates, labels and writes one database into `folder`.

    `advance` is called with the name of each of the `N_STEPS` steps when it is finished. `entries_at_once` bounds the
    firings held in memory; it is there for tests, and the result does not depend on it.
    """
    settings = settings or FeatureSettings()
    # 1. statistics of all latents, block by block; examples need those of all latents, hence a second pass below
    limit = {} if entries_at_once is None else {"entries_at_once": entries_at_once}
    statistics = _by_block(inputs, settings, limit)
    advance("firings counted")
    # 2. what the decoder alone tells: neighbours and output tokens
    neighbours, cosines = decoder_neighbours(inputs.W_dec, settings.n_neighbours)
    statistics["neighbours"] = np.stack([neighbours, statistics.pop("coactive")], axis=1)
    statistics["neighbour_values"] = np.stack([cosines, statistics.pop("phi")], axis=1)
    advance("neighbours found")
    statistics["output_ids"], statistics["output_values"] = _output_tokens(inputs, settings)
    advance("output tokens found")
    # 3. contexts and labels
    examples = _examples(inputs, settings, statistics, neighbours, limit=limit)
    advance("contexts gathered")
    labels = inputs.label(_label_inputs(inputs, settings, statistics))
    advance("labels made")
    # 4. the arrays, rows and facts in the form of the database
    columns = _columns(inputs, statistics, labels)
    arrays = _arrays(inputs, settings, statistics, columns, examples=examples)
    shown = np.unique(arrays["example_token"])
    pictures = inputs.pictures(shown) if inputs.pictures is not None else {}
    info = _info(inputs, settings, columns, labels, n_examples=len(arrays["example_token"])) | {
        "n_pictures": len(pictures)
    }
    numbers = np.unique(inputs.documents).tolist() if inputs.document_names else []
    document_rows = [(number, *inputs.document_names.get(number, ("", ""))) for number in numbers]
    write_database(folder, info, arrays, _label_rows(labels), documents=document_rows, pictures=pictures)
    advance("database written")


N_STEPS = 6


def _by_block(inputs: FeatureInputs, settings: FeatureSettings, limit: Mapping[str, int]) -> Arrays:
    """Statistics of all latents: the arrays of `summarise`, and coactive, phi, sketches, background,
    background_offsets, background_fired."""
    codes, text = inputs.codes, inputs.text
    counts = np.bincount(codes.indices, minlength=codes.d_sae).astype(np.int64)
    background = draw_background(text, settings)
    n_encoded = int(text.encoded.sum())
    parts: dict[str, list[Shaped[ndarray, " ..."]]] = {}
    fired_offsets, fired = [np.zeros(1, np.int64)], []
    for firings in blocks(codes, **limit):
        block = summarise(firings, text, settings)
        block["coactive"], block["phi"] = coactivation(
            firings, codes, counts, n_encoded, n_neighbours=settings.n_neighbours
        )
        block["sketches"] = sketches(firings, text.encoded, settings.n_sketch)
        # a block's offsets start at 0: shift them behind those of the blocks before
        offsets, in_background = background_firings(firings, text, background)
        fired_offsets.append(offsets[1:] + fired_offsets[-1][-1])
        fired.append(in_background)
        for name, array in block.items():
            parts.setdefault(name, []).append(array)
    statistics = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return statistics | {
        "background": background,
        "background_offsets": np.concatenate(fired_offsets),
        "background_fired": np.concatenate(fired),
    }


def _output_tokens(
    inputs: FeatureInputs, settings: FeatureSettings
) -> tuple[Int32[ndarray, "d_sae 2 k"], Float32[ndarray, "d_sae 2 k"]]:
    """Output tokens that each latent raises and lowers most: (ids, effects).

    Index 0 of the second axis is raised, 1 is lowered; k = 0 without a direct path to the output.
    """
    if isinstance(inputs.outputs, str):
        m = inputs.codes.d_sae
        return np.empty((m, 2, 0), np.int32), np.empty((m, 2, 0), np.float32)
    raised_and_lowered = top_effects(inputs.outputs, inputs.W_dec, settings.n_output_tokens)
    ids = np.stack([ids.numpy() for ids, _ in raised_and_lowered], axis=1).astype(np.int32)
    return ids, np.stack([values.numpy() for _, values in raised_and_lowered], axis=1).astype(np.float32)


def _examples(
    inputs: FeatureInputs,
    settings: FeatureSettings,
    statistics: Arrays,
    near: Int[ndarray, "d_sae k"],
    *,
    limit: Mapping[str, int],
) -> Arrays:
    """The examples of all latents, gathered block by block into the arrays of the database."""
    # near misses come from the neighbours' top contexts, so every block needs the peaks of all latents
    peaks = statistics["chosen"][:, : settings.n_top]

    def of(firings: Firings) -> Examples:
        block = slice(firings.first, firings.first + firings.n_latents)
        return gather_examples(
            firings,
            inputs.text,
            settings,
            statistics["chosen"][block],
            peaks=peaks,
            neighbours=near[block],
            largest=statistics["max"][block],
        )

    parts = [of(firings) for firings in blocks(inputs.codes, **limit)]

    # offsets of one block each, turned into offsets over all blocks by way of their lengths
    def joined(arrays: list[Int64[ndarray, " _"]]) -> Int64[ndarray, " n_plus_1"]:
        return np.cumsum([0, *np.concatenate([np.diff(array) for array in arrays])])

    return {
        "example_offsets": joined([p.offsets for p in parts]),
        "example_token": np.concatenate([p.token for p in parts]),
        "example_group": np.concatenate([p.group for p in parts]),
        "example_activation_offsets": joined([p.activation_offsets for p in parts]),
        "example_position": np.concatenate([p.position for p in parts]),
        "example_activation": np.concatenate([p.activation for p in parts]),
    }


def _label_inputs(inputs: FeatureInputs, settings: FeatureSettings, statistics: Arrays) -> LabelInputs:
    """The inputs of the labels, from those of the build and the statistics of all latents."""
    offsets, peaks, values = sampled_peaks(statistics["sample"], statistics["sample_value"])
    n_documents = int(inputs.documents.max(initial=0)) + 1
    return LabelInputs(
        tokens=inputs.text.tokens,
        documents=inputs.documents,
        window=inputs.text.window,
        hidden=inputs.hidden,
        token_texts=[token.decode("utf-8", "replace") for token in inputs.token_bytes],
        token_bytes=inputs.token_bytes,
        special=inputs.special,
        offsets=offsets,
        peaks=peaks,
        values=values,
        top=statistics["chosen"][:, : settings.n_top],
        background=statistics["background"],
        background_offsets=statistics["background_offsets"],
        background_fired=statistics["background_fired"],
        raised=statistics["output_ids"][:, 0],
        raised_values=statistics["output_values"][:, 0],
        document_sources=[inputs.document_names.get(i, ("", ""))[0] for i in range(n_documents)],
        embeddings=inputs.embeddings,
        seed=settings.seed,
    )


def _columns(inputs: FeatureInputs, statistics: Arrays, labels: Labels) -> Arrays:
    """The columns of the database, name → float32 [m]."""
    n_encoded = max(1, int(inputs.text.encoded.sum()))
    output_values = statistics["output_values"]
    columns: Arrays = {"n_fired": statistics["n"], "firing_rate": statistics["n"] / n_encoded}
    names = ("mean", "min", "max", "first_share", "last_share", "mean_position", "token_entropy", "n_windows")
    columns |= {name: statistics[name] for name in names}
    columns["peak_likeness"] = _peak_likeness(inputs, labels)
    columns["top_cosine"], columns["top_coactivation"] = statistics["neighbour_values"][:, :, 0].T
    columns["top_logit"] = output_values[:, 0, 0] if output_values.shape[2] else np.full(len(output_values), np.nan)
    # the labels' token_entropy is that of a sample: the exact one above goes first
    columns |= {name: values for name, values in labels.columns.items() if name not in columns}
    if inputs.of_rows:
        columns = {name: values for name, values in columns.items() if name not in _OF_TEXT}
    return {name: np.asarray(values, np.float32) for name, values in columns.items()}


def _peak_likeness(inputs: FeatureInputs, labels: Labels) -> Float32[ndarray, " m"]:
    """NaN where the model has no matrix of its tokens."""
    if inputs.of_rows or isinstance(inputs.outputs, str):
        return np.full(inputs.codes.d_sae, np.nan, np.float32)

    def text(token: int) -> str:
        return inputs.token_bytes[token].decode("utf-8", "replace")

    peaks = [[token for token, _ in typical] for typical in labels.peak_tokens]
    return peak_likeness(peaks, text, TokenEmbedding.of(inputs.outputs.unembedding))


def _arrays(
    inputs: FeatureInputs, settings: FeatureSettings, statistics: Arrays, columns: Arrays, *, examples: Arrays
) -> Arrays:
    """The arrays of `compact.INPUTS`."""
    text = inputs.text
    data, offsets = packed(inputs.token_bytes)
    # documents are stored as runs: the token at which each begins, and its number
    changes = np.flatnonzero(np.diff(inputs.documents.reshape(-1), prepend=-1))
    return {
        "tokens": text.tokens,
        "kept": np.packbits(text.encoded),
        "documents": np.stack([changes, inputs.documents.reshape(-1)[changes]], axis=1).astype(np.int32),
        "columns": np.stack(list(columns.values())),
        "histogram": statistics["histogram"],
        "quantiles": statistics["quantiles"],
        "positions": statistics["positions"],
        "neighbours": statistics["neighbours"],
        "neighbour_values": statistics["neighbour_values"],
        "output_ids": statistics["output_ids"],
        "output_values": statistics["output_values"],
        "sketches": statistics["sketches"],
        "vocabulary_data": data,
        "vocabulary_offsets": offsets,
        "vocabulary_special": inputs.special,
        **examples,
        **_index(inputs, statistics),
    }


def _index(inputs: FeatureInputs, statistics: Arrays) -> Arrays:
    """The index from tokens, or from rows, to latents."""
    if inputs.of_rows:
        return row_index(inputs.codes, statistics["max"])
    return _token_index(statistics["index_token"], statistics["index_score"], inputs.text.n_vocabulary)


def _token_index(token: Int64[ndarray, "d_sae k"], score: Float32[ndarray, "d_sae k"], n_vocabulary: int) -> Arrays:
    """Inverts the per-latent token lists into token → latents, best first."""
    latent, place = np.nonzero(token >= 0)
    tokens, scores = token[latent, place], score[latent, place]
    # lexsort sorts by its last key first: token, then score downwards, then latent for ties
    order = np.lexsort((latent, -scores, tokens))
    counts = np.bincount(tokens, minlength=n_vocabulary)
    return {
        "index_offsets": np.concatenate([[0], np.cumsum(counts)]),
        "index_latent": latent[order],
        "index_score": scores[order],
    }


def _label_rows(labels: Labels) -> list[tuple[str, dict[str, Any]]]:
    rows = zip(labels.texts, labels.hints, labels.peak_tokens, labels.before_tokens)
    return [
        (text, {"hints": hints, "peak_tokens": peak, "before_tokens": before}) for text, hints, peak, before in rows
    ]


def _info(
    inputs: FeatureInputs, settings: FeatureSettings, columns: Arrays, labels: Labels, *, n_examples: int
) -> dict[str, Any]:
    """The contents of features.json."""
    text = inputs.text
    column_help = ROW_COLUMN_HELP if inputs.of_rows else COLUMN_HELP
    # databases can be compared token by token when they agree in this hash
    digest = hashlib.sha256(np.ascontiguousarray(text.tokens).data)
    digest.update(np.packbits(text.encoded).data)
    return {
        "format": FORMAT,
        **inputs.info,
        "n_tokens": text.n_tokens,
        "n_encoded": int(text.encoded.sum()),
        "n_contexts": len(text.tokens),
        "context_length": text.context_length,
        "window": text.window,
        "n_examples": n_examples,
        "example_activations": KEPT_IN,
        "text_sha256": digest.hexdigest(),
        "no_output_tokens": inputs.outputs if isinstance(inputs.outputs, str) else None,
        "columns": list(columns),
        "column_help": {name: column_help[name] for name in columns if name in column_help},
        "label_columns": [name for name in columns if name in labels.columns and name not in _OWN],
        "settings": asdict(settings),
    }
