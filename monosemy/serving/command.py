"""`monosemy serve RUN|SAE …`: the model behind OpenAI's HTTP interface.

Place on the path: words of the command line → served model → api → clients. The port is taken first and the model
loaded before the address is printed, so that whoever reads it can connect.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.app.security import Access, Guard
from monosemy.app.server import DEFAULT_PORT, bind, server_of
from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.saes.listing import SavedSae, choose_sae, print_warnings, saved_saes
from monosemy.serving.recipes import Recipe, kept_recipes, read_recipe
from monosemy.serving.room import ROOM
from monosemy.steering.request import written_edit
from monosemy.support.arguments import Parser, whole
from monosemy.support.subjects import add_subject, open_subject
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.serving.served import Served

PORT = DEFAULT_PORT + 1
KEY = "MONOSEMY_API_KEY"
"""The environment variable that holds the key, which on the command line other users of the machine would see."""
STEERED = "steered"
"""The name of the recipe that `--edit` makes."""
EXAMPLES = (
    "monosemy serve runs/demo --recipe music=1312:set:0.4:norm",
    "monosemy serve runs/demo --edit 1312:set:0.4:norm --latents music=1312 40",
    "monosemy serve runs/demo --monitor monitors.json --host 0.0.0.0",
)


def run_serve(words: list[str]) -> None:
    """Runs `monosemy serve` until interrupted. Raises UserError for bad input."""
    options = _parser().parse_args(words)
    recipes = _recipes(options)
    key = os.environ.get(KEY) or None
    if key is not None and (len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key):
        raise UserError(f"{KEY} must have at least 8 printable ASCII characters without spaces; unset it for no key")
    from monosemy.serving.served import Place, Served

    places, of_run = [], list[Recipe]()
    for word in options.run:
        subject = open_subject(_one(options, word), moved=("model",))
        saved = [choose_sae(subject.folder, label) for label in options.sae or [subject.sae]]
        own = kept_recipes(subject.folder)
        if not options.sae and subject.sae is None:
            saved += _saes_of(subject.folder, own, saved)
        print_warnings(saved)
        of_run += own
        places.append(Place(subject.folder, tuple(sae.key for sae in saved), subject.moved))
    listener = bind(options.host, options.port, PORT)
    access = Access.to(options.host, listener.getsockname()[1], tuple(options.name), key)
    try:
        served = Served(
            places,
            recipes=recipes,
            kept_recipes=of_run,
            latents=options.latents,
            monitors=[Path(name).expanduser() for name in options.monitor],
        )
    except BaseException:
        listener.close()
        raise
    from monosemy.serving.api import make_app, refuse

    server = server_of(Guard(make_app(served), access, bearer=True, refuse=refuse))
    _print_start(served, access, own_key=key is not None)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = Parser("monosemy serve", ROOM.commands[0].summary, examples=EXAMPLES)
    add_subject(parser, several=True)
    add = parser.add_argument
    add(
        "--sae",
        action="append",
        metavar="SITE/NAME",
        help="An SAE of the run; may be repeated. (default: JumpReLU at the middle L0 of the first site)",
    )
    add(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME=EDITS",
        help="A steered model MODEL:NAME; edits as for --edit, with commas, or the address of the steering page, or a "
        "file.json in the place of it all; may be repeated. Those that the run keeps are served by themselves.",
    )
    add(
        "--edit",
        action="append",
        default=[],
        metavar="[SAE:]LATENT:OPERATION[:VALUE[:UNIT]]",
        help=f"An edit of the model MODEL:{STEERED}, as for monosemy steer; may be repeated.",
    )
    add(
        "--latents",
        nargs="+",
        default=[],
        metavar="LATENT",
        help="Latents whose activations answers report, as [NAME=][SITE/NAME:]LATENT. (default: those of the recipe)",
    )
    add(
        "--monitor",
        action="append",
        default=[],
        metavar="FILE",
        help="Monitors or a probe that flag prompts and answers; may be repeated.",
    )
    add(
        "--port", type=whole(Range(0, 65535, example=PORT)), default=PORT, help="The server's port; 0 takes a free one."
    )
    add(
        "--host",
        default="127.0.0.1",
        help=f"The server's address; clients of another one than loopback need a key, which {KEY} sets.",
    )
    add(
        "--name",
        action="append",
        default=[],
        help="A host name that a proxy passes on, may be repeated; clients then need a key.",
    )
    return parser


def _one(options: argparse.Namespace, word: str) -> argparse.Namespace:
    """The options for one of the runs and SAEs that were named."""
    label = options.sae[0] if options.sae else None
    return argparse.Namespace(**vars(options) | {"run": word, "sae": label})


def _recipes(options: argparse.Namespace) -> list[Recipe]:
    recipes = [read_recipe(words) for words in options.recipe]
    if options.edit:
        recipes.append(Recipe(STEERED, tuple(written_edit(text) for text in options.edit)))
    if options.sae and len(options.run) > 1:
        raise UserError("--sae chooses among the SAEs of one run, but several were named; leave it out")
    return recipes


def _saes_of(folder: Path, recipes: list[Recipe], saved: list[SavedSae]) -> list[SavedSae]:
    """The run's SAEs that its kept recipes name, beyond those chosen already."""
    named_labels = {label for recipe in recipes for label in (recipe.sae, *(edit.sae for edit in recipe.edits))}
    labels = {sae.label for sae in saved}
    return [sae for sae in saved_saes(folder) if sae.label in named_labels - labels and not sae.stopped]


def _print_start(served: Served, access: Access, *, own_key: bool) -> None:
    from monosemy.serving.api import model_entries

    host = f"[{access.host}]" if ":" in access.host else access.host
    print(f"serve {served.name}: http://{host}:{access.port}/v1  (Ctrl-C stops)")
    for entry in model_entries(served):
        print(f"  model    {entry['id']}")
    for label in served.saes:
        print(f"  SAE      {label}")
    for ref in served.latents:
        print(f"  latent   {ref.name}: {ref.label or f'latent {ref.latent} of {ref.sae}'}")
    for monitor in served.monitors:
        print(f"  monitor  {monitor.name}")
    for line in served.left_out:
        print(f"warning: {visible(line)}", file=sys.stderr)
    if access.token is not None:
        print(f"  API key  {f'that of {KEY}' if own_key else access.token}")
    sys.stdout.flush()
