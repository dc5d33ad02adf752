"""Charts: a frame of `tables`, in raw units, to Axes. Saves nothing."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import seaborn as sns

from affq import printable
from affq.precisions import PRECISIONS

# One colour a precision, in every chart; chosen to stay apart for the colour-blind.
COLOURS = dict(zip(PRECISIONS, sns.color_palette("colorblind", len(PRECISIONS)), strict=True))
# A name is text, with whatever dollar signs.
sns.set_theme(
    style="whitegrid",
    rc={"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "text.parse_math": False},
)


def _axes(rows):
    return plt.subplots(figsize=(7.5, 1.4 + 0.45 * rows), layout="constrained")[1]


def _runs(frame):
    """Name each row's run for an axis: the precision, with the model before it where there are several."""
    precision = frame["precision"].astype(str)
    if frame["model"].nunique() < 2:
        return precision
    return frame["model"].map(printable) + " " + precision


def f1_by_emotion(f1):
    """Draw F1 as a grid, runs by emotions, each cell with its figure. f1: tables.emotion_f1."""
    wide = f1.assign(run=_runs(f1)).pivot_table(index="run", columns="emotion", values="f1", sort=False)
    axes = _grid(wide, ".2f", "F1")
    axes.set(xlabel="", ylabel="", title="Emotion F1 by precision and emotion")
    return axes


def _grid(wide, form, label):
    axes = _axes(len(wide))
    style = {"cmap": "Greys", "linewidths": 1, "cbar_kws": {"label": label}}
    # seaborn would first try the rows' names upright, where a long one has no room and is warned of.
    sns.heatmap(wide, vmin=0, vmax=1, annot=True, fmt=form, yticklabels=False, ax=axes, **style)
    axes.set_yticks([row + 0.5 for row in range(len(wide))], wide.index)
    return axes


def f1_by_precision(summary):
    """Draw macro-F1 of each run, with what shuffled targets would give. summary: tables.summary."""
    scored = summary.dropna(subset="emotion_f1").assign(run=_runs)
    axes = _axes(len(scored))
    sns.barplot(scored, y="run", x="emotion_f1", hue="precision", palette=COLOURS, legend=False, ax=axes)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.scatter(
        scored["emotion_f1_chance"], scored["run"], marker="|", s=400, color="black", label="shuffled targets (chance)", zorder=3
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    axes.set(xlabel="macro-F1 of the emotion", ylabel="", xlim=(0, 1))
    axes.set_title("Emotion F1 by precision", loc="left")
    return axes


def memory(summary):
    """Draw stored weights and the peak while generating, MB, for each run. summary: tables.summary."""
    measured = summary.dropna(subset="weights_bytes").assign(run=_runs)
    parts = {"weights_bytes": "stored weights", "peak_bytes": f"peak while generating ({_kind(measured) or 'unknown'})"}
    long = measured.melt(["run", "precision"], list(parts), "part", "bytes").dropna(subset="bytes")
    long = long.assign(part=long["part"].map(parts), megabytes=long["bytes"].astype(float) / 1e6)
    axes = _axes(2 * len(measured))
    sns.barplot(long, y="run", x="megabytes", hue="part", hue_order=list(parts.values()), palette=["0.25", "0.7"], ax=axes)
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.legend(title="", loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=2)
    axes.set(xlabel="MB", ylabel="")
    axes.set_title("Memory", loc="left")
    axes.margins(x=0.12)
    return axes


def _kind(summary):
    words = {"rss": "resident memory", "vram_allocated": "allocated on the GPU"}
    return ", ".join(words.get(kind, kind) for kind in summary["peak_kind"].dropna().unique())


def latency(readings):
    """Draw each timed text's seconds, and the median, for each run. readings: resources.latency."""
    timed = readings.assign(run=_runs)
    axes = _axes(timed["run"].nunique())
    sns.stripplot(timed, y="run", x="latency_s", hue="precision", palette=COLOURS, legend=False, alpha=0.7, jitter=0.2, ax=axes)
    medians = timed.groupby("run", sort=False)["latency_s"].median()
    axes.scatter(medians, medians.index, marker="|", s=500, color="black", label="median", zorder=3)
    for run, median in medians.items():
        axes.annotate(f"{median:.2f}", (median, run), xytext=(0, 14), textcoords="offset points", ha="center", size="small")
    axes.set_ylim(len(medians) - 0.5, -0.8)  # room for the first median's figure
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    tokens = ", ".join(str(n) for n in sorted(timed["new_tokens"].unique()))
    axes.set(xlabel=f"seconds for a text of {tokens} tokens, one prompt at a time", ylabel="", xlim=(0, None))
    axes.set_title("Latency", loc="left")
    return axes


def f1_against_memory(summary):
    """Draw each run's macro-F1 over its peak memory, labelled at the point. summary: tables.summary."""
    drawn = summary.dropna(subset=["emotion_f1", "peak_bytes"]).assign(run=_runs)
    drawn = drawn.assign(megabytes=drawn["peak_bytes"].astype(float) / 1e6)
    axes = _axes(6)
    axes.scatter(drawn["megabytes"], drawn["emotion_f1"], color=[COLOURS[name] for name in drawn["precision"]], s=110)
    for number, row in enumerate(drawn.sort_values("megabytes").itertuples()):
        # Towards the side where there is room, and neighbours above and below their points in turn.
        left = row.megabytes > drawn["megabytes"].max() / 2
        place = {"xytext": (12 if left else -12, -21 if number % 2 else 9), "ha": "right" if left else "left"}
        axes.annotate(row.run, (row.megabytes, row.emotion_f1), textcoords="offset points", **place)
    chance = summary["emotion_f1_chance"].mean()
    axes.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    axes.annotate("chance", (0, chance), xytext=(4, 4), textcoords="offset points", color="0.3")
    axes.set(xlabel=f"peak while generating, MB ({_kind(drawn) or 'unknown'})", ylabel="macro-F1 of the emotion", ylim=(0, 1))
    axes.set_xlim(0, 1.05 * drawn["megabytes"].max() if len(drawn) else 1)
    axes.set_title("Emotion F1 against memory", loc="left")
    return axes


def judged_control(texts, emotions):
    """Draw how the judge reads the texts that were asked for no emotion: shares by emotion, for each run. texts: tables.texts."""
    control = texts[texts["emotion"].isna()].assign(run=_runs)
    shares = control.groupby("run", sort=False)["judged_emotion"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=[*emotions, *shares.columns.difference(emotions)], fill_value=0)
    axes = _grid(shares, ".0%", "share")
    axes.set(xlabel="judged emotion", ylabel="", title="Texts that were asked for no emotion")
    return axes
