"""SAEs as they are listed and chosen: controls named and last, stopped ones never taken, on every command's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from monosemy.config import ModelConfig, RunConfig
from monosemy.errors import UserError
from monosemy.pipeline import all_stopped
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.listing import choose_sae, saved_saes
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae

FIRST, SECOND = "layers.2.resid_post", "layers.10.resid_post"


def make_run(folder: Path, *saes: tuple[str, str, int, bool, bool]) -> Path:
    """A run of untrained SAEs: (site, name's first word, L0, control, stopped)."""
    with open_run(folder, RunConfig(model=ModelConfig(source="embedded"))) as run:
        for site, label, l0, control, stopped in saes:
            name = f"{label}-l0_{l0}-s0"
            record = {"stopped": f"{name} at {site} stopped: the loss became nan at step 3; the other SAEs go on"}
            config = SaeConfig(
                "topk" if control else label,
                16,
                32,
                l0,
                site=site,
                frozen_decoder=control,
                record=record if stopped else {},
            )
            save_sae(build_sae(config), run.files.sae(site, name).folder)
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(
        tmp_path / "run",
        (SECOND, "topk", 4, False, False),
        (SECOND, "frozen_random", 4, True, False),
        (FIRST, "frozen_random", 4, True, False),
        (FIRST, "jumprelu", 4, False, True),
        (FIRST, "topk", 4, False, False),
        (FIRST, "topk", 16, False, False),
    )


def test_controls_and_stopped_ones_come_last_and_numbers_count_as_numbers(run):
    assert [(sae.label, sae.kind, sae.remark) for sae in saved_saes(run)] == [
        (f"{FIRST}/topk-l0_4-s0", "topk", ""),
        (f"{FIRST}/topk-l0_16-s0", "topk", ""),
        (f"{FIRST}/frozen_random-l0_4-s0", "frozen_random", " (control)"),
        (f"{FIRST}/jumprelu-l0_4-s0", "jumprelu", " (training stopped early)"),
        (f"{SECOND}/topk-l0_4-s0", "topk", ""),
        (f"{SECOND}/frozen_random-l0_4-s0", "frozen_random", " (control)"),
    ]


def test_neither_is_taken_by_default_and_a_stopped_one_is_refused_by_name(run):
    assert choose_sae(run).label == f"{FIRST}/topk-l0_4-s0"  # not the JumpReLU, which stopped
    assert choose_sae(run, f"{FIRST}/frozen_random-l0_4-s0").control  # asked for, a control is given
    with pytest.raises(UserError, match=r"jumprelu-l0_4-s0 stopped early \(the loss became nan at step 3\)") as raised:
        choose_sae(run, "jumprelu-l0_4-s0")
    assert "\n" not in str(raised.value)
    assert not all_stopped(run)


def test_nothing_but_stopped_ones_is_an_error(tmp_path):
    stopped = [(FIRST, "topk", l0, False, True) for l0 in (4, 8)]
    run = make_run(tmp_path / "run", *stopped, (FIRST, "frozen_random", 4, True, True))
    with pytest.raises(UserError, match=r"training of every SAE of .* stopped early .*new folder.*--training\."):
        choose_sae(run)
    assert all_stopped(run)


def test_info_names_the_run_that_may_have_been_meant(run, capsys):
    from monosemy.cli import main

    with pytest.raises(SystemExit):
        main(["info", f"{run}s"])
    assert f"did you mean {run}?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "export-html", "export-parquet", "explain"])
def test_a_run_of_stopped_ones_is_not_told_to_build_features(tmp_path, capsys, command):
    from monosemy.cli import main

    run = make_run(tmp_path / "run", (FIRST, "topk", 4, False, True))
    words = {"show": ["1"], "explain": ["--chat", "http://127.0.0.1:9"]}.get(command, ["1", "--out", "x.html"])
    with pytest.raises(SystemExit) as ended:
        main([command, str(run), *words])
    assert ended.value.code == 2
    assert "training of every SAE of" in capsys.readouterr().err


def test_a_control_alone_does_not_save_a_run(tmp_path):
    run = make_run(tmp_path / "run", (FIRST, "topk", 4, False, True), (FIRST, "frozen_random", 4, True, False))
    assert all_stopped(run)


def test_info_names_controls_and_stopped_ones(run, capsys):
    from monosemy.cli import main

    main(["info", str(run)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(f"  {FIRST}/")]
    assert (lines[2][0], lines[2][-1]) == (f"{FIRST}/frozen_random-l0_4-s0", "(control)")
    assert (lines[3][0], lines[3][-3:]) == (f"{FIRST}/jumprelu-l0_4-s0", ["(training", "stopped", "early)"])


@pytest.mark.parametrize("command", ["show", "export-html", "export-parquet", "explain"])
def test_an_sae_without_features_is_told_the_command_that_builds_them(run, capsys, command):
    from monosemy.cli import main

    words = {"show": ["1"], "explain": ["--chat", "http://127.0.0.1:9"]}.get(command, ["1", "--out", "x.html"])
    with pytest.raises(SystemExit) as ended:
        main([command, str(run), *words, "--sae", f"{FIRST}/topk-l0_16-s0"])
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"has no features yet; build them: monosemy features {run} --saes {FIRST}/topk-l0_16-s0" in message
    assert "unknown" not in message


def test_the_browser_lists_them_in_the_same_order_and_never_as_what_a_control_is_trained_as(run):
    from monosemy.app.catalogue import Catalogue

    entries = [sae.entry() for sae in Catalogue(run).saes()]
    assert [f"{entry['site']}/{entry['name']}" for entry in entries] == [sae.label for sae in saved_saes(run)]
    control = entries[2]
    assert (control["architecture"], control["control"]) == ("frozen_random", True)
    assert control["build_command"].endswith(f" --saes {FIRST}/frozen_random-l0_4-s0")
    assert [bool(entry["stopped"]) for entry in entries] == [False, False, False, True, False, False]
