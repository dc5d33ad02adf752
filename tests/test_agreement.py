import numpy as np
import pandas as pd
import pytest

from affq import agreement, judge_words

TARGETS = ["joy", "joy", "fear", "fear"]


def judgements(**answers):
    """Four texts of one run, and the answers of each judge to them; masked, each judge answers joy."""
    rows = [
        {"model": "m", "precision": precision, "prompt_id": f"p{i}", "emotion": target, "sample": 0, "judge": judge}
        | {"judged_emotion": answer, "masked_emotion": "joy"}
        for judge, by_precision in answers.items()
        for precision, of in by_precision.items()
        for i, (target, answer) in enumerate(zip(TARGETS, of, strict=True))
    ]
    return pd.DataFrame(rows)


def test_f1_and_order_under_each_judge_by_hand():
    found = judgements(
        a={"fp32": ["joy", "joy", "fear", "fear"], "int8": ["joy", "fear", "fear", "fear"]},
        b={"fp32": ["fear"] * 4, "int8": ["joy", "joy", "fear", "joy"]},
    )
    frame = agreement.by_judge(found, ("joy", "fear"))
    # a, int8: joy 2·1/(1+2), fear 2·2/(3+2): mean 11/15. b, fp32: joy 0, fear 2·2/(4+2): 1/3. b, int8: as a, int8, mirrored.
    expected = {("fp32", "a"): (1, 1), ("fp32", "b"): (1 / 3, 2), ("int8", "a"): (11 / 15, 2), ("int8", "b"): (11 / 15, 1)}
    got = {(row.precision, row.judge): (row.emotion_f1, row.rank) for row in frame.itertuples()}
    assert got == {key: (pytest.approx(f1), rank) for key, (f1, rank) in expected.items()}
    assert frame["emotion_f1_masked"].tolist() == pytest.approx([1 / 3] * 4)  # all joy: 2·2/(4+2), and 0
    said = judge_words.judges(frame, agreement.between_judges(found))
    assert (
        "the order of precisions depends on the judge**, and even the first is another: by a fp32, int8; by b int8, fp32" in said
    )


def test_agreement_by_hand():
    found = judgements(a={"fp32": ["joy", "joy", "fear", "fear"]}, b={"fp32": ["joy", "joy", "joy", "fear"]})
    run, every = agreement.between_judges(found).to_dict("records")
    # Same on 3 of 4; by chance (2·3 + 2·1)/16 = 1/2: κ = (3/4 − 1/2)/(1/2). Krippendorff: of 8 answers 5 and 3, expected
    # disagreement 2·5·3/(8·7) = 15/28, observed 1/4: α = 1 − 7/15.
    assert (run["texts"], run["same"], run["cohen_kappa"]) == (4, 0.75, pytest.approx(0.5))
    assert run["krippendorff_alpha"] == pytest.approx(8 / 15)
    assert every == run | {"model": "all", "precision": "all"}


def test_three_judges_have_a_row_together():
    answers = {name: {"fp32": ["joy", "joy", "fear", "fear"]} for name in "abc"}
    frame = agreement.between_judges(judgements(**answers))
    assert frame["judges"].tolist() == ["a and b", "a and c", "b and c", "a and b and c"] * 2
    assert frame["krippendorff_alpha"].tolist() == pytest.approx([1] * 8) and np.isnan(frame["cohen_kappa"][3])


def test_one_answer_to_everything_leaves_agreement_beyond_chance_undefined():
    found = agreement.between_judges(judgements(a={"fp32": ["joy"] * 4}, b={"fp32": ["joy"] * 4}))
    assert found["same"].eq(1).all() and found[["cohen_kappa", "krippendorff_alpha"]].isna().all(axis=None)
    assert "κ" not in judge_words.judges(agreement.by_judge(judgements(a={"fp32": ["joy"] * 4}), ("joy",)), found)


def test_alpha_takes_those_who_did_not_label_every_text():
    # Krippendorff 2011, example C (nominal, missing values): α = 0.743.
    from_paper = {
        "A": "1 2 3 3 2 1 4 1 2 - - -".split(),
        "B": "1 2 3 3 2 2 4 1 2 5 - 3".split(),
        "C": "- 3 3 3 2 3 4 2 2 5 1 -".split(),
        "D": "1 2 3 3 2 4 4 1 2 5 1 -".split(),
    }
    frame = pd.DataFrame(from_paper).replace("-", None)
    assert agreement.alpha(frame) == pytest.approx(0.743, abs=5e-4)
