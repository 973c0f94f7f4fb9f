"""The commands of a run: demo, train, plan, evaluate, import, report and features.

Place on the path: the command line loads this module when one of its commands runs (`cli.RUN_COMMANDS`), so that
`monosemy --help` does not have to.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.cli import commands
from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.layout import RUN_JSON
from monosemy.ranges import Range
from monosemy.run import versions
from monosemy.support import ranks
from monosemy.support.arguments import Parser, amount, real, whole
from monosemy.support.flags import add_descriptive, add_settings, descriptive_of, read_settings, with_settings
from monosemy.support.launch import launch
from monosemy.support.moved import NOT_MOVED, Moved
from monosemy.support.rank_group import joined
from monosemy.support.subjects import add_subject, open_subject

if TYPE_CHECKING:
    from monosemy.app.beside import PagesBeside

_PUBLISHED = "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
SUBJECT_EXAMPLES = {
    "evaluate": ("monosemy evaluate runs/demo", f"monosemy evaluate {_PUBLISHED} --text my-texts/"),
    "features": ("monosemy features runs/demo", f"monosemy features {_PUBLISHED} --tokens 1.5M"),
}


def run_demo(words: list[str]) -> None:
    """`monosemy demo`: a first SAE to look at, then a small run, and the features of one of its SAEs."""
    with joined(versions):
        pages = _demo(words)
    if pages is not None:
        _stay(pages)


def _stay(pages: PagesBeside) -> None:
    try:
        pages.stay()
    finally:
        pages.close()


def _demo(words: list[str]) -> PagesBeside | None:
    """The pages that are to stay, if they were asked for."""
    start = _start_of("demo", words, command="demo")
    from monosemy import pipeline
    from monosemy.app.beside import PagesBeside

    pages, stays = PagesBeside(start.folder, open_page=start.arguments.open), False
    try:
        page = pipeline.whole_run(
            start.config, start.folder, features=True, moved=start.moved, on_first_look=pages.start
        )
        if not ranks.is_first():
            return None
        print(f"report: {page}")
        if stays := start.arguments.open:
            return pages
        print(f"look at the latents: monosemy browse {start.folder}")
        return None
    finally:
        if not stays:
            pages.close()


def run_try(words: list[str]) -> None:
    """`monosemy try`: the first look of the demo alone, and its pages; `monosemy demo` goes on from there."""
    start = _start_of("demo", words, command="try")
    from monosemy import pipeline
    from monosemy.app.beside import PagesBeside

    pipeline.only_first_look(start.config, start.folder)
    settings = shlex.join(word for word in words if word not in ("--open", "--no-open"))
    print(f"go on, to compare SAEs: monosemy demo {settings}".rstrip())
    if start.arguments.no_open:
        print(f"look at the latents: monosemy browse {start.folder}")
        return
    _stay(PagesBeside(start.folder, open_page=True))


def run_train(words: list[str]) -> None:
    """`monosemy train [RECIPE | run.json | RUN] [--run FOLDER] [FLAGS]`; without a start, the recipe is `demo`."""
    if not words or words[0].startswith("-"):
        words = ["demo", *words]
    with joined(versions):
        start = _start_of(words[0], words[1:], command="train")
        if start.arguments.shard_latents:
            from monosemy.pipeline.wide import train_wide

            train_wide(start.config, start.folder, start.arguments.shard_latents, moved=start.moved)
            return
        from monosemy import pipeline

        page = pipeline.whole_run(start.config, start.folder, moved=start.moved)
        if ranks.is_first():
            print(f"report: {page}")


def run_plan(words: list[str]) -> None:
    """`monosemy plan [RECIPE | run.json | RUN] [FLAGS]`: what `monosemy train` with the same words needs and takes."""
    if not words or words[0].startswith("-"):
        words = ["demo", *words]
    start, base = words[0], _base(words[0])
    arguments, settings = _settings(base, words[1:], "plan")
    from monosemy.pipeline.planning.plan import Question, plan_run
    from monosemy.pipeline.planning.text import plan_page
    from monosemy.run import machine
    from monosemy.support.hardware import hardware_with

    hardware = hardware_with(
        arguments.hardware, arguments.device_memory, arguments.device_tflops, arguments.device_bandwidth
    )
    question = Question(
        hardware,
        arguments.processes,
        arguments.shard_latents or 0,
        measure=not arguments.no_measure,
        main_memory=arguments.main_memory,
        disk=arguments.disk,
    )
    folder = Path(arguments.run or _default_folder(start)).expanduser()
    config = with_settings(base, settings)
    if question.n_latent_shards:
        from monosemy.pipeline.wide import check_wide

        check_wide(config, question.n_latent_shards, question.n_processes or (hardware.n_devices if hardware else 1))
    plan = plan_run(config, folder, question)
    print(plan_page(plan, folder, machine()))
    if plan.refusal is not None:
        raise UserError("this plan does not fit; change what it says and plan again")


@dataclasses.dataclass(frozen=True)
class _Start:
    """What a command that trains was asked for."""

    arguments: argparse.Namespace
    config: RunConfig
    folder: Path
    moved: Moved


def _start_of(start: str, words: list[str], *, command: str) -> _Start:
    """The run that begins with the settings of `start` (a recipe, a file or a run) and of the words."""
    base = _base(start)
    arguments, settings = _settings(base, words, command)
    from monosemy.recipes import RECIPES

    all_words = [command, *([start] if command == "train" else []), *words]

    if settings.get("rows.source") and start in RECIPES:
        # The sizes that suit somebody's rows follow from the rows, not from a recipe for a language model.
        from monosemy.rows.defaults import frontier_config

        base, start = frontier_config(settings), Path(settings["rows.source"]).stem
    if (n_processes := _processes_to_start(arguments)) > 1:
        _check_before_start(with_settings(base, settings), n_processes, getattr(arguments, "shard_latents", None))
        launch(n_processes, all_words)
    folder = Path(arguments.run or _default_folder(start)).expanduser()
    moved = NOT_MOVED
    # A run that is continued keeps its model and text, so their flags can only say where these are now.
    if _continues(start, folder):
        moved = Moved(**{kind: settings.pop(f"{kind}.source", "") for kind in ("model", "text", "rows")})
    return _Start(arguments, with_settings(base, settings), folder, moved)


def _check_before_start(config: RunConfig, n_processes: int, n_latent_shards: int | None) -> None:
    """Refuses settings once, and not in every process."""
    from monosemy.models.engine import require_backend
    from monosemy.pipeline import check_config

    check_config(config)
    require_backend(config.model, n_processes)
    if n_latent_shards:
        from monosemy.pipeline.wide import check_wide

        check_wide(config, n_latent_shards, n_processes)


def _continues(start: str, folder: Path) -> bool:
    """Whether `start` is the run in `folder` itself, which is then continued."""
    path = Path(start).expanduser()
    run = path.parent if path.name == RUN_JSON else path
    return (run / RUN_JSON).is_file() and folder.is_dir() and run.samefile(folder)


def _default_folder(start: str) -> Path:
    """The folder of a run without `--run`: that of `start` if it is a run or its run.json, else runs/NAME."""
    path = Path(start).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".json":
        return path.parent if path.name == RUN_JSON else Path("runs") / path.stem
    return Path("runs") / start


def run_evaluate(words: list[str]) -> None:
    """`monosemy evaluate RUN|SAE`: measures the SAEs of a run again, or an SAE from elsewhere."""
    with joined(versions):
        _evaluate(words)


def _evaluate(words: list[str]) -> None:
    parser = Parser("monosemy evaluate", commands()["evaluate"].summary, examples=SUBJECT_EXAMPLES["evaluate"])
    add_subject(parser, rows=True)
    _add_processes(parser)
    arguments = parser.parse_args(words)
    if (n_processes := _processes_to_start(arguments)) > 1:
        launch(n_processes, ["evaluate", *words])
    with ranks.first_alone():  # the others find the run that it makes of an SAE
        subject = open_subject(arguments)
    from monosemy import pipeline

    pipeline.evaluate_folder(subject.folder, subject.moved)


def run_import(words: list[str]) -> None:
    """`monosemy import SAE [SAE …] --run FOLDER`: makes published SAEs a run, or adds them to one."""
    from monosemy.config import EvaluationConfig, TextConfig

    parser = Parser(
        "monosemy import",
        commands()["import"].summary,
        examples=("monosemy import google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82 --run runs/gs",),
    )
    parser.add_argument("saes", nargs="+", metavar="sae", help="An SAE's folder or file, or its name on the hub.")
    parser.add_argument("--run", required=True, metavar="FOLDER", help="The run to make, or the one that they join.")
    parser.add_argument("--model", default="", help="The model: a hub id, a folder or a file. (default: the SAE's)")
    parser.add_argument("--site", default="", help="The site to read. (default: the one that the SAE names)")
    parser.add_argument("--text", default="", help="A new run's text, as for train. (default: embedded)")
    parser.add_argument("--name", default="", help="Their name in tables. (default: published_ARCHITECTURE)")
    parser.add_argument(
        "--input-scale",
        type=real(Range(0, example=0.5, above_low=True)),
        metavar="FACTOR",
        help="What their input is multiplied by, where their files leave it out, as a warning says.",
    )
    sizes = {
        "--tokens": (TextConfig.n_tokens, "Tokens of a new run's text that features read."),
        "--validation-tokens": (TextConfig.n_validation_tokens, "Tokens of a new run's text that evaluation reads."),
        "--loss-tokens": (EvaluationConfig.n_loss_tokens, "Of these, tokens over which the model's loss is measured."),
    }
    for flag, (default, meaning) in sizes.items():
        # Errors about a text name its settings as training does.
        names = [flag, f"--text.n-{flag.removeprefix('--')}"] if flag != "--loss-tokens" else [flag]
        dest = f"n_{flag.removeprefix('--').replace('-', '_')}"
        parser.add_argument(*names, dest=dest, type=amount(Range(1, example=default)), default=default, help=meaning)
    options = vars(parser.parse_args(words))
    from monosemy.pipeline.imported import ImportSettings, import_saes
    from monosemy.saes.listing import print_warnings, saved_saes

    sources, folder = options.pop("saes"), Path(options.pop("run")).expanduser()
    places = [files.folder for files in import_saes(sources, folder, ImportSettings(**options))]
    for place in places:
        print(f"imported: {place}")
    print_warnings(sae for sae in saved_saes(folder) if sae.folder in places)
    print(f"measure: monosemy evaluate {folder}")


def run_report(words: list[str]) -> None:
    """`monosemy report RUN`: writes the report again, which needs no weights, but says when some are missing."""
    folder = Path(_run_parser("report").parse_args(words).run).expanduser()
    from monosemy import pipeline
    from monosemy.run import require_weights

    # The report needs no weights, so it is written first; missing ones are an error all the same.
    print(f"report: {pipeline.report(folder)}")
    require_weights(folder)


def run_features(words: list[str]) -> None:
    """`monosemy features RUN|SAE`: builds the feature databases of SAEs."""
    with joined(versions):
        _build_features(words)


def _build_features(words: list[str]) -> None:
    parser = Parser("monosemy features", commands()["features"].summary, examples=SUBJECT_EXAMPLES["features"])
    add_subject(parser, rows=True)
    parser.add_argument(
        "--saes",
        nargs="+",
        metavar="SITE/NAME",
        help="SAEs whose latents to describe. (default: the JumpReLU SAE at the middle L0 of the first site)",
    )
    parser.add_argument(
        "--tokens",
        type=amount(Range(1, example=150_000)),
        help="Training tokens, or rows, to read, e.g. 1.5M. (default: 150k)",
    )
    parser.add_argument(
        "--embedding-model",
        metavar="NAME",
        help="Also score labels by a sentence-embedding model: a hub id or a folder.",
    )
    _add_processes(parser)
    add_descriptive(parser)
    arguments = parser.parse_args(words)
    if (n_processes := _processes_to_start(arguments)) > 1:
        launch(n_processes, ["features", *words])
    with ranks.first_alone():
        subject = open_subject(arguments)
    if subject.sae and arguments.saes:
        raise UserError(f"--saes chooses among the SAEs of a run, but {arguments.run} is one SAE; leave it out")
    from monosemy.pipeline.features import build_features, choose_saes
    from monosemy.saes.listing import print_warnings, saved_saes

    folder, names = subject.folder, [subject.sae] if subject.sae else arguments.saes
    built = build_features(
        folder,
        names,
        arguments.tokens,
        arguments.embedding_model,
        moved=subject.moved,
        settings=descriptive_of(arguments),
    )
    if not ranks.is_first():
        return
    for place in built:
        print(f"features: {place}")
    print_warnings(sae for sae in saved_saes(folder) if sae.key in choose_saes(folder, names))
    print(f"look at them: monosemy browse {folder}")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=whole(Range(1, 1024, example=2)),
        help="Processes on this machine that share the work, each on its GPU or its cores. (default: 1)",
    )


def _processes_to_start(arguments: argparse.Namespace) -> int:
    """How many processes this one must start; 1 where it is one of them already, or the only one.

    Raises UserError where torchrun has started another number.
    """
    n_processes: int = getattr(arguments, "processes", None) or 1
    if not ranks.asked_for():
        return n_processes
    if n_processes not in (1, n_started := int(os.environ["WORLD_SIZE"])):
        raise ranks.RankError(
            f"--processes {n_processes} starts processes by itself, and torchrun has started {n_started}; leave it out"
        )
    return 1


def _run_parser(command: str) -> Parser:
    parser = Parser(f"monosemy {command}", commands()[command].summary, examples=(f"monosemy {command} runs/demo",))
    parser.add_argument("run", help="A run folder, e.g. runs/demo.")
    return parser


def _base(start: str) -> RunConfig:
    """The configuration that a run starts from: that of a recipe, a file or a run."""
    from monosemy.recipes import recipe
    from monosemy.run import load_config

    if start.endswith(".json") or Path(start).expanduser().is_dir():
        return load_config(Path(start))
    return recipe(start)


def _settings(base: RunConfig, words: list[str], command: str = "train") -> tuple[argparse.Namespace, dict[str, Any]]:
    """(parsed words, settings that they give); every setting of config.py is a flag of train and demo."""
    from monosemy.saes.registry import ARCHITECTURES

    return read_settings(_settings_parser(base, command), words, ARCHITECTURES)


_BRIEF = (
    "--run",
    "--open",
    "--no-open",
    "--tokens",
    "--architectures",
    "--l0",
    "--d-sae",
    "--sites",
    "--model",
    "--text",
)
"""The flags that the help of demo and try shows; --help-all shows every setting."""
_OPENING = {
    "demo": ("--open", "Open latents in the browser until Ctrl-C; the first ones early, unless there are --processes."),
    "try": ("--no-open", "Serve no pages; the latents are kept for monosemy browse."),
}


_PLANNING = ("--hardware", "--no-measure", "--processes", "--shard-latents", "--main-memory", "--disk")


def _add_planning(parser: Parser) -> None:
    """The flags of `plan` that `train` has not."""
    from monosemy.support.hardware import DEVICES

    size = amount(Range(1, example=80_000_000_000))
    parser.add_argument(
        "--hardware",
        metavar="NAME",
        help=f"Plan for other hardware, by assumed speeds: one of {', '.join(DEVICES)}, or several (h100x8).",
    )
    parser.add_argument("--no-measure", action="store_true", help="Count bytes only, and time nothing.")
    parser.add_argument("--device-memory", type=size, help="Bytes of a device in place of the data sheet's, e.g. 40G.")
    number = real(Range(0, example=60.0, above_low=True))
    parser.add_argument(
        "--device-tflops", type=number, help="Float32 operations of a device, in 10¹² a second, in place of those."
    )
    parser.add_argument(
        "--device-bandwidth", type=number, help="Memory bandwidth of a device, in TB a second, in place of that."
    )
    parser.add_argument("--main-memory", type=size, help="Main memory of the machine in bytes, e.g. 512G.")
    parser.add_argument("--disk", type=size, help="Free disk of the machine in bytes, e.g. 2000G.")


def _settings_parser(base: RunConfig, command: str) -> Parser:
    from monosemy.recipes import RECIPES

    lines = []
    if command == "train":
        lines.append("Recipes are the settings that a run starts from; the one used where none is named is demo:")
        width = max(map(len, RECIPES)) + 2
        lines += [f"  {name:{width}s}{(make.__doc__ or '').strip()}" for name, make in RECIPES.items()]
    lines.append("Counts of tokens take k, M and G. monosemy info jumprelu lists the options of that architecture.")
    if command == "train":
        lines.append("With --activations, the sizes that no flag gives follow from the rows (docs/own-embeddings.md).")
    first = {
        "train": "monosemy train quick --run runs/first",
        "plan": "monosemy plan quick",
    }.get(command, f"monosemy {command} --run runs/first")
    examples = [f"{first} --tokens 1.5M --l0 16 32", f"{first} --jumprelu.bandwidth-relative 0.3"]
    if command == "train":
        examples.append("monosemy train --activations embeddings.npy --run runs/mine")
    elif command == "demo":
        examples.insert(0, "monosemy demo --open")
    elif command == "plan":
        examples[1] = "monosemy plan --model google/gemma-2-2b --d-sae 131072 --tokens 500M --hardware h100x8"
    start = "[RECIPE | run.json | RUN] " if command in ("train", "plan") else ""
    parser = Parser(
        f"monosemy {command}",
        commands()[command].summary,
        details="\n".join(lines),
        examples=tuple(examples),
        brief={"train": (), "plan": (*_PLANNING, *_BRIEF)}.get(command, _BRIEF),
        usage=f"monosemy {command} {start}[--run FOLDER] [FLAGS]",
        allow_abbrev=False,
    )
    default = "runs/NAME" if command in ("train", "plan") else "runs/demo"
    parser.add_argument("--run", metavar="FOLDER", help=f"The run folder to make or to continue. (default: {default})")
    if command in _OPENING:
        flag, meaning = _OPENING[command]
        parser.add_argument(flag, action="store_true", help=meaning)
    if command == "try":
        parser.add_argument(
            "--open",
            action="store_const",
            const=False,
            dest="no_open",
            default=argparse.SUPPRESS,
            help="Open the pages, as it does by default.",
        )
    if command == "plan":
        _add_planning(parser)
    if command in ("train", "plan"):
        parser.add_argument(
            "--shard-latents",
            type=whole(Range(1, 65_536, example=4)),
            metavar="N",
            help="Share each SAE's latents out over N of the processes (--processes; docs/many-gpus.md).",
        )
    if command != "try":
        _add_processes(parser)
    add_settings(parser, base)
    return parser
