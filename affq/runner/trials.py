"""Look at this machine, and try the precisions on it, in processes of their own.

A kernel library may end its process, and a process that asks for a CUDA device keeps memory on it.
"""

import json
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

from affq.errors import InputError
from affq.models import PRECISIONS, STORED, TRANSFORMERS, AskedEngine, sources, why_not
from affq.runner import kernel

DESCRIBE = "from affq.runner.trials import describe; describe()"
CHILD_TIMEOUT_S = 120  # a driver may hang
TRY = "import sys; from affq.runner.trials import try_precisions; try_precisions(sys.argv[1], sys.argv[2:])"


class Device(NamedTuple):
    """A CUDA device, and its memory."""

    name: str
    capability: str
    free_bytes: int
    total_bytes: int


class Machine(TypedDict):
    """The processor, and what torch sees of CUDA. cuda: the version that torch is built for. warned: what torch warned of."""

    processor: str
    cores: int
    threads: int
    driver: str | None
    cuda: str | None
    warned: list[str]
    devices: list[Device]


def _child(code: str, *arguments: str) -> tuple[list[str], str]:
    """Run Python code as kernels run, in a process of its own without the network.

    Return (lines it printed, why it ended early or "").
    """
    command = [*kernel.python(code), *arguments]
    try:
        with kernel.stripped():
            done = subprocess.run(command, capture_output=True, errors="replace", timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode(errors="replace")
        return printed.splitlines(), f"its process did not end in {CHILD_TIMEOUT_S} s"
    end = done.stderr.strip().rpartition("\n")[2] or f"its process ended with status {done.returncode}"
    if done.returncode < 0:
        end = f"its process ended by signal {-done.returncode} ({signal.strsignal(-done.returncode)})"
    return done.stdout.splitlines(), end if done.returncode else ""


def machine() -> tuple[Machine | None, str]:
    """Return (what this machine is, ""), or (None, why torch could not look at it)."""
    printed, end = _child(DESCRIBE)
    if end:
        return None, end
    about = json.loads(printed[-1])
    return about | {"devices": [Device(*device) for device in about["devices"]]}, ""


def describe() -> None:
    """Print a Machine as JSON; in a process of its own."""
    import torch

    from affq.inference import probes

    with warnings.catch_warnings(record=True) as caught:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hardware = probes.hardware("cuda" if count else "cpu")
    devices = []
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        devices.append(Device(properties.name, f"{properties.major}.{properties.minor}", *torch.cuda.mem_get_info(index)))
    about = {key: hardware[key] for key in ("processor", "cores", "threads", "driver")}
    about |= {"cuda": torch.version.cuda, "warned": [str(warning.message) for warning in caught], "devices": devices}
    print(json.dumps(about))


def tried(device: str) -> list[str]:
    """Return the precisions that transformers can have on a device, but for what is loaded as some checkpoint stores it."""
    model, engine = sources.absent("any", InputError("no model in particular")), AskedEngine(TRANSFORMERS, TRANSFORMERS)
    return [name for name in PRECISIONS if name != STORED and why_not(model, name, engine, device) is None]


def trials(device: str) -> dict[str, str]:
    """Try every precision on a device; return {precision: why it does not work, or ""}.

    One process tries them in turn; where it ends early, that precision does not work, and another process goes on after it.
    """
    reasons: dict[str, str] = {}
    while left := [name for name in tried(device) if name not in reasons]:
        printed, end = _child(TRY, device, *left)
        rows = [json.loads(line) for line in printed if line.startswith('{"precision"')]  # libraries may print as well
        reasons |= {row["precision"]: row["reason"] for row in rows}
        if len(rows) < len(left):
            reasons[left[len(rows)]] = end or "its process died without an error message"
    return reasons


def try_precisions(device: str, names: Iterable[str]) -> None:
    """Load a small random model at each precision, prove it, generate; print {precision, reason} for each as JSON."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from affq import models
    from affq.inference import generate

    # Wide enough for the 4-bit kernels of a CPU, which refuse outputs that are no multiple of their block.
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "trial")
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="word").save_pretrained(folder)
        for name in names:
            reason = ""
            try:
                models.import_for(folder, name)
                model, tokenizer = models.load(folder, name, device)
                models.prove(models.census(model), name, folder)
                network = cast(generate.Model, model)  # transformers does not declare that its models generate
                generate.exactly(network, tokenizer, generate.tokenize(network, tokenizer, ["word"]), new_tokens=4)
            except Exception as error:  # whatever it is, it is the answer
                reason = f"{type(error).__name__}: {error}"
            print(json.dumps({"precision": name, "reason": reason}), flush=True)
