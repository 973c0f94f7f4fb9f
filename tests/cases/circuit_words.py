"""A tokenizer whose tokens are whole words, for the tasks' tests; numbers split in pairs or in digits."""

from __future__ import annotations

from typing import Any

from monosemy.circuits.heads.tasks import greater_than, ioi, subject_verb, words


def word_tokenizer(digits: int = 2, leave_out: tuple[str, ...] = ()) -> Any:
    """Every word of the tasks is one token, with its leading space; `leave_out` are spelled letter by letter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    word_forms = [
        *words.NAMES,
        *words.PLACES,
        *words.OBJECTS,
        *words.EVENTS,
        *words.NOUNS,
        *words.UNCOUNTED,
        *words.ARGUMENTS,
    ]
    word_forms += [word for pair in words.COUNTED for word in pair]
    word_forms += " ".join([*ioi.TEMPLATES, greater_than._FROM, *subject_verb.PREPOSITIONS]).replace(".", "").split()
    word_forms += [verb.strip() for verbs in subject_verb.VERBS for verb in verbs]
    word_forms += ["def", "self", "param", "The", "x"]
    word_forms = [word.strip("{},") for word in word_forms if word.strip("{},") not in leave_out]
    numbers = [f"{i:02d}" for i in range(100)] if digits == 2 else []
    numbers += [str(i) for i in range(10)]
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    whole = sorted(
        {*word_forms, *(f" {word}" for word in word_forms), *numbers, *(f" {n}" for n in numbers), *characters}
    )
    number = " ?[0-9]{2}|[0-9]" if digits == 2 else "[0-9]"
    alternatives = "|".join(sorted((word for word in word_forms if word.isalpha()), key=len, reverse=True))
    pattern = rf" ?\b(?:{alternatives})\b|{number}|[\s\S]"
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *whole])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
