"""The notebooks over tiny models, through the commands: what a user types is what is tested."""

import csv
import json
import shutil
from html.parser import HTMLParser

import pytest
import yaml
from conftest import affq

PROMPTS = "id,kind,text,text_without_emotion\nnote,general,Write of {emotion}.,Write.\nday,event,Tell of {emotion}.,Tell.\n"
SETTINGS = {
    "prompts": "two.csv",
    "emotions": ["joy", "fear"],
    "batch": 3,
    "device": "cpu",
    "generation": {"max_new_tokens": 6},
    "measurement": {"texts": 5, "new_tokens": 6, "warmup_tokens": 2, "rounds": 2, "aim": 0.03, "throughput": 2, "profile": True},
}


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama, tiny_moe):
    """A folder with a study of a tiny Llama at three precisions and a tiny Qwen2Moe, which cannot be had at int8 and nf4."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "two.csv").write_text(PROMPTS)
    study = {"models": [str(tiny_llama), str(tiny_moe)], "precisions": ["fp32", "int8", "nf4"], **SETTINGS}
    (folder / "toy.yaml").write_text(yaml.safe_dump(study))
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    return affq("run", "toy.yaml", cwd=folder)


@pytest.fixture(scope="module")
def report(folder, ran):
    done = affq("report", "toy.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "reports" / "toy"


def runs(folder):
    return sorted((folder / "reports" / "toy" / "runs").glob("tiny-*"))


def test_failed_runs_leave_the_others_going_and_make_the_exit_status_1(folder, ran):
    assert ran.returncode == 1 and "4 of 6 runs are done" in ran.stdout
    plan = affq("plan", "toy.yaml", cwd=folder).stdout.splitlines()
    assert [line.split()[0] for line in plan if "--" in line] == ["ok"] * 4 + ["failed"] * 2


def test_mixture_of_experts_is_never_labelled_int8_with_16_bit_experts(folder, ran):
    failed = [json.loads((run / "failed.json").read_text()) for run in runs(folder) if (run / "failed.json").exists()]
    assert len(failed) == 2 and {f["kind"] for f in failed} == {"unsupported"}
    assert all("experts.gate_up_proj (bfloat16)" in f["words"] for f in failed)
    assert not any((run / "done.json").exists() for run in runs(folder) if (run / "failed.json").exists())


@pytest.mark.full
def test_mixtral_runs_at_8_and_4_bits_with_every_expert_counted_in_two_processes(tmp_path, tiny_mixtral):
    (tmp_path / "two.csv").write_text(PROMPTS)
    study = {
        "models": [str(tiny_mixtral)],
        "precisions": ["int8", "nf4"],
        **SETTINGS,
        # Every text in every process: with an aim, a pass ends as soon as its own readings agree.
        "measurement": {**SETTINGS["measurement"], "processes": 2, "rounds": 1, "aim": None},
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(study))
    done = affq("run", "toy.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for run, dtype in zip(runs(tmp_path), ("int8", "uint8"), strict=True):
        measured = json.loads((run / "measurements.json").read_text())
        # The first process has the texts, and comes last.
        assert [one["process"] for one in measured["passes"]] == [1, 2] and not (run / "passes").exists()
        assert [len(one["texts"]) for one in measured["passes"]] == [4, 4]
        assert json.loads((run / "run.json").read_text())["process"] == 1
        assert measured["model"]["class"] == "UnfusedMixtralForCausalLM"
        # Two layers of q, o 128·128, k, v 64·128, and three of 256·128 in each of four experts.
        (weights,) = [part for part in measured["census"] if part["role"] == "weight"]
        assert weights["dtype"] == dtype and weights["parameters"] == 2 * (4 + 4 * 3)
        assert weights["elements"] == 2 * (2 * 128 * 128 + 2 * 64 * 128 + 4 * 3 * 256 * 128)


@pytest.mark.full
def test_sampled_study_has_a_row_a_sample_paired_with_the_baselines_of_the_same_draw(tmp_path, tiny_llama):
    from rouge_score.rouge_scorer import RougeScorer

    (tmp_path / "two.csv").write_text(PROMPTS)
    study = {"models": [str(tiny_llama)], "precisions": ["fp32", "bf16"], **SETTINGS, "samples": 2}
    study["generation"] = {"decoding": "sampled", "temperature": 1.0, "max_new_tokens": 6}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(study))
    for words in (["run"], ["report"]):
        done = affq(*words, "toy.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    tables = tmp_path / "reports" / "toy" / "tables"
    texts = {precision: [t for t in rows(tables / "texts.csv") if t["precision"] == precision] for precision in ("fp32", "bf16")}
    keys = [(p, e, str(n)) for p in ("note", "day") for e in ("joy", "fear") for n in (0, 1)] + [
        ("note", "", "0"),
        ("day", "", "0"),
    ]
    assert [[(t["prompt_id"], t["emotion"], t["sample"]) for t in of] for of in texts.values()] == [keys, keys]
    assert len({t["text"] for t in texts["fp32"]}) == 10
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for own, baseline in zip(texts["bf16"], texts["fp32"], strict=True):
        wanted = scorer.score(baseline["text"], own["text"])["rougeL"].fmeasure
        assert float(own["rougeL_to_baseline"]) == pytest.approx(wanted, abs=1e-6)
    assert [row["texts"] for row in rows(tables / "summary.csv")] == ["8", "8"]
    assert [row["timed"] for row in rows(tables / "batch.csv")] == ["0", "0"]  # what is timed is greedy


def test_records_are_what_the_contract_says(folder, ran):
    run = next(r for r in runs(folder) if "llama--int8" in r.name)
    about = json.loads((run / "run.json").read_text())
    assert about["run_id"] == run.name and about["stored_dtype"] == "float32" and about["hardware"]["device"] == "cpu"
    assert about["settings"]["batch"] == 3 and about["software"]["versions"]["torch"]
    generations = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    assert [(g["prompt_id"], g["emotion"]) for g in generations] == [
        ("note", "joy"), ("note", "fear"), ("day", "joy"), ("day", "fear"), ("note", None), ("day", None)
    ]  # fmt: skip
    measured = json.loads((run / "measurements.json").read_text())
    assert about["predicted"]["weights_bytes"] == sum(part["bytes"] for part in measured["census"])
    # All four that ask for an emotion, in each of two rounds.
    (one,) = measured["passes"]
    assert [(t["prompt_id"], t["emotion"], t["round"]) for t in one["texts"]] == [
        (*key, number) for number in range(2) for key in [("note", "joy"), ("day", "fear"), ("note", "fear"), ("day", "joy")]
    ]
    assert all(len(t["token_ids"]) == 6 and t["ttft_s"] > 0 and t["latency_s"] > 0 for t in one["texts"])
    assert [len(t["token_s"]) for t in one["tokens"]] == [5, 5] and one["load"]["during"]["seconds"] > 0
    memory = measured["memory"]
    assert memory["kind"] == "rss" and set(memory["phases"]) == {"load", "prefill", "decode", "resource"}
    # Two layers of keys and values, two heads of 32 wide, bfloat16, three texts: 1,536 bytes a token, of a prompt and six more.
    assert memory["cache_bytes"] % (2 * 2 * 2 * 32 * 2 * 3) == 0 and memory["cache_bytes"] / 1536 > 5
    assert [point["batch"] for point in measured["throughput"]["points"]] == [1, 2] and measured["kernels"]


def test_timed_texts_are_those_of_a_batch_of_one(folder, ran):
    """The tiny model's texts of its quality pass were made in batches of three, those of the resource pass one by one."""
    run = next(r for r in runs(folder) if "llama--fp32" in r.name)
    alone = json.loads((run / "measurements.json").read_text())["alone"]
    assert len(alone) == 4 and all(row["text"] for row in alone)
    texts = {(g["prompt_id"], g["emotion"]): g["text"] for g in map(json.loads, (run / "generations.jsonl").open())}
    # Padding changes some of a random model's texts; what is no text of the study would match none.
    assert sum(texts[row["prompt_id"], row["emotion"]] == row["text"] for row in alone) >= 1


def test_warnings_of_the_kernels_do_not_flood_the_notebook(folder, ran):
    for run in runs(folder):
        assert (run / "1_generate.ipynb").stat().st_size < 100_000
        assert "MatMul8bitLt" not in (run / "1_generate.ipynb").read_text() + (run / "1_generate.log").read_text() + ran.stderr


def test_summary_has_a_row_a_run_with_figures_or_a_reason(report):
    found = rows(report / "tables" / "summary.csv")
    assert [(r["precision"], r["status"]) for r in found] == [
        *[(p, "ok") for p in ("fp32", "int8", "nf4", "fp32")],
        ("int8", "failed"),
        ("nf4", "failed"),
    ]
    for row in found[:4]:
        assert row["texts"] == "4" and row["peak_kind"] == "rss" and row["device"] == "cpu"
        assert row["note"] == "" or row["note"].startswith("measurement disturbed: ")  # where else something runs
        assert 0 <= float(row["emotion_f1"]) <= 1 and float(row["latency_s"]) > 0 and float(row["ttft_s"]) > 0
        assert (row["rougeL_to_baseline"] == "") == (row["precision"] == "fp32")
    assert all("did not take effect" in row["note"] and row["weights_bytes"] == "" for row in found[4:])
    stored = [int(row["weights_bytes"]) for row in found[:3]]
    assert stored == sorted(stored, reverse=True)
    assert [r["compute_dtype"] for r in found[:3]] == ["float32", "bfloat16", "bfloat16"]


def test_figures_of_the_report_follow_from_its_texts(report):
    """From texts.csv alone, with scikit-learn, and the readings of a record, with the statistics module."""
    import statistics

    from sklearn.metrics import f1_score

    texts = [t for t in rows(report / "tables" / "texts.csv") if t["emotion"]]
    for row in rows(report / "tables" / "summary.csv")[:4]:
        of = [t for t in texts if t["run_id"] == row["run_id"]]
        f1 = f1_score(
            [t["emotion"] for t in of],
            [t["judged_emotion"] for t in of],
            labels=["joy", "fear"],
            average="macro",
            zero_division=0,
        )
        assert float(row["emotion_f1"]) == pytest.approx(f1)
        assert float(row["rougeL"]) == pytest.approx(statistics.mean(float(t["rougeL"]) for t in of))
        measured = json.loads((report / "runs" / row["run_id"] / "measurements.json").read_text())
        assert float(row["latency_s"]) == pytest.approx(statistics.median(t["latency_s"] for t in measured["passes"][0]["texts"]))
        assert int(row["weights_bytes"]) == sum(part["bytes"] for part in measured["census"])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.sources += [attrs[name] for name in ("src", "href", "data", "srcset") if name in attrs]
        self.images += [attrs] if tag == "img" else []


def test_page_stands_alone(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    beside = ("tables/", "charts/", "summary.ipynb", "references.bib", "../index.html")
    assert all(source.startswith(("data:", "#", *beside)) for source in page.sources)
    assert "url(" not in text and "@import" not in text
    assert page.tags.count("h1") == 1 and "did not take effect" in text
    assert len(page.images) == 11 and all(
        "tiny-llama fp32" in i["alt"] or "table below" in i["alt"] or "card above" in i["alt"] for i in page.images
    )


def test_published_files_are_there_and_name_no_place_of_this_machine(report, folder):
    assert {p.suffix for p in (report / "charts").iterdir()} == {".svg", ".png", ".pdf"}
    assert len(list((report / "charts").iterdir())) == 33 and (report.parent / "index.html").is_file()
    assert {p.stem for p in (report / "tables").iterdir()} >= {
        "summary",
        "texts",
        "emotion_f1",
        "rouge",
        "memory",
        "latency",
        "provenance",
    }
    for path in [report / "index.html", report / "summary.ipynb", *(report / "tables").iterdir()]:
        assert str(folder) not in path.read_text(encoding="utf-8")


def test_running_again_redoes_nothing_that_is_done(folder, report):
    before = {path: path.stat().st_mtime_ns for run in runs(folder) for path in run.rglob("*") if (run / "done.json").exists()}
    again = affq("run", "toy.yaml", cwd=folder)
    assert again.stdout.count("ok, not done again") == 4 and again.returncode == 1
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_deleted_run_is_redone_alone_with_the_same_texts_byte_for_byte(folder, report):
    run = next(r for r in runs(folder) if "llama--int8" in r.name)
    texts = (run / "generations.jsonl").read_bytes()
    shutil.rmtree(run)
    again = affq("run", "toy.yaml", cwd=folder)
    assert again.stdout.count("ok, not done again") == 3 and "tiny-llama int8: ok, " in again.stdout
    assert (run / "generations.jsonl").read_bytes() == texts


def test_a_run_added_later_is_scored_alone(folder, report):
    run = next(r for r in runs(folder) if "llama--nf4" in r.name)
    others = {
        r: (r / "scores" / "minilm-lora.jsonl").stat().st_mtime_ns for r in runs(folder) if r != run and (r / "scores").exists()
    }
    shutil.rmtree(run / "scores")
    assert affq("score", "toy.yaml", cwd=folder).returncode == 0
    assert (run / "scores" / "minilm-lora.jsonl").exists()
    assert all((r / "scores" / "minilm-lora.jsonl").stat().st_mtime_ns == then for r, then in others.items())
