"""Which explains an MLP with fewer strong ties at equal loss: a pair of Jacobian SAEs, or a transcoder?

    monosemy train transcoders --run runs/layer15 --sites layers.15.mlp_in layers.15.mlp_out --d-sae 4608 \\
        --transcoders.architectures topk jumprelu --l0 8 16 32 64
    python -m research.transcoders.ties runs/jacobian/frontier runs/layer15

A *tie* joins something read from the MLP's input to something written to its output. Of a pair, every active input
latent j and active output latent i are tied by the Jacobian; of a transcoder, each active latent t is one tie by
itself. The strength of a tie is how far the output would move, to first order, if what is read were not there, in
units of the output's typical length (root mean square):

    pair        |J_ij f_j| ‖d_i‖ / C_y        transcoder        f_t ‖d_t‖ / C_y

Counted per token: ties stronger than each of `STRENGTHS`, and how many of the strongest carry `SHARE` of the sum of all
squared strengths. Both explanations take the MLP's place in the model: the pair's is
decode_y(encode_y(MLP(decode_x(encode_x(x))))). FVU and Δ loss are measured on the same tokens with 95% intervals over
documents. Limits: one layer of one model; a pair still contains the MLP, and its ties hold to first order only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from monosemy.circuits.jacobian.latent_map import padded
from monosemy.circuits.jacobian.mlp_rows import Rows
from monosemy.circuits.jacobian.trained_pairs import LoadedPair, Study
from monosemy.evals.intervals import Blocks, bootstrap_weights, ratio_interval
from monosemy.evals.model_loss import evaluate_model_loss
from monosemy.evals.reconstruction import Dictionary
from monosemy.latents import SparseLatents
from monosemy.layout import RunFiles
from monosemy.pipeline.evaluation import loss_tokens
from monosemy.report.theme import Theme
from monosemy.run import open_run, read_run
from monosemy.saes.base import SparseAutoencoder
from monosemy.saes.storage import load_sae
from research.evidence_figures import save
from research.records import figures_folder, record_path, write_record
from research.transcoders.tables import ties_table

STRENGTHS = (0.01, 0.03, 0.1)
DRAWN_STRENGTH = 0.03
SHARE = 0.9
N_TOKENS = 8_192
N_RESAMPLES = 1_000
_MARKERS = ("o", "s", "^")


@dataclass(frozen=True)
class PairOfMlp:
    """A pair and the MLP between its SAEs as one dictionary that reads the MLP's input and gives its output."""

    pair: LoadedPair
    source_site: str

    @property
    def d_sae(self) -> int:
        return self.pair.sae_out.d_sae

    def encode(self, x: Tensor) -> SparseLatents:
        x_hat = self.pair.sae_in.decode(self.pair.sae_in.encode(x))
        return self.pair.sae_out.encode(self.pair.weights.output(x_hat))

    def decode(self, latents: SparseLatents) -> Tensor:
        return self.pair.sae_out.decode(latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="a run of monosemy jacobian with pairs of several λ")
    parser.add_argument("transcoders", type=Path, help="a run with transcoders of the same layer")
    parser.add_argument("--loss-tokens", type=int, default=8_192)
    parser.add_argument("--out", type=Path, default=record_path("transcoders", "ties"))
    parser.add_argument("--figures", type=Path, default=figures_folder("transcoders"))
    options = parser.parse_args()
    config, _ = read_run(options.pairs)
    with open_run(options.pairs, config) as run:
        study = Study(run)
        record = {"tokens": config.text.n_tokens, "strengths": STRENGTHS, "share": SHARE}
        record["rows"] = measured(study, options.transcoders, options.loss_tokens)
    write_record(options.out, record)
    draw(record, options.figures)
    print(ties_table(record))


def measured(study: Study, transcoders: Path, n_loss_tokens: int) -> list[dict[str, Any]]:
    """One row for each pair and each transcoder of the pairs' layer."""
    first = study.pairs[0]
    source, site = first.sites
    validation = study.rows(first, N_TOKENS)
    scale = study.load(first).sae_out.config.scale
    dictionaries: dict[str, Dictionary] = {}
    described: dict[str, dict[str, Any]] = {}
    for entry in study.pairs:
        loaded = study.load(entry)
        dictionaries[entry.name] = PairOfMlp(loaded, source)
        described[entry.name] = {"kind": "pair", "lambda": entry.coef, "l0": entry.l0, "seed": entry.seed}
        described[entry.name] |= ties(pair_strengths(loaded, validation), validation.documents)
    saved = [sae for sae in RunFiles(transcoders).saes() if sae.site == site and sae.name.startswith("transcoder_")]
    for sae in saved:
        transcoder = load_sae(sae.folder)
        kind = f"{transcoder.config.architecture} transcoder"
        dictionaries[sae.name] = transcoder
        described[sae.name] = {"kind": kind, "l0": transcoder.config.l0, "seed": transcoder.config.seed}
        described[sae.name] |= ties(transcoder_strengths(transcoder, validation, scale), validation.documents)
    tokens, documents, keep = loss_tokens(study.prepared, n_loss_tokens)
    losses = evaluate_model_loss(
        study.prepared.model,
        site,
        dictionaries,
        tokens,
        keep=keep,
        attention_mask=torch.ones_like(tokens),
        documents=documents,
    ).records
    for name, dictionary in dictionaries.items():
        loss = losses[name]
        described[name] |= {"fvu": fvu(dictionary, validation)}
        described[name] |= {"delta_loss": loss.delta_loss, "delta_loss_interval": loss.delta_loss_interval}
    return [{"name": name} | row for name, row in described.items()]


def pair_strengths(pair: LoadedPair, rows: Rows) -> Iterator[Tensor]:
    """The strengths of each chunk's ties, [n, k_out · k_in]; 0 where there is none."""
    for _, slices in pair.slicer().batches(rows):
        # Output latents are in units of C_y, in which decoder rows are read too; padding (−1) has J = 0.
        written = pair.sae_out.W_dec.norm(dim=1)[slices.out_indices.clamp_min(0)]
        moved = slices.values * slices.in_values[:, None, :]
        yield (moved.abs() * written[:, :, None]).flatten(1)


def transcoder_strengths(transcoder: SparseAutoencoder, rows: Rows, scale: float) -> Iterator[Tensor]:
    """The strengths of each chunk's ties, [n, most active]; 0 where there is none."""
    written = transcoder.W_dec.norm(dim=1) / scale
    for chunk in rows.chunks():
        indices, values = padded(transcoder.encode(chunk.x))
        yield values * written[indices.clamp_min(0)]


@torch.no_grad()
def ties(chunks: Iterator[Tensor], documents: Tensor) -> dict[str, Any]:
    """Ties a token beyond each of `STRENGTHS`, and how many of the strongest carry `SHARE` of the squares."""
    counts = []
    for strengths in chunks:
        columns = [(strengths > strength).sum(1) for strength in STRENGTHS]
        carried = strengths.square().sort(dim=1, descending=True).values.cumsum(1)
        # As many as it takes to reach the share: those whose predecessors together fall short of it.
        short = torch.cat([torch.zeros(len(carried), 1), carried[:, :-1]], 1) < SHARE * carried[:, -1:]
        counts.append(torch.stack([*columns, short.sum(1)], 1))
    per_token = torch.cat(counts).double()
    named = zip((*(f"above {strength}" for strength in STRENGTHS), "carry the share"), per_token.T, strict=True)
    return {"ties": {name: estimate(column, torch.ones_like(column), documents) for name, column in named}}


@torch.no_grad()
def fvu(dictionary: Dictionary, rows: Rows) -> list[float]:
    """Σ‖y − ŷ‖² / Σ‖y − ȳ‖² over all rows, with the ends of its interval."""
    errors = [
        (chunk.y - dictionary.decode(dictionary.encode(chunk.x))).double().square().sum(1) for chunk in rows.chunks()
    ]
    spread = (rows.y - rows.y.mean(0)).double().square().sum(1)
    return estimate(torch.cat(errors), spread, rows.documents)


def estimate(top: Tensor, bottom: Tensor, documents: Tensor) -> list[float]:
    """Σ top / Σ bottom and the ends of its 95% interval, which resamples documents."""
    blocks = Blocks()
    block = blocks.rows(documents)
    sums = [torch.zeros(blocks.n, dtype=torch.float64).index_add_(0, block, column).numpy() for column in (top, bottom)]
    ends = ratio_interval(sums[0], sums[1], bootstrap_weights(blocks.n, N_RESAMPLES))
    return [float(top.sum() / bottom.sum()), *(ends or ())]


def draw(record: Mapping[str, Any], folder: Path) -> None:
    """Δ loss against ties stronger than `DRAWN_STRENGTH` (left) and against those that carry `SHARE` (right)."""

    def figure_of(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        panels = {
            f"above {DRAWN_STRENGTH}": f"ties stronger than {100 * DRAWN_STRENGTH:g}% of the output",
            "carry the share": f"ties that carry {100 * SHARE:g}% of the squares",
        }
        for axes, (measure, title) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
            for number, kind in enumerate(kinds_of(record)):
                members = sorted(
                    (row for row in record["rows"] if row["kind"] == kind), key=lambda row: row["ties"][measure][0]
                )
                xs, ys = [row["ties"][measure][0] for row in members], [row["delta_loss"] for row in members]
                colour = theme.series[number]
                axes.plot(xs, ys, color=colour, marker=_MARKERS[number], linestyle="none", label=kind)
                for row, x, y in zip(members, xs, ys, strict=True):
                    axes.plot([x, x], row["delta_loss_interval"], color=colour, linewidth=1)
                    # Both kinds of transcoder stand close together at each L0: their labels on two sides.
                    left = number == 1
                    offset, side = ((-5, 5), "right") if left else ((5, 5), "left")
                    axes.annotate(point_name(row), (x, y), offset, textcoords="offset points", ha=side, fontsize=7)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator([4, 8, 16, 32, 64, 128]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(f"{title}, per token")
        figure.axes[0].set_ylabel("Δ loss, nats per token")
        figure.axes[0].legend()
        return figure

    save(folder, "transcoders-ties", figure_of)


def kinds_of(record: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in record["rows"]))


def point_name(row: Mapping[str, Any]) -> str:
    """`λ 0.15` of a pair, `L0 32` of a transcoder."""
    return f"λ {row['lambda']:g}" if "lambda" in row else f"L0 {row['l0']:g}"


if __name__ == "__main__":
    main()
