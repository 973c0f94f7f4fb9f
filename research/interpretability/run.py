"""Are architectures equally interpretable? Scores of labels on latents drawn at random, against neurons and controls.

Run: python -m research.interpretability.run RUN [RUN …] [--chat 12] [--out FILE]
     --chat N adds the chat tier with the local model on N latents: its agreement with itself (`chat_agreement`).

One pass of the model over the run's training text feeds every dictionary: the SAEs of one L0 and all their seeds, the
frozen-random control, and the model's own units (`dictionaries`): the hidden units of the layer's MLP, which is what
"neurons" means in this literature, and the channels of the residual stream, which the SAEs read. All go through the
same feature build, restricted to the drawn latents: labels are made from 60% of the documents and scored on the others
(no language model judges; see features.label_scores).

    label         AUROC of the label's tokens, firing windows of 32 tokens against silent ones
    label_strong  the same for the strongest quarter of the firing windows
    top_token     AUROC of the one token most frequent at the latent's peaks: the trivial label
    hidden        AUROC of a linear reader of the window's mean hidden state

Drawing: latents uniformly among those that fire on at least one token of the pass; dead ones are counted and left out.
A drawn latent that fires too seldom to be scored (fewer than ten windows, or five of held-out documents) is counted
(`n_scored`, by measure: the strongest quarter scores fewer) and left out too; `with_unscored_at_chance` holds the same
numbers with such latents at 0.5.

Intervals resample latents within a SAE; a group's mean is the mean over its seeds. Differences of architectures hold
together (max-t); the blocked permutation test takes the SAE as the unit. All dictionaries are scored on the same
documents, whose choice the intervals leave out. `matched`: the same differences with latents weighted so that all
architectures have the same firing rates (fifths of the pooled rates); `matched_control`: those against the
frozen-random control, whose rates are more spread, weighted alike together with it, and again in tenths.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.activations.harvest import drop_rules, harvest_rows, measure_sites
from monosemy.config import fingerprint, to_json
from monosemy.data.tokens import prepare_tokens
from monosemy.evals.intervals import percentiles
from monosemy.features.building.build import FeatureInputs, build_database
from monosemy.features.building.encode_pass import Codes, EncodePass, ShardRows
from monosemy.features.labels.labelling import LABELS_VERSION
from monosemy.features.store.database import FeatureDatabase
from monosemy.features.store.settings import FORMAT, FeatureSettings
from monosemy.layout import FeatureFiles
from monosemy.models.sites import parse_site
from monosemy.models.sources import load_model
from monosemy.pipeline.feature_text import SharedText
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support import progress
from monosemy.support.files import cache_folder
from research import common, run_folders
from research.dictionaries import Channels, Neurons
from research.differences import (
    Groups,
    blocked_permutation,
    group_means,
    resampled_means,
    simultaneous_differences,
)

MEASURES = ("label", "label_strong", "top_token", "hidden")
COLUMNS = {"label_strong": "label_auroc_strong"} | {m: f"{m}_auroc" for m in MEASURES if m != "label_strong"}
N_STRATA = 5
CHANCE = 0.5
Key = tuple[str, str]


class Material:
    """The pass: model, text and the codes of every dictionary, on disk and reused."""

    def __init__(self, folders: Sequence[Path], entries: Sequence[run_folders.Entry], n_tokens: int) -> None:
        config = run_folders.shared_config(folders)
        self.model = load_model(config.model.source, revision=config.model.revision, dtype=config.model.dtype)
        self.tokens = prepare_tokens(config.text, self.model.tokenizer, self.model.tokenizer_fingerprint)
        self.site, k = entries[0].site, round(entries[0].l0)
        layer = parse_site(self.site, self.model.n_layers, post_norms=self.model.post_norms).layer
        mlp_in = f"layers.{layer}.mlp_in"
        self.sites, shards, self.settings = (self.site, mlp_in), self.tokens.train, config.activations
        statistics = measure_sites(self.model, shards, self.sites, self.settings)
        # the sites' own rules: norms at mlp_in were no reason to drop a position in training
        self.rules = drop_rules(self.model, self.settings, {self.site: statistics[self.site]})
        sample = [
            part.activations[self.site]
            for part in harvest_rows(
                self.model,
                shards,
                [self.site],
                self.settings,
                statistics=self.rules,
                start=0,
                stop=4 * self.settings.batch_sequences,
            )
        ]
        self.dictionaries: dict[Key, Any] = {(entry.site, entry.name): entry.load() for entry in entries}
        self.dictionaries[self.site, "channels"] = Channels(torch.cat(sample).float(), k)
        self.dictionaries[mlp_in, "neurons"] = Neurons(self.model, layer, k)
        self.kinds: dict[Key, tuple[str, int]] = {(e.site, e.name): (e.kind, e.seed) for e in entries}
        self.kinds |= {(self.site, "channels"): ("channels", 0), (mlp_in, "neurons"): ("neurons", 0)}
        self.n_sequences = min(shards.n_sequences, -(-n_tokens // shards.context_length))
        self.window = FeatureSettings.window
        self.identity = run_folders.identity(
            entries,
            model=self.model.fingerprint,
            text=self.tokens.fingerprint,
            rules=to_json(self.settings),
            n=self.n_sequences,
            k=k,
            version=2,
        )
        self.folder = cache_folder() / "benchmarks" / f"interpretability-{self.identity}"
        scale = {site: site_statistics.scale for site, site_statistics in statistics.items()}
        self.pass_ = EncodePass(
            self.folder / "codes",
            dict.fromkeys(self.dictionaries, self.identity),
            self.dictionaries,
            scale,
            n_sequences=self.n_sequences,
            context_length=shards.context_length,
            window=self.window,
        )

    def encode(self) -> None:
        """The pass itself; goes on where it was stopped."""
        length = self.tokens.train.context_length
        start = self.pass_.n_sequences_done * length
        with progress.stage("reading the text", self.n_sequences * length, "tokens", start=start) as bar:
            self.pass_.run(self._rows, bar.advance)

    def _rows(self, start: int, stop: int) -> list[ShardRows]:
        length = self.tokens.train.context_length
        parts = harvest_rows(
            self.model, self.tokens.train, self.sites, self.settings, statistics=self.rules, start=start, stop=stop
        )
        return [
            ShardRows(part.activations, part.sequence.numpy().astype(np.int64) * length + part.position.numpy())
            for part in parts
        ]

    def inputs(self) -> FeatureInputs:
        """What all databases share; codes and decoder are those of the first SAE."""
        shared = SharedText(self.model, self.tokens, self.n_sequences, self.window)
        key = next(iter(self.dictionaries))
        return shared.inputs(self.pass_, key, self.dictionaries[key], {})


def drawn_latents(codes: Codes, n: int, seed: int) -> tuple[np.ndarray, int]:
    """(the drawn latents in order, how many never fire): n of those that fire, all where there are fewer."""
    fired = np.flatnonzero(np.bincount(codes.indices, minlength=codes.d_sae))
    return np.sort(np.random.default_rng(seed).permutation(fired)[:n]), codes.d_sae - len(fired)


def restricted(codes: Codes, latents: np.ndarray) -> Codes:
    """The code of some latents alone, numbered anew in their order."""
    number = np.full(codes.d_sae, -1, np.int32)
    number[latents] = np.arange(len(latents), dtype=np.int32)
    new = number[codes.indices]
    selected = new >= 0
    before = np.zeros(len(new) + 1, np.int64)
    np.cumsum(selected, out=before[1:])
    return Codes(before[codes.offsets], new[selected], codes.values[selected], len(latents))


def databases(material: Material, n_latents: int) -> tuple[dict[Key, Path], dict[Key, int]]:
    """A feature database of each dictionary's drawn latents, and how many latents of each never fire."""
    folders: dict[Key, Path] = {}
    n_dead: dict[Key, int] = {}
    inputs: FeatureInputs | None = None
    with progress.stage("labels", len(material.dictionaries), "dictionaries") as bar:
        for key, dictionary in material.dictionaries.items():
            codes = material.pass_.codes(key)
            latents, n_dead[key] = drawn_latents(codes, n_latents, seed=0)
            folder = material.folder / f"features-{fingerprint([FORMAT, LABELS_VERSION, n_latents])}" / key[1]
            folders[key] = folder
            if not FeatureFiles(folder).info.exists():
                inputs = inputs or material.inputs()
                W_dec = dictionary.W_dec.detach()[torch.from_numpy(latents)]
                info = {"site": key[0], "name": key[1], "d_sae": len(latents), "latents": latents.tolist()}
                info["model"] = {"name": material.model.name}
                own = dataclasses.replace(inputs, codes=restricted(codes, latents), W_dec=W_dec, info=info)
                folder.parent.mkdir(parents=True, exist_ok=True)
                build_database(own, folder, FeatureSettings(window=material.window))
            bar.note(key[1])
            bar.advance(1)
    return folders, n_dead


def scores(folder: Path) -> dict[str, np.ndarray]:
    """Columns of the drawn latents: the measures and firing_rate; NaN where a latent could not be scored."""
    database = FeatureDatabase.open(folder)
    columns = {measure: np.array(database.columns[column]) for measure, column in COLUMNS.items()}
    return columns | {"firing_rate": np.array(database.columns["firing_rate"])}


Scored = dict[str, dict[int, dict[str, np.ndarray]]]
"""Kind → seed → columns of the drawn latents."""


def groups_of(scored: Scored, kinds: Sequence[str], measure: str) -> dict[str, list[np.ndarray]]:
    """The scored latents' values of one measure, a cluster a seed."""
    return {kind: [v[measure][np.isfinite(v[measure])] for v in scored[kind].values()] for kind in kinds}


def matched_groups(
    scored: Scored, kinds: Sequence[str], measure: str, n_strata: int = N_STRATA
) -> dict[str, list[np.ndarray]] | None:
    """As `groups_of`, a cluster for each seed and class of the firing rates; None where one is empty."""
    rates = np.concatenate([v["firing_rate"][np.isfinite(v[measure])] for k in kinds for v in scored[k].values()])
    edges = np.quantile(rates, np.linspace(0, 1, n_strata + 1)[1:-1])
    groups: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for kind in kinds:
        for columns in scored[kind].values():
            there = np.isfinite(columns[measure])
            stratum = np.searchsorted(edges, columns["firing_rate"][there], side="right")
            groups[kind] += [columns[measure][there][stratum == s] for s in range(n_strata)]
    return groups if all(len(cell) for cells in groups.values() for cell in cells) else None


def at_chance(scored: Scored, measure: str) -> Scored:
    """The same with unscored latents at chance in that measure."""
    return {
        kind: {seed: v | {measure: np.nan_to_num(v[measure], nan=CHANCE)} for seed, v in by_seed.items()}
        for kind, by_seed in scored.items()
    }


def contrasts(scored: Scored, measure: str) -> dict[str, Any]:
    """Means with intervals, and differences that hold together: against controls, of architectures, at equal rates."""
    groups_by_kind = groups_of(scored, list(scored), measure)
    means, resampled = group_means(groups_by_kind), resampled_means(groups_by_kind)
    trained = [kind for kind in scored if kind in ARCHITECTURES]
    controls = [kind for kind in scored if kind not in ARCHITECTURES]

    def differences(groups: Groups | None, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
        return [dataclasses.asdict(d) for d in simultaneous_differences(groups, pairs)] if groups and pairs else []

    own, against = list(combinations(trained, 2)), [(kind, control) for control in controls for kind in trained]
    results: dict[str, Any] = {
        "means": {kind: {"mean": means[kind], "interval": percentiles(resampled[kind])} for kind in scored},
        "by_seed": {kind: [float(v.mean()) for v in clusters] for kind, clusters in groups_by_kind.items()},
        "against_controls": differences(groups_by_kind, against),
        "differences": differences({kind: groups_by_kind[kind] for kind in trained}, own),
        "matched": differences(matched_groups(scored, trained, measure) if own else None, own),
    }
    if run_folders.FROZEN in controls and trained:
        pairs, kinds = [(kind, run_folders.FROZEN) for kind in trained], [*trained, run_folders.FROZEN]
        for name, n_strata in (("matched_control", N_STRATA), ("matched_control_tenths", 2 * N_STRATA)):
            results[name] = differences(matched_groups(scored, kinds, measure, n_strata), pairs)
    return results


def compare(scored: Scored, measure: str) -> dict[str, Any]:
    """What `contrasts` says of the scored latents and with the unscored at chance, and the test over seeds."""
    trained = [kind for kind in scored if kind in ARCHITECTURES]
    results = contrasts(scored, measure)
    results["n_scored"] = {
        kind: sum(int(np.isfinite(v[measure]).sum()) for v in by_seed.values()) for kind, by_seed in scored.items()
    }
    results["with_unscored_at_chance"] = contrasts(at_chance(scored, measure), measure)
    seeds = sorted(set.intersection(*(set(scored[kind]) for kind in trained))) if len(trained) > 1 else []
    if len(seeds) > 1:
        table = [[float(np.nanmean(scored[kind][seed][measure])) for kind in trained] for seed in seeds]
        _, p = blocked_permutation(np.array(table))
        smallest = 1 / math.factorial(len(trained)) ** (len(seeds) - 1)
        results["permutation"] = {"p": p, "smallest_p": smallest, "seeds": seeds, "architectures": trained}
    return results


def main() -> None:
    parser = run_folders.arguments("interpretability", __doc__)
    parser.add_argument("--tokens", type=int, default=150_000, help="of the run's training text")
    parser.add_argument("--latents", type=int, default=1000, help="drawn of each dictionary")
    parser.add_argument("--chat", type=int, default=0, metavar="N", help="latents for the chat tier's self-agreement")
    arguments = parser.parse_args()
    entries = run_folders.gather(arguments.runs, arguments.site, arguments.l0)
    started = time.perf_counter()
    material = Material(arguments.runs, entries, arguments.tokens)
    material.encode()
    folders, n_dead = databases(material, arguments.latents)
    scored: Scored = {}
    counts: dict[str, Any] = {}
    for key in folders:
        kind, seed = material.kinds[key]
        columns = scored.setdefault(kind, {})[seed] = scores(folders[key])
        counts[key[1]] = {
            "latents": material.dictionaries[key].d_sae,
            "dead": n_dead[key],
            "drawn": len(columns["label"]),
            "scored": int(np.isfinite(columns["label"]).sum()),
            "l0": len(material.pass_.codes(key).indices) / max(1, int(material.pass_.encoded().sum())),
        }
    results = {
        **run_folders.provenance(arguments.runs, entries),
        "n_tokens": material.n_sequences * material.tokens.train.context_length,
        "seconds": round(time.perf_counter() - started, 1),
        "dictionaries": counts,
        "measures": {measure: compare(scored, measure) for measure in MEASURES},
    }
    if arguments.chat:
        from research.interpretability.chat_agreement import agreement

        key = next(
            key for key, (kind, _) in material.kinds.items() if kind == ("jumprelu" if "jumprelu" in scored else kind)
        )
        results["chat"] = agreement(folders[key], key[1], arguments.chat)
    show(results)
    common.save(arguments.out, results, without=("chat/explanations",))
    if arguments.figures:
        from research.evidence_figures import interpretability

        interpretability(arguments.figures, scored, results)


def show(results: dict[str, Any]) -> None:
    for name, row in results["dictionaries"].items():
        print(
            f"{name:28s} {row['latents']:6,} latents, {row['dead']:5,} dead, scored {row['scored']:,}/{row['drawn']:,}"
        )
    for measure, comparison in results["measures"].items():
        print(f"\n{measure}")
        for kind, row in comparison["means"].items():
            low, high = row["interval"]
            by_seed = np.round(comparison["by_seed"][kind], 4)
            print(f"  {kind:16s} {row['mean']:.4f} [{low:.4f}, {high:.4f}]  by seed {by_seed}")
        print("  scored:", comparison["n_scored"])
        for name in ("differences", "matched_control"):
            for d in comparison.get(name, []):
                print(
                    f"  {name}: {d['first']} − {d['second']}: {d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"
                )
        if test := comparison.get("permutation"):
            print(f"  permutation over seeds: p = {test['p']:.4f}, {test['smallest_p']:.2g} the least possible")
    if "chat" in results:
        print("\nchat tier:", results["chat"])


if __name__ == "__main__":
    run_folders.run(main)
