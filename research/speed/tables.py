"""The tables of README.md, from the records in results/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from research.markdown import ARCHITECTURES, markdown

Record = Mapping[str, Any]


WIDTH = 9216
TITLES = {"relu": "ReLU+L1", "topk": "TopK", "batch_topk": "BatchTopK", "gated": "Gated", "jumprelu": "JumpReLU"}
TARGETS = {"relu": 2.3, "topk": 1.6, "batch_topk": 1.7, "gated": 2.0, "jumprelu": 1.6}
"""Products that a step may cost, as set before it was built."""
LIBRARIES = {
    "sae-lens": "sae-lens 6.54.12",
    "dictionary-learning": "dictionary-learning 0.1.0",
    "eai-sparsify": "eai-sparsify 1.3.3 (CPU path, its own SignSGD)",
}

MODEL_REQUESTS = {"meaning": "search by meaning", "text": "a text of one's own", "text-difference": "two texts"}
"""What the pages ask of a language model, by its name in the record."""


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    """`records`: all of results/, by name."""
    steps = [records[name] for name in ("step", "step_peers", "step_widths")]
    return {
        "step": step_table(records["step"], WIDTH),
        "step-avx2": step_table(records["step_avx2"], WIDTH, beside=True),
        "peers": peers_table(records["step_peers"]),
        "widths": width_table(steps),
        "parts": markdown(("part", "measured"), [*training_rows(records), *data_rows(records)]),
        "pages": markdown(
            ("features and pages", "limit", "measured"),
            [*page_rows(records["features"], records["browser"]), *demo_rows(records["first_look"])],
        ),
    }


def demo_rows(record: Record) -> list[list[str]]:
    """What was measured of the demo, with the 8-bit screen and without; what was not run to the end has no row."""
    parts = {
        "first_look": ("first look of the demo", "3 min"),
        "whole": ("the whole demo", "12 min"),
    }
    rows = []
    for part, (title, limit) in parts.items():
        minutes = [f"{demo[part] / 60:.1f} min" for demo in record["demos"] if part in demo]
        if minutes:
            rows.append([f"{title}; without the 8-bit screen", limit, "; ".join(minutes)])
    return rows


def rows_of(record: Record, width: int) -> dict[str, Record]:
    return {row["name"]: row for row in record["rows"] if row["d_sae"] == width}


def spread(row: Record) -> str:
    """`**0.74** [0.60, 1.12]`: the median ratio and the extremes of the rounds."""
    return f"**{row['ratio']:.2f}** [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"


def step_table(record: Record, width: int, beside: bool = False) -> str:
    """A step in products of the encoder; with other libraries beside where they were measured."""
    rows = rows_of(record, width)
    body = [["**monosemy**", *(spread(rows[name]) for name in ARCHITECTURES)]]
    if not beside:
        body.append(["target", *(f"{TARGETS[name]:.1f}" for name in ARCHITECTURES)])
    aux = [rows.get(f"{name} + aux") for name in ARCHITECTURES]
    body.append(["AuxK active (10% dead)", *(f"{row['ratio']:.2f}" if row else "" for row in aux)])
    if beside:
        body += library_rows(rows, LIBRARIES)
        body.append(["faster than sae-lens", *(f"{times:.0f}×" for times in times_faster(rows))])
    return markdown(["", *TITLES.values()], body)


def library_rows(rows: Record, titles: Mapping[str, str]) -> list[list[str]]:
    table_rows = []
    for library, title in titles.items():
        theirs = [rows.get(f"{library} {name}") for name in ARCHITECTURES]
        table_rows.append([title, *(f"{row['ratio']:.2f}" if row else "" for row in theirs)])
    return table_rows


def times_faster(rows: Record, library: str = "sae-lens") -> list[float]:
    """How many of our steps fit into one of a library's, architecture by architecture where it has them."""
    shared = [name for name in ARCHITECTURES if f"{library} {name}" in rows]
    return [rows[f"{library} {name}"]["ratio"] / rows[name]["ratio"] for name in shared]


def settled(row: Record) -> str:
    """` (107)` where the L0 of the timed steps had not settled at 32."""
    return "" if row["l0"] is None or 31 <= row["l0"] <= 33 else f" ({row['l0']:.0f})"


def peers_table(record: Record) -> str:
    body: list[Sequence[str]] = []
    for width in sorted({row["d_sae"] for row in record["rows"]}):
        rows = rows_of(record, width)
        product = rows["product"]
        title = f"{width:,} ({product['gflops']:.0f} GFLOP/s, bound {product['bound_ratio']:.2f})"
        own = [f"{rows[name]['ratio']:.2f}{settled(rows[name])}" for name in ARCHITECTURES]
        body.append([title, "monosemy", *own])
        body += [["", *cells] for cells in library_rows(rows, LIBRARIES)]
        body.append(["", "faster than sae-lens", *(f"{times:.0f}×" for times in times_faster(rows))])
    return markdown(["m", "", *TITLES.values()], body)


def width_table(records: Sequence[Record]) -> str:
    """Products a step at every width, each from the first record that has it."""
    body: dict[int, list[str]] = {}
    for record in records:
        for width in sorted({row["d_sae"] for row in record["rows"]} - body.keys()):
            rows = rows_of(record, width)
            cells = [
                f"{rows[name]['ratio']:.2f}{settled(rows[name])}" if name in rows else "" for name in ARCHITECTURES
            ]
            body[width] = [f"{width:,}", f"{rows['product']['milliseconds']:,.0f}", *cells]
    return markdown(["m", "product, ms", *TITLES.values()], [body[width] for width in sorted(body)])


def training_rows(records: Mapping[str, Record]) -> list[Sequence[str]]:
    """Several SAEs on one stream, memory of a step, encode and decode."""
    frontier, memory, encode = (records[name] for name in ("frontier", "memory", "encode"))
    buffers, rows = memory["buffers"], encode["rows"]
    alike = ", ".join(f"{TITLES[name]} {buffers[name]:.2f}" for name in ARCHITECTURES)
    dense = ", ".join(f"{TITLES[name]} {buffers[f'{name} dense']:.1f}" for name in ("relu", "jumprelu"))
    aux = ", ".join(f"{TITLES[name]} {buffers[f'{name} + aux']:.2f}" for name in ("topk", "batch_topk"))
    encoders = ", ".join(f"{TITLES[name]} {rows[f'encode {name}']['products']:.2f}" for name in ARCHITECTURES)
    speed = {
        kind: [row["tokens_per_second"] for name, row in rows.items() if name.startswith(kind)]
        for kind in ("encode", "decode")
    }
    decoders = {f"{row['products']:.2f}" for name, row in rows.items() if name.startswith("decode")}
    unit = f"1 = one dense [N, m] float32 buffer, {4 * memory['batch'] * memory['d_sae'] / 1e6:.0f} MB"
    return [
        (
            f"several SAEs on one stream, two at a time, kinds mixed (m {frontier['d_sae']:,}): 1, 4, 12 SAEs",
            ", ".join(f"{frontier[n]:.2f}" for n in ("1", "4", "12")) + " × as many single steps with all threads",
        ),
        (
            f"peak memory of a step beyond weights and moments (m {memory['d_sae']:,}, N {memory['batch']:,}; {unit})",
            f"{alike}; AuxK active: {aux}; two TopK side by side {buffers['topk two at a time']:.2f} each",
        ),
        ("the same where a third of all latents is active, which no recipe has", f"{dense}: the code itself is dense"),
        (
            f"encode, in products (m {encode['d_sae']:,})",
            f"{encoders}; {thousands(min(speed['encode']))}–{thousands(max(speed['encode']))} tokens/s where the "
            f"product alone does {thousands(rows['product']['tokens_per_second'], -2)}",
        ),
        (
            "decode, in products",
            f"{'–'.join(sorted(decoders))}; {thousands(min(speed['decode']), -4)}–"
            f"{thousands(max(speed['decode']), -4)} tokens/s",
        ),
    ]


def data_rows(records: Mapping[str, Record]) -> list[Sequence[str]]:
    """Reading and writing activations, and the model's pass."""
    rates, harvest = records["store"]["tokens_per_second"], records["harvest"]
    step_rate = 2048 / rows_of(records["step"], WIDTH)["topk"]["milliseconds"] * 1000
    stored, shuffled, copy = (rates[name] for name in ("stored order", "shuffled stream", "plain copy to float32"))
    written, plain = rates["shard written"], rates["plain flushed file"]
    of_bare = harvest["of_bare"]
    return [
        (
            "stored activations read in stored order, fully shuffled; a plain copy (d 576, bfloat16)",
            f"{stored / 1e6:.2f}, {shuffled / 1e6:.2f}; {copy / 1e6:.2f} million tokens/s: {stored / step_rate:.0f} "
            f"and {shuffled / step_rate:.0f} times what TopK's step takes in",
        ),
        (
            "a shard written, summed, hashed and flushed; a plain flushed file of its size",
            f"{thousands(written)}; {thousands(plain)} tokens/s: "
            f"{written / harvest['bare_tokens_per_second']:.0f} times what the bare model delivers",
        ),
        ("harvest, of the bare truncated transformers forward at the same batch", f"{of_bare['harvest']:.3f}"),
        (
            f"the same to disk, {harvest['n_tokens']:,} tokens, the pass that measures norms and scale included",
            f"{of_bare['to disk']:.2f}",
        ),
    ]


def page_rows(features: Record, browser: Record) -> list[Sequence[str]]:
    """Building a feature database, and the browser's answers at the 95th percentile."""
    stages, times, limits = features["seconds_of_steps"], browser["milliseconds"], browser["limits_ms"]
    names = {"page": "latent page", "search": "search", "token": "token", "list": "list"}
    counted, labels, tokens = (stages[name] for name in ("firings counted", "labels made", "output tokens found"))
    return [
        (
            f"features of {features['d_sae']:,} latents on {features['n_tokens']:,} tokens beyond the model's pass",
            "180 s",
            f"{features['seconds_beyond_the_model']:.0f} s: {counted:.0f} counting, {labels:.0f} labels, "
            f"{tokens:.0f} output tokens, the rest encoding",
        ),
        ("bytes a latent beside the contexts", "2,048", f"{features['bytes_per_latent']:,.0f}"),
        *(
            (
                f"{title} at {browser['latents']:,} synthetic latents, p95",
                f"{limits[name]:.0f} ms",
                f"{times[name]['p95']:.1f} ms",
            )
            for name, title in names.items()
        ),
        *(
            (f"{title} on the demo's run, p95; first", "", f"{times[name]['p95']:.0f} ms; {times[name]['max']:.0f} ms")
            for name, title in MODEL_REQUESTS.items()
        ),
        (
            "latent pages a second on one core",
            f"{browser['least_pages_per_second']}",
            f"{browser['pages_per_second']:.0f}; {browser['server_milliseconds_per_page']:.1f} ms of the server's time "
            "a page",
        ),
        ("cold start, no torch", f"{browser['limit_start_seconds']:.0f} s", f"{browser['cold_start_seconds']:.1f} s"),
    ]


def thousands(value: float, digits: int = -3) -> str:
    return f"{round(value, digits):,.0f}"
