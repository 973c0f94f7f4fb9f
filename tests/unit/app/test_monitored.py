"""`monosemy probe` and `monosemy trace --monitor` on a tiny random model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from app_cases import LIVE_NAME, LIVE_SITE, model_run

from monosemy.app.catalogue import Catalogue
from monosemy.app.live import LiveModel, read_text
from monosemy.app.monitored import firings_of, monitors_of, print_verdicts, texts_of
from monosemy.app.pooled import pool_texts
from monosemy.app.probe_command import run_probe
from monosemy.app.text_scope import JUDGED, MAX_TOKENS
from monosemy.app.trace_command import run_trace
from monosemy.errors import UserError
from monosemy.monitors.labelled import MAX_CHARACTERS, Columns, read_labelled
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


LATE = 20_000
"""Tokens before the one that a monitor is to find: more than the pages read of a text."""


@pytest.fixture(scope="module")
def late(run: Path, live: LiveModel) -> tuple[Path, Path, int]:
    """(text, monitor's file, its latent): the latent is active enough at the end of the text, and not before."""
    before, whole = (activations(live, text) for text in ("a" * 150, "a" * 150 + "Zebra"))
    latent = max(whole, key=lambda i: whole[i] / max(before.get(i, 0.0), 1e-6))
    assert whole[latent] > 1.1 * before.get(latent, 0.0)
    threshold = (whole[latent] + before.get(latent, 0.0)) / 2
    (run / "late.txt").write_text("a" * LATE + "Zebra")
    document = {"format": "monosemy-monitor", "version": 1, "monitors": [{"latent": latent, "threshold": threshold}]}
    (run / "late.json").write_text(json.dumps(document))
    return run / "late.txt", run / "late.json", latent


def test_a_monitor_reads_a_text_to_its_end(run: Path, late: tuple[Path, Path, int], capsys: pytest.CaptureFixture[str]):
    text, monitors, latent = late
    run_trace([str(run), str(text), "--monitor", str(monitors), "--json"])
    judgement = json.loads(capsys.readouterr().out)
    (verdict,) = judgement["monitors"]
    assert (verdict["latent"], verdict["flagged"], verdict["n_dropped"]) == (latent, True, 0)
    assert LATE <= verdict["position"] <= LATE + 5
    assert judgement["flags"] == [f"latent {latent}"]
    rows = run / "late.jsonl"
    rows.write_text("\n".join(json.dumps({"text": row}) for row in ("short", text.read_text())))
    run_trace([str(run), str(rows), "--monitor", str(monitors)])
    assert capsys.readouterr().out.splitlines()[-1] == f"flagged of 2 texts: latent {latent} 1"


def test_rows_may_be_longer_than_those_of_a_probe(tmp_path: Path):
    rows = tmp_path / "long.jsonl"
    rows.write_text(json.dumps({"text": "a" * (MAX_CHARACTERS + 1), "label": 1}))
    assert [len(text) for _, text in texts_of(rows, "")] == [MAX_CHARACTERS + 1]
    with pytest.raises(UserError, match="at most 60,000 are taken: cut it in two"):
        read_labelled(rows, Columns(), "")


def test_a_verdict_says_what_was_not_read(
    run: Path, live: LiveModel, late: tuple[Path, Path, int], capsys: pytest.CaptureFixture[str]
):
    """As where a reader has a limit: the pages do."""
    text, path, _ = late
    (monitor,) = monitors_of(live.catalogue, live.catalogue.sae(LIVE_SITE, LIVE_NAME), [path])
    reading = read_text(live, live.catalogue.sae(LIVE_SITE, LIVE_NAME), text.read_text())
    assert reading.n_dropped == LATE + 5 - MAX_TOKENS
    verdict = monitor.verdict(firings_of(reading)).to_json(reading.pieces)
    assert (verdict["flagged"], verdict["n_dropped"]) == (False, reading.n_dropped)
    print_verdicts("it", [verdict], as_json=False, only_flagged=False)
    assert "; the last 3,621 tokens were not read" in capsys.readouterr().out


def test_only_the_firings_of_watched_latents_are_kept(live: LiveModel):
    sae, text = live.catalogue.sae(LIVE_SITE, LIVE_NAME), "In July, " * 20
    whole = read_text(live, sae, text)
    latents = np.unique(whole.latent)[::5].tolist()
    reading = read_text(live, sae, text, scope=replace(JUDGED, latents=latents))
    own = np.isin(whole.latent, latents)
    assert 0 < own.sum() < len(own)
    for name in ("position", "latent", "value"):
        assert (getattr(reading, name) == getattr(whole, name)[own]).all()
    assert (reading.is_read == whole.is_read).all()


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
