"""Statistics of one text: the emotion it is judged to carry, its ROUGE, how it repeats itself and others. No files."""

import re
from collections import defaultdict

from affq.emotions import NONE, mask_emotion_words
from affq.errors import InputError
from affq.inference import KEY

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
SELF_BLEU_REFERENCES = 50  # a text is held against no more others, so that the cost grows with the texts, not their square


def masked(generations):
    """Give generations with the emotion words of their texts masked."""
    return [{**generation, "text": mask_emotion_words(generation["text"])} for generation in generations]


def words(text):
    """List the words of a text, in lower case, without punctuation."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def is_degenerate(text):
    """Say whether a text is no text: empty, fewer than three words, or under 20 % distinct words."""
    found = words(text)
    return len(found) < 3 or len(set(found)) / len(found) < 0.2


def distinct_n(texts, n):
    """Give distinct-n: of all n-grams of words in these texts, the share that is left when each counts once; None without any.

    Li et al. 2016 (https://arxiv.org/abs/1510.03055), who divide by the number of tokens: here by that of n-grams, so that 1
    can be reached. It falls as texts grow longer or more: compare only as many texts of about the same length.
    """
    ngrams = [ngram for text in map(words, texts) for ngram in zip(*(text[start:] for start in range(n)), strict=False)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def seq_rep_4(text):
    """Give the share of a text's 4-grams of words that were there before in it; None for fewer than four words.

    Sequence repetition of Welleck et al. 2020 (https://arxiv.org/abs/1908.04319), 1 - distinct-4 of the one text, there over
    tokens of a model.
    """
    distinct = distinct_n([text], 4)
    return None if distinct is None else 1 - distinct


def is_collapsed(text):
    """Say whether generation collapsed: the text is degenerate, or more than REPETITIVE of its 4-grams are repeated."""
    return is_degenerate(text) or (seq_rep_4(text) or 0) > REPETITIVE


def is_refusal(text):
    """Say whether a text opens as a refusal does, by the list REFUSALS.

    It is a list: a refusal in other words, after a first sentence or in another language is missed, and a text that opens so
    and only introduces itself ("I'm an AI assistant"), or then does what was asked, is taken for one.
    """
    return _REFUSAL.match(text) is not None


def self_bleu(texts):
    """Give each text's BLEU against the others, 0 to 1, in their order; None for one without words, or without others.

    Self-BLEU is the mean (Zhu et al. 2018, https://arxiv.org/abs/1802.01886): the higher, the more texts are like each other. By
    sacrebleu, 13a tokens, exponential smoothing, orders as far as the text has them. Of more than SELF_BLEU_REFERENCES others
    every second, third … is taken, around the circle. More references give a higher figure: compare only as many texts.
    """
    from sacrebleu.metrics import BLEU

    bleu, step = BLEU(effective_order=True), -(-(len(texts) - 1) // SELF_BLEU_REFERENCES) or 1
    found = []
    for place, text in enumerate(texts):
        others = (texts[place + 1 :] + texts[:place])[::step]
        found.append(bleu.sentence_score(text, others).score / 100 if others and words(text) else None)
    return found


def text_statistics(generations):
    """Score generations by themselves: words, distinct_1, distinct_2, seq_rep_4, self_bleu, refusal, degenerate, collapsed.

    self_bleu is against the texts asked for the same emotion. What a text is too short for is None.
    """
    by_emotion = defaultdict(list)
    for generation in generations:
        by_emotion[generation["emotion"]].append(generation["text"])
    bleu = {emotion: iter(self_bleu(texts)) for emotion, texts in by_emotion.items()}
    rows = []
    for generation in generations:
        text = generation["text"]
        shares = {"distinct_1": distinct_n([text], 1), "distinct_2": distinct_n([text], 2), "seq_rep_4": seq_rep_4(text)}
        shares |= {"self_bleu": next(bleu[generation["emotion"]])}
        shares = {name: share if share is None else round(share, 6) for name, share in shares.items()}
        said = {"refusal": is_refusal(text), "degenerate": is_degenerate(text), "collapsed": is_collapsed(text)}
        rows.append({**_key(generation), "words": len(words(text)), **shares, **said})
    return rows


def judged(texts, probabilities, emotions):
    """Turn a judge's probabilities, of shape (texts, emotions), into [{judged_emotion, probabilities: {emotion: p}}].

    judged_emotion is the likeliest, but `none` for a degenerate text; a text cut at the token limit is judged as it stands.
    Raises InputError for a text whose probabilities are no numbers.
    """
    rows = []
    for text, row in zip(texts, probabilities, strict=True):
        if row.max() != row.max():
            raise InputError(
                f"the judge gives the text {text[:40]!r} no probability but nan: its weights are damaged; name another"
            )
        emotion = NONE if is_degenerate(text) else emotions[int(row.argmax())]
        chances = {emotion: round(float(p), 6) for emotion, p in zip(emotions, row, strict=True)}
        rows.append({"judged_emotion": emotion, "probabilities": chances})
    return rows


def emotion_scores(generations, judge):
    """Score generations under a judge: `judged` for each, with the generation's key. A judged `none` counts as wrong."""
    texts = [generation["text"] for generation in generations]
    found = judged(texts, judge.probabilities(texts), judge.emotions)
    return [{**_key(generation), **row} for generation, row in zip(generations, found, strict=True)]


def rouge_to_references(generations, references):
    """Score generations by ROUGE against the best match of their emotion's references: {emotion: [texts]}.

    The best match is taken for ROUGE-1, -2 and -L each by itself, as rouge-score does for several references. Generations
    that were asked for no emotion have no references, and no score.
    """
    return _rouge((generation, references[generation["emotion"]]) for generation in generations if generation["emotion"])


def rouge_to_texts(generations, others):
    """Score generations by ROUGE against the generation of the same prompt, emotion and sample among `others`."""
    texts = {tuple(_key(other).values()): other["text"] for other in others}
    return _rouge((generation, [texts[tuple(_key(generation).values())]]) for generation in generations)


def _rouge(pairs):
    # F-measures with Porter stemming (Lin 2004, https://aclanthology.org/W04-1013).
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = []
    for generation, references in pairs:
        found = scorer.score_multi(references, generation["text"])
        rows.append({**_key(generation), **{name: round(score.fmeasure, 6) for name, score in found.items()}})
    return rows


def _key(generation):
    return {name: generation[name] for name in KEY}
