"""Do the defaults hold on small models of other families? Dead latents and FVU on four models trained for it.

    python -m research.frontier.families --folder runs/families            # 40 minutes on two cores; continues

Each model (GPT-2, GPT-NeoX, Llama, Gemma 2: 4 layers of 128 dimensions, 2,048 tokens of its own vocabulary) is trained
from scratch on the embedded text, then `monosemy train` with defaults trains every architecture on the residual
stream after its second layer, 1,024 latents, one pass. No setting was chosen on these models. Measured, as in a run:
the share of latents that fire on no validation token (dead), FVU, and JumpReLU's FVU against the best other
architecture's, paired over documents, with its 95% interval.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monosemy.config import TextConfig
from monosemy.data.corpora import open_documents
from monosemy.data.tokens import TokenShards, prepare_tokens
from monosemy.evals.documents import load_documents
from monosemy.evals.evaluation_file import read_evaluation
from monosemy.layout import RunFiles
from monosemy.models.sources import load_model
from monosemy.support.progress import stage
from research import common
from research.frontier.paired import paired_ratios
from research.records import record_path

SITE = "layers.1.resid_post"
N_LAYERS, D_MODEL, N_HEADS, VOCABULARY, CONTEXT = 4, 128, 4, 2_048, 128
BATCH, LEARNING_RATE, WARM_UP = 16, 2e-3, 50
TOKENIZER_PIECE = 2_000
"""Characters of each document that the tokenizer is trained on."""
VALIDATION_TOKENS = 65_536
LENGTHS = {"100k": 102_400, "500k": 512_000}
L0S = (8.0, 32.0)
ARCHITECTURES = ("jumprelu", "gated", "topk", "batch_topk", "relu")

_COMMON = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 4 * D_MODEL,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        {
            "n_embd": D_MODEL,
            "n_layer": N_LAYERS,
            "n_head": N_HEADS,
            "n_positions": CONTEXT,
            "vocab_size": VOCABULARY,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "llama": ("LlamaConfig", _GROUPED),
    "gemma2": ("Gemma2Config", {**_GROUPED, "head_dim": 32, "query_pre_attn_scalar": 32}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where models and runs are kept")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=500, help="of each model's training, 2,048 tokens each")
    parser.add_argument("--out", type=Path, default=record_path("frontier", "families"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    losses: dict[str, float] = {}
    for family in options.families:
        folder = options.folder / family / "model"
        if not (folder / "config.json").exists():
            train_model(family, folder, options.steps)
        losses[family] = loss(folder)
        for length, n_tokens in LENGTHS.items():
            run = options.folder / family / length
            train_saes(folder, run, n_tokens)
            rows += [{"family": family, "tokens": length} | row for row in measured(run)]
    common.save(options.out, {"site": SITE, "uniform": math.log(VOCABULARY), "losses": losses, "rows": rows})


def text(n_tokens: int) -> TextConfig:
    return TextConfig(context_length=CONTEXT, n_tokens=n_tokens, n_validation_tokens=VALIDATION_TOKENS)


def save_tokenizer(folder: Path) -> Any:
    """A byte-pair tokenizer, trained on the beginning of every document and saved in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<eos>"], initial_alphabet=alphabet)
    pieces = (document.text[:TOKENIZER_PIECE] for document in open_documents(TextConfig()))
    tokenizer.train_from_iterator(pieces, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<eos>")
    wrapped.save_pretrained(folder)
    return wrapped


def train_model(family: str, folder: Path, n_steps: int) -> None:
    """Trains a model of a family on the embedded text and saves it: AdamW, a linear warm-up and a cosine's decay."""
    import transformers

    tokenizer = save_tokenizer(folder)
    train = prepare_tokens(text(LENGTHS["500k"]), tokenizer, f"families {VOCABULARY}").train
    name, values = FAMILIES[family]
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, name)(**values), attn_implementation="eager"
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
    )
    generator = torch.Generator().manual_seed(0)
    with stage(f"training a {family} model", total=n_steps, unit="steps") as bar:
        for _ in range(n_steps):
            ids = batch(train, generator)
            result = module(input_ids=ids, labels=ids).loss
            result.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rates.step()
            bar.advance(1)
    module.save_pretrained(folder)


def batch(train: TokenShards, generator: torch.Generator) -> torch.Tensor:
    numbers = torch.randint(train.n_sequences, (BATCH,), generator=generator).tolist()
    return torch.cat([torch.tensor(train.sequences(i, i + 1), dtype=torch.long) for i in numbers])


@torch.no_grad()
def loss(folder: Path, n_sequences: int = 64) -> float:
    """The model's mean loss over validation text, nats per token."""
    model = load_model(str(folder), device="cpu", checks=False)
    tokens = prepare_tokens(text(LENGTHS["500k"]), model.tokenizer, model.tokenizer_fingerprint)
    ids = torch.tensor(tokens.validation.sequences(0, n_sequences), dtype=torch.long)
    return float(model.module(input_ids=ids, labels=ids).loss)


def train_saes(model: Path, run: Path, n_tokens: int) -> None:
    """`monosemy train` with defaults; continues a run that was interrupted, and skips what is done."""
    sizes = {
        "--tokens": n_tokens,
        "--text.context-length": CONTEXT,
        "--text.n-validation-tokens": VALIDATION_TOKENS,
        "--training.n-passes": 1,
        "--d-sae": 8 * D_MODEL,
        "--evaluation.n-loss-tokens": 8_192,
    }
    words = [str(word) for item in sizes.items() for word in item]
    command = [sys.executable, "-m", "monosemy", "train", "demo", "--run", str(run), "--model", str(model)]
    chosen = ["--sites", SITE, "--architectures", *ARCHITECTURES, "--l0", *map(str, L0S)]
    subprocess.run([*command, *chosen, *words], check=True)


def measured(run: Path) -> list[dict[str, Any]]:
    """A row for each asked L0: FVU and dead share of every architecture, and JumpReLU against the best other one."""
    errors = load_documents(RunFiles(run).documents)[SITE]["error"]
    records = [row for row in read_evaluation(run)["records"] if row.get("architecture") in ARCHITECTURES]
    rows = []
    for l0 in L0S:
        of_l0 = {row["architecture"]: row for row in records if row["target_l0"] == l0 and row["seed"] == 0}
        names = {kind: [row["name"]] for kind, row in of_l0.items()}
        best = min((kind for kind in of_l0 if kind != "jumprelu"), key=lambda kind: of_l0[kind]["fvu"])
        (ratio,) = paired_ratios(errors, names, [("jumprelu", best)])
        rows.append({"l0": l0, "best": best, "against": [ratio.estimate, ratio.low, ratio.high], "of": summary(of_l0)})
    return rows


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """L0, FVU and dead share of each architecture."""
    return {kind: [row["l0"], row["fvu"], row["dead_fraction"]] for kind, row in rows.items()}


if __name__ == "__main__":
    main()
