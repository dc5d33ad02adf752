"""docs/frames.md is true: every frame of Results has the columns and dtypes that the page says, and no other."""

import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from test_soak import write_soak
from test_tables import PEAKS, PREDICTED, judged, write_run
from test_under_load import write_load

import affq
from affq.analysis import annotation, comparison
from affq.report import words
from affq.results import Failure, FailureKind, keep_labels, score_together
from affq.results import record as records
from affq.scoring import scores

PAGE = Path(__file__).parents[1] / "docs" / "frames.md"
KEY = ("prompt_id", "emotion", "sample")
PROFILE = [{"phase": "decode", "group": "elsewhere", "kernel": "a", "calls": 1, "seconds": 3.0}]
POINTS = [{"batch": 1, "seconds": [2.0, 2.5, 1.0], "new_tokens": 8, "peak_bytes": 100, "held_bytes": 50}]
ENERGY = {"why": None, "detail": "", "rest": {"seconds": 2.0, "joules": {"cpu0": 20.0}}, "texts": 6, "new_tokens": 48}
ENERGY |= {"used": {"seconds": 12.0, "joules": {"cpu0": 420.0}}}
NOTHING = ENERGY | {"why": "no_counter", "rest": None, "used": None}
# Frames that take an argument, with one.
WITH_ARGUMENT = {"frontier": "peak_bytes", "side_by_side": "joy"}


class Column(NamedTuple):
    """A documented column. conditional: not every study has it."""

    name: str
    dtype: str
    conditional: bool

    def means(self, column: str) -> bool:
        """Return whether it stands for a frame's column: `<x>` is any word."""
        return re.fullmatch(re.sub(r"<\w+>", ".+", self.name), column) is not None


def documented() -> dict[str, list[Column]]:
    """Return the columns of each frame by the page; a cell `a, b` is two columns, one that begins with † is conditional."""
    frames: dict[str, list[Column]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### `(\w+)(?:\(\w+\))?`", line):
            columns = frames.setdefault(heading[1], [])
        elif line.startswith("| `") or line.startswith("| † `"):
            names, dtype, _ = (cell.strip() for cell in line.strip("|").split("|"))
            columns += [Column(name, dtype, names.startswith("†")) for name in re.findall(r"`([^`]+)`", names)]
    return frames


def score(run, baseline):
    """Write the scores that write_run leaves out: all are joy, once the emotion words are masked or the text is alone."""

    def all_joy(texts):
        return [judged(text, "joy") for text in texts]

    def likely(texts):
        return [{name: text[name] for name in KEY} | {"nll_nats": 2.0, "tokens": 1} for text in texts]

    def like_baseline(texts):
        return [{name: text[name] for name in KEY} | {"rougeL": 0.5} for text in texts]

    for judge in run.run.study.judges:
        run.score(f"{judge.name}-masked", {}, all_joy)
    run.score("minilm-lora-alone", {}, all_joy, run.alone())
    run.score("text-quality", {}, scores.text_statistics)
    run.score("perplexity", {"model": "any", "revision": run.run.model.revision, "precision": "fp32"}, likely)
    by = {"baseline": baseline.run.id, "generations_sha256": baseline.generations_sha256()}
    run.score("rouge-baseline", by, like_baseline)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Complete runs with every score, one of them on another engine, one under load, and a failed one; labels, budget, price."""
    folder = tmp_path_factory.mktemp("frames")
    (folder / "two.csv").write_text(
        "id,kind,text,text_without_emotion\nnote,event,A note of {emotion}.,A note.\nday,event,A day of {emotion}.,A day.\n"
    )
    (folder / "toy.yaml").write_text(
        "models: [smollm2-135m]\nprecisions: [fp32, int8, nf4]\nprompts: two.csv\nemotions: [joy, sadness]\nbatch: 2\n"
        "engines: [transformers, {engine: transformers-compiled, precisions: [fp32]}]\n"
        "budget: {memory_gb: 1, price_per_hour: 2, price_per_kwh: 0.3}\n"
    )
    study = affq.load_study(folder / "toy.yaml")
    fp32, int8, nf4, compiled = records.records(folder / "results", study)
    alone = {("note", "joy"): "a", ("note", "sadness"): "b", ("day", "joy"): "c", ("day", "sadness"): "d"}
    more = {"predicted": PREDICTED, "points": POINTS, "kernels": PROFILE, "alone": alone}
    judged_as = {fp32: "joy sadness joy joy joy none", int8: "joy joy none joy joy joy", compiled: "joy sadness joy joy joy none"}
    energy = {fp32: [ENERGY], int8: [ENERGY] * 2, compiled: [NOTHING]}  # by process
    for run, answers in judged_as.items():
        read = energy[run]
        write_run(run, answers.split(), PEAKS, [1.0, 2.0, 3.0, 1.5, 2.5, 1.2], 4, processes=len(read), energy=read, **more)
        score(run, compiled if run is compiled else fp32)
    write_soak(int8, processes=2, changed_from=59)
    nf4.fail(Failure(FailureKind.OUT_OF_MEMORY, "no room"))
    series = write_load(int8, failing=True)
    score_together([(series, "minilm-lora", series.rows())], {}, lambda texts: [judged(text, "joy") for text in texts])
    ids = annotation.identified(affq.Results(study, folder / "results").texts)["id"]
    for person, labels in {"anna": ["joy", "sadness", "joy", "none"], "ben": ["joy", "joy", "joy", "joy"]}.items():
        keep_labels(folder / "results", study, person, pd.DataFrame({"id": ids[:4], "label": labels}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "SIZES", (1, 2))  # of the two prompts
        yield affq.Results(study, folder / "results")


ALL_WRONG, ONE_ANSWER = "none none none none none none", "joy joy joy joy joy joy"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "answers, labels, peaks",
    [
        ([ALL_WRONG], {"anna": ["joy"]}, PEAKS),  # one run, one label
        ([ONE_ANSWER] * 2, {"anna": ["joy"], "ben": [None, "sadness"]}, PEAKS),  # nobody labelled what another did
        ([ALL_WRONG] * 2, {"anna": ["joy"] * 4, "ben": ["joy"] * 4}, (0, 0, 0, 0)),  # one label, nothing right, no peak
    ],
)
def test_what_is_undefined_is_empty_without_a_warning_of_a_library(tmp_path, write_study, answers, labels, peaks):
    path = write_study(precisions=["fp32", "int8"][: len(answers)], judges=["minilm-lora"], measurement={"texts": 4})
    study = affq.load_study(path)
    runs = records.records(tmp_path / "results", study)
    for run, judged_emotions in zip(runs, answers, strict=True):
        write_run(run, judged_emotions.split(), peaks, [1.0], 4, predicted=PREDICTED, points=POINTS, kernels=PROFILE)
        score(run, runs[0])
    ids = annotation.identified(affq.Results(study, tmp_path / "results").texts)["id"]
    for person, given in labels.items():
        known = [(text, label) for text, label in zip(ids, given, strict=False) if label]
        keep_labels(tmp_path / "results", study, person, pd.DataFrame(known, columns=["id", "label"]))
    results = affq.Results(study, tmp_path / "results")
    for name in documented():
        frame(results, name)
    said = [
        words.caveats(study, results.summary, results.texts, results.batch_effect),
        words.people(results.people, results.corrected),
        words.agreement(results.by_judge, results.between_judges),
        words.collapse(results.text_quality),
        words.verdicts(results.claims),
    ]
    assert "nan" not in " ".join(said)


def frame(results, name):
    value = getattr(results, name)
    return value(WITH_ARGUMENT[name]) if name in WITH_ARGUMENT else value


def test_every_frame_is_documented_and_no_other():
    public = {name: value for name, value in vars(affq.Results).items() if name[0] != "_"}
    cached = {name for name, value in public.items() if isinstance(value, cached_property)}
    no_frames = {"records", "compared", "draws", "smallest_change", "labels", "former_labels"}
    assert {name for name, value in public.items() if callable(value)} == set(WITH_ARGUMENT)
    assert cached - no_frames | set(WITH_ARGUMENT) == set(documented())
    head = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    assert all(f"`{name}`" in head for name in no_frames)


@pytest.mark.parametrize("name", sorted(documented()))
def test_frame_has_the_documented_columns_and_dtypes(results, name):
    columns = sorted(documented()[name], key=lambda column: "<" in column.name)  # a name of its own comes first
    dtypes = {str(column): str(dtype) for column, dtype in frame(results, name).dtypes.items()}
    meant = {column: next((known for known in columns if known.means(column)), None) for column in dtypes}
    assert {column: known and known.dtype for column, known in meant.items()} == dtypes
    assert {known.name for known in columns if not known.conditional} <= {known.name for known in meant.values()}
    assert len(frame(results, name)), "a frame without a row shows no dtype"
