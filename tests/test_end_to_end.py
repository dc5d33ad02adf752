"""The real packaged model, real bitsandbytes, the real judge, through a cut-down study: what a newcomer gets, in a minute."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import yaml

from affq.results.provenance import PACKAGE

AFFQ = Path(sys.executable).with_name("affq")


def test_packaged_model_from_study_file_to_report(tmp_path):
    prompts = (PACKAGE / "study" / "prompt_sets" / "default.csv").read_text().splitlines()
    (tmp_path / "two.csv").write_text("\n".join([*prompts[:2], prompts[6]]) + "\n")
    study = {
        "models": ["smollm2-135m"],
        "precisions": ["fp32", "bf16", "int8", "nf4"],
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
    assert [row["status"] for row in rows] == ["ok"] * 4 and {row["stored_dtype"] for row in rows} == {"q4_1"}
    # 134,515,008 parameters, as its authors publish it, of 4 and of 2 bytes; int8 and nf4 keep embeddings at 2, and scales.
    stored = [int(row["weights_bytes"]) for row in rows]
    assert stored[:2] == [134_515_008 * 4, 134_515_008 * 2] and 160e6 < stored[2] < 170e6 and 110e6 < stored[3] < 120e6
    assert [row["texts"] for row in rows] == ["4"] * 4

    record = report / "runs" / rows[0]["run_id"]
    texts = [json.loads(line)["text"] for line in (record / "generations.jsonl").read_text().splitlines()]
    assert all(len(text.split()) >= 3 for text in texts)  # sentences, not noise
    assert (report / "index.html").stat().st_size > 100_000
