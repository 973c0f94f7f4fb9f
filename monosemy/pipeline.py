"""The stages of a run, in order: model → tokens → activations → training → evaluation → report.

Place on the path: all of it; only `cli` stands above. A finished stage is noted in the run's stages.json with the
fingerprint of everything it depends on and is not redone; tokens and activations live in the shared cache folder.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy import progress
from monosemy.config import RunConfig, fingerprint, identity, positive, to_json
from monosemy.errors import UserError, unknown
from monosemy.run import Run, list_saes, open_run, read_run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from monosemy.activations.harvest import DropRules
    from monosemy.activations.store import ActivationStore
    from monosemy.activations.stream import MixingStream, StoredStream
    from monosemy.data.tokens import TokenSet
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.training.trainee import Trainee

CALIBRATION_TOKENS = 32_768
INITIAL_TOKENS = 4_096
CONTROL = "frozen_random"


def check_config(config: RunConfig) -> None:
    """Everything that can be refused before a model is loaded. Raises UserError."""
    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import ARCHITECTURES, build_sae

    positive(d_sae=config.d_sae, batch_tokens=config.training.batch_tokens, n_passes=config.training.n_passes)
    positive(n_tokens=config.text.n_tokens, n_validation_tokens=config.text.n_validation_tokens)
    for name, values in (("architectures", config.architectures), ("l0", config.l0), ("seeds", config.seeds)):
        if not values:
            raise UserError(f"{name} is empty; give at least one")
    if not config.activations.sites:
        raise UserError("activations.sites is empty; give at least one, e.g. layers.12.resid_post")
    for architecture in config.architectures:
        if architecture not in ARCHITECTURES:
            raise unknown("architecture", architecture, ARCHITECTURES)
        for l0 in config.l0:
            if not 0 < l0 <= config.d_sae:
                raise UserError(f"l0 {l0:g} must be above 0 and at most d_sae {config.d_sae}; lower it or raise d_sae")
        build_sae(SaeConfig(architecture, 1, 1, 1.0, options=options_of(config, architecture)))
    for key in config.options:
        if key.split(".")[0] not in ARCHITECTURES:
            raise unknown("architecture in options", key, [f"{name}.…" for name in ARCHITECTURES])


def options_of(config: RunConfig, architecture: str) -> dict[str, Any]:
    """The overrides meant for one architecture, without its prefix."""
    prefix = architecture + "."
    return {key.removeprefix(prefix): value for key, value in config.options.items() if key.startswith(prefix)}


@dataclass
class Prepared:
    """What training and evaluation stand on."""

    model: LanguageModel
    tokens: TokenSet
    sites: tuple[str, ...]
    store: ActivationStore | None
    stream: StoredStream | MixingStream
    rules: DropRules
    scale: Mapping[str, float]
    fingerprint: str
    config: RunConfig

    def held_in(self, site: str, n_tokens: int, seed: int) -> Tensor:
        """Training rows of a site at E‖x‖² = 1, [n, d]."""
        import numpy as np
        import torch

        from monosemy.activations.harvest import harvest_rows

        if self.store is not None:
            n = min(n_tokens, self.store.n_rows)
            chosen = np.sort(np.random.default_rng(seed).choice(self.store.n_rows, n, replace=False))
            rows = self.store.rows(site, chosen)
        else:
            n_sequences = min(self.tokens.train.n_sequences, math.ceil(n_tokens / self.tokens.train.context_length))
            parts = harvest_rows(
                self.model, self.tokens.train, [site], self.config.activations, self.rules.only([site]),
                stop=n_sequences,
            )  # fmt: skip
            rows = torch.cat([part.activations[site].float().cpu() for part in parts])
        return (rows / self.scale[site]).to(self.model.device)


def prepare(run: Run) -> Prepared:
    """Model, tokens and the stream of activations; reuses whatever the cache holds."""
    from monosemy.activations.harvest import measure_sites
    from monosemy.activations.store import build_store
    from monosemy.activations.stream import MixingStream, StoredStream
    from monosemy.data.tokens import prepare_tokens
    from monosemy.models.sources import load_model

    config = run.config
    check_resources(run)
    started = time.perf_counter()
    model = load_model(
        config.model.source, revision=config.model.revision, dtype=config.model.dtype, device=config.model.device
    )
    sites = tuple(dict.fromkeys(model.resolve(site) for site in config.activations.sites))
    tokens = prepare_tokens(config.text, model.tokenizer, model.tokenizer_fingerprint)
    settings, training = config.activations, config.training
    store = None
    stream: StoredStream | MixingStream
    if settings.storage == "disk":
        store = build_store(model, tokens.train, sites, settings)
        rules, scale = store.rules, {site: float(store.scale[site]) for site in sites}
        stream = StoredStream(
            store, sites, batch_tokens=training.batch_tokens, n_passes=training.n_passes, seed=config.text.seed,
            device=model.device,
        )  # fmt: skip
        dropped = store.record.get("dropped", {})
        source = store.fingerprint
    else:
        statistics = measure_sites(model, tokens.train, sites, settings)
        stream = MixingStream(
            model, tokens.train, sites, settings, statistics, batch_tokens=training.batch_tokens,
            seed=config.text.seed, device=model.device,
        )  # fmt: skip
        rules, scale = stream.rules, {site: float(stream.scale[site]) for site in sites}
        dropped, source = {}, fingerprint([model.fingerprint, tokens.train.fingerprint, to_json(settings)])
    run.add_provenance(
        model={"name": model.name, "fingerprint": model.fingerprint},
        text={"fingerprint": tokens.fingerprint, **tokens.record},
        dropped_positions=dropped,
        scale=scale,
    )
    run.mark_done("activations", source, time.perf_counter() - started)
    return Prepared(model, tokens, sites, store, stream, rules, scale, source, config)


def check_resources(run: Run) -> None:
    """Memory and disk of the plan against what is there. Raises UserError before anything is started."""
    from monosemy.estimates import estimate, require_resources
    from monosemy.models.sources import model_size

    config = run.config
    size, d_heads = model_size(config.model.source, config.model.revision)
    widths = {site: d_heads if site.endswith("attn_heads") else size.d_model for site in config.activations.sites}
    plan = estimate(config, widths, size)
    require_resources(plan, run.folder)


def build_trainees(prepared: Prepared) -> dict[tuple[str, str], Trainee]:
    """Every architecture × L0 × seed at every site, and the frozen-random control, initialised from held-in rows."""
    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import build_sae
    from monosemy.training.trainee import Trainee

    config = prepared.config
    n_steps = prepared.stream.n_steps
    wanted = [(name, name, False) for name in config.architectures]
    if config.evaluation.frozen_random:
        wanted.append((CONTROL, "topk", True))
    trainees: dict[tuple[str, str], Trainee] = {}
    for site in prepared.sites:
        rows = prepared.held_in(site, INITIAL_TOKENS, seed=1)
        for label, architecture, frozen in wanted:
            for l0 in config.l0:
                for seed in config.seeds:
                    sae = build_sae(
                        SaeConfig(
                            architecture,
                            rows.shape[1],
                            config.d_sae,
                            float(l0),
                            site=site,
                            model=prepared.model.name,
                            seed=seed,
                            frozen_decoder=frozen,
                            options=options_of(config, architecture),
                        )
                    ).to(prepared.model.device)
                    trainee = Trainee(sae, config.training, n_steps, n_steps * config.training.batch_tokens)
                    sae.initialise(rows, trainee.target_l0(0.0))
                    trainees[site, f"{label}-l0_{l0:g}-s{seed}"] = trainee
    return trainees


def train(run: Run) -> None:
    """Trains, calibrates and saves every SAE of the run; continues from the last checkpoint."""
    from monosemy.saes.base import calibrate
    from monosemy.saes.storage import save_sae
    from monosemy.training.trainer import Trainer
    from monosemy.training.viewers import open_viewer

    source = identity(run.config)
    if run.stage_done("training", source):
        return
    prepared = prepare(run)
    trainees = build_trainees(prepared)
    started = time.perf_counter()
    total = prepared.stream.n_steps * run.config.training.batch_tokens
    trainer = Trainer(
        trainees, prepared.stream, run.config.training, checkpoints=run.checkpoints, metrics=run.metrics(),
        fingerprint=fingerprint([source, prepared.fingerprint]),
    )  # fmt: skip
    done = trainer.resume()
    trainer.viewers = [open_viewer(kind, run.folder, to_json(run.config)) for kind in run.config.log_to]
    with progress.stage(f"training {len(trainees)} SAEs", total=total, unit="tokens", start=done) as bar:
        trainer.on_step = lambda n, metrics: bar.advance(n)
        trainer.train()
    for (site, name), trainee in trainees.items():
        sae = trainee.sae.eval()
        rows = prepared.held_in(site, CALIBRATION_TOKENS, seed=2)
        record = {} if trainee.stopped else calibrate(sae, list(rows.split(4096)))
        sae.fold_scale(prepared.scale[site])
        sae.config = dataclasses.replace(
            sae.config,
            record={
                "calibration": record,
                "n_tokens": total,
                "stopped": trainee.stopped,
                "control": name.split("-")[0],
            },
        )
        save_sae(sae, run.sae_folder(site, name))
    run.add_provenance(stopped=trainer.messages, shuffle={s: prepared.stream.record() for s in prepared.sites[:1]})
    run.mark_done("training", source, time.perf_counter() - started, {"n_tokens": total})
    import shutil

    shutil.rmtree(run.checkpoints, ignore_errors=True)  # the trained SAEs are on disk


def evaluate(run: Run) -> None:
    """Measures every SAE and control of the run on validation documents; writes evaluation.json."""
    import torch

    from monosemy.evals.controls import fit_pca
    from monosemy.evals.frontier import Candidate, build_evaluation, build_record, write_evaluation
    from monosemy.evals.model_loss import evaluate_model_loss, n_passes
    from monosemy.evals.reconstruction import evaluate_reconstruction

    if not run.stage_done("training", source := identity(run.config)):
        raise UserError(f"{run.folder} has no trained SAEs yet; train it first: monosemy train --run {run.folder}")
    if run.stage_done("evaluation", source):
        return
    prepared = prepare(run)
    started = time.perf_counter()
    settings = run.config.evaluation
    records, losses = [], {}
    for site in prepared.sites:
        saes: dict[str, Any] = {}
        candidates: dict[str, Candidate] = {}
        for name, sae in load_run_saes(run.folder, site).items():
            if sae.config.record.get("stopped"):
                continue
            label = name.split("-")[0]
            saes[name] = sae.to(prepared.model.device)
            candidates[name] = Candidate(
                name, label, site, sae.config.l0, sae.config.seed, control=sae.config.frozen_decoder
            )
        if settings.pca:
            rows = prepared.held_in(site, CALIBRATION_TOKENS, seed=2) * prepared.scale[site]
            basis = fit_pca(rows.split(4096))
            for l0 in run.config.l0:
                if l0 <= rows.shape[1]:
                    name = f"pca-l0_{l0:g}"
                    saes[name] = basis.dictionary(round(l0)).to(prepared.model.device)
                    candidates[name] = Candidate(name, "pca", site, float(l0), control=True)
        n_validation = prepared.tokens.validation.n_tokens
        with progress.stage(f"reconstruction at {site}", total=n_validation, unit="tokens") as bar:
            found = evaluate_reconstruction(
                saes, validation_rows(prepared, site), site=site, n_bootstrap=settings.n_bootstrap, advance=bar.advance
            )
        for name, result in found.items():
            folder = run.sae_folder(site, name)
            if folder.exists():
                result.latents.save(folder / "latents.safetensors")
        tokens, documents, keep = loss_tokens(prepared, site, settings.n_loss_tokens)
        with progress.stage(f"model loss at {site}", total=tokens.numel() * n_passes(saes), unit="tokens") as bar:
            losses[site] = evaluate_model_loss(
                prepared.model, site, saes, tokens, keep, documents=torch.from_numpy(documents),
                n_bootstrap=settings.n_bootstrap, advance=bar.advance,
            )  # fmt: skip
        records += [
            build_record(candidates[name], found[name].record, losses[site].records[name]) for name in candidates
        ]
    write_evaluation(run.evaluation_path, build_evaluation(records, losses, run.provenance))
    run.mark_done("evaluation", source, time.perf_counter() - started)


def validation_rows(prepared: Prepared, site: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows [n, d] in raw units, document of each) of the validation text, dropped positions left out."""
    from monosemy.activations.harvest import harvest_rows

    parts = harvest_rows(
        prepared.model, prepared.tokens.validation, [site], prepared.config.activations, prepared.rules.only([site])
    )
    for part in parts:
        yield part.activations[site], part.document


def loss_tokens(prepared: Prepared, site: str, n_tokens: int) -> tuple[Tensor, np.ndarray, Tensor]:
    """Validation sequences for the loss, spread over the text: tokens [B, T], documents [B, T], keep [B, T]."""
    import numpy as np
    import torch

    from monosemy.activations.harvest import keep_mask

    shards = prepared.tokens.validation
    n_sequences = max(1, min(shards.n_sequences, math.ceil(n_tokens / shards.context_length)))
    chosen = np.linspace(0, shards.n_sequences - 1, n_sequences).astype(int)
    tokens = torch.from_numpy(np.concatenate([shards.sequences(i, i + 1) for i in chosen]).astype(np.int64))
    documents = np.concatenate([shards.documents(i, i + 1) for i in chosen]).astype(np.int64)
    rules = prepared.rules.only([site])
    size = prepared.config.activations.batch_sequences
    keep = torch.cat(
        [keep_mask(part, prepared.model.activations(part, [site]), rules).cpu() for part in tokens.split(size)]
    )
    return tokens, documents, keep


def load_run_saes(folder: Path, site: str) -> dict[str, SparseAutoencoder]:
    """{name: SAE} of one site of a run."""
    from monosemy.saes.storage import load_sae

    return {name: load_sae(path) for s, name, path in list_saes(folder) if s == site}


def report(folder: Path) -> Path:
    """Writes the run's report; returns its path."""
    from monosemy.report.page import write_report

    return write_report(folder)


def print_table(folder: Path) -> None:
    """The evaluation as a table in the terminal."""
    from monosemy.evals.frontier import print_evaluation, read_evaluation

    print_evaluation(read_evaluation(folder / "evaluation.json")["records"])


def whole_run(config: RunConfig, folder: Path) -> Path:
    """Trains, evaluates and reports; what is already done is not redone. Returns the report's path."""
    check_config(config)
    with open_run(folder, config) as run:
        train(run)
        evaluate(run)
    page = report(folder)
    print_table(folder)
    return page


def evaluate_folder(folder: Path) -> None:
    """`monosemy evaluate RUN`."""
    config, _ = read_run(folder)
    with open_run(folder, config) as run:
        evaluate(run)
    print_table(folder)
