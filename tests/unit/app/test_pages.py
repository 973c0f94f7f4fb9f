"""The latent page, lists, searches, notes and comparison, over HTTP, on a hand-made database of four latents."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from app_cases import OTHER, Server, page_run
from feature_runs import CONTEXTS, MARKUP, NAME, SITE, M, T
from safetensors.numpy import save_file

from monosemy.app.catalogue import Catalogue
from monosemy.app.compare import KEPT_COMPARISONS, Comparison, Comparisons, best_matches, unit_rows
from monosemy.app.pages import highlight_cards, latent_page
from monosemy.features.store.database import open_features
from monosemy.saes.decoder_rows import read_decoder_rows

BASE = f"/api/f/{SITE}/{NAME}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with Server(run) as started:
        yield started


def test_the_overview_lists_the_saes_and_what_they_have(server: Server):
    overview = server.get("/api/run")
    assert [(sae["name"], sae["has_features"], sae["d_sae"]) for sae in overview["saes"]] == [
        (OTHER, True, M),
        (NAME, True, M),
    ]
    assert overview["model"]["state"] == "absent"
    assert overview["evaluation"] == []
    assert "monosemy features" in overview["build_command"]
    assert server.get(f"{BASE}/info")["context_length"] == T


def test_a_page_holds_the_contexts_as_the_database_has_them(run: Path, server: Server):
    database = Catalogue(run).sae(SITE, NAME).database
    assert database is not None
    for latent in range(M):
        page, examples = server.get(f"{BASE}/latent/{latent}?window=0"), database.examples(latent)
        assert [(e["group"], e["context"], e["peak"]) for e in page["examples"]] == [
            (e.group, e.context, e.peak) for e in examples
        ]
        for sent, stored in zip(page["examples"], examples, strict=True):
            dense = np.zeros(T, np.float32)
            for position, value in sent["activations"]:
                dense[position] = value
            assert np.array_equal(dense, stored.activations)
            assert len(sent["tokens"]) == T
            assert "".join(sent["tokens"]) == "".join(
                piece.text for piece in database.tokens.pieces(CONTEXTS[sent["context"]])
            )


def test_a_cut_character_stands_on_its_first_token_and_special_tokens_are_named(server: Server):
    first = server.get(f"{BASE}/latent/1?window=0")["examples"][0]
    assert first["tokens"][4:6] == ["—", ""]
    assert first["special"] == [0]


def test_a_window_cuts_contexts_around_the_peak(server: Server):
    whole, cut = (server.get(f"{BASE}/latent/0?window={window}")["examples"][0] for window in (0, 3))
    start = cut["start"]
    assert cut["tokens"] == whole["tokens"][start : start + 7]
    assert (cut["start"] + cut["peak"], cut["length"]) == (whole["peak"], T)
    assert cut["activations"] == [[p - start, v] for p, v in whole["activations"] if start <= p < start + 7]


def test_a_page_tells_which_maximum_steering_takes(tmp_path: Path):
    run = page_run(tmp_path / "run")
    statistics = {"firing_count": [3, 0, 1, 0], "max": [2.5, 0, 9, 0], "sum": [3.0, 0, 9, 0]}
    save_file(
        {name: np.array(values, np.float32) for name, values in statistics.items()},
        run / "saes" / SITE / NAME / "latents.safetensors",
    )
    with Server(run) as server:
        pages = [server.get(f"{BASE}/latent/{latent}") for latent in range(M)]
        other = server.get(f"/api/f/{SITE}/{OTHER}/latent/0")
    assert [page["steering_max"] for page in pages] == [
        {"value": 2.5, "text": "validation"},  # not the 8 of the features' text
        {"value": 4, "text": "features"},  # silent on the validation text
        {"value": 9, "text": "validation"},
        None,
    ]
    assert [page["stats"]["max"] for page in pages[:3]] == [8, 4, 5]
    assert other["steering_max"] == {"value": 8, "text": "features"}  # not evaluated


def test_a_page_says_why_there_are_no_output_tokens(tmp_path: Path):
    run = page_run(tmp_path / "run")
    path = run / "features" / SITE / NAME / "features.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"no_output_tokens": "no direct path"}))
    with Server(run) as server:
        assert server.get(f"{BASE}/latent/0")["no_output_tokens"] == "no direct path"
        assert server.get(f"/api/f/{SITE}/{OTHER}/latent/0")["no_output_tokens"] is None


def test_a_latent_that_never_fired_has_a_page_with_nulls(server: Server):
    page = server.get(f"{BASE}/latent/3")
    assert page["examples"] == []
    assert page["label"]["text"] == ""
    assert page["stats"]["mean"] is None
    assert page["quantiles"]["values"][0] is None


def test_missing_latents_and_saes_say_what_there_is(server: Server):
    for word in ("4", "-1", "99999999999999999999", "two", "1.5", "%D9%A3"):  # the last is an Arabic three
        status, error = server.refusal("GET", f"{BASE}/latent/{word}")
        assert status == 404, word
        assert "0 to 3" in error
    status, error = server.refusal("GET", f"/api/f/{SITE}/topk-l0_5-s0/latent/0")
    assert status == 404
    assert NAME in error


def test_lists_sort_filter_and_page_with_missing_values_last(server: Server):
    def latents(query: str) -> list[int]:
        return [row["latent"] for row in server.get(f"{BASE}/latents?{query}")["rows"]]

    assert latents("") == [0, 1, 2, 3]
    assert latents("sort=mean&order=asc") == [1, 2, 0, 3]
    assert latents("sort=mean&order=desc") == [0, 2, 1, 3]
    assert latents("sort=clear&order=desc")[::3] == [0, 3]  # the only scored label first, the silent one last
    assert latents("max_n_fired=0") == [3]  # dead
    assert latents("min_mean=2.9&sort=mean") == [2, 0]
    assert latents("min_mean=-1e9") == [0, 1, 2]  # a missing value passes no bound
    assert latents("sort=mean&order=desc&offset=1&limit=2") == [2, 1]
    assert latents("q=jul") == [0]
    assert latents("q=jul&max_n_fired=1") == []
    assert server.get(f"{BASE}/latents?limit=1")["total"] == 4


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sort=firing_rte", "did you mean 'firing_rate'"),
        ("order=up", "asc, desc"),
        ("min_men=1", "did you mean 'mean'"),
        ("max_mean=much", "must be a number"),
        ("min_mean=nan", "must be a number"),
        ("limit=501", "from 0 to 500"),
        ("offset=-1", "whole number"),
        ("colour=red", "unknown option"),
        ("q=" + "x" * 201, "1 to 200 characters"),
    ],
)
def test_a_bad_list_query_names_value_rule_and_choices(server: Server, query: str, words: str):
    status, error = server.refusal("GET", f"{BASE}/latents?{query}")
    assert status == 400
    assert words in error
    assert "\n" not in error


def test_columns_are_raw_floats_in_the_order_asked(server: Server):
    status, _, content = server.ask("GET", f"{BASE}/columns?names=max,n_fired")
    assert status == 200
    values = np.frombuffer(content, "<f4").reshape(2, M)
    assert values[1].tolist() == [2, 3, 2, 0]
    assert values[0][:3].tolist() == [8, 4, 5]
    assert "did you mean 'max'" in server.refusal("GET", f"{BASE}/columns?names=maxi")[1]


def test_search_finds_labels_by_word_beginnings_and_takes_operators_as_text(server: Server):
    def latents(words: str) -> list[int]:
        return [hit["latent"] for hit in server.get(f"{BASE}/search?q={words}")["hits"]]

    assert latents("jul%20aft") == [0]
    assert latents("july%20OR%20alert") == []
    assert latents("%22july") == [0]
    assert latents("NEAR(") == []
    assert server.refusal("GET", f"{BASE}/search?q=")[0] == 400


def test_highlights_are_made_once_for_the_same_features_and_labels(tmp_path: Path):
    sae = Catalogue(page_run(tmp_path / "run")).sae(SITE, NAME)
    first = highlight_cards(sae)
    assert highlight_cards(sae) is first
    label = next(row["label"] for row in first["latents"] if row["latent"] == 0)
    sae.database.write_explanations({0: ("Names of summer months.", {"scores": SCORED})})
    again = {row["latent"]: row["label"] for row in highlight_cards(sae)["latents"]}
    assert again[0] == "Names of summer months." != label


SCORED = {"detection_random": {"auroc": 0.97}}


def test_search_and_lists_show_the_same_text_whichever_was_matched(tmp_path: Path):
    run = page_run(tmp_path / "run")
    open_features(run, SITE, NAME).write_explanations({0: ("Names of summer months.", {"scores": SCORED})})
    with Server(run) as server:
        row_label = server.get(f"{BASE}/latents?limit=1")["rows"][0]["label"]
        assert row_label == "Names of summer months."
        for word in ("summer", "july"):  # of the explanation, of the label under it
            hits = server.get(f"{BASE}/search?q={word}")["hits"]
            assert [(hit["latent"], hit["label"]) for hit in hits] == [(0, row_label)]
        label = server.get(f"{BASE}/latent/0")["label"]
    assert label["text"] == "“July” after “in”"
    assert label["explanation"] == {"text": row_label, "model": "", "n_passages": None, "scores": SCORED, "skipped": {}}
    assert label["explanation_leads"]


@pytest.mark.parametrize("scores", [{}, {"detection_random": {"auroc": 0.92}}, {"fuzzing": {"auroc": 1.0}}])
def test_an_explanation_without_a_better_score_of_the_same_measure_does_not_replace_the_label(tmp_path: Path, scores):
    """The label's AUROC is 0.93."""
    run = page_run(tmp_path / "run")
    open_features(run, SITE, NAME).write_explanations({0: ("Names of summer months.", {"scores": scores})})
    with Server(run) as server:
        label = server.get(f"{BASE}/latent/0")["label"]
        assert server.get(f"{BASE}/latents?limit=1")["rows"][0]["label"] == label["text"]
        assert server.get(f"{BASE}/search?q=summer")["hits"][0]["label"] == label["text"]
    assert not label["explanation_leads"]
    assert label["explanation"]["scores"] == scores


def test_every_sae_names_the_command_that_builds_its_own_features(server: Server):
    for sae in server.get("/api/run")["saes"]:
        assert sae["build_command"].endswith(f" --saes {sae['site']}/{sae['name']}")


def test_a_word_in_most_labels_puts_the_labels_that_hold_best_first(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monosemy.app.lists.BROAD", 0)
    assert [(hit["latent"], hit["score"]) for hit in server.get(f"{BASE}/search?q=july")["hits"]] == [(0, 0.0)]


def test_token_search_names_the_tokens_it_took(server: Server):
    answer = server.get(f"{BASE}/token?text=july")
    assert [token["text"] for token in answer["tokens"]] == [" July"]
    assert server.get(f"{BASE}/token?text=nothing+like+it") == {"tokens": [], "hits": []}


def test_notes_are_kept_beside_the_features_and_come_back_with_labels(run: Path, server: Server):
    note = {"site": SITE, "name": NAME, "latent": 0, "bookmark": True, "text": f"months {MARKUP}"}
    sent = server.send("PUT", "/api/notes", note)["notes"]
    assert [(n["latent"], n["text"], n["label"]) for n in sent] == [(0, note["text"], "“July” after “in”")]
    assert server.get("/api/notes")["notes"] == sent
    assert json.loads((run / "notes.json").read_text())["notes"][0]["text"] == note["text"]
    assert server.refusal("PUT", "/api/notes", note | {"latent": 4})[0] == 404
    assert server.refusal("PUT", "/api/notes", note | {"text": 3})[0] == 400
    assert server.refusal("PUT", "/api/notes", note | {"latent": True})[0] == 400
    assert server.refusal("PUT", "/api/notes", note | {"text": "x" * 20_001})[0] == 400
    assert server.refusal("PUT", "/api/notes", [1])[0] == 400
    assert server.refusal("PUT", "/api/notes", b"{")[0] == 400
    place = {key: note[key] for key in ("site", "name", "latent")}
    unmarked = server.send("PUT", "/api/notes", place | {"bookmark": False})["notes"]
    assert [(n["bookmark"], n["text"]) for n in unmarked] == [(False, note["text"])]  # what is left out stays
    status, error = server.refusal("PUT", "/api/notes", place | {"text": "stale", "before": ""})
    assert (status, "changed elsewhere" in error) == (409, True)
    assert server.send("PUT", "/api/notes", place | {"text": "", "before": note["text"]})["notes"] == []


def test_two_equal_saes_match_latent_by_latent(server: Server):
    pair = f"a={SITE}/{NAME}&b={SITE}/{OTHER}"
    comparison = server.get(f"/api/compare?{pair}&by=cosine&threshold=0.99")
    assert comparison["n_matched_a"] == comparison["n_matched_b"] == M == sum(comparison["distribution"]["a"])
    assert all(row["cosine"] == pytest.approx(1, abs=1e-5) for row in comparison["rows"])
    assert server.get(f"/api/compare?{pair}&view=only_a&threshold=0.99")["rows"] == []
    assert "both sides" in server.refusal("GET", f"/api/compare?a={SITE}/{NAME}&b={SITE}/{NAME}")[1]
    assert "did you mean 'cosine'" in server.refusal("GET", f"/api/compare?{pair}&by=cosin")[1]
    assert server.refusal("GET", f"/api/compare?{pair}&view=all")[0] == 400


def test_comparisons_are_found_beside_the_event_loop_and_equal_ones_once(
    run: Path, server: Server, monkeypatch: pytest.MonkeyPatch
):
    reads: list[str] = []
    answered = threading.Event()

    def slow(folder: Path, rows: slice | np.ndarray) -> np.ndarray:
        reads.append(threading.current_thread().name)
        assert answered.wait(30)
        return read_decoder_rows(folder, rows)

    monkeypatch.setattr("monosemy.app.compare.read_decoder_rows", slow)
    pair = f"/api/compare?a={SITE}/{OTHER}&b={SITE}/{NAME}&by=cosine&threshold=2"  # no pair on the page
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(server.get, pair) for _ in range(4)]
        while not reads:
            time.sleep(0.01)
        server.get("/api/model")  # answered while vectors are read
        time.sleep(0.1)  # the other three have come too
        answered.set()
        assert len({json.dumps(future.result()) for future in futures}) == 1
    whole = 2  # each side's vectors, once
    pages = 2 * 4  # an empty list of rows of each side for every page
    assert len(reads) == whole + pages
    assert all(name.startswith("asyncio_") for name in reads)  # threads of the pool


def test_kept_comparisons_hold_matches_and_no_vectors(run: Path):
    a, b = Catalogue(run).refresh()
    pair = Comparison(a, b)
    pair.page("cosine", "matched", threshold=None, offset=0, limit=10)
    assert [
        value.shape for matches in pair._matches.values() for value in vars(matches).values() if value.ndim > 1
    ] == []
    assert not any(isinstance(value, np.ndarray) for value in vars(pair).values())
    comparisons = Comparisons()
    first = comparisons._pair(a, b)
    assert comparisons._pair(a, b) is first
    for stamp in range(KEPT_COMPARISONS):
        a.stamp = stamp, 0
        comparisons._pair(a, b)
    assert len(comparisons._kept) == KEPT_COMPARISONS
    assert first not in comparisons._kept.values()


def test_best_matches_are_those_of_the_whole_product(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monosemy.app.compare._BLOCK", 7)
    random = np.random.default_rng(0)
    left, right = unit_rows(random.standard_normal((40, 8))), unit_rows(random.standard_normal((30, 8)))
    whole, matches = left @ right.T, best_matches(left, right)
    assert np.array_equal(matches.partner_a, whole.argmax(1))
    assert np.array_equal(matches.partner_b, whole.argmax(0))
    assert np.allclose(matches.value_a, whole.max(1))
    assert np.allclose(matches.value_b, whole.max(0))


def test_features_built_again_are_served_without_a_restart(tmp_path: Path):
    catalogue = Catalogue(page_run(tmp_path / "run"))
    before = catalogue.sae(SITE, NAME).database
    (catalogue.folder / "features" / SITE / NAME / "features.json").touch()
    catalogue.refresh()
    assert catalogue.sae(SITE, NAME).database is not before
    assert catalogue.sae(SITE, OTHER).database is not None
    assert latent_page(catalogue.sae(SITE, NAME), 0)["latent"] == 0


def test_a_damaged_database_is_named_and_the_other_saes_stay_readable(tmp_path: Path):
    run = page_run(tmp_path / "run")
    (run / "features" / SITE / NAME / "columns.npy").write_bytes(b"broken")
    with Server(run) as server:
        by_name = {sae["name"]: sae for sae in server.get("/api/run")["saes"]}
        assert "columns.npy is missing or damaged" in by_name[NAME]["problem"]
        assert by_name[OTHER]["problem"] == ""
        assert "columns.npy" in server.refusal("GET", f"{BASE}/latent/0")[1]
        assert server.get(f"/api/f/{SITE}/{OTHER}/latent/0")["latent"] == 0


def test_the_page_is_served_at_every_other_address(server: Server):
    pages = {server.ask("GET", path)[2] for path in ("/", "/latent/7", "/compare?a=1")}
    assert len(pages) == 1
    assert b"<!doctype html>" in pages.pop().lower()
    assert server.refusal("GET", "/api/nothing")[0] == 404
    _, headers, _ = server.ask("GET", "/")
    assert server.ask("GET", "/", headers={"If-None-Match": headers["etag"]})[0] == 304
    assert "monosemy report" in server.refusal("GET", "/report")[1]
