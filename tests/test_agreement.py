import numpy as np
import pandas as pd
import pytest
from conftest import complete

from affq.analysis import annotation, judges
from affq.analysis.texts import join
from affq.report import words
from affq.results import record as records
from affq.stats.agreement import alpha, kappa
from affq.study import load_study

TARGETS = ["joy", "fear", "joy", "fear"]


def judgements(**answers):
    """Four texts of one run, of two prompts, and the answers of each judge to them; masked, each judge answers joy."""
    rows = [
        {
            "model": "smollm2-135m",
            "precision": precision,
            "engine": "transformers",
            "prompt_id": f"p{i // 2}",
            "emotion": target,
            "sample": 0,
            "judge": judge,
        }
        | {"judged_emotion": answer, "masked_emotion": "joy"}
        for judge, by_precision in answers.items()
        for precision, of in by_precision.items()
        for i, (target, answer) in enumerate(zip(TARGETS, of, strict=True))
    ]
    return pd.DataFrame(rows)


def texts(found, study):
    """The texts of these judgements, as Results.texts has them, under the first judge."""
    first = found[found["judge"] == found["judge"].iloc[0]]
    ids = {run.precision: run.id for run in study.runs()}
    means = dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeL_to_baseline"), 0.5)
    return first.assign(run_id=first["precision"].map(ids), kind="event", names_target=True, **means)


@pytest.fixture
def study(write_study):
    return load_study(write_study(emotions=["joy", "fear"]))


def test_f1_and_order_under_each_judge_by_hand(study):
    found = judgements(
        a={"fp32": TARGETS, "int8": ["joy", "fear", "fear", "fear"]},
        b={"fp32": ["fear"] * 4, "int8": ["joy", "joy", "joy", "fear"]},
    )
    frame = judges.by_judge(found, texts(found, study), study)
    # a, int8: joy 2·1/(1+2), fear 2·2/(3+2): mean 11/15. b, fp32: joy 0, fear 2·2/(4+2): 1/3. b, int8: as a, int8, mirrored.
    expected = {("fp32", "a"): (1, 1), ("fp32", "b"): (1 / 3, 2), ("int8", "a"): (11 / 15, 2), ("int8", "b"): (11 / 15, 1)}
    got = {(row.precision, row.judge): (row.emotion_f1, row.rank) for row in frame.itertuples()}
    assert got == {key: (pytest.approx(f1), rank) for key, (f1, rank) in expected.items()}
    assert frame["emotion_f1_masked"].tolist() == pytest.approx([1 / 3] * 4)  # all joy: 2·2/(4+2), and 0
    points = frame.set_index(["precision", "judge"])["difference_points"]
    assert points["int8"].tolist() == pytest.approx([100 * -4 / 15, 40]) and points["fp32"].isna().all()
    said = words.agreement(frame, judges.between_judges(found)).replace("&#45;", "-")
    assert (
        "in different orders: by a fp32, int8; by b int8, fp32. No judge's interval contradicts" in said
    )  # two prompts: none has one


def test_judges_contradict_each_other_where_their_intervals_do():
    row = {"model": "m", "engine": "transformers", "emotion_f1": 0.5, "rank": 1, "texts": 4}
    frame = pd.DataFrame(
        [
            row | {"precision": "fp32", "judge": "a", "low_points": np.nan, "high_points": np.nan},
            row | {"precision": "int8", "judge": "a", "low_points": 2.0, "high_points": 9.0},
            row | {"precision": "fp32", "judge": "b", "low_points": np.nan, "high_points": np.nan},
            row | {"precision": "int8", "judge": "b", "low_points": -9.0, "high_points": -2.0},
        ]
    )
    none = pd.DataFrame({"model": []})
    said = words.agreement(frame, none)
    assert "same order: by a fp32 = int8; by b fp32 = int8" in said  # equal ranks are joined, in whatever order they stand
    assert "The conclusion depends on the judge**: by one int8 is better" in said
    frame["high_points"] = 9.0
    assert "No judge's interval contradicts" in words.agreement(frame, none)
    assert words.agreement(frame[frame["precision"] == "fp32"], none) == ""  # of one run there is no order


def test_agreement_by_hand():
    found = judgements(a={"fp32": TARGETS}, b={"fp32": ["joy", "joy", "joy", "fear"]})
    run, every = judges.between_judges(found).to_dict("records")
    # Same on 3 of 4; by chance (2·3 + 2·1)/16 = 1/2: κ = (3/4 − 1/2)/(1/2). Krippendorff: of 8 answers 5 and 3, expected
    # disagreement 2·5·3/(8·7) = 15/28, observed 1/4: α = 1 − 7/15.
    assert (run["texts"], run["same"], run["cohen_kappa"]) == (4, 0.75, pytest.approx(0.5))
    assert run["krippendorff_alpha"] == pytest.approx(8 / 15)
    assert every == run | {"model": "all", "precision": "all", "engine": "all"}


def test_three_judges_have_a_row_together():
    answers = {name: {"fp32": ["joy", "joy", "fear", "fear"]} for name in "abc"}
    frame = judges.between_judges(judgements(**answers))
    assert frame["judges"].tolist() == ["a and b", "a and c", "b and c", "a and b and c"] * 2
    assert frame["krippendorff_alpha"].tolist() == pytest.approx([1] * 8) and np.isnan(frame["cohen_kappa"][3])


def test_one_answer_to_everything_leaves_agreement_beyond_chance_undefined():
    found = judges.between_judges(judgements(a={"fp32": ["joy"] * 4}, b={"fp32": ["joy"] * 4}))
    assert found["same"].eq(1).all() and found[["cohen_kappa", "krippendorff_alpha"]].isna().all(axis=None)
    assert "κ" not in words.agreement(pd.DataFrame({"model": []}), found)


def test_runs_that_are_not_scored_have_no_judgement(study, tmp_path):
    runs = [complete(record) for record in records.records(tmp_path, study)]
    found = judges.judgements(runs, join(runs))
    assert found.empty and judges.between_judges(found).empty and judges.by_judge(found, join(runs), study).empty


def test_alpha_takes_those_who_did_not_label_every_text():
    # Krippendorff 2011, example C (nominal, missing values): α = 0.743.
    from_paper = {
        "A": "1 2 3 3 2 1 4 1 2 - - -".split(),
        "B": "1 2 3 3 2 2 4 1 2 5 - 3".split(),
        "C": "- 3 3 3 2 3 4 2 2 5 1 -".split(),
        "D": "1 2 3 3 2 4 4 1 2 5 1 -".split(),
    }
    frame = pd.DataFrame(from_paper).replace("-", None)
    assert alpha(frame) == pytest.approx(0.743, abs=5e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "first, second",
    [
        (["joy", "sadness"], ["joy", None]),  # one text that both labelled
        (["joy", "joy"], ["joy", "joy"]),  # one label
        (["joy", "joy", "fear"], ["joy", "joy", None]),  # one label where there are two
        (["joy", None], [None, "fear"]),  # no text that both labelled
        ([None, None], [None, None]),
        ([], []),
        (["joy", "fear"], [None, None]),  # one person
    ],
)
def test_agreement_that_is_undefined_is_empty_without_a_warning(first, second):
    labels = pd.DataFrame({"anna": first, "ben": second}, dtype=object)
    assert np.isnan(alpha(labels))
    both = labels.dropna()
    assert np.isnan(kappa(both["anna"].tolist(), both["ben"].tolist()))


def test_alpha_is_not_changed_by_texts_that_one_person_labelled():
    both = pd.DataFrame({"anna": ["joy", "fear", "joy", "fear"], "ben": ["joy", "joy", "joy", "fear"]})
    more = pd.concat([both, pd.DataFrame({"anna": ["shame", None], "ben": [None, "guilt"]})])
    assert alpha(more) == alpha(both) == pytest.approx(8 / 15)  # by hand above


@pytest.mark.filterwarnings("error")
def test_people_without_a_text_in_common_are_said_to_have_none():
    labelled = pd.DataFrame({"emotion": ["joy", "fear"], "judged_emotion": ["joy", "joy"]})
    labelled = labelled.assign(**{"label of anna": ["joy", None], "label of ben": [None, "fear"]})
    found = annotation.between_people(labelled, ["anna", "ben"])
    said = words.people(found, pd.DataFrame())
    assert "- anna and ben have no text in common." in said and "nan" not in said
    assert "anna and target give the same answer to 100% of 1 texts." in said
