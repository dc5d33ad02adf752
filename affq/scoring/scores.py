"""Statistics of one text: the emotion it is judged to carry, its ROUGE, how it repeats itself and others. No files."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from affq import imports
from affq.emotions import NONE, mask_emotion_words
from affq.errors import InputError
from affq.inference import KEY, Generation, key_of
from affq.scoring.judge import Judge
from affq.scoring.words import AnyScript, mostly_characters, spaced, words

if TYPE_CHECKING:
    import numpy as np

_CANNOT = r"I(?:['’]m| am)? (?:can(?:no|['’])t|can not|will not|won['’]t|not able to|unable to)(?: be able to)?"
_COMPLY = r"(?:help(?! \w+ing\b)|assist|write|generate|create|compose|produce|provide|fulfill?|comply|answer|do that)\b"
# How a refusal opens: regular expressions, for the first words of a text.
REFUSALS = (
    rf"{_CANNOT} {_COMPLY}",
    r"(?:I['’]m|I am|as) (?:just |only )?an? (?:AI|artificial intelligence|(?:\w+ )?language model)\b",
)
_REFUSAL = re.compile(
    r"\W*(?:(?:(?:(?:I['’]m|I am) (?:\w+ )?)?sorry|I apologi[sz]e|(?:my )?apologies|unfortunately)[,.]? (?:but )?)?"
    rf"(?:{'|'.join(REFUSALS)})",
    re.IGNORECASE,
)
REPETITIVE = 0.5  # of a text's 4-grams: beyond it most were there before, each 4-gram standing more than twice on average
LOOP = 32  # words: what is repeated at the end of a text for less may be no more than a last phrase
ROUGE = ("rouge1", "rouge2", "rougeL")
SELF_BLEU_REFERENCES = 50  # a text is held against no more others, so that the cost grows with the texts, not their square


def masked(generations: Iterable[Generation]) -> list[Generation]:
    """Return generations with the emotion words of their texts masked."""
    return [{**generation, "text": mask_emotion_words(generation["text"])} for generation in generations]


def is_degenerate(text: str) -> bool:
    """Return whether a text is no text: empty, fewer than three words, or under 20 % distinct words.

    In scripts without spaces, under 20 % distinct pairs of characters: a language has few characters, and a long text says them
    all.
    """
    distinct = distinct_n([text], 2 if mostly_characters(text) else 1)
    return len(words(text)) < 3 or distinct is None or distinct < 0.2


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Return distinct-n: of all n-grams of words in these texts, the share that is left when each counts once; None without any.

    Li et al. 2016 (https://arxiv.org/abs/1510.03055), who divide by the number of tokens: here by that of n-grams, so that 1
    can be reached. It falls as texts grow longer or more: compare only as many texts of about the same length.
    """
    ngrams = [ngram for text in map(words, texts) for ngram in zip(*(text[start:] for start in range(n)), strict=False)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def seq_rep_4(text: str) -> float | None:
    """Return the share of a text's 4-grams of words that were there before in it; None for fewer than four words.

    Sequence repetition of Welleck et al. 2020 (https://arxiv.org/abs/1908.04319), 1 - distinct-4 of the one text, there over
    tokens of a model.
    """
    distinct = distinct_n([text], 4)
    return None if distinct is None else 1 - distinct


def is_collapsed(text: str) -> bool:
    """Return whether generation collapsed: the text is degenerate, or more than REPETITIVE of its 4-grams are repeated."""
    return is_degenerate(text) or (seq_rep_4(text) or 0) > REPETITIVE


def repeats_from(text: str) -> int | None:
    """Return the word of a text, from 0, from which on it repeats itself to its end; None where it does not, for LOOP words.

    Where a loop begins to say again what it has said once: from there on more than REPETITIVE of the 4-grams were there before,
    however far one reads on; before it most are new, however far one reads back. So it is where the sum of what is repeated less
    what is new is greatest from a word to the end, as a change is placed by cumulative sums (Page 1954,
    https://doi.org/10.1093/biomet/41.1-2.100).
    """
    text_words = words(text)
    ngrams = list(zip(*(text_words[start:] for start in range(4)), strict=False))
    first = {ngram: place for place, ngram in reversed(list(enumerate(ngrams)))}
    excess = most = 0.0
    onset = None
    for place in reversed(range(len(ngrams))):
        excess += (first[ngrams[place]] < place) - REPETITIVE
        if excess > most:
            most, onset = excess, place
    return onset if onset is not None and len(text_words) - onset >= LOOP else None


def is_refusal(text: str) -> bool:
    """Return whether a text opens as a refusal does, by the list REFUSALS.

    It is a list: a refusal in other words, after a first sentence or in another language is missed, and a text that opens so
    and only introduces itself ("I'm an AI assistant"), or then does what was asked, is taken for one.
    """
    return _REFUSAL.match(text) is not None


def self_bleu(texts: Sequence[str]) -> list[float | None]:
    """Return each text's BLEU against the others, 0 to 1, in their order; None for one without words, or without others.

    Self-BLEU is the mean (Zhu et al. 2018, https://arxiv.org/abs/1802.01886): the higher, the more alike the texts are. By
    sacrebleu, 13a tokens, exponential smoothing, orders as far as the text has them. Of more than SELF_BLEU_REFERENCES others
    every second, third … is taken, around the circle. More references give a higher figure: compare only as many texts. In
    scripts without spaces each character is a token, as sacrebleu's own `zh` has it for Chinese.
    """
    texts = list(map(spaced, texts))
    from sacrebleu.metrics import BLEU

    bleu, step = BLEU(effective_order=True), -(-(len(texts) - 1) // SELF_BLEU_REFERENCES) or 1
    scores = []
    for place, text in enumerate(texts):
        others = [*texts[place + 1 :], *texts[:place]][::step]
        scores.append(bleu.sentence_score(text, others).score / 100 if others and words(text) else None)
    return scores


def text_statistics(generations: Sequence[Generation]) -> list[dict[str, Any]]:
    """Score generations by themselves: the fields of results.schemas.Quality, each by the function of its name here.

    self_bleu is against the texts asked for the same emotion. What a text is too short for is None.
    """
    by_emotion: dict[str | None, list[str]] = defaultdict(list)
    for generation in generations:
        by_emotion[generation["emotion"]].append(generation["text"])
    bleu = {emotion: iter(self_bleu(texts)) for emotion, texts in by_emotion.items()}
    rows = []
    for generation in generations:
        text = generation["text"]
        shares = {"distinct_1": distinct_n([text], 1), "distinct_2": distinct_n([text], 2), "seq_rep_4": seq_rep_4(text)}
        shares |= {"self_bleu": next(bleu[generation["emotion"]])}
        shares = {name: share if share is None else round(share, 6) for name, share in shares.items()}
        failures = {"refusal": is_refusal(text), "degenerate": is_degenerate(text), "collapsed": is_collapsed(text)}
        statistics = {"words": len(words(text)), **shares, **failures, "repeats_from": repeats_from(text)}
        rows.append({**key_of(generation), **statistics})
    return rows


def judged(texts: Sequence[str], probabilities: "np.ndarray", emotions: Sequence[str]) -> list[dict[str, Any]]:
    """Return of each text {judged_emotion, probabilities: {emotion: p}}, of a judge's probabilities (texts, emotions).

    judged_emotion is the likeliest, but `none` for a degenerate text; a text cut at the token limit is judged as it stands.
    Raises InputError for a text whose probabilities are no numbers.
    """
    rows = []
    for text, row in zip(texts, probabilities, strict=True):
        if row.max() != row.max():
            problem = f"the judge gives the text {text[:40]!r} no probability but nan: its weights are damaged"
            raise InputError(problem, value=text[:40], remedy="name another")
        emotion = NONE if is_degenerate(text) else emotions[int(row.argmax())]
        chances = {emotion: round(float(p), 6) for emotion, p in zip(emotions, row, strict=True)}
        rows.append({"judged_emotion": emotion, "probabilities": chances})
    return rows


def emotion_scores(generations: Sequence[Generation], judge: Judge) -> list[dict[str, Any]]:
    """Score generations under a judge: `judged` for each, with the generation's key. A judged `none` counts as wrong.

    Texts that are the same are judged once.
    """
    texts = list(dict.fromkeys(generation["text"] for generation in generations))
    verdicts = dict(zip(texts, judged(texts, judge.probabilities(texts), judge.emotions), strict=True))
    return [{**key_of(generation), **verdicts[generation["text"]]} for generation in generations]


def rouge_to_references(generations: Iterable[Generation], references: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Score generations by ROUGE against the best match of their emotion's references: {emotion: [texts]}.

    The best match is taken for ROUGE-1, -2 and -L each by itself, as rouge-score does for several references. Generations
    that were asked for no emotion have no references, and no score.
    """
    return _rouge((generation, references[generation["emotion"]]) for generation in generations if generation["emotion"])


def rouge_to_texts(generations: Iterable[Generation], others: Iterable[Generation]) -> list[dict[str, Any]]:
    """Score generations by ROUGE against the generation of the same prompt, emotion and sample among `others`."""
    key = itemgetter(*KEY)
    texts = {key(other): other["text"] for other in others}
    return _rouge((generation, [texts[key(generation)]]) for generation in generations)


def _rouge(pairs: Iterable[tuple[Generation, list[str]]]) -> list[dict[str, Any]]:
    """Return the F-measures of each pair (Lin 2004, https://aclanthology.org/W04-1013); None where neither text has a word."""
    imports.nltk()
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([*ROUGE], tokenizer=AnyScript())
    rows = []
    for generation, references in pairs:
        scores: dict[str, float | None] = dict.fromkeys(ROUGE)
        if any(map(words, (generation["text"], *references))):
            measures = scorer.score_multi(references, generation["text"])
            scores = {name: round(measure.fmeasure, 6) for name, measure in measures.items()}
        rows.append({**key_of(generation), **scores})
    return rows
