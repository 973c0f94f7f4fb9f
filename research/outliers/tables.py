"""The tables of README.md, from results/outliers.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from research.markdown import ARCHITECTURES, markdown

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    record = records["outliers"]
    return {"fvu": fvu_table(record["runs"]), "longest": longest_table(record["rows"]["longest"])}


def fvu_table(runs: Record) -> str:
    titles = {
        "seed0": "4e-3, long rows left out (the default)",
        "old-2e-3": "2e-3, with the long rows",
        "lr-8e-3": "8e-3, long rows left out; stopped early",
    }
    rows = []
    for run, title in titles.items():
        saes = [runs[run]["saes"][f"{name}-l0_32-s0"] for name in ARCHITECTURES]
        dead = [100 * sae["dead_fraction"] for sae in saes]
        cells = [
            f"{sae['fvu']:.3f} ({share:{'.1f' if share < 10 else '.0f'}})"
            for sae, share in zip(saes, dead, strict=True)
        ]
        rows.append([title, f"{saes[0]['step']:,}", *cells])
    return markdown(["", "step", *ARCHITECTURES], rows)


def longest_table(rows: Sequence[Record]) -> str:
    body = [[f"{row['medians']:.2f}", ", ".join(map(str, row["steps"]))] for row in rows]
    return markdown(("norm, in medians", "read at steps"), body)
