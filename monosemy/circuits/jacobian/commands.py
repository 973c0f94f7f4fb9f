"""`monosemy jacobian …`: the command line of the pairs of SAEs; it reads flags and calls what does the work.

Place on the path: words of the command line → a run (train) or its studies (measuring.py, studies.py) → tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.training_flags import add_penalty, run_config
from monosemy.config import (
    RunConfig,
    TextConfig,
    TrainingConfig,
)
from monosemy.errors import UserError, unknown
from monosemy.ranges import Range, range_of
from monosemy.support.arguments import Parser, amount, real, whole
from monosemy.support.moved import Moved, add_moved, moved_of

if TYPE_CHECKING:
    from monosemy.circuits.jacobian.measuring import MeasureSettings
    from monosemy.circuits.jacobian.trained_pairs import PairEntry, Study

T = TypeVar("T")
TOKENS = amount(Range(1, example=32_000))
LAMBDAS = (0.0, 0.02, 0.2, 2.0)
OVERVIEW = """usage: monosemy jacobian COMMAND …

Train pairs of SAEs around one MLP so that input latents move output latents little.

examples: a first look, in a few minutes on two cores
  monosemy jacobian train --run runs/jsae --tokens 50k --d-sae 1152 --l0 16 --lambda 0 0.2 2
  monosemy jacobian pairs runs/jsae --pair jsae_0.2-l0_16-s0
  open runs/jsae/report.html

commands:
  train       train a λ frontier: pairs for several λ on one stream; then measure and report it
  measure     measure sparsity, linearity and ablation of a run's pairs, again or with other settings
  pairs       show which input latents drive which output latents, with texts
  graph       write the graph of latents, of a text or on average, as JSON
  random      do the same on randomised models, and compare at the same variance explained
  interpret   score how well automatic labels describe the latents, with and without the penalty

monosemy jacobian COMMAND --help tells more; docs/jacobian.md says what the numbers mean."""


def run_jacobian(words: list[str]) -> None:
    """Runs `monosemy jacobian` with the words that follow it. Raises UserError for bad input."""
    if not words or words[0] in ("-h", "--help"):
        print(OVERVIEW)
        return
    if words[0] not in SUBCOMMANDS:
        raise unknown("command of monosemy jacobian", words[0], SUBCOMMANDS)
    SUBCOMMANDS[words[0]](words[1:])


def run_train(words: list[str]) -> None:
    """`monosemy jacobian train`: trains and measures a λ frontier."""
    arguments = _train_parser().parse_args(words)
    from monosemy.circuits.jacobian.measuring import train_and_measure
    from monosemy.circuits.jacobian.terminal import frontier_tables, show

    folder = Path(arguments.run).expanduser()
    show(frontier_tables(train_and_measure(run_config(arguments), folder, _settings(arguments))))
    _report(folder, arguments)


def _train_parser() -> argparse.ArgumentParser:
    """The flags of `monosemy jacobian train`."""
    parser = _parser(
        "train",
        "train a pair for every λ, L0 and seed, and measure them",
        "monosemy jacobian train --run runs/jsae --layer 15 --l0 32 --d-sae 4608 --tokens 500k --passes 2 "
        "--lambda 0 0.02 0.2 2",
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="The run folder to make or to continue, e.g. runs/jsae.")
    add("--model", default="embedded", help="`embedded`, a hub id, a folder, or a .gguf file.")
    add("--text", default="embedded", help="`embedded`, a hub dataset, or a path.")
    add(
        "--context",
        type=whole(range_of(TextConfig, "context_length")),
        default=256,
        help="Tokens in each sequence.",
    )
    add("--layer", type=whole(range_of(JacobianConfig, "layer")), help="The MLP's layer. (default: the middle one)")
    add(
        "--lambda",
        dest="lambdas",
        type=real(range_of(JacobianConfig, "lambdas")),
        nargs="+",
        default=list(LAMBDAS),
        help="λ of each pair: the strength of its penalty, 0 for none.",
    )
    add(
        "--l0",
        type=real(range_of(RunConfig, "l0")),
        nargs="+",
        default=[32.0],
        help="Target L0s (active latents per token); each gives a pair for every λ.",
    )
    add("--d-sae", type=whole(range_of(RunConfig, "d_sae")), default=4608, help="Number of latents in each SAE.")
    add(
        "--seeds",
        type=whole(range_of(RunConfig, "seeds")),
        nargs="+",
        default=[0],
        help="Seeds of the initialisation; each gives another pair.",
    )
    add("--tokens", type=TOKENS, default="300k", help="Number of training tokens, e.g. 500k or 1.5M.")
    add("--validation-tokens", type=TOKENS, default="65k", help="Number of validation tokens.")
    add(
        "--passes",
        type=whole(range_of(TrainingConfig, "n_passes")),
        default=1,
        help="How many times each training token is used.",
    )
    add(
        "--batch",
        type=whole(range_of(TrainingConfig, "batch_tokens")),
        default=1024,
        help="Number of tokens in each training step.",
    )
    add(
        "--learning-rate",
        type=real(range_of(TrainingConfig, "learning_rate")),
        help="Peak learning rate. (default: the architecture's own)",
    )
    add("--architecture", choices=("topk", "batch_topk", "jumprelu"), default="topk", help="Architecture of both SAEs.")
    add_penalty(parser)
    add("--device", default="auto", help="Where the model runs: `auto`, `cpu`, `cuda` or `cuda:1`.")
    add("--loss-tokens", type=TOKENS, default="8k", help="Number of validation tokens for the CE score.")
    _add_measures(parser)
    return parser


def run_measure(words: list[str]) -> None:
    """`monosemy jacobian measure`: measures a run's pairs and shows the frontier."""
    parser = _run_parser(
        "measure",
        "measure a run's pairs on validation text, and show what is measured already",
        "monosemy jacobian measure runs/jsae --measure-tokens 65k",
    )
    parser.add_argument("--again", action="store_true", help="Measure anew what is measured already.")
    _add_measures(parser)
    arguments = parser.parse_args(words)
    from monosemy.circuits.jacobian.measuring import measure
    from monosemy.circuits.jacobian.terminal import frontier_tables, show

    folder, settings = Path(arguments.run).expanduser(), _settings(arguments)
    rows = _with_study(folder, moved_of(arguments), lambda study: measure(study, settings, again=arguments.again))
    show(frontier_tables(rows))
    _report(folder, arguments)


def run_pairs(words: list[str]) -> None:
    """`monosemy jacobian pairs`: shows the strongest pairs of latents in context."""
    parser = _run_parser(
        "pairs",
        "show which input latents drive which output latents, and in which texts",
        "monosemy jacobian pairs runs/jsae --pair jsae_0.2-l0_32-s0 --output 12 40",
    )
    add = parser.add_argument
    add("--pair", metavar="NAME", help="Name of the pair; needed when the run has several.")
    add(
        "--output",
        type=whole(Range(0, example=12)),
        nargs="+",
        default=[],
        help="Output latents to take apart. (default: chosen by concentration)",
    )
    add("--latents", nargs="+", default=[], metavar="INPUT:OUTPUT", help="Pairs of latents to show, e.g. 5:12.")
    add("--tokens", type=TOKENS, default="65k", help="Number of training tokens to read.")
    add(
        "-n",
        type=whole(Range(1, 100_000, example=20)),
        default=20,
        help="Number of output latents where none is named.",
    )
    add("--inputs", type=whole(Range(1, 100_000, example=3)), default=3, help="Number of input latents of each.")
    add(
        "--examples",
        type=whole(Range(1, 100_000, example=4)),
        default=4,
        help="Number of texts of each pair of latents; two are printed.",
    )
    add("--out", metavar="FILE", help="Also write everything to this JSON file.")
    arguments = parser.parse_args(words)
    from monosemy.circuits.jacobian.studies import PairSettings, pairs_study
    from monosemy.circuits.jacobian.terminal import pairs_page, show
    from monosemy.support.files import require_writable, write_json

    if arguments.out:
        require_writable(Path(arguments.out), "--out")
    settings = PairSettings(arguments.tokens, arguments.n, arguments.inputs, arguments.examples)
    latents = [_latent_pair(word) for word in arguments.latents]
    folder = Path(arguments.run).expanduser()
    document = _with_pair(
        folder,
        moved_of(arguments),
        arguments.pair,
        lambda study, pair: pairs_study(study, pair, settings, arguments.output, pairs=latents),
    )
    show(pairs_page(document))
    if arguments.out:
        write_json(Path(arguments.out).expanduser(), document)
    if not arguments.output and not latents:
        _report(folder, arguments)


def _latent_pair(word: str) -> tuple[int, int]:
    """(input, output) from `INPUT:OUTPUT`. Raises UserError for anything else."""
    first, colon, second = word.partition(":")
    if not (colon and first.isdigit() and second.isdigit()):
        raise UserError(f"--latents takes pairs written INPUT:OUTPUT, e.g. 5:12, got {word!r}")
    return int(first), int(second)


def run_graph(words: list[str]) -> None:
    """`monosemy jacobian graph`: writes the graph of latents, of a text or averaged, as JSON."""
    parser = _run_parser(
        "graph",
        "write the graph of latents as JSON: edges J·s, nodes for what the SAEs leave out",
        'monosemy jacobian graph runs/jsae --pair jsae_2-l0_32-s0 --text "In July we went to Paris." --out graph.json',
        reports=False,
    )
    add = parser.add_argument
    add("--pair", metavar="NAME", help="Name of the pair; needed when the run has several.")
    add("--text", help="A text, for a graph at each of its tokens. (default: the average over training text)")
    add("--tokens", type=TOKENS, default="32k", help="Number of training tokens to average over.")
    add(
        "--edges",
        type=whole(Range(1, 100_000, example=2000)),
        default=2000,
        help="Number of strongest edges of the average.",
    )
    add("--out", required=True, metavar="FILE", help="The JSON file to write.")
    arguments = parser.parse_args(words)
    from monosemy.circuits.jacobian.studies import graph_of_averages, graph_of_text
    from monosemy.support.files import require_writable, write_json

    require_writable(Path(arguments.out), "--out")

    def make(study: Study, pair: PairEntry) -> object:
        if arguments.text is not None:
            return graph_of_text(study, pair, arguments.text)
        return graph_of_averages(study, pair, arguments.tokens, arguments.edges)

    write_json(
        Path(arguments.out).expanduser(),
        _with_pair(Path(arguments.run).expanduser(), moved_of(arguments), arguments.pair, make),
    )
    print(f"written: {arguments.out}")


def run_random(words: list[str]) -> None:
    """`monosemy jacobian random`: trains the pairs on randomised models and compares."""
    parser = _run_parser(
        "random",
        "train the pairs on randomised models, and compare them at the same variance explained",
        "monosemy jacobian random runs/jsae --kinds published --lambda 0 0.2 --l0 16 32 64",
    )
    add = parser.add_argument
    kinds = ("published", "reinitialised", "matched")
    add("--kinds", nargs="+", choices=kinds, default=list(kinds), help="How weights are redrawn.")
    add(
        "--lambda",
        dest="lambdas",
        type=real(range_of(JacobianConfig, "lambdas")),
        nargs="+",
        help="λ of each pair. (default: 0 and the chosen one)",
    )
    add(
        "--l0",
        type=real(range_of(RunConfig, "l0")),
        nargs="+",
        help="L0s to enclose the variance explained. (default: half, once and twice the run's)",
    )
    _add_measures(parser)
    arguments = parser.parse_args(words)
    from monosemy.circuits.jacobian.frontier import choose
    from monosemy.circuits.jacobian.measuring import measure
    from monosemy.circuits.jacobian.studies import random_study
    from monosemy.circuits.jacobian.terminal import comparison_tables, show

    settings, folder = _settings(arguments), Path(arguments.run).expanduser()

    def compared(study: Study) -> list[dict[str, object]]:
        first = study.pairs[0]
        lambdas = arguments.lambdas or sorted({0.0, choose(measure(study, settings))["lambda"]})
        levels = arguments.l0 or [max(1, round(first.l0 / 2)), first.l0, 2 * first.l0]
        return random_study(study, arguments.kinds, lambdas, [float(l0) for l0 in levels], settings=settings)

    show(comparison_tables(_with_study(folder, moved_of(arguments), compared)))
    _report(folder, arguments)


def run_interpret(words: list[str]) -> None:
    """`monosemy jacobian interpret`: scores the automatic labels of the latents of some pairs."""
    parser = _run_parser(
        "interpret",
        "score automatic labels of the latents: the pair without penalty against another",
        "monosemy jacobian interpret runs/jsae --pair jsae_0.2-l0_32-s0",
    )
    parser.add_argument("--pair", nargs="+", metavar="NAME", help="Pairs to score. (default: λ = 0 and the chosen λ)")
    parser.add_argument("--tokens", type=TOKENS, help="Number of training tokens to read. (default: 150k)")
    arguments = parser.parse_args(words)
    from monosemy.circuits.jacobian.frontier import choose
    from monosemy.circuits.jacobian.studies import frontier_rows, interpretability_study
    from monosemy.circuits.jacobian.terminal import scores_table, show
    from monosemy.circuits.jacobian.trained_pairs import choose_pair, find_pairs
    from monosemy.run import open_run, read_run

    folder = Path(arguments.run).expanduser()
    pairs = find_pairs(folder)
    if arguments.pair:
        names = [choose_pair(pairs, name).name for name in arguments.pair]
    else:
        chosen_row = choose(frontier_rows(folder))
        names = [
            pair.name
            for pair in pairs
            if (pair.l0, pair.seed) == (chosen_row["l0"], chosen_row["seed"])
            and pair.coef in (0.0, chosen_row["lambda"])
        ]
    with open_run(folder, read_run(folder)[0], moved_of(arguments)) as run:
        rows = interpretability_study(run, names, arguments.tokens)
    show(scores_table(rows))
    _report(folder, arguments)


def _with_study(folder: Path, moved: Moved, use: Callable[[Study], T]) -> T:
    """Opens a run and returns what `use` makes of its Study."""
    from monosemy.circuits.jacobian.trained_pairs import Study
    from monosemy.run import open_run, read_run

    with open_run(folder, read_run(folder)[0], moved) as run:
        return use(Study(run))


def _with_pair(folder: Path, moved: Moved, name: str | None, use: Callable[[Study, PairEntry], T]) -> T:
    """Opens a run and returns what `use` makes of its Study and one pair. Raises UserError for an unknown pair."""
    from monosemy.circuits.jacobian.trained_pairs import choose_pair, find_pairs

    choose_pair(find_pairs(folder), name)  # an unknown name is refused before anything is loaded
    return _with_study(folder, moved, lambda study: use(study, choose_pair(study.pairs, name)))


def _settings(arguments: argparse.Namespace) -> MeasureSettings:
    """The `MeasureSettings` that the flags ask for."""
    from monosemy.circuits.jacobian.measuring import MeasureSettings

    return MeasureSettings(
        arguments.measure_tokens, arguments.average_tokens, arguments.curves, arguments.ablation_tokens
    )


def _report(folder: Path, arguments: argparse.Namespace) -> None:
    """Writes the run's report again, so that it shows the new results."""
    from monosemy import pipeline

    if not arguments.no_report:
        print(f"report: {pipeline.report(folder)}")


def _parser(command: str, summary: str, example: str, *, reports: bool = True) -> argparse.ArgumentParser:
    """A parser with what all subcommands share."""
    parser = Parser(f"monosemy jacobian {command}", summary, examples=(example,))
    if reports:
        parser.add_argument("--no-report", action="store_true", help="Leave report.html as it is.")
    return parser


def _run_parser(command: str, summary: str, example: str, *, reports: bool = True) -> argparse.ArgumentParser:
    """A parser for a subcommand that works on a finished run."""
    parser = _parser(command, summary, example, reports=reports)
    parser.add_argument("run", help="A run folder with pairs, e.g. runs/jsae.")
    add_moved(parser, short=command != "graph")  # there --text is already the text of the graph
    return parser


def _add_measures(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `MeasureSettings`."""
    group = parser.add_argument_group("how much is measured")
    group.add_argument(
        "--measure-tokens", type=TOKENS, default="32k", help="Number of validation tokens for the shares."
    )
    group.add_argument(
        "--average-tokens", type=TOKENS, default="16k", help="Number of tokens for the averages over pairs of latents."
    )
    group.add_argument(
        "--curves",
        type=whole(Range(1, 1_000_000, example=500)),
        default=500,
        help="Number of sweeps of an input latent.",
    )
    group.add_argument(
        "--ablation-tokens", type=whole(Range(1, example=512)), default=512, help="Number of tokens for ablation."
    )


SUBCOMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": run_train,
    "measure": run_measure,
    "pairs": run_pairs,
    "graph": run_graph,
    "random": run_random,
    "interpret": run_interpret,
}
