"""What the command line makes of words: the configuration of `monosemy train`, and the flags that a command has."""

from __future__ import annotations

import pytest

from monosemy import cli, commands
from monosemy.config import RunConfig
from monosemy.support.arguments import Parser
from monosemy.support.flags import with_settings


def parsed(base: RunConfig, words: list[str]) -> RunConfig:
    """`base` with the settings that the words give."""
    return with_settings(base, commands._settings(base, words)[1])


def flags_of_command(*words: str) -> set[str]:
    """The flags that the parser of `monosemy WORDS` knows."""
    parsers: list[Parser] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "print_help", lambda self, file=None: parsers.append(self))
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
    return {flag for action in parsers[0]._actions for flag in action.option_strings}
