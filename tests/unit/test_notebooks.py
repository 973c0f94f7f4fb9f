"""The notebooks: committed without outputs, in the site's menu, naming what exists; and how they become pages."""

from __future__ import annotations

import ast
import base64
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from command_words import flags_of_command

import monosemy
from monosemy import cli

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import notebook_pages  # noqa: E402

NOTEBOOKS = {name: notebook_pages.committed(name) for name in notebook_pages.ORDER}


def code_of(notebook: dict) -> str:
    """The Python of all cells, without the lines that go to the shell or to IPython."""
    cells = [text for kind, text in notebook_pages.sources(notebook) if kind == "code"]
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("!", "%")))


def test_every_notebook_is_run_and_in_the_menu():
    names = sorted(path.stem for path in notebook_pages.NOTEBOOKS.glob("*.ipynb"))
    menu = re.findall(r"notebooks/(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert names == sorted(notebook_pages.ORDER) == sorted(menu)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs(name):
    cells = NOTEBOOKS[name]["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert notebook_pages.sources(NOTEBOOKS[name])[0][1].startswith("# ")
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), "Jupyter: Edit, Clear Outputs of All Cells"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_imports_and_says_of_monosemy_exists(name):
    tree = ast.parse(code_of(NOTEBOOKS[name]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert importlib.util.find_spec(alias.name), alias.name
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "monosemy":
            assert hasattr(monosemy, node.attr), node.attr


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_command_and_flag_of_a_notebook_exists(name):
    texts = [text for _, text in notebook_pages.sources(NOTEBOOKS[name])]
    commands = re.findall(r"^!monosemy (\w[\w-]*)(.*)|`monosemy (\w[\w-]*)([^`]*)`", "\n".join(texts), re.MULTILINE)
    assert commands or name == "embeddings"
    for command, rest in ((first or second, more or others) for first, more, second, others in commands):
        assert command in cli.commands()
        flags = set(re.findall(r"(?<!\S)--[a-z][\w.-]*", re.sub(r'"[^"]*"', "", rest)))
        assert flags <= flags_of_command(command), command


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_pictures_have_texts_and_links_lead_somewhere(name):
    for cell, (kind, text) in zip(NOTEBOOKS[name]["cells"], notebook_pages.sources(NOTEBOOKS[name])):
        if kind == "code":
            # A cell that shows a figure ends by showing it; one that defines a function shows nothing.
            shows = text.endswith("plt.show()") or re.search(r"^(plot|draw_circuit)\(", text, re.MULTILINE)
            assert not shows or cell["metadata"].get("alt"), text
        else:
            for target in re.findall(r"\]\(([^)]+)\)", text):
                assert (notebook_pages.NOTEBOOKS / target).is_file(), target


def notebook(*outputs: dict, alt: str = "a curve") -> dict:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Title\n[next](train.ipynb), [guide](../published.md)"},
        {"cell_type": "code", "metadata": {"alt": alt}, "source": ["x = 1\n", "x"], "outputs": list(outputs)},
    ]
    return {"cells": cells}


def test_cells_and_outputs_become_a_page():
    stream = {"output_type": "stream", "name": "stdout", "text": ["\x1b[1mbold\x1b[0m <b> [a](b)\n"]}
    table = {
        "output_type": "display_data",
        "data": {"text/html": "<style>td {}</style><table>\n\n<tr><td>`2`</td></tr></table>"},
    }
    value = {"output_type": "execute_result", "data": {"text/plain": "1"}}
    blank = {"output_type": "display_data", "data": {"text/html": "<pre>\n</pre>", "text/plain": "\n"}}
    progress = {"output_type": "stream", "name": "stderr", "text": "50%"}
    page = notebook_pages.page_of("start", notebook(stream, table, blank, progress, value)).markdown
    assert page.count("nb-output") == 3
    assert page.startswith(
        "# Title\n[next](train.md), [guide](../published.md)\n\n[Download this notebook](start.ipynb)"
    )
    assert "```python\nx = 1\nx\n```" in page
    assert '<pre class="nb-output">bold &lt;b&gt; &#91;a](b)</pre>' in page
    assert '<div class="nb-output">\n<table>\n<tr><td>&#96;2&#96;</td></tr></table>\n</div>' in page
    assert page.endswith('<pre class="nb-output">1</pre>\n')


def test_a_picture_stands_beside_the_page_and_has_a_text():
    picture = {
        "output_type": "display_data",
        "data": {"image/png": base64.b64encode(b"PNG").decode(), "text/plain": ""},
    }
    page = notebook_pages.page_of("start", notebook(picture))
    assert "![a curve](start-1-0.png)" in page.markdown
    assert page.pictures == {"start-1-0.png": b"PNG"}
    with pytest.raises(ValueError, match=r"start-1-0.png has no text"):
        notebook_pages.page_of("start", notebook(picture, alt=""))


def test_outputs_of_other_cells_than_the_present_ones_are_left_out(tmp_path):
    executed = notebook_pages.committed("start")
    executed["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "seen"}]
    (tmp_path / "start.ipynb").write_text(json.dumps(executed))
    assert notebook_pages.latest("start", tmp_path) == executed
    executed["cells"][1]["source"] = ["changed()"]
    (tmp_path / "start.ipynb").write_text(json.dumps(executed))
    assert notebook_pages.latest("start", tmp_path) == NOTEBOOKS["start"]
    assert notebook_pages.latest("train", tmp_path) == NOTEBOOKS["train"]
