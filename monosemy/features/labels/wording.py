"""Writes the one-line label of a latent from counts.

Place on the data's path: the evidence gathered by `labels` → `“July”, “June” after “in” in French text`.

A label consists of the following parts, each only if it applies: the words at the peaks (with the name of their
category, or the kind of token they are), the words just before, the topic of the text around, the place in a line or
document, the source, and the output tokens that the latent raises. If nothing stands out, it says `unclear` and gives
examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.features.labels.vocabulary import FUNCTION_WORDS, KINDS, Vocabulary, category_of

Array = np.ndarray[Any, np.dtype[Any]]

_MAX_WORD_TOKENS = 6
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_LENGTHS = ("", "one", "two", "three", "four", "five", "six")
_MIN_STRONGEST = 5
"""With fewer strongest contexts, they are not described separately."""
_LANGUAGES = ("english", "french", "spanish", "german", "italian", "portuguese", "dutch", "russian", "chinese")
_PLACES = (
    "at the start of a document",
    "at the end of a document",
    "at the start of a line",
    "at the start of a sentence",
)


@dataclass(frozen=True)
class Evidence:
    """The facts about one latent's peaks from which its label is written. Lists are best first, at most K long."""

    peaks: Array
    """int64 [n]: token indices of the fitted peaks."""
    groups: Array
    """int32 [3, K]: over-represented at the peak, just before, in the window; −1 after the last."""
    shares: Array
    """float32 [3, K]: share of the peaks (or windows) that have the group, weighted as in `corpus.Peaks`."""
    kind_shares: Array
    """float32 [kinds]: share of the peaks of each kind."""
    kind_odds: Array
    """float32 [kinds]: log-odds of each kind at the peaks against fitted text."""
    place_shares: Array
    """float32 [4]: share of the peaks at each of `_PLACES`."""
    source_shares: Array
    """float32 [sources]: share of the peaks in each source."""
    raised: Array
    """int32 [k]: output tokens that the latent raises most, best first."""
    raised_values: Array
    """float32 [k]: by how much it raises them (logits per unit of activation)."""


@dataclass(frozen=True)
class Corpus:
    """The N tokens of the pass, and statistics of them that labels compare with."""

    vocabulary: Vocabulary
    tokens: Array
    """int32 [N]."""
    joined: Array
    """bool [N]: whether the token continues the word of the token before."""
    sources: Sequence[str]
    whole_share: Array
    """float64 [G]: share of a group's occurrences that are whole words."""
    group_tokens: Array
    """int32 [G]: the commonest token of each group."""
    common_raised: frozenset[int]
    """Tokens that very many latents raise, which therefore say nothing about a single one."""
    source_base: Array
    """float64 [sources]: share of all tokens in each source."""
    place_base: Array
    """float64 [4]: share of all tokens at each of `_PLACES`."""

    def word(self, index: int) -> tuple[int, int]:
        """[start, stop) of the word that contains a token, reaching at most six tokens to each side."""
        start, stop = index, index + 1
        while self.joined[start] and index - start < _MAX_WORD_TOKENS:
            start -= 1
        while stop < len(self.tokens) and self.joined[stop] and stop - index < _MAX_WORD_TOKENS:
            stop += 1
        return start, stop


def compose(evidence: Evidence, strongest: Evidence, corpus: Corpus) -> tuple[str, list[str]]:
    """(label, hints) of one latent; ("", []) for one without peaks.

    `evidence` is that of its fitted sample, `strongest` that of its strongest contexts alone.
    """
    if not len(evidence.peaks):
        return "", []
    # the description of the strongest contexts is added only where it names new words
    label, words, hints = _describe(evidence, corpus)
    if len(strongest.peaks) >= _MIN_STRONGEST:
        at_top, top_words, top_hints = _describe(strongest, corpus, few=True)
        new = not top_words or not {w.casefold() for w in top_words} <= {w.casefold() for w in words}
        if at_top and not label:
            label, hints = _strongest(at_top), top_hints
        elif at_top and new and at_top not in label:
            label += f"; {_strongest(at_top)}"
    if not label:
        words_at_peaks = peak_words(evidence, corpus)[0][:3]
        label = "unclear, e.g. " + (
            _listed([word for word, _ in words_at_peaks]) or ", ".join(_examples(evidence, corpus))
        )
    if raised := _raised_words(evidence, corpus):
        label += f"; raises {_listed(raised)}"
    return label, hints


def _strongest(description: str) -> str:
    return f"strongest {description}" if description.startswith("at the") else f"strongest on {description}"


def _describe(evidence: Evidence, corpus: Corpus, *, few: bool = False) -> tuple[str, list[str], list[str]]:
    """(description, the words at the peaks that it names, hints); the description is "" if nothing stands out.

    `few` means that there are only a handful of peaks. To be named, a word must then cover a fifth of them, and a word
    before or around them 30%.
    """
    # 1. collect what stands out at the peaks
    words, coverage = peak_words(evidence, corpus, 0.2 if few else 0.0)
    source, places = _source(evidence, corpus), _place_hints(evidence, corpus)
    category = category_of([word for word, _ in words], code=source == "code") if coverage >= 0.3 else None
    kind = _kind(evidence, corpus)
    main, named_words = _main(words, coverage, category, kind)
    # 2. put the parts together; a part that comes first needs another connecting word
    parts = [main] if main else []
    if before := _before_words(evidence, corpus, 0.3 if few else 0.1):
        parts.append(("after " if parts else "what follows ") + _listed(before))
    parts += places
    # words that cover nearly all peaks already name the latent: those around would only distract
    if coverage < 0.7 and (around := _context_words(evidence, corpus, named_words, 0.3 if few else 0.1)):
        parts.append(("in text with " if parts else "text with ") + _listed(around))
    if source:
        parts.append(f"in {source}" if parts else source)
    hints = [hint for hint in (category, kind) if hint] + places + ([f"in {source}"] if source else [])
    return " ".join(parts), named_words, hints


def _main(
    words: list[tuple[str, float]], coverage: float, category: str | None, kind: str | None
) -> tuple[str, list[str]]:
    """The description of the peaks themselves, and the words that it names.

    It is a category with words, else the kind of token if the top words cover too little, else the words if they cover
    enough of the peaks, else nothing. `coverage` is the share of the peaks that the three top words cover.
    """
    if category:
        named_words = [word for word, share in words[:4] if share >= 0.03]
        return f"{category}: {_listed(named_words)}", named_words
    named_words = [word for word, share in words[:3] if share >= 0.05]
    # single numbers are arbitrary examples even when a few of them cover many peaks
    if kind and (coverage < 0.4 or "digit" in kind or kind == "numbers"):
        examples = coverage >= 0.15 and (kind == "parts of words" or not any("…" in word for word in named_words))
        return kind + (f", e.g. {_listed(named_words)}" if examples else ""), named_words
    if coverage >= 0.4:
        return _listed(named_words), named_words
    return (f"{_listed(named_words)} and others", named_words) if coverage >= 0.2 and named_words else ("", [])


def _listed(words: Sequence[str]) -> str:
    return ", ".join(quote(word) for word in words)


def quote(text: str) -> str:
    """The text in quotation marks, “text”; white space alone is described in words, such as `2 line breaks`."""
    bare = text.strip(" ")
    if not text.strip():
        n_breaks, n_spaces = text.count("\n"), text.count(" ")
        descriptions = [f"{n_breaks} line breaks" if n_breaks > 1 else "line break"] if n_breaks else []
        descriptions += ["tab"] * ("\t" in text)
        if n_spaces:
            descriptions.append("space" if n_spaces == 1 else f"{n_spaces} spaces")
        return " and ".join(descriptions) or "white space"
    return "“" + bare.replace("\n", "↵").replace("\t", "⇥") + "”"


def peak_words(evidence: Evidence, corpus: Corpus, least: float = 0.0) -> tuple[list[tuple[str, float]], float]:
    """Up to six (word, share of the peaks) for the over-represented groups, and the joint share of the first three.

    A group is shown as a whole word if at least 60% of its peaks lie in that word, else as a part: `un…`, `…ing`. Words
    with a share below `least` are left out.
    """
    groups = corpus.vocabulary.groups[corpus.tokens[evidence.peaks]]
    by_word: dict[str, list[Any]] = {}
    for group, share in zip(evidence.groups[0], evidence.shares[0], strict=True):
        if group < 0 or len(by_word) == 6:
            break
        word = _surface(evidence.peaks[groups == group], corpus)
        key = word.casefold()
        if key in by_word:
            by_word[key][1] += float(share)
        else:
            by_word[key] = [word, float(share)]
    ranked = sorted((pair for pair in by_word.values() if pair[1] >= least), key=lambda pair: -pair[1])
    return [(word, share) for word, share in ranked], sum(share for _, share in ranked[:3])


def _surface(peaks: Array, corpus: Corpus) -> str:
    """The word or part of a word to show for a group, from the first 64 of its peaks."""
    spans = [corpus.word(int(index)) for index in peaks[:64]]
    words = Counter(
        corpus.vocabulary.join(corpus.tokens[a:b]).strip(" ") or corpus.vocabulary.join(corpus.tokens[a:b])
        for a, b in spans
    )
    word, n = words.most_common(1)[0]
    if n >= 0.6 * len(spans):
        return word
    # a part of several words: an ellipsis on each side on which most of these words go on
    parts = Counter(corpus.vocabulary.texts[corpus.tokens[index]].strip(" ") for index in peaks[:64])
    part = parts.most_common(1)[0][0]
    continues_left = sum(index > a for index, (a, _) in zip(peaks, spans, strict=False)) > len(spans) / 2
    continues_right = sum(index + 1 < b for index, (_, b) in zip(peaks, spans, strict=False)) > len(spans) / 2
    return ("…" if continues_left else "") + part + ("…" if continues_right else "")


def _kind(evidence: Evidence, corpus: Corpus) -> str | None:
    """The kind of token at most peaks, if it is far more common there than elsewhere; numbers with the digit's place.

    Lower-case words are never reported, since that would describe most text.
    """
    best = int(np.argmax(evidence.kind_shares))
    name = KINDS[best]
    if evidence.kind_shares[best] < 0.6 or evidence.kind_odds[best] < 0.7 or name == "lower-case words":
        return None
    if name != "numbers":
        return name
    spans = [(int(index), *corpus.word(int(index))) for index in evidence.peaks[:64]]
    # the usual place of the peak in its number, and the usual length of the number, in tokens (one per digit)
    (place, length), n = Counter((index - a, b - a) for index, a, b in spans).most_common(1)[0]
    if length < 2 or n < 0.5 * len(spans) or length > len(_ORDINALS):
        return name
    return f"{_ORDINALS[place]} digit of {_LENGTHS[length]}-digit numbers"


def _before_words(evidence: Evidence, corpus: Corpus, least: float) -> list[str]:
    """Up to three words just before the peak, if together they precede at least 40% of the peaks; else none."""
    if np.mean(corpus.joined[evidence.peaks]) > 0.4:
        return []  # the peaks are inside words, and `peak_words` already shows those as a whole
    texts, total = [], 0.0
    previous = np.maximum(evidence.peaks - 1, 0)
    groups = corpus.vocabulary.groups[corpus.tokens[previous]]
    for group, share in zip(evidence.groups[1][:3], evidence.shares[1][:3], strict=True):
        if group >= 0 and share >= least:
            texts.append(_surface(previous[groups == group], corpus))
            total += float(share)
    return texts if total >= 0.4 else []


def _context_words(evidence: Evidence, corpus: Corpus, named_words: Sequence[str], least: float) -> list[str]:
    """Up to three words over-represented in the windows, without function words and those already named."""
    excluded = {word.strip("…").casefold() for word in named_words} | FUNCTION_WORDS
    texts: list[str] = []
    for group, share in zip(evidence.groups[2], evidence.shares[2], strict=True):
        if group < 0 or len(texts) == 3:
            break
        text = corpus.vocabulary.texts[corpus.group_tokens[group]].strip()
        is_whole = corpus.whole_share[group] >= 0.7 and len(text) >= 3 and text.isalpha()
        if is_whole and share >= least and text.casefold() not in excluded:
            texts.append(text)
    return texts


def _raised_words(evidence: Evidence, corpus: Corpus) -> list[str]:
    """Up to two readable tokens that the latent raises and that stand out: far above the rest, or one word twice.

    Other tokens at the top are mostly rare ones with long unembedding vectors, which come up in random directions too.
    """
    vocabulary, values = corpus.vocabulary, evidence.raised_values
    if len(values) == 0 or values[-1] <= 0:
        return []
    first = evidence.raised[:6]
    groups = Counter(vocabulary.groups[first].tolist())
    texts: list[str] = []
    for token, value in zip(first, values, strict=False):
        text = vocabulary.texts[token].strip()
        # values[-1] is the weakest of the stored tokens, which stands for "the rest"
        stands_out = value >= 1.75 * values[-1] or groups[vocabulary.groups[token]] > 1
        readable = text and "�" not in text and text.isprintable() and not vocabulary.special[token]
        repeated = text.casefold() in [earlier_text.casefold() for earlier_text in texts]
        if stands_out and readable and not repeated and token not in corpus.common_raised:
            texts.append(text)
    return texts[:2]


def _examples(evidence: Evidence, corpus: Corpus) -> list[str]:
    spans = [corpus.word(int(index)) for index in evidence.peaks[:3]]
    return [quote(corpus.vocabulary.join(corpus.tokens[a:b])) for a, b in spans]


def _place_hints(evidence: Evidence, corpus: Corpus) -> list[str]:
    """The places in a document or line that at least half of the peaks are at, four times as often as other tokens."""
    return [
        place
        for place, share, base in zip(_PLACES, evidence.place_shares, corpus.place_base, strict=True)
        if share >= 0.5 and share >= 4 * base
    ]


def _source(evidence: Evidence, corpus: Corpus) -> str | None:
    """The source (a corpus, a language) of most peaks, if it holds much less of the text; None without one.

    Such as `French text`, `code` or `text from speeches`, without quotation marks: those stand around words that the
    text itself has. A pair of languages other than English is accepted as well.
    """
    order = np.argsort(-evidence.source_shares)
    # a single source first, then pairs, of which only languages are accepted
    for n in (1, 2):
        leading = order[:n]
        names = [corpus.sources[k] for k in leading] if len(corpus.sources) > n else []
        share, base = float(evidence.source_shares[leading].sum()), float(corpus.source_base[leading].sum())
        enough = evidence.source_shares[leading].min() >= 0.15 and share >= 0.75 and base <= 0.5 and share >= 1.5 * base
        if not names or not enough or (n == 2 and not set(names) <= set(_LANGUAGES[1:])):
            continue
        if set(names) <= set(_LANGUAGES):
            return " or ".join(name.capitalize() for name in names) + " text"
        return names[0] if names[0] == "code" else "text from " + " ".join(names[0].split())
    return None
