"""Steering the real embedded model in a chat: caching, controls and an edit that must show."""

from __future__ import annotations

import pytest
import torch

from monosemy.models.generation import Decoding
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.steering.edits import LatentScales, SiteEdit, Steering
from monosemy.steering.generate import generate, steer, stream
from monosemy.steering.output_score import word_tokens
from monosemy.steering.prompts import end_ids, prompt_ids, prompt_text
from monosemy.steering.request import Edit, SteeringRequest
from monosemy.steering.saes import SteeringSaes, TextEdits

pytestmark = pytest.mark.integration

SITE = "layers.12.resid_post"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def sae(embedded_model):
    """Decoder rows: the difference between two words' activations first, random ones else; biases from a real text."""
    ids = embedded_model.tokenizer("The river rises in the mountains and flows south to the sea. " * 8)["input_ids"]
    x = embedded_model.activations(torch.tensor([ids]), [SITE])[SITE][0, 1:].float()
    scale = float(x.square().sum(-1).mean().sqrt())
    sae = build_sae(SaeConfig("topk", d_in=x.shape[1], d_sae=64, l0=8, site=SITE, seed=0))
    sae.initialise(x / scale, 8.0)
    sae.fold_scale(scale)
    english, french = (
        embedded_model.activations(torch.tensor([embedded_model.tokenizer(text)["input_ids"]]), [SITE])[SITE][0, 1:]
        for text in (
            "The cat sleeps on the chair and the dog eats the bread with the children",
            "Le chat dort sur la chaise et le chien mange le pain avec les enfants",
        )
    )
    with torch.no_grad():
        sae.W_dec[0] = torch.nn.functional.normalize(french.mean(0) - english.mean(0), dim=0)
    return sae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scales(sae) -> LatentScales:
    return LatentScales(typical_norm=sae.config.scale)


def test_the_chat_template_makes_the_prompt(embedded_model):
    text = prompt_text(embedded_model, QUESTION)
    assert text.endswith(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    ids = prompt_ids(embedded_model, QUESTION)
    assert embedded_model.tokenizer.decode(ids) == text
    assert prompt_ids(embedded_model, QUESTION, chat=False) == embedded_model.tokenizer(QUESTION)["input_ids"]
    named = prompt_text(embedded_model, QUESTION, system="You are a pirate.")
    assert named.startswith("<|im_start|>system\nYou are a pirate.<|im_end|>")
    assert embedded_model.tokenizer.eos_token_id in end_ids(embedded_model)


def test_greedy_answers_are_those_of_transformers(embedded_model):
    ids = prompt_ids(embedded_model, QUESTION)
    answer = generate(embedded_model, [ids], n_tokens=20)[0]
    theirs = embedded_model.module.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
    )
    written = theirs[0, len(ids) :].tolist()
    assert answer.ids == [token for token in written if token not in end_ids(embedded_model)]
    assert answer.ended == (written[-1] in end_ids(embedded_model))
    assert "Paris" in answer.text


def test_cached_batch_agrees_with_whole_passes_while_steered(embedded_model, sae, scales):
    prompts = [prompt_ids(embedded_model, QUESTION), embedded_model.tokenizer("Once upon a time")["input_ids"]]
    rows = [Steering((Edit(3, "set", 0.5, "norm"),)), Steering((Edit(5, "add", 0.4, "norm"), Edit(3, "ablate")))]
    together = Decoding(embedded_model, prompts, {SITE: SiteEdit(sae, scales, rows)})
    for _ in range(6):
        together.append(together.logits.argmax(-1))
    for row, steering in enumerate(rows):
        alone = Decoding(embedded_model, [prompts[row]], {SITE: SiteEdit(sae, scales, [steering])}, use_cache=False)
        for _ in range(6):
            alone.append(alone.logits.argmax(-1))
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-3, atol=2e-3)


def test_adding_zero_changes_nothing_to_the_last_bit(embedded_model, sae, scales):
    prompts = [prompt_ids(embedded_model, QUESTION)] * 2
    nothing = Steering((Edit(3, "add", 0.0), Edit(4, "scale", 1.0)))
    idle = TextEdits(embedded_model, SteeringSaes(sae, scales), [nothing] * 2)
    assert generate(embedded_model, prompts, idle, n_tokens=10) == generate(embedded_model, prompts, n_tokens=10)


def test_a_language_direction_turns_the_answer_french(embedded_model, sae, scales):
    request = SteeringRequest(
        "Tell me about your day.",
        (Edit(0, "add", 0.5, "norm"),),
        columns=("default", "steered", "prompted", "random"),
        instruction="Answer in French.",
        n_tokens=24,
    )
    columns = steer(embedded_model, sae, request, scales)

    def n_french(column: str) -> int:
        words = columns[column]["text"].lower().replace("'", " ").split()
        return sum(
            word in {"le", "la", "les", "de", "des", "un", "une", "et", "je", "est", "à", "en"} for word in words
        )

    assert n_french("default") == 0
    assert n_french("random") == 0
    assert n_french("steered") >= 3
    assert columns["default"]["mean_kl"] == 0
    assert columns["steered"]["mean_kl"] > 0.5
    assert columns["steered"]["perplexity"] > columns["default"]["perplexity"]
    assert len(columns["steered"]["tokens"]) == columns["steered"]["n_tokens"]


def test_streamed_log_probabilities_are_those_of_the_measures(embedded_model, sae, scales):
    request = SteeringRequest(QUESTION, (Edit(3, "set", 0.6, "norm"),), n_tokens=8)
    events = list(stream(embedded_model, sae, request, scales))
    for measure in (event for event in events if event["kind"] == "measure"):
        streamed = [e["log_prob"] for e in events if e["kind"] == "token" and e["column"] == measure["column"]]
        assert streamed == pytest.approx([token["log_prob"] for token in measure["tokens"]], abs=2e-3)


def test_words_to_look_for_in_the_real_vocabulary(embedded_model):
    tokens = word_tokens(embedded_model, ["July"])
    assert {embedded_model.tokenizer.decode([token]) for token in tokens} == {"July", " July"}
