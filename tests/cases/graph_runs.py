"""A run with attribution graphs on a tiny random model: two transcoders, of which one has features."""

from __future__ import annotations

from pathlib import Path

import feature_runs
import torch
from graph_cases import TEXT, random_transcoder
from tiny_models import byte_tokenizer, random_module

from monosemy.cli import main
from monosemy.config import ModelConfig, RunConfig, to_json
from monosemy.features.store.write import write_database
from monosemy.saes.config_file import read_weights_sha256
from monosemy.saes.storage import save_sae
from monosemy.support.files import write_json

LAYERS, NAME = (0, 2), "transcoder_topk-l0_5-s0"
GRAPH = "a-little-text"
"""The graph's name, made of `TEXT`."""


def transcoder_run(folder: Path) -> Path:
    """The run without a graph. The transcoder of layer 2 has four latents and features with the labels of others."""
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    config = RunConfig(model=ModelConfig(source=str(folder / "model"), device="cpu"))
    record = {"text": {"separator_token": 256, "bos_token": None}}
    write_json(folder / "run.json", {"format": 1, "config": to_json(config), "provenance": record})
    for layer in LAYERS:
        sizes = {} if layer == 0 else {"m": feature_runs.M, "k": 3}
        sae = random_transcoder(layer, **sizes).float()
        if layer == 2:
            # Four latents among many: they write much, so that pruning keeps some.
            with torch.no_grad():
                sae.W_dec.mul_(8)
        save_sae(sae, folder / "saes" / f"layers.{layer}.mlp_out" / NAME)
    site = "layers.2.mlp_out"
    weights = read_weights_sha256(folder / "saes" / site / NAME)
    info = feature_runs._info(NAME) | {"site": site, "architecture": "topk", "sae_sha256": weights}
    target = folder / "features" / site / NAME
    target.parent.mkdir(parents=True)
    write_database(
        target, info, feature_runs._arrays(), feature_runs._labels(), documents=feature_runs.DOCUMENTS
    )  # fmt: skip
    return folder


def graph_run(folder: Path, *words: str) -> Path:
    """The run with the graph of `TEXT`; `words` are further ones of the command."""
    main(["graph", TEXT, "--run", str(transcoder_run(folder)), "--nodes", "60", "--heads", "0", *words])
    return folder
