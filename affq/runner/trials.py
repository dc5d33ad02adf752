"""Look at this machine, and try the precisions on it, in processes of their own.

A kernel library may end its process, and what asks for a CUDA device keeps memory on it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from affq.models import PRECISIONS

DESCRIBE = "from affq.runner.trials import describe; describe()"
CHILD_TIMEOUT_S = 120  # a driver may hang
TRY = "import sys; from affq.runner.trials import try_precisions; try_precisions(sys.argv[1], sys.argv[2:])"


def _child(code, *arguments):
    """Run Python code in a process of its own, without the network: (lines it printed, why it ended early or "")."""
    command = [sys.executable, "-P", "-c", code, *arguments]  # -P: nothing of the current folder is imported
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | {"HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, errors="replace", timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode(errors="replace")
        return printed.splitlines(), f"its process did not end in {CHILD_TIMEOUT_S} s"
    end = done.stderr.strip().rpartition("\n")[2] or f"its process ended with status {done.returncode}"
    if done.returncode < 0:
        end = f"its process ended by signal {-done.returncode} ({signal.strsignal(-done.returncode)})"
    return done.stdout.splitlines(), end if done.returncode else ""


def machine():
    """Give what `describe` prints, or {error} if its process ended early."""
    printed, end = _child(DESCRIBE)
    return {"error": end} if end else json.loads(printed[-1])


def describe():
    """Print, as JSON, the processor and what torch sees of CUDA; in a process of its own."""
    import torch

    from affq.inference import probes

    with warnings.catch_warnings(record=True) as said:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hardware = probes.hardware("cuda" if count else "cpu")
    about = {key: hardware[key] for key in ("processor", "cores", "threads", "driver")}
    about |= {"cuda": torch.version.cuda, "said": [str(warning.message) for warning in said], "devices": []}
    for index in range(count):
        properties, (free_bytes, total_bytes) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
        capability = f"{properties.major}.{properties.minor}"
        about["devices"].append([properties.name, capability, free_bytes, total_bytes])
    print(json.dumps(about))


def trials(device):
    """Try every precision on a device: {precision: why it does not work, or ""}.

    One process tries them in turn; where it ends early, that precision does not work, and another process goes on behind it.
    """
    reasons = {}
    while left := [name for name in PRECISIONS if name not in reasons]:
        printed, end = _child(TRY, device, *left)
        rows = [json.loads(line) for line in printed if line.startswith('{"precision"')]  # libraries may print as well
        reasons |= {row["precision"]: row["reason"] for row in rows}
        if len(rows) < len(left):
            reasons[left[len(rows)]] = end or "its process died without an error message"
    return reasons


def try_precisions(device, names):
    """Load a small random model at each precision, prove it, generate; print {precision, reason} for each as JSON.

    In a process of its own: a kernel library may end it.
    """
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from affq import models
    from affq.inference import generate

    # Wide enough for the 4-bit kernels of a CPU, which refuse outputs that are no multiple of their block.
    width = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=512, num_hidden_layers=2, **width)
    words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "trial")
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="word").save_pretrained(folder)
        for name in names:
            reason = ""
            try:
                model, tokenizer = models.load(folder, name, device)
                models.prove(models.census(model), name)
                generate.exactly(model, tokenizer, generate.tokenize(model, tokenizer, ["word"]), new_tokens=4)
            except Exception as error:  # whatever it is, it is the answer
                reason = f"{type(error).__name__}: {error}"
            print(json.dumps({"precision": name, "reason": reason}), flush=True)
