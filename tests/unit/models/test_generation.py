"""Growing texts: caching, padding and batching change nothing but speed, for every family of models."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY

from monosemy.errors import UserError
from monosemy.models.generation import Decoding, whole_text

SITE = "layers.2.resid_post"
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCABULARY - 1, (n,), generator=generator).tolist() for n in (7, 3, 12)]


def grow(decoding: Decoding, n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [n, B, V], greedy tokens [n, B])"""
    logits, tokens = [], []
    for _ in range(n_tokens):
        logits.append(decoding.logits)
        tokens.append(decoding.logits.argmax(-1))
        decoding.append(tokens[-1])
    return torch.stack(logits), torch.stack(tokens)


def push_by_position(x, place):
    """Depends on each token's number in its own text, and differs between prompt and answer."""
    generated = place.positions >= place.prompt_lengths[:, None]
    return x + (0.05 * place.positions + generated)[..., None] * torch.linspace(-1, 1, x.shape[-1])


@families
@pytest.mark.parametrize("edited", [False, True])
def test_cached_batches_equal_one_text_computed_whole(family, edited, tiny_model, prompts):
    model = tiny_model(family)
    edits = {SITE: push_by_position} if edited else None
    logits, tokens = grow(Decoding(model, prompts, edits), 9)
    again, same = grow(Decoding(model, prompts, edits, use_cache=False), 9)
    assert torch.equal(tokens, same)
    torch.testing.assert_close(logits, again, rtol=1e-3, atol=2e-4)
    for row, prompt in enumerate(prompts):
        alone, words = grow(Decoding(model, [prompt], edits, use_cache=False), 9)
        assert torch.equal(tokens[:, row], words[:, 0])
        torch.testing.assert_close(logits[:, row], alone[:, 0], rtol=1e-3, atol=2e-4)


@families
def test_the_last_logits_are_those_of_the_models_own_pass(family, tiny_model, prompts):
    model = tiny_model(family)
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        place = whole_text(tokens, len(prompt) - 2)
        expected = model.logits(tokens, {SITE: lambda x, place=place: push_by_position(x, place)})[0, -1]
        decoding = Decoding(model, [prompt[:-2]], {SITE: push_by_position})
        for token in prompt[-2:]:
            decoding.append(torch.tensor([token]))
        torch.testing.assert_close(decoding.logits[0], expected, rtol=1e-3, atol=2e-4)


def test_an_edit_that_hands_back_its_input_changes_no_bit(tiny_model, prompts):
    model = tiny_model("llama")
    plain, _ = grow(Decoding(model, prompts), 6)
    same, _ = grow(Decoding(model, prompts, {SITE: lambda x, place: x}), 6)
    assert torch.equal(plain, same)


def test_padding_is_told_apart_from_the_first_token(tiny_model):
    places = []
    decoding = Decoding(tiny_model("llama"), [[5, 6, 7], [8]], {SITE: lambda x, place: places.append(place) or x})
    decoding.append(torch.tensor([1, 2]))
    assert places[0].positions.tolist() == [[0, 1, 2], [-1, -1, 0]]
    assert places[1].positions.tolist() == [[3], [1]]
    assert places[1].prompt_lengths.tolist() == [3, 1]


def test_nothing_is_left_on_the_model_between_passes(tiny_model, prompts):
    model = tiny_model("llama")
    tokens = torch.tensor([prompts[0]])
    plain = model.logits(tokens)
    decoding = Decoding(model, prompts, {SITE: push_by_position})
    assert torch.equal(model.logits(tokens), plain)
    decoding.append(torch.tensor([1, 2, 3]))
    assert torch.equal(model.logits(tokens), plain)


def test_a_failing_edit_takes_its_hooks_along(tiny_model, prompts):
    model = tiny_model("llama")

    def fail(x, place):
        raise RuntimeError("an edit that fails")

    def hooks():
        return [(dict(block._forward_hooks), dict(block._forward_pre_hooks)) for block in model._blocks]

    before = hooks()
    with pytest.raises(RuntimeError, match="an edit that fails"):
        Decoding(model, prompts, {SITE: fail})
    assert hooks() == before


def test_bad_input_is_refused(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(UserError, match="without tokens"):
        Decoding(model, [[1], []])
    with pytest.raises(UserError, match=r"65 tokens exceed the 64 positions of tiny llama; shorten the prompt"):
        Decoding(model, [[1] * 65])
    decoding = Decoding(model, [[1] * 64])
    with pytest.raises(UserError, match="ask for fewer tokens"):
        decoding.append(torch.tensor([1]))
    with pytest.raises(UserError, match=r"layer 9 does not exist|layers.9|0 to 3"):
        Decoding(model, [[1]], {"layers.9.resid_post": push_by_position})
