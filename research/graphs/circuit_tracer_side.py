"""circuit-tracer's half of the comparison, run by `foreign.py` in an environment of its own; it imports no monosemy.

    python circuit_tracer_side.py FOLDER

FOLDER holds a subfolder for each model: the model of transformers, `tokens.json`, and sets of transcoders. For each, a
further set is written by circuit-tracer itself (`theirs`, ReLU with a linear path), and the graph of every set is saved
as `graph-SET.safetensors`: features [n, 3] (layer, position, latent), activations [n], adjacency [nodes, nodes] and
logits.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
import yaml
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.utils.hf_utils import load_transcoders
from safetensors.torch import save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gemma_weights,
    convert_gpt2_weights,
    convert_llama_weights,
)
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

WIDTH = 96
"""Latents of each transcoder of the set that is made here."""


def lens_config(config) -> HookedTransformerConfig:
    """TransformerLens' configuration of a transformers model, float32."""
    common = {"d_vocab": config.vocab_size, "dtype": torch.float32, "device": "cpu", "model_name": config.model_type}
    if config.model_type == "gpt2":
        return HookedTransformerConfig(
            n_layers=config.n_layer,
            d_model=config.n_embd,
            n_heads=config.n_head,
            d_head=config.n_embd // config.n_head,
            n_ctx=config.n_positions,
            d_mlp=4 * config.n_embd,
            act_fn="gelu_new",
            normalization_type="LN",
            eps=config.layer_norm_epsilon,
            **common,
        )
    gemma = config.model_type == "gemma2"
    d_head = config.head_dim or config.hidden_size // config.num_attention_heads
    own = {}
    if gemma:
        own = {
            "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping,
            "use_normalization_before_and_after": True,
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local" if kind.startswith("sliding") else "global" for kind in config.layer_types],
        }
    rotary = config.rope_theta if hasattr(config, "rope_theta") else config.rope_parameters["rope_theta"]
    return HookedTransformerConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_head=d_head,
        n_ctx=config.max_position_embeddings,
        d_mlp=config.intermediate_size,
        act_fn="gelu_pytorch_tanh" if gemma else "silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_base=int(rotary),
        rotary_dim=d_head,
        **own,
        **common,
    )


CONVERT = {"gemma2": convert_gemma_weights, "gpt2": convert_gpt2_weights, "llama": convert_llama_weights}


def replacement_model(folder: Path, transcoders: TranscoderSet) -> TransformerLensReplacementModel:
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", torch_dtype=torch.float32)
    # The file alone: the tokenizer's class was written by a newer transformers than this environment has.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="<s>")
    config = lens_config(module.config)
    model = TransformerLensReplacementModel(config)
    model.tokenizer = tokenizer  # later: TransformerLens would open it again by its name on the hub
    weights = CONVERT[module.config.model_type](module, config)
    missing, unexpected = model.load_state_dict({k: v.detach() for k, v in weights.items()}, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith(("IGNORE", "mask", "rotary_sin", "rotary_cos", "unembed.b_U")) for name in missing), (
        missing
    )
    model._configure_replacement_model(transcoders)
    return model


def own_set(folder: Path, n_layers: int, d_model: int) -> None:
    """A set written by circuit-tracer: ReLU latents of random weights, of which about a fifth fire, a linear path."""
    generator = torch.Generator().manual_seed(7)
    members = {}
    for layer in range(n_layers):
        member = SingleLayerTranscoder(d_model, WIDTH, F.relu, layer, skip_connection=True, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in member.named_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / d_model**0.5)
                if name == "b_enc":
                    parameter.fill_(-0.8)
        members[layer] = member
    TranscoderSet(members, "mlp.hook_in", "hook_mlp_out").to_safetensors(str(folder))
    settings = {"model_name": "tiny", "model_kind": "transcoder_set", "scan": "tiny"}
    settings |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def open_set(folder: Path) -> TranscoderSet:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    files = sorted(folder.glob("layer_*.safetensors"), key=lambda path: int(path.stem.removeprefix("layer_")))
    paths = {layer: str(path) for layer, path in enumerate(files)}
    with patch("circuit_tracer.utils.hf_utils.resolve_transcoder_paths", lambda config: paths):  # not on a hub
        return load_transcoders(settings, device=torch.device("cpu"), lazy_decoder=False)


def main(root: Path) -> None:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        settings = json.loads((folder / "config.json").read_text())
        n_layers = settings.get("num_hidden_layers") or settings["n_layer"]
        own_set(folder / "theirs", n_layers, settings.get("hidden_size") or settings["n_embd"])
        tokens = torch.tensor(json.loads((folder / "tokens.json").read_text()))
        for place in sorted(path for path in folder.iterdir() if path.is_dir()):
            model = replacement_model(folder, open_set(place))
            graph = attribute(tokens, model, max_n_logits=10, desired_logit_prob=0.95, batch_size=64)
            tensors = {
                "features": graph.active_features,
                "activations": graph.activation_values,
                "adjacency": graph.adjacency_matrix,
                "logits": graph.logit_token_ids,
                "probabilities": graph.logit_probabilities,
            }
            save_file(
                {k: v.detach().contiguous() for k, v in tensors.items()}, folder / f"graph-{place.name}.safetensors"
            )
    names = ("circuit-tracer", "transformer-lens", "transformers", "torch")
    (root / "versions.json").write_text(json.dumps({name: version(name) for name in names}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
