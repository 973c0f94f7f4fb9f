"""Monitors: verdicts counted by hand, and files that are refused in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monosemy.errors import UserError
from monosemy.monitors.firings import Firings
from monosemy.monitors.monitor import Monitor, WatchedSae, read_monitors, resolved
from monosemy.monitors.probe import Probe, Weight, sigmoid, write_probe

SAE = WatchedSae("layers.1.resid_post/a", 64, "abc", lambda latent: 8.0 if latent == 3 else None)
FIRINGS = Firings(
    np.array([1, 4, 4, 6]), np.array([3, 3, 7, 3]), np.array([2.0, 6.0, 1.0, 4.0], np.float32), n_tokens=10
)
PROBE = Probe("angry", SAE.label, (Weight(3, 0.5), Weight(7, -2.0), Weight(9, 1.0)), intercept=-1.0, threshold=0.25)


def test_firings_pool_as_counted_by_hand():
    assert [part.tolist() for part in FIRINGS.pooled("max")] == [[3, 7], [6.0, 1.0]]
    assert [part.tolist() for part in FIRINGS.pooled("mean")] == [[3, 7], [1.2, 0.1]]
    with pytest.raises(UserError, match="max, mean"):
        FIRINGS.pooled("sum")


def test_a_latent_flags_from_its_threshold_on():
    raw = Monitor("low", SAE.label, latent=3, threshold=4.0).verdict(FIRINGS)
    assert (raw.flagged, raw.score, raw.position, raw.n_tokens) == (True, 6.0, 4, 2)
    (monitor,) = resolved([Monitor("half", "", latent=3, threshold=0.8, unit="max")], [SAE])
    assert (monitor.sae, monitor.maximum) == (SAE.label, 8.0)
    assert (monitor.verdict(FIRINGS).flagged, monitor.verdict(FIRINGS).score) == (False, 0.75)
    silent = Monitor("silent", SAE.label, latent=5, threshold=1.0).verdict(FIRINGS)
    assert (silent.flagged, silent.score, silent.position, silent.n_tokens) == (False, 0.0, None, 0)


def test_a_probe_scores_its_pooled_latents():
    score = 1 / (1 + math.exp(-(-1 + 0.5 * 6 - 2 * 1)))
    assert PROBE.score(FIRINGS) == pytest.approx(score)
    verdict = Monitor("angry", SAE.label, threshold=0.25, unit="probability", probe=PROBE).verdict(FIRINGS)
    assert (verdict.flagged, verdict.latent, verdict.position) == (True, 3, 4)
    assert verdict.to_json(list("abcdefgh"))["token"] == "e"
    mean = replace(PROBE, pooling="mean").score(FIRINGS)
    assert mean == pytest.approx(1 / (1 + math.exp(-(-1 + 0.5 * 1.2 - 2 * 0.1))))
    assert sigmoid(1e9) == 1.0
    assert sigmoid(-1e9) == 0.0


def written(folder: Path, document: Any) -> Path:
    path = folder / "m.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def listing(*entries: Any, **more: Any) -> dict[str, Any]:
    return {"format": "monosemy-monitor", "version": 1, "sae": SAE.label, "monitors": list(entries), **more}


def test_a_file_lists_latents_and_probes_and_a_probes_file_is_one_monitor(tmp_path: Path):
    write_probe(tmp_path / "p.json", PROBE)
    path = written(
        tmp_path, listing({"latent": 3, "threshold": 1}, {"name": "cross", "probe": "p.json", "threshold": 0.9})
    )
    latent, probe = read_monitors(path)
    assert (latent.name, latent.sae, latent.threshold, latent.unit) == ("latent 3", SAE.label, 1.0, "raw")
    assert (probe.name, probe.threshold, probe.latents) == ("cross", 0.9, [3, 7, 9])
    (alone,) = read_monitors(tmp_path / "p.json")
    assert (alone.name, alone.probe) == ("angry", PROBE)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[", "not valid JSON"),
        ([], "must hold an object"),
        ({"format": "x"}, "its format is 'x'"),
        ({"format": "monosemy-monitor", "version": 2}, "has version 2"),
        ({"format": "monosemy-monitor", "version": 1}, "needs 'monitors'"),
        (listing(), "1 to 1000 monitors"),
        (listing(1), "must be an object"),
        (listing({"threshold": 1}), "either a latent or a probe"),
        (listing({"latent": 3}), "needs a threshold above 0"),
        (listing({"latent": 3, "threshold": 0}), "needs a threshold above 0"),
        (listing({"latent": "3", "threshold": 1}), "must be of type int"),
        (listing({"latent": 3, "threshold": 1, "unit": "maxx"}), "did you mean 'max'"),
        (listing({"latent": 3, "treshold": 1}), "did you mean 'monitor 0 of .*threshold'"),
        (listing({"latent": 3, "threshold": 1}, {"latent": 3, "threshold": 2}), "several monitors named 'latent 3'"),
        (listing({"latent": 3, "threshold": 1}, more=1), "unknown setting"),
        (listing({"probe": "none.json"}), "cannot read"),
        ({"format": "monosemy-probe", "version": 9}, "has version 9"),
        ({"format": "monosemy-probe", "version": 1, "name": "a"}, "needs 'sae'"),
        (
            {
                "format": "monosemy-probe",
                "version": 1,
                "name": "a",
                "sae": "b",
                "weights": [{}],
                "intercept": 0,
                "threshold": 1,
            },
            "weight 0 of the probe .* needs 'latent'",
        ),
        (
            {
                "format": "monosemy-probe",
                "version": 1,
                "name": "a",
                "sae": "b",
                "weights": [],
                "intercept": 0,
                "threshold": 1,
            },
            "1 to 10000 latents",
        ),
    ],
)
def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path, document: Any, message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_monitors(written(tmp_path, document))
    assert "\n" not in str(caught.value)


def test_numbers_that_are_none_are_refused(tmp_path: Path):
    text = json.dumps(
        {"format": "monosemy-probe", "version": 1, "name": "a", "sae": "b", "intercept": 0, "threshold": 1}
    )
    with pytest.raises(UserError, match="finite"):
        read_monitors(written(tmp_path, text[:-1] + ', "weights": [{"latent": 1, "weight": NaN}]}'))


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (Monitor("a", "other/b", latent=1, threshold=1.0), "unknown SAE of monitor 'a' 'other/b'"),
        (Monitor("a", "", latent=64, threshold=1.0), "has latents 0 to 63"),
        (Monitor("a", "", latent=2, threshold=1.0, unit="max"), "which has none"),
        (Monitor("a", SAE.label, threshold=0.5, probe=replace(PROBE, sae_sha256="other")), "other weights"),
    ],
)
def test_monitors_that_do_not_fit_the_sae_are_refused(monitor: Monitor, message: str):
    with pytest.raises(UserError, match=message):
        resolved([monitor], [SAE])
