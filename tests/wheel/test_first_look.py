"""A wheel in an environment that has nothing: pip brings what it asks for, and `monosemy try` takes the first look.

`make test-wheel` runs this. TORCH_INSTALL is what `make` takes it for: options of pip for another build of torch.
Versions are those of requirements/lock.txt, so that the test means the same tomorrow.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from wheels import ROOT, bare_environment, build_wheel, fetch, pages, pip, script_of

from monosemy.saes.listing import saved_saes

SMALL = ["--tokens", "150k", "--sites", "layers.2.resid_post", "--d-sae", "576"]
"""The least text that a first look is taken of, read early in the model: the same stages, in less time."""
SITE, NAME = "layers.2.resid_post", "jumprelu-l0_32-s0"
OPTIONAL = "monosemy.kernels.cuda"
"""Needs Triton, which builds of torch for GPUs bring."""
IMPORT_ALL = f"""
import importlib, pkgutil, monosemy
names = [module.name for module in pkgutil.walk_packages(monosemy.__path__, "monosemy.")]
for name in names:
    if not name.startswith("{OPTIONAL}") and not name.endswith("__main__"):
        importlib.import_module(name)
print(monosemy.__file__, len(names))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The folder of programs of an environment into which the wheel was installed, with all that it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    subprocess.run([sys.executable, "-m", "venv", folder / "empty"], check=True)
    python = folder / "empty" / "bin" / "python"
    lock = ("--constraint", ROOT / "requirements" / "lock.txt")
    pip(python, "install", *lock, *shlex.split(os.environ.get("TORCH_INSTALL", "")), "torch")
    pip(python, "install", *lock, wheel)
    return python.parent


@pytest.fixture(scope="module")
def run(environment: Path) -> Path:
    """A first look, taken by the installed command in a folder without the source."""
    done = installed(environment, "monosemy", "try", "--no-open", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "look at the latents: monosemy browse runs/demo"
    return environment.parent / "runs" / "demo"


def installed(environment: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment / program, *words], cwd=environment.parent, env=bare_environment(), capture_output=True, text=True
    )


def test_it_asks_for_all_that_its_modules_import(environment: Path):
    assert installed(environment, "python", "-m", "pip", "check").returncode == 0
    done = installed(environment, "python", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    where, n_modules = done.stdout.split()
    assert Path(where).is_relative_to(environment.parent)
    assert int(n_modules) > 300


def test_the_first_look_is_an_sae_with_features(environment: Path, run: Path):
    folder = run / "saes" / SITE / NAME
    assert (folder / "sae.safetensors").stat().st_size > 2 * 4 * 576 * 576
    assert [(sae.label, sae.first_look) for sae in saved_saes(run)] == [(f"{SITE}/{NAME}", True)]
    summary = installed(environment, "monosemy", "info", str(run))
    assert summary.returncode == 0, summary.stderr
    assert NAME in summary.stdout


def test_its_pages_show_the_latents(environment: Path, run: Path):
    with pages([environment / "monosemy"], run, cwd=environment.parent, env=bare_environment()) as address:
        assert len(script_of(address)) > 50_000
        (sae,) = json.loads(fetch(f"{address}api/run"))["saes"]
        assert (sae["site"], sae["name"], sae["has_features"]) == (SITE, NAME, True)
        features = f"{address}api/f/{SITE}/{NAME}"
        answer = json.loads(fetch(f"{features}/latents?sort=label_auroc&order=desc&limit=5"))
        assert answer["total"] == 576
        page = json.loads(fetch(f"{features}/latent/{answer['rows'][0]['latent']}"))
        assert page["label"]["text"]
        assert page["examples"]
