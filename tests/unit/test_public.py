"""What people see of the package in Python: its names, and what objects show of themselves."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
import torch
from tiny_models import make_tiny_model

import monosemy
from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.evals.evaluation_file import write_evaluation
from monosemy.latents import SparseLatents
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae

RECORDS = [
    {"name": "topk-l0_2-s0", "architecture": "topk", "l0": 2.0, "fvu": 0.25, "fvu_interval": [0.2, 0.3],
     "l0_quantiles": {"0.5": 2}, "delta_loss": None, "delta_loss_interval": None},
    {"name": "pca-l0_2", "architecture": "pca", "l0": 2.0, "fvu": 0.5, "fvu_interval": [0.4, 0.6],
     "l0_quantiles": {"0.5": 2}, "delta_loss": None, "delta_loss_interval": None},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    from monosemy.run import open_run

    with open_run(tmp_path / "run", RunConfig(architectures=("topk",), l0=(2.0,), d_sae=16)):
        pass
    sae = build_sae(SaeConfig("topk", 4, 16, 2.0, site="here", model="<b>tiny</b>"))
    save_sae(sae, tmp_path / "run/saes/here/topk-l0_2-s0")
    write_evaluation(tmp_path / "run", {"format": 1, "records": RECORDS})
    return tmp_path / "run"


def test_dir_lists_the_public_names_and_each_leads_somewhere():
    assert {"fit", "Dictionary", "load_sae", "open_run", "__version__"} <= set(dir(monosemy))
    assert dir(monosemy) == sorted(monosemy.__all__)
    assert all(getattr(monosemy, name) is not None for name in dir(monosemy))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = monosemy.fitt


def test_looking_at_the_names_imports_nothing_slow():
    code = "import monosemy, sys; dir(monosemy); print([m for m in ('torch', 'sklearn', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_run_shows_its_saes_and_its_evaluation(folder):
    run = monosemy.open_run(str(folder))
    assert list(run.saes) == ["here/topk-l0_2-s0"]
    assert torch.equal(run.load().W_dec, run.load("topk-l0_2-s0").W_dec)
    assert run.records == RECORDS
    frame = run.evaluation
    assert list(frame["fvu_low"]) == [0.2, 0.4]
    assert frame.loc[frame["architecture"] == "pca", "fvu"].item() == 0.5
    assert "delta_loss_high" in frame.columns
    assert "l0_quantiles_0.5" in frame.columns
    assert repr(run) == f"<Run {folder}: model embedded, SAEs 1, architectures topk, L0 2, d_sae 16>"


def test_without_pandas_the_records_are_there_and_one_line_says_so(folder, monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError()) if name == "pandas" else real(name, *rest),
    )
    run = monosemy.open_run(folder)
    with pytest.raises(UserError, match=r"pip install pandas, or use run\.records"):
        _ = run.evaluation
    assert len(run.records) == 2


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError):
        monosemy.open_run(tmp_path)


def test_objects_say_what_they_are_in_one_line(folder):
    sae = monosemy.open_run(folder).load()
    assert repr(sae) == "<topk SAE: d_in 4, d_sae 16, L0 2, site here, model <b>tiny</b>>"
    assert "<b>" not in sae._repr_html_(), "names are escaped"
    assert "&lt;b&gt;tiny" in sae._repr_html_()
    latents = SparseLatents.from_dense(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 3.0]]))
    assert repr(latents) == "<SparseLatents: rows 2, d_sae 3, L0 1.5, entries 3>"
    assert latents._repr_html_().count("<tr>") == 4
    model = make_tiny_model()
    assert repr(model).startswith(f"<{model.name}: layers ")
    assert "\n" not in repr(model)
