"""Every setting of config.py as a flag: an argument parser made from the configuration, and its words back into one.

`training.batch_tokens` is `--training.batch-tokens`; the common ones have short names (`SHORT`). A list takes all words
up to the next flag, a yes-or-no setting is `--evaluation.pca` or `--evaluation.no-pca`, counts of tokens and bytes take
k, M and G, and options of an architecture are written `--jumprelu.bandwidth-relative 0.3`. The help is the docstrings
of the fields.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from monosemy.config import RunConfig, count, from_json, to_json
from monosemy.errors import UserError, near_matches, unknown
from monosemy.rooms import rooms
from monosemy.support.arguments import Parser, default_text

SHORT = {
    "--model": "--model.source",
    "--text": "--text.source",
    "--tokens": "--text.n-tokens",
    "--sites": "--activations.sites",
    "--activations": "--rows.source",
    "--tensor": "--rows.tensor",
    "--column": "--rows.column",
    "--row-text": "--rows.text",
    "--row-image": "--rows.image",
    "--row-image-folder": "--rows.image-folder",
    "--dtype": "--model.dtype",
    "--device": "--model.device",
}


_SIMILAR = 0.6
"""How similar a flag must be to a word to be suggested for it: a typing error leaves more, two unrelated words less."""


ELSEWHERE = {
    "lr": "--training.learning-rate",
    "lr-warm-up-steps": "--training.warmup-fraction",
    "lr-decay-steps": "--training.decay-fraction",
    "k": "--l0",
    "l1-coefficient": "--l0, the L0 that is wanted,",
    "l0-coefficient": "--l0, the L0 that is wanted,",
    "expansion-factor": "--d-sae",
    "hook-name": "--sites",
    "layers": "--sites",
    "model-name": "--model",
    "dataset-path": "--text",
    "context-size": "--text.context-length",
    "training-tokens": "--tokens",
    "train-batch-size-tokens": "--training.batch-tokens",
    "batch-size": "--training.batch-tokens",
    "epochs": "--training.n-passes",
    "n-batches-in-buffer": "--activations.buffer-tokens",
    "log-to-wandb": "--log-to wandb",
    "checkpoint-path": "--run",
}
"""What SAELens and others call a setting, and the flag that takes its place."""


class Setting(NamedTuple):
    """A setting that a flag can give."""

    name: str
    """`training.batch_tokens`"""
    hint: Any
    """Its type, without the range."""
    documentation: str
    section: type
    """The dataclass that holds it."""


def flag_of(setting: str) -> str:
    """The flag of a setting, its short name where it has one: `text.n_tokens` → `--tokens`."""
    flag = _long_flag(setting)
    return next((short for short, full in SHORT.items() if full == flag), flag)


def add_settings(parser: Parser, base: RunConfig) -> None:
    """Adds a flag for every setting, in one group of the help for each section, with the values of `base` as defaults.

    What the flags were given lands in the parsed arguments as words, under the setting's dotted name; `read_settings`
    makes values of them.
    """
    groups: dict[type, argparse._ArgumentGroup] = {}
    for setting in settings_of(RunConfig):
        if setting.section not in groups:
            title, _, _ = setting.name.rpartition(".")
            summary = (setting.section.__doc__ or "").split("\n\n")[0]
            groups[setting.section] = parser.add_argument_group(title or "the run", " ".join(summary.split()))
        _add_setting(groups[setting.section], setting, _value_of(base, setting.name))


def add_descriptive(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for every setting of a room that only describes its runs, which may change when a run is opened."""
    for setting in _descriptive():
        flags = dict.fromkeys((flag_of(setting.name), _long_flag(setting.name)))
        documentation = f"{setting.documentation} (default: as the run has it)".replace("%", "%%")
        parser.add_argument(*flags, dest=setting.name, metavar=_metavar(setting.hint), help=documentation)


def descriptive_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings that the flags of `add_descriptive` give, by dotted name."""
    values = {setting.name: getattr(arguments, setting.name) for setting in _descriptive()}
    return {name: value for name, value in values.items() if value is not None}


def _descriptive() -> list[Setting]:
    names = {f"{room.name}.{name}" for room in rooms() for name in room.descriptive}
    return [setting for setting in settings_of(RunConfig) if setting.name in names]


def read_settings(
    parser: Parser, words: Sequence[str], architectures: Container[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """(all parsed arguments, JSON value of every setting that the words give, by its dotted name).

    Options of an architecture are under `options`. Raises UserError, one line that names the flag.
    """
    options = {}
    for flag in dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--")):
        architecture, dot, _ = flag[2:].partition(".")
        if dot and architecture in architectures:
            options[flag] = flag[2:].replace("-", "_")
            parser.add_argument(flag, dest=options[flag], nargs="?", const="", default=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args(words)
    if rest:
        raise _unknown_word(rest[0], parser.prog)
    values = {
        setting.name: _read(flag_of(setting.name), setting.hint, getattr(arguments, setting.name))
        for setting in settings_of(RunConfig)
        if hasattr(arguments, setting.name)
    }
    if options:
        values["options"] = {name: _option(flag, getattr(arguments, name)) for flag, name in options.items()}
    return arguments, values


def with_settings(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`base` with these settings, by dotted name as `read_settings` gives them. Raises UserError."""
    changed = to_json(base)
    for name, value in values.items():
        section, _, field = name.rpartition(".")
        if name == "options":
            changed["options"] |= value
        else:
            (changed[section] if section else changed)[field] = value
    return from_json(RunConfig, changed)


def settings_of(kind: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting that has a flag, those of the dataclass itself before those of its sections."""
    hints, documentation = typing.get_type_hints(kind), _documentation(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        if not dataclasses.is_dataclass(hints[name]) and typing.get_origin(hints[name]) is not Mapping:
            yield Setting(prefix + name, hints[name], documentation.get(name, ""), kind)
    for name in names:
        if dataclasses.is_dataclass(hints[name]):
            yield from settings_of(hints[name], f"{prefix}{name}.")


def _documentation(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a dataclass in its source; none where the source is not at hand."""
    documentation: dict[str, str] = {}
    for cls in kind.__mro__[:-1]:
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        except (OSError, TypeError):  # an installation without sources, or a class that was made by a function
            continue
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                name, text = statement.target.id, following.value.value  # type: ignore[union-attr, attr-defined]
                documentation.setdefault(name, " ".join(text.split()))
    return documentation


def _add_setting(group: argparse._ArgumentGroup, setting: Setting, default: Any) -> None:
    flags = dict.fromkeys((flag_of(setting.name), _long_flag(setting.name)))
    documentation = f"{setting.documentation} (default: {default_text(default)})".replace("%", "%%")
    origin, parts = typing.get_origin(setting.hint), typing.get_args(setting.hint)
    about: dict[str, Any] = {"dest": setting.name, "default": argparse.SUPPRESS, "help": documentation}
    if setting.hint is bool:
        group.add_argument(*flags, nargs="?", const="True", metavar="True|False", **about)
        section, dot, name = _long_flag(setting.name)[2:].rpartition(".")
        without = about | {"help": f"The opposite of {flag_of(setting.name)}."}
        group.add_argument(f"--{section}{dot}no-{name}", action="store_const", const="False", **without)
    elif origin is tuple:
        group.add_argument(*flags, nargs="*", metavar=_metavar(parts[0]), **about)
    else:
        group.add_argument(*flags, metavar=_metavar(setting.hint), **about)


def _metavar(hint: Any) -> str | None:
    """The placeholder of a value of this type in the help; None leaves it to the parser, which takes the name."""
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _metavar(next(part for part in typing.get_args(hint) if part is not type(None)))
    return {int: "N", float: "X"}.get(hint)


def _value_of(config: RunConfig, name: str) -> Any:
    value: Any = to_json(config)
    for part in name.split("."):
        value = value[part]
    return value


def _long_flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _unknown_word(word: str, command: str) -> UserError:
    """The error for a word that the parser of `command`, as it is typed, does not know."""
    if not word.startswith("--"):
        return UserError(f"{word!r} belongs to no flag; settings are written --FLAG VALUE, e.g. --tokens 1.5M")
    names = [setting.name for setting in settings_of(RunConfig)]
    # Without the dashes, which all flags share: they would make any two short flags look alike.
    flags = [flag.removeprefix("--") for flag in dict.fromkeys([*map(flag_of, names), *map(_long_flag, names)])]
    near = near_matches(word.partition("=")[0].removeprefix("--"), flags, cutoff=_SIMILAR)
    hint = f" did you mean {' or '.join(f'--{flag}' for flag in near)}?" if near else ""
    if here := ELSEWHERE.get(word.partition("=")[0].removeprefix("--").replace("_", "-")):
        hint = f" here {here} takes its place;"
    return UserError(f"unknown flag {word};{hint} {command} --help lists the settings")


def _option(flag: str, word: str) -> Any:
    """An architecture's option: a JSON value, or else text."""
    if not word:
        raise UserError(f"{flag} needs a value; monosemy info {flag[2:].split('.')[0]} lists the options")
    try:
        return json.loads(word)
    except ValueError:
        return word


def _read(flag: str, hint: Any, words: str | list[str]) -> Any:
    """The word or words of one flag as a JSON value of the setting's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(words, list):
        return [_read(flag, parts[0], word) for word in words]
    word = words
    if origin in (typing.Union, types.UnionType):
        hint = next(part for part in parts if part is not type(None))
        return None if word == "None" else _read(flag, hint, word)
    if origin is typing.Literal:
        if word not in parts:
            raise unknown(f"value for {flag}", word, parts)
        return word
    if hint is bool:
        if word not in ("True", "False"):
            raise UserError(f"{flag} takes True or False, or no value, got {word!r}")
        return word == "True"
    if hint is int and ("token" in flag or "budget" in flag):
        return count(flag, word)
    if hint is int or hint is float:
        try:
            return hint(word)
        except ValueError:
            kind, example = ("a whole number", "32") if hint is int else ("a number", "0.5")
            advice = _width_in_full(word) if flag == "--d-sae" else ""
            raise UserError(f"{flag} takes {kind} such as {example}, got {word!r}{advice}") from None
    return word


def _width_in_full(word: str) -> str:
    """Advice on a width such as `16k`, which published SAEs count in units of 1,024 and token counts here in 1,000."""
    thousands = word.removesuffix("k")
    return (
        f"; a published width of {word} is {1024 * int(thousands)}" if word != thousands and thousands.isdigit() else ""
    )
