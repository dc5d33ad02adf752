"""The files of a study's results: the contract between the notebooks. No other module knows them.

reports/<study>/runs/<run id>/  run.json, generations.jsonl, measurements.json, then done.json; or failed.json
                                scores/<id>.jsonl with scores/<id>.manifest.json
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

from affq import InputError, without_places
from affq.study import PACKAGE
from affq.weights import sha256_of

# In a wheel the notebooks lie inside the package, in a clone beside it.
NOTEBOOKS = next(p for p in (PACKAGE / "notebooks", PACKAGE.parent / "notebooks") if p.is_dir())
LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers", "safetensors")
GENERATING = ("precisions.py", "models.py", "prompts.py", "generate.py", "measure.py")
SCORING = ("judge.py", "scores.py")
FORMAT = 1  # of the records; it goes up when their fields change
# What must be in each record, as nested keys; what is read back is never trusted to be whole.
FIELDS = {
    "run.json": (
        "settings",
        "software versions torch",
        "software code_digest",
        "hardware device",
        "stored_dtype",
        "weights_sha256",
    ),
    "failed.json": ("kind", "words", "remedy"),
    "measurements.json": (
        *("model compute_dtype", "model chat_template", "census", "memory kind", "memory phases", "latency", "seconds"),
    ),
    "generations.jsonl": ("prompt_id", "kind", "emotion", "sample", "prompt", "text", "new_tokens", "ended"),
}


def study_folder(results, study):
    """Give the folder of a study's results and published report."""
    return Path(results) / study.name


@cache
def software():
    """Say what software generates: versions, the commit of a clone, and a digest of the generating code."""
    return {
        "affq": version("affq"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "commit": _commit(),
        "code_digest": _digest([*(PACKAGE / name for name in GENERATING), NOTEBOOKS / "1_generate.ipynb"]),
    }


def _commit():
    if not (PACKAGE.parent / ".git").exists() or not shutil.which("git"):
        return None
    describe = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None


def _digest(files):
    code = hashlib.sha256()
    for file in files:
        code.update(file.read_bytes())
    return code.hexdigest()


class Record:
    """The records of one run. Files are written whole and renamed into place, but for generations, appended batch by batch."""

    def __init__(self, results, run):
        self.run = run
        self.folder = study_folder(results, run.study) / "runs" / run.id
        self.scores_folder = self.folder / "scores"

    def start(self, environment):
        """Begin the run afresh: what an earlier attempt left is dropped, run.json says what is run, on what, by what."""
        for name in ("done.json", "failed.json", "measurements.json", "generations.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.scores_folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "run_id": self.run.id,
            "settings": self.run.settings,
            "stored_dtype": self.run.model.stored_dtype,
        }
        _write_json(self.folder / "run.json", {**about, "software": software(), **environment})

    def append(self, generations):
        """Append one batch of generations and flush it to the disk."""
        with open(self.folder / "generations.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in generations)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, measurements):
        """Write the measurements, then done.json with the hashes of the three records: the run is complete from here on.

        Raises ValueError for a generation that is there twice, as after executing a cell of the notebook again.
        """
        keys = [(row["prompt_id"], row["emotion"], row["sample"]) for row in self.generations()]
        if len(set(keys)) < len(keys):
            raise ValueError(
                f"{self.folder / 'generations.jsonl'} holds a generation twice; execute the notebook from its first cell"
            )
        _write_json(self.folder / "measurements.json", measurements)
        names = ("run.json", "generations.jsonl", "measurements.json")
        _write_json(self.folder / "done.json", {name: sha256_of(self.folder / name) for name in names})

    def fail(self, kind, words, remedy=None):
        """Write failed.json: kind of failure, last words, remedy where one is known. A complete run has not failed."""
        if not self.complete:
            self.folder.mkdir(parents=True, exist_ok=True)
            words = " ".join(without_places(words).split())  # they are published, the user's folders are not
            _write_json(self.folder / "failed.json", {"kind": kind, "words": words, "remedy": remedy})

    def progress(self, since_s, texts_wanted):
        """Say how far an attempt that began at `since_s` (seconds of the epoch) is: (stage, texts generated).

        stage: starting, loading, generating, timing, ending.
        """
        try:
            if (self.folder / "run.json").stat().st_mtime < since_s:
                return "starting", 0  # an earlier attempt's
            texts = self.folder / "generations.jsonl"
            done = texts.read_bytes().count(b"\n") if texts.exists() else 0
        except FileNotFoundError:
            return "starting", 0
        if (self.folder / "measurements.json").exists():
            return "ending", done
        return ("loading" if not done else "generating" if done < texts_wanted else "timing"), done

    def status(self):
        """Give (status, note): ok, missing, partial, stale or failed, and why."""
        if self.complete:
            return ("stale", changed) if (changed := self._changed()) else ("ok", "")
        if (self.folder / "failed.json").exists():
            failed = self._read("failed.json")
            return "failed", f"{failed['kind']}: {failed['words']}" + (f"; {failed['remedy']}" if failed["remedy"] else "")
        return ("partial", "it did not end") if (self.folder / "run.json").exists() else ("missing", "not run yet")

    @property
    def complete(self):
        """Say whether done.json is there; nothing else decides it."""
        return (self.folder / "done.json").exists()

    def _changed(self):
        then, now = self.about(), software()
        old = then["software"]
        before = old["versions"]
        changes = [f"{name} {before.get(name)} → {v}" for name, v in now["versions"].items() if before.get(name) != v]
        if old["code_digest"] != now["code_digest"]:
            changes.append("the generating code changed")
        if self.run.study.device not in ("auto", then["hardware"]["device"]):
            changes.append(f"device {then['hardware']['device']} → {self.run.study.device}")
        return ", ".join(changes)

    def about(self):
        """Read run.json: settings, software, hardware. Raises InputError for a record of another version of affq."""
        if (found := _read_json(self.folder / "run.json").get("format")) != FORMAT:
            raise InputError(
                f"{self.folder} was written by another version of affq (records of format {found}, this one reads {FORMAT}); "
                f"move the folder away to have the run done again, or read it with the version that wrote it"
            )
        return self._read("run.json")

    def stored_dtype(self):
        """Name the dtype of the published weights, as the run found it; None before it began."""
        return self.about()["stored_dtype"] if (self.folder / "run.json").exists() else None

    def generations(self):
        """Read the generations, in the order in which they were made."""
        path = self.folder / "generations.jsonl"
        rows = _read_jsonl(path)
        for number, row in enumerate(rows, 1):
            _need(row, "generations.jsonl", f"{path}, line {number}")
        return rows

    def measurements(self):
        """Read the raw readings."""
        return self._read("measurements.json")

    def _read(self, name):
        return _need(_read_json(self.folder / name), name, self.folder / name)

    def generations_sha256(self):
        """Give the hash of the generations: what a score is a score of."""
        return sha256_of(self.folder / "generations.jsonl")

    def score(self, scorer, by, make):
        """Write the scores that make(generations) gives, one line a generation, unless they are there.

        scorer: the id of a judge or metric. by: what identifies it exactly. Scores of other generations, by anything else, or
        by other scoring code are made again. The manifest comes last: without it there are no scores.
        """
        by = {**by, "code_digest": _digest(PACKAGE / name for name in SCORING), "rouge_score": version("rouge-score")}
        of = self.generations_sha256()
        if (manifest := self.manifest(scorer)) and (manifest["of"], manifest["by"]) == (of, by):
            return
        self.scores_folder.mkdir(exist_ok=True)
        (self.scores_folder / f"{scorer}.manifest.json").unlink(missing_ok=True)
        start = time.perf_counter()
        rows = make(self.generations())
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _replace(self.scores_folder / f"{scorer}.jsonl", lines)
        manifest = {"of": of, "by": by, "rows": len(rows), "seconds": time.perf_counter() - start}
        _write_json(self.scores_folder / f"{scorer}.manifest.json", manifest)

    def manifest(self, scorer):
        """Read what the scores of `scorer` were made of and by; None where there are none."""
        path = self.scores_folder / f"{scorer}.manifest.json"
        return _read_json(path) if path.exists() else None

    def scores(self, scorer):
        """Read the scores of `scorer`; an empty list where there are none."""
        return _read_jsonl(self.scores_folder / f"{scorer}.jsonl") if self.manifest(scorer) else []


def records(results, study):
    """Give the record of each run of a study, in the study's order, whatever their status."""
    return [Record(results, run) for run in study.runs()]


def _replace(path, text):
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _write_json(path, value):
    _replace(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _read_json(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if not isinstance(found, dict):
        raise _damaged(path, "no JSON object")
    return found


def _read_jsonl(path):
    rows = []
    # Not splitlines(): a text may hold a line separator that is not a line feed.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            rows += [json.loads(line)] if line else []
        except (ValueError, RecursionError) as error:
            raise _damaged(f"{path}, line {number}", error) from None
    return rows


def _need(found, name, place):
    """Give `found` back if it has the fields of the record `name`."""
    for field in FIELDS[name]:
        value = found
        for key in field.split():
            if not isinstance(value, dict) or key not in value:
                raise _damaged(place, f"it has no {field.replace(' ', ' → ')}")
            value = value[key]
    return found


def _damaged(place, why):
    scores = Path(str(place)).parent.name == "scores"
    remedy = "remove that folder to have the texts scored again" if scores else "remove the run's folder to have it done again"
    return InputError(f"{place} is damaged ({why}); {remedy}")
