"""Writes text with a steered model and its controls side by side, streamed token by token.

Place on the path: request → edits → [text in columns] → measure. Each column is one row of a single batch, so four
columns cost hardly more than one. All columns use the same random numbers at each step, so they differ only by what was
done to them.

    default    the model as it is            prompted   as it is, with an instruction before the prompt
    steered    the edits of the request      random     the same edits, equally strong, to other latents

Sampling: greedy at temperature 0, otherwise the Gumbel-max trick. The argmax of logits / temperature + Gumbel noise,
taken over the most probable tokens that hold `top_p` of the probability, is a draw from exactly that distribution.
Limits: log-probabilities are the model's own (temperature 1, no top_p). Hooks are set only during a pass, so a stream
that is abandoned half way leaves none behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosemy.errors import UserError
from monosemy.models.adapter import LanguageModel
from monosemy.models.generation import Decoding, check_room, whole_text
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.control import controls_at_sites, has_control
from monosemy.steering.edits import LatentScales, Steering, edited_positions
from monosemy.steering.measure import measure_answer
from monosemy.steering.prompts import GrowingText, end_ids, prompt_ids, prompt_text, token_pieces, with_instruction
from monosemy.steering.request import Positions, SteeringRequest
from monosemy.steering.saes import SteeredSae, SteeringSaes, TextEdits
from monosemy.steering.strength import check_finite

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Texts of the same group share their random numbers."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    groups: tuple[int, ...] | None = None
    """The group of each text; None: all in group 0."""


@dataclass(frozen=True)
class Answer:
    """The continuation of one text."""

    ids: list[int]
    text: str
    ended: bool
    """Whether the model ended it before the limit."""
    log_probs: list[float]


@dataclass(frozen=True)
class Column:
    """One column: its prompt and its edits (`steering` None: no edits)."""

    name: str
    prompt: str
    prompt_ids: list[int]
    steering: Steering | None


def stream(
    model: LanguageModel,
    sae: SparseAutoencoder,
    request: SteeringRequest,
    scales: LatentScales | None = None,
    *,
    others: Mapping[str, SteeredSae] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the events of a request as they happen (request.py lists them).

    The edits apply at `sae.config.site` of `model`, those that name one of `others` at the site of that one. `scales`
    (`edits.read_scales`) are needed for the units max and norm. Raises UserError before the first event for a latent
    out of range, an SAE that is not among the others, an unknown scale, positions that no token has, or a prompt that
    leaves no room for `n_tokens` more. Raises TooStrongError, instead of going on, for a change that leaves nothing of
    the text.
    """
    # all that can be refused without a pass is refused before the first event
    saes = SteeringSaes(sae, scales, others)
    started = time.perf_counter()
    columns, control = make_columns(model, saes, request)
    check_room(model, [column.prompt_ids for column in columns], request.n_tokens)
    for column in columns:
        if column.steering is not None:
            check_positions(request.positions, len(column.prompt_ids), request.n_tokens)
    edits = TextEdits(model, saes, [column.steering for column in columns])
    yield {"kind": "start", "columns": [_describe(model, column) for column in columns], "control": control}
    # all columns are decoded in one batch; whatever is refused from here on is too strong an edit
    sampling = Sampling(request.temperature, request.top_p, request.seed)
    texts = [GrowingText(model.tokenizer) for _ in columns]
    for step, next_tokens in enumerate(
        decode(model, [c.prompt_ids for c in columns], edits, n_tokens=request.n_tokens, sampling=sampling)
    ):
        # the token that ends an answer is not part of its text
        for b, (token, log_prob, ended) in next_tokens.items():
            name = columns[b].name
            if not ended:
                piece = texts[b].add(token)
                yield {
                    "kind": "token",
                    "column": name,
                    "step": step,
                    "token": token,
                    "text": piece,
                    "log_prob": log_prob,
                }
            if ended or step + 1 == request.n_tokens:
                yield {
                    "kind": "done",
                    "column": name,
                    "text": texts[b].finish(),
                    "n_tokens": len(texts[b].ids),
                    "stopped": "end" if ended else "length",
                }
    # measured afterwards over the finished texts: another pass each, which a caller may skip
    if request.measure:
        yield from _measures(model, saes, request, columns=columns, answers=[text.ids for text in texts])
    untouched = [c.name for c, n in zip(columns, edits.n_edited, strict=True) if c.steering is not None and not n]
    yield {"kind": "end", "seconds": time.perf_counter() - started, "untouched": untouched}


def make_columns(model: LanguageModel, saes: SteeringSaes, request: SteeringRequest) -> tuple[list[Column], int | None]:
    """The requested columns with edits in raw units, and the random column's first latent (None without one)."""
    # raw units first: the control takes over the size of a push, not the unit in which the user gave it
    edits = tuple(saes.resolve(edit) for edit in request.edits)
    names = request.columns or default_columns(request, saes)
    random_edits = controls_at_sites(edits, saes, request.seed, control=request.control) if "random" in names else ()
    steering = {
        "steered": Steering(edits, request.positions, request.keep_error),
        "random": Steering(random_edits, request.positions, request.keep_error),
    }
    columns = []
    for name in names:
        words = with_instruction(request.prompt, request.instruction) if name == "prompted" else request.prompt
        options = {"chat": request.chat, "system": request.system}
        text, ids = prompt_text(model, words, **options), prompt_ids(model, words, **options)  # type: ignore[arg-type]
        columns.append(Column(name, text, ids, steering.get(name)))
    return columns, random_edits[0].latent if random_edits else None


def default_columns(request: SteeringRequest, saes: SteeringSaes) -> tuple[str, ...]:
    """The columns of a request that names none; random is included if a latent is left for it."""
    prompted = ("prompted",) if request.instruction.strip() else ()
    room = request.control is not None or has_control(request.edits, saes)
    return ("default", "steered", *prompted, *(("random",) if room else ()))


def check_positions(positions: Positions, n_prompt: int, n_tokens: int) -> None:
    """Raises UserError when no token of the prompt or of `n_tokens` new ones can be edited.

    The first token never can, nor the last one written, since the model does not read it any more.
    """
    # asks `edited_positions` itself about the longest text there can be, so that the two never disagree
    n_read = n_prompt + n_tokens - 1
    place = whole_text(torch.zeros(1, n_read, dtype=torch.long), n_prompt)
    if bool(edited_positions(positions, place, 0).any()):
        return
    positions_text = positions.where
    if positions_text == "range":
        positions_text = f"{positions.start}-{'' if positions.stop is None else positions.stop}"
    raise UserError(
        f"--positions {positions_text} names no token that can be edited: the prompt has tokens 0 to {n_prompt - 1}, "
        f"the answer at most {n_tokens} more, and neither the first token nor the last one written is; choose others"
    )


def decode(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    edits: TextEdits | None,
    *,
    n_tokens: int,
    sampling: Sampling,
    use_cache: bool = True,
) -> Iterator[dict[int, tuple[int, float, bool]]]:
    """Continues all prompts together; yields {text: (token, log-probability, ended)} of the unfinished ones per step.

    Raises UserError before the first step for prompts that leave no room for `n_tokens` more, and TooStrongError for
    texts whose edits leave no answer (strength.py).
    """
    check_room(model, prompts, n_tokens)
    decoding = Decoding(model, prompts, None if edits is None else edits.hooks, use_cache=use_cache)
    ends = end_ids(model)
    choose = Chooser(sampling, len(prompts))
    unfinished = set(range(len(prompts)))
    # without edits in a text, logits that are no numbers are the model's own fault and not too strong an edit
    is_edited = [False] * len(prompts) if edits is None else edits.is_edited
    sites = "no site" if edits is None else ", ".join(edits.hooks)
    for step in range(n_tokens):
        check_finite(decoding.logits, sites, model, is_edited)
        tokens = choose(decoding.logits)
        log_probs = decoding.logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        token_ids = tokens.tolist()
        # finished texts stay in the batch, so that the others keep their rows; their tokens are just not reported
        yield {b: (token_ids[b], float(log_probs[b]), token_ids[b] in ends) for b in sorted(unfinished)}
        unfinished -= {b for b in unfinished if token_ids[b] in ends}
        if not unfinished or step + 1 == n_tokens:
            return
        decoding.append(tokens)


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    edits: TextEdits | None = None,
    *,
    n_tokens: int = 60,
    sampling: Sampling | None = None,
    use_cache: bool = True,
) -> list[Answer]:
    """Continues all prompts in one batch while `edits` change it. Raises as `decode` does."""
    sampling = sampling or Sampling()
    return finished(generating(model, prompts, edits, n_tokens=n_tokens, sampling=sampling, use_cache=use_cache))


def generating(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    edits: TextEdits | None,
    *,
    n_tokens: int,
    sampling: Sampling,
    use_cache: bool = True,
) -> Generator[int, None, list[Answer]]:
    """As `generate`, one token at a time: yields the number of steps done and returns the answers."""
    ids: list[list[int]] = [[] for _ in prompts]
    log_probs: list[list[float]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for step, next_tokens in enumerate(
        decode(model, prompts, edits, n_tokens=n_tokens, sampling=sampling, use_cache=use_cache)
    ):
        for b, (token, log_prob, end) in next_tokens.items():
            ended[b] = end
            if not end:
                ids[b].append(token)
                log_probs[b].append(log_prob)
        yield step + 1
    texts = [model.tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ids]
    return [Answer(*parts) for parts in zip(ids, texts, ended, log_probs, strict=True)]


def finished(steps: Generator[Any, None, Result], advance: Callable[[int], object] | None = None) -> Result:
    """Runs a generator to its end and gives its return value; `advance` is called with 1 after each step."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        if advance:
            advance(1)


class Chooser:
    """Chooses the next token of every text."""

    def __init__(self, sampling: Sampling, n_texts: int) -> None:
        self.sampling = sampling
        self.groups = list(sampling.groups or [0] * n_texts)
        if len(self.groups) != n_texts:
            raise ValueError(f"{len(self.groups)} groups for {n_texts} texts")
        # one generator per group: what a text draws does not depend on what else is in the batch
        self.random = {
            group: torch.Generator().manual_seed(1_000_003 * sampling.seed + group) for group in set(self.groups)
        }

    def __call__(self, logits_BV: Float[Tensor, "batch vocab"]) -> Int64[Tensor, " batch"]:
        """The chosen token of every text."""
        if self.sampling.temperature == 0:
            return logits_BV.argmax(-1)
        # noise is drawn on the CPU, so that a seed gives the same random numbers on every device
        scaled = logits_BV.cpu() / self.sampling.temperature
        if self.sampling.top_p < 1:
            scaled = _top_p(scaled, self.sampling.top_p)
        # −log of an exponential variate is Gumbel noise
        noise = {
            group: -torch.empty(scaled.shape[1]).exponential_(generator=self.random[group]).log()
            for group in sorted(self.random)
        }
        return (scaled + torch.stack([noise[group] for group in self.groups])).argmax(-1).to(logits_BV.device)


def _top_p(logits_BV: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Logits with −∞ outside the smallest set of tokens that holds `top_p` of the probability."""
    ranked, order = logits_BV.softmax(-1).sort(dim=-1, descending=True)
    # a token is outside if those before it already hold top_p; the first one never is
    outside = ranked.cumsum(-1) - ranked >= top_p
    return logits_BV.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def _describe(model: LanguageModel, column: Column) -> dict[str, Any]:
    edits = column.steering.edits if column.steering else ()
    return {
        "column": column.name,
        "prompt": column.prompt,
        "prompt_tokens": token_pieces(model.tokenizer, column.prompt_ids),
        "edits": [{"sae": e.sae, "latent": e.latent, "operation": e.operation, "value": e.value} for e in edits],
    }


def _measures(
    model: LanguageModel,
    saes: SteeringSaes,
    request: SteeringRequest,
    *,
    columns: list[Column],
    answers: list[list[int]],
) -> Iterator[dict[str, Any]]:
    """A `measure` event per column."""
    # every column is measured against the unsteered model after the user's own prompt, the prompted one included
    plain = prompt_ids(model, request.prompt, chat=request.chat, system=request.system)
    for column, ids in zip(columns, answers, strict=True):
        measures = measure_answer(
            model,
            saes,
            column.prompt_ids,
            answer=ids,
            steering=column.steering,
            plain_prompt=plain,
            watch=request.edits,
        )
        yield {"kind": "measure", "column": column.name, **measures.to_json(model.tokenizer, column.prompt_ids, ids)}


def steer(
    model: LanguageModel,
    sae: SparseAutoencoder,
    request: SteeringRequest,
    scales: LatentScales | None = None,
    *,
    others: Mapping[str, SteeredSae] | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs a request to its end and returns its columns: {column: {"text", "stopped", values of its measure event}}."""
    results: dict[str, dict[str, Any]] = {}
    for event in stream(model, sae, request, scales, others=others):
        if event["kind"] in ("done", "measure"):
            results.setdefault(event["column"], {}).update({k: v for k, v in event.items() if k != "kind"})
    return results
