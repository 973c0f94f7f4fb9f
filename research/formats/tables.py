"""The tables of README.md and of docs/published.md, from the records in results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import markdown

Record = Mapping[str, Any]
_LIBRARIES = {"dl": "dictionary_learning", "gemma": "Gemma Scope", "lens": "sae-lens", "sparsify": "sparsify"}
_JUDGES = {
    "sae-lens": "sae-lens",
    "sparsify": "sparsify",
    "dictionary-learning": "dictionary_learning",
    "gemma-scope-2": "sae-lens's loader of Gemma Scope 2",
    "circuit-tracer": "the layout's equation",
}


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["formats"]
    return {
        "read": read_table(record["read"]),
        "written": written_table(record["written"]),
        "opening": opening_table(record["opening"]),
        "judged": judged_table(records["judged"]["saes"]),
        "benchmarks": benchmarks_table(records["benchmarks"]["saes"]),
    }


def worst(rows: list[Record]) -> list[str]:
    codes, reconstruction = (max(row[name] for row in rows) for name in ("codes", "reconstruction"))
    same = sum(row["same_support"] for row in rows)
    return [str(len(rows)), f"{codes:.0e}", f"{reconstruction:.0e}", f"{same} of {len(rows)}"]


def read_table(read: Record) -> str:
    body = []
    for prefix, library in _LIBRARIES.items():
        rows = [row for case, row in read.items() if case.startswith(prefix)]
        body.append([library, *worst(rows)])
    return markdown(("made by", "SAEs", "codes", "reconstructions", "same latents"), body)


def written_table(written: Record) -> str:
    body = [[layout, _JUDGES[layout], *worst(list(rows.values()))] for layout, rows in written.items()]
    return markdown(("layout", "opened by", "SAEs", "codes", "reconstructions", "same latents"), body)


def opening_table(opening: Record) -> str:
    body = [
        [name, f"{row['seconds']:.2f}", f"{row['processor']:.2f}", f"{row['reading']:.2f}", f"{row['memory']:.2f}"]
        for name, row in opening.items()
    ]
    return markdown(
        ("file", "seconds", "processor time", "reading the file alone", "memory at the peak, in weights"), body
    )


def judged_table(saes: Record) -> str:
    measures = {"fvu": 6, "fvu_sae_lens": 6, "fvu_sae_lens_legacy": 6, "l0": 4, "l0_sae_lens": 4}
    body = [[name, *(f"{row[key]:.{decimals}f}" for key, decimals in measures.items())] for name, row in saes.items()]
    heading = ("SAE", "FVU here", "1 − explained_variance", "1 − explained_variance_legacy", "L0 here", "l0")
    return markdown(heading, body)


def benchmarks_table(saes: Record) -> str:
    measures = {
        "fvu": ("FVU here", 6),
        "fvu_core": ("1 − explained_variance of core", 6),
        "l0": ("L0 here", 4),
        "l0_core": ("l0 of core", 4),
        "saebench_sae_test_accuracy": ("sparse probing, all latents", 3),
        "saebench_sae_top_1_test_accuracy": ("sparse probing, one latent", 3),
        "sae_probes_test_auc": ("sae-probes, AUC of 16 latents", 3),
    }
    body = [
        [name, *(f"{row[key]:.{decimals}f}" for key, (_, decimals) in measures.items())] for name, row in saes.items()
    ]
    return markdown(("SAE", *(heading for heading, _ in measures.values())), body)
