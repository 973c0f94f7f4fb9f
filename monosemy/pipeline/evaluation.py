"""The evaluation stage: measures every SAE and control of a run on validation documents, by training's drop rules.

One pass of the model over the validation text gives the reconstruction measures of all sites. The model's loss is then
measured site by site, over the same sequences and with the same mask of kept positions.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from monosemy.config import identity
from monosemy.errors import UserError
from monosemy.pipeline.prepare import Prepared, training_data
from monosemy.pipeline.training import CALIBRATION_TOKENS, trained
from monosemy.pipeline.training_data import TrainingData
from monosemy.ranges import number_name
from monosemy.run import Run, require_weights
from monosemy.support import progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from monosemy.evals.documents import DocumentSums
    from monosemy.evals.frontier import Candidate
    from monosemy.evals.model_loss import ModelLosses
    from monosemy.evals.reconstruction import Reconstruction
    from monosemy.saes.base import SparseAutoencoder

Sets = dict[str, dict[str, Any]]
"""{site: {name: dictionary}}."""
LINEAR_MAP = "linear_map"
"""The name of the control of transcoders that has no latents."""


def evaluated(run: Run) -> bool:
    """Whether the evaluation is done and its results still exist."""
    from monosemy.evals.evaluation_file import read_evaluation

    if not run.stage_done("evaluation", identity(run.config)):
        return False
    try:
        read_evaluation(run.folder)
    except UserError:
        return False
    # SAEs whose training stopped have no statistics, so with any of them missing files mean nothing.
    latents = [sae.latents for sae in run.files.saes()]
    stopped = run.provenance.get("stopped", [])
    return stopped != [] or all(path.exists() for path in latents)


def evaluate(run: Run, prepared: TrainingData | None = None, *, again: bool = False) -> None:
    """Measures the run and writes evaluation.json, unless that is done; with `again` in any case.

    Activations without a language model behind them have no model loss; its fields are then null.
    Raises UserError when the run is not trained.
    """
    from monosemy.evals.documents import save_documents
    from monosemy.evals.evaluation_file import write_evaluation
    from monosemy.evals.frontier import build_evaluation, build_record

    require_weights(run.folder)
    if not trained(run):
        raise UserError(f"{run.folder} has no complete set of trained SAEs; train it: monosemy train {run.folder}")
    if evaluated(run) and not again:
        return
    prepared = prepared or training_data(run)
    started = time.perf_counter()
    saes, candidates = _dictionaries(run, prepared)
    reconstructions, errors = _reconstructions(run, prepared, saes)
    losses = _model_losses(run, prepared, saes) if isinstance(prepared, Prepared) else {}
    records = []
    sums: dict[str, dict[str, DocumentSums]] = {site: {"error": errors[site]} for site in saes}
    for site in saes:
        if site in losses:
            sums[site]["delta_loss"] = losses[site].documents
        for name in saes[site]:
            model_loss = losses[site].records[name] if site in losses else None
            records.append(build_record(candidates[site, name], reconstructions[site][name].record, model_loss))
    # evaluation.json last: its existence means that everything beside it is complete.
    save_documents(run.files.documents, sums)
    write_evaluation(run.folder, build_evaluation(records, losses, run.provenance))
    run.mark_done("evaluation", identity(run.config), time.perf_counter() - started)


def _model_losses(run: Run, prepared: Prepared, saes: Sets) -> dict[str, ModelLosses]:
    """The model's loss with every dictionary spliced in, by site, over the same sequences at all sites."""
    import torch

    from monosemy.evals.model_loss import evaluate_model_loss, n_passes

    settings, losses = run.config.evaluation, {}
    tokens, documents, keep = loss_tokens(prepared, settings.n_loss_tokens)
    for site in saes:
        total = tokens.numel() * n_passes(saes[site])
        with progress.stage(f"model loss at {site}", total=total, unit="tokens") as bar:
            losses[site] = evaluate_model_loss(
                prepared.model,
                site,
                saes[site],
                tokens,
                keep=keep,
                attention_mask=torch.ones_like(tokens),
                documents=documents,
                n_bootstrap=settings.n_bootstrap,
                advance=bar.advance,
            )
    return losses


def _dictionaries(run: Run, prepared: TrainingData) -> tuple[Sets, dict[tuple[str, str], Candidate]]:
    """The run's SAEs, without those that stopped early, and the untrained controls, by site and name.

    A transcoder is among those of the site that it gives. Sites that only transcoders read are left out. PCA has the
    L0s that the run was asked for, and those of imported SAEs.
    """
    from monosemy.evals.controls import fit_linear_map, fit_pca
    from monosemy.evals.frontier import Candidate
    from monosemy.saes.listing import label_of, saved_saes
    from monosemy.saes.storage import load_sae, read_sae_config, stopped_early

    device = prepared.device
    saes: Sets = {site: {} for site in prepared.sites}
    candidates: dict[tuple[str, str], Candidate] = {}
    for saved in run.files.saes():
        site, name, folder = saved.site, saved.name, saved.folder
        if site in saes and not stopped_early(read_sae_config(folder)):
            sae = load_sae(folder)
            saes[site][name] = sae.to(device)
            candidates[site, name] = Candidate(
                name,
                label_of(name),
                site,
                sae.config.l0 or None,
                seed=sae.config.seed,
                control=sae.config.frozen_decoder,
            )
    sources = {sae.source_site for of_site in saes.values() for sae in of_site.values()} - {None}
    saes = {site: of_site for site, of_site in saes.items() if of_site or site not in sources}
    if not (sources or run.config.evaluation.pca):
        return saes, candidates
    held_in = prepared.held_in(CALIBRATION_TOKENS, seed=2)
    for site, of_site in saes.items():
        # Evaluation is in raw units, as saved SAEs are.
        rows = prepared.raw(site, held_in[site])
        for source in sorted({sae.source_site for sae in of_site.values()} - {None}):
            of_site[LINEAR_MAP] = fit_linear_map(prepared.raw(source, held_in[source]), rows, source).to(device)
            candidates[site, LINEAR_MAP] = Candidate(LINEAR_MAP, LINEAR_MAP, site, None, control=True)
        if run.config.evaluation.pca:
            batches = rows.split(4096)
            basis = fit_pca(batches)
            imported = [of_site[sae.name] for sae in saved_saes(run.folder) if sae.site == site and sae.imported]
            # A transcoder's code is of the site that it reads.
            inputs = {None: batches[0]} | {read: prepared.raw(read, held_in[read][:4096]) for read in sources}
            for l0 in sorted({*run.config.l0, *(_whole_l0(sae, inputs[sae.source_site]) for sae in imported)}):
                if 1 <= l0 <= rows.shape[1]:
                    name = f"pca-l0_{number_name(l0)}"
                    saes[site][name] = basis.dictionary(round(l0)).to(device)
                    candidates[site, name] = Candidate(name, "pca", site, float(l0), control=True)
    return saes, candidates


def _whole_l0(sae: SparseAutoencoder, rows: Tensor) -> float:
    """The number of components with which PCA is an imported SAE's control: its published L0, or that on the rows."""
    return float(round(sae.config.l0 or sae.encode(rows).l0))


def _reconstructions(
    run: Run, prepared: TrainingData, saes: Sets
) -> tuple[dict[str, dict[str, Reconstruction]], dict[str, DocumentSums]]:
    """Measures reconstruction at all sites in one pass over the validation rows, and saves the latents' statistics."""
    from monosemy.evals.reconstruction import ReconstructionMeter

    meters = {site: ReconstructionMeter(of_site, site) for site, of_site in saes.items()}
    with progress.stage("reconstruction", total=prepared.n_validation, unit=prepared.unit) as bar:
        for part in prepared.validation():
            for site, meter in meters.items():
                meter.add(part.activations[site].to(prepared.device), part.documents, part.activations)
            bar.advance(part.n_read)
    reconstructions = {site: meter.finish(run.config.evaluation.n_bootstrap) for site, meter in meters.items()}
    for site, results in reconstructions.items():
        for name, result in results.items():
            # PCA and the linear map have no folder: their components fire on every token, or do not exist.
            if (sae := run.files.sae(site, name)).folder.exists():
                result.latents.save(sae.latents)
    return reconstructions, {site: meter.documents(reconstructions[site]) for site, meter in meters.items()}


def loss_tokens(prepared: Prepared, n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Validation sequences for the model's loss, spread evenly over the text: tokens, documents, keep, each [B, T].

    The kept positions are those of all sites together, so that every site's loss is measured on the same tokens.
    """
    import numpy as np
    import torch

    from monosemy.activations.harvest import keep_mask, read_packed

    shards = prepared.tokens.validation
    n_sequences = max(1, min(shards.n_sequences, math.ceil(n_tokens / shards.context_length)))
    # Evenly spaced over the text: the first sequences would hold few documents, and so give wide intervals.
    sequence_numbers = np.linspace(0, shards.n_sequences - 1, n_sequences).astype(int)

    def stacked(read: Any) -> Tensor:
        parts: list[np.ndarray] = [read(i, i + 1) for i in sequence_numbers]
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    tokens = stacked(shards.sequences)
    size = prepared.config.activations.batch_sequences
    keep = torch.cat(
        [
            keep_mask(part, read_packed(prepared.model, part, prepared.sites), prepared.rules).cpu()
            for part in tokens.split(size)
        ]
    )
    return tokens, stacked(shards.documents), keep
