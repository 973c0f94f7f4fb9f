"""`monosemy features` on a run on rows: strongest rows with texts and pictures, labels, search, pages, exports."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from app_cases import Server
from PIL import Image
from row_runs import KINDS, NAME, N, row_run, write_table

from monosemy import cli
from monosemy.app import schema
from monosemy.app.report_section import read_section
from monosemy.features.store.database import open_features
from monosemy.run import read_run
from monosemy.saes.storage import load_sae


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rows, kind = write_table(folder)
    return folder, rows, kind


@pytest.fixture(scope="module")
def run(table):
    return row_run(table[0])


def test_the_strongest_rows_are_those_of_the_sae_itself(run, table):
    folder, rows, _ = table
    database = open_features(run)
    codes = load_sae(run / "saes" / "rows" / NAME).encode(torch.from_numpy(rows)).to_dense().numpy()
    for latent in np.flatnonzero((codes > 0).any(0)):
        examples = database.examples(latent, ["top"])
        numbers = database.row_numbers(np.array([example.context for example in examples]))
        strongest = np.argsort(-codes[:, latent], kind="stable")[: min(16, (codes[:, latent] > 0).sum())]
        assert numbers == strongest.tolist()
        np.testing.assert_allclose([e.value for e in examples], codes[strongest, latent], rtol=0.05)
        assert database.stats(latent)["max"] == pytest.approx(codes[:, latent].max(), rel=1e-5)
        assert database.stats(latent)["firing_rate"] == pytest.approx((codes[:, latent] > 0).mean(), abs=1e-6)
        titles = pyarrow.parquet.read_table(folder / "rows.parquet")["title"].to_pylist()
        shown = [database.tokens.text(int(e.token_ids[0])) for e in examples]
        assert shown == [titles[number].replace("\n", " ") for number in numbers]


def test_a_label_names_what_its_rows_have_in_common(run, table):
    _, rows, kind = table
    database = open_features(run)
    codes = load_sae(run / "saes" / "rows" / NAME).encode(torch.from_numpy(rows)).to_dense().numpy()
    one_kind = 0
    for latent in np.flatnonzero((codes > 0).sum(0) >= 40):
        kinds = np.bincount(kind[codes[:, latent] > 0], minlength=3)
        if kinds.max() < 0.95 * kinds.sum():
            continue
        one_kind += 1
        assert database.label(latent)["text"] == f"“{KINDS[kinds.argmax()]}”"
        assert database.stats(latent)["label_auroc"] > 0.9
    assert one_kind > 0


def test_pages_search_and_pictures_are_served(run):
    database = open_features(run)
    with Server(run) as server:
        facts = server.get("/api/run")
        schema.RunInfo.model_validate_json(json.dumps(facts))
        assert (facts["unit"], facts["n_rows"], facts["row_texts"]) == ("rows", N, True)
        page = server.get(f"/api/f/rows/{NAME}/latent/3")
        schema.LatentPage.model_validate_json(json.dumps(page))
        assert page["positions"] == page["raised"] == page["lowered"] == []
        cards = server.get(f"/api/f/rows/{NAME}/highlights")
        schema.Highlights.model_validate_json(json.dumps(cards))
        assert cards["latents"]
        assert all(example["picture"] for card in cards["latents"] for example in card["examples"])
        assert read_section(run) is not None
        for example in page["examples"]:
            assert example["picture"]
            assert example["row"] == database.row_numbers(np.array([example["context"]]))[0]
        # Which of the kinds got a latent of its own is left to training.
        labels = {database.label(latent)["text"].strip("“”") for latent in range(database.n_latents)}
        word = sorted(labels & set(KINDS))[0]
        hits = server.get(f"/api/f/rows/{NAME}/token?text=the%20{word}")
        schema.TokenSearch.model_validate_json(json.dumps(hits))
        assert hits["hits"]
        assert f"“{word}”" in {database.label(hit["latent"])["text"] for hit in hits["hits"]}
        assert word in {t["id"]: t["text"] for t in hits["tokens"]}[hits["hits"][0]["token"]]
        connection = server.connect()
        connection.request("GET", f"/api/f/rows/{NAME}/picture/{page['examples'][0]['context']}")
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "image/png"
        assert Image.open(io.BytesIO(answer.read())).size == (96, 96)
        for name in ("9999999", "-1", "..%2f..%2frun.json", "1_0", "x"):
            assert server.refusal("GET", f"/api/f/rows/{NAME}/picture/{name}")[0] == 404
        status, message = server.refusal("POST", f"/api/f/rows/{NAME}/text", {"text": "hello"})
        assert status == 503
        assert "no language model" in message


def test_terminal_and_written_page_show_rows(run, tmp_path, capsys):
    cli.main(["show", str(run), "0"])
    printed = capsys.readouterr().out
    assert "the green thing" in printed or "the red thing" in printed or "the blue thing" in printed
    assert "Raises" not in printed
    cli.main(["export-html", str(run), "0", "--out", str(tmp_path / "page.html")])
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in written
    assert "http" not in written.replace("http-equiv", "")
    for command, out in (("export-neuronpedia", "n"), ("export-circuit-tracer", "c")):
        with pytest.raises(SystemExit):
            cli.main([command, str(run), "--out", str(tmp_path / out)])
        assert "needs tokens of a text, and this run is on rows" in capsys.readouterr().err


def test_texts_may_come_later_and_from_a_file_and_stay(run, table, tmp_path):
    folder, _, _ = table
    before = read_run(run)[0].rows
    cli.main(["features", str(run), "--row-text", f"{folder / 'titles.jsonl'}:title", "--row-image", "bytes"])
    database = open_features(run)
    assert database.picture(database.examples(0)[0].context) is not None
    assert read_run(run)[0].rows.text == f"{folder / 'titles.jsonl'}:title"
    cli.main(["features", str(run), "--row-text", before.text, "--row-image", before.image])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row-text", "nothing"], "unknown column"),
        (["--row-text", "short.txt"], "has 2 entries, and there are 240 rows"),
        (["--row-text", "gone.txt"], "gone.txt does not exist"),
        (["--row-text", "titles.jsonl"], "unknown field"),
        (["--row-text", "vector"], "not texts"),
        (["--row-image", "outside"], "is not in"),
        (["--row-image", "lost"], "no picture can be read"),
        (["--row-image", "title"], "no picture can be read"),
        (["--row-image", "path", "--row-image-folder", "gone"], "is no folder"),
        (["--embedding-model", "x"], "--embedding-model"),
    ],
)
def test_what_does_not_fit_the_rows_is_one_line(run, table, monkeypatch, capsys, words, message):
    monkeypatch.chdir(table[0])
    with pytest.raises(SystemExit) as ended:
        cli.main(["features", str(run), *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
