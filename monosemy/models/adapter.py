"""A language model whose activations can be read, replaced, and continued from: one thin class over forward hooks.

Place on the path: tokens → [activations at sites] → SAE; and back: reconstruction → [logits with the site replaced].

    activations(tokens, sites)          one pass, ended by the hook that reads the last site asked for
    logits(tokens, edits)               the site's activation x becomes edit(x) while the pass runs
    prefix(tokens, site) → Start        runs what lies before the site once; logits(…, start=start) skips it

The late start replaces the forward of every layer before the site by a pass-through, the last of which hands on the
stored residual stream: embeddings, masks, rotary tables, remaining layers and head run as always, so the logits are
those of the whole pass to the last bit (`checks.py` makes sure of it on load, else layers are never skipped).
With `gradients`, logits carry the gradient to whatever tensors the edits brought in (never to parameters: frozen).
Every pass takes an `attention_mask` for padded batches, whose rows then give the numbers of a row alone (padding.py).

Attention's and the MLP's contributions are what the layer adds to the residual stream: where it scales a sublayer's
output first (Granite), the site holds the scaled tensor, in reading and in replacing (`contribution_scale`).

Source: which module and which side is which site comes from interp-engine (`resolve_point`) on the plain transformers
model; reading and replacing are torch's forward hooks. Deviations: interp-engine's own capture runs the whole model,
ours stops early. Limits: one process, one device; models whose layers pass state beside the residual
stream (keys shared between layers) are run whole.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monosemy.config import fingerprint as hash_json
from monosemy.errors import UserError
from monosemy.models.architecture import find_engine, first_sentence, max_positions, special_token_ids
from monosemy.models.heads import find_projection, layer_heads, projection_matrix, projection_width
from monosemy.models.padding import Edit, Padding, check_unpadded, read_mask, read_tokens
from monosemy.models.passing import as_sequences, pass_through, unscaled
from monosemy.models.sites import KINDS, POST_NORM_KINDS, Site, parse_site

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Start:
    """The residual stream at a layer boundary, to continue passes from."""

    tokens: Tensor
    """[B, T], on the model's device; of padded rows the text first."""
    layer: int
    """First layer that a continued pass runs; 0 runs the whole model."""
    resid: Tensor | None
    """[B, T, d_model] entering `layer`, ordered as `tokens`; None when nothing is skipped."""
    padding: Padding | None = None
    """None when every token is text."""


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
        self._engine = find_engine(module, name)
        self._blocks: list[nn.Module] = list(self._engine.arch.decoder_layers)
        self.d_model: int = self._engine.d_model
        # the configuration may count another stack's layers (the encoder's, in BART's family)
        self.n_layers: int = len(self._engine.arch.layer_slots) or len(self._blocks)
        self.vocab_size: int = self._engine.vocab_size
        self.max_positions: int = max_positions(module.config)
        self.special_token_ids = special_token_ids(module, tokenizer)
        self.post_norms: bool = bool(self._engine.arch.quirks.sandwich_norms)
        self._multipliers: tuple[float, float] = self._engine.arch.quirks.residual_multipliers
        self.can_start_late = len(self._blocks) == self.n_layers
        # most families can leave out the product with the vocabulary at positions nobody asks for
        self._keeps_logits = "logits_to_keep" in inspect.signature(module.forward).parameters
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._refused: dict[str, str] = {}
        self._find_sites()
        counts = [count for count in map(self.heads_in, range(self.n_layers)) if count]
        configured = self._engine.n_heads
        self.n_heads: int = configured if configured in counts or not counts else max(set(counts), key=counts.count)
        """Attention heads of a layer: as configured where a layer has that many, else as most layers have."""

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def padding_names(self) -> Any:
        """What names the token that pads: the tokenizer, or the configuration of a model without one."""
        return self.module.config if self.tokenizer is None else self.tokenizer

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
        here = [name for name in self._places if name.startswith(f"layers.{parsed.layer}.")]
        raise UserError(
            f"{self.name} has no site {site!r}: {self._refused[name]}; this layer has: {', '.join(here) or 'no site'}"
        )

    def site_width(self, site: str) -> int:
        """Length d of the activation vectors at a site."""
        name = self.resolve(site)
        if not name.endswith(".attn_heads"):
            return self.d_model
        width = projection_width(self._places[name][0])
        assert width is not None, name  # else _find_sites left the site out
        return width

    def contribution_scale(self, site: str) -> float:
        """What the layer multiplies this site's module output by before it adds it to the residual stream.

        1 but for the contributions (attn_out and mlp_out, or those behind post-norms) of a few families. Activations
        and edits are those of the scaled tensor already; needed by what computes with a module's own weights.
        """
        kind = self.resolve(site).rsplit(".", 1)[-1]
        suffix = "_post" if self.post_norms else ""
        return dict(zip((f"attn_out{suffix}", f"mlp_out{suffix}"), self._multipliers, strict=True)).get(kind, 1.0)

    def heads_in(self, layer: int) -> int:
        """Attention heads whose values lie side by side in `layers.N.attn_heads`; 0 for a layer without."""
        if (name := f"layers.{layer}.attn_heads") not in self._places:
            return 0
        return layer_heads(self._engine, layer, self.site_width(name))

    def output_matrix(self, layer: int) -> Tensor:
        """W_O of a layer [d_heads, d_model]: `attn_heads @ W_O` plus a bias is `attn_out`. Raises UserError for a layer
        without `attn_heads`, or whose projection is no plain matrix (quantised)."""
        name = self.resolve(f"layers.{layer}.attn_heads")
        projection = self._places[name][0]
        matrix = projection_matrix(projection)
        if matrix is None or not matrix.is_floating_point() or matrix.shape[1] != self.d_model:
            raise UserError(
                f"{self.name}: the output projection of layer {layer} ({type(projection).__name__}) is no plain matrix "
                f"that writes {self.d_model} dimensions; load the model unquantised"
            )
        return matrix if self.post_norms else matrix * self._multipliers[0]

    def output_weights(self, layer: int) -> Tensor:
        """W_O of a layer by query head [H, d_head, d_model]: head h adds z_h @ W_O[h] to `layers.N.attn_out`, z_h its
        part of `layers.N.attn_heads`; a bias, where there is one, belongs to no head. Raises UserError without heads,
        or where this layer has another number of them than the others.
        """
        matrix, count = self.output_matrix(layer), self.heads_in(layer)
        if count != self.n_heads or len(matrix) % count:
            raise UserError(
                f"{self.name}: layer {layer} has {count} heads over {len(matrix)} dimensions, other layers have "
                f"{self.n_heads} heads"
            )
        return matrix.reshape(count, -1, self.d_model)

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
                    self._places[name] = self._resolve(kind.point, layer)
                except (ValueError, RuntimeError, AttributeError, IndexError) as error:
                    self._refused[name] = first_sentence(error)

    def _resolve(self, point: str, layer: int) -> tuple[nn.Module, str]:
        """Module and side of a point. Raises what interp-engine raises where there is none."""
        if point != "z":
            return self._engine.resolve_point(point, layer)
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
        tokens: Tensor,
        sites: Sequence[str],
        start: Start | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Activations [B, T, d] at each site, by canonical name, in the model's dtype on its device.

        tokens [B, T] integers; of padded rows `attention_mask` [B, T] says which are text (1) and which padding (0),
        where activations are zero. One pass that ends as soon as the last of the sites has been read; with `start`, one
        that begins there. Raises UserError for a site the model lacks, tokens it cannot take or padding without a
        mask, ValueError for a `start` that does not fit.
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
    def all_activations(self, tokens: Tensor, *, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Copies of the activations at every site from one whole pass; sites whose module never runs are left out.

        For checks on few tokens: nothing is ended early and everything is kept.
        """
        tokens, padding = self._checked(tokens, attention_mask)
        read = self._read(tokens, set(self._places), whole=True)
        return read if padding is None else {name: padding.as_given(value) for name, value in read.items()}

    def _read(self, tokens: Tensor, names: set[str], *, whole: bool) -> dict[str, Tensor]:
        """One pass that keeps the activations at `names`: references and an early end, or copies and a `whole` pass."""
        read: dict[str, Tensor] = {}
        if not names:
            return read

        def reader(name: str) -> Callable[[Tensor], None]:
            scale = self.contribution_scale(name)

            def keep(value: Tensor) -> None:
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
        tokens: Tensor,
        edits: Mapping[str, Edit] | None = None,
        start: Start | None = None,
        *,
        last_only: bool = False,
        gradients: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits [B, T, V], with the activation at each site of `edits` replaced as the pass runs.

        An edit's result is cast to the model's dtype. With `start`, layers before `start.layer` are skipped: the same
        tokens, no edits among the skipped layers. `last_only` gives those of each row's last token, [B, 1, V];
        `gradients` lets gradients reach the tensors that edits bring in. `attention_mask` as in `activations` (a
        `start` brings its own): padding shows an edit zeros, stays as it is whatever the edit returns, and has zero
        logits. Raises UserError for unknown sites or padding without a mask, ValueError for a broken edit (changed
        shape) or a `start` that does not fit.
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
    def editing(self, edits: Mapping[str, Edit], tokens: Tensor) -> Iterator[None]:
        """While it lasts, passes over tokens [B, T] have the activations at these sites (canonical names) replaced.

        Raises UserError at the end when a site was never computed, ValueError for an edit that changes the shape.
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
                new = new.to(value.dtype).reshape(value.shape)
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
    def prefix(self, tokens: Tensor, site: str, *, attention_mask: Tensor | None = None) -> Start:
        """Runs what lies before `site` once, up to the nearest layer boundary, for many passes to continue from."""
        tokens, padding = self._checked(tokens, attention_mask)
        name = self.resolve(site)
        parsed = parse_site(name, self.n_layers, post_norms=self.post_norms)
        # an edit at a layer's very output needs none of that layer
        layer = parsed.layer + (parsed.kind == "resid_post")
        if layer == 0 or not self.can_start_late:
            return Start(tokens, 0, None, padding)
        return Start(tokens, layer, self._block_output(tokens, layer - 1), padding)

    def _block_output(self, tokens: Tensor, layer: int) -> Tensor:
        outputs: list[Tensor] = []

        def keep(value: Tensor) -> None:
            outputs.append(value)
            raise _PassEnded

        with self._hooks() as hooks, suppress(_PassEnded):
            hooks.read(self._blocks[layer], keep)
            self._run(tokens)
        return outputs[0]

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
        extras = self._block_extras if skipped else []
        replaced: list[tuple[nn.Module, Any]] = []
        try:
            for index, block in enumerate(skipped):
                last = index == len(skipped) - 1
                replaced.append((block, block.__dict__.get("forward")))
                block.__dict__["forward"] = pass_through(
                    start.resid if start is not None and last else None, extras[index]
                )
            yield
        finally:
            for block, own in replaced:
                del block.__dict__["forward"]
                if own is not None:  # an instance's own forward, as accelerate sets it
                    block.__dict__["forward"] = own

    @cached_property
    def _block_extras(self) -> list[int | None]:
        """How many values each layer's module returns behind the residual stream; None where it returns that alone.

        Seen on a pass over one token, since families and releases of transformers differ in it.
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

    def _check_start(self, start: Start, tokens: Tensor, padding: Padding | None, site_names: Iterable[str]) -> None:
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
        self, tokens: Tensor, attention_mask: Tensor | None, start: Start | None = None
    ) -> tuple[Tensor, Padding | None]:
        """Tokens on the model's device, of padded rows the text first, and their padding; UserError when the model
        cannot take them."""
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
            tokens = padding.text_first(tokens.to(self.device)).masked_fill(~padding.is_text, 0)
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
        return tokens.to(self.device, torch.long), padding
