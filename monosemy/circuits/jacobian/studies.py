"""Studies of a run's pairs beyond their measures: strongest pairs in context, latent graphs, random models, labels.

Place on the path: a `Study` (trained_pairs.py) → JSON files in the run's jacobian/ folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.circuits.jacobian.layout import StudyFiles
from monosemy.circuits.jacobian.measuring import (
    MeasureSettings,
    average,
    for_averages,
    measure,
    read_draws,
    train_and_measure,
)
from monosemy.circuits.jacobian.settings import JacobianConfig
from monosemy.circuits.jacobian.study_file import read_study
from monosemy.circuits.jacobian.trained_pairs import FORMAT, PairEntry, Study, find_pairs
from monosemy.config import ModelConfig, RunConfig, identity, room_settings, with_room
from monosemy.errors import UserError
from monosemy.run import Run
from monosemy.support import files, progress
from monosemy.support.moved import Moved
from monosemy.support.numbers import setting_text

if TYPE_CHECKING:
    from monosemy.circuits.jacobian.strongest_pairs import Text

GOOD_AUROC = 0.8
"""Label scores above this count as good."""


@dataclass(frozen=True)
class PairSettings:
    """How much `monosemy jacobian pairs` reads and shows."""

    n_tokens: int = 65_536
    """Training tokens that are read."""
    n_outputs: int = 20
    """How many output latents are chosen where none is named."""
    n_inputs: int = 3
    """How many input latents are shown of each output latent."""
    n_examples: int = 4
    """How many texts are shown of each pair of latents."""


def pairs_study(
    study: Study,
    entry: PairEntry,
    settings: PairSettings,
    outputs: Sequence[int] = (),
    *,
    pairs: Sequence[tuple[int, int]] = (),
    again: bool = False,
) -> dict[str, Any]:
    """Output latents with their strongest input latents and texts, as JSON values, with labels where there are any.

    outputs, pairs: latents and (input, output) pairs that the user names. Without them latents are chosen, and the
    result is saved in pairs.json and read from there next time, unless `again`.
    """
    from monosemy.circuits.jacobian.strongest_pairs import LatentSelection, pair_study

    path = study.files.pair(entry.name).pairs
    fingerprint, latents_named = study.identity(entry, settings), bool(outputs or pairs)
    if not latents_named and not again and study.done(path, fingerprint):
        return _labelled(study, entry, read_study(path))
    rows = study.rows(entry, settings.n_tokens, "train")
    loaded = study.load(entry)
    slicer = loaded.slicer()
    with progress.stage(f"jacobian: strongest pairs of {entry.name}", total=len(rows), unit="tokens") as bar:
        averages = average(loaded, slicer, for_averages(loaded, rows, len(rows)), 0, bar=bar)
        selection = LatentSelection(
            outputs, pairs, settings.n_outputs, settings.n_inputs, n_examples=settings.n_examples
        )
        text = _text(study, rows.tokens)
        records = pair_study(rows, slicer, loaded.latent_map, averages, text=text, selection=selection)
    document = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        **entry.made_of,
        "n_tokens": len(rows),
        "n_average_tokens": averages.n_tokens,
        "outputs": records,
    }
    if not latents_named:
        files.write_json(path, document)
    return _labelled(study, entry, document)


def _text(study: Study, tokens: Any) -> Text:
    """The training text that `tokens` of the rows point into, up to the last sequence needed."""
    from monosemy.circuits.jacobian.strongest_pairs import Text
    from monosemy.features.store.token_texts import TokenTexts, packed, token_bytes

    prepared = study.prepared
    n_sequences = int(tokens[-1]) // prepared.tokens.train.context_length + 1
    special = np.zeros(prepared.model.vocab_size, bool)
    special[[token for token in prepared.model.special_token_ids if token < len(special)]] = True
    texts = TokenTexts(*packed(token_bytes(prepared.model.tokenizer, prepared.model.vocab_size)), special)
    return Text(*study.tokens("train", n_sequences), texts.texts)


def _labelled(study: Study, entry: PairEntry, document: dict[str, Any]) -> dict[str, Any]:
    """Adds the latents' labels to the document where the two SAEs have feature databases."""
    from monosemy.features.store.database import open_features

    def labels(site: str, latents: list[int]) -> dict[int, str]:
        """The labels of a site's latents; empty where it has no feature database."""
        try:
            database = open_features(study.run.folder, site, entry.name)
        except UserError:
            return {}
        return dict(zip(latents, database.labels(latents), strict=True))

    outputs = document["outputs"]
    of_out = labels(entry.sites[1], [record["latent"] for record in outputs])
    of_in = labels(entry.sites[0], [record["latent"] for output in outputs for record in output["inputs"]])
    for output in outputs:
        output["label"] = of_out.get(output["latent"])
        for record in output["inputs"]:
            record["label"] = of_in.get(record["latent"])
    return document


def graph_of_text(study: Study, entry: PairEntry, text: str) -> dict[str, Any]:
    """The latent graph at every kept token of a text, as JSON values.

    Raises UserError for a text that is empty or longer than the run's context.
    """
    import torch

    from monosemy.activations.harvest import keep_mask
    from monosemy.circuits.jacobian.graph import token_graph
    from monosemy.circuits.jacobian.mlp_rows import Rows
    from monosemy.data.tokens import separator_and_bos
    from monosemy.features.store.token_texts import TokenTexts, packed, token_bytes

    model, prepared = study.prepared.model, study.prepared
    tokenizer = model.tokenizer_for("a text of your own")
    # The text begins as documents of the corpus do.
    separator, bos = separator_and_bos(tokenizer)
    first = separator if bos is None else bos
    ids = ([] if first is None else [first]) + tokenizer(text, add_special_tokens=False)["input_ids"]
    if not text.strip():
        raise UserError("the text is empty; give some words")
    length = prepared.config.text.context_length
    if len(ids) > length:
        raise UserError(f"the text has {len(ids)} tokens and this run reads {length} at a time; shorten it")
    tokens = torch.tensor([ids])
    activations = model.activations(tokens, prepared.sites)
    keep = keep_mask(tokens.to(model.device), activations, prepared.rules)[0].cpu()
    loaded = study.load(entry)
    x, y = (activations[site][0].to(loaded.sae_in.W_dec) for site in entry.sites)
    texts = TokenTexts(*packed(token_bytes(model.tokenizer, model.vocab_size)), np.zeros(model.vocab_size, bool))
    places, slicer = torch.arange(len(ids)), loaded.slicer()
    graphs = []
    for position in keep.nonzero()[:, 0].tolist():
        # Documents play no part in a graph; the places fill their field.
        row = Rows(x, y, places, places).take(slice(position, position + 1))
        graph = token_graph(loaded.latent_map, row.x, row.y, slicer(row))
        graphs.append({"position": position, "token": texts.text(ids[position]), **graph})
    return {
        "format": FORMAT,
        **entry.identity,
        "text": text,
        "tokens": texts.texts(ids),
        "graphs": graphs,
    }


def graph_of_averages(study: Study, entry: PairEntry, n_tokens: int, n_edges: int) -> dict[str, Any]:
    """The n_edges strongest pairs over training text as a graph, with the SAEs' errors on the same tokens."""
    from monosemy.circuits.jacobian.graph import average_graph, error_effects, squares

    loaded = study.load(entry)
    rows = for_averages(loaded, study.rows(entry, n_tokens, "train"), n_tokens)
    slicer, errors = loaded.slicer(), np.zeros(loaded.sae_out.d_sae)
    unexplained, total = np.zeros(2), np.zeros(2)
    with progress.stage(f"jacobian: graph of {entry.name}", total=len(rows), unit="tokens") as bar:
        averages = average(loaded, slicer, rows, 0, bar=bar)
        for chunk, slices in slicer.batches(rows):
            x, y = chunk.x.to(loaded.sae_in.W_dec), chunk.y.to(loaded.sae_in.W_dec)
            effects = error_effects(loaded.latent_map, x, y, slices).abs()[slices.out_active]
            latents = slices.out_indices[slices.out_active].cpu().numpy()
            errors += np.bincount(latents, effects.cpu().numpy(), minlength=len(errors)) / len(rows)
            sums = [squares(loaded.sae_in, x), squares(loaded.sae_out, y)]
            unexplained += [error for error, _ in sums]
            total += [size for _, size in sums]
    graph = average_graph(averages, errors, (unexplained / total).tolist(), n_edges)
    return {"format": FORMAT, **entry.identity, "n_tokens": averages.n_tokens, **graph}


def random_config(config: RunConfig, kind: str, lambdas: Sequence[float], l0: Sequence[float]) -> RunConfig:
    """The configuration of a run on a random model: the same text, width and training, one seed.

    Nothing is compared by the random model's CE scores, so they are measured on at most 8,192 tokens.
    """
    model = ModelConfig(**{**vars(config.model), "randomise": kind})
    config = with_room(config, dataclasses.replace(room_settings(config, JacobianConfig), lambdas=tuple(lambdas)))
    n_loss_tokens = min(config.evaluation.n_loss_tokens, 8192)
    evaluation = dataclasses.replace(config.evaluation, n_loss_tokens=n_loss_tokens, frozen_random=False, pca=False)
    return dataclasses.replace(
        config,
        model=model,
        evaluation=evaluation,
        l0=tuple(l0),
        architectures=(),
        seeds=config.seeds[:1],
    )


def random_study(
    study: Study, kinds: Sequence[str], lambdas: Sequence[float], l0: Sequence[float], *, settings: MeasureSettings
) -> list[dict[str, Any]]:
    """Trains and measures pairs on each kind of random model, compares them, writes random.json, returns its rows.

    Each kind is a run of its own in jacobian/random, named by its kind and settings; stages that are done there are not
    repeated. Earlier comparisons of other kinds with the same pairs are kept. Raises UserError for a λ of which this
    run has no pair.
    """
    from monosemy.circuits.jacobian.frontier import compare

    coefs = sorted({pair.coef for pair in study.pairs})
    if missing := [coef for coef in lambdas if coef not in coefs]:
        raise UserError(
            f"this run has no pair with λ = {setting_text(missing[0])} to compare a random model's with; choose among "
            f"its own: {', '.join(setting_text(coef) for coef in coefs)}"
        )
    # A random model has one seed, so it is compared with the pairs of one seed.
    trained = [row for row in measure(study, settings) if row["seed"] == study.pairs[0].seed]
    path = study.files.random
    earlier = _earlier(study, path)
    # Kinds that are not asked for now keep their earlier results.
    frontiers, histograms, folders = (
        {kind: measures for kind, measures in earlier.get(part, {}).items() if kind not in kinds}
        for part in ("frontiers", "histograms", "folders")
    )
    sources = Moved(study.run.source("model"), study.run.source("text"))
    for kind in kinds:
        config = random_config(study.run.config, kind, lambdas, l0)
        folder = study.files.random_run(f"{kind}-{identity(config)[:8]}")
        folders[kind] = folder.name
        frontiers[kind] = train_and_measure(config, folder, settings, sources)
        for pair in find_pairs(folder):
            measures = read_study(StudyFiles.of_run(folder).pair(pair.name).measures)
            histograms.setdefault(kind, []).append({**pair.identity, "histogram": measures["histogram"]})
    draws = {kind: read_draws(study.files.random_run(name)) for kind, name in folders.items()}
    rows = compare(trained, frontiers, read_draws(study.run.folder), draws)
    document = {"format": FORMAT, "of": study.of, "rows": rows}
    files.write_json(path, {**document, "frontiers": frontiers, "histograms": histograms, "folders": folders})
    return rows


def _earlier(study: Study, path: Path) -> dict[str, Any]:
    """An earlier result over the run's pairs, if it was made from the present ones; else empty."""
    try:
        document = read_study(path) if path.exists() else {}
    except UserError:
        return {}  # damaged, so made again
    return document if document.get("of") == study.of else {}


def interpretability_study(run: Run, names: Sequence[str], n_tokens: int | None = None) -> list[dict[str, Any]]:
    """Label scores of the latents of the named pairs, one row per SAE; builds the feature databases that are missing.

    interpretability.json keeps the rows of other pairs that were scored before.
    """
    from monosemy.features.store.database import FeatureDatabase
    from monosemy.pipeline.features import build_for_run

    study = Study(run)
    entries = [next(pair for pair in study.pairs if pair.name == name) for name in names]
    sae_sites = [(entry, site) for entry in entries for site in entry.sites]
    folders = build_for_run(run, [f"{site}/{entry.name}" for entry, site in sae_sites], n_tokens)
    rows = []
    for (entry, site), folder in zip(sae_sites, folders, strict=True):
        database = FeatureDatabase.open(folder)
        scores = {reader: database.columns[f"{reader}_auroc"] for reader in ("label", "combined", "top_token")}
        rows.append({**entry.identity, "site": site, **summarise_scores(scores)})
    path = study.files.interpretability
    other_rows = [row for row in _earlier(study, path).get("rows", []) if row["name"] not in names]
    files.write_json(path, {"format": FORMAT, "of": study.of, "rows": [*other_rows, *rows]})
    return rows


def summarise_scores(scores: dict[str, np.ndarray], n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """For each way to read a label, the mean AUROC over the latents that have one, and the share above `GOOD_AUROC`.

    scores: reader → float [m], NaN where a latent could not be scored. Intervals resample latents.
    """
    from monosemy.evals.intervals import bootstrap_weights, ratio_interval

    summary: dict[str, Any] = {}
    for reader, values in scores.items():
        scored = values[np.isfinite(values)].astype(np.float64)
        summary[f"n_{reader}"] = len(scored)
        for name, part in ((f"{reader}_auroc", scored), (f"{reader}_good", (scored > GOOD_AUROC).astype(np.float64))):
            value = float(part.mean()) if len(part) else None
            interval = None
            if len(part) > 1:
                # Fewer resamples for many latents: at most 10⁷ weights.
                rows = bootstrap_weights(len(part), min(n_bootstrap, 10**7 // len(part)), seed)
                interval = ratio_interval(part, np.ones(len(part)), rows)
            summary[name] = {"value": value, "interval": None if interval is None else list(interval)}
    return summary


def frontier_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's frontier.json. Raises UserError where the run was not measured."""
    path = StudyFiles.of_run(folder).frontier
    if not path.exists():
        raise UserError(f"{folder} is not measured yet; measure it: monosemy jacobian measure {folder}")
    return list(read_study(path)["rows"])
