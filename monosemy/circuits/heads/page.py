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
from monosemy.circuits.heads.roles import about, example_rows, role_of
from monosemy.report.canvas import Drawing, render
from monosemy.report.markup import Cell, Html, bullets, details, facts, figure, join, page, table
from monosemy.report.theme import LIGHT, Theme, matplotlib_settings
from monosemy.support.files import atomic_path, write_json, write_text
from monosemy.support.numbers import DASH, fixed_percent_text, fixed_text, rounded_text

if TYPE_CHECKING:
    from monosemy.circuits.heads.circuit import Circuit
    from monosemy.circuits.heads.scores import HeadScores
    from monosemy.evals.intervals import Interval

N_SHOWN = 20
"""How many heads are listed, where the circuit has no more members than that, and how many edges unfolded."""
REPLACED_BY = {"resample": "the counterpart's", "mean": "its mean over all counterparts", "zero": "nothing"}
"""What replaces an ablated value, in the page's words."""


def summary(circuit: Circuit) -> str:
    """A sentence: how many heads the circuit has and what they carry, or that the method names none."""
    if not circuit.heads.signed or circuit.heads.intervals is None:
        return f"{circuit.heads.method} ranks heads and names no circuit, so no edges were measured" + (
            "; those shown are of codes that occur together on positives only" if circuit.code_edges else ""
        )
    if circuit.carried is None:
        return "no head's effect is large and clear enough to count as the circuit's"
    carried = circuit.carried
    sides = [
        _share_text(share, interval)
        for share, interval in ((carried.alone, carried.alone_interval), (carried.without, carried.without_interval))
    ]
    n = len(circuit.members)
    heads = f"{n} heads" if n > 1 else "1 head"
    return (
        f"{heads} in the circuit: of what replacing every head takes away, {sides[0]} is there when all other heads "
        f"are replaced, {sides[1]} is left when the circuit is"
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
        ("head", "effect", "95%", "share of the difference", "in the circuit")
        if signed
        else ("head", "score", "95%, low by construction", "share of the difference", "in the circuit")
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
    count = "code pairs only on positives"
    return ("edge", count) if circuit.edges is None else ("edge", "effect", "95%", count)


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
    """The whole page as HTML."""
    lede = Html(
        '<p class="lede">{} is {}. The metric ({}) is {} on the prompts and {} on their counterparts; an '
        "effect is what the metric loses when a head's or an edge's value is replaced by {}. {}.</p>"
    ).format(
        circuit.model,
        circuit.accuracy,
        circuit.task.metric,
        rounded_text(circuit.m_clean),
        rounded_text(circuit.m_corrupt),
        Html(REPLACED_BY[circuit.ablation]),
        summary(circuit),
    )
    task = [Html("<p>{}</p>").format(about(circuit))]
    if example := example_rows(circuit):
        task.append(facts("One of its prompts", example))
    sections = [("task", "Task", task), ("circuit", "Circuit", [figure(drawing), _heads_table(circuit)])]
    if edge_rows(circuit):
        sections.append(("edges", "Edges", [_edges_table(circuit)]))
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


def _heads_table(circuit: Circuit) -> Html:
    """The ranked heads; with what each does, where edges were measured or a paper names its group."""
    heading, rows = heads_heading(circuit), head_rows(circuit)
    roles = [role_of(circuit, index) for index in circuit.ranked()[: len(rows)]]
    if any(roles):
        heading, rows = (*heading, "what it does"), [(*row, role) for row, role in zip(rows, roles, strict=True)]
    return _table(f"Heads by {circuit.heads.method}", heading, rows, numeric=(1, 3))


def _edges_table(circuit: Circuit) -> Html:
    """The strongest edges, and all of them folded where there are many."""
    measured = circuit.edges is not None
    caption = "edges among the circuit's heads" if measured else "edges by codes, among the first heads"
    heading, rows, numeric = edges_heading(circuit), edge_rows(circuit), (1, 3) if measured else (1,)
    if len(rows) <= N_SHOWN:
        return _table(f"{caption[0].upper()}{caption[1:]}", heading, rows, numeric=numeric)
    every = _table(f"All {len(rows)} {caption}", heading, rows, numeric=numeric)
    return _table(f"The strongest {caption}", heading, rows[:N_SHOWN], numeric=numeric) + details("All edges", every)


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
        "at the top says how much of it the circuit has alone.",
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
