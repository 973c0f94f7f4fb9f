"""Can silencing one latent, or two or three together, stop something that the model does by itself?

Run: python -m research.steering.ablation RUN [--sae SITE/NAME] [--out FILE]

`BEHAVIOURS` are things that the unsteered model does after most of its prompts: names a month, goes on in French,
writes code, numbers a list. Whether it did is counted in the text by an expression. Latents are looked for in turn
among those that fire most where the behaviour happens and, as `monosemy steer --find` does, among those that fire on
the behaviour's words and those labelled near them. On the first `N_SEARCH` prompts each of `N_TRIED` is silenced
alone; the one after which the behaviour comes least often is taken, then joined by the one that takes most of the rest,
to `MOST` latents or until `ENOUGH` of the occurrences are gone.

Judged on the other half: how often the behaviour comes unsteered, with the latents silenced, and with as many random
latents silenced that fire about as often (`control_edits`), in `N_CONTROLS` draws; and how often the answer is fluent,
by the limits of run.py. Intervals are over prompts. Greedy answers of `N_TOKENS`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.candidates import firing_latents, in_turn, named_latents
from monosemy.steering.command import choose_sae, load_run
from monosemy.steering.control import control_edits
from monosemy.steering.edits import LatentScales, Steering
from monosemy.steering.finding import names_of
from monosemy.steering.generate import Answer
from monosemy.steering.measure import distinct_n, measure_answer
from monosemy.steering.prompts import prompt_ids
from monosemy.steering.request import Edit
from monosemy.steering.saes import SteeringSaes
from monosemy.steering.sweep import answer_all
from research import common, run_folders
from research.records import record_path
from research.steering.estimates import mean_over_prompts, paired_difference
from research.steering.prompts import CODE, FRENCH, LISTS, MONTHS
from research.steering.run import MAX_PERPLEXITY, MIN_DISTINCT

N_TOKENS = 12
N_SEARCH, N_TRIED, MOST, ENOUGH = 10, 8, 3, 0.75
N_CONTROLS = 3


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """Something the model does: after which prompts, how it is counted, by which words its latents are looked for."""

    prompts: Sequence[str]
    pattern: str
    """What an answer has where the model does it."""
    words: tuple[str, ...]
    chat: bool
    """Whether the prompts are questions, or texts to go on with."""
    least: int = 1
    """How many times the pattern is there at least."""

    def in_text(self, text: str) -> bool:
        return len(re.findall(self.pattern, text, re.MULTILINE)) >= self.least


MONTH_NAMES = "January February March April May June July August September October November December"
BEHAVIOURS = {
    "names a month": Behaviour(
        MONTHS, rf"\b({MONTH_NAMES.replace(' ', '|')})\b", ("July", "August", "October"), chat=False
    ),
    "goes on in French": Behaviour(
        FRENCH,
        r"\b(le|la|les|des|du|et|est|une|un|dans|qui|que|pour|par|sur|en|au|aux|sont|avec)\b",
        ("français", "les", "est"),
        chat=False,
        least=3,
    ),
    "writes code": Behaviour(CODE, r"```|^def |\bdef \w+\(", ("Python", "function", "def"), chat=True),
    "numbers a list": Behaviour(LISTS, r"^\s*1\.", ("list", "tips", "steps"), chat=True),
}


@dataclasses.dataclass
class Bench:
    """The model, its SAE and one behaviour's prompts."""

    model: LanguageModel
    sae: SparseAutoencoder
    scales: LatentScales
    behaviour: Behaviour

    @property
    def saes(self) -> SteeringSaes:
        return SteeringSaes(self.sae, self.scales)

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return [prompt_ids(self.model, prompt, chat=self.behaviour.chat) for prompt in prompts]

    def answers(self, prompts: Sequence[str], sets: Sequence[Sequence[int]]) -> list[list[Answer]]:
        """The answers with each of these sets of latents silenced; an empty one changes nothing."""
        steerings = [silenced(latents) if latents else None for latents in sets]
        return answer_all(self.model, self.saes, self.ids(prompts), steerings=steerings, n_tokens=N_TOKENS)

    def occurrences(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self.behaviour.in_text(answer.text)) for answer in answers]

    def fluent(self, prompts: Sequence[str], answers: Sequence[Answer]) -> list[float]:
        """Whether each answer is text that the unsteered model would call plausible and does not repeat itself."""
        flags = []
        for prompt, answer in zip(self.ids(prompts), answers, strict=True):
            size = measure_answer(self.model, self.saes, prompt, answer=answer.ids, steering=None).perplexity
            varied = (distinct_n(answer.ids, 2) or 0.0) >= MIN_DISTINCT
            flags.append(float(size is not None and size <= MAX_PERPLEXITY and varied))
        return flags


def silenced(latents: Sequence[int]) -> Steering:
    return Steering(tuple(Edit(latent, "ablate") for latent in latents))


@torch.no_grad()
def active_latents(bench: Bench, prompts: Sequence[str], answers: Sequence[Answer]) -> list[int]:
    """The latents that fire most where the answers are written: mean share of their maximum · ln(n_max / n_fired)."""
    scales, site = bench.scales, bench.sae.config.site
    assert scales.maximum is not None
    assert scales.n_fired is not None
    fired = (scales.n_fired > 0) & (scales.maximum > 0)
    total, n = torch.zeros(bench.sae.d_sae, dtype=torch.float64), 0
    for prompt, answer in zip(bench.ids(prompts), answers, strict=True):
        tokens = torch.tensor([[*prompt, *answer.ids]])
        rows = bench.model.activations(tokens, [site])[site][0, len(prompt) - 1 :].float()
        total += bench.sae.encode(rows).sums().cpu().double()
        n += len(rows)
    share = torch.where(fired, total / n / scales.maximum.double().clamp_min(1e-9), 0.0)
    rarity = (scales.n_fired.max() / scales.n_fired.double().clamp_min(1)).log()
    return [int(latent) for latent in (share * rarity).argsort(descending=True)[:N_TRIED]]


def candidates(bench: Bench, folder: Path, prompts: Sequence[str], answers: Sequence[Answer]) -> list[int]:
    """The latents to try: those that fire where the behaviour happens, and two of the sources of `--find`."""
    words = bench.behaviour.words
    sources = [
        active_latents(bench, prompts, answers),
        firing_latents(bench.model, bench.sae, bench.scales, words, n=N_TRIED),
        named_latents(bench.model, folder, words, N_TRIED),
    ]
    return in_turn(sources, N_TRIED)


def chosen_set(rates_of: Callable[[list[list[int]]], list[float]], latents: Sequence[int], unsteered: float) -> Any:
    """(the latents to silence, the rate on the search prompts after each step).

    `rates_of` gives the behaviour's rate with each of several sets silenced. Greedy; equal rates keep the order.
    """
    leaders: list[int] = []
    rates: list[float] = []
    for _ in range(MOST):
        left = [latent for latent in latents if latent not in leaders]
        tried = rates_of([[*leaders, latent] for latent in left])
        best = min(range(len(left)), key=lambda k: tried[k])
        leaders.append(left[best])
        rates.append(tried[best])
        if rates[-1] <= (1 - ENOUGH) * unsteered:
            break
    return leaders, rates


def examine(bench: Bench, folder: Path) -> dict[str, Any]:
    """One behaviour: its latents by the rule of the module, judged beside random ones."""
    half = len(bench.behaviour.prompts) // 2
    search, judge = bench.behaviour.prompts[:N_SEARCH], bench.behaviour.prompts[half:]
    (unsteered,) = bench.answers(search, [[]])
    rate = sum(bench.occurrences(unsteered)) / len(search)

    def rates_of(sets: list[list[int]]) -> list[float]:
        return [sum(bench.occurrences(answers)) / len(search) for answers in bench.answers(search, sets)]

    leaders, rates = chosen_set(rates_of, candidates(bench, folder, search, unsteered), rate)
    edits = silenced(leaders).edits
    controls = [
        [edit.latent for edit in control_edits(edits, bench.sae, bench.scales, seed)] for seed in range(N_CONTROLS)
    ]
    default, ablated, *random = bench.answers(judge, [[], leaders, *controls])
    before, after = bench.occurrences(default), bench.occurrences(ablated)
    assert bench.scales.n_fired is not None
    return {
        "latents": [
            {"latent": latent, "label": label, "fired": int(bench.scales.n_fired[latent])}
            for latent, label in ((latent, names_of(folder, [latent]).get(latent, "")) for latent in leaders)
        ],
        "chat": bench.behaviour.chat,
        "search": [rate, *rates],
        "n": len(judge),
        "before": dataclasses.asdict(mean_over_prompts(before)),
        "after": dataclasses.asdict(mean_over_prompts(after)),
        "change": dataclasses.asdict(paired_difference(after, before)),
        "random": [
            {"latents": control, "mean": sum(bench.occurrences(answers)) / len(judge)}
            for control, answers in zip(controls, random, strict=True)
        ],
        "fluent": [sum(bench.fluent(judge, answers)) / len(judge) for answers in (default, ablated)],
        "example": example(bench.behaviour, judge, columns=(default, ablated, random[0])),
    }


def example(behaviour: Behaviour, prompts: Sequence[str], columns: Sequence[Sequence[Answer]]) -> dict[str, str]:
    """The first prompt after which the unsteered model does it and the silenced one does not, else the first."""
    rows = list(zip(prompts, *columns, strict=True))
    changed = (row for row in rows if behaviour.in_text(row[1].text) and not behaviour.in_text(row[2].text))
    prompt, default, ablated, random = next(changed, rows[0])
    return {"prompt": prompt, "default": default.text, "ablated": ablated.text, "random": random.text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run, the demo's")
    parser.add_argument("--sae", metavar="SITE/NAME")
    parser.add_argument("--only", nargs="+", default=list(BEHAVIOURS), choices=list(BEHAVIOURS), metavar="BEHAVIOUR")
    parser.add_argument("--out", type=Path, default=record_path("steering", "ablation"))
    options = parser.parse_args()
    saved = choose_sae(options.run, options.sae)
    model, sae, scales = load_run(options.run, saved.folder)
    behaviours: dict[str, Any] = {}
    for name in options.only:
        started = time.perf_counter()
        behaviours[name] = examine(Bench(model, sae, scales, BEHAVIOURS[name]), saved.folder)
        row = behaviours[name]
        print(
            f"{name}: {[entry['latent'] for entry in row['latents']]}, search {row['search']}, judged "
            f"{row['before']['mean']:.2f} → {row['after']['mean']:.2f}, random "
            f"{[control['mean'] for control in row['random']]}; {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        settings = {"n_tokens": N_TOKENS, "n_search": N_SEARCH, "n_tried": N_TRIED, "most": MOST, "enough": ENOUGH}
        record = {"sae": saved.label, "model": model.name, **settings, "behaviours": behaviours}
        common.save(options.out, record)


if __name__ == "__main__":
    run_folders.run(main)
