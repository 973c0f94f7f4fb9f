"""The pictures of README and docs: pages of `monosemy browse` and written pages, made from real runs.

    python -m research.house.pictures RUN [--only latent steer] [--latent N] [--out docs/pictures]
    python -m research.house.pictures RUN --sheets [--only …] [--out docs/pictures/sheets]
    python -m research.house.pictures RUN --look FOLDER [--only …]

Without an option, writes the pictures of `PICTURES`, as a browser draws the pages, each with a palette of its own: they
stay them small. `--sheets` writes of every page one small picture of six, three widths in light and dark colours, for
docs/screens.md. `--look` writes the same six whole and apart, to be looked at; both say what is wider than its screen.
`--pages NAME=FILE…` adds written pages, such as `circuit=` that of `monosemy circuits`; a run with graphs has the page
of its first. Pictures of pages that are not there stay as they are. The latent is by default the first of those that
the overview shows (features/view/highlights.py). It needs Chromium and
`requirements/browser.txt`, as `make test-browser` does. The figure beside README's picture is one of research/frontier.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from monosemy.circuits.graphs.layout import graphs_of_run
from monosemy.features.store.database import list_features, open_features
from monosemy.features.view.highlights import highlights
from monosemy.saes.listing import SavedSae, choose_sae

WIDTHS = (1440, 820, 390)
HEIGHT = 900
COLOURS = 64
SHEET_SHARE, SHEET_GAP, SHEET_QUALITY = 0.45, 12, 60
"""By how much the pictures of a sheet are made smaller, the pixels between them, and the quality of WebP, of 100."""
TEXT = (
    "The committee met in July. In August it will decide whether the new library is built; until then, nothing moves."
)
OTHER_TEXT = "def add(a, b):\n    # returns the sum\n    return a + b"
CONCEPT = "nation"
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
    "graph.png": Shot("graph", 1180, 860),
    "circuit.png": Shot("circuit", 1000, 900),
}


def views_of(run: Path, sae: SavedSae, latent: int) -> dict[str, View]:
    """Every page of a run, by name."""
    place = f"{sae.site}/{sae.name}"
    views = {
        "overview": View(""),
        "latents": View(f"latents/{place}"),
        "filters": View(f"latents/{place}?min_firing_rate=0.01&min_token_entropy=6"),
        "latent": View(f"latent/{place}/{latent}"),
        "search": View(f"search/{place}?q={CONCEPT}", _find_by_meaning),
        "token": View(f"search/{place}?mode=token&q=%20July"),
        "text": View(f"search/{place}?mode=text", _read_text),
        "differences": View(f"search/{place}?mode=text", _compare_texts),
        "compare": View("compare"),
        "steer-empty": View(f"steer/{place}"),
        "steer": View("", _steer),
        "notes": View(f"latent/{place}/{latent}", _note),
        "report": View("report"),
    }
    if graph := next(graphs_of_run(run), None):
        views["graphs"] = View("graphs")
        views["graph"] = View(f"graph/{graph.folder.name}?n=0.6&e=0.6", _select)
    return views


def _find_by_meaning(page: Any) -> None:
    page.wait_for_timeout(1500)
    if (button := page.get_by_role("button", name="Also find latents by meaning")).count():
        button.click()
    page.get_by_role("region", name="Latents by meaning, table").wait_for(timeout=SECONDS * 1000)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)


def _read_text(page: Any) -> None:
    page.locator("textarea").first.fill(TEXT)
    page.locator("button.primary[type=submit]").first.click()
    page.locator("main table, main .ctx").first.wait_for(timeout=SECONDS * 1000)
    page.wait_for_timeout(1500)


def _compare_texts(page: Any) -> None:
    page.locator("textarea").first.fill(TEXT)
    page.get_by_role("button", name="Compare with a second text").click()
    page.locator("textarea").nth(1).fill(OTHER_TEXT)
    page.locator("button.primary[type=submit]").first.click()
    page.locator("main table").first.wait_for(timeout=SECONDS * 1000)
    page.wait_for_timeout(500)


def _note(page: Any) -> None:
    """Writes a note, unless an earlier picture did, and goes to the page of all notes."""
    note = page.get_by_label("Note on latent", exact=False).first
    note.wait_for(timeout=SECONDS * 1000)
    page.wait_for_timeout(500)
    if not note.input_value():
        note.fill("The label says it; weaker contexts still to be read.")
        page.get_by_role("button", name="Save note").click()
        page.get_by_text("Saved in the run's folder").wait_for()
    page.get_by_role("link", name="Notes", exact=True).click()
    page.locator(".notes li").first.wait_for()
    page.wait_for_timeout(300)


def _select(page: Any) -> None:
    """Selects the graph's most influential node, so that its links light up, and brings the tokens into view."""
    page.locator(".pick").first.click()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, document.querySelector('.graph-canvas').getBoundingClientRect().bottom - innerHeight)")
    page.wait_for_timeout(1500)


def _steer(page: Any) -> None:
    """Lets the overview choose a latent and the strength that works, and writes with it on the steering page."""
    page.get_by_role("button", name="Make it talk like one of its latents").click()
    onwards = page.get_by_role("link", name="Go on on the steering page")
    onwards.wait_for(timeout=SECONDS * 1000)
    talk = page.locator("section[aria-labelledby=talk] [role=status]")
    while talk.inner_text():  # the next example may work better
        page.wait_for_timeout(500)
    onwards.click()
    page.get_by_label("Prompt", exact=True).wait_for()
    page.evaluate("history.replaceState(null, '', `${location.href}&n=24`), dispatchEvent(new Event('popstate'))")
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
    parser.add_argument("--sheets", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    sae = choose_sae(options.run)
    latent = options.latent
    if latent is None:
        latent = first_latent(options.run, sae) if sae.key in list_features(options.run) else 0
    views = views_of(options.run, sae, latent)
    folder: Path = options.look or options.out or Path("docs/pictures/sheets" if options.sheets else "docs/pictures")
    folder.mkdir(parents=True, exist_ok=True)
    with pages_of(options.run) as (browser, served):
        views = {name: View(f"{served}{view.address}", view.prepare) for name, view in views.items()}
        for pair in options.pages:
            name, _, file = pair.partition("=")
            views[name] = View(Path(file).resolve().as_uri())
        views = {name: view for name, view in views.items() if options.only is None or name in options.only}
        if options.sheets:
            for name, view in views.items():
                write_sheet(browser, view, folder / f"{name}.webp")
        elif options.look:
            for name, view in views.items():
                for width, scheme, picture in six(browser, view, whole=True):
                    save_small(picture, folder / f"{name}-{width}-{scheme}.png")
        else:
            for file, shot in PICTURES.items():
                if shot.view in views:
                    with opened(browser, views[shot.view], (shot.width, shot.height)) as page:
                        page.emulate_media(color_scheme=shot.scheme)
                        save_small(photograph(page, whole=False), folder / file)


def first_latent(run: Path, sae: SavedSae) -> int:
    """The first of the latents that the overview shows."""
    return highlights(open_features(run, *sae.key)).latents[0]


def six(browser: Any, view: View, *, whole: bool) -> Iterator[tuple[int, str, Image.Image]]:
    """(width, scheme, picture) of a page at every width in both schemes; says where it is wider than the screen."""
    with opened(browser, view, (WIDTHS[0], HEIGHT)) as page:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page.set_viewport_size({"width": width, "height": HEIGHT})
                page.emulate_media(color_scheme=scheme)
                page.wait_for_timeout(400)  # plots follow width and scheme
                overhang = int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
                if overhang > 0:
                    print(f"{view.address} at {width}: {overhang} pixels wider than the screen", flush=True)
                yield width, scheme, photograph(page, whole=whole)


def write_sheet(browser: Any, view: View, file: Path) -> None:
    """One picture of a page at every width, light above dark."""
    small = {
        (width, scheme): picture.resize([round(SHEET_SHARE * side) for side in picture.size], Image.Resampling.LANCZOS)
        for width, scheme, picture in six(browser, view, whole=False)
    }
    widths = [small[width, "light"].width for width in WIDTHS]
    height = small[WIDTHS[0], "light"].height
    size = sum(widths) + SHEET_GAP * (len(widths) - 1), 2 * height + SHEET_GAP
    sheet = Image.new("RGB", size, "#808080")
    for i, width in enumerate(WIDTHS):
        left = sum(widths[:i]) + SHEET_GAP * i
        sheet.paste(small[width, "light"], (left, 0))
        sheet.paste(small[width, "dark"], (left, height + SHEET_GAP))
    sheet.save(file, quality=SHEET_QUALITY, method=6)
    print(f"{file}: {file.stat().st_size // 1000} kB", flush=True)


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


@contextmanager
def opened(browser: Any, view: View, size: tuple[int, int]) -> Iterator[Any]:
    """The page of a view in the state to be shown, on a screen of this size."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(view.address)
    page.locator("h1").first.wait_for(timeout=SECONDS * 1000)
    view.prepare(page)
    yield page
    page.close()


def photograph(page: Any, *, whole: bool) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")


def save_small(picture: Image.Image, file: Path) -> None:
    """Writes a PNG with a palette of its own."""
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size // 1000} kB", flush=True)


if __name__ == "__main__":
    main()
