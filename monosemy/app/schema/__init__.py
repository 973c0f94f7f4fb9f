"""Pydantic models of every request body and every answer of the HTTP API, a file for each page.

Place on the path: [schema] → api (checks bodies with it) and web/src/types.ts (made from it by `typescript.py`, with
the docstrings of models and fields as comments).

Bodies are checked strictly: a string is never converted to a number. Answers are not built from these models but as
plain dicts that orjson writes, since a page holds thousands of numbers; a test compares them with the models. Missing
numbers are null in JSON and NaN in binary columns. The steering request is defined in steering/request.py alone.
"""

from __future__ import annotations

from monosemy.app.schema.compare import ComparedPair, Comparison
from monosemy.app.schema.latents import Example, FeatureInfo, Highlights, LatentList, LatentPage, SteerExamples
from monosemy.app.schema.notes import NoteChange, Notes
from monosemy.app.schema.run import ModelStatus, RunInfo, SaeEntry
from monosemy.app.schema.steering import (
    Operation,
    RecipeName,
    Recipes,
    SaeBody,
    SteerColumn,
    SteerEvent,
    SweepEvent,
    SweepValues,
)
from monosemy.app.schema.texts import (
    DifferenceBody,
    EvidenceBody,
    FiringLatent,
    FiringSummary,
    LabelSearch,
    MeaningBody,
    MeaningSearch,
    SearchHit,
    TextBody,
    TextDifference,
    TextResult,
    TokenSearch,
)
from monosemy.app.schema.wire import B, Body, Interval, Open, Wire, parse_body

__all__ = [
    "B",
    "Body",
    "ComparedPair",
    "Comparison",
    "DifferenceBody",
    "EvidenceBody",
    "Example",
    "FeatureInfo",
    "FiringLatent",
    "FiringSummary",
    "Highlights",
    "Interval",
    "LabelSearch",
    "LatentList",
    "LatentPage",
    "MeaningBody",
    "MeaningSearch",
    "ModelStatus",
    "NoteChange",
    "Notes",
    "Open",
    "Operation",
    "RecipeName",
    "Recipes",
    "RunInfo",
    "SaeBody",
    "SaeEntry",
    "SearchHit",
    "SteerColumn",
    "SteerEvent",
    "SteerExamples",
    "SweepEvent",
    "SweepValues",
    "TextBody",
    "TextDifference",
    "TextResult",
    "TokenSearch",
    "Wire",
    "parse_body",
]
