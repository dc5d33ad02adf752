import sys
import threading
import time

import numpy as np
import pytest
import torch

from affq.inference import probes


@pytest.mark.skipif(sys.platform != "linux", reason="resident peaks are reset through /proc")
def test_resident_peak_follows_memory_up_and_is_reset_by_the_next_phase():
    probe = probes.RssProbe()
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
    probe = probes.RssProbe()
    probe._reset = tmp_path / "missing" / "clear_refs"
    probe.start()
    found = probe.read()
    assert found["peak_bytes"] == "unknown" and isinstance(found["held_bytes"], int)  # what is held now can be read all the same


def test_hardware_names_the_processor_and_the_threads():
    found = probes.hardware("cpu")
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

    def memory_reserved(self, device):
        return 2 * self.allocated[device]

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
    probe = probes.CudaProbe(cuda)
    cuda.set(0, 500)
    cuda.set(0, 10)
    probe.start()  # the peak before the phase does not count
    cuda.set(0, 70)
    cuda.set(0, 30)
    before = {"before_bytes": 10, "reserved_before_bytes": 20, "device_used_before_bytes": 110}
    after = {"held_bytes": 30, "device_used_bytes": 130}
    assert probe.read() == {"peak_bytes": 70, "reserved_peak_bytes": 140, **before, **after}
    assert probe.base == {"base_bytes": 10, "base_device_used_bytes": 110} and probe.free_bytes() == 870


def test_peak_of_several_gpus_is_that_of_their_sum_in_time_and_not_the_sum_of_peaks_that_never_met():
    cuda = Cuda(10, 20)
    probe = probes.CudaProbe(cuda)
    assert probe.base["base_bytes"] == 30
    probe.start()
    for sizes in ((300, 20), (10, 250), (10, 20)):
        for device, size in enumerate(sizes):
            cuda.set(device, size)
        time.sleep(10 * probes.SAMPLE_S)
    found = probe.read()
    # Worked by hand: the sums are 320, 270, 30 (550 if the peaks had met); between two steps the first is set before the second.
    assert found["peak_bytes"] == 320 and found["cuda0_peak_bytes"] == 300 and found["cuda1_peak_bytes"] == 250
    assert found["reserved_peak_bytes"] == 1100 and found["device_used_bytes"] == 30 + 200


def test_the_clock_waits_for_every_gpu_before_it_is_read(monkeypatch):
    cuda = Cuda(1, 2, 3)
    monkeypatch.setattr(torch, "cuda", cuda)
    _, clock = probes.instruments("cuda")
    monkeypatch.setattr(probes.time, "perf_counter", lambda: cuda.calls.append("clock") or 7.0)
    assert clock() == 7.0 and cuda.calls == [0, 1, 2, "clock"]


def test_sampling_ends_with_its_phase():
    probe = probes.CudaProbe(Cuda(1, 2))
    before = threading.active_count()
    probe.start()
    assert threading.active_count() == before + 1
    probe.read()
    assert threading.active_count() == before


@pytest.mark.gpu
def test_gpu_peak_follows_memory_up():
    probe, clock = probes.instruments("cuda")
    probe.start()
    block = torch.ones(100_000_000, dtype=torch.uint8, device="cuda")
    clock()
    del block
    found = probe.read()
    assert found["peak_bytes"] - probe.base["base_bytes"] >= 100_000_000
    assert found["device_used_bytes"] > 0 and found["reserved_peak_bytes"] >= found["peak_bytes"]


class Readings:
    """A false probe: each reading is the next of a list of peaks; `calls` tells what was asked for."""

    def __init__(self, *peaks):
        self.peaks, self.calls = iter(peaks), []

    def start(self):
        self.calls.append("start")

    def read(self):
        self.calls.append("read")
        return {"peak_bytes": next(self.peaks)}


def test_generation_has_two_phases_that_its_first_token_parts():
    probe = Readings(50, 40)
    phases = probes.PrefillAndDecode(probe)
    for _ in range(3):
        phases.at_token()
    assert phases.read() == {"prefill": {"peak_bytes": 50}, "decode": {"peak_bytes": 40}}
    assert probe.calls == ["start", "read", "start", "read"]


def test_what_is_held_after_a_phase_is_less_than_its_peak():
    probe = probes.RssProbe()
    probe.start()
    block = np.ones(100_000_000, dtype=np.uint8)
    del block
    found = probe.read()
    assert found["peak_bytes"] - found["held_bytes"] > 90_000_000


def test_driver_that_is_not_there_gives_no_rows(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probes.nvidia_smi(["driver_version"]) == []


def test_rows_of_the_driver_are_split_at_commas(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '7, 0x0000000000000004'\necho '0, 0x1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert probes.nvidia_smi(["utilization.gpu", "clocks_event_reasons.active"]) == [["7", "0x0000000000000004"], ["0", "0x1"]]
