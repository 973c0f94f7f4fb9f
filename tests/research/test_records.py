"""Records are compact JSON that says what was measured, and tables are found by name."""

from __future__ import annotations

import json

import pytest

from monosemy.errors import UserError
from research import records, tables


def test_a_record_comes_back_rounded_and_without_what_no_table_needs(tmp_path):
    rows = [{"name": f"row {i}", "fvu": i / 3, "each": [i / 7] * 40, "texts": ["long"] * 9} for i in range(30)]
    path = tmp_path / "results" / "record.json"
    records.write_record(
        path, {"n": 3, "rows": rows, "rules": {"a": {"tasks": 1, "summary": 2}}}, ("*/texts", "rules/*/tasks")
    )
    written = json.loads(path.read_text())
    assert written["rules"] == {"a": {"summary": 2}}
    assert written["rows"][1] == {"name": "row 1", "fvu": 0.3333333, "each": [0.1428571] * 40}
    lines = path.read_text().splitlines()
    assert sum('"name": "row ' in line for line in lines) == len(rows), "one row a line"
    assert max(map(len, lines)) <= records.WIDTH + 1  # and a comma


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_record(tmp_path / "record.json", {"fvu": float("nan")})


def test_a_table_that_no_study_has_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="no table speed/nothing; there are: step, "):
        tables.filled("<!-- table: speed/nothing -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"no table nowhere/step; there are: .*frontier, "):
        tables.filled("<!-- table: nowhere/step -->\n<!-- end -->\n")
