"""What an edit does to activations: exactly its equation, exactly where it was asked, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from published_saes import FOLDER, outputs
from steering_cases import D_SAE, SITE, place_of, scales_of, tiny_sae

from monosemy.config import ActivationsConfig, RunConfig
from monosemy.errors import UserError
from monosemy.run import open_run
from monosemy.saes.registry import ARCHITECTURES
from monosemy.saes.storage import load_sae
from monosemy.steering import control
from monosemy.steering.control import control_edits
from monosemy.steering.edits import LatentScales, SiteEdit, Steering, latent_values, read_scales, resolve
from monosemy.steering.request import Edit, Positions, request_from_json
from monosemy.support.files import write_json

FREE = LatentScales()
"""No scales known: no unit but raw, no outliers."""


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def x(model) -> torch.Tensor:
    tokens = torch.randint(256, (2, 14), generator=torch.Generator().manual_seed(8))
    return model.activations(tokens, [SITE])[SITE]


@pytest.fixture(scope="module")
def sae(model):
    return tiny_sae(model)


def edited(sae, x, edits, positions=None, *, keep_error=True, scales=FREE, prompt_length=6):
    steering = Steering(tuple(edits), positions or Positions(), keep_error)
    return SiteEdit(sae, scales, [steering] * len(x))(x, place_of(x, prompt_length))


def code_of(sae, x) -> torch.Tensor:
    return sae.encode(x.flatten(0, 1)).to_dense().view(*x.shape[:2], -1)


def busiest(sae, x) -> int:
    """The latent that fires on most, but not on all, of the tokens."""
    counts = (code_of(sae, x) > 0).sum((0, 1))
    return int(torch.where(counts < x.shape[0] * x.shape[1], counts, 0).argmax())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adding_zero_and_scaling_by_one_change_no_bit(architecture, model, x):
    sae = tiny_sae(model, architecture)
    signed = x.clone()
    signed[0, 3, :5] = -0.0  # adding 0.0 to it would flip its sign bit
    for edits in (
        [Edit(3, "add", 0.0)],
        [Edit(3, "scale", 1.0), Edit(4, "add", 0.0)],
        [Edit(busiest(sae, x), "cap", 1e9)],
        [Edit(5, "project", 1.0)],
    ):
        new = edited(sae, signed, edits)
        assert torch.equal(new.view(torch.int32), signed.view(torch.int32)), edits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_setting_a_latent_to_its_current_value_changes_nothing(architecture, model, x):
    sae = tiny_sae(model, architecture)
    # a latent that fires on some of the positions and is silent on others
    n_fired = (code_of(sae, x)[0, 1:] > 0).sum(0)
    latent = int((n_fired - x.shape[1] // 2).abs().argmin())
    values = []
    for position in range(1, x.shape[1]):
        here = Positions("range", position, position + 1)
        # read from the very row that is edited: a product of more rows may round in another order
        values.append(float(sae.encode(x[0, position : position + 1]).to_dense()[0, latent]))
        new = edited(sae, x[:1], [Edit(latent, "set", values[-1])], here)
        assert torch.equal(new, x[:1])
        moved = edited(sae, x[:1], [Edit(latent, "set", values[-1] + 1)], here)
        torch.testing.assert_close(moved[0, position] - x[0, position], sae.W_dec[latent], rtol=1e-4, atol=1e-5)
    assert 0 < sum(value > 0 for value in values) < len(values)


def test_ablating_equals_setting_to_zero_and_scaling_by_zero(sae, x):
    latent = busiest(sae, x)
    ablated = edited(sae, x, [Edit(latent, "ablate", 7.0)])
    assert not torch.equal(ablated, x)
    assert torch.equal(ablated, edited(sae, x, [Edit(latent, "set", 0.0)]))
    assert torch.equal(ablated, edited(sae, x, [Edit(latent, "scale", 0.0)]))
    assert torch.equal(ablated, edited(sae, x, [Edit(latent, "cap", 0.0)]))


def test_each_operation_follows_its_equation(sae, x):
    latent = busiest(sae, x)
    f, d = code_of(sae, x)[..., latent, None], sae.W_dec[latent]
    cut = float(f[f > 0].median())
    expected = {
        ("add", 2.0): x + 2 * d,
        ("set", 3.0): x + (3 - f) * d,
        ("scale", 4.0): x + 3 * f * d,
        ("cap", cut): x + (f.clamp(max=cut) - f) * d,
        ("project", 0.5): x - 0.5 * (x @ d)[..., None] * d,
    }
    for (operation, value), target in expected.items():
        new = edited(sae, x, [Edit(latent, operation, value)])
        torch.testing.assert_close(new[:, 1:], target[:, 1:], msg=operation)
        assert torch.equal(new[:, 0], x[:, 0])
    gone = edited(sae, x, [Edit(latent, "project", 0.0)])[:, 1:] @ d
    assert gone.abs().max() < 1e-5


def test_several_latents_are_changed_together_from_the_same_reading(sae, x):
    first, second = busiest(sae, x), 7
    f = code_of(sae, x)
    new = edited(sae, x, [Edit(first, "set", 5.0), Edit(second, "set", 2.0), Edit(second, "add", 1.0)])
    change = (5 - f[..., [first]]) * sae.W_dec[first] + (3 - f[..., [second]]) * sae.W_dec[second]
    torch.testing.assert_close(new[:, 1:], (x + change)[:, 1:])


def test_an_edit_that_does_nothing_here_keeps_no_other_from_acting(sae, x):
    new = edited(sae, x, [Edit(3, "add", 0.0), Edit(7, "add", 2.0)])
    torch.testing.assert_close(new[:, 1:], (x + 2 * sae.W_dec[7])[:, 1:])


def test_with_the_error_kept_nothing_else_changes(sae, x):
    """Other tokens, and all directions but the latent's, stay as they were; without it they do not."""
    latent, here = busiest(sae, x), Positions("range", 4, 6)
    new = edited(sae, x, [Edit(latent, "set", 9.0)], here)
    at = torch.zeros(x.shape[1], dtype=torch.bool)
    at[4:6] = True
    assert torch.equal(new[:, ~at], x[:, ~at])
    change = (new - x)[:, at]
    along = (change @ sae.W_dec[latent])[..., None] * sae.W_dec[latent]
    torch.testing.assert_close(change, along, rtol=1e-4, atol=1e-5)
    assert change.norm(dim=-1).min() > 1

    replaced = edited(sae, x, [Edit(latent, "set", 9.0)], here, keep_error=False)
    assert torch.equal(replaced[:, ~at], x[:, ~at])
    x_hat = sae(x)
    f = code_of(sae, x)[..., latent, None]
    torch.testing.assert_close(replaced[:, at], (x_hat + (9 - f) * sae.W_dec[latent])[:, at])
    error = (x - x_hat)[:, at]
    assert error.norm(dim=-1).min() > 0.1
    torch.testing.assert_close(new[:, at] - replaced[:, at], error, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (Positions(), range(1, 14)),
        (Positions("prompt"), range(1, 6)),
        (Positions("generated"), range(6, 14)),
        (Positions("range", 0, 3), range(1, 3)),
        (Positions("range", 9), range(9, 14)),
    ],
)
def test_only_the_named_positions_change_and_never_the_first(positions, expected, sae, x):
    new = edited(sae, x, [Edit(2, "add", 1.0)], positions)
    changed = (new != x).any(-1)[0].nonzero()[:, 0].tolist()
    assert changed == list(expected)


def test_outliers_are_left_alone(sae, x):
    scales = scales_of(sae, x.flatten(0, 1))
    massive = x.clone()
    massive[0, 5] *= 100
    new = edited(sae, massive, [Edit(2, "set", 3.0)], scales=scales)
    assert torch.equal(new[0, 5], massive[0, 5])
    assert (new != massive).any(-1)[1, 5]


def test_outliers_are_those_of_the_runs_own_training(sae, x, tmp_path):
    """Its multiple of the median norm where features record it; of the typical norm else; 0 leaves none out."""
    stretched = x.clone()
    stretched[0, 5] *= 8 / stretched[0, 5].norm()  # 4 × the typical norm of 2, 8 × the median of 1

    def is_edited(folder) -> bool:
        new = edited(sae, stretched, [Edit(2, "add", 3.0)], scales=read_scales(folder, sae))
        assert (new != stretched).any(-1)[1, 5]
        return bool((new != stretched)[0, 5].any())

    assert is_edited(tmp_path / "alone")  # in no run: up to 6 × the typical norm
    for multiple, without_features, with_features in ((6.0, True, False), (3.0, False, False), (0.0, True, True)):
        with open_run(tmp_path / f"run{multiple}", RunConfig(activations=ActivationsConfig(outlier_multiple=multiple))):
            pass
        folder = tmp_path / f"run{multiple}" / "saes" / SITE / "topk-l0_6-s0"
        assert is_edited(folder) is without_features, multiple
        # another SAE's features will do: the median is the site's
        write_json(
            tmp_path / f"run{multiple}" / "features" / SITE / "relu-l0_6-s0" / "features.json", {"median_norm": 1.0}
        )
        assert is_edited(folder) is with_features, multiple


def test_every_text_of_a_batch_has_its_own_edits(sae, x):
    x3 = torch.cat([x, x[:1]])
    rows = [Steering((Edit(2, "add", 1.0),)), None, Steering((Edit(9, "set", 2.0),), Positions("prompt"))]
    together = SiteEdit(sae, FREE, rows)(x3, place_of(x3, 6))
    assert torch.equal(together[1], x3[1])
    for b in (0, 2):
        alone = SiteEdit(sae, FREE, [rows[b]])(x3[b : b + 1], place_of(x3[:1], 6))
        torch.testing.assert_close(together[b], alone[0])
    with pytest.raises(ValueError, match="edits for 3 texts met a batch of 2"):
        SiteEdit(sae, FREE, rows)(x, place_of(x, 6))


def test_half_precision_models_keep_their_dtype(sae, x):
    half = x.to(torch.bfloat16)
    new = edited(sae, half, [Edit(2, "add", 1.0)])
    assert new.dtype == torch.bfloat16
    torch.testing.assert_close(new[:, 1:].float(), (half.float() + sae.W_dec[2])[:, 1:], rtol=1e-2, atol=1e-2)
    assert torch.equal(edited(sae, half, [Edit(2, "add", 0.0)]), half)


def test_the_trace_shows_what_the_model_brought_and_what_was_left(sae, x):
    latent = busiest(sae, x)
    watching = SiteEdit(sae, FREE, [Steering((Edit(latent, "add", 5.0),)), None], watch=[latent, 3])
    new = watching(x, place_of(x, 6))
    before, after = watching.before[0], watching.after[0]
    torch.testing.assert_close(before, code_of(sae, x)[..., [latent, 3]])
    torch.testing.assert_close(after, code_of(sae, new)[..., [latent, 3]])
    assert (after[0, 1:, 0] > before[0, 1:, 0]).all()
    torch.testing.assert_close(
        after[1], before[1]
    )  # nothing was edited there; products of other shapes round otherwise


def test_units(sae, x):
    scales = scales_of(sae, x.flatten(0, 1))
    latent = busiest(sae, x)
    assert resolve(Edit(latent, "set", 2.0, "raw"), sae, scales).value == 2.0
    assert resolve(Edit(latent, "set", 2.0, "max"), sae, scales).value == pytest.approx(
        2 * float(scales.maximum[latent])
    )
    by_norm = resolve(Edit(latent, "add", 0.5, "norm"), sae, scales)
    assert by_norm.unit == "raw"
    length = by_norm.value * float(sae.W_dec[latent].norm())
    assert length == pytest.approx(0.5 * scales.typical_norm)
    assert resolve(Edit(latent, "scale", 3.0, "max"), sae, scales).value == 3.0


@pytest.mark.parametrize("length", [3.0, 0.2])
def test_a_push_in_norms_moves_the_activation_as_far_whatever_the_decoder_rows_length(length, sae, x):
    scales = LatentScales(typical_norm=7.0)
    stretched = copy.deepcopy(sae)
    stretched.W_dec[5] *= length / stretched.W_dec[5].norm()
    assert resolve(Edit(5, "add", 0.5, "norm"), stretched, scales).value == pytest.approx(3.5 / length, rel=1e-5)
    new = edited(stretched, x, [Edit(5, "add", 0.5, "norm")], scales=scales)
    torch.testing.assert_close((new - x)[:, 1:].norm(dim=-1), torch.full((2, 13), 3.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["lens_jumprelu_layernorm", "lens_standard_normrescale"])
def test_a_published_sae_is_set_in_its_publishers_units_and_written_in_those_of_the_row(case):
    sae, rows = load_sae(FOLDER / case), outputs(case)["x"]
    new = edited(sae, rows[None], [Edit(5, "set", 2.5)], keep_error=False)[0]
    codes = outputs(case)["codes"].clone()
    codes[:, 5] = 2.5
    # The publishers' equations: the code is decoded, and the row's normalisation is undone.
    if case == "lens_jumprelu_layernorm":
        size, mean = rows.std(1, keepdim=True), rows.mean(1, keepdim=True)
    else:
        size, mean = rows.norm(dim=1, keepdim=True) / rows.shape[1] ** 0.5, 0.0
    expected = (codes @ sae.W_dec + sae.b_dec) * size + mean
    torch.testing.assert_close(new[1:], expected[1:], rtol=1e-4, atol=1e-4)
    assert torch.equal(new[0], rows[0])


def test_a_push_in_norms_is_as_long_for_a_published_sae_that_normalises():
    sae = load_sae(FOLDER / "lens_standard_normrescale")
    rows = 7.0 * torch.nn.functional.normalize(outputs("lens_standard_normrescale")["x"], dim=1)[None]
    new = edited(sae, rows, [Edit(5, "add", 0.5, "norm")], scales=LatentScales(typical_norm=7.0))
    torch.testing.assert_close((new - rows)[0, 1:].norm(dim=1), torch.full((rows.shape[1] - 1,), 3.5))


def test_projection_leaves_a_share_of_the_component_whatever_the_decoder_rows_length(sae, x):
    stretched = copy.deepcopy(sae)
    stretched.W_dec[5] *= 3
    unit = sae.W_dec[5] / sae.W_dec[5].norm()
    new = edited(stretched, x, [Edit(5, "project", 0.25)])
    torch.testing.assert_close(new[:, 1:] @ unit, 0.25 * (x[:, 1:] @ unit), rtol=1e-4, atol=1e-5)


def test_bad_edits_are_refused_in_one_line(sae, x):
    dead = LatentScales(torch.zeros(D_SAE), torch.zeros(D_SAE, dtype=torch.int64), 1.0)
    for make, message in (
        (lambda: resolve(Edit(D_SAE), sae, FREE), r"latent 48 is out of range; this SAE has latents 0 to 47"),
        (lambda: resolve(Edit(-1), sae, FREE), r"latent -1 is out of range"),
        (lambda: resolve(Edit(1, "set", 1, "max"), sae, FREE), r"unit max needs .*; evaluate the run first, or use"),
        (lambda: resolve(Edit(1, "set", 1, "norm"), sae, FREE), r"unit norm needs the site's typical norm"),
        (lambda: resolve(Edit(1, "set", 1, "max"), sae, dead), r"latent 1 never fired"),
        (lambda: Edit(1, "sett"), r"unknown operation 'sett'; did you mean 'set'.*valid choices: add, set, scale"),
        (lambda: Edit(1, unit="maxx"), r"unknown unit 'maxx'; did you mean 'max'"),
        (lambda: Edit(1, "add", float("nan")), r"latent 1 must be a finite number, got nan"),
        (lambda: Positions("everywhere"), r"unknown positions 'everywhere'.*choices: all, prompt, generated, range"),
        (lambda: Positions("range", 4, 4), r"0 <= start < stop, got 4 to 4"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_bad_requests_are_refused_in_one_line():
    good = {"prompt": "Hello", "edits": [{"latent": 3, "value": 2, "unit": "max"}]}
    assert request_from_json(good).edits == (Edit(3, "set", 2.0, "max"),)
    for change, message in (
        ({"prompt": ""}, "the prompt is empty"),
        ({"edits": []}, "nothing to steer"),
        ({"edits": [{"latent": "3"}]}, r"steer.edits.latent must be of type int, got '3'"),
        ({"edits": [{"latent": 3, "strength": 1}]}, r"unknown setting 'steer.edits.strength'"),
        ({"columns": ["default", "sterred"]}, r"unknown column 'sterred'; did you mean 'steered'"),
        ({"columns": ["default", "default"]}, "name each column once"),
        ({"columns": ["prompted"]}, "needs an instruction"),
        ({"n_tokens": 0}, "n_tokens must be at least 1, got 0"),
        ({"temperature": -1}, "temperature must be 0 or more"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1"),
    ):
        with pytest.raises(UserError, match=message):
            request_from_json(good | change)
    with pytest.raises(UserError, match="needs 'edits'"):
        request_from_json({"prompt": "a"})
    with pytest.raises(UserError, match="must be an object of named values, got list"):
        request_from_json([])


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("set", 8), ("set", 8)], "latent 3 is edited by set twice, which would add up; give it one of set, ablate"),
        ([("set", 8), ("ablate", 0)], "latent 3 is edited by set and ablate"),
        (
            [("add", 1), ("cap", 2), ("project", 0)],
            r"latent 3 is edited by cap and project.*\(add may stand beside it\)",
        ),
        ([("scale", 2), ("cap", 2)], "latent 3 is edited by scale and cap"),
    ],
)
def test_edits_of_one_latent_that_contradict_each_other_are_refused(edits, message):
    beside = [{"latent": 4, "operation": "set", "value": 1}]
    conflicting = [{"latent": 3, "operation": operation, "value": value} for operation, value in edits]
    with pytest.raises(UserError, match=message) as caught:
        request_from_json({"prompt": "Hello", "edits": beside + conflicting})
    assert "\n" not in str(caught.value)


def test_a_push_may_stand_beside_any_other_edit_of_its_latent():
    for operation in ("add", "set", "ablate", "cap", "scale", "project"):
        edits = [{"latent": 3, "operation": name, "value": 2} for name in (operation, "add", "add")]
        assert len(request_from_json({"prompt": "Hello", "edits": edits}).edits) == 3


def test_the_control_is_another_latent_that_fires_about_as_often_and_is_pushed_as_far(sae, x):
    scales = scales_of(sae, x.flatten(0, 1))
    latent = busiest(sae, x)
    edits = (Edit(latent, "set", 3.0), Edit(latent, "scale", 2.0))
    first, second = control_edits(edits, sae, scales, seed=0)
    assert first.latent == second.latent != latent
    assert scales.n_fired[first.latent] > 0
    length = first.value * sae.W_dec[first.latent].norm()
    torch.testing.assert_close(length, 3 * sae.W_dec[latent].norm())
    assert second.value == 2.0
    assert control_edits(edits, sae, scales, seed=0) == (first, second)
    drawn = {control_edits(edits, sae, scales, seed=seed)[0].latent for seed in range(30)}
    assert len(drawn) > 3
    assert latent not in drawn
    assert control_edits(edits, sae, scales, seed=0, control=11)[0].latent == 11
    for refused, message in ((latent, "among the steered ones"), (D_SAE, "out of range")):
        with pytest.raises(UserError, match=message):
            control_edits(edits, sae, scales, seed=0, control=refused)


def test_controls_are_near_in_the_order_of_magnitude_and_their_pushes_as_long(sae, monkeypatch):
    """Latent i fires 100 · 1.5^i times and has a decoder row 1 + i long: partners are the next in number, both ways."""
    monkeypatch.setattr(control, "N_CANDIDATES", 6)
    stretched = copy.deepcopy(sae)
    lengths = 1 + torch.arange(float(D_SAE))
    stretched.W_dec *= (lengths / stretched.W_dec.norm(dim=1))[:, None]
    scales = LatentScales(n_fired=(100 * 1.5 ** torch.arange(D_SAE)).long())
    partners = set()
    for seed in range(60):
        (partner,) = control_edits((Edit(24, "set", 3.0),), stretched, scales, seed=seed)
        partners.add(partner.latent)
        assert partner.value * float(lengths[partner.latent]) == pytest.approx(3.0 * 25, rel=1e-5)
    assert partners == {21, 22, 23, 25, 26, 27}


def test_values_of_few_latents_from_a_sparse_code(sae, x):
    code = sae.encode(x.flatten(0, 1))
    latents = [7, 0, busiest(sae, x), 7]
    assert torch.equal(latent_values(code, latents), code.to_dense()[:, latents])


def test_scales_of_a_folder_without_statistics_know_only_the_norm(sae, tmp_path):
    scales = read_scales(tmp_path, sae)
    assert (scales.maximum, scales.n_fired, scales.typical_norm) == (None, None, 2.0)
