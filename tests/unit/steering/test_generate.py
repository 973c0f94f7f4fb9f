"""Steered text, its columns, its measures, sweeps and output scores, on a tiny random model."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import orjson
import pytest
import torch
from steering_cases import SITE, scales_of, tiny_sae
from tiny_models import FAMILIES, byte_tokenizer, random_module

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import Decoding, whole_text
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.steering.edits import LatentScales, SiteEdit, Steering
from monosemy.steering.generate import Sampling, generate, make_columns, stream
from monosemy.steering.measure import distinct_n, measure_answer
from monosemy.steering.output_score import output_scores, word_tokens, written_directions
from monosemy.steering.prompts import GrowingText, prompt_ids, prompt_text
from monosemy.steering.request import Edit, Positions, SteeringRequest
from monosemy.steering.saes import SteeringSaes, TextEdits
from monosemy.steering.strength import TooStrongError, check_push
from monosemy.steering.sweep import answer_all, sweep, sweep_events
from monosemy.support import json_text

PROMPTS = [list(b"The old mill"), list(b"So"), list(b"In summer the water")]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(model):
    return tiny_sae(model)


@pytest.fixture(scope="module")
def scales(model, sae) -> LatentScales:
    tokens = torch.randint(256, (4, 20), generator=torch.Generator().manual_seed(6))
    return scales_of(sae, model.activations(tokens, [SITE])[SITE].flatten(0, 1))


def request(**changes) -> SteeringRequest:
    return replace(SteeringRequest("The old mill", (Edit(5, "set", 3.0, "norm"),), n_tokens=12, control=9), **changes)


def by_kind(events) -> dict[str, list[dict]]:
    grouped: dict[str, list[dict]] = {}
    for event in events:
        grouped.setdefault(event["kind"], []).append(event)
    return grouped


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["all", "generated"])
def test_cached_and_uncached_steering_write_the_same(family, where, tiny_model):
    model = tiny_model(family)
    sae = tiny_sae(model)
    steering = Steering((Edit(5, "set", 8.0), Edit(7, "scale", 3.0)), Positions(where))
    answers = [
        generate(
            model,
            PROMPTS,
            TextEdits(model, SteeringSaes(sae), [steering] * 3),
            n_tokens=15,
            use_cache=cached,
        )
        for cached in (True, False)
    ]
    plain = generate(model, PROMPTS, n_tokens=15)
    assert [a.ids for a in answers[0]] == [a.ids for a in answers[1]] != [a.ids for a in plain]
    for cached, whole in zip(*answers, strict=True):
        assert cached.log_probs == pytest.approx(whole.log_probs, abs=1e-3)


def test_steering_by_nothing_hands_on_the_very_activation_and_writes_the_same(model, sae):
    idle = TextEdits(model, SteeringSaes(sae), [Steering((Edit(5, "add", 0.0), Edit(7, "scale", 1.0)))] * 3)
    hook, same = idle.hooks[SITE], []

    def watched(x, place):
        edited = hook(x, place)
        same.append(edited is x)
        return edited

    idle.hooks[SITE] = watched
    steered = generate(model, PROMPTS, idle, n_tokens=20)
    assert len(same) == 20
    assert all(same)
    # The rest of the model is BLAS, whose last bit may depend on where in memory the cache lies.
    for answer, other in zip(steered, generate(model, PROMPTS, n_tokens=20), strict=True):
        assert (answer.ids, answer.text) == (other.ids, other.text)
        assert answer.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def test_generated_positions_leave_the_first_new_token_alone(model, sae, scales):
    push = Steering((Edit(5, "add", 40.0),), Positions("generated"))
    steered = generate(model, PROMPTS, TextEdits(model, SteeringSaes(sae, scales), [push] * 3), n_tokens=10)
    plain = generate(model, PROMPTS, n_tokens=10)
    for a, b in zip(steered, plain, strict=True):
        assert a.ids[0] == b.ids[0]
        assert a.log_probs[0] == pytest.approx(b.log_probs[0], abs=1e-5)  # the last bit may depend on memory's places
        assert a.ids[1:] != b.ids[1:]


def test_events_come_in_order_and_agree_with_each_other(model, sae, scales):
    steer_request = request(columns=("default", "steered", "prompted", "random"), instruction="Talk about mills.")
    event_list = list(stream(model, sae, steer_request, scales))
    events = by_kind(event_list)
    assert (event_list[0]["kind"], event_list[-1]["kind"]) == ("start", "end")
    start = event_list[0]
    assert [c["column"] for c in start["columns"]] == list(steer_request.columns)
    default, steered, prompted, random = start["columns"]
    assert default["prompt"] == steered["prompt"] == random["prompt"] == "".join(default["prompt_tokens"])
    assert prompted["prompt"] == "Talk about mills.\n\nThe old mill"
    assert (default["edits"], prompted["edits"]) == ([], [])
    assert (steered["edits"][0]["latent"], random["edits"][0]["latent"], start["control"]) == (5, 9, 9)
    assert steered["edits"][0]["value"] == pytest.approx(3 * scales.typical_norm, rel=1e-5)
    assert random["edits"][0]["value"] == pytest.approx(3 * scales.typical_norm, rel=1e-5)
    steps = [event["step"] for event in events["token"]]
    assert steps == sorted(steps)
    for done, measure in zip(
        sorted(events["done"], key=lambda e: steer_request.columns.index(e["column"])), events["measure"], strict=True
    ):
        tokens = [event for event in events["token"] if event["column"] == done["column"]]
        assert measure["column"] == done["column"]
        assert [t["token"] for t in tokens] == [t["token"] for t in measure["tokens"]]
        assert "".join(t["text"] for t in tokens) in done["text"]
        assert [t["log_prob"] for t in tokens] == pytest.approx([t["log_prob"] for t in measure["tokens"]], abs=1e-3)
        assert done["n_tokens"] == measure["n_tokens"] == len(tokens)
    texts = {event["column"]: event["text"] for event in events["done"]}
    assert len(set(texts.values())) == 4


def test_without_edits_every_column_is_the_default(model, sae, scales):
    steer_request = request(columns=("default", "steered", "random"), edits=(Edit(5, "add", 0.0),))
    events = by_kind(stream(model, sae, steer_request, scales))
    assert len({event["text"] for event in events["done"]}) == 1
    for measure in events["measure"]:
        assert (measure["mean_kl"], measure["mean_log_prob_change"]) == (0.0, 0.0)


def test_sampling_shares_its_random_numbers_between_columns_and_is_repeatable(model, sae, scales):
    steer_request = request(edits=(Edit(5, "add", 0.0),), temperature=1.5, top_p=0.95, measure=False)
    texts = [{e["text"] for e in stream(model, sae, steer_request, scales) if e["kind"] == "done"} for _ in range(2)]
    assert len(texts[0]) == 1
    assert texts[0] == texts[1]
    other = {e["text"] for e in stream(model, sae, replace(steer_request, seed=1), scales) if e["kind"] == "done"}
    assert other != texts[0]


def test_sampling_draws_from_the_models_distribution(model):
    """Many one-token answers to one prompt against its probabilities; with top_p only the likely tokens."""
    prompt = PROMPTS[0]
    expected = model.logits(torch.tensor([prompt]))[0, -1].softmax(-1)
    groups = tuple(range(3000))
    answers = generate(model, [prompt] * 3000, n_tokens=1, sampling=Sampling(1.0, groups=groups))
    tokens = torch.tensor([answer.ids[0] if answer.ids else 256 for answer in answers])
    counts = torch.bincount(tokens, minlength=257) / 3000
    assert (counts - expected).abs().sum() < 1.5 * math.sqrt(257 / 3000)  # expected: about 0.8 √(V/n)
    likely = expected.sort(descending=True)
    inside = set(likely.indices[: int((likely.values.cumsum(0) < 0.3).sum()) + 1].tolist())
    cut = generate(model, [prompt] * 500, n_tokens=1, sampling=Sampling(1.0, 0.3, groups=groups[:500]))
    assert {answer.ids[0] if answer.ids else 256 for answer in cut} == inside


def test_a_dropped_stream_leaves_the_model_as_it_was(model, sae, scales):
    tokens = torch.tensor([PROMPTS[0]])
    plain = model.logits(tokens)
    events = stream(model, sae, request(), scales)
    for _ in range(6):
        next(events)
    assert torch.equal(model.logits(tokens), plain)
    events.close()
    assert torch.equal(model.logits(tokens), plain)


def test_errors_come_before_the_first_event(model, sae, scales):
    for changes, message in (
        ({"edits": (Edit(48),)}, "out of range"),
        ({"control": 5}, "among the steered ones"),
        ({"chat": True}, "tiny llama has no chat template"),
        ({"system": "Be kind."}, None),
        ({"prompt": "x" * 70}, "exceed the 64 positions"),
    ):
        if message is None:  # no template, so that there is nowhere to put it
            with pytest.raises(UserError, match="needs a chat"):
                next(stream(model, sae, request(chat=False, **changes), scales))
            continue
        with pytest.raises(UserError, match=message):
            next(stream(model, sae, request(**changes), scales))


def test_a_prompt_that_leaves_no_room_for_the_answer_is_refused_before_the_first_event(model, sae, scales):
    """And one that leaves just enough of the 64 positions is answered and measured to the end."""
    fitting = request(prompt="x" * 52, columns=("default", "steered"))
    assert list(stream(model, sae, fitting, scales))[-1]["kind"] == "end"
    too_long = r"53 tokens of prompt and 12 new ones exceed the 64 positions of tiny llama; .* at most 11 new tokens"
    with pytest.raises(UserError, match=too_long):
        next(stream(model, sae, replace(fitting, prompt="x" * 53), scales))
    with pytest.raises(UserError, match=r"64 tokens of prompt .* exceed the 64 positions of tiny llama; shorten the"):
        next(stream(model, sae, replace(fitting, prompt="x" * 64), scales))
    instructed = replace(fitting, columns=("default", "prompted"), instruction="Be short.")
    with pytest.raises(UserError, match="63 tokens of prompt and 12 new ones"):  # the instruction is part of it
        next(stream(model, sae, instructed, scales))
    with pytest.raises(UserError, match=too_long):
        next(sweep_events(model, sae, replace(fitting, prompt="x" * 53), [0.0, 1.0], scales=scales))
    with pytest.raises(UserError, match=too_long):
        generate(model, [PROMPTS[0], [1] * 53], n_tokens=12)


HALF = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@pytest.fixture(scope="module", params=list(HALF), ids=list(HALF.values()))
def half(request) -> LanguageModel:
    module = random_module("llama").to(request.param)
    return LanguageModel(module, byte_tokenizer(), name="tiny half", fingerprint="half")


@pytest.mark.parametrize("operation", ["add", "set"])
def test_a_push_that_leaves_nothing_of_the_text_is_refused_in_place_of_an_answer(operation, model, half, sae, scales):
    for each in (model, half):
        for strength in (1e5, 1e6, 1e30, 1e300):
            steer_request = request(edits=(Edit(5, operation, strength),))
            with pytest.raises(TooStrongError, match=r"too strong: .*lower the strength") as caught:
                list(stream(each, sae, steer_request, scales))
            assert "\n" not in str(caught.value)
            refused = list(sweep_events(each, sae, steer_request, [0.0, strength], scales=scales))[-2:]
            assert [event["kind"] for event in refused] == ["strength", "too_strong"]
            with pytest.raises(TooStrongError):
                output_scores(each, sae, scales, [5], strength=strength)


@pytest.mark.parametrize(("site", "limit"), [("layers.1.resid_post", 100), ("layers.1.mlp_out", 2**23)])
def test_only_the_residual_stream_is_drowned_by_a_hundred_lengths(site, limit):
    """What other sites hold is added to a longer stream: there only rounding leaves nothing of it."""
    h = torch.randn(3, 8)
    check_push(h, 0.9 * limit * h, dtype=torch.float32, site=site, row=0)
    with pytest.raises(TooStrongError, match="nothing of the text is left"):
        check_push(h, 1.1 * limit * h, dtype=torch.float32, site=site, row=0)


def test_strengths_that_can_be_answered_are_answered_in_half_precision(half, sae, scales):
    event_list = list(stream(half, sae, request(edits=(Edit(5, "add", 4.0, "norm"),)), scales))
    for event in event_list:
        assert orjson.loads(json_text.dumps(event)) == json.loads(json.dumps(event))
    for measure in by_kind(event_list)["measure"]:
        assert math.isfinite(measure["perplexity"])
        assert math.isfinite(measure["mean_kl"])


def test_strong_texts_do_not_change_their_neighbours(model, sae, scales):
    """The others of a batch are answered as if the one that is too strong had not been asked for."""
    steering = Steering((Edit(5, "add", 1.0),))
    points = list(
        sweep(model, SteeringSaes(sae, scales), PROMPTS, steering=steering, values=[0.0, 1e30, 3.0], n_tokens=6)
    )
    alone = list(sweep(model, SteeringSaes(sae, scales), PROMPTS, steering=steering, values=[0.0, 3.0], n_tokens=6))
    assert [bool(point.too_strong) for point in points] == [False, True, False]
    assert points[1].answers == []
    for point, same in zip((points[0], points[2]), alone, strict=True):
        assert [answer.ids for answer in point.answers] == [answer.ids for answer in same.answers]


def test_a_model_without_numbers_of_its_own_is_not_blamed_on_the_push(sae, scales):
    module = random_module("llama")
    with torch.no_grad():
        module.lm_head.weight[3] = math.nan
    broken = LanguageModel(module, byte_tokenizer(), name="tiny broken", fingerprint="broken")
    with pytest.raises(UserError, match="tiny broken gives logits that are no numbers without any change"):
        list(stream(broken, sae, request(), scales))


def test_copies_of_a_prompt_count_once_and_are_told(model, sae, scales):
    steering = Steering((Edit(5, "add", 1.0),))
    with pytest.warns(UserWarning, match="2 of 4 prompts are copies of others and count once"):
        (point,) = sweep(
            model,
            SteeringSaes(sae, scales),
            [*PROMPTS[:2], PROMPTS[0], PROMPTS[0]],
            steering=steering,
            values=[1.0],
            n_tokens=3,
        )
    assert len(point.answers) == len(point.measures) == 2


@pytest.mark.parametrize(
    ("positions", "changes"),
    [
        (Positions("range", 400), {}),
        (Positions("range", 23), {}),  # the last of 12 new tokens behind 12 of the prompt is never read
        (Positions("range", 0, 1), {}),
        (Positions("prompt"), {"prompt": "T"}),
        (Positions("generated"), {"n_tokens": 1}),
    ],
)
def test_positions_that_no_token_has_are_refused(positions, changes, model, sae, scales):
    steer_request = request(positions=positions, **changes)
    for events in (
        stream(model, sae, steer_request, scales),
        sweep_events(model, sae, steer_request, [0.0, 1.0], scales=scales),
    ):
        with pytest.raises(UserError, match="names no token that can be edited: the prompt has tokens 0 to"):
            next(events)
    last = request(positions=Positions("range", 22), columns=("default", "steered"))
    assert list(stream(model, sae, last, scales))[-1]["untouched"] == []


def test_columns_in_which_nothing_was_edited_are_told(model, sae, scales):
    none_is_edited = replace(scales, outlier_norm=1e-3)
    end = list(stream(model, sae, request(measure=False), none_is_edited))[-1]
    assert end["untouched"] == ["steered", "random"]


def test_every_latent_can_be_ablated_without_a_column_that_nobody_asked_for(model, sae, scales):
    ablations = tuple(Edit(i, "ablate") for i in range(sae.d_sae))
    steer_request = SteeringRequest("The old mill", ablations, n_tokens=3)
    start = next(stream(model, sae, steer_request, scales))
    assert [column["column"] for column in start["columns"]] == ["default", "steered"]
    assert start["control"] is None
    with pytest.raises(UserError, match="no other latent is left for the random column; leave that column out"):
        next(stream(model, sae, replace(steer_request, columns=("steered", "random")), scales))


def test_measures_follow_their_definitions(model, sae, scales):
    prompt, answer = PROMPTS[0], list(b" by the river by the")
    steering = Steering((Edit(5, "set", 6.0),))
    measures = measure_answer(
        model, SteeringSaes(sae, scales), prompt, answer=answer, steering=steering, watch=[Edit(5)]
    )
    tokens = torch.tensor([[*prompt, *answer]])
    edit = SiteEdit(sae, scales, [steering], watch=[5])
    q = model.logits(tokens, {SITE: lambda x: edit(x, whole_text(tokens, len(prompt)))})[0].log_softmax(-1)
    p = model.logits(tokens)[0].log_softmax(-1)
    for t, token in enumerate(answer):
        at = len(prompt) + t - 1
        assert float(measures.log_probs[t]) == pytest.approx(float(q[at, token]), abs=1e-4)
        assert float(measures.unsteered_log_probs[t]) == pytest.approx(float(p[at, token]), abs=1e-4)
        kl = (q[at].exp() * (q[at] - p[at])).sum()
        assert float(measures.kl[t]) == pytest.approx(float(kl), abs=1e-4)
    assert measures.kl.min() >= 0
    assert measures.kl.mean() > 0.01
    assert measures.perplexity == pytest.approx(math.exp(-float(measures.unsteered_log_probs.mean())), rel=1e-5)
    assert torch.equal(measures.before, edit.before[0][0])
    assert torch.equal(measures.after, edit.after[0][0])
    assert measures.distinct[0] == len(set(answer)) / len(answer)

    plain = measure_answer(model, SteeringSaes(sae, scales), prompt, answer=answer, steering=None)
    assert plain.kl.abs().max() == 0
    other = measure_answer(
        model, SteeringSaes(sae, scales), PROMPTS[1], answer=answer, steering=None, plain_prompt=prompt
    )
    assert torch.equal(other.unsteered_log_probs, plain.log_probs)
    assert not torch.equal(other.log_probs, plain.log_probs)


def test_an_empty_answer_has_no_measures(model, sae, scales):
    measures = measure_answer(
        model,
        SteeringSaes(sae, scales),
        PROMPTS[0],
        answer=[],
        steering=Steering((Edit(5, "set", 6.0),)),
        watch=[Edit(5)],
    )
    assert measures.summary() == {
        "n_tokens": 0,
        "perplexity": None,
        "mean_kl": None,
        "mean_log_prob_change": None,
        "distinct": [None, None, None],
    }


def test_distinct_n():
    assert distinct_n([1, 2, 1, 2], 1) == 0.5
    assert distinct_n([1, 2, 1, 2], 2) == 2 / 3
    assert distinct_n([1], 2) is None


def test_a_sweep_changes_nothing_at_zero_and_more_the_stronger(model, sae, scales):
    values = [0.0, 0.5, 1.0, 4.0]
    steering = Steering((Edit(5, "add", 1.0, "norm"),))
    points = list(sweep(model, SteeringSaes(sae, scales), PROMPTS, steering=steering, values=values, n_tokens=10))
    assert [point.value for point in points] == values
    plain = generate(model, PROMPTS, n_tokens=10)
    assert [a.ids for a in points[0].answers] == [a.ids for a in plain]
    kl = [float(torch.stack([m.kl.mean() for m in point.measures]).mean()) for point in points]
    assert kl[0] == 0
    assert kl == sorted(kl)
    traces = [torch.cat([m.after[:, 0] for m in point.measures]).mean() for point in points]
    assert traces == sorted(traces)
    alone = generate(
        model,
        PROMPTS[1:2],
        TextEdits(model, SteeringSaes(sae, scales), [Steering((Edit(5, "add", 4.0, "norm"),))]),
        n_tokens=10,
    )
    assert points[3].answers[1].ids == alone[0].ids


def test_sweep_events_for_the_page(model, sae, scales):
    event_list = list(sweep_events(model, sae, request(), [0.0, 2.0], scales=scales))
    events = by_kind(event_list)["strength"]
    assert event_list[-2:] == events
    assert [event["value"] for event in events] == [0.0, 2.0]
    steered = by_kind(stream(model, sae, request(edits=(Edit(5, "set", 2.0, "norm"),)), scales))
    column = next(e for e in steered["done"] if e["column"] == "steered")
    assert events[1]["text"] == column["text"]
    measure = next(e for e in steered["measure"] if e["column"] == "steered")
    for key in ("perplexity", "mean_kl", "mean_log_prob_change"):
        assert events[1][key] == pytest.approx(measure[key], rel=1e-3)
    traced = [token["edited_activations"][0] for token in measure["tokens"]]
    assert events[1]["mean_activation"] == pytest.approx(sum(traced) / len(traced), rel=1e-3)
    with pytest.raises(UserError, match="1 to 32 strengths, got 0"):
        list(sweep_events(model, sae, request(), [], scales=scales))


def test_a_sweep_can_be_stopped_between_any_two_tokens(model, sae, scales, monkeypatch):
    """One pass of the model an event: whoever drops the events waits for one token, not for all strengths."""
    passes = []
    whole_pass = Decoding._pass
    own_hooks = [dict(block._forward_hooks) for block in model._blocks]  # transformers may have left some of its own
    monkeypatch.setattr(Decoding, "_pass", lambda self: passes.append(len(self._tokens)) or whole_pass(self))
    events = sweep_events(model, sae, request(), [0.0, 1.0, 2.0], scales=scales)
    for step in range(1, 6):
        event = next(events)
        assert event == {"kind": "progress", "step": step, "n_tokens": 12}
        assert passes == [3] * step  # three strengths in one batch
    events.close()
    assert len(passes) == 5
    tokens = torch.tensor([PROMPTS[0]])
    assert torch.equal(model.logits(tokens), model.logits(tokens, {SITE: lambda x: x}))
    assert [dict(block._forward_hooks) for block in model._blocks] == own_hooks


def test_answers_do_not_depend_on_the_batch(model, sae, scales, monkeypatch):
    steerings = [None, Steering((Edit(5, "add", 2.0, "norm"),)), Steering((Edit(8, "set", 1.0, "max"),))]
    sampling = Sampling(temperature=1.0)
    together = answer_all(model, SteeringSaes(sae, scales), PROMPTS, steerings=steerings, n_tokens=8, sampling=sampling)
    monkeypatch.setattr("monosemy.steering.sweep.BATCH_TEXTS", 2)
    apart = answer_all(model, SteeringSaes(sae, scales), PROMPTS, steerings=steerings, n_tokens=8, sampling=sampling)
    assert [[a.ids for a in row] for row in together] == [[a.ids for a in row] for row in apart]


def test_output_scores_are_those_of_a_whole_pass_with_the_push(model, sae, scales):
    prompt, strength = "So far", 2.0
    scores = output_scores(
        model, sae, scales, [3, 5, 20], prompt=prompt, strength=strength, words=[["mill", "river"], ["a"]]
    )
    ids = torch.tensor([prompt_ids(model, prompt)])
    word_ids = word_tokens(model, ["mill", "river"])
    assert word_ids == sorted(prompt_ids(model, "mMrR"))
    plain = model.logits(ids)[0, -1].softmax(-1)
    assert float(scores.words_before[0]) == pytest.approx(float(plain[word_ids].sum()), rel=1e-4)
    last = f"layers.{model.n_layers - 1}.resid_post"
    for row, latent in enumerate([3, 5, 20]):
        d = sae.W_dec[latent]

        def push(x, amount, d=d):
            x = x.clone()
            x[:, -1] += amount * d / d.norm()
            return x

        after = model.logits(ids, {SITE: lambda x, push=push: push(x, strength * scales.typical_norm)})[0, -1].softmax(
            -1
        )
        size = float(model.activations(ids, [last])[last][0, -1].norm())
        lens = (
            model.logits(ids, {last: lambda x, push=push, size=size: push(x, 0.02 * size)})[0, -1]
            - model.logits(ids)[0, -1]
        )
        tokens = lens.topk(20).indices
        assert set(scores.tokens[row].tolist()) == set(tokens.tolist())
        for probabilities, score in ((after, scores.score[row]), (plain, scores.score_before[row])):
            best = probabilities[tokens].max()
            rank = int((probabilities > best).sum())
            assert float(score) == pytest.approx((1 - rank / 257) * float(best), rel=1e-3)
        assert float(scores.words[row, 0]) == pytest.approx(float(after[word_ids].sum()), rel=1e-3)
        letters = word_tokens(model, ["a"])
        assert float(scores.words[row, 1]) == pytest.approx(float(after[letters].sum()), rel=1e-3)
    torch.testing.assert_close(scores.gain, scores.score - scores.score_before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("kind", ["attn_heads", "attn_out", "mlp_in", "mlp_out", "attn_out_post"])
def test_output_tokens_are_those_of_what_a_site_writes_into_the_residual_stream(family, kind, tiny_model):
    """Carried there by the model itself: what the residual stream gains when the direction is added at the site."""
    model = tiny_model(family)
    site, tokens = model.resolve(f"layers.2.{kind}"), torch.tensor([PROMPTS[0]])
    d = model.site_width(site)
    sae = build_sae(SaeConfig("topk", d_in=d, d_sae=8, l0=2, site=site, seed=1))
    sae.initialise(model.activations(tokens, [site])[site][0].float(), 6.0)
    sae.fold_scale(2.0)
    scores = output_scores(model, sae, LatentScales(typical_norm=3.0), words=[["mill"]])
    assert scores.words.shape == (8, 1)  # the push is made at the site itself, wherever that is
    without = kind == "mlp_in" or (family == "gemma2" and not site.endswith("_post"))
    assert scores.tokens.shape == (8, 0 if without else 20)
    assert bool(scores.score.isnan().all()) == without
    if without:
        assert isinstance(written_directions(model, site, sae.W_dec), str)
        return
    mid = "layers.2.resid_mid" if kind.startswith("attn") else "layers.2.resid_post"
    gained = []
    for direction in sae.W_dec:
        captured = {}

        def keep(x, captured=captured):
            captured["x"] = x
            return x

        model.logits(tokens, {mid: keep})
        plain = captured["x"]
        model.logits(tokens, {site: lambda x, direction=direction: x + direction, mid: keep})
        gained.append((captured["x"] - plain)[0, -1])
    written = written_directions(model, site, sae.W_dec)
    torch.testing.assert_close(written, torch.stack(gained), atol=1e-4, rtol=1e-3)


def test_output_scores_take_the_latents_that_fire(model, sae, scales):
    scores = output_scores(model, sae, scales)
    assert scores.latents.tolist() == scales.n_fired.nonzero()[:, 0].tolist()
    with pytest.raises(UserError, match="at least one word"):
        word_tokens(model, [" "])
    with pytest.raises(UserError, match="typical norm"):
        output_scores(model, sae, LatentScales(), [1])
    silent = replace(scales, n_fired=torch.zeros(sae.d_sae, dtype=torch.int64))
    with pytest.raises(UserError, match=r"no latent of the SAE at .* fired"):
        output_scores(model, sae, silent)


def test_characters_of_several_tokens_appear_when_complete(model):
    text = GrowingText(model.tokenizer)
    pieces = [text.add(byte) for byte in prompt_ids(model, "né →")]
    assert pieces == ["n", "", "é", " ", "", "", "→"]
    assert text.text == text.finish() == "né →"
    text.add(prompt_ids(model, "→")[0])
    assert text.finish().startswith("né →\ufffd")


def test_a_model_without_a_template_continues_the_text_itself(model, sae, scales):
    assert prompt_text(model, "So") == "So"
    columns, control = make_columns(model, SteeringSaes(sae, scales), request(columns=("default",), edits=()))
    assert (columns[0].prompt_ids, control) == (prompt_ids(model, "The old mill"), None)
    assert model.tokenizer.decode(columns[0].prompt_ids) == "The old mill"
