"""The tables of README.md, from results/heads.json, docstring.json and second_look.json.

Cells: ROC AUC [95% interval over heads, of the mean over seeds where there are several], seconds with reading counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monosemy.circuits.heads.tasks.docstring import DocstringVariant
from research.markdown import markdown

Row = Mapping[str, Any]
TABLE_DIFFERENCES = (
    "combined − combined-no-codes",
    "codes − kmeans",
    "codes-paper − kmeans-paper",
    "codes − mean-difference",
    "codes-paper − mean-difference",
    "codes-paper − shuffled",
    "codes-paper − distinct",
    "codes − probe",
    "codes − distinct",
    "codes − codes-paper",
)
"""Differences of AUC that the questions are about; `combined` against the best baseline is added."""
SETTINGS = {
    "d_sae": "latents",
    "l1_coef": "λ",
    "n_training": "training examples",
    "n_counting": "counted",
    "preset": "preset",
    "fix": "one fix",
}


def tables(records: Mapping[str, Row]) -> dict[str, str]:
    named_tables = benchmark_tables(records["heads"])
    if "docstring" in records:
        named_tables["docstring-variants"] = variant_table(records["docstring"])
    if "second_look" in records:
        named_tables["second-look"] = second_look_table(records["second_look"]["models"])
    return named_tables


def benchmark_tables(document: Row) -> dict[str, str]:
    """The tables of the benchmark of all methods."""
    summary, parts = document["summary"], document["parts"]
    named_tables: dict[str, str] = {}
    costs = {name.removeprefix("cost-"): part for name, part in parts.items() if name.startswith("cost-")}
    for kind in ("compiled", "trained", "real", "published"):
        groups = {name: row for name, row in summary.items() if name.startswith(f"{kind}-")}
        if not groups:
            continue
        for key, title in (("methods", "heads"), ("edges", "edges"), ("head_pairs", "head-pairs")):
            sections = {name.removeprefix(f"{kind}-"): row[key] for name, row in groups.items() if key in row}
            if sections:
                named_tables[f"{kind}-{title}"] = auc_table(sections)
        named_tables[f"{kind}-more"] = more_table(
            {name.removeprefix(f"{kind}-"): row["methods"] for name, row in groups.items() if "methods" in row}
        )
        named_tables[f"{kind}-differences"] = difference_table(groups)
        of_kind = {name.removeprefix(f"{kind}-"): part for name, part in parts.items() if name.startswith(f"{kind}-")}
        if of_kind:
            named_tables[f"{kind}-circuit"] = circuit_table(of_kind, costs if kind == "real" else {})
        by_mean = {name.removeprefix(f"{kind}-"): row["methods"] for name, row in groups.items()}
        if any("auc_mean_reference" in row for rows in by_mean.values() for row in rows.values()):
            named_tables[f"{kind}-mean-ablation"] = mean_table(by_mean)
    sensitivity = {name.removeprefix("sensitivity-"): part for name, part in parts.items() if "d_sae" in part}
    if sensitivity:
        named_tables["sensitivity"] = sensitivity_table(sensitivity)
    return named_tables


def variant_table(record: Row) -> str:
    """Accuracy of the embedded model on every variant of docstring's prompts; the selected one in bold."""
    body = []
    for row in record["variants"]:
        variant = DocstringVariant(**row["variant"])
        cells = [str(variant.n_before), str(variant.n_matching), str(variant.n_after), variant.names]
        cells += [_share(row["selection"]), _share(row["reporting"])]
        mark = "**" if row["variant"] == record["selected"] else ""
        body.append([f"{mark}{cell}{mark}" for cell in cells])
    return markdown(("before", "described", "after", "names", "selection prompts", "other prompts"), body)


def _share(accuracy: Row) -> str:
    low, high = accuracy["interval"]
    return f"{accuracy['share']:.1%} [{low:.1%}, {high:.1%}]"


def second_look_table(models: Mapping[str, Row]) -> str:
    """AUC, and passes as a share of exhaustive patching's, of methods with and without a second look."""
    names = list(next(iter(models.values()))["methods"])
    body = []
    for model, entry in models.items():
        rows = [entry["methods"][name] for name in names]
        body.append([model, *(f"{auc(row['auc'])}{ends(row.get('interval'))} {row['cost']:.1%}" for row in rows)])
    return markdown(("", *(f"`{name}`" for name in names)), body)


def auc_table(groups: Mapping[str, Row]) -> str:
    names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
    body = []
    for name in names:
        cells = []
        for rows in groups.values():
            row = rows.get(name)
            cells.append("–" if row is None else f"{auc(row['auc'])}{ends(row['interval'])} {seconds(row['seconds'])}")
        body.append((f"`{name}`", *cells))
    return markdown(("", *groups), body)


def circuit_table(of_kind: Mapping[str, Row], costs: Mapping[str, Row]) -> str:
    """What the first |C| heads of `combined` leave behind, over seeds mean and range; its time over patching's, over
    rounds median and range."""
    groups: dict[str, list[Row]] = {}
    for name, part in of_kind.items():
        if "completeness_of_combined" in part:
            stem = name.rsplit("-", 1)[0] if name.rsplit("-", 1)[-1].isdigit() else name
            groups.setdefault(stem, []).append(part)
    body = []
    for name, seeds in groups.items():
        completeness = [part["completeness_of_combined"] for part in seeds]
        rows = [part["methods"]["combined"] for part in seeds]
        cost = costs.get(name, {}).get("combined")
        body.append(
            (
                name,
                _range([float(part["n_members"]) for part in seeds], ".0f") + f" of {seeds[0]['n_heads']}",
                _range([float(row["n_checked"]) for row in rows], ".0f"),
                _range([row["without"] for row in completeness], ".2f") + interval_of(completeness),
                _range([row["incompleteness"] for row in completeness], ".2f"),
                "–" if cost is None else f"{cost['share']:.1%} ({cost['range'][0]:.1%} to {cost['range'][1]:.1%})",
            )
        )
    return markdown(
        ("", "heads in the reference", "checked", "left without them", "incompleteness", "time of patching's"), body
    )


def interval_of(completeness: Sequence[Row]) -> str:
    if len(completeness) > 1 or completeness[0]["without_interval"] is None:
        return ""
    low, high = (f"{value:.2f}".replace("-", "−") for value in completeness[0]["without_interval"])
    return f" [{low}, {high}]"


def _range(values: Sequence[float], form: str) -> str:
    mean, low, high = (
        format(value, form).replace("-", "−") for value in (sum(values) / len(values), min(values), max(values))
    )
    return mean if low == high else f"{mean} ({low} to {high})"


def mean_table(groups: Mapping[str, Row]) -> str:
    """AUC against the circuit that mean ablation tells."""
    names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
    aucs = [[rows.get(name, {}).get("auc_mean_reference") for rows in groups.values()] for name in names]
    cells = [["–" if value is None else auc(value) for value in row] for row in aucs]
    return markdown(("", *groups), [(f"`{name}`", *row) for name, row in zip(names, cells, strict=True)])


def more_table(groups: Mapping[str, Row]) -> str:
    """AP, precision at |C|, CPR, CMD, and the prompts used."""
    names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
    body = []
    for name in names:
        method_rows = [rows.get(name) for rows in groups.values()]
        cells = [
            "–"
            if row is None
            else f"{auc(row['average_precision'])} {auc(row['precision_at_c'])} "
            f"{row['cpr']:.2f} {row['cmd']:.2f} ({row['n_prompts']:.0f})"
            for row in method_rows
        ]
        body.append((f"`{name}`", *cells))
    return markdown(("", *groups), body)


def difference_table(groups: Mapping[str, Row]) -> str:
    body = []
    for name in TABLE_DIFFERENCES:
        cells = [difference(row["differences"].get(name)) for row in groups.values()]
        if any(cell != "–" for cell in cells):
            body.append((name, *cells))
    best = []
    for row in groups.values():
        baseline = row["best_baselines"].get("")
        text = difference(row["differences"].get(f"combined − {baseline}"))
        best.append("–" if text == "–" else f"{text} (`{baseline}`)")
    return markdown(("", *groups), [*body, ("combined − the best baseline", *best)])


def sensitivity_table(rows_by_model: Mapping[str, Row]) -> str:
    body = []
    for setting, label in SETTINGS.items():
        for where, rows in rows_by_model.items():
            cells = [
                f"{_name(row['value'])}: {'–' if row['auc'] is None else auc(row['auc'])}" for row in rows[setting]
            ]
            body.append((label, where, ", ".join(cells)))
    return markdown(("", "model", "value: AUC"), body)


def _name(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def auc(value: float) -> str:
    """Three digits, without the zero before the point; 1.00 where these would be 1."""
    return f"{value:.2f}" if round(value, 3) >= 1 else f"{value:.3f}"[1:]


def ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{auc(interval[0])}, {auc(interval[1])}]"


def seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 9.5 else f"{value:.1f} s"


def difference(row: Row | None) -> str:
    if row is None:
        return "–"
    signed = [
        f"{value:+.3f}".replace("0.", ".", 1).replace("-", "−")
        for value in (row["difference"], *(row["interval"] or ()))
    ]
    return signed[0] + (f" [{signed[1]}, {signed[2]}]" if len(signed) > 1 else "")
