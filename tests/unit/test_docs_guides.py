"""The guides say what is there: commands and flags, messages of errors, files of a run, names of the Python API."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest
from command_words import flags_of_command

import monosemy
from monosemy import cli, layout
from monosemy.circuits.jacobian.commands import SUBCOMMANDS
from monosemy.saes.registry import ARCHITECTURES

ROOT = Path(monosemy.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
CODE = re.compile(r"^```\n(.*?)^```|^    (\S.*?)$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
"""Blocks of a terminal, indented lines and code words."""
COMMAND = re.compile(r"(?:^|&& |bin/)monosemy ([a-z][\w-]*)(.*)", re.MULTILINE)


@pytest.fixture(scope="module")
def flags_of():
    """A function from the words of a command to the flags that its parser knows."""
    return functools.cache(flags_of_command)


def test_the_docs_say_how_every_extra_is_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    page, of_developers = (DOCS / "own-model.md").read_text(encoding="utf-8"), {"dev", "browser-tests", "docs"}
    assert set(re.findall(r"pip install 'monosemy\[([\w-]+)\]'", page)) == set(extras) - of_developers
    assert all(f"`{name}`" in page for name in of_developers)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_and_flag_of_a_page_exists(page, flags_of):
    text = re.sub(r" \\\n\s*", " ", page.read_text(encoding="utf-8"))
    code = "\n".join(next(filter(None, groups)) for groups in CODE.findall(text))
    wrong = []
    for name, rest in COMMAND.findall(code):
        rest = re.sub(r'"[^"]*"', "", rest).partition(" #")[0].partition(" && ")[0]
        if name not in cli.commands():
            wrong.append(name)
            continue
        words = [name, *(word for word in rest.split()[:1] if name == "jacobian")]
        if name == "jacobian" and words[-1] not in SUBCOMMANDS:
            continue
        for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*", rest):
            if flag.removeprefix("--").partition(".")[0] not in ARCHITECTURES and flag not in flags_of(*words):
                wrong.append(f"{' '.join(words)} {flag}")
    assert wrong == []


def test_every_message_of_the_page_on_errors_is_one_of_ours():
    """What stands in bold code words there occurs in the text of some error."""
    texts = []
    for path in (ROOT / "monosemy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    source = "\n".join(texts)
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\*\*`([^`]+)`\*\*((?: … `[^`]+`)*)", page, re.MULTILINE)
    assert len(entries) > 15
    fragments = [fragment for first, more in entries for fragment in (first, *re.findall(r"`([^`]+)`", more))]
    assert [fragment for fragment in fragments if fragment not in source] == []


def test_every_file_of_a_run_is_on_its_page():
    page = (DOCS / "files.md").read_text(encoding="utf-8")
    named_lines = re.findall(r"^    ([\w.<>/-]+(?:, [\w.<>/-]+)*)", layout.__doc__, re.MULTILINE)
    names = {name.split("/")[0] for line in named_lines for name in line.split(", ") if not name.startswith("<")}
    assert {"run.json", "evaluation.json", "saes", "features", "first-look"} <= names
    assert {name for name in names if f"`{name}" not in page} == set()


def test_the_page_on_python_has_every_public_name():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)", page, re.MULTILINE)
    for place in entries:
        module, _, name = place.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), place
    places = {f"{module}.{name}" for name, module in monosemy._PUBLIC.items()}
    assert places - set(entries) == set()


def test_the_code_of_the_guides_names_what_exists():
    for name in ("from-saelens.md", "files.md"):
        for block in re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL):
            for attribute in re.findall(r"monosemy\.(\w+)", block):
                assert hasattr(monosemy, attribute)
            compile(block, name, "exec")


def test_every_page_is_in_the_menu_of_the_site():
    menu = set(re.findall(r"^ +- .*: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert {path.name for path in DOCS.glob("*.md")} == menu - {"index.md", "CHANGELOG.md", "CONTRIBUTING.md"}
