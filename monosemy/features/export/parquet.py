"""Exports the whole feature database as tables for pandas, polars, DuckDB or Spark: `monosemy export-parquet RUN`.

Place on the data's path: the way out to other people's analyses.

    latents.parquet      one row per latent: every column of the database (null where not measured), label, hints,
                         explanation, histogram, quantiles, output tokens, neighbours
    examples.parquet     one row per example: latent, group, context, peak, value, source, origin, and where in the
                         context the latent fires (fired_positions, fired_values)
    contexts.parquet     the contexts of these examples, once: context, token_ids, text
    vocabulary.parquet   token_id, text, special

The tables join on `latent`, `context` and `token_id`. Bytes of a token that belong to no character are shown as ⟨E2⟩,
and NUL as ␀, because many readers end a string there; all other characters are unchanged. Each file's metadata says
under `monosemy`, as JSON, what the database was built from; `example_activations` there says how precise the values of
examples are (8 bits each).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monosemy.features.store.database import FeatureDatabase
from monosemy.features.view.facts import explanation, stats
from monosemy.features.view.selection import new_folder
from monosemy.support import files
from monosemy.support.progress import stage
from monosemy.support.visible import storable

ROW_GROUP = 512
"""Number of latents held in memory and written at once."""
_TOKEN = pa.struct([("token_id", pa.int32()), ("token", pa.string()), ("value", pa.float32())])
_NEIGHBOUR = pa.struct([("latent", pa.int32()), ("value", pa.float32())])
_LISTS = {
    "label": pa.string(),
    "hints": pa.list_(pa.string()),
    "explanation": pa.string(),
    "histogram_edges": pa.list_(pa.float32()),
    "histogram_counts": pa.list_(pa.int64()),
    "quantile_levels": pa.list_(pa.float32()),
    "quantile_values": pa.list_(pa.float32()),
    "raised": pa.list_(_TOKEN),
    "lowered": pa.list_(_TOKEN),
    "nearest_decoder": pa.list_(_NEIGHBOUR),
    "coactivation": pa.list_(_NEIGHBOUR),
}
EXAMPLES = pa.schema(
    [
        ("latent", pa.int32()),
        ("group", pa.string()),
        ("context", pa.int64()),
        ("peak", pa.int32()),
        ("value", pa.float32()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("fired_positions", pa.list_(pa.int32())),
        ("fired_values", pa.list_(pa.float32())),
    ]
)


def export_parquet(database: FeatureDatabase, out: Path, latents: Sequence[int] | None = None) -> Path:
    """Writes the new folder `out` with the four tables and returns it; `latents` None means all.

    Raises UserError if `out` is not new or empty, or cannot be written.
    """
    out = new_folder(out)
    numbers = list(range(database.n_latents) if latents is None else latents)
    metadata = {b"monosemy": storable(json.dumps(database.info, ensure_ascii=False)).encode()}
    schema = latent_schema(database).with_metadata(metadata)
    context_numbers: set[int] = set()
    with (
        files.atomic_folder(out) as folder,
        pq.ParquetWriter(folder / "latents.parquet", schema, compression="zstd") as rows,
        pq.ParquetWriter(folder / "examples.parquet", EXAMPLES.with_metadata(metadata), compression="zstd") as examples,
        stage("export", total=len(numbers), unit="latents") as bar,
    ):
        for start in range(0, len(numbers), ROW_GROUP):
            part = numbers[start : start + ROW_GROUP]
            rows.write_table(pa.Table.from_pylist([_latent(database, i) for i in part], schema=schema))
            example_rows = [row for latent in part for row in _examples(database, latent)]
            examples.write_table(pa.Table.from_pylist(example_rows, schema=examples.schema))
            # latents share contexts: each is written once, after all examples are known
            context_numbers.update(row["context"] for row in example_rows)
            bar.advance(len(part))
        _write(folder / "contexts.parquet", _contexts(database, sorted(context_numbers)), metadata)
        _write(folder / "vocabulary.parquet", _vocabulary(database), metadata)
    return out


def _write(path: Path, table: pa.Table, metadata: dict[bytes, bytes]) -> None:
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def _contexts(database: FeatureDatabase, contexts: Sequence[int]) -> pa.Table:
    """The table contexts.parquet."""
    rows = [database.context(context).tolist() for context in contexts]
    texts = [storable("".join(piece.text for piece in database.tokens.pieces(row))) for row in rows]
    columns = {
        "context": pa.array(contexts, pa.int64()),
        "token_ids": pa.array(rows, pa.list_(pa.int32())),
        "text": pa.array(texts, pa.string()),
    }
    return pa.table(columns)


def _vocabulary(database: FeatureDatabase) -> pa.Table:
    ids = range(len(database.tokens))
    columns = {
        "token_id": pa.array(ids, pa.int32()),
        "text": pa.array([storable(database.tokens.text(i)) for i in ids], pa.string()),
        "special": pa.array([database.tokens.is_special(i) for i in ids], pa.bool_()),
    }
    return pa.table(columns)


def latent_schema(database: FeatureDatabase) -> pa.Schema:
    """The schema of latents.parquet: the database's columns are float32, except `n_fired`, which is an integer."""
    numbers = [(name, pa.int64() if name == "n_fired" else pa.float32()) for name in database.columns]
    return pa.schema([("latent", pa.int32()), *numbers, *_LISTS.items()])


def _latent(database: FeatureDatabase, latent: int) -> dict[str, Any]:
    """A row of latents.parquet."""
    numbers: dict[str, Any] = dict(stats(database, latent))
    if numbers.get("n_fired") is not None:
        numbers["n_fired"] = int(numbers["n_fired"])
    label, near = database.label(latent), database.neighbours(latent)
    edges, counts = database.histogram(latent)
    levels, values = database.quantiles(latent)
    raised, lowered = database.output_tokens(latent)
    # a latent that never fired has NaN quantiles, and no histogram worth writing
    measured = bool(np.isfinite(values).all())
    return {
        "latent": latent,
        **numbers,
        "label": str(label.get("text") or ""),
        "hints": [str(hint) for hint in label.get("hints") or ()],
        "explanation": explanation(label) or None,
        "histogram_edges": np.asarray(edges, np.float32).tolist() if measured else [],
        "histogram_counts": np.asarray(counts, np.int64).tolist() if measured else [],
        "quantile_levels": np.asarray(levels, np.float32).tolist() if measured else [],
        "quantile_values": np.asarray(values, np.float32).tolist() if measured else [],
        "raised": _tokens(database, raised),
        "lowered": _tokens(database, lowered),
        "nearest_decoder": _others(near["decoder"]),
        "coactivation": _others(near["coactivation"]),
    }


def _tokens(database: FeatureDatabase, tokens: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    return [
        {"token_id": int(i), "token": storable(database.tokens.text(int(i))), "value": float(value)}
        for i, value in tokens
    ]


def _others(pairs: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    return [{"latent": int(other), "value": float(value)} for other, value in pairs]


def _examples(database: FeatureDatabase, latent: int) -> Iterator[dict[str, Any]]:
    """The latent's rows of examples.parquet."""
    for example in database.examples(latent):
        positions = np.flatnonzero(example.activations)
        yield {
            "latent": latent,
            "group": example.group,
            "context": int(example.context),
            "peak": int(example.peak),
            "value": float(example.value),
            "source": example.source,
            "origin": example.origin,
            "fired_positions": positions.tolist(),
            "fired_values": example.activations[positions].tolist(),
        }
