"""Prints the events of steering in the terminal: columns of text, measures, traces of latents, sweeps; or as JSON.

Place on the path: generate, sweep → events → [tables of text] → the terminal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from monosemy.steering.finding import named
from monosemy.steering.request import SteeringRequest
from monosemy.support import json_text
from monosemy.support.numbers import rounded_text, setting_text, value_text
from monosemy.support.visible import visible_lines

Names = Mapping[str, Mapping[int, str]]
"""Labels of latents by number, of each SAE that edits name."""


def print_columns(
    events: Iterator[dict[str, Any]], request: SteeringRequest, names_of_latents: Names, *, as_json: bool
) -> None:
    """Prints the columns, then the measures, or the events as JSON. On a terminal the columns grow as they are
    written."""
    if as_json:
        for event in events:
            print(json_text.dumps(event), flush=True)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    texts: dict[str, str] = {}
    measures: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    untouched: list[str] = []
    # the second event needs a pass of the model: an edit refused there must not leave an empty table behind
    first_events = list(itertools.islice(events, 2))
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        for event in itertools.chain(first_events, events):
            if event["kind"] == "start":
                names = {c["column"]: _heading(c, names_of_latents) for c in event["columns"]}
                texts = dict.fromkeys(names, "")
            elif event["kind"] == "token":
                texts[event["column"]] += event["text"]
            elif event["kind"] == "done":
                texts[event["column"]] = event["text"]
            elif event["kind"] == "measure":
                measures[event["column"]] = event
            elif event["kind"] == "end":
                untouched = event["untouched"]
            # elsewhere than on a terminal nobody sees the columns grow: no table per token
            if event["kind"] != "token" or console.is_terminal:
                live.update(_columns(texts, names))
    if untouched:
        console.print(
            f"nothing was changed in: {', '.join(untouched)}; all tokens named are outliers, or it ended before",
            highlight=False,
        )
    if measures:
        console.print()
        console.print(_measures(measures))
        if request.edits:
            console.print(_traces(measures, request, names_of_latents))


def _called(sae: str, latent: int, names: Names) -> str:
    """`12 (fires on “July”)`, with `of SITE/NAME` for a latent of another SAE than the request's own."""
    text = named(latent, names.get(sae, {}))
    return f"{text} of {sae}" if sae else text


def _heading(column: dict[str, Any], names: Names) -> str:
    edits = ", ".join(
        f"{_called(e['sae'], e['latent'], names)} {e['operation']} {rounded_text(e['value'], 4)}"
        for e in column["edits"]
    )
    return f"{column['column']}: latent {edits}" if edits else column["column"]


def _columns(texts: dict[str, str], names: dict[str, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True, show_lines=False)
    for name in texts:
        table.add_column(Text(names.get(name, name)), ratio=1, overflow="fold")
    table.add_row(*(Text(visible_lines(text)) for text in texts.values()))
    return table


def _measures(measures: dict[str, dict[str, Any]]) -> Any:
    """A table of the measures, one row per column."""
    from rich.table import Table

    headings = (
        "column",
        "tokens",
        "perplexity (unsteered model)",
        "KL, nats/token",
        "log-prob change",
        "distinct 1 / 2 / 3",
    )
    table = Table(*headings)
    for name, measure in measures.items():
        table.add_row(
            name,
            str(measure["n_tokens"]),
            value_text(measure["perplexity"], decimals=1, missing="none"),
            value_text(measure["mean_kl"], decimals=2, missing="none"),
            value_text(measure["mean_log_prob_change"], decimals=2, signed=True, missing="none"),
            " / ".join(value_text(share, decimals=2, missing="none") for share in measure["distinct"]),
        )
    return table


def _traces(measures: dict[str, dict[str, Any]], request: SteeringRequest, names: Names) -> Any:
    """A table of each edited latent's mean activation over the answer, encoded again after the edits.

    One row per latent, one column per column of the answer.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table("latent, mean over the answer", *measures)
    # (SAE, latent) → its first place among the edits: reversed, so that the first one is written last
    at = {(edit.sae, edit.latent): place for place, edit in reversed(list(enumerate(request.edits)))}
    for (sae, latent), place in sorted(at.items(), key=lambda pair: pair[1]):
        row = []
        for measure in measures.values():
            values = [token["edited_activations"][place] for token in measure["tokens"]]
            mean = sum(values) / len(values) if values else None
            row.append(value_text(mean, decimals=1, missing="none"))
        table.add_row(Text(_called(sae, latent, names)), *row)
    return table


def print_sweep(events: Iterator[dict[str, Any]], request: SteeringRequest, names: Names, *, as_json: bool) -> None:
    """Prints a sweep as a table when it is finished, or its events as JSON when they come."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    edit = request.edits[0]
    table = Table(
        f"{edit.operation}, {edit.unit}",
        "perplexity",
        "KL",
        "distinct-2",
        escape(f"latent {_called(edit.sae, edit.latent, names)}"),  # a label may hold what looks like markup
        "text",
        show_lines=True,
    )
    for event in events:
        if event["kind"] not in ("strength", "too_strong"):
            continue
        if as_json:
            print(json_text.dumps(event), flush=True)
            continue
        if event["kind"] == "too_strong":
            table.add_row(setting_text(event["value"]), *["–"] * 4, Text(f"no answer: {event['error']}"))
            continue
        numbers = [
            (event["perplexity"], 1),
            (event["mean_kl"], 2),
            (event["distinct"][1], 2),
            (event["mean_activation"], 1),
        ]
        cells = [value_text(value, decimals=decimals, missing="none") for value, decimals in numbers]
        table.add_row(setting_text(event["value"]), *cells, Text(visible_lines(event["text"])))
    if not as_json:
        Console().print(table)
