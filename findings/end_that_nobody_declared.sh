#!/usr/bin/env bash
# A Llama whose files declare no end of text ends at token 2 all the same: LlamaConfig has eos_token_id 2 by default, and generate takes
# it from there, whatever token 2 of that vocabulary is. Here it is the word "so", and the text stops before it.
#
# Versions: transformers 5.23.0, torch 2.13.0 (CPU). Behaviour seen: config.json without eos_token_id, no generation_config.json; the
# model, which says token 1, 2, 3, 4 in turn, is asked for eight tokens after token 0 and stops after two, the last being token 2.
# Output seen:
#   config.json declares an end: False
#   generation_config.eos_token_id: 2
#   asked for 8 new tokens: [1, 2]
#   the same with eos_token_id=[-1]: [1, 2, 3, 4, 4, 4, 4, 4]
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$place"
"$place/venv/bin/python" - <<'P' | tee output
import json, pathlib, torch, transformers
transformers.utils.logging.set_verbosity(transformers.logging.CRITICAL)
shape = dict(vocab_size=5, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, tie_word_embeddings=False)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
with torch.no_grad():  # each token is a direction of its own, and the head answers it with the next one
    for weight in (model.model.embed_tokens.weight, model.lm_head.weight, model.model.layers[0].self_attn.o_proj.weight,
                   model.model.layers[0].mlp.down_proj.weight):
        weight.zero_()
    for token in range(5):
        model.model.embed_tokens.weight[token, token] = model.lm_head.weight[min(token + 1, 4), token] = 1
model.save_pretrained("model")
folder = pathlib.Path("model")
(folder / "generation_config.json").unlink()
config = json.loads((folder / "config.json").read_text())
for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
    config.pop(key, None)
(folder / "config.json").write_text(json.dumps(config))
print("config.json declares an end:", "eos_token_id" in json.loads((folder / "config.json").read_text()))
model = transformers.AutoModelForCausalLM.from_pretrained("model")
print("generation_config.eos_token_id:", model.generation_config.eos_token_id)
asked = dict(input_ids=torch.tensor([[0]]), attention_mask=torch.ones(1, 1, dtype=torch.long), max_new_tokens=8, do_sample=False, pad_token_id=0)
print("asked for 8 new tokens:", model.generate(**asked)[0, 1:].tolist())
print("the same with eos_token_id=[-1]:", model.generate(**asked, eos_token_id=[-1])[0, 1:].tolist())
P
diff output - <<'O'
config.json declares an end: False
generation_config.eos_token_id: 2
asked for 8 new tokens: [1, 2]
the same with eos_token_id=[-1]: [1, 2, 3, 4, 4, 4, 4, 4]
O
