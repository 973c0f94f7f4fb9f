"""Does sae-lens's own evaluation find the FVU and L0 that monosemy finds, of SAEs trained and measured here?

    monosemy train quick --run runs/judged --activations.sites layers.6.resid_post --architectures jumprelu topk \
        --tokens 20k --text.n-validation-tokens 8k --d-sae 256 --l0 16 --evaluation.n-loss-tokens 512
    python -m research.formats.judge runs/judged

needs sae-lens (`pip install 'monosemy[bench]'`). Every SAE of the run is exported in sae-lens's layout, opened by
`sae_lens.SAE.load_from_disk` and judged by `sae_lens.evals.run_evals` over the run's validation rows. A stand-in for
its model and its store of texts gives these rows: a token is the number of a row.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.pipeline.prepare import training_data
from monosemy.run import open_run, read_run
from monosemy.saes.formats import export
from monosemy.saes.formats.exported import write_exported
from monosemy.saes.listing import saved_saes
from monosemy.saes.storage import load_sae
from research.records import record_path, write_record

CONTEXT, PROMPTS = 64, 4
"""Rows are dealt to sae-lens as prompts of 64 tokens, four a batch."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    saes = [sae for sae in saved_saes(folder) if not sae.imported]
    site = saes[0].site
    rows, documents = validation_rows(folder, site)
    saes = [sae for sae in saes if sae.site == site]
    judged = {sae.name: both_judges(sae.folder, rows, documents) for sae in saes}
    record = {"sae_lens": version("sae-lens"), "site": site, "n_rows": len(rows), "saes": judged}
    write_record(record_path("formats", "judged"), record)
    for name, row in judged.items():
        print(name, row)


def validation_rows(folder: Path, site: str) -> tuple[Tensor, Tensor]:
    """The run's validation activations at a site [N, d], and each row's document, as whole batches of PROMPTS."""
    config, _ = read_run(folder)
    with open_run(folder, config) as run:
        parts = [(part.activations, part.documents) for part in training_data(run).validation()]
    rows = torch.cat([activations[site].float().cpu() for activations, _ in parts])
    documents = torch.cat([torch.as_tensor(numbers) for _, numbers in parts])
    # Whole batches only, for every judge: sae-lens asks for a number of batches, not of rows.
    n_rows = len(rows) - len(rows) % (CONTEXT * PROMPTS)
    return rows[:n_rows], documents[:n_rows]


def both_judges(folder: Path, rows: Tensor, documents: Tensor) -> dict[str, Any]:
    """FVU and L0 of one SAE by monosemy and by sae-lens, over the same rows [N, d_in]."""
    sae = load_sae(folder)
    record = evaluate_reconstruction({"sae": sae}, [(rows, documents)], n_bootstrap=2)["sae"].record
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        theirs = by_sae_lens(write_exported(export(sae, "sae-lens"), Path(temporary)), rows)
    return {
        "fvu": record.fvu,
        "fvu_sae_lens": 1 - theirs["reconstruction_quality"]["explained_variance"],
        "fvu_sae_lens_legacy": 1 - theirs["reconstruction_quality"]["explained_variance_legacy"],
        "l0": record.l0,
        "l0_sae_lens": theirs["sparsity"]["l0"],
    }


def stand_ins(rows: Tensor, hook: str) -> tuple[SimpleNamespace, SimpleNamespace]:
    """(store, model) for another library's evaluation: tokens are numbers of rows, and a pass gives these at `hook`."""
    batches = iter(torch.arange(len(rows)).view(-1, PROMPTS, CONTEXT))
    store = SimpleNamespace(get_batch_tokens=lambda *_: next(batches), context_size=CONTEXT)
    return store, SimpleNamespace(run_with_cache=lambda tokens, **_: (None, {hook: rows[tokens]}))


def settings_of(rows: Tensor) -> dict[str, Any]:
    """For sae-lens's evaluation, and SAEBench's that came from it: reconstruction and sparsity over all rows."""
    n_batches = len(rows) // (PROMPTS * CONTEXT)
    measured = dict.fromkeys(("compute_l2_norms", "compute_sparsity_metrics", "compute_variance_metrics"), True)
    return {"batch_size_prompts": PROMPTS, "n_eval_sparsity_variance_batches": n_batches, **measured}


def by_sae_lens(folder: Path, rows: Tensor) -> dict[str, Any]:
    """What sae-lens measures of the SAE in a folder, over the rows."""
    from sae_lens import SAE
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    theirs = SAE.load_from_disk(folder)
    store, model = stand_ins(rows, theirs.cfg.metadata.hook_name)
    measured: dict[str, Any] = run_evals(
        theirs,
        store,
        model,
        ActivationScaler(),
        eval_config=EvalConfig(**settings_of(rows)),
        exclude_special_tokens=False,
    )[0]
    return measured


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser())
