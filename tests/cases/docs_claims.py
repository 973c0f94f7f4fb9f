"""Sentences and rows of the documents that are rendered anew from the records, and tables as the scripts print them.

What derives from several numbers (a range over rows, a quotient, a share) stands here, so that how it derives is said.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docs_tables

from research.frontier import comparison
from research.heads import tables as heads_tables
from research.jacobian import tables as jacobian_tables
from research.peers import run as peers
from research.planted import scale as planted

README, PERFORMANCE, RESULTS = "README.md", "docs/performance.md", "docs/results.md"


def read(root: Path, name: str) -> Any:
    return json.loads((root / "docs" / "results" / f"{name}.json").read_text())


def span(values: Iterable[float], form: str = ".1f", between: str = " to ") -> str:
    """`0.7 to 0.9`: the least and the largest."""
    ordered = sorted(values)
    return f"{ordered[0]:{form}}{between}{ordered[-1]:{form}}"


def thousands(value: float, digits: int = -3) -> str:
    return f"{round(value, digits):,.0f}"


def steps(document: Any, width: int, library: str = "") -> dict[str, dict[str, float]]:
    """The rows of a step record at a width, by architecture: ours, or a library's."""
    architectures = ("relu", "topk", "batch_topk", "gated", "jumprelu")
    rows = {row["name"]: row for row in document["rows"] if row["d_sae"] == width}
    return {a: rows[f"{library} {a}".strip()] for a in architectures if f"{library} {a}".strip() in rows}


def ratios(document: Any, width: int, library: str = "") -> list[float]:
    return [row["ratio"] for row in steps(document, width, library).values()]


def times_faster(document: Any, width: int, library: str = "sae-lens") -> list[float]:
    """How many of our steps fit into one of a library's, architecture by architecture."""
    ours, theirs = steps(document, width), steps(document, width, library)
    return [theirs[name]["ratio"] / ours[name]["ratio"] for name in theirs]


def claims(root: Path) -> list[tuple[str, str]]:
    """(document, passage) of every claim."""
    pages = {
        README: _readme,
        PERFORMANCE: _performance,
        "docs/jacobian.md": _jacobian_page,
        "docs/circuits.md": _circuits_page,
        "docs/steering.md": _steering_page,
        "docs/browser.md": _browser_page,
        RESULTS: _results,
    }
    return [(page, passage) for page, passages in pages.items() for passage in passages(root)]


def _readme(root: Path) -> Iterator[str]:
    from monosemy.recipes import demo

    recipe = demo()
    *most, last = [f"{l0:g}" for l0 in recipe.l0]
    n_saes = len(recipe.architectures) * len(recipe.l0) * len(recipe.seeds)
    yield f"at L0 {', '.join(most)} and {last} side by side"
    yield f"trains {n_saes} SAEs on a real small model"
    step, peers = read(root, "step"), read(root, "step_peers")
    first, second, third = sorted({row["d_sae"] for row in peers["rows"]})
    yield f"A training step costs {span(ratios(step, 9216))} of the encoder's own dense product on a CPU with VNNI"
    without = read(root, "step_avx2")
    assert not without["screen"]
    yield f"and {span(ratios(without, 9216))} without"
    yield f"without, {span(times_faster(without, 9216), '.0f')} times less at 9,216"
    beside = [ratio for width in (first, second, third) for ratio in ratios(peers, width)]
    faster = [span(times_faster(peers, width), ".0f") for width in (first, second, third)]
    yield (
        f"in one run each: with VNNI {span(beside)}, which is {faster[0]} times less than sae-lens at "
        f"{first:,} latents, {faster[1]} at {second:,} and {faster[2]} at {third:,}"
    )


def _performance(root: Path) -> Iterator[str]:
    yield from (*_steps_page(root), *_rest_page(root), *_features_page(root), *_on_paper())


def _steps_page(root: Path) -> Iterator[str]:
    step, peers = read(root, "step"), read(root, "step_peers")
    product = next(row for row in step["rows"] if row["name"] == "product")
    yield f"{product['milliseconds']:.0f} ms, {product['gflops']:.0f} GFLOP/s. Medians of {step['rounds']} interleaved"
    yield f"The dense product plus the bytes that a dense step must move would be {product['bound_ratio']:.2f} at best"
    without = read(root, "step_avx2")
    product = next(row for row in without["rows"] if row["name"] == "product")
    yield f"nothing else running, {product['gflops']:.0f} GFLOP/s"
    yield f"the bound without a screen is {product['bound_ratio']:.2f}"
    yield " | ".join(["| faster than sae-lens", *(f"{times:.0f}×" for times in times_faster(without, 9216))]) + " |"
    widths = sorted({row["d_sae"] for row in peers["rows"]})
    aux = {
        name: ", ".join(f"{row['ratio']:.2f}" for width in widths for row in peers["rows"]
                        if (row["d_sae"], row["name"]) == (width, f"{name} + aux"))
        for name in ("topk", "batch_topk")
    }  # fmt: skip
    yield f"TopK {aux['topk']}, BatchTopK {aux['batch_topk']} at the three widths"
    own = steps(step, 9216)
    yield f"({own['jumprelu']['ratio']:.2f} against {own['topk']['ratio']:.2f})"


def _rest_page(root: Path) -> Iterator[str]:
    frontier, memory, encode = read(root, "frontier"), read(root, "memory"), read(root, "encode")
    yield "1, 4, 12 SAEs | " + ", ".join(f"{frontier[n]:.2f}" for n in ("1", "4", "12")) + " × as many"
    b = SimpleNamespace(**{name.replace(" ", "_").replace("_+_", "_"): v for name, v in memory["buffers"].items()})
    n, m, d = memory["batch"], memory["d_sae"], 576
    yield (
        f"(m {m:,}, N {n:,}; 1 = one dense [N, m] float32 buffer, {4 * n * m / 1e6:.0f} MB; limit 2) | "
        f"ReLU {b.relu:.2f}, TopK {b.topk:.2f}, BatchTopK {b.batch_topk:.2f}, Gated {b.gated:.2f}, "
        f"JumpReLU {b.jumprelu:.2f}; AuxK active: TopK {b.topk_aux:.2f}, BatchTopK {b.batch_topk_aux:.2f}; "
        f"two TopK side by side {b.topk_two_at_a_time:.2f} each; gradients of both matrices ({2 * d / n:.2f}) included"
    )
    yield f"ReLU {b.relu_dense:.1f}, JumpReLU {b.jumprelu_dense:.1f}: above the limit"
    rows = encode["rows"]
    names = {"relu": "ReLU", "topk": "TopK", "batch_topk": "BatchTopK", "gated": "Gated", "jumprelu": "JumpReLU"}
    speed = {kind: [row["tokens_per_second"] for name, row in rows.items() if name.startswith(kind)]
             for kind in ("encode", "decode")}  # fmt: skip
    yield (
        ", ".join(f"{shown} {rows[f'encode {name}']['products']:.2f}" for name, shown in names.items())
        + f": {thousands(min(speed['encode']))}–{thousands(max(speed['encode']))} tokens/s "
        + "where the product alone does "
        + thousands(rows["product"]["tokens_per_second"], -2)
    )
    decode = [row["products"] for name, row in rows.items() if name.startswith("decode")]
    (product,) = {f"{value:.2f}" for value in decode}
    yield f"{product} ({thousands(min(speed['decode']), -4)}–{thousands(max(speed['decode']), -4)} tokens/s)"
    yield from _store_rows(root)


def _store_rows(root: Path) -> Iterator[str]:
    rates, harvest = read(root, "store")["tokens_per_second"], read(root, "harvest")
    topk = steps(read(root, "step"), 9216)["topk"]
    step_rate = 2048 / topk["milliseconds"] * 1000
    stored, shuffled, copy = (rates[name] for name in ("stored order", "shuffled stream", "plain copy to float32"))
    yield (
        f"{stored / 1e6:.2f}, {shuffled / 1e6:.2f}; {copy / 1e6:.2f} million tokens/s, {stored / step_rate:.0f} and "
        f"{shuffled / step_rate:.0f} times what TopK's step of 9,216 latents takes in"
    )
    written, plain, bare = rates["shard written"], rates["plain flushed file"], harvest["bare_tokens_per_second"]
    yield (
        f"{thousands(written)}; {thousands(plain)} tokens/s, {written / bare:.0f} times what the bare model "
        "delivers in the next row"
    )
    of_bare = harvest["of_bare"]
    yield f"of the bare truncated transformers forward at the same batch | {of_bare['harvest']:.3f} |"
    yield f"the same to disk, {harvest['n_tokens']:,} tokens,"
    yield f"norms and scale (also {harvest['n_tokens']:,} tokens) included | {of_bare['to disk']:.2f}"
    yield f"harvest {of_bare['harvest']:.3f} of the bare model), 18 steps".replace(" 0.", " .")
    yield f"keep all cores busy (harvest {of_bare['harvest']:.3f} of the bare model)".replace(" 0.", " .")


def _features_page(root: Path) -> Iterator[str]:
    features, browser = read(root, "features"), read(root, "browser")
    stages = features["seconds_of_steps"]
    yield f"features of {features['d_sae']:,} latents on {features['n_tokens']:,} tokens beyond the model's pass"
    yield (
        f"{features['seconds_beyond_the_model']:.0f} s: {stages['firings counted']:.0f} counting, "
        f"{stages['labels made']:.0f} labels, {stages['output tokens found']:.0f} output tokens, the rest encoding"
    )
    yield f"| {features['bytes_per_latent']:,.0f} then;"
    p95 = {name: row["p95"] for name, row in browser["milliseconds"].items()}
    limits = browser["limits_ms"]
    yield f"browser at {browser['latents']:,} synthetic latents, p95: latent page, search, token, list (limits " + (
        ", ".join(f"{limits[name]:.0f}" for name in ("page", "search", "token", "list"))
        + f" ms) | {p95['page']:.1f}, {p95['search']:.0f}, {p95['token']:.1f}, {p95['list']:.1f} ms"
    )
    yield (
        f"(limit {browser['least_pages_per_second']}) | {browser['pages_per_second']:.0f}; "
        f"{browser['server_milliseconds_per_page']:.1f} ms of the server's time a page"
    )
    yield f"(limit {browser['limit_start_seconds']:.0f} s) | {browser['cold_start_seconds']:.1f} s |"


def _on_paper() -> Iterator[str]:
    """A reckoning, not a measurement: bytes and products of 34 million latents on 8 GPUs."""
    m, d, gpus, rows = 34e6, 576, 8, 8192
    state = m * 24 * d
    product = 2 * rows * d * m
    moved = m / gpus * 2 * d * 28
    seconds = moved / 4e12
    yield (
        f"{m / 1e6:.0f} million latents at d {d} on {gpus} GPUs, latents sharded. {m / 1e6:.0f}·10⁶ · 24 · {d} bytes = "
        f"{state / 1e9:.0f} GB of weights and moments, {state / gpus / 1e9:.0f} GB a GPU. One step of {rows:,} rows: "
        f"product 2 · {rows:,} · {d} · 34·10⁶ = {product / 1e14:.1f}·10¹⁴ FLOP, "
        f"{product / gpus / 1e13:.0f}·10¹³ a GPU, {product / gpus / 400e12:.1f} s at 400 TFLOP/s; "
        f"Adam moves 34·10⁶/{gpus} · {2 * d:,} · 28 bytes = "
        f"{moved / 1e9:.0f} GB, {seconds - 0.004:.2f}–{seconds + 0.006:.2f} s at 4 TB/s"
    )


def _jacobian_page(root: Path) -> Iterator[str]:
    record = read(root, "jacobian")
    by_lambda = {row["lambda"]: row for row in record["frontier"]}
    estimates = {coef: row["estimates"] for coef, row in by_lambda.items()}

    def shares(measure: str, coefs: Iterable[float]) -> list[str]:
        return [f"{100 * estimates[coef][measure]['value']:.0f}" for coef in coefs]

    first, *rest = shares("over_0.01", (0, 1, 3, 10))
    yield f"λ = 0, 1, 3, 10 gave {first}, {rest[0]}, {rest[1]} and {rest[2]}% of elements above .01"
    yield f"root mean square stayed at {', '.join(shares('scaled_over_0.1', (0, 1, 3, 10)))}%"
    yield f"half of it at {', '.join(shares('scaled_over_0.5', (0, 1, 3, 10)))}%"
    high = shares("scaled_over_0.1", (30, 100))
    yield f"with λ = 30 ({high[0]}%) and 100 ({high[1]}%)"
    explained = [f"{by_lambda[coef]['variance_explained_out']['value']:.2f}"[1:] for coef in (0, 30, 100)]
    yield f"down from {explained[0]} to {explained[1]} and {explained[2]}"
    random = {
        f"{100 * row['estimates']['scaled_over_1']['value']:.0f}"
        for kind in ("published", "matched", "reinitialised")
        for row in record["random_frontiers"][kind]
        if row["lambda"] == 0 and row["l0"] == 64
    }
    (at_random,) = random
    trained = shares("scaled_over_1", (0,))[0]
    yield f"{trained}% of its elements exceed their token's root mean square, {at_random}% in three kinds"
    change = record["checks"]["a random share of the tokens against all"]["ce_score_in"]["change"]
    yield f"at λ = 3 it cost another {-change:.3f} of the input SAE's CE score".replace(" 0.", " .")


def _circuits_page(root: Path) -> Iterator[str]:
    record = read(root, "circuits")
    summary = record["summary"]
    without_codes = [part["differences"]["combined − combined-no-codes"]["difference"]
                     for name, part in record["parts"].items() if name.startswith("trained-")]  # fmt: skip
    gain, loss = (f"{value:.2f}".removeprefix("0") for value in (max(without_codes), -min(without_codes)))
    yield f"on ten trained models one gains {gain} and one loses {loss}"

    def difference(task: str) -> str:
        value = summary[task]["differences"]["codes − codes-paper"]["difference"]
        return f"{value:.2f}".replace("-0.", "−.")

    yield f"greater-than ({difference('real-greater-than-units')}) and trained IOI ({difference('trained-ioi')})"


def _steering_page(root: Path) -> Iterator[str]:
    record = read(root, "steering")
    topic, bias = record["topic"], record["bias"]
    n_search, n_judged = len(topic["search"]), len(topic["questions"])
    yield f"({record['n_tokens']} tokens an answer, {n_search} questions to search on, {n_judged} to judge, "
    tried = ", ".join(f"{name} {100 * share:.0f}%" for name, share in topic["tried"].items())
    yield f"each topic tried gave {tried} of answers on the topic and fluent"
    chosen = topic["chosen"]
    yield f"latent {chosen['latent']}, set to {chosen['strength']:.2f} of the typical norm (raw {chosen['raw']:.0f})"
    for kind in ("technical", "plain"):
        tone = record["tone"][kind]
        changes = []
        for name in ("steered", "prompted"):
            change = tone["judged"][name]["score_change"]
            values = [f"{100 * value:.0f}" for value in (change["mean"], *change["interval"])]
            changes.append(f"{values[0]} [{values[1]}, {values[2]}]")
        yield (
            f"Latent {tone['chosen']['latent']} at {tone['chosen']['strength']:.2f} of the typical norm. Change of the "
            f"share of long words against the unsteered answers: {changes[0]}; prompted: {changes[1]}."
        )
    gap = bias["before"]["gap"]
    groups = " + ".join(str(len(bias["judge"][who])) for who in ("women", "men"))
    yield (
        f"{gap['mean']:.2f} [{gap['interval'][0]:.2f}, {gap['interval'][1]:.2f}] nats ({groups} occupations, "
        f"{len(bias['templates'])} templates). Loss on {bias['changed']['1']['cost']['n_tokens']} validation tokens."
    )
    one = bias["changed"]["1"]
    before, after = bias["before"], one["judged"]
    yield f"tripling one latent ({one['changes'][0][0]}) takes two thirds of the gap"
    yield f"rises from {one['cost']['perplexity_before']:.1f} to {one['cost']['perplexity_after']:.1f}"
    leans = [f"{value:+.2f}".replace("-", "−") for value in (*before["lean"], *after["lean"])]
    yield f"from {leans[0]} (occupations of women) and {leans[1]} (of men"
    yield f"to {leans[2]} and {leans[3]}. The latent says"
    yield f"falls from {before['share_he_or_she']:.2f} to {after['share_he_or_she']:.2f}"


def _browser_page(root: Path) -> Iterator[str]:
    from monosemy.app import connections, lists, live

    browser = read(root, "browser")
    limits = browser["limits_ms"]
    yield (
        f"texts above {live.MAX_TEXT:,} characters, answers above {live.MAX_NEW_TOKENS} tokens and more than "
        f"{live.MAX_EDITS} edited latents are refused"
    )
    yield f"more than {connections.MAX_CONNECTIONS} connections at a time"
    yield f"Words that more than {lists.BROAD:,} labels have"
    yield f"a database of {browser['latents']:,} synthetic latents"
    yield f"Limits: latent page {limits['page']:.0f} ms, search {limits['search']:.0f} ms, list"
    yield f"list and filter {limits['list']:.0f} ms"
    yield f"{browser['least_pages_per_second']} latent pages a second"


def _results(root: Path) -> Iterator[str]:
    quality = read(root, "peers_quality")
    times = quality["step_milliseconds"]
    names = {"relu": "ReLU", "topk": "TopK", "batch_topk": "BatchTopK", "gated": "Gated", "jumprelu": "JumpReLU"}
    said = []
    for library in ("sae-lens", "dictionary-learning", "eai-sparsify"):
        quotients = {
            shown: times.get(f"{library} {name}", 0) / times[f"monosemy {name}"] for name, shown in names.items()
        }
        there = [f"{shown} {quotient:.1f}" for shown, quotient in quotients.items() if quotient]
        said.append(f"{library} {', '.join(there)}")
    yield "theirs ÷ ours: " + "; ".join(said)
    yield f"as long as {times['monosemy calibration'] / times['monosemy jumprelu']:.0f} steps here"
    yield from _frontier_prose(root)
    yield from _step_prose(root)


def _frontier_prose(root: Path) -> Iterator[str]:
    sites = read(root, "comparison")["sites"]
    middle, other = sites["layers.12.resid_post"], sites["layers.4.resid_post"]
    yield f"{middle['n_tokens']:,} validation tokens of {middle['n_documents']} documents"
    yield f"losses over {middle['n_loss_tokens']:,} of them ({middle['n_loss_documents']} documents)"
    yield f"Every L0 within {100 * middle['largest_l0_miss']:.1f}% of the asked"
    yield f"{other['n_tokens']:,} validation tokens of {other['n_documents']} documents, losses"
    yield f"losses over {other['n_loss_tokens']:,}; L0 32"
    misses = max(site["largest_l0_miss"] for name, site in sites.items() if name != "layers.12.resid_post")
    yield f"Every L0 within {100 * misses:.1f}% of the asked"


def _step_prose(root: Path) -> Iterator[str]:
    results = read(root, "jacobian_step")["results"]
    rows = [{row["name"]: row for row in one["rows"]} for one in results]
    every, quarter, without = (
        [row[name]["milliseconds"] for row in rows]
        for name in ("pair, penalty on 1 of the tokens", "pair, penalty on 0.25 of the tokens", "pair without penalty")
    )

    def times_of(values: list[float], units: list[float]) -> str:
        shown = [f"{value / unit:.1f}" for value, unit in zip(values, units, strict=True)]
        return f"{shown[0]}, {shown[1]} and {shown[2]}"

    yield f"it is {times_of(every, without)} times at the three batches"
    yield f"with a quarter of the tokens {times_of(quarter, without)}"
    saved = [1 - q / e for q, e in zip(quarter, every, strict=True)]
    yield f"saves {span([100 * s for s in saved], '.0f')}% of the step"


def generated(root: Path) -> list[str]:
    """Tables in Markdown as research/ prints them from their records."""
    return [_first_table(text) for text in _tables(root)]


def _tables(root: Path) -> Iterator[str]:
    yield from heads_tables.tables(read(root, "circuits")).values()
    yield from jacobian_tables.tables(read(root, "jacobian")).values()
    for site in read(root, "comparison")["sites"].values():
        yield "\n".join(comparison.table(site["points"]))
        yield "\n".join(comparison.paired_table(site["paired"]))
    for name, size in planted.SIZES.items():
        printed = io.StringIO()
        record = read(root, "planted_scale")
        if name in record:
            with contextlib.redirect_stdout(printed):
                planted.show(name, size, record[name])
            yield printed.getvalue()
    quality = read(root, "peers_quality")
    yield peers.table(quality["ours"], quality["peers"])
    yield from docs_tables.tables(lambda name: read(root, name), comparison)


def _first_table(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.lstrip().startswith("|"))
