"""The tables of docs/results.md about Jacobian SAEs, from docs/results/jacobian.json (written by jacobian.py).

    python benchmarks/jacobian_tables.py [docs/results/jacobian.json]

Cells: value [95% interval over documents]; ± is the standard deviation over seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.files import read_json

ROOT = Path(__file__).parents[1]
Row = Mapping[str, Any]
MEASURES = {
    "over_0.01": "\\|J\\| > .01", "scaled_over_0.01": "> .01 RMS", "scaled_over_0.1": "> .1 RMS",
    "scaled_over_1": "> 1 RMS", "share_of_90": "90% of Σ\\|J\\| in", "token_share_of_90": "the same within a token",
}  # fmt: skip


def main() -> None:
    document = read_json(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "results" / "jacobian.json")
    for title, table in tables(document).items():
        print(f"\n{title}\n\n{table}")


def tables(document: Row) -> dict[str, str]:
    rows = document["frontier"]
    found = {
        "What the pairs cost": cost_table(rows),
        "How sparse J is": sparsity_table(rows),
        "At the published starting shares": start_table(document["published_starts"], rows),
        "How J behaves": behaviour_table(rows),
    }
    if "seeds" in document["checks"]:
        found["Seeds"] = seeds_table(document["checks"])
    if document.get("random"):
        found["Trained against random"] = random_table(document["random"])
    if document.get("interpretability"):
        found["Labels"] = label_table(document["interpretability"])
    return found


def cost_table(rows: Iterable[Row]) -> str:
    heads = ("λ", "VE in", "VE out", "CE score in", "CE score out", "CE cost", "dead in", "dead out")
    sides = ("variance_explained_in", "variance_explained_out", "ce_score_in", "ce_score_out")
    return markdown(heads, (
        (f"{row['lambda']:g}", *(cell(row[side], number, row[side]["interval"]) for side in sides),
         cell(row["ce_cost"], number, row["ce_cost"]["interval"]),
         *(cell(row[f"dead_fraction_{side}"], percent) for side in ("in", "out")))
        for row in rows
    ))  # fmt: skip


def sparsity_table(rows: Iterable[Row]) -> str:
    """Each share, and behind it how many times lower it is than at λ = 0."""
    names = ("over_0.01", "scaled_over_0.01", "scaled_over_0.1", "scaled_over_1", "share_of_90")
    body = []
    for row in rows:
        cells = [f"{row['lambda']:g}"]
        for name in names:
            cells.append(cell(row["estimates"][name], percent))
            if name in ("over_0.01", "scaled_over_0.1", "scaled_over_1"):
                cells.append(
                    cell(row["reduction"].get(name), times, (row["reduction"].get(name) or {}).get("interval"))
                )
        body.append((*cells, cell(row["estimates"]["scaled_kurtosis"], lambda v: f"{v:.1f}")))
    heads = ["λ"]
    for name in names:
        heads.append(MEASURES[name])
        heads += ["fewer"] if name in ("over_0.01", "scaled_over_0.1", "scaled_over_1") else []
    return markdown((*heads, "scaled kurtosis"), body)


def start_table(starts: Row, rows: Sequence[Row]) -> str:
    """Shares above the size that as many exceed at λ = 0 as exceeded .01 in a paper's model."""
    heads = ("λ", *(f"{percent(one['reported'][0])} as in {model}" for model, one in starts.items()),
             "CE score lost: in", "out")  # fmt: skip
    base = next(row for row in rows if row["lambda"] == 0)
    body = []
    for row in rows:
        key = f"{row['lambda']:g}"
        told = [f"{percent(one['shares'][key])} ({times(one['shares']['0'] / one['shares'][key])})"
                for one in starts.values()]  # fmt: skip
        lost = [number(base[side]["value"] - row[side]["value"]) for side in ("ce_score_in", "ce_score_out")]
        body.append((key, *told, *lost))
    reported = [f"{percent(one['reported'][1])} ({times(one['reported'][0] / one['reported'][1])})"
                for one in starts.values()]  # fmt: skip
    return markdown(heads, [*body, ("reported, λ 0.5 and 1", *reported, "", "")])


def behaviour_table(rows: Iterable[Row]) -> str:
    shapes = ("linear", "flat", "jumprelu", "other")
    heads = ("λ", *("JumpReLU-shaped" if s == "jumprelu" else s for s in shapes), "ablation ρ", "R²", "pairs > .01")
    return markdown(heads, (
        (f"{row['lambda']:g}", *(cell(row["linearity"][s], percent, row["linearity"][s]["interval"]) for s in shapes),
         cell(row["ablation"]["rank_correlation"], number), cell(row["ablation"]["r_squared"], number),
         cell(row["average_over"]["0.01"], lambda v: f"{v:.5%}"))
        for row in rows
    ))  # fmt: skip


def seeds_table(checks: Row) -> str:
    """Mean ± standard deviation over seeds; for the chosen λ also what measuring on every token changes."""
    both = checks["seeds"]
    against = checks.get("a random share of the tokens against all, and seeds", {})
    heads = ["measure", *(f"{at} ({next(iter(both[at].values()))['n']} seeds)" for at in both)]
    body = []
    for name in next(iter(both.values())):
        said = [f"{one['mean']:.4f} ± {one['sd']:.4f}" if one["sd"] is not None else "–"
                for one in (both[at][name] for at in both)]  # fmt: skip
        change = against.get(name, {}).get("change")
        body.append((MEASURES.get(name, name.replace("_", " ")), *said, "–" if change is None else f"{change:+.4f}"))
    return markdown((*heads, "a quarter − every token"), body)


def random_table(rows: Iterable[Row]) -> str:
    heads = ("random model", "λ", "its L0", "VE", *(f"{MEASURES[n]}: trained, random" for n in list(MEASURES)[:5]))
    body = []
    for row in rows:
        pairs = []
        for name in list(MEASURES)[:5]:
            one = row["measures"][name]
            pairs.append(f"{cell(one['trained'], percent)}, {cell(one['random'], percent)}{mark(one['verdict'])}")
        levels = " to ".join(f"{v:g}" for v in row["l0_random"])
        unmatched = "" if row["matched"] else f", random {row['variance_explained_random']:.3f}"
        body.append((row["kind"], f"{row['lambda']:g}", levels, f"{row['variance_explained']:.3f}{unmatched}", *pairs))
        if row["lambda"] > 0 and row["reduction"]:
            fewer = [row["reduction"].get(n) for n in list(MEASURES)[:5]]
            body.append(("times fewer", "", "", "", *(
                "–" if one is None else f"{cell(one['trained'], times)}, {cell(one['random'], times)}"
                f"{mark(one['verdict'])}" for one in fewer)))  # fmt: skip
    return markdown(heads, body)


def label_table(rows: Iterable[Row]) -> str:
    heads = ("λ", "site", "scored", "label AUROC", "above .8", "with hidden state", "above .8")
    return markdown(heads, (
        (f"{row['lambda']:g}", row["site"].rsplit(".", 1)[-1], f"{row['n_label']:,}",
         *(cell(row[key], how, row[key]["interval"]) for key, how in
           (("label_auroc", number), ("label_good", percent), ("combined_auroc", number), ("combined_good", percent))))
        for row in rows
    ))  # fmt: skip


def mark(verdict: str) -> str:
    """< trained below random, > above; nothing where intervals overlap or are not known."""
    return {"trained below": " <", "random below": " >"}.get(verdict, "")


def cell(estimate: Row | None, how: Callable[[float], str], interval: Sequence[float] | None = None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    ends = "" if interval is None else f" [{how(interval[0])}, {how(interval[1])}]"
    return how(estimate["value"]) + ends


def number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def times(value: float) -> str:
    return f"{value:.2f}×"


def markdown(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
