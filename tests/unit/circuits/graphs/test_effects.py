"""Direct effects against autograd through an explicitly frozen model, and rows against the targets they sum to."""

from __future__ import annotations

import pytest
import torch
from graph_cases import TEXT, FrozenByAutograd, exact_model, random_transcoders

from monosemy.circuits.graphs.effects import DirectEffects, Targets
from monosemy.circuits.graphs.frozen_attention import observe_values
from monosemy.circuits.graphs.frozen_model import freeze_model
from monosemy.circuits.graphs.replacement import replace_mlps
from monosemy.circuits.graphs.transcoders import match_layers

# Plain and gated MLPs, norms behind sublayers, parallel blocks, grouped queries, scaled contributions.
FAMILIES = ("gpt2", "llama", "gemma2", "gemma3", "gpt_neox", "phi", "opt", "qwen3", "granite")


def direct_effects(family, saes, text=TEXT):
    model = exact_model(family)
    tokens = torch.tensor(model.tokenizer(text)["input_ids"])
    frozen = freeze_model(model, tokens, observe_values(model))
    return model, tokens, DirectEffects(frozen, replace_mlps(frozen, match_layers(model, saes)))


def assert_rows_agree(effects, reference, targets, scalars, target_rows):
    """Rows of effects against autograd's, source by source."""
    T = effects.n_positions
    for row, (target, scalar) in enumerate(zip(range(len(targets)), scalars)):
        latents, errors, tokens = reference.effects(scalar)
        expected = torch.zeros(effects.n_columns, dtype=torch.float64)
        for column, (layer, position, latent) in enumerate(effects.entries.tolist()):
            expected[column] = latents[layer][position, latent]
        for layer, part in errors.items():
            start = effects.n_latents + layer * T
            expected[start : start + T] = part
        expected[-T:] = tokens
        torch.testing.assert_close(target_rows[target], expected, atol=1e-9, rtol=1e-9, msg=f"row {row}")


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_autograds_and_rows_sum_to_their_targets(family):
    saes = random_transcoders((0, 1, 3))
    model, tokens, effects = direct_effects(family, saes)
    reference = FrozenByAutograd(model, tokens, {int(sae.config.site.split(".")[1]): sae for sae in saes})
    columns = torch.arange(0, effects.n_latents, 7)
    targets, offsets = effects.latent_targets(columns)
    rows, constants = effects.rows(targets)
    entries = effects.entries[columns]
    scalars = [
        reference.inputs[layer][position] @ effects.parts[layer].weights.W_enc[:, latent]
        for layer, position, latent in entries.tolist()
    ]
    assert_rows_agree(effects, reference, targets, scalars, rows)
    gaps = rows.sum(1) + constants + offsets - effects.values[columns]
    assert float(gaps.abs().max()) < 1e-9 * float(effects.values.max()), "rows sum to the latents' activations"
    last = len(tokens) - 1
    direction = torch.randn(2, model.d_model, dtype=torch.float64)
    logits = Targets(torch.full((2,), model.n_layers), torch.full((2,), last), direction)
    rows, constants = effects.rows(logits)
    assert_rows_agree(effects, reference, logits, list(direction @ reference.final[last]), rows)
    torch.testing.assert_close(rows.sum(1) + constants, direction @ effects.frozen.final[last], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("architecture", ["relu", "topk", "batch_topk", "gated", "jumprelu"])
def test_every_architecture_is_followed(architecture):
    saes = random_transcoders(architecture=architecture, skip=architecture in ("relu", "gated"))
    _, _, effects = direct_effects("llama", saes)
    columns = torch.arange(0, effects.n_latents, 11)
    targets, offsets = effects.latent_targets(columns)
    rows, constants = effects.rows(targets)
    gaps = rows.sum(1) + constants + offsets - effects.values[columns]
    assert len(columns) > 5
    assert float(gaps.abs().max()) < 1e-9 * float(effects.values.max())


def test_outputs_behind_a_norm_are_followed():
    saes = random_transcoders(site_out="mlp_out_post")
    model, tokens, effects = direct_effects("gemma2", saes)
    assert {part.norm_out for part in effects.parts} == {None}
    reference = FrozenByAutograd(model, tokens, dict(enumerate(saes)))
    last = len(tokens) - 1
    direction = torch.randn(1, model.d_model, dtype=torch.float64)
    logits = Targets(torch.tensor([model.n_layers]), torch.tensor([last]), direction)
    rows, _ = effects.rows(logits)
    assert_rows_agree(effects, reference, logits, list(direction @ reference.final[last]), rows)
