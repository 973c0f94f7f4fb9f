"""The self-checks find models whose sites are not what their names say."""

from __future__ import annotations

import pytest
import torch
from tiny_models import N_LAYERS, byte_tokenizer, random_module

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.checks import check_model, sum_error


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(random_module("llama"), byte_tokenizer(), name="tiny", fingerprint="tiny")


def test_a_layer_that_adds_more_than_its_parts(model):
    block = model._blocks[1]
    original = block.forward
    block.forward = lambda *args, **kwargs: original(*args, **kwargs) * 1.001
    failed = check_model(model)
    assert set(failed) == {"layers.1.mlp_out"}  # resid_pre + attn_out = resid_mid still holds
    with pytest.raises(UserError, match=r"fails the self-check on load: resid_mid \+ mlp_out = resid_post"):
        model.resolve("layers.1.mlp_out")
    assert model.resolve("layers.1.resid_post") == "layers.1.resid_post"
    assert model.resolve("layers.2.mlp_out") == "layers.2.mlp_out"


def test_a_module_that_is_never_run(model):
    attention = model._blocks[2].self_attn
    attention.o_proj.forward, hidden = None, attention.o_proj  # hooks on it never fire now
    attention.o_proj = torch.nn.Linear(32, 32, bias=False)
    model._places["layers.2.attn_heads"] = (hidden, "input")
    assert check_model(model) == {"layers.2.attn_heads": "its module is never run"}


def test_a_site_of_the_wrong_width(model):
    model._places["layers.0.mlp_out"] = (model._blocks[0].mlp.up_proj, "output")
    failed = check_model(model)
    assert failed["layers.0.mlp_out"] == "its activation has shape [2, 8, 48] instead of [2, 8, 32]"


def test_an_activation_overwritten_in_place(model):
    norm = model._blocks[3].input_layernorm

    def double(module, args):
        args[0].mul_(2)

    norm.register_forward_pre_hook(double)
    failed = check_model(model)
    assert "overwrites its activation in place" in failed["layers.2.resid_post"]


def test_layers_that_share_state_are_never_skipped(model):
    """The last layer also reads what the first one's MLP left behind, as models with shared keys do."""
    first, last = model._blocks[0], model._blocks[3]
    first.mlp.register_forward_hook(lambda module, args, output: setattr(first, "left", output))
    original = last.forward
    last.forward = lambda *args, **kwargs: original(*args, **kwargs) + first.left
    assert set(check_model(model)) == {"layers.3.mlp_out"}  # it does not add up there either
    assert not model.can_start_late
    tokens = torch.arange(6).reshape(1, 6)
    start = model.prefix(tokens, "layers.2.resid_post")
    assert start.layer == 0
    assert torch.equal(model.logits(tokens, start=start), model.logits(tokens))


def test_logits_that_differ_between_passes(model):
    model.module.lm_head.register_forward_hook(lambda module, args, output: output + torch.rand(()))
    with pytest.raises(UserError, match="other logits each time"):
        check_model(model)


def test_a_model_that_looks_ahead(model):
    original = model._blocks[1].forward
    model._blocks[1].forward = lambda x, *args, **kwargs: original(x + x.mean(1, keepdim=True), *args, **kwargs)
    with pytest.raises(UserError, match="no causal decoder"):
        check_model(model)


def test_logits_that_are_not_finite(model):
    with torch.no_grad():
        model.module.lm_head.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"NaN or infinite logits in torch.float32"):
        check_model(model)


def test_checks_cover_every_layer(model):
    assert check_model(model) == {}
    assert len(model.site_names()) == 7 * N_LAYERS


def test_sum_error_is_relative_to_each_tokens_own_size():
    terms = [torch.tensor([[1e4, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])]
    total = torch.tensor([[1e4, 0.0], [1.0, 1.0 + 1e-2]])
    assert sum_error(terms, total) == pytest.approx(1e-2 / 1.01, rel=1e-3)


def test_a_layer_that_scales_its_sublayers_outputs():
    """Granite's layer adds 0.22 of each module's output: the sites hold what is added, reading and writing."""
    model = LanguageModel(random_module("granite"), byte_tokenizer(), name="granite", fingerprint="granite")
    assert check_model(model) == {}
    tokens = torch.arange(14).reshape(2, 7)
    read = model.all_activations(tokens)
    module_out: list[torch.Tensor] = []
    attention = model.place("layers.1.attn_out")[0]
    with_hook = attention.register_forward_hook(lambda *arguments: module_out.append(arguments[2][0]))
    model.logits(tokens)
    with_hook.remove()
    torch.testing.assert_close(read["layers.1.attn_out"], 0.22 * module_out[0])
    other = read["layers.1.attn_out"].flip(-1)
    mids: list[torch.Tensor] = []
    edits = {"layers.1.attn_out": lambda x: other, "layers.1.resid_mid": lambda x: mids.append(x) or x}
    model.logits(tokens, edits)
    torch.testing.assert_close(mids[0], read["layers.1.resid_pre"] + other)
    weights = model.output_weights(1)
    heads = read["layers.1.attn_heads"].unflatten(-1, weights.shape[:2])
    torch.testing.assert_close(torch.einsum("bthe,hed->btd", heads, weights), read["layers.1.attn_out"])


def test_gradients_of_a_scaled_contribution_are_those_of_what_is_added():
    model = LanguageModel(random_module("granite"), byte_tokenizer(), name="granite", fingerprint="granite")
    tokens = torch.arange(5).reshape(1, 5)
    plain = model.activations(tokens, ["layers.3.mlp_out"])["layers.3.mlp_out"]
    push = torch.zeros_like(plain, requires_grad=True)
    logits = model.logits(tokens, {"layers.3.mlp_out": lambda x: x + push}, gradients=True)
    assert torch.equal(logits.detach(), model.logits(tokens))
    logits[0, -1, 3].backward()
    step = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
    up, down = (model.logits(tokens, {"layers.3.mlp_out": lambda x, s=s: x + s * step})[0, -1, 3] for s in (1, -1))
    assert float((up - down) / 2) == pytest.approx(float((push.grad * step).sum()), rel=0.02)


def test_a_replacement_that_does_not_reach_the_residual_stream():
    """Reading alone cannot tell: the layer adds the same numbers again, computed beside the module that is read."""
    model = LanguageModel(random_module("llama"), byte_tokenizer(), name="tiny", fingerprint="tiny")
    block = model._blocks[2]
    original, mlp = block.forward, block.mlp
    captured: dict[str, torch.Tensor] = {}
    block.post_attention_layernorm.register_forward_hook(
        lambda _, args, output: captured.update(mid=args[0], normed=output)
    )

    def beside(*args, **kwargs):
        original(*args, **kwargs)
        return captured["mid"] + type(mlp).forward(mlp, captured["normed"])

    block.forward = beside
    failed = check_model(model)
    assert set(failed) == {"layers.2.mlp_out"}
