"""What the training stage does around the trainer, on a tiny run: the rows that thresholds are calibrated on."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import byte_tokenizer, random_module

from monosemy.config import ActivationsConfig, ModelConfig, RunConfig, TextConfig, TrainingConfig
from monosemy.pipeline import training
from monosemy.run import open_run
from monosemy.saes.storage import load_sae

SITE, L0, N_ROWS = "layers.1.resid_post", 4.0, 512


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    """One site of a random Llama on 8,000 tokens of made-up text, in ten steps."""
    folder = tmp_path_factory.mktemp("inputs")
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    words = np.random.default_rng(0).integers(97, 123, (100, 100)).astype(np.uint8)
    (folder / "text.txt").write_text("\n\n".join(bytes(line).decode() for line in words))
    return RunConfig(
        model=ModelConfig(source=str(folder / "model"), device="cpu"),
        text=TextConfig(source=str(folder / "text.txt"), context_length=32, n_tokens=8000, n_validation_tokens=512),
        activations=ActivationsConfig(sites=(SITE,), dtype="float32"),
        architectures=("gated",),
        l0=(L0,),
        d_sae=64,
        training=TrainingConfig(batch_tokens=800, n_passes=1),
    )


def test_thresholds_are_calibrated_on_the_rows_met_last(config, tmp_path, monkeypatch) -> None:
    """Calibration lands the L0 exactly on its rows, and on no others; so its rows are those on which it does."""
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "CALIBRATION_TOKENS", N_ROWS)
    with open_run(tmp_path / "run", config) as run:
        prepared = training.train(run)
        assert prepared is not None
        assert prepared.store is not None
        [name] = [name for _, name in run.stage_record("training")["saes"] if name.startswith("gated")]
        sae = load_sae(run.files.sae(SITE, name).folder)
        # One pass, so these are the rows of the last steps: training met each of them last of all.
        last = np.sort(prepared.stream._permutation(0)[-N_ROWS:])
        l0 = sae.encode(prepared.store.rows(SITE, last)).l0
        others = [np.random.default_rng(seed).choice(prepared.store.n_rows, N_ROWS, replace=False) for seed in range(8)]
        other_l0s = [sae.encode(prepared.store.rows(SITE, np.sort(numbers))).l0 for numbers in others]
    assert l0 == pytest.approx(L0, abs=2 / N_ROWS)
    # Random draws, that of the rows which the SAE started from among them, have other L0s.
    assert max(abs(other - L0) for other in other_l0s) > 10 / N_ROWS
    assert sae.config.record["calibration"]["n_tokens"] == N_ROWS
