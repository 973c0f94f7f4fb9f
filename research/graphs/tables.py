"""The table of README.md, from results/foreign.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import markdown


def tables(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {"foreign": foreign_table(records["foreign"]["differences"])}


def foreign_table(differences: Mapping[str, Any]) -> str:
    """One row for each model and set of transcoders."""
    heads = ["latents", "edges", "same latents", "same logits"]
    shares = {"effects": "effects of latents and errors", "token_effects": "effects of tokens"}
    shares |= {"activations": "activations"}
    body = []
    for family, sets in differences.items():
        for name, compared in sets.items():
            same = ["yes" if compared[key] else "no" for key in ("same_nodes", "same_logits")]
            gaps = [f"{compared[key]:.0e}" if key in compared else "" for key in shares]
            body.append([family, name, f"{compared['latents']:,}", f"{compared.get('edges', 0):,}", *same, *gaps])
    return markdown(["model", "transcoders", *heads, *shares.values()], body)
