"""Exports, read back the way their readers read them."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from feature_runs import M, T, open_tiny, write_feature_run

from monosemy.errors import UserError
from monosemy.features.commands import run_export_circuit_tracer, run_export_neuronpedia, run_export_parquet
from monosemy.features.export.circuit_tracer import cantor, export_circuit_tracer
from monosemy.features.export.neuronpedia import export_neuronpedia
from monosemy.features.export.parquet import export_parquet
from monosemy.features.store.database import FeatureDatabase


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> FeatureDatabase:
    return open_tiny(tmp_path_factory.mktemp("run") / "run")


def lines(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- Neuronpedia

# Columns of its tables, with those that an insert must name (no default in the database); from schema.prisma.
NEURON = """
modelId layer index sourceSetName creatorId createdAt maxActApprox hasVector vector vectorLabel
vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values
neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1
correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str pos_values
frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights
logits_hist_data_bar_values decoder_weights_dist
"""
ACTIVATION_NEEDS = "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId"
ACTIVATION = ACTIVATION_NEEDS + " dataIndex dataSource createdAt binMin binMax binContains qualifyingTokenIndex"
EXPLANATION_NEEDS = "id modelId layer index description authorId"
EXPLANATION = EXPLANATION_NEEDS + " notes typeName explanationModelName createdAt"
HEADS = {
    "release": {"name", "description", "creatorName", "creatorId"},
    "model": {"id", "creatorId", "layers", "neuronsPerLayer", "owner"},
    "sourceset": {"modelId", "name", "description", "creatorName", "creatorId"},
    "source": {"id", "modelId", "setName", "creatorId"},
}


@pytest.fixture(scope="module")
def bulk(database: FeatureDatabase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_neuronpedia(database, tmp_path_factory.mktemp("np") / "out")


def test_bulk_files_are_where_the_importer_looks(bulk: Path) -> None:
    assert bulk.parts[-2:] == ("tiny-model-v1-5", "2-res-topk-l0-4-s0")
    for name, needed in HEADS.items():
        (row,) = lines(bulk / f"{name}.jsonl")
        assert needed <= row.keys()
    assert lines(bulk / "source.jsonl")[0]["id"] == bulk.name
    assert "8 bits" in lines(bulk / "source.jsonl")[0]["notes"]
    assert lines(bulk / "model.jsonl")[0]["layers"] == 5  # the model's, not one more than the SAE's
    assert lines(bulk / "sourceset.jsonl")[0]["releaseName"] == lines(bulk / "release.jsonl")[0]["name"]
    assert {path.name for path in bulk.iterdir() if path.is_dir()} == {"features", "activations", "explanations"}


@pytest.mark.parametrize(
    ("kind", "columns", "needed"),
    [
        ("features", NEURON, "modelId layer index"),
        ("activations", ACTIVATION, ACTIVATION_NEEDS),
        ("explanations", EXPLANATION, EXPLANATION_NEEDS),
    ],
)
def test_every_line_has_the_columns_of_the_first_and_the_table_has_them(
    bulk: Path, kind: str, columns: str, needed: str
) -> None:
    rows = lines(bulk / kind / "batch-0.jsonl.gz")
    assert set(needed.split()) <= rows[0].keys() <= set(columns.split())
    for row in rows:
        assert row.keys() == rows[0].keys()
        assert all(row[name] is not None for name in needed.split())
        assert isinstance(row["index"], str)  # text in its database
        for name, value in row.items():
            assert isinstance(value, type(rows[0][name])) or None in (value, rows[0][name]), name


def test_features_say_what_the_database_says(bulk: Path, database: FeatureDatabase) -> None:
    rows = lines(bulk / "features" / "batch-0.jsonl.gz")
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    first = rows[0]
    assert first["vector"] == database.decoder_vector(0).tolist()
    assert first["hookName"] == "blocks.2.hook_resid_post"
    assert first["pos_str"] == [" July", "\n"]
    assert first["topkCosSimIndices"] == [1, 2]
    assert first["freq_hist_data_bar_heights"] == [1, 0, 1]
    assert first["freq_hist_data_bar_values"] == [3, 5, 7]
    assert first["frac_nonzero"] == pytest.approx(2 / 48, rel=1e-4)
    shares = np.array(first["neuron_alignment_l1"])
    assert shares[0] == pytest.approx(5 / 14, rel=1e-4)
    assert first["neuron_alignment_values"][0] == -5
    dead = rows[3]
    assert dead["maxActApprox"] == 0
    assert dead["freq_hist_data_bar_heights"] == []


def test_activations_are_firing_contexts_with_whole_characters(bulk: Path) -> None:
    rows = lines(bulk / "activations" / "batch-0.jsonl.gz")
    assert [row["index"] for row in rows] == ["0", "0", "0", "1", "1", "2"]  # no near misses, no random contexts
    for row in rows:
        assert len(row["tokens"]) == len(row["values"]) == T - 1  # “—” took two tokens
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
    assert rows[3]["tokens"][rows[3]["maxValueTokenIndex"]] == "—"
    assert (rows[0]["binMin"], rows[0]["binMax"], rows[0]["binContains"]) == (-1, 99, -1)  # the site's “top” section
    weakest = rows[2]
    assert (weakest["binMin"], weakest["binMax"], weakest["binContains"]) == (2, 2, 0.2)
    assert weakest["tokens"][weakest["qualifyingTokenIndex"]] == " July"
    assert rows[0]["dataSource"] == "english · a newspaper"
    assert len({row["id"] for row in rows}) == len(rows)


def test_only_labelled_latents_have_explanations(bulk: Path) -> None:
    rows = lines(bulk / "explanations" / "batch-0.jsonl.gz")
    assert rows[0]["description"] == "“July” after “in”"
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert "0.93 (0.90–0.95)" in rows[0]["notes"]
    assert "no language model" in rows[0]["notes"]


def test_an_export_made_twice_is_the_same_to_the_byte(database: FeatureDatabase, bulk: Path, tmp_path: Path) -> None:
    again = export_neuronpedia(database, tmp_path / "again")
    assert contents(again) == contents(bulk)


def test_upload_bodies_take_what_the_call_takes(
    database: FeatureDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monosemy.features.export.neuronpedia.UPLOAD_BATCH", 3)
    out = export_neuronpedia(database, tmp_path / "up", layout="upload", context=4)
    bodies = [json.loads((out / f"batch-{i}.json").read_text()) for i in range(2)]
    assert [len(body["features"]) for body in bodies] == [3, 1]
    assert bodies[0].keys() == {"modelId", "source", "features"}
    feature = bodies[0]["features"][0]
    assert feature["index"] == 0
    assert 0 <= feature["density"] <= 1
    assert feature["topLogits"][0] == {"token": " July", "value": 0.5}
    assert feature["explanations"] == [{"text": "“July” after “in”", "methodName": None, "modelName": None}]
    assert len(feature["activations"][0]["tokens"]) == len(feature["activations"][0]["values"]) == 4
    fractions = [activation["quantileFraction"] for activation in feature["activations"]]
    assert fractions == [None, 0.2, 0.2]


def test_names_that_the_site_would_refuse_are_refused(database: FeatureDatabase, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--model-id 'a b'"):
        export_neuronpedia(database, tmp_path / "x", model="a b")
    with pytest.raises(UserError, match="--layout 'zip'"):
        export_neuronpedia(database, tmp_path / "x", layout="zip")
    assert not (tmp_path / "x").exists()


# ---- circuit-tracer

FEATURE = {
    "transcoder_id": str,
    "index": int,
    "examples_quantiles": list,
    "top_logits": list,
    "bottom_logits": list,
    "act_min": float,
    "act_max": float,
    "quantile_values": list,
    "histogram": list,
    "activation_frequency": float,
}
"""Fields of circuit-tracer's frontend/feature_models.py, all required."""


def unpaired(number: int) -> tuple[int, int]:
    """The inverse of Cantor's pairing, by the textbook."""
    total = int(((8 * number + 1) ** 0.5 - 1) // 2)
    second = number - total * (total + 1) // 2
    return total - second, second


def read_packed(folder: Path, number: int) -> dict[str, Any]:
    """A feature as the frontend fetches it: an index, a range of bytes (one too many), a length, compressed JSON."""
    layer, latent = unpaired(number)
    index = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))[str(layer)]
    start, stop = index["offsets"][latent : latent + 2]
    data = (folder / index["filename"]).read_bytes()[start : stop + 1]
    (length,) = struct.unpack("<I", data[:4])
    return json.loads(gzip.decompress(data[4 : 4 + length]))


def test_packed_features_are_found_by_the_frontends_node_id(database: FeatureDatabase, tmp_path: Path) -> None:
    out = export_circuit_tracer(database, tmp_path / "ct")
    for latent in range(M):
        feature = read_packed(out / "features", cantor(2, latent))
        assert feature["index"] == latent
        for name, kind in FEATURE.items():
            assert isinstance(feature[name], kind), name
    index = json.loads(gzip.decompress((out / "features" / "index.json.gz").read_bytes()))
    assert index["2"]["offsets"][-1] == (out / "features" / "layer_2.bin").stat().st_size


def test_named_features_are_one_file_each_under_their_node_id(database: FeatureDatabase, tmp_path: Path) -> None:
    out = export_circuit_tracer(database, tmp_path / "ct", [1, 0], context=6)
    assert {path.name for path in out.iterdir()} == {f"{cantor(2, i)}.json" for i in (0, 1)}
    feature = json.loads((out / f"{cantor(2, 0)}.json").read_text())
    names = [quantile["quantile_name"] for quantile in feature["examples_quantiles"]]
    assert names[0] == "Top activations"
    assert len(names) == 3
    for quantile in feature["examples_quantiles"]:
        for example in quantile["examples"]:
            assert example.keys() == {"tokens", "tokens_acts_list", "train_token_ind", "is_repeated_datapoint"}
            assert len(example["tokens"]) == len(example["tokens_acts_list"]) <= 6
            assert example["tokens"][example["train_token_ind"]] == " July"
            assert not any(sign in token for token in example["tokens"] for sign in "\n\t")
    repeated = [q["examples"][0]["is_repeated_datapoint"] for q in feature["examples_quantiles"]]
    assert repeated == [False, True, False]  # q4 shows the strongest context again
    assert feature["top_logits"] == [" July", "⏎"]


# ---- Parquet


def test_parquet_tables_hold_the_database(database: FeatureDatabase, tmp_path: Path) -> None:
    out = export_parquet(database, tmp_path / "pq")
    latents, examples = pq.read_table(out / "latents.parquet"), pq.read_table(out / "examples.parquet")
    rows = latents.to_pylist()
    assert [row["latent"] for row in rows] == list(range(M))
    for name, column in database.columns.items():
        exported = np.array(latents[name].to_numpy(zero_copy_only=False), np.float32)
        np.testing.assert_array_equal(exported, column)
    assert latents["label_auroc"].null_count == 3  # not measured is null, not a number
    assert rows[0]["hints"] == ["months"]
    assert rows[0]["raised"][0]["token"] == " July"
    assert rows[3]["quantile_values"] == []
    assert examples.num_rows == database.info["n_examples"]
    first, example = examples.to_pylist()[0], database.examples(0)[0]
    contexts = {row["context"]: row for row in pq.read_table(out / "contexts.parquet").to_pylist()}
    assert contexts[first["context"]]["token_ids"] == example.token_ids.tolist()
    assert contexts[first["context"]]["text"].startswith("<|end|> the market in July— the\n market")
    words = pq.read_table(out / "vocabulary.parquet").to_pylist()
    assert words[example.token_ids[first["peak"]]] == {"token_id": 2, "text": " July", "special": False}
    rebuilt = np.zeros(T, np.float32)
    rebuilt[first["fired_positions"]] = first["fired_values"]
    np.testing.assert_array_equal(rebuilt, example.activations)
    assert json.loads(latents.schema.metadata[b"monosemy"])["sae_sha256"] == "cd34"


# ---- folders


@pytest.mark.parametrize("command", [run_export_neuronpedia, run_export_circuit_tracer, run_export_parquet])
def test_an_export_makes_a_folder_and_touches_no_other(command: Any, tmp_path: Path) -> None:
    run = str(write_feature_run(tmp_path / "run"))
    command([run, "1-2", "--out", str(tmp_path / "made" / "here")])
    assert any((tmp_path / "made" / "here").iterdir())
    own_folder = tmp_path / "mine"
    own_folder.mkdir()
    (own_folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        command([run, "--out", str(own_folder)])
    with pytest.raises(UserError, match="is a file"):
        command([run, "--out", str(own_folder / "thesis.txt")])
    assert contents(own_folder) == {"thesis.txt": b"years of work"}
    with pytest.raises(UserError, match="0 to 3"):
        command([run, "7", "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
