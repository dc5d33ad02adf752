import pytest
from hypothesis import given
from hypothesis import strategies as st

from affq.emotions import EMOTIONS
from affq.errors import InputError
from affq.inference.generate import in_batches
from affq.results.provenance import PACKAGE
from affq.study import prompts

HEAD = "id,kind,text,text_without_emotion\n"
SEEDS = [
    {"id": "a", "kind": "general", "text": "Show {emotion}, {emotion}!", "text_without_emotion": "Show it!"},
    {"id": "b", "kind": "event", "text": "When {emotion}?", "text_without_emotion": "When?"},
]


def test_default_prompts_are_ten_of_both_kinds():
    rows = prompts.read_prompts(PACKAGE / "study" / "prompt_sets" / "default.csv")
    assert len(rows) == 10 and {row["kind"] for row in rows} == {"general", "event"}


def test_cross_asks_every_emotion_and_then_none():
    requests = prompts.cross(SEEDS, ["joy", "fear"])
    assert [(r["prompt_id"], r["emotion"], r["request"]) for r in requests] == [
        ("a", "joy", "Show joy, joy!"),
        ("a", "fear", "Show fear, fear!"),
        ("b", "joy", "When joy?"),
        ("b", "fear", "When fear?"),
        ("a", None, "Show it!"),
        ("b", None, "When?"),
    ]


def test_samples_of_a_prompt_and_emotion_follow_each_other_and_the_control_has_one():
    requests = prompts.cross(SEEDS[1:], ["joy", "fear"], 2)
    assert [(r["prompt_id"], r["emotion"], r["sample"], r["request"]) for r in requests] == [
        ("b", "joy", 0, "When joy?"),
        ("b", "joy", 1, "When joy?"),
        ("b", "fear", 0, "When fear?"),
        ("b", "fear", 1, "When fear?"),
        ("b", None, 0, "When?"),
    ]


def test_empty_rows_of_a_spreadsheet_are_no_prompts(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(HEAD + 'a,event,"When, {emotion}?",When?\n,,,\n\n', encoding="utf-8-sig")
    expected = {"id": "a", "kind": "event", "text": "When, {emotion}?", "text_without_emotion": "When?"}
    assert prompts.read_prompts(path) == [expected]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(1, 30))
def test_batches_keep_every_request_once_the_longest_first_and_equal_ones_in_order(prompt_tokens, size):
    requests = [{"prompt_id": str(place)} for place in range(len(prompt_tokens))]
    batches = in_batches(requests, prompt_tokens, size)
    places = [int(request["prompt_id"]) for batch in batches for request in batch]
    assert places == sorted(range(len(prompt_tokens)), key=lambda place: (-prompt_tokens[place], place))
    assert all(len(batch) == size for batch in batches[:-1]) and 0 < len(batches[-1]) <= size


@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 4), st.integers(1, 100))
def test_timed_requests_take_prompts_in_turn_and_none_twice(count, emotions, samples, texts):
    seeds = [{**SEEDS[0], "id": str(i), "text": f"{i} {{emotion}}"} for i in range(count)]
    timed = prompts.to_time(prompts.cross(seeds, EMOTIONS[:emotions], samples), texts)
    assert [t["prompt_id"] for t in timed] == [str(i % count) for i in range(min(texts, count * emotions))]
    assert all(t["emotion"] and t["sample"] == 0 for t in timed) and len({t["request"] for t in timed}) == len(timed)
    if texts >= emotions <= count:
        assert {t["emotion"] for t in timed} == set(EMOTIONS[:emotions])


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "line 1: the columns must be id,kind,text,text_without_emotion; found none"),
        ("id,text\na,b\n", "line 1: the columns must be id,kind,text,text_without_emotion; found id,text"),
        (HEAD, "holds no prompt"),
        (HEAD + "a,general,no slot,x\n", "line 2: the text of prompt 'a' has no {emotion}"),
        (HEAD + "a,general,{emotion},x\na,event,{emotion},x\n", "line 3: prompt id 'a' is there twice"),
        (HEAD + "a,specific,{emotion},x\n", "unknown kind 'specific' in "),
        (HEAD + "a,general,{emotion}\n", "line 2: a prompt needs all of"),
        (HEAD + "a,general,{emotion},x,y\n", "line 2: a prompt needs all of"),
    ],
)
def test_bad_prompts_are_refused_with_their_line(tmp_path, text, said):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        prompts.read_prompts(path)
    assert said in str(error.value)


def test_prompts_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(HEAD.encode() + "a,general,é {emotion},x\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        prompts.read_prompts(path)


def test_references_need_one_for_every_emotion(tmp_path):
    path = tmp_path / "refs.jsonl"
    path.write_text('{"emotion": "joy", "text": "Yes!"}\n')
    assert prompts.read_references(path, ["joy"]) == {"joy": ["Yes!"]}
    path.write_text('{"emotion": "joy", "text": "one\u2028two"}\n', encoding="utf-8")
    assert prompts.read_references(path, ["joy"]) == {"joy": ["one\u2028two"]}
    with pytest.raises(InputError, match="no reference text for fear"):
        prompts.read_references(path, ["joy", "fear"])
