"""The pictures of README and docs: pages of `monosemy browse` and reports, made from a real run.

    python -m research.house.pictures RUN [--only latent steer] [--latent N] [--out docs/pictures]
    python -m research.house.pictures RUN --look FOLDER [--only …]

Without `--look`, writes the pictures of `PICTURES`, as a browser draws the pages, each with a palette of its own, which
keeps them small. With it, writes every page at three widths in light and dark colours, whole pages, to be looked at,
and says which of them are wider than the screen. `--pages NAME=FILE…` adds written pages, such as `circuit=` that of
`monosemy circuits`; a run with graphs has the page of its first. Pictures of pages that are not there stay as they are.
The latent is by default the first of what was found (features/view/highlights.py). It needs Chromium and
`requirements/browser.txt`, as `make test-browser` does. The figure beside README's picture is one of research/frontier.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monosemy.circuits.graphs.layout import graphs_of_run
from monosemy.features.store.database import list_features, open_features
from monosemy.features.view.highlights import highlights
from monosemy.saes.listing import SavedSae, choose_sae, saved_saes

WIDTHS = (1440, 820, 390)
HEIGHT = 900
COLOURS = 64
TEXT = (
    "The committee met in July. In August it will decide whether the new library is built; until then, nothing moves."
)
SECONDS = 240
"""How long a page may take: the first steered answer waits until the model is loaded."""


@dataclass(frozen=True)
class View:
    """A page to be photographed."""

    address: str
    prepare: Callable[[Any], object] = field(default=lambda page: page.wait_for_timeout(1500))
    """Brings the page into the state to be shown; by default waits for the plots, which are drawn after the heading."""


@dataclass(frozen=True)
class Shot:
    """A picture of the docs: a view in one size and scheme."""

    view: str
    width: int = 1180
    height: int = 760
    scheme: str = "light"


PICTURES = {
    "latent.png": Shot("latent"),
    "latent-phone.png": Shot("latent", 390, 760, "dark"),
    "overview.png": Shot("overview"),
    "text.png": Shot("text"),
    "steer.png": Shot("steer", height=900),
    "compare.png": Shot("compare"),
    "report.png": Shot("report"),
    "graph.png": Shot("graph", 1000, 680),
    "circuit.png": Shot("circuit", 1000, 900),
}


def views_of(run: Path, sae: SavedSae, latent: int) -> dict[str, View]:
    """Every page of a run, by name."""
    place = f"{sae.site}/{sae.name}"
    others = [o for o in saved_saes(run) if o.key != sae.key and not o.control]
    other = next((o for o in others if o.kind == sae.kind), others[0] if others else sae)
    edits = f"{latent}:set:0.4:norm"
    if other is not sae:
        edits += f",{other.label}:{latent}:scale:0:max"
    views = {
        "overview": View(""),
        "latents": View(f"latents/{place}"),
        "latent": View(f"latent/{place}/{latent}"),
        "text": View(f"search/{place}?mode=text", _read_text),
        "steer": View(f"steer/{place}?e={edits}&n=16&say=Talk+about+it.", _write),
        "compare": View(f"compare?a={sae.label}&b={other.label}"),
        "report": View("report"),
    }
    if graph := next(graphs_of_run(run), None):
        views["graph"] = View(f"graph/{graph.folder.name}?n=0.6&e=0.6", _select)
    return views


def _read_text(page: Any) -> None:
    page.locator("textarea").first.fill(TEXT)
    page.locator("button.primary[type=submit]").first.click()
    page.locator("main table, main .ctx").first.wait_for(timeout=SECONDS * 1000)
    page.wait_for_timeout(1500)


def _select(page: Any) -> None:
    """Selects the graph's most influential node, so that its links light up, and brings the tokens into view."""
    page.locator(".pick").first.click()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, document.querySelector('.graph-canvas').getBoundingClientRect().bottom - innerHeight)")
    page.wait_for_timeout(1500)


def _write(page: Any) -> None:
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator("[data-column=random] dl").wait_for(timeout=SECONDS * 1000)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--latent", type=int)
    parser.add_argument("--only", nargs="+", metavar="PAGE", help="names of pages")
    parser.add_argument("--pages", nargs="+", default=[], metavar="NAME=FILE", help="written pages to look at, too")
    parser.add_argument("--look", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args(words)
    sae = choose_sae(options.run)
    latent = options.latent
    if latent is None:
        described = sae.key in list_features(options.run)
        latent = highlights(open_features(options.run, *sae.key)).latents[0] if described else 0
    views = views_of(options.run, sae, latent)
    folder: Path = options.look or options.out
    folder.mkdir(parents=True, exist_ok=True)
    with pages_of(options.run) as (browser, served):
        views = {name: View(f"{served}{view.address}", view.prepare) for name, view in views.items()}
        for pair in options.pages:
            name, _, file = pair.partition("=")
            views[name] = View(Path(file).resolve().as_uri())
        for name, shot, whole in shots(views, options.only, look=options.look is not None):
            picture = folder / name
            overhang = photograph(browser, views[shot.view], shot, picture, whole=whole)
            reduce_colours(picture)
            wide = f", {overhang} pixels wider than the screen" if overhang > 0 else ""
            print(f"{picture}: {picture.stat().st_size // 1000} kB{wide}", flush=True)


def shots(views: dict[str, View], only: list[str] | None, *, look: bool) -> Iterator[tuple[str, Shot, bool]]:
    """(file's name, shot, whether the whole page is shown) of all pictures, or of those of some pages."""
    view_names = [view for view in views if only is None or view in only]
    if not look:
        yield from ((name, shot, False) for name, shot in PICTURES.items() if shot.view in view_names)
        return
    for view in view_names:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                yield f"{view}-{width}-{scheme}.png", Shot(view, width, HEIGHT, scheme), True


@contextmanager
def pages_of(run: Path) -> Iterator[tuple[Any, str]]:
    """(a browser, the address of `monosemy browse RUN`), as long as the block runs."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "monosemy", "browse", str(run), "--port", "0", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        served = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        names = (os.environ.get("MONOSEMY_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
        chromium = next(path for name in names if name and (path := shutil.which(name)))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            yield browser, served
            browser.close()
    finally:
        server.terminate()
        server.wait()


def photograph(browser: Any, view: View, shot: Shot, picture: Path, *, whole: bool) -> int:
    """Takes a picture of a page, and returns by how many pixels it is wider than the screen."""
    size = {"width": shot.width, "height": shot.height}
    page = browser.new_page(viewport=size, color_scheme=shot.scheme)
    page.goto(view.address)
    page.locator("h1").first.wait_for(timeout=SECONDS * 1000)
    view.prepare(page)
    page.screenshot(path=str(picture), full_page=whole)
    overhang = int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
    page.close()
    return overhang


def reduce_colours(picture: Path) -> None:
    """Writes a PNG again with a palette of its own."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    main()
