"""`monosemy graph "TEXT" …`: the command, and its tables in the terminal.

Place on the path: words of the command line → `attribute` → ablations, controls, heads → tables here, and files in a
folder (layout.py): tables, graph.json and page.json for one prompt, tables alone for several.
"""

from __future__ import annotations

import argparse
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.circuits.graphs.layout import GraphFiles, graph_folder, slug_of
from monosemy.circuits.graphs.room import ROOM
from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.rooms import load
from monosemy.support.arguments import Parser, real, whole
from monosemy.support.files import require_writable
from monosemy.support.moved import Moved

if TYPE_CHECKING:
    import pyarrow as pa

    from monosemy.circuits.graphs.graph import Graph
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder

EXAMPLES = (
    'monosemy graph "The capital of France is" --run runs/transcoders',
    'monosemy graph "The capital of France is" --transcoders sets/llama --model meta-llama/Llama-3.2-1B',
    'monosemy graph "The capital of France is" "France\'s capital is" --run runs/transcoders   both prompts summed',
    'monosemy graph "The capital of France is" --run runs/transcoders --html france.html   its page as a file',
    'monosemy graph "The cats" --run runs/transcoders --controls --ablations 100 --heads 10',
)
_EXPORT = "monosemy.app.graph_export:export_graph"
# Named as text, as commands are: the pages stand above all rooms.
_LAYER = re.compile(r"layers\.(\d+)\..*")
_SHARE = Range(0, 1, above_low=True, example=0.8)


def run_graph(words: list[str]) -> None:
    """Runs `monosemy graph` with the words that follow it. Raises UserError for bad input, early where possible."""
    options = _parser().parse_args(words)
    if not options.texts or not all(text.strip() for text in options.texts):
        raise UserError('which prompt? give a text, e.g. monosemy graph "The capital of France is" --run RUN')
    if bool(options.run) == bool(options.transcoders):
        raise UserError("which transcoders? give --run RUN, or --transcoders with files or the folder of a set")
    folder = _target(options)
    saes, model = _opened(options)
    from monosemy.circuits.graphs.attribution import attribute
    from monosemy.circuits.graphs.terminal import print_graph, print_prompts
    from monosemy.circuits.graphs.transcoders import match_layers

    transcoders = match_layers(model, saes)
    graphs = []
    for text in options.texts:
        began = time.perf_counter()
        graph = attribute(
            model,
            transcoders,
            text,
            max_latents=options.nodes,
            logit_share=options.logit_share,
            max_logits=options.logits,
            node_share=options.node_share,
            edge_share=options.edge_share,
        )
        print_graph(graph, time.perf_counter() - began)
        graphs.append(graph)
    if len(graphs) > 1:
        from monosemy.circuits.graphs.several import put_together

        together = put_together(graphs, by_position=options.by_position)
        print_prompts(together)
        _write_tables(GraphFiles(folder), together.node_table(), together.edge_table())
        print(f"tables: {folder}")
    else:
        _one_prompt(graphs[0], options, folder)


def _target(options: argparse.Namespace) -> Path:
    """The folder for the files: --out, the run's own folder of graphs, or runs/. Raises UserError for a bad flag."""
    if len(options.texts) > 1 and options.html:
        raise UserError(
            f"--html is the page of one prompt, but {len(options.texts)} are given; leave it out, or give one"
        )
    if options.html:
        page_target(options.html)
    if options.out:
        folder = Path(options.out).expanduser()
    elif options.run and len(options.texts) == 1:
        folder = graph_folder(Path(options.run), options.texts[0])
    else:
        folder = Path("runs") / f"graph-{slug_of(options.texts[0])}"
    require_writable(folder, "--out", folder=True)
    return folder


def page_target(name: str) -> Path:
    """The file of --html. Raises UserError for one that is no HTML file or cannot be written."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"--html {name} must be a file that ends in .html, e.g. graph.html")
    require_writable(path, "--html")
    return path


def _one_prompt(graph: Graph, options: argparse.Namespace, folder: Path) -> None:
    """Measures, controls and heads of a single prompt's graph, and its files."""
    from monosemy.circuits.graphs.ablation import ablate
    from monosemy.circuits.graphs.graph_json import write_graph_json
    from monosemy.circuits.graphs.opening import open_controls
    from monosemy.circuits.graphs.page_data import write_page_data
    from monosemy.circuits.graphs.terminal import print_ablations, print_controls, print_heads, print_score

    latents = graph.kept_latents()
    n_ablations = len(latents) if options.ablations is None else min(options.ablations, len(latents))
    ablations = ablate(graph, latents[:n_ablations]) if n_ablations else None
    print_ablations(graph, ablations)
    if options.controls:
        trained = open_controls(Path(options.run).expanduser(), options.name) if options.run else []
        print_controls(graph, ablations, options.seed, trained)
    if options.heads:
        print_heads(graph, options.heads)
    if options.score:
        print_score(graph, options.score)
    measured: dict[str, dict[int, float]] = {}
    if ablations is not None:
        nodes = ablations.nodes.tolist()
        measured = {
            "ablation_free": dict(zip(nodes, ablations.free.tolist())),
            "ablation_frozen": dict(zip(nodes, ablations.frozen.tolist())),
        }
    target = GraphFiles(folder)
    _write_tables(target, graph.node_table(measured), graph.edge_table())
    print(f"tables: {folder}; for Neuronpedia: {write_graph_json(graph, target.neuronpedia, folder.name)}")
    run = Path(options.run).expanduser() if options.run else None
    write_page_data(graph, target, ablations, {} if run is None else _places(run, options.name))
    if options.html:
        print(f"page: {load(_EXPORT)(target, page_target(options.html), run)}")
    if run is not None and not options.out:
        print(f"look at it: monosemy browse {shlex.quote(options.run)}, then Graphs")


def _places(run: Path, name: str | None) -> dict[int, tuple[str, str]]:
    """(site, name) of the run's transcoders, by layer."""
    from monosemy.circuits.graphs.opening import run_transcoders

    sites = ((sae, _LAYER.fullmatch(sae.site)) for sae in run_transcoders(run, name))
    return {int(match[1]): sae.key for sae, match in sites if match is not None}


def _opened(options: argparse.Namespace) -> tuple[list[SparseAutoencoder], LanguageModel]:
    """The transcoders and the model that the words name."""
    from monosemy.circuits.graphs.opening import open_transcoders
    from monosemy.models.of_run import load_run_model
    from monosemy.models.sources import load_model
    from monosemy.run import read_run

    if options.run:
        run = Path(options.run).expanduser()
        config, provenance = read_run(run)
        saes = open_transcoders(run, options.name)
        return saes, load_run_model(run, config, provenance, Moved(options.model or ""))
    saes = [sae for place in options.transcoders for sae in open_transcoders(place, options.name)]
    source = options.model or next((sae.config.model for sae in saes if sae.config.model), "")
    if not source:
        raise UserError("the transcoders do not name their model; say which it is: --model MODEL")
    return saes, load_model(source, device=options.device)


def _write_tables(target: GraphFiles, nodes: pa.Table, edges: pa.Table) -> None:
    import pyarrow.parquet as pq

    from monosemy.support.files import atomic_path

    target.folder.mkdir(parents=True, exist_ok=True)
    for path, table in ((target.nodes, nodes), (target.edges, edges)):
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)


def _parser() -> argparse.ArgumentParser:
    """The flags of `monosemy graph`."""
    parser = Parser("monosemy graph", ROOM.commands[0].summary, examples=EXAMPLES)
    add = parser.add_argument
    add("texts", nargs="*", metavar="TEXT", help="A prompt; several are drawn as one graph, summed.")
    add("--run", metavar="FOLDER", help="A run with transcoders; its model is used.")
    add("--transcoders", nargs="+", metavar="PLACE", help="Files, names on the hub, or the folder of a set.")
    add("--name", help="Which of a run's transcoders to take at every site. (default: the middle L0)")
    add("--model", help="The model, or where the run's model is now. (default: as the transcoders say)")
    add("--device", default="auto", help="Where the model runs without --run: `auto`, `cpu`, `cuda` or `cuda:1`.")
    add("--nodes", type=whole(Range(1, 1_000_000, example=2000)), default=2000, help="The most latents as nodes.")
    add("--logits", type=whole(Range(1, 1000, example=10)), default=10, help="The most logits.")
    add("--logit-share", type=real(_SHARE), default=0.95, help="The probability that the logits reach together.")
    add("--node-share", type=real(_SHARE), default=0.8, help="The share of influence that pruned nodes carry.")
    add("--edge-share", type=real(_SHARE), default=0.98, help="The share of their influence that pruned edges carry.")
    add(
        "--ablations",
        type=whole(Range(0, 1_000_000, example=100)),
        help="How many kept latents to ablate, by influence. (default: all)",
    )
    add("--controls", action="store_true", help="Also the graphs of shuffled and random transcoders of equal L0.")
    add(
        "--heads",
        type=whole(Range(0, 1000, example=5)),
        default=5,
        help="For how many edges between positions to name the heads that carry them.",
    )
    add(
        "--score", metavar="L.H:Q,K", help="Which latents make head H of layer L look from position Q to K: `12.3:9,4`."
    )
    add("--by-position", action="store_true", help="Keep positions of several prompts of equal length apart.")
    add("--seed", type=whole(Range(0, 2**31 - 1, example=0)), default=0, help="Seed of the controls.")
    add(
        "--out",
        metavar="FOLDER",
        help="Folder for the files. (default: RUN/graphs/TEXT, where monosemy browse RUN shows it, or runs/graph-TEXT)",
    )
    add("--html", metavar="FILE", help="Also the graph's page as one HTML file that opens anywhere, offline.")
    return parser
