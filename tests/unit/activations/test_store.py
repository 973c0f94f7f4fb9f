"""The store: what is read is what was harvested; damage, mix-ups and interruptions never go unnoticed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import activation_cases
import numpy as np
import pytest
import torch
from activation_cases import CONFIG, EOS, WIDTHS, A, ArrayTokens, B, TableModel, expected_keep, topical_text
from safetensors import safe_open

from monosemy.activations import store as store_module
from monosemy.activations.store import ActivationStore, build_store, default_folder, store_identity
from monosemy.config import ActivationsConfig
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.support import files

SHARD_BYTES = 20_000  # 4 of the 40 sequences a shard


def with_(**changes: object) -> ActivationsConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def built(folder: Path, config: ActivationsConfig = CONFIG, text: ArrayTokens | None = None) -> ActivationStore:
    return build_store(TableModel(), text or topical_text(), (A, B), config, folder=folder, shard_bytes=SHARD_BYTES)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def truth(site: str) -> torch.Tensor:
    text = topical_text()
    return TableModel().tables[site][torch.from_numpy(text.tokens[expected_keep(text)].astype(np.int64))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_read_back_are_the_harvested_ones_rounded_once(tmp_path: Path, dtype: str) -> None:
    store = built(tmp_path, with_(dtype=dtype))
    assert len(list(tmp_path.glob("*.safetensors"))) == (10 if dtype == "float32" else 5)
    indices = np.random.default_rng(0).integers(store.n_rows, size=500)
    for site in (A, B):
        expected = truth(site).to(getattr(torch, dtype)).float()
        assert torch.equal(store.rows(site, slice(None)), expected)
        assert torch.equal(store.rows(site, indices), expected[indices])
        assert torch.equal(store.rows(site, slice(70, 300)), expected[70:300])
        assert torch.equal(store.rows(site, slice(900, 100, -7)), expected[range(900, 100, -7)])
        assert store.rows(site, np.array([], dtype=np.int64)).shape == (0, WIDTHS[site])
        assert store.rows(site, slice(5, 5)).shape == (0, WIDTHS[site])


def test_labels_name_the_token_behind_each_row(tmp_path: Path) -> None:
    store, text = built(tmp_path), topical_text()
    assert text.tokens[store.sequences, store.positions].tolist() == store.token_ids.tolist()
    assert text.numbers[store.sequences, store.positions].tolist() == store.documents.tolist()
    assert len(store.token_ids) == store.n_rows == int(expected_keep(text).sum())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scale_and_mean_are_those_of_all_rows_as_stored(tmp_path: Path, dtype: str) -> None:
    store = built(tmp_path, with_(dtype=dtype))
    for site in (A, B):
        rows = truth(site).to(getattr(torch, dtype)).double()
        assert store.scale[site] == pytest.approx(float(rows.square().sum(1).mean().sqrt()), rel=1e-12)
        torch.testing.assert_close(store.mean[site], rows.mean(0).float(), rtol=1e-6, atol=1e-9)


def test_the_record_tells_what_was_dropped_and_is_json(tmp_path: Path) -> None:
    record = json.loads(json.dumps(built(tmp_path).record))
    assert record["n_rows"] + sum(record["n_dropped"].values()) == record["n_tokens"] == topical_text().tokens.size
    assert min(record["n_dropped"].values()) > 0
    assert record["identity"]["sites"] == WIDTHS
    assert record["rules"]["special_token_ids"] == [EOS]


def test_shards_are_plain_safetensors(tmp_path: Path) -> None:
    store = built(tmp_path, with_(dtype="bfloat16"))
    with safe_open(tmp_path / "activations-00000.safetensors", framework="pt") as file:
        first = file.get_tensor(A)
        assert first.dtype == torch.bfloat16
        assert torch.equal(store.rows(A, slice(0, len(first))), first.float())
        assert set(file.keys()) == {A, B, "token_ids", "sequence", "position", "document", f"sum/{A}", f"sum/{B}"}


def test_a_complete_store_is_reused_without_running_the_model(tmp_path: Path) -> None:
    built(tmp_path)
    before, model = contents(tmp_path), TableModel()
    again = build_store(
        model, topical_text(), ("blocks.0.hook_resid_post", B), with_(batch_sequences=5), folder=tmp_path
    )
    assert model.n_passes == 0
    assert contents(tmp_path) == before
    assert again.sites == (A, B)


def test_the_start_of_a_store_is_the_same_rows_and_the_rest_follows_to_the_same_files(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole")
    model, text = TableModel(), topical_text()
    settings = {"folder": tmp_path / "parts", "shard_bytes": SHARD_BYTES}
    n_tokens = 10 * text.context_length  # 10 of 40 sequences, in shards of 4: the nearest are 8
    start = build_store(model, text, (A, B), CONFIG, first_tokens=n_tokens, **settings)
    n_rows = int((whole.sequences < 8).sum())
    assert (start.n_sequences, start.n_rows) == (8, n_rows)
    assert start.fingerprint != whole.fingerprint
    assert torch.equal(start.rows(A, slice(None)), whole.rows(A, slice(0, n_rows)))
    assert start.scale[A] == pytest.approx(float(start.rows(A, slice(None)).square().sum(1).mean().sqrt()))
    with pytest.raises(UserError, match="unfinished"):
        ActivationStore.open(tmp_path / "parts")
    before = model.n_passes
    build_store(model, text, (A, B), CONFIG, first_tokens=n_tokens, **settings)
    assert model.n_passes == before
    build_store(model, text, (A, B), CONFIG, **settings)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    again = build_store(model, text, (A, B), CONFIG, first_tokens=1, **settings)
    assert again.n_sequences == 4
    assert ActivationStore.open(tmp_path / "parts").n_rows == whole.n_rows


def test_stores_are_kept_in_the_cache_by_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEMY_CACHE", str(tmp_path))
    model, text = TableModel(), topical_text()
    folders = {
        default_folder(store_identity(model, text, sites, config))
        for sites, config in [((A, B), CONFIG), ((A,), CONFIG), ((A, B), with_(dtype="bfloat16"))]
    }
    assert len(folders) == 3
    assert build_store(model, text, (A,), CONFIG).folder in folders


@pytest.mark.parametrize(
    "change",
    [
        {"config": with_(dtype="bfloat16")},
        {"config": with_(outlier_multiple=3.0)},
        {"config": with_(drop_first_positions=2)},
        {"config": with_(drop_special_tokens=False)},
        {"model": TableModel(seed=1)},
        {"text": topical_text(seed=1)},
        {"sites": (A,)},
    ],
)
def test_a_folder_of_another_configuration_is_refused_and_left_alone(tmp_path: Path, change: dict) -> None:
    built(tmp_path)
    before = contents(tmp_path)
    arguments = {"model": TableModel(), "text": topical_text(), "sites": (A, B), "config": CONFIG} | change
    with pytest.raises(UserError, match="another configuration"):
        build_store(arguments["model"], arguments["text"], arguments["sites"], arguments["config"], folder=tmp_path)
    assert contents(tmp_path) == before


def test_the_error_names_what_differs(tmp_path: Path) -> None:
    built(tmp_path)
    with pytest.raises(UserError, match='dtype "float32" there, "float16" asked'):
        built(tmp_path, with_(dtype="float16"))
    with pytest.raises(UserError, match="has fingerprint"):
        ActivationStore.open(tmp_path, expected="0123456789abcdef")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize(
    ("damage", "word"), [(flip_a_byte, "corrupted"), (cut_off, "truncated"), (Path.unlink, "missing")]
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Callable[[Path], None], word: str) -> None:
    built(tmp_path)
    damage(tmp_path / "activations-00003.safetensors")
    with pytest.raises(UserError, match=rf"activations-00003\.safetensors .*{word}") as caught:
        ActivationStore.open(tmp_path)
    assert "\n" not in str(caught.value)
    if damage is flip_a_byte:
        ActivationStore.open(tmp_path, verify=False)
    else:
        with pytest.raises(UserError, match=word):
            ActivationStore.open(tmp_path, verify=False)


def test_a_header_that_makes_no_sense_is_named_even_unverified(tmp_path: Path) -> None:
    built(tmp_path)
    path = tmp_path / "activations-00003.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"x" * 40 + content[48:])
    with pytest.raises(UserError, match=r"activations-00003\.safetensors cannot be read"):
        ActivationStore.open(tmp_path, verify=False)


def test_only_the_shard_that_was_deleted_is_harvested_anew(tmp_path: Path) -> None:
    built(tmp_path)
    before, model = contents(tmp_path), TableModel()
    flip_a_byte(tmp_path / "activations-00003.safetensors")
    with pytest.raises(UserError, match="delete that file"):
        build_store(model, topical_text(), (A, B), CONFIG, folder=tmp_path)
    (tmp_path / "activations-00003.safetensors").unlink()
    build_store(model, topical_text(), (A, B), CONFIG, folder=tmp_path)
    assert model.n_passes == 2  # four sequences, two at a time
    assert contents(tmp_path) == before


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ActivationStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "something else"}')
    with pytest.raises(UserError, match="not an activation store"):
        ActivationStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "monose')
    with pytest.raises(UserError, match="not valid JSON"):
        built(tmp_path)


def test_too_little_disk_is_said_before_the_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module.files, "free_bytes", lambda path: 1_000_000)
    model = TableModel()
    with pytest.raises(UserError, match=r"need 0\.00 GB .* are free; .*text\.n_tokens"):
        build_store(model, topical_text(), (A, B), CONFIG, folder=tmp_path / "new")
    assert model.n_passes == 0
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_a_store_that_continues(tmp_path: Path) -> None:
    """A real limit on file size (RLIMIT_FSIZE) stops the first shard; without it the build goes on."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
    )
    result = run_build(tmp_path, before=script)
    assert "UserError: cannot write" in result.stderr
    assert (tmp_path / "manifest.json").exists()
    resumed = built(tmp_path)
    assert torch.equal(resumed.rows(A, slice(None)), truth(A))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        built(tmp_path / "file" / "store")


def test_nothing_kept_is_an_error_with_the_counts(tmp_path: Path) -> None:
    text = topical_text(n_sequences=100, context_length=32, outliers=0)
    text.tokens[:] = EOS
    with pytest.raises(UserError, match="none of the first"):
        built(tmp_path / "a", text=text)
    text.tokens[:2, 5] = 3  # the sample has ordinary tokens; an interrupted build then meets none
    store = built(tmp_path / "b", text=text)
    assert store.n_rows == 2
    manifest = files.read_json(tmp_path / "b" / "manifest.json")
    manifest["shards"] = []
    manifest["complete"] = False
    manifest["rules"]["norm_limits"] = dict.fromkeys(manifest["rules"]["norm_limits"], 0.0)
    files.write_json(tmp_path / "b" / "manifest.json", manifest)
    with pytest.raises(UserError, match=r"no row is left of 3200 tokens .*2 norm_outlier"):
        built(tmp_path / "b", text=text)


def test_values_beyond_float16_are_refused_and_kept_in_bfloat16(tmp_path: Path) -> None:
    text = topical_text(outliers=0)
    text.tokens[30, 5] = 7
    model = TableModel(poison=(A, 7, 1e5))
    for dtype in ("float16", "bfloat16"):
        config = with_(dtype=dtype, outlier_multiple=0.0)
        if dtype == "float16":
            with pytest.raises(UserError, match=r"layers\.0\.resid_post in sequence \d+ is beyond float16"):
                build_store(model, text, (A,), config, folder=tmp_path / dtype)
        else:
            store = build_store(model, text, (A,), config, folder=tmp_path / dtype)
            assert float(store.rows(A, slice(None)).max()) > 9e4


def test_rows_and_sites_outside_the_store_are_refused(tmp_path: Path) -> None:
    store = built(tmp_path)
    for wrong in ([store.n_rows], [-1]):
        with pytest.raises(IndexError, match="row numbers"):
            store.rows(A, np.array(wrong))
    with pytest.raises(UserError, match=r"unknown site of this store 'layers\.0\.resid_pos'.*did you mean"):
        store.rows("layers.0.resid_pos", slice(0, 1))


WAIT = """
import time
from pathlib import Path
from activation_cases import TableModel
own_pass = TableModel.activations

def activations(self, tokens, sites, **options):
    folder, n_shards = Path({folder!r}), {n_shards}
    while (folder / "manifest.json").exists() and len(list(folder.glob("activations-*"))) == n_shards:
        time.sleep(0.01)
    return own_pass(self, tokens, sites, **options)

TableModel.activations = activations
"""
"""A build that waits to be killed at the pass after its n-th shard, however fast the machine."""


def run_build(folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    process = start_build(folder, before)
    out, err = process.communicate(timeout=800)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_build(folder: Path, before: str = "") -> subprocess.Popen[str]:
    code = before + (
        "import sys; from pathlib import Path\n"
        "from activation_cases import CONFIG, A, B, TableModel, topical_text\n"
        "from monosemy.activations.store import build_store\n"
        "model = TableModel()\n"
        f"build_store(model, topical_text(), (A, B), CONFIG, folder=Path({str(folder)!r}), shard_bytes={SHARD_BYTES})\n"
        "print(model.n_passes)"
    )
    path = os.pathsep.join([str(Path(activation_cases.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "MONOSEMY_QUIET": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("shards_before_kill", [0, 3, 9])
def test_a_killed_build_continues_and_ends_in_the_same_bytes(tmp_path: Path, shards_before_kill: int) -> None:
    built(tmp_path / "whole")
    folder = tmp_path / "killed"
    process = start_build(folder, WAIT.format(folder=str(folder), n_shards=shards_before_kill))
    deadline = time.monotonic() + 300
    while len(list(folder.glob("activations-*"))) < shards_before_kill or not (folder / "manifest.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not files.read_json(folder / "manifest.json")["complete"]
    with pytest.raises(UserError, match="unfinished"):
        ActivationStore.open(folder)
    (folder / f".activations-00005.safetensors.{process.pid}.tmp").write_bytes(
        b"half"
    )  # as a kill while writing leaves
    finished = run_build(folder)
    assert finished.returncode == 0, finished.stderr
    # 20 passes in all, two a shard; the shard under way may have been written but not entered
    assert 20 - 2 * (shards_before_kill + 1) <= int(finished.stdout) <= 20 - 2 * (shards_before_kill - 1)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_real_tiny_model_is_stored_as_it_computes(tmp_path: Path, tiny_model: Callable[[str], LanguageModel]) -> None:
    model = tiny_model("llama")
    sites = ("layers.1.resid_post", "layers.2.mlp_out", "layers.2.attn_heads")
    tokens = np.random.default_rng(0).integers(1, model.vocab_size, size=(6, 16)).astype(np.int32)
    text = ArrayTokens(tokens, np.zeros_like(tokens))
    config = ActivationsConfig(sites=sites, dtype="float32", batch_sequences=2, outlier_multiple=0.0)
    store = build_store(model, text, sites, config, folder=tmp_path)
    whole = model.activations(torch.from_numpy(tokens).long(), sites)
    for site in sites:
        expected = whole[site][torch.from_numpy(store.sequences).long(), torch.from_numpy(store.positions).long()]
        torch.testing.assert_close(store.rows(site, slice(None)), expected, rtol=1e-4, atol=1e-5)
    special = np.isin(tokens[:, 1:], list(model.special_token_ids)).sum()
    assert store.n_rows == 6 * 15 - special
