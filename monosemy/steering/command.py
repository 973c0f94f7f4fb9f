"""Steering in the terminal: `monosemy steer RUN --latent 12 --set 8 --unit max --prompt "…"`.

Place on the path: words of the command line → request → generate, sweep, output_score → columns and tables of text.
Works on any evaluated run and needs no feature database.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.config import SEED
from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.run import read_run
from monosemy.saes.listing import choose_sae, print_warnings
from monosemy.steering.finding import named, names_of, print_found, score_words
from monosemy.steering.request import COLUMNS, OPERATIONS, PLACES, UNITS, Edit, Positions, SteeringRequest
from monosemy.steering.room import ROOM
from monosemy.steering.trial import N_TRIED
from monosemy.support import json_text
from monosemy.support.arguments import Parser, real, whole
from monosemy.support.moved import NOT_MOVED, Moved
from monosemy.support.numbers import rounded_text, setting_text, value_text
from monosemy.support.subjects import add_subject, open_subject
from monosemy.support.text_input import require_characters
from monosemy.support.visible import visible_lines

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.steering.edits import LatentScales

Names = Mapping[int, str]
"""Labels of latents by number."""
LATENT = Range(0, example=12)
STRENGTH = Range(-1e38, 1e38, example=8)
"""Any strength that float32 can hold; whether the text survives it shows in the answer."""
N_FOUND = 15
"""How many latents `--find` lists."""
FOUND_SET = 0.35
"""What a found latent is set to, in typical norms; research/steering chose it for each of its wishes."""
EXAMPLES = (
    'monosemy steer runs/demo --find Python function --prompt "How can I sleep better?"',
    'monosemy steer runs/demo --latent 12 --set 8 --unit max --prompt "What should I do this weekend?"',
    'monosemy steer runs/demo --edit 12:set:8:max --edit 40:ablate --prompt "…" --instruction "Talk about music."',
    'monosemy steer runs/demo --latent 12 --sweep 0 2 4 8 --unit max --prompt "…"',
    "monosemy steer runs/demo --find July August      which latents make the model say these words",
)


def run_steer(words: list[str]) -> None:
    """Runs `monosemy steer`. Raises UserError for bad input, where possible before the model is loaded."""
    options = _parser().parse_args(words)
    subject = open_subject(options, moved=("model",))
    saved = choose_sae(subject.folder, subject.sae)
    for word in options.find or ():
        require_characters("--find", word)
    # everything that can be checked without weights, before the model is loaded
    only_found = bool(options.find) and not options.prompt
    request = None if only_found else _request(_with_found(options, 0) if options.find else options)
    _check_latents(saved.folder, request)
    print_warnings([saved])
    model, sae, scales = load_run(subject.folder, saved.folder, subject.moved)
    if options.find:
        scores, ranked = score_words(model, sae, scales, options.find)
        if only_found:
            names = names_of(saved.folder, [int(scores.latents[row]) for row in ranked[:N_FOUND]])
            print_found(model, sae, scores, rows=ranked[:N_FOUND], names=names)
            return
        request = _tried(model, sae, scales, options, [int(scores.latents[row]) for row in ranked[:N_TRIED]])
    assert request is not None
    names = names_of(saved.folder, [edit.latent for edit in request.edits])
    if options.sweep:
        from monosemy.steering.sweep import sweep_events

        events = sweep_events(model, sae, request, options.sweep, scales=scales)
        _print_sweep(events, request, names, as_json=options.json)
        return
    from monosemy.steering.generate import stream

    events = stream(model, sae, request, scales)
    if options.json:
        for event in events:
            print(json_text.dumps(event), flush=True)
    else:
        _print_columns(events, request, names)


def _tried(
    model: LanguageModel, sae: SparseAutoencoder, scales: LatentScales, options: argparse.Namespace, latents: list[int]
) -> SteeringRequest:
    """The request with that of these latents with which a short answer has most of the words (`trial`)."""
    from monosemy.steering.strength import TooStrongError
    from monosemy.steering.trial import try_latents

    requests = [_request(_with_found(options, latent)) for latent in latents]
    # a sweep names no strength of its own
    once = argparse.Namespace(**vars(options) | {"sweep": None})
    tried = [_request(_with_found(once, latent)) for latent in latents]
    try:
        best = try_latents(model, sae, scales, requests=tried, words=options.find)[0]
    except TooStrongError:  # of one of them; the answer to the first says so, if it is that
        return requests[0]
    said = f"says them {best.n_said} times in {best.n_words} words" if best.n_said else "is the first; none says them"
    print(f"of {len(latents)} latents tried, {latents[best.candidate]} {said}", file=sys.stderr)
    return requests[best.candidate if best.n_said else 0]


def _with_found(options: argparse.Namespace, latent: int) -> argparse.Namespace:
    """The flags with the latent that `--find` found; where they name no operation, it is set to `FOUND_SET`.

    Raises UserError if they name latents too.
    """
    if options.latent:
        raise UserError("--find with a prompt chooses the latent by itself; leave out --latent")
    changed = vars(options) | {"latent": [latent]}
    if options.sweep or any(getattr(options, name) is not None for name in OPERATIONS):
        return argparse.Namespace(**changed)
    return argparse.Namespace(**changed | {"set": FOUND_SET, "unit": "norm"})


def _check_latents(sae_folder: Path, request: SteeringRequest | None) -> None:
    """Raises UserError for a latent that the SAE lacks, before anything heavy is loaded."""
    from monosemy.saes.storage import read_sae_config

    n = read_sae_config(sae_folder).d_sae
    for edit in request.edits if request else ():
        if not 0 <= edit.latent < n:
            raise UserError(f"latent {edit.latent} is out of range; this SAE has latents 0 to {n - 1}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser("monosemy steer", ROOM.commands[0].summary, examples=EXAMPLES)
    add = parser.add_argument
    add_subject(parser)
    add("--sae", metavar="SITE/NAME", help="The SAE. (default: JumpReLU at the middle L0 of the first site)")
    add("--prompt", default="", help="What to answer or to continue.")
    add("--latent", type=whole(LATENT), nargs="+", default=[], help="Latents to edit, all by the same operation.")
    for name, meaning in OPERATIONS.items():
        about = f"{meaning[:1].upper()}{meaning[1:]}."
        add(f"--{name}", type=real(STRENGTH), nargs="?", const=0.0, help=about)
    units = "; ".join(f"{name}: {meaning}" for name, meaning in UNITS.items())
    add("--unit", default="raw", help=f"The unit of values. {units}.")
    add(
        "--edit",
        action="append",
        default=[],
        metavar="LATENT:OPERATION[:VALUE[:UNIT]]",
        help="One more edit; may be repeated.",
    )
    places = ", ".join(PLACES[:-1])
    add("--positions", default="all", help=f"Edited tokens: {places}, or START-STOP (token numbers of the prompt).")
    add("--no-error", action="store_true", help="Leave out what the SAE does not reconstruct.")
    add("--columns", nargs="+", metavar="COLUMN", help=f"Columns to write, of: {', '.join(COLUMNS)}.")
    add("--instruction", default="", help="Add a column: the unsteered model told this before the prompt.")
    add("--control", type=whole(LATENT), help="Latent of the random column.")
    add("--plain", action="store_true", help="Continue the text itself, without the model's chat template.")
    add("--system", default="", help="The chat's system message.")
    add("--tokens", type=whole(Range(1, 100_000, example=60)), default=60, help="Number of tokens to write at most.")
    add(
        "--temperature",
        type=real(Range(0, 1e6, example=0.7)),
        default=0.0,
        help="Temperature of the draws; 0 takes the most probable token each time.",
    )
    add(
        "--top-p",
        type=real(Range(0, 1, example=0.9, above_low=True)),
        default=1.0,
        help="Draw from the fewest most probable tokens that have this probability together.",
    )
    add(
        "--seed",
        type=whole(SEED),
        default=0,
        help="Seed of the draws, and of the choice of the random column's latent.",
    )
    add("--sweep", type=real(STRENGTH), nargs="+", help="Answer at each of these strengths instead.")
    add(
        "--find",
        nargs="+",
        metavar="WORD",
        help=f"List the latents that make these words most probable; with --prompt, try {N_TRIED} of them and steer by "
        f"the one whose answer has most of the words, set to {setting_text(FOUND_SET)} of the typical norm if nothing "
        "else is said.",
    )
    add("--json", action="store_true", help="Write events as JSON, one a line.")
    return parser


def _request(options: argparse.Namespace) -> SteeringRequest:
    """The request that the flags describe."""
    return SteeringRequest(
        prompt=options.prompt,
        edits=_edits(options),
        positions=_positions(options.positions),
        keep_error=not options.no_error,
        columns=None if options.columns is None else tuple(options.columns),
        instruction=options.instruction,
        control=options.control,
        chat=False if options.plain else None,
        system=options.system,
        n_tokens=options.tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )


def _edits(options: argparse.Namespace) -> tuple[Edit, ...]:
    """The edits of --latent, then those of --edit. Raises UserError for flags that don't fit together."""
    # each operation is a flag whose value may be left out (ablate): None means that the flag was not given
    operations = [name for name in OPERATIONS if getattr(options, name) is not None]
    if len(operations) > 1:
        raise UserError(f"--latent takes one operation, got --{' and --'.join(operations)}; use --edit for several")
    if operations and not options.latent:
        raise UserError(f"--{operations[0]} needs --latent")
    if options.latent and not operations and not options.sweep:
        raise UserError(f"what to do with the latent? give one of: {', '.join('--' + name for name in OPERATIONS)}")
    operation = operations[0] if operations else "set"
    value = getattr(options, operation) if operations else 0.0
    edits = [Edit(latent, operation, value, options.unit) for latent in options.latent]
    return (*edits, *(_written_edit(text) for text in options.edit))


def _written_edit(text: str) -> Edit:
    """Parses an edit such as `12:set:8:max`. Raises UserError for any other form."""
    parts = text.split(":")
    rule = "an edit is written LATENT:OPERATION[:VALUE[:UNIT]], e.g. 12:set:8:max"
    if not 2 <= len(parts) <= 4:
        raise UserError(f"{rule}; got {text!r}")
    try:
        latent, value = int(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0
    except ValueError:
        raise UserError(f"{rule}; got {text!r}") from None
    return Edit(latent, parts[1], value, parts[3] if len(parts) > 3 else "raw")


def _positions(text: str) -> Positions:
    """The positions that --positions names: a word, or a range START-STOP."""
    start, dash, stop = text.partition("-")
    if dash and start.isdigit() and (stop.isdigit() or not stop):
        return Positions("range", int(start), int(stop) if stop else None)
    if text == "range":
        raise UserError("give the range itself: --positions START-STOP, e.g. 3-10, or 3- for no end")
    return Positions(text)


def load_run(
    folder: Path, sae_folder: Path, moved: Moved = NOT_MOVED
) -> tuple[LanguageModel, SparseAutoencoder, LatentScales]:
    """The run's model, the SAE on its device, and the scales of its units."""
    from monosemy.models.of_run import load_run_model
    from monosemy.saes.storage import load_sae
    from monosemy.steering.edits import read_scales

    model = load_run_model(folder, *read_run(folder), moved)
    sae = load_sae(sae_folder, device=str(model.device))
    print(f"{sae_folder.parent.name}/{sae_folder.name} on {model.name}", file=sys.stderr)
    return model, sae, read_scales(sae_folder, sae)


def _print_columns(events: Iterator[dict[str, Any]], request: SteeringRequest, names_of_latents: Names) -> None:
    """Prints the columns, then the measures. On a terminal the columns grow as they are written."""
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


def _heading(column: dict[str, Any], names: Names) -> str:
    edits = ", ".join(
        f"{named(e['latent'], names)} {e['operation']} {rounded_text(e['value'], 4)}" for e in column["edits"]
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
    # latent → its first place among the edits: reversed, so that the first one is written last
    at = {edit.latent: place for place, edit in reversed(list(enumerate(request.edits)))}
    for latent, place in sorted(at.items(), key=lambda pair: pair[1]):
        row = []
        for measure in measures.values():
            values = [token["edited_activations"][place] for token in measure["tokens"]]
            mean = sum(values) / len(values) if values else None
            row.append(value_text(mean, decimals=1, missing="none"))
        table.add_row(Text(named(latent, names)), *row)
    return table


def _print_sweep(events: Iterator[dict[str, Any]], request: SteeringRequest, names: Names, *, as_json: bool) -> None:
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
        escape(f"latent {named(edit.latent, names)}"),  # a label may hold what looks like markup
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
