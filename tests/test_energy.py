"""Energy by zeus's own code over counters whose power is known: every figure is worked by hand. What is not read is unknown."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from affq.inference import NoEnergy, energy, measure
from affq.inference.requests import Made

REQUESTS = [{"prompt_id": name, "emotion": "joy", "sample": 0, "request": name} for name in "ab"]
ONCE = SimpleNamespace(new_tokens=4, warmup_tokens=2, aim=None, rounds=1, token_texts=1)
RANGE_UJ = 65_532_610_987  # of an AMD processor's counters


class Machine:
    """A processor whose zones draw power that is known, as Linux's powercap shows them. Time passes as it is told to.

    watts: by zone, (at rest, while a text is generated).
    """

    def __init__(self, folder, watts):
        self.now, self.watts = 100.0, watts
        self.joules = dict.fromkeys(watts, 1000.0)
        self.folders = {name: folder / f"intel-rapl:{place}" for name, place in PLACES.items() if name in watts}
        for name, zone in self.folders.items():
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        self.pass_(0, working=False)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.pass_(seconds, working=False)

    def pass_(self, seconds, working):
        self.now += seconds
        for name, zone in self.folders.items():
            self.joules[name] += self.watts[name][working] * seconds
            (zone / "part").write_text(f"{round(1e6 * self.joules[name]) % RANGE_UJ}\n")
            os.replace(zone / "part", zone / "energy_uj")  # whole, as the kernel gives it

    def produce(self, inputs, count, at_token=None):
        for _ in range(count):
            self.pass_(0.25, working=True)
            if at_token:
                at_token()
        return [Made(range(count), count)]

    def meter(self):
        return energy.meter("cpu", self.clock, sleep=self.sleep)

    def energy(self):
        """Give the energy of two texts of four tokens, a second each."""
        width = lambda *_: 0.0  # noqa: E731
        return measure.time_texts(lambda batch: batch, self.produce, REQUESTS, ONCE, width, self.meter(), self.clock)["energy"]


PLACES = {"package-0": "0", "dram": "0/intel-rapl:0:0", "core": "0/intel-rapl:0:1", "package-1": "1", "psys": "2"}


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Make machines whose counters zeus finds."""
    pytest.importorskip("zeus", reason="zeus is not here: pip install 'affq[energy]'")
    import zeus.device.cpu
    from zeus.device.cpu import rapl

    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path / "rapl"))
    monkeypatch.setattr(zeus.device.cpu, "_cpus", None)  # zeus looks once in a process
    rapl.rapl_is_available.cache_clear()
    yield lambda **watts: Machine(tmp_path / "rapl", {name.replace("_", "-"): pair for name, pair in watts.items()})
    rapl.rapl_is_available.cache_clear()


def test_texts_have_their_joules_and_the_devices_at_rest_theirs(rapl):
    machine = rapl(package_0=(10, 30), dram=(2, 3), core=(5, 20), package_1=(10, 11))
    found = machine.energy()
    assert (found["why"], found["texts"], found["new_tokens"]) == (None, 2, 8)
    # Two seconds of rest; then two texts of a second each: warming up and the text that is timed by token are not among them.
    assert found["rest"] == {"seconds": 2.0, "joules": pytest.approx({"cpu0": 20, "dram0": 4, "cpu1": 20})}
    assert found["used"] == {"seconds": 2.0, "joules": pytest.approx({"cpu0": 60, "dram0": 6, "cpu1": 22})}


def test_zone_of_the_whole_board_is_not_counted_beside_its_processor(rapl):
    assert list(rapl(package_0=(10, 30), psys=(40, 70)).energy()["used"]["joules"]) == ["cpu0"]


@pytest.mark.parametrize("before_joules", [10, 100])  # the devices rest for 20 J; after 65 J the texts begin, of 60 J
def test_counter_that_begins_anew_within_a_window_goes_on(rapl, before_joules):
    machine = rapl(package_0=(10, 30))
    machine.joules["package-0"] = RANGE_UJ / 1e6 - before_joules
    machine.sleep(0)
    found = machine.energy()
    assert [found[window]["joules"]["cpu0"] for window in ("rest", "used")] == pytest.approx([20, 60])


def test_counter_that_goes_round_often_in_a_window_is_watched(monkeypatch):
    monkeypatch.setattr(energy, "WATCHED_S", 0.001)
    shows, read = [0.0], []

    def joules():
        read.append(shows[0])
        return shows[0]

    meter = energy.CounterMeter([energy.Counter("cpu0", joules, 100.0)], time.perf_counter, 0.0, 0.0, time.sleep)
    meter.start()
    for shows[0] in (60.0, 20.0, 80.0, 40.0):  # 60 J each
        deadline = time.monotonic() + 30
        while read[-1] != shows[0] and time.monotonic() < deadline:
            time.sleep(0.001)
    assert meter.read(1, 1)["used"]["joules"] == {"cpu0": 240.0}


def test_texts_go_on_until_their_window_is_long_enough_for_the_counter(rapl, monkeypatch):
    monkeypatch.setitem(energy.UPDATE_S, "cpu", 0.225)  # twenty of them: 4.5 s
    machine = rapl(package_0=(10, 30))
    found = machine.energy()
    assert (found["texts"], found["new_tokens"], found["used"]["seconds"]) == (5, 20, 5.0)
    assert found["used"]["joules"] == pytest.approx({"cpu0": 150})


def test_no_process_is_left_or_begun(rapl):
    before = psutil.Process().children()
    rapl(package_0=(10, 30)).energy()
    assert psutil.Process().children() == before


@pytest.mark.parametrize("watts", [(0, 0), (0, 30), (10, 0)])
def test_counter_that_stands_still_is_unknown_and_not_zero(rapl, watts):
    found = rapl(package_0=watts).energy()
    assert (found["why"], found["used"], found["rest"], found["texts"]) == (NoEnergy.STANDS_STILL, None, None, 2)


def test_counter_that_goes_away_is_unknown_and_the_texts_are_timed(rapl):
    machine = rapl(package_0=(10, 30))
    meter = machine.meter()
    meter.start()
    (machine.folders["package-0"] / "energy_uj").unlink()
    found = meter.read(2, 8)
    assert found["why"] == NoEnergy.FAILED and found["detail"].startswith("FileNotFoundError: ") and found["used"] is None


def test_counter_that_counts_backwards_is_unknown():
    shows = [5.0, 6.0, 6.0, 2.0]  # as the meter is made, after its rest, at the window's start and end
    counter = energy.Counter("gpu0", lambda: shows.pop(0))
    meter = energy.CounterMeter([counter], time.perf_counter, 0.0, 0.0, time.sleep)
    meter.start()
    found = meter.read(1, 1)
    assert (found["why"], found["detail"]) == (NoEnergy.FAILED, "ValueError: gpu0 counts backwards")


def test_counter_that_only_the_administrator_reads_is_unknown_and_says_the_remedy(rapl, monkeypatch):
    machine = rapl(package_0=(10, 30))
    from zeus.device.cpu import rapl as zone

    def refuse(path, *mode):
        if path.endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *mode)

    monkeypatch.setattr(zone, "open", refuse, raising=False)  # whoever runs the tests may be the administrator
    assert machine.energy()["why"] == NoEnergy.NOT_ALLOWED
    assert energy.PHRASES[NoEnergy.NOT_ALLOWED][1] == "sudo chmod -R a+r /sys/class/powercap/intel-rapl"


def test_machine_without_a_counter_has_no_figure(rapl):
    found = energy.meter("cpu").read(2, 8)  # there is no folder
    assert (found["why"], found["rest"], found["used"]) == (NoEnergy.NO_COUNTER, None, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_gpu_counter_without_a_driver_has_no_figure(rapl):
    found = energy.meter("cuda").read(2, 8)
    assert found["why"] == NoEnergy.NO_COUNTER and "NVML" in found["detail"] and found["used"] is None


def test_without_zeus_energy_is_unknown(monkeypatch):
    for name in ["zeus", *(name for name in sys.modules if name.startswith("zeus."))]:
        monkeypatch.setitem(sys.modules, name, None)
    energy.import_all()
    found = energy.meter("cpu").read(2, 8)
    assert (found["why"], found["used"]) == (NoEnergy.NOT_INSTALLED, None)
    assert energy.PHRASES[NoEnergy.NOT_INSTALLED][1] == "pip install 'affq[energy]'"


def test_energy_of_another_machine_is_unknown():
    meter = energy.meter("server")
    assert meter.rest is None and meter.read(2, 8)["why"] == NoEnergy.ELSEWHERE


@pytest.mark.gpu
def test_a_gpu_that_computes_takes_more_than_at_rest():
    pytest.importorskip("zeus", reason="zeus is not here: pip install 'affq[energy]'")
    from affq.inference import probes

    _, clock = probes.instruments("cuda")
    torch.ones(1, device="cuda")
    meter = energy.meter("cuda", clock)
    factor = torch.randn(4096, 4096, device="cuda").bfloat16()
    meter.start()
    while meter.seconds() < meter.least_s:
        factor @ factor
    found = meter.read(1, 1)
    watts = [sum(found[when]["joules"].values()) / found[when]["seconds"] for when in ("rest", "used")]
    assert found["why"] is None and 5 < watts[0] < watts[1] < 10_000


@pytest.mark.full
def test_energy_is_read_where_zeus_is_installed(tmp_path):
    """zeus is an extra, and brings packages that other extras cannot live with: these tests run over a copy of its own."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--target",
        str(tmp_path),
    ]
    subprocess.run([*pip, "zeus==0.16.0", "nvidia-ml-py"], check=True)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "-m", "not full and not gpu", __file__]
    done = subprocess.run(tests, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout and "zeus is not here" not in done.stdout, done.stdout
