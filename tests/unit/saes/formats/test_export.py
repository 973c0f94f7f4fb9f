"""Written in other libraries' layouts and read again, an SAE stays what it was; what cannot be held is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_saes import CASES, FOLDER, outputs
from safetensors.torch import load_file

from monosemy.errors import UserError
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats import WRITERS, export
from monosemy.saes.formats.exported import write_exported
from monosemy.saes.formats.sae_lens import recognises
from monosemy.saes.registry import ARCHITECTURES, build_sae
from monosemy.saes.storage import load_sae

FOLDS = {
    # Where b_dec goes into, or comes out of, the encoder's bias, codes agree up to rounding; elsewhere to the bit.
    "gemma-scope-2": ("dl_batchtopk", "dl_relu", "lens_hook_z", "lens_jumprelu", "lens_old_standard", "lens_standard"),
    "dictionary-learning": ("lens_jumprelu",),
}
HELD = {
    "sae-lens": set(CASES) - {"sparsify_skip", "sparsify_transcoder"},
    "sparsify": {case for case in CASES if "topk" in case and "batch" not in case}
    | {"sparsify_skip", "sparsify_transcoder"},
    "dictionary-learning": {
        case
        for case in CASES
        if "transcoder" not in case
        and case not in ("sparsify_skip", "lens_jumprelu_layernorm", "lens_standard_normrescale")
    },
    "circuit-tracer": {case for case in CASES if "transcoder" in case and "sparsify" not in case},
}
HELD["gemma-scope-2"] = {
    case
    for case in HELD["sae-lens"] - {"lens_jumprelu_layernorm", "lens_standard_normrescale"}
    if "_topk" not in case and "gated" not in case
}


def written(sae, layout: str, folder: Path) -> Path:
    place = write_exported(export(sae, layout), folder)
    return next(place.glob("layer_*.safetensors")) if layout == "circuit-tracer" else place


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("case", CASES)
def test_round_trips(case: str, layout: str, tmp_path: Path):
    sae, x = load_sae(FOLDER / case), outputs(case)["x"]
    if case not in HELD[layout]:
        with pytest.raises(UserError, match="cannot hold this SAE"):
            export(sae, layout)
        return
    again = load_sae(written(sae, layout, tmp_path))
    before, after = sae.encode(x).to_dense(), again.encode(x).to_dense()
    assert torch.equal(before > 0, after > 0)
    if case in FOLDS.get(layout, ()):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(before, after)
        assert torch.equal(again(x), sae(x))


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("lens") and "old" not in case])
def test_the_files_of_sae_lens_come_back_to_the_bit(case: str, tmp_path: Path):
    if case == "lens_topk_rescaled":
        pytest.skip("its row lengths are folded into the encoder when it is read")
    write_exported(export(load_sae(FOLDER / case), "sae-lens"), tmp_path)
    original, ours = (load_file(folder / "sae_weights.safetensors") for folder in (FOLDER / case, tmp_path))
    assert original.keys() == ours.keys()
    assert all(torch.equal(original[name], ours[name]) for name in original)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saes_trained_here_are_held_by_sae_lens(name: str, tmp_path: Path):
    sae = build_sae(SaeConfig(name, d_in=8, d_sae=32, l0=4, site="layers.3.resid_post", model="gpt2", seed=3))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    sae.initialise(x, 4)
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
    sae.fold_scale(3.0)
    again = load_sae(written(sae, "sae-lens", tmp_path))
    assert torch.equal(again.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(again(x), sae(x))
    assert (again.config.site, again.config.model) == ("layers.3.resid_post", "openai-community/gpt2")
    assert again.config.scale == 3.0, "the typical norm, which the unit `norm` of a strength refers to"
    assert recognises(tmp_path)


def test_a_typical_norm_that_is_no_norm_is_refused(tmp_path: Path):
    sae = load_sae(FOLDER / "lens_topk_unit")
    sae.fold_scale(3.0)
    cfg = written(sae, "sae-lens", tmp_path) / "cfg.json"
    cfg.write_text(cfg.read_text().replace('"typical_norm": 3.0', '"typical_norm": -3.0'))
    with pytest.raises(UserError, match=r"say typical_norm = -3.0, which should be a number above 0"):
        load_sae(tmp_path)


def test_notes_say_what_is_folded_and_what_is_lost():
    notes = " ".join(export(load_sae(FOLDER / "dl_batchtopk"), "gemma-scope-2").notes)
    assert "one threshold for all" in notes
    assert "b_dec was folded" in notes
    assert "not of unit length, which SAEBench asks for" in " ".join(
        export(load_sae(FOLDER / "dl_topk"), "sae-lens").notes
    )
    assert export(load_sae(FOLDER / "lens_topk_unit"), "sae-lens").notes == ()
    with pytest.raises(UserError, match="unknown layout 'saelens'"):
        export(load_sae(FOLDER / "dl_topk"), "saelens")


def test_an_input_scale_is_folded(tmp_path):
    import dataclasses

    from monosemy.saes.transforms import Transforms

    config = SaeConfig(
        "jumprelu", d_in=8, d_sae=32, l0=4, site="layers.1.resid_post", transforms=Transforms(input_scale=0.5)
    )
    sae = build_sae(config)
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        sae.threshold.fill_(0.2)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    again = load_sae(written(sae, "sae-lens", tmp_path))
    assert again.config.transforms == dataclasses.replace(config.transforms, input_scale=1.0)
    torch.testing.assert_close(again.encode(x).to_dense(), sae.encode(x).to_dense())
    torch.testing.assert_close(again(x), sae(x))


@pytest.mark.parametrize("case", sorted(HELD["sae-lens"]))
def test_rows_of_unit_length_change_no_reconstruction(case: str, tmp_path: Path):
    sae, x = load_sae(FOLDER / case), outputs(case)["x"]
    lengths = sae.tensors()["W_dec"].norm(dim=1)
    if sae.config.architecture == "topk" and lengths.max() > (1 + 1e-6) * lengths.min():
        with pytest.raises(UserError, match="leave --unit-rows out"):
            export(sae, "sae-lens", unit_rows=True)
        return
    exported = export(sae, "sae-lens", unit_rows=True)
    assert any("lengths of decoder rows were folded" in note for note in exported.notes)
    assert not any("not of unit length" in note for note in exported.notes)
    again = load_sae(write_exported(exported, tmp_path))
    rows = again.tensors()["W_dec"].norm(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-6)
    before, after = sae.encode(x), again.encode(x)
    assert torch.equal(before.to_dense() > 0, after.to_dense() > 0)
    expected = sae.decode(before)
    torch.testing.assert_close(again.decode(after), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_rows_of_unit_length_are_for_sae_lens_alone():
    sae = build_sae(SaeConfig("jumprelu", 8, 16, 4.0))
    with pytest.raises(UserError, match="--unit-rows is for the layout sae-lens"):
        export(sae, "sparsify", unit_rows=True)


def test_a_nested_dictionary_keeps_its_widths_in_dictionary_learning_and_is_a_jumprelu_in_sae_lens(tmp_path: Path):
    config = SaeConfig("matryoshka_batch_topk", d_in=8, d_sae=32, l0=4, site="layers.3.resid_post", seed=3)
    sae = build_sae(config)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        sae.threshold.fill_(0.4)
    exported = export(sae, "dictionary-learning")
    assert exported.settings["config.json"]["trainer"]["dict_class"] == "MatryoshkaBatchTopKSAE"
    assert exported.tensors["ae.pt"]["group_sizes"].tolist() == [2, 2, 4, 8, 16]
    write_exported(exported, tmp_path / "dl")
    again = load_sae(tmp_path / "dl")
    assert (again.config.architecture, again.widths) == ("matryoshka_batch_topk", (2, 4, 8, 16, 32))
    assert torch.equal(again.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(again(x), sae(x))
    lens = load_sae(written(sae, "sae-lens", tmp_path / "lens"))
    assert lens.config.architecture == "jumprelu"
    assert torch.equal(lens(x), sae(x))
