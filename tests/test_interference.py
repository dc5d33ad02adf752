"""Disturbed measurements are flagged, and quiet ones are not: with false load probes, then with the real one."""

import subprocess
import sys
import time

import pytest

from affq.inference import interference

QUIET = {
    "clock_s": 0.0,
    "busy_s": 0.0,
    "stolen_s": 0.0,
    "own_s": 0.0,
    "throttled_s": 0.0,
    "hot": 0,
    "swapped_bytes": 0,
    "gpus": [],
}


class Load:
    """A false load probe: rest for one second, then ten seconds of work on two processors, with what is given on top."""

    rest_s = 1.0

    def __init__(self, before=None, during=None):
        start = QUIET | {"clock_s": 1.0, "busy_s": 0.02, "own_s": 0.01} | (before or {})
        end = start | {"clock_s": 11.0, "busy_s": start["busy_s"] + 20.1, "own_s": 20.01}
        for name, value in (during or {}).items():
            end[name] = value if name == "gpus" or isinstance(value, str) else end[name] + value
        self.readings = iter([QUIET, start, end])

    def read(self):
        return next(self.readings)


def seen(**load):
    slept = []
    with interference.watched(Load(**load), slept.append) as found:
        assert slept == [1.0]
    return found


def phrases(load):
    return [disturbance.phrase for disturbance in interference.disturbances(load)]


def test_quiet_run_is_not_flagged():
    found = seen()
    assert interference.disturbances(found) == []
    # By hand: of 20.1 seconds that the processors were busy in ten, 20.0 were this process's.
    assert found["during"]["other_processors"] == pytest.approx(0.01) and found["before"]["other_processors"] == pytest.approx(
        0.01
    )


GPU = {"gpu": 0, "busy_percent": 0, "reasons": 0, "processes": 1}


@pytest.mark.parametrize(
    "load, kind, phrase",
    [
        ({"during": {"busy_s": 5.0}}, "other_processes", "other processes took 0.5 processors during"),
        ({"before": {"busy_s": 0.5}}, "other_processes", "other processes took 0.5 processors before"),
        ({"during": {"stolen_s": 0.5}}, "stolen", "the machine's host took 0.05 processors during"),
        ({"during": {"throttled_s": 0.2}}, "quota", "stopped at its quota during"),
        ({"during": {"hot": 1}}, "heat", "slowed by heat during"),
        ({"during": {"swapped_bytes": 4096}}, "swapping", "swapping during"),
        ({"before": {"gpus": [GPU | {"busy_percent": 40}]}}, "gpu_busy", "GPU 0 was 40 % busy before"),
        ({"during": {"gpus": [GPU | {"reasons": 0x24}]}}, "gpu_slowed", "GPU 0 was slowed, by heat or power, during"),
        ({"during": {"gpus": [GPU | {"processes": 2}]}}, "gpu_shared", "2 processes were on GPU 0 during"),
    ],
)
def test_disturbed_run_is_flagged_with_its_reason(load, kind, phrase):
    assert (kind, phrase) in [(d.kind, d.phrase) for d in interference.disturbances(seen(**load))]


def test_disturbance_says_how_much_when_and_on_which_gpu():
    # By hand: the GPU was shared by two processes; 0.2 s of ten were lost at the quota.
    load = seen(during={"throttled_s": 0.2, "gpus": [GPU | {"gpu": 1, "processes": 2}]})
    quota, shared = interference.disturbances(load)
    assert (quota.when, quota.amount, quota.gpu) == ("during", pytest.approx(0.2), None)
    assert (shared.when, shared.amount, shared.gpu) == ("during", 2, 1)


@pytest.mark.parametrize("name", ["throttled_s", "hot"])
def test_what_cannot_be_read_is_unknown_and_no_reason(name):
    found = seen(before={name: "unknown"}, during={name: "unknown"})
    assert found["during"][name] == "unknown" and interference.disturbances(found) == []


def test_gpu_that_is_busy_with_this_run_is_no_reason():
    busy = GPU | {"busy_percent": 99, "reasons": 0x1}  # at its end; 0x1: idle
    assert interference.disturbances(seen(during={"gpus": [busy]})) == []
    assert interference.disturbances(seen(during={"gpus": "unknown"})) == []


def test_worst_of_several_processes_counts():
    quiet, busy = seen(), seen(during={"busy_s": 5.0, "throttled_s": "unknown"})
    worst = interference.worst([quiet, busy])
    assert worst["during"]["other_processors"] == pytest.approx(0.51) and worst["during"]["throttled_s"] == 0
    assert phrases(worst) == ["other processes took 0.5 processors during"]


def test_real_probe_sees_another_process_and_not_its_own():
    probe = interference.LoadProbe("cpu")
    spin = "import time; end = time.time() + 3\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other, interference.watched(probe) as found:
        end = time.monotonic() + 0.8
        while time.monotonic() < end:  # as a measurement would
            pass
        other.kill()
    assert found["during"]["other_processors"] > interference.OTHERS
    assert "other_processes" in [disturbance.kind for disturbance in interference.disturbances(found)]
    start = probe.read()
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    assert probe.read()["own_s"] - start["own_s"] == pytest.approx(0.5, abs=0.1)
