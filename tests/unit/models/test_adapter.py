"""Reading, replacing and continuing, on a tiny random model of every family."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, N_LAYERS, VOCABULARY, byte_tokenizer, random_module

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.checks import check_model

KINDS = ["resid_pre", "attn_heads", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"]
NO_MID = {"gpt_neox", "phi", "opt"}
POST_NORM = {"gemma2", "gemma3"}

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))


def independent_reading(model: LanguageModel, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The residual stream entering each layer, by transformers' own means."""
    with torch.no_grad():
        return model.module(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states


@families
def test_every_site_passes_the_checks_or_is_refused_with_a_reason(family, tiny_model):
    model = tiny_model(family)
    assert check_model(model) == {}
    assert model.can_start_late
    kinds = [kind for kind in KINDS if kind != "resid_mid" or family not in NO_MID]
    extra = ["attn_out_post", "mlp_out_post"] if family in POST_NORM else []
    assert sorted(model.site_names()) == sorted(
        f"layers.{layer}.{kind}" for layer in range(N_LAYERS) for kind in kinds + extra
    )
    if family in NO_MID:
        with pytest.raises(
            UserError, match=r"has no site 'layers.1.resid_mid': .{30,}; this layer has: layers.1.resid_pre"
        ):
            model.resolve("layers.1.resid_mid")


@families
def test_residual_stream_is_what_transformers_reports(family, tiny_model, tokens):
    model = tiny_model(family)
    states = independent_reading(model, tokens)
    read = model.activations(tokens, [f"layers.{layer}.resid_pre" for layer in range(N_LAYERS)])
    for layer in range(N_LAYERS):
        assert torch.equal(read[f"layers.{layer}.resid_pre"], states[layer])
    for layer in range(N_LAYERS - 1):
        name = f"layers.{layer}.resid_post"
        assert torch.equal(model.activations(tokens, [name])[name], states[layer + 1])


@families
def test_attn_heads_times_output_matrix_is_attn_out(family, tiny_model, tokens):
    model = tiny_model(family)
    heads, out = model.activations(tokens, ["layers.2.attn_heads", "layers.2.attn_out"]).values()
    assert heads.shape[-1] == model.site_width("layers.2.attn_heads")
    projection = model._places["layers.2.attn_heads"][0]
    weight = projection.weight.T if isinstance(projection, torch.nn.Linear) else projection.weight
    module_out = heads @ weight + (projection.bias if projection.bias is not None else 0)
    expected = module_out * model.contribution_scale("layers.2.attn_out")
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@families
def test_reading_alone_equals_reading_together_and_ends_early(family, tiny_model, tokens):
    model = tiny_model(family)
    sites = [name for name in model.site_names() if name.startswith(("layers.0.", "layers.1."))]
    ran = []
    handle = model._blocks[2].register_forward_pre_hook(lambda *_: ran.append(2))
    together = model.activations(tokens, sites)
    handle.remove()
    assert not ran
    assert list(together) == sites
    for site in sites:
        assert torch.equal(model.activations(tokens, [site])[site], together[site])


@families
def test_replacing_acts_and_replacing_by_itself_does_not(family, tiny_model, tokens):
    model = tiny_model(family)
    plain = model.logits(tokens)
    with torch.no_grad():
        assert torch.equal(plain, model.module(input_ids=tokens, use_cache=False).logits)
    for site in (name for name in model.site_names() if name.startswith("layers.2.")):
        captured = []
        same = model.logits(tokens, {site: lambda x, captured=captured: captured.append(x) or x.clone()})
        assert torch.equal(same, plain)
        assert torch.equal(captured[0], model.activations(tokens, [site])[site])
        assert not torch.equal(model.logits(tokens, {site: lambda x: 0.5 * x}), plain), site
    assert torch.equal(model.logits(tokens), plain)


@families
def test_late_start_equals_the_whole_pass(family, tiny_model, tokens):
    model = tiny_model(family)
    plain = model.logits(tokens)
    for site in model.site_names():
        start = model.prefix(tokens, site)
        layer = int(site.split(".")[1])
        assert start.layer == layer + site.endswith("resid_post")
        assert torch.equal(model.logits(tokens, start=start), plain)
        halve = {site: lambda x: 0.5 * x}
        assert torch.equal(model.logits(tokens, halve, start=start), model.logits(tokens, halve))


def test_late_start_skips_layers_and_puts_them_back(tokens):
    model = LanguageModel(random_module("llama"), byte_tokenizer(), name="tiny", fingerprint="tiny")
    start = model.prefix(tokens, "layers.2.mlp_out")
    model.logits(tokens, start=start)  # the first one looks at what layers return
    ran = []
    handles = [block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(model._blocks)]
    model.logits(tokens, start=start)
    assert ran == [2, 3]

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.logits(tokens, {"layers.3.mlp_in": fail}, start=start)
    ran.clear()
    model.logits(tokens)
    assert ran == [0, 1, 2, 3]
    for handle in handles:
        handle.remove()
    assert all("forward" not in vars(block) for block in model._blocks)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def test_a_layers_own_forward_survives_a_late_start(tokens):
    """accelerate replaces the forward of instances; skipping must put that one back."""
    model = LanguageModel(random_module("llama"), byte_tokenizer(), name="tiny", fingerprint="tiny")
    model.logits(tokens, start=model.prefix(tokens, "layers.1.mlp_in"))  # the first one looks at what layers return
    block = model._blocks[0]
    original, calls = block.forward, []
    block.forward = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    plain = model.logits(tokens)
    assert torch.equal(model.logits(tokens, start=model.prefix(tokens, "layers.1.mlp_in")), plain)
    assert len(calls) == 2  # whole pass and prefix, not the continued pass
    model.logits(tokens)
    assert len(calls) == 3


def test_start_that_does_not_fit_is_an_error(tiny_model, tokens):
    model = tiny_model("llama")
    start = model.prefix(tokens, "layers.2.resid_pre")
    with pytest.raises(ValueError, match="other tokens"):
        model.logits(tokens.flip(0), start=start)
    with pytest.raises(ValueError, match=r"skips the site layers.1.mlp_out"):
        model.logits(tokens, {"layers.1.mlp_out": torch.clone}, start=start)
    assert model.prefix(tokens, "layers.0.mlp_in").layer == 0
    # the output of layer 1 is where layer 2 starts, so an edit there is not skipped
    edit = {"layers.1.resid_post": torch.zeros_like}
    assert torch.equal(model.logits(tokens, edit, start=start), model.logits(tokens, edit))


def test_without_late_start_the_whole_model_runs(tokens):
    model = LanguageModel(random_module("llama"), byte_tokenizer(), name="tiny", fingerprint="tiny")
    model.can_start_late = False
    start = model.prefix(tokens, "layers.3.mlp_out")
    assert (start.layer, start.resid, start.padding) == (0, None, None)
    assert torch.equal(model.logits(tokens, start=start), model.logits(tokens))


def test_no_gradients_and_no_inference_tensors(tiny_model, tokens):
    model = tiny_model("llama")
    x = model.activations(tokens, ["layers.1.resid_post"])["layers.1.resid_post"]
    assert not x.requires_grad
    weight = torch.ones(x.shape[-1], requires_grad=True)
    (x @ weight).sum().backward()  # an SAE can train on it
    assert weight.grad is not None
    assert not any(p.requires_grad for p in model.module.parameters())


def test_edit_in_another_dtype_and_edit_of_another_shape(tiny_model, tokens):
    model = tiny_model("opt")  # its MLP has no module of its own
    site = "layers.1.mlp_out"
    double = model.logits(tokens, {site: lambda x: x.double() * 0.5})
    assert torch.equal(double, model.logits(tokens, {site: lambda x: x * 0.5}))
    with pytest.raises(ValueError, match=r"edit at layers.1.mlp_out turned shape"):
        model.logits(tokens, {site: lambda x: x[..., :3]})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi", "gpt2"])
def test_checks_hold_in_half_precision(family, dtype):
    model = LanguageModel(random_module(family).to(dtype), byte_tokenizer(), name=family, fingerprint=family)
    assert check_model(model) == {}
    assert model.dtype == dtype
    assert model.can_start_late


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 65, dtype=torch.long), "65 tokens per sequence exceed the 64 positions of tiny llama"),
        (torch.full((1, 3), VOCABULARY), "token ids 257 to 257 lie outside 0 to 256"),
        (torch.zeros(3, dtype=torch.long), r"integers of shape \[B, T\]"),
        (torch.zeros(1, 3), r"integers of shape \[B, T\]"),
    ],
)
def test_tokens_the_model_cannot_take(tokens, message, tiny_model):
    with pytest.raises(UserError, match=message):
        tiny_model("llama").logits(tokens)


def test_a_module_without_layers_is_refused():
    module = torch.nn.Linear(2, 2)
    module.config = type("Config", (), {})()
    with pytest.raises(UserError, match="not a decoder whose layers can be found"):
        LanguageModel(module, byte_tokenizer(), name="linear", fingerprint="")


def test_the_tokenizer_is_left_alone(tiny_model):
    model = tiny_model("gpt2")
    assert model.tokenizer.pad_token is None
    assert model.special_token_ids == {256}
    assert model.tokenizer_fingerprint == tiny_model("llama").tokenizer_fingerprint
    padded = byte_tokenizer()
    padded.pad_token = padded.eos_token
    padded(["a", "longer"], padding=True)
    same = LanguageModel(model.module, padded, name="x", fingerprint="x")
    assert same.tokenizer_fingerprint == model.tokenizer_fingerprint
    other = byte_tokenizer()
    other.add_special_tokens({"additional_special_tokens": ["<x>"]})
    changed = LanguageModel(model.module, other, name="x", fingerprint="x")
    assert changed.special_token_ids == {256, 257}
    assert changed.tokenizer_fingerprint != model.tokenizer_fingerprint
