"""Words of a text, in any script: what scores count."""

import unicodedata

import regex

from affq import imports

# Scripts that put no space between words: a character counts there, with its marks.
UNSPACED = r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{N}]]"
MARK = r"[\p{M}--[\uFE00-\uFE0F\u20E3]]"  # but for those that turn a character into a picture
CHARACTER = rf"{UNSPACED}{MARK}*"
RUN = rf"[[\p{{L}}\p{{N}}]--{UNSPACED}](?:[[\p{{L}}\p{{N}}]--{UNSPACED}]|{MARK})*"
_WORDS = regex.compile(rf"(?V1){CHARACTER}|(?:_|{RUN})+(?:['’-](?:_|{RUN})+)*")
_RUNS = regex.compile(rf"(?V1){CHARACTER}|{RUN}")
_CHARACTER = regex.compile(f"(?V1){CHARACTER}")


def words(text: str) -> list[str]:
    """Return the words of a text, without letter case and punctuation; characters in scripts without spaces."""
    return _WORDS.findall(_folded(text))


def mostly_characters(text: str) -> bool:
    """Return whether most of a text's `words` are characters of scripts without spaces."""
    return 2 * len(_CHARACTER.findall(_folded(text))) > len(words(text))


def spaced(text: str) -> str:
    """Return a text with spaces around the characters of scripts without spaces."""
    return _CHARACTER.sub(r" \g<0> ", text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


class AnyScript:
    """A tokenizer for rouge-score: its own, with Porter stemming, for words in ASCII; other words stay as they are."""

    def __init__(self) -> None:
        imports.nltk()
        from rouge_score.tokenizers import DefaultTokenizer

        self._of_ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Return the runs of letters, marks and numbers of a text; characters in scripts without spaces."""
        runs = _RUNS.findall(_folded(text))
        return [token for run in runs for token in (self._of_ascii.tokenize(run) if run.isascii() else [run])]
