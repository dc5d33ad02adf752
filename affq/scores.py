"""Statistics of one text: the emotion it is judged to carry, whether it is degenerate, its ROUGE. No files."""

import re

NONE = "none"
MASK = "..."  # as enISEAR hides the emotion that a text is about

# The words that name an emotion or a near neighbour of it, as they are inflected: regular expressions of whole words.
EMOTION_WORDS = {
    "anger": r"anger\w*|angr(?:y|ier|iest|ily)|fury|furious\w*|(?:en|out)?rag(?:e[ds]?|ing|eous\w*)|"
    r"mad(?:der|dest|dened|dening|ly)?|annoy\w*|irritat\w*|irate|livid|wrath\w*|resent(?:s|ed|ing|ful\w*|ment\w*)?|"
    r"infuriat\w*|exasperat\w*|hat(?:e[ds]?|red|eful)",
    "disgust": r"disgust\w*|revolt(?:ed|ing)|revulsion|repuls\w*|repugnan\w*|nause\w*|sicken\w*|gross(?:ed)?|"
    r"loath(?:e[ds]?|ing|some)|abhor(?:s|red|ren\w*)?|yuck\w*",
    "fear": r"fear(?:s|ed|ing|ful\w*|some)?|afraid|scar(?:e[ds]?|ing|y|ier|iest)|terrif\w*|terror(?:s|i[sz]\w*)?|fright\w*|"
    r"panic\w*|dread(?:s|ed|ing|ful\w*)?|horror\w*|horrif\w*|petrified|anxious\w*|anxiet\w*|"
    r"worr(?:y\w*|ies|ied|isome)|nervous\w*",
    "guilt": r"guilt\w*|remorse\w*|regret\w*|contrit\w*|culpab\w*|blameworthy|self-reproach\w*",
    "joy": r"(?:en|over)?joy\w*|happ(?:y|ier|iest|ily|iness)|glad(?:ly|ness|den\w*)?|delight\w*|cheer(?:ful\w*|y|ed)?|"
    r"elat(?:ed|ion)|ecsta\w*|euphor\w*|bliss\w*|thrill\w*|jubila\w*|rejoic\w*|pleas(?:ed|ure\w*)|excite\w*|exciting\w*",
    "sadness": r"sad(?:der|dest|ly|ness|den\w*)?|sorrow\w*|grief\w*|griev(?:e[ds]?|ing)|unhapp\w*|depress\w*|"
    r"miser(?:y|able|ably)|gloom\w*|melanchol\w*|mourn\w*|heart-?br(?:oken|eak\w*)|despair\w*|desponden\w*|deject\w*|upset(?:s|ting)?",
    "shame": r"asham\w*|sham(?:e[ds]?|eful\w*|eless\w*|ing)|embarrass\w*|humiliat\w*|mortif\w*|disgrac\w*",
}
_ANY_EMOTION_WORD = re.compile(rf"\b(?:{'|'.join(EMOTION_WORDS.values())})\b", re.IGNORECASE)


def mask_emotion_words(text):
    """Put `...` for each word that names an emotion, of whichever emotion: what is left is judged by what happens."""
    return _ANY_EMOTION_WORD.sub(MASK, text)


def masked(generations):
    """Give generations with the emotion words of their texts masked."""
    return [{**generation, "text": mask_emotion_words(generation["text"])} for generation in generations]


def names_emotion(text, emotion):
    """Say whether a text has a word that names this emotion, or a near neighbour of it."""
    return re.search(rf"\b(?:{EMOTION_WORDS[emotion]})\b", text, re.IGNORECASE) is not None


def is_degenerate(text):
    """Say whether a text is no text: empty, fewer than three words, or under 20 % distinct words."""
    words = re.findall(r"\w+(?:['’-]\w+)*", text.lower())
    return len(words) < 3 or len(set(words)) / len(words) < 0.2


def judged(texts, probabilities, emotions):
    """Turn a judge's probabilities, of shape (texts, emotions), into [{judged_emotion, probabilities: {emotion: p}}].

    judged_emotion is the likeliest, but `none` for a degenerate text; a text cut at the token limit is judged as it stands.
    """
    rows = []
    for text, row in zip(texts, probabilities, strict=True):
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
    return {name: generation[name] for name in ("prompt_id", "emotion", "sample")}
