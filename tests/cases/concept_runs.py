"""A run of the embedded model whose SAE has four hand-made features with known concepts, for the search by meaning.

Labels and peaks are as the labeller makes them of real latents. Which latent is about what is known by construction, so
that a test need not trust what a training happened to find.
"""

from __future__ import annotations

from pathlib import Path

import feature_runs
import numpy as np
from app_cases import EMBEDDED_NAME as NAME
from app_cases import EMBEDDED_SITE as SITE

from monosemy.config import RunConfig, to_json
from monosemy.features.store.token_texts import packed, token_bytes
from monosemy.features.store.write import write_database
from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SaeConfig
from monosemy.saes.config_file import read_weights_sha256
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from monosemy.support.files import write_json

GENDER, ANGER, BRACKETS, MONTHS = range(feature_runs.M)
CONCEPTS = {
    GENDER: ("“women”, “female”, “men”", (" women", " female", " men", " male", " woman")),
    ANGER: ("“angry”, “hatred”, “rage”", (" angry", " hatred", " rage", " hate", " hostile")),
    BRACKETS: ("“(”, “[”, “{”", (" (", "(", "[", " [", " {")),
    MONTHS: ("“July”, “June”, “March”", (" July", " June", " March", " August", " May")),
}
"""Latent → its label, which does not hold the concept's word, and the tokens at its peaks, most typical first."""


def concept_run(folder: Path, model: LanguageModel) -> Path:
    """Writes the run with the real writers. Its contexts are the first tokens of the vocabulary, whatever they are."""
    facts = {"name": model.name, "fingerprint": model.fingerprint, "commit": None}
    record = {"model": facts, "text": {"separator_token": 0, "bos_token": None}}
    write_json(folder / "run.json", {"format": 1, "config": to_json(RunConfig()), "provenance": record})
    sae = build_sae(SaeConfig("topk", 576, feature_runs.M, 2.0, site=SITE, scale=146.0))
    save_sae(sae, folder / "saes" / SITE / NAME)
    tokenizer = model.tokenizer
    texts = token_bytes(tokenizer, model.vocab_size)
    arrays = feature_runs._arrays()
    arrays["vocabulary_data"], arrays["vocabulary_offsets"] = packed(texts)
    arrays["vocabulary_special"] = np.isin(np.arange(len(texts)), tokenizer.all_special_ids)
    arrays["index_offsets"] = np.zeros(len(texts) + 1, np.int64)
    labels = []
    for label, words in CONCEPTS.values():
        pieces = tokenizer(list(words), add_special_tokens=False)["input_ids"]
        peaks = [(ids[0], 9.0 - place) for place, ids in enumerate(pieces) if len(ids) == 1]
        labels.append((label, {"hints": [], "peak_tokens": peaks, "before_tokens": []}))
    info = feature_runs._info(NAME) | {
        "site": SITE,
        "sae_sha256": read_weights_sha256(folder / "saes" / SITE / NAME),
        "model": {"name": model.name, "fingerprint": model.fingerprint, "n_layers": 30, "post_norms": False},
    }
    target = folder / "features" / SITE / NAME
    target.parent.mkdir(parents=True)
    write_database(target, info, arrays, labels, documents=feature_runs.DOCUMENTS)
    return folder
