"""Lists in words: names joined by *and*, and many sites in few words.

Place on the path: beneath everything that names several things to people: the terminal, the report, messages.

    layers.0.mlp_in, layers.0.mlp_out, layers.1.mlp_in, … → mlp_in and mlp_out of layers 0–29
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

FEW_SITES = 3
"""Up to this many sites are named in full, as the command line takes them."""

_SITE = re.compile(r"layers\.(\d+)\.(\w+)")


def and_text(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; `none` without items."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def sites_text(sites: Iterable[str]) -> str:
    """Sites in words: up to three by their full names, more of them by kind and ranges of layers.

    Kinds that are read at the same layers stand together: `resid_post of layers 0–29, attn_out and mlp_out of layers 4,
    8 and 12`. What is no name of a site here (rows of one's own, for instance) is named as it is; `none` without sites.
    """
    names = list(dict.fromkeys(sites))
    if len(names) <= FEW_SITES:
        return and_text(names)
    layers: dict[str, set[int]] = {}
    others = []
    for name in names:
        if match := _SITE.fullmatch(name):
            layers.setdefault(match[2], set()).add(int(match[1]))
        else:
            others.append(name)
    kinds: dict[tuple[int, ...], list[str]] = {}
    for kind, numbers in layers.items():
        kinds.setdefault(tuple(sorted(numbers)), []).append(kind)
    groups = [f"{and_text(together)} of {layers_text(numbers)}" for numbers, together in kinds.items()]
    return ", ".join(groups + others)


def layers_text(layers: Iterable[int]) -> str:
    """Layers in ascending order, three and more in a row as a range: `layer 3`, `layers 0–2, 7 and 8`."""
    runs: list[list[int]] = []
    for number in sorted(set(layers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges = [[f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(number) for number in run] for run in runs]
    texts = [text for texts in ranges for text in texts]
    return f"{'layer' if sum(map(len, runs)) == 1 else 'layers'} {and_text(texts)}"


def natural_order(name: str) -> list[tuple[bool, str]]:
    """A sort key in which numbers within names count as numbers: layer 2 before layer 10, L0 4 before L0 32."""
    # Splitting on digits gives alternating parts; zero-filled digits compare as numbers do, and never with a non-digit.
    return [(part.isdigit(), part.zfill(9)) for part in re.split(r"(\d+)", name)]
