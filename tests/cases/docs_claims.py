"""Sentences of the documents that are rendered anew from the records.

What derives from several numbers (a range over rows, a quotient, a share) stands here, so that how it derives is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from research.markdown import ARCHITECTURES
from research.records import records_of
from research.speed.tables import WIDTH, rows_of, times_faster

README = "README.md"


def span(values: Iterable[float], form: str = ".1f", between: str = " to ") -> str:
    """`0.7 to 0.9`: the least and the largest."""
    ordered = sorted(values)
    return f"{ordered[0]:{form}}{between}{ordered[-1]:{form}}"


def ratios(record: Any, width: int) -> list[float]:
    """Products of the five architectures' steps."""
    rows = rows_of(record, width)
    return [rows[name]["ratio"] for name in ARCHITECTURES]


def claims() -> list[tuple[str, str]]:
    """(document, passage) of every claim."""
    pages = {
        README: _readme,
        "research/speed/README.md": _speed_page,
        "docs/jacobian.md": _jacobian_page,
        "docs/circuits.md": _circuits_page,
        "docs/steering.md": _steering_page,
        "docs/browser.md": _browser_page,
        "research/frontier/README.md": _frontier_page,
        "research/heads/README.md": _heads_page,
        "research/interpretability/README.md": _interpretability_page,
        "research/jacobian/README.md": _jacobian_study,
        "research/outliers/README.md": _outliers_page,
        "research/peers/README.md": _peers_page,
        "research/planted/README.md": _planted_page,
        "research/probing/README.md": _probing_page,
        "docs/results.md": _results_page,
    }
    return [(page, passage) for page, passages in pages.items() for passage in passages()]


def _readme() -> Iterator[str]:
    from monosemy.recipes import demo

    recipe = demo()
    *most, last = [f"{l0:g}" for l0 in recipe.l0]
    n_saes = len(recipe.architectures) * len(recipe.l0) * len(recipe.seeds)
    yield f"at L0 {', '.join(most)} and {last} side by side"
    yield f"trains {n_saes} SAEs on a real small model"
    records = records_of("speed")
    step, peers, without = records["step"], records["step_peers"], records["step_avx2"]
    first, second, third = sorted({row["d_sae"] for row in peers["rows"]})
    yield f"A training step costs {span(ratios(step, WIDTH))} of the encoder's own dense product on a CPU with VNNI"
    assert not without["screen"]
    yield f"and {span(ratios(without, WIDTH))} without"
    yield f"without, {span(times_faster(rows_of(without, WIDTH)), '.0f')} times less at 9,216"
    beside = [ratio for width in (first, second, third) for ratio in ratios(peers, width)]
    faster = [span(times_faster(rows_of(peers, width)), ".0f") for width in (first, second, third)]
    yield (
        f"in one run each: with VNNI {span(beside)}, which is {faster[0]} times less than sae-lens at "
        f"{first:,} latents, {faster[1]} at {second:,} and {faster[2]} at {third:,}"
    )


def _speed_page() -> Iterator[str]:
    records = records_of("speed")
    step, without = records["step"], records["step_avx2"]
    product = rows_of(step, WIDTH)["product"]
    yield f"{product['milliseconds']:.0f} ms, {product['gflops']:.0f} GFLOP/s. Medians of {step['rounds']} interleaved"
    yield f"The dense product plus the bytes that a dense step must move would be {product['bound_ratio']:.2f} at best"
    product = rows_of(without, WIDTH)["product"]
    yield f"nothing else running, {product['gflops']:.0f} GFLOP/s"
    yield f"the bound without a screen is {product['bound_ratio']:.2f}"
    integer = records["integer"]
    interval = f"[{integer['ratio_low']:.0f}, {integer['ratio_high']:.0f}]"
    yield f"takes {integer['ratio']:.0f} times {interval} as long as its float32 product"
    yield f"medians of {integer['rounds']} interleaved rounds). ARM"


def _jacobian_page() -> Iterator[str]:
    record = records_of("jacobian")["jacobian"]
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


def _circuits_page() -> Iterator[str]:
    record = records_of("heads")["heads"]
    summary = record["summary"]
    without_codes = [
        part["differences"]["combined − combined-no-codes"]["difference"]
        for name, part in record["parts"].items()
        if name.startswith("trained-")
    ]
    gain, loss = (f"{value:.2f}".removeprefix("0") for value in (max(without_codes), -min(without_codes)))
    yield f"on ten trained models one gains {gain} and one loses {loss}"

    def difference(task: str) -> str:
        value = summary[task]["differences"]["codes − codes-paper"]["difference"]
        return f"{value:.2f}".replace("-0.", "−.")

    yield f"greater-than ({difference('real-greater-than-units')}) and trained IOI ({difference('trained-ioi')})"


def _steering_page() -> Iterator[str]:
    ablation = records_of("steering")["ablation"]
    judged = {row["n"] for row in ablation["behaviours"].values()}
    yield f"{ablation['n_tried']} latents are tried on {ablation['n_search']} prompts"
    yield f"in per cent of {judged.pop()} answers with 95% intervals over them"
    assert not judged
    change = ablation["behaviours"]["names a month"]["change"]
    high, low = (f"{-100 * end:.0f}" for end in change["interval"])
    yield f"naming of months, by {-100 * change['mean']:.0f} points [{low}, {high}]"
    others = [row["change"]["interval"] for name, row in ablation["behaviours"].items() if name != "names a month"]
    assert all(high >= 0 for _, high in others), "of the others no change is clear"
    record = records_of("steering")["steering"]
    topic, bias = record["topic"], record["bias"]
    n_search, n_judged = len(topic["search"]), len(topic["questions"])
    yield f"({record['n_tokens']} tokens an answer, {n_search} questions to search on, {n_judged} to judge, "
    tried = ", ".join(f"{name} {100 * share:.0f}%" for name, share in topic["tried"].items())
    yield f"each topic tried gave {tried} of answers on the topic and fluent"
    edit = topic["chosen"]
    yield f"latent {edit['latent']}, set to {edit['strength']:.2f} of the typical norm (raw {edit['raw']:.0f})"
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
    one_latent = bias["changed"]["1"]
    before, after = bias["before"], one_latent["judged"]
    yield f"tripling one latent ({one_latent['changes'][0][0]}) takes two thirds of the gap"
    yield f"rises from {one_latent['cost']['perplexity_before']:.1f} to {one_latent['cost']['perplexity_after']:.1f}"
    leans = [f"{value:+.2f}".replace("-", "−") for value in (*before["lean"], *after["lean"])]
    yield f"from {leans[0]} (occupations of women) and {leans[1]} (of men"
    yield f"to {leans[2]} and {leans[3]}. The latent says"
    # the record's name for it is older than the library's
    either = "either" if "either" in before else "share_he_or_she"
    yield f"falls from {before[either]:.2f} to {after[either]:.2f}"


def _browser_page() -> Iterator[str]:
    from monosemy.app import connections, lists, live, text_scope

    browser = records_of("speed")["browser"]
    limits = browser["limits_ms"]
    meaning = records_of("interpretability")["meaning"]["meaning"]
    success, by_chance = meaning["success"], meaning["random_success"]["mean"]
    low, high = (f"{100 * end:.0f}" for end in success["interval"])
    yield (
        f"Of {success['n']} concepts looked for in the demo's SAE, one of the first five latents fits in "
        f"{100 * success['mean']:.0f}% [{low}, {high}], of random latents in {100 * by_chance:.0f}%"
    )
    yield (
        f"texts above {text_scope.MAX_TEXT:,} characters, answers above {live.MAX_NEW_TOKENS} tokens and more than "
        f"{live.MAX_EDITS} edited latents are refused"
    )
    yield f"The pages read {text_scope.MAX_TOKENS:,} tokens of a text"
    yield f"more than {connections.MAX_CONNECTIONS} connections at a time"
    yield f"Words that more than {lists.BROAD:,} labels have"
    yield f"a database of {browser['latents']:,} synthetic latents"
    yield f"Limits: latent page {limits['page']:.0f} ms, search {limits['search']:.0f} ms, list"
    yield f"list and filter {limits['list']:.0f} ms"
    yield f"{browser['least_pages_per_second']} latent pages a second"


def _frontier_page() -> Iterator[str]:
    sites = records_of("frontier")["frontier"]["sites"]
    middle, other = sites["layers.12.resid_post"], sites["layers.4.resid_post"]
    latents, tokens = _frontier_settings()
    yield f"{latents}, {tokens} training tokens"
    yield f"{middle['n_tokens']:,} validation tokens of {middle['n_documents']} documents"
    yield f"losses over {middle['n_loss_tokens']:,} of them ({middle['n_loss_documents']} documents)"
    yield f"Every L0 lies within {100 * middle['largest_l0_miss']:.1f}% of the asked"
    yield f"{other['n_tokens']:,} validation tokens of {other['n_documents']} documents, losses"
    yield f"losses over {other['n_loss_tokens']:,}. Every"
    misses = max(site["largest_l0_miss"] for name, site in sites.items() if name != "layers.12.resid_post")
    yield f"Every L0 within {100 * misses:.1f}% of the asked"
    yield from _families()
    demo = records_of("frontier")["demo"]
    assert demo["n_passes"] == 2
    yield (
        f"{demo['d_sae']:,} latents and two passes over {demo['n_tokens_asked']:,} tokens of text, judged on "
        f"{demo['n_tokens']:,} validation tokens (losses over {demo['n_loss_tokens']:,} of them, "
        f"{demo['n_loss_documents']} documents)"
    )


def _families() -> Iterator[str]:
    record = records_of("frontier")["families"]
    losses = [f"{loss:.1f}" for loss in record["losses"].values()]
    uniform = f"where a uniform guess has {record['uniform']:.1f}"
    yield f"are {', '.join(losses[:-1])} and {losses[-1]} nats per token, {uniform}"
    longer = [row for row in record["rows"] if row["tokens"] == "500k"]
    miss = max(abs(l0 / row["l0"] - 1) for row in longer for l0, _, _ in row["of"].values())
    elsewhere = [row for row in record["rows"] if (row["family"], row["l0"]) != ("gpt2", 8.0)]
    dead = max(share for row in elsewhere for _, _, share in row["of"].values())
    yield f"within {100 * miss:.1f}% of the asked one, and outside"
    yield f"at L0 8 at most {100 * dead:.1f}% of the latents are dead"
    leads = [100 * row["against"][0] for row in record["rows"] if row["l0"] == 32]
    yield f"the best other one is ahead by {min(leads):.0f} to {max(leads):.0f}% of a small FVU"
    others = [100 * row["against"][0] for row in record["rows"] if row["l0"] == 8 and row["family"] != "gpt2"]
    yield f"within {max(others):.0f}% of the best in three of the families"


def _frontier_settings() -> tuple[str, str]:
    record = records_of("frontier")["frontier"]
    return (
        f"`layers.12.resid_post`, {record['settings']['d_sae']:,} latents",
        f"{record['costs'][0]['training_tokens']:,}",
    )


def _results_page() -> Iterator[str]:
    yield _frontier_settings()[0]
    drawn = records_of("interpretability")["interpretability"]["dictionaries"]
    (n_drawn,) = {counts["drawn"] for counts in drawn.values()}
    yield f"{n_drawn:,} latents of each SAE"


def _interpretability_page() -> Iterator[str]:
    record = records_of("interpretability")["interpretability"]
    (n_drawn,) = {counts["drawn"] for counts in record["dictionaries"].values()}
    yield f"{n_drawn:,} latents of every SAE"
    yield f"that fire on {record['n_tokens']:,} tokens"
    units = {name: counts["latents"] // 2 for name, counts in record["dictionaries"].items()}
    yield f"the {units['neurons']:,} hidden units of the layer's MLP"
    yield f"the {units['channels']:,} residual channels"
    yield f"the {record['l0']:g} strongest of a token"
    said = records_of("interpretability")["meaning"]["said_near"]
    yield (
        f"{said['near']} searches were said to be near, of which {said['near_succeed']} succeed; of the {said['far']} "
        f"said to be far {said['far_succeed']} does"
    )


def _heads_page() -> Iterator[str]:
    part = records_of("heads")["heads"]["parts"]["real-ioi"]
    yield f"exhaustive resample ablation on {part['sizes']['n_reference']} prompts"
    yield f"{part['sizes']['n_examples']} positives"


def _jacobian_study() -> Iterator[str]:
    record = records_of("jacobian")["jacobian"]
    counts = record["counts"]
    yield f"{record['config']['d_sae']:,} latents each, L0 32, {counts['training_tokens']:,} tokens"
    yield f"({counts['n_tokens']:,} validation tokens of {counts['n_documents']} documents)"
    yield f"each SAE spliced alone ({counts['n_loss_tokens']:,} tokens)"


def _outliers_page() -> Iterator[str]:
    yield f"A few of the {records_of('outliers')['outliers']['rows']['n_rows']:,} training rows"


def _peers_page() -> Iterator[str]:
    record = records_of("peers")["peers"]
    yield f"{record['d_sae']:,} latents, {record['n_steps']} steps of {record['batch']} rows"
    ours = record["ours"]["topk"]
    yield f"({ours['n_tokens']:,} tokens of {ours['n_documents']} documents)"
    yield f"One site, one width, {record['n_steps']} steps"


def _planted_page() -> Iterator[str]:
    groups, scale = records_of("planted")["groups"], records_of("planted")["scale"]
    yield f"{groups['n_steps']:,} steps of {groups['batch']:,} fresh rows"
    for name in ("small", "large"):
        size = scale[name]["size"]
        yield f"`{name}`: {size['n_true']:,} directions in {size['d_in']} dimensions"
        yield f"rue mean L0 {scale[name]['true_l0']:.1f}"
    small, large = scale["small"]["size"], scale["large"]["size"]
    yield f"SAEs of {small['d_sae']:,} latents, {small['n_steps']:,} steps of {small['batch']} rows"
    yield f"SAEs of {large['d_sae']:,} latents, {large['n_steps']:,} steps"
    yield f"the {large['d_sae']:,} most frequent directions"


def _probing_page() -> Iterator[str]:
    record = records_of("probing")["probing"]
    yield f"{record['n_snippets']:,} snippets of 64 tokens from {record['n_documents']:,} documents"
