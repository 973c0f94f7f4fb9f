"""Errors for people who call Python: settings by the names of their arguments, not by those of command-line flags.

Place on the path: checks of configuration and data → UserError → [names] → `Dictionary.fit` and `fit`. The checks serve
the command line as well, so that their messages name flags, `--training.n-passes`, or dotted settings,
`training.n_passes`; here both become `training["n_passes"]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.saes.registry import ARCHITECTURES
from monosemy.support.flags import flag_of, settings_of

_ARGUMENTS = {
    "architectures": "architecture",
    "seeds": "seed",
    "model.device": "device",
    "rows.validation_fraction": "validation_fraction",
    "rows.seed": "seed",
    "rows.tensor": "tensor",
    "rows.column": "column",
    "rows.source": "X",
    "d_sae": "d_sae",
    "l0": "l0",
}
_FLAG = re.compile(r"--[a-z0-9_]+(?:[.-][a-z0-9_]+)*|\b[a-z0-9_]+\.[a-z0-9_]+\b")


@contextmanager
def python_names() -> Iterator[None]:
    """Rewrites the message of a UserError that leaves the block."""
    try:
        yield
    except UserError as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(message: str) -> str:
    """The message with every flag and dotted setting as the argument of `fit` that gives it; others stay."""
    names: dict[str, str] = {}
    for setting in settings_of(RunConfig):
        if argument := _argument(setting.name):
            names |= dict.fromkeys((flag_of(setting.name), "--" + setting.name.replace("_", "-")), argument)
            if "." in setting.name:
                names[setting.name] = argument
    return _FLAG.sub(lambda match: names.get(match[0]) or _option(match[0]) or match[0], message)


def _argument(setting: str) -> str:
    """The argument that gives a setting; empty for settings that no argument gives."""
    section, _, name = setting.rpartition(".")
    return f'training["{name}"]' if section == "training" else _ARGUMENTS.get(setting, "")


def _option(word: str) -> str:
    """`--jumprelu.bandwidth-relative` as `options["bandwidth_relative"]`, unknown names included; empty for others."""
    section, dot, option = word.removeprefix("--").partition(".")
    name = "options" if section in ARCHITECTURES else "training" if section == "training" else ""
    return f'{name}["{option.replace("-", "_")}"]' if dot and name else ""
