"""The command `monosemy explain RUN`: explanations by a chat model, in the terminal.

Place on the data's path: words of the command line → `explanations` → a line for each latent.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monosemy.errors import UserError
from monosemy.features.room import ROOM
from monosemy.features.view.selection import open_selected, parse_latents, require_text
from monosemy.ranges import Range
from monosemy.support.arguments import Parser, whole
from monosemy.support.numbers import value_text
from monosemy.support.visible import visible

DETAILS = """Every prompt and reply is kept beside the features; the same command goes on where it was stopped.
A server's key is read from OPENAI_API_KEY."""
EXAMPLES = (
    "monosemy explain runs/demo --chat embedded --n 10",
    "monosemy explain runs/demo --latents 12 40-45 --chat http://localhost:8000/v1 --model NAME",
)


def run_explain(words: list[str]) -> None:
    """Runs `monosemy explain`. Raises UserError for bad input, before any model is loaded."""
    options = _parser().parse_args(words)
    database = open_selected(Path(options.run), options.sae)
    require_text(database.info, "explaining")
    from monosemy.features.explain.chat import open_chat
    from monosemy.features.explain.explanations import choose_latents, explain_latents

    if options.latents and options.n is not None:
        raise UserError("give --latents or --n, not both")
    latents = parse_latents(options.latents, database) if options.latents else choose_latents(database, options.n or 50)
    # latents are checked above, since opening the chat model may take long
    chat = open_chat(options.chat, options.model)
    print(f"{len(latents)} latents of {database.info['site']}/{database.info['name']}, explained by {chat.name}")
    printed_note = ""
    for explained in explain_latents(database, latents, chat):
        if chat.note != printed_note:  # a server's note is known only after the first question
            printed_note = chat.note
            print(f"note: {printed_note}")
        print(f"\n{explained.latent:>6}  {visible(explained.text) or 'not explained'}", flush=True)
        for line in score_lines(explained.record):
            print(f"        {line}", flush=True)


def score_lines(record: dict[str, Any]) -> list[str]:
    """The scores of an explanation's record in words, one per line, with intervals, counts and reasons for gaps."""
    lines = []
    names = {
        "detection_random": "detection, against random text",
        "detection_near_miss": "detection, against near misses",
        "fuzzing": "marked words right or wrong",
    }
    for key, name in names.items():
        if score := record["scores"].get(key):
            counts = f"{score['n_positive']} firing, {score['n_negative']} not"
            counts += f", of {score['n_positive_documents']} and {score['n_negative_documents']} documents"
            counts += f", {score['n_missing']} unread" if score["n_missing"] else ""
            lines.append(
                f"{name}: AUROC {interval(score, 'auroc')}, balanced accuracy "
                f"{interval(score, 'balanced_accuracy')} ({counts})"
            )
    if score := record["scores"].get("simulation"):
        lines.append(
            f"simulated activations: correlation {interval(score, 'correlation')} "
            f"({score['n_tokens']} tokens of {score['n_passages']} passages, {score['n_documents']} documents)"
        )
    if n := record.get("answers_from_words"):
        lines.append(f"{n} answers read from words: the server gives no log-probabilities")
    return lines + [f"no {name.replace('_', ' ')}: {why}" for name, why in record["skipped"].items()]


def interval(score: dict[str, Any], name: str) -> str:
    """A number with its interval, `0.71 [0.55, 0.83]`, or `not known` if there is no number."""
    low, high = score.get(f"{name}_low"), score.get(f"{name}_high")
    ends = None if low is None or high is None else (low, high)
    return value_text(score[name], ends, decimals=2, missing="not known")


def _parser() -> argparse.ArgumentParser:
    summary = next(command.summary for command in ROOM.commands if command.name == "explain")
    parser = Parser("monosemy explain", summary, details=DETAILS, examples=EXAMPLES)
    parser.add_argument("run", help="A run folder with features, e.g. runs/demo.")
    parser.add_argument("--sae", metavar="SITE/NAME", help="The SAE; needed when features of several are built.")
    parser.add_argument("--latents", nargs="+", help="Numbers and ranges of latents, e.g. 12 40-45.")
    parser.add_argument(
        "--n", type=whole(Range(1, example=50)), help="Number of latents to draw at random. (default: 50)"
    )
    parser.add_argument(
        "--chat",
        required=True,
        metavar="MODEL",
        help="The chat model: `embedded` (tiny, to try it out), a folder, a hub id, or http://HOST:PORT/v1.",
    )
    parser.add_argument("--model", metavar="NAME", help="The server's name of the model.")
    return parser
