"""`monosemy train --activations FILE`: a frontier, its report, and a run that later commands open."""

from __future__ import annotations

import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from monosemy import cli
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.run import read_run

QUICK = ["--training.n-passes", "2", "--d-sae", "16", "--evaluation.n-bootstrap", "50"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "vectors.npy"
    np.save(path, np.random.default_rng(0).normal(size=(300, 8)).astype(np.float16))
    return path


def test_a_file_gives_a_frontier_and_a_report_that_speaks_of_rows(rows, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--activations", str(rows), "--architectures", "topk", "relu", "--l0", "1", "2", "--run", str(run), *QUICK]
    cli.main(["train", *words])
    printed = capsys.readouterr().out
    assert "30 validation rows" in printed
    assert "no language model" in printed
    records = read_evaluation(run)["records"]
    assert {(r["architecture"], r["target_l0"]) for r in records} == {
        (name, l0) for name in ("topk", "relu", "frozen_random", "pca") for l0 in (1.0, 2.0)
    }
    page = re.sub("<[^>]+>", " ", (run / "report.html").read_text(encoding="utf-8"))
    assert "learnt to rebuild the rows of vectors.npy" in page
    assert "No language model stands behind these rows" in page
    assert "Lowest delta loss" not in page
    assert "How often against how strongly" in page
    with pytest.raises(SystemExit):
        cli.main(["steer", str(run), "--latent", "1", "--add", "1", "--prompt", "x"])
    assert "trained on rows without a language model" in capsys.readouterr().err
    # Moved, and evaluated again where it is now.
    moved = rows.with_name("moved.npy")
    rows.rename(moved)
    try:
        with pytest.raises(SystemExit):
            cli.main(["evaluate", str(run)])
        assert "--activations NEWPATH" in capsys.readouterr().err
        cli.main(["evaluate", str(run), "--activations", str(moved)])
    finally:
        moved.rename(rows)
    assert read_evaluation(run)["records"] == records


def test_what_no_flag_says_follows_from_the_rows(tmp_path, monkeypatch):
    from monosemy import pipeline

    pyarrow.parquet.write_table(
        pyarrow.table({"vector": np.random.default_rng(0).normal(size=(400, 6)).tolist()}), tmp_path / "x.parquet"
    )
    configs = []
    monkeypatch.setattr(pipeline, "whole_run", lambda config, folder, **_: configs.append((config, folder)) or folder)
    cli.main(["train", "--activations", str(tmp_path / "x.parquet")])
    ((config, folder),) = configs
    assert folder.name == "x"
    assert (config.d_sae, config.l0, config.training.batch_tokens) == (48, (3.0, 6.0, 12.0), 32)
    assert config.training.n_passes == 182  # 2,000 steps of 32 of 360 rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--activations", "gone.npy"], "gone.npy does not exist"),
        (["--activations", "ROWS", "--tensor", "x"], "belongs to a .safetensors file"),
        (
            ["--activations", "ROWS", "--activations.storage", "stream", "--training.n-passes", "1"],
            "needs a language model",
        ),
        (["--activations", "ROWS", "--l0", "9000"], "--l0 9000 must be at most d_sae"),
        (["--activations", "ROWS", "--jacobian.lambdas", "1"], "leave --jacobian.… out"),
    ],
)
def test_flags_that_cannot_work_end_in_one_line(rows, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *QUICK, *(str(rows) if word == "ROWS" else word for word in words), "--run", "run"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert message in printed[0]
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_run_says_what_it_read(rows, tmp_path):
    run = tmp_path / "run"
    cli.main(["train", "--activations", str(rows), "--architectures", "topk", "--l0", "2", "--run", str(run), *QUICK])
    facts = read_run(run)[1]["rows"]
    assert (facts["n_rows"], facts["width"], facts["dtype"]) == (300, 8, "float16")
    assert facts["n_train"] + facts["n_validation"] == 300


def test_texts_that_do_not_fit_the_rows_are_refused_before_anything_is_trained(rows, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    words = ["--activations", str(rows), "--architectures", "topk", "--l0", "1", "--run", str(tmp_path / "run"), *QUICK]
    with pytest.raises(SystemExit):
        cli.main(["train", *words, "--row-text", str(tmp_path / "short.txt")])
    assert "short.txt has 2 entries, and there are 300 rows" in capsys.readouterr().err
    assert not (tmp_path / "run" / "saes").exists()
    (tmp_path / "titles.txt").write_text("title\n" * 300)
    cli.main(["train", *words, "--row-text", str(tmp_path / "titles.txt")])
