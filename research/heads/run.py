"""Circuits: every method against known circuits, trained models and a real one; the discrete method's sensitivity.

    compiled         three hand-compiled models, exact truth, 5 seeds (places of heads, prompts)
    trained          attention-only models trained on induction and IOI, 5 seeds; truth: exhaustive ablation, also of
                     pairs, on 64 other prompts
    real             SmolLM2-135M on four tasks; agreement with exhaustive resample ablation on 64 prompts that no
                     method saw (and, in a column, with mean ablation on 16); edges among the eight strongest heads
    cost             the combined method's time over exhaustive patching's, in turn, on the real model's tasks
    sensitivity      the discrete method over width, λ, training and counting examples, on trained models and one real
                     task
    speed            the discrete presets on 270 heads × 500 examples of 576 dimensions, beyond the model's passes
    published-gpt2   IOI and greater-than against the reported circuits, where GPT-2's weights can be had

Every row says how many prompts it used. On the small models all methods have the same 32 (codes and probes 250
positives and as many negatives). On the real model the methods that cost most (ACDC, subnetwork probing, restoring,
mean and zero ablation) have 8, and so have `combined-8`, `eap-8`, `eap-ig-8`, `patching-8`, to compare with. Docstring
prompts are 36 tokens where the others are 15 to 19: there the reference has 32 prompts (8 for mean ablation and for
faithfulness), methods 16, and the costly 4. Edges have 16 (docstring 4), and on the real model ACDC and subnetwork
probing 4 (2), as have `patching-4` and `EAP-4`.
Faithfulness and completeness are measured on prompts of the reference, which no method saw (compiled and published: on
the methods' own). Heads of the real model are read afresh for every piece, so that its seconds are of this run.

Finished pieces lie in --work (one file for each model and seed, named after the code of circuits and of this
benchmark), so that a run broken off continues where it was; put together in --out, with figures beside. On two free
cores, about:

    speed 2 minutes, compiled 20 (15 pieces), trained 11 (10 pieces, and a minute more for each model not yet trained),
    real 32 a task (a task that the model does not do is left out after its reference), cost 5 a task, sensitivity 2 a
    trained model and 12 the real one: 2½ hours; published-gpt2 20 a task

Measured, but for published-gpt2, which is reckoned from passes.

Run: python -m research.heads.run [--parts compiled real …] [--only ioi] [--out FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.circuits.heads.agreement import labels_of
from monosemy.circuits.heads.attribution import N_STEPS
from monosemy.circuits.heads.code_scores import edge_scores, pair_counts
from monosemy.circuits.heads.contrast import MEMBER_SHARE, Contrast, read_contrast
from monosemy.circuits.heads.edges import patch_edges
from monosemy.circuits.heads.ground_truth import published
from monosemy.circuits.heads.masks import THRESHOLDS, ProbeConfig
from monosemy.circuits.heads.member_edges import patch_member_edges
from monosemy.circuits.heads.methods import METHODS, Bench
from monosemy.circuits.heads.model_heads import as_heads
from monosemy.circuits.heads.scores import EdgeScores
from monosemy.circuits.heads.task import MIN_ACCURACY, TaskData
from monosemy.circuits.heads.tasks import build_task, task_accuracy
from monosemy.errors import UserError
from monosemy.support import progress
from research.common import save
from research.heads.compiled import CIRCUITS, compile_circuit
from research.heads.cost import cost_part
from research.heads.edge_attribution import attribute_edges, attribute_member_edges
from research.heads.edge_search import acdc_edges, acdc_member_edges, probe_edges, probe_member_edges
from research.heads.figures import write_figures
from research.heads.pieces import SkippedError, brief, load_or_make, settings
from research.heads.reference import Reference, find_reference
from research.heads.rows import compare, edge_rows, enough, entries, print_table, summary, timed
from research.heads.sensitivity import sensitivity_rows, speed_part
from research.heads.trained import trained_model
from research.records import figures_folder, record_path


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of prompts, and what searches over edges take."""

    n_examples: int = 250
    """Positives that methods may see, and as many negatives."""
    n_reference: int = 64
    """Others, for the reference."""
    n_mean_reference: int = 16
    n_prompts: int = 32
    """Of the causal methods."""
    _: dataclasses.KW_ONLY
    n_few: int = 8
    """Of the costly ones, on the real model."""
    n_edge_prompts: int = 16
    n_faithful: int = 16
    """Of the reference's, for faithfulness."""
    edge_thresholds: tuple[float, ...] = THRESHOLDS
    n_gate_steps: int = 150

    @property
    def n_made(self) -> int:
        return self.n_examples + self.n_reference


SEEDS = range(5)
TRAINED = ("induction", "ioi")
REAL = ("ioi", "docstring", "induction", "greater-than-units")
SIZES = {"docstring": Sizes(n_reference=32, n_mean_reference=8, n_prompts=16, n_few=4, n_edge_prompts=4, n_faithful=8)}
"""Where they differ from the usual ones."""
N_MEMBERS = 8
"""Heads of the real model between which edges are scored."""
SENSITIVITY_TASK = "greater-than-units"
GPT2_TASKS = ("ioi", "greater-than")
COSTLY = ("patching-mean", "patching-zero", "restoring", "acdc", "sp")
ALSO_FEW = ("combined", "combined-no-codes", "eap", "eap-ig", "patching")
ONCE = tuple(name for name in METHODS if name != "patching-resample")
"""Every method, none under two names."""


def split(data: TaskData, sizes: Sizes) -> tuple[TaskData, tuple]:
    """What methods see, and the reference's positives, which none of them does."""
    shared = {kind: getattr(data, kind)[: sizes.n_examples] for kind in ("positives", "negatives")}
    return dataclasses.replace(data, **shared), data.positives[sizes.n_examples : sizes.n_made]


def accuracy_of(contrast: Contrast) -> dict[str, Any]:
    """Raises SkippedError for a model that does not do the task."""
    examples = tuple(e for batch in contrast.batches for e in batch.examples)
    accuracy = task_accuracy(torch.cat([batch.clean.logits for batch in contrast.batches]), examples)
    if not accuracy.enough:
        raise SkippedError(f"right on {accuracy.share:.0%} of {accuracy.n} prompts, less than {MIN_ACCURACY:.0%}")
    return dataclasses.asdict(accuracy)


def reference_record(reference: Reference) -> dict[str, Any]:
    """Raises SkippedError for a reference circuit that no ranking can be scored against."""
    if not enough(reference.labels):
        raise SkippedError(f"the reference circuit has {int(reference.labels.sum())} of {len(reference.labels)} heads")
    return {
        "difference": reference.difference,
        "members": [f"{layer}.{head}" for layer, head in sorted(reference.heads)],
        "reference_seconds": reference.single.total_seconds,
    }


# --- small models -----------------------------------------------------------------------------------------------------


def compiled_part(name: str, seed: int, sizes: Sizes = Sizes(), methods: tuple[str, ...] = ONCE) -> dict[str, Any]:
    circuit = compile_circuit(name, seed, n_examples=sizes.n_examples)
    bench = Bench(as_heads(circuit.model), circuit.data, sizes.n_prompts, seed=seed)
    labels = labels_of(circuit.heads, circuit.model.n_layers, circuit.model.n_heads)
    comparison = compare(bench, labels, entries(bench, methods), bench.contrast)
    contrast = read_contrast(bench.heads, bench.data.positives[: sizes.n_edge_prompts], bench.data.metric)
    exact = patch_edges(contrast)
    counted = np.array([edge not in circuit.constant_edges for edge in exact.edges])
    truth = np.array([edge in circuit.edges for edge in exact.edges])
    comparison["edges"] = small_edges(contrast, exact, truth[counted], counted, sizes=sizes)
    comparison["edges"]["n_neither"] = int((~counted).sum())
    n_used = dict.fromkeys(("patching", "EAP"), contrast.n_examples)
    comparison["head_pairs"] = pair_rows(bench, {"patching": exact, "EAP": attribute_edges(contrast)}, truth, n_used)
    return comparison


def trained_part(task: str, seed: int, sizes: Sizes = Sizes()) -> dict[str, Any]:
    trained = trained_model(task, seed, n_examples=sizes.n_made)
    heads = as_heads(trained.model)
    data, others = split(trained.data, sizes)
    contrast = read_contrast(heads, others, data.metric)
    accuracy = accuracy_of(contrast)
    reference = find_reference(contrast)
    record = reference_record(reference) | {"accuracy": accuracy}
    bench = Bench(heads, data, sizes.n_prompts, seed=seed)
    comparison = compare(bench, reference.labels, entries(bench, ONCE), contrast.first(sizes.n_faithful))
    some = read_contrast(heads, data.positives[: sizes.n_edge_prompts], data.metric)
    exact, truth = patch_edges(some), matters(patch_edges(contrast.first(sizes.n_edge_prompts)), reference.difference)
    comparison["edges"] = small_edges(some, exact, truth, np.ones(len(truth), dtype=bool), sizes=sizes)
    n_used = dict.fromkeys(("patching", "EAP"), some.n_examples)
    comparison["head_pairs"] = pair_rows(bench, {"patching": exact, "EAP": attribute_edges(some)}, truth, n_used)
    return record | comparison


def matters(exact: EdgeScores, difference: float) -> np.ndarray:
    """Edges of at least 5% of the metric's difference whose interval excludes 0."""
    assert exact.intervals is not None
    clear = (exact.intervals[:, 0] > 0) | (exact.intervals[:, 1] < 0)
    return ((exact.importance >= MEMBER_SHARE * difference) & clear).numpy()


def small_edges(
    contrast: Contrast, exact: EdgeScores, truth: np.ndarray, counted: np.ndarray, *, sizes: Sizes
) -> dict[str, Any]:
    """Edge methods on the whole graph; edges that are neither right nor wrong are not counted."""
    if not enough(truth):
        return edge_rows({}, truth)
    methods = {"patching": exact, "EAP": attribute_edges(contrast), "EAP-IG": attribute_edges(contrast, N_STEPS)}
    methods["ACDC"] = acdc_edges(contrast, sizes.edge_thresholds)
    methods["SP"] = probe_edges(contrast, ProbeConfig(n_steps=sizes.n_gate_steps))
    return edge_rows({name: timed(scores, counted, contrast) for name, scores in methods.items()}, truth)


# --- edges from head to head ------------------------------------------------------------------------------------------


def pair_rows(
    bench: Bench, methods: dict[str, EdgeScores], truth: np.ndarray, prompts: Mapping[str, int]
) -> dict[str, Any]:
    """Edges from head to head, channels added up: the methods' and the codes' co-occurrence scores. A pair is true
    when one of its channels is. prompts: how many each method had."""
    edges = next(iter(methods.values())).edges
    n_heads = bench.heads.n_heads
    numbers: dict[tuple[int, int], list[int]] = {}
    for i, edge in enumerate(edges):
        if isinstance(edge.sender, tuple) and isinstance(edge.receiver, tuple):
            ends = [layer * n_heads + head for layer, head in (edge.sender, edge.receiver)]
            numbers.setdefault((ends[0], ends[1]), []).append(i)
    senders, receivers = (list(side) for side in zip(*numbers)) if numbers else ([], [])
    of_pair = np.array([bool(truth[rows].any()) for rows in numbers.values()], dtype=bool)
    timed_scores = {}
    for name, scores in methods.items():
        total = np.array([abs(float(scores.scores[rows].sum())) for rows in numbers.values()])
        timed_scores[name] = total, scores.seconds + scores.reading_seconds, prompts[name]
    for name, kind in (("codes", "fast"), ("codes-paper", "paper")):
        codes, seconds = bench.codes(kind)
        table = edge_scores(pair_counts(codes, break_ties=bench.config(kind).break_ties), n_heads)
        timed_scores[name] = table[senders, receivers].numpy(), seconds + bench.pooled.seconds, len(codes.positive)
    timed_scores["random"] = np.random.default_rng(bench.seed).random(len(numbers)), 0.0, 0
    return edge_rows(timed_scores, of_pair)


def real_pairs(bench: Bench, other: Contrast, reference: Reference, n: int, *, n_few: int) -> dict[str, Any]:
    """Edges among the reference's strongest heads; truth: exact patching of prompts that no method saw. ACDC and
    subnetwork probing have `n_few` prompts, the others both numbers."""
    order = reference.single.importance.argsort(descending=True, stable=True).tolist()
    members = [i for i in order if reference.labels[i]][:N_MEMBERS]
    truth = matters(patch_member_edges(other.first(n), members), reference.difference)
    own_contrast = read_contrast(bench.heads, bench.data.positives[:n], bench.data.metric)
    methods, used = {}, {}
    few = own_contrast.first(n_few)
    for some, suffix in ((own_contrast, ""), (few, f"-{n_few}")):
        methods |= {
            f"patching{suffix}": patch_member_edges(some, members),
            f"EAP{suffix}": attribute_member_edges(some, members),
        }
        used |= dict.fromkeys((f"patching{suffix}", f"EAP{suffix}"), some)
    methods |= {f"ACDC-{n_few}": acdc_member_edges(few, members), f"SP-{n_few}": probe_member_edges(few, members)}
    used |= dict.fromkeys((f"ACDC-{n_few}", f"SP-{n_few}"), few)
    all_edges = np.ones(len(truth), dtype=bool)
    with_output = edge_rows({name: timed(scores, all_edges, used[name]) for name, scores in methods.items()}, truth)
    n_used = {name: contrast.n_examples for name, contrast in used.items()}
    return {"edges": with_output, "head_pairs": pair_rows(bench, methods, truth, n_used)}


# --- real models ------------------------------------------------------------------------------------------------------


@cache
def real_model(name: str = "embedded") -> Any:
    from monosemy.models.sources import load_model

    return load_model(name)


@lru_cache(maxsize=1)  # passes of a task are hundreds of megabytes
def real_bench(task: str) -> tuple[Bench, Contrast, Reference]:
    """The bench of a task, and the reference on prompts that it does not have."""
    model, sizes = real_model(), SIZES.get(task, Sizes())
    heads = as_heads(model)
    data, others = split(build_task(task, model, sizes.n_made), sizes)
    contrast = read_contrast(heads, others, data.metric)
    return Bench(heads, data, sizes.n_prompts, fresh=True), contrast, find_reference(contrast, pairs=False)


def real_data_bench(task: str) -> Bench:
    """The bench of a task without its reference. Raises SkippedError for a task that the model does not do."""
    model, sizes = real_model(), SIZES.get(task, Sizes())
    data, _ = split(build_task(task, model, sizes.n_made), sizes)
    bench = Bench(as_heads(model), data, sizes.n_prompts, fresh=True)
    accuracy_of(bench.contrast)
    return bench


def real_part(task: str) -> dict[str, Any]:
    sizes = SIZES.get(task, Sizes())
    bench, contrast, reference = real_bench(task)
    record = {"accuracy": accuracy_of(contrast)} | reference_record(reference)
    by_mean = find_reference(contrast.first(sizes.n_mean_reference), "mean", pairs=False)
    few = Bench(bench.heads, bench.data, sizes.n_few, fresh=True)
    names = [name for name in ONCE if name not in COSTLY]
    rows = entries(bench, names) | entries(few, [*ALSO_FEW, *COSTLY], f"-{sizes.n_few}")
    unseen = contrast.first(sizes.n_faithful)
    comparison = compare(bench, reference.labels, rows, unseen, others={"mean_reference": by_mean.labels})
    record |= {"n_reference": sizes.n_reference, "n_tokens": bench.data.n_tokens, "sizes": dataclasses.asdict(sizes)}
    record["members_by_mean"] = [f"{layer}.{head}" for layer, head in sorted(by_mean.heads)]
    return record | comparison | real_pairs(bench, contrast, reference, sizes.n_edge_prompts, n_few=sizes.n_few // 2)


def published_part(task: str) -> dict[str, Any]:
    """Against what papers report of GPT-2; raises SkippedError where its weights cannot be had."""
    try:
        model = real_model("gpt2")
    except UserError as error:
        raise SkippedError(f"no weights of gpt2: {error}") from None
    heads, sizes = as_heads(model), Sizes()
    data = build_task(task, model, sizes.n_examples)
    bench, few = (Bench(heads, data, n, fresh=True) for n in (sizes.n_prompts, sizes.n_few))
    accuracy = accuracy_of(bench.contrast)
    versions = published(data.name, "gpt2")
    if not versions:
        raise SkippedError(f"no circuit is reported of {data.name}")
    labels = {circuit.version: labels_of(circuit.heads, heads.n_layers, heads.n_heads) for circuit in versions}
    rows = entries(bench, [name for name in ONCE if name not in COSTLY])
    rows |= entries(few, [*ALSO_FEW, *COSTLY], f"-{sizes.n_few}")
    first, *others = labels
    comparison = compare(
        bench, labels[first], rows, bench.contrast, others={version: labels[version] for version in others}
    )
    return comparison | {"accuracy": accuracy, "version": first, "source": versions[0].source}


def sensitivity_part(where: str) -> dict[str, Any]:
    if where in TRAINED:
        sizes = Sizes()
        trained = trained_model(where, 0, n_examples=sizes.n_made)
        heads = as_heads(trained.model)
        data, others = split(trained.data, sizes)
        contrast = read_contrast(heads, others, data.metric)
        accuracy_of(contrast)
        reference = find_reference(contrast)
        reference_record(reference)
        return sensitivity_rows(Bench(heads, data, sizes.n_prompts).pooled, reference.labels, where, seeds=range(3))
    bench, contrast, reference = real_bench(where)
    accuracy_of(contrast)
    reference_record(reference)
    return sensitivity_rows(bench.pooled, reference.labels, where, seeds=range(2), most=25, widest=800)


# --- all of it --------------------------------------------------------------------------------------------------------


def all_parts() -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """(part, name of its file, what makes it)."""
    yield "speed", "speed", speed_part
    for name in CIRCUITS:
        for seed in SEEDS:
            yield "compiled", f"compiled-{name}-{seed}", lambda n=name, s=seed: compiled_part(n, s)
    for task in TRAINED:
        for seed in SEEDS:
            yield "trained", f"trained-{task}-{seed}", lambda t=task, s=seed: trained_part(t, s)
    for task in REAL:
        yield "real", f"real-{task}", lambda t=task: real_part(t)
    for where in (SENSITIVITY_TASK, *TRAINED):  # the first right behind `real`, which has its reference in memory
        yield "sensitivity", f"sensitivity-{where}", lambda w=where: sensitivity_part(w)
    for task in REAL:
        yield "cost", f"cost-{task}", lambda t=task: cost_part(real_data_bench(t))
    for task in GPT2_TASKS:
        yield "published-gpt2", f"published-{task}", lambda t=task: published_part(t)


def main() -> None:
    names = ["speed", "compiled", "trained", "real", "cost", "sensitivity", "published-gpt2"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=names, choices=names)
    parser.add_argument("--only", default="", help="pieces whose name has this in it, such as ioi or induction-3")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/circuits"), help="finished pieces")
    parser.add_argument("--out", type=Path, default=record_path("heads"))
    parser.add_argument("--figures", type=Path, default=figures_folder("heads"))
    arguments = parser.parse_args()
    parts: dict[str, Any] = {}
    entries = [entry for entry in all_parts() if entry[0] in arguments.parts and arguments.only in entry[1]]
    with progress.stage("circuits", total=len(entries), unit="pieces") as bar:
        for _, name, make in entries:
            parts[name] = load_or_make(arguments.work / f"{name}-{settings()}.json", make)
            bar.advance()
    table = summary(parts)
    print_table(table)
    # what no table or figure of the summary reads: the seeds' range, and the heads, which the parts count
    unread = tuple(f"summary/*/{name}" for name in ("least", "largest", "n_heads"))
    save(arguments.out, {"summary": table, "parts": brief(parts)}, without=unread)
    write_figures(table, parts, arguments.figures)


if __name__ == "__main__":
    main()
