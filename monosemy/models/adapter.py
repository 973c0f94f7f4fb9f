"""A language model whose activations can be read, replaced, and continued from: one thin class over forward hooks.

Place on the path: tokens → [activations at sites] → SAE; and back: reconstruction → [logits with the site replaced].

    activations(tokens, sites)          one pass, ended by the hook that reads the last site asked for
    logits(tokens, edits)               the site's activation x becomes edit(x) while the pass runs
    prefix(tokens, site) → Start        runs what lies before the site once; logits(…, start=start) skips it

The late start replaces the forward of every layer before the site by a pass-through, the last of which hands on the
stored residual stream: embeddings, masks, rotary tables, remaining layers and head run as always, so the logits are
those of the whole pass to the last bit (`checks.py` makes sure of it on load, else layers are never skipped).
With `gradients`, logits carry the gradient to whatever tensors the edits brought in (never to parameters: frozen).

Source: which module and which side is which site comes from interp-engine (`resolve_point`) on the plain transformers
model; reading and replacing are torch's forward hooks. Deviations: interp-engine's own capture runs the whole model,
ours stops early. Limits: one process, one device; models whose layers pass state beside the residual
stream (keys shared between layers) are run whole.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monosemy.config import fingerprint as hash_json
from monosemy.errors import UserError
from monosemy.models.sites import KINDS, POST_NORM_KINDS, Site, parse_site

if TYPE_CHECKING:
    from interp_engine import EagerModel

Edit = Callable[[Tensor], Tensor]
"""Takes a site's activation [B, T, d], returns its replacement of the same shape; it may be in another dtype."""


@dataclass(frozen=True)
class Start:
    """The residual stream at a layer boundary, to continue passes from."""

    tokens: Tensor
    """[B, T], on the model's device."""
    layer: int
    """First layer that a continued pass runs; 0 runs the whole model."""
    resid: Tensor | None
    """[B, T, d_model] entering `layer`; None when nothing is skipped."""


class _PassEnded(Exception):
    """Raised by the hook that read the last site, caught by the call that set it."""


class LanguageModel:
    """A causal transformer of Hugging Face's library with named sites.

    Build it with `monosemy.models.sources.load_model`. No gradients but where asked; `module` is in evaluation mode
    with frozen parameters. `tokenizer` is None for a model that came without one: its texts are token ids.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Any, *, name: str, fingerprint: str, commit: str | None = None
    ) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.commit = commit
        """The hub's commit that was loaded; None for a model from elsewhere."""
        self._engine = _engine(module, name)
        self._blocks: list[nn.Module] = list(self._engine.arch.decoder_layers)
        self.d_model: int = self._engine.d_model
        self.n_layers: int = self._engine.n_layers
        self.n_heads: int = self._engine.n_heads
        self.vocab_size: int = self._engine.vocab_size
        self.max_positions: int = _max_positions(module.config)
        self.special_token_ids = frozenset(
            _configured_special_ids(module) if tokenizer is None else _special_token_ids(tokenizer)
        )
        self.post_norms: bool = bool(self._engine.arch.quirks.sandwich_norms)
        self.parallel: bool = bool(self._engine.arch.quirks.parallel_attn_mlp)
        self.residual_multipliers: tuple[float, float] = self._engine.arch.quirks.residual_multipliers
        self.can_start_late = len(self._blocks) == self.n_layers
        # most families can leave out the product with the vocabulary at positions nobody asks for
        self._keeps_logits = "logits_to_keep" in inspect.signature(module.forward).parameters
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._refused: dict[str, str] = {}
        self._find_sites()

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Differs between tokenizers that could turn the same text into other tokens; without one, between
        vocabularies and special tokens."""
        if self.tokenizer is None:
            return hash_json(["token ids", self.vocab_size, sorted(self.special_token_ids)])
        rules = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # left behind by the last call that padded or truncated, not properties of the tokenizer
        rules |= {"padding": None, "truncation": None}
        return hash_json([rules, sorted(self.special_token_ids), self.tokenizer.eos_token_id])

    def tokenizer_for(self, work: str) -> Any:
        """The tokenizer that `work` ("steering by a prompt") needs. Raises UserError when the model has none."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer, which {work} needs; save its tokenizer (tokenizer.json, "
                "tokenizer_config.json) beside its weights"
            )
        return self.tokenizer

    # --- sites ----------------------------------------------------------------------------------------------------

    def site_names(self) -> list[str]:
        """Every site of this model, in the order a pass reaches them."""
        return list(self._places)

    def resolve(self, site: str) -> str:
        """The canonical name of a site; TransformerLens' names are accepted.

        Raises UserError: unknown name (with near matches), layer out of range, or a site this model lacks (with the
        reason and the sites the layer has).
        """
        parsed = parse_site(site, self.n_layers, post_norms=self.post_norms)
        if (name := str(parsed)) in self._places:
            return name
        here = [known for known in self._places if known.startswith(f"layers.{parsed.layer}.")]
        raise UserError(
            f"{self.name} has no site {site!r}: {self._refused[name]}; this layer has: {', '.join(here) or 'no site'}"
        )

    def site_width(self, site: str) -> int:
        """Length d of the activation vectors at a site."""
        name = self.resolve(site)
        if not name.endswith(".attn_heads"):
            return self.d_model
        projection = self._places[name][0]
        width = getattr(projection, "in_features", None)
        # GPT-2 keeps its projections as Conv1D, with weight [d_in, d_out]
        return int(width if width is not None else projection.get_parameter("weight").shape[0])

    def output_weights(self, layer: int) -> Tensor:
        """W_O of a layer by query head [H, d_head, d_model]: head h adds z_h @ W_O[h] to `layers.N.attn_out`, z_h its
        part of `layers.N.attn_heads`; a bias, where there is one, belongs to no head. Raises UserError without heads.
        """
        name = self.resolve(f"layers.{layer}.attn_heads")
        weight: Tensor = self._places[name][0].get_parameter("weight")
        width = self.site_width(name)
        if not hasattr(self._places[name][0], "in_features"):  # GPT-2's Conv1D is [d_in, d_out]
            weight = weight.T
        if tuple(weight.shape) != (self.d_model, width) or width % self.n_heads:
            raise UserError(
                f"{self.name}: the output projection of layer {layer} has shape {list(weight.shape)}, which does not "
                f"split into {self.n_heads} heads that write {self.d_model} dimensions"
            )
        return weight.T.reshape(self.n_heads, width // self.n_heads, self.d_model)

    def place(self, site: str) -> tuple[nn.Module, str]:
        """The module a site belongs to, and whether it is that module's `input` or `output`."""
        return self._places[self.resolve(site)]

    def block(self, layer: int) -> nn.Module:
        """The module of a whole layer."""
        return self._blocks[layer]

    def refuse(self, site: str, reason: str) -> None:
        """Takes a site out of service, e.g. when a self-check failed on it; `resolve` then gives the reason."""
        if self._places.pop(site, None) is not None:
            self._refused[site] = reason

    def _find_sites(self) -> None:
        kinds = [kind for kind in KINDS.values() if self.post_norms or kind.name not in POST_NORM_KINDS]
        for layer in range(self.n_layers):
            for kind in kinds:
                name = str(Site(layer, kind.name))
                try:
                    self._places[name] = self._engine.resolve_point(kind.point, layer)
                except (ValueError, RuntimeError, AttributeError) as error:
                    self._refused[name] = _first_sentence(error)

    # --- passes ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def activations(self, tokens: Tensor, sites: Sequence[str], start: Start | None = None) -> dict[str, Tensor]:
        """Activations [B, T, d] at each site, by canonical name, in the model's dtype on its device.

        tokens [B, T] integers. One pass that ends as soon as the last of the sites has been read; with `start`, one
        that begins there. Raises UserError for a site the model lacks or tokens it cannot take, ValueError for a
        `start` that does not fit.
        """
        names = [self.resolve(site) for site in sites]
        tokens = self._checked(tokens)
        if start is not None:
            self._check_start(start, tokens, names)
        with self._skipping(start):
            read = self._read(tokens, set(names), whole=False)
        if missing := sorted(set(names) - set(read)):
            raise UserError(f"{self.name} never computed {', '.join(missing)}: its layers bypass that module")
        return {name: read[name] for name in names}

    @torch.no_grad()
    def all_activations(self, tokens: Tensor) -> dict[str, Tensor]:
        """Copies of the activations at every site from one whole pass; sites whose module never runs are left out.

        For checks on few tokens: nothing is ended early and everything is kept.
        """
        return self._read(self._checked(tokens), set(self._places), whole=True)

    def _read(self, tokens: Tensor, names: set[str], *, whole: bool) -> dict[str, Tensor]:
        """One pass that keeps the activations at `names`: references and an early end, or copies and a `whole` pass."""
        read: dict[str, Tensor] = {}
        if not names:
            return read

        def reader(name: str) -> Callable[[Tensor], None]:
            def keep(value: Tensor) -> None:
                read[name] = _as_sequences(value.clone() if whole else value, tokens)
                if not whole and len(read) == len(names):
                    raise _PassEnded

            return keep

        with self._hooks() as hooks, suppress(_PassEnded):
            for name in names:
                module, side = self._places[name]
                hooks.read(module, reader(name), point=side)
            self._run(tokens)
        return read

    def logits(
        self,
        tokens: Tensor,
        edits: Mapping[str, Edit] | None = None,
        start: Start | None = None,
        *,
        last_only: bool = False,
        gradients: bool = False,
    ) -> Tensor:
        """Next-token logits [B, T, V], with the activation at each site of `edits` replaced as the pass runs.

        An edit's result is cast to the model's dtype. With `start`, layers before `start.layer` are skipped: the same
        tokens, no edits among the skipped layers. `last_only` gives those of the last position, [B, 1, V]; `gradients`
        lets gradients reach the tensors that edits bring in. Raises UserError for unknown sites, ValueError for a
        broken edit (changed shape) or a `start` that does not fit.
        """
        tokens = self._checked(tokens)
        edited = {self.resolve(site): edit for site, edit in (edits or {}).items()}
        if start is not None:
            self._check_start(start, tokens, edited)
        done: set[str] = set()

        def writer(name: str, edit: Edit) -> Edit:
            def replace(value: Tensor) -> Tensor:
                done.add(name)
                new = edit(_as_sequences(value, tokens))
                if new.numel() != value.numel() or new.shape[-1] != value.shape[-1]:
                    raise ValueError(f"the edit at {name} turned shape {tuple(value.shape)} into {tuple(new.shape)}")
                return new.to(value.dtype).reshape(value.shape)

            return replace

        with torch.set_grad_enabled(gradients), self._hooks() as hooks, self._skipping(start):
            for name, edit in edited.items():
                module, side = self._places[name]
                hooks.write(module, writer(name, edit), point=side)
            logits = self._run(tokens, last_only=last_only)
        if missing := sorted(set(edited) - done):
            raise UserError(f"{self.name} never computed {', '.join(missing)}: nothing was replaced there")
        return logits

    @torch.no_grad()
    def prefix(self, tokens: Tensor, site: str) -> Start:
        """Runs what lies before `site` once, up to the nearest layer boundary, for many passes to continue from."""
        tokens = self._checked(tokens)
        name = self.resolve(site)
        parsed = parse_site(name, self.n_layers, post_norms=self.post_norms)
        # an edit at a layer's very output needs none of that layer
        layer = parsed.layer + (parsed.kind == "resid_post")
        if layer == 0 or not self.can_start_late:
            return Start(tokens, 0, None)
        return Start(tokens, layer, self._block_output(tokens, layer - 1))

    def _block_output(self, tokens: Tensor, layer: int) -> Tensor:
        found: list[Tensor] = []

        def keep(value: Tensor) -> None:
            found.append(value)
            raise _PassEnded

        with self._hooks() as hooks, suppress(_PassEnded):
            hooks.read(self._blocks[layer], keep)
            self._run(tokens)
        return found[0]

    def _run(self, tokens: Tensor, *, last_only: bool = False) -> Tensor:
        if last_only and self._keeps_logits:
            return self.module(input_ids=tokens, use_cache=False, return_dict=True, logits_to_keep=1).logits
        logits = self.module(input_ids=tokens, use_cache=False, return_dict=True).logits
        return logits[:, -1:] if last_only else logits

    def _hooks(self) -> Any:
        from interp_engine.hooks import HookManager

        return HookManager()

    @contextmanager
    def _skipping(self, start: Start | None) -> Iterator[None]:
        """Layers before `start.layer` hand their input on; the last of them hands on `start.resid` instead."""
        skipped = self._blocks[: start.layer] if start is not None else []
        replaced: list[tuple[nn.Module, Any]] = []
        try:
            for index, block in enumerate(skipped):
                last = index == len(skipped) - 1
                replaced.append((block, block.__dict__.get("forward")))
                block.__dict__["forward"] = _pass_through(start.resid if start is not None and last else None)
            yield
        finally:
            for block, own in replaced:
                del block.__dict__["forward"]
                if own is not None:  # an instance's own forward, as accelerate sets it
                    block.__dict__["forward"] = own

    def _check_start(self, start: Start, tokens: Tensor, wanted: Iterable[str]) -> None:
        if not torch.equal(start.tokens, tokens):
            raise ValueError("this start was made from other tokens")
        for name in wanted:
            site = parse_site(name, self.n_layers, post_norms=self.post_norms)
            if site.layer + (site.kind == "resid_post") < start.layer:
                raise ValueError(f"the start at layer {start.layer} skips the site {name}")

    def _checked(self, tokens: Tensor) -> Tensor:
        """Tokens on the model's device; UserError when the model cannot take them."""
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.numel() == 0:
            raise UserError(f"tokens must be integers of shape [B, T], got {tokens.dtype} {list(tokens.shape)}")
        if tokens.shape[1] > self.max_positions:
            raise UserError(
                f"{tokens.shape[1]} tokens per sequence exceed the {self.max_positions} positions of {self.name}; "
                "choose a smaller context length"
            )
        if tokens.device.type == "cpu" and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise UserError(
                f"token ids {int(tokens.min())} to {int(tokens.max())} lie outside 0 to {self.vocab_size - 1} of "
                f"{self.name}; tokenise with this model's own tokenizer"
            )
        return tokens.to(self.device, torch.long)


def _engine(module: nn.Module, name: str) -> EagerModel:
    """interp-engine's view of the module, used to find sites only.

    It gets a stand-in for the tokenizer, because it would set a padding token on ours.
    """
    from interp_engine import EagerModel

    no_tokenizer = SimpleNamespace(pad_token="", encode=lambda text: [])
    try:
        return EagerModel(name, hf_model=module, tokenizer=no_tokenizer)
    except (ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{name} ({type(module).__name__}) is not a decoder whose layers can be found: {_first_sentence(error)}"
        ) from error


def _pass_through(resid: Tensor | None) -> Callable[..., Tensor]:
    """A layer's forward that hands on its input, or `resid` when given."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return resid if resid is not None else kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    return forward


def _as_sequences(value: Tensor, tokens: Tensor) -> Tensor:
    """[B, T, d] from a module that flattens sequences to [B · T, d] (OPT's MLP) or splits heads [B, T, H, d_head]."""
    n_sequences, n_positions = tokens.shape
    return value.reshape(n_sequences, n_positions, -1)


def _special_token_ids(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}


def _configured_special_ids(module: nn.Module) -> set[int]:
    """Begin, end and padding as the model's own configurations name them: all that is known without a tokenizer."""
    config: Any = module.config
    places = (config, config.get_text_config(), getattr(module, "generation_config", None))
    fields = ("bos_token_id", "eos_token_id", "pad_token_id")
    values = [getattr(place, field, None) for place in places for field in fields]
    lists = [value if isinstance(value, list | tuple) else [value] for value in values]
    return {number for numbers in lists for number in numbers if number is not None}


def _max_positions(config: Any) -> int:
    """Longest sequence the model takes; 2³¹ − 1 where its positions know no end (ALiBi)."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or 2**31 - 1)


def _first_sentence(error: Exception) -> str:
    """An engine's long refusal, cut to its first sentence, on one line."""
    text = " ".join(str(error).split())
    return re.split(r"(?<=[a-z)'`\"])\. (?=[A-Z'`])", text)[0].rstrip(".")
