"""Bad input: one error, whose sentence is made here alone; names and texts that are safe to show; commands to type."""

import os
import shlex
import unicodedata
from collections.abc import Iterable

KEPT_IN_TEXT = "\t\n\r\u200c\u200d"  # besides spaces; Persian and emoji need the joiners inside a word


class InputError(ValueError):
    """Bad input: what is wrong, where, what would be right, and what to do about it.

    problem: what is wrong, with the value in it; it may say `{place}` where the place belongs in the sentence, else the
    sentence goes on with `in` and the place. value: what was found. place: the file, with its line where there is one.
    choices: what would have been understood. remedy: what to do. Commands print the sentence alone, without a traceback.
    """

    def __init__(
        self,
        problem: str,
        *,
        value: object = None,
        place: str | os.PathLike[str] | None = None,
        choices: Iterable[object] = (),
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem, self.value, self.place, self.remedy = problem, value, place, remedy
        self.choices = tuple(map(str, choices))

    def __str__(self) -> str:
        sentence = self.problem
        if self.place is None:
            sentence = sentence.replace(" in {place}", "").replace("{place}: ", "")
        else:
            sentence = sentence.replace("{place}", str(self.place)) if "{place}" in sentence else f"{sentence} in {self.place}"
        if self.choices:
            sentence += f"; known: {', '.join(self.choices)}"
        return f"{sentence}; {self.remedy}" if self.remedy else sentence

    def at(self, place: str | os.PathLike[str] | None) -> "InputError":
        """Return the same error at another place; None where a place would say nothing to the reader."""
        return InputError(self.problem, value=self.value, place=place, choices=self.choices, remedy=self.remedy)


def command(verb: str, study: str | os.PathLike[str], results: str | os.PathLike[str] = "reports") -> str:
    """Return a command of affq as it is typed in a shell, such as affq run mine.yaml; with --results where they lie elsewhere."""
    elsewhere = () if str(results) == "reports" else ("--results", str(results))
    return shlex.join(("affq", verb, str(study), *elsewhere))


def printable(value: object, in_text: bool = False) -> str:
    r"""Return a value as text that commands no terminal and breaks no file: what is not printable is written as \x1b.

    in_text: keep white space, and the joiners that some scripts need, as in running text; a name has neither.
    """

    def stays(c: str) -> bool:
        return c.isprintable() or (in_text and (c in KEPT_IN_TEXT or unicodedata.category(c).startswith("Z")))

    return "".join(c if stays(c) else ascii(c)[1:-1] for c in str(value))
