"""Evaluation on the real embedded model with a few hundred tokens of text."""

import pytest
import torch
from torch.nn import functional

from monosemy.evals.controls import fit_pca
from monosemy.evals.model_loss import evaluate_model_loss
from monosemy.evals.reconstruction import evaluate_reconstruction
from monosemy.evals.splice import IdentityDictionary, check_splice

pytestmark = pytest.mark.integration

SITE = "layers.12.resid_post"
TEXT = """The river rises in the mountains north of the town and flows south for two hundred miles before it reaches
the sea. For most of its length it is slow and wide, and until the railway came in 1871 it carried all the grain of the
valley to the harbour. The first bridge was built of wood by the monks of the abbey, who charged every traveller one
penny; it burned down twice and was replaced by a stone bridge of seven arches, which still stands. In summer the water
is low enough to cross on foot near the old mill, but in spring, when the snow melts, the lower streets of the town
are often flooded. The museum on the market square shows photographs of the great flood of 1926, when the water stood
two metres high in the church and people were rescued from their roofs by boat. Today the town has about nine thousand
inhabitants. Most of them work in the paper factory, in the hospital or at the small university, which is known for
its school of music. Every year in September a festival brings choirs from all over the country to the banks of the
river. The festival ends with a concert at night, during which hundreds of paper lanterns are set on the water."""


@pytest.fixture(scope="module")
def data(embedded_model):
    ids = embedded_model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor(ids[: len(ids) // 48 * 48]).view(-1, 48)
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, 0] = False  # the massive activation
    return tokens, keep


@pytest.fixture(scope="module")
def measured(embedded_model, data):
    tokens, keep = data
    rows = embedded_model.activations(tokens, [SITE])[SITE][keep]
    basis = fit_pca([rows])
    saes = {f"pca-l0_{k}": basis.dictionary(k) for k in (2, 8, 32)}
    saes["identity"] = IdentityDictionary(rows.shape[1])
    saes["whole"] = basis.dictionary(rows.shape[1])
    return rows, saes, evaluate_model_loss(embedded_model, SITE, saes, tokens, keep)


def test_splice_check_is_exactly_zero(embedded_model, data, measured):
    assert check_splice(embedded_model, SITE, *data) == 0.0
    identity = measured[2].records["identity"]
    assert (identity.delta_loss, identity.kl, identity.loss_recovered) == (0.0, 0.0, 1.0)


def test_clean_loss_is_the_loss_of_the_model_itself(embedded_model, data, measured):
    tokens, keep = data
    with torch.no_grad():
        logits = embedded_model.module(tokens).logits[:, :-1]
    at = keep[:, :-1]
    expected = functional.cross_entropy(logits[at], tokens[:, 1:][at])
    assert measured[2].clean_loss == pytest.approx(float(expected), rel=1e-5)
    assert measured[2].n_loss_tokens == int(at.sum())
    assert 1.5 < measured[2].clean_loss < 4.5  # nats per token of plain English
    assert measured[2].zero_loss > measured[2].clean_loss + 2


def test_spliced_loss_matches_a_hook_on_the_model(embedded_model, data, measured):
    tokens, keep = data
    sae = measured[1]["pca-l0_8"]

    def replace(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        x_hat = sae.decode(sae.encode(hidden.reshape(-1, hidden.shape[-1]))).view_as(hidden)
        new = torch.where(keep[..., None], x_hat, hidden)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    with torch.no_grad():
        clean = embedded_model.module(tokens).logits[:, :-1]
        handle = embedded_model.module.model.layers[12].register_forward_hook(replace)
        try:
            spliced = embedded_model.module(tokens).logits[:, :-1]
        finally:
            handle.remove()
    at, targets = keep[:, :-1], tokens[:, 1:]
    delta = functional.cross_entropy(spliced[at], targets[at]) - functional.cross_entropy(clean[at], targets[at])
    kl = functional.kl_div(
        spliced[at].log_softmax(-1), clean[at].log_softmax(-1), log_target=True, reduction="batchmean"
    )
    record = measured[2].records["pca-l0_8"]
    assert record.delta_loss == pytest.approx(float(delta), abs=1e-4)
    assert record.kl == pytest.approx(float(kl), abs=1e-4)


def test_more_components_lose_less_in_every_measure(measured, data):
    rows, saes, losses = measured
    documents = torch.arange(len(rows)) // 47
    pca_saes = {name: sae for name, sae in saes.items() if name.startswith("pca")}
    fvus = [r.record.fvu for r in evaluate_reconstruction(pca_saes, [(rows, documents)], site=SITE).values()]
    records = [losses.records[name] for name in pca_saes]
    assert fvus == sorted(fvus, reverse=True)
    assert [r.kl for r in records] == sorted((r.kl for r in records), reverse=True)
    assert [r.loss_recovered for r in records] == sorted(r.loss_recovered for r in records)
    assert records[0].delta_loss > 0.5
    assert abs(losses.records["whole"].delta_loss) < 1e-3
    for record in records:
        assert record.delta_loss_interval[0] < record.delta_loss < record.delta_loss_interval[1]


def test_the_first_position_must_keep_its_activation(embedded_model, data, measured):
    """Splicing position 0 too, whose norm is dozens of times the others', does damage that no SAE is to blame for."""
    tokens, keep = data
    sae = measured[1]["pca-l0_32"]
    everywhere = torch.ones_like(keep)
    spoiled = evaluate_model_loss(embedded_model, SITE, {"pca": sae}, tokens, everywhere).records["pca"]
    assert spoiled.delta_loss > measured[2].records["pca-l0_32"].delta_loss + 0.5
