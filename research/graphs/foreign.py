"""Is an attribution graph the same here and in circuit-tracer, on the same model, transcoders and prompt?

    python -m research.graphs.foreign --circuit-tracer ENVIRONMENT/bin/python

ENVIRONMENT has circuit-tracer (`pip install circuit-tracer`; it pins transformers below 5, so it needs one of its own).
Models are tiny random ones of three families, with norms behind sublayers, soft caps and windows (gemma2), grouped
queries and gated MLPs (llama), LayerNorm, biases and learned positions (gpt2). Transcoders, one for each MLP: JumpReLU
ones written here as a circuit-tracer set (`ours`, with and without a linear path), and a set that circuit-tracer writes
itself (`theirs`). Both sides take all active latents as nodes. Compared: which latents are active, their activations,
the logits, and every effect of the adjacency matrix.

Differences are shares of the largest value of the same row (a target's effects), and of the largest activation. Token
nodes of gpt2 differ by intent: here they hold the learned positions too, which circuit-tracer leaves to no node.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import monosemy
from monosemy.saes.base import SaeConfig
from monosemy.saes.formats import export
from monosemy.saes.formats.exported import write_exported
from monosemy.saes.registry import architecture
from monosemy.saes.transforms import Transforms
from research.graphs.tables import foreign_table
from research.records import record_path, write_record

PROMPT = "A graph says what computes what."
D_SAE = 128
SIZES = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
GROUPED = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
GROUPED |= {"intermediate_size": 48, "max_position_embeddings": 64, **SIZES}
WINDOWED = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5, "attn_logit_softcapping": 5.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": (
        "Gemma2Config",
        {**GROUPED, **WINDOWED, "layer_types": ["full_attention", "sliding_attention"] * 2},
    ),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, **SIZES}),
    "llama": ("LlamaConfig", GROUPED),
}


def save_model(family: str, folder: Path) -> None:
    """Writes a random model of the family, a tokenizer of bytes, and the prompt's token ids."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings)
    module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    module.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
    fast.save_pretrained(folder)
    tokens = [256, *fast(PROMPT)["input_ids"]]
    (folder / "tokens.json").write_text(json.dumps(tokens))


def write_set(folder: Path, n_layers: int, d_model: int, *, skip: bool) -> None:
    """A set of random JumpReLU transcoders, written by this library."""
    generator = torch.Generator().manual_seed(3)
    for layer in range(n_layers):
        transforms = Transforms(subtract_b_dec=False, skip=skip, transcoder=True)
        sites = {"site": f"layers.{layer}.mlp_in", "site_out": f"layers.{layer}.mlp_out_post"}
        config = SaeConfig("jumprelu", d_model, D_SAE, 16.0, model="tiny", transforms=transforms, **sites)
        sae = architecture("jumprelu")(config)
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                if name == "threshold":
                    parameter.uniform_(0.5, 1.0, generator=generator)
                elif name != "W_dec":
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / d_model**0.5)
        write_exported(export(sae, "circuit-tracer"), folder)


def make_cases(root: Path) -> None:
    """Models and the sets that this library writes, in a folder for each family."""
    for family in FAMILIES:
        save_model(family, root / family)
        for name, skip in (("ours", False), ("ours-skip", True)):
            write_set(root / family / name, 4, 32, skip=skip)


def difference(folder: Path, name: str) -> dict[str, Any]:
    """Our graph of a set against the one that circuit-tracer saved."""
    tokens = json.loads((folder / "tokens.json").read_text())
    theirs = load_file(folder / f"graph-{name}.safetensors")
    model = monosemy.load_model(str(folder))
    graph = monosemy.attribute(model, folder / name, tokens, max_latents=100_000)
    n, n_logits = graph.n_latents, graph.n_logits
    adjacency = theirs["adjacency"]
    rows = torch.cat([adjacency[:n], adjacency[-n_logits:]])[:, :-n_logits] if len(adjacency) > n_logits else adjacency
    order = torch.argsort(theirs["logits"])
    own_order = torch.argsort(graph.logit_ids)
    same_nodes = bool(torch.equal(graph.latents.long(), theirs["features"].long()))
    same_logits = bool(torch.equal(graph.logit_ids[own_order].long(), theirs["logits"][order].long()))
    result = {"latents": n, "logits": n_logits, "same_nodes": same_nodes, "same_logits": same_logits}
    if not same_nodes or not same_logits:
        return result
    own = torch.cat([graph.effects[:n], graph.effects[n:][own_order]]).double()
    rows = torch.cat([rows[:n], rows[n:][order]]).double()
    largest = rows.abs().amax(1, keepdim=True).clamp_min(1e-30)
    gaps = (own - rows).abs() / largest
    activations = theirs["activations"].double()
    probabilities = (graph.probabilities[own_order].double() - theirs["probabilities"][order].double()).abs().max()
    return result | {
        "edges": int((rows != 0).sum()),
        "effects": float(gaps[:, : -len(tokens)].max()),
        "token_effects": float(gaps[:, -len(tokens) :].max()),
        "activations": float((graph.activations.double() - activations).abs().max() / activations.max()),
        "probabilities": float(probabilities),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--circuit-tracer", required=True, help="The Python of an environment that has circuit-tracer.")
    parser.add_argument(
        "--folder", type=Path, help="Where models, sets and graphs are kept; what is there is not made again."
    )
    parser.add_argument("--out", type=Path, default=record_path("graphs", "foreign"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        if not (root / "versions.json").is_file():
            make_cases(root)
            side = Path(__file__).with_name("circuit_tracer_side.py")
            subprocess.run([arguments.circuit_tracer, str(side), str(root)], check=True)
        differences = {
            family: {name: difference(root / family, name) for name in ("ours", "ours-skip", "theirs")}
            for family in FAMILIES
        }
        record = {"versions": json.loads((root / "versions.json").read_text()), "differences": differences}
    write_record(arguments.out, record)
    print(foreign_table(differences))


if __name__ == "__main__":
    main()
