"""The browser's benchmark fails where a limit is missed, so that nobody has to read its numbers to notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from research.speed import browser as benchmark

FAST = {
    "milliseconds": {name: {"p95": 1.0} for name in ("page", "search", "token", "list", "columns")},
    "pages_per_second": 900.0,
    "cold_start_seconds": 1.0,
}


def run(monkeypatch: pytest.MonkeyPatch, measurement: dict[str, Any], folder: Path) -> None:
    target = folder / "features" / benchmark.SITE / benchmark.NAME
    target.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}")
    measured = {
        name: row | {"p50": row["p95"], "max": row["p95"], "kib": 1.0}
        for name, row in measurement["milliseconds"].items()
    }
    full_measurement = measurement | {"milliseconds": measured, "server_milliseconds_per_page": 1.0}
    monkeypatch.setattr(benchmark, "measure", lambda *_: full_measurement)
    monkeypatch.setattr(
        "sys.argv", ["browser.py", "--folder", str(folder), "--latents", "4", "--out", str(folder / "record.json")]
    )
    benchmark.main()


def test_it_ends_well_when_every_limit_is_kept(monkeypatch, tmp_path: Path):
    run(monkeypatch, FAST, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"milliseconds": FAST["milliseconds"] | {"search": {"p95": 101.0}}}, "search: 101.0 ms"),
        ({"pages_per_second": 499.0}, "499 latent pages a second"),
        ({"cold_start_seconds": 2.5}, "cold start 2.50 s"),
    ],
)
def test_it_ends_with_an_error_that_names_the_missed_limit(
    monkeypatch, tmp_path: Path, change: dict[str, Any], words: str
):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, FAST | change, tmp_path)
    assert words in str(ended.value.code)  # a text makes the status 1
