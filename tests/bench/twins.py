"""Run the fifteen configurations of study paper as small twins, and write what each census found.

python tests/bench/twins.py takes a minute, and writes twins.md beside itself. The same twins as in tests/test_twins.py; all runs
in this process.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def row(record):
    """Write one line of the table: what is stored at which dtype, and what was predicted."""
    census = record.measurements()["census"]
    parts = {}
    for part in census:
        elements, stored = parts.get(part["dtype"], (0, 0))
        parts[part["dtype"]] = elements + part["elements"], stored + part["bytes"]
    stored = "; ".join(f"{dtype} {elements:,} in {size:,} bytes" for dtype, (elements, size) in parts.items())
    predicted = record.about()["predicted"]["weights_bytes"] / sum(part["bytes"] for part in census) - 1
    cells = [record.run.model.name, record.run.precision, record.state().status, record.about()["stored_dtype"]]
    return f"| {' | '.join([*cells, record.measurements()['model']['class'], stored, f'{predicted:+.1%}'])} |"


def main():
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch, "hub")
        os.environ |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}  # read when the hub's client is imported
        import twins

        twins.put_twins(Path(scratch), cache)
        found = twins.run_the_others(twins.write_study(Path(scratch)), Path(scratch, "reports"))
        lines = [
            "# The paper's fifteen configurations, as small twins",
            "",
            "Random weights in the published shapes scaled down, stored at the published dtype; each loaded, proved, generating",
            "and measured on a CPU by the code that runs the real ones. Made by tests/bench/twins.py.",
            "",
            "| model | precision | status | stored dtype | class that served | parameters by dtype | weights predicted, off by |",
            "|---|---|---|---|---|---|---|",
            *map(row, found),
        ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
