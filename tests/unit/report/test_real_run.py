"""The seams: what run, training's metrics and evaluation really write is what the report reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monosemy.config import RunConfig
from monosemy.evals.controls import fit_pca
from monosemy.evals.evaluation_file import write_evaluation
from monosemy.evals.frontier import Candidate, build_evaluation, build_record
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.report.page import write_report
from monosemy.report.read import read_inputs
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae

SITE, D, F, L0 = "layers.1.resid_post", 12, 48, 4


def test_files_of_the_other_stages_are_read_as_they_are_written(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1200, D, generator=generator)
    documents = torch.arange(1200) // 60
    config = RunConfig(architectures=("topk", "relu"), l0=(float(L0),), d_sae=F)
    topk = SaeConfig("topk", D, F, L0, site=SITE)
    saes = {
        "topk-l0_4-s0": build_sae(topk),
        "frozen_random-l0_4-s0": build_sae(SaeConfig("topk", D, F, L0, site=SITE, seed=1, frozen_decoder=True)),
        "pca-l0_4": fit_pca([x]).dictionary(L0),
    }
    measured = evaluate_reconstruction(saes, [(x, documents)], site=SITE, n_bootstrap=50)
    with open_run(tmp_path / "run", config) as run:
        records = []
        for name, evaluation in measured.items():
            kind = name.partition("-")[0]
            candidate = Candidate(name, kind, SITE, float(L0), control=kind in ("frozen_random", "pca"))
            records.append(build_record(candidate, evaluation.record))
            evaluation.latents.save(run.files.sae(SITE, name).latents)
        write_evaluation(run.folder, build_evaluation(records))
        row = {"site": SITE, "architecture": "topk", "target_l0": float(L0), "seed": 0, "fvu": 0.5, "l0": 4.0}
        run.metrics().append(
            {**row, "name": name, "step": step, "n_tokens": 64 * step, "loss": float("nan") if step > 2 else 0.7}
            for step in (1, 2, 3)
            for name in ("topk-l0_4-s0", "frozen_random-l0_4-s0", "relu-l0_4-s0")
            if step < 3 or name.startswith("relu")
        )
        run.add_provenance(model={"name": "tiny"})
        run.mark_done("train", "abc", 61.0, {"n_steps": 2})
    read = read_inputs(run.folder)
    by_name = {record.name: record for record in read.records}
    assert set(by_name) == set(saes)
    for name, evaluation in measured.items():
        assert by_name[name]["fvu"].value == pytest.approx(evaluation.record.fvu)
        assert by_name[name].l0_quantiles["0.5"] == evaluation.record.l0_quantiles["0.5"]
    latents = read.latents[SITE, "topk-l0_4-s0"]
    assert latents.firing_rate.sum() == pytest.approx(L0, rel=0.02)
    assert latents.n_tokens == 1200
    assert read.curves[SITE, "frozen_random-l0_4-s0"].architecture == "frozen_random"
    assert read.stopped == [f"relu-l0_4-s0 at {SITE} stopped at step 3: its loss was not finite"]
    text = write_report(run.folder).read_text()
    assert "tiny" in text
    assert "1 min 01 s" in text
