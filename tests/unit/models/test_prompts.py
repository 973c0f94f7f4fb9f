"""Prompts to be continued: no EOS at their end, one BOS at their start, and chat templates of every kind."""

from __future__ import annotations

import pytest
from tiny_models import byte_tokenizer, make_tiny_model, random_module
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.prompts import NoSystemRole, chat_ids, chat_text, fold_system, text_ids
from monosemy.steering.prompts import prompt_ids, prompt_text

BOS, EOS = 257, 256
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
)
LEAVES_OUT = "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
TAKES = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
BROKEN = "{% for m in messages %}{{ m['content'] }}"
UNDEFINED = "{{ messages[0]['content'].no.such }}"


def letters(text: str) -> list[int]:
    """Token ids of a text in the byte tokenizer."""
    alphabet = sorted(ByteLevel.alphabet())
    return [alphabet.index({" ": "\u0120", "\n": "\u010a"}.get(letter, letter)) for letter in text]


def tokenizer_with(before: str = "", behind: str = "", template: str | None = None):
    """The byte tokenizer with `<bos>` = 257, special tokens around each text, and a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    around = TemplateProcessing(single=f"{before} $A {behind}".strip(), special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    tokenizer.backend_tokenizer.post_processor = around
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("before", "behind", "leading"),
    [("", "", []), ("<bos>", "", [BOS]), ("<bos>", "<eos>", [BOS]), ("", "<eos>", []), ("<bos>", "<eos> <eos>", [BOS])],
)
def test_a_prompt_keeps_what_stands_before_it_and_loses_what_stands_behind_it(before, behind, leading):
    tokenizer = tokenizer_with(before, behind)
    assert text_ids(tokenizer, "So a") == [*leading, *letters("So a")]
    assert text_ids(tokenizer, "a<eos>") == [*leading, *letters("a"), EOS]  # what the user wrote stays


@pytest.mark.parametrize("template", [TAKES, "{{ bos_token }}" + TAKES])
@pytest.mark.parametrize(("before", "n_bos"), [("<bos>", 1), ("", 0)])
def test_a_chat_has_the_bos_its_tokenizer_begins_texts_with_once(template, before, n_bos):
    tokenizer = tokenizer_with(before, "<eos>", template)
    ids = chat_ids(tokenizer, chat_text(tokenizer, [{"role": "user", "content": "Hi"}], "tiny", ""))
    assert ids.count(BOS) == max(n_bos, int(template.startswith("{{ bos")))
    assert ids[-len("[user]Hi\n") :] == letters("[user]Hi\n")


def model_with(template: str | None, **around: str) -> LanguageModel:
    module = random_module("llama", vocab_size=258)
    return LanguageModel(module, tokenizer_with(template=template, **around), name="tiny chat", fingerprint="chat")


@pytest.mark.parametrize("template", [REFUSES, LEAVES_OUT])
def test_a_template_without_a_system_role_says_so_and_answers_without_one(template):
    model = model_with(template)
    assert prompt_text(model, "Hi") == "[user]Hi\n"
    with pytest.raises(NoSystemRole, match=r"tiny chat takes no system message; leave it out \(--system\)") as caught:
        prompt_text(model, "Hi", system="Be kind.")
    assert "\n" not in str(caught.value)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert chat_text(model.tokenizer, fold_system(messages), "", "") == "[user]Be kind.\n\nHi\n"


def test_a_template_with_a_system_role_gets_the_message():
    assert prompt_text(model_with(TAKES), "Hi", system="Be kind.") == "[system]Be kind.\n[user]Hi\n"


@pytest.mark.parametrize("template", [BROKEN, UNDEFINED])
def test_a_broken_template_is_one_line_with_a_way_out(template):
    model = model_with(template)
    for system in ("", "Be kind."):
        with pytest.raises(UserError, match=r"the chat template of tiny chat fails \(.*\); .*--plain") as caught:
            prompt_ids(model, "Hi", system=system)
        assert "\n" not in str(caught.value)
    assert prompt_ids(model, "Hi", chat=False) == letters("Hi")


def test_a_token_without_an_embedding_is_refused_by_its_text():
    model = LanguageModel(random_module("llama"), tokenizer_with(), name="tiny", fingerprint="small")  # 257 tokens
    with pytest.raises(UserError, match=r"'<bos>', token 257, which tiny has no embedding for .* 0 to 256"):
        prompt_ids(model, "a<bos>b")
    assert prompt_ids(make_tiny_model(), "a") == letters("a")


def test_halves_of_surrogate_pairs_are_refused_before_the_tokenizer_fails_on_them():
    with pytest.raises(UserError, match="half a surrogate pair"):
        text_ids(tokenizer_with(), "a\ud83d")
