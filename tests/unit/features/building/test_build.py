"""`monosemy features` on a tiny run: killed at any moment, read back, compared with the dense code, refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import byte_tokenizer, random_module

from monosemy.activations.harvest import harvest_rows
from monosemy.config import ActivationsConfig, ModelConfig, RunConfig, TextConfig
from monosemy.errors import UserError
from monosemy.features.labels.embeddings import embed, window_texts
from monosemy.features.store.database import FeatureDatabase, list_features, open_features
from monosemy.features.store.write import writing
from monosemy.layout import RunFiles
from monosemy.pipeline.features import build_features, choose_saes
from monosemy.pipeline.prepare import Prepared, prepare
from monosemy.run import open_run
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import load_sae, save_sae

SITES = ("layers.1.resid_post", "layers.2.mlp_in")
WORDS = ["a", "the", "cat", "mat", "was", "not", "late", "when", "rain", "came", "down", "stone", "walls", "sea", "—"]
WIDTH, N_TOKENS = 48, 20_000


def make_run(folder: Path, storage: str) -> Path:
    """An untrained run: model, text, and SAEs with the thresholds they begin training with."""
    random_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    with open(folder / "text.jsonl", "w", encoding="utf-8") as file:
        for _ in range(400):
            file.write(json.dumps({"text": " ".join(words.choices(WORDS, k=60))}) + "\n")
    config = RunConfig(
        model=ModelConfig(source=str(folder / "model"), device="cpu"),
        text=TextConfig(source=str(folder / "text.jsonl"), context_length=64, n_tokens=24_000, n_validation_tokens=512),
        activations=ActivationsConfig(sites=SITES, dtype="float32", storage=storage, buffer_tokens=4096),
        d_sae=WIDTH,
    )
    with open_run(folder / "run", config) as run:
        prepared = prepare(run)
        for site, rows in prepared.held_in(1024, seed=1).items():
            for name, l0 in (("jumprelu", 2.0), ("jumprelu", 4.0), ("jumprelu", 8.0), ("topk", 4.0)):
                sae = build_sae(SaeConfig(name, 32, WIDTH, l0, site=site, model="tiny", seed=1))
                sae.initialise(rows, l0)
                sae.shift_margins(-1e-3)  # off the very pre-activation that the threshold was read from
                sae.fold_scale(prepared.scale[site])
                save_sae(sae, run.files.sae(site, f"{name}-l0_{l0:g}-s0").folder)
    return folder / "run"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("MONOSEMY_CACHE", str(cache))
    monkeypatch.setenv("MONOSEMY_QUIET", "1")


def build_run(folder: Path, cache: Path, storage: str) -> Path:
    """The run with features of JumpReLU (the default) and TopK."""
    before = dict(os.environ)
    os.environ |= {"MONOSEMY_CACHE": str(cache), "MONOSEMY_QUIET": "1"}
    try:
        run = make_run(folder, storage)
        build_features(run, [f"{SITES[0]}/jumprelu-l0_4-s0", f"{SITES[0]}/topk-l0_4-s0"], N_TOKENS)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return run


@pytest.fixture(scope="module")
def built(tmp_path_factory, cache) -> Path:
    return build_run(tmp_path_factory.mktemp("disk"), cache, "disk")


@pytest.fixture(scope="module")
def streamed(tmp_path_factory, cache) -> Path:
    """The same from the model itself, its activations never kept."""
    return build_run(tmp_path_factory.mktemp("stream"), cache, "stream")


def prepared_for(folder: Path) -> Prepared:
    from monosemy.run import read_run

    with open_run(folder, read_run(folder)[0]) as run:
        return prepare(run)


def dense_code(folder: Path, name: str) -> np.ndarray:
    """[N, m] of a fresh pass of the model."""
    prepared, n_sequences = prepared_for(folder), -(-N_TOKENS // 64)
    sae, dense = load_sae(folder / "saes" / SITES[0] / name), np.zeros((n_sequences * 64, WIDTH), np.float32)
    train, settings = prepared.tokens.train, prepared.config.activations
    for part in harvest_rows(
        prepared.model, train, prepared.sites, settings, statistics=prepared.rules, start=0, stop=n_sequences
    ):
        code = sae.encode(part.activations[SITES[0]]).to_dense()
        dense[part.sequence.numpy() * 64 + part.position.numpy()] = code.numpy()
    return dense


@pytest.mark.parametrize(
    ("run", "name"), [("built", "jumprelu-l0_4-s0"), ("built", "topk-l0_4-s0"), ("streamed", "topk-l0_4-s0")]
)
def test_what_is_read_back_is_what_the_model_and_the_sae_say(request, run, name):
    folder: Path = request.getfixturevalue(run)
    database, dense = open_features(folder, SITES[0], name), dense_code(folder, name)
    columns = database.columns
    np.testing.assert_array_equal(columns["n_fired"], (dense > 0).sum(0))
    np.testing.assert_allclose(columns["max"], dense.max(0), rtol=1e-6)
    fired = np.flatnonzero(dense.any(0))
    assert len(fired) > WIDTH // 2
    for latent in fired.tolist():
        positive = dense[:, latent][dense[:, latent] > 0]
        np.testing.assert_allclose(columns["mean"][latent], positive.mean(), rtol=1e-5)
        levels, values = database.quantiles(latent)
        np.testing.assert_allclose(values, np.quantile(positive, levels), rtol=1e-4)
        edges, counts = database.histogram(latent)
        assert counts.sum() == database.positions(latent).sum() == len(positive)
        np.testing.assert_allclose([edges[0], edges[-1]], [positive.min(), positive.max()], rtol=1e-6)
        assert len(edges) == len(counts) + 1
        contexts = dense[:, latent].reshape(-1, 64)
        top = database.examples(latent, ["top"])
        np.testing.assert_allclose([e.value for e in top], np.sort(contexts.max(1))[::-1][: len(top)], rtol=0.03)
        assert top[0].value == pytest.approx(positive.max(), rel=1e-6)
        for example in database.examples(latent):
            np.testing.assert_allclose(example.activations, contexts[example.context], rtol=0.03)
            assert example.activations[example.peak] == example.value
            np.testing.assert_array_equal(example.token_ids, database.context(example.context))
            if example.group in ("near_miss", "random"):
                start = example.peak // 32 * 32
                assert not contexts[example.context, start : start + 32].any()


def test_tokens_documents_and_positions_left_out_are_those_of_the_text(built):
    database, prepared = open_features(built, SITES[0], "topk-l0_4-s0"), prepared_for(built)
    train, document_records = prepared.tokens.train, list(prepared.tokens.documents())
    numbers = train.documents(0, database.info["n_contexts"])
    for context in (0, 7, database.info["n_contexts"] - 1):
        np.testing.assert_array_equal(database.context(context), train.sequences(context, context + 1)[0])
        assert not database.encoded(context)[0]
        assert database.encoded(context)[1:].mean() > 0.9
        for position in (0, 40):
            entry = document_records[numbers[context, position]]
            assert database.document(context * 64 + position) == (entry["source"], entry["origin"])
    assert sum(database.encoded(i).sum() for i in range(database.info["n_contexts"])) == database.info["n_encoded"]
    text = b"".join(database.tokens.bytes(i) for i in database.context(0)).decode(errors="replace")
    assert "the" in text.split()


def test_labels_and_the_token_index_can_be_searched(built):
    database = open_features(built, SITES[0], "topk-l0_4-s0")
    texts = database.labels(np.arange(WIDTH))
    assert all(database.label(i)["text"] == text for i, text in enumerate(texts))
    latent = int(np.argmax(database.columns["n_fired"]))
    assert texts[latent]
    dash = next(i for i in range(256) if database.tokens.bytes(i) == b"\xe2")
    scores = [score for _, score in database.latents_of_token(dash)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1.001 for score in scores)
    assert set(database.tokens_matching("z")) == set(byte_tokenizer()("zZ")["input_ids"])
    for text in ('"', "OR AND (", "*", "%", 'a*b "c', "“", "'; DROP TABLE texts; --"):
        database.search_labels(text)  # none is an error


def test_explanations_are_kept_found_and_carried_over_by_a_new_build(built, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(built, run)
    database = open_features(run, SITES[0], "topk-l0_4-s0")
    label = database.label(3)["text"]
    better, worse = ({"scores": {"detection_random": {"auroc": value}}} for value in (1.5, 0.0))
    database.write_explanations({3: ("gates of old castles", better), 5: ("the sea", worse)})
    database.write_explanations({3: ("gates of iron", better)})
    (database.folder / "chat").mkdir()
    (database.folder / "chat" / "prompts.jsonl").write_text('{"prompt": "?"}\n')
    assert database.search_labels("castles") == []
    assert [(i, text) for i, text, _ in database.search_labels("iro gat")] == [(3, "gates of iron")]
    assert (3, "gates of iron") in [(i, text) for i, text, _ in database.search_labels(label, limit=WIDTH)]
    database.write_explanations({3: ("gates — of iron", better)})
    assert (3, "gates — of iron") in [(i, text) for i, text, _ in database.search_labels("—", limit=WIDTH)]
    database.write_explanations({3: ("gates of iron", better)})
    assert database.labels([5, 3]) == [database.label(5)["text"], "gates of iron"]
    assert [database.label(i)["explanation_leads"] for i in (5, 3)] == [False, True]
    build_features(run, [f"{SITES[0]}/topk-l0_4-s0"], 10_000)
    again = open_features(run, SITES[0], "topk-l0_4-s0")
    assert again.info["n_tokens"] != database.info["n_tokens"]
    assert again.label(3)["explanation"] == {"text": "gates of iron", **better}
    assert [i for i, *_ in again.search_labels("iro gat")] == [3]
    assert (again.folder / "chat" / "prompts.jsonl").read_text() == '{"prompt": "?"}\n'
    with pytest.raises(UserError, match=f"latent {WIDTH} is out of range; this SAE has latents 0 to {WIDTH - 1}"):
        again.write_explanations({WIDTH: ("x", {})})


def test_decoder_rows_and_neighbours_are_the_saes_own(built):
    database = open_features(built, SITES[0], "topk-l0_4-s0")
    W = load_sae(built / "saes" / SITES[0] / "topk-l0_4-s0").W_dec.numpy()
    np.testing.assert_array_equal(database.decoder_vector(7), W[7])
    np.testing.assert_array_equal(database.decoder_vectors(slice(0, WIDTH)), W)
    for latent, cosine in database.neighbours(7)["decoder"]:
        assert cosine == pytest.approx(float(W[7] @ W[latent]), abs=1e-3)


def test_a_database_of_the_same_inputs_is_left_as_it_is(built):
    name = f"{SITES[0]}/topk-l0_4-s0"
    (folder,) = build_features(built, [name], N_TOKENS)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert build_features(built, [name], N_TOKENS) == [folder]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not (built / "features" / ".work").exists()


def test_a_build_is_refused_while_explanations_are_written(built):
    folder = RunFiles(built).features(SITES[0], "topk-l0_4-s0").folder
    with writing(folder), pytest.raises(UserError, match="built or explained by process"):
        build_features(built, [f"{SITES[0]}/topk-l0_4-s0"], 5_000)


class WordVectors:
    """Counts of four words: an embedding model of the text alone."""

    name = "word-vectors"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[text.count(word) for word in ("cat", "sea", "rain", "—")] for text in texts])


class OneVector(WordVectors):
    def encode(self, texts: list[str]) -> np.ndarray:
        return np.zeros(4)


def test_a_named_embedding_model_is_scored_beside_the_others(built, tmp_path):
    run, name = tmp_path / "run", f"{SITES[0]}/topk-l0_4-s0"
    shutil.copytree(built, run)
    assert open_features(run, SITES[0], "topk-l0_4-s0").info["embedding_model"] is None
    build_features(run, [name], N_TOKENS, embedding_model=WordVectors())
    database = open_features(run, SITES[0], "topk-l0_4-s0")
    assert database.info["embedding_model"] == "word-vectors"
    low, area, high = (database.columns[f"embedding_auroc{end}"] for end in ("_low", "", "_high"))
    scored = np.isfinite(area)
    assert (scored == np.isfinite(database.columns["label_auroc"])).all()
    assert ((low < area) & (area <= high))[scored].all()
    assert not np.allclose(area[scored], database.columns["hidden_auroc"][scored])
    assert "embedding_auroc" in database.info["column_help"]
    texts = window_texts(
        database.context(0)[None],
        32,
        [database.tokens.bytes(i) for i in range(len(database.tokens))],
        np.array([database.tokens.is_special(i) for i in range(len(database.tokens))]),
    )
    assert all(any(word in text for word in WORDS) for text in texts)


def test_an_embedding_model_that_is_not_there_is_said_before_the_work(built, monkeypatch, tmp_path):
    name = f"{SITES[0]}/topk-l0_4-s0"
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        build_features(built, [name], 5_000, embedding_model=str(tmp_path))
    with pytest.raises(UserError, match="one row of finite numbers"):
        embed(OneVector(), ["a", "b"])


def test_labels_made_by_other_code_are_made_again(built, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(built, run)
    before = open_features(run, SITES[0], "topk-l0_4-s0").info["fingerprint"]
    monkeypatch.setattr("monosemy.features.labels.labelling.LABELS_VERSION", -1)
    build_features(run, [f"{SITES[0]}/topk-l0_4-s0"], N_TOKENS)
    assert open_features(run, SITES[0], "topk-l0_4-s0").info["fingerprint"] != before


def test_a_site_off_the_residual_stream_has_no_output_tokens_and_says_why(built, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(built, run)
    build_features(run, [f"{SITES[1]}/topk-l0_4-s0"], 5_000)
    database = open_features(run, SITES[1])
    assert database.output_tokens(0) == ([], [])
    assert "mlp_in" in database.info["no_output_tokens"]
    assert np.isnan(database.columns["top_logit"]).all()


def test_an_sae_that_never_fires_gives_an_empty_database(built, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(built, run)
    folder = run / "saes" / SITES[0] / "jumprelu-l0_4-s0"
    sae = load_sae(folder)
    sae.threshold.fill_(1e6)
    before = open_features(run, SITES[0], "jumprelu-l0_4-s0")
    save_sae(sae, folder)
    before.write_explanations({1: ("the sea", {"score": 0.5})})
    (before.folder / "explanations.jsonl").write_text("{}\n")
    build_features(run, [f"{SITES[0]}/jumprelu-l0_4-s0"], 5_000)
    database = open_features(run, SITES[0], "jumprelu-l0_4-s0")
    assert not database.columns["n_fired"].any()
    assert database.examples(0, ["top"]) == []
    assert {e.group for e in database.examples(0)} <= {"random"}
    assert database.neighbours(0)["coactivation"] == []
    assert np.isnan(database.quantiles(0)[1]).all()
    assert database.histogram(0)[1].sum() == 0
    assert database.label(0)["text"] == ""
    # what was said of the SAE that stood here before is kept, apart
    assert database.label(1)["explanation"] is None
    earlier = database.folder / f"earlier-{before.info['sae_sha256'][:8]}"
    explanations = json.loads((earlier / "explanations.json").read_text())
    assert explanations == [{"latent": 1, "text": "the sea", "record": {"score": 0.5}}]
    assert (earlier / "explanations.jsonl").read_text() == "{}\n"


def contents(folder: Path) -> dict[str, bytes | dict]:
    """Everything of a database but the hour it was made."""
    files: dict[str, bytes | dict] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "features.json":
            files[str(path.relative_to(folder))] = path.read_bytes()
    files["info"] = json.loads((folder / "features.json").read_text()) | {"created": ""}
    return files


def start(run: Path, names: list[str], cache: Path) -> subprocess.Popen[str]:
    single_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **single_thread, "MONOSEMY_CACHE": str(cache), "MONOSEMY_QUIET": "1"}
    program = (
        "import sys; from pathlib import Path; from monosemy.features.building import encode_pass;"
        "encode_pass.SHARD_SEQUENCES = 16; from monosemy.pipeline.features import build_features;"
        f"build_features(Path(sys.argv[1]), sys.argv[2:], {N_TOKENS})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(run), *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(tmp_path, cache):
    names = [f"{SITES[0]}/jumprelu-l0_4-s0", f"{SITES[0]}/topk-l0_4-s0"]
    whole = make_run(tmp_path / "whole", "disk")
    process = start(whole, names, cache)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error

    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "features")
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    work, built = killed / "features" / ".work", killed / "features" / SITES[0]
    progress = work / "progress.json"

    def shards_done(n: int) -> bool:
        try:
            return json.loads(progress.read_text())["done"] >= n
        except (OSError, ValueError):
            return False

    for moment in (
        lambda: shards_done(16),
        lambda: shards_done(128),
        lambda: (built / "jumprelu-l0_4-s0" / "features.json").exists(),
    ):
        process = start(killed, names, cache)
        while process.poll() is None and not moment():
            time.sleep(0.002)
        delay = moments.uniform(0, 0.05)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        _, error = process.communicate()
        print(f"seed {seed}: killed {delay:.3f} s after the moment")
        assert process.returncode == -signal.SIGKILL, error  # it had not finished by itself
    process = start(killed, names, cache)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    for name in ("jumprelu-l0_4-s0", "topk-l0_4-s0"):
        expected, resumed = contents(whole / "features" / SITES[0] / name), contents(built / name)
        assert expected.keys() == resumed.keys()
        for file in expected:
            assert expected[file] == resumed[file], file
    assert not work.exists()
    assert list_features(killed) == [(SITES[0], "jumprelu-l0_4-s0"), (SITES[0], "topk-l0_4-s0")]


def test_codes_do_not_depend_on_how_many_firings_are_held_at_once(built, tmp_path, monkeypatch):
    from monosemy.features.building import build as building

    name, run = f"{SITES[0]}/topk-l0_4-s0", tmp_path / "run"
    shutil.copytree(built, run)
    before = contents(open_features(run, SITES[0], "topk-l0_4-s0").folder)
    shutil.rmtree(run / "features")
    small = building.blocks
    monkeypatch.setattr(building, "blocks", lambda codes: small(codes, 5_000))
    build_features(run, [name], N_TOKENS)
    after = contents(open_features(run, SITES[0], "topk-l0_4-s0").folder)
    for file in before:
        assert before[file] == after[file], file


# --- refusals -----------------------------------------------------------------------------------------------------


def test_the_default_is_jumprelu_at_the_middle_l0_of_the_first_site(built):
    assert choose_saes(built, None) == [(SITES[0], "jumprelu-l0_4-s0")]


def test_names_are_checked(built):
    with pytest.raises(UserError, match=r"unknown SAE 'layers.1.resid_post/topk-l0_5-s0'; did you mean .*topk-l0_4-s0"):
        build_features(built, [f"{SITES[0]}/topk-l0_5-s0"])
    with pytest.raises(UserError, match=r"at several sites: layers\.1\.resid_post and layers\.2\.mlp_in; write"):
        build_features(built, ["topk-l0_4-s0"])
    with pytest.raises(UserError, match="n_tokens must be at least 1, got 0"):
        build_features(built, None, 0)


def test_a_folder_that_is_no_run_or_has_no_saes_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        build_features(tmp_path)
    with open_run(tmp_path / "new", RunConfig()):
        pass
    with pytest.raises(UserError, match="has no trained SAE; train it: monosemy train"):
        build_features(tmp_path / "new")


def test_missing_features_name_the_command_that_builds_them(built, tmp_path):
    with pytest.raises(UserError, match=r"build them: monosemy features .* --saes layers.2.mlp_in/topk-l0_4-s0"):
        open_features(built, SITES[1], "topk-l0_4-s0")
    with pytest.raises(UserError, match="unknown SAE 'x/y'"):
        open_features(built, "x", "y")
    with pytest.raises(UserError, match="is not a run folder"):
        open_features(tmp_path)
    with pytest.raises(UserError, match="holds no feature database"):
        FeatureDatabase.open(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "newer", "no sqlite"])
def test_a_damaged_database_is_named(built, tmp_path, damage):
    folder = tmp_path / "database"
    shutil.copytree(open_features(built, SITES[0], "topk-l0_4-s0").folder, folder)
    if damage == "missing":
        (folder / "columns.npy").unlink()
    elif damage == "truncated":
        (folder / "example_token.npy").write_bytes((folder / "example_token.npy").read_bytes()[:200])
    elif damage == "newer":
        info = json.loads((folder / "features.json").read_text())
        (folder / "features.json").write_text(json.dumps(info | {"format": 99}))
    else:
        (folder / "features.sqlite").unlink()
    with pytest.raises(UserError, match="build it again: monosemy features RUN"):
        FeatureDatabase.open(folder)


def test_out_of_range_questions_are_refused(built):
    database = open_features(built, SITES[0], "topk-l0_4-s0")
    for question in (database.examples, database.histogram, database.label, database.neighbours, database.positions):
        for latent in (-1, WIDTH):
            with pytest.raises(
                UserError, match=rf"latent {latent} is out of range; this SAE has latents 0 to {WIDTH - 1}"
            ):
                question(latent)
    with pytest.raises(UserError, match="unknown example group 'tops'; did you mean 'top'"):
        database.examples(0, ["tops"])
    with pytest.raises(UserError, match="token id 257 is out of range"):
        database.latents_of_token(257)
    with pytest.raises(UserError, match="context 999 is out of range"):
        database.context(999)
    n = database.info["n_examples"]
    assert database.example(n - 1).group == database.examples(WIDTH - 1)[-1].group
    with pytest.raises(UserError, match=f"example {n} is out of range"):
        database.example(n)


def test_reading_needs_neither_torch_nor_numba(built):
    program = (
        "import sys; from pathlib import Path; from monosemy.features.store.database import open_features;"
        f"open_features(Path({str(built)!r})).examples(0);"
        "print([name for name in ('torch', 'numba', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_full_disk_is_foreseen(built, monkeypatch, tmp_path):
    from monosemy.support import files

    run = tmp_path / "run"
    shutil.copytree(built, run)
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match=r"the features need 0\.\d+ GB .* and 0\.00 GB are free"):
        build_features(run, [f"{SITES[1]}/topk-l0_4-s0"], 5_000)


def test_what_exports_say_of_the_model_is_recorded(built):
    info = open_features(built, SITES[0], "topk-l0_4-s0").info
    model = prepared_for(built).model
    assert info["model"]["n_layers"] == model.n_layers
    assert info["model"]["post_norms"] is False
    assert info["example_activations"].startswith("8 bits")


def test_settings_that_are_kept_say_what_was_kept(built):
    info = open_features(built, SITES[0], "topk-l0_4-s0").info
    assert info["settings"]["n_top"] == 16
    assert info["settings"]["n_near_miss"] == info["settings"]["n_random"] == 12
    database = open_features(built, SITES[0], "topk-l0_4-s0")
    counts = np.load(database.folder / "histogram.npy"), np.load(database.folder / "positions.npy")
    assert [array.dtype for array in counts] == [np.uint16, np.uint16]  # the smallest that holds the largest count
    assert set(info["columns"]) == set(info["column_help"])
    assert set(info["label_columns"]) < set(info["columns"])
    assert info["n_tokens"] == -(-N_TOKENS // 64) * 64
    assert info["median_norm"] > 0
