"""Run folders: created, continued, refused, locked."""

from __future__ import annotations

import dataclasses
import getpass
import json
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monosemy import run as runs
from monosemy.config import EvaluationConfig, RunConfig, TrainingConfig, to_json
from monosemy.errors import UserError
from monosemy.layout import RunFiles
from monosemy.run import first_difference, load_config, open_run, read_run

CONFIG = RunConfig(recipe="demo", l0=(16.0, 32.0), options={"jumprelu.bandwidth": 0.02})

HOLDER = """
import sys, time
from pathlib import Path
from monosemy.config import RunConfig
from monosemy.run import open_run
run = open_run(Path(sys.argv[1]), RunConfig())
print("open", flush=True)
time.sleep(60)
"""


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_created_and_read_back(tmp_path):
    with open_run(tmp_path / "new" / "run", CONFIG) as run:
        assert run.folder.is_dir()
    config, provenance = read_run(tmp_path / "new" / "run")
    assert config == CONFIG
    assert provenance["versions"]["python"] == platform.python_version()
    assert provenance["versions"]["torch"].startswith("2.")
    assert " cores, " in provenance["machine"]
    assert provenance["seconds"] == {}


def test_provenance_names_no_one(tmp_path):
    with open_run(tmp_path, CONFIG):
        pass
    text = (tmp_path / "run.json").read_text()
    for private in (str(Path.home()), platform.node(), str(tmp_path), sys.prefix):
        assert private not in text
    assert f'"{getpass.getuser()}"' not in text


def test_finished_stage_is_not_done_again(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        assert not run.stage_done("harvest", "f1")
        assert run.stage_record("harvest") == {}
        run.mark_done("harvest", "f1", 12.3456, {"n_rows": 100})
        assert run.stage_done("harvest", "f1")
    with open_run(tmp_path, CONFIG) as run:
        assert run.stage_done("harvest", "f1")
        assert not run.stage_done("harvest", "f2")
        assert not run.stage_done("train", "f1")
        assert run.stage_record("harvest") == {"n_rows": 100}
        run.mark_done("harvest", "f2", 2.0)
        assert not run.stage_done("harvest", "f1")
    assert read_run(tmp_path)[1]["seconds"] == {"harvest": 2.0}


def test_reopening_keeps_provenance_and_notes_other_versions(tmp_path, monkeypatch):
    with open_run(tmp_path, CONFIG) as run:
        run.add_provenance(model={"name": "tiny", "fingerprint": "abc"})
        created = run.provenance["created"]
    installed = runs.versions()
    monkeypatch.setattr(runs, "versions", lambda: {**installed, "torch": "99.0"})
    for _ in range(2):  # noted once, not at every opening
        with open_run(tmp_path, CONFIG):
            pass
    provenance = read_run(tmp_path)[1]
    assert provenance["created"] == created
    assert provenance["model"] == {"name": "tiny", "fingerprint": "abc"}
    assert provenance["versions"]["torch"] == installed["torch"]
    assert [later["versions"] for later in provenance["continued_with"]] == [{"torch": "99.0"}]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"training": TrainingConfig(batch_tokens=2048)}, "training.batch_tokens is 1024 there and 2048 here"),
        ({"training": TrainingConfig(learning_rate=1e-3)}, "training.learning_rate is unset there and 0.001 here"),
        ({"l0": (16.0,)}, "l0 is [16.0, 32.0] there and [16.0] here"),
        ({"options": {"jumprelu.bandwidth": 0.1}}, "options.jumprelu.bandwidth is 0.02 there and 0.1 here"),
        ({"options": {}}, "options.jumprelu.bandwidth is 0.02 there and unset here"),
        ({"options": {**CONFIG.options, "topk.k_aux": 9}}, "options.topk.k_aux is unset there and 9 here"),
        ({"d_sae": 5, "evaluation": EvaluationConfig(pca=False)}, "d_sae is 2304 there and 5 here"),
    ],
)
def test_another_configuration_is_refused_and_nothing_written(tmp_path, changed, message):
    with open_run(tmp_path, CONFIG) as run:
        run.mark_done("harvest", "f", 1.0)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        open_run(tmp_path, dataclasses.replace(CONFIG, **changed))
    assert message in str(caught.value)
    assert "choose another folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before
    open_run(tmp_path, CONFIG).close()


def test_the_recipe_is_only_a_label(tmp_path):
    open_run(tmp_path, CONFIG).close()
    with open_run(tmp_path, dataclasses.replace(CONFIG, recipe="custom")) as run:
        assert run.config.recipe == "demo"


def test_equal_configurations_do_not_differ():
    assert first_difference(CONFIG, dataclasses.replace(CONFIG)) is None


def test_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"is not empty and holds no run \(thesis\.tex\)"):
        open_run(tmp_path, CONFIG)
    assert snapshot(tmp_path) == {"thesis.tex": b"precious"}
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "thesis.tex", CONFIG)
    with pytest.raises(UserError, match=r"has no run\.json"):
        read_run(tmp_path)


def test_killed_while_creating_can_be_created_again(tmp_path):
    (tmp_path / "run.lock").write_text("12345\n")
    (tmp_path / ".run.json.12345.tmp").write_text('{"form')
    with open_run(tmp_path, CONFIG):
        pass
    assert sorted(snapshot(tmp_path)) == ["run.json", "run.lock"]


def test_two_openings_in_one_process(tmp_path):
    with open_run(tmp_path, CONFIG), pytest.raises(UserError, match="already open in this process"):
        open_run(tmp_path / ".." / tmp_path.name, CONFIG)
    open_run(tmp_path, CONFIG).close()


def test_second_process_is_refused_until_the_first_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError, match=f"is in use by process {holder.pid}; wait for it or stop it"):
            open_run(tmp_path, RunConfig())
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with open_run(tmp_path, RunConfig()):
        assert (tmp_path / "run.lock").read_text().strip() == str(os.getpid())


def test_workers_that_outlive_a_killed_run_do_not_keep_it_locked(tmp_path):
    """A forked worker inherits the lock's file descriptor, but not the lock."""
    program = HOLDER.replace(
        "time.sleep(60)", "import os\nif os.fork():\n    time.sleep(60)\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    worker = int(holder.stdout.readline())
    try:
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # still there
        open_run(tmp_path, RunConfig()).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()


def hammer(folder: str, together, results) -> None:
    together.wait(60)
    try:
        run = open_run(Path(folder), RunConfig())
        results.put("opened")
        together.wait(60)  # nobody closes before everybody has tried
        run.close()
    except UserError as error:
        results.put("refused" if "in use by" in str(error) else str(error))
        together.wait(60)


def test_of_many_that_start_at_once_one_wins(tmp_path):
    context = multiprocessing.get_context("spawn")
    results, together = context.Queue(), context.Barrier(4)
    processes = [context.Process(target=hammer, args=(str(tmp_path / "run"), together, results)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == ["opened", "refused", "refused", "refused"]


def test_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), open_run(tmp_path, CONFIG):
        _ = 1 / 0
    open_run(tmp_path, CONFIG).close()
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(UserError, match=r"stages\.json is not valid JSON"):
        open_run(tmp_path, CONFIG)
    (tmp_path / "stages.json").unlink()
    open_run(tmp_path, CONFIG).close()


@pytest.mark.parametrize("content", ['{"format": 2, "config": {}}', '{"config": {}}'])
def test_other_formats_are_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="this version of monosemy reads 1"):
        open_run(tmp_path, CONFIG)
    assert (tmp_path / "run.json").read_text() == content


def test_configuration_from_a_folder_a_run_json_or_bare_settings(tmp_path):
    open_run(tmp_path / "run", CONFIG).close()
    bare = tmp_path / "settings.json"
    bare.write_text(json.dumps(to_json(CONFIG)))
    assert load_config(tmp_path / "run") == load_config(tmp_path / "run" / "run.json") == load_config(bare) == CONFIG
    bare.write_text('{"d_sea": 4}')
    with pytest.raises(UserError, match="did you mean 'd_sae'"):
        load_config(bare)
    bare.write_text("[]")
    with pytest.raises(UserError, match="must hold a JSON object"):
        load_config(bare)


def test_sae_folders(tmp_path):
    assert (
        RunFiles(tmp_path).sae("layers.12.resid_post", "topk-l0_32-s0").folder
        == tmp_path / "saes/layers.12.resid_post/topk-l0_32-s0"
    )
    for bad in ("", "..", "a/b", "a\\b", ".hidden", "x\0"):
        with pytest.raises(UserError, match="cannot be a folder name"):
            RunFiles(tmp_path).sae(bad, "topk")
        with pytest.raises(UserError, match="cannot be a folder name"):
            RunFiles(tmp_path).sae("layers.0.mlp_out", bad)


def test_listing_skips_what_is_unfinished(tmp_path):
    for name in ("topk-l0_32-s0", "relu-l0_16-s0", ".relu-l0_16-s0.77.tmp"):
        folder = tmp_path / "saes" / "layers.12.resid_post" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "saes" / "layers.12.resid_post" / "empty").mkdir()
    assert [(sae.site, sae.name) for sae in RunFiles(tmp_path).saes()] == [
        ("layers.12.resid_post", "relu-l0_16-s0"),
        ("layers.12.resid_post", "topk-l0_32-s0"),
    ]


def test_import_is_light():
    program = """
import sys, monosemy.run, monosemy.support.estimates
print([name for name in ("torch", "numpy", "rich") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_a_run_refused_before_it_began_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="layer 40"), open_run(tmp_path / "run", CONFIG):
        raise UserError("layer 40 is out of range")
    assert not (tmp_path / "run").exists()
    with open_run(tmp_path / "run", RunConfig(d_sae=64)) as run:  # the mended command
        run.mark_done("activations", "f", 1.0)
    with pytest.raises(UserError), open_run(tmp_path / "run", RunConfig(d_sae=64)):
        raise UserError("too late to withdraw")
    assert read_run(tmp_path / "run")[0].d_sae == 64


def test_a_first_run_in_a_folder_that_was_there_keeps_other_files(tmp_path):
    open_run(tmp_path, CONFIG).close()
    (tmp_path / "metrics.jsonl").write_text("{}")
    with pytest.raises(UserError), open_run(tmp_path, CONFIG):
        raise UserError("stopped with something written")
    assert {"run.json", "metrics.jsonl"} <= {path.name for path in tmp_path.iterdir()}


def test_a_mistyped_run_and_a_folder_of_runs_name_the_runs_that_are_there(tmp_path):
    for name in ("demo", "mine"):
        with open_run(tmp_path / name, CONFIG):
            pass
    with pytest.raises(UserError, match=f"did you mean {re.escape(str(tmp_path / 'demo'))}\\? give"):
        read_run(tmp_path / "dmo")
    with pytest.raises(UserError, match=re.escape(f"it holds the runs {tmp_path / 'demo'}, {tmp_path / 'mine'}; give")):
        read_run(tmp_path)
    with pytest.raises(UserError, match=r"run\.json\); give the folder"):
        read_run(tmp_path / "zzzz" / "zzzz")
