"""`monosemy catalogue`: the hub's reader and a layout take every name in it, patterns fit, and searches find them."""

from __future__ import annotations

import importlib
import re

import pytest

from monosemy.cli import main
from monosemy.errors import UserError
from monosemy.publishing.catalogue import facts_text, opening, run_catalogue, table_text
from monosemy.publishing.families import SOURCES, all_families, families
from monosemy.saes.formats import LAYOUTS, hub, layout_of

FAMILIES = all_families()
OPENED = [family for family in FAMILIES if opening(family)[0][0] == "measure it"]


def names(word: str) -> list[str]:
    return [family.name for family in families(word)]


@pytest.mark.parametrize("family", OPENED, ids=lambda family: family.name)
class TestNames:
    def test_the_hub_reader_takes_the_name_and_fetches_the_files_of_the_sae(self, family, monkeypatch):
        name = hub.hub_name(family.example_name)
        assert name is not None
        assert name.repository.count("/") == 1
        assert str(name) == family.example_name
        files = {f"{name.path}/{file}" for file in family.files} or {name.path}
        if name.path.startswith("W_enc_"):
            files.add(name.path.replace("W_enc_", "W_dec_"))

        def listed(repository, path, commit, *, recursive=True):
            return {file for file in files | {"README.md", "other/file.json"} if not path or file.startswith(path)}

        monkeypatch.setattr(hub, "_listed", listed)
        needed, place = hub._needed_files(name, "0" * 40)
        assert (set(needed), place) == (files, name.path)

    def test_its_layout_recognises_the_files(self, family, tmp_path):
        place = tmp_path / family.example_name
        for file in [place / name for name in family.files] or [place]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        assert layout_of(place) == (importlib.import_module(LAYOUTS[family.layout]), place)

    def test_the_command_and_the_call_are_given_in_a_line_each(self, family):
        lines = [line.split("  ")[-1].strip() for line in facts_text(family).splitlines()]
        words = lines[-2].split()
        assert words[:3] == ["monosemy", "evaluate", family.example_name]
        assert words[-2:] == ["--text", "my-texts.jsonl"]
        assert words[3:-2] == family.options.split()
        assert lines[-1] == f'load_sae("{family.example_name}")'


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
class TestFacts:
    def test_the_patterns_are_filled_by_the_example_and_by_nothing_else(self, family):
        assert set(re.findall(r"\{(\w+)\}", f"{family.repository}/{family.path}")) == set(family.example)
        assert "{" not in family.example_name
        assert not set(family.sources) - set(SOURCES)
        assert family.sources

    def test_the_id_on_neuronpedia_fits_its_pattern(self, family):
        pattern = re.sub(r"\\\{.*?\\\}", ".*?", re.escape(family.neuronpedia.partition(";")[0]))
        example = family.neuronpedia_example or family.neuronpedia
        assert re.fullmatch(pattern, example)
        assert "{" not in example

    def test_they_fit_the_terminal_and_say_what_is_not_known(self, family):
        *lines, first, second = facts_text(family).splitlines()
        assert max(len(line) for line in lines if not line.startswith("  path ")) <= 120
        assert ("licence             not known here" in "\n".join(lines)) == (not family.licence)
        assert family.example_name in second
        assert (family in OPENED) == ("monosemy evaluate" in first)

    def test_its_name_and_its_models_find_it(self, family):
        assert family in families(family.name)
        for model in family.models:
            assert family in families(model)
            assert family in families(model.rpartition("/")[2].lower())


def test_only_what_cannot_be_fetched_or_read_has_no_command():
    left = {family.name: family for family in FAMILIES if family not in OPENED}
    assert set(left) == {"gpt2-small-hook-z", "llama-scope-r1"}


def test_the_table_has_a_line_for_each_family_and_fits_the_terminal(capsys):
    main(["catalogue"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert printed == f"{table_text(FAMILIES)}\n"
    rows = [tuple(line.split()) for line in lines if line.startswith("  ")]
    assert sorted(rows) == sorted((family.name, family.repository) for family in FAMILIES)
    assert max(map(len, lines)) <= 120


def test_families_are_found_however_a_model_is_written():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for same in (
        ("gemma-2-2b", "google/Gemma-2-2B", "gemma2-2b"),
        ("gpt2", "gpt2-small", "openai-community/gpt2", "GPT2"),
        ("pythia-70m", "EleutherAI/pythia-70m-deduped"),
        ("llama-3.1-8b-it", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("qwen3-8b", "Qwen/Qwen3-8B-Base"),
    ):
        assert len({tuple(names(word)) for word in same}) == 1
    assert names("gemma-2-2b")[0] == "gemma-scope-2b"
    assert {"pythia-70m-sparsify", "pythia-70m-saebench"} <= set(names("pythia-70m"))
    assert names("gpt2-small-res-jb") == ["gpt2-small-res-jb"]
    assert names("goodfire") == ["goodfire-llama-3.1-8b", "goodfire-llama-3.3-70b"]
    assert all("sparsify" in family.layout for family in families("sparsify"))


def test_few_families_are_printed_whole_and_many_as_a_table(capsys):
    run_catalogue(["pythia-70m"])
    assert capsys.readouterr().out == "\n\n".join(map(facts_text, families("pythia-70m"))) + "\n"
    run_catalogue(["gemma"])
    assert capsys.readouterr().out == table_text(families("gemma")) + "\n"


@pytest.mark.parametrize("name", ["gemma-scpe", "", "google/"])
def test_an_unknown_name_is_one_line(name):
    with pytest.raises(UserError, match="unknown family or model") as error:
        run_catalogue([name])
    assert "\n" not in str(error.value)
    assert ("did you mean 'gemma-scope-" in str(error.value)) == (name == "gemma-scpe")
