"""A tiny model as wide as the published SAEs of tests/cases, and a text, in a folder: what a run of them needs."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tiny_models import byte_tokenizer, random_module

SITE = "layers.1.resid_post"
SIZES = ["--text.n-tokens", "6000", "--text.n-validation-tokens", "2048"]
"""Flags for how much of the text is read."""
_WORDS = [
    "a",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "it",
    "was",
    "not",
    "so",
    "late",
    "when",
    "rain",
    "came",
    "down",
]


def write_inputs(folder: Path) -> Path:
    """Writes `model`, 24 wide with four layers, and `text.jsonl`; returns the folder."""
    random_module("llama", hidden_size=24, max_position_embeddings=256).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    lines = [json.dumps({"text": " ".join(words.choices(_WORDS, k=60))}) for _ in range(200)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return folder
