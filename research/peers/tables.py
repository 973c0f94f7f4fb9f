"""The tables of README.md, from results/peers.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import ARCHITECTURES, markdown
from research.peers.run import table

Record = Mapping[str, Any]


LIBRARIES = ("sae-lens", "dictionary-learning", "eai-sparsify")


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["peers"]
    return {"quality": table(record["ours"], record["peers"]), "step": step_table(record["step_milliseconds"])}


def step_table(milliseconds: Mapping[str, float]) -> str:
    """Steps of ours that fit into one of theirs."""
    rows = []
    for library in LIBRARIES:
        times = [(milliseconds.get(f"{library} {name}"), milliseconds[f"monosemy {name}"]) for name in ARCHITECTURES]
        rows.append([library, *(f"{theirs / ours:.1f}" if theirs else "" for theirs, ours in times)])
    return markdown(["theirs ÷ ours", *ARCHITECTURES], rows)
