"""The files of a study's results: the contract between the notebooks. No other module knows them.

reports/<study>/runs/<run id>/  run.json, generations.jsonl, batches.jsonl, measurements.json, then done.json; or failed.json
                                passes/<n>.json: resource passes, one a process, until measurements.json has them
                                scores/<id>.jsonl with scores/<id>.manifest.json
                                attempts/<n>/: what an earlier attempt left, and a later one replaced
"""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from affq import InputError, files, without_places
from affq.provenance import changes_since, conditions, software
from affq.scored import Scored
from affq.weights import sha256_of

FORMAT = 3  # of the records; it goes up when their fields change
TEXTS = ("generations.jsonl", "batches.jsonl")
RECORDS = ("run.json", *TEXTS, "measurements.json")
ENDS = ("done.json", "failed.json", "measurements.json", "scores")
PASSES = "passes"
FOR_PEOPLE = ("1_generate.ipynb", "1_generate.log")
# What must be in each record, as nested keys; what is read back is never trusted to be whole.
FIELDS = {
    "run.json": (
        *("settings", "software versions torch", "software code_digest", "hardware device"),
        *("stored_dtype", "weights_sha256", "texts_kept", "process"),
    ),
    "failed.json": ("kind", "words", "remedy", "again", "software versions", "software code_digest"),
    "measurements.json": (
        *("model compute_dtype", "model chat_template", "census", "memory kind", "memory phases", "memory cache_bytes"),
        *("passes", "alone", "throughput points", "kernels", "seconds"),
    ),
    "generations.jsonl": ("prompt_id", "kind", "emotion", "sample", "prompt", "text", "new_tokens", "ended"),
}
REMEDY = "affq run does it again"
KEEPS_OLD = "the version that wrote them reads them; affq run --force does the run again, and moves them to attempts/"


def study_folder(results, study):
    """Give the folder of a study's results and published report."""
    return Path(results) / study.name


class Record(Scored):
    """The records of one run, and its scores.

    Files are written whole and renamed into place, but for the texts, which are appended batch by batch.
    """

    def __init__(self, results, run):
        self.run = run
        self.folder = study_folder(results, run.study) / "runs" / run.id
        super().__init__(self.folder / "scores")
        self._texts = files.Journal(*(self.folder / name for name in TEXTS))

    def set_aside(self, texts=False):
        """Move what an earlier attempt ended with to attempts/<n>/, its `texts` too where they are not to be kept."""
        self._aside(ENDS + FOR_PEOPLE + (TEXTS if texts else ()))

    def _aside(self, names):
        if not (there := [name for name in names if (self.folder / name).exists()]):
            return
        numbers = [int(path.name) for path in self.folder.glob("attempts/*") if path.name.isdigit()]
        folder = self.folder / "attempts" / str(max(numbers, default=0) + 1)
        folder.mkdir(parents=True)
        if (self.folder / "run.json").exists():
            shutil.copy2(self.folder / "run.json", folder)
        for name in there:  # done.json first: no run is complete with a part of its records
            (self.folder / name).replace(folder / name)

    def start(self, environment, process=1):
        """Begin an attempt, or a further process of it, and return how many batches of texts are kept from an earlier one.

        Whole batches are kept if they were made under the same conditions: settings, software, hardware, weights. Other texts
        move to attempts/<n>/. run.json says what is run, on what, by what.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "run_id": self.run.id,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": self.run.settings,
            "stored_dtype": self.run.model.stored_dtype,
            "software": software(),
            **environment,
        }
        self._aside(ENDS + TEXTS if self.complete else ENDS)  # by hand, nothing else has done it
        kept = self.batches() if self._under(about) else []
        if not kept:
            self._aside(TEXTS)
        else:
            self._texts.keep(kept)
        self._pass(process).unlink(missing_ok=True)
        texts_kept = sum(batch["texts"] for batch in kept)
        files.write_json(self.folder / "run.json", {**about, "texts_kept": texts_kept, "process": process})
        return len(kept)

    def _under(self, about):
        """Say whether the earlier attempt was made under the conditions `about`: another machine's texts may differ."""
        try:
            return conditions(self.about()) == conditions(json.loads(json.dumps(about)))
        except InputError:
            return False

    def append(self, generations, reading):
        """Append one whole batch: its texts, then its reading (seconds, bytes), which says that the texts are all there.

        Raises ValueError if the run is complete.
        """
        if self.complete:
            raise ValueError("this run is complete; execute the notebook from its first cell to do it again")
        self._texts.append(generations, reading)

    def batches(self):
        """Read what stands beside the texts of each whole batch: {texts, end_byte, …}."""
        return self._texts.batches(lambda row: (row["prompt_id"], row["emotion"], row["sample"]))

    def keep_pass(self, process, readings):
        """Keep one process's resource pass until `finish`, with the conditions that it was made under."""
        (self.folder / PASSES).mkdir(exist_ok=True)
        about = {"conditions": conditions(self.about()), "readings": {"process": process, **readings}}
        files.write_json(self._pass(process), about)

    def has_pass(self, process):
        """Say whether a process's resource pass is kept."""
        return self._pass(process).exists()

    def _pass(self, process):
        return self.folder / PASSES / f"{process}.json"

    def _passes(self):
        """Read the resource passes that were made under this attempt's conditions, in the order of their processes."""
        paths = sorted((self.folder / PASSES).glob("*.json"), key=lambda path: int(path.stem))
        kept, now = [files.read_json(path, REMEDY) for path in paths], conditions(self.about())
        return [one["readings"] for one in kept if one["conditions"] == now]

    def finish(self, measurements):
        """Write the measurements and the resource passes, then done.json with the records' hashes: the run is complete now.

        Raises ValueError unless each text is there, and once: cells of a notebook can be left out, or executed again.
        """
        wanted, there = self.run.study.texts_wanted, sum(batch["texts"] for batch in self.batches())
        if not there == wanted == len(self.generations()):
            raise ValueError(f"{there} of {wanted} texts are there; execute the notebook from its first cell")
        files.write_json(self.folder / "measurements.json", {**measurements, "passes": self._passes()})
        hashes = {name: sha256_of(self.folder / name) for name in RECORDS}
        files.write_json(self.folder / "done.json", files.sealed(b"", hashes))
        shutil.rmtree(self.folder / PASSES, ignore_errors=True)

    def fail(self, kind, words, remedy=None, again=False):
        """Write failed.json: kind of failure, last words, remedy where one is known, whether affq run is to try `again`.

        A complete run has not failed.
        """
        if not self.complete:
            self.folder.mkdir(parents=True, exist_ok=True)
            plain = " ".join(without_places(words).split())  # they are published, the user's folders are not
            files.write_json(self.folder / "failed.json", _failure(kind, plain, remedy, again))

    def failure(self):
        """Read how the run failed, {kind, words, remedy, again, software}; None if it did not."""
        if (self.folder / "done.json").exists():
            if altered := self._altered():
                return _failure("damaged", altered, again=True)
            if self.of_another_version():
                return _failure("other_version", "its records are of another version of affq", KEEPS_OLD)
        elif (self.folder / "failed.json").exists():
            try:
                return self._read("failed.json")
            except InputError:
                return _failure("damaged", "failed.json cannot be read", again=True)
        return None

    def of_another_version(self):
        """Say whether run.json is there and has another format than this version's."""
        try:
            return files.read_json(self.folder / "run.json", REMEDY).get("format") != FORMAT
        except InputError:
            return False

    def mark(self):
        """Give what tells one attempt's run.json from the next one's; None before the first."""
        try:
            stat = (self.folder / "run.json").stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def progress(self, before):
        """Say how far the attempt is that began after mark() gave `before`: (stage, texts there).

        stage: starting, loading, generating, timing, ending.
        """
        try:
            if self.mark() == before:
                return "starting", 0  # an earlier attempt's
            kept, process = (self.about()[name] for name in ("texts_kept", "process"))
            texts = self.folder / "generations.jsonl"
            done = texts.read_bytes().count(b"\n") if texts.exists() else 0
        except (FileNotFoundError, InputError):
            return "starting", 0
        if (self.folder / "measurements.json").exists():
            return "ending", done
        if process > 1:
            return "timing", done
        wanted = self.run.study.texts_wanted
        return ("loading" if done <= kept else "timing" if done >= wanted else "generating"), done

    def status(self):
        """Give (status, note): ok, missing, partial, stale or failed, and why."""
        if failed := self.failure():
            return "failed", f"{failed['kind']}: {failed['words']}" + (f"; {failed['remedy']}" if failed["remedy"] else "")
        if self.complete:
            return ("stale", changed) if (changed := self.changed()) else ("ok", "")
        if (self.folder / "run.json").exists():
            try:
                changed = self.changed()
            except InputError:
                changed = "its run.json cannot be used"
            kept = 0 if changed else sum(batch["texts"] for batch in self.batches())
            return "partial", f"{kept} of {self.run.study.texts_wanted} texts kept" + (f": {changed}" if changed else "")
        return "missing", "not run yet"

    @property
    def complete(self):
        """Say whether done.json is there, and the records are those that it was written for; nothing else decides it."""
        return (self.folder / "done.json").exists() and self.failure() is None

    def _altered(self):
        """Say which record is not what it was when the run ended; "" if all are."""
        try:
            done = files.read_json(self.folder / "done.json", REMEDY)
        except InputError:
            done = {}
        hashes = {name: done.get(name) for name in RECORDS}
        if done != files.sealed(b"", hashes):
            return "done.json was changed after the run had ended"
        for name, sha256 in hashes.items():
            if not (self.folder / name).exists():
                return f"{name} is gone, which was there when the run ended"
            if sha256_of(self.folder / name) != sha256:
                return f"{name} was changed after the run had ended"
        return ""

    def changed(self):
        """Say what changed since the attempt: versions, generating code, device; "" if nothing did."""
        then, asked = self.about(), self.run.study.device
        made_on = then["hardware"]["device"]
        changes = changes_since(then["software"], software())
        return ", ".join(changes + ([] if asked in ("auto", made_on) else [f"device {made_on} → {asked}"]))

    def about(self):
        """Read run.json: settings, software, hardware. Raises InputError for a record of another version of affq."""
        if self.of_another_version():
            raise InputError(f"{self.folder} holds records of another version of affq; {KEEPS_OLD}")
        return self._read("run.json")

    def stored_dtype(self):
        """Name the dtype of the published weights, as the run found it; None before it began, or where that is not known."""
        try:
            return self.about()["stored_dtype"]
        except InputError:
            return None

    def generations(self):
        """Read the generations, in the order in which they were made."""
        return files.read_jsonl(self.folder / "generations.jsonl", REMEDY, FIELDS["generations.jsonl"])

    def measurements(self):
        """Read the raw readings."""
        return self._read("measurements.json")

    def alone(self):
        """Read the timed texts that have a counterpart in the quality pass: as each is in a batch of one."""
        return [row for row in self.measurements()["alone"] if row["text"] is not None]

    def _read(self, name):
        return files.need(files.read_json(self.folder / name, REMEDY), FIELDS[name], self.folder / name, REMEDY)

    def generations_sha256(self):
        """Give the hash of the generations: what a score is a score of."""
        return sha256_of(self.folder / "generations.jsonl")


def _failure(kind, words, remedy=None, again=False):
    return {"kind": kind, "words": words, "remedy": remedy, "again": again, "software": software()}


def records(results, study):
    """Give the record of each run of a study, in the study's order, whatever their status."""
    return [Record(results, run) for run in study.runs()]
