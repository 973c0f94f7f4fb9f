"""Tables in Markdown and the numbers in their cells, as all studies write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ARCHITECTURES = ("relu", "topk", "batch_topk", "gated", "jumprelu")
CONTROLS = {
    "frozen_random": "frozen random (control)",
    "pca": "PCA (control)",
    "neurons": "MLP neurons (control)",
    "channels": "residual channels (control)",
}


def markdown(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(value: float, ends: Sequence[float], form: str = ".3f", scale: float = 1) -> str:
    """`0.767 [0.763, 0.771]`."""
    return f"{value * scale:{form}} [{ends[0] * scale:{form}}, {ends[1] * scale:{form}}]"


def bare(value: float) -> str:
    """`.945`: no zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)


def minus(text: str) -> str:
    """A hyphen before a digit as a minus sign."""
    return text.replace("-", "−")
