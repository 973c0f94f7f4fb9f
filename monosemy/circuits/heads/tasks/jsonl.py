"""A user's own task: a JSONL file of prompts, answers and labels.

    {"kind": "positive", "prompt": "Two plus two is", "answers": [" four"], "wrong": [" five"]}
    {"kind": "negative", "prompt": "Pay and pay is"}

    prompt       the text; all prompts must have the same number of tokens
    kind         `positive`: shows the behaviour; `negative`: cannot show it
    answers      of a positive: the words that may follow, one token each, usually with a leading space (a warning tells
                 where it seems to be missing)
    wrong        of a positive: the words that compete (default: the answers of the other positives)
    corrupted    optional, of a positive: the text whose activations are patched in (default: the negatives in turn)
    metric       optional, on any line but the same everywhere: a metric's name (default: logit_difference)

Limits: all prompts have the same number of tokens, and there are at least 5 of each kind.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from monosemy.circuits.heads.task import METRICS, MIN_EXAMPLES, Example, TaskData, check_example
from monosemy.circuits.heads.tasks.prompts import Prompts
from monosemy.errors import UserError, unknown

KEYS = ("kind", "prompt", "answers", "wrong", "corrupted", "metric")
KINDS = ("positive", "negative")


def build(path: Path, prompts: Prompts, tokenizer: str = "") -> TaskData:
    """The task of a file. Raises UserError, naming the line, for anything that cannot be read or used."""
    # Each kind is matched with the other in turn; the shorter list starts again when it is used up.
    records = _read(path)
    metric = _metric(path, records)
    of_kind: dict[str, list[dict[str, Any]]] = {
        kind: [record for record in records if record["kind"] == kind] for kind in KINDS
    }
    _check_kinds(path, of_kind)
    _warn_of_glued(path, of_kind["positive"])
    lists: list[tuple[str, ...]] = [record["answers"] for record in of_kind["positive"]]
    positives: list[Example] = []
    negatives: list[Example] = []
    for i, record in enumerate(of_kind["positive"]):
        corrupted = record.get("corrupted") or of_kind["negative"][i % len(of_kind["negative"])]["prompt"]
        positives.append(
            _example(path, prompts, record, corrupted, matched=record, answers_of_all=lists, before=positives)
        )
    for i, record in enumerate(of_kind["negative"]):
        matched = of_kind["positive"][i % len(of_kind["positive"])]
        negatives.append(
            _example(path, prompts, record, matched["prompt"], matched=matched, answers_of_all=lists, before=positives)
        )
    provenance = (f"{path.name}: {len(positives)} positive, {len(negatives)} negative prompts",)
    return TaskData(path.stem, tuple(positives), tuple(negatives), metric, tokenizer=tokenizer, provenance=provenance)


def _read(path: Path) -> list[dict[str, Any]]:
    """The records of all lines that are not empty. Raises UserError for a file that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # with or without a byte-order mark
    except OSError as error:
        raise UserError(
            f"the task file {path} cannot be read: {error.strerror}; give the path of a JSONL file"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"the task file {path} is not UTF-8 text; save it as UTF-8") from None
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            records.append(_record(path, number, line))
    if not records:
        raise UserError(f"the task file {path} is empty; give at least {MIN_EXAMPLES} prompts of each kind")
    return records


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    """One line as a record with its line number, fully checked. Raises UserError, naming the line."""
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except RecursionError:
        raise UserError(f"{where}: not JSON (too deeply nested); write one object a line") from None
    except ValueError as error:  # not JSON, or an integer with more digits than Python converts
        reason = getattr(error, "msg", "a number too long")
        raise UserError(f"{where}: not JSON ({reason}); write one object a line") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object with {', '.join(KEYS[:3])}; got {type(record).__name__}")
    if strange := set(record) - set(KEYS):
        raise unknown(f"key ({where})", sorted(strange)[0], KEYS)
    for key in ("kind", "metric"):
        if not isinstance(record.get(key, ""), str):
            raise UserError(f"{where}: {key!r} must be a text, got {record[key]!r}")
    if record.get("kind") not in KINDS:
        raise unknown(f"kind ({where})", str(record.get("kind")), KINDS)
    for key in ("prompt", "corrupted"):
        if not isinstance(record.get(key, "x"), str) or not record.get(key, "x"):
            raise UserError(f"{where}: {key!r} must be a text that is not empty")
    if "prompt" not in record:
        raise UserError(f"{where}: 'prompt' is missing")
    if "metric" in record and record["metric"] not in METRICS:
        raise unknown(f"metric ({where})", str(record["metric"]), METRICS)
    for key in ("answers", "wrong"):
        record[key] = _texts(where, key, record.get(key, []))
    for text in (record["prompt"], record.get("corrupted", ""), *record["answers"], *record["wrong"]):
        _check_text(where, text)
    if record["kind"] == "positive" and not record["answers"]:
        raise UserError(f"{where}: a positive prompt needs 'answers', a list of words such as [\" four\"]")
    if record["kind"] == "negative":
        for key in ("answers", "wrong", "corrupted"):
            if record.get(key):
                raise UserError(
                    f"{where}: a negative prompt has no {key!r} of its own (it is measured by those of a positive, in "
                    "turn); leave it out"
                )
    return record | {"line": number}


def _check_text(where: str, text: str) -> None:
    """Raises UserError for text with a lone surrogate: JSON can spell it, but no tokenizer can encode it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {text!r} has half a surrogate pair in it, which is no character; mend it") from None


def _metric(path: Path, records: list[dict[str, Any]]) -> str:
    """The one metric that the lines name, or the default. Raises UserError where they name several."""
    with_metric = [record for record in records if "metric" in record]
    for record in with_metric[1:]:
        if record["metric"] != with_metric[0]["metric"]:
            raise UserError(
                f"{path}, line {record['line']}: metric {record['metric']!r}, but line {with_metric[0]['line']} says "
                f"{with_metric[0]['metric']!r}; a task has one metric, name it once"
            )
    return str(with_metric[0]["metric"]) if with_metric else "logit_difference"


def _texts(where: str, key: str, value: Any) -> tuple[str, ...]:
    """A word or a list of words as a tuple. Raises UserError for anything else."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        raise UserError(f"{where}: {key!r} must be a word or a list of words, got {value!r}")
    return tuple(values)


def _check_kinds(path: Path, of_kind: dict[str, list[dict[str, Any]]]) -> None:
    """Raises UserError where all labels are of one kind, before anything is tokenized.

    `task.check` repeats this for tasks made in Python.
    """
    for kind, opposite in (KINDS, KINDS[::-1]):
        if not of_kind[kind]:
            raise UserError(
                f"all prompts in {path} are {opposite}; a circuit shows in the difference between positive and "
                f"negative prompts: add at least {MIN_EXAMPLES} {kind} ones"
            )


def _warn_of_glued(path: Path, positives: list[dict[str, Any]]) -> None:
    """Warns, once, where an answer continues the prompt's last word.

    Letters from Thai (U+0E00) on are exempt: most of those scripts write words without spaces.
    """
    for record in positives:
        for answer in (*record["answers"], *record["wrong"]):
            ends = record["prompt"][-1], answer[0]
            if all(end.isalpha() and end < "\u0e00" for end in ends):
                last = record["prompt"].split()[-1]
                warnings.warn(
                    f"{path}, line {record['line']}: the answer {answer!r} is read as part of the word before it "
                    f"({last + answer!r}); if a new word is meant, begin it with a space: {' ' + answer!r}",
                    stacklevel=2,
                )
                return


def _example(
    path: Path,
    prompts: Prompts,
    record: dict[str, Any],
    corrupted: str,
    *,
    matched: dict[str, Any],
    answers_of_all: list[tuple[str, ...]],
    before: list[Example],
) -> Example:
    """One example, with the answers of the record `matched`; its length must be that of the first of `before`.

    Raises UserError, naming the line.
    """
    answers: tuple[str, ...] = matched["answers"]
    wrong = matched["wrong"] or tuple(
        dict.fromkeys(word for words in answers_of_all for word in words if word not in answers)
    )
    text = record["prompt"]
    try:
        example = Example(
            prompts.encode(text),
            prompts.encode(corrupted),
            prompts.next_tokens(text, answers),
            prompts.next_tokens(text, wrong),
            text=text,
            corrupted_text=corrupted,
            answer_texts=answers,
            wrong_texts=wrong,
        )
        check_example(path.stem, example, before[0] if before else example)
    except UserError as error:
        raise UserError(f"{path}, line {record['line']}: {error}") from None
    return example
