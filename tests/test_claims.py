import html
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import affq
from affq.analysis import claims as verdicts
from affq.errors import InputError
from affq.models import ENGINES, PRECISIONS
from affq.report import words
from affq.study import claims

PACKAGED = Path(affq.__file__).parent / "study" / "claims.yaml"
PAPERS = {claim.id: claim for claim in claims.read_claims(PACKAGED)}
ABOUT = {"id": "X", "sentence": "so it is", "source": "here", "precision": "int8", "against": "fp32"}
BOTH = claims.Claim(**ABOUT, statistic="emotion_f1_difference", direction="lower", size=-0.3, tolerance=0.2)


@pytest.mark.parametrize(
    "claim, low, high, found",
    [
        # 76 % give or take 3 points is 73 to 79 %, its ends within.
        ("C1 peak", 0.73, 0.79, "supported"),
        ("C1 peak", 0.729, 0.79, "inconclusive"),
        ("C1 peak", 0.75, 0.791, "inconclusive"),
        ("C1 peak", 0.60, 0.90, "inconclusive"),
        ("C1 peak", 0.70, 0.7299, "contradicted"),
        ("C1 peak", 0.70, 0.73, "inconclusive"),
        ("C1 peak", 0.7901, 0.80, "contradicted"),
        ("C1 weights", 0.75, 0.75, "supported"),
        ("C1 weights", 0.69, 0.69, "contradicted"),
        # A fall excludes zero: no difference at all is none.
        ("C2", -0.2, -1e-9, "supported"),
        ("C2", -0.2, 0.0, "inconclusive"),
        ("C2", 0.0, 0.2, "contradicted"),
        ("C2", 0.0, 0.0, "contradicted"),
        ("C3", 1e-9, 0.2, "supported"),
        ("C3", -0.01, 0.2, "inconclusive"),
        ("C3", -0.2, 0.0, "contradicted"),
        ("C2 extent", -0.10, 0.10, "supported"),
        ("C2 extent", -0.11, -0.05, "inconclusive"),
        ("C3 extent", 0.101, 0.2, "contradicted"),
        # Twice as long is 1.5 to 2.5 times.
        ("C4", 1.5, 2.5, "supported"),
        ("C4", 1.49, 2.0, "inconclusive"),
        ("C4", 0.9, 1.2, "contradicted"),
        ("C5", 0.01, 0.02, "supported"),
        ("C4", math.nan, 2.0, "not testable here"),
        ("C4", 1.9, math.nan, "not testable here"),
    ],
)
def test_verdict_at_the_edges_of_the_papers_claims(claim, low, high, found):
    assert verdicts.verdict(PAPERS[claim], (low + high) / 2, low, high) == found


def test_direction_and_size_must_both_hold():
    # -0.3 give or take 0.2 is -0.5 to -0.1; with 0.4 it would reach 0.1, and the direction ends it below 0.
    assert verdicts.verdict(BOTH, -0.2, -0.5, -0.1) == "supported"
    wide = BOTH.model_copy(update={"tolerance": 0.4})
    assert verdicts.verdict(wide, -0.2, -0.5, -0.01) == "supported" and verdicts.verdict(wide, 0.05, 0, 0.1) == "contradicted"


@pytest.mark.parametrize("size, low, high", [(0.8, 0.7, 0.9), (0.7, 0.6, 0.8)])
def test_edge_that_binary_numbers_miss_is_within(size, low, high):
    # In binary 0.8 - 0.1 is 0.7000000000000001, and 0.7 + 0.1 is 0.7999999999999999.
    claim = claims.Claim(**ABOUT, statistic="peak_saving", size=size, tolerance=0.1)
    assert verdicts.verdict(claim, size, low, high) == "supported"


def test_estimate_that_is_unknown_is_not_testable():
    assert verdicts.verdict(PAPERS["C4"], math.nan, 1.9, 2.1) == "not testable here"


NUMBERS = st.floats(-3, 3) | st.just(math.nan)
EVERY = st.sampled_from([*PAPERS.values(), BOTH])


@given(EVERY, NUMBERS, NUMBERS, NUMBERS)
def test_verdict_is_one_of_four(claim, estimate, low, high):
    assert verdicts.verdict(claim, estimate, low, high) in verdicts.Verdict


@given(EVERY, st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(sorted))
def test_narrower_interval_within_keeps_a_verdict_that_was_sure(claim, ends):
    low, inner_low, inner_high, high = ends
    outer, inner = verdicts.verdict(claim, 0, low, high), verdicts.verdict(claim, 0, inner_low, inner_high)
    assert inner == outer or outer == "inconclusive"


def test_paper_claims_are_there_each_with_its_source():
    assert list(PAPERS) == ["C1 weights", "C1 peak", "C2", "C2 extent", "C3", "C3 extent", "C4", "C5"]
    assert {claim.source for claim in PAPERS.values()} == {"arXiv 2501.19317"}
    head = PACKAGED.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(f"  {key}" in head or f", {key} " in head for key in claims.KEYS)
    assert all(name in head for name in claims.STATISTICS)


def run(model, precision, **given):
    """One row of the runs; a model's parameters are in its name."""
    return {
        "run_id": f"{model}--{precision}",
        "model": model,
        "precision": precision,
        "engine": "transformers",
        "bits": {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8}[precision],
        "parameters": {"7b": 6.7e9, "13b": 13.02e9, "unknown": None}[model],
        "status": "ok",
        "weights": "trained",
        "device": "cuda",
        "peak_kind": "vram_allocated",
        "weights_bytes": {"fp32": 400, "bf16": 200, "fp16": 200, "int8": 100}[precision],
        "peak_bytes": 1000,
        "emotion_f1": 0.5,
        "latency_s": 2.0,
        **given,
    }


def estimate_of(statistic, run_id, reference_run_id):
    return {
        "weights_saving": (0.75, 0.75, 0.75, "stored bytes, exact"),
        "peak_saving": (0.74, 0.735, 0.745, "other executions"),
        "latency_ratio": (2.1, 1.9, 2.3, "these texts"),
        "emotion_f1_difference": (-0.03, -0.08, 0.02, "other prompts"),
    }[statistic]


def judged(rows, *ids, estimate_of=estimate_of):
    return verdicts.verdicts([PAPERS[name] for name in ids or PAPERS], pd.DataFrame(rows), estimate_of)


def test_each_claim_is_judged_for_each_model_it_speaks_of():
    rows = [run(model, precision) for model in ("7b", "13b") for precision in ("fp32", "int8")]
    found = judged(rows)
    assert list(found.columns) == verdicts.COLUMNS
    assert [tuple(row) for row in found[["claim", "model", "against", "verdict"]].itertuples(index=False)] == [
        ("C1 weights", "7b", "fp32", "supported"),
        ("C1 weights", "13b", "fp32", "supported"),
        ("C1 peak", "7b", "fp32", "supported"),
        ("C1 peak", "13b", "fp32", "supported"),
        ("C2", "13b", "fp32", "inconclusive"),
        ("C2 extent", "13b", "fp32", "supported"),
        ("C3", "7b", "fp32", "inconclusive"),
        ("C3 extent", "7b", "fp32", "supported"),
        ("C4", "7b", "fp32", "supported"),
        ("C4", "13b", "fp32", "supported"),
        ("C5", "13b", "7b fp32", "inconclusive"),
    ]
    assert found.loc[2, ["estimate", "low", "high", "estimand"]].tolist() == [0.74, 0.735, 0.745, "other executions"]


def said(frame):
    """List the sentences of verdicts, without what Markdown makes of them: what is claimed, bold type, escaped characters."""
    lines = html.unescape(words.verdicts(frame)).replace("**", "").splitlines()
    return [line.removeprefix("- ").replace(f" *{claimed}.*", "") for line, claimed in zip(lines, frame["claimed"], strict=True)]


def test_sentence_has_the_figures_in_their_units():
    rows = [run("7b", "fp32"), run("7b", "int8")]
    assert said(judged(rows, "C1 weights", "C1 peak", "C3", "C4")) == [
        "C1 weights: supported. 7b on cuda, int8 against fp32, saving of stored weights: measured 75.0 % (stored bytes, exact); "
        "claimed 73.0 to 79.0 %.",
        "C1 peak: supported. 7b on cuda, int8 against fp32, saving of peak memory: measured 74.0 % (73.5 to 74.5 %; other "
        "executions); claimed 73.0 to 79.0 %.",
        "C3: inconclusive. 7b on cuda, int8 against fp32, difference of emotion F1: measured -3.0 points (-8.0 to +2.0 points; "
        "other prompts); claimed above 0.",
        "C4: supported. 7b on cuda, int8 against fp32, ratio of seconds a text: measured 2.10 (1.90 to 2.30; these texts); "
        "claimed 1.50 to 2.50.",
    ]
    assert BOTH.region == (-0.5, -0.1)  # the size lies below 0 already


def test_gpu_memory_on_a_cpu_is_tested_and_said_to_be_resident():
    rows = [run("7b", precision, device="cpu", peak_kind="rss") for precision in ("fp32", "int8")]
    (sentence,) = said(judged(rows, "C1 peak"))
    assert sentence.startswith("C1 peak: supported. 7b on cpu, ") and sentence.endswith("resident memory, not a GPU's.")


RANDOM = {"weights": "random", "emotion_f1": None}


@pytest.mark.parametrize(
    "claim, low, high, reason, why",
    [
        ("C4", {}, None, "no_run", " 7b: the study has no run of it at fp32."),
        ("C4", None, None, "no_run", " 7b: the study has no run of it at int8 and fp32."),
        ("C4", {}, {"status": "failed"}, "not_complete", " 7b: 7b at fp32 is failed."),
        (
            "C4",
            {"status": "missing"},
            {"status": "partial"},
            "not_complete",
            " 7b: 7b at int8 is missing and 7b at fp32 is partial.",
        ),
        ("C3", RANDOM, RANDOM, "random_texts", " 7b: its weights are random, and its texts mean nothing."),
        (
            "C4",
            RANDOM,
            RANDOM,
            "random_outliers",
            " 7b: its weights are random, without the outlier columns that take LLM.int8 its time.",
        ),
        ("C4", {"device": "cpu"}, {}, "other_device", " 7b: its runs were made on different devices, cpu and cuda."),
        ("C1 peak", {}, {"peak_bytes": None}, "unknown_figure", " 7b: peak_bytes of 7b at fp32 is unknown."),
        ("C2", {}, {}, "no_model", " No model in this study has at least 13 B parameters."),
        (
            "C5",
            {},
            {},
            "no_pair",
            " No larger model at a lower precision has a peak within 15% of a smaller one's at a higher precision.",
        ),
    ],
)
def test_what_cannot_be_tested_says_why_and_asks_for_no_estimate(claim, low, high, reason, why):
    rows = [run("7b", "bf16")]
    rows += [run("7b", p, **given) for p, given in {"int8": low, "fp32": high}.items() if given is not None]

    def refuse(*asked):
        raise AssertionError(asked)

    frame = judged(rows, claim, estimate_of=refuse)
    assert frame[["verdict", "reason"]].values.tolist() == [[verdicts.Verdict.NOT_TESTABLE, reason]]
    assert said(frame)[0].startswith(f"{claim}: not testable here.{why}") and frame["estimate"].isna().all()


def test_random_weights_and_stale_runs_still_have_memory_to_test():
    rows = [run("7b", p, weights="random", status="stale", emotion_f1=None) for p in ("fp32", "int8")]
    assert set(judged(rows, "C1 weights", "C1 peak")["verdict"]) == {"supported"}


def test_interval_that_cannot_be_estimated_is_said_and_its_estimate_kept():
    rows = [run("7b", "fp32"), run("7b", "int8")]
    frame = judged(rows, "C4", estimate_of=lambda *_: (2.0, math.nan, math.nan, None))
    assert said(frame) == ["C4: not testable here. 7b: its ratio of seconds a text of 2.00 has no interval."]
    assert frame[["reason", "estimate"]].values.tolist() == [["no_interval", 2.0]]


def test_model_of_unknown_size_is_tested_only_by_claims_about_all():
    found = judged([run("unknown", "fp32"), run("unknown", "int8")], "C2", "C4")
    assert said(found)[0] == "C2: not testable here. unknown: how many parameters it has is unknown."
    assert found["verdict"].tolist() == ["not testable here", "supported"] and found["reason"][0] == "unknown_size"


def test_pairs_are_the_larger_model_at_the_lower_precision_with_similar_peaks_only():
    # Within 15 % of the larger: 850 of 1,000 is, 849 is not.
    rows = [
        run("7b", "fp32", peak_bytes=850),
        run("7b", "bf16", peak_bytes=849),
        run("13b", "int8", peak_bytes=1000),
        run("13b", "bf16", peak_bytes=5000),
        run("unknown", "fp32", peak_bytes=1000),
    ]
    asked = []

    def estimate_of(*what):
        asked.append(what)
        return 0.1, 0.05, 0.15, "other prompts"

    (row,) = judged(rows, "C5", estimate_of=estimate_of).to_dict("records")
    assert (row["model"], row["precision"], row["against"], row["verdict"]) == ("13b", "int8", "7b fp32", "supported")
    assert asked == [("emotion_f1_difference", "13b--int8", "7b--fp32")]


def test_pair_of_which_one_model_is_not_spoken_of_is_none():
    rows = [run("7b", "fp32"), run("13b", "int8")]
    small = PAPERS["C5"].model_copy(update={"models": "below 10e9"})
    (sentence,) = said(verdicts.verdicts([small], pd.DataFrame(rows), estimate_of))
    assert sentence.startswith("C5: not testable here. No larger model (below 10 B parameters) at a lower precision")


def test_pair_of_models_is_of_one_engine():
    rows = [run("7b", "fp32"), run("13b", "int8", engine="other", run_id="other")]
    assert judged(rows, "C5")["reason"].tolist() == ["no_pair"]
    rows += [run("7b", "bf16", engine="other"), run("13b", "int8")]
    pairs = [("13b", "transformers", "7b fp32"), ("13b", "other", "7b bf16")]
    assert sorted(judged(rows, "C5")[["model", "engine", "against"]].itertuples(index=False, name=None)) == sorted(pairs)
    compiled = PAPERS["C5"].model_copy(update={"engine": "other"})
    assert verdicts.verdicts([compiled], pd.DataFrame(rows), estimate_of)["against"].tolist() == ["7b bf16"]


COMPILED = "transformers-compiled"


def test_claim_without_an_engine_is_about_each_that_has_both_precisions_and_one_with_an_engine_about_it():
    rows = [run("7b", precision) for precision in ("fp32", "int8")]
    rows += [
        run("7b", precision, engine=COMPILED, run_id=f"7b--{precision}--{COMPILED}") for precision in ("fp32", "int8", "bf16")
    ]
    rows.append(run("7b", "int8", engine="one precision alone"))
    asked = []

    def estimate_of(*what):
        asked.append(what[1:])
        return 2.1, 1.9, 2.3, "these texts"

    frame = judged(rows, "C4", estimate_of=estimate_of)
    assert frame["engine"].tolist() == ["transformers", COMPILED]
    assert asked == [("7b--int8", "7b--fp32"), (f"7b--int8--{COMPILED}", f"7b--fp32--{COMPILED}")]
    assert said(frame)[1].startswith(f"C4: supported. 7b on cuda on {COMPILED}, int8 against fp32, ratio of seconds a text: ")
    of_one = PAPERS["C4"].model_copy(update={"engine": COMPILED})
    assert verdicts.verdicts([of_one], pd.DataFrame(rows), estimate_of)["engine"].tolist() == [COMPILED]


def test_claim_about_an_engine_that_lacks_a_run_says_which():
    of_one = PAPERS["C4"].model_copy(update={"engine": COMPILED})
    rows = [run("7b", "fp32"), run("7b", "int8"), run("7b", "fp32", engine=COMPILED)]
    for some, missing in ((rows, "int8"), (rows[:2], "int8 and fp32")):
        frame = verdicts.verdicts([of_one], pd.DataFrame(some), estimate_of)
        assert said(frame) == [f"C4: not testable here. 7b: the study has no run of it at {missing} on {COMPILED}."]


@pytest.mark.parametrize("larger, smaller", [("fp32", "int8"), ("bf16", "bf16"), ("fp16", "bf16")])  # two kinds of 16 bits
def test_larger_model_at_no_lower_precision_is_no_pair(larger, smaller):
    assert judged([run("7b", smaller), run("13b", larger)], "C5")["verdict"].tolist() == ["not testable here"]


GOOD = {
    "sentence": "int8 saves a lot",
    "statistic": "peak_saving",
    "precision": "int8",
    "against": "fp32",
    "size": 0.5,
    "tolerance": 0.1,
    "source": "me",
}


def written(tmp_path, **changed):
    """Write one claim, a key a line, of which None leaves a key out: the id is on line 1, the first key on line 2."""
    path = tmp_path / "mine.yaml"
    claim = {key: value for key, value in (GOOD | changed).items() if value is not None}
    path.write_text(yaml.safe_dump({"mine": claim}, sort_keys=False, allow_unicode=True))
    return path


def test_claim_of_ones_own_is_read(tmp_path):
    (claim,) = claims.read_claims(written(tmp_path, models="below 1.5e9"))
    assert (claim.id, claim.region, claim.least, claim.below) == ("mine", (0.4, 0.6), 0, 1.5e9)


@pytest.mark.parametrize(
    "changed, said",
    [
        (
            {"statistic": "memory"},
            "unknown statistic 'memory' in …, line 3; known: weights_saving, peak_saving, latency_ratio, emotion_f1_difference",
        ),
        ({"statistc": 1}, "unknown key 'statistc' in …, line 9; known: sentence, statistic, precision, against, engine, "),
        ({"source": None}, "claim 'mine' in …, line 2 names no source; a claim needs sentence, statistic and source"),
        ({"sentence": 3}, "sentence in …, line 2 must be a text; found 3"),
        ({"engine": "eager"}, f"unknown engine 'eager' in …, line 9; known: {', '.join(ENGINES)}"),
        ({"precision": "int7"}, f"unknown precision 'int7' in …, line 4; known: {', '.join(PRECISIONS)}"),
        ({"precision": ["int8"]}, "unknown precision ['int8'] in …, line 5; known: fp32"),
        ({"against": "int8"}, "claim 'mine' in …, line 5 compares int8 with itself"),
        (
            {"against": None},
            "claim 'mine' in …, line 2 names no against; it compares by precision and against, or by peaks_within",
        ),
        ({"peaks_within": 0.1}, "claim 'mine' in …, line 2 has both peaks_within and precision; it compares by one"),
        (
            {"peaks_within": 15, "precision": None, "against": None},
            "peaks_within in …, line 7 must be between 0 and 1; found 15",
        ),
        ({"size": 76}, "size in …, line 6 must be a number from 0 to 1; found 76"),
        ({"size": "76 %"}, "size in …, line 6 must be a number from 0 to 1; found '76 %'"),
        ({"tolerance": -0.1}, "tolerance in …, line 7 must be a number from 0; found -0.1"),
        ({"tolerance": math.inf}, "tolerance in …, line 7 must be a number from 0; found inf"),
        ({"tolerance": True}, "tolerance in …, line 7 must be a number from 0; found True"),
        ({"tolerance": 10**400}, "tolerance in …, line 7 must be a number from 0; found 1000"),
        ({"tolerance": None}, "claim 'mine' in …, line 2 names no tolerance; it claims a direction, or a size and its tolerance"),
        ({"size": None}, "claim 'mine' in …, line 2 names no size; it claims a direction, or a size and its tolerance"),
        ({"direction": "down"}, "unknown direction 'down' in …, line 9; known: higher, lower"),
        ({"direction": "lower"}, "claim 'mine' in …, line 2 allows no value: its direction and its size exclude each other"),
        (
            {"models": "over 7B"},
            "unknown models 'over 7B' in …, line 9; known: all, at least 13e9, below 10e9 (any number of parameters)",
        ),
    ],
)
def test_bad_claim_is_refused_with_value_place_and_choices(tmp_path, changed, said):
    path = written(tmp_path, **changed)
    with pytest.raises(InputError) as error:
        claims.read_claims(path)
    assert str(error.value).replace(str(path), "…").startswith(said)


@pytest.mark.parametrize(
    "text, said",
    [
        ("1: {sentence: x}\n", "the claim 1 in … must have a name that is text; put it in quotes"),
        ("a: int8 saves\n", "claim 'a' in …, line 1 must be a mapping with keys of: sentence, statistic, "),
        ("a: {sentence: x}\na: {sentence: x}\n", "…, line 2: 'a' is given twice"),
        ("x: &x\n  sentence: 7\n  statistic: peak_saving\n  source: me\ny: *x\n", "sentence in …, line 2 must be a text"),
        ("<<: {a: {sentence: 7, statistic: peak_saving, source: me}}\n", "sentence in …, line 1 must be a text; found 7"),
    ],
)
def test_bad_file_of_claims_is_refused(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        claims.read_claims(path)
    assert str(error.value).replace(str(path), "…").startswith(said)


def test_reading_claims_loads_no_pandas():
    code = "import sys, affq.study.claims; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
