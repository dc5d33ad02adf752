#!/usr/bin/env bash
# optimum-benchmark says that its setting quantization_scheme is deprecated, and to name quantization_config.quant_method instead. Who
# follows that has the model measured as it is: no layer is quantized, nothing is said, and the report still has the configuration of 8 bits.
# Only the deprecated setting quantizes.
#
# Versions: optimum-benchmark 0.6.0 (the newest on the index), transformers 4.57.6, bitsandbytes 0.50.2, torch 2.13.0, on a CPU. Behaviour
# seen: a tiny Llama, loaded as the benchmark loads it before it measures.
# Output seen:
#   asked by quant_method: layers ['Linear']
#   asked by quantization_scheme: layers ['Linear8bitLt']
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$place/venv/bin/pip" install --quiet --disable-pip-version-check optimum-benchmark==0.6.0 transformers==4.57.6 bitsandbytes==0.50.2 accelerate==1.15.0
cd "$place"
"$place/venv/bin/python" - 2>log <<'P' | tee output
import transformers
from optimum_benchmark import PyTorchConfig
from optimum_benchmark.backends.pytorch.backend import PyTorchBackend

size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **size)).save_pretrained("model")
by_method = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
by_scheme = {"quantization_scheme": "bnb", "quantization_config": {"load_in_8bit": True}}
for name, asked in (("quant_method", by_method), ("quantization_scheme", by_scheme)):
    backend = PyTorchBackend(PyTorchConfig(model="model", device="cpu", task="text-generation", **asked))
    backend.load()
    layers = {type(module).__name__ for module in backend.pretrained_model.model.layers.modules()}
    print(f"asked by {name}: layers {sorted(layer for layer in layers if 'Linear' in layer)}")
P
grep -q "quantization_scheme. is deprecated" log
grep -q "^asked by quant_method: layers \['Linear'\]$" output
grep -q "^asked by quantization_scheme: layers \['Linear8bitLt'\]$" output
