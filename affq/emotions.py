"""The emotions that texts are asked for: their names, the words that name them, reference texts."""

import re
import unicodedata
from pathlib import Path

EMOTIONS = ("anger", "disgust", "fear", "guilt", "joy", "sadness", "shame")
NONE = "none"  # what an empty or degenerate text is judged to carry
MASK = "..."  # as enISEAR hides the emotion that a text is about
REFERENCES = Path(__file__).with_name("references.jsonl")  # texts that were written for affq, ten an emotion

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
# Of lower-case text: several times faster than ignoring the case, and a study has a million texts.
_WORD_OF = {emotion: re.compile(rf"\b(?:{words})\b") for emotion, words in EMOTION_WORDS.items()}


def folded(label: str) -> str:
    """Return a label as it is told from others: letter case, composed accents, and wide or hard spaces around it do not count."""
    return unicodedata.normalize("NFKC", label).strip().casefold()


def mask_emotion_words(text: str) -> str:
    """Return a text with `...` for each word that names an emotion, whichever: what is left is judged by what happens in it."""
    return _ANY_EMOTION_WORD.sub(MASK, text)


def names_emotion(text: str, emotion: str) -> bool:
    """Return whether a text has a word that names this emotion, or a near neighbour of it."""
    return _WORD_OF[emotion].search(text.lower()) is not None
