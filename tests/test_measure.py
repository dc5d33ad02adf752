"""The resource pass with a false clock: every figure is worked by hand."""

import gc
from types import SimpleNamespace

import pytest
import torch

from affq.errors import InputError
from affq.inference import energy, measure
from affq.inference.requests import Made
from affq.stats import compare

METER = energy.UnknownMeter(energy.NoEnergy.NO_COUNTER)
SETTINGS = {"new_tokens": 4, "warmup_tokens": 2, "aim": 0.03, "rounds": 1, "token_texts": 0}


class Clock:
    """A false clock: it stands still but for what `produce` takes, so many seconds a token: the next of a list, then the last."""

    def __init__(self, *seconds_a_token):
        self.now, self.seconds_a_token, self.made = 100.0, list(seconds_a_token), []

    def __call__(self):
        return self.now

    def produce(self, inputs, count, at_token=None):
        pace = self.seconds_a_token.pop(0) if len(self.seconds_a_token) > 1 else self.seconds_a_token[0]
        self.made.append((inputs, count))
        for _ in range(count):
            self.now += pace
            if at_token:
                at_token()
        return [Made(range(count), count)]


def request(name):
    return {"prompt_id": name, "emotion": "joy", "sample": 0, "request": name}


def names(requests):
    return "".join(request["prompt_id"] for request in requests)


def timed(clock, requests, width=compare.relative_width, **settings):
    timing = SimpleNamespace(**SETTINGS | settings)
    return measure.time_texts(names, clock.produce, [request(name) for name in requests], timing, width, METER, clock)


def test_each_text_is_timed_once_after_a_warm_up_that_is_not():
    clock = Clock(0.5)
    found = timed(clock, "ab")
    warm = 3 * [("a", 2)]
    assert clock.made == [*warm, ("a", 4), ("b", 4)]
    assert found["warmup_s"] == [1.0, 1.0, 1.0] and found["steady"]
    assert [(r["prompt_id"], r["ttft_s"], r["latency_s"], r["round"]) for r in found["texts"]] == [
        ("a", 0.5, 2.0, 0),
        ("b", 0.5, 2.0, 0),
    ]
    assert found["texts"][0]["token_ids"] == [0, 1, 2, 3] and found["texts"][0]["new_tokens"] == 4


def test_warming_up_ends_when_three_in_a_row_agree_within_5_percent():
    # Two tokens each: 2.0, 1.2, 1.1, 1.08, 1.06 s. The last three: 1.10 / 1.06 is 1.038; the three before: 1.2 / 1.08 is 1.11.
    found = measure.warm_up("a", (clock := Clock(1.0, 0.6, 0.55, 0.54, 0.53, 9.0)).produce, 2, clock)
    assert found == {"warmup_s": pytest.approx([2.0, 1.2, 1.1, 1.08, 1.06]), "steady": True}


def test_warming_up_has_an_end_where_nothing_agrees():
    clock = Clock(*(1.0 + i % 2 for i in range(50)))
    found = measure.warm_up("a", clock.produce, 1, clock)
    assert len(found["warmup_s"]) == measure.WARM_UPS and not found["steady"]


def seconds_of(*texts):
    """Return a clock by which the texts take so many seconds, the last one's from then on, after three warm-ups that agree."""
    return Clock(1.0, 1.0, 1.0, *(seconds / 4 for seconds in texts))


def test_timing_ends_at_the_aim_within_the_first_round():
    # The median's interval at 96.8 %: of six from the least to the greatest (1 - 2 / 2**6 = 96.9 %), (4.1 - 4.0) / 4.05 = 2.5 %.
    found = timed(seconds_of(4.0, 4.1, 4.0, 4.1, 4.0, 4.1, 9.0), "abcdefgh")
    assert names(found["texts"]) == "abcdef" and found["rounds"] == 1 and found["stopped"] == "aim"
    assert found["width"] == pytest.approx(0.1 / 4.05)


def test_rounds_go_on_up_to_the_aim():
    # 4.0 to 4.4 s, and 4.2 from then on. The median's interval at 96.8 %, by the binomial distribution of 1/2: of six to eight
    # from the least to the greatest; of nine to eleven (one further in at nine: 1 - 2 (1 + 9) / 2**9 = 96.1 %; at ten
    # 1 - 2 (1 + 10) / 2**10 = 97.9 %) from the 2nd to the last but one, 4.1 to 4.3, 4.8 % of 4.2; of twelve one further in would
    # be 96.1 %; of thirteen from the 3rd on, 1 - 2 (1 + 13 + 78) / 2**13 = 97.8 %: 4.2 to 4.2.
    found = timed(seconds_of(4.0, 4.1, 4.2, 4.2, 4.3, 4.4, 4.2), "abcdef", rounds=5)
    assert found["rounds"] == 3 and found["stopped"] == "aim" and found["width"] == pytest.approx(0.0)
    assert [r["round"] for r in found["texts"]] == 6 * [0] + 6 * [1] + [2]


def test_rounds_end_at_the_cap_which_is_said():
    # Texts of 4 s and 5 s in turn: the interval stays (5 - 4) / 4.5 = 22 %.
    found = timed(seconds_of(*(9 * [4.0, 5.0])), "abcdef", rounds=3)
    assert found["rounds"] == 3 and found["stopped"] == "cap" and found["width"] == pytest.approx(1 / 4.5)


def test_width_of_exactly_the_aim_is_enough_and_more_is_not():
    clock = Clock(1.0)
    assert timed(clock, "a", width=lambda seconds, stops: 0.03, rounds=4)["stopped"] == "aim"
    assert timed(clock, "a", width=lambda seconds, stops: 0.0301, rounds=4)["rounds"] == 4


def test_without_an_aim_all_rounds_are_made():
    found = timed(Clock(1.0), "a", width=lambda seconds, stops: float(stops), rounds=2, aim=None)
    assert found["rounds"] == 2 and found["stopped"] == "cap" and found["width"] == 0.0


def test_too_few_texts_for_an_interval_end_at_the_cap_without_a_width():
    found = timed(Clock(1.0), "ab", rounds=2)
    assert found["stopped"] == "cap" and found["width"] is None and len(found["texts"]) == 4


def test_tokens_are_timed_one_by_one_in_a_pass_of_its_own():
    found = timed(clock := Clock(0.25), "abc", token_texts=2)
    assert clock.made[-2:] == [("a", 4), ("b", 4)] and [t["prompt_id"] for t in found["tokens"]] == ["a", "b"]
    assert found["tokens"][0]["ttft_s"] == 0.25 and found["tokens"][0]["token_s"] == [0.25, 0.25, 0.25]


def test_the_clock_is_read_just_before_and_after_the_work():
    events = []
    clock = lambda: events.append("clock") or 0.0  # noqa: E731 - a clock waits for the device: tests/test_probes.py

    def produce(_, count, at_token=None):
        events.append(f"produce {count}")
        for _ in range(count) if at_token else ():
            at_token()
        return [Made(range(count), count)]

    measure.time_text("a", produce, 2, clock)
    assert events == ["clock", "produce 2", "clock", "clock"]
    events.clear()
    measure.time_tokens("a", produce, 2, clock)
    assert events == ["clock", "produce 2", "clock", "clock"]
    events.clear()
    measure.warm_up("a", produce, 2, clock)
    assert events == 3 * ["clock", "produce 2", "clock"]


def test_of_a_total_the_clock_is_read_at_the_first_token_alone():
    clock, read = Clock(0.5), []

    def reading():
        read.append(clock.now)
        return clock.now

    measure.time_text("a", clock.produce, 5, reading)
    assert [moment - 100 for moment in read] == [0, 0.5, 2.5]


def test_garbage_is_not_collected_inside_timed_code_and_is_again_afterwards():
    inside = []

    def produce(_, count, at_token=None):
        inside.append(gc.isenabled())
        at_token()
        return [Made(range(count), count)]

    measure.time_text("a", produce, 2)
    assert inside == [False] and gc.isenabled()


def test_text_that_ends_before_its_second_token_is_no_reading():
    clock = Clock(0.5)

    def produce(inputs, count, at_token=None):
        return clock.produce(inputs, {"a": 1, "b": 0}.get(inputs, count), at_token)

    settings = SimpleNamespace(**SETTINGS | {"aim": None, "token_texts": 3})
    found = measure.time_texts(names, produce, [request(name) for name in "abc"], settings, lambda *_: 0.0, METER, clock)
    assert found["too_short"] == 2
    assert names(found["texts"]) == names(found["tokens"]) == "c"
    with pytest.raises(InputError, match="none of the 2 timed texts has two tokens"):
        measure.time_texts(names, produce, [request(name) for name in "ab"], settings, lambda *_: 0.0, METER, clock)


def test_throughput_counts_the_tokens_that_were_made():
    found, *_ = measured(2, Probe(), shorter=1)
    assert [point["new_tokens"] for point in found["points"]] == [3, 3]


def test_garbage_is_collected_again_after_an_error():
    with pytest.raises(ZeroDivisionError):
        measure.time_text("a", lambda _, count, at_token: 1 / (count - 2), 2)
    assert gc.isenabled()


class Probe:
    """A false probe of a machine whose texts take 10 bytes each beside 100, of which `free` more may be taken."""

    def __init__(self, free=10**9, known=True):
        self.free, self.known, self.batch = free, known, 0

    def start(self):
        self.batch = 0

    def read(self):
        return {"peak_bytes": 100 + 10 * self.batch if self.known else "unknown", "held_bytes": 100}

    def free_bytes(self):
        return self.free


def measured(most, probe, capacity=10**9, shorter=0):
    """Measure throughput on a false clock: a batch takes 1 s, and 0.1 s more a text; `capacity` texts fit a GPU's memory.

    shorter: how many tokens fewer are made than are asked for.
    """
    tried, clock = [], Clock(1.0)

    def produce(inputs, count, at_token=None):
        probe.batch = len(inputs)
        if len(inputs) > capacity:
            raise torch.OutOfMemoryError("no room")
        clock.now += 1 + 0.1 * len(inputs) if count == 4 else 0
        return [Made((), count - shorter)] * len(inputs)

    def prepare(requests):
        tried.append(names(requests))
        return tried[-1]

    requests = [request(name) for name in "abc"]
    return measure.throughput(prepare, produce, requests, 4, most, probe, clock), [len(batch) for batch in tried], tried


def test_batches_double_up_to_the_cap_and_are_timed_three_times():
    found, sizes, tried = measured(6, Probe())
    assert sizes == [1, 2, 4, 6] and tried[2] == "abca" and found["stopped"] == "cap"
    assert found["points"][2]["seconds"] == pytest.approx([1.4, 1.4, 1.4]) and found["points"][2]["peak_bytes"] == 140


def test_largest_batch_is_found_by_halving_where_a_gpu_runs_out_of_memory():
    found, sizes, _ = measured(64, Probe(), capacity=11)
    assert sizes == [1, 2, 4, 8, 16, 12, 10, 11] and found["stopped"] == "memory"
    assert [point["batch"] for point in found["points"]] == [1, 2, 4, 8, 10, 11]


def test_largest_of_many_is_found_to_a_sixteenth():
    # 512 fit and 1024 do not; then 768, 640 and 704 are tried, of which 640 fit. The next would be 672, by 32 more than 640.
    _, sizes, _ = measured(4096, Probe(), capacity=700)
    assert sizes == [*(2**power for power in range(11)), 768, 640, 704]


def test_batch_that_would_take_more_than_is_free_is_never_tried():
    # Batches take 10 bytes a text beyond the 100 that are held: of 120 free ones, 108 may be taken. 8 take 80; 16 would take
    # 160, 12 would 120, 10 take 100, 11 would 110.
    found, sizes, _ = measured(64, Probe(free=120))
    assert sizes == [1, 2, 4, 8, 10] and found["stopped"] == "memory"


def test_no_throughput_where_none_is_asked_for_and_no_guess_where_memory_cannot_be_read():
    assert measured(0, Probe())[0] == {"stopped": "cap", "points": []}
    assert measured(4, Probe(free=0, known=False))[1] == [1, 2, 4]


def test_pass_by_batch_sums_its_seconds_and_keeps_the_highest_of_each_reading():
    readings = [
        {
            "quality_s": 1.5,
            "cache_bytes": 9,
            "phases": {"prefill": {"peak_bytes": 30, "held_bytes": 1}, "decode": {"peak_bytes": "unknown"}},
        },
        {
            "quality_s": 2.0,
            "cache_bytes": 8,
            "phases": {"prefill": {"peak_bytes": 10, "held_bytes": 4}, "decode": {"peak_bytes": 5}},
        },
    ]
    highest = {"prefill": {"peak_bytes": 30, "held_bytes": 4}, "decode": {"peak_bytes": "unknown"}}  # unknown once is unknown
    assert measure.over_batches(readings) == (3.5, 9, highest)
