"""An engine behind an OpenAI-compatible address: llama.cpp's real server, and a proxy before it that spoils what it is to."""

import json
import statistics
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import transformers
from conftest import affq
from servers import cut_after, llama_server, proxy, save_as_gguf, slow

from affq.errors import InputError
from affq.inference import energy, generate, measure
from affq.models import engines, sources
from affq.models.engines import server
from affq.models.engines.asked import AskedEngine, check_address
from affq.models.engines.openai import COMPLETIONS, OpenAI
from affq.models.engines.server import ServerError, look
from affq.results import records
from affq.study import load_study

pytest.importorskip("xllamacpp", reason="llama.cpp's server is not here: pip install 'affq[llama.cpp]'")
METER = energy.UnknownMeter(energy.NoEnergy.ELSEWHERE)
SECRET = "sk-nobody-may-read-this"
WORDS = (("a", "joy", "Write."), ("b", "joy", "Write a note full of joy."), ("b", None, "Write a note."))
REQUESTS = [
    {"prompt_id": number, "kind": "note", "emotion": emotion, "sample": 0, "request": request}
    for number, emotion, request in (
        ("a", "joy", "Write."),
        ("b", "joy", "Write a note full of joy."),
        ("b", None, "Write a note."),
    )
]


@pytest.fixture(scope="module")
def tiny_file(tiny_llama, tmp_path_factory):
    return save_as_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def served(tiny_file):
    """Serve the tiny model; it takes one key."""
    with llama_server(tiny_file, [SECRET]) as (address, _):
        yield SimpleNamespace(address=address, model=str(tiny_file))


@pytest.fixture
def spoiling(served, monkeypatch):
    """Stand before the server; the key is there, and nothing waits for long."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr(server, "FIRST_WAIT_S", 0.01)
    with proxy(served.address) as before:
        yield before


def asked(address, model, name=None):
    return AskedEngine(engines.OPENAI, "local", address, name or str(model))


def engine(before, served, model=None, most=6, sampling=None, name=None):
    """Return the engine, as a run of three requests has it. model: the study's."""
    generation, measurement = SimpleNamespace(max_new_tokens=most, thinking=False), SimpleNamespace(new_tokens=most)
    study = SimpleNamespace(requests=REQUESTS, batch=3, generation=generation, measurement=measurement, sampling=sampling)
    away = sources.absent("away", InputError("it is not here"))
    at = asked(before.address, served.model, name)
    return OpenAI(SimpleNamespace(study=study, model=model or away, precision="stored", engine=at, random_seed=None))


def ready(*settings, **more):
    """Return an engine that the notebook has led up to its first batch."""
    serving = engine(*settings, **more)
    serving.about()
    serving.import_all()
    serving.load()
    serving.count_tokens(REQUESTS)
    return serving


def test_texts_are_those_that_transformers_makes_of_the_same_weights(spoiling, served, tiny_llama):
    serving = ready(spoiling, served, sources.Folder(tiny_llama))
    texts, cache_bytes = serving.texts(REQUESTS)
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama, padding_side="left")
    expected = [generate.texts(network, tokenizer, [request], 6)[0][0] for request in REQUESTS]
    names = ("prompt_id", "emotion", "text", "new_tokens", "thought_tokens", "ended", "opens_turn")
    assert [[text[name] for name in names] for text in texts] == [[text[name] for name in names] for text in expected]
    assert [text["prompt"] for text in texts] == [request["request"] for request in REQUESTS] and cache_bytes == "unknown"
    described = serving.described()
    assert described["prompt_ids"] == {"compared": 3, "equal": 3, "first": None}
    assert described["chat_template"] == "the server's" and described["tokens_by"] == "usage"
    assert described["counts"]["texts"] == 3 and described["counts"]["texts_over_limit"] == 0


def test_server_says_what_it_is_and_the_way_to_it_is_measured(spoiling, served):
    serving = engine(spoiling, served)
    about = serving.about()
    assert about == serving.about()  # batches are kept while it stays the same
    assert about["server"] == "llama.cpp b0-unknown, file tiny.gguf" and about["asked_by"] == "/chat/completions"
    assert json.loads(about["says_of_the_model"])["meta"]["n_vocab"] == 512
    settings = json.loads(about["settings"])
    assert settings["temperature"] == 0 and settings["max_tokens"] == 6 and settings["ignore_eos"] and about["refused"] == ""
    serving.load()
    assert 0 < serving.described()["round_trip_s"] < 0.1 and serving.device == "server"
    assert serving.weights_sha256() == "unknown" and serving.census() == []
    probe, _ = serving.instruments()
    assert probe.kind == "unknown" and probe.read() == {"peak_bytes": "unknown", "held_bytes": "unknown"}


def test_other_prompt_ids_are_noticed_before_anything_is_generated(spoiling, served, tmp_path, tiny_llama):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "<|assistant|> ")
    tokenizer.save_pretrained(tmp_path)
    serving = ready(spoiling, served, SimpleNamespace(folder=tmp_path))
    assert serving.described()["prompt_ids"] == {"compared": 3, "equal": 0, "first": "a"}
    assert ready(spoiling, served).described()["prompt_ids"] is None


def test_timed_texts_have_as_many_tokens_as_were_asked_for_and_a_clock_reading_each(spoiling, served):
    serving = ready(spoiling, served)
    spoiling.lines = slow(0.01)
    settings = SimpleNamespace(new_tokens=5, warmup_tokens=2, rounds=1, aim=None, token_texts=1)
    latency = measure.time_texts(serving.prepare, serving.produce, REQUESTS[:2], settings, lambda *_: 0.0, METER)
    assert [reading["new_tokens"] for reading in latency["texts"]] == [5, 5] and latency["too_short"] == 0
    # A piece has two lines, its own and an empty one, each 10 ms later.
    (tokens,) = latency["tokens"]
    assert len(tokens["token_s"]) == 4 and statistics.median(tokens["token_s"]) >= 0.02
    alone = serving.alone(latency["texts"])
    assert [row["prompt_id"] for row in alone] == ["a", "b"] and alone[0]["text"] == serving.texts(REQUESTS[:1])[0][0]["text"]
    salts = [body["cache_salt"] for body in spoiling.asked if "cache_salt" in body]
    assert len(set(salts)) == len(salts) > 3  # no server may answer from a prompt that it computed before


def test_sampled_texts_have_a_seed_of_their_own_each(spoiling, served):
    serving = ready(spoiling, served, sampling={"temperature": 5.0, "seed": 1})
    texts = [text["text"] for text in serving.texts(REQUESTS)[0]]
    bodies = [body for body in spoiling.asked if "top_p" in body]
    assert [body["temperature"] for body in bodies] == [5.0] * 3 and len({body["seed"] for body in bodies}) == 3
    assert texts == [text["text"] for text in serving.texts(REQUESTS)[0]]


def test_limit_that_the_server_ignores_is_kept_here_and_counted(spoiling, served):
    serving = ready(spoiling, served)
    (usual,), _ = serving.texts(REQUESTS[:1])
    spoiling.ask = lambda body: body | {"max_tokens": 40}
    (text,), _ = serving.texts(REQUESTS[:1])
    assert text == usual and text["new_tokens"] == 6 and not text["ended"]
    assert serving.described()["counts"]["texts_over_limit"] == 1


def test_end_of_a_text_is_no_token_of_it(spoiling, served):
    serving = ready(spoiling, served)
    spoiling.ask = lambda body: body | {"logit_bias": {"0": 100}}  # llama.cpp counts the end, which comes first here
    (text,), _ = serving.texts(REQUESTS[:1])
    assert (text["text"], text["new_tokens"], text["ended"]) == ("", 0, True)


def test_texts_that_end_before_the_limit_say_how_long_they_are(spoiling, served):
    serving = ready(spoiling, served)
    spoiling.ask = lambda body: body | {"max_tokens": 4} if "max_tokens" in body else body
    assert [made.new_tokens for made in serving.produce(serving.prepare(REQUESTS), 6)] == [4, 4, 4]
    assert serving.described()["counts"]["timed_short"] == 3
    settings = SimpleNamespace(new_tokens=6, warmup_tokens=1, rounds=1, aim=None, token_texts=1)
    spoiling.ask = lambda body: body | {"max_tokens": 1 if "full of joy" in str(body) else 4} if "max_tokens" in body else body
    latency = measure.time_texts(serving.prepare, serving.produce, REQUESTS, settings, lambda *_: 0.0, METER)
    assert latency["too_short"] == 1 and [reading["new_tokens"] for reading in latency["texts"]] == [4, 4]
    spoiling.ask = lambda body: body | {"max_tokens": 1}
    with pytest.raises(InputError, match="none of the 3 timed texts has two tokens"):
        measure.time_texts(serving.prepare, serving.produce, REQUESTS, settings, lambda *_: 0.0, METER)


def test_parameters_that_a_server_refuses_are_left_out_and_recorded(spoiling, served):
    known = {"model", "messages", "stream", "stream_options", "max_completion_tokens", "temperature", "seed", "top_p"}

    def refuse(path, body):
        if body and path.endswith("/chat/completions") and (other := sorted(body.keys() - known)):
            error = {"message": f"Unsupported parameter: '{other[0]}'.", "type": "invalid_request_error", "param": other[0]}
            return 400, {}, {"error": error}

    spoiling.answer = refuse
    spoiling.ask = lambda body: {{"max_completion_tokens": "max_tokens"}.get(name, name): body[name] for name in body}
    serving = ready(spoiling, served)
    refused = "cache_prompt, cache_salt, chat_template_kwargs, ignore_eos, max_tokens, repetition_penalty"
    assert serving.about()["refused"] == refused
    assert "max_completion_tokens" in json.loads(serving.about()["settings"])
    assert [text["new_tokens"] for text in serving.texts(REQUESTS)[0]] == [6, 6, 6]


def test_server_without_chat_is_given_the_words_as_they_are(spoiling, served):
    spoiling.answer = lambda path, body: (404, {}, {"error": "no such path"}) if path.endswith("/chat/completions") else None
    serving = ready(spoiling, served)
    assert serving.about()["asked_by"] == COMPLETIONS and serving.described()["chat_template"] == "none"
    assert len(serving.texts(REQUESTS)[0]) == 3 and spoiling.asked[-1]["prompt"] in {r["request"] for r in REQUESTS}


def test_what_a_server_gets_wrong_once_is_asked_for_again(spoiling, served):
    serving = ready(spoiling, served)
    expected, _ = serving.texts(REQUESTS)
    broken = b'data: {"choices": [{"delta": {"content": "\n'
    answers = [
        {"answer": lambda path, body: (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}})},
        {"answer": lambda path, body: (503, {}, {"error": {"message": "Loading model", "type": "unavailable_error"}})},
        {"lines": cut_after(5)},
        {"lines": lambda lines: [next(lines), broken, *lines]},
        {"lines": lambda lines: [next(lines), b'data: {"error": {"message": "out of slots"}}\n']},
    ]
    usual = {"answer": spoiling.answer, "lines": spoiling.lines}
    for spoilt in answers:
        spoil_once(spoiling, **{**usual, **spoilt})
        assert serving.texts(REQUESTS)[0] == expected


def spoil_once(before, answer, lines):
    """Spoil what is asked for or answered next, and nothing after it."""
    usual, spoilt = (before.answer, before.lines), []

    def first(change, otherwise):
        def changed(*words):
            if spoilt:
                return otherwise(*words)
            spoilt.append(True)
            return change(*words)

        return changed

    if answer is not usual[0]:
        before.answer = first(answer, usual[0])
    if lines is not usual[1]:
        before.lines = first(lines, usual[1])


@pytest.mark.parametrize(
    "spoilt, words",
    [
        ({"answer": lambda path, body: (500, {}, b"<html>down")}, "answers 500: <html>down"),
        ({"answer": lambda path, body: (429, {"Retry-After": "3600"}, {"message": "come back"})}, "answers 429: come back"),
        ({"lines": cut_after(5)}, r"does not answer \(peer closed connection"),
        ({"lines": lambda lines: [next(lines), b"data: {oops\n"]}, "sends what is no part of a text: {oops"),
        ({"lines": lambda lines: [next(lines), next(lines)]}, "ends its stream in the middle of a text"),
        ({"lines": lambda lines: [b'data: {"error": {"message": "out of slots"}}\n']}, "breaks a text off: out of slots"),
    ],
)
def test_what_a_server_gets_wrong_each_time_ends_in_one_sentence(spoiling, served, spoilt, words):
    serving = ready(spoiling, served)
    for name, change in spoilt.items():
        setattr(spoiling, name, change)
    before = len(spoiling.asked)
    with pytest.raises(ServerError, match=f"^the server at {spoiling.address} {words}"):
        serving.texts(REQUESTS[:1])
    tries = len(spoiling.asked) - before
    assert tries == (1 if "429" in words else server.ATTEMPTS)
    with pytest.raises(ServerError):  # a time that has a failure in it would be none
        serving.produce(serving.prepare(REQUESTS[:1]), 6)
    assert len(spoiling.asked) - before == tries + 1


def test_silent_server_has_a_time_limit(spoiling, served, monkeypatch):
    monkeypatch.setattr(server, "SILENT_S", 0.3)
    serving = ready(spoiling, served)
    spoiling.lines = slow(1.0)
    with pytest.raises(ServerError, match="was silent for 0 s"):
        serving.texts(REQUESTS[:1])


def test_key_model_and_address_that_are_wrong_are_said_at_once(spoiling, served, monkeypatch):
    at = asked(spoiling.address, served.model)
    look(at)
    with pytest.raises(InputError, match=f"has no model 'gpt-4'; known: {served.model}$"):
        look(replace(at, served="gpt-4"))
    with pytest.raises(InputError, match=r"does not answer \(.*refused.*\); start it, or correct its address"):
        look(replace(at, address="http://127.0.0.1:9/v1"))
    spoiling.answer = lambda path, body: (401, {}, {"error": {"message": f"Incorrect API key provided: {SECRET}"}})
    words = r"refuses the key that OPENAI_API_KEY holds \(401: Incorrect API key provided: OPENAI_API_KEY\); set OPENAI_API_KEY"
    with pytest.raises(InputError, match=words):
        look(at)
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\nOTHER=1")
    with pytest.raises(InputError) as refused:
        look(at)
    assert SECRET not in str(refused.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    spoiling.answer = lambda path, body: None
    with pytest.raises(InputError, match="asks for a key"):
        engine(spoiling, served).about()


def test_model_that_no_list_tells_of_is_refused_with_the_servers_words(spoiling, served):
    error = {"error": {"message": "The model `gone` does not exist", "code": "model_not_found"}}
    spoiling.answer = lambda path, body: (404, {}, error)
    look(asked(spoiling.address, "gone"))  # a server without a list
    with pytest.raises(InputError, match="has no model 'gone', or no path /completions .The model `gone` does not exist.; most"):
        engine(spoiling, served, name="gone").about()


def test_request_that_is_refused_for_another_reason_is_not_tried_again(spoiling, served):
    serving = ready(spoiling, served)
    long = [{**REQUESTS[0], "request": "Write. " * 2000}]
    before = len(spoiling.asked)
    with pytest.raises(InputError, match="refuses a request with 400: request .* exceeds the available context size"):
        serving.texts(long)
    assert len(spoiling.asked) == before + 1


def test_answer_in_one_piece_is_refused(spoiling, served):
    spoiling.ask = lambda body: body | {"stream": False} if "stream" in body else body
    with pytest.raises(InputError, match="answers in one piece"):
        engine(spoiling, served).about()


def stream(*chunks):
    """Return what sends these chunks instead of a server's."""
    return lambda lines: [
        *(b"data: %s\n" % json.dumps(chunk, ensure_ascii=False).encode() for chunk in chunks),
        b"data: [DONE]\n",
    ]


def piece(finish=None, **delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def test_thoughts_are_no_text_whether_the_server_tells_them_apart_or_not(spoiling, served):
    serving = ready(spoiling, served)
    usage = {"choices": [], "usage": {"completion_tokens": 6, "completion_tokens_details": {"reasoning_tokens": 3}}}
    spoiling.lines = stream(piece(reasoning_content="so"), piece(reasoning="so"), piece(content="Yes!"), piece("stop"), usage)
    (text,), _ = serving.texts(REQUESTS[:1])
    assert (text["text"], text["new_tokens"], text["thought_tokens"], text["ended"]) == ("Yes!", 5, 3, True)
    spoiling.lines = stream(*(piece(content=word) for word in ("<think>", "hm", "</think>", "Yes!")), piece("stop"))
    (text,), _ = serving.texts(REQUESTS[:1])
    assert (text["text"], text["new_tokens"], text["thought_tokens"]) == ("Yes!", 4, 3)
    assert serving.described()["tokens_by"] == "pieces"


def test_separators_that_unicode_has_do_not_part_a_chunk(spoiling, served):
    serving = ready(spoiling, served)
    spoiling.lines = stream(piece(content="one\u2028two\x85three"), piece("stop"))
    assert serving.texts(REQUESTS[:1])[0][0]["text"] == "one\u2028two\x85three"


def test_batch_is_asked_for_at_once(spoiling, served):
    serving = ready(spoiling, served, most=10)
    spoiling.lines = slow(0.02)
    seconds = []
    for batch in (REQUESTS[:1], REQUESTS):
        clock = time.perf_counter()
        serving.texts(batch)
        seconds.append(time.perf_counter() - clock)
    assert seconds[1] < 2 * seconds[0]  # one after the other it would take three times as long


@pytest.mark.parametrize("address", ["http://me:secret@host/v1", "http://host/v1?key=secret", "https://secret@host"])
def test_address_that_holds_a_secret_is_refused_without_showing_it(address):
    with pytest.raises(InputError, match="OPENAI_API_KEY") as refused:
        check_address(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["ftp://host/v1", "host:8080", "http://", "http://host:99999/v1", "file:///etc/passwd", ""])
def test_only_http_leads_to_a_server(address):
    with pytest.raises(InputError, match="is no address of a server; write it as http://host:8080/v1"):
        check_address(address)
    assert check_address("https://host/v1/") == "https://host/v1"


@pytest.mark.full
def test_server_that_is_killed_ends_a_run_that_goes_on_later_and_the_key_is_written_nowhere(
    write_study, tmp_path, tiny_llama, tiny_file, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with proxy("http://127.0.0.1:9") as before:
        at = {"openai": before.address, "model": str(tiny_file), "name": "local"}
        path = write_study(models=[str(tiny_llama)], engines=[at], batch=1)
        (record,) = records(tmp_path / "reports", load_study(path))
        planned = affq("plan", path.name, cwd=tmp_path)
        assert planned.returncode == 0 and before.address in planned.stdout and "not run yet" in planned.stdout
        none = affq("run", path.name, cwd=tmp_path)
        assert none.returncode == 2 and f"the server at {before.address} does not answer" in none.stderr
        with llama_server(tiny_file, [SECRET]) as (before.upstream, process):
            before.lines = slow(0.03)
            watching = threading.Thread(target=kill_after_a_batch, args=(record, process))
            watching.start()
            killed = affq("run", path.name, cwd=tmp_path)
            watching.join()
        assert killed.returncode == 1
        failure = record.failure()
        assert failure.kind == "server_failed" and failure.words.startswith(f"the server at {before.address} ") and failure.again
        kept = len(record.batches())
        assert 0 < kept < 6
        with llama_server(tiny_file, [SECRET]) as (before.upstream, _):
            assert affq("run", path.name, cwd=tmp_path).returncode == 0
        assert record.complete and record.about()["texts_kept"] == kept and len(record.generations()) == 6
        assert affq("report", path.name, cwd=tmp_path).returncode == 0
    written = [file for file in (tmp_path / "reports").rglob("*") if file.is_file()]
    assert len(written) > 10 and not [file for file in written if SECRET.encode() in file.read_bytes()]


def kill_after_a_batch(record, process):
    batches = record.folder / "batches.jsonl"
    while not (batches.exists() and batches.read_bytes()):
        time.sleep(0.01)
    process.kill()
