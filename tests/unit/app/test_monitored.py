"""`monosemy probe` and `monosemy trace --monitor` on a tiny random model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from app_cases import LIVE_NAME, LIVE_SITE, model_run

from monosemy.app.catalogue import Catalogue
from monosemy.app.live import LiveModel, read_text
from monosemy.app.pooled import pool_texts
from monosemy.app.probe_command import run_probe
from monosemy.app.trace_command import run_trace
from monosemy.errors import UserError
from monosemy.monitors.monitor import read_monitors

LABEL = f"{LIVE_SITE}/{LIVE_NAME}"
TEXTS = [(f"{'ab' if i % 2 else 'yz'}{i * i}", i % 2) for i in range(40)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def live(run: Path) -> LiveModel:
    return LiveModel(Catalogue(run))


@pytest.fixture(scope="module")
def labelled(run: Path) -> Path:
    path = run / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in TEXTS))
    return path


@pytest.fixture(scope="module")
def probe(run: Path, labelled: Path) -> Path:
    run_probe([str(run), str(labelled), "--n-latents", "3", "--out", str(run / "p.json"), "--name", "kind"])
    return run / "p.json"


def activations(live: LiveModel, text: str) -> dict[int, float]:
    """Each latent's largest activation in a text."""
    reading = read_text(live, live.catalogue.sae(LIVE_SITE, LIVE_NAME), text)
    return {row["latent"]: row["value"] for row in reading.summary()}


def test_texts_are_pooled_over_the_tokens_that_are_read(live: LiveModel):
    pooled = pool_texts(live, (LIVE_SITE, LIVE_NAME), ["In July", "y" * 100], pooling="max")
    for number, text in enumerate(("In July", "y" * 100)):  # the second is read in two windows
        row = {i: v for i, v in enumerate(pooled.latents[number].toarray()[0]) if v}
        assert row == pytest.approx(activations(live, text), rel=1e-5)
    model = live.model()
    ids = [256, *model.tokenizer("In July")["input_ids"]]
    rows = model.activations(torch.tensor([ids]), [LIVE_SITE])[LIVE_SITE][0, 1:].float().numpy()
    assert pooled.raw_mean[0] == pytest.approx(rows.mean(0), abs=1e-5)
    assert pooled.raw_max[0] == pytest.approx(rows.max(0), abs=1e-5)


def test_a_probe_is_written_with_what_it_was_measured_by(probe: Path):
    (monitor,) = read_monitors(probe)
    assert (monitor.name, monitor.sae, 1 <= len(monitor.latents) <= 3) == ("kind", LABEL, True)
    measured = json.loads(probe.read_text())["measured"]
    assert (measured["n_texts"], measured["n_positive"]) == (40, 20)
    assert set(measured["auroc"]) == {"3 latents", "raw activations, mean", "raw activations, max"}
    assert all(0 <= entry["value"] <= 1 for entry in measured["auroc"].values())
    assert len(measured["auroc_shuffled"]) == 5
    assert measured["share_flagged"]["negative"] <= 0.05


def test_the_command_prints_the_probe_beside_baseline_and_control(run: Path, labelled: Path, tmp_path: Path, capsys):
    run_probe([str(run), str(labelled), "--pooling", "mean", "--out", str(tmp_path / "p.json")])
    printed = capsys.readouterr().out
    assert printed.startswith(f"40 texts: 20 '1', 20 '0'; mean-pooled latents of {LABEL}")
    for words in ("8 latents", "raw activations, mean", "raw activations, max", "shuffled labels", "threshold 0."):
        assert words in printed


def test_trace_judges_a_file_row_by_row_as_the_probe_scores_it(
    run: Path, live: LiveModel, labelled: Path, probe: Path, capsys: pytest.CaptureFixture[str]
):
    document = json.loads(probe.read_text())
    run_trace([str(run), str(labelled), "--monitor", str(probe), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["source"] for row in rows] == [f"row {i}" for i in range(1, 41)]
    for (text, _), row in zip(TEXTS[:5], rows, strict=False):
        peaks = activations(live, text)
        logit = document["intercept"] + sum(w["weight"] * peaks.get(w["latent"], 0) for w in document["weights"])
        (verdict,) = row["monitors"]
        assert verdict["score"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-4)
        assert row["flags"] == (["kind"] if verdict["score"] >= document["threshold"] else [])
    run_trace([str(run), str(labelled), "--monitor", str(probe)])
    n_flagged = sum(bool(row["flags"]) for row in rows)
    assert capsys.readouterr().out.splitlines()[-1] == f"flagged of 40 texts: kind {n_flagged}"


def test_trace_judges_a_text_by_a_latents_threshold(
    run: Path, live: LiveModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = tmp_path / "a.txt"
    text.write_text("In July")
    peaks = activations(live, "In July")
    latent = max(peaks, key=lambda i: peaks[i])
    for share, word in ((0.5, "flagged by"), (2.0, "not flagged by")):
        entries = [{"latent": latent, "threshold": share * peaks[latent], "unit": "max"}]  # every maximum is 1 here
        document = {"format": "monosemy-monitor", "version": 1, "monitors": entries}
        (tmp_path / "m.json").write_text(json.dumps(document))
        run_trace([str(run), str(text), "--monitor", str(tmp_path / "m.json")])
        assert f"{text}: {word} latent {latent}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "p.txt"], "--out is a JSON file"),
        (["--label-column", "kind"], "unknown column of labels"),
        (["--positive", "2"], "unknown label"),
        (["--n-latents", "0"], "must be at least 1"),
        (["--chat"], "this is no chat"),
    ],
)
def test_bad_input_is_refused(run: Path, labelled: Path, tmp_path: Path, words: list[str], message: str):
    out = [] if "--out" in words else ["--out", str(tmp_path / "p.json")]
    with pytest.raises(UserError, match=message):
        run_probe([str(run), str(labelled), *words, *out])


def test_a_probe_is_not_written_over_another(run: Path, labelled: Path, probe: Path):
    with pytest.raises(UserError, match="exists already"):
        run_probe([str(run), str(labelled), "--out", str(probe)])


@pytest.mark.parametrize("words", [["--out", "e.csv", "--monitor", "m.json"], ["--json"]])
def test_flags_that_do_not_go_together_are_refused(run: Path, labelled: Path, words: list[str]):
    with pytest.raises(UserError, match="--monitor"):
        run_trace([str(run), str(labelled), *words])
