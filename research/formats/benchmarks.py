"""Do SAEBench's core and sparse probing and sae-probes take an exported SAE, and what do they measure of it?

    python -m venv benchmarks-env
    benchmarks-env/bin/pip install sae-bench==0.6.0 sae-probes==0.4.2 'numpy<2' .
    benchmarks-env/bin/python -m research.formats.benchmarks runs/judged

with a run as judge.py's docstring trains it. Each SAE is exported with rows of length 1, opened by sae-lens as both
benchmarks open one, and handed to their own functions. Both would fetch a model from the hub to make activations, and
SAEBench its texts too. Here the activations are monosemy's, given where the benchmarks look for those made before: the
run's validation rows for core; for both probing benchmarks the texts and labels of one data set that sae-probes brings
along, which SAEBench gets as a data set of two classes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.models.sources import load_model
from monosemy.run import read_run
from monosemy.saes.formats import export
from monosemy.saes.formats.exported import write_exported
from monosemy.saes.listing import SavedSae, saved_saes
from monosemy.saes.storage import load_sae
from research.formats.judge import settings_of, stand_ins, validation_rows
from research.records import record_path, write_record

DATASET, N_TEXTS_EACH, N_TOKENS = "95_toxic_is", 150, 32
"""A data set of sae-probes, how many of its texts SAEBench gets of each class, and tokens a text."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    config, _ = read_run(folder)
    saes = [sae for sae in saved_saes(folder) if not sae.imported]
    site = saes[0].site
    rows, documents = validation_rows(folder, site)
    tokens, labels = probing_activations(config.model.source, site)
    measured = {sae.name: benchmarks(sae, rows, documents, (tokens, labels)) for sae in saes}
    versions = {name: version(name) for name in ("sae-lens", "sae-bench", "sae-probes")}
    write_record(record_path("formats", "benchmarks"), {**versions, "dataset": DATASET, "saes": measured})
    for name, row in measured.items():
        print(name, row)


def probing_activations(model_name: str, site: str) -> tuple[Tensor, Tensor]:
    """Activations [texts, tokens, d] of the data set's texts, zero behind a text's end, and their labels 0 and 1."""
    from sae_probes.utils_data import get_yvals, read_numbered_dataset_df

    model = load_model(model_name, device="cpu")
    texts = read_numbered_dataset_df(DATASET)["prompt"].tolist()
    padded = []
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"][:N_TOKENS]])
        activations = model.activations(ids, [site])[site][0]
        padded.append(torch.nn.functional.pad(activations, (0, 0, 0, N_TOKENS - len(activations))))
    return torch.stack(padded), torch.as_tensor(get_yvals(DATASET))


def benchmarks(sae: SavedSae, rows: Tensor, documents: Tensor, probing: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What all three benchmarks measure of one SAE, and its FVU and L0 here."""
    from sae_bench.sae_bench_utils.general_utils import check_decoder_norms, load_and_format_sae
    from sae_lens import SAE

    record = evaluate_reconstruction({"sae": load_sae(sae.folder)}, [(rows, documents)], n_bootstrap=2)["sae"].record
    with tempfile.TemporaryDirectory() as temporary:
        exported = write_exported(export(load_sae(sae.folder), "sae-lens", unit_rows=True), Path(temporary) / "sae")
        opened = load_and_format_sae("exported", SAE.load_from_disk(exported), "cpu")
        assert opened is not None
        theirs = opened[1]
        core = saebench_core(theirs, rows)
        return {
            "unit_rows": check_decoder_norms(theirs.W_dec.data),
            "fvu": record.fvu,
            "fvu_core": 1 - core["reconstruction_quality"]["explained_variance"],
            "l0": record.l0,
            "l0_core": core["sparsity"]["l0"],
            **saebench_probing(theirs, *probing, Path(temporary) / "saebench"),
            **sae_probes(theirs, *probing, Path(temporary) / "probes"),
        }


def saebench_core(theirs: Any, rows: Tensor) -> dict[str, Any]:
    """SAEBench's core metrics of reconstruction and sparsity, over the rows."""
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import run_evals

    store, model = stand_ins(rows, theirs.cfg.hook_name)
    metrics: dict[str, Any] = run_evals(theirs, store, model, CoreEvalConfig(**settings_of(rows)))[0]
    return metrics


def saebench_probing(theirs: Any, tokens: Tensor, labels: Tensor, folder: Path) -> dict[str, float]:
    """Test accuracies of SAEBench's sparse probes, with all latents and with one."""
    from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
    from sae_bench.evals.sparse_probing.main import run_eval_single_sae

    folder.mkdir()
    n_train = N_TEXTS_EACH * 2 // 3
    classes = {str(label): tokens[labels == label][:N_TEXTS_EACH] for label in (0, 1)}
    activations = {
        "train": {label: part[:n_train] for label, part in classes.items()},
        "test": {label: part[n_train:] for label, part in classes.items()},
        "llm_results": {},
    }
    torch.save(activations, folder / f"{DATASET}_activations.pt")
    settings = SparseProbingEvalConfig(dataset_names=[DATASET], k_values=[1, 5], sae_batch_size=64)
    results, _ = run_eval_single_sae(settings, theirs, torch.nn.Identity(), "cpu", artifacts_folder=str(folder))
    return {f"saebench_{key}": results[key] for key in ("sae_test_accuracy", "sae_top_1_test_accuracy")}  # type: ignore[misc]


def sae_probes(theirs: Any, tokens: Tensor, labels: Tensor, folder: Path) -> dict[str, float]:
    """Test AUC of sae-probes' probes on sixteen latents, at each text's last token."""
    from sae_probes import run_sae_evals

    hook, model_name = theirs.cfg.hook_name, "model"
    last = (tokens.abs().sum(-1) > 0).sum(1) - 1
    cache = folder / f"model_activations_{model_name}"
    cache.mkdir(parents=True)
    torch.save(tokens[torch.arange(len(tokens)), last], cache / f"{DATASET}_{hook}.pt")
    run_sae_evals(
        theirs,
        model_name=model_name,
        hook_name=hook,
        reg_type="l1",
        setting="normal",
        ks=[16],
        results_path=folder / "results",
        model_cache_path=folder,
        datasets=[DATASET],
        device="cpu",
    )
    (path,) = (folder / "results").rglob("*.json")
    return {"sae_probes_test_auc": json.loads(path.read_text())[0]["test_auc"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser())
