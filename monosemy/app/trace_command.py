"""`monosemy trace RUN FILE`: which latents fire in a text or a chat's transcript, in the terminal or as a file.

Place on the path: words of the command line → a file's text → `Reading` → table, CSV, JSON or HTML. It is what the page
“Your text” of `monosemy browse` shows, but for the limits on length: all tokens of a text are read (`text_scope`).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.differences import SIDES, TextDifferences, differences
from monosemy.app.evidence import WRITERS, rarity_text, written
from monosemy.app.live import LiveModel, read_text
from monosemy.app.monitored import judged, monitors_of, print_verdicts, texts_of
from monosemy.app.room import ROOM
from monosemy.app.text_answers import difference_file, evidence
from monosemy.app.text_scope import WHOLE
from monosemy.errors import UserError, unknown
from monosemy.monitors.labelled import ENDINGS
from monosemy.ranges import Range
from monosemy.saes.listing import choose_sae, print_warnings
from monosemy.support import files
from monosemy.support.arguments import Parser, whole
from monosemy.support.numbers import activation_text, count_text
from monosemy.support.subjects import add_subject, open_subject
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading

EXAMPLES = (
    "monosemy trace runs/demo transcript.txt --chat",
    "monosemy trace runs/demo article.txt --out evidence.html",
    "monosemy trace runs/demo log.jsonl --monitor angry.probe.json",
    "monosemy trace runs/demo refused.txt --against answered.txt      what fires in one and not in the other",
    "monosemy trace runs/demo refused.txt --against answered.txt --out differences.csv",
)


def run_trace(words: list[str]) -> None:
    """Runs `monosemy trace`. Raises UserError for bad input, where possible before the model is loaded."""
    options = _parser().parse_args(words)
    for flag, beside in (("--out", options.out), ("--against", options.against)):
        if options.monitor and beside:
            raise UserError(f"--monitor judges texts, {flag} shows what fires in them; give one of the two")
    if options.json and not options.monitor:
        raise UserError("--json writes what monitors say; give --monitor too, or --out FILE.json for what fires")
    out = _target(options.out) if options.out else None
    text, other = _text(options.file), _text(options.against) if options.against else None
    subject = open_subject(options, moved=("model",))
    saved = choose_sae(subject.folder, subject.sae)
    print_warnings([saved])
    catalogue = Catalogue(subject.folder, subject.moved)
    live, sae = LiveModel(catalogue), catalogue.sae(*saved.key)
    live.require_text()
    if options.monitor:
        _run_monitors(live, sae, text, options)
        return
    if sae.database is None:
        print(
            f"no features: latents have no labels and rank by activation; build them: {sae.build_command}",
            file=sys.stderr,
        )
    reading = read_text(live, sae, text, chat=options.chat, scope=WHOLE)
    if other is not None:
        texts = differences(sae, reading, read_text(live, sae, other, chat=options.chat, scope=WHOLE))
        if out is not None:
            files.write_text(out, difference_file(live, sae, texts, kind=out.suffix[1:].lower()))
        _print_difference(texts, options, out)
        return
    if out is None:
        _print_reading(reading, sae, options.top)
        return
    files.write_text(out, written(evidence(live, sae, reading), out.suffix[1:].lower()))
    print(f"{out}: {count_text(len(reading.position))} firings of {count_text(len(reading.summary()))} latents")


def _run_monitors(live: LiveModel, sae: Dictionary, text: str, options: Namespace) -> None:
    """Prints what the monitors say of the file's text or rows, and of how many texts each flagged."""
    monitors = monitors_of(live.catalogue, sae, [Path(name).expanduser() for name in options.monitor])
    counts, n_texts = dict.fromkeys((monitor.name for monitor in monitors), 0), 0
    in_rows = Path(options.file).suffix.lower() in ENDINGS
    for name, part in texts_of(Path(options.file).expanduser(), text):
        verdicts = judged(live, monitors, part, chat=options.chat, shows_progress=not in_rows)
        print_verdicts(name, verdicts, as_json=options.json, only_flagged=in_rows)
        n_texts += 1
        for verdict in verdicts:
            counts[verdict["name"]] += verdict["flagged"]
    if in_rows and not options.json:
        flagged = ", ".join(f"{name} {count_text(n)}" for name, n in counts.items())
        print(f"flagged of {count_text(n_texts)} texts: {flagged}")


def _parser() -> Parser:
    parser = Parser("monosemy trace", ROOM.commands[1].summary, examples=EXAMPLES)
    add_subject(parser)
    add = parser.add_argument
    add("file", help="A text file; - reads what is piped in.")
    add("--sae", metavar="SITE/NAME", help="The SAE. (default: JumpReLU at the middle L0 of the first site)")
    add("--chat", action="store_true", help="The text is a chat: lines “User:”, “Assistant:”, or JSON messages.")
    add("--against", metavar="FILE2", help="Show what fires in one of the two texts and not in the other.")
    add("--top", type=whole(Range(1, 100_000, example=20)), default=20, help="Latents to list.")
    add(
        "--monitor",
        action="append",
        default=[],
        metavar="FILE",
        help="Say what the monitors or the probe of this file flag, instead; of a .jsonl or .csv, row by row.",
    )
    add("--json", action="store_true", help="Write what the monitors say as JSON, one text a line.")
    add(
        "--out",
        metavar="FILE",
        help="Write every firing, or with --against every latent that differs, to a .csv, .json or .html file.",
    )
    return parser


def _text(name: str) -> str:
    """The text of a file, or of the standard input. Raises UserError for one that cannot be read as UTF-8."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"cannot read {name}: {error.strerror}; give a text file, or - for the standard input"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{name} is no UTF-8 text; save it as UTF-8") from None


def _target(name: str) -> Path:
    out = Path(name).expanduser()
    if out.suffix[1:].lower() not in WRITERS:
        raise unknown("ending of --out", out.suffix or out.name, [f".{kind}" for kind in WRITERS])
    if out.exists():
        raise UserError(f"--out {out} exists already; give another name, or delete it first")
    files.require_writable(out, "--out")
    return out


def _print_reading(reading: Reading, sae: Dictionary, top: int) -> None:
    summary = reading.summary()
    n_windows = f" in {reading.n_windows} windows" if reading.n_windows > 1 else ""
    print(f"{count_text(len(reading.pieces))} tokens{n_windows}; {count_text(len(summary))} latents fire\n")
    labels = sae.labels([row["latent"] for row in summary[:top]])
    for row, label in zip(summary[:top], labels, strict=True):
        _print_latent(reading, row, label)


def _print_latent(reading: Reading, row: dict[str, Any], label: str) -> None:
    """Prints a row of the reading's summary: the latent, how strong it is, and the text around its peak."""
    peak, pieces = row["peak"], reading.pieces
    role = f" ({reading.roles[peak]})" if reading.roles and reading.roles[peak] else ""
    before, after = "".join(pieces[max(0, peak - 8) : peak]), "".join(pieces[peak + 1 : peak + 6])
    times = "1 token" if row["n_tokens"] == 1 else f"{row['n_tokens']} tokens"
    print(f"{row['latent']:>6}  {label or 'no label'}")
    print(f"        {activation_text(row['value'])} at its peak, {rarity_text(row['one_in'])}; fires on {times}{role}")
    print(f"        {visible(before)}«{visible(pieces[peak])}»{visible(after)}")


def _print_difference(texts: TextDifferences, options: Namespace, out: Path | None) -> None:
    """Prints how many latents fire in one of two texts, and which, unless they were written to a file."""
    names = options.file, options.against
    n = {where: count_text(texts.count(where)) for where in (*SIDES, "both")}
    counts = f"{n['first']} latents fire in {names[0]} only, {n['second']} in {names[1]} only, {n['both']} in both"
    if out is not None:
        print(f"{out}: {counts}")
        return
    print(f"{counts}\n")
    for side, name, reading in zip(SIDES, names, texts.readings, strict=True):
        rows = [row for row in texts.latents if row.fires_in == side]
        print(f"fires in {name}, not in the other:" if rows else f"nothing fires in {name} alone")
        for row in rows[: options.top]:
            _print_latent(reading, row.first or row.second or {}, row.label)
        print()
