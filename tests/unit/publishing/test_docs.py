"""docs/published.md does what it says, with local folders in the place of the hub."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from narrow_model import SITE, SIZES, write_inputs
from published_saes import FOLDER, outputs

import monosemy
from monosemy import cli

PAGE = (Path(__file__).parents[3] / "docs" / "published.md").read_text(encoding="utf-8")
HUB = '"google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"'


def test_the_first_block_runs(capsys):
    block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    assert HUB in block
    names = {"activations": outputs("gemma_scope_1")["x"]}
    exec(block.replace(HUB, repr(str(FOLDER / "gemma_scope_1"))), names)
    torch.testing.assert_close(names["reconstruction"], outputs("gemma_scope_1")["recon"])
    assert capsys.readouterr().out.split()[-2] == "96"


def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```\n(monosemy export.*?)```", PAGE, re.DOTALL)[1]
    commands = [line.partition("#")[0].split()[1:] for line in block.splitlines()]
    assert len(commands) == 5
    for words in commands:
        cli.main([str(FOLDER / "lens_topk_unit") if word == "runs/demo" else word for word in words])
    assert (tmp_path / "exports" / "demo" / "cfg.json").is_file()
    assert (tmp_path / "exports" / "smollm-saes" / "README.md").is_file()
    assert "would write" in capsys.readouterr().out


def test_every_transform_and_layout_of_the_page_exists():
    for name in re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE):
        assert hasattr(monosemy.SaeConfig("topk", 2, 4, 1.0).transforms, name)
    for layout in re.findall(r"--layout (\S+)", PAGE):
        assert layout in ("sparsify",)


@pytest.mark.parametrize("case", ["gemma_scope_1", "dl_jumprelu"])
def test_origin_has_what_the_page_says(case):
    origin = monosemy.load_sae(FOLDER / case).config.record["origin"]
    assert origin["files"]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in origin["files"].values())


def test_the_commands_on_an_sae_and_on_a_run_it_joins_run(tmp_path, monkeypatch, capsys):
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copy("text.jsonl", "my-texts.jsonl")
    on_sae, joining = re.findall(r"```\n((?:SAE=|monosemy import).*?)```", PAGE, re.DOTALL)
    # The page's SAE names its model and site; of this one, the test says them.
    flags = ["--model", "model", "--site", SITE, *SIZES]
    for line in on_sae.splitlines()[1:]:
        words = [*shlex.split(line.replace("$SAE", str(FOLDER / "dl_topk")))[1:], *flags]
        if words[0] != "browse":  # it would not end
            cli.main(words)
    (run,) = Path("runs").iterdir()
    assert (run / "report.html").is_file()
    flags += ["--text", "my-texts.jsonl", "--loss-tokens", "512"]
    for line in joining.splitlines():
        words = shlex.split(line.replace("$SAE", str(FOLDER / "dl_topk")))[1:]
        cli.main(words + (flags if words[0] == "import" else []))
    assert "gemma_scope" in capsys.readouterr().out
    assert Path("runs/mine/saes", SITE, "gemma_scope-l0_6", "config.json").is_file()
