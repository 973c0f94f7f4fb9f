"""Steering in the terminal: `monosemy steer RUN --latent 12 --set 0.4 --unit norm --prompt "…"`.

Place on the path: words of the command line → request → generate, sweep, output_score → columns and tables of text
(printing.py).
Works on any evaluated run and needs no feature database.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.config import SEED
from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.run import read_run
from monosemy.saes.listing import SavedSae, choose_sae, print_warnings
from monosemy.steering.finding import names_of, print_found, score_words, warn_of_cut_words
from monosemy.steering.printing import Names, print_columns, print_sweep
from monosemy.steering.recipe import (
    SteeringRecipe,
    beside,
    check_recipe_name,
    find_recipe,
    fully_named,
    labels_of,
    save_recipe,
)
from monosemy.steering.request import (
    COLUMNS,
    OPERATIONS,
    OWN_SAE,
    PLACES,
    UNITS,
    Edit,
    SteeringRequest,
    written_edit,
    written_positions,
)
from monosemy.steering.room import ROOM
from monosemy.steering.trial import N_TRIED
from monosemy.support.arguments import Parser, real, whole
from monosemy.support.moved import NOT_MOVED, Moved
from monosemy.support.numbers import rounded_text, setting_text
from monosemy.support.subjects import add_subject, open_subject
from monosemy.support.text_input import require_characters

if TYPE_CHECKING:
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.steering.edits import LatentScales
    from monosemy.steering.saes import SteeredSae, SteeringSaes

LATENT = Range(0, example=12)
STRENGTH = Range(-1e38, 1e38, example=8)
"""Any strength that float32 can hold; whether the text survives it shows in the answer."""
N_FOUND = 15
"""How many latents `--find` lists."""
FOUND_SET = 0.35
"""What a found latent is set to, in typical norms; research/steering chose it for each of its wishes."""
EXAMPLES = (
    'monosemy steer runs/demo --find Python function --prompt "How can I sleep better?"',
    'monosemy steer runs/demo --latent 12 --set 0.4 --unit norm --prompt "What should I do this weekend?"',
    'monosemy steer runs/demo --edit 12:set:0.4:norm --edit 40:ablate --prompt "…" --instruction "Talk about music."',
    "monosemy steer runs/demo --edit 12:set:0.4:norm --edit layers.4.resid_post/jumprelu-l0_32-s0:7:ablate …",
    'monosemy steer runs/demo --latent 12 --unit norm --sweep 0 0.2 0.4 0.6 --prompt "…"',
    "monosemy steer runs/demo --find Python function      which latents make the model say these words",
)


def run_steer(words: list[str]) -> None:
    """Runs `monosemy steer`. Raises UserError for bad input, where possible before the model is loaded."""
    options = _parser().parse_args(words)
    subject = open_subject(options, moved=("model",))
    recipe = find_recipe(subject.folder, options.recipe) if options.recipe else None
    saved = choose_sae(subject.folder, subject.sae or (recipe.sae if recipe else None))
    for word in options.find or ():
        require_characters("--find", word)
    # everything that can be checked without weights, before the model is loaded
    only_found = bool(options.find) and not options.prompt
    request = None if only_found else _request(_with_found(options, 0) if options.find else options, recipe, saved)
    others = _other_saes(subject.folder, request)
    _check_latents(saved, others, request)
    if options.save_recipe:
        check_recipe_name(subject.folder, options.save_recipe)
    print_warnings([saved, *others.values()])
    model, sae, scales = load_run(subject.folder, saved.folder, subject.moved)
    loaded_others = _load_others(others, str(model.device))
    if options.find:
        from monosemy.steering.candidates import firing_latents, in_turn, named_latents
        from monosemy.steering.saes import SteeringSaes

        warn_of_cut_words(model, saved.folder, options.find)
        scores, ranked = score_words(model, sae, scales, options.find)
        if only_found:
            found_names = names_of(saved.folder, [int(scores.latents[row]) for row in ranked[:N_FOUND]])
            print_found(model, sae, scores, rows=ranked[:N_FOUND], names=found_names)
            return
        sources = (
            firing_latents(model, sae, scales, options.find, n=N_TRIED),
            named_latents(model, saved.folder, options.find, N_TRIED),
            [int(scores.latents[row]) for row in ranked[:N_TRIED]],
        )
        able = set(scores.latents.tolist())  # those that fired, where that is known
        latents = in_turn([[latent for latent in source if latent in able] for source in sources], N_TRIED)
        request = _tried(model, SteeringSaes(sae, scales, loaded_others), options, latents, about=(recipe, saved))
    assert request is not None
    names = _names(saved, others, request)
    if recipe and recipe.model not in ("", model.name):
        print(f"warning: recipe {recipe.name!r} was made with {recipe.model}, this is {model.name}", file=sys.stderr)
    if not options.sweep:  # which is made to see where the text ends
        _warn_of_strength(sae, scales, loaded_others, request)
    if options.sweep:
        from monosemy.steering.sweep import sweep_events

        events = sweep_events(model, sae, request, options.sweep, scales=scales, others=loaded_others)
        print_sweep(events, request, names, as_json=options.json)
    else:
        from monosemy.steering.generate import stream

        events = stream(model, sae, request, scales, others=loaded_others)
        print_columns(events, request, names, as_json=options.json)
    if options.save_recipe:
        new_recipe = SteeringRecipe(
            options.save_recipe,
            saved.label,
            fully_named(request.edits, saved.label),
            request.positions,
            keep_error=request.keep_error,
            prompt=request.prompt,
            instruction=request.instruction,
            model=model.name,
        )
        print(f"kept: {save_recipe(subject.folder, new_recipe)}", file=sys.stderr)


def _other_saes(run: Path, request: SteeringRequest | None) -> dict[str, SavedSae]:
    """The SAEs beside the request's own that its edits name, by `SITE/NAME`. Raises UserError for an unknown one."""
    labels = labels_of(request.edits) if request else []
    return {label: choose_sae(run, label) for label in labels}


def _load_others(others: Mapping[str, SavedSae], device: str) -> dict[str, SteeredSae]:
    from monosemy.steering.saes import SteeredSae

    return {label: SteeredSae.load(other.folder, device) for label, other in others.items()}


def _names(saved: SavedSae, others: Mapping[str, SavedSae], request: SteeringRequest) -> Names:
    """The labels of the latents that the request edits."""
    folders = {OWN_SAE: saved.folder} | {label: other.folder for label, other in others.items()}
    return {
        label: names_of(folder, [edit.latent for edit in request.edits if edit.sae == label])
        for label, folder in folders.items()
    }


def _tried(
    model: LanguageModel,
    saes: SteeringSaes,
    options: argparse.Namespace,
    latents: list[int],
    *,
    about: tuple[SteeringRecipe | None, SavedSae],
) -> SteeringRequest:
    """The request with that of these latents with which a short answer has most of the words (`trial`).

    `about` are the recipe and the SAE of the request.
    """
    from monosemy.steering.strength import TooStrongError
    from monosemy.steering.trial import try_latents

    requests = [_request(_with_found(options, latent), *about) for latent in latents]
    # a sweep names no strength of its own
    once = argparse.Namespace(**vars(options) | {"sweep": None})
    tried = [_request(_with_found(once, latent), *about) for latent in latents]
    try:
        best = try_latents(model, saes, requests=tried, words=options.find)[0]
    except TooStrongError:  # of one of them; the answer to the first says so, if it is that
        return requests[0]
    latent = latents[best.candidate]
    # Fluent answers come first, so one that says the words in broken text alone is not taken.
    if not best.n_said:
        print(
            f"warning: no fluent answer of {len(latents)} latents tried says them; {latent} is shown, whose answer "
            "comes nearest; give other words, or look for a latent on the pages (monosemy browse)",
            file=sys.stderr,
        )
        return requests[best.candidate]
    said_text = f"says {best.n_said} of them in {best.n_words} words"
    print(f"of {len(latents)} latents tried, {latent} {said_text}", file=sys.stderr)
    return requests[best.candidate]


def _warn_of_strength(
    sae: SparseAutoencoder, scales: LatentScales, others: Mapping[str, SteeredSae], request: SteeringRequest
) -> None:
    """Warns of the strongest edit when it is far above what an answer bears."""
    from monosemy.steering.saes import SteeringSaes
    from monosemy.steering.strength import MOST_NORMS

    saes = SteeringSaes(sae, scales, others)
    strengths = [(saes.in_norms(edit) or 0.0, edit) for edit in request.edits]
    norms, edit = max(strengths, key=lambda pair: pair[0], default=(0.0, None))
    if edit is not None and norms > MOST_NORMS:
        print(
            f"warning: {rounded_text(norms)} typical norms are far too much for {edit.name}: above "
            f"{setting_text(MOST_NORMS)}, hardly any answer is text; about half of that is usually right "
            "(--set 0.4 --unit norm), and --sweep shows what a latent bears",
            file=sys.stderr,
        )


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


def _check_latents(saved: SavedSae, others: Mapping[str, SavedSae], request: SteeringRequest | None) -> None:
    """Raises UserError for a latent that its SAE lacks, before anything heavy is loaded."""
    from monosemy.saes.storage import read_sae_config

    n_latents = {label: read_sae_config(sae.folder).d_sae for label, sae in {OWN_SAE: saved, **others}.items()}
    for edit in request.edits if request else ():
        n = n_latents[edit.sae]
        if not 0 <= edit.latent < n:
            raise UserError(f"{edit.name} is out of range; {edit.sae or 'this SAE'} has latents 0 to {n - 1}")


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
        metavar="[SAE:]LATENT:OPERATION[:VALUE[:UNIT]]",
        help="One more edit; may be repeated. SAE names another SAE of the run, at the same or another site: "
        "SITE/NAME, or NAME alone where only one site has it.",
    )
    add("--recipe", metavar="NAME", help="Make the edits of a recipe: its name in the run, or its file.")
    add("--save-recipe", metavar="NAME", help="Keep these edits in the run, for --recipe and the steering page.")
    places = ", ".join(PLACES[:-1])
    add("--positions", help=f"Edited tokens: {places}, or START-STOP (token numbers of the prompt). (default: all)")
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


def _request(
    options: argparse.Namespace, recipe: SteeringRecipe | None = None, saved: SavedSae | None = None
) -> SteeringRequest:
    """The request that the flags describe, with the recipe's edits first, about the SAE `saved`.

    Positions, reconstruction error and prompts that the flags leave out are the recipe's.
    """
    edits, positions = _edits(options), written_positions(options.positions or "all")
    keep_error, prompt, instruction = not options.no_error, options.prompt, options.instruction
    if recipe:
        edits = (*recipe.edits, *edits)
        positions = positions if options.positions else recipe.positions
        keep_error, prompt = keep_error and recipe.keep_error, prompt or recipe.prompt
        instruction = instruction or recipe.instruction
    if saved:
        edits = _with_full_names(edits, saved)
    return SteeringRequest(
        prompt=prompt,
        edits=edits,
        positions=positions,
        keep_error=keep_error,
        columns=None if options.columns is None else tuple(options.columns),
        instruction=instruction,
        control=options.control,
        chat=False if options.plain else None,
        system=options.system,
        n_tokens=options.tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )


def _with_full_names(edits: tuple[Edit, ...], saved: SavedSae) -> tuple[Edit, ...]:
    """The edits with SAEs by `SITE/NAME`, also where NAME alone was typed; those of `saved` are the request's own."""
    run = saved.folder.parents[2]
    labels = {label: choose_sae(run, label).label for label in labels_of(edits)}
    return beside((replace(edit, sae=labels.get(edit.sae, edit.sae)) for edit in edits), saved.label)


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
    return (*edits, *(written_edit(text) for text in options.edit))


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
