"""The forge runs what a submission must pass: every target of .ci/run has its step and is in the Makefile."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def targets(text: str) -> set[str]:
    """What `make` is asked for, one target a line."""
    return set(re.findall(r"^(?:\s*- run: )?make ([a-z-]+)", text, re.MULTILINE))


def test_the_forge_runs_every_target_that_a_submission_must_pass():
    submission = targets((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert {"check", "test", "test-browser", "notebooks", "docs"} <= submission
    assert submission - targets((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")) == set()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {target for target in submission if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
