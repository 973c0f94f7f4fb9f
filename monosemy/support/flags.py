"""Every setting of config.py as a flag: from words of the command line to a configuration.

`training.batch_tokens` is `--training.batch-tokens`; the common ones have short names (`SHORT`). A list takes all words
up to the next flag, a yes-or-no setting is `--evaluation.pca` or `--evaluation.no-pca`, counts of tokens take k, M and
G, and options of an architecture are written `--jumprelu.bandwidth-relative 0.3`.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from monosemy.config import RunConfig, count, from_json, to_json
from monosemy.errors import UserError, near_matches, unknown

SHORT = {
    "--model": "--model.source",
    "--text": "--text.source",
    "--tokens": "--text.n-tokens",
    "--sites": "--activations.sites",
    "--dtype": "--model.dtype",
    "--device": "--model.device",
}


def flag_of(setting: str) -> str:
    """The flag of a setting, its short name where it has one: `text.n_tokens` → `--tokens`."""
    flag = "--" + setting.replace("_", "-")
    return next((short for short, full in SHORT.items() if full == flag), flag)


def parse_settings(base: RunConfig, words: Sequence[str], architectures: Container[str]) -> RunConfig:
    """`base` with the settings that the words give. Raises UserError, one line that names the flag."""
    values, options = to_json(base), dict(base.options)
    hints = dict(_settings(RunConfig))
    for flag, arguments in _by_flag(words):
        section, dot, _ = flag[2:].partition(".")
        name = SHORT.get(flag, flag)[2:].replace("-", "_")
        if dot and section in architectures:
            options[name] = _option(flag, arguments)
            continue
        switched_off = name.replace(".no_", ".", 1)
        if name not in hints and hints.get(switched_off) is bool and not arguments:
            name, arguments = switched_off, ["False"]
        if name not in hints:
            raise _unknown_flag(flag, hints)
        place, *rest = name.split(".")
        value = _read(flag, hints[name], arguments)
        if rest:
            values[place][rest[0]] = value
        else:
            values[place] = value
    return from_json(RunConfig, values | {"options": options})


def _settings(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every setting but the architectures' options."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _settings(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif typing.get_origin(hint) is not Mapping:
            yield prefix + name, hint


def _by_flag(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(flag, its words) in order; `--flag=word` is `--flag word`."""
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            groups.append((flag, [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise UserError(f"{word!r} belongs to no flag; settings are written --FLAG VALUE, e.g. --tokens 1.5M")
    yield from groups


def _unknown_flag(flag: str, hints: Mapping[str, Any]) -> UserError:
    flags = [*(flag_of(name) for name in hints), *("--" + name.replace("_", "-") for name in hints)]
    near = near_matches(flag, dict.fromkeys(flags))
    hint = f" did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"unknown flag {flag};{hint} monosemy train --help lists the settings")


def _option(flag: str, arguments: list[str]) -> Any:
    architecture = flag[2:].split(".")[0]
    if not arguments or arguments == [""]:
        raise UserError(f"{flag} needs a value; monosemy info {architecture} lists the options")
    word = _single(flag, arguments)
    try:
        return json.loads(word)
    except ValueError:
        return word


def _single(flag: str, arguments: list[str]) -> str:
    if len(arguments) != 1:
        raise UserError(f"{flag} takes one value, got {' '.join(arguments) if arguments else 'none'}")
    return arguments[0]


def _read(flag: str, hint: Any, arguments: list[str]) -> Any:
    """The words of one flag as a JSON value of the setting's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return [_read(flag, parts[0], [word]) for word in arguments]
    if hint is bool and not arguments:
        return True
    word = _single(flag, arguments)
    if origin in (typing.Union, types.UnionType):
        hint = next(part for part in parts if part is not type(None))
        return None if word == "None" else _read(flag, hint, [word])
    if origin is typing.Literal:
        if word not in parts:
            raise unknown(f"value for {flag}", word, parts)
        return word
    if hint is bool:
        if word not in ("True", "False"):
            raise UserError(f"{flag} takes True or False, or no value, got {word!r}")
        return word == "True"
    if hint is int and "token" in flag:
        return count(flag, word)
    if hint is int or hint is float:
        try:
            return hint(word)
        except ValueError:
            kind, example = ("a whole number", "32") if hint is int else ("a number", "0.5")
            raise UserError(f"{flag} takes {kind} such as {example}, got {word!r}") from None
    return word
