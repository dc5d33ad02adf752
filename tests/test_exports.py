"""What is taken away from a report: LaTeX in which names are text, references that can be cited."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from affq.analysis.claims import COLUMNS
from affq.report import exports, output
from affq.stats import compare

HOSTILE = ("[4cm] \\input{/etc/passwd}", "*$x$ & 50% #1_{a}^~\x1b\n\n")
ESCAPED = (
    r"{}[4cm] \textbackslash{}input\{/etc/passwd\}",
    r"{}*\$x\$ \& 50\% \#1\_\{a\}\textasciicircum{}\textasciitilde{}\textbackslash{}x1b\textbackslash{}n\textbackslash{}n",
)
# The lower end of the best run's F1, bf16's, less theirs: int8 is told apart, nf4 is not, fp32's has no ends.
LOW = {"int8": 0.02, "nf4": -0.01, "fp32": np.nan}
COMPARED = SimpleNamespace(f1_difference=lambda best, other: compare.Interval(0.1, {"bf16": LOW}[best][other], 0.3, 0.1, 9))
DIFFERENCES = pd.DataFrame(
    {
        **{"model": ["a", "a"], "precision": "nf4", "engine": "transformers", "against": "fp32"},
        **{"family": ["overall", "emotion"], "wrong_sign": 0.1},
        **{"estimate_points": -2.04, "low_points": -5.0, "high_points": 0.96, "p": 0.25, "p_holm": 0.5},
    }
)
VERDICT = {"claim": "C_1", "model": "a", "precision": "int8", "engine": "transformers", "against": "fp32"}
VERDICTS = pd.DataFrame([VERDICT | {"statistic": "peak_saving", "estimate": 0.76, "verdict": "supported"}], columns=COLUMNS)


@pytest.fixture
def summary():
    frame = pd.DataFrame({"run_id": ["fp32", "bf16", "int8", "nf4", "fp16"], "model": [*HOSTILE, "a", "b", "failed"]})
    frame["precision"], frame["emotion_f1"] = frame["run_id"], [0.3, 0.5, 0.4, 0.45, np.nan]
    frame["emotion_f1_low"], frame["emotion_f1_high"] = [0.2, 0.4, 0.3, np.nan, np.nan], [0.4, 0.6, 0.5, np.nan, np.nan]
    frame["weights_bytes"] = frame["peak_bytes"] = pd.array([1_500_000_000, 4_000_000, 0, 1, None], dtype="Int64")
    frame["latency_s"] = frame["latency_low_s"] = frame["latency_high_s"] = [1, 2, 3, 4, np.nan]
    return frame.assign(engine="transformers", emotion_f1_masked=np.nan, emotion_f1_chance=0.125, joules_a_text=np.nan)


def rows(path):
    """Give the cells of a tabular, row by row, its header first."""
    text = path.read_text(encoding="utf-8")
    begin, head, body, end = re.fullmatch(
        r"(\\begin\{tabular\}\{[lr]+\}\n\\toprule\n)(.*)\\midrule\n(.*)(\\bottomrule\n\\end\{tabular\}\n)", text, re.S
    ).groups()
    lines = (head + body).splitlines()
    assert all(line.endswith(r" \\") for line in lines)
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]


@pytest.fixture
def written(tmp_path, summary):
    output.write_to(tmp_path)
    exports.main_tables(summary, DIFFERENCES, VERDICTS, COMPARED)
    return lambda name: [[cell.strip() for cell in row] for row in rows(tmp_path / "tables" / f"{name}.tex")]


def test_hostile_names_are_text_in_latex(written):
    # A row that began with [ or * would be an argument of the end of the row before.
    assert [row[0] for row in written("summary")] == ["model", *ESCAPED, "a", "b", "failed"]


def test_energy_is_a_column_where_any_is_known(tmp_path, summary, written):
    assert "energy (J)" not in written("summary")[0]
    exports.main_tables(summary.assign(joules_a_text=[12.345, *4 * [np.nan]]), DIFFERENCES, VERDICTS, COMPARED)
    head, first, second, *_ = written("summary")
    assert (head[-1], first[-1], second[-1]) == ("energy (J)", "12.3", "")


def test_best_f1_and_those_not_told_apart_from_it_are_bold(written):
    figures = [row[2] for row in written("summary")]
    assert figures[1:] == [
        r"\textbf{0.30 [0.20, 0.40]}",
        r"\textbf{0.50 [0.40, 0.60]}",
        "0.40 [0.30, 0.50]",
        r"\textbf{0.45}",
        "",
    ]


def test_figures_have_units_in_the_header_and_ends_in_brackets(written):
    head, first, *_, failed = written("summary")
    assert head[5:] == ["weights (MB)", "peak (MB)", "latency (s)"] and first[5:] == ["1,500", "1,500", "1.00 [1.00, 1.00]"]
    assert failed[1:] == ["fp16", "", "", "0.12", "", "", ""]
    # One family alone; a true minus, as pdflatex takes it. 2.04 is rounded.
    assert written("differences")[1:] == [["a", "nf4", "fp32", "$-$2.0 [$-$5.0, +1.0]", "0.250", "0.500"]]
    assert written("claims")[1:] == [[r"C\_1", "a", "int8", "fp32", "peak saving", "0.76", "supported"]]


def test_study_whose_texts_are_not_judged_is_written_without_f1(tmp_path, summary):
    output.write_to(tmp_path)
    exports.main_tables(summary.assign(emotion_f1=np.nan), DIFFERENCES[:0], VERDICTS[:0], COMPARED)
    head = rows(tmp_path / "tables" / "summary.tex")[0]
    assert len(head) == 5 and len(rows(tmp_path / "tables" / "claims.tex")) == 1


def test_every_reference_can_be_cited(tmp_path):
    output.write_to(tmp_path)
    output.finish("an answer", "")
    text = (tmp_path / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}$", text, re.M | re.S)
    assert len(entries) == text.count("\n@") == len({key for key, _ in entries}) == 7 and text.count("{") == text.count("}")
    for _, entry in entries:
        fields = dict(re.findall(r"^  (\w+) = \{(.+)\},?$", entry, re.M))
        assert {"title", "author", "year"} < set(fields) and re.fullmatch(
            r"\d{4}\.\d{5}|10\.\d{4,5}/\S+", fields.get("doi", fields.get("eprint"))
        )
    assert text.isascii()
