"""The picture of README: a latent's page, made from a real run.

    python -m research.house.pictures RUN [--latent N] [--out docs/pictures]

Writes `latent.png`, the page of one latent as a browser draws it (by default the first of what was found, see
features/view/highlights.py), with a palette of its own, which keeps it small. It needs Chromium and
`requirements/browser.txt`, as `make test-browser` does. The figure beside it is one of research/frontier.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from monosemy.features.store.database import open_features
from monosemy.features.view.highlights import highlights
from monosemy.saes.listing import choose_sae

WIDTH, HEIGHT = 1180, 760
COLOURS = 64


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--latent", type=int)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    sae = choose_sae(options.run)
    latent = options.latent
    if latent is None:
        latent = highlights(open_features(options.run, *sae.key)).latents[0]
    page = options.out / "latent.png"
    photograph(options.run, f"latent/{sae.site}/{sae.name}/{latent}", page)
    reduce_colours(page)
    print(f"{page}: latent {latent} of {sae.label}, {page.stat().st_size // 1000} kB")


def photograph(run: Path, address: str, picture: Path) -> None:
    """Takes a picture of a page of `monosemy browse RUN`, in light colours."""
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
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(f"{served}{address}")
            page.locator("main h1").first.wait_for()
            page.wait_for_timeout(1500)  # plots are drawn after the heading
            page.screenshot(path=str(picture))
            browser.close()
    finally:
        server.terminate()
        server.wait()


def reduce_colours(picture: Path) -> None:
    """Writes a PNG again with a palette of its own."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    main()
