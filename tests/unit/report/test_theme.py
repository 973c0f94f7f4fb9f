"""Colours can be told apart by everyone, and stand out from the background."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from monosemy.report.theme import CONTROLS, DARK, LIGHT, PALETTE, Theme, order, page_styles, styles
from monosemy.saes.registry import ARCHITECTURES

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_in_every_kind_of_vision(theme: Theme, vision: str) -> None:
    colours = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in theme.series]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)) >= 14


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_everything_stands_out_from_the_background(theme: Theme) -> None:
    assert min(contrast(colour, theme.background) for colour in theme.series) >= 3
    assert contrast(theme.ink, theme.background) >= 7
    assert contrast(theme.muted, theme.background) >= 4.5


def test_the_pages_colours_can_be_read_as_text_and_belong_to_the_figures() -> None:
    for theme in (LIGHT, DARK):
        assert min(contrast(colour, theme.background) for colour in theme.page_series) >= 4.5
        figures = [lab(linear(colour)) for colour in theme.series]
        for slot, colour in enumerate(theme.page_series):
            assert np.argmin([np.linalg.norm(figure - lab(linear(colour))) for figure in figures]) == slot


def test_there_is_a_colour_for_every_registered_architecture() -> None:
    assert len(PALETTE) > len(ARCHITECTURES)
    looks = page_styles([*ARCHITECTURES, *CONTROLS])
    assert [looks[name].label for name in ARCHITECTURES] == [entry.label for entry in ARCHITECTURES.values()]
    assert len({(look.light, look.marker) for look in looks.values()}) == len(looks)


def test_more_unlisted_architectures_than_places_differ_by_their_markers() -> None:
    looks = styles([f"new_{i}" for i in range(2 * len(PALETTE))], LIGHT).values()
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)


def test_no_two_series_share_marker_and_line() -> None:
    names = ["relu", "topk", "batch_topk", "gated", "jumprelu", "matryoshka", *CONTROLS]
    looks = styles(names, LIGHT)
    assert len({(s.colour, s.marker, str(s.line)) for s in looks.values()}) == len(names)
    assert len({s.marker for s in looks.values()}) == len(names)
    assert all(looks[c].control and looks[c].colour == LIGHT.muted for c in CONTROLS)


def test_an_unlisted_architecture_takes_a_free_style_and_comes_before_controls() -> None:
    assert order(["pca", "my_new", "topk", "relu"]) == ["relu", "topk", "my_new", "pca"]
    looks = styles(["topk", "my_new"], LIGHT)
    assert looks["my_new"].label == "my new"
    assert looks["my_new"].colour != looks["topk"].colour
