"""What rooms register: every name leads somewhere, an idle room changes no run, a new one needs no edit of the core."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from monosemy import cli
from monosemy.config import RunConfig, fingerprint, from_json, identity, room_settings, taking_part, to_json, with_room
from monosemy.rooms import ROOMS, Room, load, rooms

PACKAGE = Path(__file__).resolve().parents[2] / "monosemy"


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.name)
def test_every_name_that_a_room_gives_leads_somewhere(room: Room):
    for command in room.commands:
        assert callable(load(command.function) if isinstance(command.function, str) else command.function)
    for function in filter(None, (room.units, room.report)):
        assert callable(load(function))
    if room.requirements:
        requirements = load(room.requirements)
        assert all(callable(getattr(requirements, name)) for name in ("architectures", "check", "cost"))


def test_names_are_given_once():
    names = [room.name for room in rooms()]
    assert len(set(names)) == len(names) == len(ROOMS)
    command_names = [command.name for room in rooms() for command in room.commands]
    assert len(set(command_names)) == len(command_names)
    assert set(command_names) < set(cli.commands())


def test_a_run_of_the_core_alone_takes_part_in_no_room():
    """Its identity is that of the core's settings, as it was before there were rooms."""
    config = RunConfig()
    assert taking_part(config) == ()
    sections = {room.name for room in rooms() if room.settings}
    computed = {k: v for k, v in to_json(config).items() if k not in sections | {"recipe", "log_to"}}
    later = {
        "model": ("randomise", "device_map", "weights", "backend", "tensor_parallel", "gpu_memory"),
        "training": ("device",),
    }
    later |= {"activations": ("window_tokens", "disk_budget")}
    for section, names in later.items():
        for name in names:
            computed[section].pop(name)
    assert identity(config) == fingerprint(computed)
    assert from_json(RunConfig, {k: v for k, v in to_json(config).items() if k not in sections}) == config


@pytest.mark.parametrize("room", [room for room in rooms() if room.settings], ids=lambda room: room.name)
def test_settings_of_a_room_are_a_section_of_a_run(room: Room):
    settings = load(room.settings)
    default = settings()
    assert dataclasses.is_dataclass(default)
    assert not room.takes_part(default)
    config = RunConfig()
    assert room_settings(config, settings) == default
    assert with_room(config, default) == config
    assert to_json(config)[room.name] == to_json(default)


def test_the_core_names_no_room():
    """Outside the rooms that train pairs and find circuits, only the list of rooms and kernels speak of Jacobians."""
    speakers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search("jacobian|jsae", path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    outside = {path for path in speakers if not path.startswith("circuits/")}
    assert outside == {"rooms.py", "kernels/jacobian.py", "kernels/factors.py", "kernels/cpu/jacobian.py"}


NEW_ROOM = """
from dataclasses import dataclass
from typing import Annotated

from monosemy.errors import UserError
from monosemy.ranges import Range
from monosemy.rooms import Command, Room


@dataclass(frozen=True)
class AtticConfig:
    n_boxes: Annotated[int, Range(0, 9, example=2)] = 0


class AtticRequirements:
    def architectures(self, config):
        return ("topk",)

    def check(self, config):
        if config.attic.n_boxes == 7:
            raise UserError("attic.n_boxes 7 is one too many; choose 6")

    def cost(self, config, model):
        from monosemy.support.estimates import Cost, Remedy

        remedy = Remedy("lower attic.n_boxes", ("attic.n_boxes",))
        return Cost(n_parameters=0, memory={"boxes": config.attic.n_boxes << 40}, remedies={"boxes": remedy})


def tidy(words):
    print("tidied", *words)


REQUIREMENTS = AtticRequirements()
ROOM = Room(
    "attic",
    commands=(Command("tidy", "put things into boxes", "attic:tidy"),),
    settings="attic:AtticConfig",
    takes_part=lambda settings: settings.n_boxes > 0,
    requirements="attic:REQUIREMENTS",
    units="attic:build",
    labels={"box_": "Box "},
)


def build(prepared):
    return ["unit"] * prepared.config.attic.n_boxes
"""
PROGRAM = """
import types
from monosemy import rooms

rooms.ROOMS += ("attic",)

import pathlib
from attic import AtticConfig
from monosemy import cli, commands
from monosemy.config import *
from monosemy.errors import UserError
from monosemy.pipeline.checks import check_config
from monosemy.pipeline.requirements import requirements_of
from monosemy.pipeline.trainees import build_units
from monosemy.recipes import quick
from monosemy.report.theme import label
from monosemy.support.estimates import DoesNotFit, ModelSize, estimate, require_resources, value_that_fits
from monosemy.support.flags import with_settings


def parsed(base, words):
    return with_settings(base, commands._settings(base, words)[1])


idle = quick()
config = parsed(idle, ["--attic.n-boxes", "6"])
assert room_settings(config, AtticConfig).n_boxes == 6
assert from_json(RunConfig, to_json(config)) == config != idle
assert len({identity(c) for c in (idle, config, with_room(config, AtticConfig(5)))}) == 3
check_config(dataclasses.replace(config, architectures=()))
for words, message in (
    ("7", "attic.n_boxes 7 is one too many"),
    ("10", "--attic.n-boxes 10 must be at least 0 and at most 9"),
):
    try:
        check_config(parsed(idle, ["--attic.n-boxes", words]))
    except UserError as error:
        assert message in str(error), error
    else:
        raise AssertionError(words)
prepared = types.SimpleNamespace(config=config)
assert len(build_units(prepared)) == 6
assert build_units(types.SimpleNamespace(config=idle)) == []


def require(config):
    size = ModelSize(1000, 2, 64, 100)
    costs = [needs.cost(config, size) for needs in requirements_of(config)]
    plan = estimate(config, {"layers.1.resid_post": 64}, size, costs=costs)
    require_resources(plan, pathlib.Path("run"), memory_available=(2 << 40) + (64 << 30))


require(idle)
try:
    require(config)
except DoesNotFit as refusal:
    assert "lower attic.n_boxes" in str(refusal)
    assert value_that_fits(config, refusal, require) == "; e.g. --attic.n-boxes 1"
else:
    raise AssertionError
assert label("box_3") == "Box 3"
cli.main(["--help"])
cli.main(["tidy", "up"])
"""


def test_a_new_room_is_a_line_in_the_list_and_its_own_files(tmp_path: Path):
    (tmp_path / "attic.py").write_text(NEW_ROOM)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n  tidy                   put things into boxes\n" in done.stdout
    assert done.stdout.endswith("\ntidied up\n")
