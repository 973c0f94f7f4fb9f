"""The latents in which two texts differ: counted by hand, and as files that others can check."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from app_cases import LIVE_NAME, LIVE_SITE, model_run

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.differences import TextDifferences, differences, written_differences
from monosemy.app.live import LiveModel, read_text
from monosemy.app.trace_command import run_trace
from monosemy.errors import UserError

TEXTS = ('In "July"', "<b>In May</b>")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def live(run: Path) -> LiveModel:
    return LiveModel(Catalogue(run))


@pytest.fixture(scope="module")
def sae(live: LiveModel) -> Dictionary:
    return live.catalogue.sae(LIVE_SITE, LIVE_NAME)


@pytest.fixture(scope="module")
def texts(live: LiveModel, sae: Dictionary) -> TextDifferences:
    first, second = (read_text(live, sae, text) for text in TEXTS)
    return differences(sae, first, second)


def peaks(texts: TextDifferences) -> list[dict[int, float]]:
    """Of each text, the largest activation of every latent that fires there."""
    values: list[dict[int, float]] = [{}, {}]
    for reading, peak in zip(texts.readings, values, strict=True):
        for latent, value in zip(reading.latent.tolist(), reading.value.tolist(), strict=True):
            peak[latent] = max(value, peak.get(latent, 0.0))
    return values


def test_every_latent_of_either_text_is_there_once(texts: TextDifferences):
    first, second = peaks(texts)
    assert sorted(row.latent for row in texts.latents) == sorted({**first, **second})
    for row in texts.latents:
        expected = first.get(row.latent, 0.0) - second.get(row.latent, 0.0)  # every maximum of this run is 1
        assert row.difference == pytest.approx(expected)
    sizes = [abs(row.difference) for row in texts.latents]
    assert sizes == sorted(sizes, reverse=True)
    assert texts.count("first") == len(first.keys() - second.keys())
    assert texts.count("second") == len(second.keys() - first.keys())
    assert texts.count("both") == len(first.keys() & second.keys())


def test_with_features_the_difference_is_of_the_logarithms_of_rarity(
    live: LiveModel, sae: Dictionary, monkeypatch: pytest.MonkeyPatch
):
    """Rarities by hand: a latent of number i is as strong on one in i + 2 tokens, wherever it fires."""
    monkeypatch.setattr("monosemy.app.own_text.one_in", lambda database, latent, value: latent + 2.0)
    rows = differences(sae, *(read_text(live, sae, text) for text in TEXTS)).latents
    for row in rows:
        sign = {"first": 1, "second": -1, "both": 0}[row.fires_in]
        assert row.difference == pytest.approx(sign * math.log(row.latent + 2))


def test_files_hold_all_of_it(texts: TextDifferences):
    first, second = peaks(texts)
    rows = list(csv.DictReader(io.StringIO(written_differences(texts, {}, "csv"))))
    assert [int(row["latent"]) for row in rows] == [row.latent for row in texts.latents]
    for side, values in (("first", first), ("second", second)):
        cells = {int(row["latent"]): row for row in rows if row[f"{side}_activation"]}
        assert {i: float(row[f"{side}_activation"]) for i, row in cells.items()} == pytest.approx(values)
        text = "".join(texts.readings[side == "second"].pieces)
        for row in cells.values():
            context = json.loads(row[f"{side}_context"])
            assert context.replace("«", "").replace("»", "") in text
    document = json.loads(written_differences(texts, {"SAE": "it"}, "json"))
    assert document["about"] == {"SAE": "it"}
    assert "".join(document["texts"]["second"]["tokens"][1:]) == TEXTS[1]
    assert {row["latent"]: row["first"]["value"] for row in document["latents"] if row["first"]} == pytest.approx(first)
    page = written_differences(texts, {"SAE": "<b>x</b>"}, "html")
    assert f"<caption>{texts.count('second')} latents that fire in the second text only</caption>" in page
    assert "<b>" not in page
    with pytest.raises(UserError, match="csv, json, html"):
        written_differences(texts, {}, "pdf")


def test_the_command_writes_them(run: Path, texts: TextDifferences, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, text in zip("ab", TEXTS, strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    words = [str(run), str(tmp_path / "a.txt"), "--against", str(tmp_path / "b.txt")]
    for kind in ("csv", "json", "html"):
        out = tmp_path / f"d.{kind}"
        run_trace([*words, "--out", str(out)])
        assert capsys.readouterr().out.startswith(f"{out}: {texts.count('first')} latents fire in {words[1]} only, ")
        assert out.stat().st_size > 500
    document = json.loads((tmp_path / "d.json").read_text())
    assert document["about"]["SAE"] == f"{LIVE_SITE}/{LIVE_NAME}"
    assert [row["latent"] for row in document["latents"]] == [row.latent for row in texts.latents]
    with pytest.raises(UserError, match="exists already"):
        run_trace([*words, "--out", str(tmp_path / "d.csv")])
