"""Spliced losses of a small hand-made language model against direct computation with torch's own functions."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from graph_cases import random_transcoder
from torch.nn import functional

from monosemy.config import ActivationsConfig
from monosemy.errors import UserError
from monosemy.evals.controls import fit_pca
from monosemy.evals.model_loss import LossText, evaluate_model_loss, evaluate_model_losses, n_passes
from monosemy.evals.splice import IdentityDictionary, check_splice, splice
from monosemy.latents import SparseLatents

SITE = "layers.0.resid_post"
D, V, B, T = 8, 31, 9, 14


class CausalModel:
    """logits = tanh(x + running mean of x) U at a site x = embedding: each position sees itself and those before."""

    vocab_size = V

    def __init__(self, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(V, D, generator=generator).to(dtype)
        self.unembedding = (2 * torch.randn(D, V, generator=generator)).to(dtype)
        self.n_prefixes, self.batches = 0, []

    def site_width(self, site):
        return D

    def prefix(self, tokens, site, *, attention_mask=None, start=None):
        self.n_prefixes += 1
        return self.embedding[tokens]

    def logits(self, tokens, edits=None, start=None):
        self.batches.append(len(tokens))
        x = self.embedding[tokens] if start is None else start
        if edits and SITE in edits:
            x = edits[SITE](x)
        running = x.float().cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return torch.tanh(x + running.to(x.dtype)) @ self.unembedding


class Rounding:
    """x̂ = x rounded to `step`: the coarser, the more is lost."""

    d_sae = d_in = D

    def __init__(self, step):
        self.step = step

    def encode(self, x):
        return SparseLatents.from_dense((x / self.step).round() * self.step)

    def decode(self, latents):
        return latents.to_dense()


@pytest.fixture
def data():
    """Text that the model itself wrote, so that it predicts it well and zeros do harm; and random kept positions."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, V, (B, 1), generator=generator)
    while tokens.shape[1] < T:
        following = CausalModel().logits(tokens)[:, -1].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(following, 1, generator=generator)], dim=1)
    keep = torch.rand(B, T, generator=generator) > 0.2
    keep[:, 0] = False
    return tokens, keep


def direct(model, sae, tokens, keep):
    """(CE, KL) over predictions made at kept positions, from one full pass per sequence."""
    losses, kls = [], []
    for tokens_T, keep_T in zip(tokens, keep):
        x = model.embedding[tokens_T[None]].clone()
        x_hat = torch.zeros_like(x[0]) if sae is None else sae.decode(sae.encode(x[0]))
        edited = torch.where(keep_T[:, None], x_hat, x[0])[None]
        clean = model.logits(tokens_T[None])[0, :-1].double().log_softmax(-1)
        spliced = model.logits(tokens_T[None], {SITE: lambda _, edited=edited: edited})[0, :-1].double().log_softmax(-1)
        at = keep_T[:-1]
        losses.append(functional.nll_loss(spliced[at], tokens_T[1:][at], reduction="none"))
        kls.append(functional.kl_div(spliced[at], clean[at], log_target=True, reduction="none").sum(-1))
    return float(torch.cat(losses).mean()), float(torch.cat(kls).mean())


def test_losses_match_direct_computation(data):
    model, saes = CausalModel(), {"fine": Rounding(0.3), "coarse": Rounding(2.0)}
    losses = evaluate_model_loss(model, SITE, saes, *data)
    clean, _ = direct(model, IdentityDictionary(D), *data)
    zero, _ = direct(model, None, *data)
    assert losses.clean_loss == pytest.approx(clean, rel=1e-6)
    assert losses.zero_loss == pytest.approx(zero, rel=1e-6)
    assert losses.n_loss_tokens == int(data[1][:, :-1].sum())
    for name, sae in saes.items():
        loss, kl = direct(model, sae, *data)
        record = losses.records[name]
        assert record.delta_loss == pytest.approx(loss - clean, rel=1e-4, abs=1e-6)
        assert record.kl == pytest.approx(kl, rel=1e-4, abs=1e-6)
        assert record.loss_recovered == pytest.approx((zero - loss) / (zero - clean), rel=1e-4)
        assert record.n_loss_tokens == losses.n_loss_tokens
    assert 0 < losses.records["fine"].kl < losses.records["coarse"].kl


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_changes_nothing_at_all(data, dtype):
    record = evaluate_model_loss(CausalModel(dtype), SITE, {"identity": IdentityDictionary(D)}, *data).records[
        "identity"
    ]
    assert record.delta_loss == 0.0
    assert record.kl == 0.0
    assert record.delta_loss_interval == (0.0, 0.0)
    assert record.loss_recovered == 1.0
    assert check_splice(CausalModel(dtype), SITE, *data) == 0.0


def test_dropped_positions_keep_their_activation_in_every_splice(data):
    _, keep = data
    x = torch.randn(B, T, D)
    for dictionary in (None, Rounding(1.0)):
        edited = splice(dictionary, keep)(x)
        assert torch.equal(edited[~keep], x[~keep])
        assert not torch.equal(edited[keep], x[keep])
    assert (splice(None, keep)(x)[keep] == 0).all()


def test_batching_changes_nothing_and_shares_the_prefix(data):
    whole, parts = CausalModel(), CausalModel()
    saes = {"a": Rounding(0.5), "b": Rounding(1.5)}
    one_batch = evaluate_model_loss(whole, SITE, saes, *data, batch_sequences=B)
    many = evaluate_model_loss(parts, SITE, saes, *data, batch_sequences=2)
    for name in saes:
        assert many.records[name].delta_loss == pytest.approx(one_batch.records[name].delta_loss, rel=1e-5)
        assert many.records[name].kl_interval == pytest.approx(one_batch.records[name].kl_interval, rel=1e-5)
    assert parts.n_prefixes == 1 + 5  # the splice check, then once per batch
    assert max(parts.batches) == 2


def test_documents_are_the_blocks_and_those_without_counted_tokens_are_none(data):
    tokens, keep = data
    documents = torch.arange(B * T).view(B, T) // 9  # boundaries inside sequences
    keep = keep & (documents != 3)
    by_document = evaluate_model_loss(CausalModel(), SITE, {"a": Rounding(1.0)}, tokens, keep, documents=documents)
    renumbered = documents.clone()
    renumbered[documents == 3] = 2  # no token counts there, so whose it is must not matter
    same = evaluate_model_loss(CausalModel(), SITE, {"a": Rounding(1.0)}, tokens, keep, documents=renumbered)
    assert by_document == same
    by_sequence = evaluate_model_loss(CausalModel(), SITE, {"a": Rounding(1.0)}, tokens, keep)
    assert by_sequence.records["a"].delta_loss == pytest.approx(by_document.records["a"].delta_loss, rel=1e-12)
    assert by_sequence.records["a"].delta_loss_interval != by_document.records["a"].delta_loss_interval


def test_paired_differences_give_tight_intervals(data):
    losses = evaluate_model_loss(CausalModel(), SITE, {"fine": Rounding(0.05)}, *data)
    record = losses.records["fine"]
    low, high = record.delta_loss_interval
    assert low <= record.delta_loss <= high
    assert high - low < 0.05 * (losses.clean_loss_interval[1] - losses.clean_loss_interval[0])
    assert record.loss_recovered_interval[0] <= record.loss_recovered <= record.loss_recovered_interval[1]


def test_sequences_with_nothing_counted_are_skipped(data):
    tokens, keep = data
    keep = keep.clone()
    keep[2:5] = False
    keep[5] = torch.tensor([False] * (T - 1) + [True])  # the last position predicts nothing
    done = []
    losses = evaluate_model_loss(
        CausalModel(), SITE, {"a": Rounding(1.0)}, tokens, keep, batch_sequences=1, advance=done.append
    )
    rest = [0, 1, 6, 7, 8]
    alone = evaluate_model_loss(CausalModel(), SITE, {"a": Rounding(1.0)}, tokens[rest], keep[rest])
    # batches of other sizes: products round otherwise, by some 8 · 2⁻²⁴ of logits of up to 10
    assert losses.records["a"].delta_loss == pytest.approx(alone.records["a"].delta_loss, rel=1e-5)
    assert losses.records["a"].delta_loss_interval == pytest.approx(alone.records["a"].delta_loss_interval, rel=1e-5)
    assert sum(done) == tokens.numel() * n_passes({"a": Rounding(1.0)})


def test_loss_recovered_is_unknown_when_zeros_do_no_damage(data):
    """A model that predicts the opposite of the text: zeros help it, so there is nothing to recover."""
    tokens, keep = data
    tokens = (torch.arange(T) % 2).expand(B, T).contiguous()
    model = CausalModel()
    model.embedding[:2] = 0
    model.embedding[0, 0] = model.embedding[1, 1] = 5.0
    model.unembedding = torch.zeros(D, V)
    model.unembedding[0, 2] = model.unembedding[1, 3] = 9.0
    losses = evaluate_model_loss(model, SITE, {"a": Rounding(1.0)}, tokens, keep)
    assert losses.zero_loss < losses.clean_loss
    assert losses.records["a"].loss_recovered is None
    assert losses.records["a"].loss_recovered_interval is None


class TestSpliceCheck:
    def test_a_model_that_ignores_edits_is_found_out(self, data):
        class Deaf(CausalModel):
            def logits(self, tokens, edits=None, start=None):
                return super().logits(tokens, None, start)

        with pytest.raises(RuntimeError, match="edits do not reach the model"):
            evaluate_model_loss(Deaf(), SITE, {"a": Rounding(1.0)}, *data)

    def test_a_splice_that_is_not_exact_is_found_out(self, data):
        class Inexact(CausalModel):
            def logits(self, tokens, edits=None, start=None):
                edits = {SITE: lambda x: edits_before[SITE](x) * 1.000001} if (edits_before := edits) else None
                return super().logits(tokens, edits, start)

        with pytest.raises(RuntimeError, match="identity dictionary changed the logits by up to"):
            check_splice(Inexact(), SITE, *data)


class TestBadInput:
    def test_nothing_kept(self, data):
        tokens, keep = data
        last_only = torch.zeros_like(keep)
        last_only[:, -1] = True
        for nothing in (torch.zeros_like(keep), last_only):
            with pytest.raises(UserError, match="no validation rows"):
                evaluate_model_loss(CausalModel(), SITE, {"a": Rounding(1.0)}, tokens, nothing)

    def test_shapes(self, data):
        with pytest.raises(UserError, match=r"\(9, 14\) but the kept positions \(9, 13\)"):
            # its own check, which those of shapes in tests would come before
            inspect.unwrap(LossText.__post_init__)(SimpleNamespace(tokens=data[0], keep=data[1][:, 1:]))

    def test_not_finite_reconstruction_names_the_sae(self, data):
        with pytest.raises(UserError, match=r"SAE 'broken' at layers\.0\.resid_post.*NaN"):
            evaluate_model_loss(CausalModel(), SITE, {"fine": Rounding(1.0), "broken": Rounding(np.nan)}, *data)

    def test_width(self, data):
        wide = Rounding(1.0)
        wide.d_in = 5
        with pytest.raises(UserError, match=r"'wide' reads activations 5 wide, but layers\.0\.resid_post is 8 wide"):
            evaluate_model_loss(CausalModel(), SITE, {"wide": wide}, *data)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "gpt2", "opt"])
def test_transformers_models_at_every_kind_of_site(tiny_model, family):
    """Identity changes nothing, and sparser principal components lose more, wherever the model can be read."""
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 256, (6, 20), generator=generator)
    keep = torch.ones(6, 20, dtype=torch.bool)
    keep[:, 0] = False
    sites = [site for site in model.site_names() if site.startswith("layers.2.")]
    assert len(sites) >= 5
    for site in sites:
        rows = model.activations(tokens, [site])[site][keep]
        basis = fit_pca([rows])
        saes = {
            "identity": IdentityDictionary(rows.shape[1]),
            "all": basis.dictionary(rows.shape[1]),
            "few": basis.dictionary(2),
        }
        records = evaluate_model_loss(model, site, saes, tokens, keep, batch_sequences=4).records
        assert records["identity"].delta_loss == records["identity"].kl == 0.0
        assert abs(records["all"].delta_loss) < 1e-4
        assert records["all"].kl < 1e-5 < records["few"].kl


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_sites_measured_together_are_as_each_is_alone(tiny_model, family):
    """To the last bit, in any order of sites, with a dictionary that reads another site; and in fewer passes."""
    model = tiny_model(family)
    tokens = torch.randint(0, 200, (5, 30), generator=torch.Generator().manual_seed(3))
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, 0] = False
    transcoder = random_transcoder(1, d=model.site_width("layers.1.mlp_in")).float()
    saes = {
        "layers.2.resid_post": {"a": Rounding(0.5), "b": Rounding(2.0)},
        "layers.2.mlp_out": {"a": Rounding(0.5)},
        "layers.0.mlp_out": {"a": Rounding(0.5)},
        "layers.1.mlp_out": {"transcoder": transcoder, "a": Rounding(0.5)},
    }
    for site, of_site in saes.items():
        for sae in of_site.values():
            if isinstance(sae, Rounding):
                sae.d_in = sae.d_sae = model.site_width(site)
    alone = {
        site: evaluate_model_loss(model, site, of_site, tokens, keep, n_bootstrap=20, batch_sequences=2)
        for site, of_site in saes.items()
    }
    n_tokens = []
    together = evaluate_model_losses(
        model, saes, LossText(tokens, keep), n_bootstrap=20, batch_sequences=2, advance=n_tokens.append
    )
    assert together == alone
    for site in saes:
        for name, sums in alone[site].documents.sums.items():
            assert np.array_equal(together[site].documents.sums[name], sums)
    assert sum(n_tokens) == tokens.numel() * n_passes(*saes.values()) == tokens.numel() * (1 + 3 + 2 + 2 + 3)


@pytest.mark.parametrize(("kept", "n_read"), [(5, 64), (80, 81)])
def test_the_splice_check_reads_a_start_that_has_a_kept_position(kept, n_read):
    lengths = []

    class Counting(CausalModel):
        def prefix(self, tokens, site, **options):
            lengths.append(tokens.shape[1])
            return super().prefix(tokens, site, **options)

    tokens = torch.randint(0, V, (3, 100), generator=torch.Generator().manual_seed(5))
    keep = torch.zeros_like(tokens, dtype=torch.bool)
    keep[1, kept] = True
    assert check_splice(Counting(), SITE, tokens, keep) == 0.0
    assert lengths == [n_read]


def test_a_start_continues_from_another(tiny_model):
    model = tiny_model("llama")
    tokens = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(4))
    first = model.prefix(tokens, "layers.1.mlp_in")
    assert model.prefix(tokens, "layers.1.mlp_out", start=first) is first
    later, direct = (model.prefix(tokens, "layers.2.resid_post", start=start) for start in (first, None))
    assert later.layer == direct.layer == 3
    assert torch.equal(later.resid, direct.resid)
    with pytest.raises(ValueError, match=r"start at layer 3 skips the site layers\.1\.mlp_in"):
        model.prefix(tokens, "layers.1.mlp_in", start=later)


def test_evaluate_in_one_call_agrees_with_its_parts(tiny_model):
    from monosemy import SaeConfig, build_sae, evaluate
    from monosemy.evals.reconstruction import evaluate_reconstruction

    model = tiny_model("llama")
    site = "layers.1.resid_post"
    torch.manual_seed(0)
    tokens = torch.randint(0, 200, (6, 24))
    sae = build_sae(SaeConfig("topk", model.site_width(site), 64, 4, site=site))
    rules = ActivationsConfig(drop_first_positions=2, outlier_multiple=0)
    record = evaluate(model, sae, tokens, rules=rules, n_bootstrap=20)
    x = model.activations(tokens, [site])[site][:, 2:]
    rows = torch.arange(6)[:, None].expand(6, 22)
    by_hand = evaluate_reconstruction({"topk": sae}, [(x.reshape(-1, x.shape[-1]), rows.reshape(-1))])["topk"].record
    assert record["fvu"] == pytest.approx(by_hand.fvu, rel=1e-6)
    assert record["n_tokens"] == 6 * 22
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, :2] = False
    loss = evaluate_model_loss(model, site, {"topk": sae}, tokens, keep, n_bootstrap=20).records["topk"]
    assert record["delta_loss"] == pytest.approx(loss.delta_loss, abs=1e-6)
    with pytest.raises(UserError, match=r"give a single row as tokens\[None\]"):
        evaluate(model, sae, tokens[0])
    with pytest.raises(UserError, match="positions ≥ 2"):
        evaluate(model, sae, tokens[:, :1])


def test_copies_of_a_sequence_are_one_in_intervals(tiny_model):
    """Each sequence thrice: the numbers and intervals of each once; copies of one alone have no interval."""
    from monosemy import SaeConfig, build_sae, evaluate

    model, site = tiny_model("llama"), "layers.1.resid_post"
    tokens = torch.randint(0, 200, (4, 12), generator=torch.Generator().manual_seed(0))
    sae = build_sae(SaeConfig("topk", 32, 64, 4, site=site))
    once = evaluate(model, sae, tokens, n_bootstrap=50)
    with pytest.warns(UserWarning, match=r"8 of 12 sequences are copies of others.*\(4 differ\)"):
        thrice = evaluate(model, sae, tokens.repeat(3, 1), n_bootstrap=50)
    assert (thrice["n_documents"], thrice["n_sequences"]) == (4, 12)
    for key in ("fvu", "l0", "delta_loss", "kl"):
        assert thrice[key] == pytest.approx(once[key], rel=1e-4, abs=1e-6)
        assert thrice[f"{key}_interval"] == pytest.approx(once[f"{key}_interval"], rel=1e-4, abs=1e-5)
    with pytest.warns(UserWarning, match="copies of others"):
        alone = evaluate(model, sae, tokens[:1].repeat(6, 1), n_bootstrap=50)
    assert all(value is None for key, value in alone.items() if key.endswith("_interval"))


def test_an_sae_of_another_model_width_or_site_is_told(tiny_model):
    from monosemy import SaeConfig, build_sae, evaluate

    model, site = tiny_model("llama"), "layers.1.resid_post"
    tokens = torch.randint(0, 200, (3, 12), generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="trained on org/other and is evaluated on tiny llama"):
        evaluate(model, build_sae(SaeConfig("topk", 32, 64, 4, site=site, model="org/other")), tokens, n_bootstrap=5)
    with pytest.raises(UserError, match=r"reads activations 16 wide, but layers\.1\.resid_post is 32 wide"):
        evaluate(model, build_sae(SaeConfig("topk", 16, 64, 4, site=site)), tokens)
    with pytest.raises(UserError, match=r"layers\.9|layer 9"):
        evaluate(model, build_sae(SaeConfig("topk", 32, 64, 4, site="layers.9.resid_post")), tokens)
