"""The tables of README.md and docs/architecture.md, from results/house.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.markdown import markdown

Record = Mapping[str, Any]


def tables(records: Mapping[str, Record]) -> dict[str, str]:
    before, after = records["house"]["before"], records["house"]["after"]
    landings, questions = records["suite"], records["questions"]
    return {
        "whole": whole_table(before, after),
        "rooms": rooms_table(after),
        "rooms_before": rooms_table(before),
        "suite": suite_table(landings),
        "questions": questions_table(questions),
        "permissions": permissions_table(questions),
    }


def whole_table(before: Record, after: Record) -> str:
    sides = (before, after)
    rows = {
        "files": [f"{sum(room['files'] for room in side['rooms'])}" for side in sides],
        "lines": [f"{sum(room['lines'] for room in side['rooms']):,}" for side in sides],
        "import circles": [f"{len(side['circles'])}" for side in sides],
        "longest function, lines": [f"{side['longest_function_lines']}" for side in sides],
        "most parameters of a function": [f"{side['most_parameters_count']}" for side in sides],
        "functions with more than eight parameters": [f"{side['functions_over_8_parameters']}" for side in sides],
        "vague names, share of bound names": [f"{100 * side['vague_share']:.2f}%" for side in sides],
        "the same in TypeScript": [
            f"{100 * sum(side['typescript_vague'].values()) / side['typescript_names']:.2f}%" for side in sides
        ],
        "comment lines per hundred lines of code": [f"{side['comments_per_100_code_lines']:.1f}" for side in sides],
        "`# fmt: skip`": [f"{side['fmt_skips']}" for side in sides],
        "tracked lines of JSON: results": [f"{side['result_json_lines']:,}" for side in sides],
        "tracked lines of JSON: others": [f"{side['other_json_lines']:,}" for side in sides],
        "`monosemy --help`, seconds of CPU": [f"{side['help_cpu_seconds']:.2f}" for side in sides],
    }
    return markdown(["", "before", "now"], [[measure, *cells] for measure, cells in rows.items()])


def rooms_table(house: Record) -> str:
    rows = [
        [
            f"`{room['room']}`",
            f"{room['files']}",
            f"{room['lines']:,}",
            f"{100 * room['comment_lines'] / max(1, room['code_lines']):.1f}",
        ]
        for room in house["rooms"]
    ]
    return markdown(["room", "files", "lines", "comments per hundred lines"], rows)


def suite_table(record: Record) -> str:
    """The whole suite's seconds in successive landings, and the number of tests before and now."""
    seconds = ", ".join(f"{value:,}" for value in record["landing_seconds"])
    rows = [
        ["the whole check of three successive landings, seconds", seconds],
        ["unit tests and studies' tests, before and now", " and ".join(f"{n:,}" for n in record["unit_tests"])],
        ["all tests, before and now", " and ".join(f"{n:,}" for n in record["all_tests"])],
    ]
    return markdown(["", ""], rows)


def questions_table(record: Record) -> str:
    """How many questions of a round were answered right at the first guess, and the wrong guesses with the place."""
    rows = []
    for questions in record["rounds"]:
        wrong = [question for question in questions["questions"] if not question["right"]]
        misses = "; ".join(f"{miss['asked']} (guessed {miss['guess']}; is {miss['place']})" for miss in wrong)
        n_right = len(questions["questions"]) - len(wrong)
        rows.append([questions["by"], f"{n_right} of {len(questions['questions'])}", misses or "none"])
    return markdown(["round", "right", "wrong guesses, and the place"], rows)


def permissions_table(record: Record) -> str:
    """What the documents allow a room to import, as planted imports that `lint-imports` judged the same way."""
    rows = []
    for room in record["rooms"]:
        n_imports = len(room["allowed"]) + len(room["refused"])
        allowed, refused = ", ".join(room["allowed"]), ", ".join(room["refused"])
        rows.append([f"`{room['room']}`", allowed, refused, f"{n_imports} of {n_imports}"])
    return markdown(["room", "may import, for example", "is refused, for example", "judged as answered"], rows)
