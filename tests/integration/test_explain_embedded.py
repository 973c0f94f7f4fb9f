"""The embedded chat model asked about a latent: real replies, real probabilities."""

from __future__ import annotations

import pytest

from monosemy.features.explain import prompts
from monosemy.features.explain.chat import open_chat
from monosemy.features.explain.prompts import Passage

pytestmark = pytest.mark.integration


def test_the_embedded_model_answers_every_kind_of_question() -> None:
    chat = open_chat("embedded")
    words = (" met", " again", " in", " July", " with", " the", " others")
    passage = Passage("top", words, (0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0), 0, start=0, document=0)
    messages = prompts.explain_messages([passage] * 4, 5.0, ["August"])
    assert chat.fits(messages, prompts.N_EXPLAIN_TOKENS)
    assert not chat.fits([{"role": "user", "content": "word " * 9000}], 1)
    reply = chat.reply(messages, 20)
    assert prompts.read_explanation(reply)
    assert reply == chat.reply(messages, 20)
    probability, first = chat.yes(prompts.detection_messages("names of months", passage))
    assert probability is not None
    assert 0 < probability < 1
    assert first
    digits = chat.digits(prompts.simulation_messages("names of months"), prompts.simulation_pieces(words))
    assert digits is not None
    assert len(digits) == len(words)
    assert all(0 <= digit <= 9 for digit in digits)
