"""The evaluation stage: measures every SAE and control of a run on validation documents, by training's drop rules.

One pass of the model over the validation text gives the reconstruction measures of all sites. The model's loss is then
measured site by site, over the same sequences and with the same mask of kept positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monosemy.config import identity
from monosemy.errors import UserError
from monosemy.pipeline.measured import Measured, joined
from monosemy.pipeline.prepare import Prepared, training_data
from monosemy.pipeline.training import CALIBRATION_TOKENS, trained
from monosemy.pipeline.training_data import Key, TrainingData
from monosemy.ranges import number_name
from monosemy.run import Run, require_weights
from monosemy.support import progress, ranks
from monosemy.support.shares import share_out

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from monosemy.evals.documents import DocumentSums
    from monosemy.evals.frontier import Candidate
    from monosemy.evals.model_loss import ModelLosses
    from monosemy.evals.reconstruction import ReconstructionRecord
    from monosemy.saes.base import SaeConfig, SparseAutoencoder

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
    require_weights(run.folder)
    if not ranks.from_first(lambda: trained(run)):
        raise UserError(f"{run.folder} has no complete set of trained SAEs; train it: monosemy train {run.folder}")
    if ranks.from_first(lambda: evaluated(run)) and not again:
        return
    prepared = prepared or training_data(run)
    started = time.perf_counter()
    saes, candidates = _dictionaries(run, prepared)
    reconstructions, errors = _reconstructions(run, prepared, saes)
    losses = _model_losses(run, prepared, saes) if isinstance(prepared, Prepared) else {}
    measured = Measured(candidates, reconstructions, errors, losses)
    parts = ranks.gathered(measured)
    if ranks.is_first():
        _write(run, joined(parts, [(sae.site, sae.name) for sae in run.files.saes()], prepared.sites))
        run.mark_done("evaluation", identity(run.config), time.perf_counter() - started)
    run.share_records()


def _write(run: Run, measured: Measured) -> None:
    """Writes what was measured. evaluation.json last: its existence means that everything beside it is complete."""
    from monosemy.evals.documents import save_documents
    from monosemy.evals.evaluation_file import write_evaluation
    from monosemy.evals.frontier import build_evaluation, build_record

    losses = measured.losses
    sums: dict[str, dict[str, DocumentSums]] = {site: {"error": errors} for site, errors in measured.errors.items()}
    for site, loss in losses.items():
        sums[site]["delta_loss"] = loss.documents
    records = [
        build_record(candidate, measured.reconstructions[key], losses[key[0]].records[key[1]] if losses else None)
        for key, candidate in measured.candidates.items()
    ]
    save_documents(run.files.documents, sums)
    write_evaluation(run.folder, build_evaluation(records, losses, run.provenance))


def _model_losses(run: Run, prepared: Prepared, saes: Sets) -> dict[str, ModelLosses]:
    """The model's loss with every dictionary spliced in, by site, over the same sequences at all sites."""
    import torch

    from monosemy.evals.model_loss import LossText, evaluate_model_losses, n_passes

    if not saes:
        return {}
    tokens, documents, keep = loss_tokens(prepared, run.config.evaluation.n_loss_tokens)
    text = LossText(tokens, keep, torch.ones_like(tokens), documents)
    total = tokens.numel() * n_passes(*saes.values())
    where = next(iter(saes)) if len(saes) == 1 else f"{len(saes)} sites"
    with progress.stage(f"model loss at {where}", total=total, unit="tokens") as bar:
        return evaluate_model_losses(
            prepared.model, saes, text, n_bootstrap=run.config.evaluation.n_bootstrap, advance=bar.advance
        )


def _dictionaries(run: Run, prepared: TrainingData) -> tuple[Sets, dict[Key, Candidate]]:
    """The dictionaries that this process measures, by site and name.

    All processes together measure the run's SAEs, without those that stopped early, and the untrained controls. A
    transcoder is among those of the site that it gives. Sites that only transcoders read are left out.
    """
    from monosemy.evals.frontier import Candidate
    from monosemy.saes.listing import label_of
    from monosemy.saes.storage import load_sae, read_sae_config, stopped_early

    configs = {(saved.site, saved.name): read_sae_config(saved.folder) for saved in run.files.saes()}
    configs = {key: config for key, config in configs.items() if key[0] in prepared.sites and not stopped_early(config)}
    sources = {config.source_site for config in configs.values()} - {None}
    sites = [site for site in prepared.sites if site not in sources or any(site == given for given, _ in configs)]
    own, own_controls = _own_pieces(run, sites, configs)
    saes: Sets = {site: {} for site in sites if site in own_controls or any(site == given for given, _ in own)}
    candidates: dict[Key, Candidate] = {}
    for site, name in own:
        config = configs[site, name]
        saes[site][name] = load_sae(run.files.sae(site, name).folder).to(prepared.device)
        candidates[site, name] = Candidate(
            name, label_of(name), site, config.l0 or None, seed=config.seed, control=config.frozen_decoder
        )
    if own_controls and (sources or run.config.evaluation.pca):
        held_in = prepared.held_in(CALIBRATION_TOKENS, seed=2)
        for site in own_controls:
            read = sorted({c.source_site for (given, _), c in configs.items() if given == site and c.source_site})
            controls = _controls(run, prepared, site, read, held_in=held_in, loaded=saes[site])
            saes[site] |= {name: control.to(prepared.device) for name, (control, _) in controls.items()}
            candidates |= {(site, name): candidate for name, (_, candidate) in controls.items()}
    return saes, candidates


def _own_pieces(run: Run, sites: Sequence[str], configs: Mapping[Key, SaeConfig]) -> tuple[list[Key], list[str]]:
    """The SAEs that this process measures, and the sites whose untrained controls it measures; all of the only one."""
    pieces: list[Key] = []
    costs: list[float] = []
    for site in sites:
        of_site = [key for key in configs if key[0] == site]
        pieces += of_site
        costs += [1.0] * len(of_site)
        # A run of imported SAEs alone was asked for no L0, and has PCA at theirs.
        n_controls = max(1, len(run.config.l0)) if run.config.evaluation.pca else 0
        n_controls += any(configs[key].source_site is not None for key in of_site)
        if n_controls or not of_site:
            pieces.append((site, ""))
            costs.append(max(float(n_controls), 1.0))
    owners = share_out(costs, ranks.n_ranks()) if pieces else []
    own = [piece for piece, owner in zip(pieces, owners, strict=True) if owner == ranks.rank()]
    return [key for key in own if key[1]], [site for site, name in own if not name]


def _controls(
    run: Run,
    prepared: TrainingData,
    site: str,
    sources: Sequence[str],
    *,
    held_in: Mapping[str, Tensor],
    loaded: Mapping[str, Any],
) -> dict[str, tuple[Any, Candidate]]:
    """The untrained controls of a site, fitted to training rows: PCA, and the best linear map where transcoders read
    `sources`. PCA has the L0s that the run was asked for, and those of imported SAEs, some of which are `loaded`."""
    from monosemy.evals.controls import fit_linear_map, fit_pca
    from monosemy.evals.frontier import Candidate
    from monosemy.saes.listing import saved_saes
    from monosemy.saes.storage import load_sae

    controls: dict[str, tuple[Any, Candidate]] = {}
    # Evaluation is in raw units, as saved SAEs are.
    rows = prepared.raw(site, held_in[site])
    for source in sources:
        linear = fit_linear_map(prepared.raw(source, held_in[source]), rows, source)
        controls[LINEAR_MAP] = linear, Candidate(LINEAR_MAP, LINEAR_MAP, site, None, control=True)
    if run.config.evaluation.pca:
        batches = rows.split(4096)
        basis = fit_pca(batches)
        # One at a time where another process measures them.
        imported = (
            loaded[sae.name] if sae.name in loaded else load_sae(sae.folder).to(prepared.device)
            for sae in saved_saes(run.folder)
            if sae.site == site and sae.imported
        )
        # A transcoder's code is of the site that it reads.
        inputs = {None: batches[0]} | {read: prepared.raw(read, held_in[read][:4096]) for read in sources}
        for l0 in sorted({*run.config.l0, *(_whole_l0(sae, inputs[sae.source_site]) for sae in imported)}):
            if 1 <= l0 <= rows.shape[1]:
                name = f"pca-l0_{number_name(l0)}"
                controls[name] = basis.dictionary(round(l0)), Candidate(name, "pca", site, float(l0), control=True)
    return controls


def _whole_l0(sae: SparseAutoencoder, rows: Tensor) -> float:
    """The number of components with which PCA is an imported SAE's control: its published L0, or that on the rows."""
    return float(round(sae.config.l0 or sae.encode(rows).l0))


def _reconstructions(
    run: Run, prepared: TrainingData, saes: Sets
) -> tuple[dict[Key, ReconstructionRecord], dict[str, DocumentSums]]:
    """Measures reconstruction at all sites in one pass over the validation rows, and saves the latents' statistics."""
    from monosemy.evals.reconstruction import ReconstructionMeter

    meters = {site: ReconstructionMeter(of_site, site) for site, of_site in saes.items()}
    if not meters:  # there are more processes than dictionaries
        return {}, {}
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
    records = {
        (site, name): result.record for site, of_site in reconstructions.items() for name, result in of_site.items()
    }
    return records, {site: meter.documents(reconstructions[site]) for site, meter in meters.items()}


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
