"""Logit effects against the model's own last steps; neighbours against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES

from monosemy.features.building.logit_effects import OutputMap, no_direct_path, output_map, top_effects
from monosemy.features.building.neighbours import decoder_neighbours

CAPPED = {"gemma2"}
TOKENS = torch.arange(40).view(2, 20) % 250


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - CAPPED))
def test_effects_are_what_a_small_step_in_the_last_residual_does_to_the_logits(tiny_model, family):
    """Steps orthogonal to the residual keep its size: then the effects, at the token's own size, are the derivative."""
    model = tiny_model(family)
    site = f"layers.{model.n_layers - 1}.resid_post"
    logit_map = output_map(model, TOKENS)
    assert isinstance(logit_map, OutputMap), logit_map
    x = model.activations(TOKENS, [site])[site]
    centred = x - x.mean(-1, keepdim=True) if logit_map.centred else x
    sizes = centred.square().mean(-1).sqrt()
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(x.shape, generator=generator)
    step -= (step * centred).sum(-1, keepdim=True) / centred.square().sum(-1, keepdim=True) * centred
    h = 1e-2 * sizes[..., None]
    up, down = (model.logits(TOKENS, {site: lambda v, s=s: v + s * h * step}).double() for s in (1, -1))
    measured = (up - down) / (2 * h)
    measured -= measured.mean(-1, keepdim=True)
    effects = logit_map.effects(step.view(-1, model.d_model)).view(measured.shape)
    expected = effects * (sizes.median() / sizes)[..., None]
    scale = float(expected.abs().max())
    assert scale > 0.01
    torch.testing.assert_close(measured.float() / scale, expected / scale, atol=2e-3, rtol=0)


def test_a_layer_norm_is_told_from_a_root_mean_square_norm(tiny_model):
    assert output_map(tiny_model("gpt2"), TOKENS).centred
    assert not output_map(tiny_model("llama"), TOKENS).centred
    assert not output_map(tiny_model("gemma3"), TOKENS).centred


def test_sites_that_write_nothing_into_the_stream_say_so(tiny_model):
    model = tiny_model("llama")
    assert no_direct_path(model, "layers.1.resid_post") is None
    assert no_direct_path(model, "layers.1.mlp_out") is None
    assert "not written into the residual stream" in str(no_direct_path(model, "layers.1.mlp_in"))
    assert "attn_heads" in str(no_direct_path(model, "layers.1.attn_heads"))


def test_the_most_raised_and_lowered_tokens_are_those_of_all_effects(tiny_model):
    logit_map = output_map(tiny_model("llama"), TOKENS)
    directions = torch.randn(300, logit_map.unembedding.shape[1], generator=torch.Generator().manual_seed(1))
    effects = logit_map.effects(directions)
    assert effects.mean(1).abs().max() < 1e-5
    (up, raised), (down, lowered) = top_effects(logit_map, directions, 5)
    ordered = effects.sort(dim=1, descending=True)
    torch.testing.assert_close(raised, ordered.values[:, :5])
    torch.testing.assert_close(lowered, ordered.values[:, -5:].flip(1))
    torch.testing.assert_close(effects.gather(1, up), raised)
    torch.testing.assert_close(effects.gather(1, down), lowered)


def test_decoder_neighbours_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    W = random.standard_normal((2500, 12)).astype(np.float32) * random.uniform(0.5, 3, (2500, 1)).astype(np.float32)
    latents, cosines = decoder_neighbours(torch.from_numpy(W), 4)
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    all_cosines = unit @ unit.T
    np.fill_diagonal(all_cosines, -2)
    np.testing.assert_allclose(cosines, -np.sort(-all_cosines, axis=1)[:, :4], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(all_cosines, latents.astype(int), 1), cosines, atol=1e-5)


def test_a_dictionary_smaller_than_the_list_leaves_places_empty():
    latents, cosines = decoder_neighbours(torch.eye(2), 3)
    assert latents.tolist() == [[1, -1, -1], [0, -1, -1]]
    assert cosines.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert (decoder_neighbours(torch.ones(1, 4), 2)[0] == -1).all()
