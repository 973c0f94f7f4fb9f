"""Padded batches: every row gives the numbers it gives alone, on every family of models and either side."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, build_module, byte_tokenizer, random_module

from monosemy import SaeConfig, build_sae, evaluate, splice
from monosemy.config import ActivationsConfig
from monosemy.errors import UserError
from monosemy.evals.model_loss import evaluate_model_loss
from monosemy.models.adapter import LanguageModel
from monosemy.models.checks import check_model
from monosemy.models.padding import Padding, text_positions

PAD = 255
LENGTHS = (9, 4, 13, 1)
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 4, "n_head": 4, "vocab_size": VOCABULARY}),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 4, "vocab_size": VOCABULARY}),
}
"""ALiBi and a state-space model."""

families = pytest.mark.parametrize("family", [*FAMILIES, *MORE])
sides = pytest.mark.parametrize("side", ["left", "right"])


@pytest.fixture(scope="module")
def rows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(250, (1, n), generator=generator) for n in LENGTHS]


def padded(rows: list[torch.Tensor], side: str, pad: int = PAD) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, attention_mask) as tokenizers make them."""
    width = max(row.shape[1] for row in rows)
    tokens, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(0, row.shape[1]) if side == "right" else slice(width - row.shape[1], width)
        tokens[i, place], mask[i, place] = row[0], 1
    return tokens, mask


@cache
def load(family: str, tiny_model) -> LanguageModel:
    if family in FAMILIES:
        return tiny_model(family)
    module = build_module(*MORE[family])
    model = LanguageModel(module, byte_tokenizer(), name=family, fingerprint=family)
    check_model(model)  # takes the late start out of service where a family has none
    return model


def assert_rows(batch, alone, mask):
    for i, value in enumerate(alone):
        torch.testing.assert_close(batch[i][mask[i].bool()], value[0], rtol=1e-4, atol=1e-4)
        assert not batch[i][~mask[i].bool()].any()


@families
def test_rows_of_a_padded_batch_are_those_of_each_row_alone(family, tiny_model, rows):
    model = load(family, tiny_model)
    sites = [site for site in model.site_names() if site.startswith("layers.2.")]
    site = "layers.2.resid_post"
    edits = {site: lambda x: x + 0.3 * torch.linspace(-1, 1, x.shape[-1]) * x.norm(dim=-1, keepdim=True)}
    alone = [model.activations(row, sites) for row in rows]
    plain, edited, spliced = ([model.logits(row, e) for row in rows] for e in ({}, edits, {site: splice(None)}))
    for tokens, mask in (padded(rows, side) for side in ("left", "right")):
        batch = model.activations(tokens, sites, attention_mask=mask)
        for name in sites:
            assert_rows(batch[name], [values[name] for values in alone], mask)
        all_sites = model.all_activations(tokens, attention_mask=mask)
        assert_rows(all_sites[site], [values[site] for values in alone], mask)
        assert_rows(model.logits(tokens, attention_mask=mask), plain, mask)
        assert_rows(model.logits(tokens, edits, attention_mask=mask), edited, mask)
        start = model.prefix(tokens, site, attention_mask=mask)
        assert_rows(model.logits(tokens, {site: splice(None)}, start), spliced, mask)
        last = model.logits(tokens, edits, attention_mask=mask, last_only=True)
        torch.testing.assert_close(last[:, 0], torch.cat([row[:, -1] for row in edited]), rtol=1e-4, atol=1e-4)


@families
def test_evaluation_is_that_of_the_rows_alone(family, tiny_model, rows):
    """By hand: the unpadded rows' activations, reconstructions and losses."""
    model = load(family, tiny_model)
    site = "layers.1.resid_post"
    torch.manual_seed(1)
    sae = build_sae(SaeConfig("topk", model.site_width(site), 64, 4, site=site))
    rules = ActivationsConfig(drop_first_positions=1, outlier_multiple=0)
    texts = rows[:3]
    x = torch.cat([model.activations(row, [site])[site][0, 1:] for row in texts]).double()
    with torch.no_grad():
        x_hat = sae.decode(sae.encode(x.float())).double()
    losses, kls = [], []
    for row in texts:
        clean, spliced = (model.logits(row, e)[0, :-1].double().log_softmax(-1) for e in ({}, {site: splice(sae)}))
        losses.append((clean - spliced).gather(1, row[0, 1:, None])[1:, 0])
        kls.append((clean.exp() * (clean - spliced)).sum(-1)[1:])
    fvu = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    for tokens, mask in (padded(texts, side) for side in ("left", "right")):
        record = evaluate(model, sae, tokens, attention_mask=mask, rules=rules, n_bootstrap=20)
        assert record["n_tokens"] == sum(LENGTHS[:3]) - 3
        assert record["n_loss_tokens"] == sum(LENGTHS[:3]) - 6
        assert record["n_documents"] == record["n_sequences"] == 3
        assert record["l0"] == 4
        assert record["fvu"] == pytest.approx(fvu, rel=1e-4)
        assert record["delta_loss"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)
        assert record["kl"] == pytest.approx(float(torch.cat(kls).mean()), abs=1e-4)


def test_padding_is_no_number_of_an_evaluation(tiny_model, rows):
    """Other pads, pads beyond the vocabulary, more of them, or the other side: the same record, outliers included."""
    model, site = tiny_model("gpt2"), "layers.1.resid_post"
    sae = build_sae(SaeConfig("jumprelu", 32, 64, 4, site=site))
    rules = ActivationsConfig(outlier_multiple=1.1)
    records = []
    for side, pad, extra in (("left", PAD, 0), ("right", 7, 0), ("left", 40_000, 0), ("right", -1, 5)):
        tokens, mask = (
            torch.nn.functional.pad(t, (0, extra), value=v) for t, v in zip(padded(rows, side, pad), (pad, 0))
        )
        records.append(evaluate(model, sae, tokens, attention_mask=mask, rules=rules, n_bootstrap=20))
    for record in records[1:]:
        for key in ("fvu", "l0", "gamma", "dead_fraction", "delta_loss", "kl", "n_tokens", "n_loss_tokens"):
            assert record[key] == pytest.approx(records[0][key], rel=1e-4, abs=1e-5), key
        assert record["fvu_interval"] == pytest.approx(records[0]["fvu_interval"], rel=1e-4)


def test_losses_take_masks_with_documents(tiny_model, rows):
    model, site = tiny_model("llama"), "layers.1.resid_post"
    sae = build_sae(SaeConfig("topk", 32, 64, 4, site=site))
    evaluations = []
    for side in ("left", "right"):
        tokens, mask = padded(rows, side)
        documents = torch.tensor([0, 1, 1, 2])[:, None].expand_as(tokens)
        losses = evaluate_model_loss(
            model, site, {"a": sae}, tokens, text_positions(mask.bool()) > 0, attention_mask=mask, documents=documents
        )
        assert losses.documents.documents.tolist() == [0, 1]  # the row of one token predicts nothing
        evaluations.append(losses)
    assert evaluations[0].clean_loss == pytest.approx(evaluations[1].clean_loss, abs=1e-5)
    assert evaluations[0].records["a"].delta_loss == pytest.approx(evaluations[1].records["a"].delta_loss, abs=1e-5)


def test_an_edit_leaves_padding_alone(tiny_model, rows):
    """An edit that turns zeros into NaN (here a division by the norm) cannot reach the text through padding."""
    model, site = tiny_model("llama"), "layers.1.resid_post"
    tokens, mask = padded(rows, "left")
    unit = {site: lambda x: x / x.norm(dim=-1, keepdim=True)}
    assert_rows(model.logits(tokens, unit, attention_mask=mask), [model.logits(row, unit) for row in rows], mask)


def test_gradients_pass_through_padding(tiny_model, rows):
    model, site = tiny_model("llama"), "layers.1.resid_post"

    def gradient(*arguments, mask=None):
        push = torch.zeros(32, requires_grad=True)
        logits = model.logits(*arguments, {site: lambda x: x + push}, attention_mask=mask, gradients=True)
        logits[..., 3].sum().backward()
        return push.grad

    tokens, mask = padded(rows, "left")
    torch.testing.assert_close(gradient(tokens, mask=mask), sum(gradient(row) for row in rows), rtol=1e-3, atol=1e-3)


def test_orders_and_positions_by_hand():
    mask = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0]]).bool()
    padding = Padding.of(mask)
    assert padding.order.tolist() == [[2, 3, 0, 1], [0, 2, 1, 3]]
    assert padding.text_first(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])).tolist() == [[3, 4, 1, 2], [5, 7, 6, 8]]
    values = torch.arange(1.0, 17).reshape(2, 4, 2)
    assert torch.equal(padding.as_given(padding.text_first(values)), values * mask[..., None])
    assert text_positions(mask).tolist() == [[-1, -1, 0, 1], [0, -1, 1, -1]]


@pytest.fixture(scope="module")
def with_pad() -> LanguageModel:
    """A llama whose token 255 pads and does nothing else."""
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD)
    return LanguageModel(random_module("llama"), tokenizer, name="padder", fingerprint="padder")


@sides
def test_padding_without_a_mask_is_refused(side, with_pad, rows):
    tokens, _ = padded(rows, side)
    sae = build_sae(SaeConfig("topk", 32, 64, 4, site="layers.1.resid_post"))
    calls = (
        lambda mask: with_pad.activations(tokens, ["layers.1.resid_post"], attention_mask=mask),
        lambda mask: with_pad.all_activations(tokens, attention_mask=mask),
        lambda mask: with_pad.logits(tokens, attention_mask=mask),
        lambda mask: with_pad.prefix(tokens, "layers.1.resid_post", attention_mask=mask),
        lambda mask: evaluate(with_pad, sae, tokens, attention_mask=mask, n_bootstrap=5),
    )
    for call in calls:
        with pytest.raises(
            UserError, match=r"3 of 4 rows begin or end with the padding token 255, and no attention_mask"
        ):
            call(None)
        call(torch.ones_like(tokens))


def test_a_padding_token_that_texts_hold_gets_a_warning_where_it_is_doubled(tiny_model, rows, recwarn):
    model = tiny_model("llama")
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    model = LanguageModel(model.module, tokenizer, name="x", fingerprint="x")
    ended = padded(rows, "right", 7)[0]
    ended[0, -1] = 256
    model.logits(ended)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="several of token 256, which pads, and are read as text"):
        model.logits(padded(rows, "right", 256)[0])
    tokens, mask = padded(rows, "right", 256)
    recwarn.clear()
    model.logits(tokens, attention_mask=mask)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 12), r"attention_mask has shape \[4, 12\] and tokens \[4, 13\]"),
        (torch.full((4, 13), 0.5), "must hold 1 at text and 0 at padding"),
        (
            torch.tensor([1, 1, 0, 1])[:, None].expand(4, 13),
            "row 2 of attention_mask is all padding; leave that row out",
        ),
        ("left", "attention_mask must be"),
    ],
)
def test_masks_that_do_not_fit(mask, message, tiny_model, rows):
    with pytest.raises(UserError, match=message):
        tiny_model("llama").logits(padded(rows, "right")[0], attention_mask=mask)


def test_a_start_brings_its_mask_and_takes_no_other(tiny_model, rows):
    model = tiny_model("llama")
    tokens, mask = padded(rows, "left")
    start = model.prefix(tokens, "layers.2.resid_post", attention_mask=mask)
    assert torch.equal(model.logits(tokens, start=start), model.logits(tokens, start=start, attention_mask=mask))
    tokens = torch.zeros(1, 4, dtype=torch.long)
    start = model.prefix(tokens, "layers.2.resid_post", attention_mask=torch.tensor([[1, 1, 0, 0]]))
    with pytest.raises(ValueError, match="another attention_mask"):
        model.logits(tokens, start=start, attention_mask=torch.tensor([[1, 1, 1, 0]]))


def test_tokens_as_people_have_them(tiny_model):
    model = tiny_model("llama")
    expected = model.logits(torch.tensor([[1, 2, 3]]))
    assert torch.equal(model.logits([[1, 2, 3]]), expected)
    assert torch.equal(model.logits(np.array([[1, 2, 3]], dtype=np.int32)), expected)
    for tokens, message in (
        (torch.tensor([1, 2, 3]), r"give a single row as tokens\[None\]"),
        ([[1, 2], [3]], "a list that is no such table"),
        ({"input_ids": [[1]]}, "give its input_ids"),
        ("Hello", "a str that is no such table"),
        (torch.ones(1, 3, dtype=torch.bool), "torch.bool"),
    ):
        with pytest.raises(UserError, match=message):
            model.logits(tokens)
