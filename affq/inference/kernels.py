"""Where does a text's time go? The kernels of one profiled text, by what they do, at prefill and at decode."""

from collections import defaultdict
from typing import Any, TypedDict

from affq.inference.measure import Produce

FIRST_TOKEN = "affq: first token"
WARM_TOKENS = 2
# What an operation is for: the first of these that begins its name, or the name of an operation that called it.
ACTIVATIONS, QUANTIZED, PLAIN = "quantizing activations", "quantized products", "plain products"
ATTENTION, REST = "attention", "rest"
GROUPS = (
    ("bitsandbytes::int8_vectorwise_quant", ACTIVATIONS),
    ("bitsandbytes::int8_double_quant", ACTIVATIONS),
    *((start, QUANTIZED) for start in ("bitsandbytes::", "MatMul8bitLt", "MatMul4Bit")),
    *((start, ATTENTION) for start in ("aten::_scaled_dot_product", "aten::scaled_dot_product")),
    *((f"aten::{name}", PLAIN) for name in ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm")),
)
EVERY = (ACTIVATIONS, QUANTIZED, PLAIN, ATTENTION, REST)


class KernelTime(TypedDict):
    """How often a kernel was called in a phase (prefill, up to the first token, or decode), and its seconds.

    group: one of EVERY. seconds: on a CPU those of an operation without the operations it calls; on a GPU those of the kernels
    that it launched.
    """

    phase: str
    group: str
    kernel: str
    calls: int
    seconds: float


def profile(produce: Produce, inputs: Any, new_tokens: int, on_gpu: bool) -> list[KernelTime]:
    """Profile one text of `new_tokens` tokens, the longest kernels of a group first.

    Profiling takes time itself: the shares are to be read, not the sum.
    """
    import torch

    def mark() -> None:
        with torch.profiler.record_function(FIRST_TOKEN):
            pass

    produce(inputs, WARM_TOKENS)
    activities = [torch.profiler.ProfilerActivity.CPU] + on_gpu * [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiled:
        produce(inputs, new_tokens, mark)
    events = profiled.events()
    first = min(event.time_range.start for event in events if event.name == FIRST_TOKEN)
    calls: dict[tuple[str, str, str], int] = defaultdict(int)
    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU or event.name == FIRST_TOKEN:
            continue
        phase, group = "prefill" if event.time_range.start < first else "decode", _group(event)
        ran = [(k.name, k.duration) for k in event.kernels] if on_gpu else [(event.name, event.self_cpu_time_total)]
        for kernel, microseconds in ran:
            calls[phase, group, kernel] += 1
            seconds[phase, group, kernel] += microseconds / 1e6
    order = sorted(seconds, key=lambda key: (key[0] == "decode", EVERY.index(key[1]), -seconds[key]))
    return [{"phase": key[0], "group": key[1], "kernel": key[2], "calls": calls[key], "seconds": seconds[key]} for key in order]


def _group(event: Any) -> str:
    """Return the group of a profiler's event, by its own name and the names of the operations that called it."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return next((group for start, group in GROUPS if any(name.startswith(start) for name in names)), REST)
