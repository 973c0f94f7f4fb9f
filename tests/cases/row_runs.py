"""A run on rows of one's own with features: three planted centres, each row with a text and a picture of its centre."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from monosemy import cli

N, WIDTH, KINDS = 240, 6, ("red", "green", "blue")
QUICK = ["--architectures", "topk", "--l0", "1", "--d-sae", "12", "--training.n-passes", "40"]
QUICK += ["--evaluation.n-bootstrap", "20", "--evaluation.no-pca", "--evaluation.no-frozen-random"]
NAME = "topk-l0_1-s0"
"""Its one SAE, at the site `rows`."""

Array = np.ndarray[Any, np.dtype[Any]]


def picture(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


def write_table(folder: Path) -> tuple[Array, Array]:
    """Writes rows.parquet with texts and pictures, and beside it texts in a file; (rows [N, WIDTH], centres [N])."""
    generator = np.random.default_rng(0)
    kind = generator.integers(3, size=N)
    rows = 4 * np.eye(WIDTH)[kind] + 0.3 * generator.normal(size=(N, WIDTH))
    (folder / "pictures").mkdir()
    for name in KINDS:
        (folder / "pictures" / f"{name}.png").write_bytes(picture(name))
    columns = {
        "vector": rows.tolist(),
        "title": [f"the {KINDS[k]}\nthing {i % 7}" for i, k in enumerate(kind)],
        "path": [f"pictures/{KINDS[k]}.png" for k in kind],
        "bytes": [picture(KINDS[k]) for k in kind],
        "outside": ["../secret.png"] * N,
        "lost": ["pictures/lost.png"] * N,
    }
    (folder.parent / "secret.png").write_bytes(picture("black"))
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    (folder / "titles.jsonl").write_text(
        "".join(json.dumps({"title": title}) + "\n" for title in columns["title"]), encoding="utf-8"
    )
    (folder / "short.txt").write_text("only\ntwo\n", encoding="utf-8")
    return rows.astype(np.float32), kind


def row_run(folder: Path) -> Path:
    """Trains on the table of `write_table` in `folder`, and builds features; the run's folder."""
    run = folder / "run"
    words = ["--activations", str(folder / "rows.parquet"), "--column", "vector", "--row-text", "title"]
    cli.main(["train", *words, "--row-image", "path", "--run", str(run), *QUICK])
    cli.main(["features", str(run)])
    return run
