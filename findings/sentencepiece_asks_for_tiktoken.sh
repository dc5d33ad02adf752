#!/usr/bin/env bash
# A folder whose tokenizer is a sentencepiece model (tokenizer.model, as Llama 2 fine-tunes have it) and nothing else: where sentencepiece
# is not installed, transformers asks for tiktoken. Who installs that gets another error; sentencepiece (with protobuf) is what lacks.
#
# Versions: transformers 5.23.0, sentencepiece 0.2.2, protobuf 7.36.0, tiktoken 0.14.0.
# Output seen (whether it loads, or which library the message of the error names):
#   without either: tiktoken named True, sentencepiece named False
#   with tiktoken: loads False
#   with sentencepiece and protobuf: loads True
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip=("$place/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" transformers==5.23.0
"${pip[@]}" --target "$place/tiktoken" tiktoken==0.14.0
"${pip[@]}" --target "$place/sentencepiece" sentencepiece==0.2.2 protobuf==7.36.0
cd "$place"
cat > try.py <<'P'
import sys, transformers
transformers.utils.logging.set_verbosity(transformers.logging.CRITICAL)
try:
    loaded, words = transformers.AutoTokenizer.from_pretrained("model").tokenize("so happy") != [], ""
except Exception as error:
    loaded, words = False, str(error)
named = f"tiktoken named {'tiktoken' in words}, sentencepiece named {'sentencepiece' in words.lower()}"
print(f"{sys.argv[1]}: {named if sys.argv[2:] == ['words'] else f'loads {loaded}'}")
P
PYTHONPATH=$place/sentencepiece "$place/venv/bin/python" - <<'P'
import json, pathlib, sentencepiece
pathlib.Path("model").mkdir()
pathlib.Path("text").write_text("\n".join(f"so happy was I on day {day} that I sang the whole way home" for day in range(200)))
sentencepiece.SentencePieceTrainer.train(input="text", model_prefix="model/tokenizer", vocab_size=60, minloglevel=2)
pathlib.Path("model/tokenizer.vocab").unlink()
pathlib.Path("model/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>"}))
pathlib.Path("model/config.json").write_text(json.dumps({"model_type": "llama"}))
P
{
    "$place/venv/bin/python" try.py "without either" words
    PYTHONPATH=$place/tiktoken "$place/venv/bin/python" try.py "with tiktoken"
    PYTHONPATH=$place/sentencepiece "$place/venv/bin/python" try.py "with sentencepiece and protobuf"
} 2>errors | tee output
diff output - <<'O'
without either: tiktoken named True, sentencepiece named False
with tiktoken: loads False
with sentencepiece and protobuf: loads True
O
