"""The scores of a run: a file and its manifest for each judge and metric. They come later than the texts, and can be many."""

import hashlib
import time

from affq import InputError, files
from affq.provenance import scoring
from affq.weights import sha256_of

REMEDY = "affq score makes it again"


class Scored:
    """The scores in one folder; who inherits has `generations` and `generations_sha256`."""

    def __init__(self, folder):
        self.scores_folder = folder

    def score(self, scorer, by, make, texts=None):
        """Write the scores that make(generations) gives, or make(texts), one line a text, unless they are there.

        scorer: the id of a judge or metric. by: what identifies it exactly. Scores of other generations, by anything else, or
        by other scoring code are made again. The manifest comes last: without it there are no scores.
        """
        by, of = {**by, **scoring()}, self.generations_sha256()
        if (manifest := self.manifest(scorer)) and (manifest["of"], manifest["by"]) == (of, by):
            return
        self.scores_folder.mkdir(exist_ok=True)
        start = time.perf_counter()
        scores = files.lines(make(self.generations() if texts is None else texts))
        files.write(self.scores_folder / f"{scorer}.jsonl", scores)
        digest = hashlib.sha256(scores.encode()).hexdigest()
        about = {"of": of, "by": by, "sha256": digest, "seconds": time.perf_counter() - start}
        files.write_json(self.scores_folder / f"{scorer}.manifest.json", about)

    def manifest(self, scorer):
        """Read what the scores of `scorer` were made of and by; None where there are none, or not as they were written."""
        scores = self.scores_folder / f"{scorer}.jsonl"
        try:
            manifest = files.read_json(self.scores_folder / f"{scorer}.manifest.json", REMEDY)
            whole = files.need(manifest, ("of", "by", "seconds", "sha256"), scorer, REMEDY)["sha256"] == sha256_of(scores)
        except (InputError, FileNotFoundError):
            return None
        return manifest if whole else None

    def scores(self, scorer):
        """Read the scores of `scorer`; an empty list where there are none."""
        return files.read_jsonl(self.scores_folder / f"{scorer}.jsonl", REMEDY) if self.manifest(scorer) else []
