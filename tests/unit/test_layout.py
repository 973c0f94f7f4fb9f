"""Where a run's files lie: one place that spells their names, one module that reads each, and no other that does."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_readers import files_read

import monosemy
from monosemy import layout
from monosemy.circuits.graphs import layout as graphs_layout
from monosemy.circuits.graphs.layout import GraphFiles
from monosemy.circuits.jacobian import layout as jacobian_layout
from monosemy.circuits.jacobian.layout import PairFiles, StudyFiles
from monosemy.layout import CheckpointFiles, EarlierFiles, FeatureFiles, RunFiles, SaeFiles

PACKAGE = Path(monosemy.__file__).parent
OWNERS = {Path(module.__file__) for module in (layout, jacobian_layout, graphs_layout)}
FILES = {
    "run.json", "stages.json", "run.lock", "sources.json", "metrics.jsonl", "wandb.json", "evaluation.json",
    "documents.safetensors", "sae.safetensors", "latents.safetensors", "features.json", "features.sqlite",
    "explanations.jsonl", "explanations.json", "notes.json", ".notes.lock", "report.html", "tensors.safetensors",
    "sae.safetensors.index.json", "state.json", "page.json", "graph.json",
}  # fmt: skip
STUDY_FILES = {
    "frontier.json",
    "random.json",
    "interpretability.json",
    "measures.json",
    "draws.safetensors",
    "pairs.json",
}
FILES |= STUDY_FILES
FOLDERS = {"recipes", "saes", "features", "checkpoints", "figures", "jacobian", ".work", "tensorboard", "earlier-"}
OTHER_FORMATS = {
    Path("monosemy/features/export/circuit_tracer.py"): {"features"},  # the folder that circuit-tracer reads
    Path("monosemy/saes/formats/sparsify.py"): {"sae.safetensors"},
    Path("monosemy/publishing/families.py"): {"sae.safetensors"},  # sparsify's name, in the catalogue
    Path("research/records.py"): {"figures"},  # a study's own folder
}


def modules() -> list[Path]:
    """Every module of the library and of the studies."""
    return sorted(path for package in ("monosemy", "research") for path in (PACKAGE.parent / package).rglob("*.py"))


def constants(tree: ast.AST) -> Iterator[str]:
    """String constants that are a file's name, and those joined to a path by `/`; texts for people are neither."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            for part in ast.walk(node.right):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
        elif isinstance(node, ast.Constant) and node.value in FILES:
            yield node.value


def test_no_other_module_spells_the_name_of_a_run_s_file():
    spelled = {}
    for path in modules():
        if path not in OWNERS:
            names = set(constants(ast.parse(path.read_text(encoding="utf-8")))) & (FILES | FOLDERS)
            if names := names - OTHER_FORMATS.get(path.relative_to(PACKAGE.parent), set()):
                spelled[str(path.relative_to(PACKAGE.parent))] = names
    assert spelled == {}


def test_the_check_knows_every_file_of_the_owners():
    for owner in OWNERS:
        tree = ast.parse(owner.read_text(encoding="utf-8"))
        bodies = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        names = {name for body in bodies for name in constants(body) if name.endswith((".json", ".jsonl", ".sqlite"))}
        assert names - {"config.json"} <= FILES  # config.json is also Hugging Face's name


KINDS = (RunFiles, SaeFiles, FeatureFiles, EarlierFiles, CheckpointFiles, StudyFiles, PairFiles, GraphFiles)
STUDY_READERS = {".json": "circuits/jacobian/study_file.py", ".safetensors": "circuits/jacobian/resamples.py"}


def file_names() -> dict[str, str]:
    """Property of the layout's classes → name of its file, for all files that are read as data."""
    files = {}
    for kind in KINDS:
        for name, member in inspect.getmembers(kind, lambda member: isinstance(member, property)):
            path = member.fget(kind(Path("run/kind/site/folder")))
            if isinstance(path, Path) and path.suffix in (".json", ".jsonl", ".safetensors", ".sqlite"):
                files[name] = path.name
    return files


def listed_owners(listing: str) -> dict[str, list[str]]:
    """File → the modules and rooms that stand beside it in the layout's docstring, the reader first."""
    owners: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if entry := re.fullmatch(r" {4,}(\S.*?) {3,}(.*?)? {2,}(\S+(?:, \S+)?)", line):
            for file in re.findall(r"[\w.]+\.(?:jsonl?|safetensors|sqlite)", f"{entry[1]} {entry[2]}"):
                owners[file] = entry[3].split(", ")
    return owners


def test_only_the_listed_module_reads_a_file_of_a_run():
    files, owners = file_names(), listed_owners(f"{layout.__doc__}{graphs_layout.__doc__}")
    owners |= {name: [STUDY_READERS[Path(name).suffix]] for name in STUDY_FILES}
    assert owners.keys() == set(files.values())
    readers: dict[str, set[str]] = {}
    others = []
    for path in modules():
        module = path.relative_to(PACKAGE.parent).as_posix()
        for name in files_read(path.read_text(encoding="utf-8"), files):
            owner = f"monosemy/{owners[files[name]][0]}"
            readers.setdefault(name, set()).add(module)
            if module != owner and not module.startswith(f"{owner}/"):
                others.append(f"{module} reads {files[name]}, as {owner} does")
    assert others == []
    assert readers.keys() >= {
        "run_json",
        "stages",
        "evaluation",
        "config",
        "info",
        "notes",
        "sources",
        "state",
        "sqlite",
    }


@pytest.mark.parametrize(
    "body",
    [
        "return read_json(RunFiles(folder).evaluation)",
        "path = self.files.evaluation\n    return json.loads(path.read_text())",
        "if (path := run.files.evaluation).exists():\n        return read_json(path)",
        "return [files.read_json(path) for path in [run_files.evaluation]]",
        "return parsed(RunFiles(folder).evaluation)",
        "with open(RunFiles(folder).evaluation) as file:\n        return json.load(file)",
    ],
)
def test_a_second_reader_is_found(body: str):
    module = f"def parsed(file):\n    return json.loads(file.read_text())\n\ndef read(folder):\n    {body}\n"
    assert files_read(module, {"evaluation", "stages"}) == {"evaluation"}


def test_passing_a_path_on_is_no_reading():
    module = "def read(folder):\n    path = RunFiles(folder).evaluation\n    return path.exists() and parsed(folder)\n"
    assert files_read(module, {"evaluation"}) == set()


@pytest.mark.parametrize("kind", [RunFiles, SaeFiles, FeatureFiles, CheckpointFiles])
def test_every_path_lies_in_its_folder_and_no_two_are_the_same(kind, tmp_path: Path):
    folder = tmp_path / "saes" / "site" / "name"
    properties = inspect.getmembers(kind, lambda member: isinstance(member, property))
    paths = [value for name, _ in properties if isinstance(value := getattr(kind(folder), name), Path)]
    assert len(paths) == len(set(paths)) >= 2
    assert all(path.is_relative_to(folder.parent) for path in paths)


def test_an_sae_knows_its_run_and_one_in_a_folder_of_its_own_has_none(tmp_path: Path):
    run = RunFiles(tmp_path / "run")
    sae, features = run.sae("layers.1.resid_post", "topk"), run.features("layers.1.resid_post", "topk")
    assert sae.run is None
    sae.folder.mkdir(parents=True)
    run.run_json.write_text("{}")
    assert sae.run == run == features.run
    assert (sae.site, sae.name) == (features.site, features.name) == ("layers.1.resid_post", "topk")
    assert SaeFiles(tmp_path / "run" / "mine" / "a" / "b").run is None


def test_checkpoints_come_oldest_first_without_unfinished_ones(tmp_path: Path):
    for step in (100, 20, 3):
        checkpoint = CheckpointFiles.at(tmp_path, step)
        checkpoint.folder.mkdir()
        if step != 20:
            checkpoint.state.write_text("{}")
    assert [checkpoint.folder.name for checkpoint in CheckpointFiles.finished(tmp_path)] == [
        "step-00000003",
        "step-00000100",
    ]
