"""Tables of docs/results.md and docs/steering.md that no script prints, rendered from their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

Record = Mapping[str, Any]
ARCHITECTURES = ("relu", "topk", "batch_topk", "gated", "jumprelu")
SITES = ("layers.4.resid_post", "layers.24.resid_post", "layers.12.attn_heads", "layers.12.mlp_out")
CONTROLS = {
    "frozen_random": "frozen random (control)",
    "neurons": "MLP neurons (control)",
    "channels": "residual channels (control)",
}


def tables(read: Callable[[str], Any], comparison: ModuleType) -> Iterator[str]:
    """All of them; `read` gives a record by its name, `comparison` is that script of research/."""
    sites = read("comparison")["sites"]
    yield four_sites(sites, comparison.table)
    yield four_sites_paired(sites, comparison.paired_table)
    yield outlier_rows(read("outlier_rows")["runs"])
    yield interpretability(read("interpretability"))
    yield stability(read("stability"))
    yield probing(read("probing"))
    yield jacobian_step(read("jacobian_step")["results"])
    yield planted(read("planted")["results"])
    yield from steering(read("steering"))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") for cells in lines)


def interval(value: float, ends: Sequence[float], form: str = ".3f", scale: float = 1) -> str:
    """`0.767 [0.763, 0.771]`."""
    return f"{value * scale:{form}} [{ends[0] * scale:{form}}, {ends[1] * scale:{form}}]"


def bare(value: float) -> str:
    """`.945`: no zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)


def four_sites(sites: Record, table: Callable[[Any], list[str]]) -> str:
    """The script's rows of every site, without the columns of the asked L0 and of the seeds."""
    rows = []
    for site in SITES:
        for i, line in enumerate(table(sites[site]["points"])[2:]):
            _, name, _, *values = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append([f"`{site}`" if i == 0 else " ", name, *values])
    header = ("site", "dictionary", "L0", "FVU", "Δ loss", "recovered", "γ", "dead %", ">10% %")
    lines = [f"| {' | '.join(header)} |"]
    return "\n".join([*lines, *("| " + " | ".join(c.strip() for c in row) + " |" for row in rows)])


def four_sites_paired(sites: Record, paired_table: Callable[[Any], list[str]]) -> str:
    columns = [[line.strip("| ").split(" | ") for line in paired_table(sites[site]["paired"])[2:]] for site in SITES]
    rows = [[cells[0][0], *(row[1] for row in cells)] for cells in zip(*columns, strict=True)]
    return markdown(["", *(f"`{site}`" for site in SITES)], rows)


def outlier_rows(runs: Record) -> str:
    names = ("relu", "topk", "batch_topk", "gated", "jumprelu")
    titles = {
        "seed0": "4e-3, without such rows (now the default)",
        "old-2e-3": "2e-3, all rows",
        "lr-8e-3": "8e-3, without such rows; stopped there",
    }
    rows = []
    for run, title in titles.items():
        saes = [runs[run]["saes"][f"{name}-l0_32-s0"] for name in names]
        dead = [100 * sae["dead_fraction"] for sae in saes]
        cells = [
            f"{sae['fvu']:.3f} ({share:{'.1f' if share < 10 else '.0f'}})"
            for sae, share in zip(saes, dead, strict=True)
        ]
        rows.append([title, f"{saes[0]['step']:,}", *cells])
    return markdown(["", "step", *names], rows)


def interpretability(record: Record) -> str:
    measures, drawn = record["measures"], record["dictionaries"]
    rows = []
    for name in ("topk", "jumprelu", "batch_topk", "gated", "relu", *CONTROLS):
        cells = [f"{sum(one['drawn'] for key, one in drawn.items() if key.split('-')[0] == name):,}"]
        for measure in ("label", "label_strong"):
            found = measures[measure]
            chance = found["with_unscored_at_chance"]["means"][name]
            mean = found["means"][name]
            cells += [
                interval(mean["mean"], mean["interval"]),
                f"{found['n_scored'][name]:,}",
                interval(chance["mean"], chance["interval"]),
            ]
        cells += [f"{measures[measure]['means'][name]['mean']:.3f}" for measure in ("top_token", "hidden")]
        rows.append([CONTROLS.get(name, name), *cells])
    half = ("scored", "unscored at 0.5")
    header = ["", "drawn", "label, all firing", *half, "label, strongest quarter", *half]
    return markdown([*header, "commonest token alone", "linear reader"], rows)


def stability(record: Record) -> str:
    rows = []
    for name in ("relu", "gated", "topk", "jumprelu", "batch_topk", "frozen_random"):
        one = record["architectures"][name]
        share = one["share_0.7"]
        others = [one[measure]["mean"] for measure in ("share_0.9", "mutual_0.7", "one_to_one_0.7", "cosine")]
        if name == "frozen_random":
            rows.append([CONTROLS[name], f"{share['mean']:.0f}", "one pair", *(f"{v:.3g}" for v in others), ""])
            continue
        chance = record["chance"][name]
        pairs = " ".join(map(bare, share["by_pair"]))
        cells = [interval(share["mean"], share["interval_latents"]), pairs, *(f"{v:.3f}" for v in others)]
        rows.append([name, *cells, f"{chance['share_0.7']['mean']:.0f}, {chance['cosine']['mean']:.3f}"])
    header = ["", "≥ 0.7", "the three pairs", "≥ 0.9", "mutual, ≥ 0.7", "one to one, ≥ 0.7", "mean cosine"]
    return markdown([*header, "chance: ≥ 0.7, mean cosine"], rows)


def probing(record: Record) -> str:
    families = [*record["families"], "all"]
    titles = {
        "residual": "residual channels",
        "pca": "PCA",
        "frozen_random": "frozen random",
        "random": "random latents",
    }
    rows = []
    for name, found in record["rules"][record["shown_rule"]]["summary"].items():
        cells = [" ".join(bare(found[family][n]["mean"]) for n in ("1", "2", "5")) for family in families]
        low, high = found["all"]["5"]["interval"]
        rows.append([titles.get(name, name), *cells, f"[{bare(low)}, {bare(high)}]"])
    full = record["full_probe"]
    low, high = full["all"]["interval"]
    last = f"{bare(full['all']['mean'])} [{bare(low)}, {bare(high)}]"
    rows.append(["full logistic probe", *(bare(full[family]["mean"]) for family in families[:-1]), "", last])
    return markdown(["1 / 2 / 5 features", *families[:-1], "all (mean of families)", "5, interval"], rows)


def jacobian_step(results: Sequence[Record]) -> str:
    titles = {
        "pair without penalty": "pair without penalty",
        "pair, penalty on 1 of the tokens": "pair, penalty on every token",
        "pair, penalty on 0.25 of the tokens": "on a random quarter",
        "pair, penalty on 0.125 of the tokens": "on a random eighth",
        "pair, penalty within 250 MB": "every token, at most 250 MB",
        "pair, penalty within 150 MB": "every token, at most 150 MB",
        "slopes of the MLP": "of it: slopes of the MLP",
        "products of weights": "products of weights, once a batch",
        "slices": "slices",
        "gradient of the tables": "gradient of the tables",
        "gradient of the weights": "gradient of the weights",
        "rest": "the rest",
    }
    by_batch = [{row["name"]: row for row in one["rows"]} for one in results]
    rows = []
    for name, title in titles.items():
        cells = []
        for measured in by_batch:
            row = measured.get(name)
            text = interval(row["ratio"], (row["ratio_low"], row["ratio_high"]), ".2f") if row else "refused"
            cells.append(text.replace("-", "−").replace("−0.00", "0.00"))
        rows.append([title, *cells])
    return markdown(["", *(f"batch {one['batch']:,}" for one in results)], rows)


def planted(results: Record) -> str:
    def cells(name: str) -> list[str]:
        cosines = [one["mean_max_cosine"] for one in results[name]]
        f1 = sum(one["f1"] for one in results[name]) / len(cosines)
        return [f"{sum(cosines) / len(cosines):.3f} ({min(cosines):.3f}–{max(cosines):.3f})", f"{f1:.3f}"]

    order = ("gated", "jumprelu", "batch_topk", "topk", "relu")
    rows = [[name, *cells(f"{name} 256"), *cells(f"{name} 512")] for name in order]
    rows.append(["random directions (control)", *cells("random (control)"), "", ""])
    return markdown(["", "mean max cosine, 256 latents", "F1", "mean max cosine, 512 latents", "F1"], rows)


def steering(record: Record) -> Iterator[str]:
    yield wish(record["topic"]["judged"], "mentions the topic")
    for kind in ("technical", "plain"):
        yield wish(record["tone"][kind]["judged"], "words of three and more syllables")
    rows = []
    for n, found in record["bias"]["changed"].items():
        silenced = sum(factor == 0 for _, factor in found["changes"])
        gap, cost = found["judged"]["gap"], found["cost"]
        random = found["random"]
        rows.append([
            f"{n} ({silenced} silenced, {int(n) - silenced} tripled)",
            interval(gap["mean"], gap["interval"], ".2f"),
            ", ".join(f"{one['judged']['gap']['mean']:.2f}" for one in random),
            interval(cost["loss_change"], cost["interval"], "+.3f"),
            ", ".join(f"{one['cost']['loss_change']:+.3f}" for one in random),
        ])  # fmt: skip
    yield markdown(["latents changed", "gap, nats", "random latents instead", "loss, nats per token", "random"], rows)


def wish(judged: Record, score: str) -> str:
    rows = []
    for name, found in judged.items():
        cells = [
            interval(found[measure]["mean"], found[measure]["interval"], *how)
            for measure, how in (("score", (".0f", 100)), ("fluent", (".0f", 100)), ("perplexity", (".1f",)),
                                 ("distinct_2", (".0f", 100)))
        ]  # fmt: skip
        rows.append([name.replace("random ", "random latent "), *cells])
    return markdown(["", score, "fluent", "perplexity", "distinct pairs"], rows)
