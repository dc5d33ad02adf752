"""Where texts end, what is a thought, what a chat template asks: by models that say what a script tells them, word by word."""

import json

import pytest
import torch
import transformers
from conftest import save_gguf
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from affq.errors import InputError
from affq.inference import chat, generate
from affq.models import LoadError, loading, weights
from affq.results import FailureKind
from affq.runner import endings
from affq.study import load_study

WORDS = [
    "<unk>",
    "</s>",
    "<user>",
    "<model>",
    "<end>",
    "<think>",
    "</think>",
    "Hello.",
    "I",
    "was",
    "glad.",
    "Who?",
    "grief",
    "[pad]",
]
TURNS = "{% for m in messages %}<user> {{ m['content'] }} <end> {% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
ROLES = "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<model>' }} {{ m['content'] }} END {% endfor %}"
PROMPT = "{% if add_generation_prompt %}<model>{% endif %}"
SWITCH = "{% if add_generation_prompt and NAME is defined and NAME is false %} <think> </think>{% endif %}"


def tokenizer_of(template, special=WORDS[1:7], **names):
    """Give a tokenizer of WORDS, each a token. special: marks that decoding can leave out; the others are ordinary."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([word for word in WORDS[1:7] if word in special])
    words.add_tokens([word for word in WORDS[1:7] if word not in special])
    names = {"eos_token": "</s>", "pad_token": "</s>", **names}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token=WORDS[0], **names)
    tokenizer.chat_template = template
    return tokenizer


def says(script, count=14):
    """Give a model that says the next word of a script after each of its words, and the last again and again."""
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        vocab_size=count, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None, **shape
    )
    model = transformers.LlamaForCausalLM(config)
    follows = dict(zip(script.split(), script.split()[1:], strict=False))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(count, 64))
        model.lm_head.weight.zero_()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for number, word in enumerate(WORDS[:count]):
            model.lm_head.weight[WORDS.index(follows.get(word, word)), number] = 1
    return model


def saved(folder, script, tokenizer, **settings):
    """Save a scripted model and its tokenizer; settings: what generation_config.json declares."""
    says(script).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def asked(words="Hello."):
    return {"prompt_id": words, "kind": "event", "emotion": "joy", "sample": 0, "request": words}


def text_of(folder, most=6, thinking=False):
    """Give the text that a folder's model writes, and how many steps it took."""
    steps, (model, tokenizer) = [], loading.load(folder, "fp32", "cpu")
    ((row,), _) = generate.texts(model, tokenizer, [asked()], most, lambda: steps.append(1), thinking=thinking)
    return row, len(steps)


GOES_ON = "<model> I was glad. <end> <user> Who?"  # and on, unless it is ended


@pytest.mark.parametrize(
    "template, settings, names",
    [
        (TURNS, {}, {}),  # the template alone says so
        (ROLES + PROMPT, {"eos_token_id": 4}, {}),
        (ROLES + PROMPT, {"eos_token_id": [1, 4]}, {}),
        (ROLES + PROMPT, {}, {"eos_token": "<end>"}),
    ],
)
@pytest.mark.parametrize("special", [WORDS[1:7], WORDS[1:2]], ids=["special", "ordinary"])
def test_text_ends_where_settings_tokenizer_or_template_say(tmp_path, template, settings, names, special):
    folder = saved(tmp_path / "goes-on", GOES_ON, tokenizer_of(template, special, **names), **settings)
    row, steps = text_of(folder)
    assert (row["text"], row["new_tokens"], row["ended"], row["opens_turn"]) == ("I was glad.", 3, True, False)
    assert steps == 4  # nothing is generated behind the end


def test_end_that_the_configuration_alone_declares_ends_a_text(tmp_path):
    folder = saved(tmp_path / "goes-on", GOES_ON, tokenizer_of(ROLES + PROMPT))
    config = json.loads((folder / "config.json").read_text())
    for declared in ({"eos_token_id": 4}, {"text_config": {"eos_token_id": [4]}}):
        (folder / "config.json").write_text(json.dumps(config | declared))
        assert loading.ends_of(folder, tokenizer_of(None)) == [1, 4]


def test_what_no_file_declares_is_no_end(tmp_path):
    """Llama's class would make up token 2, a word of this vocabulary."""
    folder = saved(tmp_path / "none", "<model> <user> glad.", tokenizer_of(None))
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if not k.endswith("token_id")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    assert transformers.AutoConfig.from_pretrained(folder).eos_token_id == 2
    model, tokenizer = loading.load(folder, "fp32", "cpu")
    assert loading.described(model, tokenizer)["ends"] == {"</s>": 1}


def test_ends_are_recorded_with_their_tokens(tmp_path):
    folder = saved(tmp_path / "model", GOES_ON, tokenizer_of(TURNS), eos_token_id=[3, 1])
    assert loading.described(*loading.load(folder, "fp32", "cpu"))["ends"] == {"</s>": 1, "<end>": 4, "<model>": 3}


def test_settings_that_cannot_be_read_are_a_load_error(tmp_path):
    """transformers would go on without them, and texts beyond their end."""
    folder = saved(tmp_path / "broken", GOES_ON, tokenizer_of(ROLES + PROMPT))
    (folder / "generation_config.json").write_text('{"eos_token_id": 4')
    with pytest.raises(LoadError, match="cannot load broken"):
        loading.load(folder, "fp32", "cpu")


@pytest.mark.parametrize(
    "template, end",
    [
        (TURNS, "<end>"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", None),  # words, and no token
        (ROLES.replace(" END", ""), "<user>"),  # the user's next turn is the first token behind the text
        (TURNS.replace("<end>", "</s>"), "</s>"),
        # Within a turn texts end by another token than the turn: the last text's counts.
        (TURNS.replace("<end>", "{{ '</s>' if loop.last else '<end>' }}"), "</s>"),
        ("{% if messages|length > 1 %}{{ raise_exception('one question') }}{% endif %}" + TURNS, None),
        (None, None),
    ],
)
def test_end_of_a_turn_is_the_added_token_behind_the_models_text(template, end):
    assert chat.turn_end(tokenizer_of(template)) == end


@pytest.mark.parametrize(
    "template, text, opens",
    [
        (TURNS, "I was glad. <user> Who?", True),
        (TURNS, "I was glad. <model> I", False),
        (TURNS, "I was glad.", False),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "I was glad.", False),
        ("{% for m in messages %}Who? {{ m['content'] }}\n{% endfor %}", "I was glad. Who? Hello.", True),  # ordinary words
        ("{% for m in messages %}I {{ m['content'] }}\n{% endfor %}", "I was glad.", False),  # a word of its own opens no turn
        (None, "I was glad. <user> Who?", False),
    ],
)
def test_text_that_opens_a_turn_of_the_user_is_known(template, text, opens):
    tokenizer = tokenizer_of(template)
    assert chat.opens_turn(tokenizer.decode(tokenizer(text)["input_ids"]), chat.user_header(tokenizer)) is opens


def test_turn_of_the_user_behind_no_end_is_flagged_in_the_text(tmp_path):
    folder = saved(tmp_path / "on", "<model> I was glad. <user> Who?", tokenizer_of(TURNS))
    row, _ = text_of(folder)
    assert row["opens_turn"] and not row["ended"]


def test_token_that_begins_texts_is_no_part_of_how_a_turn_opens():
    """Llama 2 begins each turn of the user with the token that begins a text; ChatML's begins every turn by its own."""
    llama = tokenizer_of("{% for m in messages %}<think> [pad] {{ m['content'] }} </s>{% endfor %}", bos_token="<think>")
    assert chat.user_header(llama) == "[pad]"
    chatml = tokenizer_of("{% for m in messages %}<user> was {{ m['content'] }} <end>{% endfor %}", bos_token="<user>")
    assert chat.user_header(chatml) == "<user>was"  # "was" alone opens none


THINKS = "<model> <think> grief </think> I was glad. <end>"


@pytest.mark.parametrize("name", chat.SWITCHES)
def test_thinking_is_off_where_the_template_turns_it_off(tmp_path, name):
    folder = saved(tmp_path / "thinker", THINKS, tokenizer_of(TURNS + SWITCH.replace("NAME", name)))
    row, _ = text_of(folder)
    assert row["prompt"].endswith("<model> <think> </think>")
    assert (row["text"], row["thought_tokens"], row["new_tokens"]) == ("I was glad.", 0, 3)
    row, _ = text_of(folder, thinking=True)
    assert row["prompt"].endswith("<model>")
    assert (row["text"], row["thought_tokens"], row["new_tokens"]) == ("I was glad.", 3, 6)
    assert loading.described(*loading.load(folder, "fp32", "cpu"))["thinking_switch"]


@pytest.mark.parametrize("special", [WORDS[1:7], WORDS[1:5]], ids=["special", "ordinary"])
@pytest.mark.parametrize("template, thought", [(TURNS, 3), (TURNS + "{% if add_generation_prompt %} <think>\n{% endif %}", 2)])
def test_thoughts_are_cut_where_no_template_turns_them_off(tmp_path, template, thought, special):
    folder = saved(tmp_path / "thinker", THINKS, tokenizer_of(template, special))
    row, _ = text_of(folder, 8)
    assert (row["text"], row["thought_tokens"], row["new_tokens"], row["ended"]) == ("I was glad.", thought, thought + 3, True)
    assert not loading.described(*loading.load(folder, "fp32", "cpu"))["thinking_switch"]


def test_thought_that_does_not_end_leaves_no_text(tmp_path):
    row, _ = text_of(saved(tmp_path / "thinker", "<model> <think> grief", tokenizer_of(TURNS)), 5)
    assert (row["text"], row["thought_tokens"], row["new_tokens"], row["ended"]) == ("", 5, 5, False)


@pytest.mark.parametrize(
    "text, prompt, thought",
    [
        ("<think>ab</think>cd", "", 17),
        ("<Thinking>ab</Thinking>cd", "", 23),
        ("\n[THINK]ab[/THINK]cd", "", 18),
        ("◁think▷ab◁/think▷cd", "", 17),
        ("ab</think>cd", "<think>\n", 10),
        ("ab</think>cd", "", 10),  # opened by the prompt in words of its own
        ("abcd", "<think>", 4),
        ("abcd", "<think></think>\n", 0),
        ("ab <think>cd</think>", "", 0),  # not at the beginning
        ("<|channel|>analysis<|message|>ab<|end|><|start|>assistant<|channel|>final<|message|>cd", "", 84),
        ("", "", 0),
    ],
)
def test_thoughts_are_counted_by_hand(text, prompt, thought):
    """Each character is a token."""
    assert chat.thought_tokens(lambda ids: "".join(map(chr, ids)), [ord(c) for c in text], prompt) == thought


def test_timed_text_is_cut_as_the_quality_passs(tmp_path):
    model, tokenizer = loading.load(saved(tmp_path / "thinker", THINKS, tokenizer_of(TURNS)), "fp32", "cpu")
    inputs = generate.prepare(model, tokenizer, [asked()])
    token_ids = generate.exactly(model, tokenizer, inputs, 8)[0, -8:].tolist()
    reading = {"prompt_id": "Hello.", "emotion": "joy", "sample": 0, "round": 0, "new_tokens": 8, "token_ids": token_ids}
    assert generate.alone(model, tokenizer, [reading], 8)[0]["text"] == "I was glad."


def test_thinking_is_a_setting_that_makes_another_run_where_it_is_on(write_study):
    ids = [
        load_study(write_study(generation={"max_new_tokens": 8} | more)).runs()[0].id
        for more in ({}, {"thinking": False}, {"thinking": True})
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("sampling", [None, {"temperature": 1.0, "seed": 0}], ids=["greedy", "sampled"])
def test_logits_that_are_no_numbers_at_any_token_fail_the_run(tmp_path, sampling):
    model, tokenizer = loading.load(saved(tmp_path / "model", "<model> I was glad. <end>", tokenizer_of(TURNS)), "fp32", "cpu")
    with torch.no_grad():
        model.lm_head.weight.mul_(100)  # so that a draw is what the script says
        model.model.embed_tokens.weight[WORDS.index("was")] = float("nan")
    loading.compute_once(model, "fp32", generate.prepare(model, tokenizer, [asked()]))
    with pytest.raises(
        generate.LogitsError, match="prompt 'Hello.', token 3 of the text: .* not finite .*; choose another"
    ) as error:
        generate.texts(model, tokenizer, [asked(), asked("Who?")], 6, sampling=sampling)
    failure = endings.of_error(None, 0, type(error.value).__name__, str(error.value))
    assert failure.kind == FailureKind.UNSUPPORTED


def test_what_is_computed_behind_the_end_of_a_text_fails_no_run(tmp_path):
    """A batch goes on until its last text has ended; what the others' padding gives is read by nobody."""
    tokenizer = tokenizer_of(TURNS, pad_token="[pad]")
    model, tokenizer = loading.load(saved(tmp_path / "model", "<model> I was glad. <end>", tokenizer), "fp32", "cpu")
    with torch.no_grad():
        model.model.embed_tokens.weight[WORDS.index("[pad]")] = float("nan")
    texts, _ = generate.texts(model, tokenizer, [asked(), asked()], 6)
    watch = generate.LargestLogits()
    nan, token = torch.tensor([[float("nan"), 1.0]]), torch.tensor([[0.0, 1.0]])
    for scores in (torch.cat([token, token]), torch.cat([nan, token])):
        assert watch(None, scores) is scores
    ended = {"new_tokens": 0, "ended": True, "prompt_id": "a"}
    watch.need_finite([ended, ended | {"new_tokens": 1}])
    with pytest.raises(generate.LogitsError, match="token 2"):
        watch.need_finite([ended | {"new_tokens": 1}, ended])


@pytest.mark.parametrize(
    "template, said",
    [
        ({"rag": TURNS, "tools": TURNS}, "several chat templates, and none of them is the default: rag, tools; save the one"),
        ("{{ raise_exception('no') }}", r"fails over a user's message \(TemplateError: no\); mend it, or remove it"),
        ("{{ messages[0", "fails over a user's message .*; mend it, or remove it"),
        ("{% if false %}{{ messages }}{% endif %}", "leaves out what the user says; mend it, or remove it"),
        ("<user> <model>", "leaves out what the user says"),
    ],
)
def test_template_that_asks_nothing_is_refused_with_what_to_do(tmp_path, template, said):
    """In the folder all remedies help: an own template, or none."""
    folder = saved(tmp_path / "model", GOES_ON, tokenizer_of(template))
    model, tokenizer = loading.load(folder, "fp32", "cpu")
    with pytest.raises(InputError, match=said):
        generate.count_tokens(model, tokenizer, [asked()], 4)
    assert endings.KINDS["InputError"] == FailureKind.LOAD_FAILED
    (folder / "chat_template.jinja").write_text(TURNS)
    assert text_of(folder)[0]["text"] == "I was glad."
    if isinstance(template, str):
        (folder / "chat_template.jinja").unlink()
        model, tokenizer = loading.load(folder, "fp32", "cpu")
        assert chat.render(tokenizer, "Hello.") == "Hello."


@pytest.mark.parametrize("template", ["", " \n"])
def test_empty_template_is_none(tmp_path, template):
    """transformers would ask the model nothing by it."""
    model, tokenizer = loading.load(saved(tmp_path / "model", GOES_ON, tokenizer_of(template)), "fp32", "cpu")
    assert chat.render(tokenizer, "Hello.") == "Hello." and loading.described(model, tokenizer)["chat_template"] == "none"


def test_default_of_several_templates_is_used():
    tokenizer = tokenizer_of({"default": TURNS, "tools": "{{ messages }}"})
    assert chat.render(tokenizer, "Hello.") == "<user> Hello. <end> <model>" and chat.turn_end(tokenizer) == "<end>"


def test_pad_token_that_the_model_has_no_embedding_for_is_replaced(tmp_path):
    tokenizer = tokenizer_of(TURNS, pad_token="[pad]")  # the last word
    says("<model> I was glad. <end>", len(WORDS) - 1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model, tokenizer = loading.load(tmp_path / "model", "fp32", "cpu")
    assert tokenizer.pad_token == "</s>"
    texts, _ = generate.texts(model, tokenizer, [asked(), asked("I was glad.")], 6)
    assert [text["text"] for text in texts] == ["I was glad."] * 2
    with pytest.raises(
        InputError, match=r"the token '\[pad\]', number 13, and the model has embeddings for 13; give the tokenizer"
    ):
        generate.count_tokens(model, tokenizer, [asked("[pad]")], 4)


def test_ends_of_a_gguf_file_stay_when_it_is_converted(tmp_path):
    """ids 5, 6, 7: the end of the text, of a turn, of a message; transformers reads the first alone."""
    file = save_gguf(tmp_path / "ends.gguf", eos=5, eot=6, eom=7)
    weights.convert_gguf(file, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [5, 6, 7]
    assert loading.load(tmp_path / "out", "fp32", "cpu")[0].generation_config.eos_token_id == [5, 6, 7]


def test_gguf_file_that_names_no_end_gets_none(tmp_path):
    """The class of the model would make up token 2."""
    weights.convert_gguf(save_gguf(tmp_path / "endless.gguf", eos=None), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()).get("eos_token_id") is None
    assert loading.load(tmp_path / "out", "fp32", "cpu")[0].generation_config.eos_token_id is None


def test_what_an_earlier_affq_converted_is_left_alone(tiny_gguf, monkeypatch):
    now = weights.cached_gguf(tiny_gguf)
    monkeypatch.setattr(weights, "CONVERSION", weights.CONVERSION + 1)
    assert weights.cached_gguf(tiny_gguf) != now
