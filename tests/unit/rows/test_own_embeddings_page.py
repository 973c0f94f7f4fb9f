"""The page "Your own embeddings", followed as a newcomer follows it: its Python from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "own-embeddings.md"


def test_the_page_s_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["codes"].shape == (1797, 128)
    assert 7.5 < names["codes"].nnz / 1797 <= 8
    assert names["evaluation"]["fvu"] < 0.5
    assert names["classifier"].score(names["X"], names["labels"]) > 0.9
    assert (tmp_path / "runs/digits/report.html").is_file()
    assert len(names["run"].evaluation) == 1
