"""Estimates are worked by hand from reference_speed.yaml; memory is held against what was measured."""

import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from affq.runner import estimate
from affq.study import Run, load_study
from affq.study.study_file import Generation

SMOLLM2 = SimpleNamespace(parameters=134_515_008, stored_bytes=541_619_073)


@pytest.fixture
def as_fast(monkeypatch):
    """A machine so many times as fast as the reference."""

    def put(times):
        monkeypatch.setattr(estimate, "machine_gflops", lambda: times * estimate.reference()["gflops"])

    return put


def timing(**settings):
    """The default study's measurement, but for these."""
    return load_study("default").measurement.model_copy(update=settings)


def a_run(precision, model=SMOLLM2, **sizes):
    study = replace(load_study("default"), **sizes)
    return Run(study, model, precision, study.runs()[0].engine)


@pytest.mark.parametrize(
    "precision, expected_s", [("fp32", 57.31), ("bf16", 42.25), ("fp16", 54.14), ("int8", 75.35), ("nf4", 47.57)]
)
def test_default_study_on_the_reference_takes_what_its_steps_took(as_fast, precision, expected_s):
    as_fast(1)
    # Of reference_speed.yaml: start and loading; 80 texts in one batch, at fp32 64 × (23.3/666 first + 79 × 0.00404683 more);
    # the resource pass of 792 tokens: 12 texts of 64, 3 of 8.
    assert estimate.seconds(a_run(precision), "cpu") == pytest.approx(expected_s, abs=0.01)


def test_twice_the_parameters_at_half_the_speed_is_four_times_the_work(as_fast):
    as_fast(0.5)
    twice = SimpleNamespace(parameters=269_030_016)
    assert estimate.seconds(a_run("bf16", twice), "cpu") == pytest.approx(4.5 + 4 * (1.2 + 6.34275 + 25.4 * 792 / 666))


def test_batches_of_one_go_at_the_pace_of_the_resource_pass(as_fast):
    as_fast(1)
    # 80 texts of 64 tokens; the resource pass gives 666 tokens in 23.3 s: 179.1 s
    assert estimate.seconds(a_run("fp32", batch=1), "cpu") == pytest.approx(4.2 + 2.7 + 179.1 + 23.3 * 792 / 666, abs=0.05)


def test_texts_and_tokens_count(as_fast):
    as_fast(1)
    study = {"emotions": ("joy",), "generation": Generation(decoding="greedy", max_new_tokens=32)}
    # Three rounds of 2 texts of 9 tokens, one of 9 token by token, three warm-ups of 5: 78 tokens.
    timed = {"measurement": timing(texts=2, new_tokens=9, warmup_tokens=5, rounds=3, token_texts=1)}
    # 10 texts and 10 controls, one batch: 32 × (a first + 19 more), a first 25.4/666 = 0.038138 s, one more
    # (18.3/64 − 6 × 0.038138) / 74 = 0.00077174 s; so 32 × (0.038138 + 0.014663) = 1.690 s
    expected_s = 4.5 + 1.2 + 1.690 + 78 * 0.038138
    assert estimate.seconds(a_run("bf16", **study, **timed), "cpu") == pytest.approx(expected_s, abs=0.002)


def test_samples_count_in_the_texts_and_not_in_those_timed(as_fast):
    as_fast(1)
    once = {"emotions": ("joy",), "measurement": timing(texts=100), "batch": 14}
    more_s = estimate.seconds(a_run("bf16", **once, samples=3), "cpu") - estimate.seconds(a_run("bf16", **once), "cpu")
    # 30 texts and 10 controls in batches of 14: 3 of them, where there were 2 of 20 texts. So 64 × (a first + 19 more).
    assert more_s == pytest.approx(64 * (0.038138 + 19 * 0.00077174), abs=0.002)


def test_further_processes_and_batches_count(as_fast):
    as_fast(1)
    once = estimate.seconds(a_run("bf16"), "cpu")
    # A second process starts (4.5 s), loads (1.2 s) and times the 792 tokens again.
    twice = estimate.seconds(a_run("bf16", measurement=timing(processes=2)), "cpu")
    assert twice - once == pytest.approx(4.5 + 1.2 + 25.4 * 792 / 666)
    # Batches of 1, 2 and 4, three times 64 steps each: three firsts and 0 + 1 + 3 more.
    batches = estimate.seconds(a_run("bf16", measurement=timing(throughput=4)), "cpu")
    assert batches - once == pytest.approx(3 * 64 * (3 * 0.038138 + 4 * 0.00077174), abs=0.002)


def test_nothing_is_known_of_a_device_that_was_not_measured():
    assert estimate.seconds(a_run("bf16"), "cuda") is None


def test_tiny_model_is_mostly_start(write_study, tiny_llama):
    study = load_study(write_study(models=[str(tiny_llama)]))
    for run in study.runs():
        assert 4 < estimate.seconds(run, "cpu") < 10  # measured with 80 texts: 4.7 s at fp32, 6.5 s at int8


def test_speed_is_measured_once_and_fast():
    estimate.machine_gflops.cache_clear()
    start = time.perf_counter()
    assert estimate.machine_gflops() == estimate.machine_gflops() > 0.1
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "stored_bytes, precision, peak_bytes",
    [
        # load_peak_bytes + base_bytes of reports/default/tables/memory.csv: one file of float32
        (541_619_073, "fp32", 1_078_255_616 + 423_268_352),
        (541_619_073, "bf16", 1_078_398_976 + 423_256_064),
        (541_619_073, "int8", 1_078_702_080 + 469_532_672),
        (541_619_073, "nf4", 1_078_767_616 + 469_401_600),
        # the same weights saved as one file of bfloat16, measured with the same probe
        (269_060_552, "fp32", 811_651_072 + 395_059_200),
        (269_060_552, "bf16", 539_795_456 + 395_137_024),
        (269_060_552, "nf4", 540_520_448 + 441_810_944),
    ],
)
def test_memory_bound_is_over_what_was_measured_and_not_far(stored_bytes, precision, peak_bytes):
    model = SimpleNamespace(parameters=134_515_008, stored_bytes=stored_bytes)
    assert peak_bytes <= estimate.memory_bytes(a_run(precision, model)) <= 1.1 * peak_bytes


def test_memory_of_a_gguf_file_is_that_of_its_float32_copy():
    model = SimpleNamespace(parameters=1_000_000_000, stored_bytes=700_000_000)
    assert estimate.memory_bytes(a_run("bf16", model)) == 470_000_000 + 4_000_000_000 + 4_000_000_000


@pytest.mark.parametrize(
    "seconds, said",
    [
        (5, "under a minute"),
        (60, "about 1 min"),
        (271, "about 5 min"),
        (5400, "about 90 min"),
        (5401, "about 2 h"),
        (14_400, "about 4 h"),
        (172_800, "about 48 h"),
        (172_801, "about 3 days"),
    ],
)
def test_words(seconds, said):
    assert estimate.words(seconds) == said


def test_estimating_imports_no_torch():
    code = "import sys, affq.runner.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
