"""`monosemy probe RUN FILE`: a probe for labelled texts, on few latents, and how good it is on texts it did not see.

Place on the path: labelled texts → pooled activations → fitting → [table, probe's file] → `monosemy serve`,
`monosemy trace --monitor`. Beside it stands what tells whether it is worth anything: probes on the raw activations of
the same site, trained on the same folds, and the same probe on shuffled labels. The probe that is written is trained on
all texts; the numbers are of probes trained without the texts that they are measured on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.live import LiveModel
from monosemy.app.room import ROOM
from monosemy.config import SEED
from monosemy.errors import UserError
from monosemy.monitors.firings import POOLINGS
from monosemy.monitors.labelled import Columns, LabelledTexts, read_labelled
from monosemy.monitors.probe import Probe, Weight, write_probe
from monosemy.ranges import Range
from monosemy.saes.config_file import read_weights_sha256
from monosemy.saes.listing import choose_sae, print_warnings
from monosemy.support import files, progress
from monosemy.support.arguments import Parser, real, whole
from monosemy.support.numbers import count_text, fixed_percent_text, fixed_text, value_text
from monosemy.support.subjects import add_subject, open_subject
from monosemy.support.visible import visible

if TYPE_CHECKING:
    from monosemy.app.pooled import PooledTexts
    from monosemy.monitors.fitting import SparseFit
    from monosemy.monitors.held_out import HeldOut

Array = np.ndarray[Any, np.dtype[Any]]
ENDING = ".probe.json"
N_SHUFFLES = 5
EXAMPLES = (
    "monosemy probe runs/demo reviews.jsonl",
    "monosemy probe runs/demo chats.jsonl --chat --group-column author --out angry.probe.json",
    "monosemy probe runs/demo tickets.csv --text-column body --label-column queue --positive billing",
)


@dataclass(frozen=True)
class Line:
    """A line of the table: an AUROC on held-out texts with its interval, and the difference from the probe's own."""

    name: str
    auroc: float
    interval: tuple[float, float] | None
    difference: tuple[float, float] | None = None
    """95% interval of the probe's AUROC minus this one."""


def run_probe(words: list[str]) -> None:
    """Runs `monosemy probe`. Raises UserError for bad input, where possible before the model is loaded."""
    options = _parser().parse_args(words)
    path = Path(options.file).expanduser()
    out = Path(options.out or f"{path.stem}{ENDING}").expanduser()
    if out.exists():
        raise UserError(f"{out} exists already; give another --out, or delete it first")
    if out.suffix.lower() != ".json":
        raise UserError(f"--out is a JSON file, e.g. {path.stem}{ENDING}; got {out.name!r}")
    files.require_writable(out, "--out")
    columns = Columns(options.text_column, options.label_column, options.group_column)
    texts = read_labelled(path, columns, options.positive)
    from monosemy.monitors.fitting import folds_of

    held_out = folds_of(texts.is_positive, texts.group, seed=options.seed)
    subject = open_subject(options, moved=("model",))
    saved = choose_sae(subject.folder, subject.sae)
    print_warnings([saved])
    live = LiveModel(Catalogue(subject.folder, subject.moved))
    live.require_text()
    pooled = _pooled(live, saved.key, texts, pooling=options.pooling, chat=options.chat)
    lines, scores, shuffled = _measured(held_out, pooled, n_latents=options.n_latents, seed=options.seed)
    from monosemy.monitors.fitting import fit_sparse

    fit = fit_sparse(pooled.latents, texts.is_positive, options.n_latents)
    threshold, false_alarms, recall = held_out.threshold(scores, options.false_alarms)
    sae = live.catalogue.sae(*saved.key)
    weights = _weights(fit, sae)
    probe = Probe(
        options.name or path.stem,
        saved.label,
        weights=weights,
        intercept=fit.intercept,
        threshold=threshold,
        pooling=options.pooling,
        sae_sha256=read_weights_sha256(saved.folder),
        positive=texts.positive,
        model=live.name,
        measured=_record(lines, shuffled, texts, shares=(false_alarms, recall)),
    )
    write_probe(out, probe)
    _print(texts, probe, lines, shuffled, fired=_fired(pooled, texts, weights))
    print(
        f"\nthreshold {fixed_text(threshold, 3)}: flags {fixed_percent_text(recall)} of held-out texts labelled "
        f"{visible(texts.positive)!r}, {fixed_percent_text(false_alarms)} of the others"
    )
    print(f"{out}: use it with monosemy trace --monitor, or monosemy serve --monitor")


def _parser() -> Parser:
    summary = next(command.summary for command in ROOM.commands if command.name == "probe")
    parser = Parser("monosemy probe", summary, examples=EXAMPLES)
    add_subject(parser)
    add = parser.add_argument
    add("file", help="Labelled texts: .jsonl with one object a line, or .csv with a heading.")
    add("--sae", metavar="SITE/NAME", help="The SAE. (default: JumpReLU at the middle L0 of the first site)")
    add("--text-column", default="text", metavar="NAME", help="The column with the texts.")
    add("--label-column", default="label", metavar="NAME", help="The column with the labels.")
    add(
        "--group-column",
        default="",
        metavar="NAME",
        help="The column of what belongs together, such as an author: never on both sides of a split. (default: group, "
        "where there is one)",
    )
    add("--positive", default="", metavar="LABEL", help="The label to find. (default: true, 1 or yes, or the rarer)")
    add("--chat", action="store_true", help="The texts are chats: lines “User:”, “Assistant:”, or JSON messages.")
    add("--pooling", choices=POOLINGS, default="max", help="How a latent's activations in a text become one number.")
    add("--n-latents", type=whole(Range(1, 1_000, example=8)), default=8, help="Latents with a weight at most.")
    add(
        "--false-alarms",
        type=real(Range(0, 0.5, example=0.05)),
        default=0.05,
        help="The threshold flags this share of the other label's held-out texts at most.",
    )
    add("--seed", type=whole(SEED), default=0, help="Seed of the splits and of the shuffled labels.")
    add("--name", default="", help="The probe's name in reports. (default: that of the file)")
    add("--out", default="", metavar="FILE", help=f"The probe's file. (default: FILE's name with {ENDING}, here)")
    return parser


def _pooled(live: LiveModel, key: tuple[str, str], texts: LabelledTexts, *, pooling: str, chat: bool) -> PooledTexts:
    from monosemy.app.pooled import pool_texts

    live.model()
    with progress.stage("read the texts", total=len(texts.texts), unit="texts") as bar:
        return pool_texts(live, key, texts.texts, pooling=pooling, chat=chat, advance=lambda: bar.advance(1))


def _measured(
    held_out: HeldOut, pooled: PooledTexts, *, n_latents: int, seed: int
) -> tuple[list[Line], Array, list[float]]:
    """(lines of the table, the probe's scores of held-out texts, AUROCs with shuffled labels)."""
    from monosemy.monitors.fitting import fit_raw, fit_sparse, held_out_scores

    def sparse(labels: Array) -> Any:
        def fit(rows: Array) -> Any:
            model = fit_sparse(pooled.latents[rows], labels[rows], n_latents)
            return lambda test: model.logits(pooled.latents[test])

        return fit

    def raw(features: Array) -> Any:
        def fit(rows: Array) -> Any:
            group = np.unique(held_out.group[rows], return_inverse=True)[1]
            logits = fit_raw(features[rows], held_out.is_positive[rows], group, seed=seed)
            return lambda test: logits(features[test])

        return fit

    with progress.stage("train probes", total=3 + N_SHUFFLES, unit="probes") as bar:
        scores = held_out_scores(held_out, sparse(held_out.is_positive))
        bar.advance(1)
        lines = [Line(f"{n_latents} latents", held_out.auroc(scores), held_out.interval(scores, seed=seed))]
        for name, features in (("raw activations, mean", pooled.raw_mean), ("raw activations, max", pooled.raw_max)):
            others = held_out_scores(held_out, raw(features))
            bar.advance(1)
            difference = held_out.difference_interval(scores, others, seed=seed)
            interval = held_out.interval(others, seed=seed)
            lines.append(Line(name, held_out.auroc(others), interval, difference))
        shuffled = []
        for number in range(N_SHUFFLES):
            labels = np.random.default_rng((seed, number)).permutation(held_out.is_positive)
            control = type(held_out)(held_out.fold, labels, held_out.group)
            shuffled.append(control.auroc(held_out_scores(control, sparse(labels))))
            bar.advance(1)
    return lines, scores, shuffled


def _weights(fit: SparseFit, sae: Dictionary) -> tuple[Weight, ...]:
    """The probe's weights, the strongest per standard deviation first."""
    strength = fit.weights * fit.deviations
    order = np.argsort(-np.abs(strength), kind="stable")
    labels = sae.labels(fit.latents[order])
    return tuple(
        Weight(int(fit.latents[k]), float(fit.weights[k]), float(strength[k]), label)
        for k, label in zip(order.tolist(), labels, strict=True)
    )


def _fired(pooled: PooledTexts, texts: LabelledTexts, weights: tuple[Weight, ...]) -> list[tuple[float, float]]:
    """Per latent the shares of positive and of other texts in which it fires."""
    fires = (pooled.latents[:, [entry.latent for entry in weights]] > 0).toarray()
    return list(zip(fires[texts.is_positive].mean(0).tolist(), fires[~texts.is_positive].mean(0).tolist(), strict=True))


def _record(
    lines: list[Line], shuffled: list[float], texts: LabelledTexts, *, shares: tuple[float, float]
) -> dict[str, Any]:
    return {
        "n_texts": len(texts.texts),
        "n_positive": int(texts.is_positive.sum()),
        "n_groups": texts.n_groups,
        "auroc": {line.name: {"value": line.auroc, "interval": line.interval} for line in lines},
        "auroc_shuffled": shuffled,
        "share_flagged": {"positive": shares[1], "negative": shares[0]},
    }


def _print(
    texts: LabelledTexts,
    probe: Probe,
    lines: list[Line],
    shuffled: list[float],
    *,
    fired: list[tuple[float, float]],
) -> None:
    n, n_positive = len(texts.texts), int(texts.is_positive.sum())
    groups = f", in {count_text(texts.n_groups)} groups" if texts.grouped else ""
    print(
        f"{count_text(n)} texts{groups}: {count_text(n_positive)} {visible(texts.positive)!r}, "
        f"{count_text(n - n_positive)} {visible(texts.negative)!r}; {probe.pooling}-pooled latents of {probe.sae}"
    )
    if texts.n_contradictions:
        print(f"warning: {texts.n_contradictions} texts occur with both labels", file=sys.stderr)
    print(f"\n{'AUROC on held-out texts':36}{'':24}probe minus this")
    for line in lines:
        ends = "" if line.difference is None else _ends(line.difference)
        print(f"  {line.name:34}{value_text(line.auroc, line.interval, decimals=3):24}{ends}")
    spread = f"{fixed_text(min(shuffled), 3)} to {fixed_text(max(shuffled), 3)}"
    print(f"  {'shuffled labels':34}{fixed_text(float(np.mean(shuffled)), 3)}, {spread} in {len(shuffled)} shuffles")
    print(f"\n{'latent':>8} {'weight':>8}  {'fires in':>9} {'others':>7}  label")
    for entry, (positive, negative) in zip(probe.weights, fired, strict=True):
        print(
            f"{entry.latent:>8} {fixed_text(entry.per_deviation, 2, signed=True):>8}  "
            f"{fixed_percent_text(positive):>9} {fixed_percent_text(negative):>7}  {visible(entry.label) or 'no label'}"
        )
    print("weights are per standard deviation of the pooled activation")


def _ends(interval: tuple[float, float]) -> str:
    return f"[{fixed_text(interval[0], 3, signed=True)}, {fixed_text(interval[1], 3, signed=True)}]"
