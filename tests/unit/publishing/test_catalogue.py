"""`monosemy catalogue`: the hub's reader and a layout take every name in it, and the table fits a terminal."""

from __future__ import annotations

import importlib

import pytest

from monosemy.cli import main
from monosemy.errors import UserError
from monosemy.publishing.catalogue import facts_text, run_catalogue, table_text
from monosemy.publishing.families import FAMILIES, families
from monosemy.saes.formats import LAYOUTS, hub, layout_of


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
class TestNames:
    def test_the_hub_reader_takes_the_name_and_fetches_the_files_of_the_sae(self, family, monkeypatch):
        name = hub.hub_name(family.example_name)
        assert name is not None
        assert name.repository.count("/") == 1
        assert str(name) == family.example_name
        files = {f"{name.path}/{file}" for file in family.files} or {name.path}

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

    def test_its_facts_fit_the_terminal_and_say_what_is_not_known(self, family):
        text = facts_text(family)
        assert max(map(len, text.splitlines())) <= 120
        assert f'load_sae("{family.example_name}")' in text
        facts = dict(line.strip().split("  ", 1) for line in text.splitlines()[1:])
        assert all(value.strip() for value in facts.values())
        assert facts["licence"].strip() == (family.licence or "not known here")
        assert ("open one" in facts) == family.exists


def test_the_table_has_a_line_for_each_family_and_fits_the_terminal(capsys):
    main(["catalogue"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert printed == f"{table_text()}\n"
    assert lines[0].split() == ["family", "models", "repository/path"]
    assert [line.split()[0] for line in lines[1 : len(FAMILIES) + 1]] == [family.name for family in FAMILIES]
    assert [line.split()[-1] for line in lines[1 : len(FAMILIES) + 1]] == [family.pattern for family in FAMILIES]
    assert max(map(len, lines)) <= 120


def test_families_are_named_by_themselves_their_model_or_a_beginning(capsys):
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for name, expected in [
        ("gemma-scope", ["gemma-scope"]),
        ("gemma-2-2b", ["gemma-scope"]),
        ("google/Gemma-2-2B", ["gemma-scope"]),
        ("gemma", ["gemma-scope", "gemma-scope-2"]),
        ("gpt2-small", ["sae-lens"]),
    ]:
        assert [family.name for family in families(name)] == expected
    run_catalogue(["gemma"])
    assert capsys.readouterr().out == "\n\n".join(map(facts_text, families("gemma"))) + "\n"


@pytest.mark.parametrize("name", ["gemma-scpe", "", "google/"])
def test_an_unknown_name_is_one_line(name):
    with pytest.raises(UserError, match="unknown family or model") as error:
        run_catalogue([name])
    assert "\n" not in str(error.value)
    assert ("did you mean 'gemma-scope'" in str(error.value)) == (name == "gemma-scpe")
