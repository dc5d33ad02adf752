"""Give affq thousands of broken and odd files, and count what it makes of them.

python tests/bench/fuzz.py --seed 0 --cases 2000 prints the table of fuzz.md, and each case that was not taken well; python
tests/bench/fuzz.py --case record:17 --keep FOLDER does one of them again, and keeps its files. A case is a kind of input and a
number: the same number makes the same files. What is refused is refused in one sentence; what is taken must run, or fail as a
run whose failure has a kind (endings.of_error): anything else is nonsense that was accepted.
"""

import argparse
import contextlib
import csv
import faulthandler
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))  # of conftest

import torch
import transformers
import yaml
from conftest import save_classifier, save_tiny
from safetensors.torch import load_file
from test_tables import PEAKS, PREDICTED, write_run

import affq
from affq import files
from affq.analysis import annotation, planned_runs
from affq.analysis import claims as analysed
from affq.emotions import EMOTIONS, REFERENCES
from affq.errors import InputError
from affq.inference import generate
from affq.models import LoadError, PrecisionError, loading, memory, weights
from affq.report import csv_text, words
from affq.report.reading import for_reading, html_table
from affq.results import FailureKind, keep_labels, kept_labels, kept_notes, read_labels
from affq.results import record as records
from affq.runner import endings, planning
from affq.scoring import classifiers, judge_file, scores
from affq.study import claims, load_study, prompts

LIMIT_S = 60  # of one case; a process that does not even notice is ended a little later
MACHINE = memory.Machine("cpu", 1, 8 * 10**9)
REFUSALS = (InputError, LoadError, PrecisionError)
FRAMES = [name for name, value in vars(affq.Results).items() if isinstance(value, cached_property) and name[0] != "_"]
MAP = {"remorse": "guilt", "embarrassment": "shame", "grief": "sadness"}

# Values that may be right somewhere, and are odd elsewhere.
ODD = [None, True, False, -1, 0, 1, 3, 0.5, -0.0, 10**9, 10**30, 1e308, "", " ", "x", "joy", "JOY", "none", "auto", "float16"]
ODD += ["sdpa", "=1+1", "é", "e\u0301", "王", "\ufeff", "\u202e", "\x00", "a/b", "..", "2026-13-01", "1:30", "010", "0x10", "nan"]
ODD += [[], {}, [None], {"a": 1}, [[1, 2]], ["x", "x"], {"": {}}]
TOKENS = [
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    "&a ",
    "*a",
    "!!int ",
    "|",
    "#",
    "\n",
    "\t",
    "\x00",
    "\u2028",
    "\ufeff",
    "é",
    "%",
]
TOKENS += [",", ";", "null", "NaN", "1e999", "\\ud800", "\r\n"]


class Nonsense(Exception):
    """What affq took, and should not have."""


class Hang(BaseException):
    """A case that takes longer than LIMIT_S; no Exception, so that nothing takes it for its own."""


def broken_bytes(rng: random.Random, whole: bytes) -> bytes:
    """Cut, double, drop, flip or insert at a random place, one to three times."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(whole) + 1), rng.randint(1, 20)
        kind = rng.choice(["cut", "double", "drop", "flip", "insert"])
        if kind == "cut":
            whole = whole[: max(at, 1)]
        elif kind == "double":
            whole = whole[:at] + whole[at : at + length] * 2 + whole[at + length :]
        elif kind == "drop":
            whole = whole[:at] + whole[at + length :]
        elif kind == "flip":
            whole = whole[:at] + bytes(b ^ rng.randrange(1, 256) for b in whole[at : at + 1]) + whole[at + 1 :]
        else:
            whole = whole[:at] + rng.choice(TOKENS).encode() + whole[at:]
    return whole


def broken_values(rng: random.Random, values):
    """Put odd values, names and keys into mappings and lists, at any depth, one to three times."""
    values = json.loads(json.dumps(values))
    for _ in range(rng.randint(1, 3)):
        holder = values
        while True:  # down to some mapping or list
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            inner = [holder[place] for place in places if isinstance(holder[place], (dict, list)) and holder[place]]
            if not inner or rng.random() < 0.4:
                break
            holder = rng.choice(inner)
        odd, doing = json.loads(json.dumps(rng.choice(ODD))), rng.random()
        if not places or doing < 0.1:
            if isinstance(holder, dict):
                holder[rng.choice(["x", "", "modles", "Batch", "é"])] = odd
            else:
                holder.insert(rng.randrange(len(holder) + 1), odd)
        elif doing < 0.2:
            del holder[rng.choice(places)]
        elif doing < 0.3 and isinstance(holder, list):
            holder.append(holder[rng.choice(places)])
        else:
            holder[rng.choice(places)] = odd
    return values


def as_other_programs_save(rng: random.Random, text: str) -> bytes:
    """Return a text as spreadsheets and editors of other systems leave it, one to three things at once."""
    changes: list[Callable[[str], str]] = [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n", "\r"),
        lambda t: t + "\n\n",
        lambda t: t.rstrip("\n"),
        lambda t: t.replace(",", ";"),
        lambda t: t.replace(",", "\t"),
        lambda t: t.replace(" ", "\N{NO-BREAK SPACE}"),
        lambda t: t.upper(),
        lambda t: t.replace("\n", ",,\n"),
        lambda t: t.replace('"', "\N{LEFT DOUBLE QUOTATION MARK}"),
    ]
    for change in rng.sample(changes, rng.randint(1, 3)):
        text = change(text)
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]), errors="replace")


def broken_text(rng: random.Random, whole: str) -> bytes:
    return broken_bytes(rng, whole.encode()) if rng.random() < 0.6 else as_other_programs_save(rng, whole)


def broken_lines(rng: random.Random, whole: str) -> bytes:
    """Break JSON lines: one's values, or the whole text."""
    lines = whole.splitlines()
    if rng.random() < 0.5:
        return broken_text(rng, whole)
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(broken_values(rng, json.loads(lines[at])), ensure_ascii=rng.random() < 0.5)
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
STUDY = {
    "models": ["./mine"],
    "precisions": ["fp32", "bf16"],
    "weights": "trained",
    "device": "cpu",
    "offload": False,
    "prompts": "two.csv",
    "emotions": ["joy", "sadness"],
    "samples": 1,
    "batch": 2,
    "seed": 0,
    "generation": {"decoding": "greedy", "max_new_tokens": 2},
    "measurement": {
        "texts": 2,
        "new_tokens": 2,
        "warmup_tokens": 1,
        "rounds": 1,
        "token_texts": 0,
        "processes": 1,
        "throughput": 0,
    },
    "limits": {"cell_s": 60, "run_s": 60},
    "judges": ["minilm-lora", {"judge": "./judge", "labels": MAP}],
    "references": "references.jsonl",
    "perplexity": None,
    "claims": "claims.yaml",
    "budget": {"memory_gb": 1, "seconds_a_text": 1.0},
}
PROMPTS = (
    "id,kind,text,text_without_emotion\nnote,general,Write a note full of {emotion}.,Write a note.\n"
    'day,event,"Tell of a day, of {emotion}.",Tell of a day.\n'
)


class Bench:
    """Whole inputs of each kind, and the oracles over broken ones. place: a folder for them."""

    def __init__(self, place: Path) -> None:
        torch.set_num_threads(1)
        transformers.utils.logging.set_verbosity_error()
        self.place, self.cache = place / "whole", place / "cache"
        self.place.mkdir()
        weights.cache = lambda: self.cache
        torch.manual_seed(0)
        config = transformers.LlamaConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, **SIZES)
        save_tiny(self.place / "mine", config)
        save_classifier(self.place / "judge")
        (self.place / "two.csv").write_text(PROMPTS)
        (self.place / "toy.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
        shutil.copy(REFERENCES, self.place / "references.jsonl")
        shutil.copy(Path(claims.__file__).with_name("claims.yaml"), self.place / "claims.yaml")
        self.study = load_study(self.place / "toy.yaml")
        for record, judged in zip(records.records(self.place / "reports", self.study), ("joy", "sadness"), strict=True):
            write_run(record, ["joy", judged] * 3, PEAKS, [1.0, 2.0], predicted=PREDICTED)
        results = affq.Results(self.study, self.place / "reports")
        self.sample = annotation.identified(results.texts)[["id", "text"]].assign(label=["joy", "sadness"] * 4)
        keep_labels(self.place / "reports", self.study, "anna", self.sample[["id", "label"]])

    @cached_property
    def model(self):
        return loading.load(self.place / "mine", "fp32", "cpu")

    @cached_property
    def judge(self):
        return classifiers.find(str(self.place / "judge"), MAP, self.place, EMOTIONS)

    @cached_property
    def results(self) -> affq.Results:
        return affq.Results(self.study, self.place / "reports")

    # Each breaks one kind of input in a folder of its own, and holds what affq made of it against what it should.

    def study_file(self, rng: random.Random, folder: Path) -> None:
        path, whole = folder / "toy.yaml", (self.place / "toy.yaml").read_text()
        if rng.random() < 0.6:
            path.write_text(yaml.safe_dump(broken_values(rng, STUDY), sort_keys=False, allow_unicode=True))
        else:
            path.write_bytes(broken_text(rng, whole))
        study = load_study(path)
        means_what_it_says(study, yaml.safe_load(path.read_bytes().decode("utf-8-sig")))
        self.runs(study, folder)

    def prompts_file(self, rng: random.Random, folder: Path) -> None:
        path = folder / "two.csv"
        path.write_bytes(broken_text(rng, PROMPTS))
        rows = prompts.read_prompts(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            if rows != [row for row in csv.DictReader(file) if any(row.values())]:
                raise Nonsense(f"other rows than the file has: {rows}")
        if any("{emotion}" not in row["text"] or "{emotion}" in row["text_without_emotion"] for row in rows):
            raise Nonsense(f"a prompt without its emotion: {rows}")
        requests = prompts.cross(rows, EMOTIONS[:2])
        with failing_as_a_run(self.study.runs()[0]):
            generate.texts(*self.model, requests[:2], 2)

    def claims_file(self, rng: random.Random, folder: Path) -> None:
        path, whole = folder / "claims.yaml", (self.place / "claims.yaml").read_text()
        if rng.random() < 0.6:
            path.write_text(yaml.safe_dump(broken_values(rng, yaml.safe_load(whole)), allow_unicode=True))
        else:
            path.write_bytes(broken_text(rng, whole))
        claims.read_claims(path)
        results = affq.Results(replace(self.study, claims=path), self.place / "reports")
        shown = words.planned(planned_runs(planning.plan(results.study, results._results, planning.Choice()), MACHINE), MACHINE)
        tables(results.claims)
        if not shown or set(results.claims["verdict"]) - set(map(str, analysed.Verdict)):
            raise Nonsense("a verdict that is none")

    def references_file(self, rng: random.Random, folder: Path) -> None:
        path = folder / "references.jsonl"
        path.write_bytes(broken_lines(rng, (self.place / "references.jsonl").read_text(encoding="utf-8")))
        references = prompts.read_references(path, EMOTIONS)
        if set(references) - set(EMOTIONS) or not all(text.strip() for texts in references.values() for text in texts):
            raise Nonsense("a reference of no emotion, or an empty one")
        key = {"prompt_id": "p", "sample": 0, "text": "I was so happy to see her again."}
        scores.rouge_to_references([key | {"emotion": emotion} for emotion in EMOTIONS], references)

    def labels_file(self, rng: random.Random, folder: Path) -> None:
        path = folder / "anna.csv"
        path.write_bytes(broken_text(rng, csv_text(self.sample)))
        labels = annotation.check(read_labels(path), self.results.texts, self.study.emotions, path)
        if set(labels["label"]) - {*self.study.emotions, "none"} or not labels["id"].isin(self.sample["id"]).all():
            raise Nonsense(f"labels that nobody gave: {labels}")
        keep_labels(folder / "reports", self.study, "anna", labels)
        known, lost = annotation.known(kept_labels(folder / "reports", self.study), self.results.texts)
        if lost or len(known["anna"]) != len(labels):
            raise Nonsense(f"{lost} labels were lost")
        tables(annotation.between_people(annotation.beside(self.results.texts, known), list(known)))

    def texts_to_judge(self, rng: random.Random, folder: Path) -> None:
        rows = [{"text": f"{word} and more", "error": None, "n": n} for n, word in enumerate(("yay", "tears", "gone"))]
        path, out = folder / "texts.jsonl", folder / "out.jsonl"
        path.write_bytes(broken_lines(rng, files.lines(rows)))
        said = judge_file.judge_file(path, out, self.judge, print)
        written = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
        if len(written) != len(said):
            raise Nonsense(f"{len(said)} lines were judged, {len(written)} written")
        for row, (_, wrong) in zip(written, said, strict=True):
            answers = {None} if wrong else {*self.judge.emotions, "none"}
            if row["judged_emotion"] not in answers:
                raise Nonsense(f"a verdict that is none: {row}")

    def model_folder(self, rng: random.Random, folder: Path) -> None:
        mine = shutil.copytree(self.place / "mine", folder / "mine")
        (mine / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>"}))
        names = ["config.json"] * 4 + ["tokenizer_config.json", "generation_config.json"] * 2
        file = mine / rng.choice([*names, "special_tokens_map.json", "model.safetensors", "model.safetensors", "tokenizer.json"])
        whole, kind = file.read_bytes(), rng.choice(["values", "values", "values", "bytes", "head", "remove", "empty"])
        if kind == "values" and file.suffix == ".json":
            file.write_text(json.dumps(broken_values(rng, json.loads(whole))))
        elif kind == "values":
            length = int.from_bytes(whole[:8], "little")
            header = json.dumps(broken_values(rng, json.loads(whole[8 : 8 + length]))).encode()
            file.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + length :])
        elif kind == "head":
            file.write_bytes(broken_bytes(rng, whole[:400]) + whole[400:])
        elif kind == "remove":
            file.unlink()
        else:
            file.write_bytes(b"" if kind == "empty" else broken_bytes(rng, whole))
        values = STUDY | {"weights": rng.choice(["trained", "trained", "trained", "random"])}
        (folder / "toy.yaml").write_text(yaml.safe_dump(values))
        for name in ("two.csv", "references.jsonl", "claims.yaml", "judge"):
            (folder / name).symlink_to(self.place / name)
        self.runs(load_study(folder / "toy.yaml"), folder)

    def record(self, rng: random.Random, folder: Path) -> None:
        """What is damaged is a run to be done again, and what has a right seal is what it says, or is refused."""
        results = shutil.copytree(self.place / "reports", folder / "reports")
        runs = sorted((results / "toy" / "runs").iterdir())
        break_record(rng, rng.choice(runs), results / "toy")
        planned = planning.plan(self.study, results, planning.Choice())
        shown = words.planned(planned_runs(planned, MACHINE), MACHINE, claims.read_claims(self.study.claims))
        if len(shown) < 3 or any("\n" in line for line in shown):
            raise Nonsense(f"a plan of other lines: {shown}")
        read = affq.Results(self.study, results)
        refused: InputError | None = None
        for frame in FRAMES:
            try:
                made = getattr(read, frame)
            except InputError as error:
                refused = error
            else:
                tables(made)
        try:
            kept_notes(results, self.study)
        except InputError as error:
            refused = error
        if refused:
            raise refused

    def runs(self, study, folder: Path) -> None:
        """Plan an accepted study, and generate the first texts of its runs as the notebook does, in this process."""
        planned = planning.plan(study, folder / "reports", planning.Choice())
        words.planned(planned_runs(planned, MACHINE), MACHINE, claims.read_claims(study.claims))
        for run in study.runs()[:2]:
            if run.model.folder.parent != folder and study.judged:
                continue  # one of the catalog, if it is here, is too large
            with failing_as_a_run(run):
                if not study.judged:
                    run.model.fetch(print)
                seed, where = run.random_seed, run.model.folder
                loading.import_for(where, run.precision, seed)
                model, tokenizer = loading.load(where, run.precision, "cpu", seed)
                loading.prove(loading.census(model), run.precision)
                most = max(study.measurement.new_tokens, study.generation.max_new_tokens)
                thinking = study.generation.thinking
                tokens = generate.count_tokens(model, tokenizer, study.requests[:2], most, thinking)
                inputs = generate.prepare(model, tokenizer, study.requests[:1], thinking)
                loading.compute_once(model, run.precision, inputs)
                (batch,) = generate.in_batches(study.requests[:2], tokens, 2)
                generate.texts(model, tokenizer, batch, min(most, 4), sampling=study.sampling, thinking=thinking)
                prompts.to_time(study.requests, study.measurement.texts)
                if seed is None:
                    has_the_weights_of_its_file(model, where, run.precision)


@contextlib.contextmanager
def failing_as_a_run(run) -> Iterator[None]:
    """Let what a run may fail by pass: a refusal, or a failure that has a kind other than `error`."""
    try:
        yield
    except REFUSALS:
        raise
    except Exception as error:
        failure = endings.of_error(run, 10**9, type(error).__name__, str(error))
        if failure.kind == FailureKind.ERROR:
            raise Nonsense(f"accepted, and fails with {type(error).__name__}: {error}") from error


def means_what_it_says(study, values: dict) -> None:
    """Raise Nonsense unless every value of the file is the study's: no default in its place."""
    if set(study.precisions) != set(values["precisions"]) or len(study.models) != len(values["models"]):
        raise Nonsense("other precisions or models than the file has")
    for key in ("device", "samples", "batch", "seed", "offload", "weights"):
        if (meant := values.get(key, getattr(study, key))) != getattr(study, key) or isinstance(meant, bool) != (
            key == "offload"
        ):
            raise Nonsense(f"{key} is {getattr(study, key)}, where the file says {meant!r}")
    if list(study.emotions) != values.get("emotions", list(study.emotions)):
        raise Nonsense("other emotions than the file has")
    if len(study.judges) != len(values.get("judges", study.judges)):
        raise Nonsense("other judges than the file has")
    for key in ("generation", "measurement", "limits", "budget"):
        settings = getattr(study, key).model_dump()
        if {**settings, **(values.get(key) or {})} != settings:
            raise Nonsense(f"{key} is {settings}, where the file says {values[key]}")


def has_the_weights_of_its_file(model, folder: Path, precision: str) -> None:
    """Raise Nonsense unless a model has the weights of its file, all of them and no others."""
    stored, loaded = load_file(folder / "model.safetensors"), dict(model.named_parameters())
    if {name: tuple(t.shape) for name, t in stored.items()} != {name: tuple(p.shape) for name, p in loaded.items()}:
        raise Nonsense("other weights than the file has")
    for name, tensor in stored.items() if precision == "fp32" else ():
        if not torch.equal(loaded[name].nan_to_num(), tensor.float().nan_to_num()):
            raise Nonsense(f"{name} is not as stored")


def tables(frame) -> None:
    """Write a frame as a report does: as CSV, and as a table for reading."""
    if hasattr(frame, "to_csv"):
        csv_text(frame)
        html_table(for_reading(frame), "a table")


def break_record(rng: random.Random, run: Path, study: Path) -> None:
    """Break one thing among a run's records, scores, or what people left; values are sealed anew, as no reader can tell."""
    scored = [path for path in sorted((run / "scores").iterdir()) if path.suffix == ".jsonl"]
    kind = rng.choice(
        ["values", "values", "values", "scores", "scores", "bytes", "folder", "remove", "failed", "labels", "notes"]
    )
    if kind == "labels":
        path = study / "labels" / "anna.csv"
        path.write_bytes(broken_text(rng, path.read_text()))
    elif kind == "notes":
        row = dict.fromkeys(("time", "id", "run_id", "prompt_id", "emotion", "note"), "x") | {"sample": 0}
        (study / "notes.jsonl").write_bytes(broken_lines(rng, files.lines([row, row])))
    elif kind == "failed":
        (run / "done.json").unlink()
        about = json.loads((run / "run.json").read_text())["software"]
        failed = {"kind": "out_of_memory", "words": "no", "remedy": None, "again": False, "software": about}
        (run / "failed.json").write_text(json.dumps(broken_values(rng, failed)))
    elif kind == "scores":
        path = rng.choice(scored)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = files.lines(rows := broken_values(rng, rows)) if all(isinstance(row, dict) for row in rows) else json.dumps(rows)
        path.write_text(lines)
        manifest = path.with_name(path.stem + ".manifest.json")
        about = json.loads(manifest.read_text())
        if rng.random() < 0.2:
            about = broken_values(rng, about)
        manifest.write_text(json.dumps(about | {"sha256": files.sha256_of(path)}))
    elif kind == "values":
        name = rng.choice(["run.json", "measurements.json", "measurements.json", "generations.jsonl", "generations.jsonl"])
        if name == "generations.jsonl":
            rows = broken_values(rng, [json.loads(line) for line in (run / name).read_text().splitlines()])
            journal = files.Journal(run / name, run / "batches.jsonl")
            for path in (journal.rows, journal.seals):
                path.unlink()
            journal.append(rows, {"phases": {"decode": {"peak_bytes": 1000}}})
        else:
            (run / name).write_text(json.dumps(broken_values(rng, json.loads((run / name).read_text()))))
        hashes = {record: files.sha256_of(run / record) for record in records.RECORDS}
        (run / "done.json").write_text(json.dumps(files.sealed(b"", hashes)))
    else:
        path = rng.choice([*(run / name for name in (*records.RECORDS, "done.json")), *scored])
        whole = path.read_bytes()
        path.unlink()
        if kind == "bytes":
            path.write_bytes(broken_bytes(rng, whole))
        elif kind == "folder":
            path.mkdir()


# What each kind is called, how it is broken, and its share of the cases.
KINDS: dict[str, tuple[Callable, int]] = {
    "study": (Bench.study_file, 8),
    "prompts": (Bench.prompts_file, 6),
    "claims": (Bench.claims_file, 3),
    "references": (Bench.references_file, 4),
    "labels": (Bench.labels_file, 4),
    "judge": (Bench.texts_to_judge, 5),
    "folder": (Bench.model_folder, 7),
    "record": (Bench.record, 3),
}


@dataclass(frozen=True)
class Outcome:
    """How a case ended: refused, taken, or what it should not: traceback, nonsense, hang; and in what words."""

    kind: str
    number: int
    ended: str
    said: str = ""

    @property
    def well(self) -> bool:
        return self.ended in ("refused", "taken")


def cases(count: int, seed: int) -> list[tuple[str, int]]:
    """Return (kind, number) of so many cases, each kind by its share; numbers of another seed are others."""
    turns = itertools.cycle([kind for turn in range(8) for kind, (_, share) in KINDS.items() if turn < share])
    numbers: Counter[str] = Counter()
    chosen = []
    for kind in itertools.islice(turns, count):
        chosen.append((kind, seed * 1_000_000 + numbers[kind]))
        numbers[kind] += 1
    return chosen


def try_case(bench: Bench, kind: str, number: int, keep: Path | None = None) -> Outcome:
    """Break an input and hand it to affq, in a folder of its own: `keep`, or one that is gone afterwards."""

    def too_long(*_) -> None:
        raise Hang

    with tempfile.TemporaryDirectory(dir=bench.place.parent) as scratch:
        folder = keep or Path(scratch)
        for name in ("two.csv", "references.jsonl", "claims.yaml", "mine", "judge"):
            if kind == "study":
                (folder / name).symlink_to(bench.place / name)
        former = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(LIMIT_S)
        faulthandler.dump_traceback_later(1.5 * LIMIT_S, exit=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                KINDS[kind][0](bench, random.Random(f"{kind} {number}"), folder)
        except Hang:
            return Outcome(kind, number, "hang", f"longer than {LIMIT_S} s")
        except Nonsense as error:
            return Outcome(kind, number, "nonsense", str(error)[:600])
        except REFUSALS as error:
            plain = isinstance(error, LoadError) or ("\n" not in str(error) and len(str(error)) < 1500)
            return Outcome(kind, number, "refused" if plain else "nonsense", str(error)[:600])
        except Exception as error:
            own = [f for f in traceback.extract_tb(error.__traceback__) if "/affq/" in f.filename][-1:]
            where = f"{Path(own[0].filename).name}:{own[0].lineno}" if own else "?"
            return Outcome(kind, number, "traceback", f"{where} {type(error).__name__}: {error}"[:600])
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, former)
            faulthandler.cancel_dump_traceback_later()
    return Outcome(kind, number, "taken")


_bench: Bench | None = None
_place: tempfile.TemporaryDirectory | None = None


def _begin() -> None:
    global _bench, _place
    _place = tempfile.TemporaryDirectory()
    _bench = Bench(Path(_place.name))


def _try_some(chosen: list[tuple[str, int]]) -> list[Outcome]:
    assert _bench is not None
    return [try_case(_bench, *case) for case in chosen]


WORKERS = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # nothing is fetched, and two workers do not wait for each other


def try_all(chosen: list[tuple[str, int]], workers: int = 2) -> list[Outcome]:
    """Try cases in processes; those that a process died of count as hangs, with the others that it had before it."""
    parts = [chosen[start : start + 20] for start in range(0, len(chosen), 20)]
    outcomes: list[Outcome] = []
    pools = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    with patch.dict(os.environ, WORKERS), pools as pool:
        waiting = {pool.submit(_try_some, part): part for part in parts}
        for done in as_completed(waiting):
            try:
                outcomes += done.result()
            except BrokenProcessPool:
                outcomes += [
                    Outcome(*case, "hang", "its process died, or another that worked beside it") for case in waiting[done]
                ]
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Return a Markdown table of outcomes by kind."""
    columns = ("refused", "taken", "traceback", "nonsense", "hang")
    counts = Counter((outcome.kind, outcome.ended) for outcome in outcomes)
    lines = [
        "| input | cases | refused in a sentence | taken, and right | tracebacks | nonsense taken | hangs |",
        "|---|" + 6 * "---:|",
    ]
    for kind in KINDS:
        each = [counts[kind, column] for column in columns]
        lines.append(f"| {kind} | {sum(each)} | " + " | ".join(map(str, each)) + " |")
    whole = [sum(counts[kind, column] for kind in KINDS) for column in columns]
    return "\n".join([*lines, f"| all | {sum(whole)} | " + " | ".join(map(str, whole)) + " |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", help="one case alone, as record:17")
    parser.add_argument("--keep", type=Path, help="with --case: an empty folder for its files")
    asked = parser.parse_args()
    if asked.case:
        _begin()
        kind, _, number = asked.case.partition(":")
        if asked.keep:
            asked.keep.mkdir(parents=True, exist_ok=True)
        print(try_case(_bench, kind, int(number), asked.keep))
        return
    outcomes = try_all(cases(asked.cases, asked.seed), asked.workers)
    print(table(outcomes))
    for outcome in outcomes:
        if not outcome.well:
            print(f"{outcome.kind}:{outcome.number} {outcome.ended}: {outcome.said}")
    sys.exit(any(not outcome.well for outcome in outcomes))


if __name__ == "__main__":
    main()
