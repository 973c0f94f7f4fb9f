"""The whole report: every figure, one self-contained page, all odd shapes of runs."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import write_run

from monosemy.errors import UserError
from monosemy.report.canvas import spread_apart, thin_ticks
from monosemy.report.latent_figures import rate_edges
from monosemy.report.page import write_report

SITE = "layers.12.resid_post"
KINDS = ("delta_loss", "fvu", "shares", "firing_rates", "usage", "training")
VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tables: list[dict[str, list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self.tables.append({"caption": [], "th": [], "td": []})
        self.ids += [attributes["id"]] if attributes.get("id") else []
        self.addresses += [value for name in ("src", "srcset", "href") if (value := attributes.get(name))]
        if tag == "th":
            assert attributes.get("scope") in ("col", "row")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.words.append(data)
        for tag in ("caption", "th", "td"):
            if tag in self.open:
                self.tables[-1][tag].append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(folder: Path) -> tuple[Page, str]:
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, str]:
    folder = tmp_path_factory.mktemp("usual") / "run"
    write_run(folder, d_sae=120, l0=(16.0, 32.0), diverged="gated-l0_32-s0", n_records=8)
    return folder, *report(folder)


def test_the_usual_run(usual: tuple[Path, Page, str]) -> None:
    folder, page, text = usual
    assert sorted(p.name for p in (folder / "figures").iterdir()) == sorted(f"{kind}-{SITE}.png" for kind in KINDS)
    for kind in KINDS:
        picture = Image.open(folder / "figures" / f"{kind}-{SITE}.png")
        assert picture.size[0] >= 1000
        assert len(picture.getcolors(256) or []) > 8
    assert len(page.images) == len(KINDS)
    assert all(image["alt"] and len(image["alt"] or "") > 40 for image in page.images)
    assert page.text.index("Which architecture is ahead") < page.text.index("Provenance", 200)
    assert "Lower is better" in page.text
    assert "gated-l0_32-s0 at layers.12.resid_post stopped at step 50: its loss was not finite" in page.text
    assert all(table["caption"] and table["th"] for table in page.tables)
    assert len(page.tables) >= 10
    assert text.count("<table") == len(page.tables)


def test_the_page_needs_nothing_from_elsewhere(usual: tuple[Path, Page, str]) -> None:
    _, page, text = usual
    for address in page.addresses:
        assert address.startswith(("data:image/png;base64,", "#"))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[\w+/=]+", "", text))
    dark = next(a for a in page.addresses if a.startswith("data:"))
    picture = Image.open(io.BytesIO(base64.b64decode(dark.partition(",")[2]))).convert("L")
    assert np.median(np.asarray(picture)) < 60


def test_provenance_holds_what_the_run_recorded(usual: tuple[Path, Page, str]) -> None:
    _, page, _ = usual
    for fact in (
        "SmolLM2-135M-Instruct",
        "CC BY-SA 4.0",
        "1,172",
        "2.13.0",
        "Linux x86_64, 2 cores, 23.5 GiB memory",
        "8 min 23 s",
        "60,211",
        "8,064",
        "an identity splice changed the loss by exactly 0",
    ):
        assert fact in page.text, fact


def test_several_sites_and_seeds(tmp_path: Path) -> None:
    sites = (SITE, "layers.6.mlp_out")
    folder = write_run(
        tmp_path / "run",
        sites=sites,
        architectures=("topk", "relu"),
        seeds=(0, 1, 2),
        d_sae=60,
        l0=(16.0, 32.0),
        n_records=5,
    )
    page, _ = report(folder)
    assert {p.name for p in (folder / "figures").iterdir()} == {
        f"{kind}-{site}.png" for kind in KINDS for site in sites
    }
    assert "24 sparse autoencoders (ReLU + L1 and TopK; 60 latents; sparsity levels L0 16 and 32; 3 seeds)" in page.text
    assert "SD over seeds" in page.text
    assert "Every SAE, seed by seed" in page.text


def test_one_sae_without_controls(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", architectures=("topk",), l0=(32.0,), d_sae=60, frozen_random=False, pca=False, n_records=1
    )
    page, _ = report(folder)
    assert "1 sparse autoencoder (TopK; 60 latents; sparsity level L0 32; 1 seed)" in page.text
    assert "TopK alone can be ranked here" in page.text
    assert f"No control was measured at {SITE}" in page.text


def test_all_latents_dead(tmp_path: Path) -> None:
    page, _ = report(write_run(tmp_path / "run", architectures=("topk",), l0=(16.0, 32.0), d_sae=60, all_dead=True))
    assert "30% or more of the latents are dead" in page.text
    assert "not fitted" in page.text


def test_everything_stopped(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run",
        architectures=("topk",),
        l0=(32.0,),
        d_sae=60,
        diverged="topk-l0_32-s0",
        frozen_random=False,
        pca=False,
    )
    page, _ = report(folder)
    assert [p.name for p in (folder / "figures").iterdir()] == [f"training-{SITE}.png"]
    assert "Training stopped early" in page.text
    assert "none is ranked" in page.text


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&"
    folder = write_run(tmp_path / "run", architectures=("topk",), l0=(32.0,), d_sae=60, n_records=2)
    path = folder / "run.json"
    path.write_text(path.read_text().replace("SmolLM2-135M-Instruct", name))
    page, text = report(folder)
    assert name in page.text
    assert text.count("<script>") == 1


def test_it_is_written_anew_and_alike_and_a_damaged_run_leaves_it_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", architectures=("topk",), l0=(32.0,), d_sae=60, n_records=2)
    before = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == before
    (folder / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"evaluation\.json.*monosemy evaluate"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_labels_are_spread_apart_and_moved_no_more_than_needed() -> None:
    heights = np.array([0.5, 0.51, 0.9, 0.49, 0.1])
    placed = spread_apart(heights, 0.06)
    assert (np.diff(np.sort(placed)) >= 0.06 - 1e-9).all()
    assert (np.argsort(placed) == np.argsort(heights)).all()
    assert placed[2] == pytest.approx(0.9)
    assert placed[[0, 1, 3]].mean() == pytest.approx(0.5)


def test_ticks_keep_their_distance() -> None:
    assert thin_ticks([16, 32, 64], 8) == [16, 32, 64]
    assert thin_ticks([30, 32, 64, 65, 128], 8) == [30, 64, 128]


@pytest.mark.parametrize("n_tokens", [1, 50, 60_211, 10**7])
def test_every_bin_of_the_rate_histogram_holds_whole_counts(n_tokens: int) -> None:
    edges = rate_edges(n_tokens) * n_tokens
    assert edges[0] == pytest.approx(0.5)
    assert edges[-1] == pytest.approx(n_tokens + 0.5)
    assert (np.diff(edges) >= 1 - 1e-6).all()
    counts = np.arange(1, min(n_tokens, 2000) + 1)
    assert np.histogram(counts, edges)[0].sum() == len(counts)
