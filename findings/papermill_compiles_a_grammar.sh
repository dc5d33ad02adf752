#!/usr/bin/env bash
# Importing papermill takes several times as long where Jupyter's server is installed too. jupyter-events asks for
# jsonschema[format-nongpl]; with its rfc3987-syntax there, jsonschema compiles lark's grammar of internationalized addresses as it
# is imported, and nbformat, so papermill and nbconvert, import it. No notebook needs that grammar: its schema has no such format.
#
# Versions: papermill 2.7.0, nbformat 5.10.4, jsonschema 4.26.0, jupyter-events 0.12.1, rfc3987-syntax 1.1.0, lark 1.3.1.
# Output seen:
#   papermill alone: grammar compiled False   (0.5 s of processor time on one machine)
#   with jupyter-events: grammar compiled True, more than twice as long True   (3.4 s)
#   formats in the schemas of notebooks: none
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip=("$place/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" papermill==2.7.0 nbformat==5.10.4 jsonschema==4.26.0
cd "$place"
cat > try.py <<'P'
import sys, time
began = time.process_time()
import papermill
print(time.process_time() - began, "lark" in sys.modules)
P
best() { for _ in 1 2 3 4; do "$place/venv/bin/python" try.py; done | sort -n | head -1; }
read -r alone_s alone < <(best)
"${pip[@]}" jupyter-events==0.12.1 rfc3987-syntax==1.1.0 lark==1.3.1
read -r with_s with < <(best)
echo "seconds of processor time, the least of four: $alone_s alone, $with_s with jupyter-events"
{
    echo "papermill alone: grammar compiled $alone"
    echo "with jupyter-events: grammar compiled $with, more than twice as long $(python3 -c "print($with_s > 2 * $alone_s)")"
    "$place/venv/bin/python" - <<'P'
import json, pathlib, nbformat
def formats(node):
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node["format"]] if isinstance(node, dict) and isinstance(node.get("format"), str) else []
    return own + [name for child in children for name in formats(child)]
schemas = pathlib.Path(nbformat.__file__).parent.glob("v4/*.schema.json")
found = {name for path in schemas for name in formats(json.loads(path.read_text()))}
print("formats in the schemas of notebooks:", ", ".join(sorted(found)) or "none")
P
} | tee output
diff output - <<'O'
papermill alone: grammar compiled False
with jupyter-events: grammar compiled True, more than twice as long True
formats in the schemas of notebooks: none
O
