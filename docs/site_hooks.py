"""What the site has beside docs/: README as its first page, changelog, CONTRIBUTING and the studies, and their links.

Documents link to each other by their paths in the repository, as a forge shows them. In the site docs/ is the root, so
every relative link is resolved in the repository and written again from page to page. What a page links to and the site
does not hold (sources, folders, the licence) becomes its text. The notebooks' pages are made by notebook_pages.py.
"""

from __future__ import annotations

import os.path
import re
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import notebook_pages
import site_requests

ROOT = Path(__file__).parents[1]
HOME = "README.md"
PERFORMANCE = "research/speed/README.md"
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def outside() -> list[Path]:
    """The documents and pictures of the site that lie outside docs/, by their paths in the repository."""
    studies = sorted(path.relative_to(ROOT) for path in (ROOT / "research").glob("*/README.md"))
    figures = sorted(path.relative_to(ROOT) for path in (ROOT / "research").glob("*/figures/*.png"))
    return [Path(HOME), Path("CHANGELOG.md"), Path("CONTRIBUTING.md"), *studies, *figures]


def in_site(path: str) -> str:
    """A repository path as a path of the site's sources."""
    if path == HOME:
        return "index.md"
    return path.removeprefix("docs/")


def in_repository(src_uri: str) -> str:
    """The repository path of a page of the site."""
    if src_uri == "index.md":
        return HOME
    return src_uri if Path(src_uri) in outside() else f"docs/{src_uri}"


def on_files(files: Files, config) -> Files:
    for path in outside():
        files.append(File.generated(config, in_site(path.as_posix()), abs_src_path=str(ROOT / path)))
    for name in notebook_pages.ORDER:
        page = notebook_pages.page_of(name, notebook_pages.latest(name))
        files.append(File.generated(config, f"notebooks/{name}.md", content=page.markdown))
        for picture, content in page.pictures.items():
            files.append(File.generated(config, f"notebooks/{picture}", content=content))
    for file in files.documentation_pages():
        # Reached from the results' page, not from the menu; but performance is asked for by itself.
        if file.src_uri.startswith("research/") and file.src_uri != PERFORMANCE:
            file.inclusion = file.inclusion.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    source = in_repository(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target) or not target:
            return match[0]
        wanted = in_site(os.path.normpath(os.path.join(os.path.dirname(source), target)))
        if wanted.endswith(".ipynb") and not source.startswith("docs/notebooks/"):
            wanted = wanted.removesuffix(".ipynb") + ".md"
        if wanted.rstrip("/") in ("research", "docs"):
            wanted = "results.md"
        if files.get_file_from_path(wanted) is None:
            return match["text"]
        link = os.path.relpath(wanted, os.path.dirname(page.file.src_uri) or ".")
        return f"{match['picture']}[{match['text']}]({link}{'#' + anchor if anchor else ''})"

    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else _LINK.sub(moved, part) for i, part in enumerate(parts))


def on_post_build(config) -> None:
    """Ends the build with an error where a page would ask another place for something."""
    if asked := site_requests.requests_of_site(Path(config.site_dir)):
        raise PluginError("the site would ask other places for:\n" + "\n".join(asked))
