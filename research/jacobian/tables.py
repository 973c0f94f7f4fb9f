"""The tables of README.md, from results/jacobian.json and results/step.json.

Cells: value ± half the width of the 95% interval over documents, or value [interval]; in the table of seeds ± is their
standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from research.jacobian.collect import shapes
from research.markdown import interval, markdown

Row = Mapping[str, Any]
MEASURES = {
    "over_0.01": "\\|J\\| > .01",
    "scaled_over_0.01": "> .01 RMS",
    "scaled_over_0.1": "> .1 RMS",
    "scaled_over_1": "> 1 RMS",
    "share_of_90": "90% of Σ\\|J\\| in",
    "token_share_of_90": "90% within a token in",
}
AGAINST_RANDOM = ("over_0.01", "scaled_over_0.1", "scaled_over_1", "share_of_90")
SIDES = ("in", "out")


def tables(records: Mapping[str, Row]) -> dict[str, str]:
    document = records["jacobian"]
    rows = document["frontier"]
    named_tables = {
        "cost": cost_table(rows),
        "sparsity": sparsity_table(rows),
        "factors": factor_table(rows),
        "starts": start_table(document["published_starts"], rows),
        "behaviour": behaviour_table(rows),
        "step": step_table(records["step"]["results"]),
    }
    if "seeds" in document["checks"]:
        named_tables["seeds"] = seeds_table(document["checks"], document["config"]["jacobian"]["token_share"])
    if document.get("random"):
        named_tables["matched"] = matched_table(document["random"])
        named_tables["random"] = random_table(document["random"])
        named_tables["reduction"] = reduction_table(document["random"])
        named_tables["levels"] = level_table([*document["against_random"], *rows], document["random_frontiers"])
    if document.get("interpretability"):
        named_tables["labels"] = label_table(document["interpretability"])
    if document.get("pairs"):
        named_tables["pairs"] = pairs_table(document["pairs"])
    return named_tables


def cost_table(rows: Iterable[Row]) -> str:
    heads = ("λ", "VE in", "VE out", "CE score in", "CE score out", "CE cost", "dead in", "dead out")
    sides = [f"{measure}_{side}" for measure in ("variance_explained", "ce_score") for side in SIDES]
    return markdown(
        heads,
        (
            (
                f"{row['lambda']:g}",
                *(spread(row[side], number) for side in sides),
                span(row["ce_cost"], number),
                *(spread(row[f"dead_fraction_{side}"], percent) for side in SIDES),
            )
            for row in rows
        ),
    )


def sparsity_table(rows: Iterable[Row]) -> str:
    kurtoses = ("kurtosis", "scaled_kurtosis")
    return markdown(
        ("λ", *MEASURES.values(), "kurtosis", "scaled kurtosis"),
        (
            (
                f"{row['lambda']:g}",
                *(spread(row["estimates"][name], percent) for name in MEASURES),
                *(spread(row["estimates"][name], lambda v: f"{v:.0f}") for name in kurtoses),
            )
            for row in rows
        ),
    )


def factor_table(rows: Iterable[Row]) -> str:
    return markdown(
        ("λ", *MEASURES.values()),
        (
            (f"{row['lambda']:g}", *(span(row["reduction"].get(name), times) for name in MEASURES))
            for row in rows
            if row["lambda"] > 0
        ),
    )


def start_table(starts: Row, rows: Sequence[Row]) -> str:
    """Shares above the size that as many exceed at λ = 0 as exceeded .01 in a paper's model."""
    heads = (
        "λ",
        *(f"\\|J\\| > {start['size']:.3f} (as {model})" for model, start in starts.items()),
        "CE score lost: in",
        "out",
    )
    base = next(row for row in rows if row["lambda"] == 0)
    body = []
    for row in rows:
        key = f"{row['lambda']:g}"
        factors = [share_and_factor(start["shares"]["0"], start["shares"][key]) for start in starts.values()]
        lost = [number(base[side]["value"] - row[side]["value"]) for side in ("ce_score_in", "ce_score_out")]
        body.append((key, *factors, *lost))
    lambdas = " and ".join(f"{start['lambda']:g}" for start in starts.values())
    reported = [
        f"{share_and_factor(*start['reported'])}, from {percent(start['reported'][0])}" for start in starts.values()
    ]
    return markdown(heads, [*body, (f"reported, their λ {lambdas}", *reported, "", "")])


def share_and_factor(before: float, after: float) -> str:
    return f"{percent(after)} ({times(before / after)})" if after > 0 else percent(after)


def behaviour_table(rows: Iterable[Row]) -> str:
    """`pairs > .01`: of all pairs of latents, those whose mean |J| is above .01, in a million."""
    shapes = ("linear", "flat", "jumprelu", "other")
    heads = (
        "λ",
        "linear",
        "flat",
        "JumpReLU-shaped",
        "other",
        "linear of those not flat",
        "ablation ρ",
        "R²",
        "pairs > .01, in a million",
    )
    body = []
    for row in rows:
        linearity = row["linearity"]
        rest = linearity["linear"]["value"] / (1 - linearity["flat"]["value"])
        body.append(
            (
                f"{row['lambda']:g}",
                *(spread(linearity[shape], percent) for shape in shapes),
                percent(rest),
                span(row["ablation"]["rank_correlation"], number),
                span(row["ablation"]["r_squared"], number),
                span(row["average_over"]["0.01"], lambda v: f"{1e6 * v:.2g}"),
            )
        )
    return markdown(heads, body)


def seeds_table(checks: Row, token_share: float) -> str:
    """Mean ± standard deviation over seeds; at the studied λ also what measuring on a share of the tokens changes, ±
    its standard error."""
    both = checks["seeds"]
    against = checks.get("a random share of the tokens against all", {})
    heads = ["measure", *(f"{at} ({next(iter(by_measure.values()))['n']} seeds)" for at, by_measure in both.items())]
    body = []
    for name in next(iter(both.values())):
        means = [
            f"{estimate['mean']:.4f} ± {estimate['sd']:.4f}" if estimate["sd"] is not None else "–"
            for estimate in (at[name] for at in both.values())
        ]
        change = against.get(name, {})
        change_cells = ["–" if change.get("change") is None else f"{change['change']:+.4f}"]
        change_cells[0] += "" if change.get("standard error") is None else f" ± {change['standard error']:.4f}"
        change_cells += [
            "–" if change.get("difference of two seeds") is None else f"{change['difference of two seeds']:.4f}"
        ]
        body.append((MEASURES.get(name, name.replace("_", " ")), *means, *change_cells))
    return markdown((*heads, f"a share of {token_share:g} less every token", "two seeds differ by"), body)


def matched_table(rows: Iterable[Row]) -> str:
    heads = ("random model", "λ", "its L0", "matched", "VE in: trained, random", "VE out: trained, random", "mean VE")
    body = []
    for row in rows:
        sides = [f"{number(row['explained'][s]['trained'])}, {number(row['explained'][s]['random'])}" for s in SIDES]
        levels = " to ".join(f"{v:g}" for v in row["l0_random"])
        means = f"{number(row['variance_explained'])}, {number(row['variance_explained_random'])}"
        body.append((row["kind"], f"{row['lambda']:g}", levels, "yes" if row["matched"] else "no", *sides, means))
    return markdown(heads, body)


def random_table(rows: Sequence[Row]) -> str:
    """One row a λ and measure: the trained model, then every random one; <, > where the intervals do not overlap."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    body = []
    for coef in dict.fromkeys(row["lambda"] for row in rows):
        by_kind = {row["kind"]: row for row in rows if row["lambda"] == coef}
        for name in AGAINST_RANDOM:
            comparisons = {kind: row["measures"][name] for kind, row in by_kind.items()}
            trained = spread(next(iter(comparisons.values()))["trained"], percent)
            cells = [
                f"{mark(comparison['verdict'])}{spread(comparison['random'], percent)}"
                for comparison in comparisons.values()
            ]
            body.append((f"{coef:g}", MEASURES[name], trained, *cells))
    return markdown(("λ", "", "trained", *kinds), body)


def reduction_table(rows: Sequence[Row]) -> str:
    """How many times fewer with the penalty; not matched: one of the two random pairs was not."""
    reduced = [row for row in rows if row["lambda"] > 0 and row["reduction"]]
    body = []
    for row in reduced:
        cells = []
        for name in AGAINST_RANDOM:
            comparison = row["reduction"][name]
            trained, random = (span(comparison[side], times) for side in ("trained", "random"))
            cells.append(f"{trained} {mark(comparison['verdict']) or 'against '}{random}")
        body.append((row["kind"], f"{row['lambda']:g}", "yes" if row["reduction_matched"] else "no", *cells))
    return markdown(("random model", "λ", "matched", *(MEASURES[name] for name in AGAINST_RANDOM)), body)


def level_table(trained: Iterable[Row], random: Mapping[str, Sequence[Row]]) -> str:
    """Every pair without penalty, of the trained and of the random models: what is free of scale, and curves."""
    body = []
    for model, rows in {"trained": trained, **random}.items():
        for row in (row for row in rows if row["lambda"] == 0):
            explained = [number(row[f"variance_explained_{side}"]["value"]) for side in SIDES]
            estimates = row["estimates"]
            body.append(
                (
                    model,
                    f"{row['l0']:g}",
                    *explained,
                    spread(estimates["scaled_over_1"], percent),
                    spread(estimates["share_of_90"], percent),
                    span(estimates["scaled_kurtosis"], lambda v: f"{v:.1f}"),
                    percent(shapes(row)["linear of those not flat"]),
                )
            )
    heads = (
        "model",
        "L0",
        "VE in",
        "VE out",
        "> 1 RMS",
        "90% of Σ\\|J\\| in",
        "scaled kurtosis",
        "linear of those not flat",
    )
    return markdown(heads, body)


def label_table(rows: Iterable[Row]) -> str:
    heads = ("λ", "site", "scored", "label AUROC", "above .8", "with hidden state", "above .8", "top token alone")
    return markdown(
        heads,
        (
            (
                f"{row['lambda']:g}",
                row["site"].rsplit(".", 1)[-1],
                f"{row['n_label']:,}",
                *(
                    spread(row[key], how)
                    for key, how in (
                        ("label_auroc", number),
                        ("label_good", percent),
                        ("combined_auroc", number),
                        ("combined_good", percent),
                        ("top_token_auroc", number),
                    )
                ),
            )
            for row in rows
        ),
    )


def pairs_table(document: Row) -> str:
    """Output latents with their strongest input latents: share of the effect, tokens, and the strongest text."""
    body = []
    for output in document["outputs"]:
        for pair in output["inputs"]:
            text = context(pair["examples"][0]) if pair["examples"] else "–"
            body.append(
                (f"{output['latent']}", f"{pair['latent']}", percent(pair["share"]), f"{pair['n_tokens']:,}", text)
            )
    return markdown(("output latent", "input latent", "of its effect", "both active on", "strongest token"), body)


def context(example: Row, around: int = 6) -> str:
    """The tokens around the strongest one, which is bold."""
    at = example["at"]
    texts = []
    for place in range(max(0, at - around), min(len(example["tokens"]), at + around + 1)):
        token = example["tokens"][place].replace("\n", "⏎").replace("|", "\\|").replace("*", "\\*")
        stripped = token.strip()
        texts.append(token.replace(stripped, f"**{stripped}**") if place == at and stripped else token)
    return "".join(texts).strip()


def mark(verdict: str) -> str:
    """Trained below (<) or above (>) random; nothing where intervals overlap or are not known."""
    return {"trained below": "< ", "random below": "> "}.get(verdict, "")


def span(estimate: Row | None, how: Callable[[float], str]) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    ends = estimate["interval"]
    return how(estimate["value"]) + ("" if ends is None else f" [{how(ends[0])}, {how(ends[1])}]")


def spread(estimate: Row | None, how: Callable[[float], str]) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    ends = estimate["interval"]
    return how(estimate["value"]) + ("" if ends is None else f" ± {how((ends[1] - ends[0]) / 2)}")


def number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def times(value: float) -> str:
    return f"{value:.2f}×"


def step_table(results: Sequence[Row]) -> str:
    titles = {
        "pair without penalty": "pair without penalty",
        "pair, penalty on 1 of the tokens": "pair, penalty on every token",
        "pair, penalty on 0.25 of the tokens": "on a random quarter",
        "pair, penalty on 0.125 of the tokens": "on a random eighth",
        "pair, penalty within 250 MB": "every token, at most 250 MB",
        "pair, penalty within 150 MB": "every token, at most 150 MB",
        "slopes of the MLP": "of it: slopes of the MLP",
        "products of weights": "products of weights, once a batch",
        "slices": "slices",
        "gradient of the tables": "gradient of the tables",
        "gradient of the weights": "gradient of the weights",
        "rest": "the rest",
    }
    by_batch = [{row["name"]: row for row in result["rows"]} for result in results]
    rows = []
    for name, title in titles.items():
        cells = []
        for measured in by_batch:
            row = measured.get(name)
            text = interval(row["ratio"], (row["ratio_low"], row["ratio_high"]), ".2f") if row else "refused"
            cells.append(text.replace("-", "−").replace("−0.00", "0.00"))
        rows.append([title, *cells])
    return markdown(["", *(f"batch {result['batch']:,}" for result in results)], rows)
