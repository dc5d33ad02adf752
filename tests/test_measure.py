import gc
import sys
import threading
import time

import numpy as np
import pytest
import torch

from affq import measure


class Clock:
    """A false clock: each reading is the next of a list."""

    def __init__(self, *readings):
        self.readings = iter(readings)

    def __call__(self):
        return next(self.readings)


def request(name, repetition=0):
    return {"prompt_id": name, "emotion": "joy", "sample": 0, "repetition": repetition, "request": name}


def test_readings_are_the_differences_of_the_clock():
    done = []

    def produce(inputs, count):
        done.append((inputs, count))
        return np.array([[1, 2, *range(count)]])

    clock = Clock(10.0, 10.5, 13.5, 20.0, 20.25, 24.25)
    readings = measure.time_texts(lambda r: r["request"].upper(), produce, [request("a"), request("b")], 4, 3, clock)
    assert done == [("A", 3), ("A", 1), ("A", 4), ("B", 1), ("B", 4)]  # three tokens of warm-up, then both, timed
    assert [(r["prompt_id"], r["ttft_s"], r["latency_s"]) for r in readings] == [("a", 0.5, 3.0), ("b", 0.25, 4.0)]
    assert readings[0]["token_ids"] == [0, 1, 2, 3] and readings[0]["new_tokens"] == 4


def test_the_device_is_waited_for_before_every_reading():
    events = []
    clock = lambda: events.append("clock") or 0.0  # noqa: E731
    produce = lambda _, count: events.append(f"produce {count}") or np.zeros((1, 5))  # noqa: E731
    measure.time_texts(str, produce, [request("a")], 2, 1, clock, lambda: events.append("wait"))
    assert events == ["produce 1", "wait", "clock", "produce 1", "wait", "clock", "produce 2", "wait", "clock"]


def test_garbage_is_not_collected_inside_timed_code_and_is_again_afterwards():
    inside = []

    def produce(_, count):
        inside.append(gc.isenabled())
        return np.zeros((1, count))

    measure.time_texts(str, produce, [request("a")], 2, 1)
    assert inside == [True, False, False] and gc.isenabled()


def test_garbage_is_collected_again_after_an_error():
    with pytest.raises(ZeroDivisionError):
        measure.time_texts(str, lambda _, count: 1 / (count - 2), [request("a")], 2, 1)
    assert gc.isenabled()


@pytest.mark.skipif(sys.platform != "linux", reason="resident peaks are reset through /proc")
def test_resident_peak_follows_memory_up_and_is_reset_by_the_next_phase():
    probe = measure.RssProbe()
    probe.start()
    quiet = probe.read()["peak_bytes"]
    block = np.ones(200_000_000, dtype=np.uint8)
    peak = probe.read()["peak_bytes"]
    assert 190_000_000 < peak - quiet < 230_000_000
    del block
    assert probe.read()["peak_bytes"] > peak - 5_000_000  # a peak stays
    probe.start()
    assert probe.read()["peak_bytes"] < peak - 150_000_000


def test_peak_that_cannot_be_reset_is_unknown_and_not_zero(tmp_path):
    probe = measure.RssProbe()
    probe._reset = tmp_path / "missing" / "clear_refs"
    probe.start()
    assert probe.read() == {"peak_bytes": None}


def test_hardware_names_the_processor_and_the_threads():
    found = measure.hardware("cpu")
    assert found["device"] == "cpu" and found["device_name"] and found["threads"] == torch.get_num_threads()
    assert found["cuda"] is None


class Cuda:
    """False GPUs: what is allocated on each, its peak, and twice as much reserved; 100 bytes of each are other processes'."""

    def __init__(self, *allocated):
        self.allocated, self.peaks, self.calls = list(allocated), list(allocated), []

    def set(self, device, size):
        self.allocated[device] = size
        self.peaks[device] = max(self.peaks[device], size)

    def device_count(self):
        return len(self.allocated)

    def memory_allocated(self, device):
        return self.allocated[device]

    def max_memory_allocated(self, device):
        return self.peaks[device]

    def max_memory_reserved(self, device):
        return 2 * self.peaks[device]

    def mem_get_info(self, device):
        return 1000 - self.allocated[device] - 100, 1000

    def reset_peak_memory_stats(self, device):
        self.peaks[device] = self.allocated[device]

    def synchronize(self, device):
        self.calls.append(device)

    def empty_cache(self):
        self.calls.append("empty")


def test_one_gpu_has_the_allocators_exact_peak():
    cuda = Cuda(10)
    probe = measure.CudaProbe(cuda)
    cuda.set(0, 500)
    cuda.set(0, 10)
    probe.start()  # the peak before the phase does not count
    cuda.set(0, 70)
    cuda.set(0, 30)
    assert probe.read() == {"peak_bytes": 70, "reserved_peak_bytes": 140, "device_used_bytes": 130}


def test_peak_of_several_gpus_is_that_of_their_sum_in_time_and_not_the_sum_of_peaks_that_never_met():
    cuda = Cuda(10, 20)
    probe = measure.CudaProbe(cuda)
    assert probe.base_bytes == 30
    probe.start()
    for sizes in ((300, 20), (10, 250), (10, 20)):
        for device, size in enumerate(sizes):
            cuda.set(device, size)
        time.sleep(10 * measure.SAMPLE_S)
    found = probe.read()
    # Worked by hand: the sums are 320, 270, 30 (550 if the peaks had met); between two steps the first is set before the second.
    assert found["peak_bytes"] == 320 and found["cuda0_peak_bytes"] == 300 and found["cuda1_peak_bytes"] == 250
    assert found["reserved_peak_bytes"] == 1100 and found["device_used_bytes"] == 30 + 200


def test_every_gpu_is_waited_for():
    cuda = Cuda(1, 2, 3)
    probe = measure.CudaProbe(cuda)
    probe.synchronize()
    assert cuda.calls == [0, 1, 2]


def test_sampling_ends_with_its_phase():
    probe = measure.CudaProbe(Cuda(1, 2))
    before = threading.active_count()
    probe.start()
    assert threading.active_count() == before + 1
    probe.read()
    assert threading.active_count() == before


@pytest.mark.gpu
def test_gpu_peak_follows_memory_up():
    probe, synchronize = measure.instruments("cuda")
    probe.start()
    block = torch.ones(100_000_000, dtype=torch.uint8, device="cuda")
    synchronize()
    del block
    found = probe.read()
    assert found["peak_bytes"] - probe.base_bytes >= 100_000_000
    assert found["device_used_bytes"] > 0 and found["reserved_peak_bytes"] >= found["peak_bytes"]


def test_pass_by_batch_sums_its_seconds_and_keeps_the_highest_of_each_reading():
    readings = [
        {"texts": 2, "end_byte": 9, "quality_s": 1.5, "peak_bytes": 30, "reserved_peak_bytes": None, "device_used_bytes": 7},
        {"texts": 2, "end_byte": 20, "quality_s": 2.0, "peak_bytes": 10, "reserved_peak_bytes": 5, "device_used_bytes": 8},
    ]
    highest = {"peak_bytes": 30, "reserved_peak_bytes": None, "device_used_bytes": 8}  # unknown once is unknown
    assert measure.over_batches(readings) == (3.5, highest)
