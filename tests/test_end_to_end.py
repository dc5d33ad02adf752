"""The real packaged model, real bitsandbytes, the real judge, through a cut-down study: what a newcomer gets, in a minute."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from affq.results.provenance import PACKAGE

AFFQ = Path(sys.executable).with_name("affq")


# 134,515,008 parameters, as its authors publish it, of 4 and of 2 bytes; int8 and nf4 keep embeddings at 2, and scales.
STORED = {
    "fp32": (134_515_008 * 4, 134_515_008 * 4),
    "bf16": (134_515_008 * 2, 134_515_008 * 2),
    "int8": (160e6, 170e6),
    "nf4": (110e6, 120e6),
}


@pytest.mark.parametrize("precisions", [("fp32", "int8"), pytest.param(tuple(STORED), marks=pytest.mark.full)])
def test_packaged_model_from_study_file_to_report(tmp_path, precisions):
    prompts = (PACKAGE / "study" / "prompt_sets" / "default.csv").read_text().splitlines()
    (tmp_path / "two.csv").write_text("\n".join([*prompts[:2], prompts[6]]) + "\n")
    study = {
        "models": ["smollm2-135m"],
        "precisions": list(precisions),
        "prompts": "two.csv",
        "emotions": ["joy", "sadness"],
        "generation": {"max_new_tokens": 12},
        "measurement": {"texts": 1, "new_tokens": 4, "warmup_tokens": 1, "token_texts": 1},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(study))
    for words in (["run"], ["report"]):
        done = subprocess.run([AFFQ, *words, "small.yaml"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    report = tmp_path / "reports" / "small"
    with open(report / "tables" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["precision"], row["status"], row["texts"]) for row in rows] == [(p, "ok", "4") for p in precisions]
    assert {row["stored_dtype"] for row in rows} == {"q4_1"}
    for row in rows:
        least, most = STORED[row["precision"]]
        assert least <= int(row["weights_bytes"]) <= most

    record = report / "runs" / rows[0]["run_id"]
    texts = [json.loads(line)["text"] for line in (record / "generations.jsonl").read_text().splitlines()]
    assert all(len(text.split()) >= 3 for text in texts)  # sentences, not noise
    assert (report / "index.html").stat().st_size > 100_000
