#!/usr/bin/env bash
# An error that a notebook's cell raises while it handles an exception group, as whoever unwraps an asyncio.TaskGroup's error does, has no
# error output: IPython prints a traceback as plain text instead. papermill, which learns from that output which error it was, gets
# neither its name nor its words; `from None` changes nothing. Raised behind the except block, the same error arrives.
#
# Versions: ipython 9.18.1, ipykernel 7.4.0, nbclient 0.11.0, papermill 2.7.0. Behaviour seen: a cell that raises a ValueError.
# Output seen:
#   raised within: outputs ['stream'], papermill's error is ''
#   raised behind: outputs ['error'], papermill's error is 'the sentence'
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check ipython==9.18.1 ipykernel==7.4.0 nbclient==0.11.0 papermill==2.7.0
"$place/venv/bin/python" -m ipykernel install --sys-prefix >"$place/log" 2>&1
cd "$place"
PATH="$place/venv/bin:$PATH" "$place/venv/bin/python" - 2>>log <<'P' | tee output
import nbformat, papermill

GROUP = 'try:\n    raise ExceptionGroup("several", [ValueError("one")])\nexcept ExceptionGroup as group:\n    '
CELLS = {
    "within": GROUP + 'raise ValueError("the sentence") from None',
    "behind": GROUP + 'error = ValueError("the sentence")\nraise error',
}
for place, cell in CELLS.items():
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), "in.ipynb")
    words = None
    try:
        papermill.execute_notebook("in.ipynb", "out.ipynb", kernel_name="python3", progress_bar=False)
    except Exception as error:
        words = error.evalue
    (cell,) = [cell for cell in nbformat.read("out.ipynb", 4).cells if "ExceptionGroup" in cell.source]
    print(f"raised {place}: outputs {[output.output_type for output in cell.outputs]}, papermill's error is {words!r}")
P
grep -q "^raised within: outputs \['stream'\], papermill's error is ''$" output
grep -q "^raised behind: outputs \['error'\], papermill's error is 'the sentence'$" output
