"""The commands of a run: train, evaluate, report, features, and what is here.

Place on the path: the command line loads this module when one of its commands runs (`cli.RUN_COMMANDS`), so that
`monosemy --help` need not.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import NoReturn

from monosemy import __version__
from monosemy.cli import commands
from monosemy.config import RunConfig
from monosemy.errors import UserError, unknown
from monosemy.layout import RUN_JSON
from monosemy.ranges import Range
from monosemy.support.arguments import Parser, amount
from monosemy.support.flags import SHORT, parse_settings
from monosemy.support.moved import NOT_MOVED, Moved, add_moved, moved_of


def run_demo(words: list[str]) -> None:
    """A training run, and the features of one of its SAEs."""
    if "--help" in words or "-h" in words:
        _print_settings(_base("demo"), "demo")
    folder = run_train(["demo", *words], default_folder="runs/demo", features=True)
    print(f"look at the latents: monosemy browse {folder}")


def run_train(words: list[str], default_folder: str = "", features: bool = False) -> Path:
    """[RECIPE or run.json] [--run FOLDER] [settings]"""
    start = "demo"
    if words and not words[0].startswith("-"):
        start, words = words[0], words[1:]
    folder, words = _take(words, "--run", "runs/mine")
    target = Path(folder or default_folder or _default_folder(start)).expanduser()
    moved = NOT_MOVED
    if _continues(start, target):
        moved, words = _take_moved(words)
    config = _parse(_base(start), words)
    from monosemy import pipeline

    page = pipeline.whole_run(config, target, features=features, moved=moved)
    print(f"report: {page}")
    return target


def _continues(start: str, target: Path) -> bool:
    """Whether a run is trained on from its own folder: its model and text are its own, and can only have moved."""
    path = Path(start).expanduser()
    run = path.parent if path.name == RUN_JSON else path
    return (run / RUN_JSON).is_file() and target.is_dir() and run.samefile(target)


def _take_moved(words: list[str]) -> tuple[Moved, list[str]]:
    places = {"model": "", "text": ""}
    for kind in places:
        for flag in (f"--{kind}", f"--{kind}.source"):
            place, words = _take(words, flag, "NEWPATH")
            places[kind] = place or places[kind]
    return Moved(**places), words


def _default_folder(start: str) -> Path:
    """A run folder (or its run.json) is continued; a recipe or a file of settings gets runs/NAME."""
    path = Path(start).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".json":
        return path.parent if path.name == RUN_JSON else Path("runs") / path.stem
    return Path("runs") / start


def run_evaluate(words: list[str]) -> None:
    parser = _run_parser("evaluate")
    add_moved(parser)
    arguments = parser.parse_args(words)
    from monosemy import pipeline

    pipeline.evaluate_folder(Path(arguments.run).expanduser(), moved_of(arguments))


def run_report(words: list[str]) -> None:
    folder = Path(_run_parser("report").parse_args(words).run).expanduser()
    from monosemy import pipeline
    from monosemy.run import require_weights

    print(f"report: {pipeline.report(folder)}")
    require_weights(folder)


def run_features(words: list[str]) -> None:
    parser = _run_parser("features")
    parser.add_argument(
        "--saes", nargs="+", metavar="SITE/NAME", help="by default the JumpReLU SAE at the middle L0 of the first site"
    )
    parser.add_argument(
        "--tokens",
        type=amount(Range(1, example=150_000)),
        help="training tokens to read, e.g. 150k (the default) or 1.5M",
    )
    parser.add_argument(
        "--embedding-model", metavar="NAME", help="also score labels by a sentence-embedding model: hub id or folder"
    )
    add_moved(parser)
    arguments = parser.parse_args(words)
    from monosemy.pipeline.features import build_features

    folder = Path(arguments.run).expanduser()
    moved = moved_of(arguments)
    for built in build_features(folder, arguments.saes, arguments.tokens, arguments.embedding_model, moved):
        print(f"features: {built}")
    print(f"look at them: monosemy browse {folder}")


def run_info(words: list[str]) -> None:
    parser = Parser("monosemy info", description=commands()["info"].summary)
    parser.add_argument(
        "subject",
        nargs="?",
        metavar="what",
        help="a run folder (its settings and SAEs) or an architecture (its options)",
    )
    subject = parser.parse_args(words).subject
    from monosemy.recipes import RECIPES
    from monosemy.run import machine, versions
    from monosemy.saes.registry import ARCHITECTURES

    if subject in ARCHITECTURES:
        _print_architecture(subject)
    elif subject and Path(subject).expanduser().is_dir():
        _print_run(Path(subject).expanduser())
    elif subject:
        raise unknown("run folder or architecture", subject, ARCHITECTURES)
    else:
        print(f"monosemy {__version__} on {machine()}")
        print("versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()))
        print("architectures: " + ", ".join(ARCHITECTURES))
        for name, make in RECIPES.items():
            print(f"recipe {name}: {(make.__doc__ or '').strip()}")


def _print_run(folder: Path) -> None:
    from monosemy.run import read_run, require_weights
    from monosemy.saes.listing import saved_saes

    config, provenance = read_run(folder)
    for name, value in dataclasses.asdict(config).items():
        print(f"{name}: {value}")
    print(f"seconds: {provenance.get('seconds', {})}")
    for sae in saved_saes(folder):
        print(f"SAE: {sae.label}{sae.remark}")
    require_weights(folder)


def _print_architecture(name: str) -> None:
    from monosemy.saes.registry import architecture

    cls = architecture(name)
    print((sys.modules[cls.__module__].__doc__ or "").strip())
    print("\noptions, with their defaults; set one by, e.g.:")
    fields = dataclasses.fields(cls.Options)
    print(f"  monosemy train quick --{name}.{fields[0].name.replace('_', '-')} {fields[0].default}\n")
    for field in fields:
        print(f"  {name}.{field.name} = {field.default!r}")


def _run_parser(command: str) -> Parser:
    parser = Parser(f"monosemy {command}", description=commands()[command].summary)
    parser.add_argument("run", help="a run folder, e.g. runs/demo")
    return parser


def _base(start: str) -> RunConfig:
    from monosemy.recipes import recipe
    from monosemy.run import load_config

    if start.endswith(".json") or Path(start).expanduser().is_dir():
        return load_config(Path(start))
    return recipe(start)


def _parse(base: RunConfig, words: list[str], command: str = "train") -> RunConfig:
    """Flags over a base configuration; every setting of config.py is a flag, the common ones have short names."""
    from monosemy.saes.registry import ARCHITECTURES

    if "--help" in words or "-h" in words:
        _print_settings(base, command)
    return parse_settings(base, words, ARCHITECTURES)


def _print_settings(base: RunConfig, command: str) -> NoReturn:
    """The help of train and demo."""
    import tyro

    from monosemy.recipes import RECIPES

    if command == "train":
        print("recipes (the settings that a run starts from):")
        for name, make in RECIPES.items():
            print(f"  {name:8s}{(make.__doc__ or '').strip()}")
    print("short names: " + ", ".join(f"{short} = {full}" for short, full in SHORT.items()))
    print("counts of tokens take k, M and G: --tokens 1.5M")
    print("options of an architecture: --jumprelu.bandwidth-relative 0.3; monosemy info jumprelu lists them\n")
    usage = {"train": "train [RECIPE | run.json | RUN]", "demo": "demo"}[command]
    tyro.cli(RunConfig, args=["--help"], default=base, prog=f"monosemy {usage} [--run FOLDER]")
    sys.exit(0)


def _take(words: list[str], flag: str, example: str) -> tuple[str, list[str]]:
    """Removes `flag VALUE` (or `flag=VALUE`) from the words."""
    for i, word in enumerate(words):
        if word == flag:
            if i + 1 == len(words):
                raise UserError(f"{flag} needs a value, e.g. {flag} {example}")
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1], words[:i] + words[i + 1 :]
    return "", words
