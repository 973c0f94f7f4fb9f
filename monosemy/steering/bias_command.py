"""`monosemy bias RUN FILE`: measures a bias on one's own texts, and what changing latents does to it and what that
costs.

Place on the path: words of the command line → texts of a file, a run's model and SAE → bias → table, JSON, recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.run import read_run
from monosemy.saes.listing import SavedSae, choose_sae, print_warnings
from monosemy.steering.bias_texts import read_bias_texts
from monosemy.steering.recipe import SteeringRecipe, check_recipe_name, save_recipe
from monosemy.steering.request import Edit
from monosemy.steering.room import ROOM
from monosemy.support import files
from monosemy.support.arguments import Parser, whole
from monosemy.support.moved import find_source
from monosemy.support.numbers import counted_text, fixed_text, percent_text, setting_text
from monosemy.support.subjects import Subject, add_subject, open_subject

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.shapes import TokenIds

EXAMPLES = (
    "monosemy bias runs/demo occupations.csv --words she he",
    "monosemy bias runs/demo sentences.jsonl --candidates 100 --counts 1 5 --out bias.json",
    'monosemy bias runs/demo occupations.csv --words she he --save-recipe "less he and she"',
)
DETAILS = """
FILE is .csv, .tsv or .jsonl with the columns (keys) group, text, first, second and item: what the model reads, the two
continuations that are compared, and the group that the text belongs to. first and second may be given once, by --words;
texts with the same item are averaged. The bias is the difference of mean log P(first) - log P(second) between the
groups. Latents are searched on half of the items and judged on the other half (docs/steering.md, "A bias of your own").
"""


def run_bias(words: list[str]) -> None:
    """Runs `monosemy bias`. Raises UserError for bad input, where possible before the model is loaded."""
    options = _parser().parse_args(words)
    texts = read_bias_texts(Path(options.file), tuple(options.words or ()))
    texts.halves()
    out = Path(options.out).expanduser() if options.out else None
    if out is not None:
        files.require_writable(out, "--out")
    counts = tuple(dict.fromkeys(options.counts))
    if options.save_count is not None and options.save_count not in counts:
        raise UserError(f"--save-count {options.save_count} is none of --counts {' '.join(map(str, counts))}")
    subject = open_subject(options, moved=("model", "text"))
    saved = choose_sae(subject.folder, subject.sae)
    if options.save_recipe:
        check_recipe_name(subject.folder, options.save_recipe)
    print_warnings([saved])

    from monosemy.steering.bias import BiasSettings, measure_bias
    from monosemy.steering.command import load_run
    from monosemy.steering.saes import SteeringSaes
    from monosemy.support import progress

    model, sae, scales = load_run(subject.folder, saved.folder, subject.moved)
    validation = _validation(subject, model, options.validation) if options.validation else None
    with progress.stage("try each latent", total=options.candidates, unit="latents") as bar:
        measured = measure_bias(
            model,
            SteeringSaes(sae, scales),
            texts,
            validation=validation,
            settings=BiasSettings(options.candidates, counts, options.controls),
            advance=bar.advance,
        )
    measured = {"sae": saved.label, "model": model.name, "file": Path(options.file).name, **measured}
    _print(measured, saved, texts.texts[0].first, texts.texts[0].second)
    if out is not None:
        files.write_json(out, measured)
        print(f"\nwritten: {out}")
    _keep(measured, subject.folder, saved, options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("monosemy bias", ROOM.commands[1].summary, details=DETAILS, examples=EXAMPLES)
    add_subject(parser)
    add = parser.add_argument
    add("file", help="The texts: .csv, .tsv or .jsonl.")
    add("--sae", metavar="SITE/NAME", help="The SAE. (default: JumpReLU at the middle L0 of the first site)")
    add("--words", nargs=2, metavar="WORD", help="The two continuations of rows that have none, e.g. she he.")
    some = Range(1, 100_000, example=40)
    add("--candidates", type=whole(some), default=40, help="Latents that are tried alone, each silenced and tripled.")
    add("--counts", type=whole(some), nargs="+", default=[1, 2, 5], help="How many of the best are changed together.")
    add("--controls", type=whole(Range(1, 100, example=3)), default=3, help="Random sets of latents beside each.")
    add(
        "--validation",
        type=whole(Range(0, 100_000, example=8)),
        default=8,
        help="Sequences of the run's validation text on which the loss is measured; 0: none.",
    )
    add("--out", metavar="FILE", help="Write everything that was measured as JSON.")
    add("--save-recipe", metavar="NAME", help="Keep the found edits in the run, for monosemy steer and the pages.")
    add("--save-count", type=whole(some), help="Which of --counts is kept. (default: the smallest)")
    return parser


def _validation(subject: Subject, model: LanguageModel, n: int) -> TokenIds:
    """The first n sequences of the run's validation text. Raises UserError if the text has changed or moved."""
    import torch

    from monosemy.data.tokens import prepare_tokens
    from monosemy.models.of_run import refuse_change

    config, provenance = read_run(subject.folder)
    began_with = provenance.get("text", {}).get("fingerprint")
    tokens = prepare_tokens(
        config.text,
        model.tokenizer,
        model.tokenizer_fingerprint,
        vocab_size=model.vocab_size,
        began_with=began_with,
        lies_at=find_source(subject.folder, config, provenance, "text", moved=subject.moved),
    )
    refuse_change("the text", began_with, tokens.fingerprint, subject.folder, flag="--text")
    shards = tokens.validation
    return torch.from_numpy(shards.sequences(0, min(n, shards.n_sequences)).copy()).long()


def _print(measured: Mapping[str, Any], saved: SavedSae, first: str, second: str) -> None:
    """Prints the gap before, the table of changes, and what the gap alone would hide."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from monosemy.steering.bias import cover_up
    from monosemy.steering.finding import named, names_of

    console, before, groups = Console(), measured["before"], measured["groups"]
    is_single = len(groups) == 1
    subject = f"mean lean of {groups[0] or 'the texts'}" if is_single else f"gap between {groups[0]} and {groups[1]}"
    n_items = " + ".join(str(len(items)) for items in measured["judge"].values())
    console.print(
        f"{subject}, log P({first.strip()}) − log P({second.strip()}): {_gap(before['gap'])} nats, on {n_items} items "
        "that the search did not see",
        highlight=False,
        markup=False,
    )
    cases = list(measured["changed"].values())
    table = Table("", "nothing", *(counted_text(len(case["changes"]), "latent") for case in cases), box=SIMPLE)
    table.columns[0].no_wrap = True
    for name, cells in _rows(before, cases, groups):
        table.add_row(escape(name), *cells)
    console.print(table)
    largest = max(cases, key=lambda case: len(case["changes"]))["changes"]
    names = names_of(saved.folder, [latent for latent, _ in largest])
    for latent, factor in largest:
        console.print(f"  × {setting_text(factor)}  {named(latent, names)}", highlight=False, markup=False)
    for case in cases:
        if cover_up(before, case["judged"]):
            leans = ", ".join(fixed_text(lean, 2, signed=True) for lean in case["judged"]["lean"])
            console.print(
                f"careful: with {counted_text(len(case['changes']), 'latent')} the gap shrinks because both groups now "
                f"lean the same way ({leans} nats): a new lean covers the old one",
                highlight=False,
                markup=False,
            )
            break


def _gap(gap: Mapping[str, Any]) -> str:
    low, high = gap["interval"]
    return f"{fixed_text(gap['mean'], 2)} [{fixed_text(low, 2)}, {fixed_text(high, 2)}]"


def _rows(before: Mapping[str, Any], cases: list[Any], groups: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The rows of the table: what is measured, before and with each number of latents changed."""
    leans = [before, *(case["judged"] for case in cases)]
    yield "silenced, tripled", ["", *(_factors(case["changes"]) for case in cases)]
    yield "gap, nats", [_gap(lean["gap"]) for lean in leans]
    yield "with random latents", ["", *(_random(case, lambda c: c["judged"]["gap"]["mean"], 2) for case in cases)]
    for k, group in enumerate(groups):
        yield f"lean of {group or 'the texts'}", [fixed_text(lean["lean"][k], 2, signed=True) for lean in leans]
    yield "either's probability", [percent_text(lean["either"]) for lean in leans]
    if cases[0]["cost"] is None:
        return
    yield "loss, nats per token", ["", *(_cost(case["cost"]) for case in cases)]
    yield "with random latents", ["", *(_random(case, lambda c: c["cost"]["loss_change"], 3) for case in cases)]


def _random(case: Mapping[str, Any], value: Callable[[Any], float], decimals: int) -> str:
    return ", ".join(fixed_text(value(control), decimals, signed=decimals == 3) for control in case["random"])


def _factors(changes: list[list[float]]) -> str:
    silenced = sum(factor == 0 for _, factor in changes)
    return f"{silenced}, {len(changes) - silenced}"


def _cost(cost: Mapping[str, Any]) -> str:
    change = fixed_text(cost["loss_change"], 3, signed=True)
    if cost["interval"] is None:
        return change
    low, high = (fixed_text(end, 3, signed=True) for end in cost["interval"])
    return f"{change} [{low}, {high}]"


def _keep(measured: Mapping[str, Any], run: Path, saved: SavedSae, options: argparse.Namespace) -> None:
    """Keeps the edits of one row as a recipe, or says how."""
    count = min(options.counts) if options.save_count is None else options.save_count
    case = measured["changed"][str(count)]
    if not options.save_recipe:
        edits = " ".join(f"--edit {latent}:scale:{setting_text(factor)}" for latent, factor in case["changes"])
        print(f'\nsteer with it: monosemy steer {run} --sae {saved.label} {edits} --prompt "…"')
        print("keep it: the same with --save-recipe NAME")
        return
    before, after = (value["gap"]["mean"] for value in (measured["before"], case["judged"]))
    recipe = SteeringRecipe(
        options.save_recipe,
        saved.label,
        tuple(Edit(latent, "scale", factor, sae=saved.label) for latent, factor in case["changes"]),
        model=measured["model"],
        about=f"monosemy bias {measured['file']}: gap {fixed_text(before, 2)} → {fixed_text(after, 2)} nats.",
    )
    print(f'\nkept: {save_recipe(run, recipe)}; monosemy steer {run} --recipe "{recipe.name}" --prompt "…"')
