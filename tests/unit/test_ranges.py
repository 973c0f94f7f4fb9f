"""Every number that can be set has a range: just inside is taken, just outside refused by its flag, before any work."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_words import parsed

from monosemy import commands
from monosemy.config import RunConfig
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_config
from monosemy.ranges import Range, check_ranges, number_name, numeric_fields
from monosemy.recipes import RECIPES, quick
from monosemy.saes.registry import ARCHITECTURES, architecture
from monosemy.support.flags import flag_of

KINDS = {"": RunConfig, **{f"{name}.": architecture(name).Options for name in ARCHITECTURES}}
NUMBERS = [(prefix, *entry) for prefix, kind in KINDS.items() for entry in numeric_fields(kind)]


def changed(settings, name: str, value):
    """A copy with one (dotted) field changed; a list becomes a list of that value alone."""
    first, _, rest = name.partition(".")
    inner = getattr(settings, first)
    if rest:
        return dataclasses.replace(settings, **{first: changed(inner, rest, value)})
    return dataclasses.replace(settings, **{first: (value,) if isinstance(inner, tuple) else value})


def default(kind):
    return quick() if kind is RunConfig else kind()


def is_whole(kind, name: str) -> bool:
    settings = default(kind)
    for part in name.split("."):
        settings = getattr(settings, part)
    value = settings[0] if isinstance(settings, tuple) and settings else settings
    return isinstance(value, int) or name in ("jacobian.layer",)


def outside(allowed: Range, whole: bool) -> Iterator[float]:
    """Values just outside, and those that no setting takes."""
    yield allowed.low if allowed.above_low and not allowed.or_zero else allowed.low - (1 if whole else 1e-9)
    yield -1 if allowed.low >= 0 else allowed.low - 1
    if allowed.high < math.inf:
        yield allowed.high if allowed.below_high else allowed.high + 1
    if not whole:
        yield from (math.nan, math.inf, -math.inf)


def inside(allowed: Range, whole: bool) -> Iterator[float]:
    """Values just inside."""
    step = 1 if whole else 1e-9
    yield allowed.low + step if allowed.above_low else allowed.low
    if allowed.high < math.inf:
        yield math.nextafter(allowed.high, 0) if allowed.below_high else allowed.high
    if allowed.or_zero:
        yield 0
    yield allowed.example


def test_every_numeric_setting_declares_a_range():
    assert len(NUMBERS) > 60
    assert [prefix + name for prefix, name, allowed in NUMBERS if allowed is None] == []
    names = {name for prefix, name, _ in NUMBERS if not prefix}
    assert {"d_sae", "l0", "seeds", "training.learning_rate", "jacobian.lambdas", "jacobian.layer"} <= names


@pytest.mark.parametrize(("prefix", "name", "allowed"), NUMBERS, ids=[prefix + name for prefix, name, _ in NUMBERS])
def test_just_outside_is_refused_and_just_inside_taken(prefix, name, allowed):
    kind = KINDS[prefix]
    whole = is_whole(kind, name)
    for value in inside(allowed, whole):
        check_ranges(changed(default(kind), name, value), flag_of)
    for value in outside(allowed, whole):
        with pytest.raises(UserError) as refused:
            check_ranges(changed(default(kind), name, value), lambda setting: flag_of(prefix + setting))
        message = str(refused.value)
        assert message.startswith(f"{flag_of(prefix + name)} {number_name(value)} must be ")
        assert message.endswith(f"; e.g. {number_name(allowed.example)}")


def test_recipes_and_all_defaults_are_within_their_ranges():
    for make in RECIPES.values():
        check_config(make())
    for prefix, kind in KINDS.items():
        check_ranges(kind(), lambda setting, prefix=prefix: prefix + setting)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--training.learning-rate -1", "--training.learning-rate -1 must be above 0 and at most 1; e.g. 0.002"),
        ("--training.learning-rate 0", "--training.learning-rate 0 must be above 0"),
        ("--training.learning-rate nan", "--training.learning-rate nan must be above 0"),
        ("--training.warmup-fraction 2", "--training.warmup-fraction 2 must be at least 0 and at most 1"),
        ("--training.warmup-fraction 0.9 --training.decay-fraction 0.2", "must add up to at most 1"),
        ("--training.dead-fraction -1", "--training.dead-fraction -1 must"),
        ("--activations.outlier-multiple 0.5", "must be above 1, or 0, which keeps all; e.g. 6"),
        ("--jumprelu.bandwidth-relative -0.1", "--jumprelu.bandwidth-relative -0.1 must be at least 0"),
        ("--jumprelu.bandwidth Infinity", "--jumprelu.bandwidth inf must be above 0"),
        ("--relu.sparsity-coef -1", "--relu.sparsity-coef -1 must"),  # an architecture that is not even trained
        ("--training.learning-rate -1e-3", "--training.learning-rate -0.001 must be above 0"),
        ("--l0 -inf", "--l0 -inf must be above 0"),
        ("--tokens 0", "--tokens 0 must be at least 1 and at most 1000000000000000; e.g. 300000"),
        ("--l0 nan", "--l0 nan must be above 0"),
        ("--seeds -1", "--seeds -1 must be at least 0"),
        ("--d-sae 99999999999999999999", "--d-sae 99999999999999999999 must be at least 1 and at most 1000000000000"),
    ],
)
def test_the_command_names_the_flag_and_a_value_that_works(words, message):
    with pytest.raises(UserError) as refused:
        check_config(parsed(quick(), words.split()))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_huge_width_is_checked_without_its_memory():
    """In a process of its own, whose address space could not hold one array of that width."""
    program = (
        "import resource, dataclasses\n"
        "from monosemy.recipes import demo\n"
        "from monosemy.pipeline.checks import check_config\n"
        "import monosemy.saes.jumprelu, monosemy.saes.gated\n"
        "resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))\n"
        "check_config(dataclasses.replace(demo(), d_sae=99_999_999_999))\n"
        "print('checked')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "checked\n", done.stderr


def test_old_settings_out_of_range_are_still_read(tmp_path):
    """Evaluation and report of a run that was made before its settings had ranges."""
    from monosemy.run import load_config

    (tmp_path / "old.json").write_text(json.dumps({"training": {"learning_rate": -1.0}, "d_sae": 0}))
    assert load_config(tmp_path / "old.json").training.learning_rate == -1


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.0, "4"), (4.0000001, "4.0000001"), (0.3, "0.3"), (1234567.0, "1234567.0"), (32, "32"), (1e-7, "1e-07")],
)
def test_two_numbers_never_share_a_name(value, text):
    assert number_name(value) == text
    assert float(text) == value


def test_no_command_takes_a_number_without_a_range():
    """Numeric flags are made by `whole`, `real` and `amount`, never by Python's own int and float."""
    package = Path(commands.__file__).parent
    bare = re.compile(r"type=(int|float)\b(?!.*=np)")
    lines = [line for path in package.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if bare.search(line) and "dtype" not in line] == []
