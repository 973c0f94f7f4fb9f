"""The worked examples of docs/steering.md, with their numbers: a topic, a tone and a bias, each beside its controls.

Latents are found by search: those that fire most on sentences about the wanted thing and least on the others' (by their
largest activation's share), ranked by their output score: how probable a push makes the words. Every choice (latent,
strength) is made on half of the questions and judged on the other half. Judged columns: the model
as it is, steered, prompted, and random latents pushed as far. Means over questions have 95% bootstrap intervals.

Counted per answer, without a judge model: whether it mentions the topic; the share of words of three and more syllables
(the "complex words" of the Gunning fog index); whether it is fluent: perplexity under the unsteered model at most
`MAX_PERPLEXITY` and at least `MIN_DISTINCT` of its 2-grams different.

Run: python -m research.steering.run RUN [--sae SITE/NAME] [--reduced] [--only topic tone bias] [--out FILE]
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
from monosemy.run import read_run
from monosemy.saes.base import SparseAutoencoder
from monosemy.steering.command import choose_sae, load_run
from monosemy.steering.control import control_edits
from monosemy.steering.edits import LatentScales, Steering, resolve
from monosemy.steering.generate import Answer
from monosemy.steering.measure import distinct_n, measure_answer
from monosemy.steering.output_score import output_scores
from monosemy.steering.prompts import prompt_ids, with_instruction
from monosemy.steering.request import Edit
from monosemy.steering.saes import SteeringSaes
from monosemy.steering.sweep import answer_all
from monosemy.support.files import read_json
from research import common
from research.records import record_path
from research.steering.bias import bias_case
from research.steering.estimates import mean_over_prompts, paired_difference

QUESTIONS = (
    "What should I do this weekend?",
    "How can I sleep better?",
    "Tell me about yourself.",
    "What makes a good friend?",
    "How do I start a new hobby?",
    "What is the best way to learn?",
    "Write a short story about a child.",
    "Why do people travel?",
    "What did you do yesterday?",
    "How can I be happier?",
    "Give me advice for a job interview.",
    "What is a good gift for my sister?",
    "Describe a perfect day.",
    "How do I make new friends?",
    "Why is the sky blue?",
    "What should I cook tonight?",
    "Tell me something interesting.",
    "How do I save money?",
    "What is your favourite season?",
    "Write a letter to a neighbour.",
    "How does a computer work?",
    "What should I read next?",
    "Why do we dream?",
    "How can I keep my house tidy?",
)
TOPICS = {
    "music": "music musical song songs album band guitar concert singer",
    "war": "war wars army battle soldiers military",
    "football": "football soccer match league goal team player",
    "film": "film films movie actor director cinema",
    "church": "church priest god religious bishop cathedral",
    "water": "river lake water sea coast island",
    "school": "school university students college teacher",
    "railway": "train railway station rail trains",
    "mathematics": "mathematics equation theorem graph numbers",
    "plants": "plant plants flower tree trees leaves species",
    "royalty": "king queen prince royal emperor",
    "law": "law court judge legal laws",
    "space": "star stars planet moon telescope space",
    "food": "food eat cook wine cheese bread",
    "politics": "president election government party minister",
    "code": "code function class software python return",
}
ABOUT = (
    "We talked about the {0} all evening.",
    "Nothing matters to her more than the {0}.",
    "He wrote about {0} again.",
)
TONES = {
    "technical": "system systems data process analysis function method theory information structure",
    "plain": "you your good happy little big fun nice want thing",
}
SPOKEN = {
    "technical": (
        "The implementation optimises resource allocation under probabilistic constraints.",
        "Empirical evaluation demonstrates a statistically significant correlation between the variables.",
        "The theoretical framework characterises the convergence properties of the algorithm.",
        "Subsequent analysis identified considerable heterogeneity across experimental conditions.",
    ),
    "plain": (
        "We had so much fun at the park today!",
        "The dog is big and soft and it likes to run.",
        "My mom made us a cake and we ate it all.",
        "I want to play with you and your new ball.",
    ),
}
TOPIC_INSTRUCTION = "Talk about {} in your answer."
TONE_INSTRUCTION = {
    "technical": "Answer in technical, academic language.",
    "plain": "Answer in simple words that a small child understands.",
}
SEARCH_PROMPTS = ("From my experience,", "This weekend I", "I want to tell you about")
STRENGTHS = (0.2, 0.35, 0.5, 0.7)
N_TOPICS = 3
"""Topics of which the best latents are tried by writing."""
MAX_PERPLEXITY, MIN_DISTINCT = 20.0, 0.6


@dataclasses.dataclass
class Bench:
    """What all examples use."""

    model: LanguageModel
    sae: SparseAutoencoder
    scales: LatentScales
    questions: tuple[str, ...]
    strengths: tuple[float, ...]
    n_tokens: int
    n_latents: int
    """Candidates per wish that are tried by writing."""
    n_controls: int

    @property
    def saes(self) -> SteeringSaes:
        return SteeringSaes(self.sae, self.scales)

    def prompts(self, questions: Sequence[str], instruction: str = "") -> list[list[int]]:
        return [prompt_ids(self.model, with_instruction(q, instruction) if instruction else q) for q in questions]

    def answers(self, questions: Sequence[str], steerings: Sequence[Steering | None]) -> list[list[Answer]]:
        return answer_all(self.model, self.saes, self.prompts(questions), steerings=steerings, n_tokens=self.n_tokens)


def mentions(text: str, words: str) -> bool:
    return bool(set(re.findall(r"[a-z]+", text.lower())) & set(words.split()))


def complex_share(text: str) -> float | None:
    """Share of words with three or more syllables (runs of vowels, a silent final e left out); None without words."""
    words = re.findall(r"[a-z]+", text.lower())
    counts = [len(re.findall(r"[aeiouy]+", re.sub(r"e\b", "", word))) for word in words]
    return sum(count >= 3 for count in counts) / len(counts) if counts else None


def perplexity(bench: Bench, question: str, answer: Answer) -> float | None:
    """Under the unsteered model, after the question alone."""
    prompt = bench.prompts([question])[0]
    return measure_answer(bench.model, bench.saes, prompt, answer=answer.ids, steering=None).perplexity


def judged(
    bench: Bench, questions: Sequence[str], answers: Sequence[Answer], score: Callable[[str], float | None]
) -> dict[str, Any]:
    """Per answer: the score, perplexity, distinct-2, whether fluent; `both` is the score of a fluent answer, else 0."""
    columns: dict[str, list[Any]] = {"score": [], "perplexity": [], "distinct_2": [], "fluent": [], "both": []}
    for question, answer in zip(questions, answers, strict=True):
        size, distinct, value = perplexity(bench, question, answer), distinct_n(answer.ids, 2), score(answer.text)
        fluent = size is not None and size <= MAX_PERPLEXITY and (distinct or 0.0) >= MIN_DISTINCT
        for key, item in (
            ("score", value),
            ("perplexity", size),
            ("distinct_2", distinct),
            ("fluent", float(fluent)),
            ("both", (value or 0.0) * fluent),
        ):
            columns[key].append(item)
    return columns


def summary(columns: dict[str, Any], default: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    means = {key: dataclasses.asdict(mean_over_prompts(values)) for key, values in columns.items()}
    change = dataclasses.asdict(paired_difference(columns["score"], default["score"]))
    return {**means, "score_change": change, "texts": [answer.text for answer in answers]}


def wish(
    bench: Bench, candidates: list[int], score: Callable[[str], float | None], instruction: str, *, goal: str
) -> dict[str, Any]:
    """Chooses latent and strength on the even questions, judges them and the controls on the odd ones.

    `goal` is the judged quantity that the choice maximises: `both` for a topic; for a tone its mean score among
    choices that leave three quarters of the answers fluent (`score`), or minus it (`-score`).
    """
    search, judge = bench.questions[0::2], bench.questions[1::2]
    tried = [(latent, value) for latent in candidates for value in bench.strengths]
    steerings = [Steering((Edit(latent, "set", value, "norm"),)) for latent, value in tried]
    points = []
    for (latent, value), row in zip(tried, bench.answers(search, steerings), strict=True):
        judgement = judged(bench, search, row, score)
        mean = {key: mean_over_prompts(values).mean for key, values in judgement.items()}
        points.append({"latent": latent, "strength": value, **mean})
    sign = -1.0 if goal.startswith("-") else 1.0
    usable = [point for point in points if goal == "both" or point["fluent"] >= 0.75] or points
    best = max(usable, key=lambda point: (sign * (point[goal.lstrip("-")] or 0.0), -point["strength"]))
    edit = Edit(best["latent"], "set", best["strength"], "norm")
    raw = resolve(edit, bench.sae, bench.scales)
    controls = [control_edits((raw,), bench.sae, bench.scales, seed) for seed in range(bench.n_controls)]
    default, steered, *random = bench.answers(
        judge, [None, Steering((edit,)), *(Steering(edits) for edits in controls)]
    )
    prompted = answer_all(
        bench.model,
        bench.saes,
        bench.prompts(judge, instruction),
        steerings=[None],
        n_tokens=bench.n_tokens,
    )[0]
    base = judged(bench, judge, default, score)
    columns = {"default": default, "steered": steered, "prompted": prompted}
    columns |= {f"random {edits[0].latent}": row for edits, row in zip(controls, random, strict=True)}
    return {
        "chosen": {"latent": best["latent"], "strength": best["strength"], "raw": raw.value},
        "instruction": instruction,
        "search": points,
        "questions": judge,
        "judged": {name: summary(judged(bench, judge, row, score), base, row) for name, row in columns.items()},
    }


def activations(bench: Bench, texts: Sequence[str]) -> torch.Tensor:
    """Mean activation over the tokens of the texts as a share of each latent's maximum, [F]; first tokens left out."""
    site, total, n = bench.sae.config.site, torch.zeros(bench.sae.d_sae, dtype=torch.float64), 0
    for text in texts:
        tokens = torch.tensor([bench.model.tokenizer(text)["input_ids"]])
        x = bench.model.activations(tokens, [site])[site][0, 1:].float()
        total += bench.sae.encode(x).sums().cpu()
        n += len(x)
    assert bench.scales.maximum is not None
    return total / n / bench.scales.maximum.double().cpu().clamp_min(1e-9)


def find(bench: Bench, wishes: dict[str, str], texts: dict[str, Sequence[str]]) -> dict[str, list[dict[str, Any]]]:
    """Per wish its latents: of those that tell its texts from the others' best, the ones that raise its words most."""
    means = {name: activations(bench, texts[name]) for name in wishes}
    rows_by_wish = {}
    for name, words in wishes.items():
        others = torch.stack([mean for other, mean in means.items() if other != name]).amax(0)
        gap, latents = (means[name] - others).topk(4 * bench.n_latents)
        runs = [
            output_scores(bench.model, bench.sae, bench.scales, latents.tolist(), prompt=p, words=[words.split()])
            for p in SEARCH_PROMPTS
        ]
        raised = torch.stack([run.words[:, 0] for run in runs]).mean(0)
        rows = raised.argsort(descending=True)[: bench.n_latents].tolist()
        rows_by_wish[name] = [
            {
                "latent": int(latents[row]),
                "fires_more": float(gap[row]),
                "words": float(raised[row]),
                "words_before": float(torch.stack([run.words_before for run in runs]).mean()),
                "output_score_gain": float(torch.stack([run.gain for run in runs]).mean(0)[row]),
                "raises": [bench.model.tokenizer.decode([token]) for token in runs[0].tokens[row, :8].tolist()],
            }
            for row in rows
        ]
    return rows_by_wish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sae")
    parser.add_argument("--only", nargs="+", default=["topic", "tone", "bias"])
    parser.add_argument("--reduced", action="store_true", help="few questions, strengths and candidates: a check")
    parser.add_argument("--out", type=Path, default=record_path("steering"))
    arguments = parser.parse_args()
    saved = choose_sae(arguments.run, arguments.sae)
    model, sae, scales = load_run(arguments.run, saved.folder)
    few = arguments.reduced
    bench = Bench(
        model,
        sae,
        scales,
        questions=QUESTIONS[:6] if few else QUESTIONS,
        strengths=STRENGTHS[1:5:2] if few else STRENGTHS,
        n_tokens=20 if few else 40,
        n_latents=2 if few else 3,
        n_controls=1 if few else 3,
    )
    results: dict[str, Any] = dict(read_json(arguments.out)) if arguments.out.exists() else {}
    results |= {"sae": saved.label, "model": model.name, "reduced": few}
    results |= {"max_perplexity": MAX_PERPLEXITY, "min_distinct_2": MIN_DISTINCT, "n_tokens": bench.n_tokens}
    for name in arguments.only:
        started = time.perf_counter()
        results[name] = EXAMPLES[name](bench, arguments.run)
        results[name]["seconds"] = time.perf_counter() - started
        common.save(arguments.out, results, without=("*/texts", "topic/found"))
        print(f"{name}: {results[name]['seconds']:.0f} s", flush=True)


def topic(bench: Bench, run: Path) -> dict[str, Any]:
    """Of the topics whose latents raise their words most, the one that answers mention most, forced into answers."""
    texts = {name: [form.format(word) for word in words.split() for form in ABOUT] for name, words in TOPICS.items()}
    candidates = find(bench, TOPICS, texts)
    likely = sorted(candidates, key=lambda topic: -candidates[topic][0]["words"])[
        : 1 if len(bench.questions) < 24 else N_TOPICS
    ]
    results = {
        name: wish(
            bench,
            [row["latent"] for row in candidates[name]],
            lambda text, of=TOPICS[name]: float(mentions(text, of)),
            TOPIC_INSTRUCTION.format(name),
            goal="both",
        )
        for name in likely
    }
    name = max(likely, key=lambda topic: max(point["both"] for point in results[topic]["search"]))
    tried = {other: max(point["both"] for point in results[other]["search"]) for other in likely}
    return {"topic": name, "words": TOPICS[name], "found": candidates, "tried": tried, **results[name]}


def tone(bench: Bench, run: Path) -> dict[str, Any]:
    """Both directions of the same scale: more and fewer long words."""
    candidates = find(bench, TONES, SPOKEN)
    results: dict[str, Any] = {"found": candidates}
    for name, goal in (("technical", "score"), ("plain", "-score")):
        results[name] = wish(
            bench, [row["latent"] for row in candidates[name]], complex_share, TONE_INSTRUCTION[name], goal=goal
        )
    return results


def bias(bench: Bench, run: Path) -> dict[str, Any]:
    from monosemy.data.tokens import prepare_tokens

    text = read_run(run)[0].text
    shards = prepare_tokens(text, bench.model.tokenizer, bench.model.tokenizer_fingerprint).validation
    few = len(bench.questions) < len(QUESTIONS)
    n = min(shards.n_sequences, 2 if few else 32)
    validation = torch.from_numpy(shards.sequences(0, n).copy()).long()
    return bias_case(
        bench.model,
        bench.sae,
        bench.scales,
        validation,
        n_candidates=6 if few else 80,
        counts=(1, 3) if few else (1, 2, 5, 10, 20),
        n_controls=bench.n_controls,
    )


EXAMPLES = {"topic": topic, "tone": tone, "bias": bias}

if __name__ == "__main__":
    main()
