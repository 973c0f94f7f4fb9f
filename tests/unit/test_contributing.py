"""The worked example of CONTRIBUTING.md, run as written."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from app_cases import Server, page_run
from command_words import parsed

from monosemy.app import api, schema, typescript
from monosemy.config import TrainingConfig
from monosemy.pipeline import check_config
from monosemy.recipes import demo
from monosemy.report.theme import LIGHT, order, styles
from monosemy.saes import registry
from monosemy.saes.base import SaeConfig
from monosemy.training.trainee import Trainee

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
ARCHITECTURE, TESTS, ROUTE, MODEL, ROUTE_TESTS = BLOCKS
CALL, ADDRESS, VIEW = re.findall(r"^```tsx?\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
WEB = Path(api.__file__).parent / "web"
LINE = re.search(r'^    "(\w+)": Entry\("(monosemy\.saes\.\w+:\w+)", label="(\w+)"\),$', PAGE, flags=re.MULTILINE)
NAME, PLACE, LABEL = LINE.groups()  # type: ignore[union-attr]


def module_of(source: str, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The example's file in its place and its line in the registry, for one test."""
    name = PLACE.split(":")[0]
    monkeypatch.setitem(registry.ARCHITECTURES, NAME, registry.Entry(PLACE, label=LABEL))
    yield module_of(ARCHITECTURE, name)
    del sys.modules[name]
    sys.modules.pop("test_of_the_page", None)


def test_every_test_of_the_page_passes():
    torch.manual_seed(0)
    tests = module_of(TESTS, "test_of_the_page")
    functions = [getattr(tests, name) for name in dir(tests) if name.startswith("test_")]
    assert len(functions) == 3
    for test in functions:
        test()


def test_it_trains():
    """On a planted dictionary its FVU falls, and the L0 is the asked one by construction."""
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
    config = TrainingConfig(batch_tokens=256)
    sae = registry.build_sae(SaeConfig(NAME, d_in=16, d_sae=64, l0=4, options={"n_groups": 4}))
    trainee = Trainee(sae, config, n_steps=200, n_train_tokens=200 * 256)
    history = []
    for index in range(200):
        code = torch.rand(256, 32, generator=generator) * (torch.rand(256, 32, generator=generator) < 0.08)
        x = code @ planted
        x = x / x.square().sum(1).mean().sqrt()
        if index == 0:
            trainee.initialise(x)
        history.append(trainee.step(x, index))
    late = history[-1]
    assert 3 <= late["l0"] <= 4
    assert late["fvu"] < 0.5 * history[0]["fvu"]


def test_its_label_and_a_colour_of_its_own_reach_figures_tables_and_the_api(tmp_path):
    """With the registry's line alone, in the order of every list."""
    looks, ordered = styles([*registry.ARCHITECTURES, "pca"], LIGHT), order(["pca", NAME, "relu"])
    assert looks[NAME].label == LABEL
    assert len({look.colour for look in looks.values()}) == len(looks)
    assert ordered == ["relu", NAME, "pca"]
    run = page_run(tmp_path)
    for path in run.glob("saes/*/relu-*/config.json"):
        path.write_text(path.read_text().replace('"relu"', f'"{NAME}"'))
    with Server(run) as server:
        drawn = server.get("/api/run")["styles"]
    assert list(drawn) == ["topk", NAME]
    assert drawn[NAME]["label"] == LABEL
    assert all(drawn[NAME][part] != drawn["topk"][part] for part in ("light", "dark", "marker", "dashes"))


def add_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the example's model into schema/, from a file, since pydantic reads the docstrings of its fields there."""
    name = "schema_of_the_page"
    (folder / f"{name}.py").write_text(f"from monosemy.app.schema.wire import Wire\n\n\n{MODEL}", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    model = importlib.import_module(name).SilentLatents
    monkeypatch.setattr(schema, "SilentLatents", model, raising=False)


def test_the_page_of_the_browser_works_as_written(tmp_path, monkeypatch):
    """Its routes with their line, its model in schema/, its test, and the type that is made of the model."""
    silent = module_of(ROUTE, "monosemy.app.silent")
    add_model(tmp_path, monkeypatch)
    try:
        monkeypatch.setattr(api, "ROUTES", [*api.ROUTES, silent.add_routes])
        module_of(ROUTE_TESTS, "test_of_the_page").test_the_latents_that_never_fired_are_listed(tmp_path)
        monkeypatch.setattr(typescript, "KINDS", (*typescript.KINDS, schema.SilentLatents))
        assert "export interface SilentLatents {" in typescript.render()
    finally:
        del sys.modules["monosemy.app.silent"]


def with_page(web: Path, view: str) -> None:
    """Puts the example's TypeScript into a copy of the sources, as the page says."""
    edits = {
        "api.ts": (("export const api = {\n", f"{CALL}"), ("import type {\n  Comparison,", " SilentLatents,")),
        "app.tsx": (
            ('import { Top } from "./parts/top";\n', 'import { SilentPage } from "./pages/silent";\n'),
            ("  if (page === undefined) return <OverviewPage />;\n", ADDRESS),
        ),
    }
    for name, insertions in edits.items():
        text = (WEB / "src" / name).read_text(encoding="utf-8")
        for before, line in insertions:
            assert text.count(before) == 1, f"{name} has no single place {before!r}"
            text = text.replace(before, before + line)
        (web / "src" / name).write_text(text, encoding="utf-8")
    (web / "src" / "pages" / "silent.tsx").write_text(view, encoding="utf-8")


@pytest.mark.skipif(
    not (shutil.which("node") and (WEB / "node_modules").is_dir()),
    reason="no Node or no packages (`make web` installs them): the example's TypeScript is not type-checked",
)
def test_the_pages_typescript_is_type_checked(tmp_path, monkeypatch):
    """Against the types made of its model; a view with a field that the model lacks fails, so the check can fail."""
    web = Path(shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules")))
    (web / "node_modules").symlink_to(WEB / "node_modules")
    add_model(tmp_path, monkeypatch)
    monkeypatch.setattr(typescript, "KINDS", (*typescript.KINDS, schema.SilentLatents))
    (web / "src" / "types.ts").write_text(typescript.render(), encoding="utf-8")
    command = ["node", str(WEB / "node_modules/typescript/bin/tsc"), "--noEmit", "--project", str(web)]
    for view, n_errors in ((VIEW, 0), (VIEW.replace("value.latents", "value.lattices"), 1)):
        with_page(web, view)
        checked = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert checked.stdout.count("error TS") == n_errors, checked.stdout + checked.stderr
        assert (checked.returncode == 0) == (n_errors == 0), checked.stderr


def test_files_named_on_the_page_exist():
    """Except those that the example would add."""
    named = set(re.findall(r"`((?:monosemy|tests)/[\w/]+\.py)`", PAGE))
    missing = {path for path in named if not (Path(__file__).parents[2] / path).exists()}
    added = {"monosemy/saes/group_topk.py", "tests/unit/saes/test_group_topk.py"}
    assert missing == added | {"monosemy/app/silent.py", "tests/unit/app/test_silent.py"}


def test_the_examples_pass_the_checks_as_they_are_written(tmp_path):
    """Of style and of dead code, with no line of an allow-list for them (the page says nothing of one)."""
    files = {
        "group_topk.py": ARCHITECTURE,
        "test_group_topk.py": TESTS,
        "silent.py": ROUTE,
        "test_silent.py": ROUTE_TESTS,
    }
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    root = Path(__file__).parents[2]
    tools = (
        ("ruff", "check", "--config", "pyproject.toml", str(tmp_path)),
        ("ruff", "format", "--check", "--config", "pyproject.toml", str(tmp_path)),
        ("vulture", "monosemy", "research", "tests/vulture_allowed.py", *(str(tmp_path / name) for name in files)),
    )
    for tool in tools:
        done = subprocess.run([sys.executable, "-m", *tool], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_accepts_it():
    check_config(parsed(demo(), ["--architectures", "topk", NAME, f"--{NAME}.n-groups", "4"]))
