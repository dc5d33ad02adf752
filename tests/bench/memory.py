"""Compare the memory that affq predicts with what is really measured on the CPU: random models, one prompt, eight tokens.

python tests/bench/memory.py needs Linux, 24 GB of memory and 8 GB of disk, takes about ten minutes, and writes memory.md beside
itself. Each model at each precision is loaded and measured in a process of its own, as a run is.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from affq.models.precisions import PRECISIONS

MODELS = {
    "SmolLM2 135M": "smollm2-135m-instruct",
    "Llama 3.2 1B": "llama-3.2-1b-instruct",
    "Llama 3.2 3B": "llama-3.2-3b-instruct",
}
PROMPT = "Write about a day at the sea that was full of joy, and of what came after it in the evening."
NEW_TOKENS = 8


def save(name, folder):
    """Save a model of the catalog's shape with random weights, as bfloat16, and a tokenizer trained on the spot."""
    import torch
    import transformers

    from affq.models.weights import catalog

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import save_tiny

    config = transformers.AutoConfig.for_model(**catalog()[name]["config"])
    config.dtype = torch.bfloat16
    config.eos_token_id = config.pad_token_id = 0
    save_tiny(folder, config)


def measure(name, folder, precision):
    """Load and generate as a run's notebook does; print {predicted, measured, seconds} as JSON."""
    from affq.inference import generate, probes
    from affq.models import loading as models
    from affq.models import memory
    from affq.models.weights import catalog

    models.import_for(folder, precision)
    probe = probes.RssProbe()
    network, tokenizer = models.load(folder, precision, "cpu")
    inputs = generate.prepare(network, tokenizer, [{"request": PROMPT}])
    models.compute_once(network, precision, inputs)
    probe.start()
    generate.exactly(network, tokenizer, inputs, NEW_TOKENS)
    peak_bytes = probe.read()["peak_bytes"]
    weights_bytes = sum(row["bytes"] for row in models.census(network))
    sizes = memory.Sizes(1, inputs["input_ids"].shape[1], NEW_TOKENS)
    predicted = memory.predict(catalog()[name]["config"], precision, "cpu", sizes)
    print(json.dumps({"predicted": predicted, "measured": {"weights_bytes": weights_bytes, "peak_bytes": peak_bytes}}))


def row(title, precision, found):
    """Write one line of the table: GB, and how far the prediction is off."""
    cells = [title, precision]
    for key in ("weights_bytes", "peak_bytes"):
        predicted, measured = found["predicted"][key], found["measured"][key]
        cells += [f"{predicted / 1e9:.3f}", f"{measured / 1e9:.3f}", f"{predicted / measured - 1:+.1%}"]
    return f"| {' | '.join(cells)} |"


def child(*arguments):
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def main():
    lines = [
        "# Predicted and measured memory",
        "",
        f"Random weights in the shapes of models of the catalog, on a CPU; one prompt, {NEW_TOKENS} tokens. GB (10^9). Weights: "
        "bytes really stored. Peak: resident memory while generating, above that after imports. Made by tests/bench/memory.py.",
        "",
        "| model | precision | weights predicted | measured | off by | peak predicted | measured | off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, name in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            child("save", name, folder)
            for precision in PRECISIONS:
                lines.append(row(title, precision, json.loads(child("measure", name, folder, precision).splitlines()[-1])))
                print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["save"]:
        save(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main()
