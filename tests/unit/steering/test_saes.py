"""Several SAEs steering one text: at one site their changes add up, at several they act in the model's order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from steering_cases import D_SAE, SITE, place_of, scales_of, tiny_sae

from monosemy.errors import UserError
from monosemy.models.generation import whole_text
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.steering.control import controls_at_sites
from monosemy.steering.edits import JointEdit, LatentScales, SiteEdit, Steering
from monosemy.steering.generate import generate, stream
from monosemy.steering.measure import measure_answer
from monosemy.steering.request import Edit, Positions, SteeringRequest
from monosemy.steering.saes import SteeredSae, SteeringSaes, TextEdits
from monosemy.steering.sweep import sweep_events

EARLY = "layers.1.resid_post"
FREE = LatentScales()
TOKENS = torch.tensor([list(b"The old mill by the river")])


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


def sae_at(model, site: str, seed: int, architecture: str = "topk"):
    tokens = torch.randint(256, (8, 20), generator=torch.Generator().manual_seed(seed))
    x = model.activations(tokens, [site])[site].reshape(-1, model.d_model).float()
    sae = build_sae(SaeConfig(architecture, d_in=model.d_model, d_sae=D_SAE, l0=6, site=site, seed=seed))
    sae.initialise(x / 2.0, 6.0)
    sae.fold_scale(2.0)
    return sae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def saes(model) -> SteeringSaes:
    """One SAE at the usual site, a second one there, and one at an earlier site."""
    others = {
        "twin": SteeredSae(sae_at(model, SITE, 3, "jumprelu")),
        "early": SteeredSae(sae_at(model, EARLY, 4)),
    }
    return SteeringSaes(tiny_sae(model), FREE, others)


@pytest.fixture(scope="module")
def x(model) -> torch.Tensor:
    return model.activations(TOKENS, [SITE])[SITE]


def request(*edits: Edit, **changes) -> SteeringRequest:
    return replace(SteeringRequest("The old mill", edits, n_tokens=8), **changes)


def test_two_saes_at_one_site_add_up_what_each_makes_of_the_same_activation(saes, x):
    own, twin = Edit(5, "set", 3.0), Edit(9, "set", 2.5)
    parts = [SiteEdit(saes[label].sae, FREE, [Steering((edit,))]) for label, edit in (("", own), ("twin", twin))]
    alone = [part(x, place_of(x, 6)) - x for part in parts]
    together = JointEdit(parts)(x, place_of(x, 6))
    assert all((change != 0).any() for change in alone)
    torch.testing.assert_close(together, x + alone[0] + alone[1])
    # the order has no part in it
    torch.testing.assert_close(JointEdit(parts[::-1])(x, place_of(x, 6)), together, rtol=0, atol=1e-6)
    assert torch.equal(together[:, 0], x[:, 0])


def test_two_saes_that_change_nothing_hand_on_the_very_activation(model, saes, x):
    nothing = Steering((Edit(5, "add", 0.0), Edit(9, "scale", 1.0, sae="twin"), Edit(2, "add", 0.0, sae="early")))
    edits = TextEdits(model, saes, [nothing])
    assert list(edits.hooks) == [EARLY, SITE]
    assert edits.hooks[SITE](x, place_of(x, 6)) is x
    prompts = [TOKENS[0].tolist()]
    idle = generate(model, prompts, TextEdits(model, saes, [nothing]), n_tokens=6)
    assert [answer.ids for answer in idle] == [answer.ids for answer in generate(model, prompts, n_tokens=6)]
    place = whole_text(TOKENS, 6)
    assert torch.equal(model.logits(TOKENS, TextEdits(model, saes, [nothing]).at(place)), model.logits(TOKENS))


def test_two_sites_are_the_composition_of_their_hooks(model, saes):
    early, late = Edit(2, "set", 4.0, sae="early"), Edit(5, "set", 3.0)
    edits = TextEdits(model, saes, [Steering((late, early))], [late, early])
    place = whole_text(TOKENS, 6)
    together = model.logits(TOKENS, edits.at(place))
    read = []

    def by_hand(label, latent, value):
        sae = saes[label].sae

        def hook(x):
            f = sae.encode(x.flatten(0, 1)).to_dense().view(*x.shape[:2], -1)[..., latent]
            change = (value - f)[..., None] * sae.W_dec[latent]
            change[:, 0] = 0
            read.append((f, sae.encode((x + change).flatten(0, 1)).to_dense().view(*x.shape[:2], -1)[..., latent]))
            return x + change

        return hook

    expected = model.logits(TOKENS, {SITE: by_hand("", 5, 3.0), EARLY: by_hand("early", 2, 4.0)})
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)
    only_late = model.logits(TOKENS, {SITE: by_hand("", 5, 3.0)})
    assert not torch.allclose(expected, only_late, atol=1e-4)
    # the readings stand in the order of the watched edits: late first; its "before" contains the early edit
    before, after = edits.traces()
    for column, (f, f_after) in enumerate((read[1], read[0])):
        torch.testing.assert_close(before[:, column], f[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[:, column], f_after[0], rtol=1e-4, atol=1e-5)


def test_a_request_with_two_sites_streams_measures_and_sweeps_every_edit(model, saes):
    late, early = Edit(5, "set", 3.0), Edit(2, "set", 4.0, sae="early")
    events = list(stream(model, saes.own.sae, request(late, early), FREE, others=saes.by_label))
    columns = {column["column"]: column["edits"] for column in events[0]["columns"]}
    assert [(edit["sae"], edit["latent"]) for edit in columns["steered"]] == [("", 5), ("early", 2)]
    # every site has a control of its own
    assert [edit["sae"] for edit in columns["random"]] == ["", "early"]
    assert columns["random"][0]["latent"] != 5
    assert columns["random"][1]["latent"] != 2
    measures = {event["column"]: event for event in events if event["kind"] == "measure"}
    plain, steered = measures["default"]["prompt_tokens"][3], measures["steered"]["prompt_tokens"][3]
    assert len(steered["activations"]) == len(steered["edited_activations"]) == 2
    assert plain["activations"] == plain["edited_activations"]
    assert steered["edited_activations"] != steered["activations"]
    answers = {event["column"]: event["text"] for event in events if event["kind"] == "done"}
    for edit in (late, early):
        alone = list(stream(model, saes.own.sae, request(edit, columns=("steered",)), FREE, others=saes.by_label))
        assert next(event["text"] for event in alone if event["kind"] == "done") != answers["steered"]
    points = list(sweep_events(model, saes.own.sae, request(late, early), [3.0], scales=FREE, others=saes.by_label))
    assert points[-1]["text"] == answers["steered"]


def test_measures_begin_at_the_first_site(model, saes):
    late, early = Edit(5, "set", 3.0), Edit(2, "set", 4.0, sae="early")
    assert saes.sites(model, (late, early)) == [EARLY, SITE]
    steering = Steering((late, early))
    prompt, answer = TOKENS[0, :9].tolist(), TOKENS[0, 9:].tolist()
    measures = measure_answer(model, saes, prompt, answer=answer, steering=steering)
    hooks = TextEdits(model, saes, [steering]).at(whole_text(TOKENS, 9))
    log_q = model.logits(TOKENS, hooks)[0, 8:-1].log_softmax(-1)
    expected = log_q[torch.arange(len(answer)), torch.tensor(answer)]
    torch.testing.assert_close(measures.log_probs, expected, rtol=1e-4, atol=1e-4)


def test_outliers_are_judged_at_each_site(model, saes, x):
    strict = SteeringSaes(saes.own.sae, LatentScales(outlier_norm=1e-3), {"early": saes["early"], "twin": saes["twin"]})
    steering = Steering((Edit(5, "add", 3.0), Edit(9, "add", 3.0, sae="twin")))
    edits = TextEdits(model, strict, [steering])
    changed = edits.hooks[SITE](x, place_of(x, 6)) - x
    # the SAE to which all of them are outliers leaves them to the other one
    torch.testing.assert_close(changed[0, 1:], (3.0 * strict["twin"].sae.W_dec[9]).expand(x.shape[1] - 1, -1))
    assert edits.n_edited == [x.shape[1] - 1]


def test_every_text_has_its_own_sites(model, saes, x):
    rows = [Steering((Edit(5, "add", 3.0),), Positions("prompt")), None, Steering((Edit(9, "add", 2.0, sae="twin"),))]
    x3 = x.expand(3, -1, -1).clone()
    edits = TextEdits(model, saes, rows)
    changed = edits.hooks[SITE](x3, place_of(x3, 6)) - x3
    torch.testing.assert_close(changed[0, 1:6], (3.0 * saes.own.sae.W_dec[5]).expand(5, -1), rtol=1e-4, atol=1e-5)
    assert not changed[0, 6:].any()
    assert not changed[1].any()
    torch.testing.assert_close(
        changed[2, 1:], (2.0 * saes["twin"].sae.W_dec[9]).expand(x.shape[1] - 1, -1), rtol=1e-4, atol=1e-5
    )
    assert edits.is_edited == [True, False, True]


def test_what_cannot_be_is_refused(model, saes):
    with pytest.raises(UserError, match=r"two SAEs at layers\.2\.resid_post cannot both put their reconstruction"):
        next(
            stream(
                model,
                saes.own.sae,
                request(Edit(5, "ablate"), Edit(9, "ablate", sae="twin"), keep_error=False),
                FREE,
                others=saes.by_label,
            )
        )
    # at two sites each reconstructs its own activation
    two_sites = request(Edit(5, "ablate"), Edit(2, "ablate", sae="early"), keep_error=False, measure=False)
    assert list(stream(model, saes.own.sae, two_sites, FREE, others=saes.by_label))[-1]["untouched"] == []
    with pytest.raises(UserError, match="unknown SAE of an edit 'erly'; did you mean 'early'"):
        next(stream(model, saes.own.sae, request(Edit(5, "ablate", sae="erly")), FREE, others=saes.by_label))
    with pytest.raises(UserError, match="latent 5 of early is edited by ablate and set"):
        request(Edit(5, "ablate", sae="early"), Edit(5, "set", 1.0, sae="early"))
    request(Edit(5, "ablate"), Edit(5, "set", 1.0, sae="early"))  # another latent of the same number


def test_the_random_column_keeps_the_order_and_the_sae_of_every_edit(model, saes):
    x = model.activations(TOKENS, [SITE, EARLY])
    measured = SteeringSaes(
        saes.own.sae,
        scales_of(saes.own.sae, x[SITE][0]),
        {"early": SteeredSae(saes["early"].sae, scales_of(saes["early"].sae, x[EARLY][0]))},
    )
    edits = (Edit(2, "set", 4.0, sae="early"), Edit(5, "set", 3.0), Edit(2, "add", 1.0, sae="early"))
    controls = controls_at_sites(edits, measured, 0, control=7)
    assert [(edit.sae, edit.operation) for edit in controls] == [("early", "set"), ("", "set"), ("early", "add")]
    assert controls[0].latent == controls[2].latent == 7
    assert controls[1].latent != 5
