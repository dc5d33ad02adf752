"""Scores of texts, beside them: scores/<id>.jsonl of each judge and metric, with scores/<id>.manifest.json."""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from affq import files
from affq.errors import InputError
from affq.files import sha256_of
from affq.results import schemas
from affq.results.provenance import scoring

REMEDY = "affq score makes it again"
TOGETHER = 1_000  # texts: what is scored of them is on the disk before the next ones


class Scored(ABC):
    """Texts whose scores are read: those of a run, or of a series beside it."""

    _scores_folder: Path

    @abstractmethod
    def generations_sha256(self) -> str:
        """Return the hash of the texts: what a score is a score of."""

    @abstractmethod
    def _fit(self, scorer: str, scores: list[dict]) -> bool:
        """Return whether these are scores of the texts that `scorer` scores, each once."""

    def manifest(self, scorer: str) -> dict | None:
        """Return what the scores of `scorer` were made of, by and with; None for none, and for scores that were changed since.

        It has {of: the hash of the texts, by: what identifies the scorer, software: `provenance.scoring`, seconds, sha256}.
        """
        scores, path = (self._scores_folder / f"{scorer}{end}" for end in (".jsonl", ".manifest.json"))
        try:
            manifest = files.read_json(path, REMEDY, schemas.Manifest.model_validate)
            return manifest if manifest["sha256"] == sha256_of(scores) else None
        except (InputError, FileNotFoundError, IsADirectoryError):
            return None

    def scores_are_stale(self, scorer: str) -> bool:
        """Return whether the scores of `scorer` are there, and of other texts, other code or other versions than are here now."""
        manifest = self.manifest(scorer)
        return manifest is not None and (manifest["of"], manifest["software"]) != (self.generations_sha256(), scoring())

    def scores(self, scorer: str) -> list[dict]:
        """Return the scores of `scorer`; an empty list where there are none, or none that fit the texts."""
        if not self.manifest(scorer):
            return []
        try:
            check = schemas.of_scores(scorer).model_validate
            scores = files.read_jsonl(self._scores_folder / f"{scorer}.jsonl", REMEDY, check)
        except InputError:
            return []
        return scores if self._fit(scorer, scores) else []

    def has_scores(self, scorer: str, by: dict, stale: bool = False) -> bool:
        """Return whether its scores of these texts are there; stale: even if code or versions were others.

        by: what identifies the scorer exactly; None for a part that is not known here, where its weights are not.
        """
        if not (self.scores(scorer) and (manifest := self.manifest(scorer))):
            return False
        made_by = manifest["by"]
        same_scorer = made_by.keys() == by.keys() and all(by[name] in (None, made_by[name]) for name in by)
        mine = same_scorer and manifest["of"] == self.generations_sha256()
        return mine and (stale or not self.scores_are_stale(scorer))


class Scores(Scored):
    """Texts whose scores are written."""

    def keep_scores(self, scorer: str, by: dict, rows: list[dict], seconds: float) -> None:
        """Write scores, one line a text, and what they were made of, by and with, in so many seconds."""
        self._scores_folder.mkdir(exist_ok=True)
        scores = files.lines(rows)
        files.write(self._scores_folder / f"{scorer}.jsonl", scores)
        digest = hashlib.sha256(scores.encode()).hexdigest()
        made_of = {"of": self.generations_sha256(), "by": by, "software": scoring()}
        files.write_json(self._scores_folder / f"{scorer}.manifest.json", {**made_of, "sha256": digest, "seconds": seconds})


def score_together(
    texts: Iterable[tuple[Scores, str, Sequence[dict]]], by: dict, make: Callable[[list[dict]], list[dict]]
) -> None:
    """Write the scores of several runs' texts as Record.score does, but made for TOGETHER texts or more at a time.

    texts: of each record or series, under the scorer's id, its texts. make: gives a row for each text, in their order; what
    several of them have in common it may score once.
    """
    lacking = [(record, scorer, rows) for record, scorer, rows in texts if not record.has_scores(scorer, by)]
    while lacking:
        group: list[tuple[Scores, str, Sequence[dict]]] = []
        while lacking and sum(len(rows) for *_, rows in group) < TOGETHER:
            group.append(lacking.pop(0))
        start = time.perf_counter()
        try:
            made = make([row for *_, rows in group for row in rows])
        except InputError:
            if all(record.has_scores(scorer, by, stale=True) for record, scorer, _ in group):
                continue
            raise
        seconds, left = (time.perf_counter() - start) / len(made), iter(made)
        for record, scorer, rows in group:
            record.keep_scores(scorer, by, list(islice(left, len(rows))), seconds * len(rows))
