"""The report's section on pairs of SAEs: frontier, sizes of the Jacobian, random models, strongest pairs with texts.

Place on the data's path: jacobian/*.json of a run folder → HTML and figures. A run without measured pairs has no such
section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monosemy.circuits.jacobian.figures import magnitudes, trade_off
from monosemy.circuits.jacobian.layout import StudyFiles
from monosemy.circuits.jacobian.study_file import read_study
from monosemy.errors import UserError
from monosemy.report.canvas import Drawing
from monosemy.report.markup import Cell, Html, bullets, details, escape, figure, join, table
from monosemy.report.sections import Section
from monosemy.support.numbers import (
    DASH,
    count_text,
    fixed_percent_text,
    fixed_text,
    rounded_text,
    setting_text,
    value_text,
)

ANCHOR, TITLE = "jacobian", "Pairs around the MLP: sparse computation"
N_OUTPUTS, N_EXAMPLES, LEVELS = 12, 2, 5
MEASURES = (("over_0.01", "|J| > .01"), ("scaled_over_0.1", "|J| > .1 RMS"), ("share_of_90", "90% of Σ|J| in"))
Estimate = Mapping[str, Any]


@dataclass(frozen=True)
class Jacobian:
    """The results of a run's studies, as read from their files."""

    rows: Sequence[Mapping[str, Any]]
    chosen_name: str | None
    histograms: Mapping[str, Sequence[int]]
    """Pair → elements per bin of |J|."""
    random: Mapping[str, Any] = field(default_factory=dict)
    pairs: Sequence[Mapping[str, Any]] = ()
    scores: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    """Caveats about single pairs (`frontier.short_notes`)."""

    @property
    def main(self) -> list[Mapping[str, Any]]:
        """The rows of the first L0 and seed, by λ."""
        first = self.rows[0]
        return [row for row in self.rows if (row["l0"], row["seed"]) == (first["l0"], first["seed"])]


def read_jacobian(run_folder: Path) -> Jacobian | None:
    """The studies of a run; None where its pairs were not measured. Raises UserError for a damaged file.

    Results of SAEs other than those measured last, left from before the run was trained again, are ignored.
    """
    study = StudyFiles.of_run(run_folder)
    if not study.frontier.exists():
        return None
    again = f"`monosemy jacobian measure {run_folder} --again` writes it anew"
    try:
        frontier = read_study(study.frontier)
        names = [row["name"] for row in frontier["rows"]]
        measures = {name: read_study(study.pair(name).measures) for name in names}
        pairs = {name: read_study(p) for name in names if (p := study.pair(name).pairs).exists()}
        others = [read_study(p) if p.exists() else {} for p in (study.random, study.interpretability)]
        # Results over several pairs carry the fingerprint of those pairs; another one means other SAEs.
        random, scores = (document if document.get("of") == frontier["of"] else {} for document in others)
        return Jacobian(
            rows=frontier["rows"],
            chosen_name=frontier["chosen"],
            histograms={name: measure["histogram"] for name, measure in measures.items()},
            random=random,
            pairs=[document for name, document in pairs.items() if document["weights"] == measures[name]["weights"]],
            scores=scores.get("rows", ()),
            notes=frontier.get("notes", ()),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"a file in {study.folder} is damaged ({type(error).__name__}: {error}); {again}") from None
    except UserError as error:
        raise UserError(f"{error}; {again}") from None


def read_section(run_folder: Path) -> Section | None:
    """The report's section for a run whose pairs were measured; None for any other run.

    Raises UserError for a damaged file.
    """
    studies = read_jacobian(run_folder)
    if studies is None:
        return None
    drawn = drawings(studies)
    return Section(ANCHOR, TITLE, section(studies, drawn), drawn)


def drawings(studies: Jacobian) -> dict[str, Drawing]:
    """The figures by name: `magnitudes`, and `trade_off` where there are several λ."""
    drawn = {"magnitudes": magnitudes(_drawn_histograms(studies))}
    if len(studies.main) > 1:
        drawn["trade_off"] = trade_off(studies.main)
    return drawn


def _drawn_histograms(studies: Jacobian) -> list[tuple[str, Sequence[int]]]:
    """The histograms to draw, each with its name; at most six.

    Of the trained model: the pair without penalty and one with it. That one's λ is the largest that random models have
    too, else the chosen one, else the smallest. Of random models: every kind without penalty, the first kind also with
    it; at the trained model's L0 or, where they have no pair of that L0, at the lower of the two L0s between which they
    were matched.
    """
    names = {row["lambda"]: row["name"] for row in studies.main}
    l0 = studies.main[0]["l0"]
    levels = {(row["kind"], row["lambda"]): min(row["l0_random"]) for row in studies.random.get("rows", ())}
    random: dict[tuple[str, float], tuple[float, Sequence[int]]] = {}
    # Of each kind of random model and λ, the pair at the trained L0, else at the lower L0 of the match.
    for kind, histograms in studies.random.get("histograms", {}).items():
        level = l0 if l0 in {pair["l0"] for pair in histograms} else None
        for pair in histograms:
            if pair["l0"] == (level or levels.get((kind, pair["lambda"]))):
                random[kind, pair["lambda"]] = pair["l0"], pair["histogram"]
    shared = [coef for _, coef in random if coef > 0 and coef in names]
    chosen_coefs = [coef for coef, name in names.items() if coef > 0 and name == studies.chosen_name]
    others = [max(shared)] if shared else chosen_coefs or sorted(coef for coef in names if coef > 0)[:1]
    curves = [
        (f"trained model, {_penalty(coef)}", studies.histograms[names[coef]]) for coef in (0, *others) if coef in names
    ]
    kinds = list(dict.fromkeys(kind for kind, _ in random))
    for kind, coef in [*((kind, 0) for kind in kinds), *((kind, coef) for kind in kinds[:1] for coef in others)]:
        if (kind, coef) in random:
            own, histogram = random[kind, coef]
            at = "" if own == l0 else f", L0 {setting_text(own)}"
            curves.append((f"{kind} random model{at}, {_penalty(coef)}", histogram))
    return curves


def _penalty(coef: float) -> str:
    return "no penalty" if coef == 0 else f"λ = {setting_text(coef)}"


def section(studies: Jacobian, drawn: Mapping[str, Drawing]) -> Html:
    """The section's HTML; `drawn`: the figures that `drawings` returned."""
    parts = [
        Html('<section id="{}"><h2>{}</h2>').format(ANCHOR, TITLE),
        Html("<p>{}</p>").format(_what(studies)),
        bullets([*_findings(studies), *studies.notes]),
        figure(drawn["trade_off"]) if "trade_off" in drawn else Html(),
        _frontier(studies),
        details("Linearity, ablation and averages over all pairs of latents", _behaviour(studies)),
        Html("<h3>Size of the elements</h3>"),
        figure(drawn["magnitudes"]),
    ]
    if studies.random.get("rows"):
        parts += [Html("<h3>Trained against randomised models</h3>"), _random(studies.random["rows"])]
    if studies.scores:
        parts += [Html("<h3>Do labels describe the latents?</h3>"), _scores(studies.scores)]
    for document in studies.pairs:
        parts.append(_pairs(document))
    if not studies.pairs:
        command = f"monosemy jacobian pairs RUN --pair {studies.chosen_name or studies.rows[0]['name']}"
        parts.append(Html("<p>Strongest pairs of latents, with texts: <code>{}</code></p>").format(command))
    return join([*parts, Html("</section>")], "\n")


def _what(studies: Jacobian) -> str:
    first = studies.rows[0]
    return (
        f"Each pair is an SAE at {first['sites'][0]} and one at {first['sites'][1]}, trained together. J is the "
        "derivative of an active output latent by an active input latent, through the MLP; λ is the weight of its mean "
        f"size in the loss. Measured on {count_text(first['n_tokens'])} validation tokens of "
        f"{count_text(first['n_documents'])} documents."
    )


def _findings(studies: Jacobian) -> list[str]:
    """Sentences on what the chosen pair achieves, computed from the numbers."""
    base = next((row for row in studies.main if row["lambda"] == 0), None)
    if base is None:
        return ["There is no pair without penalty (λ = 0), so nothing says what the penalty changes."]
    row = next((row for row in studies.rows if row["name"] == studies.chosen_name), None)
    if row is None:
        return ["The CE scores of some pairs are missing, so no λ was chosen."]
    if row is base:
        return ["Every λ > 0 that was trained costs more than .02 of the CE score."]
    cost = _number(row["ce_cost"]).text
    sentences = [
        f"λ = {setting_text(row['lambda'])} is the largest that costs at most .02 of the CE score: it costs {cost}."
    ]
    for measure, condition in (("over_0.01", "|J| > .01"), ("scaled_over_0.1", "|J| > .1 of the token's RMS")):
        ends = f"{_percent(base['estimates'][measure])} to {_percent(row['estimates'][measure])}"
        sentences.append(f"There, elements with {condition} go from {ends}{_times(row['reduction'][measure])}.")
    return sentences


def _times(reduction: Estimate) -> str:
    """The end of a sentence, such as `, 4.1 [3.9, 4.4] times fewer`; `more` for a factor below 1."""
    value, ends = reduction["value"], reduction["interval"]
    if value is None:
        return ""
    if value < 1:
        # "0.5 times fewer" reads badly: say "2 times more", with the interval's ends exchanged.
        value, ends = 1 / value, ends and [1 / ends[1], 1 / ends[0]]
    return f", {value_text(value, ends)} times {'fewer' if reduction['value'] >= 1 else 'more'}"


def _frontier(studies: Jacobian) -> Html:
    """The table of all pairs: what they explain and cost, and how sparse their Jacobians are."""
    headings = [
        "λ",
        "L0",
        "Seed",
        "Variance explained, in",
        "out",
        "CE score, in",
        "out",
        "CE cost",
        "|J| > .01",
        "fewer by",
        "|J| > .1 RMS",
        "fewer by",
        "90% of Σ|J| in",
        "Kurtosis",
        "Kurtosis, scaled",
    ]
    rows: list[list[Cell | str]] = []
    for row in studies.rows:
        estimates, fewer = row["estimates"], row["reduction"]
        cells = _pair_cells(row)
        cells += [_number(row[key]) for key in ("variance_explained_in", "variance_explained_out")]
        cells += [_number(row[key]) for key in ("ce_score_in", "ce_score_out", "ce_cost")]
        cells += [_share(estimates["over_0.01"]), _factor(fewer.get("over_0.01"))]
        cells += [_share(estimates["scaled_over_0.1"]), _factor(fewer.get("scaled_over_0.1"))]
        cells += [
            _share(estimates["share_of_90"]),
            _number(estimates["kurtosis"], 1),
            _number(estimates["scaled_kurtosis"], 1),
        ]
        rows.append(cells)
    return table(
        "Every pair: what it explains, what it costs, how sparse its Jacobian is (95% intervals)", headings, rows
    )


def _pair_cells(row: Mapping[str, Any]) -> list[Cell | str]:
    """The first cells of a pair's row: λ, L0 and seed."""
    return [setting_text(row["lambda"]), Cell(setting_text(row["l0"]), row["l0"]), str(row["seed"])]


def _behaviour(studies: Jacobian) -> Html:
    """The table of curves, ablation and averages of all pairs."""
    headings = [
        "λ",
        "L0",
        "Seed",
        "Linear",
        "JumpReLU-shaped",
        "Flat",
        "Other",
        "Ablation: rank correlation",
        "R²",
        "Pairs of latents with mean |J| > .01",
    ]
    rows: list[list[Cell | str]] = []
    for row in studies.rows:
        shapes, ablation = row["linearity"], row["ablation"]
        cells = _pair_cells(row)
        cells += [_share(shapes[shape]) for shape in ("linear", "jumprelu", "flat", "other")]
        cells += [_number(ablation["rank_correlation"]), _number(ablation["r_squared"])]
        cells.append(_share(row["average_over"].get("0.01", {"value": None})))
        rows.append(cells)
    return table(
        "An output latent along one input latent; J·s against the effect of ablating; averages over the data",
        headings,
        rows,
    )


def _random(rows: Sequence[Mapping[str, Any]]) -> Html:
    """The comparison with randomised models: what it is, and its two tables."""
    headings = ["Random model", "λ", "Variance explained", "in, trained", "random", "out, trained", "random"]
    headings.append("L0 there")
    measures = (*MEASURES, ("kurtosis", "Kurtosis"))
    for _, title in measures:
        headings += [f"{title}, trained", "random", "Which"]
    cells: list[list[Cell | str]] = []
    for row in rows:
        explained = fixed_text(row["variance_explained"], 3)
        if not row["matched"]:
            explained += f", not matched: {fixed_text(row['variance_explained_random'], 3)}"
        line: list[Cell | str] = [row["kind"], setting_text(row["lambda"]), explained]
        line += [
            fixed_text(row["explained"][side][model], 3) for side in ("in", "out") for model in ("trained", "random")
        ]
        line.append(" to ".join(setting_text(l0) for l0 in row["l0_random"]))
        for measure, _ in measures:
            models = row["measures"][measure]
            cell = _share if measure != "kurtosis" else _kurtosis
            line += [cell(models["trained"]), cell(models["random"]), models["verdict"]]
        cells.append(line)
    explanation = (
        "The random model's pairs were trained at several L0s and are compared where they explain as much of the "
        "variance, as the mean of both SAEs, as the trained model's pair. Intervals resample documents; each row rests "
        "on one draw of the random weights and one seed."
    )
    first = table("Trained against randomised models", headings, cells)
    return Html("<p>{}</p>{}{}").format(explanation, first, _random_reductions(rows))


def _random_reductions(rows: Sequence[Mapping[str, Any]]) -> Html:
    """The table of the factors by which the penalty lowers each measure, in both models."""
    headings = ["Random model", "λ", "Matched at both λ"]
    for _, title in MEASURES:
        headings += [f"{title} fewer by, trained", "random", "Falls more"]
    more = {"trained below": "random", "random below": "trained"}
    cells: list[list[Cell | str]] = []
    for row in (row for row in rows if row["lambda"] > 0 and row["reduction"]):
        line: list[Cell | str] = [row["kind"], setting_text(row["lambda"]), "yes" if row["reduction_matched"] else "no"]
        for measure, _ in MEASURES:
            models = row["reduction"][measure]
            verdict = more.get(models["verdict"], models["verdict"])
            line += [_factor(models["trained"]), _factor(models["random"]), verdict]
        cells.append(line)
    return table("What the penalty changes, against λ = 0 of the same model", headings, cells) if cells else Html()


def _kurtosis(estimate: Estimate) -> Cell:
    return _number(estimate, 1)


def _scores(rows: Sequence[Mapping[str, Any]]) -> Html:
    """The table of label scores, one row per SAE."""
    headings = [
        "λ",
        "Site",
        "Latents scored",
        "Label AUROC",
        "above .8",
        "with hidden state",
        "above .8",
        "Top token alone",
    ]
    cells: list[list[Cell | str]] = [
        [
            setting_text(row["lambda"]),
            row["site"],
            Cell(count_text(row["n_label"]), row["n_label"]),
            _number(row["label_auroc"]),
            _share(row["label_good"]),
            _number(row["combined_auroc"]),
            _share(row["combined_good"]),
            _number(row["top_token_auroc"]),
        ]
        for row in rows
    ]
    return table("Label scores on held-out documents, mean over latents (95% over latents)", headings, cells)


def _pairs(document: Mapping[str, Any]) -> Html:
    """The strongest pairs as a table; tokens are shaded by the input latent and underlined by the output latent."""
    head = (
        f"Strongest pairs of {document['name']}: output latents most of whose effect comes through one input latent, "
        f"averaged over {count_text(document['n_average_tokens'])} training tokens, with texts out of "
        f"{count_text(document['n_tokens'])}"
    )
    rows = join(_pair_rows(output) for output in document["outputs"][:N_OUTPUTS])
    legend = Html(
        '<p>Background: <span class="a5">input latent</span>; underline: <span class="u5">output latent'
        "</span>; bold: the token with the largest |J|·s.</p>"
    )
    headings = ("Output latent", "Input latent", "Share of its effect", "J·s", "Text")
    cells = join(Html('<th scope="col">{}</th>').format(heading) for heading in headings)
    return Html(
        "<h3>{head}</h3>{legend}"
        '<div class="scroll" tabindex="0" role="region" aria-label="{head}"><table class="pairs"><thead>'
        "<tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    ).format(head=head, legend=legend, cells=cells, rows=rows)


def _pair_rows(output: Mapping[str, Any]) -> Html:
    """The table rows of one output latent: its input latents with their texts."""
    lines = []
    line = Html(
        '<tr><th scope="row">{}</th><td>{}</td><td class="n">{}</td><td class="n">{}</td><td class="text">{}</td></tr>'
    )
    for source in output["inputs"]:
        for place, example in enumerate(source["examples"][:N_EXAMPLES]):
            first = place == 0
            ends = (_latent(output), _latent(source)) if first else ("", "")
            numbers = (fixed_percent_text(source["share"]), fixed_text(example["effect"], 2, signed=True))
            lines.append(line.format(*ends, *numbers, _tokens(example)))
    return join(lines)


def _latent(latent: Mapping[str, Any]) -> Html:
    label = Html(' <span class="label">{}</span>').format(latent["label"]) if latent.get("label") else Html()
    return Html("{}{}").format(latent["latent"], label)


def _tokens(example: Mapping[str, Any]) -> Html:
    """The tokens of an example as HTML, shaded and underlined by the two latents' activations."""
    top_in, top_out = max(example["in_values"]) or 1.0, max(example["out_values"]) or 1.0
    spans: list[Html] = []
    columns = zip(example["tokens"], example["in_values"], example["out_values"], strict=True)
    for place, (token, s_in, s_out) in enumerate(columns):
        text = escape(token.replace("\n", "⏎"))
        classes = [
            f"{letter}{level}"
            for letter, level in (("a", _level(s_in, top_in)), ("u", _level(s_out, top_out)))
            if level
        ]
        inner = Html("<b>{}</b>").format(text) if place == example["at"] else text
        if classes:
            title = f"input latent {rounded_text(s_in, 2)}, output latent {rounded_text(s_out, 2)}"
            inner = Html('<span class="{}" title="{}">{}</span>').format(" ".join(classes), title, inner)
        spans.append(inner)
    return join(spans)


def _level(value: float, top: float) -> int:
    """The shade of an activation, 1 to LEVELS; 0 where the latent is not active."""
    return 0 if value <= 0 else max(1, round(value / top * LEVELS))


def _number(estimate: Estimate, decimals: int = 3) -> Cell:
    return _cell(estimate, decimals=decimals)


def _share(estimate: Estimate) -> Cell:
    return _cell(estimate, scale=100, unit="%")


def _factor(estimate: Estimate | None) -> Cell:
    return _cell(estimate, unit="×") if estimate else Cell(DASH, float("nan"))


def _cell(estimate: Estimate, *, decimals: int | None = None, scale: float = 1, unit: str = "") -> Cell:
    """A value with its interval, times `scale`; sorted by value. A dash where there is none."""
    value = estimate["value"]
    text = value_text(value, estimate.get("interval"), decimals=decimals, scale=scale, unit=unit)
    return Cell(text, float("nan") if value is None else scale * value)


def _percent(estimate: Estimate) -> str:
    return _share(estimate).text
