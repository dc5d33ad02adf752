"""What is predicted from a configuration is what is loaded, counted and published."""

import json
import math

import pytest
import torch
import transformers
from accelerate import infer_auto_device_map
from conftest import A_PROMPT, affq

from affq.models import loading as models
from affq.models import memory
from affq.models.checkpoints import check_configuration
from affq.models.memory import Machine, Sizes, predict
from affq.models.weights import catalog
from affq.report import words
from affq.runner.trials import tried
from affq.study import load_study, read_claims

PUBLISHED = {name: entry for name, entry in catalog().items() if "config" in entry}
ONE = Sizes(batch=1, prompt_tokens=10, new_tokens=8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shape_has_the_published_parameters(name):
    config = transformers.AutoConfig.for_model(**PUBLISHED[name]["config"])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]["parameters"]
    assert PUBLISHED[name]["stored_dtype"] in ("float16", "bfloat16", "q4_1")


FP32 = {"precision": "fp32", "engine": "transformers"}


@pytest.mark.parametrize("precision", tried("cpu"))
def test_weights_are_those_of_the_census_of_the_loaded_model(tiny_llama, precision):
    network, _ = models.load(tiny_llama, precision, "cpu")
    models.compute_once(network, precision, A_PROMPT)
    stored = sum(row["bytes"] for row in models.census(network))
    assert predict(check_configuration(tiny_llama), precision, "cpu", ONE)["weights_bytes"] == stored


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8wo", "fp8wo"])
def test_weights_of_a_mixture_are_those_of_its_census(tiny_mixtral, precision):
    network, _ = models.load(tiny_mixtral, precision, "cpu")
    stored = sum(row["bytes"] for row in models.census(network))
    assert predict(check_configuration(tiny_mixtral), precision, "cpu", ONE)["weights_bytes"] == stored


def test_experts_count_as_quantized_with_a_scale_for_each_row(tiny_mixtral):
    experts = 2 * 4 * (2 * 256 * 128 + 128 * 256)  # layers, experts, gate and up, down
    scales = 4 * 2 * 4 * (2 * 256 + 128)
    attention, rows = 2 * (2 * 128 * 128 + 2 * 64 * 128), 2 * (128 + 64 + 64 + 128)
    stays = 2 * (2 * 512 * 128 + 5 * 128 + 2 * 4 * 128)  # embedding, head, norms, gates at 16 bits
    found = predict(check_configuration(tiny_mixtral), "int8", "cpu", ONE)["weights_bytes"]
    assert found == experts + scales + attention + 4 * rows + stays  # worked by hand


@pytest.mark.parametrize("precision", ["nf4", "nf4-dq", "fp4", "fp4-dq"])
def test_block_scales_of_4_bits_are_whole_where_nothing_packs_them(tiny_llama, precision):
    network, _ = models.load(tiny_llama, precision, "cpu")  # not packed before the first product
    stored = sum(row["bytes"] for row in models.census(network))
    assert predict(check_configuration(tiny_llama), precision, "cuda", ONE)["weights_bytes"] == stored


def test_grouped_heads_share_keys_and_values():
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
    config |= {"num_hidden_layers": 3, "intermediate_size": 128, "vocab_size": 100}
    # Worked by hand: keys and values, 3 layers, 2 heads of 8, 5 texts of 10 + 8 - 1 tokens, 2 bytes.
    assert predict(config, "bf16", "cpu", Sizes(5, 10, 8))["kv_bytes"] == 2 * 3 * 2 * 8 * 5 * 17 * 2


def test_sliding_window_caps_keys_and_values():
    config = {"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
    config |= {"num_hidden_layers": 6, "sliding_window": 8, "intermediate_size": 128, "vocab_size": 100}
    # Worked by hand: 5 layers keep 8 - 1 tokens, the sixth all 17 of them.
    assert predict(config, "fp32", "cpu", ONE)["kv_bytes"] == 2 * 16 * (5 * 7 + 17) * 4


@pytest.mark.parametrize("kind", ["grouped", "sliding"])
def test_keys_and_values_are_those_of_transformers_cache(kind):
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100}
    shape |= {"num_key_value_heads": 2, "sliding_window": 8 if kind == "sliding" else None}
    network = transformers.AutoModelForCausalLM.from_config(transformers.MistralConfig(**shape)).eval()
    prompt = torch.ones((3, 10), dtype=torch.long)
    made = network.generate(prompt, max_new_tokens=8, eos_token_id=[-1], pad_token_id=0, return_dict_in_generate=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in made.past_key_values.layers)
    assert predict({"model_type": "mistral", **shape}, "fp32", "cpu", Sizes(3, 10, 8))["kv_bytes"] == held


GB = {  # of the published parameters, at 4, 2 and (about) 1 byte each
    "llama-2-7b-chat": (26.95, 13.48),
    "llama-2-13b-chat": (52.06, 26.03),
    "llama-2-70b-chat": (275.9, 137.95),
    "mistral-7b-instruct": (28.97, 14.48),
    "mixtral-8x7b-instruct": (186.8, 93.4),
}


def test_plan_of_the_paper_shows_its_fifteen_runs_with_their_memory(tmp_path):
    rows = json.loads(affq("plan", "paper", "--json", cwd=tmp_path).stdout)
    assert [(row["model"], row["precision"]) for row in rows] == [(m, p) for m in GB for p in ("fp32", "fp16", "int8")]
    for row in rows:
        high, half = GB[row["model"]]
        expected = {"fp32": high, "fp16": half}.get(row["precision"])
        assert expected is None or row["weights_bytes"] / 1e9 == pytest.approx(expected, rel=0.01)
        assert row["precision"] != "int8" or half / 2 < row["weights_bytes"] / 1e9 < 1.05 * half / 2
        parts = row["weights_bytes"] + row["kv_bytes"] + row["activation_bytes"]
        assert row["peak_bytes"] == parts + memory.LIBRARIES_BYTES
        assert isinstance(row["fits"], bool) and row["run_id"] is None


def test_prediction_of_a_run_takes_its_longest_prompt_and_its_batch(write_study):
    run = load_study(write_study(batch=2)).run("smollm2-135m", "fp32")
    # "Write a note full of sadness." and "Tell of a day of sadness." have six words: 1.5 times six, and a template.
    expected = predict(run.model.config, "fp32", "cpu", Sizes(2, math.ceil(1.5 * 6) + 40, 8))
    assert memory.of_run(run, "cpu") == expected


def test_model_whose_configuration_is_not_known_is_not_predicted(write_study, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run = load_study(write_study(models=["owner/nowhere"])).runs()[0]
    unknown = memory.planned(run, Machine("cpu", 1, 10**10))
    assert unknown.pop("unpredicted") == "owner/nowhere at main is not in the hub's cache; affq run fetches it"
    assert set(unknown.values()) == {None}
    row = {
        "run_id": None,
        "model": "owner/nowhere",
        **FP32,
        "status": "missing",
        "reason": "not here, nor anywhere else that was looked",
    }
    row |= {"measured_peak_bytes": None, "unpredicted": "no such width"}
    lines = words.planned([row | unknown, row | unknown | {"precision": "bf16"}], Machine("cpu", 1, 10**10))
    assert lines[2].endswith(" ?           as above")
    assert lines[3] == "Memory of owner/nowhere is not predicted: no such width"
    assert lines[1].split() == (
        ["missing", "owner/nowhere--fp32", "?", "?", "?", "not", "here,", "nor", "anywhere", "else", "that", "was", "looked"]
    )


def test_gpus_that_a_peak_takes_leave_room_for_the_context():
    machine = Machine("cuda", 2, 10_800_000_000)  # ten of them for tensors
    assert [machine.takes(size, size) for size in (9_999_999_999, 10_000_000_001, 25_000_000_000)] == [1, 2, 3]
    # Two billion beside the weights leave eight on each; ten or more leave none.
    assert [machine.takes(size, size + 2_000_000_000) for size in (8_000_000_000, 8_000_000_001)] == [1, 2]
    assert machine.takes(1, 10_000_000_001) is None


def of(weights, peak):
    return {"weights_bytes": weights, "kv_bytes": 0, "activation_bytes": 0, "peak_bytes": peak}


def test_run_fits_where_the_devices_at_hand_hold_it_together(write_study, monkeypatch):
    run = load_study(write_study()).runs()[0]
    two = Machine("cuda", 2, 10_800_000_000)
    for size, fits, gpus, said in ((5, True, 1, "yes "), (15, True, 2, "yes: 2 GPUs"), (35, False, 4, "no: 4 GPUs")):
        monkeypatch.setattr(memory, "_of_run", lambda *_, size=size: of(size * 10**9, size * 10**9))
        planned = memory.planned(run, two)
        assert (planned["fits"], planned["gpus"]) == (fits, gpus)
        row = {"run_id": "r", "model": "m", **FP32, "status": "missing", "reason": "why"} | planned
        row |= {"measured_peak_bytes": None}
        assert said in words.planned([row], two)[1]


def test_no_gpu_where_the_study_asks_for_one_is_said_and_its_runs_fit_nowhere(write_study, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = load_study(write_study(device="cuda")).runs()[0]
    machine = memory.at_hand("cuda")
    planned = memory.planned(run, machine)
    assert machine is None and planned["fits"] is None and planned["weights_bytes"] == 4 * 134_515_008
    row = {"run_id": "r", "model": "m", **FP32, "status": "missing", "reason": "why"} | planned
    row |= {"measured_peak_bytes": None}
    assert "At hand: no GPU, which the study asks for" in words.planned([row], machine)


@pytest.fixture
def gpus(monkeypatch):
    """Let there be GPUs with so many free bytes."""
    return lambda *free: monkeypatch.setattr(memory, "free_of_gpus", lambda: list(free))


def test_one_gpu_holds_all_or_torch_says_that_it_does_not(write_study, gpus):
    run = load_study(write_study()).runs()[0]
    gpus(100)
    assert memory.room(run, of(1000, 1000), "cuda") is None and memory.room(run, of(1, 1), "cpu") is None


def test_room_of_several_gpus_leaves_what_generating_needs(write_study, gpus):
    run = load_study(write_study()).runs()[0]
    gpus(1000, 600)
    assert memory.room(run, of(1200, 1400), "cuda") == {0: 800, 1: 400, "cpu": 0}
    assert memory.room(run, None, "cuda") == {0: 900, 1: 500, "cpu": 0}  # a tenth of the largest
    with pytest.raises(torch.OutOfMemoryError, match="2 GPUs hold 0.0 GB beside what generating needs"):
        memory.room(run, of(1201, 1401), "cuda")


def test_only_a_study_that_allows_it_offloads_and_never_what_is_quantized(write_study, gpus):
    fp32, int8 = load_study(write_study(offload=True)).runs()
    gpus(1000)
    found = memory.room(fp32, of(5000, 5100), "cuda")
    assert found[0] == 900 and found["cpu"] > 10**8
    assert memory.room(int8, of(5000, 5100), "cuda") is None
    gpus(1000, 1000)
    with pytest.raises(torch.OutOfMemoryError):
        memory.room(int8, of(5000, 5100), "cuda")


def test_accelerate_fills_one_gpu_after_the_other():
    config = transformers.AutoConfig.for_model(**PUBLISHED["llama-2-7b-chat"]["config"])
    model = models.empty_of(config, "fp16").to(torch.float16)

    def places(room):
        found = infer_auto_device_map(model, room, no_split_module_classes=["LlamaDecoderLayer"])
        return [found.get(f"model.layers.{number}", found.get("")) for number in range(32)]

    # A layer has 404,766,720 bytes, the embedding 262,144,000: (8·10⁹ - 262,144,000) / 404,766,720 = 19.1; accelerate keeps room
    # for the largest layer on the first GPU, where it is to be brought if the others are offloaded.
    first = places({0: 8 * 10**9, 1: 8 * 10**9, "cpu": 0})
    assert first == sorted(first) and set(first) == {0, 1} and first.count(0) in (18, 19)
    assert set(places({0: 14 * 10**9, 1: 8 * 10**9, "cpu": 0})) == {0}


def test_plan_says_what_int8_saves_beside_what_the_study_claims():
    known = {
        "run_id": None,
        "model": "a",
        "engine": "transformers",
        "status": "missing",
        "reason": "",
        "fits": True,
        "gpus": 0,
        "measured_peak_bytes": None,
        "batch_that_fits": None,
        "unpredicted": None,
    }
    runs = [known | {"precision": p, "weights_bytes": size, "peak_bytes": size} for p, size in (("fp32", 400), ("int8", 100))]
    *_, predicted, saved, weights, peak = words.planned(runs, None, read_claims(load_study("default").claims))
    assert predicted == "Predicted:" and saved == "a: int8 saves against fp32 75.0% of the weights and 75.0% of the peak"
    assert weights == "Claimed (C1 weights): int8 saves 76 % of GPU memory against 32 bits, counted in stored weights"
    assert peak.startswith("Claimed (C1 peak): int8 saves 76 %")


def test_plan_names_the_largest_batch_whose_keys_and_values_fit(write_study, tiny_llama):
    run = load_study(write_study(models=[str(tiny_llama)], precisions=["fp32"], batch=4)).runs()[0]
    peaks = [memory._of_run(run, "cpu", batch)["peak_bytes"] for batch in (1, 2, 3, 4)]
    rooms = {n: Machine("cpu", 1, memory.CONTEXT_BYTES["cpu"] + peak + 1) for n, peak in enumerate(peaks, 1)}
    assert peaks == sorted(set(peaks))
    for batch in (1, 2, 3):
        planned = memory.planned(run, rooms[batch])
        assert (planned["fits"], planned["batch_that_fits"]) == (False, batch)
    assert (memory.planned(run, rooms[4])["fits"], memory.planned(run, rooms[4])["batch_that_fits"]) == (True, None)
    assert memory.planned(run, Machine("cpu", 1, peaks[0]))["batch_that_fits"] is None
    row = {"run_id": "tiny--fp32--0", "model": "tiny", **FP32, "status": "missing", "reason": ""}
    lines = words.planned([row | {"measured_peak_bytes": None} | memory.planned(run, rooms[2])], rooms[2])
    assert "tiny--fp32--0 does not fit in the study's batch; in one of 2 it would: batch: 2" in lines


def test_savings_are_said_for_weights_and_peak_apart():
    runs = [
        {"model": "a", "precision": "fp32", "weights_bytes": 400, "peak_bytes": 500},
        {"model": "a", "precision": "fp16", "weights_bytes": 200, "peak_bytes": 250},
        {"model": "a", "precision": "int8", "weights_bytes": 100, "peak_bytes": 150},
        {"model": "b", "precision": "int8", "weights_bytes": 100, "peak_bytes": 150},
        {"model": "c", "precision": "int8", "weights_bytes": None, "peak_bytes": None},
    ]
    assert words.savings([run | {"engine": "transformers"} for run in runs]) == [
        "a: int8 saves against fp32 75.0% of the weights and 70.0% of the peak; against fp16 50.0% of the weights and 40.0% of "
        "the peak"
    ]
