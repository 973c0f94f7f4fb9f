"""Heads of every supported family: outputs add up to the attention's, replacing a head by itself changes nothing."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, HYBRID, N_HEADS, N_LAYERS, build_module, byte_tokenizer, make_tiny_model
from torch._subclasses.fake_tensor import FakeTensorMode

from monosemy.circuits.heads.circuit import find_circuit
from monosemy.circuits.heads.methods import METHODS, Bench
from monosemy.circuits.heads.model_heads import LanguageModelHeads, as_heads, mask_edit, replace_edit
from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.checks import check_model
from research.heads.compiled import compile_circuit

LINEAR_AND_FULL = ["linear_attention", "full_attention"] * (N_LAYERS // 2)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(256, (3, 9), generator=torch.Generator().manual_seed(0))


def _bias(model, layer: int) -> torch.Tensor:
    projection = model._places[f"layers.{layer}.attn_heads"][0]
    bias = getattr(projection, "bias", None)
    scale = model.contribution_scale(f"layers.{layer}.attn_out")
    return torch.zeros(model.d_model) if bias is None else bias * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_of_all_heads_add_up_to_the_attention(family, tokens):
    model = make_tiny_model(family)
    heads = as_heads(model)
    outputs = heads.head_outputs(tokens)
    assert outputs.shape == (*tokens.shape, N_LAYERS * N_HEADS, model.d_model)
    read = model.activations(tokens, [f"layers.{layer}.attn_out" for layer in range(N_LAYERS)])
    for layer in range(N_LAYERS):
        total = outputs[:, :, layer * N_HEADS : (layer + 1) * N_HEADS].sum(2) + _bias(model, layer)
        torch.testing.assert_close(total, read[f"layers.{layer}.attn_out"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_replacing_heads_by_themselves_changes_nothing(family, tokens):
    heads = as_heads(make_tiny_model(family))
    plain = heads.run(tokens, residual=True)
    assert torch.equal(plain.logits, heads.logits(tokens))
    same = replace_edit(plain.values, range(N_LAYERS * N_HEADS), N_HEADS)
    assert torch.equal(heads.logits(tokens, same), plain.logits)
    edit = replace_edit(plain.values, [2 * N_HEADS + 1], N_HEADS)
    assert torch.equal(heads.logits(tokens, edit, layers=[2], clean=plain), plain.logits)
    assert torch.equal(heads.logits(tokens, inputs=heads.inputs(tokens)), plain.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_from_elsewhere_changes_logits_and_late_starts_agree(family, tokens):
    heads = as_heads(make_tiny_model(family))
    plain, other = heads.run(tokens, residual=True), heads.run(tokens.flip(1))
    for index in (N_HEADS + 2, 3 * N_HEADS):
        edit = replace_edit(other.values, [index], N_HEADS)
        patched = heads.logits(tokens, edit)
        assert not torch.allclose(patched, plain.logits)
        assert torch.equal(patched, heads.logits(tokens, edit, layers=[index // N_HEADS], clean=plain))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_mask_derivative_is_the_finite_difference(family, tokens):
    heads = as_heads(make_tiny_model(family))
    other = heads.run(tokens.flip(1)).values
    n = N_LAYERS * N_HEADS
    mask = torch.ones(n, requires_grad=True)
    heads.logits(tokens, mask_edit(mask, other, N_HEADS), gradients=True)[:, 7].sum().backward()
    assert mask.grad is not None
    for index in (1, n - 2):
        step = torch.zeros(n)
        step[index] = 1e-2
        up, down = (heads.logits(tokens, mask_edit(1 + sign * step, other, N_HEADS))[:, 7].sum() for sign in (1, -1))
        assert float((up - down) / 2e-2) == pytest.approx(float(mask.grad[index]), rel=0.05, abs=2e-4)


def test_query_heads_that_share_a_key_are_patched_alone(tokens):
    """The attention layer's own output moves by (v' − v) W_O of that one head, and by nothing of the head beside it."""
    model = make_tiny_model("llama")  # 4 query heads, 2 key/value heads
    heads = as_heads(model)
    plain, other = heads.run(tokens), heads.run(tokens.flip(1))
    attention_outputs = []
    hook = model.module.model.layers[1].self_attn.register_forward_hook(lambda *a: attention_outputs.append(a[2][0]))
    try:
        for edit in (None, replace_edit(other.values, [N_HEADS], N_HEADS)):
            heads.logits(tokens, edit)
    finally:
        hook.remove()
    before, after = attention_outputs
    moved = other.values[:, :, N_HEADS] - plain.values[:, :, N_HEADS]
    torch.testing.assert_close(after - before, moved @ model.output_weights(1)[0], rtol=1e-4, atol=1e-6)
    assert float((after - before).abs().max()) > 1e-3


def test_model_without_heads_is_refused():
    model = make_tiny_model("opt")
    names = [f"layers.{layer}.attn_heads" for layer in range(N_LAYERS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_places", {k: v for k, v in model._places.items() if k not in names})
        patch.setattr(model, "_refused", dict.fromkeys(names, "its layers have no output projection"))
        with pytest.raises(UserError, match=r"no attention heads to look at in any layer: .* no output projection"):
            LanguageModelHeads(model)


UNEQUAL = {
    # heads of 16 dimensions in full attention, of 8 in linear attention; as many of them, or twice as many
    "two widths": ("Qwen3NextConfig", {"linear_num_value_heads": N_HEADS, "layer_types": LINEAR_AND_FULL}, []),
    "two counts": ("Qwen3NextConfig", {"linear_num_value_heads": 8, "layer_types": LINEAR_AND_FULL}, [0, 2]),
    "none in half of the layers": ("JambaConfig", {"attn_layer_period": 2, "attn_layer_offset": 1}, [0, 2]),
}


@pytest.mark.parametrize("kind", UNEQUAL)
def test_unequal_layers_are_padded_or_left_out(kind, tokens):
    config_class, changes, without = UNEQUAL[kind]
    module = build_module(config_class, {**HYBRID, **changes})
    model = LanguageModel(module, byte_tokenizer(), name=kind, fingerprint=kind)
    assert check_model(model) == {}
    heads = LanguageModelHeads(model)
    assert heads.layers == [layer for layer in range(N_LAYERS) if layer not in without]
    assert heads.skipped_layers.startswith("layers 0, 2 of" if without else "")
    plain, other = heads.run(tokens, residual=True), heads.run(tokens.flip(1))
    outputs = heads.outputs(plain.values)
    read = model.activations(tokens, [f"layers.{layer}.attn_out" for layer in heads.layers])
    for layer in range(N_LAYERS):
        total = outputs[:, :, layer * N_HEADS : (layer + 1) * N_HEADS].sum(2)
        expected = read.get(f"layers.{layer}.attn_out", torch.zeros_like(total))
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    all_heads = range(N_LAYERS * N_HEADS)
    assert torch.equal(heads.logits(tokens, replace_edit(plain.values, all_heads, N_HEADS)), plain.logits)
    edit = replace_edit(other.values, [3 * N_HEADS], N_HEADS)
    assert torch.equal(heads.logits(tokens, edit, layers=[3], clean=plain), heads.logits(tokens, edit))
    assert not torch.allclose(heads.logits(tokens, edit), plain.logits)
    for layer in range(N_LAYERS):
        same = heads.values_from(plain, layer, torch.zeros(*tokens.shape, model.d_model), gradients=True)
        block = plain.values[:, :, layer * N_HEADS : (layer + 1) * N_HEADS]
        torch.testing.assert_close(same.detach(), block, rtol=1e-4, atol=1e-5)


def test_pooled_values_on_the_cpu_meet_weights_elsewhere():
    """Values are pooled on the CPU, the weights stay on the model's device; fake tensors check devices without one."""
    heads = as_heads(make_tiny_model("llama"))
    with FakeTensorMode():
        values = torch.empty(3, N_LAYERS * N_HEADS, heads.d_value)
        heads._W_O = [torch.empty(weight.shape, device="cuda") for weight in heads._W_O]
        assert heads.outputs(values).device == values.device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_method_runs_on_a_gpu():
    circuit = compile_circuit("induction", n_examples=8)
    small = Bench(as_heads(circuit.model.to("cuda")), circuit.data, 6)
    for name, method in METHODS.items():
        assert bool(torch.isfinite(method(small).scores).all()), name
    result = find_circuit(circuit.model, circuit.data, n_prompts=6)
    assert {divmod(i, result.n_heads) for i in result.members} == circuit.heads
