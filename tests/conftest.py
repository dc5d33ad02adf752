"""Small real components: models built on the spot from real configurations, with a tokenizer trained on the spot."""

import json
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from affq.study import PACKAGE

CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Wide enough for the 4-bit kernels of a CPU, which refuse outputs that are no multiple of their block.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def save_tiny(folder, config, chat=CHAT):
    """Save a model with random weights, and a byte-level BPE tokenizer trained on the packaged references, to a folder."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [json.loads(line)["text"] for line in (PACKAGE / "references.jsonl").read_text().splitlines()]
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=512, special_tokens=special, show_progress=False))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = chat
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**study, **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}}))
        return path

    return write
