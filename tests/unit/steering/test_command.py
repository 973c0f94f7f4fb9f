"""What `monosemy steer` understands and what it refuses, before any model is loaded."""

from __future__ import annotations

import re

import orjson
import pytest
import torch
from feature_runs import NAME, SITE, write_feature_run

from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.features.store.database import open_features
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from monosemy.steering import candidates, command
from monosemy.steering.finding import cut_words, named, names_of, warn_of_cut_words
from monosemy.steering.request import Edit, Positions


def read(*words: str):
    return command._request(command._parser().parse_args(["RUN", "--prompt", "Hello", *words]))


def test_the_default_sae_is_jumprelu_at_the_middle_l0(run):
    assert command.choose_sae(run, None).name == "jumprelu-l0_4-s0"
    assert command.choose_sae(run, "topk-l0_4-s0").name == "topk-l0_4-s0"
    assert command.choose_sae(run, "layers.2.resid_post/jumprelu-l0_8-s0").name == "jumprelu-l0_8-s0"


def test_the_default_sae_is_of_the_first_site_and_the_one_that_has_features_by_default(run):
    from monosemy.pipeline.features import choose_saes

    sites = ("layers.1.resid_post", "layers.3.resid_post")  # around layers.2, where the fixture's SAEs are
    for site, architecture, l0 in (
        (sites[0], "topk", 2),
        (sites[0], "topk", 8),
        (sites[0], "topk", 16),
        (sites[1], "jumprelu", 3),
        (sites[1], "jumprelu", 16),
        (sites[1], "jumprelu", 32),
    ):
        sae = build_sae(SaeConfig(architecture, 16, 32, l0, site=site))
        save_sae(sae, run / "saes" / site / f"{architecture}-l0_{l0}-s0")
    default = command.choose_sae(run, None)
    assert default.key == (sites[0], "topk-l0_8-s0")
    assert choose_saes(run, None) == [default.key]


def test_one_operation_for_named_latents_and_more_edits_beside(run):
    request = read(
        "--latent", "12", "14", "--set", "8", "--unit", "max", "--edit", "3:ablate", "--edit", "4:add:-2:norm"
    )
    assert request.edits == (
        Edit(12, "set", 8.0, "max"),
        Edit(14, "set", 8.0, "max"),
        Edit(3, "ablate", 0.0, "raw"),
        Edit(4, "add", -2.0, "norm"),
    )
    assert request.columns is None
    assert read("--latent", "1", "--ablate", "--columns", "steered").columns == ("steered",)


def test_positions(run):
    assert read("--latent", "1", "--ablate", "--positions", "generated").positions == Positions("generated")
    assert read("--latent", "1", "--ablate", "--positions", "3-10").positions == Positions("range", 3, 10)
    assert read("--latent", "1", "--ablate", "--positions", "3-").positions == Positions("range", 3, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latent", "1"], "what to do with the latent.*--add, --set"),
        (["--set", "1"], "--set needs --latent"),
        (["--latent", "1", "--set", "1", "--add", "2"], "takes one operation, got --add and --set"),
        (["--latent", "1", "--set", "1", "--unit", "maxx"], "unknown unit 'maxx'; did you mean 'max'"),
        (["--edit", "12"], r"an edit is written \[SAE:\]LATENT:OPERATION\[:VALUE\[:UNIT\]\].*got '12'"),
        (["--edit", "x:set:1"], "got 'x:set:1'"),
        (["--edit", "1:sett:1"], "unknown operation 'sett'"),
        (["--latent", "1", "--ablate", "--positions", "range"], "give the range itself"),
        (["--latent", "1", "--ablate", "--positions", "al"], "unknown positions 'al'"),
        (["--latent", "3", "--set", "8", "--edit", "3:ablate"], "latent 3 is edited by set and ablate"),
        ([], "nothing to steer"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, message):
    with pytest.raises(UserError, match=message) as caught:
        read(*words)
    assert "\n" not in str(caught.value)


def test_bad_runs_saes_and_latents_are_refused_without_loading_the_model(run, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(command, "load_run", never)
    steer = ["--latent", "1", "--set", "1", "--prompt", "Hello"]
    for words, message in (
        ([str(tmp_path), *steer], "is not a run folder"),
        ([str(run), "--sae", "jumprelu-l0_3-s0", *steer], "unknown SAE 'jumprelu-l0_3-s0'; did you mean"),
        ([str(run), "--latent", "32", "--set", "1", "--prompt", "Hello"], "latent 32 is out of range; .* 0 to 31"),
        ([str(run), "--latent", "1", "--set", "1"], "the prompt is empty"),
    ):
        with pytest.raises(UserError, match=message):
            command.run_steer(words)
    empty = tmp_path / "empty"
    open_run(empty, RunConfig()).close()
    with pytest.raises(UserError, match="has no trained SAE; train it: monosemy train"):
        command.run_steer([str(empty), *steer])


def test_columns_measures_and_sweeps_are_printed(run, monkeypatch, tiny_model, capsys):
    from steering_cases import scales_of, tiny_sae

    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(command, "load_run", lambda *_: (model, sae, scales))
    steer = [str(run), "--latent", "5", "--unit", "norm", "--prompt", "The mill", "--tokens", "5"]
    command.run_steer([*steer, "--set", "2"])
    output = capsys.readouterr().out
    for words in ("default", "steered", "random", "tokens", "nats"):
        assert words in output
    command.run_steer([*steer, "--set", "2", "--json"])
    events = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (events[0]["kind"], events[-1]["kind"], events[-1]["untouched"]) == ("start", "end", [])
    assert [column["column"] for column in events[0]["columns"]] == ["default", "steered", "random"]
    command.run_steer([*steer, "--sweep", "0", "2"])
    assert "0.00" in capsys.readouterr().out
    command.run_steer([str(run), "--find", "mill"])
    printed = capsys.readouterr().out
    assert "unsteered" in printed
    for flags, operation in ((["--add", "2"], ("add", 2.0)), ([], ("set", None))):
        command.run_steer([str(run), "--find", "mill", *flags, "--prompt", "The mill", "--tokens", "5", "--json"])
        captured = capsys.readouterr()
        (edit,) = orjson.loads(captured.out.splitlines()[0])["columns"][1]["edits"]
        assert re.search(rf"latents tried.* {edit['latent']} (is shown|says)", captured.err)
        assert edit["operation"] == operation[0]
        assert operation[1] in (None, edit["value"])
    with pytest.raises(UserError, match="leave out --latent"):
        command.run_steer([str(run), "--find", "mill", "--prompt", "The mill", "--latent", "1", "--ablate"])


@pytest.mark.parametrize(
    ("edits", "warned"),
    [
        (["--latent", "5", "--set", "5", "--unit", "norm"], "5 typical norms are far too much for latent 5"),
        (["--edit", "5:set:0.4:norm", "--edit", "7:add:-3:norm"], "3 typical norms are far too much for latent 7"),
        (["--latent", "5", "--set", "0.9", "--unit", "norm"], ""),
        (["--latent", "5", "--ablate"], ""),
        (["--latent", "5", "--scale", "50"], ""),
        (["--columns", "default"], ""),
        (["--latent", "5", "--unit", "norm", "--sweep", "0", "50"], ""),
    ],
)
def test_a_strength_far_above_what_is_advised_is_warned_of_in_one_line(
    run, monkeypatch, tiny_model, capsys, edits, warned
):
    from steering_cases import scales_of, tiny_sae

    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(command, "load_run", lambda *_: (model, sae, scales))
    command.run_steer([str(run), *edits, "--prompt", "The mill", "--tokens", "2", "--json"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert [line for line in lines if warned and warned in line] == lines
    assert len(lines) == bool(warned)


def test_words_that_the_model_reads_in_pieces_are_warned_of_with_the_nearest_labels(
    tmp_path, monkeypatch, tiny_model, capsys
):
    run = write_feature_run(tmp_path / "run")
    model = tiny_model("llama")  # a token a byte
    folder = run / "saes" / SITE / NAME
    assert cut_words(model.tokenizer, ["of", "mill up", " "]) == {"mill": ["m", "i", "l", "l"]}
    warn_of_cut_words(model, folder, ["of", "it"])
    assert capsys.readouterr().err == ""
    warn_of_cut_words(model, folder, ["it", "xyzzy"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the model knows no such word and reads 'xyzzy' as x|y|z|z|y, ")
    monkeypatch.setattr(candidates, "named_latents", lambda *_: [0])
    warn_of_cut_words(model, folder, ["xyzzy"])
    assert f"the nearest labels: {named(0, names_of(folder, [0]))}; give common words" in capsys.readouterr().err


def test_latents_are_named_by_their_labels(tmp_path):
    run = write_feature_run(tmp_path / "run")
    names = names_of(run / "saes" / SITE / NAME, [0, 3])
    assert names == {0: open_features(run, SITE, NAME).labels([0])[0]}
    assert named(0, names) == f"0 ({names[0]})"
    assert named(3, names) == "3"
    assert names_of(tmp_path / "elsewhere" / NAME, [0]) == {}


def test_a_strength_without_an_answer_is_said_beside_the_others_and_json_stays_json(
    run, monkeypatch, tiny_model, capsys
):
    from steering_cases import scales_of, tiny_sae

    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(command, "load_run", lambda *_: (model, sae, scales))
    steer = [str(run), "--latent", "5", "--set", "2", "--prompt", "The mill", "--tokens", "3"]
    command.run_steer([*steer, "--sweep", "0", "1e30", "--json"])
    points = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(point["kind"], point["value"]) for point in points] == [("strength", 0.0), ("too_strong", 1e30)]
    assert "nothing of the text is left; lower the strength" in points[1]["error"]
    command.run_steer([*steer, "--sweep", "0", "1e30"])
    assert "no answer:" in capsys.readouterr().out


def test_words_that_are_no_text_are_refused_without_loading_the_model(run, monkeypatch):
    monkeypatch.setattr(command, "load_run", lambda *_: pytest.fail("the model was loaded"))
    typed = b"caf\xe9".decode("utf-8", "surrogateescape")
    edit = ["--latent", "1", "--set", "1"]
    for words, subject in (
        (["--prompt", typed], "the prompt"),
        (["--prompt", "a", "--system", typed], "the system message"),
        (["--prompt", "a", "--instruction", typed], "the instruction"),
        (["--find", typed], "--find"),
    ):
        with pytest.raises(UserError, match=f"{subject} holds the byte E9 .* not UTF-8"):
            command.run_steer([str(run), *edit, *words])


def test_generated_control_characters_are_signs_in_the_terminal(run, monkeypatch, tiny_model, capsys):
    from steering_cases import scales_of, tiny_sae

    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(command, "load_run", lambda *_: (model, sae, scales))
    words = ["--latent", "5", "--set", "2", "--prompt", "The mill", "--tokens", "40", "--temperature", "3"]
    command.run_steer([str(run), *words, "--columns", "steered"])
    output = capsys.readouterr().out
    assert not set(output) & {chr(code) for code in range(32) if chr(code) not in "\n"}
    assert any(chr(code) in output for code in range(0x2400, 0x2420))  # bytes drawn almost evenly: some are controls


def test_every_edited_latent_is_traced(run, monkeypatch, tiny_model, capsys):
    from steering_cases import scales_of, tiny_sae

    from monosemy.steering.generate import steer

    model = tiny_model("llama")
    sae = tiny_sae(model)
    scales = scales_of(sae, torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(command, "load_run", lambda *_: (model, sae, scales))
    words = ["--prompt", "The mill", "--tokens", "5", "--edit", "5:add:30", "--edit", "9:add:60", "--edit", "5:set:1"]
    command.run_steer([str(run), *words])
    table = capsys.readouterr().out.split("latent, mean over the answer")[1].splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if line.startswith("│")]
    request = command._request(command._parser().parse_args(["RUN", *words]))
    columns = steer(model, sae, request, scales)
    expected = [
        [str(latent)]
        + [
            format(sum(token["edited_activations"][place] for token in column["tokens"]) / column["n_tokens"], ".1f")
            for column in columns.values()
        ]
        for place, latent in enumerate((5, 9))
    ]
    assert rows == expected
    assert rows[0][1:] != rows[1][1:]
