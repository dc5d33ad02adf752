#!/usr/bin/env bash
# transformers reads one end of text of a GGUF file (tokenizer.ggml.eos_token_id) and drops the end of a turn (eot_token_id) and of a
# message (eom_token_id), which llama.cpp stops at. A chat model then goes on behind its turn, into one that it makes up, without a word.
#
# Versions: transformers 5.23.0, gguf 0.19.0, torch 2.13.0 (CPU). Behaviour seen: a Llama of random weights is written as GGUF with
# eos_token_id 3, eot_token_id 5 and eom_token_id 6; generation_config.eos_token_id, config.eos_token_id and the tokenizer know 3 alone.
# Output seen:
#   in the file: {'eos': 3, 'eot': 5, 'eom': 6}
#   generation_config: 3, config: 3, tokenizer: 3
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.14.0
cd "$place"
"$place/venv/bin/python" - <<'P' | tee output
import gguf, numpy as np, transformers
transformers.utils.logging.set_verbosity_error()
rng, width, words = np.random.default_rng(0), 64, ["<unk>", "<s>", "a", "</s>", "b", "<|eot|>", "<|eom|>", "ab"]
file = gguf.GGUFWriter("tiny.gguf", "llama")
for add, value in ((file.add_block_count, 1), (file.add_context_length, 64), (file.add_embedding_length, width),
                   (file.add_feed_forward_length, width), (file.add_head_count, 2), (file.add_head_count_kv, 2),
                   (file.add_layer_norm_rms_eps, 1e-5), (file.add_vocab_size, len(words)), (file.add_tokenizer_model, "gpt2"),
                   (file.add_token_list, words), (file.add_token_types, [3 if w[0] == "<" else 1 for w in words]),
                   (file.add_token_merges, ["a b"]), (file.add_eos_token_id, 3), (file.add_eot_token_id, 5), (file.add_eom_token_id, 6)):
    add(value)
for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    file.add_tensor(f"blk.0.{name}.weight", rng.normal(size=(width, width)).astype("float32"))
for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
    file.add_tensor(f"{name}.weight", np.ones(width, "float32"))
file.add_tensor("token_embd.weight", rng.normal(size=(len(words), width)).astype("float32"))
file.write_header_to_file(); file.write_kv_data_to_file(); file.write_tensors_to_file(); file.close()
fields = gguf.GGUFReader("tiny.gguf").fields
print("in the file:", {kind: int(fields[f"tokenizer.ggml.{kind}_token_id"].contents()) for kind in ("eos", "eot", "eom")})
model = transformers.AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
tokenizer = transformers.AutoTokenizer.from_pretrained(".", gguf_file="tiny.gguf")
print(f"generation_config: {model.generation_config.eos_token_id}, config: {model.config.eos_token_id}, tokenizer: {tokenizer.eos_token_id}")
P
grep -q "^in the file: {'eos': 3, 'eot': 5, 'eom': 6}$" output
grep -q "^generation_config: 3, config: 3, tokenizer: 3$" output
