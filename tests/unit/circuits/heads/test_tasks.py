"""Tasks: what positives and negatives are, what the tokenizer leaves, metrics by hand, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from circuit_words import word_tokenizer
from tokenizers import AddedToken

from monosemy.circuits.heads.task import (
    METRICS,
    Edge,
    Example,
    TaskData,
    accuracy,
    logit_difference,
    logit_minus_best_wrong,
    probability_difference,
    without_copies,
)
from monosemy.circuits.heads.tasks import TASKS, check_name, docstring, greater_than, jsonl, task_accuracy, task_of
from monosemy.circuits.heads.tasks import words as word_lists
from monosemy.circuits.heads.tasks.prompts import Prompts
from monosemy.errors import UserError


@pytest.fixture(scope="module")
def pairs():
    return word_tokenizer(digits=2)


@pytest.fixture(scope="module")
def single():
    return word_tokenizer(digits=1)


def words(tokenizer, tokens):
    return tokenizer.convert_ids_to_tokens(list(tokens))


# --- the tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_matched_of_one_length_and_the_same_for_the_same_seed(name, pairs, single):
    tokenizer = single if name.startswith("greater-than-") else pairs
    data = task_of(name, tokenizer, 40, 0)
    assert data == task_of(name, tokenizer, 40, 0)
    assert data.positives != task_of(name, tokenizer, 40, 1).positives
    assert len(data.positives) == len(data.negatives) == 40
    for example in (*data.positives, *data.negatives):
        assert len(example.tokens) == len(example.corrupted) == data.n_tokens
        assert example.tokens[0] == tokenizer.eos_token_id
        assert not set(example.answers) & set(example.wrong)
    positive = {example.tokens for example in data.positives}
    assert not positive & {example.tokens for example in data.negatives}


def test_ioi_repeats_the_subject_in_both_orders_and_abc_repeats_no_name(pairs):
    data = task_of("ioi", pairs, 60, 0)
    orders = set()
    for example, negative in zip(data.positives, data.negatives):
        answer, wrong = example.answers[0], example.wrong[0]
        assert example.tokens.count(answer) == 1
        assert example.tokens.count(wrong) == 2
        orders.add(example.tokens.index(answer) < example.tokens.index(wrong))
        changed = [i for i, (a, b) in enumerate(zip(example.tokens, negative.tokens)) if a != b]
        assert len(changed) == 3
        assert len({negative.tokens[i] for i in changed} | {answer, wrong}) == 5
        assert negative.corrupted == example.tokens
    assert orders == {True, False}


def test_greater_than_counts_years_up_to_the_start_as_wrong(pairs):
    data = task_of("greater-than", pairs, 60, 0)
    assert data.name == "greater-than"
    for example, negative in zip(data.positives, data.negatives):
        year = re.search(r"year \d\d(\d\d) to", example.text)[1]
        assert words(pairs, example.answers) == [f"{y:02d}" for y in range(int(year) + 1, 100)]
        assert words(pairs, example.wrong) == [f"{y:02d}" for y in range(int(year) + 1)]
        assert re.search(r"year \d\d01 to the year \d\d$", negative.text)


def test_greater_than_is_asked_digit_by_digit_where_years_split_so(single, pairs):
    units = task_of("greater-than", single, 60, 0)
    assert units.name == "greater-than-units"
    for example, negative in zip(units.positives, units.negatives):
        start, end = re.search(r"year (\d{4}) to the year (\d{3})$", example.text).groups()
        assert start[:3] == end
        assert words(single, example.answers) == [str(d) for d in range(int(start[3]) + 1, 10)]
        assert words(single, example.wrong) == [str(d) for d in range(int(start[3]) + 1)]
        assert negative.text == example.text.replace(f"year {start} to", f"year {start[:3]}0 to")
    for example in task_of("greater-than-tens", single, 60, 0).positives:
        start, end = re.search(r"year (\d{4}) to the year (\d{2})$", example.text).groups()
        assert start[:2] == end
        assert words(single, example.answers) == [str(d) for d in range(int(start[2]) + 1, 10)]
        assert words(single, example.wrong) == [str(d) for d in range(int(start[2]))]
    with pytest.raises(UserError, match=r"does not split years into digits \(1743 is 17\|43\)"):
        task_of("greater-than-units", pairs, 10, 0)


def test_no_two_prompts_of_greater_than_are_alike(single, pairs):
    for tokenizer, name in ((single, "greater-than-units"), (single, "greater-than-tens"), (pairs, "greater-than")):
        data = task_of(name, tokenizer, 400, 0)
        assert len({example.tokens for example in data.positives}) == 400
    few = itertools.cycle(data.positives[:7])
    with pytest.raises(UserError, match="about 7 different prompts, not 10; ask for fewer"):
        greater_than._distinct(10, lambda: next(few))


def test_years_that_are_one_token_are_left_out_and_counted():
    """As in GPT-2's vocabulary, which splits most years in pairs and holds 1500 whole."""
    whole = word_tokenizer(digits=2)
    whole.add_tokens([AddedToken(year, normalized=False) for year in (" 1500", " 1550", " 1776", " 1601")])
    data = task_of("greater-than", whole, 500, 0)
    assert data.name == "greater-than"
    n = 679 - 2 - 97  # 1601 is the counterpart of all years from 1602 to 1698
    split = f"1743 is 17|43: form two digits; {n} of 679 years split so, the others are left out"
    assert data.provenance[1] == split
    for example in data.positives:
        start = re.search(r"year (\d{4}) to", example.text)[1]
        assert start not in ("1550", "1776")
        assert not start.startswith("16")
        assert words(whole, example.tokens[-1:]) == [f" {start[:2]}"]
        assert words(whole, example.answers) == [f"{y:02d}" for y in range(int(start[2:]) + 1, 100)]
    assert any(example.text.endswith("the year 15") for example in data.positives)


def test_tokenizers_that_split_years_otherwise_are_told_of_both_forms():
    whole = word_tokenizer(digits=2)
    whole.add_tokens([AddedToken(f" {y}", normalized=False) for y in range(1100, 1800)])
    with pytest.raises(UserError, match=r"into pairs of digits, nor into single ones \(1743 is 1743\)"):
        task_of("greater-than", whole, 10, 0)


@pytest.mark.parametrize("names", ["words", "code"])
@pytest.mark.parametrize(("n_before", "n_matching", "n_after"), [(2, 3, 1), (0, 3, 1), (1, 2, 0), (0, 4, 2)])
def test_docstring_asks_for_the_next_described_argument(n_before, n_matching, n_after, names, pairs):
    variant = docstring.DocstringVariant(n_before, n_matching, n_after, names)
    data = docstring.build(Prompts(pairs), 20, 0, variant=variant)
    assert len({example.tokens for example in data.positives}) == 20
    for example in data.positives:
        arguments = re.search(r"self, (.*)\)", example.text)[1].split(", ")
        assert len(arguments) == len(set(arguments)) == n_before + n_matching + n_after
        described = re.findall(r":param (\w+):", example.text)
        assert described == arguments[n_before : n_before + n_matching - 1]
        answer = arguments[n_before + n_matching - 1]
        assert words(pairs, example.answers) == [f" {answer}"]
        assert sorted(words(pairs, example.wrong)) == sorted(f" {word}" for word in arguments if word != answer)
        other = re.search(r"self, (.*)\)", example.corrupted_text)[1].split(", ")
        assert not {*other, *re.findall(r":param (\w+):", example.corrupted_text)} & set(arguments)
        # Names repeat only where they are described; all else of the prompt is the counterpart's.
        counts = Counter(re.findall(r"\w+", example.text))
        assert [counts[name] for name in arguments] == [1 + (name in described) for name in arguments]
        changed = [(a, b) for a, b in zip(example.tokens, example.corrupted, strict=True) if a != b]
        assert len(changed) == len(arguments) + len(described)
        if names == "code":
            assert {*arguments, *other} <= set(word_lists.ARGUMENTS)


def test_variants_of_docstring_have_names_and_impossible_ones_are_refused(pairs):
    source = task_of("docstring-source", pairs, 5, 0)
    assert source.name == "docstring-source"
    assert len(re.findall(r"\w+", source.positives[0].text.splitlines()[0])) == 2 + 1 + 6  # def, name, self, arguments
    assert task_of("docstring", pairs, 5, 0).name == docstring.DEFAULT.task_name == "docstring"
    assert docstring.DocstringVariant(1, 4, 0, "code").task_name == "docstring-1-4-0-code"
    with pytest.raises(UserError, match="2 to 6 described arguments, and 0 to 4 before and after them; got 1, 0 and 2"):
        docstring.DocstringVariant(0, 1, 2)
    with pytest.raises(UserError, match="unknown kind of argument names 'cod'; did you mean 'code'"):
        docstring.DocstringVariant(names="cod")
    few = word_tokenizer(leave_out=tuple(set(word_lists.ARGUMENTS) - set(word_lists.NOUNS)))
    with pytest.raises(UserError, match=r"only \d+ names of arguments are single tokens .* docstring needs 40"):
        docstring.build(Prompts(few), 5, 0, variant=docstring.DocstringVariant(names="code"))


def test_induction_continues_the_repetition_that_the_counterpart_lacks(pairs):
    for example in task_of("induction", pairs, 20, 0).positives:
        *before, last = example.tokens
        assert before[before.index(last) + 1] == example.answers[0]
        assert example.corrupted.count(last) == 1
        assert example.corrupted[-1] == last


def test_subject_verb_counterparts_change_the_number_and_negatives_have_none(pairs):
    data = task_of("subject-verb", pairs, 40, 0)
    answers = {example.answers for example in data.positives}
    assert len(answers) == 2
    for example, negative in zip(data.positives, data.negatives):
        several = " are" in words(pairs, example.answers)
        assert example.text.split()[1].endswith("s") == several
        assert example.corrupted_text.split()[1].endswith("s") != several
        assert negative.text.split()[2:] == example.text.split()[2:]


def test_words_of_several_tokens_are_left_out_and_counted(pairs):
    tokenizer = word_tokenizer(digits=2, leave_out=("Mary", "Paul", "garden"))
    data = task_of("ioi", tokenizer, 200, 0)
    assert not any(re.search("Mary|Paul|garden", example.text) for example in data.positives)
    n_names = int(re.match(r"(\d+) of", task_of("ioi", pairs, 5, 0).provenance[0])[1])
    assert data.provenance[0].startswith(f"{n_names - 2} of {n_names} names")
    many = word_tokenizer(digits=2, leave_out=tuple(name for name in _names() if name > "Alice"))
    with pytest.raises(UserError, match=r"only \d names are single tokens .* ioi needs 10"):
        task_of("ioi", many, 10, 0)


def _names():
    from monosemy.circuits.heads.tasks.words import NAMES

    return NAMES


# --- metrics ----------------------------------------------------------------------------------------------------------

FIRST = Example((1, 2), (1, 3), (0,), (1, 2))
SECOND = Example((1, 2), (1, 3), (0, 1), (3,))


def test_metrics_by_hand():
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.0], [0.5, 1.5, 9.0, 3.0]], dtype=torch.float64)
    p = logits.softmax(1)
    examples = [FIRST, SECOND]
    assert logit_difference(logits, examples).tolist() == [2.0 - 0.0, 1.0 - 3.0]
    assert logit_minus_best_wrong(logits, examples).tolist() == [1.0, -2.0]
    expected = torch.stack([p[0, 0] - p[0, 1] - p[0, 2], p[1, 0] + p[1, 1] - p[1, 3]])
    torch.testing.assert_close(probability_difference(logits, examples), expected)
    assert accuracy(logits, examples).tolist() == [1.0, 0.0]
    assert accuracy(torch.zeros(2, 4), examples).tolist() == [0.0, 0.0]  # a tie is no success


def test_logit_difference_is_linear():
    a, b = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    both = logit_difference(2 * a - b, [FIRST, SECOND])
    torch.testing.assert_close(both, 2 * logit_difference(a, [FIRST, SECOND]) - logit_difference(b, [FIRST, SECOND]))


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_metrics_are_differentiable(metric):
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: METRICS[metric](x, [FIRST, SECOND]), (logits,))


def test_accuracy_says_when_the_model_does_not_do_the_task():
    examples = tuple(FIRST for _ in range(8))
    logits = torch.tensor([[2.0, 1.0, 0.0, 3.0]] * 6 + [[0.0, 1.0, 0.0, 0.0]] * 2)
    accuracy = task_accuracy(logits, examples)
    assert (accuracy.share, accuracy.top1, accuracy.enough) == (0.75, 0.0, True)
    low, high = accuracy.interval
    assert low < 0.75 < high
    worse = task_accuracy(logits[2:], examples[2:])
    assert not worse.enough
    assert "less than 75%" in str(worse)


# --- what is refused --------------------------------------------------------------------------------------------------


def five(**changes):
    return tuple(dataclasses.replace(FIRST, **changes) for _ in range(5))


@pytest.mark.parametrize(
    ("positives", "negatives", "metric", "message"),
    [
        (five(), (), "logit_difference", "has only positive prompts"),
        ((), five(), "logit_difference", "has only negative prompts"),
        (five()[:4], five(), "logit_difference", "has 4 positive prompts; at least 5 are needed"),
        (five(), five(tokens=(1, 2, 3), corrupted=(1, 2, 4)), "logit_difference", "same number of tokens"),
        (five(corrupted=(1,)), five(), "logit_difference", "same number of tokens"),
        (five(answers=()), five(), "logit_difference", "has no answer"),
        (five(wrong=()), five(), "logit_difference", "has no wrong answer"),
        (five(wrong=(0,)), five(), "logit_difference", "both right and wrong"),
        (five(corrupted=(1, 2)), five(), "logit_difference", "equals its counterpart"),
        (five(), five(), "logit_differenc", "did you mean 'logit_difference'"),
    ],
)
def test_tasks_that_cannot_serve_are_refused(positives, negatives, metric, message):
    with pytest.raises(UserError, match=message):
        TaskData("mine", positives, negatives, metric)


def test_copies_of_a_prompt_count_as_one():
    def task(*positive_ids):
        positives = tuple(dataclasses.replace(FIRST, tokens=(9, i), corrupted=(8, 8)) for i in positive_ids)
        return TaskData("mine", positives, five(tokens=(7, 7), corrupted=(8, 8)), "logit_difference")

    with pytest.raises(UserError, match="has 5 negative prompts, but only 1 different ones, and copies count as one"):
        without_copies(task(1, 2, 3, 4, 5))
    with pytest.raises(UserError, match="has 7 positive prompts, but only 4 different ones"):
        without_copies(task(1, 2, 3, 4, 4, 4, 4))
    data = dataclasses.replace(task(*range(5)), negatives=task(*range(5)).positives)
    assert without_copies(data) is data
    many = dataclasses.replace(data, positives=(*data.positives, *data.positives[1:3]))
    once = without_copies(many)
    assert once.positives == data.positives
    assert once.provenance == ("2 of 7 positive prompts are copies of others and left out",)


def test_answers_that_the_tokenizer_does_not_know_are_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "cat": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    prompts = Prompts(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))
    assert prompts.next_tokens("the", [" cat"]) == (2,)
    with pytest.raises(UserError, match=r"the answer ' dog' is unknown to this model's tokenizer \(it reads '<unk>'\)"):
        prompts.next_tokens("the", [" dog"])


def test_unknown_tasks_and_missing_files_are_refused_before_a_model_is_loaded():
    with pytest.raises(UserError, match="did you mean 'docstring'"):
        check_name("docstrings")
    with pytest.raises(UserError, match="does not exist"):
        check_name("nowhere.jsonl")


# --- a user's own -----------------------------------------------------------------------------------------------------


def write(folder, records):
    path = folder / "mine.jsonl"
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return str(path)


def own(n=6, **changes):
    names = ("Anna", "Mark", "Paul", "Mary", "John", "Lucy")
    positives = [{"kind": "positive", "prompt": f"The {n} met", "answers": [f" {n}"], **changes} for n in names[:n]]
    return positives + [{"kind": "negative", "prompt": f"The {n} went"} for n in names[:n]]


def test_a_task_of_ones_own_takes_negatives_as_counterparts(tmp_path, pairs):
    data = task_of(write(tmp_path, own()), pairs, 250, 0)
    assert data.name == "mine"
    assert len(data.positives) == len(data.negatives) == 6
    first = data.positives[0]
    assert first.corrupted_text == "The Anna went"
    assert words(pairs, first.answers) == [" Anna"]
    assert words(pairs, first.wrong) == [" Mark", " Paul", " Mary", " John", " Lucy"]
    assert data.negatives[1].corrupted_text == "The Mark met"
    explicit = task_of(write(tmp_path, own(wrong=[" met"], corrupted="The garden met")), pairs, 250, 0)
    assert words(pairs, explicit.positives[0].wrong) == [" met"]
    assert explicit.positives[0].corrupted_text == "The garden met"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (["not json"], "line 1: not JSON"),
        ([], "is empty"),
        ([{"kind": "positive", "prompt": "The Anna met"}], "needs 'answers'"),
        ([{"kind": "positiv", "prompt": "x", "answers": ["x"]}], "did you mean 'positive'"),
        ([{"kind": "positive", "answer": "x"}], "did you mean 'answers'"),
        ([{"kind": "positive", "answers": ["x"]}], "'prompt' is missing"),
        ([{"kind": "negative", "prompt": ""}], "not empty"),
        (own()[:6], "all prompts in .* are positive"),
        (own()[6:], "all prompts in .* are negative"),
        (own(4), "has 4 positive prompts"),
        ([*own(), {"kind": "negative", "prompt": "The Anna and Mark went"}], "line 13: .* same number of tokens"),
        ([*own()[:3], own(wrong=[" Mary"])[3], *own()[4:]], "line 4: .* both right and wrong"),
        ([*own()[:2], own(corrupted="The Paul met")[2], *own()[3:]], "line 3: .* equals its counterpart"),
        (own(answers=[" Anna"]), "line 1: .* has no wrong answer"),
        (
            [*own(), {"kind": "negative", "prompt": "The Paul went", "answers": ["x"]}],
            "line 13: .* no 'answers' of its",
        ),
        (
            [*own(1, metric="logit_difference"), *own()[1:5], own(metric="probability_difference")[5], *own()[6:]],
            "line .*: metric 'probability_difference', but line 1 says 'logit_difference'",
        ),
        (own(answers=[" Anna and"]), r"line 1: the answer ' Anna and' is 2 tokens"),
        (own(answers=[" zebra"]), r"line 1: the answer ' zebra' is 6 tokens"),
    ],
)
def test_files_that_cannot_be_used_name_the_line_and_the_fix(tmp_path, pairs, records, message):
    with pytest.raises(UserError, match=message):
        task_of(write(tmp_path, records), pairs, 250, 0)


@pytest.mark.parametrize(
    ("prompt", "answer", "glued"),
    [
        ("The Anna met", "Mark", True),
        ("The Anna met ", "Mark", False),
        ("The Anna met", " Mark", False),
        ("17", "3", False),
        ("ฉันรักคุณ", "ครับ", False),
    ],
)
def test_an_answer_that_continues_a_word_is_pointed_out_once(prompt, answer, glued):
    records = [{"line": n, "prompt": prompt, "answers": (answer,), "wrong": ()} for n in (1, 2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jsonl._warn_of_glued(Path("mine.jsonl"), records)
    assert [str(w.message) for w in caught] == glued * [
        "mine.jsonl, line 1: the answer 'Mark' is read as part of the word before it ('metMark'); if a new word is "
        "meant, begin it with a space: ' Mark'"
    ]


def test_a_mark_of_byte_order_is_no_fault(tmp_path, pairs):
    path = Path(write(tmp_path, own()))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(task_of(str(path), pairs, 250, 0).positives) == 6


def test_edges_read_as_they_are_drawn():
    assert str(Edge((0, 3), (2, 1), "k")) == "0.3 → 2.1 (k)"
    assert str(Edge("input", (2, 1), "q")) == "input → 2.1 (q)"
    assert str(Edge((2, 1), "output")) == "2.1 → output"


def test_what_json_allows_is_read_and_what_it_does_not_is_told(tmp_path, pairs):
    separated = own(prompt="The Anna\u2028met")  # a separator that is no end of a line
    lines = [json.dumps(record, ensure_ascii=False) for record in separated]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert len(jsonl._read(tmp_path / "mine.jsonl")) == len(lines)
    for record, message in (
        ({"kind": "positive", "prompt": "The", "metric": ["logit_difference"]}, "line 1: 'metric' must be a text"),
        ({"kind": ["positive"], "prompt": "The"}, "line 1: 'kind' must be a text"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"kind": "positive", "prompt": "The", "n": ' + "9" * 5000 + "}", "line 1: not JSON .a number too long"),
        ('{"kind": "positive", "prompt": "The \\ud800", "answers": [" x"]}', "line 1: .* half a surrogate pair"),
    ):
        with pytest.raises(UserError, match=message):
            task_of(write(tmp_path, [record]), pairs, 250, 0)
