"""The configuration that `monosemy train` makes of the words of a command line."""

from __future__ import annotations

from monosemy import commands
from monosemy.config import RunConfig
from monosemy.support.flags import with_settings


def parsed(base: RunConfig, words: list[str]) -> RunConfig:
    """`base` with the settings that the words give."""
    return with_settings(base, commands._settings(base, words)[1])
