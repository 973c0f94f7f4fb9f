"""The notebooks as pages of the site: runs them, and writes a notebook's cells and outputs as Markdown.

    python docs/notebook_pages.py --out build/notebooks

runs docs/notebooks/ in order, in one scratch folder, so that what one of them trains the next ones find; each also
works by itself. The executed notebooks are written to --out. A page is made of an executed notebook if its cells are
still those of docs/notebooks/, or else of the committed one, which has no outputs. The site's build (site_hooks.py)
needs neither torch nor Jupyter: only running does.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent / "notebooks"
ORDER = ("start", "train", "published", "steer", "circuits", "embeddings")
EXECUTED = Path(__file__).parents[1] / "build" / "notebooks"
LIMIT_SECONDS = 900
"""The most that one cell may take, on a busy machine too."""
Notebook = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A notebook as Markdown, and the pictures that it shows, by their names beside it."""

    markdown: str
    pictures: dict[str, bytes]


# --- from a notebook to a page ----------------------------------------------------------------------------------------


def committed(name: str) -> Notebook:
    """A notebook of docs/notebooks/."""
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))


def latest(name: str, executed: Path = EXECUTED) -> Notebook:
    """The notebook with its outputs where it was run as it stands now, or else without."""
    notebook, path = committed(name), executed / f"{name}.ipynb"
    if not path.is_file():
        return notebook
    with_outputs = json.loads(path.read_text(encoding="utf-8"))
    return with_outputs if sources(with_outputs) == sources(notebook) else notebook


def sources(notebook: Notebook) -> list[tuple[str, str]]:
    """The kind and text of each cell: all that a reader of the committed notebook sees."""
    return [(cell["cell_type"], _text(cell["source"])) for cell in notebook["cells"]]


def page_of(name: str, notebook: Notebook) -> Page:
    """The page of a notebook, with a link to the notebook itself below its heading.

    Raises ValueError for a picture without a text for those who cannot see it (`alt` in its cell's metadata).
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(notebook["cells"]):
        text = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text))
            if number == 0:
                parts.append(f"[Download this notebook]({name}.ipynb)")
            continue
        parts.append(f"```python\n{text}\n```")
        for order, output in enumerate(cell.get("outputs", [])):
            picture = f"{name}-{number}-{order}.png"
            parts.append(_output(output, picture, pictures, cell["metadata"].get("alt", "")))
    return Page("\n\n".join(part for part in parts if part) + "\n", pictures)


def _output(output: dict[str, Any], picture: str, pictures: dict[str, bytes], alt: str) -> str:
    """One output as Markdown; a PNG among its forms goes into `pictures` under the name `picture`."""
    if output["output_type"] == "stream":
        # what libraries say to the terminal, progress among it, is nothing to read later
        return _plain(_text(output["text"])) if output["name"] == "stdout" else ""
    if output["output_type"] == "error":
        return _plain(f"{output['ename']}: {output['evalue']}")
    forms = output["data"]
    if "image/png" in forms:
        if not alt:
            raise ValueError(f"{picture} has no text for those who cannot see it: set `alt` in its cell's metadata")
        pictures[picture] = base64.b64decode(_text(forms["image/png"]))
        return f"![{alt}]({picture})"
    if "text/html" in forms:
        # pandas brings a style sheet of its own
        markup = re.sub(r"<style.*?</style>", "", _text(forms["text/html"]), flags=re.DOTALL)
        if not re.sub(r"<[^>]*>", "", markup).strip():
            return ""  # the blank lines of a terminal
        lines = [line.strip() for line in markup.splitlines() if line.strip()]
        if "<pre" in markup:  # a terminal's table keeps its blanks
            lines = [line for line in markup.splitlines() if line.strip()]
        return f'<div class="nb-output">\n{_inert(chr(10).join(lines))}\n</div>'
    return _plain(_text(forms.get("text/plain", "")))


def _plain(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).rstrip()
    return f'<pre class="nb-output">{_inert(html.escape(text, quote=False))}</pre>' if text else ""


def _inert(markup: str) -> str:
    """HTML in which nothing is left that Markdown, or the site's links, would read as their own."""
    return markup.replace("[", "&#91;").replace("`", "&#96;")


def _text(source: str | list[str]) -> str:
    """A notebook's text, which its format writes as one string or as lines."""
    return source if isinstance(source, str) else "".join(source)


# --- running ----------------------------------------------------------------------------------------------------------


def run(names: list[str], out: Path, scratch: Path) -> None:
    """Runs notebooks in `scratch` and writes them with their outputs to `out`. The first error of a cell ends it."""
    import nbformat
    from nbclient import NotebookClient

    # cells that run a command find that of this environment, activated or not
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        began = time.perf_counter()
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=LIMIT_SECONDS, resources={"metadata": {"path": str(scratch)}})
        client.execute()
        page_of(name, json.loads(nbformat.writes(notebook)))  # a page that cannot be made fails here, not in the site
        nbformat.write(notebook, out / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the notebooks of docs/notebooks/.")
    parser.add_argument("names", nargs="*", default=list(ORDER), help="which ones (default: all, in order)")
    parser.add_argument("--out", type=Path, default=EXECUTED, help="folder for the executed notebooks")
    parser.add_argument("--scratch", type=Path, help="folder to run in and to keep (default: one that is removed)")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(ORDER)):
        sys.exit(f"error: no notebook {unknown[0]!r}; choose from {', '.join(ORDER)}")
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
        return run(options.names, options.out, options.scratch)
    with tempfile.TemporaryDirectory(prefix="monosemy-notebooks-") as scratch:
        run(options.names, options.out, Path(scratch))


if __name__ == "__main__":
    main()
