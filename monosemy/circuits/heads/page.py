"""The page of a circuit, and the rows of its tables, which the terminal shows too.

Place on the path: `Circuit` → [circuit.json, circuit.svg, circuit.png, circuit.html] in one folder. The page is one
self-contained file, with the drawing in a light and a dark version.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from monosemy import __version__
from monosemy.circuits.heads.drawing import Palette, draw_circuit, edges_to_draw
from monosemy.circuits.heads.roles import CHANNELS, about, example_rows, role_of
from monosemy.report.canvas import Drawing, render
from monosemy.report.markup import Cell, Html, bullets, details, facts, figure, join, page, table
from monosemy.report.theme import LIGHT, Theme, matplotlib_settings
from monosemy.support.files import atomic_path, write_json, write_text
from monosemy.support.numbers import DASH, counted_text, fixed_percent_text, fixed_text, rounded_text

if TYPE_CHECKING:
    from monosemy.circuits.heads.circuit import Circuit
    from monosemy.circuits.heads.scores import HeadScores
    from monosemy.evals.intervals import Interval

N_SHOWN = 20
"""How many heads are listed, where the circuit has no more members than that, and how many edges unfolded."""
METRICS_IN_WORDS = {
    "logit_difference": "the mean logit of the right answers minus that of the wrong ones",
    "probability_difference": "the probability of the right answers minus that of the wrong ones",
    "logit_minus_best_wrong": "the mean logit of the right answers minus the largest of a wrong one",
}
REPLACED_BY = {"resample": "the counterpart's", "mean": "its mean over all counterparts", "zero": "nothing"}
"""What replaces an ablated value, in the page's words."""


def summary(circuit: Circuit) -> str:
    """A sentence: how many heads the circuit has and what they carry, or that the method names none."""
    if not circuit.heads.signed or circuit.heads.intervals is None:
        return f"{circuit.heads.method} ranks heads and names no circuit, so no edges were measured" + (
            "; those shown are of codes that occur together on prompts only, not on their counterparts"
            if circuit.code_edges
            else ""
        )
    if circuit.carried is None:
        return "no head's effect is large and clear enough to count as the circuit's"
    carried = circuit.carried
    sides = [
        _share_text(share, interval)
        for share, interval in ((carried.alone, carried.alone_interval), (carried.without, carried.without_interval))
    ]
    return (
        f"{counted_text(len(circuit.members), 'head')} in the circuit: of the behaviour that replacing all heads "
        f"takes away, {sides[0]} stays when only the heads outside the circuit are replaced, and {sides[1]} when only "
        "those of the circuit are"
    )


def _share_text(share: float, interval: Interval) -> str:
    """A share as per cent with its interval, if it has one: `83% [79%, 88%]`."""
    ends = f" [{fixed_percent_text(interval[0])}, {fixed_percent_text(interval[1])}]" if interval else ""
    return fixed_percent_text(share) + ends


def method_heading(circuit: Circuit) -> tuple[str, ...]:
    """The headings of `method_rows`."""
    auc_columns = [f"AUC, {version.version}" for version in circuit.published]
    seconds = ("seconds", "of it reading")
    return ("method", *seconds, "rank correlation", *auc_columns, "shared among the first", "first heads")


def heads_heading(circuit: Circuit) -> tuple[str, ...]:
    """The headings of `head_rows`."""
    signed = circuit.heads.signed
    return (
        ("head", "effect", "95% interval", "share of the difference", "in the circuit")
        if signed
        else ("head", "score", "95% interval, low by construction", "share of the difference", "in the circuit")
    )


def head_rows(circuit: Circuit) -> list[tuple[str, ...]]:
    """The rows of the first heads: name, score, interval, share of m(clean) − m(corrupt), membership."""
    difference = circuit.m_clean - circuit.m_corrupt
    rows: list[tuple[str, ...]] = []
    for index in circuit.ranked()[: max(N_SHOWN, len(circuit.members))]:
        score = float(circuit.heads.scores[index])
        if score == 0:
            break
        share = fixed_percent_text(score / difference, 1, signed=True) if circuit.heads.signed else DASH
        member = "yes" if index in circuit.members else "no" if circuit.heads.signed else DASH
        if circuit.heads.checked is not None and index not in circuit.heads.checked:
            member += ", by estimate"
        if index in circuit.heads.replaced:
            member += f", restored (replaced: {rounded_text(circuit.heads.replaced[index])})"
        rows.append(
            (circuit.name_of(index), rounded_text(score), _interval(circuit.heads.intervals, index), share, member)
        )
    return rows


def edges_heading(circuit: Circuit) -> tuple[str, ...]:
    """The headings of `edge_rows`."""
    count = "pairs of codes seen on prompts only"
    return ("edge", count) if circuit.edges is None else ("edge", "effect", "95% interval", count)


def edge_rows(circuit: Circuit) -> list[tuple[str, ...]]:
    """The rows of all measured edges, strongest first: name, effect, interval, co-occurrence of the ends' codes.

    Where none were measured, the rows of the edges that codes give: name and co-occurrence.
    """
    edges = circuit.best_edges
    if edges is None:
        return []
    if circuit.edges is None:
        order = edges.importance.argsort(descending=True, stable=True).tolist()
        return [(str(edges.edges[i]), f"{int(edges.scores[i])}") for i in order]
    by_codes = {}
    if circuit.code_edges is not None:
        by_codes = {e.ends: s for e, s in zip(circuit.code_edges.edges, circuit.code_edges.scores.tolist())}
    rows: list[tuple[str, ...]] = []
    for i in edges.importance.argsort(descending=True, stable=True).tolist():
        edge, count = edges.edges[i], by_codes.get(edges.edges[i].ends)
        n_together = DASH if count is None else f"{int(count)}"  # the part below 1 only breaks ties
        rows.append((str(edge), rounded_text(float(edges.scores[i])), _interval(edges.intervals, i), n_together))
    return rows


def method_rows(circuit: Circuit) -> list[tuple[str, ...]]:
    """The rows of the main method and the compared ones: time, agreement with the main one and reported circuits."""
    k = len(circuit.members) or 10
    first = set(circuit.ranked()[:k])
    rows: list[tuple[str, ...]] = []
    for scores in (circuit.heads, *circuit.compared):
        order = scores.importance.argsort(descending=True, stable=True).tolist()
        rows.append(
            (
                scores.method,
                fixed_text(scores.total_seconds, 1),
                fixed_text(scores.reading_seconds, 1),
                fixed_text(rank_correlation(circuit.heads, scores), 2),
                *(fixed_text(circuit.agreement_with(reported, scores).auc, 3) for reported in circuit.published),
                f"{len(first & set(order[:k]))} of {k}",
                " ".join(circuit.name_of(i) for i in order[:6]),
            )
        )
    return rows


def rank_correlation(first: HeadScores, second: HeadScores) -> float:
    """Spearman's correlation of the importances; ties share their mean rank. 0 where one ranking is constant."""
    ranks = []
    for scores in (first, second):
        values = scores.importance.numpy()
        # Ranks from 0; ties get the mean of the places that they occupy.
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts + 1) / 2)[inverse])
    first_ranks, second_ranks = (r - r.mean() for r in ranks)
    size = float(np.sqrt((first_ranks**2).sum() * (second_ranks**2).sum()))
    return float((first_ranks * second_ranks).sum()) / size if size else 0.0


def _interval(intervals: Any, index: int) -> str:
    if intervals is None:
        return DASH
    low, high = (rounded_text(float(end)) for end in intervals[index])
    return f"{low} to {high}"


def write_circuit(circuit: Circuit, folder: Path) -> Path:
    """Writes circuit.json, circuit.svg, circuit.png and circuit.html; returns the page's path."""

    def palette(theme: Theme) -> Palette:
        orange, blue = theme.series[0], theme.series[1]
        return Palette(theme.background, theme.ink, theme.muted, theme.grid, supports=blue, opposes=orange)

    edges, n_edges = edges_to_draw(circuit), len(circuit.best_edges.edges) if circuit.best_edges else 0
    kind = "measured edges" if circuit.edges is not None else "edges by codes that occur together"
    names = ", ".join(circuit.name_of(i) for i in circuit.members) or "none named"
    discs = "heads of the circuit" if circuit.members else "the first heads of the ranking, which names no circuit"
    caption = (
        f"Discs: {discs}, larger the stronger; filled they support the behaviour, ringed they work against "
        f"it. Lines: the strongest of {n_edges} {kind} ({len(edges)} pairs drawn), dashed where negative."
    )
    drawing = render(
        "circuit",
        f"Layers by heads; heads of the circuit: {names}.",
        caption,
        lambda theme: draw_circuit(circuit, palette(theme)),
    )
    write_json(folder / "circuit.json", circuit.to_json())
    with atomic_path(folder / "circuit.png") as temporary:
        temporary.write_bytes(drawing.light)
    # A fixed salt and no date make the SVG the same, byte for byte, every time it is drawn.
    vector = io.StringIO()
    settings = {**matplotlib_settings(LIGHT), "svg.hashsalt": "monosemy"}
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        draw_circuit(circuit, palette(LIGHT)).savefig(vector, format="svg", metadata={"Date": None})
    write_text(folder / "circuit.svg", vector.getvalue())
    write_text(folder / "circuit.html", _document(circuit, drawing))
    return folder / "circuit.html"


def _document(circuit: Circuit, drawing: Drawing) -> str:
    """The whole page as HTML: the task, how its heads work together, then what was measured, and how."""
    lede = Html('<p class="lede">{} Which attention heads of {} do this, and what does each of them do?</p>').format(
        about(circuit), circuit.model
    )
    sections = [
        ("task", "The task", _task(circuit)),
        ("circuit", "The heads and their edges", _heads(circuit, drawing)),
    ]
    sections.append(("results", "Results", [bullets(_results(circuit)), _effects_table(circuit)]))
    sections.append(("methods", "Methods", [_methods_table(circuit), bullets(_limits(circuit))]))
    rows = [("Task", circuit.task.name), ("Model", f"{circuit.model} ({circuit.fingerprint})")]
    rows += [("Prompts", str(circuit.n_prompts)), ("Ablation", circuit.ablation), ("Seed", str(circuit.seed))]
    rows += [("Reported circuit", f"{reported.version}: {reported.source}") for reported in circuit.published]
    rows += [("Prompts of the task", line) for line in circuit.task.provenance]
    sections.append(("provenance", "Provenance", [facts("What was used", rows)]))
    section = Html('<section id="{}"><h2>{}</h2>\n{}\n</section>')
    body = join((section.format(anchor, name, join(parts, "\n")) for anchor, name, parts in sections), "\n")
    contents = [(anchor, name) for anchor, name, _ in sections]
    title = f"Circuit: {circuit.task.name} in {circuit.model}"
    return page(title, lede, contents, body, foot=f"Made by monosemy {__version__}; circuit.json holds the numbers.")


def _task(circuit: Circuit) -> list[Html]:
    """One prompt with its counterpart, and what the two are for."""
    parts = [facts("One of its prompts", example)] if (example := example_rows(circuit)) else []
    text = (
        "Every prompt has a counterpart of the same length on which the answer cannot be told. What a head does for "
        f"the task shows when its output on the prompt is replaced by {REPLACED_BY[circuit.ablation]}."
    )
    return [*parts, Html("<p>{}</p>").format(text)]


def _heads(circuit: Circuit, drawing: Drawing) -> list[Html]:
    """The drawing, what each head does, and the edges between them."""
    names = "A head is named by its layer and its number in the layer, both from 0."
    of_heads = ((circuit.name_of(index), role_of(circuit, index)) for index in circuit.members or circuit.ranked())
    roles: list[tuple[str, ...]] = [(name, role) for name, role in of_heads if role]
    parts = [figure(drawing)]
    if roles:
        by_channel = any(f"({word}" in role for _, role in roles for word in CHANNELS.values() if word)
        names += " One head feeds another when its output changes what the other " + (
            "looks for (queries), what it is found by (keys) or what it passes on (values)." if by_channel else "does."
        )
        parts.append(_table("What each head does", ("head", "what it does"), roles, numeric=()))
    if edge_rows(circuit):
        parts.append(_edges_table(circuit))
    return [Html("<p>{}</p>").format(names), *parts]


def _results(circuit: Circuit) -> list[str]:
    """How well the model does the task and how much of that the circuit carries, one sentence each."""
    metric = METRICS_IN_WORDS[circuit.task.metric]
    text = summary(circuit)
    return [
        f"{circuit.model} is {circuit.accuracy}.",
        f"The metric, {metric}, is {rounded_text(circuit.m_clean)} on the prompts and "
        f"{rounded_text(circuit.m_corrupt)} on their counterparts. An effect is what it loses when a head's or an "
        f"edge's value is replaced by {REPLACED_BY[circuit.ablation]}.",
        f"{text[0].upper()}{text[1:]}.",
    ]


def _effects_table(circuit: Circuit) -> Html:
    return _table(f"Heads by {circuit.heads.method}", heads_heading(circuit), head_rows(circuit), numeric=(1, 3))


def _edges_table(circuit: Circuit) -> Html:
    """The strongest edges, and all of them folded where there are many."""
    measured = circuit.edges is not None
    caption = "edges among the circuit's heads" if measured else "edges by codes, among the first heads"
    heading, numeric = edges_heading(circuit), (1, 3) if measured else (1,)
    rows = [(_with_channel_in_words(name), *values) for name, *values in edge_rows(circuit)]
    if len(rows) <= N_SHOWN:
        return _table(f"{caption[0].upper()}{caption[1:]}", heading, rows, numeric=numeric)
    every = _table(f"All {len(rows)} {caption}", heading, rows, numeric=numeric)
    return _table(f"The strongest {caption}", heading, rows[:N_SHOWN], numeric=numeric) + details("All edges", every)


def _with_channel_in_words(edge: str) -> str:
    """`7.3 → 9.9 (queries)` of `7.3 → 9.9 (q)`."""
    for letter, word in CHANNELS.items():
        edge = edge.replace(f"({letter})", f"({word})")
    return edge


def _methods_table(circuit: Circuit) -> Html:
    numeric = tuple(range(1, 4 + len(circuit.published)))
    return _table("Methods on the same heads", method_heading(circuit), method_rows(circuit), numeric=numeric)


def _table(caption: str, heading: tuple[str, ...], rows: list[tuple[str, ...]], numeric: tuple[int, ...]) -> Html:
    """A table in which the columns `numeric` are sorted as numbers."""

    def cell(column: int, text: str) -> Any:
        if column not in numeric:
            return text
        number = text.rstrip("%")
        return Cell(text, float("nan") if text == DASH else float(number))

    return table(caption, heading, [[cell(i, text) for i, text in enumerate(row)] for row in rows])


def _limits(circuit: Circuit) -> list[str]:
    """What a reader should know before trusting the numbers, one sentence each."""
    lines = [
        "Heads are in the circuit when their effect is at least 5% of the difference between prompts and counterparts "
        "and its interval excludes 0.",
        "The heads outside have small effects one by one, and together they can carry most of the behaviour: the share "
        "under Results says how much of it the circuit has alone.",
        "“By estimate”: this head was not patched; its effect is a gradient's estimate.",
        "“Restored”: replacing this head changes little, because others stand in for it; its effect is what the "
        "metric gains when it alone is restored in the counterpart.",
        "Seconds include reading the model's activations, whether or not they were kept from before.",
    ]
    if circuit.edges is not None:
        lines.append(
            f"Edges are measured on {circuit.n_edge_prompts} prompts and count the direct way through the residual "
            "stream; what passes through MLPs belongs to no edge."
        )
    if not circuit.heads.signed and circuit.heads.intervals is not None:
        lines.append(
            "Intervals of counted codes lie low: prompts drawn again with repetition show fewer distinct codes than "
            "the prompts themselves."
        )
    if circuit.no_edges:
        lines.append(f"No edges: {circuit.no_edges}.")
    if circuit.skipped_layers:
        lines.append(f"{circuit.skipped_layers[0].upper()}{circuit.skipped_layers[1:]}.")
    if not circuit.accuracy.enough:
        lines.insert(0, f"Careful: {circuit.accuracy}.")
    return lines
