"""A run with a small hand-made feature database, for the tests of what shows and exports features.

Written with the real writer. Six tokens matter: a character cut over two tokens, a line break, a token that is markup,
a special token, and the two that latent 0 is about. Latent 0 fires on “ July”, latent 1 on the cut “—”, latent 2 on
markup, latent 3 never.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from monosemy.config import RunConfig, to_json
from monosemy.features.store.activation_codes import KEPT_IN
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.store.settings import FORMAT, GROUPS, LEVELS
from monosemy.features.store.token_texts import packed
from monosemy.features.store.write import write_database

SITE, NAME = "layers.2.resid_post", "topk-l0_4-s0"
MARKUP = "<script>alert(1)</script>"
WORDS = [b"<|end|>", b" in", b" July", b"\xe2\x80", b"\x94", b"\n", MARKUP.encode(), b" the", b" market", b"\t"]
END, IN, JULY, DASH, DASH2, BREAK, SCRIPT, THE, MARKET, TAB = range(len(WORDS))
T, D, M = 16, 4, 4
CONTEXTS = np.array(
    [
        [END, THE, MARKET, IN, JULY, DASH, DASH2, THE, BREAK, MARKET, IN, JULY, THE, MARKET, TAB, THE],
        [END, SCRIPT, THE, MARKET, DASH, DASH2, BREAK, THE, MARKET, IN, THE, MARKET, THE, SCRIPT, THE, MARKET],
        [END, THE, MARKET, THE, MARKET, IN, THE, MARKET, BREAK, THE, MARKET, THE, MARKET, IN, THE, MARKET],
    ],
    np.int32,
)
EXAMPLES: dict[int, list[tuple[str, int, int, dict[int, float]]]] = {
    0: [
        ("top", 0, 4, {4: 8.0, 11: 2.0}),
        ("q0", 0, 11, {4: 8.0, 11: 2.0}),
        ("q4", 0, 4, {4: 8.0, 11: 2.0}),
        ("near_miss", 1, 9, {}),
        ("random", 2, 8, {}),
    ],
    1: [("top", 1, 5, {4: 1.0, 5: 4.0}), ("top", 0, 6, {6: 3.0})],
    2: [("top", 1, 1, {1: 5.0, 13: 1.0})],
    3: [],
}
DOCUMENT_STARTS = [(0, 0)]
"""(first token index, number) of each document."""
DOCUMENTS = [(0, "english", "a newspaper")]
MAXIMUM = (8.0, 4.0, 5.0, 0.0)


def write_feature_run(folder: Path, names: tuple[str, ...] = (NAME,)) -> Path:
    """A run folder with features of `names`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"format": 1, "config": to_json(RunConfig()), "provenance": {}}))
    decoder = np.arange(M * D, dtype=np.float32).reshape(M, D) - 5
    for name in names:
        sae = folder / "saes" / SITE / name
        sae.mkdir(parents=True)
        save_file({"W_dec": decoder}, sae / "sae.safetensors")
        (sae / "config.json").write_text("{}")
        target = folder / "features" / SITE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_database(target, _info(name), _arrays(), _labels(), documents=DOCUMENTS)
    return folder


def open_tiny(folder: Path) -> FeatureDatabase:
    return FeatureDatabase.open(write_feature_run(folder) / "features" / SITE / NAME)


def _info(name: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "site": SITE,
        "name": name,
        "architecture": "topk",
        "d_sae": M,
        "l0": 4.0,
        "n_tokens": CONTEXTS.size,
        "n_contexts": len(CONTEXTS),
        "context_length": T,
        "window": 8,
        "model": {"name": "Tiny_Model v1.5", "fingerprint": "ab12", "n_layers": 5, "post_norms": False},
        "sae_sha256": "cd34",
        "example_activations": KEPT_IN,
        "created": "2025-01-02T03:04:05+00:00",
        "columns": list(_columns()),
        "column_help": {},
        "label_columns": ["label_auroc"],
        "text": {},
        "n_examples": sum(map(len, EXAMPLES.values())),
    }


def _columns() -> dict[str, np.ndarray]:
    nan = np.nan
    columns = {
        "n_fired": [2, 3, 2, 0],
        "firing_rate": [2 / 48, 3 / 48, 2 / 48, 0],
        "mean": [5, 2.7, 3, nan],
        "min": [2, 1, 1, nan],
        "max": MAXIMUM,
        "label_auroc": [0.93, nan, nan, nan],
        "label_auroc_low": [0.9, nan, nan, nan],
        "label_auroc_high": [0.95, nan, nan, nan],
        "label_n": [41, 3, 2, 0],
        "label_n_documents": [17, 2, 1, 0],
        "top_token_auroc": [0.88, nan, nan, nan],
    }
    return {name: np.asarray(values, np.float32) for name, values in columns.items()}


def _labels() -> list[tuple[str, dict[str, Any]]]:
    return [
        ("“July” after “in”", {"hints": ["months"]}),
        ("“—”", {"hints": []}),
        (f"“{MARKUP}”", {"hints": []}),
        ("", {"hints": []}),
    ]


def _arrays() -> dict[str, np.ndarray]:
    data, offsets = packed(WORDS)
    examples = [example for latent in range(M) for example in EXAMPLES[latent]]
    fired = [sorted(example[3].items()) for example in examples]
    largest = [MAXIMUM[latent] for latent in range(M) for _ in EXAMPLES[latent]]
    near = np.full((M, 2, 2), -1, np.int32)
    near[0] = [[1, 2], [2, 1]]
    near[1, :, 0] = 0
    levels = np.asarray(LEVELS, np.float32)
    return {
        "tokens": CONTEXTS,
        "kept": np.packbits(np.ones(CONTEXTS.size, bool)),
        "documents": np.array(DOCUMENT_STARTS, np.int64),
        "columns": np.stack(list(_columns().values())),
        "histogram": np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]], np.uint32),
        "quantiles": np.array([2 + 6 * levels, 1 + 3 * levels, 1 + 4 * levels, levels * np.nan], np.float32),
        "positions": np.ones((M, 4), np.uint32),
        "neighbours": near,
        "neighbour_values": np.where(near >= 0, 0.5, 0).astype(np.float32),
        "output_ids": np.tile(np.array([[JULY, BREAK], [DASH, SCRIPT]], np.int32), (M, 1, 1)),
        "output_values": np.tile(np.array([[0.5, 0.25], [-0.5, -0.25]], np.float32), (M, 1, 1)),
        "example_offsets": np.cumsum([0, *(len(EXAMPLES[latent]) for latent in range(M))]),
        "example_token": np.array([context * T + peak for _, context, peak, _ in examples], np.int64),
        "example_group": np.array([GROUPS.index(group) for group, *_ in examples], np.uint8),
        "example_activation_offsets": np.cumsum([0, *map(len, fired)]),
        "example_position": np.array([position for pairs in fired for position, _ in pairs], np.uint16),
        "example_activation": np.array(
            [value / top for pairs, top in zip(fired, largest, strict=True) for _, value in pairs], np.float16
        ),
        "index_offsets": np.zeros(len(WORDS) + 1, np.int64),
        "index_latent": np.zeros(0, np.int32),
        "index_score": np.zeros(0, np.float16),
        "sketches": np.zeros((M, 8), np.int8),
        "vocabulary_data": data,
        "vocabulary_offsets": offsets,
        "vocabulary_special": np.arange(len(WORDS)) == END,
    }
