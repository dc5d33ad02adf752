"""Sentences about what runs cost: memory, seconds, throughput."""

import pandas as pd

from affq.analysis import NAMED
from affq.inference import NoEnergy
from affq.inference import energy as energies
from affq.report.words.text import run_name
from affq.study import run_label

PEAKS = {
    "rss": "On a CPU the peak is that of the process's resident memory above what it held after its imports. *Activations, "
    "workspace* includes what the allocator keeps and temporaries of quantized products: so a precision with smaller weights can "
    "have the higher peak, and the peak differs from one execution to the next. *Rest* is what stays beside the weights "
    "afterwards. Loading reads a whole file before it converts it, whatever the precision.",
    "vram_allocated": "On a GPU the peak is that of the memory that torch allocated. *Rest* is what the device holds beyond "
    "it, as the device reports it: context, kernels, cached blocks. "
    "Allocated, reserved and in use, before and after, are in the table.",
}


def time_spent(spent: pd.DataFrame) -> str:
    """Return how long the runs took together. spent: Results.time_spent."""
    return (
        f"Together {spent['total_s'].sum():.0f} s, of which {spent[['quality_s', 'resource_s']].sum(axis=None):.0f} s generated "
        f"text. Not counted: fetching and converting weights, earlier attempts at a run, the end of each process, the start of "
        f"the scoring notebook, this page."
    )


def memory(summary: pd.DataFrame) -> str:
    """Return what the peak of each device in the summary is a peak of."""
    sentences = [PEAKS[kind] for kind in summary["peak_kind"].dropna().unique()]
    if (summary["peak_bytes"].isna() & summary["weights_bytes"].notna()).any():
        sentences.append("Where a reading is unknown, the system does not report it: the table's CSV file leaves it empty.")
    return " ".join(sentences)


def latency(statistics: pd.DataFrame, aim: float | None) -> str:
    """Return how the texts were timed, and what the intervals are. statistics: Results.latency_statistics; aim: the study's."""
    whole = statistics[statistics["reading"] == "latency_s"]
    sentences = ["All texts that the study asks for were timed."]
    if aim is not None:
        reached = whole["stopped"].eq("aim").sum()
        sentences = [
            f"In {reached} of {len(whole)} runs texts were timed until the interval of the median was no wider than {aim:.0%} of "
            "it; in the others all that the study asks for."
        ]
    kinds = whole["interval"].dropna().unique()
    if "within-process" in kinds:
        sentences.append("Intervals are within-process: another process has another memory layout, and may differ by more.")
    if "between processes" in kinds:
        sentences.append("Intervals include the spread between fresh processes; the median is the mean of theirs.")
    if whole["interval"].isna().any():
        sentences.append("Where there is no interval, fewer than six texts were timed.")
    if not whole["steady"].all():
        sentences.append("Not every run was steady after its warm-up.")
    return " ".join(sentences)


def energy(energy: pd.DataFrame) -> str:
    """Return what the joules are joules of, and why they are unknown where they are. energy: Results.energy."""
    sentences, known = [], energy.dropna(subset="joules_a_text")
    if len(known):
        devices = " and ".join(f"*{metered}*" for metered in known["metered"].unique())
        sentences = [
            f"Read from the counters of {devices}, while the timed texts were generated one at a time; what the same devices "
            "take at rest, with the model loaded, is subtracted, but for *gross joules*. Other programs' use of them is in it, "
            "and the rest of the machine is not."
        ]
        kinds = known["interval"].dropna()
        sentences.append("Intervals are the spread between fresh processes." if len(kinds) else "It is one reading a run.")
    for why, rows in energy.groupby("unknown", sort=False):
        words, remedy = energies.PHRASES[NoEnergy(why)]
        which = f" in {len(rows)} of {len(energy)} runs" if len(rows) < len(energy) else ""
        sentences.append(f"Energy is unknown{which}: {words}{f' ({remedy})' if remedy else ''}.")
    return " ".join(sentences)


def kernels(kernels: pd.DataFrame) -> str:
    """Return which share of a profiled text's time goes to what, by run and phase, in plain text. kernels: Results.kernels."""
    shares = kernels.groupby([*NAMED, "phase", "group"], sort=False)["share"].sum().reset_index()
    return "; ".join(
        f"{run_label(*run)}, {phase}: " + ", ".join(f"{row.group} {row.share:.0%}" for row in rows.itertuples())
        for (*run, phase), rows in shares.groupby([*NAMED, "phase"], sort=False)
    )


def throughput(points: pd.DataFrame) -> str:
    """Return the largest batch of each run, its tokens a second, and what set the limit. points: Results.throughput."""
    lines = []
    for run, rows in points.groupby(NAMED, sort=False):
        last, first = rows.iloc[-1], rows.iloc[0]
        limit = {"cap": "the study's cap", "memory": "about the largest that memory holds"}[last["stopped"]]
        lines.append(
            f"- **{run_name(*run)}**: {last['tokens_per_s']:,.0f} tokens a second at {last['batch']} texts at once "
            f"({limit}), {last['tokens_per_s'] / first['tokens_per_s']:.1f} times as many as one by one."
        )
    return "\n".join(lines)
