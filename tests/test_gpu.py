"""`make gpu`: what it decides without a card, by hand; and its rehearsal, in which every stage's table is filled."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gpu_record
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "gpu"))

import gpu  # noqa: E402
import machine  # noqa: E402
import parts  # noqa: E402
import stages  # noqa: E402
import studies  # noqa: E402

from affq.models import memory  # noqa: E402
from affq.study import load_study  # noqa: E402


class Clock:
    """A clock that only tests move on."""

    def __init__(self):
        self.now_s = 0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def show(tmp_path):
    """What a card of 80 GB showed so far: nothing."""
    (tmp_path / "studies").mkdir()
    content = {"rehearsal": False, "stages": {}, "claims": [], "not_begun": []}
    return stages.Show(tmp_path, tmp_path / "studies", studies.CARD, memory.Machine("cuda", 1, 85_000_000_000), content)


def kept(show):
    return json.loads((show.out / "gpu.json").read_text())


def test_part_of_the_time_ends_with_the_whole(clock):
    whole = stages.Budget(100, clock)
    clock.now_s = 30
    assert whole.left_s() == 70 and whole.part(50).left_s() == 50 and whole.part(90).left_s() == 70
    part = whole.part(50)
    clock.now_s = 75
    assert part.left_s() == 5 and part.part(20).left_s() == 5


def test_what_did_not_begin_is_named_and_what_ended_early_says_why(show, clock, monkeypatch):
    def breaks(show, budget):
        raise ValueError("no such card")

    def takes_all(show, budget):
        show.row("paper", {"model": "m"})
        clock.now_s += budget.left_s()

    def too_late(show, budget):
        raise AssertionError("it must not begin")

    monkeypatch.setattr(stages, "STAGES", {"default": breaks, "paper": takes_all, "too_large": too_late})
    stages.all_of_them(show, stages.Budget(190, clock), ["default", "paper", "too_large"])
    assert kept(show)["not_begun"] == [{"stage": "too_large", "name": "the whole stage", "why": "no time was left"}]
    assert kept(show)["stages"]["default"]["note"] == "ended early by ValueError: no such card"
    assert kept(show)["stages"]["paper"]["rows"] == [{"model": "m"}]


def test_runs_begin_only_while_enough_time_is_left(show, clock, monkeypatch):
    def executed(show, study, run, budget):
        clock.now_s += 30
        return {"model": run.model.name, "precision": run.precision}

    monkeypatch.setattr(stages, "executed", executed)
    study = load_study(studies.paper(show.folder, show.sizes))
    stages.execute(show, "paper", study, study.runs()[:4], stages.Budget(70, clock))  # 30 + 30 s; the third would have 10 of 15
    assert [row["precision"] for row in kept(show)["stages"]["paper"]["rows"]] == ["fp32", "fp16"]
    assert [entry["name"] for entry in kept(show)["not_begun"]] == ["llama-2-7b-chat int8", "llama-2-13b-chat fp32"]


def test_largest_that_fits_comes_first():
    planned = [("a", {"peak_bytes": 5, "fits": True}), ("b", {"peak_bytes": 9, "fits": False})]
    planned += [("c", {"peak_bytes": 7, "fits": True}), ("d", {"peak_bytes": 8, "fits": False})]
    fitting, too_large = stages.in_order(planned)
    assert [run for run, _ in fitting] == ["c", "a"] and [run for run, _ in too_large] == ["b", "d"]


@pytest.mark.full
def test_on_80_gb_all_fit_but_four(show):
    fitting, too_large = stages.in_order(stages.plan(load_study(studies.paper(show.folder, show.sizes)), show.machine))
    assert len(fitting) == 11 and [(run.model.name[:7], run.precision) for run, _ in fitting][0] == ("llama-2", "int8")
    assert {(run.model.name, run.precision) for run, _ in too_large} == {
        (model, precision) for model in ("llama-2-70b-chat", "mixtral-8x7b-instruct") for precision in ("fp32", "fp16")
    }


def test_machine_without_a_card_is_refused_in_one_sentence():
    words = machine.refusal([], cuda=False, rehearse=False)
    assert words == "torch sees no CUDA device here: run this on a machine that has one, or rehearse it with --rehearse"
    assert machine.refusal([], cuda=False, rehearse=True) is None and machine.refusal([], cuda=True, rehearse=False) is None


def test_every_package_that_is_missing_is_named_at_once():
    needed = [Requirement("no-such-package>=2"), Requirement("torch<1"), Requirement("pytest"), Requirement("nor-this-one")]
    missing, old, other = machine.lacking(needed)
    assert missing == "no-such-package>=2" and old.startswith("torch<1 (here is 2.") and other == "nor-this-one"
    words = machine.refusal([missing, old, other], cuda=True, rehearse=True)
    assert words.startswith("this Python lacks no-such-package>=2, torch<1 (here is 2.") and "pip download" in words


def test_what_a_missing_package_would_have_brought_is_named_too(monkeypatch):
    found = {"here": ["brought>=1; python_version >= '3'", "not-for-us; sys_platform == 'none'", "extra; extra == 'more'"]}

    def version(name):
        if name not in found:
            raise machine.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(machine.metadata, "version", version)
    monkeypatch.setattr(machine.metadata, "requires", found.get)
    assert machine.lacking([Requirement("here")]) == ["brought>=1"]


def test_this_environment_lacks_nothing():
    assert machine.lacking(machine.requirements()) == []


def test_parts_joined_are_the_file(tmp_path):
    data = bytes(range(256)) * 41
    (tmp_path / "a.whl").write_bytes(data)
    cut = parts.cut(tmp_path / "a.whl", tmp_path, part_bytes=1000)  # 10,496 bytes: eleven parts, the last shorter
    assert [path.name for path in cut] == [f"a.whl.part{number}" for number in range(11)]
    (tmp_path / "joined").mkdir()
    (whole,) = parts.join(tmp_path, tmp_path / "joined")
    assert whole.name == "a.whl" and hashlib.sha256(whole.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_without_weights_the_default_model_is_left_out_and_says_so(show, tmp_path, monkeypatch):
    monkeypatch.setattr(stages.weights, "cached", lambda name: tmp_path / "nowhere")
    monkeypatch.setattr(stages, "CARRIED", tmp_path / "nothing")
    stages.default(show, stages.Budget(1e9))
    assert kept(show)["stages"]["default"]["note"].startswith("left out: the weights are not in the cache, and no parts")


def test_what_is_too_much_to_carry_home_is_said(tmp_path, monkeypatch):
    (tmp_path / "small").write_bytes(b"1")
    assert gpu.too_much(tmp_path) == []
    monkeypatch.setattr(gpu, "MOST_BYTES", 2**20)
    (tmp_path / "large").write_bytes(bytes(3 * 2**19))
    assert gpu.too_much(tmp_path) == ["large is 1.5 MiB, and 1 come home"]
    for number in range(7):
        (tmp_path / str(number)).write_bytes(b"")
    assert gpu.too_much(tmp_path)[0] == f"9 files in {tmp_path}, and 8 come home"


def test_affq_has_a_version_where_a_clone_is_all_there_is(tmp_path, monkeypatch):
    def version(name):
        raise machine.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.metadata, "version", version)
        patch.setattr(sys, "path", list(sys.path))
        gpu.name_affq(tmp_path)
        assert str(tmp_path / "site") in sys.path
    (about,) = (tmp_path / "site").glob("affq-*.dist-info/METADATA")
    assert "\nName: affq\nVersion: 0." in about.read_text()


def test_stage_that_there_is_none_of_is_refused(capsys):
    assert gpu.parsed(["--stages", "paper,tests"]).stages == "paper,tests"
    assert gpu.STAGES.split(",") == list(stages.STAGES) == list(gpu_record.STAGES)
    with pytest.raises(SystemExit):
        gpu.parsed(["--stages", "papers"])
    assert "there is no papers; there are tests,default," in capsys.readouterr().err


MACHINE = {"copy_bytes_per_s": 3e12, "bf16_flop_per_s": 800e12}
ROW = {"mixture": False, "weights_bytes": 15e9, "token_s": 0.01, "parameters": 7e9, "prompt_tokens": 40, "ttft_s": 0.014}


def test_shares_of_the_card_are_those_of_a_hand_calculation():
    assert gpu_record.bandwidth_share(ROW, MACHINE) == pytest.approx(0.5)  # 15 GB × 100 tokens/s of 3 TB/s
    assert gpu_record.peak_share(ROW, MACHINE) == pytest.approx(0.05)  # 2 × 7e9 × 40 = 0.56 TFLOP in 14 ms: 40 of 800 TFLOP/s
    assert gpu_record.off(11, 10) == pytest.approx(0.1) and gpu_record.off(11, None) is None
    mixture, failed = ROW | {"mixture": True}, ROW | {"token_s": None, "ttft_s": None}
    for row in (mixture, failed):
        assert gpu_record.bandwidth_share(row, MACHINE) is gpu_record.peak_share(row, MACHINE) is None


def test_how_many_predictions_are_near_enough_is_counted():
    rows = [{"predicted_weights_bytes": p, "weights_bytes": 100, "predicted_peak_bytes": q, "peak_bytes": 100} for p, q in FOUR]
    rows += [{"predicted_weights_bytes": 9, "weights_bytes": None, "predicted_peak_bytes": 9, "peak_bytes": None}]
    weights = "Weights: 3 of 4 within 3%, the worst off by 5.0%."
    assert gpu_record.within(rows) == f"{weights} Peak: 2 of 4 within 10%, the worst off by 20.0%."


FOUR = [(100, 91), (102, 109), (98, 80), (95, 115)]


def test_energy_of_each_run_that_ended_is_on_the_page_or_why_it_is_unknown():
    known = {"joules_a_text": 561.23, "joules_a_token": 8.769, "rest_watts": 119.6, "metered": "gpu0", "unknown": None}
    unknown = dict.fromkeys(known) | {"unknown": "not_installed"}
    rows = [{"model": "m", "precision": name, "energy": e} for name, e in (("fp16", known), ("int8", unknown), ("nf4", None))]
    assert gpu_record.energy_table(rows).splitlines()[2:] == [
        "| m | fp16 | 561 | 8.77 | 120 | gpu0 |  |",
        "| m | int8 |  |  |  |  | unknown: not installed |",
    ]


def test_later_call_adds_stages_and_takes_the_place_of_what_it_did_again():
    first = {"minutes": 8, "seconds": 470, "stages": {"paper": {"rows": [1]}, "tests": {"rows": []}}}
    first |= {"not_begun": [{"stage": "throughput"}, {"stage": "paper"}]}
    second = {"minutes": 4, "seconds": 100, "stages": {"paper": {"rows": [2]}, "throughput": {"rows": []}}}
    second |= {"not_begun": [{"stage": "throughput"}]}
    whole = gpu_record.joined([first, second])
    assert whole["stages"] == {"paper": {"rows": [2]}, "tests": {"rows": []}} and whole["seconds"] == 570
    assert whole["not_begun"] == [{"stage": "throughput"}, {"stage": "throughput"}]


def test_page_is_that_of_the_record():
    there = json.loads(gpu_record.KEPT.read_text(encoding="utf-8")) if gpu_record.KEPT.is_file() else None
    assert gpu_record.PAGE.read_text(encoding="utf-8") == gpu_record.page(there)  # python scripts/gpu_record.py writes it
    assert there or "Not seen yet" in gpu_record.page(there)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The folder of a rehearsal as it is typed, and what was printed."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, ROOT / "tests" / "gpu" / "gpu.py", "--rehearse", "--minutes", "20", "--out", out]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def content(rehearsed):
    return json.loads((rehearsed[0] / "gpu.json").read_text())


def rows(content, stage):
    assert "note" not in content["stages"][stage]
    return content["stages"][stage]["rows"]


@pytest.mark.full
def test_rehearsal_begins_everything_and_leaves_two_files(rehearsed, content):
    assert content["rehearsal"] and content["not_begun"] == [] and list(content["stages"]) == [*stages.STAGES]
    assert {path.name for path in rehearsed[0].iterdir()} == {"gpu.json", "records.tar.gz"} and gpu.too_much(rehearsed[0]) == []
    assert content["machine"]["copy_bytes_per_s"] > 1e8 and content["machine"]["bf16_flop_per_s"] > 1e6


@pytest.mark.full
def test_rehearsal_lists_the_tests_that_need_a_gpu(content):
    tests = rows(content, "tests")
    assert len(tests) >= 15 and {row["test"].partition("::")[0] for row in tests} >= {
        "tests/test_models.py",
        "tests/test_probes.py",
    }
    assert {row["outcome"] for row in tests} <= {"passed", "skipped"}


@pytest.mark.full
@pytest.mark.parametrize("stage, count", [("default", 2), ("paper", 6)])
def test_rehearsal_measures_beside_what_was_predicted(content, stage, count):
    table = rows(content, stage)
    assert [row["status"] for row in table] == count * ["ok"], table
    for row in table:
        assert row["weights_bytes"] == pytest.approx(row["predicted_weights_bytes"], rel=0.03)
        assert row["peak_bytes"] > row["weights_bytes"] and row["predicted_peak_bytes"] > row["predicted_weights_bytes"]
        assert 0 < row["ttft_s"] and 0 < row["token_s"] < row["latency_s"] and row["load_s"] > 0
        assert 10 < row["prompt_tokens"] < 100 and row["parameters"] > 1e6
        assert (row["energy"]["joules_a_text"] is None) == (row["energy"]["unknown"] is not None)


@pytest.mark.full
def test_rehearsal_runs_the_largest_first(content):
    peaks = [row["predicted_peak_bytes"] for row in rows(content, "paper")]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.full
def test_rehearsal_shows_what_cannot_fit_with_its_remedy_and_the_next_run_unharmed(content):
    too_large, after = rows(content, "too_large")
    assert too_large["status"] == "failed" and too_large["note"].startswith("out_of_memory: ")
    assert "were free" in too_large["note"] and after["status"] == "ok" and after["latency_s"] > 0


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here, which torch compiles for a CPU by")
def test_rehearsal_compiles_decoding(content):
    (row,) = rows(content, "compiled")
    assert row["status"] == "ok" and row["run_id"].startswith("llama-2-7b-chat--fp16--transformers-compiled--"), row
    assert row["token_s"] > 0


@pytest.mark.full
def test_rehearsal_times_growing_batches(content):
    points = rows(content, "throughput")
    assert [(row["precision"], row["batch"]) for row in points] == [("fp16", 1), ("fp16", 2), ("int8", 1), ("int8", 2)]
    assert all(row["tokens_per_s"] > row["texts_per_s"] > 0 for row in points)


@pytest.mark.full
def test_rehearsal_has_the_verdicts_of_affqs_own_claims(content):
    by = {(row["claim"], row["model"]): row for row in content["claims"]}
    assert by["C1 weights", "mixtral-8x7b-instruct"]["verdict"] in ("supported", "contradicted")
    assert by["C4", "smollm2-135m"]["estimate"] > 0 and by["C4", "llama-2-7b-chat"]["reason"] == "random_outliers"


@pytest.mark.full
def test_what_came_home_is_judged_and_becomes_the_page(rehearsed, content, tmp_path):
    whole = gpu_record.bring_home([rehearsed[0]], tmp_path / "home")
    assert [row["precision"] for row in whole["judged"]] == ["fp32", "int8"]
    assert all(0 <= row["emotion_f1"] <= 1 and 0 < row["cpu_emotion_f1"] < 1 for row in whole["judged"])
    assert whole["claims"] == content["claims"]
    page = gpu_record.page(whole)
    assert "**A rehearsal** on a processor" in page and "| mixtral-8x7b-instruct | int8 | 0.0" in page
    assert "## Energy" in page and "| mixtral-8x7b-instruct | int8 |" in page.partition("## Energy")[2]
    assert "Weights: 6 of 6 within 3%" in page and "| too-large | int8 | failed | out_of_memory" in page
