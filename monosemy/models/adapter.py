"""A language model whose activations can be read and replaced at named sites, through forward hooks.

Place on the path: tokens → [activations at sites] → SAE; and back: reconstruction → [logits with the site replaced].

    activations(tokens, sites)          one pass, which ends as soon as the last of the sites is read
    logits(tokens, edits)               one pass, in which a site's activation x is replaced by edit(x)
    prefix(tokens, site) → Start        runs the layers before the site once; logits(…, start=start) skips them

A late start replaces the forward method of every layer before the site by a pass-through; the last of these returns the
stored residual stream. Embeddings, masks, rotary tables, the remaining layers and the head run as usual, so the logits
equal those of a whole pass to the last bit. `checks.py` verifies this on load; if it fails, layers are never skipped.
With `gradients`, gradients flow from the logits to the tensors that edits bring in, never to parameters, which are
frozen. Every pass takes an `attention_mask` for padded batches; each row then gives the same numbers as on its own
(padding.py).

The contributions of attention and MLP are what the layer adds to the residual stream. Where a layer scales a sublayer's
output before adding it (Granite), the site holds the scaled tensor, for reading and for replacing
(`contribution_scale`).

Source: interp-engine (`resolve_point`) says which module, and which side of it, each site is, on the plain transformers
model; reading and replacing use torch's forward hooks. Deviations: interp-engine's own capture runs the whole model,
while reading here stops early. Limits: one process. Models whose layers pass state beside the residual
stream, such as keys shared between layers, always run from the start.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosemy.config import fingerprint as hash_json
from monosemy.errors import UserError
from monosemy.models.architecture import find_engine, first_sentence, max_positions, special_token_ids
from monosemy.models.heads import find_projection, layer_heads, projection_matrix, projection_width
from monosemy.models.padding import Edit, Padding, check_unpadded, read_mask, read_tokens
from monosemy.models.passing import as_sequences, pass_through, unscaled
from monosemy.models.placement import input_device
from monosemy.models.sites import KINDS, POST_NORM_KINDS, Site, parse_site
from monosemy.shapes import Logits, SiteActivations, TextMask, TokenIds
from monosemy.support.notebook import facts_html, facts_line
from monosemy.support.numbers import count_text


@dataclass(frozen=True)
class Start:
    """The residual stream at a layer boundary, from which passes can continue."""

    tokens: TokenIds
    """On the model's device; padded rows have their text first."""
    layer: int
    """The first layer that a continued pass runs; 0 runs the whole model."""
    resid: Float[Tensor, "batch position d_model"] | None
    """The residual stream entering `layer`, ordered as `tokens`; None when no layer is skipped."""
    padding: Padding | None = None
    """None when every token is text."""


class _PassEnded(Exception):
    """Ends a pass early: raised by the hook that reads the last site, and caught by the call that set the hook."""


class LanguageModel:
    """A causal model of the transformers library with named sites.

    Build one with `monosemy.models.sources.load_model`. Passes compute no gradients unless asked to; `module` is in
    evaluation mode with frozen parameters. `tokenizer` is None for a model without one, whose texts are token ids.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Any, *, name: str, fingerprint: str, commit: str | None = None
    ) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.commit = commit
        """The commit that was loaded from the hub; None for a model from elsewhere."""
        self._engine = find_engine(module, name)
        self._blocks: list[nn.Module] = list(self._engine.arch.decoder_layers)
        self.d_model: int = self._engine.d_model
        # Counted, because the configuration may mean another stack's layers (the encoder's, in BART's family).
        self.n_layers: int = len(self._engine.arch.layer_slots) or len(self._blocks)
        self.vocab_size: int = self._engine.vocab_size
        self.max_positions: int = max_positions(module.config)
        self.special_token_ids = special_token_ids(module, tokenizer)
        self.post_norms: bool = bool(self._engine.arch.quirks.sandwich_norms)
        self._multipliers: tuple[float, float] = self._engine.arch.quirks.residual_multipliers
        self.can_start_late = len(self._blocks) == self.n_layers
        # Most families can skip the product with the vocabulary at positions whose logits are not needed.
        self._keeps_logits = "logits_to_keep" in inspect.signature(module.forward).parameters
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._refused: dict[str, str] = {}
        self._find_sites()
        counts = [count for count in map(self.heads_in, range(self.n_layers)) if count]
        configured = self._engine.n_heads
        self.n_heads: int = configured if configured in counts or not counts else max(set(counts), key=counts.count)
        """Attention heads per layer: the configured number if any layer has it, else that of most layers."""

    def _facts(self) -> dict[str, str]:
        sizes = {"layers": self.n_layers, "width": self.d_model, "vocabulary": self.vocab_size}
        return {name: count_text(n) for name, n in sizes.items()} | {"device": str(self.device)}

    def __repr__(self) -> str:
        return facts_line(self.name, self._facts())

    def _repr_html_(self) -> str:
        return facts_html(self.name, self._facts())

    @property
    def device(self) -> torch.device:
        """Where tokens go in; activations come from the device of their layer (placement.py)."""
        return input_device(self.module)

    @property
    def dtype(self) -> torch.dtype:
        # Of a model in 8 bits, some parameters are integers.
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def padding_names(self) -> Any:
        """The object that names the padding token: the tokenizer, or the configuration of a model without one."""
        return self.module.config if self.tokenizer is None else self.tokenizer

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """A hash that differs between tokenizers that may give different tokens for the same text.

        Without a tokenizer, it differs between vocabulary sizes and special tokens.
        """
        if self.tokenizer is None:
            return hash_json(["token ids", self.vocab_size, sorted(self.special_token_ids)])
        rules = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # State of the last call that padded or truncated, not a property of the tokenizer.
        rules |= {"padding": None, "truncation": None}
        return hash_json([rules, sorted(self.special_token_ids), self.tokenizer.eos_token_id])

    def tokenizer_for(self, work: str) -> Any:
        """The tokenizer. Raises UserError when the model has none, naming the `work` that needs it."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} has no tokenizer, which {work} needs; save its tokenizer (tokenizer.json, "
                "tokenizer_config.json) beside its weights"
            )
        return self.tokenizer

    # --- sites ----------------------------------------------------------------------------------------------------

    def site_names(self) -> list[str]:
        """Every site of this model, in the order in which a pass reaches them."""
        return list(self._places)

    def resolve(self, site: str) -> str:
        """The canonical name of a site; TransformerLens' names are accepted as well.

        Raises UserError for an unknown name (with similar ones), a layer out of range, and a site that this model lacks
        (with the reason and the sites that the layer has).
        """
        parsed = parse_site(site, self.n_layers, post_norms=self.post_norms)
        if (name := str(parsed)) in self._places:
            return name
        here = [name for name in self._places if name.startswith(f"layers.{parsed.layer}.")]
        raise UserError(
            f"{self.name} has no site {site!r}: {self._refused[name]}; this layer has: {', '.join(here) or 'no site'}"
        )

    def site_width(self, site: str) -> int:
        """The width d of the activations at a site."""
        name = self.resolve(site)
        if not name.endswith(".attn_heads"):
            return self.d_model
        width = projection_width(self._places[name][0])
        assert width is not None, name  # else _find_sites left the site out
        return width

    def contribution_scale(self, site: str) -> float:
        """The factor by which the layer multiplies the output of this site's module before adding it to the stream.

        It is 1 except for the contributions (attn_out and mlp_out, or those after post-norms) of a few families.
        Activations and edits already refer to the scaled tensor; only code that uses a module's own weights needs the
        factor.
        """
        kind = self.resolve(site).rsplit(".", 1)[-1]
        suffix = "_post" if self.post_norms else ""
        return dict(zip((f"attn_out{suffix}", f"mlp_out{suffix}"), self._multipliers, strict=True)).get(kind, 1.0)

    def heads_in(self, layer: int) -> int:
        """The number of heads whose outputs `layers.N.attn_heads` concatenates; 0 for a layer without that site."""
        if (name := f"layers.{layer}.attn_heads") not in self._places:
            return 0
        return layer_heads(self._engine, layer, self.site_width(name))

    def output_matrix(self, layer: int) -> Float[Tensor, "d_heads d_model"]:
        """W_O of a layer, [d_heads, d_model]: `attn_heads @ W_O` plus a bias is `attn_out`.

        Raises UserError for a layer without `attn_heads`, and for a projection that is not a plain matrix (quantised).
        """
        name = self.resolve(f"layers.{layer}.attn_heads")
        projection = self._places[name][0]
        matrix = projection_matrix(projection)
        if matrix is not None and matrix.device.type == "meta":
            raise UserError(
                f"{self.name}: the weights of layer {layer} lie in main memory or on disk while it does not run; "
                "load the model on one device, without --model.device-map"
            )
        if matrix is None or not matrix.is_floating_point() or matrix.shape[1] != self.d_model:
            raise UserError(
                f"{self.name}: the output projection of layer {layer} ({type(projection).__name__}) is no plain matrix "
                f"that writes {self.d_model} dimensions; load the model unquantised"
            )
        # With post-norms the factor applies after the norm, and so belongs to attn_out_post.
        return matrix if self.post_norms else matrix * self._multipliers[0]

    def output_weights(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """W_O of a layer by query head, [H, d_head, d_model].

        Head h adds z_h @ W_O[h] to `layers.N.attn_out`, where z_h is its part of `layers.N.attn_heads`. A bias belongs
        to no head. Raises UserError for a layer without heads, and for one with another number of heads than the rest.
        """
        matrix, count = self.output_matrix(layer), self.heads_in(layer)
        if count != self.n_heads or len(matrix) % count:
            raise UserError(
                f"{self.name}: layer {layer} has {count} heads over {len(matrix)} dimensions, other layers have "
                f"{self.n_heads} heads"
            )
        return matrix.reshape(count, -1, self.d_model)

    def place(self, site: str) -> tuple[nn.Module, str]:
        """The module that a site belongs to, and whether the site is its `input` or its `output`."""
        return self._places[self.resolve(site)]

    def block(self, layer: int) -> nn.Module:
        """The module of a layer."""
        return self._blocks[layer]

    @property
    def n_block_parameters(self) -> int:
        """The number of parameters of all layers, without embeddings and head."""
        return sum(parameter.numel() for block in self._blocks for parameter in block.parameters())

    def refuse(self, site: str, reason: str) -> None:
        """Removes a site, for example because it failed a self-check; `resolve` then gives the reason."""
        if self._places.pop(site, None) is not None:
            self._refused[site] = reason

    def _find_sites(self) -> None:
        """Finds the module of every site; for one without a module, keeps the reason."""
        kinds = [kind for kind in KINDS.values() if self.post_norms or kind.name not in POST_NORM_KINDS]
        for layer in range(self.n_layers):
            for kind in kinds:
                name = str(Site(layer, kind.name))
                try:
                    self._places[name] = self._resolve(kind.point, layer)
                except (ValueError, RuntimeError, AttributeError, IndexError) as error:
                    self._refused[name] = first_sentence(error)

    def _resolve(self, point: str, layer: int) -> tuple[nn.Module, str]:
        """The module and side of one of interp-engine's points. Raises interp-engine's error where there is none."""
        if point != "z":
            return self._engine.resolve_point(point, layer)
        # The heads' outputs need more care: interp-engine misses a projection that lies one module deeper.
        try:
            projection, side = self._engine.resolve_point(point, layer)
        except (ValueError, RuntimeError, AttributeError):
            projection, side = find_projection(self._engine.arch.attn_module(layer)), "input"
            if projection is None:
                raise
        if projection_width(projection) is None:
            raise ValueError(f"its output projection ({type(projection).__name__}) does not tell its width")
        return projection, side

    # --- passes ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def activations(
        self,
        tokens: TokenIds,
        sites: Sequence[str],
        start: Start | None = None,
        *,
        attention_mask: TextMask | None = None,
    ) -> dict[str, SiteActivations]:
        """Reads the activations [B, T, d] at each site, by canonical name, in the model's dtype on its device.

        `tokens` are integers [B, T]. In padded batches `attention_mask` [B, T] marks text (1) and padding (0);
        activations at padding are zero. The pass ends as soon as the last of the sites has been read, and begins at
        `start` if it is given. Raises UserError for a site that the model lacks, for tokens that it cannot take and for
        padding without a mask, and ValueError for a `start` that does not fit.
        """
        names = [self.resolve(site) for site in sites]
        tokens, padding = self._checked(tokens, attention_mask, start)
        if start is not None:
            self._check_start(start, tokens, padding, names)
        with self._skipping(start):
            read = self._read(tokens, set(names), whole=False)
        if missing := sorted(set(names) - set(read)):
            raise UserError(f"{self.name} never computed {', '.join(missing)}: its layers bypass that module")
        return {name: read[name] if padding is None else padding.as_given(read[name]) for name in names}

    @torch.no_grad()
    def all_activations(
        self, tokens: TokenIds, *, attention_mask: TextMask | None = None
    ) -> dict[str, SiteActivations]:
        """Copies the activations at every site in one whole pass; sites whose module never runs are missing.

        Meant for checks on few tokens: the pass does not end early, and all activations are in memory at once.
        """
        tokens, padding = self._checked(tokens, attention_mask)
        read = self._read(tokens, set(self._places), whole=True)
        return read if padding is None else {name: padding.as_given(value) for name, value in read.items()}

    def _read(self, tokens: TokenIds, names: set[str], *, whole: bool) -> dict[str, SiteActivations]:
        """Runs one pass and returns the activations at `names`.

        A `whole` pass returns copies. Otherwise the pass ends early and what it returns may be the model's own tensors.
        """
        read: dict[str, SiteActivations] = {}
        if not names:
            return read

        def reader(name: str) -> Callable[[Tensor], None]:
            scale = self.contribution_scale(name)

            def keep(value: Tensor) -> None:
                # A whole pass may overwrite the tensor in place later on, hence the copy.
                value = value * scale if scale != 1 else value.clone() if whole else value
                read[name] = as_sequences(value, tokens)
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
        tokens: TokenIds,
        edits: Mapping[str, Edit] | None = None,
        start: Start | None = None,
        *,
        last_only: bool = False,
        gradients: bool = False,
        attention_mask: TextMask | None = None,
    ) -> Logits:
        """Computes next-token logits [B, T, V], replacing the activation x at each site of `edits` by edit(x).

        The result of an edit is cast to the model's dtype. With `start`, layers before `start.layer` are skipped; it
        must come from the same tokens, and no edit may lie in a skipped layer. `last_only` gives the logits of each
        row's last token only, [B, 1, V]. `gradients` lets gradients reach the tensors that edits bring in.
        `attention_mask` is as in `activations`; a `start` has its own. An edit sees zeros at padding, what it returns
        there is ignored, and logits there are zero.
        Raises UserError for an unknown site and for padding without a mask, and ValueError for an edit that changes the
        shape and for a `start` that does not fit.
        """
        tokens, padding = self._checked(tokens, attention_mask, start)
        edited = {self.resolve(site): edit for site, edit in (edits or {}).items()}
        if start is not None:
            self._check_start(start, tokens, padding, edited)
        if padding is not None:
            edited = {name: padding.edit(edit) for name, edit in edited.items()}
        with torch.set_grad_enabled(gradients), self._skipping(start), self.editing(edited, tokens):
            logits = self._run(tokens, last_only=last_only and padding is None)
            if padding is None:
                return logits
            return padding.last(logits) if last_only else padding.as_given(logits)

    @contextmanager
    def editing(self, edits: Mapping[str, Edit], tokens: TokenIds) -> Iterator[None]:
        """Within the block, passes over tokens [B, T] have the activations at these sites (canonical names) replaced.

        Raises ValueError for an edit that changes the shape, and UserError at the end if a site was never computed.
        """
        done: set[str] = set()

        def writer(name: str, edit: Edit) -> Edit:
            scale = self.contribution_scale(name)

            def replace(value: Tensor) -> Tensor:
                done.add(name)
                value_BTD = as_sequences(value * scale if scale != 1 else value, tokens)
                new = edit(value_BTD)
                if new.numel() != value.numel() or new.shape[-1] != value.shape[-1]:
                    raise ValueError(f"the edit at {name} turned shape {tuple(value.shape)} into {tuple(new.shape)}")
                new = new.to(value.device, value.dtype).reshape(value.shape)
                return new if scale == 1 else unscaled(new, value, scale)

            return replace

        with self._hooks() as hooks:
            for name, edit in edits.items():
                module, side = self._places[name]
                hooks.write(module, writer(name, edit), point=side)
            yield
        if missing := sorted(set(edits) - done):
            raise UserError(f"{self.name} never computed {', '.join(missing)}: nothing was replaced there")

    @torch.no_grad()
    def prefix(
        self, tokens: TokenIds, site: str, *, attention_mask: TextMask | None = None, start: Start | None = None
    ) -> Start:
        """Runs the layers before `site` once, so that many passes can continue from there; only those from `start` on.

        The start lies at the layer boundary before the site. `tokens`, `attention_mask` and errors are as in `logits`.
        """
        tokens, padding = self._checked(tokens, attention_mask, start)
        name = self.resolve(site)
        parsed = parse_site(name, self.n_layers, post_norms=self.post_norms)
        # resid_post is the layer's output: an edit there needs nothing of that layer.
        layer = parsed.layer + (parsed.kind == "resid_post")
        if layer == 0 or not self.can_start_late:
            return Start(tokens, 0, None, padding)
        if start is not None:
            self._check_start(start, tokens, padding, [name])
            if start.layer == layer:
                return start
        return Start(tokens, layer, self._block_output(tokens, layer - 1, start), padding)

    def _block_output(
        self, tokens: TokenIds, layer: int, start: Start | None
    ) -> Float[Tensor, "batch position d_model"]:
        """The residual stream leaving a layer, [B, T, d_model], in a pass from `start` that ends there."""
        outputs: list[Tensor] = []

        def keep(value: Tensor) -> None:
            outputs.append(value)
            raise _PassEnded

        with self._skipping(start), self._hooks() as hooks, suppress(_PassEnded):
            hooks.read(self._blocks[layer], keep)
            self._run(tokens)
        return outputs[0]

    def _run(self, tokens: TokenIds, *, last_only: bool = False) -> Logits:
        if last_only and self._keeps_logits:
            return self.module(input_ids=tokens, use_cache=False, return_dict=True, logits_to_keep=1).logits
        logits = self.module(input_ids=tokens, use_cache=False, return_dict=True).logits
        return logits[:, -1:] if last_only else logits

    def _hooks(self) -> Any:
        from interp_engine.hooks import HookManager

        return HookManager()

    @contextmanager
    def _skipping(self, start: Start | None) -> Iterator[None]:
        """Within the block, layers before `start.layer` do nothing; the last of them returns `start.resid`."""
        skipped = self._blocks[: start.layer] if start is not None else []
        extras = self._block_extras if skipped else []
        replaced: list[tuple[nn.Module, Any]] = []
        try:
            for index, block in enumerate(skipped):
                last = index == len(skipped) - 1
                # An entry in the instance's __dict__ shadows the class's method; deleting it brings the method back.
                replaced.append((block, block.__dict__.get("forward")))
                block.__dict__["forward"] = pass_through(
                    start.resid if start is not None and last else None, extras[index]
                )
            yield
        finally:
            for block, own in replaced:
                del block.__dict__["forward"]
                # accelerate gives modules a forward of their own, which has to come back.
                if own is not None:
                    block.__dict__["forward"] = own

    @cached_property
    def _block_extras(self) -> list[int | None]:
        """How many values each layer returns after the residual stream; None where it returns just the tensor.

        It is found in a pass over one token, because families and releases of transformers differ in it.
        """
        extras: list[int | None] = [None] * len(self._blocks)

        def note(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, arguments: Any, output: Any) -> None:
                extras[index] = len(output) - 1 if isinstance(output, tuple) else None

            return hook

        handles = [block.register_forward_hook(note(index)) for index, block in enumerate(self._blocks)]
        try:
            with torch.no_grad():
                self._run(torch.zeros(1, 1, dtype=torch.long, device=self.device))
        finally:
            for handle in handles:
                handle.remove()
        return extras

    def _check_start(self, start: Start, tokens: TokenIds, padding: Padding | None, site_names: Iterable[str]) -> None:
        """Raises ValueError when `start` is of other tokens or another mask, or skips one of the sites."""
        if not torch.equal(start.tokens, tokens):
            raise ValueError("this start was made from other tokens")
        masks = [torch.ones_like(tokens) if p is None else p.mask for p in (start.padding, padding)]
        if padding is not start.padding and not torch.equal(*masks):
            raise ValueError("this start was made with another attention_mask")
        for name in site_names:
            site = parse_site(name, self.n_layers, post_norms=self.post_norms)
            if site.layer + (site.kind == "resid_post") < start.layer:
                raise ValueError(f"the start at layer {start.layer} skips the site {name}")

    def _checked(
        self, tokens: TokenIds, attention_mask: TextMask | None, start: Start | None = None
    ) -> tuple[TokenIds, Padding | None]:
        """The tokens on the model's device, padded rows with their text first, and their padding.

        Raises UserError for tokens that the model cannot take and for padding without a mask.
        """
        tokens = read_tokens(tokens)
        padding = None
        if attention_mask is not None:
            mask = read_mask(attention_mask, tokens)
            padding = None if bool(mask.all()) else Padding.of(mask.to(self.device))
        elif start is None:
            check_unpadded(tokens, self.padding_names)
        elif start.padding is not None and start.tokens.shape == tokens.shape:
            padding = start.padding
        if padding is not None:
            # Token 0 at padding: the padding token's own id may lie beyond the model's embedding.
            tokens = padding.text_first(tokens.to(self.device)).masked_fill(~padding.is_text, 0)
        if tokens.shape[1] > self.max_positions:
            raise UserError(
                f"{tokens.shape[1]} tokens per sequence exceed the {self.max_positions} positions of {self.name}; "
                "choose a smaller context length"
            )
        # On the CPU only: on a GPU the check would wait for the device in every pass.
        if tokens.device.type == "cpu" and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise UserError(
                f"token ids {int(tokens.min())} to {int(tokens.max())} lie outside 0 to {self.vocab_size - 1} of "
                f"{self.name}; tokenise with this model's own tokenizer"
            )
        return tokens.to(self.device, torch.long), padding
