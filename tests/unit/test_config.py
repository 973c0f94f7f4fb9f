"""Configurations: to JSON and back, refusals, fingerprints."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosemy.config import (
    ActivationsConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    TrainingConfig,
    fingerprint,
    from_json,
    positive,
    to_json,
)
from monosemy.errors import UserError

finite = st.floats(allow_nan=False, allow_infinity=False)
option_values = st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5)
run_configs = st.builds(
    RunConfig,
    recipe=st.text(max_size=8),
    model=st.builds(
        ModelConfig, source=st.text(), revision=st.none() | st.text(), dtype=st.sampled_from(["float32", "bfloat16"])
    ),
    text=st.builds(TextConfig, source=st.text(), subset=st.none() | st.text(), context_length=st.integers()),
    activations=st.builds(
        ActivationsConfig,
        sites=st.lists(st.text(), max_size=4).map(tuple),
        drop_special_tokens=st.booleans(),
        outlier_multiple=finite,
    ),
    architectures=st.lists(st.text(), max_size=4).map(tuple),
    l0=st.lists(finite, max_size=4).map(tuple),
    d_sae=st.integers(),
    seeds=st.lists(st.integers(), max_size=4).map(tuple),
    options=st.dictionaries(st.text(max_size=5), option_values | st.lists(option_values, max_size=3), max_size=4),
    training=st.builds(
        TrainingConfig, learning_rate=st.none() | finite, warmup_fraction=finite, batch_tokens=st.integers()
    ),
    evaluation=st.builds(EvaluationConfig, frozen_random=st.booleans(), n_bootstrap=st.integers()),
)


@given(run_configs)
def test_round_trip_through_json_text(config):
    read = from_json(RunConfig, json.loads(json.dumps(to_json(config))))
    assert read == config
    assert fingerprint(read) == fingerprint(config)


@given(run_configs, run_configs)
def test_fingerprint_tells_configurations_apart(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (
        json.dumps(to_json(a), sort_keys=True) == json.dumps(to_json(b), sort_keys=True)
    )


def test_fingerprint_is_the_same_in_another_process():
    program = "from monosemy.config import *; print(fingerprint(RunConfig(options={'b': 1, 'a': 2})))"
    other = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
    assert other == fingerprint(RunConfig(options={"a": 2, "b": 1}))


def test_missing_settings_take_their_defaults():
    assert from_json(RunConfig, {}) == RunConfig()
    assert from_json(RunConfig, {"training": {"batch_tokens": 7}}).training == TrainingConfig(batch_tokens=7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_sea": 1}, r"unknown setting 'd_sea'; did you mean 'd_sae'"),
        (
            {"training": {"batch_token": 1}},
            r"unknown setting 'training\.batch_token'; did you mean 'training\.batch_tokens'",
        ),
        ({"d_sae": "2304"}, r"d_sae must be of type int, got '2304'"),
        ({"d_sae": True}, r"d_sae must be of type int, got True"),
        ({"d_sae": 2304.0}, r"d_sae must be of type int, got 2304\.0"),
        ({"d_sae": None}, r"d_sae must be of type int, got None"),
        ({"l0": 32}, r"l0 must be a list, got 32"),
        ({"l0": [16, "x"]}, r"l0 must be of type float, got 'x'"),
        ({"architectures": "topk"}, r"architectures must be a list, got 'topk'"),
        ({"model": "gpt2"}, r"model must be an object of named values, got 'gpt2'"),
        ({"model": {"dtype": "float8"}}, r"unknown value for model\.dtype 'float8'.*float32, bfloat16, float16"),
        ({"activations": {"storage": "disc"}}, r"unknown value for activations\.storage 'disc'; did you mean 'disk'"),
        ({"activations": {"drop_special_tokens": 1}}, r"activations\.drop_special_tokens must be of type bool, got 1"),
        ({"training": {"learning_rate": "fast"}}, r"training\.learning_rate must be of type float, got 'fast'"),
        ({"options": [1]}, r"options must be an object, got \[1\]"),
        ([], r"RunConfig must be an object of named values, got \[\]"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(UserError, match=message) as caught:
        from_json(RunConfig, values)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_taken_for_real_ones():
    config = from_json(RunConfig, {"l0": [16, 32], "training": {"learning_rate": 1}})
    assert config.l0 == (16.0, 32.0)
    assert isinstance(config.l0[0], float)
    assert isinstance(config.training.learning_rate, float)


def test_configurations_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().d_sae = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "kind", [RunConfig, ModelConfig, TextConfig, ActivationsConfig, TrainingConfig, EvaluationConfig]
)
def test_every_default_has_the_declared_type(kind):
    """What the declared types promise, the defaults keep (a list where a tuple is declared would not compare equal)."""
    assert from_json(kind, to_json(kind())) == kind()
    assert set(typing.get_type_hints(kind)) == {f.name for f in dataclasses.fields(kind)}


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_positive(value):
    positive(batch_tokens=1, d_sae=0.5)
    with pytest.raises(UserError, match="batch_tokens must be above 0"):
        positive(d_sae=1, batch_tokens=value)
