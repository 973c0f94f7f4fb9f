"""Files from strangers: whatever is in them, opening ends in an SAE or in one line, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_saes import CASES, FOLDER, random_weights
from safetensors.torch import load_file, save_file

from monosemy.errors import UserError
from monosemy.saes.storage import load_sae

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write_other_layouts(case: str, to: Path) -> None:
    """An SAE in a layout of which no library wrote a file for these tests."""
    w = random_weights()
    turned = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"].T.contiguous()}
    if case == "circuit_tracer":
        settings = "model_name: gpt2\nactivation: {topk: {k: 4}}\ntranscoders: [a/b/c]\nsubfolder: x\n"
        (to / "config.yaml").write_text(settings)
        stored = {"W_enc": turned["W_enc"], **{name: w[name] for name in ("W_dec", "b_enc", "b_dec")}}
        save_file(stored, to / "layer_3.safetensors")
    elif case == "llama_scope":
        (to / "checkpoints").mkdir()
        settings = {"act_fn": "jumprelu", "jump_relu_threshold": 0.4, "sparsity_include_decoder_norm": True, "top_k": 4}
        settings |= {"dataset_average_activation_norm": {"in": 7.0, "out": 3.0}, "norm_activation": "dataset-wise"}
        settings |= {"hook_point_in": "blocks.1.hook_mlp_in", "hook_point_out": "blocks.1.hook_mlp_out"}
        (to / "hyperparams.json").write_text(json.dumps(settings))
        stored = {"encoder.weight": turned["W_enc"], "encoder.bias": w["b_enc"]}
        stored |= {"decoder.weight": turned["W_dec"], "decoder.bias": w["b_dec"]}
        save_file(stored, to / "checkpoints" / "final.safetensors")
    elif case == "openai":
        stored = {"encoder.weight": turned["W_enc"], "latent_bias": w["b_enc"], "decoder.weight": turned["W_dec"]}
        state = {"activation": "TopK", "activation_state_dict": {"k": 4, "postact_fn": "ReLU"}}
        torch.save({**stored, "pre_bias": w["b_dec"], **state}, to / "8.pt")
    else:
        folder = to / "SAE-Res-Qwen3-8B-Base-W64K-L0_4"
        folder.mkdir()
        torch.save({**turned, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}, folder / "layer3.sae.pt")


OTHER_LAYOUTS = ("circuit_tracer", "llama_scope", "openai", "qwen_scope")


def copied(case: str, to: Path) -> Path:
    """The case's own files in a new folder; returns that folder."""
    if case in OTHER_LAYOUTS:
        write_other_layouts(case, to)
        return to
    source = next(path for path in (FOLDER / case).rglob("*") if path.is_file()).parent
    to.mkdir(exist_ok=True)
    for path in source.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def one_line(path: Path) -> str:
    """The line that opening ends in; empty where it opens."""
    message, sae = "", None
    try:
        sae = load_sae(path)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
    assert "weights_only" not in message
    assert "allow_pickle" not in message
    assert sae is None or all(bool(t.isfinite().all()) for name, t in sae.tensors().items() if "threshold" not in name)
    return message


@FUZZ
@given(case=st.sampled_from([*CASES, *OTHER_LAYOUTS]), data=st.data())
def test_changed_cut_and_lengthened_files(case: str, data: st.DataObject):
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(case, Path(temporary))
        path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
        content = bytearray(path.read_bytes())
        damage = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        place = data.draw(st.integers(0, min(len(content) - 1, data.draw(st.sampled_from([64, 1500, len(content)])))))
        if damage == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        elif damage == "cut":
            del content[place:]
        elif damage == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            content[place : place + 8] = bytes(8)
        path.write_bytes(bytes(content))
        one_line(folder)


@FUZZ
@given(data=st.data())
def test_any_value_of_a_sets_settings(data: st.DataObject):
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied("circuit_tracer", Path(temporary))
        document = yaml.safe_load((folder / "config.yaml").read_text())
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(JSON)
        (folder / "config.yaml").write_text(yaml.safe_dump(document if data.draw(st.booleans()) else data.draw(JSON)))
        one_line(folder)
        one_line(folder / "layer_3.safetensors")


@FUZZ
@given(case=st.sampled_from([*(case for case in CASES if case != "gemma_scope_1"), "llama_scope"]), data=st.data())
def test_any_value_of_any_setting(case: str, data: st.DataObject):
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(case, Path(temporary))
        path = next(path for path in sorted(folder.iterdir()) if path.suffix == ".json")
        document = json.loads(path.read_text())
        sections = [document, *(value for value in document.values() if isinstance(value, dict))]
        section = data.draw(st.sampled_from(sections))
        section[data.draw(st.sampled_from(sorted(section)))] = data.draw(JSON)
        path.write_text(json.dumps(document if data.draw(st.booleans()) or section is document else data.draw(JSON)))
        one_line(folder)


@FUZZ
@given(
    case=st.sampled_from([case for case in CASES if case.startswith(("lens", "sparsify", "gemma_scope_2"))]),
    data=st.data(),
)
def test_any_header(case: str, data: st.DataObject):
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(case, Path(temporary))
        path = next(path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors")
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        entry = header[data.draw(st.sampled_from(sorted(header)))]
        key = data.draw(st.sampled_from(sorted(entry)))
        sizes = st.lists(st.sampled_from([-1, 0, 1, 24, 96, 2304, 2**31, 2**40, 2**62, 2**63]), max_size=4)
        entry[key] = data.draw(sizes | st.sampled_from(["F16", "F64", "C64", "I64", "F8_E4M3", ""]) | JSON)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        one_line(folder)


def test_huge_headers_and_sizes_allocate_nothing(tmp_path):
    folder = copied("lens_standard", tmp_path / "sae")
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "is not a safetensors file, or is cut off" in one_line(folder)
    header = {"W_enc": {"dtype": "F32", "shape": [2**30, 2**20], "data_offsets": [0, 2**52]}}
    text = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "it is cut off or damaged" in one_line(folder)
    text = b'{"a":' + b"[" * 200_000
    weights.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "its header is no JSON object" in one_line(folder)
    (folder / "cfg.json").write_text("[" * 200_000)
    assert "is not valid JSON" in one_line(folder)


def test_nan_is_refused_with_the_tensors_name(tmp_path):
    folder = copied("lens_jumprelu", tmp_path / "sae")
    stored = load_file(folder / "sae_weights.safetensors")
    stored["W_dec"][3, 4] = torch.nan
    save_file(stored, folder / "sae_weights.safetensors")
    assert "tensor W_dec of" in one_line(folder)
    assert "holds NaN or infinity" in one_line(folder)


def test_shapes_that_do_not_fit_each_other_are_named(tmp_path):
    folder = copied("lens_jumprelu", tmp_path / "sae")
    stored = load_file(folder / "sae_weights.safetensors")
    save_file({**stored, "threshold": torch.zeros(95)}, folder / "sae_weights.safetensors")
    assert "tensor threshold is (95,) but a jumprelu SAE has (96,)" in one_line(folder)
    save_file({**stored, "W_enc": torch.zeros(24, 96, dtype=torch.int64)}, folder / "sae_weights.safetensors")
    assert "not a matrix's" in one_line(folder)
    del stored["b_enc"]
    save_file(stored, folder / "sae_weights.safetensors")
    assert "tensor b_enc is missing" in one_line(folder)


class _Executed:
    """Its pickle makes a file when it is opened."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def test_no_pickle_is_executed(tmp_path):
    witness = tmp_path / "executed"
    hostile = _Executed(witness)
    torch.save({"encoder.weight": hostile}, tmp_path / "sae.pt")
    assert "names 'posix.mkdir', which could run code when it is opened" in one_line(tmp_path / "sae.pt")
    assert "weights_only" not in one_line(tmp_path / "sae.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"encoder.weight": hostile}))
    assert "not a torch file in zip form" in one_line(tmp_path / "plain.pt")
    folder = tmp_path / "scope"
    folder.mkdir()
    np.savez(folder / "params.npz", W_enc=np.array([hostile], dtype=object))
    assert "array W_enc of" in one_line(folder)
    tracer = tmp_path / "tracer"
    tracer.mkdir()
    save_file({"W_enc": torch.zeros(4, 2)}, tracer / "layer_0.safetensors")
    (tracer / "config.yaml").write_text(f"model_name: !!python/object/apply:os.mkdir ['{witness}']\n")
    assert "is not valid YAML" in one_line(tracer / "layer_0.safetensors")
    assert not witness.exists()


def test_a_few_lines_of_yaml_cannot_stand_for_any_number_of_values(tmp_path):
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
    save_file({"W_enc": torch.zeros(4, 2)}, tmp_path / "layer_0.safetensors")
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert "has YAML anchors or aliases" in one_line(tmp_path / "layer_0.safetensors")
    (tmp_path / "config.yaml").write_text("model_name: " + "x" * 70_000)
    assert "is too large for a file of settings" in one_line(tmp_path / "layer_0.safetensors")
    for text in (f"model_name: 0x{'f' * 9000}", f"? 0x{'f' * 9000}\n: 1", "[" * 50_000):
        (tmp_path / "config.yaml").write_text(text)
        assert one_line(tmp_path / "layer_0.safetensors")


@pytest.mark.parametrize("case", ["lens_topk_unit", "dl_topk", "sparsify_topk", "gemma_scope_2_transcoder"])
def test_a_value_of_any_length_gives_a_short_line(case: str, tmp_path):
    folder = copied(case, tmp_path / "sae")
    path = next(path for path in sorted(folder.iterdir()) if path.suffix == ".json")
    document = json.loads(path.read_text())
    sections = [document, *(value for value in document.values() if isinstance(value, dict))]
    for section in sections:
        for key, value in list(section.items()):
            section[key] = "\x1b[31m" + "x" * 100_000
            path.write_text(json.dumps(document))
            assert "\x1b" not in one_line(folder)
            section[key] = value


def test_names_of_any_length_give_a_short_line(tmp_path):
    torch.save({"x" * 100_000: torch.zeros(2)}, tmp_path / "sae.pt")
    assert "which no layout read here has" in one_line(tmp_path / "sae.pt")
    folder = copied("lens_jumprelu", tmp_path / "sae")
    save_file({"x" * 100_000: torch.zeros(2)}, folder / "sae_weights.safetensors")
    assert "has no tensor W_enc" in one_line(folder)
    folder = tmp_path / "scope"
    folder.mkdir()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }" + b" " * 20_000 + b"\n"
    with zipfile.ZipFile(folder / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    assert "has a damaged or far too long header" in one_line(folder)


def test_tensors_that_claim_more_than_the_file_holds(tmp_path):
    wide = torch.zeros(1).expand(2**20, 2**20)
    stored = {
        "encoder.weight": wide,
        "decoder.weight": wide,
        "encoder.bias": torch.zeros(2),
        "decoder.bias": torch.zeros(2),
    }
    torch.save(stored, tmp_path / "sae.pt")
    assert "claims to have more numbers than the file holds" in one_line(tmp_path / "sae.pt")
    torch.save({"encoder.weight": torch.zeros(4, 2).to_sparse()}, tmp_path / "sparse.pt")
    assert "is not a plain tensor" in one_line(tmp_path / "sparse.pt")


def test_archives_that_grow_are_refused_before_they_are_unpacked(tmp_path):
    folder = tmp_path / "scope"
    folder.mkdir()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**13, 2**13)})
    with zipfile.ZipFile(folder / "params.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W_enc.npy", header.getvalue() + bytes(2**28))
    assert "would grow to" in one_line(folder)


def test_other_byte_orders_and_numbers_of_arrays(tmp_path):
    folder = copied("gemma_scope_1", tmp_path / "scope")
    arrays = dict(np.load(folder / "params.npz"))
    opened = load_sae(folder)
    np.savez(folder / "params.npz", **{**arrays, "W_enc": np.asfortranarray(arrays["W_enc"])})
    assert torch.equal(load_sae(folder).W_enc, opened.W_enc)
    np.savez_compressed(folder / "params.npz", **{**arrays, "b_dec": arrays["b_dec"].astype(np.float16)})
    assert one_line(folder) == ""
    np.savez(folder / "params.npz", **{**arrays, "W_enc": arrays["W_enc"].astype(">f4")})
    assert "holds '>f4', but weights are of" in one_line(folder)


def test_links_and_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    folder = copied("lens_standard", tmp_path / "sae")
    elsewhere = tmp_path / "elsewhere.safetensors"
    (folder / "sae_weights.safetensors").rename(elsewhere)
    (folder / "sae_weights.safetensors").symlink_to(elsewhere)
    assert "leads out of its folder" in one_line(folder)
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.safetensors").symlink_to(folder / "sae_weights.safetensors")  # to itself
    assert one_line(folder)
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.safetensors").mkdir()
    assert one_line(folder)


def test_the_hubs_cache_is_made_of_links_within_one_repository(tmp_path):
    repository = tmp_path / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    folder = copied("lens_standard", tmp_path / "sae")
    snapshot = repository / "snapshots" / "0123" / "blocks.3"
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(repository / "blobs" / str(i))
        (snapshot / path.name).symlink_to(repository / "blobs" / str(i))
    assert one_line(snapshot) == ""


def test_odd_paths(tmp_path):
    for path in ("x" * 5000, tmp_path / "missing", "hf://x", "a\0b", "", None, 5):
        with pytest.raises(UserError):
            load_sae(path)
    with pytest.raises(UserError, match=r"RUN/saes/SITE/NAME, a .pt file, or a folder with .*cfg.json"):
        load_sae(tmp_path)


def test_devices_and_types_that_are_not_there(tmp_path):
    folder = copied("lens_standard", tmp_path / "sae")
    for device in ("cuda:99", "no such device"):
        with pytest.raises(UserError, match="is not there"):
            load_sae(folder, device=device)
    for dtype in (torch.int8, torch.bool, "float32"):
        with pytest.raises(UserError, match="dtype must be one of floating-point numbers"):
            load_sae(folder, dtype=dtype)
    assert load_sae(folder, dtype=torch.bfloat16).W_dec.dtype == torch.bfloat16
