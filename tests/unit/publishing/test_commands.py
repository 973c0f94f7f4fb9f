"""`monosemy export` and `monosemy push`: what is said, what is written, and every refusal in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from published_saes import FOLDER, outputs

from monosemy.errors import UserError
from monosemy.publishing.commands import run_export, run_push
from monosemy.saes.listing import SavedSae
from monosemy.saes.storage import load_sae, save_sae

TOPK = str(FOLDER / "dl_topk")


def test_export_says_its_notes_and_writes_a_folder_that_opens(tmp_path, capsys):
    run_export([TOPK, str(tmp_path / "a"), "--dry-run"])
    printed = capsys.readouterr()
    assert "note: decoder rows are not of unit length" in printed.err
    assert f"would write {tmp_path / 'a'}: cfg.json, sae_weights.safetensors" in printed.out
    assert not (tmp_path / "a").exists()
    run_export([TOPK, str(tmp_path / "a")])
    assert f"written: {tmp_path / 'a'}" in capsys.readouterr().out
    x = outputs("dl_topk")["x"]
    assert torch.equal(load_sae(tmp_path / "a")(x), load_sae(TOPK)(x))
    run_export([TOPK, str(tmp_path / "b"), "--layout", "sparsify"])
    assert (tmp_path / "b" / "layers.3" / "cfg.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([TOPK], "missing: FOLDER"),
        ([TOPK, "out", "--layout", "gemma-scope-2"], "Gemma Scope 2 cannot hold this SAE"),
        ([TOPK, "out", "--sae", "a/b"], "leave it out"),
        (["missing", "out"], "is not a saved SAE"),
    ],
)
def test_export_refuses_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        run_export(words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_export_is_not_mixed_with_a_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is a run, which an export would be mixed with; give another folder"):
        run_export([TOPK, str(run)])
    assert [path.name for path in run.iterdir()] == ["run.json"]


def test_a_dry_push_writes_the_folder_and_a_card(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_push([str(FOLDER / "lens_jumprelu"), "me/saes", "--licence", "mit", "--dry-run"])
    assert capsys.readouterr().out == "written: exports/saes\n"
    folder = tmp_path / "exports" / "saes"
    assert sorted(path.name for path in (folder / "layers.3.resid_post").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    card = (folder / "README.md").read_text()
    for words in (
        "license: mit",
        'base_model: "openai-community/gpt2"',
        "| converted from | SAELens's layout |",
        "| site | `layers.3.resid_post` |",
        "| architecture | JumpReLU |",
        'load_sae("me/saes/layers.3.resid_post")',
        'SAE.from_pretrained("me/saes", "layers.3.resid_post")',
        "load_file(",
        "Its quality was not measured",
    ):
        assert words in card
    assert str(FOLDER) not in card
    with pytest.raises(UserError, match="is no name of a licence on the hub"):
        run_push([TOPK, "me/saes", "--licence", "a: b\nevil: 1"])
    with pytest.raises(UserError, match="is no repository on the hub; it should be like owner/name"):
        run_push([TOPK, "saes", "--licence", "mit"])
    with pytest.raises(UserError, match="missing: --licence"):
        run_push([TOPK, "me/saes"])


def test_the_card_has_the_measures_of_the_run_with_intervals():
    from monosemy.publishing.card import card_text

    config = load_sae(FOLDER / "gemma_scope_2_transcoder").config
    measures = {
        "l0": 31.9,
        "l0_interval": [31.0, 32.8],
        "fvu": 0.2134,
        "fvu_interval": [0.201, 0.226],
        "n_tokens": 60_000,
        "n_documents": 120,
        "delta_loss": 0.31,
        "delta_loss_interval": None,
    }
    card = card_text(config, "me/saes", "x", licence="mit", layout="sparsify", measures=measures)
    assert "Measured on 60,000 held-out tokens of 120 documents" in card
    assert "| FVU (unexplained share of the variance) | 0.213 [0.201, 0.226] |" in card
    assert "nats per token) | 0.310 |" in card
    assert "# A transcoder of google/gemma-3-270m" in card
    assert "skip True" in card


def test_a_first_look_is_said_and_stands_on_the_card(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sae = load_sae(TOPK)
    sae.config = replace(sae.config, record={**sae.config.record, "first_look": True})
    save_sae(sae, tmp_path / "sae")
    words = "first look: trained on the start of the text only"
    run_export([str(tmp_path / "sae"), "out", "--dry-run"])
    assert f"note: {words}" in capsys.readouterr().err
    run_push([str(tmp_path / "sae"), "me/saes", "--licence", "mit", "--dry-run"])
    assert words in next((tmp_path / "exports").rglob("README.md")).read_text()
    assert SavedSae("s", "n", tmp_path, {"record": sae.config.record}).warnings == [words]


def test_an_upload_is_one_call_and_its_refusals_one_line(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda self, repository, **options: calls.append(repository)
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi, "upload_folder", lambda self, **options: f"https://hub/{options['repo_id']}"
    )
    run_push([TOPK, "me/saes", "--licence", "mit", "--path", "topk"])
    assert calls == ["me/saes"]
    assert "uploaded: https://hub/me/saes" in capsys.readouterr().out

    def refused(self, **options):
        raise OSError("connection refused\nby the other side")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", refused)
    with pytest.raises(UserError, match="the upload to 'me/saes' failed \\(connection refused by the other side\\)"):
        run_push([TOPK, "me/saes", "--licence", "mit"])
    with pytest.raises(UserError, match="is no folder of a repository"):
        run_push([TOPK, "me/saes", "--licence", "mit", "--path", "../x"])
